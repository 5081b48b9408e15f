#!/usr/bin/env bash
# What many partitions on one core cost: processor time of the server for each SET, with 1, 64 and 1,000 partitions.
#
#   [OLD=path/to/corduroy] benches/peers/partitions.sh [--runs N] [--seconds N] [--partitions "1 64 1000"] [--quick] [--out FILE.md] [--keep]
#
# One shard on CPU 0, the load on CPU 1: SETs of 64 bytes to 100,000 keys, 50 connections, 16 requests in a pipeline,
# closed loop. Processor time is that of the whole process, the kernel's workers for it included. All servers run side
# by side and are loaded in turn, another one first in each run. The table shows medians over the runs; ± is half the
# distance between the least and the most. Ends in about 2 minutes, with OLD in 4; --quick in half of one.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=5 seconds=5 out="" keep="" counts="1 64 1000"
command="benches/peers/partitions.sh $*"
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --partitions) counts=$2; shift ;;
    --quick) runs=1 seconds=1 ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
. benches/peers/common.sh
need python3 python3

port=${PORT:-17385}
servers=()
for count in $counts; do
    for age in ${old:+old} new; do
        program=$corduroy
        [ "$age" = new ] || program=$old
        start "$age-$count" "$port" 0 "$program" serve --data-dir "$work/$age-$count" --listen "127.0.0.1:$port" \
            --cores 0 --shards 1 --partitions "$count"
        servers+=("$age-$count")
        port=$((port + 1))
    done
done

# load_it NAME SECONDS: prints how many requests were sent, and how many were answered a second.
load_it() {
    taskset -c 1 "$load" --addr "127.0.0.1:${port_of[$1]}" -w set -P 16 -c 50 -r 100000 -s 64 -d "$2" --quiet --json "$work/load.json" \
        >"$work/load.log" 2>&1 || { cat "$work/load.log" >&2; exit 1; }
    python3 -c 'import json, sys
report = json.load(open(sys.argv[1]))
print(report["sent"], round(report["figures"][0]["per_s"]))' "$work/load.json"
}

for name in "${servers[@]}"; do # so that every key is there
    progress "first load of $name"
    load_it "$name" "$seconds" >/dev/null
done
for run in $(seq "$runs"); do
    for name in $(in_turn "$run" "${servers[@]}"); do
        progress "run $run of $runs: $name"
        wait_idle
        before=$(ticks "$name")
        loaded=$(load_it "$name" "$seconds")
        after=$(ticks "$name")
        read -r sent rate <<<"$loaded"
        echo "${name/-/ } $(awk "BEGIN { print ($after - $before) * 1e6 / $(getconf CLK_TCK) / $sent }") $rate" >>"$work/cells"
    done
done
progress ""

table() {
    about "Many partitions on one core" "$command"
    cat <<HEAD
- one shard on CPU 0, load on CPU 1; SET of 64 bytes, 100,000 keys, 16 in a pipeline, 50 connections, $seconds s a cell; median of $runs runs
- CPU a SET: the processor time of the whole server, in us; of one: divided by that of the same program with one partition

| partitions | old: CPU a SET | of one | SETs a second | Corduroy: CPU a SET | of one | SETs a second |
|---:|---:|---:|---:|---:|---:|---:|
HEAD
    awk -v counts="$counts" "$awk_median"'
    { cost[$1, $2] = cost[$1, $2] " " $3; rate[$1, $2] = rate[$1, $2] " " $4 }
    function cells(age, count,   mid, text) {
        if (!((age, count) in cost)) return "- | - | -"
        mid = median(cost[age, count])
        text = sprintf("%.2f ± %.0f%%", mid, spread(mid))
        return text sprintf(" | **%.2f** | %s", mid / median(cost[age, all[1]]), short(median(rate[age, count])))
    }
    END {
        n = split(counts, all, " ")
        for (i = 1; i <= n; i++) printf "| %s | %s | %s |\n", all[i], cells("old", all[i]), cells("new", all[i])
    }' "$work/cells"
}
table | tee ${out:+"$out"}
