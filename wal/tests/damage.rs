//! Torn tails and damage: what was acknowledged is never cut off, what was not may go.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::planted::{self, Planted};
use corduroy_wal::{LogId, Lsn, OwnedEntry, WalError};
use support::*;

/// Every log's entries as a reader finds them, or the error that was met first.
fn contents(disk: &MemDisk) -> Result<Vec<Vec<OwnedEntry>>, WalError> {
    let (mut wal, _) = try_open(disk, options(99))?;
    (1..=3).map(|log| read_all(&mut wal, log)).collect()
}

/// A WAL of several lives, and so of several segments, whose every frame is acknowledged.
fn many_lives(lives: u64) -> (MemDisk, Vec<Vec<OwnedEntry>>) {
    let disk = MemDisk::new(3);
    for life in 1..=lives {
        let (mut wal, _) = open(&disk, life);
        for frame in life * 2 - 1..=life * 2 {
            for log in 1..=3 {
                append(&mut wal, log, frame, 1, 1, 60 + (frame * log * 37 % 900) as usize).unwrap();
            }
            append_state(&mut wal, 1, 1, frame).unwrap();
            commit(&mut wal);
        }
    }
    let (mut wal, _) = open(&disk, lives + 1);
    let held = (1..=3).map(|log| read_all(&mut wal, log).unwrap()).collect();
    (disk, held)
}

/// A WAL of one life whose every frame is acknowledged.
fn small_wal(frames: u64) -> (MemDisk, Vec<Vec<OwnedEntry>>) {
    let disk = MemDisk::new(3);
    let (mut wal, _) = open(&disk, 1);
    for frame in 1..=frames {
        for log in 1..=3 {
            append(&mut wal, log, frame, 1, 1, 60 + (frame * log * 37 % 1500) as usize).unwrap();
        }
        append_state(&mut wal, 1, 1, frame).unwrap();
        commit(&mut wal);
    }
    let held = (1..=3).map(|log| read_all(&mut wal, log).unwrap()).collect();
    (disk, held)
}

/// Of each byte one bit, or all eight of them where `EVERY_BIT` is set, which takes minutes.
fn bits_of(at: usize) -> std::ops::Range<usize> {
    if std::env::var_os("EVERY_BIT").is_some() { 0..8 } else { at % 8..at % 8 + 1 }
}

#[test]
fn any_flipped_byte_is_refused_or_harmless() {
    let (disk, held) = many_lives(3);
    assert!(disk.slots().len() >= 3);
    let (mut refused, mut harmless) = (0, 0);
    for slot in disk.slots() {
        let bytes = disk.bytes(slot);
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let data = 4096..=used;
        for at in (0..bytes.len()).filter(|at| data.contains(at) || *at < 80 || at % 97 == 0) {
            for bit in bits_of(at) {
                disk.flip(slot, at, 1 << bit);
                match contents(&disk) {
                    Ok(found) => {
                        assert!(found == held, "{slot:?} byte {at} bit {bit}: silently different");
                        harmless += 1;
                    }
                    Err(WalError::Damaged { slot: named, .. }) => {
                        assert_eq!(named, slot, "byte {at} bit {bit}: another slot is named");
                        refused += 1;
                    }
                    Err(other) => panic!("{slot:?} byte {at} bit {bit}: {other}"),
                }
                disk.flip(slot, at, 1 << bit);
            }
        }
    }
    assert!(refused > 1000 && harmless > 1000, "{refused} refused, {harmless} harmless");
}

#[test]
fn every_prefix_of_the_last_frame_is_a_torn_tail() {
    let (disk, held) = small_wal(5);
    let before = disk.fork();
    let (mut wal, _) = open(&disk, 7);
    append(&mut wal, 1, 6, 1, 1, 9000).unwrap();
    append(&mut wal, 2, 6, 1, 1, 70).unwrap();
    commit(&mut wal);
    let after: Vec<_> = (1..=3).map(|log| read_all(&mut wal, log).unwrap()).collect();
    drop(wal);
    let slot = *disk.slots().iter().find(|slot| disk.bytes(**slot) != before.bytes(**slot)).unwrap();
    let whole = disk.bytes(slot);
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for cut in (0..=end + 1).step_by(13).chain([end, end + 1]) {
        let torn = before.fork();
        torn.overwrite(slot, 0, &whole[..cut]);
        let found = contents(&torn).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert!(found == held || found == after, "cut at {cut}: neither before nor after");
        assert!(found == after || cut <= end, "cut at {cut}");
    }
}

