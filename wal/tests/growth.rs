//! The sizes of slots: small at first, doubled by each segment that is filled, and never too small for a record.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::{Fit, LogId, Lsn, Options, SegmentSeq, Space};
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
        assert_eq!(wal.full_segments_from(SegmentSeq::ZERO), life.div_ceil(8));
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

/// A full disk whose oldest segment is a large one that holds one long entry of log 1, with small ones behind it.
/// `large` such slots are made before the disk is full.
fn with_a_long_entry(disk: &MemDisk, large: usize) -> MemWal {
    let options = Options { segment_bytes: 1 << 20, first_segment_bytes: 256 << 10, ..options(1) };
    let (mut wal, _) = try_open(disk, options).unwrap();
    assert_eq!(disk.slots().len(), 2);
    disk.set_max_slots(Some(2 + large));
    assert_eq!(wal.fit(LONG), Fit::Coming);
    settle(&mut wal);
    append(&mut wal, 1, 1, 1, 1, LONG).unwrap();
    commit(&mut wal);
    fill_and_release(&mut wal);
    wal
}

/// Bytes of an entry that no slot of 256 KiB takes, and two together do.
const LONG: usize = 255_000;

#[test]
fn an_entry_that_no_small_slot_takes_is_not_copied_where_there_is_no_other() {
    let disk = MemDisk::new(1);
    let mut wal = with_a_long_entry(&disk, 1);
    for term in 2..8 {
        // A copy would wait for a slot that takes it, and all other frames behind it.
        commit(&mut wal);
        assert!(wal.can_submit(), "{:?}", wal.stats());
        append_state(&mut wal, 3, term, 0).unwrap();
        commit(&mut wal);
    }
    assert_eq!((wal.stats().rewritten_entries, wal.space()), (0, Space::Full));
    assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, LONG)]);
    wal.release(LogId(1), Lsn(1));
    (0..4).for_each(|_| commit(&mut wal));
    assert_eq!(wal.space(), Space::Ok);
}

#[test]
fn it_is_copied_where_a_spare_takes_it() {
    let disk = MemDisk::new(1);
    let mut wal = with_a_long_entry(&disk, 2);
    // Once: the spare that is left then is a small one.
    assert_eq!((wal.stats().rewritten_entries, wal.space()), (1, Space::Full), "{:?}", wal.stats());
    assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, LONG)]);
}

#[test]
fn what_small_slots_have_room_for_is_counted_by_their_own_sizes() {
    // An entry of each log is in the way; those of many logs take more frames than small slots have room for, and a large
    // one would have.
    for (logs, is_copied) in [(40, true), (400, false)] {
        let disk = MemDisk::new(1);
        let options = Options { spare_segments: 6, ..growing(1) };
        let (mut wal, _) = try_open(&disk, options).unwrap();
        disk.set_max_slots(Some(6));
        for log in 1001..=1000 + logs {
            append(&mut wal, log, 1, 1, 1, 20).unwrap();
        }
        commit(&mut wal);
        let lsn = fill_and_release(&mut wal);
        assert_eq!((wal.space(), sizes(&disk)), (Space::Full, vec![FIRST; 6]), "{logs} logs, {lsn} entries");
        (0..100).for_each(|_| commit(&mut wal));
        let stats = wal.stats();
        assert_eq!(
            (stats.rewritten_entries > 0, wal.space() == Space::Ok),
            (is_copied, is_copied),
            "{stats:?}"
        );
    }
}

/// Writes and releases entries of log 2 until there is no more room.
fn fill_and_release(wal: &mut MemWal) -> u64 {
    let mut lsn = 0;
    while wal.space() == Space::Ok {
        lsn += 1;
        append(wal, 2, lsn, 1, 1, 3000).unwrap();
        commit(wal);
        wal.release(LogId(2), Lsn(lsn));
    }
    lsn
}
