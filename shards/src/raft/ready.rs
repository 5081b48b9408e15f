//! Taking a Ready apart: what must be written, what may be applied, what may be sent, and when each may leave.
//!
//! Order rules, which the raft crate leaves to its user:
//! - entries, hard state and configuration of a Ready are one record; Readies become durable in their order;
//! - a follower's messages leave when this Ready and all before it are durable, also if this one has nothing to
//!   write;
//! - a leader's messages may leave before its entries are durable, but never before the term and vote they carry
//!   are: a group of one voter with learners wins its election in the same Ready that announces the term, and a crash
//!   in between would use that term twice;
//! - what a follower asks the leader about reads speaks of nothing that has to be durable, and leaves at once;
//! - a commit index that moved alone is not worth a write: it rides with the next record. It is not worth a Ready either:
//!   what may be applied is asked of the node itself ([`committed`]), so an entry costs its group one Ready, not two.

use std::collections::VecDeque;

use corduroy_wal::device::prefetch;
use corduroy_wal::{HardState, Lsn, Term};
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, StateRole};

use super::guard::Fault;
use super::log_store::{LogStore, from_raft};
use crate::planted::{self, PlantedBug};

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
    /// The entry, and its term, behind which the log begins anew: an image was installed.
    pub reset: Option<(Lsn, Term)>,
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

/// A configuration that is not durable yet. Boxed, since hardly any group has one.
#[derive(Debug)]
struct UnsavedConf {
    /// Until the Ready is taken whose record it goes into.
    bytes: Option<Vec<u8>>,
    /// That Ready.
    number: Option<u64>,
    /// Whether it has a record made for it, since apply waits for that.
    is_urgent: bool,
}

