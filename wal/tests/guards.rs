//! Single guards of the log, each met head-on: what the random lives of `crash.rs` meet by chance only.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::{MemDisk, WriteFault};
use corduroy_wal::device::{BLOCK_BYTES, SlotId};
use corduroy_wal::{LogId, Lsn, Options, OwnedEntry, ReadToken, Wal, WalError, WalEvent};
use support::*;

/// Slots with a segment header.
fn used(disk: &MemDisk) -> Vec<SlotId> {
    disk.slots().into_iter().filter(|slot| disk.bytes(*slot)[..BLOCK_BYTES].iter().any(|b| *b != 0)).collect()
}

#[test]
fn any_lost_frame_but_the_last_is_damage() {
    const FRAMES: u64 = 6;
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    for lsn in 1..=FRAMES {
        append(&mut wal, 1, lsn, 1, 1, 100).unwrap();
        commit(&mut wal);
    }
    drop(wal);
    let slot = used(&disk)[0];
    for frame in 1..FRAMES {
        let hurt = disk.fork();
        let offset = frame as usize * BLOCK_BYTES;
        hurt.overwrite(slot, offset, &[0; BLOCK_BYTES]);
        match try_open(&hurt, options(2)) {
            Err(WalError::Damaged { position, .. }) => assert_eq!(position.offset as usize, offset),
            other => panic!("frame {frame} of {FRAMES} was cut off: {:?}", other.map(|(_, found)| found)),
        }
    }
}

#[test]
fn no_frame_follows_in_a_segment_while_another_behind_it_is_on_its_way_out() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    drop(wal);
    let oldest = used(&disk)[0];
    // Of the next start's first frame only the segment's header arrives.
    let after = disk.fork();
    let (mut wal, _) = open(&after, 2);
    append(&mut wal, 1, 2, 1, 1, 100).unwrap();
    commit(&mut wal);
    let behind = *used(&after).iter().find(|slot| **slot != oldest).unwrap();
    let header = after.bytes(behind);
    disk.overwrite(behind, 0, &header[..BLOCK_BYTES]);
    let others = disk.slots().into_iter().filter(|slot| ![oldest, behind].contains(slot));
    others.for_each(|slot| disk.delete(slot));
    // That segment has no longer the size that is asked for, so it goes; and there is no room for another.
    disk.set_max_slots(Some(2));
    disk.set_manual(true);
    let larger = |seed| Options { segment_bytes: 128 << 10, first_segment_bytes: 128 << 10, ..options(seed) };
    let (mut wal, _) = Wal::open(disk.device(), larger(3)).unwrap();
    let batch = append(&mut wal, 1, 2, 1, 1, 200).unwrap();
    if wal.can_submit() {
        wal.submit().unwrap();
    }
    // The newest operation ends before the removal, and then the process dies.
    disk.complete(disk.pending() - 1);
    wal.poll(&mut Vec::new()).unwrap();
    let acknowledged = wal.durable() >= batch;
    drop(wal);
    disk.kill();
    disk.set_manual(false);
    let (mut wal, _) = try_open(&disk, larger(4)).unwrap();
    let held = read_all(&mut wal, 1).unwrap();
    assert_eq!(held[0], entry(1, 1, 1, 100));
    assert!(!acknowledged || held.len() == 2, "an acknowledged frame is gone: {held:?}");
    // Once it is gone, writing goes on.
    wal.retry_slots();
    settle(&mut wal);
    let next = held.len() as u64 + 1;
    append(&mut wal, 1, next, 1, 1, 300).unwrap();
    commit(&mut wal);
    let (mut wal, _) = try_open(&disk, larger(5)).unwrap();
    assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, next, 1, 300)));
}

