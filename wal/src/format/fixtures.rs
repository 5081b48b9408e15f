//! Bytes of every format of the log, as they were once written: today's code writes the same, and reads them.
//!
//! A fixture is never changed: of a new version there is a new one, and the old one stays. Its form is that of
//! [`shown`]: the length, then the lines of 32 bytes that are not all zero, each behind its offset.

use crate::batch::{Batch, Surroundings};
use crate::device::BLOCK_BYTES;
use crate::format::footer::{self, FooterTail};
use crate::format::record::{ENTRY_HEAD_BYTES, RecordKind, RecordMeta};
use crate::format::segment::{SegmentHeader, SlotRole, slot_role};
use crate::ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term};
use crate::index::SegmentIndex;
use crate::record::{EntryKind, EntryRef, HardState};
use crate::runs::Run;
use crate::scan::{Check, Image, records};

const HEADER: &str = include_str!("header-1.hex");
const FRAME: &str = include_str!("frame-1.hex");
const FOOTER: &str = include_str!("footer-1.hex");

const LINE_BYTES: usize = 32;

/// A fixture's text, without the comments at its head.
fn shown(bytes: &[u8]) -> String {
    let mut text = format!("bytes {}\n", bytes.len());
    for (number, line) in bytes.chunks(LINE_BYTES).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{:05x}: {hex}\n", number * LINE_BYTES);
        }
    }
    text
}

/// The bytes of a fixture.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let length = lines.next().and_then(|line| line.strip_prefix("bytes ")).expect("the length comes first");
    let mut bytes = vec![0; length.parse().expect("a number")];
    for line in lines {
        let (offset, hex) = line.split_once(": ").expect("an offset and bytes");
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        for at in (0..hex.len()).step_by(2) {
            bytes[offset + at / 2] = u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        }
    }
    bytes
}

fn header() -> SegmentHeader {
    SegmentHeader {
        wal_id: 0x0102_0304_0506_0708,
        seq: SegmentSeq(5),
        salt: 0x1112_1314_1516_1718,
        segment_bytes: 65_536,
        prev: SegmentSeq(4),
        prev_end: 40_960,
        prev_batch: BatchSeq(70),
        oldest_live: SegmentSeq(3),
    }
}

const STATE: HardState = HardState { term: Term(4), vote: 9, commit: Lsn(11) };
/// Longer than a sector, so that stamps lie inside.
const LONG: &[u8] = &[0x5a; 1_100];

