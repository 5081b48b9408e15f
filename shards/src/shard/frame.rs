//! One frame: what has gathered becomes one entry a partition, and the records of all Readies ride together.
//!
//! Invariant: nothing that has to be written is produced while no frame can start.

use bytes::Bytes;
use corduroy_wal::device::Device;
use corduroy_wal::{Fit, RecordHead, Space, Term, WalError};

use super::replicas::List;
use super::screen::Screened;
use super::waits;
use super::{Shard, ShardError};
use crate::budget::Budget;
use crate::entry::{EntryBuilder, of_time};
use crate::inbox::Batch;
use crate::machine::StateMachine;
use crate::options::{self, RECORD_SLACK_BYTES};
use crate::planted::{self, PlantedBug};
use crate::raft::admit::ENTRY_BYTES;
use crate::raft::group::Proposed;
use crate::raft::proposals::Row;
use crate::raft::ready::Persist;
use crate::stages::StageStamps;
use crate::table::ReplicaIdx;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Proposes what has gathered, if a frame may start, and takes the Readies.
    pub(super) fn gather(&mut self, can_submit: bool) -> Result<(), ShardError> {
        let limit = self.options.limits.frame_bytes;
        let mut frame_bytes = 0;
        for number in 0..if can_submit { self.replicas.listed(List::Propose) } else { 0 } {
            let upcoming = || self.replicas.upcoming(List::Propose, number);
            upcoming().for_each(|slot| self.wal.prefetch(slot.partition.log()));
            self.machine.prefetch(upcoming().map(|slot| (slot.partition, [].as_slice())));
            let Some(idx) = self.replicas.next(List::Propose) else { break };
            if frame_bytes >= limit {
                self.replicas.enqueue(List::Propose, idx);
                self.left_over = true;
                break;
            }
            self.propose(idx, frame_bytes);
            frame_bytes += self.take_ready(idx, frame_bytes)?;
        }
        for _ in 0..self.replicas.listed(List::Ready) {
            let Some(idx) = self.replicas.next(List::Ready) else { break };
            let may_write = can_submit && frame_bytes < limit;
            if !may_write && self.replicas.slot(idx).replica.needs_record() {
                self.replicas.enqueue(List::Ready, idx);
                self.left_over |= can_submit;
                continue;
            }
            let record_bytes = self.take_ready(idx, frame_bytes)?;
            assert!(may_write || record_bytes == 0, "a record was made while no frame takes it");
            frame_bytes += record_bytes;
        }
        if can_submit && self.wal.submit()?.is_some() {
            self.measure_log();
        }
        Ok(())
    }

    /// Proposes the oldest batch of a replica, if it has one and may.
    fn propose(&mut self, idx: ReplicaIdx, frame_bytes: usize) {
        if self.replicas.slot(idx).replica.other_leader().is_some() {
            return self.refuse_gathered(idx);
        }
        let front = self.replicas.slot_mut(idx).batches.front_mut();
        if self.space == Space::Full && front.is_some_and(|batch| batch.refuse_growth(&self.machine)) {
            self.remove_refused(idx);
        }
        let fit = options::entry_fit(&mut self.wal, self.replicas.slot(idx).batches.front_bytes());
        if fit != Fit::Ready {
            return self.wait_for_room(idx, fit, frame_bytes);
        }
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        match applying.screen(slot) {
            Screened::Ready => {}
            Screened::Waits => return waits::follow(&mut self.replicas, idx),
            Screened::Refused => {
                self.remove_refused(idx);
                self.left_over = true;
                return self.replicas.enqueue(List::Propose, idx);
            }
        }
        let is_full = self.unapplied_bytes >= self.options.limits.unapplied_bytes;
        let slot = self.replicas.slot_mut(idx);
        if !slot.replica.can_propose() || is_full {
            if !slot.batches.is_empty() {
                self.replicas.enqueue(List::Propose, idx);
            }
            return;
        }
        let wants_time = std::mem::take(&mut slot.wants_time);
        let Some(Batch { entry, requests, queued_ns, screening, is_sealed }) = slot.batches.pop() else {
            return if wants_time {
                self.propose_time(idx)
            };
        };
        let stamp_ms = self.clocks.stamp(&mut slot.clock, self.now);
        let payload = Bytes::from(entry.finish(stamp_ms));
        let proposed = slot.replica.propose(payload.clone());
        let (deadline_ns, now_ns) = (self.deadline_ns(), self.now.mono_ns);
        let Some(proposed) = self.fence_on_fault(idx, proposed) else {
            self.stop_requests(idx, requests);
            return;
        };
        let slot = self.replicas.slot_mut(idx);
        match proposed {
            Proposed::At(lsn, term) => {
                let stamps = StageStamps::proposed(queued_ns, now_ns);
                slot.rows.register(Row { lsn, term, requests, deadline_ns, stamps });
                self.counters.entries_proposed += 1;
                self.left_over |= !slot.batches.is_empty();
            }
            Proposed::Dropped => {
                let entry = EntryBuilder::reopen(payload.into());
                slot.batches.put_back(Batch { entry, requests, queued_ns, screening, is_sealed });
            }
        }
        if !slot.batches.is_empty() {
            self.replicas.enqueue(List::Propose, idx);
        }
    }

    /// The log has no room for the oldest batch, now or as long as it is.
    fn wait_for_room(&mut self, idx: ReplicaIdx, fit: Fit, frame_bytes: usize) {
        assert!(fit != Fit::Ready, "the log has room for it");
        if fit == Fit::Lacking {
            let most = options::ready_entry_bytes(&self.wal);
            let front = self.replicas.slot_mut(idx).batches.front_mut();
            front.into_iter().for_each(|batch| batch.refuse_longer(most));
            self.remove_refused(idx);
        }
        let is_refused = fit == Fit::Lacking && !self.replicas.slot(idx).batches.is_empty();
        self.left_over |= is_refused || frame_bytes > 0;
        self.replicas.enqueue(List::Propose, idx);
    }

    /// Proposes an entry that only moves the partition's clock.
    fn propose_time(&mut self, idx: ReplicaIdx) {
        let slot = self.replicas.slot_mut(idx);
        let proposed = slot.replica.propose(of_time(self.clocks.stamp(&mut slot.clock, self.now)).into());
        if let Some(Proposed::At(..)) = self.fence_on_fault(idx, proposed) {
            self.counters.entries_proposed += 1;
            self.counters.times_proposed += 1;
        }
    }

    /// Refuses what gathered and must not be proposed; the rest keeps its order.
    pub(super) fn remove_refused(&mut self, idx: ReplicaIdx) {
        let entry_bytes = self.options.limits.entry_bytes.min(options::ready_entry_bytes(&self.wal));
        let deadline_ns = self.deadline_ns();
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        applying.remove_refused(slot, entry_bytes, deadline_ns);
        self.retry_parked(idx);
    }

    /// Takes a replica's Ready and writes its record into the frame, if it needs none or there is room. Returns its bytes.
    fn take_ready(&mut self, idx: ReplicaIdx, frame_bytes: usize) -> Result<usize, ShardError> {
        let slot = self.replicas.slot_mut(idx);
        if slot.replica.needs_record() && !self.wal.admits(RECORD_SLACK_BYTES) {
            self.replicas.enqueue_on([List::Ready, List::Watched], idx);
            self.left_over |= frame_bytes > 0;
            self.recount(idx);
            return Ok(0);
        }
        let result = slot.replica.take(self.now.mono_ns);
        let Some(persist) = self.fence_on_fault(idx, result) else { return Ok(0) };
        let slot = self.replicas.slot_mut(idx);
        slot.replica.report_lead(&mut self.counters.leads, &mut self.outbox.leads);
        let may_go_on = slot.replica.applied() < slot.replica.committed() || !slot.parked.is_empty();
        if slot.replica.needs_ticks() {
            self.replicas.enqueue(List::Watched, idx);
        }
        let slot = self.replicas.slot_mut(idx);
        if slot.replica.has_ready() {
            self.left_over = true;
            self.replicas.enqueue(List::Ready, idx);
        }
        if may_go_on {
            self.replicas.enqueue(List::Apply, idx);
        }
        let bytes = persist.map_or(Ok(0), |persist| self.append(idx, persist))?;
        self.send_mail(idx);
        self.recount(idx);
        Ok(bytes)
    }

    /// Writes one record into the frame. Returns its bytes.
    fn append(&mut self, idx: ReplicaIdx, persist: Persist) -> Result<usize, ShardError> {
        self.note_appended(idx, &persist);
        let slot = self.replicas.slot(idx);
        let Persist { number, from, to, hard_state, conf, reset } = persist;
        let store = slot.replica.store().expect("a replica that has a Ready is running");
        let entries = store.records(from, to);
        let bytes = ENTRY_BYTES + entries.clone().map(|entry| ENTRY_BYTES + entry.data.len()).sum::<usize>();
        let hard_state = hard_state.filter(|_| !planted::is(PlantedBug::SkipHardState));
        let head = RecordHead { log: slot.partition.log(), hard_state, conf: conf.as_deref() };
        let written = match reset {
            Some((lsn, term)) => {
                drop(entries);
                self.wal.reset(head, lsn, term)
            }
            None => self.wal.append(head, entries),
        };
        match written {
            Ok(seq) => {
                let last = self.in_flight.back().map(|(last, ..)| *last);
                assert!(last.is_none_or(|last| last <= seq), "batch {seq} follows {last:?}");
                self.in_flight.push_back((seq, idx, number));
            }
            Err(error @ (WalError::BadAppend { .. } | WalError::TooLarge { .. })) => {
                self.fence(idx, error.to_string());
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        }
        if planted::is(PlantedBug::AckBeforeDurable) {
            self.persisted(idx, number);
        }
        if self.replicas.slot(idx).replica.is_running() {
            self.replicas.enqueue(List::Watched, idx);
        }
        Ok(bytes)
    }

    /// A record brings entries of another leader: those that were proposed here and are replaced wait aside, and what is
    /// proposed later is not stamped before them.
    fn note_appended(&mut self, idx: ReplicaIdx, persist: &Persist) {
        let now = self.now;
        if persist.from > persist.to {
            return;
        }
        let slot = self.replicas.slot_mut(idx);
        let Some(term) = slot.replica.entry(persist.from).map(|entry| Term(entry.term)) else { return };
        slot.rows.set_aside(persist.from, term);
        if slot.replica.can_propose() || planted::is(PlantedBug::StampBelowLog) {
            return;
        }
        let store = slot.replica.store().expect("a replica that has a Ready is running");
        if let Some(stamp_ms) = store.highest_stamp_ms(persist.from, persist.to) {
            slot.clock.raise(stamp_ms, now);
        }
    }

    /// Keeps count of what is held until it is applied.
    pub(super) fn recount(&mut self, idx: ReplicaIdx) {
        self.replicas.slot_mut(idx).recount(&mut self.unapplied_bytes);
    }
}
