//! Reads of what is applied: those that run now, and those that wait.
//!
//! Invariant: a read is answered once nothing that it must see can be missing, and after what its connection asked for
//! before it.

use corduroy_wal::Lsn;

use super::apply::Applying;
use super::replica_slot::{ApplyWait, Slot};
use crate::fresh::FreshRead;
use crate::machine::{StateMachine, Step, Unreadable};
use crate::parked::{ParkedRead, Until};
use crate::planted::{self, PlantedBug};

/// What comes of a try to read: an answer, or what the read waits for; [`Until::Due`]: for the next turn, or for its replica.
type Tried<O> = Result<Result<O, Unreadable>, Until>;

impl<M: StateMachine> Applying<'_, M> {
    /// Answers a read from the applied state, or parks it: in a group with several members for a round, behind another one of
    /// its connection, until the replica has caught up, until what it needs is there, or until the next turn, if this one has brought enough. Returns whether it
    /// was answered.
    pub fn read(&mut self, slot: &mut Slot, read: FreshRead<'_>) -> bool {
        if slot.replica.has_peers() {
            self.counters.reads_parked += 1;
            slot.park(read, self.now.mono_ns);
            return false;
        }
        // Tried also where it has to follow another one: what it needs is then on its way already.
        let answer = self.read_applied(slot, read.op, false);
        self.answer_or_park_read(slot, read, slot.replica.applied(), answer)
    }

    /// Tries the parked reads that may be, in order; those of a connection follow one another.
    pub fn retry_parked(&mut self, slot: &mut Slot) {
        let (mut held_back, mut fetched) = (Vec::new(), 0);
        while let Some((number, read)) = slot.parked.take_due() {
            if fetched == 0 {
                let ops = read.ops().chain(slot.parked.due_ops()).map(|op| (slot.partition, op));
                fetched = self.machine.prefetch(ops);
            }
            fetched -= 1;
            // The stamp of an entry that waits for it is known, and is not before it came.
            let is_logged = read.is_logged || slot.apply_wait == Some(ApplyWait::Reads(read.ticket.conn));
            let (ticket, bytes) = (read.ticket, read.op().len());
            match self.read_applied(slot, read.op(), is_logged) {
                Ok(answer) => {
                    slot.parked.end(number, read);
                    slot.unpark(ticket.conn);
                    self.weigh(&answer);
                    self.answer(slot, ticket, bytes, slot.replica.applied(), answer);
                }
                Err(Until::Due) => held_back.push((number, read)),
                // Only who leads can log the time.
                Err(Until::Logged(_)) if !slot.replica.leads() => {
                    slot.parked.end(number, read);
                    slot.unpark(ticket.conn);
                    self.reject(slot, ticket, bytes, slot.refusal());
                }
                Err(until) => slot.parked.put_back(number, read, until),
            }
        }
        for (number, read) in held_back {
            slot.parked.put_back(number, read, Until::Due);
        }
    }

    /// The group has other members from now on, who may lead: reads that wait take a round, and what this member's clock has
    /// shown is logged.
    pub(super) fn begin_rounds(&mut self, slot: &mut Slot) {
        slot.wants_time = true;
        let forgotten = slot.parked.begin_rounds(&mut slot.replica, self.now.mono_ns);
        forgotten.into_iter().for_each(|number| self.machine.abandon(number));
    }

    /// Answers a read that was tried, or parks it. Returns whether it was answered.
    pub(super) fn answer_or_park_read(
        &mut self,
        slot: &mut Slot,
        read: FreshRead<'_>,
        lsn: Lsn,
        answer: Tried<M::Outcome>,
    ) -> bool {
        let until = match answer {
            Ok(answer) if !slot.parked.holds_before(read.ticket.conn, lsn) => {
                self.weigh(&answer);
                self.answer(slot, read.ticket, read.op.len(), lsn, answer);
                return true;
            }
            Ok(_) => Until::Due,
            Err(until) => until,
        };
        slot.parked.push_from(lsn, ParkedRead::logged(read, until));
        self.counters.reads_parked += 1;
        false
    }

    /// Tries a read of the applied state, if the replica has caught up. What has expired since, by the clock, is logged first.
    fn read_applied(&mut self, slot: &mut Slot, op: &[u8], is_logged: bool) -> Tried<M::Outcome> {
        if !slot.replica.answers_parked() {
            return Err(Until::Due);
        }
        let clock_ms = self.read_clock_ms(slot);
        let answer = self.try_read(slot, op, clock_ms)?;
        if slot.replica.has_peers() && !is_logged {
            let clock_ms = self.clocks.read(&mut slot.clock, self.now);
            if self.machine.rests_on_clock(slot.partition, op, clock_ms) {
                return Err(Until::Logged(clock_ms));
            }
        }
        Ok(answer)
    }

    /// What reads are judged by: the partition's clock; where another member may lead next, the log's alone, since that one's
    /// wall clock may be behind, and what was found expired must not come back. An entry that is applied in part counts.
    pub(super) fn read_clock_ms(&mut self, slot: &mut Slot) -> u64 {
        if slot.replica.has_peers() && !planted::is(PlantedBug::ReadsByWallClock) {
            return slot.logged_ms();
        }
        self.clocks.read(&mut slot.clock, self.now)
    }

    pub(super) fn try_read(&mut self, slot: &Slot, op: &[u8], clock_ms: u64) -> Tried<M::Outcome> {
        let is_full = self.outbox.bytes >= self.outcome_bytes;
        if is_full && !self.machine.is_light(slot.partition, op) {
            return Err(Until::Due);
        }
        self.counters.read_tries += 1;
        match self.machine.read(slot.partition, op, clock_ms) {
            Step::Done(outcome) => Ok(Ok(outcome)),
            Step::Unreadable(why) => Ok(Err(why)),
            Step::Blocked(wait) => Err(Until::Brought(wait)),
            Step::Passed => unreachable!("only operations of entries are passed over"),
        }
    }

    /// Counts what an answer takes.
    fn weigh(&mut self, answer: &Result<M::Outcome, Unreadable>) {
        answer.iter().for_each(|outcome| self.outbox.bytes += self.machine.step_bytes(outcome));
    }
}
