//! The reads that wait at a replica: for a leader that has caught up, for a round by which it shows that it leads, for a time
//! to be logged, for what a job brings, or for a turn that may bring more.
//!
//! Each waits for what it needs alone, and is tried when that is there and no read of its connection stands before it.
//! Invariant: `due` names exactly those, as far as they still wait, so none is forgotten and none is tried in vain.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use corduroy_wal::Lsn;
use hashbrown::HashMap;

use crate::fresh::FreshRead;
use crate::ids::Ticket;
use crate::planted::{self, PlantedBug};
use crate::raft::replica::Replica;
use crate::waiting::{Wait, Waiting};

/// How many reads there is room for at once behind one that others wait with, and for how many bytes at most.
const RUN: usize = 15;
const RUN_BYTES: usize = 1 << 10;

/// What a read waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// For nothing: it may be tried.
    Due,
    /// For what the state machine brings.
    Brought(Wait),
    /// For this round to be answered, and this entry to be applied: the last one that others may know of, or that its
    /// connection has written.
    Confirmed { round: u64, entry: Lsn, is_behind_own: bool },
    /// For an entry to be applied with this stamp, in ms, or a higher one.
    Logged(u64),
}

/// How far a replica has come: what reads wait for that is not the state machine's to bring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reached {
    /// All rounds up to this one are answered.
    round: u64,
    applied: Lsn,
    /// The highest stamp applied, in ms.
    stamp_ms: u64,
}

impl Until {
    const fn is_reached(self, reached: Reached) -> bool {
        match self {
            Self::Due => true,
            Self::Brought(_) => false,
            Self::Confirmed { round, entry, .. } => {
                round <= reached.round && entry.get() <= reached.applied.get()
            }
            Self::Logged(stamp_ms) => stamp_ms <= reached.stamp_ms,
        }
    }

    /// Whether the read came after this entry was proposed, which has requests of its connection.
    fn is_behind(self, lsn: Lsn) -> bool {
        matches!(self, Self::Confirmed { entry, is_behind_own: true, .. } if entry >= lsn)
    }
}

/// A read that waits, and those of its connection that came right behind it, in the same turn, and wait for the same: one is
/// tried after the other.
#[derive(Debug)]
pub(crate) struct ParkedRead {
    /// Of the first one.
    pub ticket: Ticket,
    /// The operations, and where the first one stands.
    ops: Vec<u8>,
    first: Range<usize>,
    /// The numbers of the others, and the lengths of their operations.
    more: VecDeque<(u64, usize)>,
    pub deadline_ns: u64,
    pub until: Until,
    /// In a group with several members: an entry was applied whose stamp is not before it came.
    pub is_logged: bool,
    /// It is answered where another member leads, too.
    pub is_anywhere: bool,
}

impl ParkedRead {
    /// One that has ridden in an entry.
    pub fn logged(read: FreshRead<'_>, until: Until) -> Self {
        Self { is_logged: true, ..Self::new(read, until) }
    }

    fn new(read: FreshRead<'_>, until: Until) -> Self {
        let FreshRead { ticket, op, is_anywhere, deadline_ns } = read;
        let (ops, more) = (op.to_vec(), VecDeque::new());
        Self { ticket, first: 0..op.len(), ops, more, deadline_ns, until, is_logged: false, is_anywhere }
    }

    /// The operation of the first one.
    pub fn op(&self) -> &[u8] {
        self.ops.get(self.first.clone()).expect("operations stand one behind the other")
    }

    /// The operations, one after the other.
    pub fn ops(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.first.start;
        self.requests().map_while(move |(_, bytes)| {
            at += bytes;
            self.ops.get(at - bytes..at)
        })
    }

    /// One after the other, with the lengths of their operations.
    pub fn requests(&self) -> impl Iterator<Item = (Ticket, usize)> {
        let more = self.more.iter().map(|(seq, bytes)| (Ticket { seq: *seq, ..self.ticket }, *bytes));
        std::iter::once((self.ticket, self.first.len())).chain(more)
    }

