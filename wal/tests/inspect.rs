//! What the offline reader finds in a folder written by the real log: everything in a sound one, and each planted
//! fault in its place.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{file, scratch};
use corduroy_wal::device::folder::slot_file_name;
use corduroy_wal::device::mapped::MappedFolder;
use corduroy_wal::device::{DiskDevice, SlotId};
use corduroy_wal::inspect::{Inspection, Passing, inspect};
use corduroy_wal::{EntryKind, EntryRef, HardState, LogId, Lsn, Options, RecordHead, SegmentSeq, Term, Wal};

const SEGMENT_BYTES: u32 = 64 << 10;
const FRAMES: u64 = 40;
const LOGS: u64 = 3;

/// One entry of every log a frame, and a hard state of the first: several segments.
fn write_log(path: &Path) -> Wal<DiskDevice> {
    let options = Options { segment_bytes: SEGMENT_BYTES, seed: 7, ..Options::default() };
    let (mut wal, _) = Wal::open(file(path).unwrap(), options).unwrap();
    let data = vec![0x5a; 1000];
    let mut events = Vec::new();
    for lsn in 1..=FRAMES {
        while !wal.can_submit() {
            wal.device_mut().wait(Duration::from_secs(5)).unwrap();
            wal.poll(&mut events).unwrap();
        }
        for log in 1..=LOGS {
            let state = HardState { term: Term(1), vote: 1, commit: Lsn(lsn - 1) };
            let head = RecordHead {
                log: LogId(log),
                hard_state: (log == 1).then_some(state),
                ..RecordHead::default()
            };
            let entry = EntryRef { lsn: Lsn(lsn), term: Term(1), kind: EntryKind::Normal, data: &data };
            wal.append(head, std::iter::once(entry)).unwrap();
        }
        let batch = wal.submit().unwrap().expect("records were appended");
        while wal.durable() < batch {
            wal.device_mut().wait(Duration::from_secs(5)).unwrap();
            wal.poll(&mut events).unwrap();
        }
    }
    wal
}

/// Waits until footers are written and spares made, then closes.
fn stop(mut wal: Wal<DiskDevice>) {
    let mut events = Vec::new();
    for _ in 0..20 {
        wal.device_mut().wait(Duration::from_millis(5)).unwrap();
        wal.poll(&mut events).unwrap();
    }
}

fn read(path: &Path) -> Inspection {
    inspect(&MappedFolder::open(path).unwrap(), &mut |_| {}).unwrap()
}

fn slot_path(path: &Path, slot: SlotId) -> PathBuf {
    path.join(slot_file_name(slot))
}

