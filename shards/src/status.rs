//! What a shard reports about itself.

use corduroy_wal::{Lsn, Space, Term};
use raft::StateRole;

use crate::ids::{PartitionId, StorageId};
use crate::raft::leadership::LeadCounts;
use crate::raft::membership::MemberId;
use crate::raft::replica::{Replica, ReplicaError, StartedAs};
use crate::raft::requests::MemberCounts;
use crate::stages::Stage;

/// One replica, as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// Of which partition.
    pub partition: PartitionId,
    /// Whether its group has other members.
    pub has_peers: bool,
    /// How many of them have, at least, all that was acknowledged.
    pub copies: usize,
    /// Its role; a log kept without Raft leads itself.
    pub role: StateRole,
    /// How it was started.
    pub started_as: StartedAs,
    /// Its term.
    pub term: Term,
    /// The leader that it knows.
    pub leader: Option<MemberId>,
    /// The storage that it is on, if it is another one.
    pub leader_storage: Option<StorageId>,
    /// The entry that made its group's members what they are; zero: it was founded so, or it is none.
    pub members_as_of: Lsn,
    /// Since when, on the monotonic clock in ns.
    pub leader_since_ns: u64,
    /// How often the leader changed since the start.
    pub leader_changes: u64,
    /// The highest entry in its log.
    pub last: Lsn,
    /// The highest entry that may be applied.
    pub committed: Lsn,
    /// The highest entry that is applied.
    pub applied: Lsn,
    /// The highest entry that was released to the log, which may drop it.
    pub released: Lsn,
    /// Bytes of entries held until they are applied.
    pub unapplied_bytes: usize,
    /// Requests without an outcome.
    pub pending_requests: usize,
    /// Bytes of them.
    pub pending_bytes: usize,
    /// Entries proposed here whose requests wait.
    pub pending_entries: usize,
    /// Rounds of heartbeats begun for reads, those that were tried again among them.
    pub read_rounds: u64,
    /// When its lease ends, on the monotonic clock in ns: until then it answers reads without asking the others. `None`: it has
    /// none.
    pub leased_until_ns: Option<u64>,
    /// Whether its group, which has several members, sleeps.
    pub is_asleep: bool,
    /// Whether it stands still, since an image replaces its state and its log.
    pub is_held: bool,
    /// Whether it has caught up since the start, as leader or follower, and is not fenced.
    pub is_ready: bool,
    /// Why not, if it is stopped or late.
    pub error: Option<ReplicaError>,
}

impl ReplicaStatus {
    /// Of a replica where nothing waits, and nothing was released.
    pub(crate) fn of(replica: &Replica) -> Self {
        let leadership = replica.leadership();
        Self {
            partition: replica.partition(),
            has_peers: replica.has_peers(),
            copies: replica.copies(),
            role: replica.role(),
            started_as: replica.started_as(),
            term: replica.term(),
            leader: leadership.leader(),
            leader_storage: replica.other_leader(),
            members_as_of: replica.group().map_or(Lsn::ZERO, |group| group.members().as_of),
            leader_since_ns: leadership.since_ns(),
            leader_changes: leadership.changes(),
            last: replica.last(),
            committed: replica.committed(),
            applied: replica.applied(),
            released: Lsn::ZERO,
            unapplied_bytes: replica.unapplied_bytes(),
            pending_requests: 0,
            pending_bytes: 0,
            pending_entries: 0,
            read_rounds: replica.rounds_begun(),
            leased_until_ns: replica.leased_until_ns(),
            is_asleep: replica.is_asleep(),
            is_held: replica.is_held(),
            is_ready: replica.is_ready(),
            error: replica.ready_error(),
        }
    }
}

/// A shard, as it stands.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// Its replicas, in the order they were opened.
    pub replicas: Vec<ReplicaStatus>,
    /// Its counters.
    pub counters: Counters,
    /// What came of requests about members.
    pub members: MemberCounts,
    /// Requests without an outcome.
    pub pending_requests: usize,
    /// Bytes of them.
    pub pending_bytes: usize,
    /// Room in the log.
    pub space: Space,
}

/// A shard's counters since it was opened. Times are those handed to turns, so they are as fine as turns are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Turns.
    pub turns: u64,
    /// Requests taken in.
    pub requests: u64,
    /// Requests refused at the door.
    pub refused: u64,
    /// Entries proposed here.
    pub entries_proposed: u64,
    /// Of those, the ones without operations: they only moved a partition's clock.
    pub times_proposed: u64,
    /// Entries applied.
    pub entries_applied: u64,
    /// Operations in them.
    pub ops_applied: u64,
    /// Reads answered without riding behind a write.
    pub reads_direct: u64,
    /// Reads that had to wait: for a leader, in a group with several members for a round, or for the state machine's jobs.
    pub reads_parked: u64,
    /// How often the state machine was asked for a read, in vain or not.
    pub read_tries: u64,
    /// The same for operations of entries.
    pub apply_tries: u64,
    /// The same for operations that were to be proposed.
    pub prepare_tries: u64,
    /// Requests that got "unknown".
    pub unknown: u64,
    /// Replicas fenced.
    pub fenced: u64,
    /// Messages of other members that were not taken in: they were not for a replica here, could not be believed, or had no
    /// room.
    pub refused_messages: u64,
    /// Reads of the log for members that lag behind which found it damaged, or dropped.
    pub failed_fetches: u64,
    /// Messages to members of which nobody knows where they are.
    pub lost_messages: u64,
    /// Groups with several members that went to sleep.
    pub fallen_asleep: u64,
    /// Those that woke since somebody else is heard, or not heard any more.
    pub woken_by_peers: u64,
    /// Images that have replaced a replica's state.
    pub images_installed: u64,
    /// Ready timeouts.
    pub ready_timeouts: u64,
    /// How often the stamps of entries began to be ahead of the wall clock by more than a second.
    pub clocks_ahead: u64,
    /// Leads of groups with several members.
    pub leads: LeadCounts,
    /// From the first request of a batch to its proposal.
    pub queue: Stage,
    /// From the proposal to the end of apply: log, commit and state.
    pub commit: Stage,
}
