//! A record: all of one log's share in a batch (entries, hard state, configuration), or a statement about the log.
//!
//! A record starts at a multiple of 8 content bytes. Its length comes first and is never zero, so a zero there means
//! that the frame holds no more. Its checksum covers the length and everything behind the checksum.

use crate::fields::Fields;
use crate::format::sectors;
use crate::ids::{LogId, Lsn, Term};
use crate::record::{EntryKind, EntryRef, HardState, OwnedEntry};

/// Bytes of a record's fixed head.
pub const RECORD_HEAD_BYTES: usize = 48;
/// Bytes of the head that precedes each entry's data.
pub const ENTRY_HEAD_BYTES: usize = 16;
/// Records start at multiples of this many content bytes; a length field therefore never straddles two sectors.
pub const RECORD_ALIGN: usize = 8;
const HARD_STATE_BYTES: usize = 24;
const FLAG_HARD_STATE: u32 = 1;
const FLAG_CONF: u32 = 2;

/// What a record says about its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RecordKind {
    /// Entries and states to add.
    #[default]
    Append = 0,
    /// The log holds exactly the entries `first..=last` of those written before: a statement that replaces older
    /// records when their segment is freed, and starts a log anew after a snapshot.
    State = 1,
    /// The log has ended; nothing of it counts.
    Tombstone = 2,
    /// Entries that the log holds already, written once more so that the segment of the others can go. They replace
    /// nothing: what follows them stays.
    Copy = 3,
}

/// Everything of a record but its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordMeta<'a> {
    /// The log.
    pub log: LogId,
    /// What the record says.
    pub kind: RecordKind,
    /// Entries in it.
    pub count: u32,
    /// The first entry; for [`RecordKind::State`] the first that the log holds.
    pub first: Lsn,
    /// The last entry; for [`RecordKind::State`] the last that the log holds.
    pub last: Lsn,
    /// The term of the entry before `first`.
    pub prev_term: Term,
    /// The hard state, if it is in the record.
    pub hard_state: Option<HardState>,
    /// The configuration state, if it is in the record.
    pub conf: Option<&'a [u8]>,
}

impl RecordMeta<'_> {
    /// All of it but the configuration's bytes, which live elsewhere.
    #[must_use]
    pub fn without_conf(&self) -> RecordMeta<'static> {
        RecordMeta {
            log: self.log,
            kind: self.kind,
            count: self.count,
            first: self.first,
            last: self.last,
            prev_term: self.prev_term,
            hard_state: self.hard_state,
            conf: None,
        }
    }

    /// The record's length in bytes, without the alignment behind it.
    #[must_use]
    pub fn record_bytes(&self, entries_bytes: usize) -> usize {
        RECORD_HEAD_BYTES
            + self.hard_state.map_or(0, |_| HARD_STATE_BYTES)
            + self.conf.map_or(0, |conf| 4 + conf.len())
            + entries_bytes
    }
}

/// Writes a record at a logical offset in a frame, piece by piece, and sums up its checksum on the way.
struct Writer<'a> {
    frame: &'a mut [u8],
    at: usize,
    crc: crc32fast::Hasher,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        sectors::put(self.frame, self.at, bytes);
        self.at += bytes.len();
    }
}

