//! Reads that came since the last turn of a shard, in one buffer.
//!
//! Invariant: the operations stand in the buffer in the order of the list.

use crate::ids::Ticket;
use crate::table::ReplicaIdx;

/// A read that is to be answered or to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreshRead<'o> {
    pub ticket: Ticket,
    pub op: &'o [u8],
    /// It is answered where another member leads, too.
    pub is_anywhere: bool,
    pub deadline_ns: u64,
}

impl<'o> FreshRead<'o> {
    /// One that only a leader answers.
    pub const fn for_leader(ticket: Ticket, op: &'o [u8], deadline_ns: u64) -> Self {
        Self { ticket, op, is_anywhere: false, deadline_ns }
    }
}

/// Reads that came since the last turn and follow no write of their connection.
#[derive(Debug, Default)]
pub(crate) struct FreshReads {
    /// Whose they are, and for each whether it is answered where another member leads, too.
    pub list: Vec<(ReplicaIdx, Ticket, usize, bool)>,
    pub ops: Vec<u8>,
}

impl FreshReads {
    pub fn push(&mut self, slot: ReplicaIdx, ticket: Ticket, op: &[u8], is_anywhere: bool) {
        self.ops.extend_from_slice(op);
        self.list.push((slot, ticket, op.len(), is_anywhere));
    }

    /// Takes out those for this replica. Returns them with their lengths.
    pub fn take(&mut self, slot: ReplicaIdx) -> Vec<(Ticket, usize)> {
        let (mut taken, mut kept, mut ops) = (Vec::new(), Self::default(), self.ops.as_slice());
        for (of, ticket, bytes, is_anywhere) in std::mem::take(&mut self.list) {
            let (op, after) = ops.split_at(bytes);
            ops = after;
            if of == slot {
                taken.push((ticket, bytes));
            } else {
                kept.push(of, ticket, op, is_anywhere);
            }
        }
        *self = kept;
        taken
    }

    /// Whether a read of this connection is for this replica. Looks at all of them.
    pub fn holds(&self, slot: ReplicaIdx, conn: u64) -> bool {
        self.list.iter().any(|(of, ticket, ..)| *of == slot && ticket.conn == conn)
    }
}
