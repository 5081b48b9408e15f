//! What a replica starts from, how, and with which errors.
//!
//! Invariant: a start never lowers what was committed, and never goes on where entries are missing.

use corduroy_wal::device::Device;
use corduroy_wal::{HardState, LogId, LogState, Lsn, OwnedEntry, Term, Wal, WalError};

use super::group::GroupOptions;
use super::guard::Fault;
use super::history::TermRuns;
use super::membership::{MemberId, Membership, MembershipDamage};
use crate::ids::{PartitionId, StorageId};
use crate::planted::{self, PlantedBug};

/// Whether logs are kept by Raft groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replication {
    /// Each partition is a Raft group.
    #[default]
    On,
    /// Each partition's log is appended to directly.
    Off,
}

/// Where a replica comes from, as whoever opens it knows. An empty log never says so: it may be a new one, or one that was
/// lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Its group is new, and has these voters, each on its storage; the replica is the one on the storage that it is opened
    /// on. What was founded before a crash, and is not in the log, is founded again: nothing of it has left the storage.
    Found(Vec<(MemberId, StorageId)>),
    /// It was added to a group that there is: its log starts from an image of the state, which the leader has for it. Until
    /// then it knows nobody but that one.
    Join {
        /// Which member it is: the entry that added it is committed.
        member: MemberId,
        /// Who leads, and on which storage.
        leader: (MemberId, StorageId),
    },
    /// It was its group alone, on a storage that had this name, and goes on as its first member on the one that it is opened on.
    /// What it was is kept; what has nothing in it yet is founded.
    AloneOn(StorageId),
    /// It was here before. A storage that has nothing of it has lost it.
    Restart,
}

impl Origin {
    /// A group of one.
    #[must_use]
    pub fn alone(storage: StorageId) -> Self {
        Self::Found(vec![(MemberId::FIRST, storage)])
    }

    /// A group of one for each of these partitions.
    pub fn all_alone(partitions: &[PartitionId], storage: StorageId) -> Vec<(PartitionId, Self)> {
        partitions.iter().map(|partition| (*partition, Self::alone(storage))).collect()
    }
}

/// How a replica was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartedAs {
    /// A new log: this member founds the group.
    Unbootstrapped,
    /// It joins a group, and has nothing of its log yet.
    Joining,
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
        /// The last entry of which the state has anything.
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
    /// It was here, and is not any more.
    #[error("nothing of the replica is on this storage any more: rebuild it from its peers or a backup")]
    NothingLeft,
    /// The group that is founded has no member here.
    #[error("the group is founded on other storages than this one, {here}")]
    FoundedElsewhere {
        /// The storage that it was to be opened on.
        here: StorageId,
    },
    /// It was removed from its group, and is not a member any more, whatever is left of it.
    #[error("entry {by} has removed the replica from its group; its log and its state may be deleted")]
    Removed {
        /// The last entry that changed the members.
        by: Lsn,
    },
    /// What an earlier member has left is still here.
    #[error(
        "storage {here} has the log of member {found}, and is to have that of member {wanted}: delete the old one first"
    )]
    OtherMember {
        /// The storage.
        here: StorageId,
        /// Whose log it has; 0: nobody's that is a member.
        found: MemberId,
        /// Who is to join.
        wanted: MemberId,
    },
    /// The founders are not those of a group.
    #[error("the founders of the group are named wrongly: {0}")]
    Founders(&'static str),
    /// The group has members that cannot be reached.
    #[error(
        "the group has members on other nodes (voters {voters:?}, learners {learners:?}), which cannot be reached from here"
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
    /// Whether it has some operations of the entry behind that too.
    pub is_inside_entry: bool,
    /// The term of `applied`.
    pub applied_term: Term,
    /// The terms of entries that the log still has up to `applied`.
    pub terms: TermRuns,
}