/// Writes a record of `record_bytes` at the logical offset `at`; returns its checksum.
pub fn encode<'a>(
    frame: &mut [u8],
    at: usize,
    record_bytes: usize,
    meta: &RecordMeta<'_>,
    entries: impl Iterator<Item = EntryRef<'a>>,
) -> u32 {
    let len = u32::try_from(record_bytes).expect("a record is smaller than a segment");
    let mut writer = Writer { frame, at: at + 8, crc: crc32fast::Hasher::new() };
    writer.crc.update(&len.to_le_bytes());
    let flags = (meta.kind as u32) << 8
        | meta.hard_state.map_or(0, |_| FLAG_HARD_STATE)
        | meta.conf.map_or(0, |_| FLAG_CONF);
    let head = super::Head::<{ RECORD_HEAD_BYTES - 8 }>::new()
        .u64(meta.log.get())
        .u32(flags)
        .u32(meta.count)
        .u64(meta.first.get())
        .u64(meta.last.get())
        .u64(meta.prev_term.get());
    writer.put(&head.bytes);
    if let Some(state) = meta.hard_state {
        writer.put(&encode_hard_state(state));
    }
    if let Some(conf) = meta.conf {
        writer.put(&u32::try_from(conf.len()).expect("smaller than a segment").to_le_bytes());
        writer.put(conf);
    }
    for entry in entries {
        let bytes = u32::try_from(entry.data.len()).expect("smaller than a segment");
        let head = super::Head::<ENTRY_HEAD_BYTES>::new()
            .u32(bytes)
            .u32(u32::from(entry.kind as u8))
            .u64(entry.term.get());
        writer.put(&head.bytes);
        writer.put(entry.data);
    }
    assert_eq!(writer.at, at + record_bytes, "the record is as long as it was computed to be");
    let crc = writer.crc.finalize();
    let head = super::Head::<8>::new().u32(len).u32(crc);
    sectors::put(frame, at, &head.bytes);
    crc
}

/// A hard state's bytes.
#[must_use]
pub(crate) fn encode_hard_state(state: HardState) -> [u8; HARD_STATE_BYTES] {
    super::Head::<HARD_STATE_BYTES>::new().u64(state.term.get()).u64(state.vote).u64(state.commit.get()).bytes
}

/// Reads what [`encode_hard_state`] wrote.
pub(crate) fn decode_hard_state(fields: &mut Fields<'_>) -> Option<HardState> {
    Some(HardState { term: Term(fields.u64()?), vote: fields.u64()?, commit: Lsn(fields.u64()?) })
}

/// The length that stands at the front of a record; zero at the end of a frame.
#[must_use]
pub fn record_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize)
}

/// The length with the alignment behind it.
#[must_use]
pub const fn aligned(record_bytes: usize) -> usize {
    record_bytes.next_multiple_of(RECORD_ALIGN)
}

/// What some of a record's entries take of it, in bytes.
pub(crate) fn share_bytes(record_bytes: usize, entries: u32, of: u32) -> u32 {
    let share = record_bytes as u64 * u64::from(entries) / u64::from(of.max(1));
    u32::try_from(share).expect("a record is smaller than a segment")
}

/// A record read back; its checksum was right.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Everything but the entries.
    pub meta: RecordMeta<'a>,
    /// The record's checksum, of which the frame's head keeps the sum.
    pub crc: u32,
    entries: &'a [u8],
}

/// The log id that a record claims, before anything is verified.
#[must_use]
pub fn claimed_log(bytes: &[u8]) -> Option<LogId> {
    bytes.get(8..).and_then(<[u8]>::first_chunk::<8>).map(|id| LogId(u64::from_le_bytes(*id)))
}

/// Reads the record at the front of `bytes` (contiguous content); `None` if it is not whole.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<RecordView<'_>> {
    let len = record_len(bytes)?;
    let record = bytes.get(..len)?;
    let mut fields = Fields::new(record);
    let (_len, crc) = (fields.u32()?, fields.u32()?);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.get(..4)?);
    hasher.update(record.get(8..)?);
    if hasher.finalize() != crc {
        return None;
    }
    let log = LogId(fields.u64()?);
    let flags = fields.u32()?;
    let count = fields.u32()?;
    let (first, last, prev_term) = (Lsn(fields.u64()?), Lsn(fields.u64()?), Term(fields.u64()?));
    let kind = match flags >> 8 {
        0 => RecordKind::Append,
        1 => RecordKind::State,
        2 => RecordKind::Tombstone,
        3 => RecordKind::Copy,
        _ => return None,
    };
    let hard_state = if flags & FLAG_HARD_STATE != 0 { Some(decode_hard_state(&mut fields)?) } else { None };
    let conf = if flags & FLAG_CONF != 0 {
        let len = fields.u32()? as usize;
        Some(fields.take(len)?)
    } else {
        None
    };
    let meta = RecordMeta { log, kind, count, first, last, prev_term, hard_state, conf };
    Some(RecordView { meta, crc, entries: fields.rest })
}

