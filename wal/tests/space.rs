//! Room: recycling, freeing, a full disk, failed writes, and what idle logs cost and keep.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::{MemDisk, WriteFault};
use corduroy_wal::{BatchSeq, LogId, Lsn, Space, WalError, WalEvent};
use support::*;

/// Fills segments with one busy log that keeps ten entries.
fn churn(wal: &mut MemWal, from: u64, frames: u64) {
    for lsn in from..from + frames {
        append(wal, 100, lsn, 1, 1, 3000).unwrap();
        commit(wal);
        wal.release(LogId(100), Lsn(lsn.saturating_sub(10)));
    }
}

#[test]
fn segments_are_recycled_and_idle_logs_keep_their_state() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    for log in 1..=90 {
        append(&mut wal, log, 1, 3, 2, 20).unwrap();
        append_state(&mut wal, log, 2, 3).unwrap();
    }
    commit(&mut wal);
    (1..=90).for_each(|log| wal.release(LogId(log), Lsn(3)));
    churn(&mut wal, 1, 400);
    let stats = wal.stats();
    assert!(stats.rewritten_bytes > 0 && stats.live_segments <= 4, "{stats:?}");
    assert!(disk.slots().len() <= 9, "{} slots for 400 frames", disk.slots().len());
    let (wal, recovered) = open(&disk, 2);
    assert!(recovered.by_footer >= 1);
    for log in 1..=90 {
        let state = wal.log_state(LogId(log)).unwrap();
        assert_eq!((state.first, state.last, state.prev_term.0), (Lsn(4), Lsn(3), 2), "log {log}");
        assert_eq!(state.hard_state, Some(hard_state(2, 3)));
    }
}

#[test]
fn a_held_entry_keeps_its_segment() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    churn(&mut wal, 1, 100);
    assert!(wal.stats().live_segments >= 8);
    assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, 100)]);
    wal.release(LogId(1), Lsn(1));
    churn(&mut wal, 101, 60);
    assert!(wal.stats().live_segments <= 4);
}

#[test]
fn a_full_disk_is_reported_with_a_reserve_in_hand_and_passes_by_itself() {
    let disk = MemDisk::new(1);
    disk.set_max_slots(Some(4));
    let (mut wal, _) = open(&disk, 1);
    let (mut lsn, mut events) = (0, Vec::new());
    while wal.space() == Space::Ok {
        lsn += 1;
        append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
        wal.submit().unwrap();
        events.extend(settle(&mut wal));
    }
    assert!(lsn > 20 && wal.can_submit(), "the reserve takes what must be written");
    assert!(events.iter().any(|event| matches!(event, WalEvent::Space(Space::Full))));
    for term in 2..6 {
        append_state(&mut wal, 1, term, lsn).unwrap();
        commit(&mut wal);
    }
    drop(wal);
    let (mut wal, _) = open(&disk, 2);
    assert_eq!(wal.log_state(LogId(1)).unwrap().hard_state, Some(hard_state(5, lsn)));
    wal.release(LogId(1), Lsn(lsn));
    for _ in 0..8 {
        wal.submit().unwrap();
        settle(&mut wal);
    }
    assert_eq!(wal.space(), Space::Ok, "{:?}", wal.stats());
    append(&mut wal, 1, lsn + 1, 1, 5, 3000).unwrap();
    commit(&mut wal);
    let (wal, _) = open(&disk, 3);
    assert_eq!(wal.log_state(LogId(1)).unwrap().last, Lsn(lsn + 1));
}

#[test]
fn a_failed_write_poisons_for_good() {
    for fault in [WriteFault::Eio, WriteFault::FlushEio, WriteFault::Short] {
        let disk = MemDisk::new(1);
        let (mut wal, _) = open(&disk, 1);
        append(&mut wal, 1, 1, 1, 1, 100).unwrap();
        commit(&mut wal);
        disk.fail_next_write(fault);
        append(&mut wal, 1, 2, 1, 1, 100).unwrap();
        wal.submit().unwrap();
        assert!(matches!(wal.poll(&mut Vec::new()), Err(WalError::Poisoned { .. })));
        assert!(append(&mut wal, 1, 3, 1, 1, 100).is_err());
        assert!(wal.submit().is_err() && !wal.can_submit());
        assert_eq!(wal.durable(), BatchSeq(1));
        disk.crash();
        let (mut wal, _) = open(&disk, 2);
        assert_eq!(read_all(&mut wal, 1).unwrap()[0], entry(1, 1, 1, 100));
    }
}

#[test]
fn four_in_flight_complete_in_any_order_and_the_watermark_has_no_hole() {
    let disk = MemDisk::new(1);
    let options = corduroy_wal::Options { max_in_flight: 4, ..options(1) };
    let (mut wal, _) = try_open(&disk, options).unwrap();
    append_state(&mut wal, 9, 1, 0).unwrap();
    commit(&mut wal);
    disk.set_manual(true);
    for lsn in 1..=4 {
        assert!(wal.can_submit());
        append(&mut wal, 1, lsn, 1, 1, 100).unwrap();
        wal.submit().unwrap();
    }
    assert!(!wal.can_submit());
    for (at, durable) in [(3, 1), (1, 1), (0, 3), (0, 5)] {
        assert!(disk.complete(at));
        wal.poll(&mut Vec::new()).unwrap();
        assert_eq!(wal.durable(), BatchSeq(durable));
    }
    assert_eq!(wal.in_flight(), 0);
}
