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

start_three "${PORT:-17850}"

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
            echo "$way $name $(redis_benchmark "$to" "$test" "$pipe" "$clients" "$leader")" >>"$work/cells"
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
