//! A partition's copy on this storage: started in one of five ways, ready within a timeout, fenced on a fault.
//!
//! Invariant: a replica that is stopped stays stopped until the process ends; whatever it held is answered by its owner.

mod images;
mod members;
mod peers;
mod rounds;
mod sleep;

use bytes::Bytes;
use corduroy_wal::{Lsn, OwnedEntry, Term};
use raft::StateRole;
use raft::eraftpb::Entry;

use super::engine::{Engine, Started, Stop};
use super::group::{Group, Proposed};
use super::guard::Fault;
use super::history::Wanted;
use super::leadership::Leadership;
use super::log_store::LogStore;
use super::membership::{MemberId, StorageId};
use super::quiescence::{Pulse, Sleep, needs_ticks};
use super::reads::{Gate, ReadView, gate};
use super::ready::Persist;
pub use super::start::{Found, Origin, ReplicaError, Replication, StartError, StartOptions, StartedAs};
use crate::ids::PartitionId;

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
    /// Whether the group has other members.
    has_peers: bool,
    started_as: StartedAs,
    leadership: Leadership,
    latch: Latch,
    safe_from: Option<Lsn>,
    applied: Lsn,
    committed: Lsn,
    /// An image replaces its state: it stands still until the log begins behind that, durably.
    is_held: bool,
    sleep: Sleep,
}

impl Replica {
    /// Starts a replica from what was found. One that cannot start is returned stopped, so that it is reported and
    /// the others go on.
    #[must_use]
    pub fn start(partition: PartitionId, found: Found, options: StartOptions<'_>) -> Self {
        let applied = found.applied;
        match Started::of(partition, found, options) {
            Ok(started) => {
                let mut replica = Self::blank(partition, started, applied);
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
        Self::blank(partition, Started::stopped(why), Lsn::ZERO)
    }

    fn blank(partition: PartitionId, started: Started, applied: Lsn) -> Self {
        let Started { engine, started_as, member } = started;
        Self {
            partition,
            has_peers: engine.group().is_some_and(|group| !group.is_alone()),
            engine,
            started_as,
            leadership: Leadership::new(member, 0),
            latch: Latch::Unarmed,
            safe_from: None,
            applied,
            committed: applied,
            is_held: false,
            sleep: Sleep::AWAKE,
        }
    }

    /// Arms the ready latch.
    pub fn arm(&mut self, now_ns: u64) {
        self.latch = Latch::Waiting { since_ns: now_ns };
        self.observe(now_ns);
    }

    /// Holds the election that a group of one wins at once; others wait until they miss a leader. What was committed before
    /// may be applied from now on.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn begin(&mut self, now_ns: u64) -> Result<(), Fault> {
        let is_held = self.is_held;
        let stands = |group: &&mut Group| group.is_sole_voter() && !group.leads() && !is_held;
        if let Some(group) = self.engine.group_mut().filter(stands) {
            group.campaign()?;
        }
        self.note_committed();
        self.observe(now_ns);
        Ok(())
    }

    /// Takes note of the node's leadership and of what is applied.
    fn observe(&mut self, now_ns: u64) {
        if let Some(group) = self.engine.group_mut() {
            let change = self.leadership.set(group.leader(), now_ns);
            self.leadership.set_transfers(group.is_transferring());
            if change.is_some_and(|change| change.gained) {
                self.safe_from = Some(group.last());
            } else if !self.leadership.is_mine() {
                self.safe_from = None;
            }
            if let Some((change, rounds)) = change.zip(group.rounds_mut()) {
                if change.lost { rounds.lose() } else { rounds.begin_again() }
            }
        }
        if self.has_caught_up() {
            self.latch = Latch::Ready;
        }
    }

    /// Whether it has caught up: it leads and has applied what its reads must see, or knows who leads and has applied what
    /// it knows to be committed.
    fn has_caught_up(&self) -> bool {
        let follows = self.has_peers() && self.other_leader().is_some() && self.applied == self.committed;
        self.is_running() && (self.gate() == Gate::Open || follows)
    }

    /// Whether reads are answered from what is applied: it leads, has applied what they must see, and nobody else can lead
    /// without its knowing. In a group with other members a read is ordered by the log instead.
    #[must_use]
    pub fn can_serve(&self) -> bool {
        !self.has_peers() && self.gate() == Gate::Open
    }

    /// Whether the group has other members.
    #[must_use]
    pub const fn has_peers(&self) -> bool {
        self.has_peers
    }

    /// Where the leader is, if that is another member, which is known.
    #[must_use]
    pub fn other_leader(&self) -> Option<StorageId> {
        let leader = self.leadership.leader().filter(|_| !self.leadership.is_mine())?;
        self.storage_of(leader)
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
        self.engine.can_propose()
    }

    /// Proposes an entry.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn propose(&mut self, data: Bytes) -> Result<Proposed, Fault> {
        self.note_use();
        self.rouse(false)?;
        self.engine.propose(data)
    }

