//! The life and death of the simulated process: opening (which may be cut off at any step), turns, jobs, crashes,
//! stops in order.
//!
//! Invariant: nothing of a process outlives it but what its disks and its machine's media hold.

use std::rc::Rc;

use corduroy_wal::device::IoId;
use corduroy_wal::{Binding, Options, Wal, WalError};

use crate::ids::{PartitionId, ShardId};
use crate::raft::replica::{Replication, StartedAs};
use crate::shard::io::Input;
use crate::shard::machine::StateMachine;
use crate::sim::disk::{Disk, End, SimDevice};
use crate::sim::observed::Observed;
use crate::sim::plan::Plan;
use crate::sim::planted::Planted;
use crate::sim::rng::mix;
use crate::sim::swarm::{Knobs, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Happening, Job, JobDone, World};
use crate::{Limits, Outputs, Shard, ShardError, ShardOptions};

/// What a typical job takes at most once faults are over: the slowest pool is one of them.
const HEALTHY_JOB_NS: u64 = 2 * MS;

/// Turns of a shard from one look at all that its log and its machine hold to the next: such a look costs as much as all
/// the rows.
const CHECKED_TURNS: u64 = 16;

/// The shard as the world runs it.
pub(super) type SimShard<S> = Shard<SimDevice, Observed<S>>;

/// One shard of the living process.
pub(super) struct Unit<S: Subject> {
    pub(super) shard: SimShard<S>,
    /// When its next turn is due.
    due_ns: Option<u64>,
    /// Jobs on the pool.
    jobs: usize,
}

/// The living process.
pub(super) struct Node<S: Subject> {
    pub(super) units: Vec<Unit<S>>,
    /// An injected error explains the end of this process.
    pub(super) error_injected: bool,
}

/// Why an opening did not succeed.
enum NotOpened {
    /// The process died in the middle of it.
    CutOff,
    /// The log is damaged, and said so.
    Damaged(String),
    /// Anything else.
    Failed(String),
}

impl<S: Subject> World<S> {
    /// Starts the process: every shard in turn.
    pub(super) fn open(&mut self) {
        self.life += 1;
        self.note("open", 0, self.life, u64::from(self.nested));
        self.stopping = false;
        self.books.borrow_mut().replicated = self.replicated;
        let mut units = Vec::new();
        for shard in 0..self.disks.len() {
            match self.open_shard(shard) {
                Ok(opened) => units.push(Unit { shard: opened, due_ns: None, jobs: 0 }),
                Err(why) => {
                    drop(units);
                    return self.not_opened(shard, why);
                }
            }
        }
        self.nested = 0;
        self.node = Some(Node { units, error_injected: false });
        self.disks.iter().for_each(|disk| disk.set_fuse(None));
        for shard in 0..self.disks.len() {
            self.turn_soon(shard);
        }
    }

