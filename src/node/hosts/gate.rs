//! The gate before a shard: heavy requests (see [`Store::weight`](crate::store::Store::weight)) wait here and go in one after
//! the other, so that in each turn light ones get between them.
//!
//! What waits is bounded in number, bytes and time; of a closed connection nothing waits.
//!
//! Invariant: at most one heavy request is in the shard, or several of [`HEAVY_ROOM_BYTES`] together. Of those that wait
//! connections have one after the other go in, a read and a write by turns, so that neither kind waits for all of the other.
//! While the state has much to write, writes of more than [`HEAVY_BYTES`] wait longer, and go in one with each flush. Nothing is reordered within a
//! connection: what comes behind one that waits, light or not, waits behind it; and where the op alone is heavy, its session
//! has no other request under way beside it (but those that came before it, which may be done before it).

use std::collections::{HashMap, HashSet, VecDeque};

use corduroy_shards::{Kind, PartitionId, Ticket};

use crate::store::op::{HEAVY_BYTES, HEAVY_ROOM_BYTES};

/// Connections of which something may wait.
const LINES_MAX: usize = 16_384;
/// How long one may wait: as long as a request has in the shard.
const WAIT_NS: u64 = 10_000_000_000;

/// A request that is heavy, or came behind one.
#[derive(Debug, PartialEq, Eq)]
pub struct Heavy {
    /// The request's id.
    pub ticket: Ticket,
    /// For which partition.
    pub partition: PartitionId,
    /// Logged or not.
    pub kind: Kind,
    /// The encoded operation.
    pub op: Box<[u8]>,
}

impl Heavy {
    /// What it takes in memory.
    const fn bytes(&self) -> usize {
        self.op.len() + size_of::<(u64, Self)>()
    }
}

