//! The footer of a sealed segment: its effect on every log it touches, so that opening need not read its frames.
//!
//! A footer lies at the very end of the slot and is written only after all frames of the segment are durable; a whole
//! footer therefore also vouches for them. It is derived data: if it is missing or damaged, the frames are scanned.

use crate::device::BLOCK_BYTES;
use crate::fields::Fields;
use crate::format::record::{decode_hard_state, encode_hard_state};
use crate::format::{Head, head_is_whole};
use crate::ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term};
use crate::index::{LogPart, SegmentIndex};
use crate::runs::{Run, Runs};

const MAGIC: u32 = 0xF007_E401;
const TAIL_BYTES: usize = 64;
const FLAG_REMOVED: u32 = 1;
const FLAG_BASE: u32 = 2;
const FLAG_HARD_STATE: u32 = 4;
const FLAG_CONF: u32 = 8;
const FLAG_COPIES: u32 = 16;
const CUT: u32 = 1 << 31;

/// What the last bytes of a footer say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FooterTail {
    pub salt: u64,
    pub seq: SegmentSeq,
    pub first_batch: BatchSeq,
    pub last_batch: BatchSeq,
    /// Segments below this one were free of live data, durably so, when the segment was sealed.
    pub oldest_live: SegmentSeq,
    /// Where the frames end, in bytes from the segment's start.
    pub frames_end: u32,
    /// Bytes of the index in front of the tail; 0 if it would have been too large, so that the frames are scanned.
    pub index_bytes: u32,
    pub index_crc: u32,
}

/// Bytes kept free at a segment's end for its footer.
pub(crate) const fn reserve_bytes(segment_bytes: u32) -> u32 {
    let share = segment_bytes / 32 / BLOCK_BYTES as u32 * BLOCK_BYTES as u32;
    if share < 2 * BLOCK_BYTES as u32 { 2 * BLOCK_BYTES as u32 } else { share }
}

impl FooterTail {
    /// Whole blocks that the footer takes.
    pub fn footer_bytes(&self) -> usize {
        (self.index_bytes as usize + TAIL_BYTES).next_multiple_of(BLOCK_BYTES)
    }

    fn encode(&self) -> [u8; TAIL_BYTES] {
        Head::<TAIL_BYTES>::new()
            .u32(MAGIC)
            .u32(0)
            .u64(self.salt)
            .u64(self.seq.get())
            .u64(self.first_batch.get())
            .u64(self.last_batch.get())
            .u64(self.oldest_live.get())
            .u32(self.frames_end)
            .u32(self.index_bytes)
            .u32(self.index_crc)
            .seal(4)
    }

    /// Reads the tail at the end of a segment's last block; `None` unless it is whole.
    pub fn decode(last_block: &[u8]) -> Option<Self> {
        let bytes = last_block.last_chunk::<TAIL_BYTES>()?;
        let mut fields = Fields::new(bytes);
        if fields.u32()? != MAGIC || !head_is_whole(bytes) {
            return None;
        }
        let _crc = fields.u32()?;
        Some(Self {
            salt: fields.u64()?,
            seq: SegmentSeq(fields.u64()?),
            first_batch: BatchSeq(fields.u64()?),
            last_batch: BatchSeq(fields.u64()?),
            oldest_live: SegmentSeq(fields.u64()?),
            frames_end: fields.u32()?,
            index_bytes: fields.u32()?,
            index_crc: fields.u32()?,
        })
    }
}

