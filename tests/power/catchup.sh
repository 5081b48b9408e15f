#!/usr/bin/env bash
# A node of three comes back after it was away: while the others keep what it lacks, by their log; behind that, by an image of the
# state, which is cut off three times on its way and goes on, and at which the node is killed again and again, at each step of it. Then
# it leads, and everything is read back from it: no acknowledged write may be lost, no value be there that nobody wrote.
#
#   tests/power/catchup.sh [MIB] [server options]      what the node misses each time, MiB (default 1024)
#   tests/power/catchup.sh --quick [server options]    little, in a minute
#
# As root each node has a network of its own, which is made slow while an image is sent, and cut; else the cuts are left out.
source "$(dirname "$0")/common.sh"
source tests/power/nodes.sh
mib=1024 kills=24 value_bytes=16384
case ${1:-} in
--quick) mib=16 kills=4 && shift ;;
[0-9]*) mib=$1 && shift ;;
esac
more=("$@")
[ "${#more[@]}" -gt 0 ] || more=(--memory-bytes 256MiB)
cuts=yes
if ! join_networks 1 2 3; then
    cuts="" && echo "cuts are left out: networks of their own need root"
elif ! in_network switch tc qdisc add dev node1 root tbf rate 1gbit burst 1mb latency 400ms 2>/dev/null; then
    cuts="" && echo "cuts are left out: networks cannot be made slow here"
fi

# begin NAME OPTIONS: three nodes that were just founded.
begin() {
    kind=$1
    options=("${@:2}" "${more[@]}")
    rm -rf "$work"/node? "$work/journal"
    found_three
    find_leader
    away=$((leader % 3 + 1))
}

end() {
    local id
    for id in "${!pids[@]}"; do kill_node "$id"; done
}

# figure ID SECTION NAME: a number of INFO; of_group ID NAME: one of the group that all keys belong to.
figure() { info "$1" "$2" | sed -n "s/^$3://p"; }
of_group() { info "$1" raft | sed -n "s/^raft_group_2:.*[:,]$2=\([0-9]*\).*/\1/p"; }
# received ID: the messages of images that have come to it in this process.
received() { info "$1" peers | sed -n 's/^peer_image:.*received=\([0-9]*\).*/\1/p'; }

# write MIB [KEYS]: so much, to whoever leads.
write() {
    find_leader
    set_enter "$leader"
    "${enter[@]}" "$load" --addr "127.0.0.1:$(client_port "$leader")" -w set -P 8 -c 10 -s "$value_bytes" -r "${2:-20000}" --no-preload \
        -n $(($1 * 1048576 / value_bytes)) --seed "$RANDOM" --journal "$work/journal" --quiet --json "$work/load.json" \
        >"$work/load.log" 2>&1 || { cat "$work/load.log" >&2; fail "$kind: the load ended badly"; }
    grep -q '"violations": \[\]' "$work/load.json" || { cat "$work/load.log" >&2; fail "$kind: wrong answers"; }
}

# check_from ID: has it lead, and reads everything back from it.
check_from() {
    local begun id
    begun=$(now_ms)
    find_leader
    while [ "$leader" != "$1" ]; do
        [ $(($(now_ms) - begun)) -lt $((4 * patience_ms)) ] || fail "$kind: node $1 never leads"
        id=$leader
        kill_node "$id"
        find_leader
        start_node "$id"
        await_level
        find_leader
    done
    in_network "$1" "$load" check "$work/journal" --addr "127.0.0.1:$(client_port "$1")" >"$work/verdict" 2>"$work/check.log" ||
        { cat "$work/verdict" "$work/check.log" >&2; fail "$kind: the journal and node $1 disagree"; }
}

# await_installed ID: waits until it has an image; sets took_ms.
await_installed() {
    local begun
    begun=$(now_ms)
    until [ "$(figure "$1" raft raft_images_installed)" = 1 ]; do
        [ $(($(now_ms) - begun)) -lt $((4 * patience_ms + 1000 * mib)) ] || fail "$kind: node $1 has no image"
        kill -0 "${pids[$1]}" || fail "$kind: node $1 has ended"
        sleep 0.05
    done
    took_ms=$(($(now_ms) - begun))
}

