//! A partition's copy on this storage: started in one of four ways, ready within a timeout, fenced on a fault.
//!
//! Invariant: a replica that is stopped stays stopped until the process ends; whatever it held is answered by its owner.

use bytes::Bytes;
use corduroy_wal::device::prefetch;
use corduroy_wal::{LogState, Lsn, Term};
use raft::StateRole;
use raft::eraftpb::Entry;

use super::group::{Group, Proposed};
use super::guard::Fault;
use super::leadership::Leadership;
use super::log_store::LogStore;
use super::membership::MemberId;
use super::quiescence::{Pulse, needs_ticks};
use super::reads::{Gate, ReadView, gate};
use super::ready::Persist;
use super::solo::Solo;
pub use super::start::{Found, ReplicaError, Replication, StartError, StartOptions, StartedAs};
use super::start::{starting_membership, starting_state};
use crate::ids::PartitionId;

enum Engine {
    Group(Box<Group>),
    Solo(Box<Solo>),
    Stopped(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Latch {
    Unarmed,
    Waiting { since_ns: u64 },
    Ready,
    TimedOut { waited_ms: u64 },
}

/// One replica.
pub struct Replica {
    partition: PartitionId,
    engine: Engine,
    started_as: StartedAs,
    leadership: Leadership,
    latch: Latch,
    safe_from: Option<Lsn>,
    applied: Lsn,
    committed: Lsn,
}

/// What drives a replica that is started from what was found.
fn engine(found: Found, options: StartOptions<'_>) -> Result<(Engine, StartedAs), StartError> {
    let Found { log, tail, applied, applied_term } = found;
    let log = log.unwrap_or(LogState { first: Lsn(1), ..LogState::default() });
    if applied > log.last {
        return Err(StartError::LogEndsEarlier { state: applied, log: log.last });
    }
    let conf = starting_membership(&log, options.storage)?;
    let started_as = match (options.replication, log.hard_state, log.conf.is_some()) {
        (Replication::Off, _, _) => StartedAs::Solo,
        (Replication::On, Some(_), true) => StartedAs::Bootstrapped,
        (Replication::On, Some(_), false) => return Err(StartError::NoConfiguration),
        (Replication::On, None, _) if log.last == Lsn::ZERO => StartedAs::Unbootstrapped,
        (Replication::On, None, _) => StartedAs::NeedsBackfill,
    };
    let state = starting_state(&log, started_as, applied)?;
    let mut store = LogStore::new(applied, applied_term, state, conf.conf_state());
    store.load(tail)?;
    if store.last() != log.last {
        return Err(StartError::ReadShort { log: log.last, read: store.last() });
    }
    if started_as == StartedAs::Solo {
        store.forget_start();
        return Ok((Engine::Solo(Box::new(Solo::new(store))), started_as));
    }
    // What is not saved so, an earlier version among it, goes into the group's next record.
    let unsaved = Some(conf.encode()).filter(|conf| log.conf.as_ref() != Some(conf));
    let saved = log.hard_state.unwrap_or_default();
    let group = Group::start(store, MemberId::FIRST, saved, unsaved, options.group, options.seed)?;
    Ok((Engine::Group(Box::new(group)), started_as))
}

impl Replica {
    /// Starts a replica from what was found. One that cannot start is returned stopped, so that it is reported and
    /// the others go on.
    #[must_use]
    pub fn start(partition: PartitionId, found: Found, options: StartOptions<'_>) -> Self {
        let applied = found.applied;
        match engine(found, options) {
            Ok((engine, started_as)) => {
                let mut replica = Self::blank(partition, engine, started_as, applied);
                if let Engine::Solo(solo) = &replica.engine {
                    replica.safe_from = Some(solo.durable());
                    replica.committed = solo.durable();
                    replica.leadership.set(Some(MemberId::FIRST), 0);
                }
                replica
            }
            Err(why) => Self::stopped(partition, &why),
        }
    }

    /// A replica that could not even be looked at.
    #[must_use]
    pub fn stopped(partition: PartitionId, why: &StartError) -> Self {
        Self::blank(partition, Engine::Stopped(why.to_string()), StartedAs::Stopped, Lsn::ZERO)
    }

    const fn blank(partition: PartitionId, engine: Engine, started_as: StartedAs, applied: Lsn) -> Self {
        Self {
            partition,
            engine,
            started_as,
            leadership: Leadership::new(MemberId::FIRST, 0),
            latch: Latch::Unarmed,
            safe_from: None,
            applied,
            committed: applied,
        }
    }

    /// Arms the ready latch.
    pub fn arm(&mut self, now_ns: u64) {
        self.latch = Latch::Waiting { since_ns: now_ns };
        self.observe(now_ns);
    }

    /// Holds the election that a group of one wins at once. What was committed before may be applied from now on.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn begin(&mut self, now_ns: u64) -> Result<(), Fault> {
        match &mut self.engine {
            Engine::Group(group) => group.campaign()?,
            Engine::Solo(_) | Engine::Stopped(_) => {}
        }
        self.note_committed();
        self.observe(now_ns);
        Ok(())
    }

    /// Takes note of the node's leadership and of what is applied.
    fn observe(&mut self, now_ns: u64) {
        if let Engine::Group(group) = &self.engine {
            let change = self.leadership.set(group.leader(), now_ns);
            if change.is_some_and(|change| change.gained) {
                self.safe_from = Some(group.last());
            } else if !self.leadership.is_mine() {
                self.safe_from = None;
            }
        }
        if self.can_serve() && !matches!(self.engine, Engine::Stopped(_)) {
            self.latch = Latch::Ready;
        }
    }

    /// Whether it leads and has applied what its reads must see.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        self.gate() == Gate::Open
    }

