# What the scripts of this folder share: programs, servers, their processor time, medians. To be sourced from the
# repository's root, after `runs` and `keep` are set.

# The programs: BIN_DIR for ones that are built already, OLD for an older `corduroy` that is measured in turn with it.
if [ -z "${BIN_DIR:-}" ]; then
    cargo build --release --quiet --package corduroy --bin corduroy
    cargo build --release --quiet --package corduroy-tools --bin corduroy-load
    BIN_DIR=${CARGO_TARGET_DIR:-target}/release
fi
corduroy=$BIN_DIR/corduroy load=$BIN_DIR/corduroy-load old=${OLD:-}
[ -z "$old" ] || [ -x "$old" ] || { echo "OLD=$old is not a program" >&2; exit 2; }

# Beside the sources, so that the data lie on a real disk (/tmp may be memory).
mkdir -p target
work=$PWD/$(mktemp -d -p target peers.XXXXXX)
: >"$work/cells"

need() { # tool, package
    command -v "$1" >/dev/null || { echo "$1 is missing: apt-get install $2" >&2; exit 2; }
}
need redis-cli redis-tools
need taskset util-linux
need awk mawk
[ "$(nproc)" -ge 2 ] || { echo "two CPUs are needed: one for the server, one for the load" >&2; exit 2; }

declare -A pid_of=() port_of=()
# start NAME PORT CPUS COMMAND...: starts a server on these CPUs and waits until it answers.
start() {
    local name=$1 port=$2 cpus=$3
    shift 3
    if [ -n "$(redis-cli -p "$port" ping 2>/dev/null)" ]; then
        echo "something answers on port $port already; end it, or set PORT" >&2
        exit 1
    fi
    taskset -c "$cpus" "$@" >>"$work/$name.log" 2>&1 &
    pid_of[$name]=$! port_of[$name]=$port
    for _ in $(seq 600); do
        [ "$(redis-cli -p "$port" ping 2>/dev/null)" = PONG ] && return 0
        kill -0 "${pid_of[$name]}" 2>/dev/null || break
        sleep 0.05
    done
    echo "$name did not start; its log ends:" >&2
    tail -n 20 "$work/$name.log" >&2
    exit 1
}
# start_three PORT OPTIONS...: founds a cluster and starts node1 to node3 at the ports behind PORT, on all CPUs. It has so many
# partitions and shards as the variables of these names say, else one.
start_three() {
    local port=$1 id peers=$work/peers.toml member
    shift
    {
        printf 'cluster = "00000000000000000000000000c0ffee"\nsecret = "a secret of this benchmark"\n'
        printf 'partitions = %s\nshards = %s\n' "${partitions:-1}" "${shards:-1}"
        for id in 1 2 3; do
            printf '[[nodes]]\nid = %s\npeer = "127.0.0.1:%s"\nclient = "127.0.0.1:%s"\n' "$id" $((port + 10 + id)) $((port + id))
        done
    } >"$peers"
    for id in 1 2 3; do
        member=(--peers "$peers" --node-id "$id" --data-dir "$work/node$id" --cores "$(((id - 1) % $(nproc)))")
        "$corduroy" format "${member[@]}" >>"$work/node$id.log" 2>&1
        start "node$id" $((port + id)) "0-$(($(nproc) - 1))" "$corduroy" serve "${member[@]}" --listen "127.0.0.1:$((port + id))" "$@"
    done
}
# stop_all: ends all servers and waits until they are gone.
stop_all() {
    local name
    for name in "${!pid_of[@]}"; do kill "${pid_of[$name]}" 2>/dev/null || true; done
    for name in "${!pid_of[@]}"; do wait "${pid_of[$name]}" 2>/dev/null || true; done
    pid_of=() port_of=()
}
cleanup() {
    stop_all
    if [ -n "$keep" ]; then echo "the data and the logs are in $work" >&2; else rm -rf "$work"; fi
}
trap cleanup EXIT

