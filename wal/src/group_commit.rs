//! Group commit: the open batch, closed ones that wait for room, frames in flight, and the durable watermark.
//!
//! A frame may complete before an older one; the watermark moves only over the contiguous prefix. Frames stay here,
//! readable, until the watermark has passed them.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use crate::batch::{Batch, BatchRecords, Claim};
use crate::device::IoId;
use crate::format::sectors;
use crate::ids::{BatchSeq, LogId, Lsn, SegmentSeq, Term};
#[cfg(feature = "sim")]
use crate::index::LogMap;
use crate::planted::{self, Planted};

/// A frame handed to the device.
#[derive(Debug)]
pub(crate) struct Frame<B> {
    pub seq: BatchSeq,
    pub io: IoId,
    pub segment: SegmentSeq,
    /// Where the frame starts in its segment.
    pub offset: u32,
    /// Where it starts in its buffer: behind the segment header, if it brought one.
    pub skip: usize,
    pub records: BatchRecords,
    /// The buffer, once the device has handed it back.
    pub done: Option<B>,
    /// Counted as durable.
    pub acknowledged: bool,
}

impl<B: Deref<Target = [u8]>> Frame<B> {
    /// Copies a record out of the frame's buffer; `lent` is what the device lends of a write in flight.
    pub fn content(&self, lent: Option<&[u8]>, at: usize, len: usize) -> Option<Vec<u8>> {
        let buffer = self.done.as_deref().or(lent)?;
        let mut out = Vec::with_capacity(len);
        sectors::gather(buffer.get(self.skip..)?, at, len, &mut out).then_some(out)
    }
}

/// Batches on their way to the medium.
#[derive(Debug)]
pub(crate) struct GroupCommit<B> {
    pub open: Option<Batch<B>>,
    /// Closed, in order: they did not fit into the segment or the slots in flight.
    pub ready: VecDeque<Batch<B>>,
    /// Handed to the device, in order.
    pub in_flight: VecDeque<Frame<B>>,
    pub durable: BatchSeq,
    next: BatchSeq,
}

impl<B: Deref<Target = [u8]> + DerefMut> GroupCommit<B> {
    pub fn new(durable: BatchSeq) -> Self {
        Self { open: None, ready: VecDeque::new(), in_flight: VecDeque::new(), durable, next: durable.next() }
    }

    /// Opens a batch over this buffer.
    pub fn begin(&mut self, buffer: B) -> &mut Batch<B> {
        assert!(self.open.is_none(), "one batch is open at a time");
        let seq = self.next;
        assert!(self.durable < seq, "batch {seq} is durable before it begins");
        self.next = seq.next();
        self.open.insert(Batch::new(seq, buffer))
    }

    /// The newest batch there is, open or not.
    pub fn latest(&self) -> BatchSeq {
        BatchSeq(self.next.get() - 1)
    }

    /// Closes the open batch.
    pub fn close(&mut self) -> Option<BatchSeq> {
        let batch = self.open.take()?;
        let seq = batch.seq;
        self.ready.push_back(batch);
        Some(seq)
    }

