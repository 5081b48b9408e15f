#!/usr/bin/env bash
# Kills the server with SIGKILL while its disk is full, N times (default 20), on a small XFS of its own, and reads
# everything back after each start: no acknowledged write may be lost, no value be there that nobody wrote. An answer that
# is an error (LOADING, DISKFULL, OVERLOADED, a refused connection) is told apart from a wrong value; when a value is
# wrong, everything is kept: the data folder as it was after the kill and after the start, the journal, the logs. Needs root.
#
#   tests/power/fullkill.sh [N] [server options]
source "$(dirname "$0")/common.sh"
rounds=${1:-20}
shift || true
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--shards 1 --wal-segment-bytes 4MiB --memory-bytes 64MiB)
disk=$work/disk
mount_xfs "$disk" "${DISK_MIB:-300}"
# Full from the first second on: what is left is for the server to fill. With STEADY=0 that stays as it is: nothing but
# starts uses up what there is.
fill_up() { # MiB to leave
    local free_kib
    rm -f "$disk/ballast"
    free_kib=$(df --output=avail -k "$disk" | tail -n 1)
    [ "$free_kib" -le $(($1 * 1024)) ] || fallocate -l $((free_kib - $1 * 1024))K "$disk/ballast" 2>/dev/null || true
}
fill_up "${LEAVE_MIB:-60}"

# read_back ROUND: reads all keys of the journal back; 0 if every acknowledged value is there.
read_back() {
    for attempt in 1 2 3 4 5; do
        if "$load" check "$work/journal" --addr "$addr" --json "$work/verdict.json" >"$work/verdict" 2>&1; then
            grep -q '"lost": 0' "$work/verdict.json" && grep -q '"never_written": 0' "$work/verdict.json" && return 0
        elif [ ! -s "$work/verdict.json" ]; then
            # No verdict: an error was answered somewhere. That is not a wrong value.
            errors=$((errors + 1))
            echo "round $1, attempt $attempt: $(tail -n 1 "$work/verdict")" >>"$work/errors"
            sleep 0.5
            continue
        fi
        cat "$work/verdict" >&2
        return 1
    done
    cat "$work/verdict" >&2
    fail "round $1: the keys could not be read back"
}

# keep ROUND: sets aside all that explains a wrong answer.
keep() {
    kept=$PWD/target/fullkill.$(date +%s).$1
    mkdir -p "$kept"
    cp "$work/server.log" "$work/journal" "$work/verdict" "$work/verdict.json" "$kept/" || true
    mv "$work/before" "$kept/data.before"
    "$corduroy" --version >"$kept/version" 2>&1 || true
    # Again, to see whether the answers stay as they are, now and after one more start.
    "$load" check "$work/journal" --addr "$addr" >"$kept/verdict.again" 2>&1 || true
    kill_server
    cp -a --sparse=always "$disk/data" "$kept/data.after"
    start_server "$disk/data" "${options[@]}"
    "$load" check "$work/journal" --addr "$addr" >"$kept/verdict.restarted" 2>&1 || true
    echo "kept in $kept" >&2
}

acknowledged=0 refused=0 errors=0
start_server "$disk/data" "${options[@]}"
for round in $(seq "$rounds"); do
    workload=set
    [ $((round % 4)) != 3 ] || workload=ycsb-f
    "$load" --addr "$addr" -w "$workload" -c 16 -P 4 -s $((RANDOM % 6000 + 200)) -r 20000 --no-preload -d 60 --seed "$RANDOM$round" \
        --journal "$work/journal" --until-disconnect --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
    load_pid=$!
    # Until it is full, or a while; then a random moment longer.
    for _ in $(seq 60); do
        [[ $(ask SET probe x) == -DISKFULL* ]] && break
        sleep 0.02
    done
    sleep "0.$((RANDOM % 40 + 10))"
    # Some room comes and goes, and is made by deleting.
    case ${STEADY:-$((round % 5))} in
        1) ask FLUSHALL >/dev/null && rm -f "$work/journal" && touch "$work/flushed" ;;
        2) fill_up $((RANDOM % 24)) ;;
        3) fill_up $((RANDOM % 80 + 8)) ;;
    esac
    kill_server
    # It ends in an error where writes were refused, which is wanted.
    wait "$load_pid" || [ -s "$work/load.json" ] || { cat "$work/load.log" >&2; fail "round $round: the load could not run"; }
    load_pid=""
    acknowledged=$((acknowledged + $(number answers "$work/load.json")))
    grep -q '"kind": "DISKFULL"' "$work/load.json" && refused=$((refused + 1))
    rm -rf "$work/before"
    cp -a --sparse=always "$disk/data" "$work/before"
    rm -f "$work/verdict.json"
    start_server "$disk/data" "${options[@]}"
    if [ -f "$work/flushed" ]; then
        # The load wrote on while all was deleted: what it may find is not known, so this round judges only that it starts.
        rm -f "$work/flushed" "$work/journal"
        flushed=$(ask FLUSHALL)
        [ "$flushed" = +OK ] || echo "round $round: FLUSHALL on a full disk: $flushed" >>"$work/errors"
    elif [ -s "$work/journal" ]; then
        read_back "$round" || { keep "$round"; fail "round $round: the journal and the server disagree"; }
    fi
done
[ "$acknowledged" -gt 0 ] && [ "$refused" -gt 0 ] || fail "nothing was acknowledged, or the disk was never full: nothing was tested"
[ ! -s "$work/errors" ] || cat "$work/errors"
echo "OK: $rounds kills, $acknowledged writes acknowledged, $refused rounds full, $errors answers were errors, no value was wrong"
