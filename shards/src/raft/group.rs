//! One Raft group's node: every call into the raft crate for one replica, each behind the fence of
//! [`super::guard`].
//!
//! Invariant: a group of one never campaigns with an unpersisted tail (the crate asserts on it), and election
//! timeouts come from the seed alone.

use std::sync::LazyLock;

use bytes::Bytes;
use corduroy_wal::device::prefetch;
use corduroy_wal::mix::{STEP, scramble};
use corduroy_wal::{HardState, Lsn, Term};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, StateRole};

use super::guard::{Fault, guarded};
use super::log_store::LogStore;
use super::membership::MemberId;
use super::ready::{self, Persist, Readies};

/// The raft crate's limits, all set by us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupOptions {
    /// Ticks without a leader before an election; the real timeout is drawn from once to twice this. Default 10.
    pub election_ticks: usize,
    /// Ticks between heartbeats. Default 2.
    pub heartbeat_ticks: usize,
    /// Bytes of entries in one append message. Default 1 MiB.
    pub message_bytes: u64,
    /// Append messages in flight to one peer. Default 256.
    pub messages_in_flight: usize,
    /// Bytes of committed entries in one Ready. Default 8 MiB.
    pub committed_bytes_per_ready: u64,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            election_ticks: 10,
            heartbeat_ticks: 2,
            message_bytes: 1 << 20,
            messages_in_flight: 256,
            committed_bytes_per_ready: 8 << 20,
        }
    }
}

impl GroupOptions {
    /// The crate's configuration for `member`, whose entries up to `applied` are applied.
    #[must_use]
    pub fn config(&self, member: MemberId, applied: Lsn) -> Config {
        Config {
            id: member.0,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied: applied.get(),
            max_size_per_msg: self.message_bytes,
            max_inflight_msgs: self.messages_in_flight,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: self.election_ticks,
            max_election_tick: 2 * self.election_ticks,
            read_only_option: ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            batch_append: true,
            priority: 0,
            // The shard bounds what is not applied, which is no less; and the crate takes off its sum only what Readies name.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: self.committed_bytes_per_ready,
        }
    }
}

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
    campaign_due: bool,
    seed: u64,
    draws: u32,
    /// Term, leader and role that the timeout was last drawn for.
    drawn_term: u64,
    drawn_leader: u64,
    drawn_role: StateRole,
}

/// An idle group is to stay within 4 KiB, all its parts together.
const _: () = assert!(size_of::<Group>() <= 1024, "a group has left its class of the allocator");

impl Group {
    /// Starts the node over `store`. `saved` is the hard state of the last record; `unsaved_conf` goes into the next.
    ///
    /// # Errors
    /// [`Fault`] if the crate refuses the state.
    pub fn start(
        store: LogStore,
        member: MemberId,
        saved: HardState,
        unsaved_conf: Option<Vec<u8>>,
        options: &GroupOptions,
        seed: u64,
    ) -> Result<Self, Fault> {
        let applied = Lsn(store.first().get() - 1);
        let config = options.config(member, applied);
        let mut node = guarded(|| RawNode::new(&config, store, &LOGGER))?
            .map_err(|error| Fault(format!("Raft refuses the saved state: {error}")))?;
        node.mut_store().forget_start();
        // Made by the crate for each member, itself included, and again for those that messages are sent to.
        node.raft.maybe_free_inflight_buffers();
        let mut group = Self {
            readies: Readies::new(saved, unsaved_conf),
            campaign_due: false,
            seed,
            draws: 0,
            drawn_term: 0,
            drawn_leader: 0,
            drawn_role: StateRole::Leader,
            node,
        };
        group.draw_timeout();
        Ok(group)
    }

    /// Replaces the crate's own random election timeout whenever it may have drawn one.
    fn draw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let drawn = (self.drawn_term, self.drawn_role, self.drawn_leader);
        if (raft.term, raft.state, raft.leader_id) == drawn {
            return;
        }
        (self.drawn_term, self.drawn_role, self.drawn_leader) = (raft.term, raft.state, raft.leader_id);
        self.draws = self.draws.wrapping_add(1);
        let base = raft.election_timeout();
        // A number of SplitMix64's, another one for each seed and draw.
        let number = self.seed.wrapping_add(u64::from(self.draws));
        assert!(base > 0, "an election timeout has ticks");
        let extra = scramble(number.wrapping_mul(STEP)) % base as u64;
        raft.set_randomized_election_timeout(base + usize::try_from(extra).unwrap_or(0));
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

    /// Starts an election, or, where the sole voter still has a tail to flush, as soon as that is durable.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn campaign(&mut self) -> Result<(), Fault> {
        if self.is_sole_voter() && !self.is_flushed() {
            self.campaign_due = true;
            return Ok(());
        }
        assert!(!self.leads(), "a leader campaigns");
        self.campaign_due = false;
        self.make_room();
        self.call(|group| group.node.campaign())?
            .map_err(|error| Fault(format!("Raft refuses to campaign: {error}")))
    }

    /// Room for the next entry, no more: thousands of groups that wake together hold one each.
    fn make_room(&mut self) {
        let unstable = &mut self.node.raft.raft_log.unstable.entries;
        if unstable.capacity() == 0 {
            unstable.reserve_exact(1);
        }
    }

    /// Whether an election waits for the tail to be durable, and now can be held.
    #[must_use]
    pub fn can_campaign_now(&self) -> bool {
        self.campaign_due && self.is_flushed()
    }

    /// Moves the group's clock on by one.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn tick(&mut self) -> Result<(), Fault> {
        if !self.leads() && self.is_sole_voter() && !self.is_flushed() {
            return Ok(());
        }
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

    /// Takes a message of a peer in. The caller has checked that it is of this group and well-formed.
    ///
    /// # Errors
    /// [`Fault`], which holds a refusal of the crate as well.
    pub fn step(&mut self, message: Message) -> Result<(), Fault> {
        self.call(|group| group.node.step(message))?
            .map_err(|error| Fault(format!("Raft refuses a message: {error}")))
    }

    /// Takes the node's Ready, if it has one: what must be written of it, if anything.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn take(&mut self) -> Result<Option<Persist>, Fault> {
        if !self.has_ready() {
            return Ok(None);
        }
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
        self.readies.has_ready(&self.node)
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
        self.call(|group| group.readies.persisted(&mut group.node, number))
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
        let log = &self.node.raft.raft_log;
        let (last, committed) = (log.last_index(), log.committed);
        assert!(log.persisted <= last && committed <= last, "last {last}, committed {committed}");
        assert!(self.store().last().get() <= last, "the store ends behind the log's end {last}");
        let is_led = self.node.raft.leader_id == self.node.raft.id;
        assert_eq!(self.leads(), is_led, "who leads knows itself as the leader");
    }

    /// The node's log.
    #[must_use]
    pub fn store(&self) -> &LogStore {
        self.node.store()
    }

    /// Messages that may leave now.
    pub fn take_messages(&mut self) -> Vec<Message> {
        self.readies.take_messages()
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
