//! A batch: the records of many logs on their way into one frame, encoded straight into a device buffer.
//!
//! Beside the bytes it keeps what each record says and its offset in the frame, for the index to be updated once the
//! frame has a position, and for entries to be read from the buffer until they are durable.

use std::ops::{Deref, DerefMut, Range};

use crate::device::BLOCK_BYTES;
use crate::format::frame::{FRAME_HEAD_BYTES, FrameHead};
use crate::format::record::{self, RecordKind, RecordMeta};
use crate::format::sectors;
use crate::format::segment::SegmentHeader;
use crate::ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term};
use crate::record::EntryRef;
use crate::runs::Run;

/// Some entries of one term.
#[derive(Clone, Copy, Debug)]
struct TermRun {
    first: Lsn,
    count: u32,
    term: Term,
}

/// One record of a batch.
#[derive(Debug)]
pub(crate) struct BatchRecord {
    /// Where it starts and how long it is, in content bytes of the frame.
    at: usize,
    len: usize,
    meta: RecordMeta<'static>,
    conf: Option<Box<[u8]>>,
    /// Its part of the batch's term runs.
    terms: Range<usize>,
    /// A later record ended the log or emptied it: this one counts for its segment's footer only, since that later
    /// record may not survive.
    forgotten: bool,
}

impl BatchRecord {
    /// The record's statement, as the index wants it.
    pub fn meta(&self) -> RecordMeta<'_> {
        RecordMeta { conf: self.conf.as_deref(), ..self.meta }
    }

    /// Whether the log's present state has nothing of the record.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    fn has_entries_of(&self, log: LogId) -> bool {
        self.meta.log == log && self.meta.count > 0 && !self.forgotten
    }

    fn holds(&self, log: LogId, lsn: Lsn) -> bool {
        self.has_entries_of(log) && self.meta.first <= lsn && lsn <= self.meta.last
    }
}

/// What a batch's records say, and where in the frame; without their bytes.
#[derive(Debug, Default)]
pub(crate) struct BatchRecords {
    records: Vec<BatchRecord>,
    terms: Vec<TermRun>,
}

impl BatchRecords {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &BatchRecord> {
        self.records.iter()
    }

    /// The newest record that holds an entry: its offset and length in content bytes. `limit` is lowered to the last
    /// entry that no newer record replaces.
    pub fn find(&self, log: LogId, lsn: Lsn, limit: &mut Lsn) -> Option<(usize, usize)> {
        for record in self.records.iter().rev().filter(|record| record.has_entries_of(log)) {
            if record.holds(log, lsn) {
                return Some((record.at, record.len));
            }
            if lsn < record.meta.first && record.meta.kind == RecordKind::Append {
                *limit = (*limit).min(Lsn(record.meta.first.get() - 1));
            }
        }
        None
    }

    /// The lowest entry that a record adds to a log or replaces.
    pub fn lowest(&self, log: LogId) -> Option<Lsn> {
        let added = self.records.iter().filter(|record| record.has_entries_of(log));
        added.filter(|record| record.meta.kind == RecordKind::Append).map(|record| record.meta.first).min()
    }

    /// The term of an entry, from the newest record that holds it.
    pub fn term(&self, log: LogId, lsn: Lsn) -> Option<Term> {
        let record = self.records.iter().rev().find(|record| record.holds(log, lsn))?;
        let runs = self.terms.get(record.terms.clone())?;
        runs.iter().rev().find(|run| run.first <= lsn).map(|run| run.term)
    }

    /// The runs of a record's entries once its frame lies at `offset` of `segment`.
    pub fn runs(&self, record: &BatchRecord, segment: SegmentSeq, offset: u32) -> impl Iterator<Item = Run> {
        let start = offset + position(record.at);
        let end = offset + position(record.at + record.len);
        let mut before = record.meta.prev_term;
        self.terms.get(record.terms.clone()).unwrap_or_default().iter().map(move |run| {
            let prev_term = std::mem::replace(&mut before, run.term);
            Run {
                first: run.first,
                term: run.term,
                prev_term,
                segment,
                count: run.count,
                offset: start,
                end,
                bytes: record::share_bytes(record.len, run.count, record.meta.count),
                cut: record.meta.kind == RecordKind::Copy,
            }
        })
    }

