//! A simulated node: what is its own, and outlives its processes, and its running process.
//!
//! Invariant: a node reaches nothing of another one. What it does to the world, it does to what all nodes have in common.

use std::collections::{BTreeMap, BTreeSet};

use corduroy_wal::device::IoId;

use crate::Shard;
use crate::ids::{PartitionId, ShardId};
use crate::machine::StateMachine;
use crate::raft::start::Origin;
use crate::sim::clock::Clock;
use crate::sim::disk::{Disk, SimDevice};
use crate::sim::members::members_of;
use crate::sim::observed::Observed;
use crate::sim::plan::Plan;
use crate::sim::rng::Rng;
use crate::sim::swarm::Knobs;
use crate::sim::workload::Subject;
use crate::sim::world::{Common, Happening};

/// A job and what it brings, of a subject's machine under observation.
pub(super) type Job<S> = <Observed<S> as StateMachine>::Job;
pub(super) type JobDone<S> = <Observed<S> as StateMachine>::JobDone;

/// The shard as the world runs it.
pub(super) type SimShard<S> = Shard<SimDevice, Observed<S>>;

/// One shard of the living process.
pub(super) struct Unit<S: Subject> {
    pub(super) shard: SimShard<S>,
    /// When its next turn is due.
    pub(super) due_ns: Option<u64>,
    /// Jobs on the pool.
    pub(super) jobs: usize,
}

/// The living process.
pub(super) struct Process<S: Subject> {
    pub(super) units: Vec<Unit<S>>,
    /// An injected error explains the end of this process.
    pub(super) error_injected: bool,
}

/// A node.
pub(super) struct SimNode<S: Subject> {
    /// Its number in the world, from 0.
    pub(super) number: usize,
    pub(super) clock: Clock,
    pub(super) disks: Vec<Disk>,
    pub(super) media: Vec<S::Media>,
    /// Its running process.
    pub(super) process: Option<Process<S>>,
    /// How many processes began or ended: it names the one that something is due for.
    pub(super) incarnation: u64,
    pub(super) replicated: bool,
    /// Partitions whose groups it has joined, and as whom.
    pub(super) joined: BTreeMap<PartitionId, Origin>,
    /// Partitions that it is to be another member of, once nothing is left of the one before.
    pub(super) comes_back: BTreeMap<PartitionId, Origin>,
    /// Those of which it has deleted a replica, or has begun to.
    pub(super) deleted: BTreeSet<PartitionId>,
    /// Openings that are still to be cut off.
    pub(super) nested: u32,
    /// The number of the last full-disk period; an earlier one's end does not end it.
    pub(super) full_disk: u64,
    /// Until then its process gets no time.
    pub(super) paused_until_ns: u64,
    /// It stays down when its process dies.
    pub(super) stays_down: bool,
    /// A stop in order was asked for: clients wait.
    pub(super) stopping: bool,
    /// Then it ends as it is, however much is left to do.
    pub(super) stops_by_ns: u64,
    /// What the next incarnation is to have, if it was said.
    pub(super) wanted_replication: Option<bool>,
    pub(super) streams: NodeStreams,
}

/// A node's streams of randomness.
pub(super) struct NodeStreams {
    pub(super) disk: Rng,
    pub(super) crash: Rng,
    pub(super) flip: Rng,
    pub(super) open: Rng,
    pub(super) turn: Rng,
    pub(super) job: Rng,
    pub(super) rest: Rng,
    pub(super) reopen: Rng,
    pub(super) install: Rng,
}

impl NodeStreams {
    fn new(seed: u64, node: usize) -> Self {
        let stream = |name| Rng::of_node(seed, name, node);
        Self {
            disk: stream("disk"),
            crash: stream("crash images"),
            flip: stream("flip"),
            open: stream("open"),
            turn: stream("turn"),
            job: stream("job"),
            rest: stream("rest"),
            reopen: stream("reopened replicas"),
            install: stream("crashes during installs"),
        }
    }
}

/// The clock of a node: the first one's runs as fast as the knobs say, each other one's at a speed of its own and set
/// otherwise.
fn clock(seed: u64, node: usize, knobs: &Knobs) -> Clock {
    let mut start = Rng::of_node(seed, "clock", node);
    let mono_offset_ns = start.below(1 << 50);
    if node == 0 {
        return Clock::new(knobs.clock_ppm, mono_offset_ns);
    }
    let mut clock = Clock::new(start.between(900_000, 1_100_000), mono_offset_ns);
    clock.jump(start.pick(&[-5000, -100, -10, 0, 10, 100, 5000]));
    clock
}

/// Something that will happen to a process of a node: it dies with it.
pub(super) enum NodeEvent<S: Subject> {
    Turn { shard: usize },
    DiskDone { shard: usize, io: IoId },
    JobRun { shard: usize, job: Box<Job<S>> },
    JobDone { shard: usize, done: Box<JobDone<S>> },
    Restart,
    TryStop,
    Reopen { shard: usize, partition: PartitionId },
    Crash,
}

