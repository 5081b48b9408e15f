# What the scripts share that run several nodes: their networks, starting and asking them, who leads. To be sourced behind
# common.sh; options has the words that each node is formatted and started with.
export PATH=$PATH:/usr/sbin:/sbin
# What waits this long for something to happen gives up; no figure, since a machine may be busy.
patience_ms=60000

declare -A pids networks
pid_list() { server_pid="${pids[*]} ${networks[*]}"; }

# make_network NAME: a process that keeps a network of its own.
make_network() {
    unshare -n sleep infinity &
    networks[$1]=$!
    pid_list
    for _ in $(seq 200); do
        [ "$(readlink "/proc/${networks[$1]}/ns/net")" != "$(readlink /proc/self/ns/net)" ] && return
        sleep 0.01
    done
    return 1
}

# set_enter NAME: sets enter to the words that run a program there. To be put before a program that runs in the background, so that
# its number is the program's.
set_enter() {
    enter=(env)
    [ -z "${networks[$1]:-}" ] || enter=(nsenter -t "${networks[$1]}" -n)
}

# in_network NAME WORDS: runs a program there.
in_network() {
    local enter
    set_enter "$1"
    "${enter[@]}" "${@:2}"
}

# make_networks ID...: those of the nodes, on a switch, which has a network of its own as well.
make_networks() {
    make_network switch
    in_network switch ip link add bridge type bridge
    in_network switch ip link set bridge up
    local id
    for id in "$@"; do
        make_network "$id"
        in_network switch ip link add "node$id" type veth peer name peers netns "${networks[$id]}"
        in_network switch ip link set "node$id" master bridge up
        in_network "$id" ip addr add "10.77.0.$id/24" dev peers
        in_network "$id" ip link set peers up
        in_network "$id" ip link set lo up
    done
}

# The host that other nodes connect to; join_networks ID...: gives each node a network of its own if that is possible here.
peer_host() { echo 127.0.0.1; }
join_networks() {
    [ "$(id -u)" = 0 ] && unshare -n ip link add bridge type bridge 2>/dev/null || return 1
    make_networks "$@"
    peer_host() { echo "10.77.0.$1"; }
}

# Clients reach a node on the loopback device of its network.
client_port() { echo $((port + $1)); }

# describe ID...: the description of a cluster of these founders; of the one that cluster_id names, if it names one.
describe() {
    echo "cluster = \"${cluster_id:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}\""
    echo "secret = \"$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')\""
    echo "shards = 1"
    local id
    for id in "$@"; do describe_node "$id"; done
}

# describe_node ID
describe_node() {
    printf '[[nodes]]\nid = %s\npeer = "%s:%s"\nclient = "127.0.0.1:%s"\n' \
        "$1" "$(peer_host "$1")" $((port + 10 + $1)) "$(client_port "$1")"
}

# set_launcher ID: sets launcher to the words that run its server.
set_launcher() { launcher=(env); }

# serve_node ID WORDS: runs its server with these words.
serve_node() {
    set_enter "$1"
    set_launcher "$1"
    "${enter[@]}" "${launcher[@]}" "$corduroy" serve "${@:2}" --data-dir "$work/node$1" "${options[@]}" >>"$work/server.log" 2>&1 &
    pids[$1]=$!
    pid_list
}

# start_node ID [DESCRIPTION]
start_node() { serve_node "$1" --peers "${2:-$work/peers.toml}" --node-id "$1"; }

# start_alone ID: as a node that is alone and keeps its log without Raft; waits until it answers.
start_alone() {
    serve_node "$1" --listen "127.0.0.1:$(client_port "$1")" --shards 1 --replication off
    for _ in $(seq 600); do
        [ "$(ask_node "$1" PING)" = +PONG ] && return
        sleep 0.05
    done
    fail "node $1 was not ready after 30 s"
}

# format_node ID [DESCRIPTION]
format_node() {
    "$corduroy" format --peers "${2:-$work/peers.toml}" --node-id "$1" --data-dir "$work/node$1" "${options[@]}" >/dev/null
}

# end_node ID SIGNAL: sends it that, and waits until it has ended.
end_node() {
    kill "-$2" "${pids[$1]}"
    wait "${pids[$1]}" 2>/dev/null || true
    unset "pids[$1]"
    pid_list
}
kill_node() { end_node "$1" KILL; }
# stop_node ID: asks it to end.
stop_node() { end_node "$1" TERM; }

