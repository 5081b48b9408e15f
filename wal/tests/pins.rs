//! A slot whose bytes are still read or written is not used again, though its segment has left the log.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::SlotId;
use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::{LogId, Lsn, ReadToken, WalError, WalEvent};
use support::*;

/// Fills segments with one busy log that keeps its last entry.
fn churn(wal: &mut MemWal, from: u64, frames: u64) {
    for lsn in from..from + frames {
        append(wal, 100, lsn, 1, 1, 3000).unwrap();
        commit(wal);
        wal.release(LogId(100), Lsn(lsn - 1));
    }
}

/// One frame of log 100 at a time, which keeps its last entry, while the disk's first operation does not end.
fn churn_beside_first(
    disk: &MemDisk,
    wal: &mut MemWal,
    lsns: std::ops::Range<u64>,
    events: &mut Vec<WalEvent>,
) {
    for lsn in lsns {
        append(wal, 100, lsn, 1, 1, 3000).unwrap();
        wal.submit().unwrap();
        for _ in 0..8 {
            while disk.complete(1) {}
            wal.poll(events).unwrap();
        }
        wal.release(LogId(100), Lsn(lsn - 1));
    }
}

#[test]
fn a_slot_that_is_being_read_is_not_used_again() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    for lsn in 1..=9 {
        append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
        commit(&mut wal);
    }
    let holds = |slot: &SlotId| disk.bytes(*slot).windows(6).any(|bytes| bytes == b"1/1/1;");
    let slot = disk.slots().into_iter().find(holds).unwrap();
    churn(&mut wal, 1, 40);
    disk.set_manual(true);
    wal.read(ReadToken(7), LogId(1), Lsn(1), Lsn(9), usize::MAX).unwrap();
    assert_eq!(disk.pending(), 1, "it comes from the disk");
    wal.release(LogId(1), Lsn(9));
    let (mut events, before) = (Vec::new(), disk.bytes(slot));
    churn_beside_first(&disk, &mut wal, 41..200, &mut events);
    assert!(wal.stats().live_segments <= 4, "the log has given it up: {:?}", wal.stats());
    assert!(disk.slots().contains(&slot) && disk.bytes(slot) == before, "its bytes are still wanted");
    assert!(events.iter().all(|event| !matches!(event, WalEvent::Read { .. })));
    disk.complete_next();
    churn_beside_first(&disk, &mut wal, 200..201, &mut events);
    let read = events.into_iter().find_map(|event| match event {
        WalEvent::Read { token: ReadToken(7), result } => Some(result),
        _ => None,
    });
    // What was released meanwhile may be left out; what comes is what was written.
    match read {
        Some(Ok(entries)) => {
            assert!((1..).zip(&entries).all(|(lsn, found)| *found == entry(1, lsn, 1, 3000)))
        }
        Some(Err(WalError::OutOfRange { .. })) => {}
        other => panic!("{other:?}"),
    }
    disk.set_manual(false);
    churn(&mut wal, 201, 100);
    assert!(!disk.slots().contains(&slot) || disk.bytes(slot) != before, "now it is");
}

#[test]
fn a_slot_whose_footer_is_being_written_is_not_used_again() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    disk.set_manual(true);
    let (mut lsn, mut events) = (0, Vec::new());
    // Where no frame is on its way, what is written is a footer.
    let footer = |wal: &MemWal| {
        let mut writes = disk.writes_under_way().into_iter().filter(|(_, slot)| *slot != SlotId::MANIFEST);
        writes.next().filter(|_| wal.in_flight() == 0)
    };
    let slot = 'found: loop {
        lsn += 1;
        assert!(lsn < 100, "no segment is sealed");
        append(&mut wal, 100, lsn, 1, 1, 3000).unwrap();
        wal.submit().unwrap();
        for _ in 0..16 {
            if let Some((at, slot)) = footer(&wal) {
                (0..at).for_each(|_| _ = disk.complete_next());
                break 'found slot;
            }
            disk.complete_next();
            wal.poll(&mut events).unwrap();
        }
    };
    let before = disk.bytes(slot);
    wal.release(LogId(100), Lsn(lsn));
    churn_beside_first(&disk, &mut wal, lsn + 1..lsn + 100, &mut events);
    assert!(wal.stats().live_segments <= 4, "the log has given it up: {:?}", wal.stats());
    assert!(
        disk.slots().contains(&slot) && disk.bytes(slot) == before,
        "the footer would lie among others' frames"
    );
    disk.complete_next();
    disk.set_manual(false);
    settle(&mut wal);
    churn(&mut wal, lsn + 100, 100);
    assert!(!disk.slots().contains(&slot) || disk.bytes(slot) != before);
    let (mut wal, _) = open(&disk, 2);
    assert_eq!(read_all(&mut wal, 100).unwrap().last(), Some(&entry(100, lsn + 199, 1, 3000)));
}