    fn open_shard(&mut self, shard: usize) -> Result<SimShard<S>, NotOpened> {
        let number = u32::try_from(shard).expect("at most 4 shards");
        let mine = self.partitions_of(shard);
        let media = self.media.get_mut(shard).expect("one a shard");
        let machine = {
            let books = self.books.borrow();
            books
                .subject()
                .open(media, ShardId(number), &self.plan.knobs)
                .map_err(|error| NotOpened::Failed(error.to_string()))?
        };
        for &id in &mine {
            self.books.borrow_mut().opened(id, machine.persisted(id));
        }
        let bug = Planted::of_machine(self.plan.planted);
        let machine = Observed::new(machine, Rc::clone(&self.books), bug);
        let disk = self.disks.get_mut(shard).expect("one a shard");
        disk.set_fuse((self.nested > 0).then(|| self.streams.open.below(40)));
        let seed = mix(self.plan.seed ^ mix(self.life << 8 | u64::from(number)));
        let opened = Wal::open(disk.device(), wal_options(&self.plan.knobs, seed)).map_err(ShardError::from);
        let opened = opened.and_then(|(wal, recovered)| {
            let mut books = self.books.borrow_mut();
            books.probes.add("torn tails", u64::from(recovered.torn_tail.is_some()));
            books.probes.add("segments recovered by footer", recovered.by_footer);
            books.probes.add("segments scanned", recovered.scanned);
            drop(books);
            Shard::open(shard_options(&self.plan, self.replicated), wal, machine, &mine, seed)
        });
        if let Ok(opened) = &opened {
            let mut books = self.books.borrow_mut();
            for replica in opened.status().replicas {
                // A fenced one is reported, and judged, with the first turn.
                if replica.started_as != StartedAs::Stopped {
                    books.started(replica.partition, replica.started_as, replica.term);
                }
            }
        }
        opened.map_err(|error| match error {
            _ if self.disks.get(shard).is_some_and(Disk::fuse_blown) => NotOpened::CutOff,
            ShardError::Wal(damage @ (WalError::Damaged { .. } | WalError::Lost { .. })) => {
                NotOpened::Damaged(damage.to_string())
            }
            other => NotOpened::Failed(other.to_string()),
        })
    }

    fn not_opened(&mut self, shard: usize, why: NotOpened) {
        self.die();
        match why {
            NotOpened::CutOff => {
                self.probe("openings cut off");
                self.nested = self.nested.saturating_sub(1);
                self.restart_later();
            }
            NotOpened::Damaged(why) if self.may_refuse => {
                self.probe("safe halts");
                self.note("safe halt", shard as u64, 0, 0);
                self.halted = Some(why);
            }
            NotOpened::Damaged(why) => {
                self.broken(
                    "an undamaged log opens",
                    format!("shard {shard} after {} lives: {why}", self.life),
                );
            }
            NotOpened::Failed(why) => {
                self.broken("the process starts", format!("shard {shard}, life {}: {why}", self.life));
            }
        }
    }

    /// The process dies now: kill -9, power cut or its own exit.
    pub(super) fn crash(&mut self) {
        let Some(node) = self.node.take() else { return };
        let unsynced = self.disks.iter().map(Disk::in_flight).sum::<usize>();
        self.note("crash", 0, self.life, unsynced as u64);
        self.probe("crashes");
        if unsynced > 0 {
            self.probe("crashes with writes in flight");
        }
        if node.units.iter().any(|unit| unit.jobs > 0) {
            self.probe("crashes during jobs");
        }
        self.close_books(node);
        self.die();
        self.restart_later();
    }

    /// What the machines and shards of a life went through is counted.
    fn close_books(&mut self, node: Node<S>) {
        for unit in &node.units {
            let mut books = self.books.borrow_mut();
            let mut probes = std::mem::take(&mut books.probes);
            let machine = unit.shard.machine().inner();
            unit.shard.wal().check();
            books.subject().check(machine);
            books.subject().probe(machine, &mut probes);
            probes.of_shard(&unit.shard);
            books.probes = probes;
        }
    }

    /// What a dead process leaves behind: disks with unsynced writes decided, media likewise.
    fn die(&mut self) {
        self.node = None;
        self.books.borrow_mut().crashed();
        self.clients.cut_off();
        // A power cut takes what the disk had not finished; a killed process leaves it to arrive.
        let power = self.streams.crash.chance(700);
        for (disk, media) in self.disks.iter_mut().zip(&mut self.media) {
            let lost = disk.crash(power);
            let mut books = self.books.borrow_mut();
            books.probes.add("writes lost at a crash", lost.lost);
            books.probes.add("writes torn at a crash", lost.torn);
            books.probes.add("writes kept at a crash", lost.kept);
            books.subject().crash(media, &mut self.streams.crash);
        }
        // Whatever was due for the old process finds another life.
        self.life += 1;
    }

