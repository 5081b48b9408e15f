//! The manifest: a tail that is missing is seen to be missing, whatever happened to the file that it stands in.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::SlotId;
use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::format::manifest::{Manifest, ManifestCopy};
use corduroy_wal::format::segment::{SlotRole, slot_role};
use corduroy_wal::{BatchSeq, Binding, Options, OwnedEntry, Wal, WalError};
use support::*;

const BLOCK: usize = 4096;

/// Options for a folder that must have a manifest.
fn bound(seed: u64) -> Options {
    Options { binding: Binding { may_adopt: false, ..Binding::default() }, ..options(seed) }
}

/// A log of `frames` acknowledged frames over several segments, its process gone without a word.
fn log_of(frames: u64) -> (MemDisk, MemWal) {
    let disk = MemDisk::new(3);
    Wal::create(&mut disk.device(), &bound(1)).unwrap();
    let (mut wal, _) = try_open(&disk, bound(1)).unwrap();
    for frame in 1..=frames {
        append(&mut wal, 1, frame, 1, 1, 60 + (frame * 37 % 1500) as usize).unwrap();
        commit(&mut wal);
    }
    (disk, wal)
}

fn contents(disk: &MemDisk) -> Result<Vec<OwnedEntry>, WalError> {
    let (mut wal, _) = try_open(disk, bound(99))?;
    read_all(&mut wal, 1)
}

/// The slot that was written last.
fn newest(disk: &MemDisk) -> SlotId {
    let seq = |slot: &SlotId| u64::from_le_bytes(disk.bytes(*slot)[24..32].try_into().unwrap());
    disk.slots().into_iter().max_by_key(seq).unwrap()
}

fn used_bytes(disk: &MemDisk, slot: SlotId) -> usize {
    disk.bytes(slot).iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1
}

#[test]
fn a_newest_segment_that_is_gone_or_has_no_header_is_no_empty_log() {
    for frames in [1, 3, 60] {
        let (disk, wal) = log_of(frames);
        drop(wal);
        let slot = newest(&disk);
        let file = corduroy_wal::device::folder::slot_file_name(slot);
        let header = disk.bytes(slot)[..BLOCK].to_vec();
        disk.overwrite(slot, 0, &[0; BLOCK]);
        match contents(&disk) {
            Err(WalError::Lost { file: named, why, .. }) => {
                assert!(named == file && why.contains("header"), "{named}: {why}");
            }
            other => panic!("{frames} frames: {other:?}"),
        }
        disk.overwrite(slot, 0, &header);
        assert_eq!(contents(&disk).unwrap().len() as u64, frames, "nothing was thrown away");

        let (disk, wal) = log_of(frames);
        drop(wal);
        disk.delete(newest(&disk));
        assert!(
            matches!(contents(&disk), Err(WalError::Lost { why, .. }) if why.contains("missing")),
            "{frames} frames"
        );
    }
}

#[test]
fn a_log_that_ends_before_what_its_manifest_knows_is_refused() {
    let (disk, mut wal) = log_of(60);
    wal.mark_end().unwrap();
    settle(&mut wal);
    drop(wal);
    let last = newest(&disk);
    disk.delete(last);
    // The manifest names the segment before it as the newest, which is whole to its footer, and knows as much as before.
    let bytes = disk.bytes(SlotId::MANIFEST);
    let copies = bytes.chunks_exact(BLOCK).filter_map(|block| match Manifest::decode(block) {
        ManifestCopy::Good(manifest) => Some(manifest),
        ManifestCopy::Bad | ManifestCopy::Foreign(_) => None,
    });
    let known = copies.max_by_key(|copy| copy.generation).unwrap();
    let slot = newest(&disk);
    let SlotRole::Used(header) = slot_role(&disk.bytes(slot)[..BLOCK]) else { panic!("it is a segment") };
    let manifest = Manifest { newest: header.seq, salt: header.salt, slot, ..known };
    disk.overwrite(SlotId::MANIFEST, 0, &manifest.file());
    match contents(&disk) {
        Err(WalError::Lost { why, .. }) => assert!(why.contains("is known to be durable"), "{why}"),
        other => panic!("the last segment is missing: {:?}", other.map(|held| held.len())),
    }
}

