//! What drives a replica: a Raft group's node, a log of its own, or nothing any more; and how it is started.
//!
//! Invariant: whatever drives it, a replica asks in the same words. Only here it makes a difference.

use bytes::Bytes;
use corduroy_wal::device::prefetch;
use corduroy_wal::{LogState, Lsn, Term};
use raft::StateRole;
use raft::eraftpb::Message;

use super::group::{Changed, Group, Proposed};
use super::guard::Fault;
use super::history::History;
use super::log_store::LogStore;
use super::membership::MemberId;
use super::ready::Persist;
use super::solo::Solo;
use super::start::{
    Found, Replication, StartError, StartOptions, StartedAs, starting_membership, starting_state,
};
use crate::ids::PartitionId;

/// What drives a replica.
pub(super) enum Engine {
    /// Raft.
    Group(Box<Group>),
    /// A log kept without Raft.
    Solo(Box<Solo>),
    /// Nothing any more.
    Stopped(Box<Stop>),
}

/// Why nothing drives a replica.
pub(super) struct Stop {
    pub why: String,
    /// The last entry that changed the members of the group, which it had left before it was started; zero: it is not that.
    pub removed_by: Lsn,
}

impl Stop {
    /// For this reason.
    pub const fn of(why: String) -> Self {
        Self { why, removed_by: Lsn::ZERO }
    }
}

/// A replica that was started: what drives it, and which member it is.
pub(super) struct Started {
    pub engine: Engine,
    pub started_as: StartedAs,
    pub member: MemberId,
}

impl Started {
    /// Starts from what was found.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn of(partition: PartitionId, found: Found, options: StartOptions<'_>) -> Result<Self, StartError> {
        let reached = found.reached();
        let Found { log, tail, applied, is_inside_entry: _, applied_term, terms } = found;
        let log = log.unwrap_or(LogState { first: Lsn(1), ..LogState::default() });
        let members = starting_membership(&log, options);
        if let Err(removed @ StartError::Removed { .. }) = members {
            // The deletion of what it has left may have been cut off.
            return Err(removed);
        }
        if applied.next() < log.first && log.last > applied {
            return Err(StartError::LogStartsLater { state: applied, log: log.first });
        }
        if reached > log.last {
            return Err(StartError::LogEndsEarlier { state: reached, log: log.last });
        }
        let (conf, member) = members?;
        let started_as = match (options.replication, log.hard_state, log.conf.is_some()) {
            (Replication::Off, _, _) => StartedAs::Solo,
            (Replication::On, _, _) if conf.is_joining(member) => StartedAs::Joining,
            (Replication::On, Some(_), true) => StartedAs::Bootstrapped,
            (Replication::On, Some(_), false) => return Err(StartError::NoConfiguration),
            (Replication::On, None, _) if log.last == Lsn::ZERO => StartedAs::Unbootstrapped,
            (Replication::On, None, _) => StartedAs::NeedsBackfill,
        };
        let state = starting_state(&log, started_as, reached)?;
        let mut store = LogStore::new(applied, applied_term, state, conf.conf_state());
        store.load(tail)?;
        if store.last() != log.last {
            return Err(StartError::ReadShort { log: log.last, read: store.last() });
        }
        if started_as == StartedAs::Solo {
            store.forget_start();
            let engine = Engine::Solo(Box::new(Solo::new(store)));
            return Ok(Self { engine, started_as, member });
        }
        let is_alone = conf.is_alone(member);
        if !is_alone {
            let (first, prev_term) = (log.first.min(store.first()), log.prev_term);
            store.set_history(History::new(first, prev_term, terms));
        }
        // What is not saved so, an earlier version among it, goes into the group's next record.
        let is_unsaved = log.conf.as_ref() != Some(&conf.encode());
        let saved = log.hard_state.unwrap_or_default();
        let of = (partition, options.seed);
        let group = Group::start(store, member, saved, (conf, is_unsaved), options.group, of)?;
        Ok(Self { engine: Engine::Group(Box::new(group)), started_as, member })
    }

    /// A replica that could not be started.
    pub fn stopped(why: &StartError) -> Self {
        let removed_by = if let StartError::Removed { by } = why { *by } else { Lsn::ZERO };
        let engine = Engine::Stopped(Box::new(Stop { why: why.to_string(), removed_by }));
        Self { engine, started_as: StartedAs::Stopped, member: MemberId::FIRST }
    }
}

