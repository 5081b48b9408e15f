//! The start and the end of the simulated process: opening (which may be cut off at any step), turns, jobs, crashes,
//! stops in order.
//!
//! Invariant: nothing of a process outlives it but what its disks and its machine's media hold.

use std::rc::Rc;

use corduroy_wal::device::IoId;
use corduroy_wal::{Wal, WalError};

use crate::ids::{PartitionId, ShardId};
use crate::machine::StateMachine;
use crate::raft::replica::StartedAs;
use crate::shard::io::Input;
use crate::sim::disk::{Disk, End, What};
use crate::sim::installs::note_unfinished;
use crate::sim::members::members_of;
use crate::sim::node::{Job, JobDone, NodeEvent, Process, SimNode, SimShard, Unit};
use crate::sim::observed::Observed;
use crate::sim::options::{shard_options, wal_options};
use crate::sim::planted::{MachineBug, Planted};
use crate::sim::rng::mix;
use crate::sim::safety::Standing;
use crate::sim::swarm::{Class, MS};
use crate::sim::workload::Subject;
use crate::sim::world::Common;
use crate::{Outputs, Shard, ShardError};

/// Turns of a shard from one look at all that its log and its machine hold to the next: such a look costs as much as all
/// the rows.
const CHECKED_TURNS: u64 = 16;

/// Shorter than the longest stalls, so that some requests get no outcome in time.
pub(super) const REQUEST_TIMEOUT_MS: u64 = 2_000;

/// Why an opening did not succeed.
enum NotOpened {
    /// The process died in the middle of it.
    CutOff,
    /// The log is damaged, and said so.
    Damaged(String),
    /// Anything else.
    Failed(String),
}

impl<S: Subject> SimNode<S> {
    /// Starts the process: every shard in turn.
    pub(super) fn open(&mut self, world: &mut Common<S>) {
        self.incarnation += 1;
        world.note("open", self.name(0), self.incarnation, u64::from(self.nested));
        (self.stopping, self.paused_until_ns) = (false, 0);
        world.books.borrow_mut().set_replicated(self.number, self.replicated);
        let mut units = Vec::new();
        for shard in 0..self.disks.len() {
            match self.open_shard(world, shard) {
                Ok(opened) => units.push(Unit { shard: opened, due_ns: None, jobs: 0 }),
                Err(why) => {
                    drop(units);
                    return self.not_opened(world, shard, why);
                }
            }
        }
        self.nested = 0;
        self.process = Some(Process { units, error_injected: false });
        self.disks.iter().for_each(|disk| disk.set_fuse(None));
        for shard in 0..self.disks.len() {
            self.turn_soon(world, shard);
        }
    }

