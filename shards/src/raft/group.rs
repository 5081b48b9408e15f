//! One Raft group's node: every call into the raft crate for one replica, each behind the fence of
//! [`super::guard`].
//!
//! Invariant: a group of one never campaigns with an unpersisted tail (the crate asserts on it), and election
//! timeouts come from the members, the term and the seed alone.

mod elections;
mod images;
mod rounds;
mod sleep;
mod stall;

use std::sync::LazyLock;

use bytes::Bytes;
use corduroy_wal::device::prefetch;
use corduroy_wal::mix::{STEP, scramble};
use corduroy_wal::{HardState, Lsn, OwnedEntry, Term};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{RawNode, StateRole};

mod change;

use self::change::Members;
pub use self::change::{AppliedChange, Changed};
pub use self::elections::claims_lead;
use super::admit::{self, Admission, ENTRY_BYTES, Refused, Verdict};
use super::guard::{Fault, guarded};
use super::history::{History, Wanted};
use super::lease::Promise;
pub use super::limits::GroupOptions;
use super::log_store::{LogStore, of_wal};
use super::membership::{MemberId, Membership};
use super::reads::Rounds;
use super::ready::{self, Persist, Readies};
use crate::ids::PartitionId;
use crate::planted::{self, PlantedBug};

/// What became of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proposed {
    /// Appended at this position.
    At(Lsn, Term),
    /// Not appended: the lead is just being lost. Try again later.
    Dropped,
}

/// The crate's logger, which discards everything: one for all groups.
static LOGGER: LazyLock<slog::Logger> = LazyLock::new(|| slog::Logger::root(slog::Discard, slog::o!()));

/// The node of one group.
pub struct Group {
    node: RawNode<LogStore>,
    readies: Readies,
    members: Box<Members>,
    seed: u64,
    /// By which it learns that it still leads; made for the first read that waits for one.
    rounds: Option<Box<Rounds>>,
    draws: u32,
    /// What the timeout was last drawn for; see [`Group::draw_timeout`].
    drawn: u64,
}

/// Entries of which nobody needs to know that they are not applied yet.
const APPLY_SLACK: u64 = 64;

/// An idle group is to stay within 4 KiB, all its parts together.
const _: () = assert!(size_of::<Group>() <= 1024, "a group has left its class of the allocator");

impl Group {
    /// Starts the node of `member` over `store`. `saved` is the hard state of the last record; if the configuration `members`
    /// `is_unsaved`, it goes into the next.
    ///
    /// # Errors
    /// [`Fault`] if the crate refuses the state.
    pub fn start(
        store: LogStore,
        member: MemberId,
        saved: HardState,
        (members, is_unsaved): (Membership, bool),
        options: &GroupOptions,
        (partition, seed): (PartitionId, u64),
    ) -> Result<Self, Fault> {
        let applied = Lsn(store.first().get() - 1);
        let config = options.config(member, applied);
        let mut node = guarded(|| RawNode::new(&config, store, &LOGGER))?
            .map_err(|error| Fault(format!("Raft refuses the saved state: {error}")))?;
        node.mut_store().forget_start();
        // Made by the crate for each member, itself included, and again for those that messages are sent to.
        node.raft.maybe_free_inflight_buffers();
        let promise = Promise::starting(options.promise_ns(), saved.term > Term::ZERO);
        let mut group = Self {
            readies: Readies::new(saved, is_unsaved.then(|| members.encode())),
            members: Box::new(Members::starting(partition, members, promise, options)),
            // Members whose seeds are near each other draw nothing alike.
            seed: scramble(seed ^ member.0.wrapping_mul(STEP)),
            rounds: None,
            draws: 0,
            drawn: u64::MAX,
            node,
        };
        group.draw_timeout();
        group.keep_the_start();
        Ok(group)
    }

    /// Who belongs to it, as of the last configuration entry that was applied.
    #[must_use]
    pub fn members(&self) -> &Membership {
        &self.members.now
    }

