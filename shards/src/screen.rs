//! What must not be proposed is taken out of a batch before it becomes an entry.
//!
//! Invariant: the requests that stay keep their order, and a read keeps its place behind the writes of its connection.

use crate::apply::Applying;
use crate::entry::{HEADER_BYTES, next_op};
use crate::io::Rejection;
use crate::machine::{Prepared, StateMachine};
use crate::raft::proposals::Work;
use crate::shard::inbox::Batches;
use crate::slot::{ParkedRead, Slot};

/// Operations of a batch that have rows read for them at a time.
const AHEAD: usize = 64;

/// Whether a batch may be proposed.
#[derive(Debug)]
pub(crate) enum Screened {
    /// It may.
    Ready,
    /// Jobs bring what its operations need.
    Waits,
    /// Its operation of this number must not be proposed.
    Refused(usize, Rejection),
}

impl<M: StateMachine> Applying<'_, M> {
    /// Looks whether all that the oldest batch's operations need of the state can be read. An operation that was found ready
    /// once is not looked at again, so that a batch is proposed in the end however little memory holds.
    pub fn screen(&mut self, slot: &mut Slot) -> Screened {
        if !self.machine.may_need_reads(slot.partition) {
            return Screened::Ready;
        }
        let Some(batch) = slot.batches.front_mut() else { return Screened::Ready };
        let (mut number, mut at, mut waiting) = (0, HEADER_BYTES, 0);
        while let Some((op, next)) = next_op(batch.entry.as_bytes(), at) {
            if at >= batch.screened {
                match self.machine.prepare(slot.partition, op) {
                    Prepared::Ready if waiting == 0 => batch.screened = next,
                    Prepared::Ready => {}
                    Prepared::Blocked => waiting += 1,
                    Prepared::Unreadable(why) => {
                        return Screened::Refused(number, Rejection::unreadable(slot.partition, why));
                    }
                }
            }
            if waiting == AHEAD {
                break;
            }
            (number, at) = (number + 1, next);
        }
        if waiting > 0 { Screened::Waits } else { Screened::Ready }
    }

    /// Refuses the writes that `refused` names, by their number over all batches and their operation.
    pub fn sift(
        &mut self,
        slot: &mut Slot,
        entry_bytes: usize,
        deadline_ns: u64,
        mut refused: impl FnMut(&M, usize, &[u8]) -> Option<Rejection>,
    ) {
        let (mut kept, mut number) = (Batches::default(), 0);
        while let Some(batch) = slot.batches.pop() {
            let mut at = HEADER_BYTES;
            for item in batch.requests.rest() {
                if let Work::Read { start, bytes } = item.work {
                    let op = batch.requests.read_op(start, bytes);
                    if let Some(open) = kept.open_mut() {
                        open.requests.push_read(item.ticket, op);
                    } else if let Some(row) = slot.rows.back_mut() {
                        row.requests.push_read(item.ticket, op);
                    } else {
                        slot.conns.sub(item.ticket.conn);
                        slot.parked.push(ParkedRead { ticket: item.ticket, op: op.into(), deadline_ns });
                    }
                    continue;
                }
                let (op, next) =
                    next_op(batch.entry.as_bytes(), at).expect("each write pushed its operation");
                at = next;
                match refused(self.machine, number, op) {
                    None => kept.push_write(item.ticket, op, entry_bytes, self.spare),
                    Some(why) => {
                        slot.conns.sub(item.ticket.conn);
                        self.reject(slot, item.ticket, op.len(), why);
                    }
                }
                number += 1;
            }
            kept.stamp_age(batch.queued_ns);
            self.spare.give(batch.requests);
        }
        slot.batches = kept;
    }
}