    /// The logs of the records with entries that the index is to hold.
    #[cfg(feature = "sim")]
    pub fn adds_to(&self) -> impl Iterator<Item = LogId> {
        let added = self.records.iter().filter(|record| record.has_entries_of(record.meta.log));
        added.filter(|record| record.meta.kind == RecordKind::Append).map(|record| record.meta.log)
    }

    /// Whether a record says something of a log that counts.
    #[cfg(feature = "sim")]
    pub fn speaks_of(&self, log: LogId) -> bool {
        self.records.iter().any(|record| record.meta.log == log && !record.forgotten)
    }

    /// Asserts that every record's entries are counted, and that records lie one behind the other up to `end`.
    #[cfg(feature = "sim")]
    fn check(&self, end: usize) {
        let (mut at, mut terms) = (FRAME_HEAD_BYTES, 0);
        for BatchRecord { at: start, len, meta, terms: range, .. } in &self.records {
            assert_eq!(
                *start,
                record::aligned(at),
                "a record of log {} is not behind the one before",
                meta.log
            );
            assert_eq!(range.start, terms, "a record of log {} has the terms of another one", meta.log);
            (at, terms) = (start + len, range.end);
            let runs = self.terms.get(range.clone()).unwrap_or_default();
            let count: u32 = runs.iter().map(|run| run.count).sum();
            assert_eq!(
                count, meta.count,
                "entries of a record of log {} are counted twice, or not",
                meta.log
            );
            let last = Lsn(meta.first.get() + u64::from(count));
            assert!(count == 0 || last == meta.last.next(), "a record of log {} has gaps", meta.log);
        }
        assert_eq!(at, end, "a batch is longer than its records");
        assert_eq!(terms, self.terms.len(), "a batch has terms of no record");
    }

    /// The log has lost all that these records gave it.
    pub fn forget(&mut self, log: LogId) {
        self.records
            .iter_mut()
            .filter(|record| record.meta.log == log)
            .for_each(|record| record.forgotten = true);
    }
}

fn position(logical: usize) -> u32 {
    u32::try_from(sectors::physical(logical)).expect("a frame is smaller than its segment")
}

/// What a frame's head says about its surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    pub salt: u64,
    pub durable: BatchSeq,
    pub oldest_live: SegmentSeq,
    pub offset: u32,
}

/// What a batch may take of the room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// There was no room for it when it was submitted, or it is still open.
    Unasked,
    /// All but the reserve: there is room for it.
    Admitted,
    /// The reserve too: it lets older segments go.
    Reclaim,
}

/// Records gathered for one frame.
#[derive(Debug)]
pub(crate) struct Batch<B> {
    pub seq: BatchSeq,
    pub claim: Claim,
    pub records: BatchRecords,
    buffer: B,
    /// Content bytes so far, the frame's head included.
    len: usize,
    records_crc: crc32fast::Hasher,
}

impl<B: Deref<Target = [u8]> + DerefMut> Batch<B> {
    /// An empty batch. The buffer takes two blocks at least: a segment's header may have to go in front.
    pub fn new(seq: BatchSeq, buffer: B) -> Self {
        assert!(buffer.len() >= 2 * BLOCK_BYTES, "a buffer holds a header and a frame");
        let records_crc = crc32fast::Hasher::new();
        Self {
            seq,
            claim: Claim::Unasked,
            records: BatchRecords::default(),
            buffer,
            len: FRAME_HEAD_BYTES,
            records_crc,
        }
    }

    /// The frame's size on disk.
    pub fn frame_bytes(&self) -> usize {
        sectors::frame_bytes(self.len)
    }

    /// The frame's size on disk if a record of this length were added.
    pub fn frame_bytes_with(&self, record_bytes: usize) -> usize {
        sectors::frame_bytes(record::aligned(self.len) + record_bytes)
    }

