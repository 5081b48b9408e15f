#!/usr/bin/env bash
# Fills the disk under the server: writes must get -DISKFULL and INFO must say so; reads, deletes and a restart must work;
# deleting must make room with no room at all; a neighbour that fills the disk in the middle of a flush must not end the
# process; and once there is space again, writing must go on by itself. On a small ext4 of its own. Needs root.
#
#   tests/power/diskfull.sh [PLAY...] [-- server options]
#
# Plays: space, flush, delete, neighbour; all of them unless some are named.
source "$(dirname "$0")/common.sh"
plays=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do plays+=("$1") && shift; done
[ $# = 0 ] || shift
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--shards 1 --wal-segment-bytes 16MiB)
[ "${#plays[@]}" -gt 0 ] || plays=(space flush delete neighbour)
disk=$work/disk

expect() { # what, wanted pattern, answer
    # shellcheck disable=SC2053 # a pattern is wanted
    [[ $3 == $2 ]] || fail "$1: wanted $2, got $3"
    echo "  $1: $3"
}

fill() { # seconds, seed
    "$load" --addr "$addr" -w set -c 20 -P 4 -s 8000 -r 1000000 --no-preload -d "$1" --seed "$2" --journal "$work/journal" --quiet \
        --json "$work/load.json" >"$work/load.log" 2>&1 || true
    [ -s "$work/load.json" ] || { cat "$work/load.log" >&2; fail "the load could not run"; }
    grep -q '"kind": "DISKFULL"' "$work/load.json" || fail "no write was refused with -DISKFULL in $1 s: $(df -h "$disk" | tail -n 1)"
    others=$(grep -o '"kind": "[^"]*"' "$work/load.json" | grep -v DISKFULL || true)
    [ -z "$others" ] || fail "writes were refused with something else: $others"
    [ "$(number disconnects "$work/load.json")" = 0 ] || fail "connections were closed"
    echo "  $(number answers "$work/load.json") writes acknowledged, then $(grep -A1 '"kind": "DISKFULL"' "$work/load.json" | grep -o '[0-9]*') refused"
}

# full: what holds while the disk is full.
full() {
    # What is flushed or merged meanwhile may have made some room.
    for seed in 11 12 13; do
        [[ $(ask SET another value) == +OK ]] || break
        fill 5 "$seed"
    done
    expect "a write" "-DISKFULL*" "$(ask SET another value)"
    expect "a read" "kept" "$(ask GET sentinel-2)"
    expect "the status of writes" "err" "$(info aof_last_write_status)"
    expect "the log or the state" "*1*" "$(info wal_full) $(info state_full)"
    check_journal "$work/journal"
    echo "  all acknowledged writes: $(cat "$work/verdict")"
}

# info FIELD: of INFO persistence.
info() {
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } || return 0
    printf 'INFO persistence\r\nQUIT\r\n' >&3
    sed -n "s/^$1:\\([^\\r]*\\)\\r*$/\\1/p" <&3
    exec 3>&-
}

# A write goes through within 30 s, and then neither the log nor the state finds the disk full within 30 s more.
goes_on() {
    for _ in $(seq 60); do
        answer=$(ask SET another value)
        [ "$answer" = +OK ] && break
        sleep 0.5
    done
    expect "a write" "+OK" "$answer"
    expect "its key" "value" "$(ask GET another)"
    # A write needs room in the log alone; the state finds the room when it next tries to flush.
    for _ in $(seq 60); do
        answer="$(info wal_full) $(info state_full) $(info aof_last_write_status)"
        [ "$answer" = "0 0 ok" ] && break
        sleep 0.5
    done
    expect "the log, the state, the status of writes" "0 0 ok" "$answer"
}

# stop_server: as an operator does; within 5 s.
stop_server() {
    local began=$SECONDS
    kill -TERM "$server_pid"
    wait "$server_pid" || fail "the server did not stop in order: $?"
    server_pid=""
    [ $((SECONDS - began)) -le 5 ] || fail "stopping took $((SECONDS - began)) s"
}

# new_disk MIB: an empty one. The kernel may still be closing what a process that has ended had open.
new_disk() {
    rm -f "$work/journal"
    for _ in $(seq 50); do
        [ -n "$mounted" ] || break
        if umount "$mounted" 2>/dev/null; then mounted=""; else sleep 0.1; fi
    done
    [ -z "$mounted" ] || fail "$mounted cannot be unmounted"
    mount_image "$disk" "$1"
}

begin() { # MiB of the disk, server options
    new_disk "$1"
    shift
    start_server "$disk/data" "$@"
    expect "a write while there is space" "+OK" "$(ask SET sentinel-1 kept)"
    expect "another" "+OK" "$(ask SET sentinel-2 kept)"
}

# Space comes and goes.
play_space() {
    new_disk "${DISK_MIB:-768}"
    fallocate -l "${BALLAST_MIB:-256}M" "$disk/ballast"
    start_server "$disk/data" "${options[@]}"
    expect "a write while there is space" "+OK" "$(ask SET sentinel-1 kept)"
    expect "another" "+OK" "$(ask SET sentinel-2 kept)"
    echo "filling the disk"
    fill "${FILL_S:-30}" 1
    echo "while the disk is full"
    full
    expect "a delete" ":1" "$(ask DEL sentinel-1)"
    expect "its key" "\$-1" "$(ask GET sentinel-1)"
    echo "after a restart on the full disk"
    kill_server
    start_server "$disk/data" "${options[@]}"
    # A start removes what a flush left half done, so there may be some room again; as a rule there is none.
    fill 5 2
    full
    expect "the deleted key" "\$-1" "$(ask GET sentinel-1)"
    echo "when there is space again"
    rm "$disk/ballast"
    goes_on
    check_journal "$work/journal"
    stop_server
}