impl<'a> RecordView<'a> {
    /// The entries, in order; `None` instead of one whose head makes no sense (a bug, since the checksum was right).
    pub fn entries(&self) -> impl Iterator<Item = Option<EntryRef<'a>>> + use<'a> {
        let mut fields = Fields::new(self.entries);
        let first = self.meta.first.get();
        (0..u64::from(self.meta.count)).map(move |number| {
            let len = fields.u32()? as usize;
            let kind = match fields.u32()? {
                0 => EntryKind::Normal,
                1 => EntryKind::ConfChange,
                2 => EntryKind::ConfChangeV2,
                _ => return None,
            };
            let term = Term(fields.u64()?);
            Some(EntryRef { lsn: Lsn(first + number), term, kind, data: fields.take(len)? })
        })
    }
}

impl EntryRef<'_> {
    /// A copy that owns its bytes.
    #[must_use]
    pub fn to_owned(&self) -> OwnedEntry {
        OwnedEntry { lsn: self.lsn, term: self.term, kind: self.kind, data: self.data.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Entries = Vec<(u64, u8, Vec<u8>)>;

    fn write(meta: &RecordMeta<'_>, entries: &Entries, at: usize) -> Vec<u8> {
        let refs = entries.iter().enumerate().map(|(number, (term, kind, data))| EntryRef {
            lsn: Lsn(meta.first.get() + number as u64),
            term: Term(*term),
            kind: [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2][usize::from(*kind)],
            data,
        });
        let bytes = meta.record_bytes(entries.iter().map(|e| ENTRY_HEAD_BYTES + e.2.len()).sum());
        let mut frame = vec![0u8; sectors::frame_bytes(at + bytes)];
        encode(&mut frame, at, bytes, meta, refs);
        let mut out = Vec::new();
        assert!(sectors::gather(&frame, at, bytes, &mut out));
        out
    }

    proptest! {
        #[test]
        fn a_record_comes_back(
            entries in prop::collection::vec((0u64..9, 0u8..3, prop::collection::vec(any::<u8>(), 0..900)), 0..9),
            state in prop::option::of((0u64..9, 0u64..9, 0u64..9)),
            conf in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            block in 0usize..600,
        ) {
            let meta = RecordMeta {
                log: LogId(4),
                kind: RecordKind::Append,
                count: entries.len() as u32,
                first: Lsn(10),
                last: Lsn(9 + entries.len() as u64),
                prev_term: Term(3),
                hard_state: state.map(|(t, v, c)| HardState { term: Term(t), vote: v, commit: Lsn(c) }),
                conf: conf.as_deref(),
            };
            let bytes = write(&meta, &entries, block * RECORD_ALIGN);
            let view = decode(&bytes).expect("whole");
            prop_assert_eq!(view.meta, meta);
            let read: Entries = view
                .entries()
                .map(|entry| entry.expect("whole"))
                .map(|entry| (entry.term.get(), entry.kind as u8, entry.data.to_vec()))
                .collect();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(view) = decode(&bytes) {
                prop_assert!(view.entries().count() as u64 == u64::from(view.meta.count));
            }
        }
    }

    #[test]
    fn any_flip_is_seen() {
        let meta = RecordMeta { log: LogId(1), count: 1, first: Lsn(1), last: Lsn(1), ..Default::default() };
        let bytes = write(&meta, &vec![(1, 0, b"value".to_vec())], 0);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x04;
            assert!(decode(&bad).is_none(), "byte {at}");
        }
    }
}