    fn restart_later(&mut self) {
        let delay_ns = self.streams.open.between(1, 50) * MS;
        self.agenda.put(self.now_ns + delay_ns, Happening::Restart { life: self.life });
    }

    /// The process has ended by itself, as it must after an error of the disk.
    pub(super) fn exited(&mut self, shard: usize, why: &str) {
        self.note("exit", shard as u64, self.life, 0);
        if self.node.as_ref().is_some_and(|node| node.error_injected) {
            self.probe("poisoned exits");
        } else if !self.may_refuse {
            self.broken("only an error of the disk ends the process", format!("shard {shard}: {why}"));
        } else {
            self.probe("safe halts");
            self.halted = Some(why.to_owned());
        }
        self.crash();
    }

    pub(super) fn with_shard<R>(
        &mut self,
        shard: usize,
        act: impl FnOnce(&mut SimShard<S>) -> R,
    ) -> Option<R> {
        let unit = self.node.as_mut()?.units.get_mut(shard)?;
        Some(act(&mut unit.shard))
    }

    /// The shard has something to do: a turn within some µs, so that more may gather.
    pub(super) fn turn_soon(&mut self, shard: usize) {
        let at_ns = self.now_ns + self.streams.turn.between(1000, 20_000);
        self.turn_at(shard, at_ns);
    }

    fn turn_at(&mut self, shard: usize, at_ns: u64) {
        let life = self.life;
        let Some(unit) = self.node.as_mut().and_then(|node| node.units.get_mut(shard)) else { return };
        if unit.due_ns.is_none_or(|due| at_ns < due) {
            unit.due_ns = Some(at_ns);
            self.agenda.put(at_ns, Happening::Turn { life, shard });
        }
    }

    /// One turn of a shard, and what it brings.
    pub(super) fn turn(&mut self, shard: usize) {
        let now_ns = self.now_ns;
        let now = self.clock.now(now_ns);
        let Some(unit) = self.node.as_mut().and_then(|node| node.units.get_mut(shard)) else { return };
        if unit.due_ns != Some(now_ns) {
            // Another turn was due earlier, and did this one's work.
            return;
        }
        unit.due_ns = None;
        let mut outputs = Outputs::default();
        self.books.borrow_mut().now = now;
        let turned = unit.shard.turn(now, &mut outputs);
        unit.jobs += outputs.jobs.len();
        self.note("turn", shard as u64, outputs.replies.len() as u64, outputs.jobs.len() as u64);
        for (ticket, reply) in &outputs.replies {
            self.reply(*ticket, reply);
        }
        for (partition, why) in &outputs.fenced {
            self.fenced(*partition, why);
        }
        if let Err(error) = turned {
            return self.exited(shard, &error.to_string());
        }
        let knob_ns = self.plan.knobs.job_ns;
        let job_ns = if self.faults_over { knob_ns.min(HEALTHY_JOB_NS) } else { knob_ns };
        for job in outputs.jobs {
            let at_ns = now_ns + self.streams.job.heavy(job_ns);
            self.agenda.put(at_ns, Happening::JobRun { life: self.life, shard, job: Box::new(job) });
        }
        if outputs.again {
            self.turn_at(shard, now_ns + 1000);
        }
        if let Some(wake_ns) = outputs.wake_at_ns {
            self.turn_at(shard, self.clock.world_ns(wake_ns).max(now_ns + 1000));
        }
        self.check(shard);
        self.note_positions(shard);
        self.mark_end(shard);
        self.begin_io(shard);
    }

    /// Between turns: what the shard and, now and then, its log and its machine keep count of is counted anew.
    fn check(&mut self, shard: usize) {
        let turns = self.with_shard(shard, |shard| {
            shard.check();
            shard.counters().turns
        });
        if turns.is_some_and(|turns| turns.is_multiple_of(CHECKED_TURNS)) {
            self.probe("machines counted anew");
            let books = Rc::clone(&self.books);
            self.with_shard(shard, |shard| {
                shard.wal().check();
                books.borrow().subject().check(shard.machine().inner());
            });
        }
    }