fn flip(path: &Path, slot: SlotId, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(slot_path(path, slot)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn a_sound_log_is_read_whole() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    stop(write_log(dir.path()));
    let (mut frames, mut records, mut entries) = (0, 0, 0);
    let folder = MappedFolder::open(dir.path()).unwrap();
    let found = inspect(&folder, &mut |passing| match passing {
        Passing::Frame(head, bytes) => {
            frames += 1;
            assert_eq!(head.batch.get(), frames);
            assert_eq!(bytes % 4096, 0);
        }
        Passing::Record(view, _, terms) => {
            records += 1;
            entries += u64::from(view.meta.count);
            let read: Vec<u64> = view.entries().map(|entry| entry.unwrap().lsn.get()).collect();
            assert_eq!(read, (view.meta.first.get()..=view.meta.last.get()).collect::<Vec<_>>());
            assert_eq!(terms, Some((Term(1), Term(1))));
        }
        Passing::Segment(..) => {}
        Passing::Fault(fault) => panic!("{fault:?}"),
    })
    .unwrap();
    assert_eq!((frames, records, entries), (FRAMES, FRAMES * LOGS, FRAMES * LOGS));
    assert!(found.faults.is_empty() && found.torn_tail.is_none(), "{found:?}");
    assert!(found.segments.len() >= 3, "{found:?}");
    let live: u64 = found.segments.iter().map(|segment| segment.live_entries).sum();
    assert_eq!(live, FRAMES * LOGS);
    assert!(found.segments.iter().rev().skip(1).all(|segment| segment.footer), "{found:?}");
    assert_eq!(found.logs.len() as u64, LOGS);
    for (log, state) in &found.logs {
        assert_eq!((state.first, state.last), (Lsn(1), Lsn(FRAMES)));
        assert_eq!(state.hard_state.map(|s| s.commit), (log.get() == 1).then_some(Lsn(FRAMES - 1)));
    }
}

#[test]
fn a_damaged_record_is_placed_and_what_follows_is_still_read() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    stop(write_log(dir.path()));
    let sound = read(dir.path());
    let segment = &sound.segments[1];
    // Inside the entry of the first record of the segment's second frame: head and log ids stay readable.
    let mut offsets = Vec::new();
    let folder = MappedFolder::open(dir.path()).unwrap();
    let mut current = SegmentSeq::ZERO;
    inspect(&folder, &mut |passing| match passing {
        Passing::Segment(_, header) => current = header.seq,
        Passing::Frame(head, bytes) if current == segment.seq => offsets.push((head.offset, bytes)),
        _ => {}
    })
    .unwrap();
    drop(folder);
    let (offset, bytes) = offsets[1];
    flip(dir.path(), segment.slot, u64::from(offset) + 300);
    let found = read(dir.path());
    let [fault] = found.faults.as_slice() else { panic!("one fault: {found:?}") };
    assert_eq!((fault.slot, fault.position.segment), (segment.slot, segment.seq));
    assert_eq!((fault.position.offset, fault.bytes), (offset, bytes));
    assert_eq!(fault.logs, [LogId(1), LogId(2), LogId(3)]);
    let frames: u64 = found.segments.iter().map(|segment| segment.frames).sum();
    assert_eq!(frames, FRAMES - 1, "everything else is read");
    // Of a frame of several records, the one that is damaged is named.
    assert!(fault.why.ends_with(&format!("begins at {}", offset + 64)), "{}", fault.why);
    flip(dir.path(), segment.slot, u64::from(offset) + 300);
    flip(dir.path(), segment.slot, u64::from(offset) + 2600);
    let found = read(dir.path());
    let [fault] = found.faults.as_slice() else { panic!("one fault: {found:?}") };
    let at: u32 = fault.why.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(fault.why.contains("the first that is not begins at") && at > offset + 300, "{}", fault.why);
    assert_eq!(
        (fault.position.offset, fault.bytes),
        (offset, bytes),
        "what cannot be used is all of the frame"
    );
}

#[test]
fn a_lost_write_in_the_middle_is_damage_and_at_the_end_a_torn_tail() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    stop(write_log(dir.path()));
    let sound = read(dir.path());
    let last = sound.segments.last().unwrap();
    let file = OpenOptions::new().write(true).open(slot_path(dir.path(), last.slot)).unwrap();
    // A sector of the last frame never arrived.
    file.write_all_at(&[0; 512], u64::from(last.end) - 4096 + 1024).unwrap();
    let torn = read(dir.path());
    assert!(torn.faults.is_empty(), "{torn:?}");
    assert_eq!(torn.torn_tail.map(|at| at.segment), Some(last.seq));
    assert!(torn.logs.iter().all(|(_, state)| state.last == Lsn(FRAMES - 1)));
    // Nor did the first frame of a sealed segment.
    let first = &sound.segments[0];
    let file = OpenOptions::new().write(true).open(slot_path(dir.path(), first.slot)).unwrap();
    file.write_all_at(&[0; 4096], 4096).unwrap();
    let found = read(dir.path());
    assert_eq!(found.faults.len(), 1, "{found:?}");
    assert_eq!(found.faults[0].position.offset, 4096);
    assert!(found.faults[0].why.contains("known to be durable"), "{found:?}");
}

#[test]
fn a_missing_segment_and_an_unreadable_header_are_named() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    stop(write_log(dir.path()));
    let sound = read(dir.path());
    let middle = &sound.segments[1];
    flip(dir.path(), middle.slot, 20);
    flip(dir.path(), middle.slot, 512 + 20);
    let found = read(dir.path());
    let whys: Vec<_> = found.faults.iter().map(|fault| (fault.slot, fault.why.as_str())).collect();
    assert!(whys.iter().any(|(slot, why)| *slot == middle.slot && why.contains("header")), "{whys:?}");
    let missing = format!("segment {}", middle.seq);
    assert!(whys.iter().any(|(_, why)| why.contains(&missing) && why.contains("missing")), "{whys:?}");
}

#[test]
fn a_log_in_use_is_refused() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let wal = write_log(dir.path());
    let refused = MappedFolder::open(dir.path()).unwrap_err();
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    drop(wal);
    MappedFolder::open(dir.path()).unwrap();
}
