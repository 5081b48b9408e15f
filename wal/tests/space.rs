//! Room: recycling, freeing, a full disk, failed writes, and what idle logs cost and keep.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::{MemDisk, WriteFault};
use corduroy_wal::{BatchSeq, LogId, Lsn, Options, RecordHead, Space, Wal, WalError, WalEvent};
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

/// Options under which the log is long above four segments.
fn short(seed: u64) -> Options {
    Options { long_segments: 4, ..options(seed) }
}

#[test]
fn a_held_entry_is_written_again_when_the_log_is_long() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, short(1)).unwrap();
    append(&mut wal, 1, 1, 3, 1, 100).unwrap();
    append_state(&mut wal, 1, 2, 3).unwrap();
    append(&mut wal, 2, 1, 1, 1, 20_000).unwrap();
    append(&mut wal, 2, 2, 1, 1, 20_000).unwrap();
    commit(&mut wal);
    append(&mut wal, 1, 4, 3, 2, 100).unwrap();
    commit(&mut wal);
    wal.release(LogId(1), Lsn(1));
    let held: Vec<_> =
        (2..=3).map(|lsn| entry(1, lsn, 1, 100)).chain((4..=6).map(|lsn| entry(1, lsn, 2, 100))).collect();
    let mut from = 1;
    for life in 2..6 {
        churn(&mut wal, from, 400);
        from += 400;
        let stats = wal.stats();
        assert!(stats.live_segments <= 6 && disk.slots().len() <= 12, "{stats:?} {:?}", disk.slots());
        assert!(stats.rewritten_entries > 0 && stats.rewritten_bytes * 3 < stats.bytes, "{stats:?}");
        (wal, _) = try_open(&disk, short(life)).unwrap();
        assert_eq!(read_all(&mut wal, 1).unwrap(), held, "life {life}");
        assert_eq!(wal.log_state(LogId(1)).unwrap().prev_term.0, 1);
        assert_eq!(read_all(&mut wal, 2).unwrap().len(), 2);
    }
    // The log goes on where it was, over entries that lie in many places.
    append(&mut wal, 1, 5, 1, 3, 10).unwrap();
    commit(&mut wal);
    churn(&mut wal, from, 400);
    (wal, _) = try_open(&disk, short(9)).unwrap();
    let found = read_all(&mut wal, 1).unwrap();
    assert_eq!(
        found.iter().map(|entry| (entry.lsn.0, entry.term.0)).collect::<Vec<_>>(),
        [(2, 1), (3, 1), (4, 2), (5, 3)]
    );
}

#[test]
fn what_a_full_disk_holds_of_one_log_does_not_stop_the_others() {
    let disk = MemDisk::new(1);
    disk.set_max_slots(Some(6));
    let (mut wal, _) = open(&disk, 1);
    // A fourth of each frame is held for good.
    let mut refused = 0;
    for lsn in 1..=400 {
        if lsn <= 30 {
            append(&mut wal, 1, lsn, 1, 1, 900).unwrap();
        }
        if wal.space() == Space::Ok {
            append(&mut wal, 100, lsn - refused, 1, 1, 2500).unwrap();
            commit(&mut wal);
            wal.release(LogId(100), Lsn(lsn - refused));
        } else {
            refused += 1;
            commit(&mut wal);
        }
    }
    assert!(refused < 100, "{refused} of 400 refused: {:?}", wal.stats());
    let expected: Vec<_> = (1..=30).map(|lsn| entry(1, lsn, 1, 900)).collect();
    assert_eq!(read_all(&mut wal, 1).unwrap(), expected);
    let (mut wal, _) = open(&disk, 2);
    assert_eq!(read_all(&mut wal, 1).unwrap(), expected);
}

#[test]
fn a_log_full_of_what_is_held_is_left_as_it_is() {
    let disk = MemDisk::new(1);
    disk.set_max_slots(Some(5));
    let (mut wal, _) = try_open(&disk, short(1)).unwrap();
    let mut lsn = 0;
    while wal.space() == Space::Ok {
        lsn += 1;
        append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
        commit(&mut wal);
    }
    let before = wal.stats();
    for _ in 0..100 {
        commit(&mut wal);
    }
    assert_eq!(wal.stats().bytes, before.bytes, "nothing is won by writing it again");
}