# Everything is deleted: HOW, with so much memory for the state, and a neighbour that takes the last byte first.
deleted_by() { # flush or delete, server options
    local how=$1 keys
    shift
    begin "${SMALL_MIB:-200}" "${options[@]}" "$@"
    echo "filling the disk, to delete all by $how ($*)"
    fill "${FILL_S:-12}" 3
    full
    cat /dev/zero >"$disk/neighbour" 2>/dev/null || true
    expect "the room that is left" "0" "$(df --output=avail -k "$disk" | tail -n 1 | tr -d ' ')"
    expect "a write" "-DISKFULL*" "$(ask SET another value)"
    kill_server
    # A start finds nothing at all, not even what the process that ended had in hand.
    cat /dev/zero >>"$disk/neighbour" 2>/dev/null || true
    start_server "$disk/data" "${options[@]}" "$@"
    check_journal "$work/journal"
    cat /dev/zero >>"$disk/neighbour" 2>/dev/null || true
    expect "a write after a restart" "-DISKFULL*" "$(ask SET another value)"
    keys=$(ask DBSIZE)
    expect "all keys are counted" ":[1-9]*" "$keys"
    if [ "$how" = flush ]; then
        expect "FLUSHALL" "+OK" "$(ask FLUSHALL)"
    else
        delete_all
    fi
    expect "no key is left" ":0" "$(ask DBSIZE)"
    rm -f "$work/journal"
    goes_on
    kill_server
    start_server "$disk/data" "${options[@]}" "$@"
    expect "keys after a restart" ":1" "$(ask DBSIZE)"
}

# Deletes the keys of the journal, and waits for each answer.
delete_all() {
    local answers
    local prefix
    prefix=$(sed -n '1s/.* prefix=//p' "$work/journal")
    grep -a '^A ' "$work/journal" | cut -d ' ' -f 2 | sort -un | while read -r key; do printf '%s%012d\n' "$prefix" "$key"; done >"$work/keys"
    { exec 3<>"/dev/tcp/127.0.0.1/$port"; } || fail "no connection"
    { sed 's/^/DEL /' "$work/keys"; printf 'DEL sentinel-1 sentinel-2 another\r\nQUIT\r\n'; } >&3 &
    answers=$(sort <&3 | uniq -c)
    exec 3>&-
    echo "  DEL of $(wc -l <"$work/keys") keys: $(echo "$answers" | tr -d '\r' | tr '\n' ',')"
    ! grep -q -- '-' <<<"$answers" || fail "a delete was refused"
}

play_flush() {
    deleted_by flush
    stop_server
    deleted_by flush --memory-bytes 64MiB
    stop_server
}

play_delete() {
    deleted_by delete
    stop_server
    deleted_by delete --memory-bytes 32MiB
    stop_server
}

# A neighbour fills the disk at a random moment under load, again and again; the process must refuse writes and go on.
play_neighbour() {
    # The log may hold five segments beside two spares, and 40 MB of rows need as much again to be rewritten.
    begin "${NEIGHBOUR_MIB:-256}" "${options[@]}" --memory-bytes 48MiB
    echo "a neighbour fills the disk while the state is flushed"
    for round in $(seq "${ROUNDS:-14}"); do
        "$load" --addr "$addr" -w set -c 20 -P 4 -s 2000 -r 20000 --no-preload -d 4 --seed "$round" --journal "$work/journal" \
            --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
        load_pid=$!
        sleep "0.$((RANDOM % 90 + 10))"
        for _ in 1 2 3; do
            cat /dev/zero >"$disk/neighbour" 2>/dev/null || true
            sleep "0.$((RANDOM % 40 + 10))"
            rm "$disk/neighbour"
            sleep "0.$((RANDOM % 40 + 10))"
        done
        wait "$load_pid" || [ -s "$work/load.json" ] || { cat "$work/load.log" >&2; fail "the load could not run"; }
        load_pid=""
        kill -0 "$server_pid" 2>/dev/null || fail "round $round: the process has ended"
        [ "$(number disconnects "$work/load.json")" = 0 ] || fail "round $round: connections were closed"
        check_journal "$work/journal"
        [ $((round % 4)) != 0 ] || { expect "FLUSHALL" "+OK" "$(ask FLUSHALL)" && rm -f "$work/journal"; }
    done
    expect "flushes that found no room, at least" "[1-9]*" "$(($(info hand_overs_undone) + $(info hand_overs)))"
    goes_on
    kill_server
    start_server "$disk/data" "${options[@]}" --memory-bytes 48MiB
    [ ! -s "$work/journal" ] || check_journal "$work/journal"
    stop_server
}

for play in "${plays[@]}"; do
    echo "play: $play"
    "play_$play"
done
echo "OK: refused while full, served reads and deletes, made room by deleting, restarted, went on by itself"
