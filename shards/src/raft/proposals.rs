//! The event registry: a row for each entry proposed here, keyed by (LSN, term), with the requests it answers.
//!
//! Invariant: every request in a row gets exactly one outcome. A row ends by its entry being applied (done), by another
//! one being *committed* at its LSN (obsoleted: definitely not done), or by its deadline or a stop (unknown). That another
//! leader's entry replaced it in this log decides nothing: with five voters a third leader may still commit it. Such a
//! row waits aside. Rows whose entries are in the log stand in LSN order; the requests of a row in the order they were
//! accepted: the writes of the entry, and between and behind them the reads that have to see them.

use std::collections::VecDeque;

use corduroy_wal::device::prefetch_front;
use corduroy_wal::{Lsn, Term};

use crate::ids::Ticket;
use crate::stages::StageStamps;

/// What an item of a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// The next operation of the entry.
    Write,
    /// A read, and where its bytes are among the row's read operations.
    Read {
        /// First byte.
        start: u32,
        /// Length.
        bytes: u32,
    },
}

/// One request of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// The request that gets the outcome.
    pub ticket: Ticket,
    /// What is to be done.
    pub work: Work,
}

/// Requests in order, and the bytes of the reads among them.
#[derive(Debug, Default)]
pub struct Requests {
    items: Vec<Item>,
    next: usize,
    reads: Vec<u8>,
    bytes: usize,
}

impl Requests {
    /// Adds a write of `bytes` bytes, whose operation stands in the entry.
    pub fn push_write(&mut self, ticket: Ticket, bytes: usize) {
        self.items.push(Item { ticket, work: Work::Write });
        self.bytes += bytes;
    }

    /// Adds a read. The caller bounds the sum of all reads far below 4 GiB.
    pub fn push_read(&mut self, ticket: Ticket, op: &[u8]) {
        let start = u32::try_from(self.reads.len()).expect("pending reads are bounded far below 4 GiB");
        let bytes = u32::try_from(op.len()).expect("operations are bounded far below 4 GiB");
        self.reads.extend_from_slice(op);
        self.items.push(Item { ticket, work: Work::Read { start, bytes } });
        self.bytes += op.len();
    }

    /// The next request without an outcome.
    #[must_use]
    pub fn peek(&self) -> Option<Item> {
        self.items.get(self.next).copied()
    }

    /// The operation of a read.
    #[must_use]
    pub fn read_op(&self, start: u32, bytes: u32) -> &[u8] {
        let start = start as usize;
        self.reads.get(start..start + bytes as usize).expect("a read's bytes came as it was pushed")
    }

    /// The request returned by [`Requests::peek`], an operation of `bytes` bytes, has had its outcome.
    pub fn advance(&mut self, bytes: usize) {
        assert!(self.next < self.items.len() && bytes <= self.bytes, "no request of {bytes} bytes is next");
        self.next += 1;
        self.bytes -= bytes;
    }

    /// All requests without an outcome, in order.
    pub fn rest(&self) -> impl ExactSizeIterator<Item = Item> + '_ {
        self.items.iter().skip(self.next).copied()
    }

    /// Whether a request of this connection has no outcome.
    #[must_use]
    pub fn holds(&self, conn: u64) -> bool {
        self.rest().any(|item| item.ticket.conn == conn)
    }

    /// The first write, not among the first `ahead` requests, of a connection of which `is_one` is true: its index, and that
    /// connection.
    pub fn first_write_of(&self, ahead: usize, is_one: impl Fn(u64) -> bool) -> Option<(usize, u64)> {
        let mut items = self.rest().enumerate().skip(ahead);
        let found = items.find(|(_, item)| item.work == Work::Write && is_one(item.ticket.conn));
        found.map(|(index, item)| (index, item.ticket.conn))
    }

    /// Bytes of the operations without an outcome.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether every request has had its outcome.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == self.items.len()
    }

    /// # Panics
    /// If the reads do not stand in the buffer one behind the other, or hold more than all requests do.
    pub fn check(&self) {
        let (mut end, mut waiting) = (0, 0);
        for (at, item) in self.items.iter().enumerate() {
            if let Work::Read { start, bytes } = item.work {
                assert_eq!(start as usize, end, "the operation of read {at}");
                end += bytes as usize;
                waiting += if at < self.next { 0 } else { bytes as usize };
            }
        }
        assert_eq!(end, self.reads.len(), "operations of the reads");
        assert!(waiting <= self.bytes, "reads of {waiting} bytes among requests of {}", self.bytes);
    }

    /// Makes the buffers ready for other requests.
    pub fn clear(&mut self) {
        self.items.clear();
        self.reads.clear();
        self.next = 0;
        self.bytes = 0;
    }

    /// Bytes of memory held by the buffers.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.items.capacity() * size_of::<Item>() + self.reads.capacity()
    }

    /// Exchanges the next two requests. Only the planted bugs need it.
    pub fn swap_tickets(&mut self) {
        let next = self.next;
        if let Some([first, second, ..]) = self.items.get_mut(next..) {
            std::mem::swap(&mut first.ticket, &mut second.ticket);
        }
    }
}