/// Writes a footer of at most `reserve_bytes`; without the index if that would not fit.
pub(crate) fn encode(mut tail: FooterTail, index: &SegmentIndex, reserve_bytes: u32) -> Vec<u8> {
    let mut logs: Vec<_> = index.logs.iter().collect();
    logs.sort_unstable_by_key(|(log, _)| **log);
    let mut out = Vec::new();
    for (log, part) in logs {
        encode_part(*log, part, &mut out);
        if out.len() + TAIL_BYTES > reserve_bytes as usize {
            out.clear();
            break;
        }
    }
    tail.index_bytes = u32::try_from(out.len()).expect("at most the reserve");
    tail.index_crc = crc32fast::hash(&out);
    out.resize(tail.footer_bytes() - TAIL_BYTES, 0);
    out.extend_from_slice(&tail.encode());
    assert_eq!(out.len(), tail.footer_bytes(), "a footer is whole blocks");
    let most = (reserve_bytes as usize).next_multiple_of(BLOCK_BYTES);
    assert!(out.len() <= most, "a footer of {} bytes is larger than what is kept free for it", out.len());
    out
}

fn encode_part(log: LogId, part: &LogPart, out: &mut Vec<u8>) {
    let flags = if part.removed { FLAG_REMOVED } else { 0 }
        | part.base.map_or(0, |_| FLAG_BASE)
        | part.hard_state.map_or(0, |_| FLAG_HARD_STATE)
        | part.conf.as_ref().map_or(0, |_| FLAG_CONF)
        | part.copies.as_ref().map_or(0, |_| FLAG_COPIES);
    let runs = u32::try_from(part.runs.iter().len()).expect("fewer than entries");
    let head = Head::<24>::new().u64(log.get()).u32(flags).u32(runs).u64(part.prev_term.get());
    out.extend_from_slice(&head.bytes);
    if let Some((first, last, prev_term)) = part.base {
        out.extend_from_slice(&Head::<24>::new().u64(first.get()).u64(last.get()).u64(prev_term.get()).bytes);
    }
    if let Some(state) = part.hard_state {
        out.extend_from_slice(&encode_hard_state(state));
    }
    if let Some(conf) = &part.conf {
        out.extend_from_slice(&u32::try_from(conf.len()).expect("smaller than a segment").to_le_bytes());
        out.extend_from_slice(conf);
    }
    part.runs.iter().for_each(|run| encode_run(run, out));
    if let Some(copies) = &part.copies {
        let copies = u32::try_from(copies.iter().len()).expect("fewer than entries");
        out.extend_from_slice(&copies.to_le_bytes());
    }
    for copy in part.copies.iter().flat_map(|copies| copies.iter()) {
        out.extend_from_slice(&copy.prev_term.get().to_le_bytes());
        encode_run(copy, out);
    }
}

fn encode_run(run: &Run, out: &mut Vec<u8>) {
    let bytes_cut = run.bytes.min(CUT - 1) | if run.cut { CUT } else { 0 };
    let head = Head::<32>::new().u64(run.first.get()).u64(run.term.get()).u32(run.count);
    out.extend_from_slice(&head.u32(run.offset).u32(run.end).u32(bytes_cut).bytes);
}

/// Reads the index that ends in `tail`; `footer` are the bytes that [`FooterTail::footer_bytes`] counts.
/// `None` if it is damaged.
pub(crate) fn decode(tail: &FooterTail, footer: &[u8]) -> Option<SegmentIndex> {
    let bytes = footer.get(..tail.index_bytes as usize)?;
    if crc32fast::hash(bytes) != tail.index_crc {
        return None;
    }
    let mut index = SegmentIndex::default();
    let mut fields = Fields::new(bytes);
    while !fields.is_empty() {
        let (log, part) = decode_part(&mut fields, tail.seq)?;
        index.logs.insert(log, part);
    }
    Some(index)
}

