//! What must not be proposed is taken out of a batch before it becomes an entry.
//!
//! Walk: each operation of the oldest batch is looked at once; one that waits for what jobs bring is looked at again
//! when that is there, and as long as one waits the batch takes no further ones; what must not be proposed is taken out
//! when none waits any more, all of it at once. Invariant: the requests that stay keep their order, and a read stays behind
//! the writes of its connection.

use super::apply::Applying;
use super::io::{Rejection, Reply};
use super::replica_slot::Slot;
use crate::entry::{EntryOp, Mark};
use crate::fresh::FreshRead;
use crate::inbox::{Batch, Batches};
use crate::machine::{Prepared, StateMachine};
use crate::raft::proposals::Work;
use crate::screening::Screening;

/// Operations of a batch that have rows read for them at a time.
const AHEAD: usize = 256;

/// Whether a batch may be proposed.
#[derive(Debug)]
pub(crate) enum Screened {
    /// It may.
    Ready,
    /// Jobs bring what its operations need.
    Waits,
    /// Some of its operations were refused; what is left is to be looked at again.
    Refused,
}

impl Batch {
    /// Its last operation came from another batch: what was known of it there is known here.
    fn note_moved(&mut self, op: EntryOp<'_>, from: Mark, known: &Screening) {
        let end = Mark { number: self.entry.count() as usize, at: self.entry.len_bytes() };
        if from.number < known.prepared.number {
            self.screening.prepared = end;
        }
        if from.number < known.fit.number {
            self.screening.fit = end;
        }
        if known.is_unready(from.number) {
            // What it waits for is not looked for in the batch that it has come to.
            let at = end.at - op.entry_bytes();
            self.screening.woken.push(Mark { number: end.number - 1, at });
        }
    }

    /// On a full disk: what does not free some of it must not be proposed. Each operation is looked at once. Returns whether
    /// there are any.
    pub fn refuse_growth(&mut self, machine: &impl StateMachine) -> bool {
        let Screening { fit, refused, .. } = &mut self.screening;
        while let Some((op, next)) = fit.op(self.entry.as_bytes()) {
            if !machine.takes_when_full(op.op) {
                refused.entry(fit.number).or_insert(Rejection::DiskFull);
            }
            *fit = next;
        }
        !refused.is_empty()
    }

    /// What is longer must not be proposed, since the log has no room for it.
    pub fn refuse_longer(&mut self, most: usize) {
        let mut here = Mark::FIRST;
        while let Some((op, next)) = here.op(self.entry.as_bytes()) {
            if op.op.len() > most {
                self.screening.refused.entry(here.number).or_insert(Rejection::DiskFull);
            }
            here = next;
        }
    }
}

impl<M: StateMachine> Applying<'_, M> {
    /// Looks whether all that the oldest batch's operations need of the state can be read. An operation that was found ready
    /// once is not looked at again, so that a batch is proposed in the end however little memory holds, and however many
    /// others come.
    pub fn screen(&mut self, slot: &mut Slot) -> Screened {
        let may_need_reads = self.machine.may_need_reads(slot.partition);
        let Some(batch) = slot.batches.front_mut() else { return Screened::Ready };
        let screening = &mut batch.screening;
        let entry = batch.entry.as_bytes();
        let mut look = |screening: &mut Screening, mark: Mark, op: EntryOp<'_>| {
            self.counters.prepare_tries += 1;
            match self.machine.prepare(slot.partition, op.op) {
                Prepared::Ready => {}
                Prepared::Blocked(wait) => screening.waiting.add(wait, mark),
                Prepared::Unreadable(why) => {
                    screening.refused.insert(mark.number, Rejection::unreadable(slot.partition, why));
                }
            }
        };
        for mark in std::mem::take(&mut screening.woken) {
            let (op, _) = mark.op(entry).expect("it was an operation when it was looked at");
            look(screening, mark, op);
        }
        while may_need_reads
            && screening.unready() < AHEAD
            && let Some((op, next)) = screening.prepared.op(entry)
        {
            look(screening, screening.prepared, op);
            screening.prepared = next;
        }
        if screening.unready() > 0 {
            batch.is_sealed = true;
            return Screened::Waits;
        }
        if screening.refused.is_empty() { Screened::Ready } else { Screened::Refused }
    }

    /// Refuses all requests of a batch that was taken out, and gives up what they wait for.
    pub fn refuse_batch(&mut self, slot: &mut Slot, batch: Batch, why: &Rejection) {
        batch.screening.waiting.into_numbers().for_each(|number| self.machine.abandon(number));
        self.refuse(slot, batch.requests, |_| Reply::Rejected(why.clone()));
    }

    /// Takes out of the oldest batch the writes that must not be proposed, and cuts it into entries of so many bytes.
    pub fn remove_refused(&mut self, slot: &mut Slot, entry_bytes: usize, deadline_ns: u64) {
        let Some(mut batch) = slot.batches.pop() else { return };
        let mut kept = Batches::default();
        let mut here = Mark::FIRST;
        for item in batch.requests.rest() {
            if let Work::Read { start, bytes } = item.work {
                let op = batch.requests.read_op(start, bytes);
                if let Some(open) = kept.open_mut() {
                    open.requests.push_read(item.ticket, op);
                } else if let Some(row) = slot.rows.back_mut().filter(|_| !slot.replica.has_peers()) {
                    row.requests.push_read(item.ticket, op);
                } else {
                    slot.park(FreshRead::for_leader(item.ticket, op, deadline_ns), self.now.mono_ns);
                    slot.conns.sub(item.ticket.conn);
                }
                continue;
            }
            let (op, next) = here.op(batch.entry.as_bytes()).expect("each write pushed its operation");
            if let Some(why) = batch.screening.refused.remove(&here.number) {
                slot.conns.sub(item.ticket.conn);
                self.reject(slot, item.ticket, op.op.len(), why);
            } else {
                kept.push_write(item.ticket, op, entry_bytes, self.spare);
                if let Some(open) = kept.open_mut() {
                    open.note_moved(op, here, &batch.screening);
                }
            }
            here = next;
        }
        assert!(here.op(batch.entry.as_bytes()).is_none(), "each operation has a request");
        assert!(batch.screening.refused.is_empty(), "each refused operation has had its answer");
        while let Some(mut moved) = kept.pop_newest() {
            (moved.queued_ns, moved.is_sealed) = (batch.queued_ns, batch.is_sealed);
            slot.batches.put_back(moved);
        }
        self.spare.give(batch.requests);
    }
}

#[cfg(test)]
#[path = "../screen_tests.rs"]
mod tests;
