//! The machine under test with an observer around it: everything it is asked and answers goes into the books.

use std::cell::RefCell;
use std::rc::Rc;

use corduroy_wal::Lsn;

use crate::ids::PartitionId;
use crate::image::Header;
use crate::image::ask::{ImageAsk, ImageEvent};
use crate::machine::{Applied, Prepared, StateMachine, Step, Unreadable, Urgency, Wait};
use crate::sim::check::Books;
use crate::sim::installs::{note_ask, note_event};
use crate::sim::planted::MachineBug;
use crate::sim::workload::{Subject, unstamp};

/// A machine that is watched.
pub struct Observed<S: Subject> {
    inner: S::Machine,
    /// The node that it runs on.
    node: usize,
    books: Rc<RefCell<Books<S>>>,
    bug: Option<MachineBug>,
    /// Ops and job results so far, for the planted bugs.
    ops: u64,
    jobs: u64,
}

impl<S: Subject> std::fmt::Debug for Observed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl<S: Subject> Observed<S> {
    /// Watches `inner`, which runs on this node, and plays a planted bug on it.
    pub const fn new(
        inner: S::Machine,
        node: usize,
        books: Rc<RefCell<Books<S>>>,
        bug: Option<MachineBug>,
    ) -> Self {
        Self { inner, node, books, bug, ops: 0, jobs: 0 }
    }

    /// The machine itself.
    pub const fn inner(&self) -> &S::Machine {
        &self.inner
    }

    /// Applies an op as the planted bug would have it.
    fn apply_inner(&mut self, at: &Applied, op: &[u8]) -> Step<S::Outcome> {
        let mut at = *at;
        if self.bug == Some(MachineBug::LocalClock) {
            at.stamp_ms = self.books.borrow_mut().wall_ms(self.node);
        }
        if self.bug == Some(MachineBug::LostOnFollowers) && (self.ops + 1).is_multiple_of(64) {
            let elsewhere = self.books.borrow().brought_elsewhere(self.node, &at);
            if let Some(outcome) = elsewhere {
                self.ops += 1;
                return Step::Done(outcome);
            }
        }
        let step = self.inner.apply(&at, op);
        if let Step::Done(_) = step {
            self.ops += 1;
            if self.bug == Some(MachineBug::DoubleApply) && self.ops.is_multiple_of(64) {
                let _second = self.inner.apply(&at, op);
            }
        }
        step
    }
}

impl<S: Subject> StateMachine for Observed<S> {
    type Outcome = S::Outcome;
    type View<'m>
        = <S::Machine as StateMachine>::View<'m>
    where
        Self: 'm;
    type Job = <S::Machine as StateMachine>::Job;
    type JobDone = <S::Machine as StateMachine>::JobDone;
    type Failure = <S::Machine as StateMachine>::Failure;

    fn apply(&mut self, at: &Applied, op: &[u8]) -> Step<S::Outcome> {
        let Some((id, op)) = unstamp(op) else {
            self.books
                .borrow_mut()
                .broken("entries carry what was sent", format!("{at:?}: {} bytes", op.len()));
            return Step::Blocked(Wait::Job);
        };
        let step = self.apply_inner(at, op);
        let mut books = self.books.borrow_mut();
        match &step {
            Step::Done(outcome) => books.applied_op(self.node, at, id, op, Some(outcome)),
            Step::Passed => books.applied_op(self.node, at, id, op, None),
            Step::Blocked(_) => books.probes.hit("applies blocked"),
            Step::Unreadable(_) => books.probes.hit("applies of what is damaged"),
        }
        step
    }

    fn end_entry(&mut self, at: &Applied) {
        self.inner.end_entry(at);
        self.books.borrow_mut().ended_entry(self.node, at);
    }

    fn read(&mut self, partition: PartitionId, op: &[u8], now_ms: u64) -> Step<S::Outcome> {
        let Some((id, op)) = unstamp(op) else {
            self.books
                .borrow_mut()
                .broken("reads carry what was sent", format!("{partition}: {} bytes", op.len()));
            return Step::Blocked(Wait::Job);
        };
        let step = self.inner.read(partition, op, now_ms);
        let mut books = self.books.borrow_mut();
        match &step {
            Step::Done(outcome) => books.read_op(self.node, partition, (id, op, now_ms), outcome),
            Step::Blocked(_) | Step::Passed => books.probes.hit("reads blocked"),
            Step::Unreadable(_) => books.probes.hit("reads of what is damaged"),
        }
        step
    }

    fn rests_on_clock(&self, partition: PartitionId, op: &[u8], now_ms: u64) -> bool {
        unstamp(op).is_some_and(|(_, op)| self.inner.rests_on_clock(partition, op, now_ms))
    }