# ticks NAME...: the processor time that these servers have taken, in hundredths of a second; their kernel workers count.
ticks() {
    local sum=0 name stat fields
    for name in "$@"; do
        stat=$(<"/proc/${pid_of[$name]}/stat")
        read -r -a fields <<<"${stat##*) }"
        sum=$((sum + fields[11] + fields[12]))
    done
    echo "$sum"
}
# redis_benchmark NAME TEST PIPE CLIENTS OTHERS...: of about $seconds s of redis-benchmark at a server: rate, p50 and p99 in ms; and
# the processor time of a request in us, of that server and of all the others together.
redis_benchmark() {
    local name=$1 test=$2 pipe=$3 clients=$4 others=("${@:5}") rate count figures here there
    bench() {
        redis-benchmark -p "${port_of[$name]}" -t "$test" -d 64 -r 100000 -n "$1" -c "$clients" -P "$pipe" --csv 2>/dev/null | tail -n 1
    }
    # As many as take about the wanted time.
    rate=$(bench $((500 * clients * pipe + 1000)) | cut -d'"' -f4)
    count=$(awk "BEGIN { n = $rate * $seconds; printf \"%d\", n < 1000 ? 1000 : n }")
    here=$(ticks "$name") there=$(ticks "${others[@]}")
    figures=$(bench "$count" | awk -F'","|"' '
        $3 + 0 <= 0 { print "no figure: " $0 > "/dev/stderr"; exit 1 } { printf "%s %s %s", $3, $6, $8 }') || return 1
    here=$(($(ticks "$name") - here)) there=$(($(ticks "${others[@]}") - there))
    awk "BEGIN { us = 1e6 / $(getconf CLK_TCK) / $count; printf \"%s %.2f %.2f\\n\", \"$figures\", $here * us, $there * us }"
}
# wait_idle: until no server takes more than a twentieth of a CPU, so that what one still writes does not disturb the next.
wait_idle() {
    local before after
    before=$(ticks "${!pid_of[@]}")
    for _ in $(seq 120); do
        sleep 0.5
        after=$(ticks "${!pid_of[@]}")
        [ $((after - before)) -gt 2 ] || return 0
        before=$after
    done
    echo "the servers are still busy after a minute" >&2
}

# figure NAME FIELD: one figure of a server's INFO.
figure() { redis-cli -p "${port_of[$1]}" info everything | tr -d '\r' | sed -n "s/^$2://p"; }

# in_turn RUN NAME...: the names, beginning with another one in each run.
in_turn() {
    local run=$1 count
    shift
    count=$((run % $#))
    echo "${@:count+1}" "${@:1:count}"
}

# progress TEXT: one line that is written over, where a person looks on.
progress() { [ ! -t 2 ] || printf '\r\033[2K%s (%s s)' "$*" "$SECONDS" >&2; }

# about TITLE COMMAND: the head of a table: commit, command, programs, machine.
about() {
    local changed=""
    git diff --quiet HEAD 2>/dev/null || changed=", with changes"
    echo "$1"
    echo
    echo "- commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$changed, $(date -u +%Y-%m-%d); \`$2\`"
    [ -z "$old" ] || echo "- old: commit $("$old" version --build-info | sed -n 's/^commit: //p')"
    echo "- $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) CPUs, Linux $(uname -r), $(findmnt -no FSTYPE -T "$work"); load average at the end $(cut -d' ' -f1 /proc/loadavg)"
}

# For awk: `median(text)` of the numbers in a text, and `spread(median)`, half the distance between the least and the
# largest of them in percent.
awk_median='
function median(text,   list, n, i, j, x) {
    n = split(text, list, " ")
    if (n == 0) { low = high = 0; return 0 }
    for (i = 2; i <= n; i++) { x = list[i] + 0; for (j = i - 1; j >= 1 && list[j] + 0 > x; j--) list[j + 1] = list[j]; list[j + 1] = x }
    low = list[1] + 0; high = list[n] + 0
    return n % 2 ? list[(n + 1) / 2] + 0 : (list[n / 2] + list[n / 2 + 1]) / 2
}
function spread(mid) { return mid > 0 ? 50 * (high - low) / mid : 0 }
function short(rate) { return rate >= 10000 ? sprintf("%.0fk", rate / 1000) : sprintf("%.1fk", rate / 1000) }
'
