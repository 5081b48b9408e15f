//! The log's ordinary life: append, durable, read, overwrite, release, remove, reopen.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::{LogId, Lsn, ReadToken, RecordHead, Term, WalError, WalEvent};
use support::*;

#[test]
fn what_was_appended_is_durable_readable_and_there_after_reopening() {
    let disk = MemDisk::new(1);
    let (mut wal, recovered) = open(&disk, 1);
    assert_eq!((recovered.scanned, recovered.torn_tail), (0, None));
    let head =
        RecordHead { log: LogId(7), hard_state: Some(hard_state(2, 1)), conf: Some(b"voters: 1".as_slice()) };
    let entries: Vec<_> = (1..=20).map(|lsn| entry(7, lsn, 2, 100)).collect();
    let batch = append_owned(&mut wal, head, &entries).unwrap();
    assert_eq!(wal.submit().unwrap(), Some(batch));
    let events = settle(&mut wal);
    assert!(events.iter().any(|event| matches!(event, WalEvent::Durable(seq) if *seq == batch)));

    for round in 2..5 {
        assert_eq!(wal.logs(), [LogId(7)]);
        let state = wal.log_state(LogId(7)).unwrap();
        assert_eq!((state.first, state.last, state.prev_term), (Lsn(1), Lsn(20), Term(0)));
        assert_eq!(state.hard_state, Some(hard_state(2, 1)));
        assert_eq!(state.conf.as_deref(), Some(b"voters: 1".as_slice()));
        assert_eq!(read_all(&mut wal, 7).unwrap(), entries);
        assert_eq!(wal.term(LogId(7), Lsn(20)), Some(Term(2)));
        assert_eq!(wal.term(LogId(7), Lsn(0)), Some(Term(0)));
        assert_eq!(wal.term(LogId(7), Lsn(21)), None);
        drop(wal);
        (wal, _) = open(&disk, round);
    }
}

#[test]
fn an_asynchronous_read_serves_memory_and_disk_and_honours_its_limits() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    for lsn in 1..=50 {
        append(&mut wal, 1, lsn, 1, 1, 700).unwrap();
        append(&mut wal, 2, lsn, 1, 1, 900).unwrap();
        commit(&mut wal);
    }
    disk.set_manual(true);
    append(&mut wal, 1, 51, 5, 1, 700).unwrap();
    wal.submit().unwrap();
    append(&mut wal, 1, 56, 5, 1, 700).unwrap();
    wal.read(ReadToken(1), LogId(1), Lsn(10), Lsn(100), usize::MAX).unwrap();
    wal.read(ReadToken(2), LogId(1), Lsn(52), Lsn(59), usize::MAX).unwrap();
    wal.read(ReadToken(3), LogId(1), Lsn(1), Lsn(50), 1500).unwrap();
    wal.read(ReadToken(4), LogId(1), Lsn(1), Lsn(50), 0).unwrap();
    assert!(matches!(
        wal.read(ReadToken(5), LogId(1), Lsn(61), Lsn(70), 1),
        Err(WalError::OutOfRange { last: Lsn(60), .. })
    ));
    let mut found = std::collections::BTreeMap::new();
    for _ in 0..50 {
        // Reads only: the frame in flight stays there.
        (1..disk.pending()).for_each(|_| assert!(disk.complete(1)));
        let mut events = Vec::new();
        wal.poll(&mut events).unwrap();
        for event in events {
            if let WalEvent::Read { token, result } = event {
                found.insert(token.0, result.unwrap());
            }
        }
    }
    let expected = |from: u64, to: u64| (from..=to).map(|lsn| entry(1, lsn, 1, 700)).collect::<Vec<_>>();
    assert_eq!(found[&1], expected(10, 60));
    assert_eq!(found[&2], expected(52, 59));
    assert_eq!(found[&3], expected(1, 2));
    assert_eq!(found[&4], expected(1, 1));
    assert_eq!(wal.in_flight(), 1);
}

