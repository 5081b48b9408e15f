#!/usr/bin/env bash
# Fills the disk under the server: writes must get -DISKFULL; reads, deletes and a restart must work; and once there is
# space again, writing must go on by itself. On a small ext4 of its own. Needs root.
#
#   tests/power/diskfull.sh [server options]
source "$(dirname "$0")/common.sh"
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--shards 1 --wal-segment-bytes 16MiB)
disk=$work/disk
mount_image "$disk" "${DISK_MIB:-768}"
fallocate -l "${BALLAST_MIB:-256}M" "$disk/ballast"

expect() { # what, wanted pattern, answer
    # shellcheck disable=SC2053 # a pattern is wanted
    [[ $3 == $2 ]] || fail "$1: wanted $2, got $3"
    echo "  $1: $3"
}

start_server "$disk/data" "${options[@]}"
expect "a write while there is space" "+OK" "$(ask SET sentinel-1 kept)"
expect "another" "+OK" "$(ask SET sentinel-2 kept)"

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
echo "filling the disk"
fill "${FILL_S:-30}" 1

full() {
    expect "a write" "-DISKFULL*" "$(ask SET another value)"
    expect "a read" "kept" "$(ask GET sentinel-2)"
    check_journal "$work/journal"
    echo "  all acknowledged writes: $(cat "$work/verdict")"
}
echo "while the disk is full"
full
expect "a delete" ":1" "$(ask DEL sentinel-1)"
expect "its key" "\$-1" "$(ask GET sentinel-1)"

echo "after a restart on the full disk"
kill_server
start_server "$disk/data" "${options[@]}"
# A start removes what a hand-over left half done, so there may be some room again; as a rule there is none.
fill 5 2
full
expect "the deleted key" "\$-1" "$(ask GET sentinel-1)"

echo "when there is space again"
rm "$disk/ballast"
for _ in $(seq 60); do
    answer=$(ask SET another value)
    [ "$answer" = +OK ] && break
    sleep 0.5
done
expect "a write" "+OK" "$answer"
expect "its key" "value" "$(ask GET another)"
check_journal "$work/journal"
echo "OK: refused while full, served reads and deletes, restarted, went on by itself"
