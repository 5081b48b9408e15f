//! The gate before a shard: heavy requests (see [`Op::is_heavy`](crate::store::Op::is_heavy)) wait here and go in one after
//! the other, so that in each turn light ones get between them.
//!
//! What waits is bounded in number, bytes and time; of a closed connection nothing waits.
//!
//! Invariant: at most one heavy request is in the shard, or several large ones of [`ROOM_BYTES`] together; those that wait
//! go in as they came. While the state has much to write, writes wait longer, and go in one with each flush. Nothing is reordered within a connection: its
//! session has no other request under way beside a heavy one (but those that came before it, which may be done before it).

use std::collections::VecDeque;

use corduroy_shards::{Kind, PartitionId, Ticket};

use crate::store::op::HEAVY_BYTES;

/// What may be in the shard at a time; one request always may.
const ROOM_BYTES: usize = 4 * HEAVY_BYTES;
/// Requests that may wait.
const WAITING_MAX: usize = 16_384;
/// How long one may wait: as long as a request has in the shard.
const WAIT_NS: u64 = 10_000_000_000;

/// A heavy request.
#[derive(Debug, PartialEq, Eq)]
pub struct Heavy {
    /// Whose.
    pub ticket: Ticket,
    /// For which partition.
    pub partition: PartitionId,
    /// Logged or not.
    pub kind: Kind,
    /// The encoded operation.
    pub op: Box<[u8]>,
}

impl Heavy {
    /// What it counts: its length, or all there is room for if it is heavy though it be short.
    fn weight(&self) -> usize {
        if self.op.len() > HEAVY_BYTES { self.op.len() } else { ROOM_BYTES }
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Gate {
    waiting: VecDeque<(u64, Heavy)>,
    /// Bytes of the ops that wait.
    waiting_bytes: usize,
    inside: Vec<(Ticket, usize)>,
    /// Flushes that had ended when the last write went in.
    flushes: u64,
}

/// What the state says of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// Whether it takes as many as come.
    pub takes_writes: bool,
    /// Flushes that have ended. With each of them one write goes in, so that none waits for ever, however little lags.
    pub flushes: u64,
}

impl Gate {
    /// Takes a request that has come. Those that wait take at most `limit_bytes`; one alone may be of any length.
    ///
    /// # Errors
    /// The request itself, if too many wait, or too much.
    pub fn push(&mut self, now_ns: u64, heavy: Heavy, limit_bytes: usize) -> Result<(), Heavy> {
        let bytes = self.waiting_bytes + heavy.op.len();
        if self.waiting.len() >= WAITING_MAX || (bytes > limit_bytes && !self.waiting.is_empty()) {
            return Err(heavy);
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back((now_ns, heavy));
        Ok(())
    }

    /// Drops what waits of a connection that is closed.
    pub fn forget(&mut self, conn: u64) {
        self.waiting.retain(|(_, heavy)| heavy.ticket.conn != conn);
        self.waiting_bytes = self.waiting.iter().map(|(_, heavy)| heavy.op.len()).sum();
    }

    /// The next request that may go in.
    pub fn next(&mut self, Intake { takes_writes, flushes }: Intake) -> Option<Heavy> {
        let takes_writes = takes_writes || flushes > self.flushes;
        let at = self.waiting.iter().position(|(_, heavy)| takes_writes || heavy.kind == Kind::Read)?;
        let weight = self.waiting.get(at)?.1.weight();
        let inside: usize = self.inside.iter().map(|(_, weight)| weight).sum();
        if !self.inside.is_empty() && inside + weight > ROOM_BYTES {
            return None;
        }
        let (_, heavy) = self.waiting.remove(at)?;
        self.waiting_bytes -= heavy.op.len();
        self.inside.push((heavy.ticket, weight));
        if heavy.kind == Kind::Write {
            self.flushes = flushes;
        }
        Some(heavy)
    }

    /// A request has its outcome. Returns whether others wait for what it leaves.
    pub fn done(&mut self, ticket: Ticket) -> bool {
        let before = self.inside.len();
        self.inside.retain(|(inside, _)| *inside != ticket);
        self.inside.len() < before && !self.waiting.is_empty()
    }

    /// Whether nothing is in the shard or waits for it.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.inside.is_empty() && self.waiting.is_empty()
    }

    /// When the first of those that wait will have waited for too long.
    pub fn late_ns(&self) -> Option<u64> {
        self.waiting.front().map(|(since_ns, _)| since_ns + WAIT_NS + 1)
    }