#[test]
fn any_subset_of_arrived_sectors_is_a_torn_tail() {
    let (disk, held) = small_wal(5);
    let before = disk.fork();
    let (mut wal, _) = open(&disk, 7);
    append(&mut wal, 1, 6, 1, 1, 3000).unwrap();
    commit(&mut wal);
    let after: Vec<_> = (1..=3).map(|log| read_all(&mut wal, log).unwrap()).collect();
    drop(wal);
    let slot = *disk.slots().iter().find(|slot| disk.bytes(**slot) != before.bytes(**slot)).unwrap();
    let whole = disk.bytes(slot);
    for arrived in 0..255usize {
        let torn = before.fork();
        torn.overwrite(slot, 0, &whole[..4096]);
        for sector in (0..8).filter(|sector| arrived >> sector & 1 == 1) {
            let at = 4096 + sector * 512;
            torn.overwrite(slot, at, &whole[at..at + 512]);
        }
        let found = contents(&torn).unwrap();
        // Without the last sectors, which are padding, nothing of the content is missing.
        assert!(found == held || (found == after && arrived & 0x3F == 0x3F), "sectors {arrived:08b}");
    }
}

#[test]
fn a_lost_sector_of_the_middle_is_damage_and_names_the_logs() {
    let (disk, _) = small_wal(5);
    let slot = *disk.slots().iter().find(|slot| disk.bytes(**slot)[0] != 0).unwrap();
    disk.overwrite(slot, 4096 + 8192, &[0; 512]);
    match contents(&disk) {
        Err(WalError::Damaged { position, slot: named, logs, .. }) => {
            assert_eq!((named, position.offset > 4096), (slot, true));
            assert!(!logs.is_empty() && logs.iter().all(|log| (1..=3).contains(&log.0)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let (disk, _) = small_wal(60);
    drop(open(&disk, 5));
    let used: Vec<_> = disk.slots().into_iter().filter(|slot| disk.bytes(*slot)[0] != 0).collect();
    assert!(used.len() >= 3);
    disk.delete(used[1]);
    assert!(matches!(contents(&disk), Err(WalError::Damaged { why, .. }) if why.contains("missing")));
}

#[test]
fn a_damaged_sealed_frame_is_found_when_it_is_read() {
    let (disk, _) = small_wal(60);
    let used: Vec<_> = disk.slots().into_iter().filter(|slot| disk.bytes(*slot)[0] != 0).collect();
    disk.flip(used[0], 4096 + 200, 1);
    let (mut wal, recovered) = open(&disk, 5);
    assert!(recovered.by_footer > 0);
    assert!(matches!(read_all(&mut wal, 1), Err(WalError::Damaged { .. })));
    let last = wal.log_state(LogId(1)).unwrap().last;
    assert!(wal.read_blocking(LogId(1), Lsn(last.0 - 1), last).is_ok(), "other places still read");
}

#[test]
fn damage_in_a_sealed_segment_is_named_by_the_record_that_it_is_in() {
    let (disk, _) = small_wal(60);
    let slot = *disk.slots().iter().find(|slot| disk.bytes(**slot)[0] != 0).unwrap();
    let bytes = disk.bytes(slot);
    let is_frame = |at: &usize| bytes[*at..].starts_with(&0xF4A3_E001_u32.to_le_bytes());
    let frames: Vec<usize> = (4096..bytes.len()).step_by(4096).filter(is_frame).collect();
    assert!(frames.len() > 4, "{frames:?}");
    // The first record of each frame is of log 1; the index knows all of them as one run.
    for frame in &frames[..4] {
        disk.flip(slot, frame + 120, 1);
        let (mut wal, recovered) = open(&disk, 5);
        assert!(recovered.by_footer > 0);
        let error = read_all(&mut wal, 1).unwrap_err();
        let WalError::Damaged { position, .. } = &error else { panic!("{error}") };
        assert_eq!(position.offset as usize, frame + 64, "{error}");
        disk.flip(slot, frame + 120, 1);
    }
}

#[test]
fn the_planted_cut_of_damage_is_noticed() {
    let (disk, held) = small_wal(5);
    let slot = *disk.slots().iter().find(|slot| disk.bytes(**slot)[0] != 0).unwrap();
    disk.flip(slot, 4096 + 8192 + 100, 1);
    assert!(contents(&disk).is_err());
    planted::plant(Some(Planted::CutAboveWatermark));
    let found = contents(&disk);
    planted::plant(None);
    assert!(found.unwrap() != held, "the bug shortens the log");
}

#[test]
fn a_bad_sector_is_the_damage_of_the_logs_in_it() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    append(&mut wal, 2, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    let slot = *disk.slots().iter().find(|slot| disk.bytes(**slot)[4096] != 0).unwrap();
    disk.fail_reads(slot, 4096);
    let error = read_all(&mut wal, 1).unwrap_err();
    assert!(matches!(&error, WalError::Damaged { logs, .. } if *logs == [LogId(1)]), "{error}");
    assert_eq!(read_all(&mut wal, 2).unwrap(), [entry(2, 1, 1, 100)]);
    disk.heal_reads();
    assert_eq!(read_all(&mut wal, 1).unwrap(), [entry(1, 1, 1, 100)]);
}
