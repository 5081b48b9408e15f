//! The reads that wait at a replica: for a leader that has caught up, for what a job brings, or for a turn that may bring
//! more.
//!
//! Each waits for what it needs alone, and is tried when that is there and no read of its connection stands before it.
//! Invariant: `due` names exactly those, as far as they still wait, so none is forgotten and none is tried in vain.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use crate::ids::Ticket;
use crate::waiting::{Wait, Waiting};

/// A read that waits.
#[derive(Debug)]
pub(crate) struct ParkedRead {
    pub ticket: Ticket,
    pub op: Box<[u8]>,
    pub deadline_ns: u64,
    /// What it waits for; `None`: it may be tried.
    pub wait: Option<Wait>,
}

/// The reads of a replica, numbered in the order in which they came. Without heap memory until there is one.
#[derive(Debug, Default)]
pub(crate) struct ParkedReads(Option<Box<Parked>>);

#[derive(Debug, Default)]
struct Parked {
    reads: BTreeMap<u64, ParkedRead>,
    last: u64,
    /// The reads of each connection.
    conns: HashMap<u64, VecDeque<u64>>,
    waits: Waiting<u64>,
    due: VecDeque<u64>,
}

impl Parked {
    /// Puts a read among the others; its connection lists it already.
    fn insert(&mut self, number: u64, read: ParkedRead) {
        match read.wait {
            Some(wait) => self.waits.add(wait, number),
            None if self.is_first(number, read.ticket.conn) => self.due.push_back(number),
            None => {}
        }
        self.reads.insert(number, read);
    }

    /// Whether no read of its connection stands before it.
    fn is_first(&self, number: u64, conn: u64) -> bool {
        self.conns.get(&conn).and_then(VecDeque::front) == Some(&number)
    }

    /// A read has what it waited for.
    fn wake(&mut self, number: u64) {
        let Some(read) = self.reads.get_mut(&number) else { return };
        read.wait = None;
        let conn = read.ticket.conn;
        if self.is_first(number, conn) {
            self.due.push_back(number);
        }
    }

    /// The first read of a connection is answered.
    fn end(&mut self, number: u64, conn: u64) {
        let queue = self.conns.get_mut(&conn).expect("a connection's reads are listed");
        let first = queue.pop_front();
        assert_eq!(first, Some(number), "the reads of a connection are answered in their order");
        match queue.front() {
            Some(next) if self.reads.get(next).is_some_and(|read| read.wait.is_none()) => {
                self.due.push_back(*next);
            }
            Some(_) => {}
            None => drop(self.conns.remove(&conn)),
        }
    }
}

impl ParkedReads {
    pub fn push(&mut self, read: ParkedRead) {
        let parked = self.0.get_or_insert_default();
        parked.last += 1;
        let (number, conn) = (parked.last, read.ticket.conn);
        let queue = parked.conns.entry(conn).or_default();
        queue.push_back(number);
        parked.insert(number, read);
    }

    /// The next read that may be tried, with its number: to be handed back by one of the next two.
    pub fn take_due(&mut self) -> Option<(u64, ParkedRead)> {
        let parked = self.0.as_mut()?;
        loop {
            let number = parked.due.pop_front()?;
            // It may have been refused since.
            if let Some(read) = parked.reads.remove(&number) {
                return Some((number, read));
            }
        }
    }

    /// A read that was taken has been answered.
    pub fn end(&mut self, number: u64, conn: u64) {
        self.0.as_mut().expect("it was taken from here").end(number, conn);
    }

    /// A read that was taken waits on.
    pub fn put_back(&mut self, number: u64, read: ParkedRead) {
        self.0.as_mut().expect("it was taken from here").insert(number, read);
    }

    /// What the state machine calls by this number is there. Returns whether a read has waited for it.
    pub fn wake(&mut self, wait: u64) -> bool {
        let Some(parked) = self.0.as_mut() else { return false };
        let Some(number) = parked.waits.wake(wait) else { return false };
        parked.wake(number);
        true
    }

    /// A job has ended.
    pub fn wake_for_job(&mut self) {
        let Some(parked) = self.0.as_mut() else { return };
        for number in parked.waits.wake_for_job() {
            parked.wake(number);
        }
    }

    /// The oldest read.
    pub fn first(&self) -> Option<&ParkedRead> {
        self.0.as_ref().and_then(|parked| parked.reads.first_key_value()).map(|(_, read)| read)
    }

    /// Takes the oldest read, which is not tried any more.
    pub fn pop(&mut self) -> Option<ParkedRead> {
        let parked = self.0.as_mut()?;
        let (number, read) = parked.reads.pop_first()?;
        if let Some(Wait::Number(wait)) = read.wait {
            parked.waits.wake(wait);
        }
        parked.end(number, read.ticket.conn);
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
        for (number, read) in &parked.reads {
            let queue = conns.entry(read.ticket.conn).or_default();
            match read.wait {
                Some(Wait::Number(wait)) => {
                    assert_eq!(parked.waits.get(wait), Some(number), "who waits for {wait}");
                }
                Some(Wait::Job) => {
                    let is_known = parked.waits.iter().any(|known| known == number);
                    assert!(is_known, "read {number} waits for a job");
                }
                None => {
                    assert!(!queue.is_empty() || parked.due.contains(number), "read {number} is due");
                }
            }
            queue.push_back(*number);
        }
        assert_eq!(parked.conns, conns, "the reads of each connection");
    }
}
