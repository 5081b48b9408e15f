#!/usr/bin/env bash
# What a request costs that another node is asked for: three nodes, asked at the one that leads and at one that does not.
#
#   benches/forwarded.sh [--runs N] [--seconds N] [--out FILE.md] [--keep]
#
# All nodes are on this machine and share its CPUs with the load and the disk. Values have 64 bytes, keys are drawn out of
# 100,000, the load is redis-benchmark's. Cells are measured in turn. The table shows medians over the runs.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=3 seconds=3 out="" keep="" command="benches/forwarded.sh $*"
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
. benches/peers/common.sh
need redis-benchmark redis-tools

port=${PORT:-17850} peers=$work/peers.toml
{
    printf 'cluster = "00000000000000000000000000c0ffee"\nsecret = "a secret of this benchmark"\npartitions = 1\nshards = 1\n'
    for id in 1 2 3; do
        printf '[[nodes]]\nid = %s\npeer = "127.0.0.1:%s"\nclient = "127.0.0.1:%s"\n' "$id" $((port + 10 + id)) $((port + id))
    done
} >"$peers"
for id in 1 2 3; do
    member=(--peers "$peers" --node-id "$id" --data-dir "$work/node$id" --cores "$(((id - 1) % $(nproc)))")
    "$corduroy" format "${member[@]}" >>"$work/node$id.log" 2>&1
    start "node$id" $((port + id)) "0-$(($(nproc) - 1))" "$corduroy" serve "${member[@]}" --listen "127.0.0.1:$((port + id))"
done

# ask_roles: sets leader and follower to names of nodes.
ask_roles() {
    local id
    for _ in $(seq 100); do
        leader="" follower=""
        for id in 1 2 3; do
            if [ "$(figure "node$id" role)" = master ]; then leader=node$id; else follower=node$id; fi
        done
        [ -z "$leader" ] || [ "$(redis-cli -p "${port_of[$follower]}" set probe 1 2>&1)" != OK ] || return 0
        sleep 0.1
    done
    echo "no node leads" >&2
    return 1
}

# cell NAME TEST PIPE CLIENTS: rate, p50 and p99 in ms; the processor time of a request in us, of that node and of the leader.
cell() {
    local name=$1 test=$2 pipe=$3 clients=$4 rate count here there
    bench() {
        redis-benchmark -p "${port_of[$name]}" -t "$test" -d 64 -r 100000 -n "$1" -c "$clients" -P "$pipe" --csv 2>/dev/null | tail -n 1
    }
    rate=$(bench $((500 * clients * pipe + 1000)) | cut -d'"' -f4)
    count=$(awk "BEGIN { n = $rate * $seconds; printf \"%d\", n < 1000 ? 1000 : n }")
    here=$(ticks "$name") there=$(ticks "$leader")
    bench "$count" | awk -F'","|"' '
        $3 + 0 <= 0 { print "no figure: " $0 > "/dev/stderr"; exit 1 } { printf "%s %s %s ", $3, $6, $8 }'
    here=$(($(ticks "$name") - here)) there=$(($(ticks "$leader") - there))
    awk "BEGIN { us = 1e6 / $(getconf CLK_TCK) / $count; printf \"%.2f %.2f\\n\", $here * us, $there * us }"
}

cells="set/1/1 set/1/50 set/16/50 get/1/1 get/1/50 get/16/50"
for run in $(seq "$runs"); do
    for name in $cells; do
        IFS=/ read -r test pipe clients <<<"$name"
        for way in $(in_turn "$run" direct forwarded); do
            progress "run $run of $runs: $test -P $pipe -c $clients, $way"
            wait_idle
            ask_roles
            to=$leader
            [ "$way" = direct ] || to=$follower
            echo "$way $name $(cell "$to" "$test" "$pipe" "$clients")" >>"$work/cells"
        done
    done
done
progress ""

table() {
    about "Requests that another node is asked for" "$command"
    cat <<HEAD
- three nodes on this machine, which they share with the load; values of 64 bytes, $seconds s a cell; median of $runs runs
- CPU: processor time of a request, in us: of the leader, asked directly; of the node that forwards, and of the leader that it asks

| | -P | clients | direct | p50 / p99 ms | forwarded | p50 / p99 ms | of direct | CPU direct | forwards | leads |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
HEAD
    awk -v cells="$cells" "$awk_median"'
    { for (i = 3; i <= 7; i++) all[$1, $2, i] = all[$1, $2, i] " " $i }
    function of(way, name, field) { return median(all[way, name, field]) }
    function cell(way, name,   mid) {
        mid = of(way, name, 3)
        return sprintf("%s ± %.0f%% | %.2f / %.2f", short(mid), spread(mid), of(way, name, 4), of(way, name, 5))
    }
    END {
        n = split(cells, list, " ")
        for (i = 1; i <= n; i++) {
            name = list[i]
            split(name, part, "/")
            printf "| %s | %s | %s | %s | %s | **%.2f** | %.1f | %.1f | %.1f |\n", toupper(part[1]), part[2], part[3], \
                cell("direct", name), cell("forwarded", name), of("forwarded", name, 3) / of("direct", name, 3), \
                of("direct", name, 6), of("forwarded", name, 6), of("forwarded", name, 7)
        }
    }' "$work/cells"
}
if [ -n "$out" ]; then table >"$out"; else table; fi