    /// Runs a call, with the timeout drawn again behind it.
    fn call<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T, Fault> {
        guarded(|| {
            let result = work(self);
            self.draw_timeout();
            result
        })
    }

    fn is_flushed(&self) -> bool {
        let log = &self.node.raft.raft_log;
        log.persisted == log.last_index()
    }

    /// Whether this member is the only voter.
    #[must_use]
    pub fn is_sole_voter(&self) -> bool {
        let voters = self.node.raft.prs().conf().voters().ids();
        voters.iter().all(|voter| voter == self.node.raft.id)
    }

    /// Room for the next entry, no more: thousands of groups that wake together hold one each.
    fn make_room(&mut self) {
        let unstable = &mut self.node.raft.raft_log.unstable.entries;
        if unstable.capacity() == 0 {
            unstable.reserve_exact(1);
        }
    }

    /// Moves the group's clock on by one. `may_campaign`: the disk can take a vote now. Where it cannot, the tick that would
    /// start an election stays owed: a leader goes on, and a follower waits, since it could not vote for itself.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn tick(&mut self, may_campaign: bool, now_ns: u64) -> Result<(), Fault> {
        self.drop_election();
        if !self.leads() && self.is_sole_voter() && !self.is_flushed() {
            return Ok(());
        }
        let may_campaign = !self.watch_disk()? && may_campaign;
        if !self.leads() && self.is_due() && !(may_campaign && self.may_campaign(now_ns)) {
            // It has missed its leader for long enough to vote for another one.
            let raft = &mut self.node.raft;
            raft.election_elapsed = raft.election_elapsed.max(raft.election_timeout());
            return Ok(());
        }
        self.rounds.as_mut().into_iter().for_each(|rounds| rounds.tick());
        self.members.answers.ticks += 1;
        self.let_pins_go();
        self.call(|group| {
            group.node.tick();
        })
    }

    /// Proposes an entry.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn propose(&mut self, data: Bytes) -> Result<Proposed, Fault> {
        self.make_room();
        self.call(|group| {
            let raft = &mut group.node.raft;
            if raft.state != StateRole::Leader {
                return Proposed::Dropped;
            }
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgPropose);
            message.from = raft.id;
            message.set_entries(vec![Entry { data, ..Entry::default() }].into());
            match raft.step(message) {
                Ok(()) => Proposed::At(Lsn(raft.raft_log.last_index()), Term(raft.term)),
                Err(_dropped) => Proposed::Dropped,
            }
        })
    }

    /// Takes a message of a peer in, if it may be.
    ///
    /// # Errors
    /// [`Fault`]: the leader knows of entries that were durable here, and are not there any more; or a panic of the crate.
    pub fn step(&mut self, message: Message, now_ns: u64) -> Result<Result<(), Refused>, Fault> {
        if self.breaks_promise(&message, now_ns) {
            return Ok(Err(Refused::Promised));
        }
        match admit::judge(self.admission(message.from), &message) {
            Verdict::Drop(why) if planted::is(PlantedBug::RefusalFences) => {
                return Err(Fault(why.to_string()));
            }
            Verdict::Drop(why) => return Ok(Err(why)),
            Verdict::Lost(known) => {
                return Err(Fault(format!(
                    "the leader, member {}, knows of entry {known} here, but the log ends at {}: acknowledged entries are \
                     lost; have the storage join its groups anew",
                    message.from,
                    self.last()
                )));
            }
            Verdict::Step => {}
        }
        if self.leads() && message.term == self.node.raft.term {
            self.members.answers.note(MemberId(message.from));
        }
        if self.answer_by_lease(&message, now_ns) {
            return Ok(Ok(()));
        }
        let leader = claims_lead(&message);
        let stepped = self.call(|group| group.node.step(message))?.map_err(|_error| Refused::ByRaft);
        // What an earlier leader sent promises it nothing.
        if leader.is_some_and(|(leader, term)| self.leader() == Some(leader) && self.node.raft.term == term) {
            self.members.promise.renew(now_ns);
        }
        Ok(stepped)
    }

    fn admission(&self, from: u64) -> Admission {
        let raft = &self.node.raft;
        Admission {
            me: MemberId(raft.id),
            knows_sender: raft.prs().get(from).is_some(),
            matched: raft.prs().get(from).filter(|_| self.leads()).map_or(Lsn::ZERO, |at| Lsn(at.matched)),
            term: Term(raft.term),
            leader: self.leader(),
            leads: self.leads(),
            last: self.last(),
            joins: self.members.now.is_joining(MemberId(raft.id)),
            must_flush: self.is_sole_voter() && !self.is_flushed(),
        }
    }

    /// A message to a member could not be sent: what it has is asked for anew, and it is sent one message at a time.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn report_unreachable(&mut self, member: MemberId) -> Result<(), Fault> {
        self.call(|group| group.node.report_unreachable(member.0))
    }

    /// Entries below the tail that members ask for, if none are being read.
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        self.node.mut_store().history_mut().and_then(History::take_wanted)
    }

    /// The entries that [`Group::take_wanted`] named were read, as far as one message goes; `None`: they could not be.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn fetched(&mut self, entries: Option<Vec<OwnedEntry>>) -> Result<(), Fault> {
        let Some(history) = self.node.mut_store().history_mut() else { return Ok(()) };
        let Some(entries) = entries else {
            history.give_up();
            return Ok(());
        };
        let contexts = history.read(entries.into_iter().map(of_wal).collect());
        self.call(|group| {
            for context in contexts {
                group.node.on_entries_fetched(context);
            }
            group.node.mut_store().history_mut().into_iter().for_each(History::forget_read);
        })
    }

    /// The log has nothing below `first` any more.
    pub fn release(&mut self, first: Lsn) {
        self.node.mut_store().history_mut().into_iter().for_each(|history| history.release(first));
    }

    /// The entry up to which every other member has the log, as far as this one knows; a follower knows it of nobody.
    #[must_use]
    pub fn held_by_all(&self) -> Option<Lsn> {
        let raft = &self.node.raft;
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        self.leads().then(|| others.map(|(_, progress)| Lsn(progress.matched)).min()).flatten()
    }

    /// Takes the node's Ready, if it has one: what must be written of it, if anything.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn take(&mut self, now_ns: u64) -> Result<Option<Persist>, Fault> {
        if !self.has_ready() {
            return Ok(None);
        }
        self.take_round(now_ns)?;
        self.call(|group| group.readies.take(&mut group.node))?
    }

    /// Whether what would be taken now has to be written.
    #[must_use]
    pub fn needs_record(&self) -> bool {
        self.readies.needs_record(&self.node)
    }

    /// Whether there is more to take.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.readies.has_ready(&self.node) || self.is_round_due()
    }

    /// The highest entry that may be applied.
    #[must_use]
    pub fn committed(&self) -> Lsn {
        ready::committed(&self.node)
    }

    /// All records up to the one of this Ready are durable.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn persisted(&mut self, number: u64) -> Result<(), Fault> {
        self.call(|group| {
            group.readies.persisted(&mut group.node, number);
            group.end_restoring();
        })
    }

    /// Entries up to `lsn` are applied and may be dropped.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn applied(&mut self, lsn: Lsn) -> Result<(), Fault> {
        self.call(|group| {
            group.node.advance_apply_to(lsn.get());
            group.node.mut_store().trim(lsn);
        })
    }

    /// Has what it points to fetched into the processor's caches.
    pub fn prefetch_parts(&self) {
        let raft = &self.node.raft;
        prefetch(raft.raft_log.unstable.entries.as_slice());
        raft.prs().get(raft.id).into_iter().for_each(prefetch);
        self.node.store().prefetch_parts();
        self.readies.prefetch_parts();
    }

    /// Gives back the memory of empty buffers: the group is idle.
    pub fn rest(&mut self) {
        let raft = &mut self.node.raft;
        raft.maybe_free_inflight_buffers();
        let unstable = &mut raft.raft_log.unstable.entries;
        if unstable.is_empty() {
            unstable.shrink_to_fit();
        }
        self.node.mut_store().rest();
        self.readies.rest();
    }

    /// # Panics
    /// If log, records and the crate's own marks contradict each other.
    pub fn check(&self) {
        self.store().check();
        self.readies.check();
        self.rounds.iter().for_each(|rounds| rounds.check());
        let log = &self.node.raft.raft_log;
        let (last, committed) = (log.last_index(), log.committed);
        assert!(log.persisted <= last && committed <= last, "last {last}, committed {committed}");
        // What was replaced stands in the store until the Ready with what replaced it is taken.
        let stored = self.store().last().get();
        let is_taken = log.unstable_entries().is_empty();
        assert!(!is_taken || stored == last, "the store ends at {stored}, the log at {last}");
        let untaken = log.unstable_entries().first().map_or(stored + 1, |entry| entry.index);
        assert!(untaken <= stored + 1, "the store ends at {stored}, and is followed by {untaken}");
        let is_led = self.node.raft.leader_id == self.node.raft.id;
        assert_eq!(self.leads(), is_led, "who leads knows itself as the leader");
        let members = &self.members.now;
        let conf = self.node.raft.prs().conf().to_conf_state();
        let known = Membership::of(members.as_of, &conf, |id| members.storage(id).unwrap_or_default());
        let known = known.with_contacts_of(members);
        assert_eq!(*members, known, "who belongs to the group");
        assert!(!self.leads() || members.votes(MemberId(self.node.raft.id)), "who leads has a vote");
    }

    /// The node's log.
    #[must_use]
    pub fn store(&self) -> &LogStore {
        self.node.store()
    }

    /// Bytes of entries that were stepped, or proposed, and were not taken for the log.
    #[must_use]
    pub fn untaken_bytes(&self) -> usize {
        self.node.raft.raft_log.unstable_entries().iter().map(|entry| entry.data.len()).sum()
    }

    /// What they take in a record, roughly, in bytes.
    #[must_use]
    pub fn untaken_record_bytes(&self) -> usize {
        self.untaken_bytes() + ENTRY_BYTES * self.node.raft.raft_log.unstable_entries().len()
    }

    /// Whether messages may leave now.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.readies.has_messages()
    }

    /// Messages that may leave now. A member whose apply lags behind says that no more is committed than it has applied: by
    /// that the leader knows it.
    pub fn take_messages(&mut self) -> Vec<Message> {
        let mut messages = self.readies.take_messages();
        self.note_named_images(&mut messages);
        let applied = self.node.raft.raft_log.applied;
        for message in &mut messages {
            let is_answer = matches!(
                message.get_msg_type(),
                MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse
            );
            if is_answer && message.commit > applied + APPLY_SLACK {
                message.commit = applied;
            }
        }
        messages
    }

    /// Records that are not durable yet.
    #[must_use]
    pub fn unpersisted(&self) -> usize {
        self.readies.unpersisted()
    }

    /// Whether this member leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> StateRole {
        self.node.raft.state
    }

    /// The leader that it knows.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        (self.node.raft.leader_id != raft::INVALID_ID).then_some(MemberId(self.node.raft.leader_id))
    }

    /// Its hard state.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        super::log_store::from_raft(&self.node.raft.hard_state())
    }

    /// The highest entry, unpersisted ones included.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self.node.raft.raft_log.last_index())
    }

    /// The highest durable entry.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.node.raft.raft_log.persisted)
    }

    /// The election timeout in force, in ticks.
    #[must_use]
    pub fn election_timeout_ticks(&self) -> usize {
        self.node.raft.randomized_election_timeout()
    }
}
