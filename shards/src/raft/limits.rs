//! How a group is driven, and the raft crate's limits.
//!
//! Invariant: none is left to the crate, whose own have no bounds, or no checks.

use corduroy_wal::Lsn;
use raft::{Config, ReadOnlyOption};

use super::lease::{self, Reads};
use super::membership::MemberId;
use crate::planted::{self, PlantedBug};

/// How a group is driven: its clock, its reads, and the raft crate's limits, all set by us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupOptions {
    /// Time between ticks of the groups that need them, and between looks at deadlines, in ms. Default 100.
    pub tick_ms: u64,
    /// How a leader with other members knows that it may answer a read. Default: by a majority.
    pub reads: Reads,
    /// How old the state may be, in ms, that a member which does not lead answers [`Kind::ReadAnywhere`] from; 0: such reads see
    /// everything that was acknowledged before they came, too. Default 0.
    ///
    /// [`Kind::ReadAnywhere`]: crate::machine::Kind::ReadAnywhere
    pub stale_reads_ms: u64,
    /// Ticks without a leader before an election; voters wait in turn: a tick more to eight fifths of it. Default
    /// 10.
    pub election_ticks: usize,
    /// Ticks between heartbeats. Default 2.
    pub heartbeat_ticks: usize,
    /// Ticks without anything to do after which a group with several members sleeps: it is not ticked, and sends nothing; 0: none
    /// does. Default 0.
    pub sleep_ticks: u16,
    /// Bytes of entries in one append message. Default 1 MiB.
    pub message_bytes: u64,
    /// Append messages in flight to one peer. Default 256.
    pub messages_in_flight: usize,
    /// Entries that a member may lack, or not have applied, to be given a vote or the lead. Default 1,000.
    pub lag_entries: u64,
    /// Bytes of committed entries in one Ready. Default 8 MiB.
    pub committed_bytes_per_ready: u64,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            tick_ms: 100,
            reads: Reads::Quorum,
            stale_reads_ms: 0,
            election_ticks: 10,
            heartbeat_ticks: 2,
            sleep_ticks: 0,
            message_bytes: 1 << 20,
            messages_in_flight: 256,
            lag_entries: 1_000,
            committed_bytes_per_ready: 8 << 20,
        }
    }
}

impl GroupOptions {
    /// The time between ticks, in ns.
    #[must_use]
    pub fn tick_ns(&self) -> u64 {
        self.tick_ms.max(1) * 1_000_000
    }

    /// For how long a member that has heard its leader does not vote, in ns: by a tick less than the shortest election
    /// timeout, since the first tick may follow at once. So no election waits for it, but the first of a member that was
    /// restarted.
    #[must_use]
    pub fn promise_ns(&self) -> u64 {
        self.tick_ns() * (self.election_ticks as u64).saturating_sub(1)
    }

    /// The time between the beats of a shard, 0 where no group sleeps; and how long one may be silent before it counts as dead:
    /// three beats in a row have to be lost. In ns.
    #[must_use]
    pub fn beats_ns(&self) -> (u64, u64) {
        let ticks = self.election_ticks as u64;
        let every_ticks = if self.sleep_ticks == 0 { 0 } else { (ticks * 3 / 10).max(1) };
        (every_ticks * self.tick_ns(), ticks * self.tick_ns())
    }

    /// How long a lease is, in ns; 0: reads have none.
    #[must_use]
    pub fn lease_ns(&self) -> u64 {
        match self.reads {
            Reads::Quorum => 0,
            Reads::Lease => lease::lease_ns(self.promise_ns()),
        }
    }

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
            check_quorum: !planted::is(PlantedBug::DeafLeads),
            pre_vote: true,
            min_election_tick: self.election_ticks,
            // Above all that a group draws.
            max_election_tick: 2 * self.election_ticks + 1,
            read_only_option: ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            // The crate sets no bound to what it makes one message of.
            batch_append: false,
            priority: 0,
            // The shard bounds what is not applied, which is no less; and the crate takes off its sum only what Readies name.
            max_uncommitted_size: raft::NO_LIMIT,
            max_committed_size_per_ready: self.committed_bytes_per_ready,
        }
    }
}