impl Found {
    /// The highest entry of which the state machine has anything. It is committed, and the log has it: nothing is applied that is
    /// not durable here (`ready::committed`, `Solo::durable`), the log is released up to `applied` at most, and what is
    /// committed is never replaced. A log that ends before it was damaged.
    pub(super) fn reached(&self) -> Lsn {
        if self.is_inside_entry { self.applied.next() } else { self.applied }
    }
}

/// What the log holds of a partition above what its state machine has `applied`; the inner error concerns this partition alone.
/// `keeps_terms`: other members may ask for entries below that.
///
/// # Errors
/// [`WalError`] if the log cannot be read.
pub fn find<D: Device>(
    wal: &mut Wal<D>,
    log: LogId,
    (applied, is_inside_entry): (Lsn, bool),
    keeps_terms: bool,
) -> Result<Result<Found, StartError>, WalError> {
    let state = wal.log_state(log);
    let applied = planted::misplaced(state.as_ref(), applied);
    let Some(state) = state else {
        return Ok(Ok(Found { applied, is_inside_entry, ..Found::default() }));
    };
    // Where entries between the two are missing, none is of use.
    let tail = if state.last > applied && state.first <= applied.next() {
        match wal.read_blocking(log, applied.next(), state.last) {
            Ok(tail) => tail,
            Err(damage @ WalError::Damaged { .. }) => return Ok(Err(damage.into())),
            Err(error) => return Err(error),
        }
    } else {
        Vec::new()
    };
    let applied_term = wal.term(log, applied).unwrap_or(state.prev_term);
    let last = if keeps_terms { applied.min(state.last) } else { Lsn::ZERO };
    let terms = TermRuns::found(state.first, last, |lsn| wal.term(log, lsn).unwrap_or_default());
    Ok(Ok(Found { log: Some(state), tail, applied, is_inside_entry, applied_term, terms }))
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
    /// Whether messages to other members leave this process.
    pub reaches_peers: bool,
    /// Where it comes from.
    pub origin: &'a Origin,
}

/// The configuration that a replica starts with, and which member of it the replica is: what was saved with its log; in a new
/// one what it is founded with; and in one that was kept without Raft itself alone.
pub(super) fn starting_membership(
    log: &LogState,
    options: StartOptions<'_>,
) -> Result<(Membership, MemberId), StartError> {
    let StartOptions { storage, origin, .. } = options;
    let alone = || Ok((Membership::founding(MemberId::FIRST, storage), MemberId::FIRST));
    let Some(saved) = log.conf.as_deref() else {
        return match origin {
            Origin::Join { member, .. } if log.last > Lsn::ZERO || log.hard_state.is_some() => {
                Err(StartError::OtherMember { here: storage, found: MemberId::FIRST, wanted: *member })
            }
            Origin::Join { member, leader } => {
                let joining = Membership::joining((*member, storage), *leader);
                let known = check_reach(&joining, options).map(|()| (joining, *member));
                known.and_then(|known| match leader.1 == storage || leader.0 == *member {
                    true => Err(StartError::Founders("one that joins is led by another one, elsewhere")),
                    false => Ok(known),
                })
            }
            _ if log.last > Lsn::ZERO || log.hard_state.is_some() => alone(),
            Origin::Found(founders) => founding(founders, options),
            Origin::AloneOn(_) => alone(),
            Origin::Restart => Err(StartError::NothingLeft),
        };
    };
    let saved = Membership::decode(saved)?;
    let is_removed = saved.has_removed(storage);
    if saved.as_of > log.last && !is_removed {
        return Err(StartError::ConfigurationLater { as_of: saved.as_of, log: log.last });
    }
    if is_alone_on(&saved, origin) {
        return Ok((Membership::founding(MemberId::FIRST, storage).made_by(saved.as_of), MemberId::FIRST));
    }
    let here = saved.member_on(storage);
    // A member that is to join is named by a later entry than what removed the one before it.
    let had_joined = |member: &MemberId| member.0 <= saved.as_of.get();
    if let Origin::Join { member, .. } = origin
        && here != Some(*member)
        && !(is_removed && had_joined(member))
    {
        let found = here.unwrap_or(MemberId(0));
        return Err(StartError::OtherMember { here: storage, found, wanted: *member });
    }
    if let Origin::Join { member, leader } = origin
        && saved.is_joining(*member)
    {
        // Another one may lead by now.
        return Ok((Membership::joining((*member, storage), *leader), *member));
    }
    if is_removed {
        return Err(StartError::Removed { by: saved.as_of });
    }
    if !saved.is_alone(MemberId::FIRST) {
        check_reach(&saved, options)?;
        let member = here.ok_or(StartError::FoundedElsewhere { here: storage })?;
        return Ok((saved, member));
    }
    let found = saved.storage(MemberId::FIRST).unwrap_or_default();
    if found == StorageId::UNKNOWN {
        // One that does not name the member's storage was written by an earlier release: it gets it here.
        let founding = Membership::founding(MemberId::FIRST, storage);
        return Ok((founding.made_by(saved.as_of), MemberId::FIRST));
    }
    if storage != StorageId::UNKNOWN && found != storage {
        return Err(StartError::OtherStorage { found, here: storage });
    }
    Ok((saved, MemberId::FIRST))
}

