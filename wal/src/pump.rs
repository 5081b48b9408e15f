//! From a closed batch to the watermark: placing frames, rolling segments, footers, freeing and making slots.

use crate::batch::{Batch, BatchRecords, Surroundings};
use crate::device::{BLOCK_BYTES, Device, Op, SlotId};
use crate::error::WalError;
use crate::format::footer::{self, FooterTail};
use crate::format::record::RecordKind;
use crate::format::segment::{SegmentHeader, salt};
use crate::group_commit::Frame;
use crate::ids::{BatchSeq, LogId, SegmentSeq};
use crate::options::WalEvent;
use crate::planted::{self, Planted};
use crate::segment::Segment;
use crate::wal::{Beyond, Purpose, Wal};

/// Records of a frame whose logs are fetched into the processor's caches at a time.
const AHEAD: usize = 16;
/// Polls between attempts to make a slot after one has failed.
const RETRY_POLLS: u32 = 256;
/// Slots are kept beyond `spare_segments` up to this many before they are removed.
const EXTRA_SPARES: usize = 2;
/// One to roll to, one in reserve for what must be written on a full disk.
const LEAST_SPARES: usize = 2;

impl<D: Device> Wal<D> {
    /// Everything that may have become possible since the last call.
    pub(crate) fn pump(&mut self, events: &mut Vec<WalEvent>) -> Result<(), WalError> {
        self.name_segment();
        for mut frame in self.commit.advance(self.naming.named()) {
            self.recycle(frame.done.take());
        }
        if self.reported.durable < self.commit.durable {
            self.stats.frames += self.commit.durable.get() - self.reported.durable.get();
            self.reported.durable = self.commit.durable;
            events.push(WalEvent::Durable(self.commit.durable));
        }
        self.write_footers();
        self.retire();
        self.reuse_freed();
        self.give_back();
        self.start_frames();
        self.free_segments()?;
        self.copy_oldest();
        self.run_reads(events);
        self.make_spares();
        let space = self.space();
        if self.reported.space != space {
            self.reported.space = space;
            events.push(WalEvent::Space(space));
        }
        Ok(())
    }

    /// Hands closed batches to the device, as far as slots in flight and segments allow.
    pub(crate) fn start_frames(&mut self) {
        while self.commit.in_flight.len() < self.options.max_in_flight && !self.is_wiping() {
            let Some(front) = self.commit.ready.front() else { return };
            let rolls = !self.fits_active(front);
            if rolls && !self.can_roll(front) {
                self.assert_not_admitted(front);
                let frame_bytes = front.frame_bytes();
                self.want_room_for(frame_bytes);
                return;
            }
            let (waiting_bytes, claim) = (self.commit.waiting_bytes(), front.claim);
            let Some(batch) = self.commit.ready.pop_front() else { return };
            assert!(batch.seq > self.commit.durable, "batch {} is durable before it is written", batch.seq);
            let header = rolls.then(|| self.roll(&batch, waiting_bytes));
            self.start_frame(batch, header.as_ref());
            self.assert_reserve(claim);
        }
    }

    /// Makes a spare the active segment, one that takes all that waits if there is one; returns its header.
    fn roll(&mut self, first: &Batch<D::Buffer>, waiting_bytes: usize) -> SegmentHeader {
        let batch = first.seq;
        let takes_all = self.segments.spare_for(waiting_bytes).is_some();
        let frame_bytes = if takes_all { waiting_bytes } else { first.frame_bytes() };
        let prev = self.segments.live().next_back().map(|segment| (segment.seq, segment.end));
        let (prev, prev_end) = prev.unwrap_or_default();
        self.seal_active();
        let (wal_id, seed) = (self.wal_id, self.options.seed);
        let active = self
            .segments
            .roll(frame_bytes, |seq| salt(wal_id, seq, seed), batch)
            .expect("a roll is tried only with a spare in hand that takes the frame");
        let (seq, salt, bytes) = (active.seq, active.salt, active.bytes);
        let oldest_live = self.segments.oldest_live();
        if self.making.beyond == Beyond::Wanted {
            let is_beyond = self.segments.is_beyond(self.options.max_segments);
            self.making.beyond = if is_beyond { Beyond::Used } else { Beyond::Unused };
        }
        SegmentHeader {
            wal_id,
            seq,
            salt,
            segment_bytes: bytes,
            prev,
            prev_end,
            prev_batch: BatchSeq(batch.get() - 1),
            oldest_live,
        }
    }

