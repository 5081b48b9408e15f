//! Reading a segment's frames in order, and saying what stands where they stop.

use crate::device::BLOCK_BYTES;
use crate::format::frame::{FRAME_HEAD_BYTES, FrameHead};
use crate::format::record::{self, RecordKind, RecordView};
use crate::format::sectors::{self, SECTOR_BYTES};
use crate::ids::{BatchSeq, LogId, SegmentSeq};
use crate::index::SegmentIndex;
use crate::planted::{self, Planted};
use crate::runs::Run;

/// A segment's bytes, read or mapped.
#[derive(Debug)]
pub(crate) struct Image<B = Vec<u8>> {
    pub bytes: B,
    pub salt: u64,
    pub seq: SegmentSeq,
}

/// The frames of a segment up to where they stop.
#[derive(Debug)]
pub(crate) struct Scan {
    pub effects: SegmentIndex,
    /// Where the last whole frame ends.
    pub end: u32,
    pub last_batch: BatchSeq,
    pub stop: Stop,
}

/// Why a scan stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// The frames end where the next segment or the footer says.
    StatedEnd,
    /// There is no whole frame, and some sector there was never written.
    NotWhole,
    /// All sectors were written and are not as they were written: why, and where what is not begins, the frame or a record of it.
    Damaged(&'static str, u32),
}

/// What is wrong with the frame at `frame`, of which what is not as it was written begins at `at`, for people.
pub(crate) fn damage_in_words(why: &str, at: u32, frame: u32) -> String {
    if at == frame { why.to_owned() } else { format!("{why}: the first that is not begins at {at}") }
}

/// The frame at a position.
pub(crate) enum Check {
    Whole(FrameHead, Vec<u8>),
    Stop(Stop),
}

impl<B: AsRef<[u8]>> Image<B> {
    fn sector_number(offset: u32) -> u32 {
        offset / u32::try_from(SECTOR_BYTES).expect("a small constant")
    }

    fn from(&self, offset: u32) -> &[u8] {
        self.bytes.as_ref().get(offset as usize..).unwrap_or_default()
    }

    fn head(&self, offset: u32) -> Option<FrameHead> {
        FrameHead::decode(self.from(offset)).filter(|head| head.offset == offset && head.salt == self.salt)
    }

    /// The whole frame heads from a block on; what they say was true when they were written, even if the rest of
    /// their frames never arrived.
    pub fn heads(&self, offset: u32) -> impl Iterator<Item = FrameHead> {
        let end = u32::try_from(self.bytes.as_ref().len()).expect("a slot's size fits");
        (offset..end).step_by(BLOCK_BYTES).filter_map(|at| self.head(at))
    }

    /// Whether anything from a position on was written in this use of the slot.
    pub fn any_stamped(&self, offset: u32) -> bool {
        sectors::count_stamped(self.from(offset), self.salt, Self::sector_number(offset)).0 > 0
    }

    /// Where the last block ends that was written in this use of the slot; `offset` if none was from there on.
    pub fn written_end(&self, offset: u32) -> u32 {
        let block = u32::try_from(BLOCK_BYTES).expect("a small constant");
        let stamped =
            |at: u32, block: &[u8]| sectors::count_stamped(block, self.salt, Self::sector_number(at)).0 > 0;
        (offset..)
            .step_by(BLOCK_BYTES)
            .zip(self.from(offset).chunks_exact(BLOCK_BYTES))
            .filter(|(at, bytes)| stamped(*at, bytes))
            .last()
            .map_or(offset, |(at, _)| at + block)
    }

    /// The log ids that the records at a damaged frame seem to carry; unverified.
    pub fn claimed_logs(&self, offset: u32) -> Vec<LogId> {
        let mut content = Vec::new();
        let most = (self.bytes.as_ref().len() - offset as usize).min(1 << 20);
        let _whole = sectors::gather(self.from(offset), 0, sectors::content_bytes(most), &mut content);
        let mut logs = Vec::new();
        let mut rest = content.get(FRAME_HEAD_BYTES..).unwrap_or_default();
        while let (Some(len), Some(log)) = (record::record_len(rest), record::claimed_log(rest)) {
            if len < record::RECORD_HEAD_BYTES {
                break;
            }
            logs.push(log);
            rest = rest.get(record::aligned(len)..).unwrap_or_default();
        }
        logs.sort_unstable();
        logs.dedup();
        logs
    }

    /// The frame at a block, if it is whole and of the batch that comes next.
    pub fn check(&self, offset: u32, expected: BatchSeq) -> Check {
        let stale_ok = planted::is(Planted::StaleFrameAccepted);
        let head = match self.head(offset) {
            Some(head) => head,
            None if stale_ok && FrameHead::decode(self.from(offset)).is_some() => {
                FrameHead::decode(self.from(offset)).unwrap_or_default()
            }
            None => return Check::Stop(self.without_head(offset)),
        };
        let len = FRAME_HEAD_BYTES + head.content_bytes as usize;
        let frame = self.from(offset).get(..sectors::frame_bytes(len)).unwrap_or_default();
        let mut content = Vec::with_capacity(len);
        let gathered = sectors::gather(frame, 0, len, &mut content);
        let unsound = first_unsound(&head, &content);
        if !gathered || unsound.is_some() {
            let (stamped, all) = sectors::count_stamped(frame, self.salt, Self::sector_number(offset));
            return Check::Stop(if stamped == all {
                let at = sectors::physical(unsound.unwrap_or(0));
                let at = offset + u32::try_from(at).expect("a frame is smaller than its segment");
                Stop::Damaged("every sector of the frame was written, but its records are not whole", at)
            } else {
                Stop::NotWhole
            });
        }
        if head.batch != expected && !stale_ok {
            return Check::Stop(Stop::Damaged("the frame is whole but out of sequence", offset));
        }
        Check::Whole(head, content)
    }