fn decode_part(fields: &mut Fields<'_>, segment: SegmentSeq) -> Option<(LogId, LogPart)> {
    let (log, flags, runs) = (LogId(fields.u64()?), fields.u32()?, fields.u32()?);
    let mut part =
        LogPart { removed: flags & FLAG_REMOVED != 0, prev_term: Term(fields.u64()?), ..LogPart::default() };
    if flags & FLAG_BASE != 0 {
        part.base = Some((Lsn(fields.u64()?), Lsn(fields.u64()?), Term(fields.u64()?)));
    }
    if flags & FLAG_HARD_STATE != 0 {
        part.hard_state = Some(decode_hard_state(fields)?);
    }
    if flags & FLAG_CONF != 0 {
        let len = fields.u32()? as usize;
        part.conf = Some(fields.take(len)?.into());
    }
    let mut prev_term = part.prev_term;
    for _ in 0..runs {
        let run = decode_run(fields, segment, prev_term)?;
        prev_term = run.term;
        part.runs.push(run);
    }
    let mut copies = (flags & FLAG_COPIES != 0).then(Box::<Runs>::default);
    for _ in 0..if copies.is_some() { fields.u32()? } else { 0 } {
        let prev_term = Term(fields.u64()?);
        let run = decode_run(fields, segment, prev_term)?;
        copies.iter_mut().for_each(|copies| copies.put(run, |_| {}));
    }
    part.copies = copies;
    Some((log, part))
}

fn decode_run(fields: &mut Fields<'_>, segment: SegmentSeq, prev_term: Term) -> Option<Run> {
    let (first, term) = (Lsn(fields.u64()?), Term(fields.u64()?));
    let (count, offset, end, bytes_cut) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
    let (bytes, cut) = (bytes_cut & (CUT - 1), bytes_cut & CUT != 0);
    Some(Run { first, term, prev_term, segment, count, offset, end, bytes, cut })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::{RecordKind, RecordMeta};
    use crate::record::HardState;

    fn sample() -> (FooterTail, SegmentIndex) {
        let mut index = SegmentIndex::default();
        for log in 1..40u64 {
            let meta = RecordMeta {
                log: LogId(log),
                count: 3,
                first: Lsn(log),
                last: Lsn(log + 2),
                prev_term: Term(1),
                hard_state: (log % 2 == 0).then_some(HardState { term: Term(2), vote: 1, commit: Lsn(log) }),
                conf: (log % 3 == 0).then_some(b"voters"),
                ..RecordMeta::default()
            };
            let run = Run {
                first: Lsn(log),
                term: Term(2),
                prev_term: Term(1),
                segment: SegmentSeq(8),
                count: 3,
                offset: 4160,
                end: 4500,
                bytes: 340,
                cut: log % 4 == 0,
            };
            index.apply(&meta, [run].into_iter());
            let copy = RecordMeta { kind: RecordKind::Copy, first: Lsn(1), last: Lsn(2), count: 2, ..meta };
            let copied =
                Run { first: Lsn(1), count: 2, offset: 8192, end: 8300, bytes: 99, cut: true, ..run };
            if log > 20 {
                index.apply(&copy, [copied].into_iter());
            }
        }
        let tail = FooterTail {
            salt: 5,
            seq: SegmentSeq(8),
            first_batch: BatchSeq(3),
            last_batch: BatchSeq(9),
            oldest_live: SegmentSeq(4),
            frames_end: 40960,
            index_bytes: 0,
            index_crc: 0,
        };
        (tail, index)
    }

    #[test]
    fn a_footer_comes_back_and_a_flip_is_seen_or_harmless() {
        let (tail, index) = sample();
        let footer = encode(tail, &index, 1 << 20);
        let read = FooterTail::decode(&footer).expect("whole");
        assert_eq!((read.frames_end, read.last_batch), (tail.frames_end, tail.last_batch));
        assert_eq!(read.footer_bytes(), footer.len());
        assert_eq!(decode(&read, &footer), Some(index.clone()));
        for at in 0..footer.len() {
            let mut bad = footer.clone();
            bad[at] ^= 0x20;
            let found = FooterTail::decode(&bad).and_then(|tail| decode(&tail, &bad));
            assert!(found.is_none() || found == Some(index.clone()), "byte {at}");
        }
    }

    #[test]
    fn an_index_beyond_the_reserve_is_left_out() {
        let (tail, index) = sample();
        let footer = encode(tail, &index, 1024);
        let read = FooterTail::decode(&footer).expect("whole");
        assert_eq!((read.index_bytes, footer.len()), (0, BLOCK_BYTES));
    }
}
