//! The segments and slots of a WAL: spare -> active -> sealed -> retired -> spare. Freed oldest first.
//!
//! Oldest first is what makes deletion simple: a tombstone, an overwrite or a newer state always lies behind what it
//! replaces, so it can never be freed before it. A retired slot is reused only when a durable frame says that
//! nothing below it is live any more, so that a half-overwritten slot can never be taken for a part of the log.

use std::collections::VecDeque;

use crate::device::SlotId;
use crate::growth::frame_room;
use crate::ids::{BatchSeq, SegmentSeq};
use crate::runs::Run;

/// A segment that holds frames.
#[derive(Debug)]
pub(crate) struct Segment {
    pub seq: SegmentSeq,
    pub slot: SlotId,
    /// The file's size.
    pub bytes: u32,
    pub salt: u64,
    /// Where its frames end.
    pub end: u32,
    /// The first and the last batch in it.
    pub first_batch: BatchSeq,
    pub last_batch: BatchSeq,
    /// Entries in it that a log still holds.
    pub live_entries: u64,
    /// What these take of their records.
    pub live_bytes: u64,
    /// Reads and the footer's write under way: the slot stays as it is until they have ended.
    pub pins: u32,
}

/// A segment without live data, on its way back to the spares.
#[derive(Debug)]
struct Retired {
    segment: Segment,
    /// The first frame that announces it.
    announced_in: Option<BatchSeq>,
}

/// All slots by role.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// Being written.
    pub active: Option<Segment>,
    /// Full or left behind at a restart, oldest first.
    pub sealed: VecDeque<Segment>,
    retired: VecDeque<Retired>,
    /// With their sizes, as all slots.
    spares: VecDeque<(SlotId, u32)>,
    making: Vec<(SlotId, u32)>,
    next_slot: u32,
    next_seq: SegmentSeq,
    /// Slots that exist or are being made.
    slots: usize,
}

impl Segments {
    pub fn new(
        sealed: VecDeque<Segment>,
        spares: VecDeque<(SlotId, u32)>,
        next_slot: u32,
        newest: SegmentSeq,
    ) -> Self {
        let slots = sealed.len() + spares.len();
        Self { sealed, spares, next_slot, next_seq: newest.next(), slots, ..Self::default() }
    }