    /// A shard that closes, or seems to be at rest, has its log write down where it ends.
    fn mark_end(&mut self, shard: usize) {
        let is_due = self.stopping || self.streams.rest.chance(20);
        let Some(unit) = self.node.as_mut().and_then(|node| node.units.get_mut(shard)) else { return };
        if is_due && unit.shard.is_idle() {
            let marked = unit.shard.mark_end();
            self.probe("ends marked");
            if let Err(error) = marked {
                self.exited(shard, &error.to_string());
            }
        }
    }

    /// A replica has been fenced: right only where acknowledged bytes were changed.
    fn fenced(&mut self, partition: PartitionId, why: &str) {
        self.note("fenced", partition.0, 0, 0);
        if self.is_state_damaged && why.contains("cannot be applied") && why.contains("damaged") {
            self.probe("partitions stopped by damage");
        } else if self.may_refuse {
            self.probe("safe halts");
            self.halted = Some(format!("partition {partition}: {why}"));
        } else {
            self.broken("a healthy replica is not fenced", format!("partition {partition}: {why}"));
        }
    }

    /// The books see every persisted LSN that the machine reports.
    fn note_positions(&mut self, shard: usize) {
        for id in self.partitions_of(shard) {
            let lsn = self.with_shard(shard, |shard| shard.machine().persisted(id));
            if let Some(lsn) = lsn {
                self.books.borrow_mut().persisted(id, lsn);
            }
        }
    }

    /// Gives every operation that a shard has started a time at which it ends.
    fn begin_io(&mut self, shard: usize) {
        let (now_ns, life) = (self.now_ns, self.life);
        let Some(disk) = self.disks.get(shard) else { return };
        for (io, what) in disk.started() {
            let end_ns = disk.end_ns(what, now_ns, &mut self.streams.disk);
            self.agenda.put(end_ns, Happening::DiskDone { life, shard, io });
            self.trace.note(now_ns, what.name(), shard as u64, io.0, end_ns);
        }
    }

    /// An operation of a disk ends, well or not.
    pub(super) fn disk_done(&mut self, shard: usize, io: IoId) {
        let now_ns = self.now_ns;
        let Some(disk) = self.disks.get_mut(shard) else { return };
        if let Some(later_ns) = disk.stalled_until(now_ns) {
            self.agenda.put(later_ns, Happening::DiskDone { life: self.life, shard, io });
            return;
        }
        let end = disk.end(io, &mut self.streams.disk);
        if end == End::Failed {
            self.probe("write errors");
            if let Some(node) = &mut self.node {
                node.error_injected = true;
            }
        }
        self.note("disk", shard as u64, io.0, u64::from(end == End::Failed));
        self.turn_soon(shard);
    }

    /// The pool does a job.
    pub(super) fn job_run(&mut self, shard: usize, job: Job<S>) {
        self.note("job", shard as u64, 0, 0);
        let done = <Observed<S> as StateMachine>::run_job(job);
        let at_ns = self.now_ns + self.streams.job.heavy(10_000);
        self.agenda.put(at_ns, Happening::JobDone { life: self.life, shard, done: Box::new(done) });
    }

    /// A job's result reaches its shard.
    pub(super) fn job_done(&mut self, shard: usize, done: JobDone<S>) {
        self.note("job done", shard as u64, 0, 0);
        if let Some(unit) = self.node.as_mut().and_then(|node| node.units.get_mut(shard)) {
            unit.jobs -= 1;
            unit.shard.handle(Input::JobDone(done));
        }
        self.turn_soon(shard);
    }

    /// Whether nothing is under way anywhere.
    pub(super) fn is_quiet(&self) -> bool {
        let Some(node) = &self.node else { return false };
        self.books.borrow().outstanding() == 0
            && node.units.iter().all(|unit| unit.jobs == 0 && unit.shard.is_closed())
            && self.disks.iter().all(|disk| disk.in_flight() == 0)
    }

