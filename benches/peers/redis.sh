#!/usr/bin/env bash
# Corduroy beside redis-server with an fsync for every acknowledgement, under the same redis-benchmark, on this machine.
#
#   [OLD=path/to/corduroy] benches/peers/redis.sh [--runs N] [--scale X] [--tests "set get"] [--pipes "1 16"] [--conns "50 200"]
#       [--quick] [--out FILE.md] [--keep]
#
# All servers are pinned to core 0, the client to core 1; for each cell they are measured one after the other, and which
# goes first changes with each run. The table shows medians over the runs, how far the runs lie apart, and the ratio.
# Redis's own AOF rewriting is off, which favours Redis. Ends in about 8 minutes, with OLD in 12; --quick in about one.
# BIN_DIR names a folder with a `corduroy` that is built already.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=5 scale=2 out="" keep="" command="benches/peers/redis.sh $*"
conns=(1 50 200) pipes=(1 16 64) tests=(set get incr mset)
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --scale) scale=$2; shift ;;
    --tests) read -r -a tests <<<"$2"; shift ;;
    --pipes) read -r -a pipes <<<"$2"; shift ;;
    --conns) read -r -a conns <<<"$2"; shift ;;
    --quick) runs=1 scale=1 conns=(50) ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

for tool in redis-server redis-benchmark redis-cli taskset awk; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install redis-server redis-tools util-linux" >&2; exit 2; }
done
[ "$(nproc)" -ge 2 ] || { echo "two cores are needed: one for the server, one for the client" >&2; exit 2; }

if [ -z "${BIN_DIR:-}" ]; then
    cargo build --release --quiet --bin corduroy
    BIN_DIR=${CARGO_TARGET_DIR:-target}/release
fi
corduroy=$BIN_DIR/corduroy old=${OLD:-} servers=(redis corduroy)
if [ -n "$old" ]; then
    [ -x "$old" ] || { echo "OLD=$old is not a program" >&2; exit 2; }
    servers+=(old)
fi

# Beside the sources, so that both lie on the same real disk (/tmp may be memory).
mkdir -p target
work=$(mktemp -d -p target peers.XXXXXX)
redis_port=${PORT:-17379}
corduroy_port=$((redis_port + 1)) old_port=$((redis_port + 2))
pids=()
stop_servers() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
cleanup() { stop_servers; [ -n "$keep" ] || rm -rf "$work"; }
trap cleanup EXIT

wait_ready() { # port, name
    for _ in $(seq 200); do
        [ "$(redis-cli -p "$1" ping 2>/dev/null)" = PONG ] && return 0
        sleep 0.05
    done
    echo "$2 did not start; its log:" >&2
    tail -n 20 "$work/$2.log" >&2
    exit 1
}

start_servers() {
    local server program port
    for server in "${servers[@]}"; do rm -rf "${work:?}/$server" && mkdir -p "$work/$server"; done
    taskset -c 0 redis-server --port $redis_port --dir "$PWD/$work/redis" --save "" --appendonly yes \
        --appendfsync always --auto-aof-rewrite-percentage 0 >"$work/redis.log" 2>&1 &
    pids+=($!)
    wait_ready $redis_port redis
    for server in "${servers[@]:1}"; do
        program=$server port=${server}_port
        taskset -c 0 "${!program}" serve --cores 0 --listen "127.0.0.1:${!port}" --data-dir "$work/$server" \
            >"$work/$server.log" 2>&1 &
        pids+=($!)
        wait_ready "${!port}" "$server"
    done
    [ "$(redis-cli -p $redis_port config get appendfsync | tail -n 1)" = always ] || { echo "redis does not sync" >&2; exit 1; }
    for server in "${servers[@]}"; do # so that GET finds its keys
        port=${server}_port
        taskset -c 1 redis-benchmark -p "${!port}" -t set -d 64 -r 100000 -n 400000 -c 50 -P 64 --csv >/dev/null
    done
}