    /// Whether nothing but zeros follows a frame's content.
    fn padding_is_blank(&self, offset: u32, content_len: usize) -> bool {
        let frame_bytes = sectors::frame_bytes(content_len);
        let mut padding = Vec::new();
        let rest = sectors::content_bytes(frame_bytes) - content_len;
        sectors::gather(self.from(offset), content_len, rest, &mut padding)
            && padding.iter().all(|byte| *byte == 0)
    }

    fn without_head(&self, offset: u32) -> Stop {
        let sector = self.from(offset).get(..SECTOR_BYTES).unwrap_or_default();
        match sectors::count_stamped(sector, self.salt, Self::sector_number(offset)) {
            (1, _) => Stop::Damaged("the frame's head was written, but is not whole", offset),
            _ => Stop::NotWhole,
        }
    }
}

/// The records of a frame's content, each verified; stops at the first that is not whole.
pub(crate) fn records<'a>(
    head: &FrameHead,
    content: &'a [u8],
) -> impl Iterator<Item = (usize, usize, RecordView<'a>)> {
    let mut at = FRAME_HEAD_BYTES;
    (0..head.records).map_while(move |_| {
        let rest = content.get(at..)?;
        let view = record::decode(rest)?;
        let start = at;
        let len = record::record_len(rest)?;
        at += record::aligned(len);
        Some((start, len, view))
    })
}

/// Where in a frame's content the first record begins that is not whole; 0 if each is, but not those that the head seals.
/// `None`: all of them are.
fn first_unsound(head: &FrameHead, content: &[u8]) -> Option<usize> {
    let mut crc = crc32fast::Hasher::new();
    let (mut count, mut end) = (0, FRAME_HEAD_BYTES);
    for (at, len, view) in records(head, content) {
        if view.entries().any(|entry| entry.is_none()) {
            return Some(at);
        }
        crc.update(&view.crc.to_le_bytes());
        count += 1;
        end = at + record::aligned(len);
    }
    if count < head.records {
        return Some(end);
    }
    (crc.finalize() != head.records_crc).then_some(0)
}

/// The entries of a record as runs of one term; the record lies at `at` of the frame at `offset`.
pub(crate) fn runs(
    view: &RecordView<'_>,
    segment: SegmentSeq,
    offset: u32,
    at: usize,
    len: usize,
) -> Vec<Run> {
    let offset_of = |logical: usize| {
        offset + u32::try_from(sectors::physical(logical)).expect("a frame is smaller than its segment")
    };
    let (start, end) = (offset_of(at), offset_of(at + len));
    let mut runs: Vec<Run> = Vec::new();
    for entry in view.entries().flatten() {
        let prev_term = runs.last().map_or(view.meta.prev_term, |run| run.term);
        match runs.last_mut() {
            Some(run) if run.term == entry.term => run.count += 1,
            _ => runs.push(Run {
                first: entry.lsn,
                term: entry.term,
                prev_term,
                segment,
                count: 1,
                offset: start,
                end,
                bytes: 0,
                cut: view.meta.kind == RecordKind::Copy,
            }),
        }
    }
    for run in &mut runs {
        run.bytes = record::share_bytes(len, run.count, view.meta.count);
    }
    runs
}

/// The bytes on disk of a frame with this content.
pub(crate) fn frame_bytes(content: &[u8]) -> u32 {
    u32::try_from(sectors::frame_bytes(content.len())).expect("smaller than a segment")
}

/// Reads frames from the segment's start until they stop. `before` is the last batch in front of the segment.
pub(crate) fn scan(image: &Image, before: BatchSeq, stated_end: Option<u32>) -> Scan {
    let mut effects = SegmentIndex::default();
    let mut end = u32::try_from(BLOCK_BYTES).expect("a small constant");
    let mut last_batch = before;
    let stop = loop {
        if stated_end == Some(end) {
            break Stop::StatedEnd;
        }
        let (head, content) = match image.check(end, last_batch.next()) {
            Check::Whole(head, content) => (head, content),
            Check::Stop(stop) => break stop,
        };
        for (at, len, view) in records(&head, &content) {
            let runs = runs(&view, image.seq, end, at, len);
            effects.apply(&view.meta, runs.into_iter());
        }
        if !image.padding_is_blank(end, content.len()) {
            // Sectors of mere padding never arrived: the records are whole, but a reader could not go on from one
            // frame to the next over the old bytes there.
            effects.logs.values_mut().for_each(|part| part.runs.cut());
        }
        last_batch = last_batch.next();
        end += frame_bytes(&content);
        assert!(end as usize <= image.bytes.len(), "a whole frame ends inside its segment's file");
    };
    Scan { effects, end, last_batch, stop }
}