#[test]
fn a_suffix_is_replaced_in_the_batch_in_flight_and_on_disk() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 10, 1, 50).unwrap();
    commit(&mut wal);
    append(&mut wal, 1, 6, 10, 2, 50).unwrap();
    append(&mut wal, 1, 9, 3, 3, 50).unwrap();
    append(&mut wal, 1, 12, 2, 3, 50).unwrap();
    let expected: Vec<_> = (1..=13)
        .map(|lsn| entry(1, lsn, [1, 2, 3][usize::from(lsn > 5) + usize::from(lsn > 8)], 50))
        .collect();
    assert_eq!(read_all(&mut wal, 1).unwrap(), expected, "from the open batch");
    wal.submit().unwrap();
    assert_eq!(read_all(&mut wal, 1).unwrap(), expected, "from the frame in flight");
    settle(&mut wal);
    assert_eq!(read_all(&mut wal, 1).unwrap(), expected, "from the disk");
    assert_eq!(wal.term(LogId(1), Lsn(8)), Some(Term(2)));
    let (mut wal, _) = open(&disk, 2);
    assert_eq!(read_all(&mut wal, 1).unwrap(), expected, "after reopening");
}

#[test]
fn bad_appends_are_refused_and_change_nothing() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 5, 3, 10).unwrap();
    for (first, count, term) in [(7, 1, 3), (6, 1, 2), (0, 1, 3)] {
        assert!(matches!(append(&mut wal, 1, first, count, term, 10), Err(WalError::BadAppend { .. })));
    }
    let limit = wal.record_limit_bytes();
    assert!(matches!(append(&mut wal, 2, 1, 1, 1, limit), Err(WalError::TooLarge { log: LogId(2), .. })));
    assert!(append(&mut wal, 2, 2, 1, 1, 10).is_err());
    assert_eq!(wal.logs(), [LogId(1)]);
    wal.release(LogId(1), Lsn(3));
    assert!(append(&mut wal, 1, 3, 1, 3, 10).is_err(), "a released entry is not replaced");
    commit(&mut wal);
    assert_eq!(wal.log_state(LogId(1)).unwrap().last, Lsn(5));
}

#[test]
fn a_record_of_the_largest_size_works() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    let len = wal.record_limit_bytes() - 64;
    for lsn in 1..=7 {
        append(&mut wal, 1, lsn, 1, 1, len).unwrap();
        append(&mut wal, 2, lsn, 1, 1, len).unwrap();
        commit(&mut wal);
    }
    assert!(append(&mut wal, 1, 8, 1, 1, len + 1).is_err());
    let (mut wal, _) = open(&disk, 2);
    for log in [1, 2] {
        let expected: Vec<_> = (1..=7).map(|lsn| entry(log, lsn, 1, len)).collect();
        assert_eq!(read_all(&mut wal, log).unwrap(), expected);
    }
}

#[test]
fn a_removed_log_stays_removed_and_may_come_back() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 10, 1, 50).unwrap();
    append(&mut wal, 2, 1, 10, 1, 50).unwrap();
    commit(&mut wal);
    append(&mut wal, 1, 11, 1, 1, 50).unwrap();
    wal.remove(LogId(1)).unwrap();
    wal.remove(LogId(2)).unwrap();
    append(&mut wal, 2, 1, 2, 9, 50).unwrap();
    commit(&mut wal);
    for round in 2..4 {
        assert_eq!(wal.logs(), [LogId(2)]);
        assert_eq!(read_all(&mut wal, 2).unwrap(), [entry(2, 1, 9, 50), entry(2, 2, 9, 50)]);
        drop(wal);
        (wal, _) = open(&disk, round);
    }
}

#[test]
fn a_reset_log_starts_behind_a_snapshot() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 10, 1, 50).unwrap();
    append_state(&mut wal, 1, 4, 3).unwrap();
    commit(&mut wal);
    append(&mut wal, 1, 11, 3, 1, 50).unwrap();
    let head = RecordHead { log: LogId(1), ..RecordHead::default() };
    wal.reset(head, Lsn(300), Term(4)).unwrap();
    let state = wal.log_state(LogId(1)).unwrap();
    assert_eq!((state.hard_state, state.conf), (Some(hard_state(4, 3)), None), "what is not said stays");
    let head = RecordHead { hard_state: Some(hard_state(5, 500)), conf: Some(b"members"), ..head };
    wal.reset(head, Lsn(500), Term(4)).unwrap();
    append(&mut wal, 1, 501, 2, 4, 50).unwrap();
    commit(&mut wal);
    for round in 2..4 {
        let state = wal.log_state(LogId(1)).unwrap();
        assert_eq!((state.first, state.last, state.prev_term), (Lsn(501), Lsn(502), Term(4)));
        let said = (Some(hard_state(5, 500)), Some(b"members".to_vec()));
        assert_eq!((state.hard_state, state.conf), said);
        assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 501, 4, 50), entry(1, 502, 4, 50)]);
        drop(wal);
        (wal, _) = open(&disk, round);
    }
}