    /// Whether the buffer holds a frame of this size and a segment header in front of it.
    pub fn fits_buffer(&self, frame_bytes: usize) -> bool {
        frame_bytes + BLOCK_BYTES <= self.buffer.len()
    }

    /// Moves to a larger buffer; hands the old one back.
    pub fn grow(&mut self, mut larger: B) -> B {
        let used = self.frame_bytes();
        let (to, from) = (larger.get_mut(..used), self.buffer.get(..used));
        to.expect("the new buffer is larger").copy_from_slice(from.expect("the used part lies inside"));
        std::mem::replace(&mut self.buffer, larger)
    }

    /// Adds a record; the buffer is large enough.
    pub fn push<'a>(
        &mut self,
        meta: &RecordMeta<'_>,
        record_bytes: usize,
        entries: impl Iterator<Item = EntryRef<'a>>,
    ) {
        let at = record::aligned(self.len);
        assert!(
            self.fits_buffer(sectors::frame_bytes(at + record_bytes)),
            "a record does not fit into its batch's buffer"
        );
        let (gap, _) = [0u8; record::RECORD_ALIGN].split_at(at - self.len);
        sectors::put(&mut self.buffer, self.len, gap);
        let terms = &mut self.records.terms;
        let terms_start = terms.len();
        let entries = entries.inspect(|entry| match terms.get_mut(terms_start..).and_then(<[_]>::last_mut) {
            Some(run) if run.term == entry.term => run.count += 1,
            _ => terms.push(TermRun { first: entry.lsn, count: 1, term: entry.term }),
        });
        let crc = record::encode(&mut self.buffer, at, record_bytes, meta, entries);
        self.records_crc.update(&crc.to_le_bytes());
        self.len = at + record_bytes;
        let terms = terms_start..self.records.terms.len();
        let conf = meta.conf.map(Into::into);
        self.records.records.push(BatchRecord {
            at,
            len: record_bytes,
            meta: meta.without_conf(),
            conf,
            terms,
            forgotten: false,
        });
    }

    /// Asserts what holds between any two calls.
    #[cfg(feature = "sim")]
    pub fn check(&self) {
        assert!(self.fits_buffer(self.frame_bytes()), "batch {} is larger than its buffer", self.seq);
        self.records.check(self.len);
    }

    /// The content bytes of a record, for readers; `None` only if it does not lie in this batch.
    pub fn content(&self, at: usize, len: usize) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        sectors::gather(&self.buffer, at, len, &mut out).then_some(out)
    }

    /// Closes the frame: head, padding, stamps; with a segment header in front if it is the segment's first.
    /// Returns the buffer, how much of it to write, and what the records said.
    pub fn finish(mut self, around: Surroundings, header: Option<&SegmentHeader>) -> (B, u32, BatchRecords) {
        let frame_bytes = self.frame_bytes();
        let head = FrameHead {
            salt: around.salt,
            batch: self.seq,
            durable: around.durable,
            oldest_live: around.oldest_live,
            offset: around.offset,
            content_bytes: u32::try_from(self.len - FRAME_HEAD_BYTES).expect("smaller than a segment"),
            records: u32::try_from(self.records.len()).expect("fewer than bytes"),
            records_crc: self.records_crc.finalize(),
        };
        sectors::put(&mut self.buffer, 0, &head.encode());
        let frame = self.buffer.get_mut(..frame_bytes).expect("the buffer was grown to hold the frame");
        frame.get_mut(sectors::physical(self.len)..).unwrap_or_default().fill(0);
        let first_sector = around.offset / u32::try_from(sectors::SECTOR_BYTES).expect("a small constant");
        sectors::write_stamps(frame, around.salt, first_sector);
        let mut write_bytes = frame_bytes;
        if let Some(header) = header {
            self.buffer.copy_within(..frame_bytes, BLOCK_BYTES);
            header.encode(self.buffer.split_at_mut(BLOCK_BYTES).0);
            write_bytes += BLOCK_BYTES;
        }
        (self.buffer, u32::try_from(write_bytes).expect("smaller than a segment"), self.records)
    }
}
