//! What a replica starts from, how, and with which errors.
//!
//! Invariant: a start never lowers what was committed, and never goes on where entries are missing.

use corduroy_wal::{HardState, LogState, Lsn, OwnedEntry, Term, WalError};

use super::group::GroupOptions;
use super::guard::Fault;
use super::membership::{MemberId, Membership, MembershipDamage};
use crate::ids::{PartitionId, StorageId};

/// Whether logs are kept by Raft groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replication {
    /// Each partition is a Raft group.
    #[default]
    On,
    /// Each partition's log is appended to directly.
    Off,
}

/// How a replica was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartedAs {
    /// A new log: this member founds the group.
    Unbootstrapped,
    /// A restart: hard state and configuration were found.
    Bootstrapped,
    /// A log that was kept without Raft becomes a group of one.
    NeedsBackfill,
    /// Replication is off.
    Solo,
    /// It could not be started; see its fault.
    Stopped,
}

/// A replica's errors, by type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplicaError {
    /// It did not lead, or apply its first entry, in time. It goes on trying.
    #[error("replica of partition {partition} was not ready within {waited_ms} ms")]
    ReadyTimeout {
        /// The replica's partition.
        partition: PartitionId,
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// It was fenced or could not start.
    #[error("replica of partition {partition} is stopped: {why}")]
    ReplicaStopped {
        /// The replica's partition.
        partition: PartitionId,
        /// The fault.
        why: String,
    },
    /// Another leader's entry replaced one proposed here.
    #[error("entry {lsn} of partition {partition} was obsoleted by another leader's")]
    Obsoleted {
        /// The replica's partition.
        partition: PartitionId,
        /// The LSN it had.
        lsn: Lsn,
    },
}

/// Why a replica cannot be started from what was found. Its log stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Entries between the state and the log are missing.
    #[error(
        "the state holds entries up to {state}, but the log starts at {log}: entries are lost; rebuild the replica from a \
         peer or a backup"
    )]
    LogStartsLater {
        /// The last entry of the state.
        state: Lsn,
        /// The first of the log.
        log: Lsn,
    },
    /// The log ends before the state does.
    #[error(
        "the state holds entry {state}, but the log ends at {log}: entries are lost; rebuild the replica from a peer or a \
         backup"
    )]
    LogEndsEarlier {
        /// The last entry of the state.
        state: Lsn,
        /// The last of the log.
        log: Lsn,
    },
    /// The log ends before what is committed.
    #[error(
        "the hard state commits entry {commit}, but the log ends at {log}: entries are lost; rebuild the replica from a \
         peer or a backup"
    )]
    CommitLost {
        /// The entry that is committed.
        commit: Lsn,
        /// The last of the log.
        log: Lsn,
    },
    /// Fewer entries were read than the log has.
    #[error("the log ends at {log}, but was read up to {read}")]
    ReadShort {
        /// The last entry of the log.
        log: Lsn,
        /// The last that was read.
        read: Lsn,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Damaged(#[from] WalError),
    /// The configuration cannot be read.
    #[error(transparent)]
    Membership(#[from] MembershipDamage),
    /// A group without its configuration.
    #[error("a hard state was found, but no configuration: the log is damaged")]
    NoConfiguration,
    /// The configuration is of an entry that the log does not have.
    #[error(
        "the configuration is that of entry {as_of}, but the log ends at {log}: entries are lost; rebuild the replica from a \
         peer or a backup"
    )]
    ConfigurationLater {
        /// The entry that made it so.
        as_of: Lsn,
        /// The last of the log.
        log: Lsn,
    },
    /// The replica is another storage's.
    #[error(
        "its member {} is on storage {found}, and this is storage {here}: put the folder back where it was",
        MemberId::FIRST
    )]
    OtherStorage {
        /// The storage that the configuration names.
        found: StorageId,
        /// The storage that it was found on.
        here: StorageId,
    },
    /// The group was made by a later release.
    #[error(
        "the group has members on other nodes (voters {voters:?}, learners {learners:?}), which this release cannot reach"
    )]
    MembersElsewhere {
        /// Their member ids.
        voters: Vec<u64>,
        /// Those of members without a vote.
        learners: Vec<u64>,
    },
    /// Raft refuses what was found.
    #[error(transparent)]
    Raft(#[from] Fault),
}

/// What a start finds.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What the WAL knows of the log, if it knows it.
    pub log: Option<LogState>,
    /// The entries above `applied`.
    pub tail: Vec<OwnedEntry>,
    /// The highest entry that the state machine has persisted.
    pub applied: Lsn,
    /// Its term.
    pub applied_term: Term,
}

/// Settings of a start.
#[derive(Clone, Copy, Debug)]
pub struct StartOptions<'a> {
    /// Whether Raft keeps the log.
    pub replication: Replication,
    /// Raft's limits.
    pub group: &'a GroupOptions,
    /// Where its election timeouts come from.
    pub seed: u64,
    /// The storage that the replica is on.
    pub storage: StorageId,
}

/// The configuration that a replica starts with: what was saved with its log, or, in a log that nothing was saved with, the
/// founder alone. One that does not name the member's storage was written by an earlier release: it gets it here.
pub(super) fn starting_membership(log: &LogState, storage: StorageId) -> Result<Membership, StartError> {
    let founding = Membership::founding(MemberId::FIRST, storage);
    let Some(saved) = log.conf.as_deref() else { return Ok(founding) };
    let saved = Membership::decode(saved)?;
    if !saved.is_alone(MemberId::FIRST) {
        let conf = saved.conf_state();
        return Err(StartError::MembersElsewhere { voters: conf.voters, learners: conf.learners });
    }
    if saved.as_of > log.last {
        return Err(StartError::ConfigurationLater { as_of: saved.as_of, log: log.last });
    }
    let found = saved.storage(MemberId::FIRST).unwrap_or_default();
    if found == StorageId::UNKNOWN {
        return Ok(founding.made_by(saved.as_of));
    }
    if storage != StorageId::UNKNOWN && found != storage {
        return Err(StartError::OtherStorage { found, here: storage });
    }
    Ok(saved)
}

/// The hard state that Raft starts with. Its commit is raised to what the state machine has (an entry is applied
/// only after it is committed), never lowered; in a log kept without Raft, every durable entry was acknowledged.
pub(super) fn starting_state(
    log: &LogState,
    started_as: StartedAs,
    applied: Lsn,
) -> Result<HardState, StartError> {
    let mut state = log.hard_state.unwrap_or_default();
    if state.commit > log.last {
        return Err(StartError::CommitLost { commit: state.commit, log: log.last });
    }
    if started_as == StartedAs::NeedsBackfill {
        state.commit = log.last;
    }
    state.commit = state.commit.max(applied);
    Ok(state)
}
