//! Applying committed entries, and answering their requests in order.
//!
//! Invariant: entries are applied in LSN order, each operation once a process; no request of a connection is carried
//! out before a read that the connection asked for earlier was answered.

use bytes::Bytes;
use corduroy_wal::{EntryKind, Lsn, Term};

use super::io::{Rejection, Reply};
use super::outbox::Outbox;
use super::replica_slot::{ApplyWait, Slot};
use crate::budget::Budget;
use crate::clock::{Clocks, Now};
use crate::entry::{self, Cursor, EntryOp};
use crate::fresh::FreshRead;
use crate::ids::Ticket;
use crate::machine::{Applied, StateMachine, Step, Unreadable, Wait};
use crate::options::Pending;
use crate::parked::{ParkedRead, Until};
use crate::planted::{self, PlantedBug};
use crate::raft::group::Changed;
use crate::raft::guard::Fault;
use crate::raft::log_store::entry_kind;
use crate::raft::proposals::{Item, Requests, Spare, Work};
use crate::stages::{Answered, StageStamps};
use crate::status::Counters;

/// How far a replica's apply came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Everything committed is applied.
    Done,
    /// The budget is used up.
    More,
    /// What the slot's `apply_wait` says must be there first.
    Blocked,
}

/// What applying needs from the shard.
pub(crate) struct Applying<'a, M: StateMachine> {
    pub machine: &'a mut M,
    pub outbox: &'a mut Outbox<M::Outcome>,
    pub totals: &'a mut Pending,
    pub spare: &'a mut Spare,
    pub counters: &'a mut Counters,
    pub clocks: &'a mut Clocks,
    pub now: Now,
    pub budget: Budget,
    /// Operations of the next entry whose rows were fetched ahead.
    pub fetched: u32,
    /// What outcomes of one part of a turn may take.
    pub outcome_bytes: usize,
}

/// The entry at hand.
struct AtHand<'a> {
    at: Applied,
    payload: &'a [u8],
    clock_ms: u64,
    is_ours: bool,
}

