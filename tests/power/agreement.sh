#!/usr/bin/env bash
# Three nodes that replicate to each other lose their leader under load again and again: killed, paused, cut off from the
# others both ways or one way; bytes between them flip, a disk is slow. After each fault everything is read back from the node that leads then: no acknowledged write may be lost, no value be
# there that nobody wrote; and a leader that was deposed without knowing it must not answer a read with what it has.
#
#   tests/power/agreement.sh [N] [server options]       N leaders killed (default 50), each followed by another fault
#   tests/power/agreement.sh --quick [server options]   each fault once, in under a minute
#   tests/power/agreement.sh [...] --step-clocks [...]  each node's wall clock is set up to 10 s off with each fault (libfaketime)
#
# With FORWARDED=yes in the environment the load goes to a node that does not lead when it begins, which forwards it.
#
# As root each node has a network of its own, which can be cut; else cuts are left out. Bytes flip where nft is there, and disks
# are slow where control groups limit them.
source "$(dirname "$0")/common.sh"
source tests/power/nodes.sh
kills=50 is_quick=""
case ${1:-} in
--quick) is_quick=yes && shift ;;
[0-9]*) kills=$1 && shift ;;
esac
steps_clocks=""
[ "${1:-}" != --step-clocks ] || { steps_clocks=yes && shift; }
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--wal-segment-bytes 4MiB --max-bulk-bytes 1MiB --memory-bytes 64MiB)
others=(pause_leader pause_follower kill_follower)
if join_networks 1 2 3; then
    others+=(cut_leader cut_follower mute_leader deafen_leader mute_follower deafen_follower)
    if command -v nft >/dev/null && nft list ruleset >/dev/null 2>&1; then
        others+=(flip_leader flip_follower)
    else
        echo "flipped bytes are left out: they need nft"
    fi
else
    echo "cuts and flipped bytes are left out: networks of their own need root"
fi