    /// Lets another one of its connection wait behind it.
    fn add(&mut self, seq: u64, op: &[u8]) {
        if self.more.is_empty() {
            self.ops.reserve((RUN * op.len()).min(RUN_BYTES));
            self.more.reserve(RUN);
        }
        self.ops.extend_from_slice(op);
        self.more.push_back((seq, op.len()));
    }

    /// The first one has its outcome. Returns whether there is another one.
    fn advance(&mut self) -> bool {
        let Some((seq, bytes)) = self.more.pop_front() else { return false };
        self.ticket.seq = seq;
        self.first = self.first.end..self.first.end + bytes;
        true
    }
}

/// The reads of a replica, numbered in the order in which they came. Without heap memory until there is one.
#[derive(Debug, Default)]
pub(crate) struct ParkedReads(Option<Box<Parked>>);

#[derive(Debug, Default)]
struct Parked {
    reads: BTreeMap<u64, ParkedRead>,
    /// The one that came last, if others of its connection may wait with it; else zero.
    open: u64,
    /// Those that only a leader answers.
    for_leader: usize,
    last: u64,
    /// The reads of each connection.
    conns: HashMap<u64, VecDeque<u64>>,
    waits: Waiting<u64>,
    /// Those that wait for a round, those that wait for entries of their connection too, and those that wait for a stamp:
    /// each in the order in which that is reached.
    held: [VecDeque<u64>; 3],
    due: VecDeque<u64>,
    /// One that was taken, whose first read was answered.
    next: Option<(u64, ParkedRead)>,
}

impl Parked {
    /// Puts a read among the others; its connection lists it already.
    fn insert(&mut self, number: u64, read: ParkedRead) {
        let [confirmed, behind_own, logged] = &mut self.held;
        match read.until {
            Until::Brought(wait) => self.waits.add(wait, number),
            Until::Confirmed { is_behind_own: false, .. } => confirmed.push_back(number),
            Until::Confirmed { is_behind_own: true, .. } => behind_own.push_back(number),
            Until::Logged(_) => logged.push_back(number),
            Until::Due if self.is_first(number, read.ticket.conn) => self.due.push_back(number),
            Until::Due => {}
        }
        self.for_leader += usize::from(!read.is_anywhere);
        self.reads.insert(number, read);
    }

    /// Takes a read out; it stands on the lists that it is on.
    fn take(&mut self, number: u64) -> Option<ParkedRead> {
        let read = self.reads.remove(&number)?;
        self.for_leader -= usize::from(!read.is_anywhere);
        Some(read)
    }

    /// Wakes those in order whose wait is over. Returns whether there were any.
    fn reach(&mut self, reached: Reached) -> bool {
        let mut is_any = false;
        for at in 0..self.held.len() {
            while let Some(number) = self.held.get(at).and_then(VecDeque::front).copied() {
                // It may have been refused since.
                let until = self.reads.get(&number).map(|read| read.until);
                if until.is_some_and(|until| !until.is_reached(reached)) {
                    break;
                }
                self.held.get_mut(at).and_then(VecDeque::pop_front);
                self.wake(number);
                is_any = true;
            }
        }
        is_any
    }

    /// Whether no read of its connection stands before it.
    fn is_first(&self, number: u64, conn: u64) -> bool {
        self.conns.get(&conn).and_then(VecDeque::front) == Some(&number)
    }

    /// A read has what it waited for.
    fn wake(&mut self, number: u64) {
        let Some(read) = self.reads.get_mut(&number) else { return };
        read.until = Until::Due;
        let conn = read.ticket.conn;
        if self.is_first(number, conn) {
            self.due.push_back(number);
        }
    }

    /// A read does not wait for a stamp any more.
    fn forget_stamp(&mut self, number: u64) {
        let [.., logged] = &mut self.held;
        let at = logged.iter().position(|held| *held == number).expect("who waits for a stamp is held");
        logged.remove(at);
    }