    /// A request that has waited for too long: it was not done, and will not be.
    pub fn take_late(&mut self, now_ns: u64) -> Option<Heavy> {
        let late =
            self.waiting.front().is_some_and(|(since_ns, _)| now_ns.saturating_sub(*since_ns) > WAIT_NS);
        let (_, heavy) = if late { self.waiting.pop_front()? } else { return None };
        self.waiting_bytes -= heavy.op.len();
        Some(heavy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heavy(seq: u64, bytes: usize) -> Heavy {
        let ticket = Ticket { conn: seq, seq };
        Heavy { ticket, partition: PartitionId(2), kind: Kind::Read, op: vec![0; bytes].into() }
    }

    /// More than any of these tests has wait.
    const NO_LIMIT: usize = usize::MAX;
    const OPEN: Intake = Intake { takes_writes: true, flushes: 0 };

    fn inside(gate: &mut Gate) -> Vec<u64> {
        std::iter::from_fn(|| gate.next(OPEN)).map(|heavy| heavy.ticket.seq).collect()
    }

    #[test]
    fn one_heavy_request_is_inside_at_a_time_and_all_get_in_as_they_came() {
        let mut gate = Gate::default();
        for seq in 0..100 {
            gate.push(0, heavy(seq, 10), NO_LIMIT).expect("room");
        }
        for seq in 0..100 {
            assert_eq!(inside(&mut gate), [seq]);
            assert!(!gate.done(Ticket { conn: 7, seq: 1000 }), "not one of these");
            assert_eq!(gate.done(Ticket { conn: seq, seq }), seq < 99);
        }
        assert!(gate.is_idle());
    }

    #[test]
    fn large_requests_share_the_room() {
        let mut gate = Gate::default();
        for seq in 0..5 {
            gate.push(0, heavy(seq, 2 << 20), NO_LIMIT).expect("room");
        }
        gate.push(0, heavy(5, 30 << 20), NO_LIMIT).expect("room");
        assert_eq!(inside(&mut gate), [0, 1]);
        assert!(gate.done(Ticket { conn: 0, seq: 0 }));
        assert_eq!(inside(&mut gate), [2]);
        for seq in 1..5 {
            gate.done(Ticket { conn: seq, seq });
            inside(&mut gate);
        }
        assert!(!gate.is_idle() && gate.waiting.is_empty(), "the longest one is inside, alone");
        assert_eq!(gate.inside, [(Ticket { conn: 5, seq: 5 }, 30 << 20)]);
    }

    #[test]
    fn writes_wait_while_the_state_is_behind_and_reads_pass_them() {
        let mut gate = Gate::default();
        for seq in 0..6 {
            let kind = if seq % 3 == 2 { Kind::Read } else { Kind::Write };
            gate.push(0, Heavy { kind, ..heavy(seq, 10) }, NO_LIMIT).expect("room");
        }
        let mut next = |takes_writes| {
            let heavy = gate.next(Intake { takes_writes, flushes: 0 })?;
            gate.done(heavy.ticket);
            Some(heavy.ticket.seq)
        };
        assert_eq!([next(false), next(true), next(false), next(false)], [Some(2), Some(0), Some(5), None]);
        assert_eq!([next(true), next(true), next(true), next(true)], [Some(1), Some(3), Some(4), None]);
    }

    #[test]
    fn with_each_flush_a_write_goes_in_however_far_the_state_is_behind() {
        let mut gate = Gate::default();
        for seq in 0..6 {
            gate.push(0, Heavy { kind: Kind::Write, ..heavy(seq, 10) }, NO_LIMIT).expect("room");
        }
        let mut next = |takes_writes, flushes| {
            let heavy = gate.next(Intake { takes_writes, flushes })?;
            gate.done(heavy.ticket);
            Some(heavy.ticket.seq)
        };
        assert_eq!(
            [next(true, 4), next(false, 4), next(false, 5), next(false, 5)],
            [Some(0), None, Some(1), None]
        );
        // Those that ended while nobody waited are no debt.
        assert_eq!([next(false, 9), next(false, 9), next(true, 9)], [Some(2), None, Some(3)]);
        assert_eq!(gate.late_ns(), Some(WAIT_NS + 1));
        assert!(gate.take_late(WAIT_NS).is_none() && gate.take_late(WAIT_NS + 1).is_some());
    }

    #[test]
    fn waiting_is_bounded_in_number_and_time() {
        let mut gate = Gate::default();
        for seq in 0..WAITING_MAX as u64 {
            gate.push(seq, heavy(seq, 1), NO_LIMIT).expect("room");
        }
        assert!(gate.push(0, heavy(0, 1), NO_LIMIT).is_err());
        assert_eq!(gate.take_late(WAIT_NS), None);
        assert_eq!(gate.take_late(WAIT_NS + 1).map(|late| late.ticket.seq), Some(0));
        assert_eq!(gate.take_late(WAIT_NS + 1), None);
    }

    #[test]
    fn waiting_is_bounded_in_bytes() {
        let mut gate = Gate::default();
        let limit = 64 << 20;
        gate.push(0, heavy(0, limit + 1), limit).expect("one alone, whatever it takes");
        assert!(gate.push(0, heavy(1, 10), limit).is_err(), "and nothing beside it");
        assert_eq!(inside(&mut gate), [0]);
        for seq in 2..18 {
            gate.push(seq, heavy(seq, 4 << 20), limit).expect("room");
        }
        assert!(gate.push(17, heavy(18, 1), limit).is_err(), "it is full");
        gate.take_late(WAIT_NS + 3).expect("the first is late");
        gate.push(17, heavy(18, 4 << 20), limit).expect("as much has left");
        assert!(gate.push(17, heavy(19, 1), limit).is_err());
        gate.done(Ticket { conn: 0, seq: 0 });
        assert_eq!(inside(&mut gate), [3]);
        gate.push(17, heavy(19, 4 << 20), limit).expect("as much has gone in");
        assert!(gate.push(17, heavy(20, 1), limit).is_err());
    }

    #[test]
    fn what_waits_of_a_closed_connection_is_dropped_at_once() {
        let mut gate = Gate::default();
        for seq in 0..6 {
            let ticket = Ticket { conn: seq % 2, seq };
            gate.push(0, Heavy { ticket, ..heavy(seq, 4 << 20) }, 24 << 20).expect("room");
        }
        assert_eq!(inside(&mut gate), [0]);
        gate.forget(0);
        assert_eq!(gate.waiting_bytes, 12 << 20);
        assert!(gate.done(Ticket { conn: 0, seq: 0 }), "what is inside stays until it has its outcome");
        for seq in [1, 3, 5] {
            assert_eq!(inside(&mut gate), [seq]);
            gate.done(Ticket { conn: 1, seq });
        }
        assert!(gate.is_idle() && gate.waiting_bytes == 0);
    }
}