    /// What keeps the process from being quiet, for the report.
    pub(super) fn what_is_left(&self) -> String {
        let Some(node) = &self.node else { return "the process is down".to_owned() };
        let units = node.units.iter().zip(&self.disks).enumerate().map(|(shard, (unit, disk))| {
            let (jobs, writes) = (unit.jobs, disk.in_flight());
            let idle = if unit.shard.is_closed() { "closed" } else { "not closed" };
            format!("shard {shard}: {idle}, {jobs} jobs, {writes} disk operations")
        });
        let open = self.books.borrow().outstanding();
        format!("{open} open requests; {}", units.collect::<Vec<_>>().join("; "))
    }

    /// The shards take no further requests.
    pub(super) fn close(&mut self) {
        for shard in 0..self.disks.len() {
            self.with_shard(shard, Shard::close);
            self.turn_soon(shard);
        }
    }

    /// How the living process stands: for the report of a failure.
    pub(super) fn state(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (shard, unit) in self.node.iter().flat_map(|node| &node.units).enumerate() {
            let (wal, status) = (unit.shard.wal().stats(), unit.shard.status());
            let (live, spare, space) = (wal.live_segments, wal.spare_segments, status.space);
            let pending = status.pending_requests;
            lines.push(format!(
                "shard {shard}: {live} live segments, {spare} spare, {space:?}; {pending} requests"
            ));
            for replica in status.replicas {
                let (id, last, committed) = (replica.partition, replica.last, replica.committed);
                let persisted = unit.shard.machine().persisted(id);
                let (applied, released) = (replica.applied, replica.released);
                lines.push(format!(
                    "  partition {id}: {:?}, {:?} of term {}, last {last}, committed {committed}, applied {applied}, \
                     persisted {persisted}, released {released}, {} requests in {} entries",
                    replica.started_as, replica.role, replica.term, replica.pending_requests, replica.pending_entries
                ));
            }
        }
        lines
    }

    /// Stops the process in order; it must be quiet.
    pub(super) fn stop(&mut self) {
        self.note("stop", 0, self.life, 0);
        self.probe("stops in order");
        if let Some(node) = self.node.take() {
            self.close_books(node);
        }
        self.die();
    }

    pub(super) fn partitions_of(&self, shard: usize) -> Vec<PartitionId> {
        (1..=self.plan.knobs.partitions).map(PartitionId).filter(|id| self.shard_of(*id) == shard).collect()
    }
}

pub(super) fn wal_options(knobs: &Knobs, seed: u64) -> Options {
    Options {
        segment_bytes: knobs.segment_bytes,
        first_segment_bytes: 64 << 10,
        spare_segments: knobs.spare_segments,
        max_in_flight: knobs.max_in_flight,
        max_segments: knobs.max_segments,
        long_segments: 6,
        seed,
        // The folder was made before the first process: one without a manifest was lost.
        binding: Binding { may_adopt: false, ..Binding::default() },
    }
}

/// Small limits, so that every bound is met.
fn shard_options(plan: &Plan, replicated: bool) -> ShardOptions {
    let knobs = &plan.knobs;
    ShardOptions {
        replication: if replicated { Replication::On } else { Replication::Off },
        limits: Limits {
            partition_requests: knobs.queue,
            shard_requests: knobs.queue * 4,
            entry_bytes: 12 << 10,
            op_bytes: 12 << 10,
            frame_bytes: 16 << 10,
            apply_ops: knobs.apply_ops,
            apply_slice_ops: knobs.apply_ops.div_ceil(2),
            ..Limits::default()
        },
        // Shorter than the longest stalls, so that some requests get no outcome in time.
        request_timeout_ms: 2_000,
        log_soft_segments: 4,
        ..ShardOptions::default()
    }
}