    /// The first read of a connection is answered.
    fn end(&mut self, number: u64, conn: u64) {
        let queue = self.conns.get_mut(&conn).expect("a connection's reads are listed");
        let first = queue.pop_front();
        assert_eq!(first, Some(number), "the reads of a connection are answered in their order");
        match queue.front() {
            Some(next) if self.reads.get(next).is_some_and(|read| read.until == Until::Due) => {
                self.due.push_back(*next);
            }
            Some(_) => {}
            None => drop(self.conns.remove(&conn)),
        }
    }
}

impl ParkedReads {
    /// Parks a read that has come with the entry `lsn`: before those of its connection that came later.
    pub fn push_from(&mut self, lsn: Lsn, read: ParkedRead) {
        let parked = self.0.get_or_insert_default();
        (parked.last, parked.open) = (parked.last + 1, 0);
        let (number, conn) = (parked.last, read.ticket.conn);
        let Parked { reads, conns, .. } = &mut **parked;
        let queue = conns.entry(conn).or_default();
        let is_later = |number: &&u64| reads.get(*number).is_some_and(|read| read.until.is_behind(lsn));
        let later = queue.iter().rev().take_while(is_later).count();
        queue.insert(queue.len() - later, number);
        parked.insert(number, read);
    }

    /// The next read that may be tried, with its number: to be handed back by one of the next two.
    pub fn take_due(&mut self) -> Option<(u64, ParkedRead)> {
        let parked = self.0.as_mut()?;
        if let Some(next) = parked.next.take() {
            return Some(next);
        }
        loop {
            let number = parked.due.pop_front()?;
            // It may have been refused since.
            if let Some(read) = parked.take(number) {
                return Some((number, read));
            }
        }
    }

    /// The operations of those that may be tried.
    pub fn due_ops(&self) -> impl Iterator<Item = &[u8]> {
        let parked = self.0.iter();
        parked
            .flat_map(|of| of.due.iter().filter_map(|number| of.reads.get(number)))
            .flat_map(ParkedRead::ops)
    }

    /// A read that was taken has been answered: one that waits with it is taken next.
    pub fn end(&mut self, number: u64, mut read: ParkedRead) {
        let parked = self.0.as_mut().expect("it was taken from here");
        if read.advance() {
            parked.next = Some((number, read));
        } else {
            parked.end(number, read.ticket.conn);
        }
    }

    /// A read that was taken waits on.
    pub fn put_back(&mut self, number: u64, read: ParkedRead, until: Until) {
        let is_logged = read.is_logged || matches!(until, Until::Logged(_));
        let mut read = ParkedRead { until, is_logged, ..read };
        // It may wait for long, and what was answered counts as held no more.
        read.ops.drain(..read.first.start);
        read.first = 0..read.first.len();
        self.0.as_mut().expect("it was taken from here").insert(number, read);
    }

    /// What the state machine calls by this number is there. Returns whether a read has waited for it.
    pub fn wake(&mut self, wait: u64) -> bool {
        let Some(parked) = self.0.as_mut() else { return false };
        let Some(number) = parked.waits.wake(wait) else { return false };
        parked.wake(number);
        true
    }

    /// An entry is committed that was proposed after the reads of this connection came, and waits for them: the first one is
    /// judged by its stamp, and waits for no later one, which could only stand behind that entry.
    pub fn wake_before_entry(&mut self, conn: u64) {
        let Some(parked) = self.0.as_mut() else { return };
        let first = parked.conns.get(&conn).and_then(VecDeque::front).copied();
        let waits_for_stamp = |number: &u64| {
            parked.reads.get(number).is_some_and(|read| matches!(read.until, Until::Logged(_)))
        };
        if let Some(number) = first.filter(waits_for_stamp) {
            parked.forget_stamp(number);
            parked.wake(number);
        }
    }

    /// A job has ended.
    pub fn wake_for_job(&mut self) {
        let Some(parked) = self.0.as_mut() else { return };
        for number in parked.waits.wake_for_job() {
            parked.wake(number);
        }
    }