    /// The segments that may hold live data, oldest first.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.sealed.iter().chain(self.active.iter())
    }

    /// The segments that are not spares again, oldest first.
    pub fn held(&self) -> impl Iterator<Item = &Segment> {
        self.retired.iter().map(|retired| &retired.segment).chain(self.live())
    }

    /// A segment in any role but spare.
    pub fn get(&self, seq: SegmentSeq) -> Option<&Segment> {
        self.held().find(|segment| segment.seq == seq)
    }

    /// The number of the segment that comes next.
    #[cfg(feature = "sim")]
    pub fn next_seq(&self) -> SegmentSeq {
        self.next_seq
    }

    /// A segment in any role but spare.
    pub fn get_mut(&mut self, seq: SegmentSeq) -> Option<&mut Segment> {
        if self.active.as_ref().is_some_and(|active| active.seq == seq) {
            return self.active.as_mut();
        }
        match self.sealed.binary_search_by_key(&seq, |segment| segment.seq) {
            Ok(at) => self.sealed.get_mut(at),
            Err(_) => {
                self.retired.iter_mut().map(|retired| &mut retired.segment).find(|segment| segment.seq == seq)
            }
        }
    }

    /// A log holds these entries.
    pub fn add_live(&mut self, run: &Run) {
        if let Some(segment) = self.get_mut(run.segment) {
            segment.live_entries += u64::from(run.count);
            segment.live_bytes += u64::from(run.bytes);
        }
    }

    /// A log does not hold these entries any more, or holds them elsewhere.
    pub fn drop_live(&mut self, run: &Run) {
        if let Some(segment) = self.get_mut(run.segment) {
            let (seq, entries) = (segment.seq, u64::from(run.count));
            assert!(segment.live_entries >= entries, "segment {seq} loses more entries than it holds");
            assert!(
                segment.live_bytes >= u64::from(run.bytes),
                "segment {seq} loses more bytes than it holds"
            );
            segment.live_entries -= entries;
            segment.live_bytes -= u64::from(run.bytes);
        }
    }

    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// The sizes of the spares.
    pub fn spare_bytes(&self) -> impl Iterator<Item = u32> {
        self.spares.iter().map(|(_, bytes)| *bytes)
    }

    /// The first spare that takes a frame of this size.
    pub fn spare_for(&self, frame_bytes: usize) -> Option<usize> {
        self.spare_bytes().position(|bytes| frame_room(bytes) >= frame_bytes)
    }

    /// Whether a spare has this size at least; with `or_making` also one that is being made.
    pub fn has_spare_of(&self, bytes: u32, or_making: bool) -> bool {
        let making = self.making.iter().filter(|_| or_making).map(|(_, bytes)| *bytes);
        self.spare_bytes().chain(making).any(|of| of >= bytes)
    }

    /// Seals the active segment and makes a spare that takes such a frame the new active one. `None` without one.
    pub fn roll(
        &mut self,
        frame_bytes: usize,
        salt: impl Fn(SegmentSeq) -> u64,
        batch: BatchSeq,
    ) -> Option<&Segment> {
        let (slot, bytes) = self.spares.remove(self.spare_for(frame_bytes)?)?;
        let seq = self.next_seq;
        self.next_seq = seq.next();
        let before = self.live().next_back();
        assert!(
            before.is_none_or(|before| before.seq < seq && before.last_batch < batch),
            "segment {seq} begins with batch {batch}, behind {before:?}"
        );
        let next = Segment {
            seq,
            slot,
            bytes,
            salt: salt(seq),
            end: 0,
            first_batch: batch,
            last_batch: batch,
            live_entries: 0,
            live_bytes: 0,
            pins: 0,
        };
        if let Some(full) = self.active.replace(next) {
            self.sealed.push_back(full);
        }
        self.active.as_ref()
    }

    /// Makes the newest sealed segment the active one again, if there is none and that one has room.
    pub fn reopen_newest(&mut self) -> bool {
        let has_room = |newest: &Segment| crate::resume::has_room(newest.end, newest.bytes);
        if self.active.is_none() && self.sealed.back().is_some_and(has_room) {
            self.active = self.sealed.pop_back();
        }
        self.active.is_some()
    }

    /// The lowest segment that was not retired: what a frame written now says is the oldest live one.
    pub fn oldest_live(&self) -> SegmentSeq {
        self.live().next().map_or(self.next_seq, |segment| segment.seq)
    }

    /// Takes the oldest sealed segment out of the log.
    pub fn retire_oldest(&mut self) {
        if let Some(segment) = self.sealed.pop_front() {
            assert_eq!(segment.live_entries, 0, "segment {} is retired with live entries", segment.seq);
            assert_eq!(segment.live_bytes, 0, "segment {} is retired with live bytes", segment.seq);
            self.retired.push_back(Retired { segment, announced_in: None });
        }
    }

    /// A frame announces which segment is the oldest live one, and with it all that are retired.
    pub fn announce_in(&mut self, batch: BatchSeq) {
        for retired in self.retired.iter_mut().filter(|retired| retired.announced_in.is_none()) {
            retired.announced_in = Some(batch);
        }
    }

    /// Whether slots are on their way back to the spares.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Whether retired slots wait for a frame that announces them.
    pub fn has_unannounced(&self) -> bool {
        self.retired.back().is_some_and(|retired| retired.announced_in.is_none())
    }

    /// Gives back a slot that may be reused, if there is one. `early` is a planted bug.
    pub fn take_freed(&mut self, durable: BatchSeq, early: bool) -> Option<(SlotId, u32)> {
        let front = self.retired.front()?;
        let announced = early || front.announced_in.is_some_and(|batch| batch <= durable);
        if !announced || front.segment.pins > 0 {
            return None;
        }
        self.retired.pop_front().map(|retired| (retired.segment.slot, retired.segment.bytes))
    }

    pub fn add_spare(&mut self, slot: SlotId, bytes: u32) {
        self.spares.push_back((slot, bytes));
    }

    /// Takes out the smallest spare.
    pub fn take_smallest_spare(&mut self) -> Option<SlotId> {
        let smallest = self.spare_bytes().enumerate().min_by_key(|(_, bytes)| *bytes);
        let (at, _) = smallest?;
        self.spares.remove(at).map(|(slot, _)| slot)
    }

    /// A slot leaves the folder.
    pub fn removed(&mut self) {
        assert!(self.slots > 0, "a slot is removed that there is not");
        self.slots -= 1;
    }

    /// Numbers a slot that is to be made of this size; `None` at the limit (`max` slots, 0 for none).
    pub fn begin_making(&mut self, bytes: u32, max: usize) -> Option<SlotId> {
        if max > 0 && self.slots >= max {
            return None;
        }
        let slot = SlotId(self.next_slot);
        self.next_slot += 1;
        self.slots += 1;
        self.making.push((slot, bytes));
        Some(slot)
    }

    /// Whether there are more slots than the limit (0 for none).
    pub fn is_beyond(&self, max: usize) -> bool {
        max > 0 && self.slots > max
    }

    /// The making has ended.
    pub fn made(&mut self, slot: SlotId, ok: bool) {
        let Some(at) = self.making.iter().position(|(making, _)| *making == slot) else {
            unreachable!("the making of {slot:?} has ended, which was not under way")
        };
        let made = self.making.swap_remove(at);
        if ok {
            self.spares.push_back(made);
        } else {
            self.slots -= 1;
        }
    }

    pub fn making(&self) -> usize {
        self.making.len()
    }

    /// Whether this slot is being made.
    #[cfg(feature = "sim")]
    pub fn is_making(&self, slot: SlotId) -> bool {
        self.making.iter().any(|(making, _)| *making == slot)
    }

    /// Asserts what holds between any two calls.
    #[cfg(feature = "sim")]
    pub fn check(&self) {
        let mut before: Option<&Segment> = None;
        for segment in self.held() {
            segment.check();
            if let Some(before) = before {
                let (seq, batch) = (segment.seq, segment.first_batch);
                assert!(before.seq < seq, "segment {seq} is behind segment {}", before.seq);
                assert_eq!(
                    before.last_batch.next(),
                    batch,
                    "segment {seq} does not go on where {} ends",
                    before.seq
                );
            }
            before = Some(segment);
        }
        let newest = before.map_or(SegmentSeq::ZERO, |newest| newest.seq);
        assert!(newest < self.next_seq, "segment {} comes next, behind {newest}", self.next_seq);
        self.check_retired();
        let mut slots: Vec<SlotId> = self.held().map(|segment| segment.slot).collect();
        slots.extend(self.spares.iter().chain(&self.making).map(|(slot, _)| slot));
        assert_eq!(slots.len(), self.slots, "slots are counted that there are not, or the other way round");
        let next = self.next_slot;
        assert!(
            slots.iter().all(|slot| slot.0 < next),
            "of {slots:?} one has a number that was not given out"
        );
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), self.slots, "a slot has two roles: {slots:?}");
    }

    #[cfg(feature = "sim")]
    fn check_retired(&self) {
        let mut last_announced = Some(BatchSeq::ZERO);
        for Retired { segment, announced_in } in &self.retired {
            let seq = segment.seq;
            assert_eq!(segment.live_entries, 0, "segment {seq} is retired with live entries");
            // Those that no frame has announced yet are the newest ones.
            let is_in_order =
                announced_in.is_none() || last_announced.is_some_and(|last| *announced_in >= Some(last));
            assert!(
                is_in_order,
                "batch {announced_in:?} announces that segment {seq} is free, {last_announced:?} announced an older one"
            );
            last_announced = *announced_in;
        }
    }
}

