//! The sizes of slots: the first of a log are small, so that an empty one takes little of the disk, and they grow.
//!
//! Every segment that was filled doubles what is made from then on, up to `segment_bytes`; a frame that no slot at hand
//! takes has one made that does. A log with a limit on its slots has all of them at full size, since the limit counts
//! them. Invariant: a segment's size stands in its header and is that of its file, so sizes mix freely, and nothing but
//! the making of slots depends on the size to come.

use crate::batch::Batch;
use crate::device::{BLOCK_BYTES, Device};
use crate::format::frame::FRAME_HEAD_BYTES;
use crate::format::{footer, record, sectors};
use crate::ids::SegmentSeq;
use crate::options::{MIN_SEGMENT_BYTES, Options, Space};
use crate::wal::Wal;

/// A live segment counts as one part in this many of a full one at least: a file costs more than its bytes.
const PARTS: u64 = 8;

/// The largest frame that a fresh slot of this size takes.
pub(crate) fn frame_room(slot_bytes: u32) -> usize {
    (slot_bytes - footer::reserve_bytes(slot_bytes)) as usize - BLOCK_BYTES
}

/// The size of a frame with one record of this length.
pub(crate) fn frame_with(record_bytes: usize) -> usize {
    sectors::frame_bytes(record::aligned(FRAME_HEAD_BYTES) + record_bytes)
}

impl Options {
    /// The size of a new log's first slots.
    fn first_bytes(&self) -> u32 {
        let is_limited = self.max_segments > 0;
        if is_limited { self.segment_bytes } else { self.first_segment_bytes.min(self.segment_bytes) }
    }

    /// Whether a slot of this size may become a segment.
    pub(crate) fn takes_slot(&self, bytes: u32) -> bool {
        (self.first_bytes()..=self.segment_bytes).contains(&bytes) && bytes.is_multiple_of(MIN_SEGMENT_BYTES)
    }

    /// The size of the slots that are made after a start that found these.
    pub(crate) fn slot_bytes(&self, found: impl Iterator<Item = u32>) -> u32 {
        let usable = found.filter(|bytes| self.takes_slot(*bytes));
        usable.max().unwrap_or_default().max(self.first_bytes())
    }

    /// The size of a slot that takes such a frame, at least `bytes`.
    fn slot_bytes_for(&self, mut bytes: u32, frame_bytes: usize) -> u32 {
        while frame_room(bytes) < frame_bytes && bytes < self.segment_bytes {
            bytes = self.grown(bytes);
        }
        assert!(frame_room(bytes) >= frame_bytes, "a frame of {frame_bytes} bytes is larger than a segment");
        bytes
    }

    /// The size that follows.
    fn grown(&self, bytes: u32) -> u32 {
        bytes.saturating_mul(2).min(self.segment_bytes)
    }
}

impl<D: Device> Wal<D> {
    /// A segment of this size was filled.
    pub(crate) fn grow_from(&mut self, bytes: u32) {
        self.making.bytes = self.making.bytes.max(self.options.grown(bytes));
    }

    /// Makes sure that a slot that takes such a frame is made, if there is none.
    pub(crate) fn want_room_for(&mut self, frame_bytes: usize) {
        if self.segments.spare_for(frame_bytes).is_none() {
            self.making.bytes = self.options.slot_bytes_for(self.making.bytes, frame_bytes);
            if self.making.wait_polls == 0 {
                self.make_spares();
            }
        }
    }

    /// Records gather up to this many bytes for one frame: it fits into any slot at hand.
    pub(crate) fn batch_bytes(&self) -> usize {
        let spares = self.segments.spare_bytes();
        let active = self.segments.active.as_ref().map(|active| active.bytes);
        let smallest = spares.chain(active).min().unwrap_or(self.making.bytes);
        smallest as usize / 2
    }

    /// The longest record that a frame can take, in bytes.
    pub fn record_limit_bytes(&self) -> usize {
        self.options.record_limit_bytes()
    }

    /// The size of the largest slot that the next frames can go to.
    pub(crate) fn slot_at_hand(&self) -> u32 {
        let active = self.segments.active.as_ref().map(|active| active.bytes);
        self.segments.spare_bytes().max().or(active).unwrap_or(self.making.bytes)
    }

    /// Whether frames wait for room: none is being written, and none can be started.
    pub fn is_waiting_for_room(&self) -> bool {
        !self.can_submit() && self.commit.in_flight.is_empty() && !self.is_wiping()
    }

    /// Room for new records.
    pub fn space(&self) -> Space {
        let waits = |batch: &Batch<D::Buffer>| self.segments.spare_for(batch.frame_bytes()).is_none();
        let is_short = self.segments.spares() <= 1
            || (self.commit.in_flight.is_empty() && self.commit.ready.front().is_some_and(waits));
        if self.making.blocked && is_short { Space::Full } else { Space::Ok }
    }

    /// Whether slots are wanted that could not be made.
    pub fn is_short_of_slots(&self) -> bool {
        self.making.blocked
    }

    /// Has the next poll try again to make the slots that there was no room for, rather than some polls later, and to
    /// read what it could not.
    pub fn retry_slots(&mut self) {
        self.making.wait_polls = 0;
        self.copying.try_again();
    }

    /// The length of the log from a segment on, in parts of a full one.
    fn parts_from(&self, first: SegmentSeq) -> u64 {
        let live = self.segments.live().filter(|segment| segment.seq >= first);
        if self.options.max_segments > 0 {
            return live.count() as u64 * PARTS;
        }
        let full = u64::from(self.options.segment_bytes);
        live.map(|segment| (u64::from(segment.bytes) * PARTS).div_ceil(full).max(1)).sum()
    }

    /// The length of the log from a segment on, in full segments, rounded up.
    #[must_use]
    pub fn full_segments_from(&self, first: SegmentSeq) -> u64 {
        self.parts_from(first).div_ceil(PARTS)
    }

    /// Whether the log is long, or twice that, or half way from there to its limit.
    pub(crate) fn is_longer_than(&self, times: usize) -> bool {
        self.parts_from(SegmentSeq::ZERO) > self.long_parts(times)
    }

    fn long_parts(&self, times: usize) -> u64 {
        let (long, max) = (self.options.long_segments, self.options.max_segments);
        let bound = if max > 0 { max - max / (2 * times) } else { usize::MAX };
        bound.min(long * times) as u64 * PARTS
    }

    /// Whether the log from a segment on is by itself longer than half of a long log.
    pub(crate) fn is_over_half_long_from(&self, first: SegmentSeq) -> bool {
        self.parts_from(first) > self.long_parts(1) / 2
    }
}