# The furthest that a node's wall clock was seen off.
most_off_ms=0
note_clock() {
    local shown_s off_ms
    # shellcheck disable=SC2016 # the inner shell is to expand it
    shown_s=$(in_network "$1" bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "TIME\r\n" >&3
        for _ in 1 2 3; do IFS= read -r -t 5 line <&3; done; echo "${line//[!0-9]/}"' "$(client_port "$1")" 2>/dev/null || true)
    [ "${shown_s:-0}" -gt 1000000000 ] || return 0
    off_ms=$((shown_s * 1000 - $(now_ms)))
    [ "${off_ms#-}" -le "$most_off_ms" ] || most_off_ms=${off_ms#-}
}

# The group that limits the writes of whoever is in it to some a second.
device=$(findmnt -no MAJ:MIN -T "$work" | tr -d ' ')
slow_group=/sys/fs/cgroup/blkio/corduroy.${work##*.}
if mkdir "$slow_group" 2>/dev/null && echo "$device 25" 2>/dev/null >"$slow_group/blkio.throttle.write_iops_device"; then
    others+=(slow_leader slow_follower)
else
    echo "slow disks are left out: they need control groups of block devices"
fi
# The group goes with whoever is in it still.
trap 'cleanup; rmdir "$slow_group" 2>/dev/null' EXIT

faketime_library=$(find /usr/lib -name libfaketime.so.1 2>/dev/null | head -n 1)
[ -z "$steps_clocks" ] || [ -n "$faketime_library" ] || fail "--step-clocks needs libfaketime"

# step_clocks: sets the wall clock of each node up to 10 s before or behind the machine's. No other clock: what nodes promise each
# other is not measured by it.
step_clocks() {
    [ -n "$steps_clocks" ] || return 0
    local id
    for id in 1 2 3; do
        printf '%+d.%03ds\n' $((RANDOM % 20 - 10)) $((RANDOM % 1000)) >"$work/clock$id.new"
        mv "$work/clock$id.new" "$work/clock$id"
    done
}

set_launcher() {
    launcher=(env)
    [ -z "$steps_clocks" ] || launcher+=("LD_PRELOAD=$faketime_library" "FAKETIME_TIMESTAMP_FILE=$work/clock$1" FAKETIME_NO_CACHE=1
        FAKETIME_DONT_FAKE_MONOTONIC=1)
}

# a_follower: sets victim to a node that runs and does not lead.
a_follower() {
    local ids=() id
    for id in "${!pids[@]}"; do
        [ "$id" = "$leader" ] || ids+=("$id")
    done
    victim=${ids[$((RANDOM % ${#ids[@]}))]}
}

# A fixed rate, so that a node that is away for seconds misses no more than the others keep of the log.
mixes=("-w set -P 1 -c 20" "-w set -P 16 -c 10 -s 1000" "-w incr -P 8 -c 10" "-w mset -P 4 -c 8" "-w ycsb-a -P 4 -c 10")
start_load() {
    victim=$leader
    [ -z "${FORWARDED:-}" ] || a_follower
    loaded=$victim
    set_enter "$loaded"
    mix=${mixes[$((fault % ${#mixes[@]}))]}
    # shellcheck disable=SC2086 # the mix is several words
    "${enter[@]}" "$load" --addr "127.0.0.1:$(client_port "$loaded")" $mix -r 3000 --rate 3000 --no-preload -d 120 \
        --seed "$fault" --journal "$work/journal" --until-disconnect --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
    load_pid=$!
    let_it_run
}

# end_load: waits until the load has noticed that its connections are gone. Answers that are errors are fine, wrong ones are not.
end_load() {
    [ -z "${pids[$loaded]:-}" ] || ask_node "$loaded" CLIENT KILL TYPE normal >/dev/null
    wait "$load_pid" || true
    load_pid=""
    grep -q '"violations": \[\]' "$work/load.json" || { cat "$work/load.log" >&2; fail "fault $fault ($kind): wrong answers ($mix)"; }
    grep -q '"server_went_away": true' "$work/load.json" || fail "fault $fault ($kind): the load did not see its connections go"
    acknowledged=$((acknowledged + $(number answers "$work/load.json")))
    cut_short=$((cut_short + $(number unanswered "$work/load.json")))
}

# check_all: reads everything back from the leader, whoever that is.
check_all() {
    local status
    journal_bytes=$(stat -c %s "$work/journal")
    for _ in $(seq 20); do
        find_leader
        status=0
        in_network "$leader" "$load" check "$work/journal" --addr "127.0.0.1:$(client_port "$leader")" \
            >"$work/verdict" 2>"$work/check.log" || status=$?
        [ "$status" = 0 ] && return
        # It leads no more: another one does. Everything else is a verdict.
        grep -q 'answered with an error: \(MOVED\|CLUSTERDOWN\|UNKNOWNRESULT\)' "$work/check.log" || break
    done
    cat "$work/verdict" "$work/check.log" >&2
    fail "fault $fault ($kind): the journal and the nodes disagree"
}

# takeover: waits until another node than the victim leads.
takeover() {
    find_leader "$victim"
    echo "$kind $took_ms" >>"$work/takeovers"
}

# mend WORDS: has the deposed leader asked while it cannot know that it is deposed, and ends what keeps it from knowing.
mend() {
    local reply
    ask_node "$victim" GET takeovers >"$work/deposed" &
    local asking=$!
    sleep "0.$((RANDOM % 90 + 10))"
    "$@"
    wait "$asking" || true
    reply=$(cat "$work/deposed")
    if [[ $reply =~ ^[0-9]+$ ]] && [ "$reply" -lt "$count" ]; then
        fail "fault $fault ($kind): the deposed leader answers $reply, and $count was acknowledged"
    fi
}

# meanwhile WORDS: the others acknowledge writes without the follower, which misses some; then it comes back.
meanwhile() {
    find_leader "$victim"
    sleep "$((RANDOM % 2)).$((RANDOM % 90 + 10))"
    find_leader "$victim"
    "$@"
}

pause() { kill -STOP "${pids[$victim]}"; }
go_on() { kill -CONT "${pids[$victim]}"; }
cut() { in_network switch ip link set "node$victim" down; }
join() { in_network switch ip link set "node$victim" up; }

# others_of ID: all nodes but it.
others_of() { for id in 1 2 3; do [ "$id" = "$1" ] || echo "$id"; done; }

# What the victim sends is lost, and it hears everything; or it hears nothing, and is heard.
mute() { for id in $(others_of "$victim"); do in_network "$victim" ip route add blackhole "10.77.0.$id/32"; done; }
unmute() { for id in $(others_of "$victim"); do in_network "$victim" ip route del blackhole "10.77.0.$id/32"; done; }
deafen() { for id in $(others_of "$victim"); do in_network "$id" ip route add blackhole "10.77.0.$victim/32"; done; }
undeafen() { for id in $(others_of "$victim"); do in_network "$id" ip route del blackhole "10.77.0.$victim/32"; done; }

# One in twenty of the victim's packets to other nodes has a byte that is not what was sent, behind TCP's own sum.
flip() {
    in_network "$victim" nft -f - <<RULES
table inet flips {
    chain sent {
        type filter hook output priority 0
        oifname "peers" tcp sport != 0 meta length > 120 numgen random mod 20 == 0 @ih,$((8 * (RANDOM % 60))),8 set $((RANDOM % 256)) counter
    }
}
RULES
}
unflip() { in_network "$victim" nft delete table inet flips; }

# bad_frames: how many connections a wrong frame has ended at the nodes that the victim sends to.
bad_frames() {
    local id
    for id in $(others_of "$victim"); do info "$id" peers; done | awk -F: '/^peer_bad_frames/ { sum += $2 } END { print sum + 0 }'
}

# bytes_flip: they flip until another node has noticed, while the nodes go on acknowledging.
bytes_flip() {
    local before after begun
    before=$(bad_frames) begun=$(now_ms)
    flip
    after=$before
    while [ "$after" = "$before" ] && [ $(($(now_ms) - begun)) -lt "$patience_ms" ]; do
        sleep 0.2
        after=$(bad_frames)
    done
    unflip
    [ "$after" -gt "$before" ] || fail "fault $fault ($kind): nobody noticed a flipped byte"
    find_leader
}

# The victim's disk takes few writes a second, for a while in which the nodes go on acknowledging.
disk_is_slow() {
    echo "${pids[$victim]}" >"$slow_group/cgroup.procs"
    find_leader
    sleep "$((RANDOM % 3 + 1)).$((RANDOM % 90 + 10))"
    find_leader
    echo "${pids[$victim]}" >"$slow_group/../cgroup.procs"
}

kill_leader() { victim=$leader; kill_node "$victim"; takeover; end_load; check_all; start_node "$victim"; }
pause_leader() { victim=$leader; pause; takeover; mend go_on; end_load; check_all; }
cut_leader() { victim=$leader; cut; takeover; mend join; end_load; check_all; }
mute_leader() { victim=$leader; mute; takeover; mend unmute; end_load; check_all; }
deafen_leader() { victim=$leader; deafen; takeover; mend undeafen; end_load; check_all; }
flip_leader() { victim=$leader; bytes_flip; end_load; check_all; }
slow_leader() { victim=$leader; disk_is_slow; end_load; check_all; }
kill_follower() { a_follower; kill_node "$victim"; meanwhile start_node "$victim"; end_load; check_all; }
pause_follower() { a_follower; pause; meanwhile go_on; end_load; check_all; }
cut_follower() { a_follower; cut; meanwhile join; end_load; check_all; }
mute_follower() { a_follower; mute; meanwhile unmute; end_load; check_all; }
deafen_follower() { a_follower; deafen; meanwhile undeafen; end_load; check_all; }
flip_follower() { a_follower; bytes_flip; end_load; check_all; }
slow_follower() { a_follower; disk_is_slow; end_load; check_all; }

kinds=(kill_leader "${others[@]}")
if [ -z "$is_quick" ]; then
    kinds=()
    for n in $(seq "$kills"); do
        kinds+=(kill_leader "${others[$((n % ${#others[@]}))]}")
    done
fi
step_clocks
fault=0 kind=start acknowledged=0 cut_short=0
found_three
for kind in "${kinds[@]}"; do
    fault=$((fault + 1))
    start_load
    step_clocks
    "$kind"
    step_clocks
    note_clock 1
    # Now and then the next fault comes before all have caught up: a majority has what counts all the same.
    [ $((RANDOM % 3)) = 0 ] || await_level
done
await_level
[ "$acknowledged" -gt 0 ] && [ "$cut_short" -gt 0 ] || fail "nothing was acknowledged or nothing was under way: nothing was tested"
[ -z "$steps_clocks" ] || [ "$most_off_ms" -gt 1000 ] || fail "no clock was seen more than $most_off_ms ms off"
mapfile -t sorted < <(awk '{ print $2 }' "$work/takeovers" | sort -n)
echo "OK: ${#kinds[@]} faults, of them ${#sorted[@]} that took a leader away; $acknowledged requests acknowledged," \
    "$cut_short cut short; the last check: $(cat "$work/verdict")"
[ -z "$steps_clocks" ] || echo "wall clocks were seen up to $most_off_ms ms off"
echo "another node acknowledged a write after ${sorted[$((${#sorted[@]} / 2))]} ms (median), ${sorted[-1]} ms (longest)"
sort -k1,1 -k2,2n "$work/takeovers" | awk '
    function show() { if (n) printf "  %s: %d, %d ms (median), %d ms (longest)\n", kind, n, took[int((n + 1) / 2)], took[n] }
    $1 != kind { show(); kind = $1; n = 0 }
    { took[++n] = $2 }
    END { show() }'
