//! One turn: what the disk and the jobs brought, then one frame of all that gathered, then apply.
//!
//! Invariant: the frame leaves before entries are applied, so that the disk works while the core does; and every step
//! costs what stands on its list, never the number of replicas.

use std::iter::once;

use corduroy_wal::device::{Device, prefetch};
use corduroy_wal::{Lsn, Space, WalEvent};

use super::apply::Progress;
use super::replica_slot::Slot;
use super::replicas::List;
use super::waits;
use super::{Outputs, Rejection, Reply, Shard, ShardError};
use crate::budget::Budget;
use crate::clock::{ClockReport, Now};
use crate::fresh::FreshRead;
use crate::machine::{StateMachine, Urgency};
use crate::options::RECORD_SLACK_BYTES;
use crate::planted::{self, PlantedBug};
use crate::raft::guard::Fault;
use crate::raft::positions::Position;
use crate::raft::proposals::Requests;
use crate::table::ReplicaIdx;

/// Partitions looked at after a job to find out whether it persisted anything.
const PROBES: usize = 16;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Does what can be done now.
    ///
    /// # Errors
    /// [`ShardError`]: the process must end; what was not answered has an unknown outcome.
    pub fn turn(&mut self, now: Now, out: &mut Outputs<M>) -> Result<(), ShardError> {
        if self.has_ended {
            return Err(ShardError::Ended);
        }
        self.work(now, out).inspect_err(|_| self.has_ended = true)
    }

    fn work(&mut self, now: Now, out: &mut Outputs<M>) -> Result<(), ShardError> {
        assert!(now.mono_ns >= self.now.mono_ns, "the monotonic clock went back");
        self.now = now;
        self.counters.turns += 1;
        self.left_over = false;
        while let Some(idx) = self.replicas.next(List::Age) {
            self.replicas.slot_mut(idx).batches.stamp_age(now.mono_ns);
            self.replicas.enqueue(List::Watched, idx);
        }
        self.end_jobs()?;
        self.poll_log()?;
        self.read_mail();
        self.follow_liveness();
        self.change_members();
        self.answer_fresh_reads();
        let can_submit = self.wal.can_submit();
        if self.counters.turns == 1 {
            self.arm();
        }
        if self.next_tick_ns <= now.mono_ns {
            self.tick(can_submit);
        }
        if can_submit {
            self.begin();
        }
        if !self.is_closing {
            self.ring_alarms();
        }
        // Letters that wait do so for a record to be written.
        let has_much = self.totals.bytes >= self.options.limits.second_frame_bytes || !self.mail.is_empty();
        self.gather(can_submit && (has_much || self.wal.in_flight() == 0))?;
        self.apply();
        self.follow_images();
        self.finish(out);
        Ok(())
    }

    /// After jobs: what waited for them goes on, and what they persisted is released.
    fn end_jobs(&mut self) -> Result<(), ShardError> {
        if let Some(why) = self.job_error.take() {
            return Err(ShardError::Machine(Box::new(why)));
        }
        let has_job_ended = std::mem::take(&mut self.jobs_ended);
        self.wake(has_job_ended);
        for _ in 0..self.replicas.listed(List::Due) {
            // One partition's reads may take all there is: then it is the last one in the next turn.
            let has_room = self.outbox.bytes < self.options.limits.outcome_bytes;
            if let Some(idx) = has_room.then(|| self.replicas.next(List::Due)).flatten() {
                self.retry_parked(idx);
            }
        }
        if has_job_ended {
            // What is released now counts before another flush is asked for.
            self.release_persisted();
            self.measure_log();
        }
        Ok(())
    }

    /// Finds out whether the log is long, and drops what members can no longer expect of it.
    pub(super) fn measure_log(&mut self) {
        let is_short = self.space == Space::Full || self.room.is_wanted();
        if self.retention.look(&self.wal, self.options.limits.kept_bytes, is_short) {
            let kept = self.replicas.iter().filter(|(_, slot)| slot.replica.has_peers());
            let kept: Vec<_> = kept.map(|(idx, _)| idx).collect();
            for idx in kept {
                self.release_one(idx);
            }
        }
        self.retention.measure(&self.wal, self.options.log_soft_segments);
    }

    /// A flush moves all partitions at once, other jobs move none: a few are probed before all are visited.
    fn release_persisted(&mut self) {
        let mut left = self.replicas.listed(List::Unpersisted);
        let mut probes = PROBES;
        let mut moved = false;
        let mut unpersisted_from = self.wal.newest_segment();
        while left > 0 && (moved || probes > 0) {
            left -= 1;
            probes = probes.saturating_sub(1);
            if let Some(idx) = self.replicas.next(List::Unpersisted) {
                moved |= self.release_one(idx);
                let slot = self.replicas.slot(idx);
                let unpersisted = slot.positions.get(Position::Persisted).unwrap_or(Lsn::ZERO).next();
                let segment = self.wal.segment_of(slot.partition.log(), unpersisted);
                unpersisted_from = segment.unwrap_or(unpersisted_from).min(unpersisted_from);
            }
        }
        if moved {
            self.retention.flushed(unpersisted_from);
        }
    }

    fn release_one(&mut self, idx: ReplicaIdx) -> bool {
        let slot = self.replicas.slot_mut(idx);
        if slot.replica.is_held() {
            // What is persisted may be an image that the replica does not stand behind: not yet, or, once stopped, never.
            if slot.replica.is_running() {
                self.replicas.enqueue(List::Unpersisted, idx);
            }
            return false;
        }
        let persisted = match planted::is(PlantedBug::ReleaseUnpersisted) {
            true => slot.replica.applied(),
            false => self.machine.persisted(slot.partition),
        };
        let (partition, applied) = (slot.partition, slot.replica.applied());
        assert!(persisted <= applied, "partition {partition}: {persisted} persisted, {applied} applied");
        let before = slot.positions.get(Position::Persisted).unwrap_or(Lsn::ZERO);
        self.retention.release(
            &mut self.wal,
            partition.log(),
            (&mut slot.replica, &mut slot.positions),
            persisted,
        );
        if persisted < applied {
            self.replicas.enqueue(List::Unpersisted, idx);
        }
        persisted > before
    }

    /// What the disk has finished.
    fn poll_log(&mut self) -> Result<(), ShardError> {
        let mut events = std::mem::take(&mut self.events);
        let mut records = 0_usize;
        self.wal.poll(&mut events)?;
        for event in events.drain(..) {
            match event {
                WalEvent::Durable(seq) => {
                    while let Some(&(_, idx, number)) = self.in_flight.front().filter(|(at, ..)| *at <= seq) {
                        self.replicas.prefetch(records, self.in_flight.iter().map(|(_, idx, _)| *idx));
                        records += 1;
                        self.in_flight.pop_front();
                        // The replica may have been taken off since.
                        if let Some(idx) = self.replicas.present(idx) {
                            self.persisted(idx, number);
                        }
                    }
                }
                WalEvent::Space(space) => {
                    self.space = space;
                    self.measure_log();
                }
                WalEvent::Read { token, result } => self.fetched(token, result)?,
            }
        }
        self.events = events;
        Ok(())
    }

    pub(super) fn persisted(&mut self, idx: ReplicaIdx, number: u64) {
        let result = self.replicas.slot_mut(idx).replica.persisted(number);
        if self.fence_on_fault(idx, result).is_some() {
            let slot = self.replicas.slot_mut(idx);
            slot.mark_durable(self.now.mono_ns);
            let (has_ready, has_peers) = (slot.replica.has_ready(), slot.replica.has_peers());
            if has_ready {
                self.replicas.enqueue(List::Ready, idx);
            }
            if !has_ready || has_peers {
                self.replicas.enqueue(List::Apply, idx);
            }
            self.send_mail(idx);
        }
    }

    fn answer_fresh_reads(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        let mut rest = fresh.ops.as_slice();
        let deadline_ns = self.deadline_ns();
        for (idx, ticket, bytes, is_anywhere) in fresh.list.drain(..) {
            let op = rest.split_off(..bytes).expect("the operations stand in the list's order");
            self.read(idx, FreshRead { ticket, op, is_anywhere, deadline_ns });
        }
        assert!(rest.is_empty(), "each operation belongs to a read");
        fresh.ops.clear();
        self.fresh = fresh;
    }

    pub(super) const fn deadline_ns(&self) -> u64 {
        self.now.mono_ns.saturating_add(self.options.request_timeout_ms.saturating_mul(1_000_000))
    }

    /// Answers a read or parks it.
    fn read(&mut self, idx: ReplicaIdx, read: FreshRead<'_>) {
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        if !slot.replica.is_running() {
            applying.reject(slot, read.ticket, read.op.len(), slot.refusal());
        } else if applying.read(slot, read) {
            self.counters.reads_direct += 1;
        } else {
            self.replicas.enqueue(List::Watched, idx);
            waits::follow(&mut self.replicas, idx);
        }
    }

    /// Tries the parked reads of a replica that may be.
    pub(super) fn retry_parked(&mut self, idx: ReplicaIdx) {
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        applying.retry_parked(slot);
        self.replicas.enqueue(List::Apply, idx);
        waits::follow(&mut self.replicas, idx);
    }

    /// The time in which replicas must become ready starts with the first turn, whatever the disk does.
    fn arm(&mut self) {
        for _ in 0..self.replicas.listed(List::Begin) {
            let Some(idx) = self.replicas.next(List::Begin) else { break };
            self.replicas.slot_mut(idx).replica.arm(self.now.mono_ns);
            self.replicas.enqueue_on([List::Begin, List::Watched], idx);
        }
    }

    /// First elections. A group of one wins at once; all groups of the shard share frames. What was committed before does
    /// not wait for the election's record: on a full log that waits for room which only applying and persisting makes.
    fn begin(&mut self) {
        while let Some(idx) = self.replicas.next(List::Begin) {
            let result = self.replicas.slot_mut(idx).replica.begin(self.now.mono_ns);
            if self.fence_on_fault(idx, result).is_some() {
                self.replicas.enqueue_on([List::Ready, List::Apply, List::Watched], idx);
            }
        }
    }

    /// Ticks the groups that need it and looks at deadlines. After a pause it ticks once, not once for each tick
    /// missed. While the disk is busy, leaders go on with their heartbeats, and only elections wait for it.
    fn tick(&mut self, can_submit: bool) {
        self.next_tick_ns = self.now.mono_ns + self.options.group.tick_ns();
        for _ in 0..self.replicas.listed(List::Watched) {
            let Some(idx) = self.replicas.next(List::Watched) else { break };
            self.expire(idx);
            let (now_ns, timeout_ms) = (self.now.mono_ns, self.options.ready_timeout_ms);
            let slot = self.replicas.slot_mut(idx);
            if slot.replica.needs_ticks() {
                let may = (can_submit, slot.pending.requests > 0);
                let result = slot.replica.tick(may, now_ns, |storage| self.liveness.is_alive(storage));
                if self.fence_on_fault(idx, result).is_some() {
                    self.replicas.enqueue(List::Ready, idx);
                    self.follow_reads(idx, false);
                }
            }
            let slot = self.replicas.slot_mut(idx);
            if slot.replica.check_ready(now_ns, timeout_ms).is_some() {
                self.counters.ready_timeouts += 1;
                self.refuse_gathered(idx);
                self.refuse_reads(idx);
            }
            let slot = self.replicas.slot_mut(idx);
            if slot.replica.needs_ticks() || slot.pending.requests > 0 {
                self.replicas.enqueue(List::Watched, idx);
            } else {
                self.counters.fallen_asleep += u64::from(slot.replica.is_asleep());
                slot.rest();
            }
        }
    }

    /// Answers requests whose time is over: "unknown" for writes that were proposed, else a refusal.
    fn expire(&mut self, idx: ReplicaIdx) {
        let now_ns = self.now.mono_ns;
        let oldest_ns = now_ns.saturating_sub(self.options.request_timeout_ms.saturating_mul(1_000_000));
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        let late = match slot.replica.can_propose() {
            true => Rejection::Overloaded("it was not done in time"),
            false => Rejection::NoLeader(slot.partition),
        };
        while let Some(row) = slot.rows.take_one_if(|row| row.deadline_ns <= now_ns) {
            applying.refuse(slot, row.requests, |work| Reply::of_logged(work, &late));
        }
        while slot.batches.front_mut().is_some_and(|batch| (1..=oldest_ns).contains(&batch.queued_ns)) {
            if let Some(batch) = slot.batches.pop() {
                applying.refuse_batch(slot, batch, &late);
            }
        }
        if applying.refuse_parked(slot, &late, now_ns) {
            self.replicas.enqueue(List::Apply, idx);
            waits::follow(&mut self.replicas, idx);
        }
    }

    /// Refuses what gathered to be proposed.
    pub(super) fn refuse_gathered(&mut self, idx: ReplicaIdx) {
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        let why = slot.refusal();
        while let Some(batch) = slot.batches.pop() {
            applying.refuse_batch(slot, batch, &why);
        }
    }

    /// Refuses the reads that are parked.
    pub(super) fn refuse_reads(&mut self, idx: ReplicaIdx) {
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        applying.refuse_parked(slot, &slot.refusal(), u64::MAX);
    }

    /// Applies what is committed, partition by partition, as far as the turn's budget goes.
    fn apply(&mut self) {
        let limits = self.options.limits;
        let was_full = self.unapplied_bytes >= limits.unapplied_bytes;
        self.outbox.next_part();
        let mut budget = Budget { ops: limits.apply_ops, bytes: limits.apply_bytes };
        let mut fetched = 0_usize;
        while !budget.is_spent() {
            let Some(idx) = self.replicas.next(List::Apply) else { break };
            if fetched == 0 {
                fetched = self.fetch_rows(idx);
            }
            let slice = Budget { ops: budget.ops.min(limits.apply_slice_ops), bytes: budget.bytes };
            let (mut applying, slot) = self.applying(idx, slice);
            applying.fetched = u32::from(fetched > 0);
            fetched = fetched.saturating_sub(1);
            if !slot.replica.is_running() {
                continue;
            }
            let (before, could_serve) = (slot.replica.applied(), slot.replica.can_serve());
            let result = applying.run(slot);
            budget.ops -= slice.ops - applying.budget.ops;
            budget.bytes = applying.budget.bytes;
            let serves = slot.replica.can_serve();
            if slot.replica.applied() > before {
                self.replicas.enqueue(List::Unpersisted, idx);
            }
            match self.fence_on_fault(idx, result) {
                Some(Progress::More) => self.replicas.enqueue(List::Apply, idx),
                Some(Progress::Done | Progress::Blocked) | None => {}
            }
            waits::follow(&mut self.replicas, idx);
            if !serves {
                self.follow_members(idx);
            }
            self.follow_reads(idx, serves && !could_serve);
            self.recount(idx);
        }
        // What was held back because of it can be proposed now.
        self.left_over |= was_full && self.unapplied_bytes < limits.unapplied_bytes;
    }

    /// Has the state machine fetch what the first operations of this replica and of the next ones need. Returns of how many.
    fn fetch_rows(&self, first: ReplicaIdx) -> usize {
        if self.replicas.listed(List::Apply) == 0 {
            return 0;
        }
        let slots = || once(self.replicas.slot(first)).chain(self.replicas.upcoming(List::Apply, 0));
        slots().filter_map(Slot::next_payload).for_each(prefetch);
        self.machine.prefetch(slots().filter_map(Slot::next_op))
    }

    /// Passes a result on, or fences the replica.
    pub(super) fn fence_on_fault<T>(&mut self, idx: ReplicaIdx, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|Fault(why)| self.fence(idx, why)).ok()
    }

    /// Stops one replica; the others go on.
    pub(crate) fn fence(&mut self, idx: ReplicaIdx, why: String) {
        let partition = self.replicas.slot(idx).partition;
        self.stop(idx, why.clone());
        self.counters.fenced += 1;
        self.outbox.fenced.push((partition, why));
    }

    /// Stops one replica. Its log stays as it is. What may be in the log gets "unknown", all else is refused.
    pub(super) fn stop(&mut self, idx: ReplicaIdx, why: String) {
        let slot = self.replicas.slot_mut(idx);
        let (partition, was_running) = (slot.partition, slot.replica.is_running());
        slot.stop(why.clone()).into_iter().for_each(|number| self.machine.abandon(number));
        if was_running {
            self.liveness.replica_ended();
        }
        self.refuse_gathered(idx);
        self.refuse_reads(idx);
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        let stopped = Rejection::ReplicaStopped(partition, why);
        while let Some(row) = slot.rows.take_any() {
            applying.refuse(slot, row.requests, |work| Reply::of_logged(work, &stopped));
        }
        self.recount(idx);
        assert_eq!(self.replicas.slot(idx).counted_bytes, 0, "a replica that is stopped holds nothing");
    }

    /// Answers requests of a batch whose proposal ended in a fault: it may have been appended.
    pub(super) fn stop_requests(&mut self, idx: ReplicaIdx, requests: Requests) {
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        let stopped = slot.refusal();
        applying.refuse(slot, requests, |work| Reply::of_logged(work, &stopped));
    }

    /// Hands the turn's results to the driver.
    fn finish(&mut self, out: &mut Outputs<M>) {
        if self.space == Space::Full {
            self.machine.want_flush(Urgency::Now);
        } else if self.retention.is_long() {
            self.machine.want_flush(Urgency::Soon);
        }
        if self.room.look(&mut self.wal, &mut self.machine, self.now.mono_ns) {
            self.measure_log();
        }
        let more = self.machine.maintain(self.options.maintain_ns);
        self.machine.take_jobs(&mut out.jobs);
        self.follow_alarms();
        self.outbox.next_part();
        out.add_replies(&mut self.outbox.replies, &mut self.outbox.answered);
        out.messages.append(&mut self.outbox.messages);
        out.fenced.append(&mut self.outbox.fenced);
        out.removed.append(&mut self.outbox.removed);
        out.leads.append(&mut self.outbox.leads);
        self.end_member_requests(out);
        let report = self.clocks.look(self.now);
        self.counters.clocks_ahead += u64::from(matches!(report, Some(ClockReport::Ahead { .. })));
        out.clock = report.or(out.clock);
        let has_mail = !self.mail.is_empty() && self.wal.admits(RECORD_SLACK_BYTES);
        let is_left = self.replicas.listed(List::Due) + self.replicas.listed(List::Apply) > 0
            || (self.wal.can_submit()
                && (self.left_over || self.replicas.listed(List::Begin) > 0 || has_mail));
        // Whoever syncs the log's write may need this CPU, which a core that does not sleep leaves to nobody for ms.
        let may_wait = more && !is_left && self.wal.in_flight() > 0;
        out.again = is_left || (more && !may_wait);
        let tick = (self.replicas.listed(List::Watched) > 0).then_some(self.next_tick_ns);
        let alarm = self.alarms.next_ns().filter(|_| !self.is_closing);
        let upkeep = may_wait.then_some(self.now.mono_ns + 2 * self.options.maintain_ns);
        let image = self.transfers.next_ns().map(|at| at.max(self.now.mono_ns));
        let beat = self.liveness.next_ns().map(|at| at.max(self.now.mono_ns));
        let others = self.members.next_ns().into_iter().chain(image).chain(beat);
        out.wake_at_ns = self.room.wake_by(tick.into_iter().chain(alarm).chain(upkeep).chain(others).min());
        let is_past = |at: u64| at < self.now.mono_ns;
        assert!(!out.wake_at_ns.is_some_and(is_past), "the next turn is past: {:?}", out.wake_at_ns);
        assert!(self.outbox.replies.is_empty(), "what was answered has left");
    }
}