    /// What a read does now.
    #[must_use]
    pub fn gate(&self) -> Gate {
        let leads = self.leadership.is_mine() && self.is_running();
        gate(ReadView { leads, safe_from: self.safe_from, applied: self.applied })
    }

    /// Whether it takes proposals.
    #[must_use]
    pub fn can_propose(&self) -> bool {
        match &self.engine {
            Engine::Group(group) => group.leads(),
            Engine::Solo(_) => true,
            Engine::Stopped(_) => false,
        }
    }

    /// Proposes an entry.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn propose(&mut self, data: Bytes) -> Result<Proposed, Fault> {
        match &mut self.engine {
            Engine::Group(group) => group.propose(data),
            Engine::Solo(solo) => solo.propose(data).map(|(lsn, term)| Proposed::At(lsn, term)),
            Engine::Stopped(_) => Ok(Proposed::Dropped),
        }
    }

    /// Moves its clock on by one, and holds an election that was waiting for the disk.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn tick(&mut self, now_ns: u64) -> Result<(), Fault> {
        if let Engine::Group(group) = &mut self.engine {
            if group.can_campaign_now() {
                group.campaign()?;
            } else {
                group.tick()?;
            }
        }
        self.observe(now_ns);
        Ok(())
    }

    /// Takes what is to be written, if there is anything.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn take(&mut self, now_ns: u64) -> Result<Option<Persist>, Fault> {
        let persist = match &mut self.engine {
            Engine::Group(group) => group.take()?,
            Engine::Solo(solo) => solo.take(),
            Engine::Stopped(_) => None,
        };
        self.note_committed();
        self.observe(now_ns);
        Ok(persist)
    }

    fn note_committed(&mut self) {
        let committed = match &self.engine {
            Engine::Group(group) => group.committed(),
            Engine::Solo(solo) => solo.durable(),
            Engine::Stopped(_) => return,
        };
        self.committed = self.committed.max(committed);
    }

    /// Whether what would be taken now has to be written.
    #[must_use]
    pub fn needs_record(&self) -> bool {
        match &self.engine {
            Engine::Group(group) => group.needs_record(),
            Engine::Solo(solo) => solo.needs_record(),
            Engine::Stopped(_) => false,
        }
    }

    /// Whether there is more to take.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        match &self.engine {
            Engine::Group(group) => group.has_ready(),
            Engine::Solo(_) | Engine::Stopped(_) => false,
        }
    }

    /// All its records up to this one are durable.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn persisted(&mut self, number: u64) -> Result<(), Fault> {
        match &mut self.engine {
            Engine::Group(group) => group.persisted(number)?,
            Engine::Solo(solo) => solo.persisted(number),
            Engine::Stopped(_) => {}
        }
        self.note_committed();
        Ok(())
    }

    /// The state machine has applied everything up to `lsn`.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn applied_to(&mut self, lsn: Lsn, now_ns: u64) -> Result<(), Fault> {
        assert!(
            self.applied <= lsn && lsn <= self.committed,
            "entry {lsn} of partition {} applied outside of {}..={}",
            self.partition,
            self.applied,
            self.committed
        );
        self.applied = lsn;
        match &mut self.engine {
            Engine::Group(group) => group.applied(lsn)?,
            Engine::Solo(solo) => solo.applied(lsn),
            Engine::Stopped(_) => {}
        }
        self.observe(now_ns);
        Ok(())
    }

    /// Between two turns: compares what it has applied, what is committed and what it holds.
    ///
    /// # Panics
    /// If they contradict each other.
    pub fn check(&self) {
        let (partition, applied, committed) = (self.partition, self.applied, self.committed);
        match &self.engine {
            Engine::Group(group) => group.check(),
            Engine::Solo(solo) => solo.check(),
            Engine::Stopped(_) => {
                assert_eq!(self.unapplied_bytes(), 0, "partition {partition} is stopped, and holds entries");
                assert!(self.safe_from.is_none(), "partition {partition} is stopped, and answers reads");
                return;
            }
        }
        let (last, durable) = (self.last(), self.durable());
        assert!(applied <= committed, "partition {partition}: {applied} is applied, {committed} committed");
        assert!(committed <= last && durable <= last, "partition {partition} ends at {last}");
        let first = self.store().map(LogStore::first);
        assert_eq!(first, Some(applied.next()), "partition {partition}: the first entry that is held");
        let leads = self.leadership.is_mine();
        assert!(leads || self.safe_from.is_none(), "partition {partition} answers reads, and does not lead");
    }

    /// Has what it points to fetched into the processor's caches; at depth 1 what that points to, once it is there itself.
    pub fn prefetch(&self, depth: usize) {
        match &self.engine {
            Engine::Group(group) if depth == 0 => prefetch(&**group),
            Engine::Group(group) => group.prefetch_parts(),
            Engine::Solo(solo) if depth == 0 => prefetch(&**solo),
            Engine::Solo(solo) => solo.store().prefetch_parts(),
            Engine::Stopped(_) => {}
        }
    }

    /// Whether it must be ticked.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        let pulse = Pulse { leads: self.leadership.is_mine(), alone: true, can_serve: self.can_serve() };
        self.is_running() && needs_ticks(pulse)
    }

    /// Gives back the memory of empty buffers: nothing is going on.
    pub fn rest(&mut self) {
        match &mut self.engine {
            Engine::Group(group) => group.rest(),
            Engine::Solo(solo) => solo.rest(),
            Engine::Stopped(_) => {}
        }
    }

    /// Checks the ready latch. Returns the error once, when the timeout passes.
    pub fn check_ready(&mut self, now_ns: u64, timeout_ms: u64) -> Option<ReplicaError> {
        let Latch::Waiting { since_ns } = self.latch else { return None };
        let waited_ms = now_ns.saturating_sub(since_ns) / 1_000_000;
        if waited_ms < timeout_ms {
            return None;
        }
        self.latch = Latch::TimedOut { waited_ms };
        self.ready_error()
    }

    /// Why it is not ready, if it is stopped or late.
    #[must_use]
    pub fn ready_error(&self) -> Option<ReplicaError> {
        let partition = self.partition;
        match (&self.engine, self.latch) {
            (Engine::Stopped(why), _) => Some(ReplicaError::ReplicaStopped { partition, why: why.clone() }),
            (_, Latch::TimedOut { waited_ms }) => Some(ReplicaError::ReadyTimeout { partition, waited_ms }),
            _ => None,
        }
    }

    /// Whether the latch has opened: it led and served once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.latch == Latch::Ready && self.is_running()
    }

    /// Whether it is neither fenced nor failed to start.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        !matches!(self.engine, Engine::Stopped(_))
    }

    /// Fences it. What it held in memory goes; its owner answers for its requests.
    pub fn stop(&mut self, why: String) {
        self.engine = Engine::Stopped(why);
        self.safe_from = None;
    }

    /// An entry of its unapplied tail.
    #[must_use]
    pub fn entry(&self, lsn: Lsn) -> Option<&Entry> {
        self.store().and_then(|store| store.get(lsn))
    }

    /// Its unapplied tail, unless it is stopped.
    #[must_use]
    pub fn store(&self) -> Option<&LogStore> {
        match &self.engine {
            Engine::Group(group) => Some(group.store()),
            Engine::Solo(solo) => Some(solo.store()),
            Engine::Stopped(_) => None,
        }
    }

    /// Bytes of entries that are not applied.
    #[must_use]
    pub fn unapplied_bytes(&self) -> usize {
        self.store().map_or(0, LogStore::bytes)
    }

    /// Records that are not durable yet.
    #[must_use]
    pub fn unpersisted(&self) -> usize {
        match &self.engine {
            Engine::Group(group) => group.unpersisted(),
            Engine::Solo(solo) => solo.unpersisted(),
            Engine::Stopped(_) => 0,
        }
    }

    /// The highest entry that is durable here, as far as records written since the start show.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        match &self.engine {
            Engine::Group(group) => group.durable(),
            Engine::Solo(solo) => solo.durable(),
            Engine::Stopped(_) => Lsn::ZERO,
        }
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> StateRole {
        match &self.engine {
            Engine::Group(group) => group.role(),
            Engine::Solo(_) => StateRole::Leader,
            Engine::Stopped(_) => StateRole::Follower,
        }
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        match &self.engine {
            Engine::Group(group) => group.hard_state().term,
            Engine::Solo(solo) => solo.term(),
            Engine::Stopped(_) => Term::ZERO,
        }
    }

    /// Who leads, since when.
    #[must_use]
    pub const fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// The highest entry that may be applied.
    #[must_use]
    pub const fn committed(&self) -> Lsn {
        self.committed
    }

    /// The highest entry that is applied.
    #[must_use]
    pub const fn applied(&self) -> Lsn {
        self.applied
    }

    /// The highest entry.
    #[must_use]
    pub fn last(&self) -> Lsn {
        match &self.engine {
            Engine::Group(group) => group.last(),
            Engine::Solo(solo) => solo.store().last(),
            Engine::Stopped(_) => self.applied,
        }
    }

    /// How it was started.
    #[must_use]
    pub const fn started_as(&self) -> StartedAs {
        self.started_as
    }

    /// Whose copy it is.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }
}