impl<M: StateMachine> Applying<'_, M> {
    /// Applies what is committed of one replica, as far as the budget goes.
    ///
    /// # Errors
    /// [`Fault`] if an entry is damaged; the replica must be fenced.
    pub fn run(&mut self, slot: &mut Slot) -> Result<Progress, Fault> {
        if slot.apply_wait.is_some() {
            return Ok(Progress::Blocked);
        }
        let before = slot.replica.applied();
        let mut done = before;
        let progress = loop {
            if done == slot.replica.committed() {
                break Ok(Progress::Done);
            }
            match self.entry(slot, done.next()) {
                Ok(Progress::Done) => done = done.next(),
                other => break other,
            }
        };
        if done > before {
            slot.replica.applied_to(done, self.now.mono_ns)?;
        }
        progress
    }

    /// Applies one entry, from where its cursor stands.
    fn entry(&mut self, slot: &mut Slot, lsn: Lsn) -> Result<Progress, Fault> {
        if self.budget.is_spent() {
            return Ok(Progress::More);
        }
        let entry = slot.replica.entry(lsn).expect("committed entries above the applied one are held");
        let (term, kind, mut payload) =
            (Term(entry.term), entry_kind(entry.get_entry_type()), entry.data.clone());
        if !slot.cursor.is_open {
            self.close_obsolete(slot, lsn, term);
            if slot.rows.is_ours(lsn, term) && slot.waits_for_parked(&payload) {
                return Ok(Progress::Blocked);
            }
            if kind != EntryKind::Normal {
                if slot.replica.applied().next() != lsn {
                    // Raft hears first of what is applied before it.
                    return Ok(Progress::More);
                }
                let was_alone = !slot.replica.has_peers();
                let changed = slot.replica.change(lsn)?;
                if was_alone && slot.replica.has_peers() {
                    self.begin_rounds(slot);
                }
                if changed == Changed::Waits {
                    return Ok(Progress::Blocked);
                }
                payload = Bytes::new();
            }
            let opened = Cursor::open(lsn, slot.applied_stamp_ms, &payload);
            slot.cursor = opened.map_err(|damage| Fault(format!("entry {lsn}: {damage}")))?;
            slot.cursor.note_fetched(std::mem::take(&mut self.fetched));
            if planted::is(PlantedBug::SwapReplies) {
                slot.rows.front_mut().into_iter().for_each(|row| row.requests.swap_tickets());
            }
        }
        let stamp_ms = slot.cursor.stamp_ms;
        let at_hand = AtHand {
            at: Applied {
                version_lsn: slot.cursor.version_lsn,
                ..Applied::first(slot.partition, lsn, term, stamp_ms)
            },
            payload: &payload,
            clock_ms: self.read_clock_ms(slot).max(stamp_ms),
            is_ours: slot.rows.is_ours(lsn, term),
        };
        let from = self.outbox.replies.len();
        let progress = self.operations(slot, &at_hand);
        self.stamp(slot, from);
        let progress = progress?;
        if progress == Progress::Done {
            self.machine.end_entry(&at_hand.at);
            self.close(slot, stamp_ms, at_hand.is_ours);
        }
        Ok(progress)
    }

    /// Says of the replies from number `from` on, which the front row has brought, when they passed their stages.
    fn stamp(&mut self, slot: &Slot, from: usize) {
        let until = self.outbox.replies.len();
        if from < until
            && let Some(row) = slot.rows.front()
        {
            let last = self.outbox.answered.last();
            assert!(last.is_none_or(|last| last.until <= from), "reply {from} has stamps already");
            let stamps = StageStamps { applied_ns: self.now.mono_ns, ..row.stamps };
            self.outbox.answered.push(Answered { from, until, stamps });
        }
    }

    /// Walks the entry's operations and the reads between them. Once the operations are done, the budget does not stop
    /// it: as long as the row is open, reads keep joining it, as many as are answered.
    fn operations(&mut self, slot: &mut Slot, entry: &AtHand<'_>) -> Result<Progress, Fault> {
        loop {
            if self.outbox.bytes >= self.outcome_bytes {
                self.budget.bytes = 0;
                if slot.cursor.left > 0 {
                    return Ok(Progress::More);
                }
                if entry.is_ours {
                    self.answer_or_park(slot, entry);
                }
                return Ok(Progress::Done);
            }
            if self.budget.is_spent() && slot.cursor.left > 0 {
                return Ok(Progress::More);
            }
            if entry.is_ours && self.park_behind(slot) {
                continue;
            }
            let row = if entry.is_ours { slot.rows.front() } else { None };
            let item = row.and_then(|row| row.requests.peek().map(|item| (item, &row.requests)));
            let ticket = item.map(|(item, _)| item.ticket);
            let (bytes, step) = match item.map(|(item, requests)| (item.work, requests)) {
                Some((Work::Read { start, bytes }, requests)) => {
                    let op = requests.read_op(start, bytes);
                    self.counters.read_tries += 1;
                    (op.len(), self.machine.read(slot.partition, op, entry.clock_ms))
                }
                Some((Work::Write, _)) | None => {
                    if slot.cursor.left == 0 {
                        assert!(item.is_none(), "entry {} has fewer operations than requests", entry.at.lsn);
                        return Ok(Progress::Done);
                    }
                    self.operation(&mut slot.cursor, entry)
                }
            };
            let is_read = matches!(item.map(|(item, _)| item.work), Some(Work::Read { .. }));
            if let Step::Blocked(wait) = step {
                if slot.cursor.left > 0 || ticket.is_none() {
                    slot.apply_wait = Some(ApplyWait::Step(wait));
                    self.fetch_ahead(slot, entry, usize::from(is_read));
                    return Ok(Progress::Blocked);
                }
                self.answer_or_park(slot, entry);
                return Ok(Progress::Done);
            }
            self.budget.spend(bytes);
            let Some(answer) = self.answer_in_entry(step, is_read, entry.at.lsn)? else {
                assert!(ticket.is_none(), "entry {} of an earlier process has requests", entry.at.lsn);
                continue;
            };
            if let Some(ticket) = ticket {
                if let Some(row) = slot.rows.front_mut() {
                    row.requests.advance(bytes);
                }
                slot.cursor.ahead = slot.cursor.ahead.saturating_sub(1);
                slot.conns.sub(ticket.conn);
                self.answer(slot, ticket, bytes, entry.at.lsn, answer);
            }
        }
    }

    /// Applies the entry's next operation, if that can be done. Returns its length too.
    fn operation(&mut self, cursor: &mut Cursor, entry: &AtHand<'_>) -> (usize, Step<M::Outcome>) {
        let Applied { partition, .. } = entry.at;
        cursor.fetch(|cursor| self.machine.prefetch(cursor.ops(entry.payload).map(|op| (partition, op))));
        let (EntryOp { keyspace, op }, next) =
            entry::next_op(entry.payload, cursor.at).expect("the whole payload was checked");
        self.counters.apply_tries += 1;
        let step = self.machine.apply(&Applied { keyspace, ..entry.at }, op);
        if !matches!(step, Step::Blocked(_) | Step::Unreadable(_)) {
            cursor.pass(next);
            self.counters.ops_applied += 1;
        }
        (op.len(), step)
    }

    /// Parks the next request if it is a read that comes behind a parked one of its connection. It rides in the entry only
    /// because another connection has the same counter: behind a write of its own, the entry would not have been begun.
    fn park_behind(&mut self, slot: &mut Slot) -> bool {
        let Some(row) = slot.rows.front_mut().filter(|_| !slot.parked.is_empty()) else { return false };
        let Some(Item { ticket, work }) = row.requests.peek() else { return false };
        if !slot.parked.holds_before(ticket.conn, row.lsn) {
            return false;
        }
        let Work::Read { start, bytes } = work else {
            unreachable!(
                "an entry is begun when no read of connection {} comes before its write",
                ticket.conn
            )
        };
        let read = FreshRead::for_leader(ticket, row.requests.read_op(start, bytes), row.deadline_ns);
        let read = ParkedRead::logged(read, Until::Due);
        row.requests.advance(read.op().len());
        slot.cursor.ahead = slot.cursor.ahead.saturating_sub(1);
        slot.conns.sub(ticket.conn);
        self.budget.spend(read.op().len());
        self.counters.reads_parked += 1;
        slot.parked.push_from(row.lsn, read);
        true
    }

    /// What the request of an entry's step is answered with; `None`: nobody waits for it.
    fn answer_in_entry(
        &mut self,
        step: Step<M::Outcome>,
        is_read: bool,
        lsn: Lsn,
    ) -> Result<Option<Result<M::Outcome, Unreadable>>, Fault> {
        match step {
            Step::Done(outcome) => {
                self.outbox.bytes += self.machine.step_bytes(&outcome);
                Ok(Some(Ok(outcome)))
            }
            Step::Unreadable(why) if is_read => Ok(Some(Err(why))),
            Step::Unreadable(why) => Err(Fault(format!("entry {lsn} cannot be applied: {why}"))),
            Step::Passed | Step::Blocked(_) => Ok(None),
        }
    }

    /// Has the reads up to the next operation ask for what they need, once each, so that one batch of jobs brings all of
    /// it. `tried`: requests that have asked just now.
    fn fetch_ahead(&mut self, slot: &mut Slot, entry: &AtHand<'_>, tried: usize) {
        let Some(row) = slot.rows.front().filter(|_| entry.is_ours) else { return };
        let mut ahead = tried.max(slot.cursor.ahead as usize);
        for item in row.requests.rest().skip(ahead) {
            let Work::Read { start, bytes } = item.work else { break };
            // The answer comes in its turn; here it may be too early.
            self.counters.read_tries += 1;
            drop(self.machine.read(slot.partition, row.requests.read_op(start, bytes), entry.clock_ms));
            ahead += 1;
        }
        slot.cursor.ahead = u32::try_from(ahead).expect("a row has far fewer than 4 billion requests");
    }

    /// All operations are applied, and a read behind them needs a job, or the next turn, since this one has brought enough:
    /// it and those that come behind it on its connection wait at the replica instead, so that the entry does not stay
    /// open for them.
    fn answer_or_park(&mut self, slot: &mut Slot, entry: &AtHand<'_>) {
        let row = slot.rows.front_mut().expect("the entry is ours");
        let (deadline_ns, mut requests) = (row.deadline_ns, std::mem::take(&mut row.requests));
        while let Some(Item { ticket, work }) = requests.peek() {
            let Work::Read { start, bytes } = work else {
                unreachable!("entry {} has fewer operations than requests", entry.at.lsn)
            };
            let read = FreshRead::for_leader(ticket, requests.read_op(start, bytes), deadline_ns);
            self.budget.spend(read.op.len());
            let answer = self.try_read(slot, read.op, entry.clock_ms);
            self.answer_or_park_read(slot, read, entry.at.lsn, answer);
            slot.conns.sub(ticket.conn);
            requests.advance(bytes as usize);
        }
        self.spare.give(requests);
    }

    /// The entry is applied.
    fn close(&mut self, slot: &mut Slot, stamp_ms: u64, is_ours: bool) {
        assert_eq!(
            slot.cursor.left, 0,
            "partition {}: an entry is closed that has operations",
            slot.partition
        );
        slot.cursor = Cursor::default();
        slot.applied_stamp_ms = slot.applied_stamp_ms.max(stamp_ms);
        slot.clock.raise(stamp_ms, self.now);
        self.counters.entries_applied += 1;
        if let Some(row) = is_ours.then(|| slot.rows.close_front()).flatten() {
            assert!(row.requests.is_empty(), "entry {} is closed, and has requests", row.lsn);
            self.counters.queue.add(row.stamps.queued_ns, row.stamps.proposed_ns);
            self.counters.commit.add(row.stamps.proposed_ns, self.now.mono_ns);
            self.spare.give(row.requests);
        }
    }

    /// Answers rows of other entries than the one that is committed at this LSN.
    fn close_obsolete(&mut self, slot: &mut Slot, lsn: Lsn, term: Term) {
        while let Some(row) = slot.rows.take_obsolete(lsn, term) {
            self.refuse(slot, row.requests, |_| Reply::Rejected(Rejection::Obsoleted));
        }
    }

    /// Answers all requests that are left with what `reply` says of each.
    pub fn refuse(&mut self, slot: &mut Slot, requests: Requests, reply: impl Fn(Work) -> Reply<M::Outcome>) {
        for item in requests.rest() {
            slot.conns.sub(item.ticket.conn);
            slot.pending.requests -= 1;
            self.totals.requests -= 1;
            let reply = reply(item.work);
            self.counters.unknown += u64::from(matches!(reply, Reply::Unknown));
            self.outbox.replies.push((item.ticket, reply));
        }
        slot.pending.bytes -= requests.bytes();
        self.totals.bytes -= requests.bytes();
        self.spare.give(requests);
    }

    /// Refuses the parked reads whose deadline is not after this time. Returns whether there are any.
    pub fn refuse_parked(&mut self, slot: &mut Slot, why: &Rejection, until_ns: u64) -> bool {
        let before = slot.parked.len();
        while let Some(read) = slot.parked.pop_until(until_ns) {
            if let Until::Brought(Wait::Number(number)) = read.until {
                self.machine.abandon(number);
            }
            slot.unpark(read.ticket.conn);
            read.requests().for_each(|(ticket, bytes)| self.reject(slot, ticket, bytes, why.clone()));
        }
        slot.parked.len() < before
    }

    /// Refuses one request that is in no row or batch any more.
    pub fn reject(&mut self, slot: &mut Slot, ticket: Ticket, bytes: usize, why: Rejection) {
        slot.pending.sub(bytes);
        self.totals.sub(bytes);
        self.outbox.reject(ticket, why);
    }

    /// Answers one request that is in no row or batch any more.
    pub(super) fn answer(
        &mut self,
        slot: &mut Slot,
        ticket: Ticket,
        bytes: usize,
        lsn: Lsn,
        answer: Result<M::Outcome, Unreadable>,
    ) {
        slot.pending.sub(bytes);
        self.totals.sub(bytes);
        match answer {
            Ok(outcome) => self.outbox.done(ticket, lsn, outcome),
            Err(why) => self.outbox.reject(ticket, Rejection::unreadable(slot.partition, why)),
        }
    }
}
