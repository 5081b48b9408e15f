//! The sizes of slots: small at first, doubled by each segment that is filled, and never too small for a record.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::{Fit, LogId, Lsn, Options, Space};
use support::*;

const FIRST: usize = 64 << 10;
const FULL: usize = 1 << 20;

/// A log that begins with slots of 64 KiB.
fn growing(seed: u64) -> Options {
    Options { segment_bytes: 1 << 20, first_segment_bytes: 64 << 10, ..options(seed) }
}

fn full_from_the_start(seed: u64) -> Options {
    Options { first_segment_bytes: 1 << 20, ..growing(seed) }
}

/// The sizes of all slots, in ascending order.
fn sizes(disk: &MemDisk) -> Vec<usize> {
    let mut sizes: Vec<_> = disk.slots().into_iter().map(|slot| disk.bytes(slot).len()).collect();
    sizes.sort_unstable();
    sizes
}

/// Writes entries of log 1 until the disk's slots are as wanted; returns the last one.
fn write_until(
    disk: &MemDisk,
    wal: &mut MemWal,
    mut lsn: u64,
    release: bool,
    wanted: impl Fn(&[usize]) -> bool,
) -> u64 {
    while !wanted(&sizes(disk)) {
        lsn += 1;
        assert!(lsn < 4000, "the slots stay as they are: {:?}", sizes(disk));
        append(wal, 1, lsn, 1, 1, 3000).unwrap();
        commit(wal);
        if release {
            wal.release(LogId(1), Lsn(lsn - 1));
        }
    }
    lsn
}

#[test]
fn slots_are_small_at_first_and_each_full_segment_doubles_the_next() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, growing(1)).unwrap();
    assert_eq!(sizes(&disk), [FIRST, FIRST], "an empty log");
    let lsn = write_until(&disk, &mut wal, 0, false, |sizes| sizes.contains(&FULL));
    for doubled in [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, FULL] {
        let count = sizes(&disk).into_iter().filter(|size| *size == doubled).count();
        assert!((1..=3).contains(&count), "{count} slots of {doubled} bytes: {:?}", sizes(&disk));
    }
    let (mut wal, recovered) = try_open(&disk, growing(2)).unwrap();
    assert!(recovered.by_footer >= 5, "{recovered:?}");
    assert_eq!(read_all(&mut wal, 1).unwrap().len() as u64, lsn);
    // Small slots go as they become free, and none comes back.
    let lsn = write_until(&disk, &mut wal, lsn, true, |sizes| sizes.iter().all(|size| *size == FULL));
    assert!(sizes(&disk).len() <= 6, "{:?}", sizes(&disk));
    drop(wal);
    let (mut wal, _) = try_open(&disk, growing(3)).unwrap();
    assert!(sizes(&disk).iter().all(|size| *size == FULL), "{:?}", sizes(&disk));
    assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, lsn, 1, 3000)));
}

#[test]
fn starts_alone_do_not_make_slots_grow_and_small_segments_count_little() {
    let disk = MemDisk::new(1);
    for life in 1..=20 {
        let (mut wal, _) = try_open(&disk, growing(life)).unwrap();
        append(&mut wal, 1, life, 1, 1, 100).unwrap();
        commit(&mut wal);
        let stats = wal.stats();
        assert_eq!((stats.live_segments, stats.live_bytes), (life, life * FIRST as u64));
        // A file counts as an eighth of a full segment at least.
        assert_eq!(stats.live_full_segments, life.div_ceil(8));
    }
    assert!(sizes(&disk).iter().all(|size| *size == FIRST));
}

#[test]
fn a_record_that_no_slot_takes_has_one_made() {
    for asks in [true, false] {
        let disk = MemDisk::new(1);
        let (mut wal, _) = try_open(&disk, growing(1)).unwrap();
        append(&mut wal, 1, 1, 1, 1, 100).unwrap();
        commit(&mut wal);
        let longest = wal.record_limit_bytes() - 200;
        if asks {
            assert_eq!(wal.fit(wal.ready_record_bytes()), Fit::Ready);
            assert_eq!((wal.fit(longest), wal.has_room(longest)), (Fit::Coming, false));
            settle(&mut wal);
            assert_eq!((wal.fit(longest), wal.has_room(longest)), (Fit::Ready, true));
        }
        // What follows in the same turn stays behind it.
        append(&mut wal, 1, 2, 1, 1, longest).unwrap();
        append(&mut wal, 2, 1, 1, 1, 100).unwrap();
        commit(&mut wal);
        assert!(sizes(&disk).contains(&(FULL / 2)), "{:?}", sizes(&disk));
        let (mut wal, _) = try_open(&disk, growing(2)).unwrap();
        assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, 100), entry(1, 2, 1, longest)]);
        assert_eq!(read_all(&mut wal, 2).unwrap(), [entry(2, 1, 1, 100)]);
    }
}

#[test]
fn the_longest_ready_record_needs_no_other_slot_and_one_byte_more_does() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, growing(1)).unwrap();
    let ready = wal.ready_record_bytes();
    assert!(ready < FIRST && ready > FIRST / 2);
    assert_eq!(wal.fit(ready), Fit::Ready);
    assert_eq!(sizes(&disk), [FIRST, FIRST]);
    assert_eq!(wal.fit(ready + 1), Fit::Coming);
    settle(&mut wal);
    assert_eq!(sizes(&disk), [FIRST, FIRST, 2 * FIRST]);
}