#[test]
fn an_entry_that_cannot_be_read_is_kept_and_counted() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = try_open(&disk, short(1)).unwrap();
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    let slot = *disk.slots().iter().find(|slot| disk.bytes(**slot).iter().any(|byte| *byte != 0)).unwrap();
    disk.flip(slot, 4096 + 150, 1);
    churn(&mut wal, 1, 200);
    let stats = wal.stats();
    assert!(stats.rewrite_errors > 0 && stats.rewrite_errors < 100 && stats.live_segments > 10, "{stats:?}");
    assert!(matches!(read_all(&mut wal, 1), Err(WalError::Damaged { .. })));
    disk.flip(slot, 4096 + 150, 1);
    churn(&mut wal, 201, 100);
    assert!(wal.stats().live_segments <= 6, "{:?}", wal.stats());
    assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, 100)]);
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

/// A log of many segments on a disk that has no room left, with nineteen idle logs in the oldest one. Returns the last
/// entry of log 1.
fn fill(disk: &MemDisk, options: Options) -> u64 {
    let (mut wal, _) = try_open(disk, options).unwrap();
    for log in 2..=20 {
        append_state(&mut wal, log, 7, 0).unwrap();
    }
    commit(&mut wal);
    let mut lsn = 0;
    while wal.space() == Space::Ok {
        lsn += 1;
        append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
        commit(&mut wal);
    }
    lsn
}

/// What was released makes room, and writing goes on.
fn empties(disk: &MemDisk, options: Options, lsn: u64, term: u64) {
    let (mut wal, _) = try_open(disk, options).unwrap();
    wal.release(LogId(1), Lsn(lsn));
    for _ in 0..8 {
        wal.submit().unwrap();
        settle(&mut wal);
    }
    assert_eq!(wal.space(), Space::Ok, "{:?}", wal.stats());
    let frames = 2 * u64::from(options.segment_bytes) / 4096;
    for next in 1..=frames {
        append(&mut wal, 1, lsn + next, 1, term, 3000).unwrap();
        commit(&mut wal);
        wal.release(LogId(1), Lsn(lsn + next - 1));
    }
    let (mut wal, _) = try_open(disk, Options { seed: 1000, ..options }).unwrap();
    assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, lsn + frames, term, 3000)));
    for log in 2..=20 {
        assert_eq!(wal.log_state(LogId(log)).unwrap().hard_state, Some(hard_state(7, 0)), "log {log}");
    }
}

#[test]
fn a_full_disk_is_left_after_any_number_of_restarts() {
    let disk = MemDisk::new(1);
    disk.set_max_slots(Some(4));
    let lsn = fill(&disk, options(1));
    let mut term = 0;
    for life in 2..30 {
        // The first start takes the reserve; the others have none, and go on in the same segment up to its middle.
        let (mut wal, _) = open(&disk, life);
        assert_eq!(wal.log_state(LogId(1)).unwrap().hard_state.map_or(0, |state| state.term.get()), term);
        assert!(wal.can_submit(), "start {life} has nowhere to write: {:?}", wal.stats());
        let batch = append_state(&mut wal, 1, life, lsn).unwrap();
        wal.submit().unwrap();
        settle(&mut wal);
        if wal.durable() >= batch {
            term = life;
        }
    }
    assert!((6..12).contains(&term), "{term} starts of 28 could write into half a segment of 13 frames");
    assert_eq!(disk.slots().len(), 4);
    empties(&disk, options(30), lsn, 30);
}

#[test]
fn a_log_at_its_limit_takes_the_state_of_any_number_of_starts() {
    let disk = MemDisk::new(1);
    let options = |seed| Options { max_segments: 4, ..options(seed) };
    let lsn = fill(&disk, options(1));
    assert_eq!(disk.slots().len(), 4);
    for life in 2..60 {
        let (mut wal, _) = try_open(&disk, options(life)).unwrap();
        let batch = append_state(&mut wal, 1, life, lsn).unwrap();
        wal.submit().unwrap();
        settle(&mut wal);
        assert!(wal.durable() >= batch, "start {life}: {:?}", wal.stats());
        // What is copied meanwhile frees a segment, and fills as much of another.
        (0..4).for_each(|_| drop(settle(&mut wal)));
        assert!(wal.in_flight() == 0 && wal.space() == Space::Full, "start {life}: {:?}", wal.stats());
    }
    // Each segment of 13 frames beyond the limit takes several starts.
    assert!((5..16).contains(&disk.slots().len()), "{:?}", disk.slots());
    empties(&disk, options(60), lsn, 60);
    assert!(disk.slots().len() <= 6, "{:?}", disk.slots());
}

/// Submits a hard state of log 1 in a frame of several blocks.
fn submit_large(wal: &mut MemWal, term: u64, lsn: u64) {
    let conf = [term as u8; 9000];
    let head = RecordHead { log: LogId(1), hard_state: Some(hard_state(term, lsn)), conf: Some(&conf) };
    append_owned(wal, head, &[]).unwrap();
    wal.submit().unwrap();
}