#[test]
fn a_folder_without_its_manifest_is_refused_unless_it_may_be_taken_over() {
    let (disk, wal) = log_of(5);
    drop(wal);
    let emptied = MemDisk::new(1);
    assert!(matches!(contents(&emptied), Err(WalError::Lost { .. })), "a volume that is not mounted");
    disk.delete(SlotId::MANIFEST);
    assert!(matches!(contents(&disk), Err(WalError::Lost { .. })));
    // As a release left it that wrote none.
    let (mut wal, _) = open(&disk, 2);
    assert_eq!(read_all(&mut wal, 1).unwrap().len(), 5);
    drop(wal);
    assert_eq!(contents(&disk).unwrap().len(), 5, "from then on it has one");
}

#[test]
fn frames_lost_after_an_end_mark_are_damage() {
    for lost in 1..=20 {
        let (disk, mut wal) = log_of(24);
        wal.mark_end().unwrap();
        assert!(!wal.is_end_marked(), "not before it is on the medium");
        settle(&mut wal);
        assert!(wal.is_end_marked());
        drop(wal);
        let slot = newest(&disk);
        let end = used_bytes(&disk, slot).next_multiple_of(BLOCK);
        let from = end.saturating_sub(lost * BLOCK).max(BLOCK);
        disk.overwrite(slot, from, &vec![0; end - from]);
        assert!(
            matches!(contents(&disk), Err(WalError::Damaged { .. })),
            "{lost} blocks of the end of {slot:?} zeroed"
        );
    }
}

#[test]
fn what_comes_after_a_mark_is_judged_by_itself() {
    let (disk, mut wal) = log_of(3);
    wal.mark_end().unwrap();
    settle(&mut wal);
    append(&mut wal, 1, 4, 1, 1, 100).unwrap();
    commit(&mut wal);
    drop(wal);
    let slot = newest(&disk);
    let end = used_bytes(&disk, slot).next_multiple_of(BLOCK);
    disk.overwrite(slot, end - BLOCK, &[0; BLOCK]);
    assert_eq!(contents(&disk).unwrap().len(), 3, "a crash may have cut the last frame off");
}

#[test]
fn no_frame_of_a_segment_is_acknowledged_before_the_segment_is_named() {
    let disk = MemDisk::new(3);
    let (mut wal, _) = open(&disk, 1);
    disk.set_manual(true);
    let mut events = Vec::new();
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    wal.submit().unwrap();
    assert!(disk.complete_next(), "the frame");
    wal.poll(&mut events).unwrap();
    assert_eq!(wal.durable(), BatchSeq::ZERO, "its segment has no name yet");
    assert!(disk.complete_next(), "a copy of the manifest");
    wal.poll(&mut events).unwrap();
    assert_eq!(wal.durable(), BatchSeq(1));
    disk.complete_all();
    wal.poll(&mut events).unwrap();
    disk.complete_all();
    wal.poll(&mut events).unwrap();
    append(&mut wal, 1, 2, 1, 1, 100).unwrap();
    wal.submit().unwrap();
    assert!(disk.complete_next(), "the frame");
    wal.poll(&mut events).unwrap();
    assert_eq!(wal.durable(), BatchSeq(2), "later frames of it wait for nothing");
}

#[test]
fn another_owners_folder_and_another_logs_segments_are_refused() {
    let (disk, wal) = log_of(5);
    drop(wal);
    let mut other = bound(2);
    other.binding.owner[0] = 9;
    for may_adopt in [false, true] {
        other.binding.may_adopt = may_adopt;
        match Wal::open(disk.device(), other) {
            Err(WalError::Foreign { found, expected, .. }) => {
                assert_eq!((found[0], expected[0]), (0, 9));
            }
            opened => panic!("{:?}", opened.map(|_| ())),
        }
    }
    assert!(matches!(Wal::create(&mut disk.device(), &other), Err(WalError::Foreign { .. })));
    Wal::create(&mut disk.device(), &bound(7)).unwrap();
    assert_eq!(contents(&disk).unwrap().len(), 5, "made again, it is left as it is");

    let unused = MemDisk::new(4);
    Wal::create(&mut unused.device(), &bound(7)).unwrap();
    Wal::create(&mut unused.device(), &other).unwrap();
    assert!(Wal::open(unused.device(), other).is_ok(), "a formatting that was cut short is done again");

    let second = MemDisk::new(4);
    Wal::create(&mut second.device(), &bound(77)).unwrap();
    let (mut wal, _) = try_open(&second, bound(77)).unwrap();
    append(&mut wal, 1, 1, 1, 1, 100).unwrap();
    commit(&mut wal);
    drop(wal);
    let (from, to) = (newest(&second), newest(&disk));
    disk.overwrite(to, 0, &second.bytes(from));
    assert!(contents(&disk).is_err(), "a segment of another log in the newest one's file");
}