    /// Moves its clock on by one, and holds an election that was waiting for the disk; or goes to sleep. `may_campaign`: the disk
    /// can take a vote now; elections wait for that, heartbeats do not. `is_busy`: requests wait here. `is_alive`: which storages
    /// are heard.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn tick(
        &mut self,
        (may_campaign, is_busy): (bool, bool),
        now_ns: u64,
        is_alive: impl Fn(StorageId) -> bool,
    ) -> Result<(), Fault> {
        if self.nears_sleep(is_busy, is_alive)? {
            return Ok(());
        }
        if let Some(group) = self.engine.group_mut().filter(|_| !self.is_held) {
            if may_campaign && group.can_campaign_now() && group.may_campaign(now_ns) {
                group.campaign()?;
            } else {
                group.tick(may_campaign, now_ns)?;
            }
        }
        self.note_committed();
        self.observe(now_ns);
        Ok(())
    }

    /// See [`Group::take_wanted`].
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        self.engine.group_mut().and_then(Group::take_wanted)
    }

    /// See [`Group::fetched`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn fetched(&mut self, entries: Option<Vec<OwnedEntry>>) -> Result<(), Fault> {
        self.engine.group_mut().map_or(Ok(()), |group| group.fetched(entries))
    }

    /// Up to which applied entry every member is known to hold the log: on the leader of a group with other members, else
    /// [`Lsn::ZERO`].
    #[must_use]
    pub fn held_by_all(&self) -> Lsn {
        self.engine.group().and_then(Group::held_by_all).unwrap_or_default().min(self.applied)
    }

    /// The log has nothing below `first` any more.
    pub fn release(&mut self, first: Lsn) {
        self.engine.group_mut().into_iter().for_each(|group| group.release(first));
    }

    /// See [`Group::untaken_record_bytes`].
    #[must_use]
    pub fn untaken_record_bytes(&self) -> usize {
        self.engine.group().map_or(0, Group::untaken_record_bytes)
    }

    /// Bytes of entries that were taken in, and not yet taken for the log.
    #[must_use]
    pub fn untaken_bytes(&self) -> usize {
        self.engine.group().map_or(0, Group::untaken_bytes)
    }

    /// Takes what is to be written, if there is anything.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn take(&mut self, now_ns: u64) -> Result<Option<Persist>, Fault> {
        if !self.sleep.is_awake() && self.has_ready() {
            self.rouse(false)?;
        }
        let persist = self.engine.take(now_ns)?;
        self.note_committed();
        self.observe(now_ns);
        Ok(persist)
    }

    fn note_committed(&mut self) {
        self.committed = self.engine.committed().map_or(self.committed, |lsn| lsn.max(self.committed));
    }

    /// Whether what would be taken now has to be written.
    #[must_use]
    pub fn needs_record(&self) -> bool {
        self.engine.needs_record()
    }

    /// Whether there is more to take.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.engine.group().is_some_and(Group::has_ready)
    }

    /// All its records up to this one are durable.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn persisted(&mut self, number: u64) -> Result<(), Fault> {
        let was_restoring = self.is_held && self.is_restoring();
        self.engine.persisted(number)?;
        self.is_held &= !was_restoring || self.is_restoring();
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
        self.engine.applied(lsn)?;
        self.observe(now_ns);
        Ok(())
    }

    /// Between two turns: compares what it has applied, what is committed and what it holds.
    ///
    /// # Panics
    /// If they contradict each other.
    pub fn check(&self) {
        let (partition, applied, committed) = (self.partition, self.applied, self.committed);
        self.engine.check();
        if self.engine.is_stopped() {
            assert_eq!(self.unapplied_bytes(), 0, "partition {partition} is stopped, and holds entries");
            assert!(self.safe_from.is_none(), "partition {partition} is stopped, and answers reads");
            return;
        }
        let (last, durable) = (self.last(), self.durable());
        assert!(applied <= committed, "partition {partition}: {applied} is applied, {committed} committed");
        assert!(committed <= last && durable <= last, "partition {partition} ends at {last}");
        let first = self.store().map(LogStore::first);
        assert_eq!(first, Some(applied.next()), "partition {partition}: the first entry that is held");
        let leads = self.leadership.is_mine();
        assert!(leads || self.safe_from.is_none(), "partition {partition} answers reads, and does not lead");
        let is_still = applied == last && durable == last && !self.is_held;
        assert!(is_still || !self.is_asleep(), "partition {partition} sleeps, and has something to do");
    }

    /// Has what it points to fetched into the processor's caches; at depth 1 what that points to, once it is there itself.
    pub fn prefetch(&self, depth: usize) {
        self.engine.prefetch(depth);
    }

    /// Whether it must be ticked.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        let (leads, alone) = (self.leadership.is_mine(), !self.has_peers());
        let (can_serve, is_asleep) = (self.can_serve(), self.is_asleep());
        let pulse = Pulse { leads, alone, can_serve, is_asleep };
        self.is_running() && needs_ticks(pulse)
    }

    /// Gives back the memory of empty buffers: nothing is going on.
    pub fn rest(&mut self) {
        self.engine.rest();
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
            (Engine::Stopped(stop), _) => {
                Some(ReplicaError::ReplicaStopped { partition, why: stop.why.clone() })
            }
            (_, Latch::TimedOut { waited_ms }) => Some(ReplicaError::ReadyTimeout { partition, waited_ms }),
            _ => None,
        }
    }

    /// Whether the latch has opened: it had caught up once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.latch == Latch::Ready && self.is_running()
    }

    /// Whether it is neither fenced nor failed to start.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        !self.engine.is_stopped()
    }

    /// Fences it. What it held in memory goes; its owner answers for its requests.
    pub fn stop(&mut self, why: String) {
        self.engine = Engine::Stopped(Box::new(Stop::of(why)));
        self.sleep = Sleep::AWAKE;
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
        self.engine.store()
    }

    /// Bytes of entries that are not applied.
    #[must_use]
    pub fn unapplied_bytes(&self) -> usize {
        self.store().map_or(0, LogStore::bytes) + self.untaken_bytes()
    }

    /// Records that are not durable yet.
    #[must_use]
    pub fn unpersisted(&self) -> usize {
        self.engine.unpersisted()
    }

    /// The highest entry that is durable here, as far as records written since the start show.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.engine.durable()
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> StateRole {
        self.engine.role()
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.engine.term()
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
        self.engine.last().unwrap_or(self.applied)
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
