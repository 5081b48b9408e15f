#!/usr/bin/env bash
# What groups cost that nobody uses: three nodes with a replica of each, all asleep; and what it costs when one node dies.
#
#   benches/idle.sh [--groups N] [--shards N] [--seconds N] [--runs N] [--out FILE.md] [--keep]
#
# Each run founds a cluster of a few groups, for the memory of a node without any, and one of N (10,000) groups; waits until all
# sleep; has them do nothing for so many seconds (30); then kills the node that leads the most, and looks at the others for ten
# seconds. All nodes are on this machine, each on one core.
set -euo pipefail
cd "$(dirname "$0")/.."

groups=10000 shards=1 seconds=30 runs=3 out="" keep="" command="benches/idle.sh $*"
while [ $# -gt 0 ]; do
    case $1 in
    --groups) groups=$2; shift ;;
    --shards) shards=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --runs) runs=$2; shift ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
. benches/peers/common.sh
few=3 port=${PORT:-17880}

# of_info NAME SECTION FIELD: one figure of a section of a server's INFO.
of_info() { redis-cli -p "${port_of[$1]}" info "$2" | tr -d '\r' | sed -n "s/^$3://p"; }
anonymous_bytes() { awk '/^RssAnon:/ { print $2 * 1024 }' "/proc/${pid_of[$1]}/status"; }

# sleep_all N: until all N groups sleep on each node, and have given their memory back.
sleep_all() {
    local id asleep before
    for _ in $(seq 600); do
        asleep=$(for id in 1 2 3; do of_info "node$id" raft raft_asleep; done | sort -u)
        [ "$asleep" != "$1" ] || break
        sleep 0.5
    done
    [ "$asleep" = "$1" ] || { echo "of $1 groups, $asleep sleep" >&2; exit 1; }
    before=0
    for _ in $(seq 60); do
        sleep 1
        asleep=$(anonymous_bytes node1)
        [ $((before - asleep)) -ge 65536 ] || [ "$before" = 0 ] || break
        before=$asleep
    done
}

# restart_with N: a fresh cluster of N groups, all asleep.
restart_with() {
    stop_all
    rm -rf "$work"/node?
    port=$((port + 40))
    partitions=$1 shards=$shards start_three "$port"
    sleep_all "$1"
}

one_run() {
    local id most=0 dead="" rest=() base cpu=() sent=() memory=() begun_ms all_ms="" led before
    restart_with "$few"
    base=$(anonymous_bytes node1)
    restart_with "$groups"
    for id in 1 2 3; do
        memory+=($((($(anonymous_bytes "node$id") - base) / (groups - few))))
        cpu[id]=$(ticks "node$id") sent[id]=$(of_info "node$id" peers peer_messages_sent)
    done
    sleep "$seconds"
    for id in 1 2 3; do
        cpu[id]=$(($(ticks "node$id") - cpu[id])) sent[id]=$(($(of_info "node$id" peers peer_messages_sent) - sent[id]))
        echo "idle $run $id ${cpu[id]} ${sent[id]} ${memory[id - 1]}" >>"$work/cells"
        led=$(of_info "node$id" raft raft_leaders)
        [ "$led" -lt "$most" ] || { most=$led; dead=$id; }
    done
    for id in 1 2 3; do [ "$id" = "$dead" ] || rest+=("node$id"); done
    before=$(ticks "${rest[@]}") begun_ms=$(date +%s%3N)
    kill -9 "${pid_of[node$dead]}"
    wait "${pid_of[node$dead]}" 2>/dev/null || true
    unset "pid_of[node$dead]"
    while [ $(($(date +%s%3N) - begun_ms)) -lt 10000 ]; do
        led=$(for id in "${rest[@]}"; do of_info "$id" raft raft_leaders; done | awk '{ sum += $1 } END { print sum }')
        [ -n "$all_ms" ] || [ "$led" != "$groups" ] || all_ms=$(($(date +%s%3N) - begun_ms))
        sleep 0.25
    done
    echo "dead $run $most $(($(ticks "${rest[@]}") - before)) ${all_ms:-more than 10000}" >>"$work/cells"
}

for run in $(seq "$runs"); do
    progress "run $run of $runs"
    one_run
done
progress ""

table() {
    about "Idle groups of three" "$command"
    echo "- $groups groups in $shards shards a node, three nodes on this machine, a core each; each run founds its clusters anew"
    echo
    awk -v seconds="$seconds" -v hz="$(getconf CLK_TCK)" '
    $1 == "idle" { cpu = 100 * $4 / hz / seconds
        printf "| %s | %s | %.2f %% | %.2f | %.2f |\n", $2, $3, cpu, $5 / seconds / 2, $6 / 1024 }
    BEGIN { print "| run | node | of a core while idle | messages/s to each peer | KiB a group |\n|---|---|---:|---:|---:|" }
    ' "$work/cells"
    echo
    awk -v hz="$(getconf CLK_TCK)" '
    $1 == "dead" { printf "| %s | %s | %.1f %% | %s |\n", $2, $3, 100 * $4 / hz / 10 / 2, $5 }
    BEGIN { print "| run | groups that the killed node led | of a core, each of the others, in 10 s | ms until all are led |\n|---|---:|---:|---:|" }
    ' "$work/cells"
}
if [ -n "$out" ]; then table | tee "$out"; else table; fi