impl Engine {
    pub const fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }

    pub fn group(&self) -> Option<&Group> {
        match self {
            Self::Group(group) => Some(group),
            Self::Solo(_) | Self::Stopped(_) => None,
        }
    }

    pub fn group_mut(&mut self) -> Option<&mut Group> {
        match self {
            Self::Group(group) => Some(group),
            Self::Solo(_) | Self::Stopped(_) => None,
        }
    }

    pub fn can_propose(&self) -> bool {
        match self {
            Self::Group(group) => group.leads(),
            Self::Solo(_) => true,
            Self::Stopped(_) => false,
        }
    }

    pub fn propose(&mut self, data: Bytes) -> Result<Proposed, Fault> {
        match self {
            Self::Group(group) => group.propose(data),
            Self::Solo(solo) => solo.propose(data).map(|(lsn, term)| Proposed::At(lsn, term)),
            Self::Stopped(_) => Ok(Proposed::Dropped),
        }
    }

    pub fn take(&mut self, now_ns: u64) -> Result<Option<Persist>, Fault> {
        match self {
            Self::Group(group) => group.take(now_ns),
            Self::Solo(solo) => Ok(solo.take()),
            Self::Stopped(_) => Ok(None),
        }
    }

    /// The highest entry that may be applied; nothing may by what is stopped.
    pub fn committed(&self) -> Option<Lsn> {
        match self {
            Self::Group(group) => Some(group.committed()),
            Self::Solo(solo) => Some(solo.durable()),
            Self::Stopped(_) => None,
        }
    }

    pub fn needs_record(&self) -> bool {
        match self {
            Self::Group(group) => group.needs_record(),
            Self::Solo(solo) => solo.needs_record(),
            Self::Stopped(_) => false,
        }
    }

    /// See [`Group::change`]. Without Raft nobody can have joined: what an entry said of that came to nothing, or was taken in.
    pub fn change(&mut self, lsn: Lsn) -> Result<Changed, Fault> {
        match self {
            Self::Group(group) => group.change(lsn),
            Self::Solo(_) | Self::Stopped(_) => Ok(Changed::Done),
        }
    }

    pub fn persisted(&mut self, number: u64) -> Result<(), Fault> {
        match self {
            Self::Group(group) => group.persisted(number)?,
            Self::Solo(solo) => solo.persisted(number),
            Self::Stopped(_) => {}
        }
        Ok(())
    }

    pub fn applied(&mut self, lsn: Lsn) -> Result<(), Fault> {
        match self {
            Self::Group(group) => group.applied(lsn)?,
            Self::Solo(solo) => solo.applied(lsn),
            Self::Stopped(_) => {}
        }
        Ok(())
    }

    pub fn take_messages(&mut self) -> Vec<Message> {
        self.group_mut().map(Group::take_messages).unwrap_or_default()
    }

    /// # Panics
    /// If what drives it contradicts itself.
    pub fn check(&self) {
        match self {
            Self::Group(group) => group.check(),
            Self::Solo(solo) => solo.check(),
            Self::Stopped(_) => {}
        }
    }

    /// See [`Replica::prefetch`](super::replica::Replica::prefetch).
    pub fn prefetch(&self, depth: usize) {
        match self {
            Self::Group(group) if depth == 0 => prefetch(&**group),
            Self::Group(group) => group.prefetch_parts(),
            Self::Solo(solo) if depth == 0 => prefetch(&**solo),
            Self::Solo(solo) => solo.store().prefetch_parts(),
            Self::Stopped(_) => {}
        }
    }

    pub fn rest(&mut self) {
        match self {
            Self::Group(group) => group.rest(),
            Self::Solo(solo) => solo.rest(),
            Self::Stopped(_) => {}
        }
    }

    pub fn store(&self) -> Option<&LogStore> {
        match self {
            Self::Group(group) => Some(group.store()),
            Self::Solo(solo) => Some(solo.store()),
            Self::Stopped(_) => None,
        }
    }

    pub fn unpersisted(&self) -> usize {
        match self {
            Self::Group(group) => group.unpersisted(),
            Self::Solo(solo) => solo.unpersisted(),
            Self::Stopped(_) => 0,
        }
    }

    pub fn durable(&self) -> Lsn {
        match self {
            Self::Group(group) => group.durable(),
            Self::Solo(solo) => solo.durable(),
            Self::Stopped(_) => Lsn::ZERO,
        }
    }

    pub fn role(&self) -> StateRole {
        match self {
            Self::Group(group) => group.role(),
            Self::Solo(_) => StateRole::Leader,
            Self::Stopped(_) => StateRole::Follower,
        }
    }

    pub fn term(&self) -> Term {
        match self {
            Self::Group(group) => group.hard_state().term,
            Self::Solo(solo) => solo.term(),
            Self::Stopped(_) => Term::ZERO,
        }
    }

    /// The highest entry; `None` where nothing is driven any more.
    pub fn last(&self) -> Option<Lsn> {
        match self {
            Self::Group(group) => Some(group.last()),
            Self::Solo(solo) => Some(solo.store().last()),
            Self::Stopped(_) => None,
        }
    }
}