# Requests of a cell: about a second's worth for Redis, times --scale / 2.
requests() { # test, P, c
    local base
    case "$2/$3" in
    1/1) base=1500 ;; 1/*) base=20000 ;;
    16/1) base=15000 ;; 16/*) base=100000 ;;
    64/1) base=40000 ;; *) base=150000 ;;
    esac
    case "$1/$2" in
    get/1) base=$((base * 2)) ;; get/*) base=$((base * 4)) ;;
    mset/*) base=$((base / 5)) ;;
    esac
    awk "BEGIN { printf \"%d\", $base * $scale }"
}

measure() { # server, port, test, P, c  ->  a line in $work/cells
    local csv
    csv=$(taskset -c 1 redis-benchmark -p "$2" -t "$3" -d 64 -r 100000 -n "$(requests "$3" "$4" "$5")" \
        -c "$5" -P "$4" --csv 2>/dev/null | tail -n 1)
    # "test","rps","avg","min","p50","p95","p99","max"
    echo "$csv" | awk -F'","|"' -v s="$1" -v t="$3" -v p="$4" -v c="$5" \
        '$3 + 0 <= 0 { print "no figure from " s ": " $0 > "/dev/stderr"; exit 1 } { print s, t, p, c, $3, $8 }' >>"$work/cells"
}

: >"$work/cells"
for run in $(seq "$runs"); do
    start_servers
    for test in "${tests[@]}"; do
        for pipe in "${pipes[@]}"; do
            for conn in "${conns[@]}"; do
                [ -t 2 ] && printf '\r\033[2Krun %s of %s: %s -P %s -c %s (%s s)' "$run" "$runs" "$test" "$pipe" "$conn" "$SECONDS" >&2
                first=$((run % ${#servers[@]}))
                for server in "${servers[@]:first}" "${servers[@]:0:first}"; do
                    port=${server}_port
                    measure "$server" "${!port}" "$test" "$pipe" "$conn"
                done
            done
        done
    done
    stop_servers
done
[ -t 2 ] && printf '\r\033[2K' >&2

table() {
    cat <<HEAD
Corduroy beside redis-server, every acknowledgement on disk

- commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ", with changes"), $(date -u +%Y-%m-%d); \`$command\`
- $(redis-server --version | awk '{ print "redis-server " substr($3, 3) }'): appendonly yes, appendfsync always, no AOF rewriting; corduroy: release build, \`--cores 0\`, one partition
- server on core 0, client on core 1; values of 64 bytes, 100,000 keys, MSET of 10 keys; $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), Linux $(uname -r), $(findmnt -no FSTYPE -T "$work")
- requests a second, median of $runs runs; ± is half the distance between the fastest and the slowest run; p99 in ms
${old:+- old: commit $("$old" version --build-info | sed -n 's/^commit: //p')}

| test | -P | -c | redis | ${old:+old | }corduroy | ratio | ${old:+of old | }p99 redis | ${old:+p99 old | }p99 corduroy |
|---|---:|---:|---:|${old:+---:|}---:|---:|${old:+---:|}---:|${old:+---:|}---:|
HEAD
    awk -v old="$old" '
    function median(text,   list, n, i, j, x) {
        n = split(text, list, " ")
        for (i = 2; i <= n; i++) { x = list[i] + 0; for (j = i - 1; j >= 1 && list[j] + 0 > x; j--) list[j + 1] = list[j]; list[j + 1] = x }
        low = list[1] + 0; high = list[n] + 0
        return n % 2 ? list[(n + 1) / 2] + 0 : (list[n / 2] + list[n / 2 + 1]) / 2
    }
    function spread(mid) { return mid > 0 ? 50 * (high - low) / mid : 0 }
    function short(rate) { return rate >= 10000 ? sprintf("%.0fk", rate / 1000) : sprintf("%.1fk", rate / 1000) }
    { key = $2 " " $3 " " $4; if (!(key in seen)) { seen[key] = ++cells; name[cells] = key }
      rps[$1, key] = rps[$1, key] " " $5; p99[$1, key] = p99[$1, key] " " $6 }
    END {
        for (i = 1; i <= cells; i++) {
            key = name[i]; split(key, part, " ")
            r = median(rps["redis", key]); rs = spread(r)
            c = median(rps["corduroy", key]); cs = spread(c)
            o = median(rps["old", key]); os = spread(o)
            printf "| %s | %s | %s | %s ± %.0f%% | ", toupper(part[1]), part[2], part[3], short(r), rs
            if (old) printf "%s ± %.0f%% | ", short(o), os
            printf "%s ± %.0f%% | **%.2f** | ", short(c), cs, c / r
            if (old) printf "%.2f | ", c / o
            printf "%.2f | ", median(p99["redis", key])
            if (old) printf "%.2f | ", median(p99["old", key])
            printf "%.2f |\n", median(p99["corduroy", key])
        }
    }' "$work/cells"
}
table | tee ${out:+"$out"}