    /// Has what is known of a log, and of its part of the active segment, fetched into the processor's caches.
    fn fetch(&self, log: LogId) {
        self.prefetch(log);
        self.active_index.logs.get(&log).into_iter().for_each(|part| part.runs.prefetch());
    }

    /// Prepares the active segment's footer; it is written once all its frames are durable.
    fn seal_active(&mut self) {
        let mut index = std::mem::take(&mut self.active_index);
        let Some(active) = self.segments.active.as_ref() else { return };
        if planted::is(Planted::FooterLosesLastFrame) {
            let last_frame = self.commit.in_flight.back().map_or(0, |frame| frame.offset);
            for part in index.logs.values_mut() {
                let lost = part.runs.iter().find(|run| run.end > last_frame).map(|run| run.first);
                lost.into_iter().for_each(|first| part.runs.truncate(first, |_| {}));
            }
        }
        let tail = FooterTail {
            salt: active.salt,
            seq: active.seq,
            first_batch: active.first_batch,
            last_batch: active.last_batch,
            oldest_live: self.segments.oldest_live(),
            frames_end: active.end,
            index_bytes: 0,
            index_crc: 0,
        };
        let slot_bytes = active.bytes;
        let bytes = footer::encode(tail, &index, footer::reserve_bytes(slot_bytes));
        self.footers.push_back((active.seq, active.last_batch, bytes));
        self.grow_from(slot_bytes);
    }

    fn start_frame(&mut self, batch: Batch<D::Buffer>, header: Option<&SegmentHeader>) {
        let oldest_live = self.segments.oldest_live();
        let active = self.segments.active.as_mut().expect("there is an active segment: it was rolled to");
        let frame_bytes = u32::try_from(batch.frame_bytes()).expect("smaller than a segment");
        let skip = if header.is_some() { BLOCK_BYTES } else { 0 };
        let write_offset = if header.is_some() { 0 } else { active.end };
        let offset = write_offset + u32::try_from(skip).expect("a small constant");
        let around = Surroundings { salt: active.salt, durable: self.commit.durable, oldest_live, offset };
        assert!((offset as usize).is_multiple_of(BLOCK_BYTES), "batch {} starts within a block", batch.seq);
        active.end = offset + frame_bytes;
        assert!(
            active.end <= active.bytes - footer::reserve_bytes(active.bytes),
            "batch {} does not fit into segment {}",
            batch.seq,
            active.seq
        );
        active.last_batch = batch.seq;
        let (slot, segment, seq) = (active.slot, active.seq, batch.seq);
        let (buffer, len, records) = batch.finish(around, header);
        self.segments.announce_in(seq);
        self.index_records(&records, segment, offset, header.is_some());
        self.stats.bytes += u64::from(len);
        let urgent = self.is_longer_than(2);
        self.copying.earn(frame_bytes, urgent);
        let io = self.new_io(Purpose::Frame);
        let frame = Frame { seq, io, segment, offset, skip, records, done: None, acknowledged: false };
        self.commit.in_flight.push_back(frame);
        self.device.submit(io, Op::WriteDurable { slot, offset: write_offset, buffer, len });
    }

