#!/usr/bin/env bash
# How long the slowest answers take while the store flushes: an open loop of writes, beside redis-server.
#
#   [OLD=path/to/corduroy] benches/peers/tails.sh [--runs N] [--seconds N] [--rate N] [--quick] [--out FILE.md] [--plot FILE.svg] [--keep]
#
# SETs of 1,000 bytes to a million keys, 15,000 a second, each due at its time whether or not those before it were
# answered: latency counts from then. Corduroy has --memory-bytes 512MiB, so that it flushes every few seconds;
# redis-server has appendonly yes, appendfsync always and no AOF rewriting, which favours it. Each is confined to CPU 0
# with all its threads, then to CPUs 0 and 1; the load runs on CPU 1. A run is a server and a data folder of its own.
# All are measured in turn, another one first in each run. The table shows medians over the runs, the plot every run.
# Ends in about 7 minutes, with OLD in 10; --quick in half of one.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=3 seconds=25 rate=15000 keys=1000000 memory_mib=512 out="" plot=target/tails.svg keep=""
command="benches/peers/tails.sh $*"
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --rate) rate=$2; shift ;;
    --quick) runs=1 seconds=3 ;;
    --out) out=$2; shift ;;
    --plot) plot=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
. benches/peers/common.sh
need redis-server redis-server
need python3 python3

port=${PORT:-17399}
servers=(redis new)
[ -z "$old" ] || servers+=(old)

start_one() { # name, CPUs
    local data=$work/data program=$corduroy
    rm -rf "$data"
    mkdir "$data"
    [ "$1" != old ] || program=$old
    if [ "$1" = redis ]; then
        start redis "$port" "$2" redis-server --port "$port" --dir "$data" --save "" --appendonly yes \
            --appendfsync always --auto-aof-rewrite-percentage 0
        [ "$(redis-cli -p "$port" config get appendfsync | tail -n 1)" = always ] || { echo "redis does not sync" >&2; exit 1; }
    else
        start "$1" "$port" "$2" "$program" serve --data-dir "$data" --listen "127.0.0.1:$port" --cores 0 \
            --memory-bytes "${memory_mib}MiB"
    fi
}

for run in $(seq "$runs"); do
    for cpus in 0 0,1; do
        for name in $(in_turn "$run" "${servers[@]}"); do
            progress "run $run of $runs: $name on CPUs $cpus"
            start_one "$name" "$cpus"
            result=$work/$name.$cpus.$run
            # A server that cannot keep up leaves requests unanswered, which is a result and stands in the table.
            taskset -c 1 "$load" --addr "127.0.0.1:$port" -w set --rate "$rate" -c 50 -r "$keys" -s 1000 -d "$seconds" \
                --quiet --json "$result.json" --hdr "$result.hgrm" >"$work/load.log" 2>&1 ||
                [ -s "$result.json" ] || { cat "$work/load.log" >&2; exit 1; }
            flushes=-
            [ "$name" = redis ] || flushes=$(figure "$name" hand_overs)
            echo "$name $cpus $run ${flushes:--}" >>"$work/cells"
            stop_all
        done
    done
done
progress ""

table() {
    about "The slowest answers while the store flushes" "$command"
    cat <<HEAD
- $(redis-server --version | awk '{ print "redis-server " substr($3, 3) }'): appendonly yes, appendfsync always, no AOF rewriting; corduroy: \`--cores 0 --memory-bytes ${memory_mib}MiB\`
- open loop, $rate SETs of 1,000 bytes a second, $keys keys, 50 connections, $seconds s a run; load on CPU 1
- latency from when a request was due, in ms: median of $runs runs; the longest of all runs beside it

HEAD
    python3 benches/peers/tails.py "$work" "$plot"
}
table | tee ${out:+"$out"}
echo "the plot is $plot" >&2