/// What waits of a connection, as it came, each with the time.
type Line = VecDeque<(u64, Heavy)>;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Gate {
    /// By connection; none is empty.
    lines: HashMap<u64, Line>,
    /// The connections whose first is a read, and those whose first is a write, in the order of their turns.
    reads: VecDeque<u64>,
    writes: VecDeque<u64>,
    /// How many wait, and what they take in memory.
    waiting: usize,
    waiting_bytes: usize,
    /// None of those that wait came before this.
    since_ns: u64,
    inside: Vec<(Ticket, usize)>,
    /// The heavy one that went in last is a read.
    was_read: bool,
    /// Flushes that had ended when the last write went in.
    flushes: u64,
    /// The write whose turn it is waits for a flush.
    awaits_flush: bool,
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
    /// Takes a request that has come. Those that wait take at most `limit_bytes`; one alone may be of any length. What comes
    /// behind another one of its connection counts in bytes only: its session bounds how many there are.
    ///
    /// # Errors
    /// The request itself, if too many connections wait, or too much.
    pub fn push(&mut self, now_ns: u64, heavy: Heavy, limit_bytes: usize) -> Result<(), Heavy> {
        let bytes = self.waiting_bytes + heavy.bytes();
        let is_crowded = self.lines.len() >= LINES_MAX && !self.holds(heavy.ticket.conn);
        if is_crowded || (bytes > limit_bytes && self.waiting > 0) {
            return Err(heavy);
        }
        if self.waiting == 0 {
            self.since_ns = now_ns;
        }
        (self.waiting, self.waiting_bytes) = (self.waiting + 1, bytes);
        let (conn, kind) = (heavy.ticket.conn, heavy.kind);
        let line = self.lines.entry(conn).or_default();
        line.push_back((now_ns, heavy));
        if line.len() == 1 {
            self.turns(kind).push_back(conn);
        }
        Ok(())
    }

    /// Whether something of this connection waits, so that what comes behind it must too.
    pub fn holds(&self, conn: u64) -> bool {
        self.lines.contains_key(&conn)
    }

    fn turns(&mut self, kind: Kind) -> &mut VecDeque<u64> {
        if kind.is_read() { &mut self.reads } else { &mut self.writes }
    }

    /// Drops what waits of a connection that is closed.
    pub fn forget(&mut self, conn: u64) {
        let Some(line) = self.lines.remove(&conn) else { return };
        self.waiting -= line.len();
        self.waiting_bytes -= line.iter().map(|(_, heavy)| heavy.bytes()).sum::<usize>();
        self.reads.retain(|other| *other != conn);
        self.writes.retain(|other| *other != conn);
    }

    /// The next request that may go in. `weigh` returns its weight as of now; light ones, which weigh nothing, may always.
    pub fn next(&mut self, intake: Intake, weigh: impl Fn(&Heavy) -> usize) -> Option<Heavy> {
        let takes_writes = intake.takes_writes || intake.flushes > self.flushes;
        let kinds = if self.was_read { [Kind::Write, Kind::Read] } else { [Kind::Read, Kind::Write] };
        let first = |kind| {
            let turns = if kind == Kind::Read { &self.reads } else { &self.writes };
            let conn = *turns.front()?;
            let (_, heavy) = self.lines.get(&conn).and_then(VecDeque::front).expect("only lines have turns");
            Some((kind, conn, weigh(heavy)))
        };
        let firsts = kinds.map(first);
        let firsts = || firsts.iter().flatten().copied();
        let light = firsts().find(|(_, _, weight)| *weight == 0);
        // One that has little written is like others that do not wait for flushes.
        let may_go = |kind, weight| takes_writes || kind == Kind::Read || weight <= HEAVY_BYTES;
        let heavy = || firsts().find(|(kind, _, weight)| may_go(*kind, *weight));
        let awaits_flush = firsts().any(|(kind, _, weight)| !may_go(kind, weight));
        let next = light.or_else(heavy);
        self.awaits_flush = awaits_flush;
        let (kind, conn, weight) = next?;
        let inside: usize = self.inside.iter().map(|(_, weight)| weight).sum();
        if weight > 0 && !self.inside.is_empty() && inside + weight > HEAVY_ROOM_BYTES {
            return None;
        }
        let heavy = self.take_first(kind, conn, weigh);
        if weight > 0 {
            self.inside.push((heavy.ticket, weight));
            self.was_read = kind == Kind::Read;
            if kind == Kind::Write && weight > HEAVY_BYTES {
                self.flushes = intake.flushes;
            }
        }
        Some(heavy)
    }

    /// Takes the first of a connection whose turn it is. If a light one is behind it, it is the connection's turn again.
    fn take_first(&mut self, kind: Kind, conn: u64, weigh: impl Fn(&Heavy) -> usize) -> Heavy {
        self.turns(kind).pop_front();
        let line = self.lines.get_mut(&conn).expect("only lines have turns");
        let (_, heavy) = line.pop_front().expect("no line is empty");
        self.waiting -= 1;
        self.waiting_bytes -= heavy.bytes();
        match line.front().map(|(_, next)| (next.kind, weigh(next))) {
            None => {
                self.lines.remove(&conn);
            }
            Some((kind, 0)) => self.turns(kind).push_front(conn),
            Some((kind, _)) => self.turns(kind).push_back(conn),
        }
        heavy
    }

    /// A request has its outcome. Returns whether others wait for what it leaves.
    pub fn done(&mut self, ticket: Ticket) -> bool {
        let before = self.inside.len();
        self.inside.retain(|(inside, _)| *inside != ticket);
        self.inside.len() < before && self.waiting > 0
    }

    /// Whether the write whose turn it is waits for a flush.
    pub fn awaits_flush(&self) -> bool {
        self.awaits_flush && !self.writes.is_empty()
    }

    /// Whether nothing is in the shard or waits for it.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.inside.is_empty() && self.waiting == 0
    }

    /// When to ask for those that have waited for too long.
    pub fn late_ns(&self) -> Option<u64> {
        (self.waiting > 0).then_some(self.since_ns + WAIT_NS + 1)
    }

    /// The requests that have waited for too long: they were not done, and will not be.
    pub fn take_late(&mut self, now_ns: u64) -> Vec<Heavy> {
        let mut late = Vec::new();
        if self.late_ns().is_none_or(|late_ns| now_ns < late_ns) {
            return late;
        }
        let is_late = |line: &Line| line.front().is_some_and(|(at, _)| now_ns.saturating_sub(*at) > WAIT_NS);
        let concerned = self.lines.iter().filter(|(_, line)| is_late(line));
        let concerned: HashSet<u64> = concerned.map(|(conn, _)| *conn).collect();
        self.reads.retain(|conn| !concerned.contains(conn));
        self.writes.retain(|conn| !concerned.contains(conn));
        for conn in concerned {
            let mut line = self.lines.remove(&conn).unwrap_or_default();
            while is_late(&line) {
                late.extend(line.pop_front().map(|(_, heavy)| heavy));
            }
            // Those behind may be of the other kind.
            if let Some((_, first)) = line.front() {
                self.turns(first.kind).push_back(conn);
                self.lines.insert(conn, line);
            }
        }
        self.waiting -= late.len();
        self.waiting_bytes -= late.iter().map(Heavy::bytes).sum::<usize>();
        let firsts = self.lines.values().filter_map(VecDeque::front);
        self.since_ns = firsts.map(|(at, _)| *at).min().unwrap_or(0);
        late
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

    /// A long op weighs its length, a short one all there is room for, and none nothing.
    fn weigh(heavy: &Heavy) -> usize {
        match heavy.op.len() {
            0 => 0,
            len if len > HEAVY_BYTES => len,
            _ => HEAVY_ROOM_BYTES,
        }
    }

    fn inside(gate: &mut Gate) -> Vec<u64> {
        std::iter::from_fn(|| gate.next(OPEN, weigh)).map(|heavy| heavy.ticket.seq).collect()
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
        assert!(!gate.is_idle() && gate.waiting == 0, "the longest one is inside, alone");
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
            let heavy = gate.next(Intake { takes_writes, flushes: 0 }, weigh)?;
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
            let heavy = gate.next(Intake { takes_writes, flushes }, weigh)?;
            gate.done(heavy.ticket);
            Some(heavy.ticket.seq)
        };
        assert_eq!(
            [next(true, 4), next(false, 4), next(false, 5), next(false, 5)],
            [Some(0), None, Some(1), None]
        );
        assert!(gate.awaits_flush());
        let mut next = |takes_writes, flushes| {
            let heavy = gate.next(Intake { takes_writes, flushes }, weigh)?;
            gate.done(heavy.ticket);
            Some(heavy.ticket.seq)
        };
        // Those that ended while nobody waited are no debt.
        assert_eq!([next(false, 9), next(false, 9), next(true, 9)], [Some(2), None, Some(3)]);
        assert!(!gate.awaits_flush(), "it was let in, and the others were not asked for since");
        assert_eq!(gate.late_ns(), Some(WAIT_NS + 1));
        assert!(gate.take_late(WAIT_NS).is_empty() && gate.take_late(WAIT_NS + 1).len() == 2);
    }

    #[test]
    fn waiting_is_bounded_in_number_and_time() {
        let mut gate = Gate::default();
        for seq in 0..LINES_MAX as u64 {
            gate.push(seq, heavy(seq, 1), NO_LIMIT).expect("room");
        }
        assert!(gate.push(0, heavy(LINES_MAX as u64, 1), NO_LIMIT).is_err());
        assert_eq!(gate.take_late(WAIT_NS), []);
        let late = gate.take_late(WAIT_NS + 1);
        assert_eq!(late.iter().map(|late| late.ticket.seq).collect::<Vec<_>>(), [0]);
        assert_eq!(gate.take_late(WAIT_NS + 1), []);
        assert_eq!(gate.late_ns(), Some(WAIT_NS + 2));
    }

    #[test]
    fn waiting_is_bounded_in_bytes() {
        let mut gate = Gate::default();
        let limit = 16 * heavy(0, 4 << 20).bytes();
        gate.push(0, heavy(0, limit + 1), limit).expect("one alone, whatever it takes");
        assert!(gate.push(0, heavy(1, 10), limit).is_err(), "and nothing beside it");
        assert_eq!(inside(&mut gate), [0]);
        for seq in 2..18 {
            gate.push(seq, heavy(seq, 4 << 20), limit).expect("room");
        }
        assert!(gate.push(17, heavy(18, 1), limit).is_err(), "it is full");
        assert_eq!(gate.take_late(WAIT_NS + 3).len(), 1, "the first is late");
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
            gate.push(0, Heavy { ticket, ..heavy(seq, 4 << 20) }, NO_LIMIT).expect("room");
        }
        assert_eq!(inside(&mut gate), [0]);
        gate.forget(0);
        assert_eq!(gate.waiting_bytes, 3 * heavy(0, 4 << 20).bytes());
        assert!(gate.done(Ticket { conn: 0, seq: 0 }), "what is inside stays until it has its outcome");
        for seq in [1, 3, 5] {
            assert_eq!(inside(&mut gate), [seq]);
            gate.done(Ticket { conn: 1, seq });
        }
        assert!(gate.is_idle() && gate.waiting_bytes == 0);
    }

    /// A write of this connection, heavy or light.
    fn write(conn: u64, seq: u64, bytes: usize) -> Heavy {
        Heavy { ticket: Ticket { conn, seq }, kind: Kind::Write, ..heavy(seq, bytes) }
    }

    #[test]
    fn a_heavy_write_waits_for_one_read_and_not_for_all_of_them() {
        let mut gate = Gate::default();
        for seq in 0..300 {
            gate.push(0, heavy(seq, 10), NO_LIMIT).expect("room");
        }
        assert_eq!(inside(&mut gate), [0]);
        for seq in 1000..1003 {
            gate.push(0, write(seq, seq, 1_200_000), NO_LIMIT).expect("room");
        }
        let mut order = vec![0];
        while order.len() < 9 {
            let before = *order.last().expect("some");
            assert!(gate.done(Ticket { conn: before, seq: before }), "others wait");
            order.extend(inside(&mut gate));
        }
        assert_eq!(order, [0, 1000, 1, 1001, 2, 1002, 3, 4, 5]);
        // And reads do not wait for all writes.
        let mut gate = Gate::default();
        for seq in 0..300 {
            gate.push(0, write(seq, seq, 10), NO_LIMIT).expect("room");
        }
        assert_eq!(inside(&mut gate), [0]);
        gate.push(0, heavy(1000, 10), NO_LIMIT).expect("room");
        gate.done(Ticket { conn: 0, seq: 0 });
        assert_eq!(inside(&mut gate), [1000]);
    }

    #[test]
    fn what_comes_behind_one_that_waits_goes_in_behind_it() {
        let mut gate = Gate::default();
        gate.push(0, write(1, 1, 10), NO_LIMIT).expect("room");
        assert_eq!(inside(&mut gate), [1]);
        assert!(!gate.holds(1) && !gate.is_idle());
        for (seq, bytes) in [(2, 10), (3, 0), (4, 0), (5, 10), (6, 0)] {
            gate.push(0, write(2, seq, bytes), NO_LIMIT).expect("room");
        }
        let read = Heavy { ticket: Ticket { conn: 2, seq: 7 }, ..heavy(7, 0) };
        gate.push(0, read, NO_LIMIT).expect("room");
        gate.push(0, write(3, 8, 10), NO_LIMIT).expect("room");
        assert!(gate.holds(2) && inside(&mut gate).is_empty());
        gate.done(Ticket { conn: 1, seq: 1 });
        assert_eq!(inside(&mut gate), [2, 3, 4], "light ones take no room");
        gate.done(Ticket { conn: 2, seq: 2 });
        assert_eq!(inside(&mut gate), [8], "and it is the other one's turn");
        gate.done(Ticket { conn: 3, seq: 8 });
        assert_eq!(inside(&mut gate), [5, 6, 7], "in the order of their connection, whatever they are");
        assert!(!gate.holds(2) && !gate.done(Ticket { conn: 2, seq: 5 }) && gate.is_idle());
    }

    #[test]
    fn what_comes_behind_one_that_waits_takes_no_place_from_other_connections() {
        let mut gate = Gate::default();
        for conn in 0..20 {
            for seq in 0..1024 {
                gate.push(0, write(conn, seq, if seq == 0 { 10 } else { 0 }), NO_LIMIT).expect("room");
            }
        }
        gate.push(0, write(20, 0, 10), NO_LIMIT).expect("another connection's");
    }

    #[test]
    fn a_write_that_makes_little_to_flush_does_not_wait_for_flushes() {
        let mut gate = Gate::default();
        let behind = Intake { takes_writes: false, flushes: 0 };
        let weigh = |heavy: &Heavy| heavy.op.len();
        for seq in 0..9 {
            gate.push(0, write(seq, seq, if seq == 4 { HEAVY_BYTES + 1 } else { HEAVY_BYTES }), NO_LIMIT)
                .expect("room");
        }
        let mut order = Vec::new();
        while let Some(heavy) = gate.next(behind, weigh) {
            order.push(heavy.ticket.seq);
            gate.done(heavy.ticket);
        }
        assert_eq!(order, [0, 1, 2, 3], "the next one makes much");
        let next = gate.next(Intake { takes_writes: false, flushes: 1 }, weigh);
        assert_eq!(next.map(|heavy| heavy.ticket.seq), Some(4));
    }

    #[test]
    fn what_has_become_light_does_not_wait() {
        let mut gate = Gate::default();
        for seq in 1..5 {
            gate.push(0, write(seq, seq, 10), NO_LIMIT).expect("room");
        }
        assert_eq!(inside(&mut gate), [1]);
        let behind = Intake { takes_writes: false, flushes: 0 };
        let light = |gate: &mut Gate| gate.next(behind, |_| 0).map(|heavy| heavy.ticket.seq);
        assert_eq!([light(&mut gate), light(&mut gate)], [Some(2), Some(3)]);
        assert_eq!(gate.next(behind, weigh), None);
        // One that is late leaves the rest of its line to its kind's turns.
        let read = Heavy { ticket: Ticket { conn: 4, seq: 9 }, ..heavy(9, 10) };
        gate.push(5, read, NO_LIMIT).expect("room");
        assert_eq!(gate.take_late(WAIT_NS + 1).len(), 1);
        gate.done(Ticket { conn: 1, seq: 1 });
        assert_eq!(gate.next(behind, weigh).map(|heavy| heavy.ticket.seq), Some(9), "reads pass writes");
    }
}