    /// Adds a frame's records to the index, at the position that the frame got.
    fn index_records(&mut self, records: &BatchRecords, segment: SegmentSeq, offset: u32, rolled: bool) {
        for (number, record) in records.iter().enumerate() {
            if number.is_multiple_of(AHEAD) {
                records.iter().skip(number).take(AHEAD).for_each(|record| self.fetch(record.meta().log));
            }
            let meta = record.meta();
            self.active_index.apply(&meta, records.runs(record, segment, offset));
            let Some(entry) = self.index.get_mut(meta.log).filter(|_| !record.is_forgotten()) else {
                continue;
            };
            match meta.kind {
                RecordKind::Tombstone => continue,
                RecordKind::Copy => {
                    let runs = records.runs(record, segment, offset);
                    entry.take_copies(runs, &mut self.segments);
                    continue;
                }
                // Of a log with entries it proves nothing alone: the last one's term is in its own record.
                RecordKind::State if meta.first > meta.last => entry.base_home = segment,
                RecordKind::State | RecordKind::Append => {}
            }
            if meta.hard_state.is_some() {
                entry.hard_state_home = segment;
            }
            if meta.conf.is_some() {
                entry.conf_home = segment;
            }
            if entry.base_home == SegmentSeq::ZERO {
                entry.base_home = segment;
            }
            if meta.kind != RecordKind::Append || meta.count == 0 {
                continue;
            }
            assert!(entry.waiting > 0, "a record of log {} gets a position twice", meta.log);
            entry.waiting -= 1;
            entry.base_home = segment;
            let segments = &mut self.segments;
            entry.runs.truncate(meta.first, |run| segments.drop_live(run));
            if planted::is(Planted::LostRunAtRoll) && rolled && number == 0 {
                continue;
            }
            let (first, runs) = (entry.first, records.runs(record, segment, offset));
            for run in runs.filter_map(|run| run.part(first, run.last())) {
                segments.add_live(&run);
                entry.runs.push(run);
            }
        }
    }

    fn write_footers(&mut self) {
        while let Some((segment, last_batch, _)) = self.footers.front() {
            if *last_batch > self.commit.durable {
                return;
            }
            let segment = *segment;
            let Some((_, _, bytes)) = self.footers.pop_front() else { return };
            let Some(sealed) = self.segments.get_mut(segment) else { continue };
            sealed.pins += 1;
            let len = u32::try_from(bytes.len()).expect("smaller than a segment");
            let (slot, offset) = (sealed.slot, sealed.bytes - len);
            assert!(sealed.end <= offset, "the footer of segment {segment} overwrites its frames");
            let mut buffer = self.device.buffer(bytes.len());
            buffer.get_mut(..bytes.len()).expect("as large as asked for").copy_from_slice(&bytes);
            let io = self.new_io(Purpose::Footer(segment));
            self.device.submit(io, Op::WriteDurable { slot, offset, buffer, len });
        }
    }

    pub(crate) fn unpin(&mut self, segment: SegmentSeq) {
        if let Some(segment) = self.segments.get_mut(segment) {
            assert!(segment.pins > 0, "segment {} is unpinned once too often", segment.seq);
            segment.pins -= 1;
        }
    }

    /// The oldest segment, if no log holds an entry in it and all of it is durable.
    pub(crate) fn dead_segment(&self) -> Option<&Segment> {
        let durable = self.commit.durable;
        self.segments.sealed.front().filter(|oldest| oldest.live_entries == 0 && oldest.last_batch <= durable)
    }

    /// Takes dead segments out of the log, oldest first, as far as nothing needs to be written for it.
    pub(crate) fn retire(&mut self) {
        while let Some(segment) = self.dead_segment().map(|dead| dead.seq) {
            if !self.reclaim.is_for(segment) {
                let needed: Vec<LogId> = self
                    .index
                    .iter()
                    .filter(|(_, entry)| entry.needs_state_in(segment))
                    .map(|(log, _)| log)
                    .collect();
                self.reclaim.start(segment, needed, self.commit.latest());
            }
            if !self.reclaim.is_done(self.commit.durable) {
                return;
            }
            debug_assert!(
                self.index.iter().all(|(_, entry)| entry.runs.iter().all(|run| run.segment != segment)),
                "segment {segment} is retired, and a log has entries in it"
            );
            self.segments.retire_oldest();
        }
    }