#[test]
fn a_full_disk_is_left_after_power_cuts_in_the_middle_of_frames() {
    let mut torn = 0;
    for seed in 0..60 {
        let disk = MemDisk::new(seed);
        disk.set_max_slots(Some(4));
        let options =
            |seed| Options { segment_bytes: 256 << 10, first_segment_bytes: 256 << 10, ..options(seed) };
        let lsn = fill(&disk, options(1));
        let mut acknowledged = 0;
        for life in 2..6 {
            let (mut wal, recovered) = try_open(&disk, options(life)).unwrap();
            torn += u32::from(recovered.torn_tail.is_some());
            let found = wal.log_state(LogId(1)).unwrap().hard_state.map_or(0, |state| state.term.get());
            let may_be = acknowledged..=acknowledged + 2;
            assert!(may_be.contains(&found), "seed {seed}: {found} of {may_be:?} in life {life}");
            // As large as the frame that may be torn at this place: what lies behind it would fit.
            submit_large(&mut wal, life * 10, lsn);
            settle(&mut wal);
            assert_eq!(wal.in_flight(), 0);
            acknowledged = life * 10;
            disk.set_manual(true);
            if life % 2 == 0 {
                submit_large(&mut wal, life * 10 + 1, lsn);
                append_state(&mut wal, 1, life * 10 + 2, lsn).unwrap();
                wal.submit().unwrap();
                assert_eq!(wal.in_flight(), 2);
            }
            drop(wal);
            disk.crash();
            if seed % 3 == 0 {
                // Power fails again while the next start is at work on what the last one left.
                let (mut wal, _) = Wal::open(disk.device(), options(life)).unwrap();
                wal.poll(&mut Vec::new()).unwrap();
                drop(wal);
                disk.crash();
            }
            disk.set_manual(false);
        }
        empties(&disk, options(6), lsn, 100);
    }
    assert!(torn > 40, "only {torn} starts found a torn tail");
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

#[test]
fn on_a_full_disk_no_copying_is_begun_that_would_not_come_to_its_end() {
    // An entry of each log is in the way; those of many logs take more frames than there is room for.
    for (logs, is_copied) in [(40, true), (140, true), (180, false), (400, false)] {
        let disk = MemDisk::new(1);
        disk.set_max_slots(Some(6));
        let (mut wal, _) = open(&disk, 1);
        for log in 1001..=1000 + logs {
            append(&mut wal, log, 1, 1, 1, 20).unwrap();
        }
        commit(&mut wal);
        let mut lsn = 0;
        while wal.space() == Space::Ok && lsn < 200 {
            lsn += 1;
            append(&mut wal, 100, lsn, 1, 1, 3000).unwrap();
            commit(&mut wal);
            wal.release(LogId(100), Lsn(lsn));
        }
        assert_eq!(wal.space(), Space::Full, "{logs} logs hold the oldest segment");
        for _ in 0..100 {
            commit(&mut wal);
        }
        let stats = wal.stats();
        assert_eq!(
            (stats.rewritten_entries > 0, wal.space() == Space::Ok),
            (is_copied, is_copied),
            "{stats:?}"
        );
        // Either way, states can be written.
        for term in 2..8 {
            append_state(&mut wal, 1001, term, 1).unwrap();
            commit(&mut wal);
        }
        let (mut wal, _) = open(&disk, 2);
        for log in 1001..=1000 + logs {
            assert_eq!(read_all(&mut wal, log).unwrap(), [entry(log, 1, 1, 20)]);
        }
    }
}

#[test]
fn copying_on_a_full_disk_leaves_half_a_segment_to_states() {
    for (held, is_copied) in [(10, true), (13, false)] {
        let disk = MemDisk::new(1);
        disk.set_max_slots(Some(6));
        let (mut wal, _) = open(&disk, 1);
        for lsn in 1..=held {
            append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
            commit(&mut wal);
        }
        let mut lsn = 0;
        while wal.space() == Space::Ok {
            lsn += 1;
            append(&mut wal, 100, lsn, 1, 1, 3000).unwrap();
            commit(&mut wal);
            wal.release(LogId(100), Lsn(lsn));
        }
        for _ in 0..100 {
            commit(&mut wal);
        }
        let stats = wal.stats();
        assert_eq!(stats.rewritten_entries, if is_copied { held } else { 0 }, "{stats:?}");
        assert_eq!(wal.space() == Space::Ok, is_copied);
    }
}