#[test]
fn one_bad_copy_is_written_anew_and_two_are_refused() {
    let (disk, wal) = log_of(5);
    drop(wal);
    for copy in 0..2 {
        disk.flip(SlotId::MANIFEST, copy * BLOCK + 40, 1);
        assert_eq!(contents(&disk).unwrap().len(), 5);
    }
    disk.flip(SlotId::MANIFEST, 40, 1);
    disk.flip(SlotId::MANIFEST, BLOCK + 40, 1);
    assert!(matches!(contents(&disk), Err(WalError::Lost { why, .. }) if why.contains("neither copy")));
}

#[test]
fn a_segment_that_recovery_throws_away_was_not_named() {
    let disk = MemDisk::new(3);
    let small = Options { spare_segments: 1, ..options(1) };
    let (mut wal, _) = try_open(&disk, small).unwrap();
    let mut lsn = 0;
    let mut append_one = |wal: &mut MemWal| {
        lsn += 1;
        append(wal, 1, lsn, 1, 1, 1500).unwrap();
    };
    // Two frames under way at a time, and now and then one, until the second of two begins a segment.
    disk.set_manual(true);
    let mut events = Vec::new();
    let mut steps = 0..200;
    let (before, begun) = loop {
        let step = steps.next().expect("the second of two frames began a segment");
        for _ in 0..1 + u32::from(step % 5 != 0) {
            append_one(&mut wal);
            wal.submit().unwrap();
        }
        match disk.writes_under_way()[..] {
            [(before, old), (begun, new)] if step > 0 && old != new && new != SlotId::MANIFEST => {
                break (before, begun);
            }
            _ => {}
        }
        while disk.pending() > 0 {
            disk.complete_all();
            wal.poll(&mut events).unwrap();
        }
    };
    let is_naming = || disk.writes_under_way().iter().any(|(_, slot)| *slot == SlotId::MANIFEST);
    assert!(disk.complete(begun));
    wal.poll(&mut events).unwrap();
    assert!(!is_naming(), "the frame before it is still under way");
    assert!(disk.complete(before));
    wal.poll(&mut events).unwrap();
    assert!(is_naming(), "now all before it is on the medium");
}

#[test]
fn a_manifest_that_was_cut_short_says_how_it_gets_its_length_back() {
    let (disk, wal) = log_of(5);
    drop(wal);
    disk.truncate(SlotId::MANIFEST, BLOCK);
    match contents(&disk) {
        Err(WalError::Lost { why, remedy, .. }) => {
            assert!(why.contains("4096 bytes") && remedy.contains("truncate -s 8192"), "{why}: {remedy}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_later_versions_manifest_is_not_to_be_deleted() {
    let (disk, wal) = log_of(5);
    drop(wal);
    for copy in 0..2 {
        let mut block = disk.bytes(SlotId::MANIFEST)[copy * BLOCK..][..BLOCK].to_vec();
        block[8] = 9;
        let crc = crc32fast::hash(&block[8..160]).to_le_bytes();
        block[4..8].copy_from_slice(&crc);
        disk.overwrite(SlotId::MANIFEST, copy * BLOCK, &block);
    }
    match contents(&disk) {
        Err(WalError::Lost { why, remedy, .. }) => {
            assert!(why.contains("version 9") && remedy.contains("version that wrote it"), "{why}: {remedy}");
            assert!(!remedy.contains("delete"), "{remedy}");
        }
        other => panic!("{other:?}"),
    }
}
