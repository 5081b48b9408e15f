//! One segment from its first frame to its end, and on behind whatever is not whole.

use super::{Fault, Passing, SegmentSummary, Used};
use crate::device::BLOCK_BYTES;
use crate::format::record;
use crate::ids::{BatchSeq, Term, WalPosition};
use crate::index::SegmentIndex;
use crate::scan::{self, Check, Stop};

/// The outcome of one segment.
pub(super) struct Walked {
    pub(super) summary: SegmentSummary,
    pub(super) effects: SegmentIndex,
    pub(super) faults: Vec<Fault>,
    /// Where the log ends in frames that were never acknowledged, or ends before the segments behind.
    pub(super) torn: Option<WalPosition>,
}

/// A walk over one segment.
pub(super) struct Walk<'a, 'p> {
    segment: &'a Used<'a>,
    later: &'a [Used<'a>],
    pass: &'p mut dyn FnMut(Passing<'_>),
    /// The last batch that the manifest knows as durable.
    known: BatchSeq,
    /// The batch that comes next.
    expected: BatchSeq,
    at: u32,
    walked: Walked,
}

impl<'a, 'p> Walk<'a, 'p> {
    /// `before` is the last batch in front of the segment, `known` the last one that the manifest knows as durable, `later`
    /// are the segments behind it.
    pub(super) fn new(
        segment: &'a Used<'a>,
        later: &'a [Used<'a>],
        (before, known): (BatchSeq, BatchSeq),
        pass: &'p mut dyn FnMut(Passing<'_>),
    ) -> Self {
        let at = u32::try_from(BLOCK_BYTES).expect("a small constant");
        let summary = SegmentSummary {
            seq: segment.header.seq,
            slot: segment.slot,
            bytes: segment.header.segment_bytes,
            first_batch: before.next(),
            last_batch: before,
            end: at,
            frames: 0,
            records: 0,
            entries: 0,
            live_entries: 0,
            footer: segment.tail().is_some(),
        };
        let walked = Walked { summary, effects: SegmentIndex::default(), faults: Vec::new(), torn: None };
        Self { segment, later, pass, known, expected: before.next(), at, walked }
    }

    pub(super) fn run(mut self) -> Walked {
        let next = self.later.first().map(|next| (next.header.prev_end, next.header.prev_batch));
        let tail = self.segment.tail().map(|tail| (tail.frames_end, tail.last_batch));
        let stated = next.or(tail);
        loop {
            if let Some((end, batch)) = stated
                && self.at >= end
            {
                if self.walked.summary.last_batch != batch {
                    let why = format!("it should end in batch {batch}");
                    self.fault(end, 0, why);
                }
                return self.walked;
            }
            match self.segment.image().check(self.at, self.expected) {
                Check::Whole(head, content) => self.frame(&head, &content),
                Check::Stop(stop) => {
                    if !self.stopped(stop, stated.map(|(end, _)| end)) {
                        return self.walked;
                    }
                }
            }
        }
    }

    fn frame(&mut self, head: &crate::format::frame::FrameHead, content: &[u8]) {
        let bytes = scan::frame_bytes(content);
        (self.pass)(Passing::Frame(head, bytes));
        let summary = &mut self.walked.summary;
        for (at, len, view) in scan::records(head, content) {
            let mut entries = view.entries().flatten().map(|entry| entry.term);
            let first = entries.next();
            let terms: Option<(Term, Term)> = first.map(|term| (term, entries.last().unwrap_or(term)));
            (self.pass)(Passing::Record(&view, record::aligned(len), terms));
            let runs = scan::runs(&view, self.segment.header.seq, self.at, at, len);
            self.walked.effects.apply(&view.meta, runs.into_iter());
            summary.records += 1;
            summary.entries += u64::from(view.meta.count);
        }
        summary.frames += 1;
        summary.last_batch = head.batch;
        self.at += bytes;
        summary.end = self.at;
        self.expected = head.batch.next();
    }

    /// Deals with a position without a whole frame: false at the end of the log, true to go on behind it.
    fn stopped(&mut self, stop: Stop, stated_end: Option<u32>) -> bool {
        let bad = self.expected;
        let why = match stop {
            Stop::Damaged(why, at) => scan::damage_in_words(why, at, self.at),
            Stop::NotWhole | Stop::StatedEnd => {
                let vouched = self.vouched();
                if vouched < bad {
                    if self.segment.image().any_stamped(self.at) || !self.later.is_empty() {
                        self.walked.torn = Some(self.position(self.at));
                    }
                    return false;
                }
                format!("batch {bad} is missing there, but batch {vouched} is known to be durable")
            }
        };
        let block = u32::try_from(BLOCK_BYTES).expect("a small constant");
        let limit = stated_end.unwrap_or(self.segment.header.segment_bytes);
        let behind = self
            .segment
            .image()
            .heads(self.at + block)
            .find(|head| head.offset < limit && head.batch >= bad)
            .map(|head| (head.offset, head.batch));
        let resume = behind.map(|(offset, _)| offset).or(stated_end);
        self.fault(self.at, resume.map_or(0, |offset| offset - self.at), why);
        match (behind, stated_end) {
            (Some((offset, batch)), _) => (self.at, self.expected) = (offset, batch),
            // The fault reaches to the end, so the last batch is among what is lost, not one more fault.
            (None, Some(_)) | (None, None) => return false,
        }
        true
    }

    /// The highest batch that anything behind this position says was durable.
    fn vouched(&self) -> BatchSeq {
        let here = self.segment.vouches_for(self.at).max(self.known);
        self.later.iter().map(|later| later.vouches_for(0)).max().unwrap_or_default().max(here)
    }

    fn position(&self, offset: u32) -> WalPosition {
        WalPosition { segment: self.segment.header.seq, offset }
    }

    fn fault(&mut self, offset: u32, bytes: u32, why: String) {
        let logs = if bytes == 0 { Vec::new() } else { self.segment.image().claimed_logs(offset) };
        let fault = Fault { slot: self.segment.slot, position: self.position(offset), bytes, why, logs };
        (self.pass)(Passing::Fault(&fault));
        self.walked.faults.push(fault);
    }
}
