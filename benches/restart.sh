#!/usr/bin/env bash
# How long a server is away after kill -9, with gigabytes of log written since it began: from the start of the process
# to its first answer, and to the first value read.
#
#   benches/restart.sh [--gib N] [--runs N] [--keys N] [--size BYTES] [-- server options]
#
# A load of unique keys (or few: --keys) runs until N GiB (default 4) have been written to the log. By then most of it
# is behind flushes, and the rest is the tail that a start replays. Then, --runs times (default 5): kill -9 under
# load, the page cache is dropped if this is root, start, first PONG, first GET. Ends in about 4 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

gib=4 runs=5 keys=4000000 size=1000 options=()
while [ $# -gt 0 ]; do
    case $1 in
    --gib) gib=$2; shift ;;
    --runs) runs=$2; shift ;;
    --keys) keys=$2; shift ;;
    --size) size=$2; shift ;;
    --) shift; options=("$@"); break ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

BIN_DIR=${BIN_DIR:-}
if [ -z "$BIN_DIR" ]; then
    cargo build --quiet --release --package corduroy --bin corduroy
    cargo build --quiet --release --package corduroy-tools --bin corduroy-load
    BIN_DIR=${CARGO_TARGET_DIR:-target}/release
fi
mkdir -p target
work=$(mktemp -d -p target restart.XXXXXX)
port=${PORT:-17393} server_pid="" load_pid=""
cleanup() {
    for pid in $load_pid $server_pid; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# ask WORDS: the first line of the answer to an inline command, or nothing while there is no server.
ask() {
    local reply=""
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 0
    { printf '%s\r\n' "$*" >&3 && IFS= read -r -t 60 reply <&3; } 2>/dev/null || true
    exec 3>&-
    printf '%s' "${reply%$'\r'}"
}
# figure NAME: one figure of INFO.
figure() {
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'INFO all\r\nQUIT\r\n' >&3
    tr -d '\r' <&3 | sed -n "s/^$1://p"
    exec 3>&-
}
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
spawn() {
    "$BIN_DIR/corduroy" serve --data-dir "$work/data" --listen "127.0.0.1:$port" --log-format text "${options[@]}" \
        >>"$work/log" 2>&1 &
    server_pid=$!
}
start_load() {
    "$BIN_DIR/corduroy-load" --addr "127.0.0.1:$port" -w set -P 16 -c 50 -r "$keys" -s "$size" -d 3600 \
        --prefix k: --until-disconnect --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
    load_pid=$!
}

spawn
until [ "$(ask PING)" = +PONG ]; do sleep 0.05; done
start_load
written=0
while [ $((written >> 30)) -lt "$gib" ]; do
    kill -0 "$load_pid" 2>/dev/null || { cat "$work/load.log" >&2; exit 1; }
    sleep 0.5
    written=$(figure wal_bytes)
done
echo "$keys keys, values of $size bytes: $((written >> 20)) MiB of log written, $(figure hand_overs) flushes," \
    "$(figure state_disk_bytes) bytes of state"
printf '%4s %10s %10s %9s %12s %10s\n' run ping_ms get_ms live_MiB log_files rss_MiB
for run in $(seq "$runs"); do
    sleep $((RANDOM % 3 + 1))
    live=$(figure wal_live_segments)
    kill -9 "$server_pid"
    wait "$server_pid" 2>/dev/null || true
    wait "$load_pid" 2>/dev/null || true
    files=$(find "$work/data" -path '*/wal/*' -type f -size +1M | wc -l)
    [ "$(id -u)" != 0 ] || { sync; echo 3 >/proc/sys/vm/drop_caches; }
    begun=$(now_ms)
    spawn
    until [ "$(ask PING)" = +PONG ]; do
        kill -0 "$server_pid" 2>/dev/null || { tail -n 20 "$work/log" >&2; exit 1; }
        sleep 0.005
    done
    pinged=$(now_ms)
    reply=$(ask GET k:000000000001)
    got=$(now_ms)
    [[ $reply == '$'* ]] || { echo "GET answered: $reply" >&2; exit 1; }
    rss=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$server_pid/status")
    printf '%4s %10s %10s %9s %12s %10s\n' "$run" $((pinged - begun)) $((got - begun)) $((live * 64)) "$files" $((rss >> 10))
    start_load
done
grep -E 'shard .* opened|finishing|cut' "$work/log" | tail -n 8