    /// What the batches that wait take on the disk.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting().map(Batch::frame_bytes).sum()
    }

    /// Closed batches without a claim to room get this one.
    pub fn claim(&mut self, claim: Claim) {
        assert!(claim != Claim::Unasked, "a claim is not given back");
        self.ready
            .iter_mut()
            .filter(|batch| batch.claim == Claim::Unasked)
            .for_each(|batch| batch.claim = claim);
    }

    /// The device has ended a frame's write. False if it is none of ours.
    pub fn ended(&mut self, io: IoId, buffer: Option<B>) -> bool {
        match self.in_flight.iter_mut().find(|frame| frame.io == io) {
            Some(frame) => {
                assert!(frame.done.is_none(), "the frame of batch {} has ended twice", frame.seq);
                frame.done = buffer;
                true
            }
            None => false,
        }
    }

    /// The frames in flight that are on the medium together with all before them, in order.
    pub fn done_in_order(&self) -> impl Iterator<Item = &Frame<B>> {
        self.in_flight.iter().take_while(|frame| frame.done.is_some())
    }

    /// Asserts what holds between any two calls.
    #[cfg(feature = "sim")]
    pub fn check(&self) {
        let mut next = self.durable.next();
        let mut before = (SegmentSeq::ZERO, 0);
        for Frame { seq, segment, offset, acknowledged, .. } in &self.in_flight {
            assert_eq!(*seq, next, "batch {seq} is in flight, behind the watermark {}", self.durable);
            assert!(!acknowledged, "batch {seq} is durable and still in flight");
            assert!(before < (*segment, *offset), "batch {seq} lies in front of the one before");
            (next, before) = (seq.next(), (*segment, *offset));
        }
        for batch in self.ready.iter().chain(&self.open) {
            assert_eq!(batch.seq, next, "batch {} waits behind one that is not there", batch.seq);
            batch.check();
            next = next.next();
        }
        assert_eq!(next, self.next, "batches have numbers, and are not there");
    }

    /// How many records of each log have entries, and no position yet.
    #[cfg(feature = "sim")]
    pub fn waiting_records(&self) -> LogMap<u32> {
        let mut records = LogMap::default();
        for log in self.waiting().flat_map(|batch| batch.records.adds_to()) {
            *records.entry(log).or_default() += 1;
        }
        records
    }

    /// Whether a record without a position says something of a log.
    #[cfg(feature = "sim")]
    pub fn speaks_of(&self, log: LogId) -> bool {
        self.waiting().any(|batch| batch.records.speaks_of(log))
    }

    /// Moves the watermark over the frames that are on the medium, in segments up to the one that the manifest names; hands
    /// those out that nothing waits for any more.
    pub fn advance(&mut self, named: SegmentSeq) -> Vec<Frame<B>> {
        let mut hole = false;
        for frame in &mut self.in_flight {
            let waits = frame.done.is_none() || frame.segment > named;
            hole |= waits && !planted::is(Planted::AckBeforeDurable);
            if !hole || (planted::is(Planted::WatermarkSkipsHole) && frame.done.is_some()) {
                frame.acknowledged = true;
                self.durable = self.durable.max(frame.seq);
            }
        }
        let passed =
            self.in_flight.iter().take_while(|frame| frame.acknowledged && frame.done.is_some()).count();
        assert!(self.durable < self.next, "batch {} is durable, and was never there", self.durable);
        self.in_flight.drain(..passed).collect()
    }

    /// The batches that have no position yet, newest first.
    fn waiting(&self) -> impl Iterator<Item = &Batch<B>> {
        self.open.iter().chain(self.ready.iter().rev())
    }

    /// The lowest entry of a log that a record without a position yet adds or replaces.
    pub fn lowest_waiting(&self, log: LogId) -> Option<Lsn> {
        self.waiting().filter_map(|batch| batch.records.lowest(log)).min()
    }

    /// The term of an entry that has no position in a segment yet.
    pub fn waiting_term(&self, log: LogId, lsn: Lsn) -> Option<Term> {
        self.waiting().find_map(|batch| batch.records.term(log, lsn))
    }

    /// The bytes of the record that holds an entry, if it is not durable yet. `limit` is lowered to the last entry that
    /// no newer record replaces.
    pub fn content<'a>(
        &self,
        log: LogId,
        lsn: Lsn,
        limit: &mut Lsn,
        lend: impl Fn(IoId) -> Option<&'a [u8]>,
    ) -> Option<Vec<u8>> {
        for batch in self.waiting() {
            if let Some((at, len)) = batch.records.find(log, lsn, limit) {
                return batch.content(at, len);
            }
        }
        for frame in self.in_flight.iter().rev() {
            if let Some((at, len)) = frame.records.find(log, lsn, limit) {
                let content = frame.content(lend(frame.io), at, len);
                assert!(content.is_some(), "the buffer of frame {} is neither lent nor back", frame.seq);
                return content;
            }
        }
        None
    }

    /// Where the first frame in flight starts in a segment: bytes from there on are not on the medium yet.
    pub fn first_in_flight(&self, segment: SegmentSeq) -> Option<u32> {
        self.in_flight.iter().find(|frame| frame.segment == segment).map(|frame| frame.offset)
    }

    /// The log lost all its entries: those that have no position yet must not get one.
    pub fn forget(&mut self, log: LogId) {
        self.open.iter_mut().chain(self.ready.iter_mut()).for_each(|batch| batch.records.forget(log));
    }
}