/// Buffers of answered requests, for reuse.
#[derive(Debug, Default)]
pub struct Spare {
    requests: Vec<Requests>,
}

impl Spare {
    const KEPT: usize = 256;
    const KEPT_BYTES: usize = 64 << 10;

    /// An empty one.
    #[must_use]
    pub fn take(&mut self) -> Requests {
        self.requests.pop().unwrap_or_default()
    }

    /// Takes one back, unless there are enough or it is large.
    pub fn give(&mut self, mut requests: Requests) {
        if self.requests.len() < Self::KEPT && requests.capacity_bytes() <= Self::KEPT_BYTES {
            requests.clear();
            self.requests.push(requests);
        }
    }
}

/// The requests of one proposed entry.
#[derive(Debug)]
pub struct Row {
    /// The entry's number.
    pub lsn: Lsn,
    /// The term it was proposed in.
    pub term: Term,
    /// What it answers.
    pub requests: Requests,
    /// When its requests are answered with "unknown", on the monotonic clock in ns.
    pub deadline_ns: u64,
    /// When it passed its stages.
    pub stamps: StageStamps,
}

/// The rows of one replica.
#[derive(Debug, Default)]
pub struct Proposals {
    rows: VecDeque<Row>,
    /// Those whose entries another leader's replaced in this log; there are hardly ever any.
    replaced: Option<Box<Replaced>>,
}

/// Rows that wait aside, in no order. Boxed, since hardly any registry has some.
#[derive(Debug, Default)]
struct Replaced(Vec<Row>);

impl Proposals {
    /// Adds the row of an entry just proposed.
    ///
    /// # Panics
    /// If its LSN is not above every other's: two rows for one LSN would mean two outcomes.
    pub fn register(&mut self, row: Row) {
        assert!(
            self.rows.back().is_none_or(|last| last.lsn < row.lsn),
            "row {} registered behind a later one",
            row.lsn
        );
        assert!(!row.requests.is_empty(), "row {} answers nobody", row.lsn);
        // Thousands of groups that wake together have one each; and their memory is the less, the less room there is.
        self.rows.reserve_exact(usize::from(self.rows.capacity() == 0));
        self.rows.push_back(row);
    }

    /// Whether the front row is that of the entry `(lsn, term)`, the next to be applied. It is not where the entry was proposed
    /// elsewhere or in an earlier process, or its requests were answered with "unknown".
    #[must_use]
    pub fn is_ours(&self, lsn: Lsn, term: Term) -> bool {
        self.rows.front().is_some_and(|row| (row.lsn, row.term) == (lsn, term))
    }

    /// The entry `(lsn, term)` is committed, and is applied next. A row of it that waits aside comes to the front again. Takes
    /// a row of another entry at its LSN: that is never going to be done.
    pub fn take_obsolete(&mut self, lsn: Lsn, term: Term) -> Option<Row> {
        if let Some(Replaced(replaced)) = self.replaced.as_deref_mut() {
            if let Some(at) = replaced.iter().position(|row| row.lsn == lsn && row.term != term) {
                return Some(replaced.swap_remove(at));
            }
            if let Some(at) = replaced.iter().position(|row| row.lsn == lsn) {
                let mut row = replaced.swap_remove(at);
                // It is durable, since it is committed; when it became so nobody has noted.
                row.stamps.durable_ns = row.stamps.durable_ns.max(row.stamps.proposed_ns);
                self.rows.push_front(row);
            }
            self.replaced.take_if(|replaced| replaced.0.is_empty());
        }
        let is_other = self.rows.front().is_some_and(|row| row.lsn == lsn && row.term != term);
        if is_other { self.rows.pop_front() } else { None }
    }

    /// The oldest row.
    pub fn front_mut(&mut self) -> Option<&mut Row> {
        self.rows.front_mut()
    }

    /// The oldest row.
    #[must_use]
    pub fn front(&self) -> Option<&Row> {
        self.rows.front()
    }

