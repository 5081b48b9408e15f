#!/usr/bin/env bash
# Kills the server with SIGKILL under load, N times (default 100), and reads everything back each time: no acknowledged
# write may be lost, no value be there that nobody wrote.
#
#   tests/power/kill9.sh [N] [server options]
source "$(dirname "$0")/common.sh"
cycles=${1:-100}
shift || true
# Small segments, so that a short run sees many of them end, be released and be used again; and the same data is
# served by one core and by two in turn.
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--shards 2 --wal-segment-bytes 4MiB)
cores() { if [ $((cycle % 2)) = 0 ] || [ "$(nproc)" = 1 ]; then echo 0; else echo 0-1; fi; }

mixes=("-w set -P 1 -c 50" "-w set -P 16 -c 20 -s 1000" "-w mset -P 4 -c 8" "-w incr -P 8 -c 20" "-w ycsb-f -P 4 -c 16"
    "-w ycsb-a -P 1 -c 30 -s 4000")
acknowledged=0 cut_short=0
for cycle in $(seq "$cycles"); do
    start_server "$work/data" --cores "$(cores)" "${options[@]}"
    mix=${mixes[$((cycle % ${#mixes[@]}))]}
    # shellcheck disable=SC2086 # the mix is several words
    "$load" --addr "$addr" $mix -r 3000 --no-preload -d 60 --seed "$cycle" --journal "$work/journal" --until-disconnect \
        --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
    load_pid=$!
    let_it_run
    kill_server
    wait "$load_pid" || { cat "$work/load.log" >&2; fail "cycle $cycle: the load ended badly ($mix)"; }
    load_pid=""
    grep -q '"server_went_away": true' "$work/load.json" || fail "cycle $cycle: the load did not see the server go"
    acknowledged=$((acknowledged + $(number answers "$work/load.json")))
    cut_short=$((cut_short + $(number unanswered "$work/load.json")))
    start_server "$work/data" --cores "$(cores)" "${options[@]}"
    check_journal "$work/journal"
    kill_server
done
[ "$acknowledged" -gt 0 ] && [ "$cut_short" -gt 0 ] || fail "nothing was acknowledged or nothing was under way: nothing was tested"
echo "OK: $cycles kills, $acknowledged requests acknowledged, $cut_short cut short; the last check: $(cat "$work/verdict")"