impl<S: Subject> SimNode<S> {
    /// A node that has never run. Its number is among what its parts are drawn from.
    pub(super) fn new(number: usize, subject: &S, plan: &Plan) -> Self {
        let (seed, knobs) = (plan.seed, &plan.knobs);
        Self {
            number,
            clock: clock(seed, number, knobs),
            disks: (0..knobs.shards).map(|shard| Disk::new(seed, (number, shard), knobs)).collect(),
            media: (0..knobs.shards).map(|shard| subject.media(ShardId(shard))).collect(),
            process: None,
            incarnation: 0,
            replicated: knobs.replicated,
            joined: BTreeMap::new(),
            comes_back: BTreeMap::new(),
            deleted: BTreeSet::new(),
            nested: 0,
            full_disk: 0,
            paused_until_ns: 0,
            stays_down: false,
            stopping: false,
            stops_by_ns: 0,
            wanted_replication: None,
            streams: NodeStreams::new(seed, number),
        }
    }

    /// One of its shards, in the trace.
    pub(super) const fn name(&self, shard: usize) -> u64 {
        (self.number as u64) << 32 | shard as u64
    }

    /// What is due for the present process.
    pub(super) const fn event(&self, what: NodeEvent<S>) -> Happening<S> {
        Happening::OfNode { node: self.number, incarnation: self.incarnation, what }
    }

    /// The end of the full-disk period that it is in.
    pub(super) const fn full_disk_end(&self) -> Happening<S> {
        Happening::FullDiskEnds { node: self.number, number: self.full_disk }
    }

    /// What was due for the process of this incarnation.
    pub(super) fn happen(&mut self, world: &mut Common<S>, incarnation: u64, what: NodeEvent<S>) {
        if incarnation != self.incarnation {
            return;
        }
        match what {
            NodeEvent::Turn { shard } => self.turn(world, shard),
            NodeEvent::DiskDone { shard, io } => self.disk_done(world, shard, io),
            NodeEvent::JobRun { shard, job } => self.job_run(world, shard, *job),
            NodeEvent::JobDone { shard, done } => self.job_done(world, shard, *done),
            NodeEvent::Restart if self.process.is_some() || self.stays_down => {}
            NodeEvent::Restart => self.open(world),
            NodeEvent::TryStop => self.try_stop(world),
            NodeEvent::Reopen { shard, partition } => self.reopen(world, shard, partition),
            NodeEvent::Crash if world.faults_over => {}
            NodeEvent::Crash => self.crash(world),
        }
    }

    /// Whether it takes requests.
    pub(super) const fn is_serving(&self) -> bool {
        self.process.is_some() && !self.stopping
    }

    /// Whether its process gets no time now.
    pub(super) const fn is_paused(&self, now_ns: u64) -> bool {
        self.paused_until_ns > now_ns
    }

    pub(super) fn with_shard<R>(
        &mut self,
        shard: usize,
        act: impl FnOnce(&mut SimShard<S>) -> R,
    ) -> Option<R> {
        let unit = self.process.as_mut()?.units.get_mut(shard)?;
        Some(act(&mut unit.shard))
    }

    /// Whether nothing is under way anywhere.
    pub(super) fn is_quiet(&self, world: &Common<S>) -> bool {
        let Some(process) = &self.process else { return false };
        world.books.borrow().outstanding_at(self.number) == 0
            && process.units.iter().all(|unit| unit.jobs == 0 && unit.shard.is_closed())
            && self.disks.iter().all(|disk| disk.in_flight() == 0)
    }

    /// What keeps the process from being quiet, for the report.
    pub(super) fn what_is_left(&self, world: &Common<S>) -> String {
        let Some(process) = &self.process else { return "the process is down".to_owned() };
        let units = process.units.iter().zip(&self.disks).enumerate().map(|(shard, (unit, disk))| {
            let (jobs, writes) = (unit.jobs, disk.in_flight());
            let idle = if unit.shard.is_closed() { "closed" } else { "not closed" };
            format!("shard {shard}: {idle}, {jobs} jobs, {writes} disk operations")
        });
        let open = world.books.borrow().outstanding_at(self.number);
        format!("{open} open requests; {}", units.collect::<Vec<_>>().join("; "))
    }

    /// How the living process stands: for the report of a failure.
    pub(super) fn state(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (shard, unit) in self.process.iter().flat_map(|process| &process.units).enumerate() {
            let (wal, status) = (unit.shard.wal().stats(), unit.shard.status());
            let (live, spare, space) = (wal.live_segments, wal.spare_segments, status.space);
            let pending = status.pending_requests;
            let (writes, jobs) = (unit.shard.wal().in_flight(), unit.jobs);
            let takes = if unit.shard.wal().can_submit() { "takes" } else { "does not take" };
            lines.push(format!(
                "node {}, shard {shard}: {live} live segments, {spare} spare, {space:?}; {writes} writes under way, {takes} \
                 another; {jobs} jobs, {pending} requests",
                self.number
            ));
            for replica in status.replicas {
                let (id, last, committed) = (replica.partition, replica.last, replica.committed);
                let persisted = unit.shard.machine().persisted(id);
                let (applied, released) = (replica.applied, replica.released);
                lines.push(format!(
                    "  partition {id}: {:?}, {:?} of term {}, last {last}, committed {committed}, applied {applied}, \
                     persisted {persisted}, released {released}, {} requests in {} entries; {:?}",
                    replica.started_as, replica.role, replica.term, replica.pending_requests, replica.pending_entries,
                    members_of::<S>(&unit.shard, id)
                ));
            }
        }
        lines
    }
}