    fn reuse_freed(&mut self) {
        let early = planted::is(Planted::RecycleTooEarly);
        while let Some((slot, bytes)) = self.segments.take_freed(self.commit.durable, early) {
            // A small one is replaced by a larger one, where that can be had.
            let is_large = bytes >= self.making.bytes || self.making.blocked;
            if is_large && self.options.takes_slot(bytes) && self.segments.spares() < self.most_spares() {
                self.segments.add_spare(slot, bytes);
                self.making.wait_polls = 0;
            } else {
                self.segments.removed();
                self.remove_slots(vec![slot]);
            }
        }
    }

    /// Removes the spares that are too many, the smallest first: those that are kept are to take any frame.
    fn give_back(&mut self) {
        assert!(self.most_spares() >= LEAST_SPARES, "the reserve is kept");
        while self.segments.spares() > self.most_spares() {
            let Some(slot) = self.segments.take_smallest_spare() else { return };
            self.segments.removed();
            self.stats.spares_given_back += u64::from(self.making.keeps_few);
            self.remove_slots(vec![slot]);
        }
    }

    /// Whether others are short of the room that spares take. While they are, no more are kept than the log cannot do
    /// without: what it gave back it could hardly have again, since a slot is made only where much room is left.
    pub fn keep_few_spares(&mut self, few: bool) {
        self.making.keeps_few = few;
    }

    pub(crate) fn remove_slots(&mut self, slots: Vec<SlotId>) {
        for slot in slots {
            let io = self.new_io(Purpose::Remove);
            self.device.submit(io, Op::Remove { slot });
        }
    }

    /// So many are made.
    fn wanted_spares(&self) -> usize {
        let wanted = if self.making.keeps_few { 0 } else { self.options.spare_segments };
        wanted.max(LEAST_SPARES)
    }

    /// So many are kept of those that come back.
    fn most_spares(&self) -> usize {
        self.wanted_spares() + if self.making.keeps_few { 0 } else { EXTRA_SPARES }
    }

    /// Keeps spares ready; on a full disk or at the limit, tries again later.
    pub(crate) fn make_spares(&mut self) {
        let bytes = self.making.bytes;
        if self.segments.spares() >= self.wanted_spares() && self.segments.has_spare_of(bytes, false) {
            self.making.blocked = false;
            return;
        }
        if self.making.wait_polls > 0 {
            self.making.wait_polls -= 1;
            return;
        }
        while self.segments.spares() + self.segments.making() < self.wanted_spares()
            || !self.segments.has_spare_of(bytes, true)
        {
            let is_stranded = self.is_stranded();
            let max = if is_stranded { 0 } else { self.options.max_segments };
            let Some(slot) = self.segments.begin_making(bytes, max) else {
                self.making.blocked = true;
                return;
            };
            if is_stranded {
                self.making.beyond = Beyond::Wanted;
            }
            let io = self.new_io(Purpose::Create(slot));
            self.device.submit(io, Op::Create { slot, bytes });
        }
    }

    pub(crate) fn on_made(&mut self, slot: SlotId, ok: bool) {
        self.segments.made(slot, ok);
        if !ok {
            self.making.wait_polls = RETRY_POLLS;
            // A slot made beside it is the owner's already, who may have been admitted to it.
            let is_none = self.segments.spares() + self.segments.making() == 0;
            if is_none && self.making.beyond == Beyond::Wanted {
                self.making.beyond = Beyond::Unused;
            }
        }
        // Also after one that went well beside one that did not: the other is still to be made.
        self.making.blocked = self.making.wait_polls > 0;
    }
}
