#!/usr/bin/env bash
# Reads of data ten times as large as memory, beside RocksDB's db_bench readrandom on as many rows, on this machine.
#
#   benches/peers/rocksdb.sh [--runs N] [--rows N] [--out FILE.md] [--keep]
#
# Both have all their data in the page cache and 64 MiB for themselves. Corduroy has a core pinned to CPU 0 and its pool on
# the others, and is asked by redis-benchmark over TCP; db_bench has two threads and calls RocksDB in its own process. In
# each run all are measured in turn. The table shows medians over the runs. Ends in about 4 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=5 rows=2000000 out="" keep=""
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --rows) rows=$2; shift ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

for tool in db_bench redis-benchmark redis-cli awk; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install rocksdb-tools redis-tools" >&2; exit 2; }
done
[ "$(nproc)" -ge 2 ] || { echo "two cores are needed" >&2; exit 2; }

cargo build --release --quiet --bin corduroy
corduroy=${CARGO_TARGET_DIR:-target}/release/corduroy

mkdir -p target
work=$(mktemp -d -p target peers.XXXXXX)
port=17381 value_bytes=200 memory=$((64 << 20)) pid=""
cleanup() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; fi
    [ -n "$keep" ] || rm -rf "$work"
}
trap cleanup EXIT

"$corduroy" serve --data-dir "$work/corduroy" --listen 127.0.0.1:$port --cores 0 --memory-bytes $memory \
    >"$work/corduroy.log" 2>&1 &
pid=$!
for _ in $(seq 200); do [ "$(redis-cli -p $port ping 2>/dev/null)" = PONG ] && break; sleep 0.05; done

echo "writing $rows rows of $value_bytes bytes to each" >&2
awk -v rows="$rows" -v bytes="$value_bytes" 'BEGIN {
    value = sprintf("%*s", bytes, ""); gsub(/ /, "x", value)
    for (row = 0; row < rows; row++)
        printf "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n", row, bytes, value
}' | redis-cli -p $port --pipe >"$work/pipe.log"
[ "$(redis-cli -p $port dbsize)" = "$rows" ] || { cat "$work/pipe.log" >&2; exit 1; }
rocksdb() { db_bench --db="$work/rocksdb" --num="$rows" --value_size=$value_bytes --key_size=16 "$@" 2>>"$work/db_bench.log"; }
rocksdb --benchmarks=filluniquerandom,compact >>"$work/db_bench.log"

read_rocksdb() { # threads
    rocksdb --benchmarks=readrandom --use_existing_db=1 --reads=$((rows / 10)) --threads="$1" --cache_size=$memory |
        awk '/^readrandom/ { for (i = 1; i <= NF; i++) if ($i == "ops/sec") print $(i - 1), "-" }'
}
read_corduroy() { # pipeline
    redis-benchmark -p $port -t get -r "$rows" -n $((rows / 10)) -c 50 -P "$1" --csv 2>/dev/null |
        awk -F, 'END { gsub(/"/, ""); print $2, $7 }'
}
for run in $(seq "$runs"); do
    echo "run $run of $runs" >&2
    for threads in 1 2; do echo "rocksdb-$threads $(read_rocksdb $threads)"; done >>"$work/figures"
    for pipe in 1 16 64; do echo "corduroy-$pipe $(read_corduroy $pipe)"; done >>"$work/figures"
done

median() { awk -v name="$1" -v column="$2" '$1 == name { print $column }' "$work/figures" | sort -g |
    awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'; }
table() {
    base=$(median rocksdb-2 2)
    echo "| reads of $rows rows of $value_bytes bytes, 64 MiB of memory | a second | of RocksDB's two threads | p99, ms |"
    echo "|---|---|---|---|"
    for row in "rocksdb-1:RocksDB, one thread" "rocksdb-2:RocksDB, two threads" "corduroy-1:Corduroy, 50 connections" \
        "corduroy-16:the same, 16 in a pipeline" "corduroy-64:the same, 64 in a pipeline"; do
        name=${row%%:*}
        awk -v what="${row#*:}" -v rate="$(median "$name" 2)" -v base="$base" -v tail="$(median "$name" 3)" \
            'BEGIN { printf "| %s | %d | %.2f | %s |\n", what, rate, rate / base, tail }'
    done
}
if [ -n "$out" ]; then table >>"$out"; else table; fi
