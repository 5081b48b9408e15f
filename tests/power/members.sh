#!/usr/bin/env bash
# Under load a fourth node joins a cluster of three, is killed and comes back, gets a vote, and the first leaves while it leads. No client
# gets an error but those that say that it was not done, or is not known to be; no acknowledged write may be lost, and afterwards the
# fourth and any other of those that are left have everything, and go on. Then the first comes back with its folder, as another member,
# is killed while what it had left is deleted or it joins, gets a vote, and the fourth leaves. The same of a cluster that one node has founded which was
# alone before, with replication off: it is loaded and killed, founds the cluster with what it has, and the second and the third join
# it under load.
#
#   tests/power/members.sh [ROUNDS] [server options]    so many clusters of each kind, one after the other (default 5)
#   tests/power/members.sh --quick [server options]     one of each, in about a minute
source "$(dirname "$0")/common.sh"
source tests/power/nodes.sh
rounds=5
case ${1:-} in
--quick) rounds=1 && shift ;;
[0-9]*) rounds=$1 && shift ;;
esac
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--wal-segment-bytes 4MiB --max-bulk-bytes 1MiB --memory-bytes 64MiB)
mixes=("-w set -P 1 -c 20" "-w set -P 16 -c 10 -s 1000" "-w incr -P 8 -c 10" "-w mset -P 4 -c 8" "-w ycsb-a -P 4 -c 10")
# What a client may be answered: it was not done, or that is not known.
typed="CLUSTERDOWN UNKNOWNRESULT OVERLOADED ABORTED"

# replica WORDS: asks for a change until it is made. What refuses it meanwhile has to say why.
replica() {
    local begun reply
    begun=$(now_ms)
    while :; do
        reply=$(ask_node "$loaded" REPLICA "$@")
        case $reply in
        '*'*) return ;;
        -REFUSED* | -CLUSTERDOWN* | -UNKNOWNRESULT* | "no answer") refused=$((refused + 1)) ;;
        *) fail "$kind: REPLICA $*: $reply" ;;
        esac
        [ $(($(now_ms) - begun)) -lt "$patience_ms" ] || fail "$kind: REPLICA $*: $reply"
        sleep 0.1
    done
}