    /// Parks a read at its replica; in a group with several members for a round, unless it needs none at `now_ns`. `own`: the last
    /// entry with requests of its connection, as far as there may be one that is not applied.
    pub fn park(&mut self, replica: &mut Replica, own: Option<Lsn>, now_ns: u64, read: FreshRead<'_>) {
        let mut until = Until::Due;
        if replica.has_peers() {
            let (round, agreed) = replica.join_round(read.is_anywhere, now_ns);
            let entry = own.map_or(agreed, |own| own.max(agreed));
            if round > 0 || entry > replica.applied() {
                until = Until::Confirmed { round, entry, is_behind_own: own.is_some() };
            }
        }
        if let Some(open) = self.open_of(read.ticket.conn, (until, read.is_anywhere, read.deadline_ns)) {
            return open.add(read.ticket.seq, read.op);
        }
        self.push_from(Lsn(u64::MAX), ParkedRead::new(read, until));
        let parked = self.0.as_mut().expect("it has a read");
        parked.open = parked.last;
    }

    /// The read that came last, if it is of this connection and one of it that waits for this may wait with it.
    fn open_of(&mut self, conn: u64, as_this: (Until, bool, u64)) -> Option<&mut ParkedRead> {
        let parked = self.0.as_mut()?;
        let open = parked.reads.get_mut(&parked.open)?;
        let as_open = (open.until, open.is_anywhere, open.deadline_ns);
        (open.ticket.conn == conn && as_open == as_this && !open.is_logged).then_some(open)
    }

    /// The group has other members from now on: what waits, waits for a round and for what its replica has found, and for nothing
    /// else; what it needs then it asks for anew. Nothing of it counts as logged, since it was judged by this member's clock.
    /// Returns the numbers that nobody waits for any more.
    pub fn begin_rounds(&mut self, replica: &mut Replica, now_ns: u64) -> Vec<u64> {
        let Some(parked) = self.0.as_mut().filter(|parked| !parked.reads.is_empty()) else {
            return Vec::new();
        };
        let (round, entry) = replica.join_round(false, now_ns);
        for read in parked.reads.values_mut() {
            read.until = Until::Confirmed { round, entry, is_behind_own: false };
            read.is_logged = false;
        }
        let [confirmed, ..] = &mut parked.held;
        *confirmed = parked.reads.keys().copied().collect();
        parked.due.clear();
        std::mem::take(&mut parked.waits).into_numbers().collect()
    }

    /// Has those tried next whose round has been answered or whose time was logged; `stamp_ms`: the highest stamp applied.
    /// Returns whether there are any.
    pub fn reach(&mut self, replica: &Replica, stamp_ms: u64) -> bool {
        let Some(parked) = self.0.as_mut().filter(|parked| !parked.reads.is_empty()) else { return false };
        let (round, applied) = (replica.confirmed_round(), replica.applied());
        parked.reach(Reached { round, applied, stamp_ms })
    }

    /// Whether they are to be turned away, since another replica leads, or this one has lost the lead.
    pub fn are_forsaken(&self, replica: &mut Replica) -> bool {
        // Also where none wait: those that come later have not lost anything by it.
        let is_lost = replica.take_lost_round();
        let needs_leader = self.0.as_ref().is_some_and(|parked| parked.for_leader > 0);
        !self.is_empty() && (is_lost || needs_leader && replica.other_leader().is_some())
    }

    /// Whether some wait for a stamp.
    pub fn wait_for_stamp(&self) -> bool {
        self.0.as_ref().is_some_and(|parked| parked.held.last().is_some_and(|logged| !logged.is_empty()))
    }

