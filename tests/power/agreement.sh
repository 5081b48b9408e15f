#!/usr/bin/env bash
# Three nodes that replicate: kills the leader with SIGKILL under load, N times (default 50), and reads everything back from
# the next leader each time: no acknowledged write may be lost, no value be there that nobody wrote. The killed node comes back
# and catches up while the load goes on elsewhere.
#
#   tests/power/agreement.sh [N] [server options]
source "$(dirname "$0")/common.sh"
cycles=${1:-50}
shift || true
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--cores 0 --wal-segment-bytes 4MiB --max-bulk-bytes 1MiB --memory-bytes 64MiB)
# Twice the longest election timeout: another node has to acknowledge by then.
limit_ms=4000
base=$port

client_port() { echo $((base + $1)); }

{
    echo "cluster = \"$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')\""
    echo "secret = \"$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')\""
    echo "shards = 1"
    for id in 1 2 3; do
        printf '[[nodes]]\nid = %s\npeer = "127.0.0.1:%s"\nclient = "127.0.0.1:%s"\n' "$id" $((base + 10 + id)) "$(client_port "$id")"
    done
} >"$work/peers.toml"

declare -A pids
start_node() {
    "$corduroy" serve --peers "$work/peers.toml" --node-id "$1" --data-dir "$work/node$1" "${options[@]}" \
        >>"$work/server.log" 2>&1 &
    pids[$1]=$!
    server_pid="${pids[*]}"
}

# ask_node ID WORDS
ask_node() {
    port=$(client_port "$1")
    ask "${@:2}"
}

now_ms() { date +%s%3N; }

# find_leader: sets leader to the node that acknowledges a write.
find_leader() {
    local begun
    begun=$(now_ms)
    while [ $(($(now_ms) - begun)) -lt 30000 ]; do
        for id in "${!pids[@]}"; do
            if [ "$(ask_node "$id" SET who-leads "$id")" = +OK ]; then
                leader=$id
                return
            fi
        done
        sleep 0.02
    done
    fail "nobody leads"
}

for id in 1 2 3; do
    "$corduroy" format --peers "$work/peers.toml" --node-id "$id" --data-dir "$work/node$id" "${options[@]}" >/dev/null
    start_node "$id"
done
find_leader

mixes=("-w set -P 1 -c 20" "-w set -P 16 -c 10 -s 1000" "-w incr -P 8 -c 10" "-w mset -P 4 -c 8")
acknowledged=0 cut_short=0 slowest_ms=0 sum_ms=0
for cycle in $(seq "$cycles"); do
    mix=${mixes[$((cycle % ${#mixes[@]}))]}
    # shellcheck disable=SC2086 # the mix is several words
    "$load" --addr "127.0.0.1:$(client_port "$leader")" $mix -r 3000 --no-preload -d 60 --seed "$cycle" \
        --journal "$work/journal" --until-disconnect --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
    load_pid=$!
    let_it_run
    killed=$leader
    kill -9 "${pids[$killed]}"
    begun=$(now_ms)
    wait "${pids[$killed]}" 2>/dev/null || true
    unset "pids[$killed]"
    find_leader
    took_ms=$(($(now_ms) - begun))
    [ "$took_ms" -le "$limit_ms" ] || fail "cycle $cycle: nobody acknowledged a write for $took_ms ms"
    [ "$took_ms" -le "$slowest_ms" ] || slowest_ms=$took_ms
    sum_ms=$((sum_ms + took_ms))
    wait "$load_pid" || { cat "$work/load.log" >&2; fail "cycle $cycle: the load ended badly ($mix)"; }
    load_pid=""
    acknowledged=$((acknowledged + $(number answers "$work/load.json")))
    cut_short=$((cut_short + $(number unanswered "$work/load.json")))
    addr=127.0.0.1:$(client_port "$leader")
    check_journal "$work/journal"
    start_node "$killed"
done
[ "$acknowledged" -gt 0 ] && [ "$cut_short" -gt 0 ] || fail "nothing was acknowledged or nothing was under way: nothing was tested"
echo "OK: $cycles leaders killed, $acknowledged requests acknowledged, $cut_short cut short; another node acknowledged after" \
    "$((sum_ms / cycles)) ms on average, $slowest_ms ms at most; the last check: $(cat "$work/verdict")"