#[test]
fn no_reader_goes_over_padding_that_never_arrived() {
    // With what heads take, a frame's content fills two sectors to the last byte: what follows it is not even a zero.
    const LEN: usize = 888;
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    for lsn in 1..=3 {
        append(&mut wal, 1, lsn, 1, 1, LEN).unwrap();
        commit(&mut wal);
    }
    drop(wal);
    // Bytes of an earlier use of the slot, where the first frame has but padding.
    let slot = used(&disk)[0];
    for sector in 2..8 {
        disk.overwrite(slot, BLOCK_BYTES + sector * 512, &[0x41; 512]);
    }
    let (mut wal, recovered) = open(&disk, 2);
    assert_eq!(recovered.scanned, 1);
    let expected: Vec<_> = (1..=3).map(|lsn| entry(1, lsn, 1, LEN)).collect();
    assert_eq!(read_all(&mut wal, 1).unwrap(), expected);
}

/// Starts reading log 1 from the disk, has `meanwhile` done before the bytes come, and returns what the read gives.
fn read_meanwhile(
    disk: &MemDisk,
    wal: &mut MemWal,
    meanwhile: impl FnOnce(&mut MemWal),
) -> Result<Vec<OwnedEntry>, WalError> {
    disk.set_manual(true);
    wal.read(ReadToken(7), LogId(1), Lsn(1), Lsn(3), usize::MAX).unwrap();
    assert_eq!(disk.pending(), 1, "the read goes to the disk");
    meanwhile(wal);
    disk.set_manual(false);
    let ended = settle(wal).into_iter().find_map(|event| match event {
        WalEvent::Read { token, result } => {
            assert_eq!(token, ReadToken(7));
            Some(result)
        }
        WalEvent::Durable(_) | WalEvent::Space(_) => None,
    });
    ended.expect("the read has ended")
}

fn log_of_three() -> (MemDisk, MemWal) {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 3, 1, 100).unwrap();
    commit(&mut wal);
    (disk, wal)
}

#[test]
fn a_read_gives_nothing_of_a_log_that_was_removed_and_made_anew() {
    let (disk, mut wal) = log_of_three();
    let found = read_meanwhile(&disk, &mut wal, |wal| {
        wal.remove(LogId(1)).unwrap();
        // The same numbers and the same term, and other bytes.
        append(wal, 1, 1, 3, 1, 50).unwrap();
    });
    let anew: Vec<_> = (1..=3).map(|lsn| entry(1, lsn, 1, 50)).collect();
    assert_eq!(found.unwrap(), anew);
}

#[test]
fn a_read_gives_nothing_that_was_replaced_meanwhile() {
    let (disk, mut wal) = log_of_three();
    let found = read_meanwhile(&disk, &mut wal, |wal| {
        append(wal, 1, 2, 2, 2, 50).unwrap();
    });
    let found = found.unwrap();
    assert_eq!(found[0], entry(1, 1, 1, 100));
    for (lsn, found) in (2..).zip(&found[1..]) {
        assert_eq!(*found, entry(1, lsn, 2, 50));
    }
}

#[test]
fn no_segment_begins_before_the_one_in_front_has_its_header_on_the_medium() {
    let disk = MemDisk::new(1);
    // More spares than a roll needs: it is the header alone that the third frame waits for.
    let options = Options { max_in_flight: 4, spare_segments: 4, ..options(1) };
    let (mut wal, _) = try_open(&disk, options).unwrap();
    disk.set_manual(true);
    for lsn in 1..=2 {
        append(&mut wal, 1, lsn, 1, 1, 20_000).unwrap();
        wal.submit().unwrap();
    }
    let before = disk.pending_writes();
    append(&mut wal, 1, 3, 1, 1, 20_000).unwrap();
    let third = wal.submit().unwrap().unwrap();
    wal.poll(&mut Vec::new()).unwrap();
    assert_eq!((disk.pending_writes(), used(&disk).len()), (before, 0), "the third frame waits");
    disk.set_manual(false);
    settle(&mut wal);
    assert!(wal.durable() >= third);
    assert_eq!(used(&disk).len(), 2);
}

