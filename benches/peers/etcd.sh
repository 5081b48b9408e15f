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
peers=$work/peers.toml
{
    echo 'cluster = "00000000000000000000000000c0ffee"'
    echo 'secret = "a secret of this benchmark"'
    for id in 1 2 3; do
        printf '[[nodes]]\nid = %s\npeer = "127.0.0.1:%s"\nclient = "127.0.0.1:%s"\n' "$id" $((port + 10 + id)) $((port + id))
    done
} >"$peers"
for id in 1 2 3; do
    member=(--peers "$peers" --node-id "$id" --data-dir "$work/node$id" --cores "$(((id - 1) % $(nproc)))" --shards 1)
    "$corduroy" format "${member[@]}" >>"$work/node$id.log" 2>&1
    start "node$id" $((port + id)) "$all_cpus" "$corduroy" serve "${member[@]}" --listen "127.0.0.1:$((port + id))"
done
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

# cpu NAME...: the processor time that these have taken, in hundredths of a second.
cpu() {
    local sum=0 name
    for name in "$@"; do sum=$((sum + $(ticks "$name"))); done
    echo "$sum"
}

# redis_cell NAME PORT TEST PIPE CLIENTS: rate, p50 and p99 in ms.
redis_cell() {
    local rate count
    count=$((5000 * $5 * $4 / 10 + 2000))
    # As many as take about the wanted time.
    rate=$(redis-benchmark -p "$2" -t "$3" -d 64 -r 100000 -n "$count" -c "$5" -P "$4" --csv 2>/dev/null | tail -n 1 | cut -d'"' -f4)
    count=$(awk "BEGIN { printf \"%d\", ($rate * $seconds < 1000) ? 1000 : $rate * $seconds }")
    redis-benchmark -p "$2" -t "$3" -d 64 -r 100000 -n "$count" -c "$5" -P "$4" --csv 2>/dev/null | tail -n 1 |
        awk -F'","|"' '$3 + 0 <= 0 { print "no figure: " $0 > "/dev/stderr"; exit 1 } { print $3, $6, $8 }'
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
            three)
                lead=$(leader)
                before=$(cpu node1 node2 node3) before_lead=$(cpu "$lead")
                line=$(redis_cell "$lead" "${port_of[$lead]}" "$test" "$pipe" "$clients")
                after=$(cpu node1 node2 node3) after_lead=$(cpu "$lead")
                echo "cpu/$cell $run $((after_lead - before_lead)) $((after - before - after_lead + before_lead))" >>"$work/cpu"
                ;;
            alone) line=$(redis_cell alone "${port_of[alone]}" "$test" "$pipe" "$clients") ;;
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

| | -P | clients | etcd x 3 | p50 / p99 ms | one node alone | p50 / p99 ms | Corduroy x 3 | p50 / p99 ms | of etcd | of one |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
HEAD
    awk -v cells="$cells" "$awk_median"'
    { key = $1 SUBSEP $2; rate[key] = rate[key] " " $3; p50[key] = p50[key] " " $4; p99[key] = p99[key] " " $5 }
    function cell(system, name,   mid) {
        if (!((system, name) in rate)) return "- | -"
        mid = median(rate[system, name])
        return sprintf("%s ± %.0f%% | %.2f / %.2f", short(mid), spread(mid), median(p50[system, name]), median(p99[system, name]))
    }
    END {
        n = split(cells, list, " ")
        for (i = 1; i <= n; i++) {
            split(list[i], part, "/")
            peer = part[1] "/1/" part[3]
            three = median(rate["three", list[i]]); etcd = median(rate["etcd", peer]); alone = median(rate["alone", list[i]])
            printf "| %s | %s | %s | %s | %s | %s | **%.1f** | %.2f |\n", toupper(part[1]), part[2], part[3], \
                cell("etcd", list[i]), cell("alone", list[i]), cell("three", list[i]), three / etcd, three / alone
        }
    }' "$work/cells"
}
if [ -n "$out" ]; then table >"$out"; else table; fi