    fn look<T>(
        &mut self,
        partition: PartitionId,
        op: &[u8],
        now_ms: u64,
        with: impl FnOnce(Self::View<'_>) -> T,
    ) -> Option<T> {
        let Some((id, op)) = unstamp(op) else {
            self.books
                .borrow_mut()
                .broken("reads carry what was sent", format!("{partition}: {} bytes", op.len()));
            return None;
        };
        let (books, node) = (&self.books, self.node);
        let answer = self.inner.look(partition, op, now_ms, |view| {
            let outcome = books.borrow().subject().seen(&view);
            books.borrow_mut().read_op(node, partition, (id, op, now_ms), &outcome);
            with(view)
        });
        if answer.is_none() {
            books.borrow_mut().probes.hit("looks in vain");
        }
        answer
    }

    fn prefetch<'o>(&self, ops: impl Iterator<Item = (PartitionId, &'o [u8])>) -> usize {
        self.inner.prefetch(ops.map(|(partition, op)| (partition, unstamp(op).map_or(op, |(_, op)| op))))
    }

    fn prepare(&mut self, partition: PartitionId, op: &[u8]) -> Prepared {
        let Some((_, op)) = unstamp(op) else { return Prepared::Ready };
        let prepared = self.inner.prepare(partition, op);
        let mut books = self.books.borrow_mut();
        match &prepared {
            Prepared::Ready => {}
            Prepared::Blocked(_) => books.probes.hit("proposals that wait for rows"),
            Prepared::Unreadable(_) => books.probes.hit("proposals of what is damaged"),
        }
        prepared
    }

    fn may_need_reads(&self, partition: PartitionId) -> bool {
        self.inner.may_need_reads(partition)
    }

    fn is_light(&self, partition: PartitionId, op: &[u8]) -> bool {
        unstamp(op).is_some_and(|(_, op)| self.inner.is_light(partition, op))
    }

    fn persisted(&self, partition: PartitionId) -> Lsn {
        if self.bug == Some(MachineBug::PersistedTooEarly) {
            return self.books.borrow().applied(self.node, partition);
        }
        self.inner.persisted(partition)
    }

    fn maintain(&mut self, budget_ns: u64) -> bool {
        self.inner.maintain(budget_ns)
    }

    fn take_jobs(&mut self, jobs: &mut Vec<Self::Job>) {
        self.inner.take_jobs(jobs);
    }

    fn abandon(&mut self, number: u64) {
        self.inner.abandon(number);
    }

    fn take_woken(&mut self, woken: &mut Vec<(PartitionId, u64)>) {
        self.inner.take_woken(woken);
    }

    fn run_job(job: Self::Job) -> Self::JobDone {
        S::Machine::run_job(job)
    }

    fn job_done(&mut self, done: Self::JobDone) -> Result<(), Self::Failure> {
        self.jobs += 1;
        if self.bug == Some(MachineBug::LostJob) && self.jobs.is_multiple_of(16) {
            return Ok(());
        }
        self.inner.job_done(done)
    }

    fn want_flush(&mut self, urgency: Urgency) {
        self.books.borrow_mut().probes.hit("flushes asked for by the log");
        self.inner.want_flush(urgency);
    }

    fn expect_replay(&mut self, partition: PartitionId, last: Lsn) {
        self.inner.expect_replay(partition, last);
    }

    fn take_alarms(&mut self, partitions: &mut Vec<PartitionId>) {
        self.inner.take_alarms(partitions);
    }

    fn alarm_ms(&mut self, partition: PartitionId) -> Option<u64> {
        self.inner.alarm_ms(partition)
    }

    fn step_bytes(&mut self, outcome: &S::Outcome) -> usize {
        self.inner.step_bytes(outcome)
    }

    fn takes_when_full(&self, op: &[u8]) -> bool {
        unstamp(op).is_some_and(|(_, op)| self.inner.takes_when_full(op))
    }

    fn is_out_of_room(&self) -> bool {
        let is_out = self.inner.is_out_of_room();
        if is_out {
            self.books.borrow_mut().probes.hit("looks at a full state");
        }
        is_out
    }

    fn wants_retry(&self) -> bool {
        self.inner.wants_retry()
    }

    fn retry(&mut self) {
        if self.bug != Some(MachineBug::RetryForgotten) {
            self.inner.retry();
        }
    }

    fn stalled_by(&self) -> Option<Unreadable> {
        self.inner.stalled_by()
    }

    fn verify_in_ns(&self) -> Option<u64> {
        self.inner.verify_in_ns()
    }

    fn verify(&mut self) {
        self.books.borrow_mut().probes.hit("verifications");
        self.inner.verify();
    }

    fn ask_image(&mut self, ask: ImageAsk) {
        let is_install = matches!(ask, ImageAsk::Install { .. });
        self.books.borrow_mut().installs_asked += u64::from(is_install);
        note_ask(&ask, &mut self.books.borrow_mut().probes);
        self.inner.ask_image(ask);
    }

    fn take_image_events(&mut self, events: &mut Vec<ImageEvent>) {
        let known = events.len();
        self.inner.take_image_events(events);
        for event in events.iter().skip(known) {
            note_event(event, &mut self.books.borrow_mut().probes);
            if let ImageEvent::Installed { result: Ok(image), .. } = event {
                self.books.borrow_mut().installed(self.node, image);
            }
        }
    }

    fn clear(&mut self, partition: PartitionId) -> bool {
        self.books.borrow_mut().deleted(self.node, partition);
        self.inner.clear(partition)
    }

    fn installed_image(&self, partition: PartitionId) -> Option<Header> {
        self.inner.installed_image(partition)
    }

    fn is_inside_entry(&self, partition: PartitionId) -> bool {
        self.inner.is_inside_entry(partition)
    }

    fn persisted_stamp_ms(&self, partition: PartitionId) -> u64 {
        self.inner.persisted_stamp_ms(partition)
    }
}
