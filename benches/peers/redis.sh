#!/usr/bin/env bash
# Corduroy beside redis-server with an fsync for every acknowledgement, under the same redis-benchmark, on this machine.
#
#   benches/peers/redis.sh [--runs N] [--scale X] [--quick] [--out FILE.md] [--keep]
#
# Both servers are pinned to core 0, the client to core 1; for each cell the two are measured one after the other, and
# which goes first changes with each run. The table shows medians over the runs, how far the runs lie apart, and the
# ratio. Redis's own AOF rewriting is off, which favours Redis. Ends in about 8 minutes; --quick in about one.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=5 scale=2 out="" keep=""
conns=(1 50 200) pipes=(1 16 64) tests=(set get incr mset)
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --scale) scale=$2; shift ;;
    --quick) runs=1 scale=1 conns=(50) ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

for tool in redis-server redis-benchmark redis-cli taskset awk; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install redis-server redis-tools util-linux" >&2; exit 2; }
done
[ "$(nproc)" -ge 2 ] || { echo "two cores are needed: one for the server, one for the client" >&2; exit 2; }

cargo build --release --quiet --bin corduroy
corduroy=${CARGO_TARGET_DIR:-target}/release/corduroy

# Beside the sources, so that both lie on the same real disk (/tmp may be memory).
mkdir -p target
work=$(mktemp -d -p target peers.XXXXXX)
redis_port=17379 corduroy_port=17380
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
    rm -rf "$work/redis" "$work/corduroy"
    mkdir -p "$work/redis" "$work/corduroy"
    taskset -c 0 redis-server --port $redis_port --dir "$PWD/$work/redis" --save "" --appendonly yes \
        --appendfsync always --auto-aof-rewrite-percentage 0 >"$work/redis.log" 2>&1 &
    pids+=($!)
    taskset -c 0 "$corduroy" serve --cores 0 --listen "127.0.0.1:$corduroy_port" --data-dir "$work/corduroy" \
        >"$work/corduroy.log" 2>&1 &
    pids+=($!)
    wait_ready $redis_port redis
    wait_ready $corduroy_port corduroy
    [ "$(redis-cli -p $redis_port config get appendfsync | tail -n 1)" = always ] || { echo "redis does not sync" >&2; exit 1; }
    for port in $redis_port $corduroy_port; do # so that GET finds its keys
        taskset -c 1 redis-benchmark -p $port -t set -d 64 -r 100000 -n 400000 -c 50 -P 64 --csv >/dev/null
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
                if [ $((run % 2)) = 1 ]; then order="redis corduroy"; else order="corduroy redis"; fi
                for server in $order; do
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

- commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ", with changes"), $(date -u +%Y-%m-%d); \`benches/peers/redis.sh --runs $runs --scale $scale\`
- $(redis-server --version | awk '{ print "redis-server " substr($3, 3) }'): appendonly yes, appendfsync always, no AOF rewriting; corduroy: release build, \`--cores 0\`, one partition
- server on core 0, client on core 1; values of 64 bytes, 100,000 keys, MSET of 10 keys; $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), Linux $(uname -r), $(findmnt -no FSTYPE -T "$work")
- requests a second, median of $runs runs; ± is half the distance between the fastest and the slowest run; p99 in ms

| test | -P | -c | redis | corduroy | ratio | p99 redis | p99 corduroy |
|---|---:|---:|---:|---:|---:|---:|---:|
HEAD
    awk '
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
            printf "| %s | %s | %s | %s ± %.0f%% | %s ± %.0f%% | **%.2f** | %.2f | %.2f |\n", toupper(part[1]), part[2], part[3],
                short(r), rs, short(c), cs, c / r, median(p99["redis", key]), median(p99["corduroy", key])
        }
    }' "$work/cells"
}
table | tee ${out:+"$out"}
