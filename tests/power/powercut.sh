#!/usr/bin/env bash
# Simulates a power cut under load, N times (default 60), on an ext4 of its own: the server is stopped, the file system
# shut down so that all that was not synced is dropped (EXT4_IOC_SHUTDOWN without flushing its journal), the server
# killed, the file system mounted again. Then everything is read back as in kill9.sh. Needs root.
#
# The server is stopped first because a sync that is under way during the shutdown can be reported as done although it
# was not.
#
#   tests/power/powercut.sh [N] [server options]
source "$(dirname "$0")/common.sh"
cycles=${1:-60}
shift || true
options=("$@")
[ "${#options[@]}" -gt 0 ] || options=(--shards 2 --wal-segment-bytes 4MiB)
disk=$work/disk
mount_image "$disk" 2000

cut_power() {
    python3 - "$disk" <<'PYTHON'
import fcntl, os, struct, sys
EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
PYTHON
}

remount() {
    for _ in $(seq 100); do
        if umount "$disk" 2>/dev/null; then
            mount -o loop "$work/disk.img" "$disk" || fail "the file system does not mount again"
            return
        fi
        sleep 0.05
    done
    fail "the file system stays busy"
}

mixes=("-w set -P 1 -c 50" "-w mset -P 4 -c 8 -s 500" "-w incr -P 8 -c 20" "-w set -P 16 -c 20 -s 4000")
acknowledged=0
for cycle in $(seq "$cycles"); do
    start_server "$disk/data" "${options[@]}"
    mix=${mixes[$((cycle % ${#mixes[@]}))]}
    # shellcheck disable=SC2086 # the mix is several words
    "$load" --addr "$addr" $mix -r 3000 -d 60 --seed "$cycle" --journal "$work/journal" --until-disconnect \
        --quiet --json "$work/load.json" >"$work/load.log" 2>&1 &
    load_pid=$!
    let_it_run
    kill -STOP "$server_pid"
    while read -r state; do [ "$state" = T ] && break; sleep 0.01; done \
        < <(while :; do awk '/^State:/ { print $2 }' "/proc/$server_pid/status"; done)
    sleep 0.05 # writes that the kernel has taken on end by themselves
    cut_power
    kill_server
    wait "$load_pid" || { cat "$work/load.log" >&2; fail "cycle $cycle: the load ended badly ($mix)"; }
    load_pid=""
    acknowledged=$((acknowledged + $(number answers "$work/load.json")))
    remount
    start_server "$disk/data" "${options[@]}"
    check_journal "$work/journal"
    kill_server
done
[ "$acknowledged" -gt 0 ] || fail "nothing was acknowledged: nothing was tested"
echo "OK: $cycles power cuts, $acknowledged requests acknowledged; the last check: $(cat "$work/verdict")"