#[test]
fn frames_fill_a_segment_up_to_its_footers_place_and_no_further() {
    // Of 16 blocks the header takes one and the footer two.
    const FRAMES: u64 = 13;
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    for lsn in 1..=FRAMES {
        append(&mut wal, 1, lsn, 1, 1, 100).unwrap();
        commit(&mut wal);
        assert_eq!(used(&disk).len(), 1, "frame {lsn}");
    }
    append(&mut wal, 1, FRAMES + 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    assert_eq!(used(&disk).len(), 2);
}

#[test]
fn a_whole_frame_out_of_sequence_is_damage() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    drop(wal);
    // Two ways to go on in the same segment: three frames of a block each, and one of two blocks.
    disk.set_max_slots(Some(disk.slots().len()));
    let (one, other) = (disk.fork(), disk.fork());
    let write = |disk: &MemDisk, lens: &[usize]| {
        let (mut wal, _) = open(disk, 2);
        for (lsn, len) in (2..).zip(lens) {
            append(&mut wal, 1, lsn, 1, 1, *len).unwrap();
            commit(&mut wal);
        }
    };
    write(&one, &[100, 100, 100]);
    write(&other, &[6000]);
    let slot = *used(&one).iter().find(|slot| !used(&disk).contains(slot)).unwrap();
    let third = 3 * BLOCK_BYTES;
    other.overwrite(slot, third, &one.bytes(slot)[third..third + BLOCK_BYTES]);
    match try_open(&other, options(3)) {
        Err(WalError::Damaged { position, .. }) => assert_eq!(position.offset as usize, third),
        opened => panic!("a frame was taken for another: {:?}", opened.map(|(_, found)| found)),
    }
}

#[test]
fn a_frame_that_stands_elsewhere_than_it_was_written_for_is_nothing() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    for lsn in 1..=3 {
        append(&mut wal, 1, lsn, 1, 1, 100).unwrap();
        commit(&mut wal);
    }
    drop(wal);
    let slot = used(&disk)[0];
    let first = disk.bytes(slot)[BLOCK_BYTES..2 * BLOCK_BYTES].to_vec();
    disk.overwrite(slot, 4 * BLOCK_BYTES, &first);
    let (mut wal, recovered) = open(&disk, 2);
    assert_eq!(recovered.torn_tail, None, "nothing of this use of the slot is there");
    assert_eq!(read_all(&mut wal, 1).unwrap().len(), 3);
}

#[test]
fn a_footer_of_another_time_says_nothing_of_the_segment_of_that_number() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    drop(wal);
    // The log goes on twice, in segments of the same number: once until that one has its footer, once for one frame.
    let (one, other) = (disk.fork(), disk.fork());
    let (mut wal, _) = open(&one, 2);
    for lsn in 2.. {
        append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
        commit(&mut wal);
        if used(&one).len() > 2 {
            break;
        }
    }
    drop(wal);
    let (mut wal, _) = open(&other, 3);
    append(&mut wal, 1, 2, 1, 1, 200).unwrap();
    commit(&mut wal);
    drop(wal);
    let slot = *used(&other).iter().find(|slot| !used(&disk).contains(slot)).unwrap();
    let (before, end) = (other.bytes(slot), 2 * BLOCK_BYTES);
    assert!(before[end..].iter().all(|byte| *byte == 0), "one frame behind the header");
    let left = one.bytes(slot);
    assert!(left[left.len() - BLOCK_BYTES..].iter().any(|byte| *byte != 0), "the footer is there");
    other.overwrite(slot, end, &left[end..]);
    let (mut wal, recovered) = open(&other, 4);
    assert_eq!(recovered.by_footer, 0);
    assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, 100), entry(1, 2, 1, 200)]);
}

#[test]
fn a_failed_footer_poisons() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    let mut lsn = 0;
    while used(&disk).len() < 2 {
        disk.set_manual(false);
        settle(&mut wal);
        disk.set_manual(true);
        lsn += 1;
        append(&mut wal, 1, lsn, 1, 1, 3000).unwrap();
        wal.submit().unwrap();
        disk.complete_all();
    }
    // The frame that begins the second segment has come to the medium; the first one's footer is on its way next.
    let sealed = used(&disk)[0];
    wal.poll(&mut Vec::new()).unwrap();
    let footer = disk.writes_under_way().into_iter().find(|(_, slot)| *slot == sealed);
    let (at, _) = footer.expect("the footer is under way");
    disk.fail_next_write(WriteFault::Eio);
    assert!(disk.complete(at));
    assert!(matches!(wal.poll(&mut Vec::new()), Err(WalError::Poisoned { .. })));
}