    fn open_shard(&mut self, world: &mut Common<S>, shard: usize) -> Result<SimShard<S>, NotOpened> {
        let number = u32::try_from(shard).expect("at most 4 shards");
        let origin_of = |id: PartitionId| Some((id, self.origin(&world.plan.knobs, id)?));
        let origins = world.partitions_of(shard).into_iter().filter_map(origin_of).collect::<Vec<_>>();
        let mine = origins.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let media = self.media.get_mut(shard).expect("one a shard");
        let machine = {
            let books = world.books.borrow();
            if Planted::of_machine(world.plan.planted) == Some(MachineBug::ImageKeepsRows) {
                books.subject().keep_rows(media);
            }
            books
                .subject()
                .open(media, ShardId(number), &world.plan.knobs)
                .map_err(|error| NotOpened::Failed(error.to_string()))?
        };
        for &id in &mine {
            world.books.borrow_mut().opened(self.number, id, machine.persisted(id));
        }
        let bug = Planted::of_machine(world.plan.planted);
        let machine = Observed::new(machine, self.number, Rc::clone(&world.books), bug);
        let name = self.name(shard);
        let disk = self.disks.get_mut(shard).expect("one a shard");
        disk.set_fuse((self.nested > 0).then(|| self.streams.open.below(40)));
        let seed = mix(world.plan.seed ^ mix(self.incarnation << 8 | name));
        let opened = Wal::open(disk.device(), wal_options(&world.plan.knobs, seed)).map_err(ShardError::from);
        let opened = opened.and_then(|(wal, recovered)| {
            let mut books = world.books.borrow_mut();
            books.probes.add("torn tails", u64::from(recovered.torn_tail.is_some()));
            books.probes.add("segments recovered by footer", recovered.by_footer);
            books.probes.add("segments scanned", recovered.scanned);
            note_unfinished(&wal, &machine, &mine, &mut books.probes);
            drop(books);
            let knobs = &world.plan.knobs;
            let options = shard_options(knobs, (self.number, self.incarnation), self.replicated);
            let origins = self.found_in(&wal, origins);
            Shard::open(options, wal, machine, &origins, seed)
        });
        if let Ok(opened) = &opened {
            let mut books = world.books.borrow_mut();
            for replica in opened.status().replicas {
                // A fenced one is reported, and judged, with the first turn.
                if replica.started_as != StartedAs::Stopped {
                    books.started(self.number, replica.partition, replica.started_as, replica.term);
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

    fn not_opened(&mut self, world: &mut Common<S>, shard: usize, why: NotOpened) {
        self.die(world);
        match why {
            NotOpened::CutOff => {
                world.probe("openings cut off");
                self.nested = self.nested.saturating_sub(1);
                self.restart_later(world);
            }
            NotOpened::Damaged(why) if world.may_refuse => {
                world.probe("safe halts");
                world.note("safe halt", self.name(shard), 0, 0);
                world.halted = Some(why);
            }
            NotOpened::Damaged(why) => {
                world.broken(
                    "an undamaged log opens",
                    format!("shard {shard} in incarnation {}: {why}", self.incarnation),
                );
            }
            NotOpened::Failed(why) => {
                world.broken(
                    "the process starts",
                    format!("shard {shard}, incarnation {}: {why}", self.incarnation),
                );
            }
        }
    }

    /// The process dies now: kill -9, power cut or its own exit.
    pub(super) fn crash(&mut self, world: &mut Common<S>) {
        let Some(process) = self.process.take() else { return };
        let unsynced = self.disks.iter().map(Disk::in_flight).sum::<usize>();
        world.note("crash", self.name(0), self.incarnation, unsynced as u64);
        world.probe("crashes");
        if unsynced > 0 {
            world.probe("crashes with writes in flight");
        }
        if process.units.iter().any(|unit| unit.jobs > 0) {
            world.probe("crashes during jobs");
        }
        self.close_books(world, process);
        self.die(world);
        self.restart_later(world);
    }

    /// What the machines and shards of an incarnation went through is counted.
    fn close_books(&mut self, world: &mut Common<S>, process: Process<S>) {
        for unit in &process.units {
            let mut books = world.books.borrow_mut();
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
    fn die(&mut self, world: &mut Common<S>) {
        self.process = None;
        self.comes_back.clear();
        world.books.borrow_mut().crashed(self.number);
        world.clients.cut_off(self.number);
        world.safety.crashed(self.number);
        world.sleepers_crashed(self.number);
        world.operator.crashed(self.number);
        // A power cut takes what the disk had not finished; a killed process leaves it to arrive.
        let power = self.streams.crash.chance(700);
        for (disk, media) in self.disks.iter_mut().zip(&mut self.media) {
            let lost = disk.crash(power);
            let mut books = world.books.borrow_mut();
            books.probes.add("writes lost at a crash", lost.lost);
            books.probes.add("writes torn at a crash", lost.torn);
            books.probes.add("writes kept at a crash", lost.kept);
            books.subject().crash(media, &mut self.streams.crash);
        }
        // Whatever was due for the old process finds another incarnation.
        self.incarnation += 1;
    }

    fn restart_later(&mut self, world: &mut Common<S>) {
        let delay_ns = self.streams.open.between(1, 50) * MS;
        world.agenda.put(world.now_ns + delay_ns, self.event(NodeEvent::Restart));
    }

    /// The process has ended by itself, as it must after an error of the disk.
    pub(super) fn exited(&mut self, world: &mut Common<S>, shard: usize, why: &str) {
        world.note("exit", self.name(shard), self.incarnation, 0);
        if self.process.as_ref().is_some_and(|process| process.error_injected) {
            world.probe("poisoned exits");
        } else if !world.may_refuse {
            world.broken("only an error of the disk ends the process", format!("shard {shard}: {why}"));
        } else {
            world.probe("safe halts");
            world.halted = Some(why.to_owned());
        }
        self.crash(world);
    }

    /// The shard has something to do: a turn within some µs, so that more may gather.
    pub(super) fn turn_soon(&mut self, world: &mut Common<S>, shard: usize) {
        let at_ns = world.now_ns + self.streams.turn.between(1000, 20_000);
        self.turn_at(world, shard, at_ns);
    }

    fn turn_at(&mut self, world: &mut Common<S>, shard: usize, at_ns: u64) {
        let Some(unit) = self.process.as_mut().and_then(|process| process.units.get_mut(shard)) else {
            return;
        };
        if unit.due_ns.is_none_or(|due| at_ns < due) {
            unit.due_ns = Some(at_ns);
            world.agenda.put(at_ns, self.event(NodeEvent::Turn { shard }));
        }
    }

    /// One turn of a shard, and what it brings.
    pub(super) fn turn(&mut self, world: &mut Common<S>, shard: usize) {
        let now_ns = world.now_ns;
        let now = self.clock.now(now_ns);
        let Some(unit) = self.process.as_mut().and_then(|process| process.units.get_mut(shard)) else {
            return;
        };
        if unit.due_ns != Some(now_ns) {
            // Another turn was due earlier, and did this one's work.
            return;
        }
        unit.due_ns = None;
        if self.is_paused(now_ns) {
            return self.turn_at(world, shard, self.paused_until_ns);
        }
        let Some(unit) = self.process.as_mut().and_then(|process| process.units.get_mut(shard)) else {
            return;
        };
        let mut outputs = Outputs::default();
        world.books.borrow_mut().set_now(self.number, now);
        let turned = unit.shard.turn(now, &mut outputs);
        unit.jobs += outputs.jobs.len();
        world.note("turn", self.name(shard), outputs.replies.len() as u64, outputs.jobs.len() as u64);
        for (ticket, reply) in &outputs.replies {
            world.reply(*ticket, reply);
        }
        self.post(world, std::mem::take(&mut outputs.messages));
        for (partition, by) in outputs.removed.drain(..) {
            world.note("removed", partition.0, self.name(shard), by.get());
            world.probe("replicas removed");
            self.removed(world, partition);
        }
        self.answer_operator(world, shard, std::mem::take(&mut outputs.members));
        self.interrupt_installs(world);
        for (partition, why) in &outputs.fenced {
            self.fenced(world, *partition, why);
        }
        if let Err(error) = turned {
            return self.exited(world, shard, &error.to_string());
        }
        let job_ns = if world.faults_over { world.healthy_job_ns() } else { world.plan.knobs.job_ns };
        for job in outputs.jobs {
            let at_ns = now_ns + self.streams.job.heavy(job_ns);
            world.agenda.put(at_ns, self.event(NodeEvent::JobRun { shard, job: Box::new(job) }));
        }
        if outputs.again {
            self.turn_at(world, shard, now_ns + 1000);
        }
        if let Some(wake_ns) = outputs.wake_at_ns {
            self.turn_at(world, shard, self.clock.world_ns(wake_ns).max(now_ns + 1000));
        }
        self.check(world, shard);
        self.note_positions(world, shard);
        self.mark_end(world, shard);
        self.begin_io(world, shard);
    }

    /// Between turns: what the shard and, now and then, its log and its machine keep count of is counted anew.
    fn check(&mut self, world: &mut Common<S>, shard: usize) {
        let turns = self.with_shard(shard, |shard| {
            shard.check();
            shard.counters().turns
        });
        let is_due = turns.is_some_and(|turns| turns.is_multiple_of(CHECKED_TURNS));
        if is_due || world.plan.knobs.nodes > 1 {
            self.judge_standings(world, shard);
        }
        if is_due {
            world.probe("machines counted anew");
            let books = Rc::clone(&world.books);
            self.with_shard(shard, |shard| {
                shard.wal().check();
                books.borrow().subject().check(shard.machine().inner());
            });
        }
    }

    /// What the replicas of a shard show of themselves.
    fn judge_standings(&self, world: &mut Common<S>, shard: usize) {
        let now_ns = world.now_ns;
        let Some(unit) = self.process.as_ref().and_then(|process| process.units.get(shard)) else { return };
        let is_changing = world.plan.knobs.has(Class::Members);
        for status in unit.shard.replicas() {
            let partition = status.partition;
            let leased_ns = status.leased_until_ns.map(|at_ns| self.clock.world_ns(at_ns));
            let leased_ns = leased_ns.filter(|at_ns| *at_ns > now_ns);
            if world.safety.leases.shows((self.number, partition), status.term, leased_ns) {
                world.probe("leases held");
            }
            let slept = world.safety.sleepers.shows(self.number, &status);
            slept.into_iter().for_each(|probe| world.probe(probe));
            if status.is_held {
                // Its log is that of before the image until the record is made which begins it anew.
                continue;
            }
            let Some(standing) = Standing::of(&status) else { continue };
            let term_at = |lsn| unit.shard.wal().term(partition.log(), lsn);
            match world.safety.stands((self.number, partition), standing, term_at) {
                Ok(news) => {
                    let leases = &world.safety.leases;
                    if news.is_elected
                        && let Err((invariant, what)) =
                            leases.elected((self.number, partition), status.term, now_ns)
                    {
                        world.broken(invariant, what);
                    }
                    let met = [(news.is_elected, "leaders elected"), (news.is_cut_back, "logs cut back")];
                    met.iter().filter(|(is_met, _)| *is_met).for_each(|(_, probe)| world.probe(probe));
                }
                Err((invariant, what)) => world.broken(invariant, what),
            }
            let members = is_changing.then(|| members_of::<S>(&unit.shard, partition)).flatten();
            // Until the entry itself counts as applied, that may not be durable.
            let members = members.filter(|members| members.as_of <= status.applied);
            let made_by = members
                .map_or(Ok(()), |members| world.operator.made_by(self.number, partition, members.as_of));
            if let Err((invariant, what)) = made_by {
                world.broken(invariant, what);
            }
        }
    }

    /// A shard that closes, or seems to be at rest, has its log write down where it ends.
    fn mark_end(&mut self, world: &mut Common<S>, shard: usize) {
        let is_due = self.stopping || self.streams.rest.chance(20);
        let Some(unit) = self.process.as_mut().and_then(|process| process.units.get_mut(shard)) else {
            return;
        };
        if is_due && unit.shard.is_idle() {
            let marked = unit.shard.mark_end();
            world.probe("ends marked");
            if let Err(error) = marked {
                self.exited(world, shard, &error.to_string());
            }
        }
    }

    /// A replica has been fenced: right only where acknowledged bytes were changed.
    fn fenced(&mut self, world: &mut Common<S>, partition: PartitionId, why: &str) {
        world.note("fenced", partition.0, 0, 0);
        if self.is_half_deleted(partition, why) {
            world.probe("deletions cut off by a crash");
        } else if world.is_state_damaged && why.contains("cannot be applied") && why.contains("damaged") {
            world.probe("partitions stopped by damage");
        } else if world.may_refuse {
            world.probe("safe halts");
            world.halted = Some(format!("partition {partition}: {why}"));
        } else {
            world.broken("a healthy replica is not fenced", format!("partition {partition}: {why}"));
        }
    }

    /// The books see every persisted LSN that the machine reports.
    fn note_positions(&mut self, world: &mut Common<S>, shard: usize) {
        for id in world.partitions_of(shard) {
            let lsn = self.with_shard(shard, |shard| shard.machine().persisted(id));
            if let Some(lsn) = lsn {
                world.books.borrow_mut().persisted(self.number, id, lsn);
            }
        }
    }

    /// Gives every operation that a shard has started a time at which it ends.
    fn begin_io(&mut self, world: &mut Common<S>, shard: usize) {
        let now_ns = world.now_ns;
        let Some(disk) = self.disks.get(shard) else { return };
        for (io, what) in disk.started() {
            if world.plan.knobs.nodes > 1 && what == What::Read {
                world.probe("entries read back for members");
            }
            let end_ns = disk.end_ns(what, now_ns, &mut self.streams.disk);
            world.agenda.put(end_ns, self.event(NodeEvent::DiskDone { shard, io }));
            world.trace.note(now_ns, what.name(), self.name(shard), io.0, end_ns);
        }
    }

    /// An operation of a disk ends, well or not.
    pub(super) fn disk_done(&mut self, world: &mut Common<S>, shard: usize, io: IoId) {
        let now_ns = world.now_ns;
        let Some(disk) = self.disks.get_mut(shard) else { return };
        if let Some(later_ns) = disk.stalled_until(now_ns) {
            world.agenda.put(later_ns, self.event(NodeEvent::DiskDone { shard, io }));
            return;
        }
        let end = disk.end(io, &mut self.streams.disk);
        if end == End::Failed {
            world.probe("write errors");
            if let Some(process) = &mut self.process {
                process.error_injected = true;
            }
        }
        world.note("disk", self.name(shard), io.0, u64::from(end == End::Failed));
        self.turn_soon(world, shard);
    }

    /// The pool does a job.
    pub(super) fn job_run(&mut self, world: &mut Common<S>, shard: usize, job: Job<S>) {
        world.note("job", self.name(shard), 0, 0);
        let done = <Observed<S> as StateMachine>::run_job(job);
        let at_ns = world.now_ns + self.streams.job.heavy(10_000);
        world.agenda.put(at_ns, self.event(NodeEvent::JobDone { shard, done: Box::new(done) }));
    }

    /// A job's result reaches its shard.
    pub(super) fn job_done(&mut self, world: &mut Common<S>, shard: usize, done: JobDone<S>) {
        world.note("job done", self.name(shard), 0, 0);
        if let Some(unit) = self.process.as_mut().and_then(|process| process.units.get_mut(shard)) {
            unit.jobs -= 1;
            unit.shard.handle(Input::JobDone(done));
        }
        self.turn_soon(world, shard);
    }

    /// The shards take no further requests.
    pub(super) fn close(&mut self, world: &mut Common<S>) {
        for shard in 0..self.disks.len() {
            self.with_shard(shard, Shard::close);
            self.turn_soon(world, shard);
        }
    }

    /// Stops the process in order; it must be quiet.
    pub(super) fn stop(&mut self, world: &mut Common<S>) {
        world.note("stop", self.name(0), self.incarnation, 0);
        world.probe("stops in order");
        if let Some(process) = self.process.take() {
            self.close_books(world, process);
        }
        self.die(world);
    }
}