# ask_node ID WORDS
ask_node() {
    # shellcheck disable=SC2016 # the inner shell is to expand it
    in_network "$1" bash -c "$(declare -f ask)"'; port=$0; ask "$@"' "$(client_port "$1")" "${@:2}"
}

# ask_leading ID WORDS: the same, of a node that is to answer only if it leads: whoever has asked for the map is redirected.
ask_leading() {
    # shellcheck disable=SC2016 # the inner shell is to expand it
    in_network "$1" bash -c '{ exec 3<>"/dev/tcp/127.0.0.1/$0"; } 2>/dev/null || exit 0
        printf "CLUSTER NODES\r\nPING\r\n%s\r\n" "$*" >&3 2>/dev/null || exit 0
        while IFS= read -r -t 10 line <&3; do [ "${line%?}" = "+PONG" ] && break; done
        IFS= read -r -t 10 line <&3 && echo "${line%?}"' "$(client_port "$1")" "${@:2}" 2>/dev/null || true
}

now_ms() { date +%s%3N; }

# probe ID: counts up on a node until that is acknowledged, and notes by which node, to what, and when.
probe() {
    local reply begun
    begun=$(now_ms)
    while [ $(($(now_ms) - begun)) -lt "$patience_ms" ]; do
        reply=$(ask_leading "$1" INCR takeovers)
        if [[ $reply == :* ]]; then
            echo "$1 ${reply#:} $(now_ms)" >"$work/probe.$1.new"
            mv "$work/probe.$1.new" "$work/probe.$1"
            return
        fi
        sleep 0.02
    done
}

# find_leader [EXCEPT]: sets leader to the node that acknowledges a write, count to what it counted to, took_ms to how long that
# took.
find_leader() {
    local begun id probes=() found=""
    begun=$(now_ms)
    rm -f "$work"/probe.*
    for id in "${!pids[@]}"; do
        [ "$id" = "${1:-}" ] && continue
        probe "$id" &
        probes+=($!)
    done
    while [ -z "$found" ] && [ $(($(now_ms) - begun)) -lt "$patience_ms" ]; do
        found=$(find "$work" -name 'probe.[0-9]' | head -n 1)
        [ -n "$found" ] || sleep 0.01
    done
    kill "${probes[@]}" 2>/dev/null || true
    wait "${probes[@]}" 2>/dev/null || true
    [ -n "$found" ] || fail "nobody leads"
    local at_ms
    read -r leader count at_ms <"$found"
    took_ms=$((at_ms - begun))
}

# info ID SECTION: a section of INFO; nothing of a node that does not answer.
info() {
    # shellcheck disable=SC2016 # the inner shell is to expand it
    in_network "$1" bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "INFO %s\r\n" "$1" >&3 &&
        IFS= read -r -t 5 size <&3 && LC_ALL=C IFS= read -r -t 5 -N "${size//[!0-9]/}" text <&3 && printf "%s" "$text"' \
        "$(client_port "$1")" "$2" 2>/dev/null | tr -d '\r' || true
}

# offset_of ID: how far it has applied.
offset_of() { info "$1" replication | sed -n 's/^master_repl_offset://p'; }

# await_part ID: waits until it leads or hears who does. Until it has met all others it takes no part, and the others can do
# without none.
await_part() {
    local begun reply
    begun=$(now_ms)
    while [ $(($(now_ms) - begun)) -lt "$patience_ms" ]; do
        reply=$(ask_node "$1" GET takeovers)
        [[ $reply == -MOVED* || $reply =~ ^[0-9]+$ ]] && return
        sleep 0.05
    done
    fail "node $1 takes no part: $reply"
}

# found_three: founds nodes 1 to 3 and starts them, and waits until each takes part.
found_three() {
    describe 1 2 3 >"$work/peers.toml"
    local id
    for id in 1 2 3; do
        format_node "$id"
        start_node "$id"
    done
    find_leader
    for id in 1 2 3; do await_part "$id"; done
}

# await_level: waits until all nodes that run have applied as much.
await_level() {
    local begun id all
    begun=$(now_ms)
    while [ $(($(now_ms) - begun)) -lt "$patience_ms" ]; do
        all=$(for id in "${!pids[@]}"; do echo "$(offset_of "$id") "; done | sort -u)
        [[ $all =~ ^[0-9]+\ $ ]] && return
        sleep 0.05
    done
    fail "${kind:-}: the nodes do not catch up: they have applied $(for id in "${!pids[@]}"; do echo "$id: $(offset_of "$id")"; done)"
}

