#!/usr/bin/env bash
# Reads and writes of data ten times as large as memory: beside RocksDB, beside the same data in memory, and beside an
# older program.
#
#   [OLD=path/to/corduroy] benches/peers/rocksdb.sh [--runs N] [--rows N] [--memory-mib N] [--quick] [--out FILE.md] [--keep]
#
# GET and SET go to random ones of N rows of 200 bytes; INCR to random ones of N counters whose names have 200 bytes.
# All of it lies in the page cache; each server has --memory-mib (64) for itself, but one that has room for everything.
# A server has a core on CPU 0 and its pool on all CPUs, and is asked by redis-benchmark over TCP; RocksDB's
# `db_bench readrandom` calls it in its own process, with two threads and a block cache of the same size. In each run
# all are measured in turn, another one first each time. The table shows medians over the runs; ± is half the distance
# between the slowest and the fastest. Ends in about 8 minutes, with OLD in 12; --quick in one, and says nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=3 rows=2000000 memory_mib=64 out="" keep="" value_bytes=200
command="benches/peers/rocksdb.sh $*"
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --rows) rows=$2; shift ;;
    --memory-mib) memory_mib=$2; shift ;;
    --quick) runs=1 rows=100000 memory_mib=4 ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
. benches/peers/common.sh
need db_bench rocksdb-tools
need redis-benchmark redis-tools

first_port=${PORT:-17381}
cpus=0-$(($(nproc) - 1))
servers=(new room)
[ -z "$old" ] || servers+=(old)
# A kilobyte a row is more than a row takes with all that is kept of it.
room_bytes=$((rows * 1024 + (64 << 20)))
name_pad=$(printf '%*s' $((value_bytes - 13)) "" | tr ' ' x)

start_servers() { # what is held
    local at=0 name
    for name in "${servers[@]}"; do
        local program=$corduroy bytes=$((memory_mib << 20))
        [ "$name" != old ] || program=$old
        [ "$name" != room ] || bytes=$room_bytes
        start "$name" $((first_port + at)) "$cpus" "$program" serve --data-dir "$work/$name.$1" \
            --listen "127.0.0.1:$((first_port + at))" --cores 0 --memory-bytes "$bytes"
        at=$((at + 1))
    done
}

rows_of() { # values or counters: as requests for redis-cli --pipe
    awk -v what="$1" -v rows="$rows" -v bytes="$value_bytes" -v pad="$name_pad" 'BEGIN {
        value = sprintf("%*s", bytes, ""); gsub(/ /, "x", value)
        for (row = 0; row < rows; row++)
            if (what == "values") printf "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n", row, bytes, value
            else printf "*3\r\n$3\r\nSET\r\n$%d\r\n%012d:%s\r\n$1\r\n0\r\n", bytes, row, pad
    }'
}
fill() { # values or counters
    local name
    for name in "${servers[@]}"; do
        progress "writing $rows $1 to $name"
        rows_of "$1" | redis-cli -p "${port_of[$name]}" --pipe >"$work/pipe.log"
        [ "$(redis-cli -p "${port_of[$name]}" dbsize)" = "$rows" ] || { cat "$work/pipe.log" >&2; exit 1; }
    done
    wait_idle
}