#[test]
fn a_disk_without_room_for_a_larger_slot_takes_what_fits() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, growing(1)).unwrap();
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    disk.set_max_slots(Some(disk.slots().len()));
    assert_eq!(wal.fit(300_000), Fit::Coming);
    settle(&mut wal);
    assert_eq!((wal.fit(300_000), wal.fit(30_000), wal.space()), (Fit::Lacking, Fit::Ready, Space::Ok));
    append(&mut wal, 1, 2, 1, 1, 30_000).unwrap();
    commit(&mut wal);
    // One that was appended nevertheless waits, and what is behind it; nothing of it is there before there is room.
    let batch = append(&mut wal, 1, 3, 1, 1, 300_000).unwrap();
    append_state(&mut wal, 2, 5, 0).unwrap();
    wal.submit().unwrap();
    settle(&mut wal);
    assert!(wal.durable() < batch && wal.is_waiting_for_room() && wal.space() == Space::Full);
    let cut = disk.fork();
    let (mut other, _) = try_open(&cut, growing(2)).unwrap();
    assert_eq!(read_all(&mut other, 1).unwrap(), [entry(1, 1, 1, 100), entry(1, 2, 1, 30_000)]);
    disk.set_max_slots(None);
    wal.retry_slots();
    settle(&mut wal);
    assert!(wal.in_flight() == 0 && wal.space() == Space::Ok);
    let (mut wal, _) = try_open(&disk, growing(3)).unwrap();
    assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, 3, 1, 300_000)));
    assert_eq!(wal.log_state(LogId(2)).unwrap().hard_state, Some(hard_state(5, 0)));
}

#[test]
fn a_full_disk_reuses_the_small_slots_that_it_has() {
    let disk = MemDisk::new(1);
    disk.set_max_slots(Some(6));
    let (mut wal, _) = try_open(&disk, growing(1)).unwrap();
    let mut lsn = 0;
    for round in 1..=30 {
        while wal.space() == Space::Ok && lsn < round * 300 {
            lsn += 1;
            append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
            commit(&mut wal);
        }
        wal.release(LogId(1), Lsn(lsn));
        for _ in 0..8 {
            wal.submit().unwrap();
            settle(&mut wal);
        }
        assert_eq!(wal.space(), Space::Ok, "round {round}: {:?} {:?}", wal.stats(), sizes(&disk));
    }
    let (wal, _) = try_open(&disk, growing(2)).unwrap();
    assert_eq!(wal.log_state(LogId(1)).unwrap().last, Lsn(lsn));
}

#[test]
fn a_folder_of_full_slots_stays_as_it_is() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, full_from_the_start(1)).unwrap();
    assert_eq!(sizes(&disk), [FULL, FULL]);
    append(&mut wal, 1, 1, 1, 1, 400_000).unwrap();
    commit(&mut wal);
    drop(wal);
    let before = disk.slots();
    let (mut wal, _) = try_open(&disk, growing(2)).unwrap();
    assert_eq!(disk.slots(), before);
    append(&mut wal, 1, 2, 1, 1, 400_000).unwrap();
    commit(&mut wal);
    assert!(sizes(&disk).iter().all(|size| *size == FULL), "{:?}", sizes(&disk));
    assert_eq!(read_all(&mut wal, 1).unwrap().len(), 2);
}

#[test]
fn a_log_with_a_limit_has_full_slots_only() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, growing(1)).unwrap();
    let lsn = write_until(&disk, &mut wal, 0, false, |sizes| sizes.contains(&(4 * FIRST)));
    drop(wal);
    let limited = |seed| Options { max_segments: 12, ..growing(seed) };
    let (mut wal, _) = try_open(&disk, limited(2)).unwrap();
    assert_eq!(sizes(&disk).iter().filter(|size| **size == FULL).count(), 2, "{:?}", sizes(&disk));
    assert_eq!(read_all(&mut wal, 1).unwrap().len() as u64, lsn);
    let lsn = write_until(&disk, &mut wal, lsn, true, |sizes| sizes.iter().all(|size| *size == FULL));
    let (mut wal, _) = try_open(&disk, limited(3)).unwrap();
    assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, lsn, 1, 3000)));
}

#[test]
fn a_log_of_other_sizes_is_read_and_left_behind() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, full_from_the_start(1)).unwrap();
    append(&mut wal, 1, 1, 1, 1, 400_000).unwrap();
    commit(&mut wal);
    drop(wal);
    // Smaller than what is there: what holds the log stays until it is free, the spare goes.
    let smaller = |seed| Options { segment_bytes: 256 << 10, ..growing(seed) };
    let (mut wal, _) = try_open(&disk, smaller(2)).unwrap();
    assert_eq!(sizes(&disk), [FIRST, FIRST, FULL]);
    assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, 400_000)]);
    wal.release(LogId(1), Lsn(1));
    let lsn = write_until(&disk, &mut wal, 1, true, |sizes| !sizes.contains(&FULL));
    let (mut wal, _) = try_open(&disk, smaller(3)).unwrap();
    assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, lsn, 1, 3000)));
}