start_load() {
    mix=${mixes[$((round % ${#mixes[@]}))]}
    # shellcheck disable=SC2086 # the mix is several words
    "$load" --addr "127.0.0.1:$(client_port "$loaded")" $mix -r 3000 --rate 3000 --no-preload -d 300 --seed "$round" \
        --journal "$work/journal" --until-disconnect --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
    load_pid=$!
    journal_bytes=0
    let_it_run
}

# end_load: lets it see its connections go, and judges its answers.
end_load() {
    let_it_run
    ask_node "$loaded" CLIENT KILL TYPE normal >/dev/null
    judge_load
}

# judge_load: the same of one whose connections go.
judge_load() {
    wait "$load_pid" || true
    load_pid=""
    grep -q '"violations": \[\]' "$work/load.json" || { cat "$work/load.log" >&2; fail "$kind: wrong answers ($mix)"; }
    local word
    for word in $(grep -A 100000 '"errors": \[' "$work/load.json" | sed -n '/"violations"/q; s/.*"kind": "\([^"]*\)".*/\1/p'); do
        [[ " $typed " == *" $word "* ]] || { cat "$work/load.log" >&2; fail "$kind: a client was answered $word"; }
    done
    acknowledged=$((acknowledged + $(number answers "$work/load.json")))
}

check_all() {
    local status
    for _ in $(seq 20); do
        find_leader
        status=0
        "$load" check "$work/journal" --addr "127.0.0.1:$(client_port "$leader")" >"$work/verdict" 2>"$work/check.log" || status=$?
        [ "$status" = 0 ] && return
        grep -q 'answered with an error: \(MOVED\|CLUSTERDOWN\|UNKNOWNRESULT\)' "$work/check.log" || break
    done
    cat "$work/verdict" "$work/check.log" >&2
    fail "$kind: the journal and the nodes disagree"
}

# cut_short WORDS: runs them in the background, and kills what they run some milliseconds later, if it still runs.
cut_short() {
    "$@" &
    local pid=$!
    sleep "0.0$((RANDOM % 90 + 10))"
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

# grow_three: node 1 runs alone under load and ends, founds a cluster with what it has, however often that is cut short, and is joined
# by nodes 2 and 3 under load.
grow_three() {
    loaded=1
    start_alone 1
    start_load
    let_it_run
    if [ $((RANDOM % 2)) = 0 ]; then kill_node 1; else stop_node 1; fi
    judge_load
    cluster_id=$(sed -n 's/^cluster = //p' "$work/node1/identity.0")
    { describe 1 && for id in 2 3; do describe_node "$id" && echo "joins = true"; done; } >"$work/peers.toml"
    cluster_id=""
    for _ in 1 2 3; do
        cut_short "$corduroy" format --peers "$work/peers.toml" --node-id 1 --data-dir "$work/node1" "${options[@]}" >/dev/null 2>&1
    done
    format_node 1
    for _ in 1 2 3; do
        start_node 1
        sleep "0.$((RANDOM % 40 + 10))"
        kill_node 1
    done
    start_node 1
    find_leader
    check_all
    start_load
    for id in 2 3; do
        format_node "$id"
        start_node "$id"
        replica ADD ALL "$id" "$(peer_host "$id"):$((port + 10 + id))" "127.0.0.1:$(client_port "$id")"
        replica PROMOTE ALL "$id"
    done
    end_load
}

# each_pair_has_all: two of three are left, and each pair has everything.
each_pair_has_all() {
    for id in 2 3; do
        await_level
        kill_node "$id"
        check_all
        start_node "$id"
    done
    await_level
}

# leave_and_join: the fourth node joins three and the first leaves, under load.
leave_and_join() {
    { cat "$work/peers.toml" && describe_node 4 && echo "joins = true"; } >"$work/joins.toml"
    loaded=$((RANDOM % 2 + 2))
    start_load
    format_node 4 "$work/joins.toml"
    start_node 4 "$work/joins.toml"
    replica ADD ALL 4 "127.0.0.1:$((port + 14))" "127.0.0.1:$(client_port 4)"
    sleep "0.$((RANDOM % 90 + 10))"
    kill_node 4
    let_it_run
    start_node 4 "$work/joins.toml"
    replica PROMOTE ALL 4
    replica TRANSFER ALL 1
    let_it_run
    replica REMOVE ALL 1
    let_it_run
    kill_node 1
    end_load
    check_all
    each_pair_has_all
}

# come_back: the first node, which had left, comes back with its folder, and the fourth leaves, under load.
come_back() {
    loaded=$((RANDOM % 2 + 2))
    start_load
    start_node 1
    replica ADD ALL 1 "$(peer_host 1):$((port + 11))" "127.0.0.1:$(client_port 1)"
    sleep "0.$((RANDOM % 90 + 10))"
    kill_node 1
    let_it_run
    start_node 1
    replica PROMOTE ALL 1
    replica REMOVE ALL 4
    let_it_run
    kill_node 4
    end_load
    check_all
    each_pair_has_all
    for id in 1 2 3; do kill_node "$id"; done
}

acknowledged=0 refused=0
for round in $(seq "$rounds"); do
    for founded_by in found_three grow_three; do
        kind="round $round, $founded_by"
        rm -rf "$work"/node? "$work/journal"
        "$founded_by"
        leave_and_join
        come_back
    done
done
[ "$acknowledged" -gt 0 ] || fail "nothing was acknowledged: nothing was tested"
echo "OK: $rounds rounds of two clusters; $acknowledged requests answered, $refused requests about members refused at first; the last check:" \
    "$(cat "$work/verdict")"