measure() { # server, test, pipeline  ->  a line in $work/cells: server test pipeline rate p99
    local csv words=(-t "$2")
    [ "$2" != incr ] || words=(incr "__rand_int__:$name_pad")
    wait_idle
    csv=$(redis-benchmark -p "${port_of[$1]}" -d $value_bytes -r "$rows" -n $((rows / 10)) -c 50 -P "$3" --csv "${words[@]}" \
        2>/dev/null | tail -n 1)
    # "test","rps","avg","min","p50","p95","p99","max"
    echo "$csv" | awk -F'","|"' -v s="$1" -v t="$2" -v p="$3" \
        '$3 + 0 <= 0 { print "no figure from " s ": " $0 > "/dev/stderr"; exit 1 } { print s, t, p, $3, $8 }' >>"$work/cells"
}
rocksdb() { db_bench --db="$work/rocksdb" --num="$rows" --value_size=$value_bytes --key_size=16 --compression_type=none "$@" 2>>"$work/db_bench.log"; }
measure_rocksdb() { # threads
    wait_idle
    rocksdb --benchmarks=readrandom --use_existing_db=1 --reads=$((rows / 10)) --threads="$1" \
        --cache_size=$((memory_mib << 20)) |
        awk -v threads="$1" '/^readrandom/ { for (i = 1; i <= NF; i++) if ($i == "ops/sec") { print "rocksdb", threads, "-", $(i - 1), "-"; found = 1 } }
            END { exit !found }' >>"$work/cells"
}
measure_all() { # run, test...
    local run=$1 test pipe name
    shift
    for test in "$@"; do
        for pipe in 1 16 64; do
            progress "run $run of $runs: $test -P $pipe"
            for name in $(in_turn "$run" "${servers[@]}"); do measure "$name" "$test" "$pipe"; done
        done
    done
}

start_servers values
fill values
values_bytes=$(figure new state_disk_bytes)
progress "writing $rows values to RocksDB"
rocksdb --benchmarks=filluniquerandom,compact >>"$work/db_bench.log"
for run in $(seq "$runs"); do
    for threads in $(in_turn "$run" 1 2); do measure_rocksdb "$threads"; done
    measure_all "$run" get set
done
read_back=$(figure room rows_loaded_from_disk)
stop_all
rm -rf "$work"/*.values "$work/rocksdb"

start_servers counters
fill counters
counters_bytes=$(figure new state_disk_bytes)
for run in $(seq "$runs"); do measure_all "$run" incr; done
progress ""

table() {
    about "Data ten times as large as memory" "$command"
    cat <<HEAD
- $rows rows of $value_bytes bytes ($((values_bytes >> 20)) MiB on disk), then $rows counters ($((counters_bytes >> 20)) MiB); $memory_mib MiB of memory; 50 connections, $((rows / 10)) requests a cell
- $(db_bench --version 2>&1 | head -n 1): readrandom with two threads; with one: $(awk "$awk_median"'$1 == "rocksdb" && $2 == 1 { all = all " " $4 } END { print short(median(all)) }' "$work/cells")
- requests a second, median of $runs runs; p99 in ms; rows that the server with room for all of them read from disk: ${read_back:-unknown}

| test | -P | RocksDB | old | Corduroy | of RocksDB | all in memory | of that | p99 old | p99 |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
HEAD
    awk "$awk_median"'
    $1 == "rocksdb" { if ($2 == 2) rocksdb = rocksdb " " $4; next }
    { key = $2 " " $3; if (!(key in seen)) { seen[key] = ++cells; name[cells] = key }
      rate[$1, key] = rate[$1, key] " " $4; p99[$1, key] = p99[$1, key] " " $5 }
    function cell(of, key,   mid) {
        if (!((of, key) in rate)) return "-"
        mid = median(rate[of, key])
        return sprintf("%s ± %.0f%%", short(mid), spread(mid))
    }
    function tail(of, key) { return (of, key) in p99 ? sprintf("%.2f", median(p99[of, key])) : "-" }
    END {
        base = median(rocksdb)
        for (i = 1; i <= cells; i++) {
            key = name[i]; split(key, part, " "); is_get = part[1] == "get"
            here = median(rate["new", key]); room = median(rate["room", key])
            printf "| %s | %s | %s | %s | %s | %s | %s | **%.2f** | %s | %s |\n", toupper(part[1]), part[2],
                is_get ? short(base) : "-", cell("old", key), cell("new", key),
                is_get ? sprintf("**%.2f**", here / base) : "-", cell("room", key), here / room, tail("old", key), tail("new", key)
        }
    }' "$work/cells"
}
table | tee ${out:+"$out"}