    /// All rows: those whose entries are in the log, oldest first, and those that wait aside.
    pub fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().chain(self.replaced.iter().flat_map(|replaced| &replaced.0))
    }

    /// The newest row: where a read rides if it has to see writes already proposed.
    pub fn back_mut(&mut self) -> Option<&mut Row> {
        self.rows.back_mut()
    }

    /// Takes the oldest row: its entry is applied.
    pub fn close_front(&mut self) -> Option<Row> {
        self.rows.pop_front()
    }

    /// Entries of `term` were appended from `lsn` on. The rows that they replaced wait aside.
    pub fn set_aside(&mut self, lsn: Lsn, term: Term) {
        while self.rows.back().is_some_and(|row| row.lsn >= lsn && row.term != term) {
            self.replaced.get_or_insert_default().0.extend(self.rows.pop_back());
        }
    }

    /// Takes the oldest row if it is such a one, or one that waits aside and is. Deadlines follow LSN order.
    pub fn take_one_if(&mut self, is_one: impl Fn(&Row) -> bool) -> Option<Row> {
        if self.rows.front().is_some_and(&is_one) {
            return self.rows.pop_front();
        }
        let replaced = &mut self.replaced.as_mut()?.0;
        let at = replaced.iter().position(is_one)?;
        Some(replaced.swap_remove(at))
    }

    /// Takes any row: none of them is waited for any more.
    pub fn take_any(&mut self) -> Option<Row> {
        self.rows.pop_front().or_else(|| self.replaced.as_mut().and_then(|replaced| replaced.0.pop()))
    }

    /// Entries up to `upto` are durable: stamps the rows of those that were not.
    pub fn mark_durable(&mut self, upto: Lsn, now_ns: u64) {
        let rows = self.rows.iter_mut().rev().skip_while(|row| row.lsn > upto);
        rows.take_while(|row| row.stamps.durable_ns == 0).for_each(|row| row.stamps.durable_ns = now_ns);
    }

    /// Compares the rows with one another.
    ///
    /// # Panics
    /// If LSNs, terms or deadlines go back, or an entry is durable before the one below it.
    pub fn check(&self) {
        for (row, next) in self.rows.iter().zip(self.rows.iter().skip(1)) {
            let lsn = next.lsn;
            assert!(row.lsn < lsn && row.term <= next.term, "row {lsn} of {} follows {}", next.term, row.lsn);
            assert!(row.deadline_ns <= next.deadline_ns, "row {lsn} ends before {}", row.lsn);
            let is_early = next.stamps.durable_ns > 0 && row.stamps.durable_ns == 0;
            assert!(!is_early, "row {lsn} is durable before {}", row.lsn);
        }
        self.iter().for_each(|row| row.requests.check());
    }

    /// Has the oldest row fetched into the processor's caches, or where it would stand.
    pub fn prefetch(&self) {
        prefetch_front(&self.rows);
    }

    /// Gives back the memory of the registry if it is empty.
    pub fn rest(&mut self) {
        if self.rows.is_empty() {
            self.rows = VecDeque::new();
        }
        self.replaced.take_if(|replaced| replaced.0.is_empty());
    }

    /// Rows waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() + self.replaced.as_ref().map_or(0, |replaced| replaced.0.len())
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(seq: u64) -> Ticket {
        Ticket { conn: 1, seq }
    }

    fn row(lsn: u64, term: u64) -> Row {
        let mut requests = Requests::default();
        requests.push_write(ticket(lsn), 10);
        Row {
            lsn: Lsn(lsn),
            term: Term(term),
            requests,
            deadline_ns: lsn * 100,
            stamps: StageStamps::default(),
        }
    }

    fn rows(list: &[(u64, u64)]) -> Proposals {
        let mut proposals = Proposals::default();
        for (lsn, term) in list {
            proposals.register(row(*lsn, *term));
        }
        proposals
    }

    #[test]
    fn rows_close_in_lsn_order() {
        let mut proposals = rows(&[(3, 1), (4, 1), (7, 2)]);
        assert!(!proposals.is_ours(Lsn(2), Term(1)));
        let closed: Vec<u64> =
            std::iter::from_fn(|| proposals.close_front()).map(|row| row.lsn.get()).collect();
        assert_eq!(closed, [3, 4, 7]);
        assert!(proposals.is_empty());
    }

    #[test]
    fn only_another_entry_that_is_committed_obsoletes() {
        let mut proposals = rows(&[(3, 1), (4, 1)]);
        assert!(!proposals.is_ours(Lsn(3), Term(2)));
        assert_eq!(proposals.take_obsolete(Lsn(3), Term(2)).map(|row| row.lsn), Some(Lsn(3)));
        assert!(proposals.take_obsolete(Lsn(3), Term(2)).is_none());
        assert!(proposals.take_obsolete(Lsn(4), Term(1)).is_none());
        assert!(proposals.is_ours(Lsn(4), Term(1)));
    }

    #[test]
    fn appends_of_another_term_set_only_rows_at_and_above_aside() {
        let mut proposals = rows(&[(3, 1), (4, 1), (5, 1)]);
        proposals.set_aside(Lsn(4), Term(2));
        assert_eq!((proposals.rows.len(), proposals.len()), (1, 3));
        // This member leads again, and proposes where the rows aside had stood.
        proposals.register(row(4, 3));
        proposals.check();
    }

    /// Entry 5 of term 3 is replaced by one of term 4, whose leader dies; that of term 5 has entry 5 of term 3, and commits it.
    #[test]
    fn a_replaced_entry_that_is_committed_after_all_is_done() {
        let mut proposals = rows(&[(5, 3), (6, 3)]);
        proposals.set_aside(Lsn(5), Term(4));
        assert!(!proposals.is_ours(Lsn(5), Term(3)));
        assert!(proposals.take_obsolete(Lsn(5), Term(3)).is_none(), "it is the one");
        assert!(proposals.is_ours(Lsn(5), Term(3)));
        proposals.close_front();
        assert_eq!(proposals.take_obsolete(Lsn(6), Term(5)).map(|row| row.term), Some(Term(3)));
        assert!(proposals.is_empty());
    }

    #[test]
    fn rows_aside_end_by_their_deadlines_too() {
        let mut proposals = rows(&[(3, 1), (4, 1)]);
        proposals.set_aside(Lsn(4), Term(2));
        assert_eq!(proposals.take_one_if(|row| row.deadline_ns <= 300).map(|row| row.lsn), Some(Lsn(3)));
        assert!(proposals.take_one_if(|row| row.deadline_ns <= 399).is_none());
        assert_eq!(proposals.take_one_if(|row| row.deadline_ns <= 400).map(|row| row.lsn), Some(Lsn(4)));
        proposals.register(row(4, 3));
        proposals.set_aside(Lsn(4), Term(4));
        assert_eq!(proposals.take_any().map(|row| row.term), Some(Term(3)));
        assert!(proposals.take_any().is_none());
    }

    #[test]
    fn deadlines_take_the_oldest_only() {
        let mut proposals = rows(&[(3, 1), (4, 1)]);
        assert!(proposals.take_one_if(|row| row.deadline_ns <= 299).is_none());
        assert_eq!(proposals.take_one_if(|row| row.deadline_ns <= 300).map(|row| row.lsn), Some(Lsn(3)));
        assert!(proposals.take_one_if(|row| row.deadline_ns <= 399).is_none());
    }

    #[test]
    #[should_panic(expected = "registered behind a later one")]
    fn a_second_row_for_an_lsn_is_refused() {
        rows(&[(3, 1), (3, 2)]);
    }

    #[test]
    fn rows_that_follow_one_another_pass() {
        let mut proposals = rows(&[(3, 1), (4, 1), (7, 2)]);
        proposals.check();
        proposals.mark_durable(Lsn(4), 50);
        proposals.check();
    }

    #[test]
    #[should_panic(expected = "row 4 of 1 follows 3")]
    fn a_term_that_goes_back_is_found() {
        rows(&[(3, 2), (4, 1)]).check();
    }

    #[test]
    #[should_panic(expected = "row 4 is durable before 3")]
    fn a_row_that_is_durable_too_early_is_found() {
        let mut proposals = rows(&[(3, 1), (4, 1)]);
        proposals.back_mut().unwrap().stamps.durable_ns = 9;
        proposals.check();
    }

    #[test]
    #[should_panic(expected = "no request of 11 bytes is next")]
    fn a_request_is_not_longer_than_all_are() {
        let mut requests = Requests::default();
        requests.push_write(ticket(1), 10);
        requests.advance(11);
    }

    #[test]
    #[should_panic(expected = "row 3 answers nobody")]
    fn a_row_has_a_request() {
        let mut proposals = Proposals::default();
        proposals.register(Row { requests: Requests::default(), ..row(3, 1) });
    }

    #[test]
    fn requests_keep_their_order_and_count_their_bytes() {
        let mut requests = Requests::default();
        requests.push_read(ticket(1), b"get a");
        requests.push_write(ticket(2), 100);
        requests.push_read(ticket(3), b"get bc");
        assert_eq!(requests.bytes(), 111);
        let first = requests.peek().unwrap();
        assert_eq!(first.work, Work::Read { start: 0, bytes: 5 });
        assert_eq!(requests.read_op(0, 5), b"get a");
        requests.advance(5);
        assert_eq!(requests.peek().map(|item| item.work), Some(Work::Write));
        requests.advance(100);
        assert_eq!(requests.rest().map(|item| item.ticket.seq).collect::<Vec<_>>(), [3]);
        assert_eq!(requests.read_op(5, 6), b"get bc");
        requests.advance(6);
        assert!(requests.is_empty());
        assert_eq!((requests.peek(), requests.bytes()), (None, 0));
    }
}