/// The Readies of one group between being taken and being durable.
#[derive(Debug)]
pub struct Readies {
    written: VecDeque<Written>,
    last_taken: u64,
    /// Made when there is a first message: most groups of a node that stands alone never have one.
    mail: Option<Box<Mail>>,
    /// What the last record holds. Term and vote are never ahead of it: a Ready that changes them has a record.
    saved: HardState,
    /// The commit index that the last Ready named; it rides with the next record.
    commit: Lsn,
    /// Leader and role, as the last Ready that named them did, in one number: see [`soft_state`].
    announced: u64,
    unsaved_conf: Option<Box<UnsavedConf>>,
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
            commit: saved.commit,
            announced: soft_state(raft::INVALID_ID, StateRole::Follower),
            unsaved_conf: unsaved_conf.map(|conf| UnsavedConf::boxed(conf, false)),
        }
    }

    /// Has a configuration written, in a record of its own if there is nothing else to write.
    ///
    /// # Panics
    /// If one is being written.
    pub fn save_conf(&mut self, conf: Vec<u8>) {
        let is_written = self.unsaved_conf.as_ref().is_some_and(|unsaved| unsaved.number.is_some());
        assert!(!is_written, "a configuration is changed while the one before is being written");
        self.unsaved_conf = Some(UnsavedConf::boxed(conf, true));
    }

    /// Whether the configuration is not durable yet.
    #[must_use]
    pub const fn is_saving_conf(&self) -> bool {
        self.unsaved_conf.is_some()
    }

    fn has_conf_to_write(&self) -> bool {
        self.unsaved_conf.as_ref().is_some_and(|unsaved| unsaved.bytes.is_some())
    }

    fn has_urgent_conf(&self) -> bool {
        self.unsaved_conf.as_ref().is_some_and(|unsaved| unsaved.is_urgent && unsaved.bytes.is_some())
    }

    /// Whether the node's next Ready will have to be written.
    #[must_use]
    pub fn needs_record(&self, node: &RawNode<LogStore>) -> bool {
        let raft = &node.raft;
        self.has_conf_to_write()
            || !raft.raft_log.unstable_entries().is_empty()
            || (raft.term, raft.vote) != (self.saved.term.get(), self.saved.vote)
            || raft.raft_log.unstable_snapshot().is_some()
    }

    /// Whether the node has a Ready that brings more than a commit index.
    #[must_use]
    pub fn has_ready(&self, node: &RawNode<LogStore>) -> bool {
        let raft = &node.raft;
        !raft.raft_log.unstable_entries().is_empty()
            || !raft.msgs.is_empty()
            || (raft.term, raft.vote) != (self.saved.term.get(), self.saved.vote)
            || soft_state(raft.leader_id, raft.state) != self.announced
            || !raft.read_states.is_empty()
            || raft.raft_log.unstable_snapshot().is_some()
            || self.has_urgent_conf()
    }

    /// Takes the node's Ready: what must be written of it, if anything. Its entries are in the store afterwards. What comes of
    /// an image that was installed is one record, so the log has all of it or nothing.
    ///
    /// # Errors
    /// [`Fault`] if the Ready holds what cannot be handled.
    pub fn take(&mut self, node: &mut RawNode<LogStore>) -> Result<Option<Persist>, Fault> {
        let mut ready = node.ready();
        let image = ready.snapshot().get_metadata();
        let reset = (image.index > 0).then_some((Lsn(image.index), Term(image.term)));
        let number = ready.number();
        assert!(number > self.last_taken, "Ready {number} was taken behind Ready {}", self.last_taken);
        self.last_taken = number;
        let state = ready.hs().map_or(HardState { commit: self.commit, ..self.saved }, from_raft);
        self.commit = state.commit;
        if let Some(state) = ready.ss() {
            self.announced = soft_state(state.leader_id, state.raft_state);
        }
        let entries = ready.take_entries();
        let range = entries.first().zip(entries.last()).map(|(a, b)| (a.index, b.index));
        let persist = self.record(number, range, state, reset);
        assert!(persist.is_some() || !ready.must_sync(), "Ready {number} must be written, but has no record");
        self.queue_messages(ready.take_messages(), ready.take_persisted_messages());
        node.mut_store().append(entries)?;
        node.advance_append_async(ready);
        if self.written.is_empty() {
            node.on_persist_ready(number);
        }
        Ok(persist)
    }

    /// The record of a Ready with entries in this range, if it needs one.
    fn record(
        &mut self,
        number: u64,
        range: Option<(u64, u64)>,
        state: HardState,
        reset: Option<(Lsn, Term)>,
    ) -> Option<Persist> {
        let votes = (state.term, state.vote) != (self.saved.term, self.saved.vote);
        if range.is_none() && !votes && !self.has_conf_to_write() && reset.is_none() {
            return None;
        }
        assert!(reset.is_none() || range.is_none(), "nothing follows an image before its record is written");
        let (from, to) = range.unwrap_or((1, 0));
        let mut hard_state = (state != self.saved).then_some(state);
        if planted::is(PlantedBug::VoteForgotten) {
            hard_state = hard_state.map(|state| HardState { vote: raft::INVALID_ID, ..state });
        }
        self.saved = state;
        self.written.push_back(Written { number, votes });
        let unsaved = self.unsaved_conf.as_mut().filter(|unsaved| unsaved.bytes.is_some());
        let conf = unsaved.and_then(|unsaved| {
            unsaved.number = Some(number);
            unsaved.bytes.take()
        });
        let conf = conf.filter(|_| !planted::is(PlantedBug::ConfigurationNotSaved));
        Some(Persist { number, from: Lsn(from), to: Lsn(to), hard_state, conf, reset })
    }

    fn queue_messages(&mut self, leader: Vec<Message>, mut follower: Vec<Message>) {
        let is_question = |message: &mut Message| message.get_msg_type() == MessageType::MsgReadIndex;
        let questions: Vec<_> = follower.extract_if(.., is_question).collect();
        let vote = self.written.iter().rev().find(|written| written.votes).map(|written| written.number);
        let last = self.written.back().map(|written| written.number);
        for (messages, until) in [(leader, vote), (questions, None), (follower, last)] {
            if messages.is_empty() {
                continue;
            }
            let mail = self.mail.get_or_insert_default();
            match until {
                Some(number) if !planted::is(PlantedBug::MessagesBeforeDurable) => {
                    mail.held.push_back((number, messages));
                }
                Some(_) | None => mail.sendable.extend(messages),
            }
        }
    }

    /// All records up to the one of this Ready are durable.
    pub fn persisted(&mut self, node: &mut RawNode<LogStore>, number: u64) {
        assert!(number <= self.last_taken, "Ready {number} is durable before it was taken");
        while self.written.front().is_some_and(|written| written.number <= number) {
            self.written.pop_front();
        }
        self.unsaved_conf.take_if(|unsaved| unsaved.number.is_some_and(|of| of <= number));
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

    /// A message may leave now that says nothing which has to be durable.
    pub fn send(&mut self, message: Message) {
        self.mail.get_or_insert_default().sendable.push(message);
    }

    /// Whether messages may leave now.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| !mail.sendable.is_empty())
    }

    /// Messages that may leave now, in order.
    pub fn take_messages(&mut self) -> Vec<Message> {
        self.mail.as_mut().map(|mail| std::mem::take(&mut mail.sendable)).unwrap_or_default()
    }

    /// Has the records under way fetched into the processor's caches.
    pub fn prefetch_parts(&self) {
        prefetch(self.written.as_slices().0);
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

    /// The Ready of the oldest record that is not durable yet.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.written.front().map(|written| written.number)
    }

    /// Records that are not durable yet.
    #[must_use]
    pub fn unpersisted(&self) -> usize {
        self.written.len()
    }
}

impl UnsavedConf {
    fn boxed(conf: Vec<u8>, is_urgent: bool) -> Box<Self> {
        Box::new(Self { bytes: Some(conf), number: None, is_urgent })
    }
}

/// A leader and a role. Member ids are LSNs, so the two bits that the role takes are free.
const fn soft_state(leader: u64, role: StateRole) -> u64 {
    leader << 2 | role as u64
}

/// The highest entry that may be applied: agreed by a majority, and durable here.
#[must_use]
pub fn committed(node: &RawNode<LogStore>) -> Lsn {
    let log = &node.raft.raft_log;
    if planted::is(PlantedBug::CommitWithoutMajority) {
        return Lsn(log.persisted);
    }
    if planted::is(PlantedBug::AppliedBeforeDurable) {
        return Lsn(log.committed);
    }
    if planted::is(PlantedBug::CommitNeedsAll) && node.raft.state == StateRole::Leader {
        let of_all = node.raft.prs().iter().map(|(_, progress)| progress.matched).min().unwrap_or(0);
        return Lsn(of_all.min(log.committed).min(log.persisted).max(log.applied));
    }
    Lsn(log.committed.min(log.persisted))
}