type Entry = (u64, EntryKind, &'static [u8]);

/// A record of each kind, with their entries: term, kind, bytes.
fn contents() -> Vec<(RecordMeta<'static>, Vec<Entry>)> {
    let meta = |log, kind, count, first, last| RecordMeta {
        log: LogId(log),
        kind,
        count,
        first: Lsn(first),
        last: Lsn(last),
        prev_term: Term(2),
        ..RecordMeta::default()
    };
    let append = RecordMeta {
        hard_state: Some(STATE),
        conf: Some(b"voters"),
        ..meta(7, RecordKind::Append, 4, 10, 13)
    };
    let entries: Vec<Entry> = vec![
        (3, EntryKind::Normal, b"first"),
        (3, EntryKind::ConfChange, b"second"),
        (4, EntryKind::ConfChangeV2, b""),
        (4, EntryKind::Normal, LONG),
    ];
    vec![
        (append, entries),
        (RecordMeta { hard_state: Some(STATE), ..meta(8, RecordKind::State, 0, 3, 6) }, Vec::new()),
        (RecordMeta { conf: Some(b"c"), ..meta(9, RecordKind::Append, 0, 0, 0) }, Vec::new()),
        (meta(10, RecordKind::Tombstone, 0, 0, 0), Vec::new()),
        (meta(11, RecordKind::Copy, 1, 20, 20), vec![(2, EntryKind::Normal, b"again")]),
    ]
}

/// The segment's header and its first frame, as a group commit writes them.
fn frame() -> Vec<u8> {
    let block = u32::try_from(BLOCK_BYTES).unwrap();
    let mut batch = Batch::new(BatchSeq(71), vec![0xff; 4 * BLOCK_BYTES]);
    for (meta, entries) in contents() {
        let bytes = meta.record_bytes(entries.iter().map(|entry| ENTRY_HEAD_BYTES + entry.2.len()).sum());
        let entries = (meta.first.get()..).zip(entries).map(|(lsn, (term, kind, data))| EntryRef {
            lsn: Lsn(lsn),
            term: Term(term),
            kind,
            data,
        });
        batch.push(&meta, bytes, entries);
    }
    let around = Surroundings {
        salt: header().salt,
        durable: BatchSeq(69),
        oldest_live: SegmentSeq(3),
        offset: block,
    };
    let (mut buffer, bytes, _) = batch.finish(around, Some(&header()));
    buffer.truncate(bytes as usize);
    buffer
}

fn index() -> SegmentIndex {
    let mut index = SegmentIndex::default();
    let run = |first, term, count| Run {
        first: Lsn(first),
        term: Term(term),
        prev_term: Term(2),
        segment: SegmentSeq(5),
        count,
        offset: 4_160,
        end: 4_500,
        bytes: 340,
        cut: false,
    };
    let records: [_; 5] = contents().try_into().expect("five records");
    let [append, state, conf, tombstone, copy] = records.map(|(meta, _)| meta);
    index.apply(&append, [run(10, 3, 2), Run { prev_term: Term(3), ..run(12, 4, 2) }].into_iter());
    index.apply(&state, std::iter::empty());
    index.apply(&conf, std::iter::empty());
    index.apply(&tombstone, std::iter::empty());
    index.apply(&copy, [Run { cut: true, ..run(20, 2, 1) }].into_iter());
    index
}

fn tail() -> FooterTail {
    FooterTail {
        salt: header().salt,
        seq: SegmentSeq(5),
        first_batch: BatchSeq(71),
        last_batch: BatchSeq(80),
        oldest_live: SegmentSeq(3),
        frames_end: 49_152,
        index_bytes: 0,
        index_crc: 0,
    }
}

#[test]
fn header_of_version_1() {
    let bytes = bytes_of(HEADER);
    assert_eq!(slot_role(&bytes), SlotRole::Used(header()));
    let mut written = vec![0xff; BLOCK_BYTES];
    header().encode(&mut written);
    assert!(written == bytes, "the header is written as\n{}", shown(&written));
}

#[test]
fn frame_of_version_1() {
    let bytes = bytes_of(FRAME);
    let offset = u32::try_from(BLOCK_BYTES).unwrap();
    let image = Image { bytes: bytes.as_slice(), salt: header().salt, seq: header().seq };
    assert_eq!(slot_role(&bytes), SlotRole::Used(header()));
    let Check::Whole(head, content) = image.check(offset, BatchSeq(71)) else {
        panic!("the frame is not whole")
    };
    assert_eq!((head.durable, head.oldest_live, head.records), (BatchSeq(69), SegmentSeq(3), 5));
    let mut read = records(&head, &content);
    for (meta, entries) in contents() {
        let (_, _, view) = read.next().expect("a record");
        assert_eq!(view.meta, meta);
        let found = view.entries().map(|entry| entry.expect("whole"));
        let found: Vec<_> =
            found.map(|entry| (entry.lsn.get(), entry.term.get(), entry.kind, entry.data.to_vec())).collect();
        let lsns = meta.first.get()..;
        let expected: Vec<_> =
            lsns.zip(entries).map(|(lsn, (term, kind, data))| (lsn, term, kind, data.to_vec())).collect();
        assert_eq!(found, expected, "log {}", meta.log);
    }
    assert!(frame() == bytes, "the frame is written as\n{}", shown(&frame()));
}

#[test]
fn footer_of_version_1() {
    let bytes = bytes_of(FOOTER);
    let read = FooterTail::decode(&bytes).expect("whole");
    assert_eq!(FooterTail { index_bytes: 0, index_crc: 0, ..read }, tail());
    assert_eq!(read.footer_bytes(), bytes.len());
    assert_eq!(footer::decode(&read, &bytes), Some(index()));
    let written = footer::encode(tail(), &index(), footer::reserve_bytes(1 << 20));
    assert!(written == bytes, "the footer is written as\n{}", shown(&written));
}