#[cfg(feature = "sim")]
impl Segment {
    fn check(&self) {
        let seq = self.seq;
        assert!(self.end <= self.bytes, "segment {seq} of {} bytes ends at {}", self.bytes, self.end);
        assert!(self.first_batch <= self.last_batch, "segment {seq} ends before it begins");
        assert!(self.live_entries > 0 || self.live_bytes == 0, "segment {seq} holds bytes of no entry");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u64, slot: u32) -> Segment {
        Segment {
            seq: SegmentSeq(seq),
            slot: SlotId(slot),
            bytes: 65_536,
            salt: seq,
            end: 8192,
            first_batch: BatchSeq(seq),
            last_batch: BatchSeq(seq),
            live_entries: 0,
            live_bytes: 0,
            pins: 0,
        }
    }

    /// Segments 1 to 4, of which the first two are retired, a spare, and a slot that is being made.
    fn some() -> Segments {
        let sealed = (1..=4).map(|seq| segment(seq, seq as u32));
        let mut segments =
            Segments::new(sealed.collect(), VecDeque::from([(SlotId(5), 65_536)]), 6, SegmentSeq(4));
        segments.retire_oldest();
        segments.announce_in(BatchSeq(5));
        segments.retire_oldest();
        segments.begin_making(65_536, 0);
        segments
    }

    #[test]
    fn a_wrong_count_of_slots_or_segments_is_found() {
        type Spoil = fn(&mut Segments);
        let spoils: [(&str, Spoil); 11] = [
            ("a slot too many", |segments| segments.slots += 1),
            ("a spare that went", |segments| segments.spares.clear()),
            ("a spare that is a segment", |segments| segments.spares[0].0 = SlotId(3)),
            ("a number that was not given out", |segments| segments.making[0].0 = SlotId(9)),
            ("a number that comes again", |segments| segments.next_seq = SegmentSeq(4)),
            ("a segment out of order", |segments| segments.sealed.swap(0, 1)),
            ("a batch between two segments", |segments| segments.sealed[1].first_batch = BatchSeq(5)),
            ("a segment that holds bytes of nothing", |segments| segments.sealed[0].live_bytes = 7),
            ("a segment that is longer than its file", |segments| segments.sealed[0].end = 65_537),
            ("a retired segment with an entry", |segments| segments.retired[0].segment.live_entries = 1),
            ("an older segment announced later", |segments| segments.retired[0].announced_in = None),
        ];
        some().check();
        for (what, spoil) in spoils {
            let mut segments = some();
            spoil(&mut segments);
            if what.starts_with("an older") {
                segments.retired[1].announced_in = Some(BatchSeq(5));
            }
            assert!(std::panic::catch_unwind(|| segments.check()).is_err(), "{what}");
        }
    }
}
