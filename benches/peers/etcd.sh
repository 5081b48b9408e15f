#!/usr/bin/env bash
# Three nodes of Corduroy beside three of etcd, and beside one node of Corduroy alone: durable writes and linearizable reads.
#
#   benches/peers/etcd.sh [--runs N] [--seconds N] [--quick] [--out FILE.md] [--keep]
#
# All nodes are on this machine and share all its CPUs with the load and the disk; every node syncs what it acknowledges.
# Values have 64 bytes, keys are drawn out of 100,000. etcd is loaded through its own client library by a small program of this folder
# (etcd_load.go; at each width with as many connections as suit it best of 1, 10 and one a client), Corduroy by
# redis-benchmark, sent to the leader. Cells are measured in turn, another one first in each run. The table shows medians over
# the runs; ± is half the distance between the least and the most. Ends in about 6 minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

runs=5 seconds=4 out="" keep="" command="benches/peers/etcd.sh $*"
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --quick) runs=1 seconds=2 ;;
    --out) out=$2; shift ;;
    --keep) keep=1 ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
. benches/peers/common.sh
need redis-benchmark redis-tools
need etcd etcd-server
need etcdctl etcd-client
need go golang-go
[ -d /usr/share/gocode/src/go.etcd.io/etcd/clientv3 ] || { echo "etcd's client library is missing: apt-get install golang-etcd-server-dev" >&2; exit 2; }
GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$work/go-cache go build -o "$work/etcd_load" benches/peers/etcd_load.go

port=${PORT:-17800}
all_cpus=0-$(($(nproc) - 1))

# --- three nodes of Corduroy, and one alone
start_three "$port" --redirect always
start alone "$port" "$all_cpus" "$corduroy" serve --data-dir "$work/alone" --listen "127.0.0.1:$port" --cores 0 --shards 1

# leader: the name of the node that leads.
leader() {
    local id
    for _ in $(seq 100); do
        for id in 1 2 3; do
            if redis-cli -p $((port + id)) set probe 1 2>/dev/null | grep -q OK; then
                echo "node$id"
                return 0
            fi
        done
        sleep 0.1
    done
    echo "no node leads" >&2
    return 1
}

# --- three nodes of etcd
cluster="" endpoints=""
for id in 1 2 3; do
    cluster+=${cluster:+,}etcd$id=http://127.0.0.1:$((port + 30 + id))
    endpoints+=${endpoints:+,}127.0.0.1:$((port + 20 + id))
done
for id in 1 2 3; do
    client=http://127.0.0.1:$((port + 20 + id)) peer=http://127.0.0.1:$((port + 30 + id))
    etcd --name "etcd$id" --data-dir "$work/etcd$id" --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "$cluster" \
        --snapshot-count 1000000 --quota-backend-bytes 8000000000 --log-outputs stderr >>"$work/etcd$id.log" 2>&1 &
    pid_of[etcd$id]=$!
done
export ETCDCTL_API=3
for _ in $(seq 100); do
    etcdctl --endpoints "$endpoints" endpoint health >/dev/null 2>&1 && break
    sleep 0.2
done

# redis_cell NAME TEST PIPE CLIENTS: rate, p50 and p99 in ms; and the processor time of a request in us, here and on each other node.
redis_cell() {
    local others=() id line rate p50 p99 here there
    [ "$1" = alone ] || for id in 1 2 3; do [ "$1" = "node$id" ] || others+=("node$id"); done
    line=$(redis_benchmark "$@" "${others[@]}") || return 1
    read -r rate p50 p99 here there <<<"$line"
    echo "$rate $p50 $p99 $here $(awk "BEGIN { printf \"%.2f\", $there / 2 }")"
}

# etcd_cell CLIENTS FLAGS...: the same of etcd, with the number of connections that is best for it.
etcd_cell() {
    local clients=$1 best="0 0 0" line conns
    shift
    for conns in 1 10 "$clients"; do
        [ "$conns" -le "$clients" ] || continue
        line=$("$work/etcd_load" -endpoints "$endpoints" -clients "$clients" -conns "$conns" -seconds "$seconds" "$@")
        best=$(printf '%s\n%s\n' "$best" "$line" | sort -g | tail -n 1)
    done
    echo "$best"
}

cells="set/1/1 set/1/50 set/16/50 get/1/50 get/16/50"
for run in $(seq "$runs"); do
    for cell in $cells; do
        IFS=/ read -r test pipe clients <<<"$cell"
        for system in $(in_turn "$run" three alone etcd); do
            progress "run $run of $runs: $test -P $pipe -c $clients, $system"
            wait_idle
            case $system in
            three) line=$(redis_cell "$(leader)" "$test" "$pipe" "$clients") ;;
            alone) line=$(redis_cell alone "$test" "$pipe" "$clients") ;;
            etcd)
                [ "$pipe" = 1 ] || continue # its clients do not pipeline
                flags=(); [ "$test" = set ] || flags=(-get)
                line=$(etcd_cell "$clients" "${flags[@]}")
                ;;
            esac
            echo "$system $cell $line" >>"$work/cells"
        done
    done
done
progress ""

table() {
    about "Three nodes beside etcd" "$command"
    cat <<HEAD
- $(etcd --version | head -n 1); three nodes each, all on this machine, which they share with the load; values of 64 bytes, $seconds s a cell; median of $runs runs
- of etcd: the rate divided by etcd's at as many clients (for pipelines of 16: by its rate without); of one: by that of one node alone
- CPU: processor time of a request, in us: of the node that is alone; of the leader, and of each follower

| | -P | clients | etcd x 3 | p50 / p99 ms | one node alone | p50 / p99 ms | Corduroy x 3 | p50 / p99 ms | of etcd | of one | CPU alone | leader | follower |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
HEAD
    awk -v cells="$cells" "$awk_median"'
    {
        key = $1 SUBSEP $2
        for (i = 3; i <= 7; i++) all[key, i] = all[key, i] " " $i
    }
    function of(who, name, field) { return median(all[who, name, field]) }
    function cell(who, name,   mid) {
        if (!((who, name, 3) in all)) return "- | -"
        mid = of(who, name, 3)
        return sprintf("%s ± %.0f%% | %.2f / %.2f", short(mid), spread(mid), of(who, name, 4), of(who, name, 5))
    }
    END {
        n = split(cells, list, " ")
        for (i = 1; i <= n; i++) {
            name = list[i]
            split(name, part, "/")
            peer = part[1] "/1/" part[3]
            three = of("three", name, 3)
            printf "| %s | %s | %s | %s | %s | %s | **%.1f** | %.2f | %.1f | %.1f | %.1f |\n", toupper(part[1]), part[2], part[3], \
                cell("etcd", name), cell("alone", name), cell("three", name), three / of("etcd", peer, 3), three / of("alone", name, 3), \
                of("alone", name, 6), of("three", name, 6), of("three", name, 7)
        }
    }' "$work/cells"
}
if [ -n "$out" ]; then table >"$out"; else table; fi