    /// Takes the first read of the connection that has the oldest one, with those that wait with it. It is not tried any more.
    /// `None`: that one's deadline is after this time.
    pub fn pop_until(&mut self, until_ns: u64) -> Option<ParkedRead> {
        let parked = self.0.as_mut()?;
        let (_, oldest) = parked.reads.first_key_value().filter(|(_, read)| read.deadline_ns <= until_ns)?;
        let waits_for_round = matches!(oldest.until, Until::Confirmed { .. });
        if waits_for_round && until_ns < u64::MAX && planted::is(PlantedBug::RoundNotRepeated) {
            return None;
        }
        let conn = oldest.ticket.conn;
        let number = *parked.conns.get(&conn)?.front()?;
        let read = parked.take(number)?;
        match read.until {
            Until::Brought(Wait::Number(wait)) => drop(parked.waits.wake(wait)),
            Until::Logged(_) => parked.forget_stamp(number),
            Until::Due | Until::Brought(Wait::Job) | Until::Confirmed { .. } => {}
        }
        parked.end(number, read.ticket.conn);
        if parked.reads.is_empty() {
            parked.held.iter_mut().for_each(VecDeque::clear);
            parked.due.clear();
        }
        Some(read)
    }

    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |parked| parked.reads.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some may be tried.
    pub fn has_due(&self) -> bool {
        self.0.as_ref().is_some_and(|parked| !parked.due.is_empty())
    }

    /// Whether some wait for whatever job ends next.
    pub fn wait_for_job(&self) -> bool {
        self.0.as_ref().is_some_and(|parked| parked.waits.has_job())
    }

    /// Whether a read of this connection waits.
    pub fn holds(&self, conn: u64) -> bool {
        self.0.as_ref().is_some_and(|parked| parked.conns.contains_key(&conn))
    }

    /// Whether a read of this connection waits that came before the entry `lsn` was proposed.
    pub fn holds_before(&self, conn: u64, lsn: Lsn) -> bool {
        let Some(parked) = self.0.as_ref() else { return false };
        let taken = |number| parked.next.as_ref().filter(|(next, _)| next == number).map(|(_, read)| read);
        let first = parked.conns.get(&conn).and_then(VecDeque::front);
        let first = first.and_then(|number| parked.reads.get(number).or_else(|| taken(number)));
        first.is_some_and(|read| !read.until.is_behind(lsn))
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &ParkedRead> {
        self.0.iter().flat_map(|parked| parked.reads.values())
    }

    /// Compares what is listed with the reads.
    ///
    /// # Panics
    /// If a read is not on its list, or a list names one that is not to be there.
    pub fn check(&self) {
        let Some(parked) = self.0.as_ref() else { return };
        let mut conns: HashMap<u64, VecDeque<u64>> = HashMap::new();
        let mut stamped = 0;
        for (number, read) in &parked.reads {
            let queue = conns.entry(read.ticket.conn).or_default();
            match read.until {
                Until::Brought(Wait::Number(wait)) => {
                    assert_eq!(parked.waits.get(wait), Some(number), "who waits for {wait}");
                }
                Until::Brought(Wait::Job) => {
                    let is_known = parked.waits.iter().any(|known| known == number);
                    assert!(is_known, "read {number} waits for a job");
                }
                Until::Confirmed { .. } => {
                    let is_known = parked.held.iter().any(|held| held.contains(number));
                    assert!(is_known, "read {number} is held");
                }
                Until::Logged(_) => stamped += 1,
                Until::Due => {
                    let is_first = parked.is_first(*number, read.ticket.conn);
                    assert!(!is_first || parked.due.contains(number), "read {number} is due");
                }
            }
            queue.push_back(*number);
        }
        assert!(parked.next.is_none(), "what was taken is tried, or put back");
        let for_leader = parked.reads.values().filter(|read| !read.is_anywhere).count();
        assert_eq!(parked.for_leader, for_leader, "those that only a leader answers");
        let [.., logged] = &parked.held;
        let waits =
            |number| parked.reads.get(number).is_some_and(|read| matches!(read.until, Until::Logged(_)));
        assert!(
            logged.iter().all(waits) && logged.len() == stamped,
            "those that wait for a stamp: {logged:?}"
        );
        let sorted = parked.conns.iter().map(|(conn, queue)| {
            let mut queue = queue.clone();
            queue.make_contiguous().sort_unstable();
            (*conn, queue)
        });
        assert_eq!(sorted.collect::<HashMap<_, _>>(), conns, "the reads of each connection");
    }
}