/// Whether a group is the one that is to go on under another name of its storage.
fn is_alone_on(saved: &Membership, origin: &Origin) -> bool {
    match origin {
        Origin::AloneOn(before) => {
            saved.is_alone(MemberId::FIRST) && saved.storage(MemberId::FIRST) == Some(*before)
        }
        Origin::Found(_) | Origin::Join { .. } | Origin::Restart => false,
    }
}

/// That of a new group.
fn founding(
    founders: &[(MemberId, StorageId)],
    options: StartOptions<'_>,
) -> Result<(Membership, MemberId), StartError> {
    let here = options.storage;
    let founded = Membership::founded_by(founders);
    if let [(only, storage)] = founders {
        return match *only == MemberId::FIRST {
            true if *storage == here => Ok((founded, *only)),
            true => Err(StartError::FoundedElsewhere { here }),
            false => Err(StartError::Founders("one that founds a group alone is member 1")),
        };
    }
    let unique = |at: usize, founder: &(MemberId, StorageId)| {
        founders.iter().skip(at + 1).all(|(member, storage)| *member != founder.0 && *storage != founder.1)
    };
    if founders.is_empty() || !founders.iter().enumerate().all(|(at, founder)| unique(at, founder)) {
        return Err(StartError::Founders("there are none, or two have the same id or storage"));
    }
    check_reach(&founded, options)?;
    let member = founded.member_on(here).ok_or(StartError::FoundedElsewhere { here })?;
    Ok((founded, member))
}

/// Whether the other members of a group can be reached, which a log without Raft does not even try.
fn check_reach(membership: &Membership, options: StartOptions<'_>) -> Result<(), StartError> {
    if options.reaches_peers && options.replication == Replication::On {
        return Ok(());
    }
    let conf = membership.conf_state();
    Err(StartError::MembersElsewhere { voters: conf.voters, learners: conf.learners })
}

/// The hard state that Raft starts with. Its commit is raised to what the state machine has [`reached`](Found::reached) (an
/// entry is applied only after it is committed), never lowered; in a log kept without Raft, every durable entry was
/// acknowledged.
pub(super) fn starting_state(
    log: &LogState,
    started_as: StartedAs,
    reached: Lsn,
) -> Result<HardState, StartError> {
    let mut state = log.hard_state.unwrap_or_default();
    if state.commit > log.last {
        return Err(StartError::CommitLost { commit: state.commit, log: log.last });
    }
    if started_as == StartedAs::NeedsBackfill || planted::is(PlantedBug::RestartCommitsAll) {
        state.commit = log.last;
    }
    state.commit = state.commit.max(reached);
    // Raft panics on anything else.
    assert!(
        state.commit <= log.last,
        "entry {} is committed, but the log ends at {}",
        state.commit,
        log.last
    );
    Ok(state)
}
