//! Taking a Ready apart: what must be written, what may be applied, what may be sent, and when each may leave.
//!
//! Order rules, which the raft crate leaves to its user:
//! - entries, hard state and configuration of a Ready are one record; Readies become durable in their order;
//! - a follower's messages leave when this Ready and all before it are durable, also if this one has nothing to
//!   write;
//! - a leader's messages may leave before its entries are durable, but never before the term and vote they carry
//!   are: a group of one voter with learners wins its election in the same Ready that announces the term, and a crash
//!   in between would use that term twice;
//! - a commit index that moved alone is not worth a write: it rides with the next record.

use std::collections::VecDeque;

use corduroy_wal::{HardState, Lsn};
use raft::RawNode;
use raft::eraftpb::Message;

use super::guard::Fault;
use super::log_store::{LogStore, from_raft};

/// One record to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persist {
    /// The Ready it belongs to; handed back when it is durable.
    pub number: u64,
    /// Its first entry.
    pub from: Lsn,
    /// Its last entry; below `from` if there are none.
    pub to: Lsn,
    /// The hard state, if it changed since the record before.
    pub hard_state: Option<HardState>,
    /// The configuration, if it changed.
    pub conf: Option<Vec<u8>>,
}

/// What a Ready brought.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Taken {
    /// What must be written.
    pub persist: Option<Persist>,
    /// Entries may be applied up to this one.
    pub committed: Option<Lsn>,
}

#[derive(Debug)]
struct Written {
    number: u64,
    votes: bool,
}

/// Messages to peers: those that wait for a Ready to be durable, and those that may leave.
#[derive(Debug, Default)]
struct Mail {
    held: VecDeque<(u64, Vec<Message>)>,
    sendable: Vec<Message>,
}

/// The Readies of one group between being taken and being durable.
#[derive(Debug)]
pub struct Readies {
    written: VecDeque<Written>,
    last_taken: u64,
    /// Made when there is a first message: most groups of a node that stands alone never have one.
    mail: Option<Box<Mail>>,
    saved: HardState,
    current: HardState,
    unsaved_conf: Option<Box<[u8]>>,
}

impl Readies {
    /// For a group whose last record held `saved`; `unsaved_conf` goes into the next one.
    #[must_use]
    pub fn new(saved: HardState, unsaved_conf: Option<Vec<u8>>) -> Self {
        Self {
            written: VecDeque::new(),
            last_taken: 0,
            mail: None,
            saved,
            current: saved,
            unsaved_conf: unsaved_conf.map(Vec::into_boxed_slice),
        }
    }

    /// Whether the node's next Ready will have to be written.
    #[must_use]
    pub fn needs_record(&self, node: &RawNode<LogStore>) -> bool {
        let raft = &node.raft;
        self.unsaved_conf.is_some()
            || !raft.raft_log.unstable_entries().is_empty()
            || (raft.term, raft.vote) != (self.saved.term.get(), self.saved.vote)
    }

    /// Takes the node's Ready. Its entries are in the store afterwards.
    ///
    /// # Errors
    /// [`Fault`] if the Ready holds what cannot be handled.
    pub fn take(&mut self, node: &mut RawNode<LogStore>) -> Result<Taken, Fault> {
        let mut ready = node.ready();
        if !ready.snapshot().is_empty() {
            return Err(Fault("a snapshot arrived, which this replica cannot restore".to_owned()));
        }
        let number = ready.number();
        assert!(number > self.last_taken, "Ready {number} was taken behind Ready {}", self.last_taken);
        self.last_taken = number;
        if let Some(state) = ready.hs() {
            self.current = from_raft(state);
        }
        let entries = ready.take_entries();
        let committed = ready.committed_entries().last().map(|entry| Lsn(entry.index));
        let persist =
            self.record(number, entries.first().zip(entries.last()).map(|(a, b)| (a.index, b.index)));
        assert!(persist.is_some() || !ready.must_sync(), "Ready {number} must be written, but has no record");
        self.queue_messages(ready.take_messages(), ready.take_persisted_messages());
        node.mut_store().append(entries)?;
        node.advance_append_async(ready);
        if self.written.is_empty() {
            node.on_persist_ready(number);
        }
        Ok(Taken { persist, committed })
    }

    /// The record of a Ready with entries in this range, if it needs one.
    fn record(&mut self, number: u64, range: Option<(u64, u64)>) -> Option<Persist> {
        let votes = (self.current.term, self.current.vote) != (self.saved.term, self.saved.vote);
        if range.is_none() && !votes && self.unsaved_conf.is_none() {
            return None;
        }
        let (from, to) = range.unwrap_or((1, 0));
        let hard_state = (self.current != self.saved).then_some(self.current);
        self.saved = self.current;
        self.written.push_back(Written { number, votes });
        let conf = self.unsaved_conf.take().map(Vec::from);
        Some(Persist { number, from: Lsn(from), to: Lsn(to), hard_state, conf })
    }

    fn queue_messages(&mut self, leader: Vec<Message>, follower: Vec<Message>) {
        let vote = self.written.iter().rev().find(|written| written.votes).map(|written| written.number);
        let last = self.written.back().map(|written| written.number);
        for (messages, until) in [(leader, vote), (follower, last)] {
            if messages.is_empty() {
                continue;
            }
            let mail = self.mail.get_or_insert_default();
            match until {
                Some(number) => mail.held.push_back((number, messages)),
                None => mail.sendable.extend(messages),
            }
        }
    }

    /// All records up to the one of this Ready are durable.
    pub fn persisted(&mut self, node: &mut RawNode<LogStore>, number: u64) {
        assert!(number <= self.last_taken, "Ready {number} is durable before it was taken");
        while self.written.front().is_some_and(|written| written.number <= number) {
            self.written.pop_front();
        }
        let upto = self.written.front().map_or(self.last_taken, |next| next.number - 1);
        if let Some(mail) = &mut self.mail {
            let mut waiting = VecDeque::new();
            for (until, messages) in mail.held.drain(..) {
                if until <= number {
                    mail.sendable.extend(messages);
                } else {
                    waiting.push_back((until, messages));
                }
            }
            mail.held = waiting;
        }
        node.on_persist_ready(upto);
    }

    /// Messages that may leave now, in order.
    pub fn take_messages(&mut self) -> Vec<Message> {
        self.mail.as_mut().map(|mail| std::mem::take(&mut mail.sendable)).unwrap_or_default()
    }

    /// Gives back the memory of empty queues.
    pub fn rest(&mut self) {
        if self.written.is_empty() {
            self.written = VecDeque::new();
        }
        self.mail.take_if(|mail| mail.held.is_empty() && mail.sendable.is_empty());
    }

    /// # Panics
    /// If Readies are not in their order.
    pub fn check(&self) {
        let numbers = self.written.iter().map(|written| written.number);
        assert!(numbers.clone().is_sorted_by(|one, next| one < next), "records are written in their order");
        assert!(numbers.max().is_none_or(|last| last <= self.last_taken), "records are of Readies");
        let held = self.mail.iter().flat_map(|mail| &mail.held);
        assert!(held.map(|(until, _)| until).is_sorted(), "messages leave in their order");
    }

    /// Records that are not durable yet.
    #[must_use]
    pub fn unpersisted(&self) -> usize {
        self.written.len()
    }
}
