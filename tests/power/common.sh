# What the scripts of this folder share: building, starting and asking a server, judging a journal. To be sourced.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The programs: PROFILE=release for optimised ones; BIN_DIR for ones that are built already.
profile=${PROFILE:-dev}
if [ -z "${BIN_DIR:-}" ]; then
    cargo build --quiet --profile "$profile" --package corduroy --bin corduroy
    cargo build --quiet --profile "$profile" --package corduroy-tools --bin corduroy-load
    BIN_DIR=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
fi
corduroy=$BIN_DIR/corduroy load=$BIN_DIR/corduroy-load

mkdir -p target
work=$PWD/$(mktemp -d -p target power.XXXXXX)
port=${PORT:-17391}
addr=127.0.0.1:$port
server_pid="" load_pid="" mounted=""

cleanup() {
    local status=$?
    for pid in $load_pid $server_pid; do
        kill -CONT "$pid" 2>/dev/null || true
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    [ -z "$mounted" ] || umount "$mounted" 2>/dev/null || umount -l "$mounted" || true
    if [ "$status" = 0 ] || [ -n "${CI:-}" ]; then
        rm -rf "$work"
    else
        echo "what was left is in $work" >&2
    fi
}
trap cleanup EXIT

fail() {
    echo "FAILED: $*" >&2
    if [ -s "$work/server.log" ]; then
        echo "the server's log ends:" >&2
        tail -n 15 "$work/server.log" >&2
    fi
    exit 1
}

# start_server DATA_DIR [OPTIONS]: starts it and waits until it answers.
start_server() {
    local data=$1
    shift
    echo "--- start" >>"$work/server.log"
    "$corduroy" serve --listen "$addr" --data-dir "$data" "$@" >>"$work/server.log" 2>&1 &
    server_pid=$!
    for _ in $(seq 600); do
        kill -0 "$server_pid" 2>/dev/null || fail "the server did not start"
        [ "$(ask PING)" = +PONG ] && return
        sleep 0.05
    done
    fail "the server was not ready after 30 s"
}

# kill_server: as abruptly as can be, and waits until it is gone.
kill_server() {
    kill -9 "$server_pid"
    wait "$server_pid" 2>/dev/null || true
    server_pid=""
}

# ask WORDS: sends one inline command, prints the first line of the answer (and the value, if it is one).
ask() {
    local reply value
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 0
    # A server that is still starting may close the connection at once.
    printf '%s\r\n' "$*" >&3 2>/dev/null || { exec 3>&-; return 0; }
    IFS= read -r -t 10 reply <&3 2>/dev/null || reply="no answer"
    reply=${reply%$'\r'}
    if [[ $reply == '$'* && $reply != '$-1' ]]; then
        IFS= read -r -t 10 value <&3 2>/dev/null || value="no value"
        reply=${value%$'\r'}
    fi
    exec 3>&-
    printf '%s\n' "$reply"
}

# let_it_run: waits until the load that was just started has something in the journal, then a random while longer.
let_it_run() {
    local before=${journal_bytes:-0}
    for _ in $(seq 600); do
        journal_bytes=$(stat -c %s "$work/journal" 2>/dev/null || echo 0)
        [ "$journal_bytes" -gt $((before + 1000)) ] && break
        kill -0 "$load_pid" 2>/dev/null || { cat "$work/load.log" >&2; fail "the load did not get under way"; }
        sleep 0.02
    done
    sleep "0.$((RANDOM % 60 + 10))"
}

# number FIELD FILE: the first number of that name in a JSON report.
number() { grep -o "\"$1\": [0-9]*" "$2" | head -n 1 | grep -o '[0-9]*$'; }

# check_journal JOURNAL: reads everything back; prints the verdict and fails if a promise was broken.
check_journal() {
    journal_bytes=$(stat -c %s "$1")
    "$load" check "$1" --addr "$addr" >"$work/verdict" || { cat "$work/verdict" >&2; fail "the journal and the server disagree"; }
}

# mount_image FOLDER MIB: an ext4 of its own in a file.
mount_image() { mount_made "$1" "$2" mkfs.ext4 -q -F; }

# mount_xfs FOLDER MIB: the same with XFS.
mount_xfs() { mount_made "$1" "$2" mkfs.xfs -q -f; }

mount_made() { # folder, MiB, what makes the file system
    [ "$(id -u)" = 0 ] || fail "mounting a file system needs root"
    truncate -s "$2M" "$work/disk.img"
    "${@:3}" "$work/disk.img"
    mkdir -p "$1"
    mount -o loop "$work/disk.img" "$1" || fail "loop mounts do not work here"
    mounted=$1
}
