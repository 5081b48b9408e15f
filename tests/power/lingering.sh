#!/usr/bin/env bash
# Kills the server while a write of its log hangs in the kernel, and starts it again at once: the write outlives the
# process, so the start must wait for it. What was read before it arrives would not be what the disk holds.
#
#   tests/power/lingering.sh
source "$(dirname "$0")/common.sh"
group=/sys/fs/cgroup/blkio/corduroy-lingering.$$
if ! mkdir "$group" 2>/dev/null || [ ! -e "$group/blkio.throttle.write_bps_device" ]; then
    rmdir "$group" 2>/dev/null || true
    echo "SKIPPED: there is no blkio cgroup here to slow a disk down with"
    exit 0
fi
trap 'cleanup; rmdir "$group" 2>/dev/null || true' EXIT
mount_image "$work/disk" 256
start_server "$work/disk/data" --shards 1 --wal-segment-bytes 4MiB
[ "$(ask SET before 1)" = +OK ] || fail "the server does not write"
sync -f "$work/disk"

# 60 KB at 8 KiB a second: some seconds under way.
device=$(lsblk -no MAJ:MIN "$(findmnt -no SOURCE "$work/disk")" | tr -d ' ')
echo "$device 8192" >"$group/blkio.throttle.write_bps_device"
echo "$server_pid" >"$group/cgroup.procs"
value=$(head -c 60000 /dev/zero | tr '\0' x)
ask SET during "$value" >"$work/answer" &
asked=$!
sleep 1
kill_server
wait "$asked" || true
grep -q OK "$work/answer" && fail "the write was answered: it did not hang"

start_server "$work/disk/data" --shards 1 --wal-segment-bytes 4MiB
[ "$(ask GET before)" = 1 ] || fail "an acknowledged write is gone"
[ "$(ask STRLEN during)" = :60000 ] || fail "the log was read before the write under way had arrived"
kill_server
echo "OK: a start waits for what a killed server has under way"