# write_until_released ID LSN: until the nodes that run do not have any more what follows this entry.
write_until_released() {
    local id kept
    for _ in $(seq 100); do
        write 16 1000
        kept=""
        for id in "${!pids[@]}"; do
            [ "$(of_group "$id" released)" -gt $(($2 + 1)) ] || kept=yes
        done
        [ -n "$kept" ] || return 0
    done
    fail "$kind: the log is never released"
}

# slow RATE, fast: what comes to the node that was away.
slow() { [ -z "$cuts" ] || in_network switch tc qdisc replace dev "node$away" root tbf rate "$1" burst 256kb latency 400ms; }
fast() { [ -z "$cuts" ] || in_network switch tc qdisc del dev "node$away" root; }

by_log() {
    begin "by log"
    write 1
    local begun level_ms last
    last=$(of_group "$away" last)
    kill_node "$away"
    # A little less than what is kept, for the log has more than the values, and is kept by whole segments.
    write $((mib * 7 / 8))
    # It has a quarter of that before more is written, or all of it together may be more than is kept.
    last=$((last + ($(of_group "$leader" last) - last) / 4))
    start_node "$away"
    begun=$(now_ms)
    until now=$(of_group "$away" last) && [ "${now:-0}" -gt "$last" ]; do
        [ $(($(now_ms) - begun)) -lt "$patience_ms" ] || fail "$kind: node $away gets too little: its log ends at ${now:-nothing}, and not behind $last"
        sleep 0.02
    done
    write $((mib / 8))
    patience_ms=$((60000 + mib * 200)) await_level
    level_ms=$(($(now_ms) - begun))
    [ "$(figure "$away" raft raft_images_installed)" = 0 ] || fail "$kind: node $away got an image"
    check_from "$away"
    echo "$kind: $mib MiB behind, and level after $level_ms ms, $((mib / 8)) MiB of them written meanwhile; $(cat "$work/verdict")"
    end
}

by_image() {
    begin "by image" --wal-segment-bytes 4MiB --max-bulk-bytes 1MiB
    # The image has all keys.
    write "$mib" $((mib * 1048576 / value_bytes))
    local last before now whole whole_ms cut received_all=0
    last=$(of_group "$away" last)
    kill_node "$away"
    write_until_released "$away" "$last"
    # An image takes seconds, however small it is.
    slow "$((mib < 200 ? 2 * mib : 400))mbit"
    start_node "$away"
    await_installed "$away"
    whole=$(received "$away") whole_ms=$took_ms
    await_level

    kind="an image that is cut"
    last=$(of_group "$away" last)
    kill_node "$away"
    write_until_released "$away" "$last"
    start_node "$away"
    before=0
    for cut in 1 2 3; do
        [ -n "$cuts" ] || break
        until now=$(received "$away") && [ "${now:-0}" -gt $((before + whole / 5)) ]; do
            kill -0 "${pids[$away]}" || fail "$kind: node $away has ended"
            sleep 0.02
        done
        before=$now
        in_network switch ip link set "node$away" down
        sleep "$((RANDOM % 3)).$((RANDOM % 90 + 10))"
        [ "$(figure "$away" raft raft_images_installed)" = 0 ] || fail "$kind: it was whole before cut $cut"
        in_network switch ip link set "node$away" up
    done
    await_installed "$away"
    received_all=$(received "$away")
    # Whatever was under way at a cut comes again, and no more.
    [ "$received_all" -lt $((whole * 3 / 2 + 100)) ] || fail "$kind: $received_all messages came, and $whole are enough"
    await_level

    kind="killed at an image"
    last=$(of_group "$away" last)
    kill_node "$away"
    write_until_released "$away" "$last"
    for n in $(seq "$kills"); do
        start_node "$away"
        # From the first offer to behind the install; the last third of the kills where that is.
        local after_ms=$((whole_ms * n / kills))
        [ $((n % 3)) != 0 ] || after_ms=$((whole_ms - 300 + 600 * n / kills))
        [ "$after_ms" -gt 0 ] || after_ms=50
        sleep "$((after_ms / 1000)).$(printf %03d $((after_ms % 1000)))"
        kill_node "$away"
    done
    start_node "$away"
    await_level
    fast
    check_from "$away"
    echo "by image: $whole messages, whole after $whole_ms ms; with three cuts $received_all messages; $kills kills; $(cat "$work/verdict")"
    end
}

by_log
by_image
echo OK
