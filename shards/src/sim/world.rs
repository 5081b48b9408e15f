//! One simulated node in its world: the loop over events, and the acts of a run.
//!
//! Invariant: everything that happens is drawn from the seed's streams and happens at a whole ns; the core under test
//! is the real one and is told the time. A run has acts: faults (safety is judged), healing, settling (every request
//! ends, every partition takes a write: liveness), audit, a clean stop, a restart and the audit again.

use std::cell::RefCell;
use std::rc::Rc;

use corduroy_wal::device::IoId;

use crate::ids::PartitionId;
use crate::raft::guard::{Fault, guarded};
use crate::shard::machine::{Kind, StateMachine};
use crate::sim::agenda::Agenda;
use crate::sim::check::{Books, Violation};
use crate::sim::clients::Clients;
use crate::sim::clock::Clock;
use crate::sim::disk::Disk;
use crate::sim::observed::Observed;
use crate::sim::plan::Plan;
use crate::sim::planted::Planted;
use crate::sim::probes::Probes;
use crate::sim::process::Node;
use crate::sim::rng::Rng;
use crate::sim::swarm::MS;
use crate::sim::trace::{Event, Trace};
use crate::sim::workload::Subject;

/// Events that a run may have at most; one that needs more is stuck in a loop.
const MAX_EVENTS: u64 = 3_000_000;
/// How long a request may be without its outcome while the process lives: the longest stall, and then some.
const LONGEST_WAIT_NS: u64 = 30_000 * MS;
/// How long settling may take.
const SETTLE_NS: u64 = 60_000 * MS;

/// A job and what it brings, of a subject's machine under observation.
pub(super) type Job<S> = <Observed<S> as StateMachine>::Job;
pub(super) type JobDone<S> = <Observed<S> as StateMachine>::JobDone;

/// Something that will happen. `life` names the process it belongs to: it dies with it.
pub(super) enum Happening<S: Subject> {
    Turn { life: u64, shard: usize },
    DiskDone { life: u64, shard: usize, io: IoId },
    JobRun { life: u64, shard: usize, job: Box<Job<S>> },
    JobDone { life: u64, shard: usize, done: Box<JobDone<S>> },
    ClientSend { client: usize },
    Fault { index: usize },
    FullDiskEnds { number: u64 },
    Restart { life: u64 },
    TryStop { life: u64 },
    Reopen { life: u64, shard: usize, partition: PartitionId },
    CheckWaits,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// All acts were played, nothing was broken.
    Clean,
    /// The node refused to start on a damaged log, by name; as it must where acknowledged bytes were changed.
    SafeHalt(String),
    /// An invariant was broken.
    Violated(Violation),
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// The hash of its trace.
    pub trace_hash: u64,
    /// Events.
    pub events: u64,
    /// World time at the end, ns.
    pub ended_ns: u64,
    /// What it met.
    pub probes: Probes,
    /// Its last events.
    pub last: Vec<Event>,
    /// How the process stood at the end, if it lived.
    pub state: Vec<String>,
}

/// Options of one run that do not change it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Watch {
    /// Print every event.
    pub print: bool,
    /// Stop before this event.
    pub until: Option<u64>,
}

/// The world.
pub(super) struct World<S: Subject> {
    pub(super) plan: Plan,
    pub(super) watch: Watch,
    pub(super) now_ns: u64,
    pub(super) agenda: Agenda<Happening<S>>,
    pub(super) trace: Trace,
    pub(super) clock: Clock,
    pub(super) books: Rc<RefCell<Books<S>>>,
    pub(super) disks: Vec<Disk>,
    pub(super) media: Vec<S::Media>,
    pub(super) node: Option<Node<S>>,
    pub(super) life: u64,
    pub(super) replicated: bool,
    pub(super) clients: Clients,
    /// Openings that are still to be cut off.
    pub(super) nested: u32,
    /// A flip changed bytes that may have been acknowledged: refusing to start is right from now on.
    pub(super) may_refuse: bool,
    /// Some of a machine's storage was damaged: requests may be refused with that.
    pub(super) is_state_damaged: bool,
    /// The number of the last full-disk period; an earlier one's end does not end it.
    pub(super) full_disk: u64,
    pub(super) halted: Option<String>,
    pub(super) faults_over: bool,
    /// A stop in order was asked for: clients wait.
    pub(super) stopping: bool,
    /// What the next life is to have, if it was said.
    pub(super) wanted_replication: Option<bool>,
    pub(super) streams: Streams,
}

/// The streams of randomness that belong to no fault class.
pub(super) struct Streams {
    pub(super) disk: Rng,
    pub(super) crash: Rng,
    pub(super) flip: Rng,
    pub(super) open: Rng,
    pub(super) turn: Rng,
    pub(super) job: Rng,
    pub(super) workload: Rng,
    pub(super) rest: Rng,
    pub(super) reopen: Rng,
}

/// Plays a plan.
pub fn run<S: Subject>(subject: S, plan: Plan, watch: Watch) -> Report {
    Planted::plant(plan.planted);
    let report = World::new(subject, plan, watch).play();
    Planted::plant(None);
    report
}

impl<S: Subject> World<S> {
    fn new(subject: S, plan: Plan, watch: Watch) -> Self {
        let seed = plan.seed;
        let knobs = &plan.knobs;
        let mut start = Rng::new(seed, "clock");
        let media = (0..knobs.shards).map(|shard| subject.media(crate::ids::ShardId(shard))).collect();
        let disks = (0..knobs.shards).map(|shard| Disk::new(seed, shard, knobs)).collect();
        let partitions = (1..=knobs.partitions).map(PartitionId);
        Self {
            now_ns: 0,
            agenda: Agenda::default(),
            trace: Trace::new(watch.print),
            clock: Clock::new(knobs.clock_ppm, start.below(1 << 50)),
            books: Rc::new(RefCell::new(Books::new(subject, partitions))),
            disks,
            media,
            node: None,
            life: 0,
            replicated: knobs.replicated,
            clients: Clients::new(knobs),
            nested: 0,
            may_refuse: false,
            is_state_damaged: false,
            full_disk: 0,
            halted: None,
            faults_over: false,
            stopping: false,
            wanted_replication: None,
            streams: Streams {
                disk: Rng::new(seed, "disk"),
                crash: Rng::new(seed, "crash images"),
                flip: Rng::new(seed, "flip"),
                open: Rng::new(seed, "open"),
                turn: Rng::new(seed, "turn"),
                job: Rng::new(seed, "job"),
                workload: Rng::new(seed, "workload"),
                rest: Rng::new(seed, "rest"),
                reopen: Rng::new(seed, "reopened replicas"),
            },
            plan,
            watch,
        }
    }

    /// The shard that a partition lives on.
    pub(super) fn shard_of(&self, partition: PartitionId) -> usize {
        usize::try_from((partition.0 - 1) % u64::from(self.plan.knobs.shards)).expect("at most 4 shards")
    }

    /// Notes an event of the world.
    pub(super) fn note(&mut self, what: &'static str, who: u64, a: u64, b: u64) {
        self.trace.note(self.now_ns, what, who, a, b);
    }

    pub(super) fn probe(&self, name: &'static str) {
        self.books.borrow_mut().probes.hit(name);
    }

    pub(super) fn broken(&self, invariant: &'static str, what: String) {
        self.books.borrow_mut().broken(invariant, what);
    }

    fn play(mut self) -> Report {
        self.start();
        let horizon_ns = self.plan.knobs.horizon_ns;
        // An act returns false when the run is over.
        let _ended = self.pump(horizon_ns, |_| false)
            && self.heal()
            && self.settle("every request is answered")
            && self.last_writes()
            && self.audit()
            && self.stop_in_order()
            && self.restart_at_once()
            && self.audit()
            && self.stop_in_order();
        self.report()
    }

    fn start(&mut self) {
        for (index, planned) in self.plan.faults.iter().enumerate() {
            self.agenda.put(planned.at_ns, Happening::Fault { index });
        }
        for client in 0..self.clients.count() {
            self.agenda.put(self.streams.workload.below(MS), Happening::ClientSend { client });
        }
        self.agenda.put(1000 * MS, Happening::CheckWaits);
        self.open();
    }

    /// Leaves the process as it is: after a panic nothing of it can be trusted, not even to be dropped in order.
    fn abandon(&mut self) {
        self.node = None;
    }

    /// Whether the run has nothing more to show.
    fn over(&self) -> bool {
        self.halted.is_some() || self.books.borrow().violation().is_some()
    }

    /// Lets events happen until `stop`, or until `until_ns`. Returns false if the run is over.
    pub(super) fn pump(&mut self, until_ns: u64, stop: impl Fn(&Self) -> bool) -> bool {
        while !self.over() && !stop(self) {
            if self.agenda.next_ns().is_none_or(|at| at > until_ns) {
                self.now_ns = until_ns;
                break;
            }
            if self.watch.until.is_some_and(|until| self.trace.count() >= until) {
                self.halted = Some("stopped before the event asked for".to_owned());
                break;
            }
            let Some((at_ns, event)) = self.agenda.take() else { break };
            self.now_ns = at_ns;
            // A panic anywhere in the core ends a real process; here it is a finding like any other.
            if let Err(Fault(panic)) = guarded(|| self.happen(event)) {
                self.broken("nothing panics", panic);
                self.abandon();
            }
            if self.trace.count() > MAX_EVENTS {
                self.broken("no endless loop", format!("{MAX_EVENTS} events"));
            }
        }
        !self.over()
    }

    fn happen(&mut self, event: Happening<S>) {
        match event {
            Happening::Turn { life, shard } if life == self.life => self.turn(shard),
            Happening::DiskDone { life, shard, io } if life == self.life => self.disk_done(shard, io),
            Happening::JobRun { life, shard, job } if life == self.life => self.job_run(shard, *job),
            Happening::JobDone { life, shard, done } if life == self.life => self.job_done(shard, *done),
            Happening::ClientSend { client } => self.client_send(client),
            Happening::Fault { index } => self.strike(index),
            Happening::FullDiskEnds { number } if number == self.full_disk => self.full_disk_ends(),
            Happening::Restart { life } if life == self.life && self.node.is_none() => self.open(),
            Happening::TryStop { life } if life == self.life => self.try_stop(),
            Happening::Reopen { life, shard, partition } if life == self.life => {
                self.reopen(shard, partition)
            }
            Happening::CheckWaits => self.check_waits(),
            // Of a process that is no more.
            _ => {}
        }
    }

    fn check_waits(&mut self) {
        self.agenda.put(self.now_ns + 1000 * MS, Happening::CheckWaits);
        let oldest = self.books.borrow().oldest().copied();
        if let Some(sent) = oldest.filter(|sent| self.now_ns - sent.at_ns > LONGEST_WAIT_NS) {
            self.broken("every request is answered", format!("{sent:?} is open after {LONGEST_WAIT_NS} ns"));
        }
    }

    /// Ends all faults: the disks work, the process is up.
    fn heal(&mut self) -> bool {
        self.note("heal", 0, 0, 0);
        self.faults_over = true;
        self.nested = 0;
        self.full_disk_ends();
        self.disks.iter_mut().for_each(Disk::heal);
        self.restore_state();
        self.pump(self.now_ns + SETTLE_NS, |world| world.node.is_some())
    }

    /// Waits until nothing is open and nothing more will be sent.
    fn settle(&mut self, invariant: &'static str) -> bool {
        let done = |world: &Self| {
            let quiet = world.clients.finished() && world.books.borrow().outstanding() == 0;
            world.node.is_some() && !world.stopping && quiet
        };
        self.clients.finish();
        let alive = self.pump(self.now_ns + SETTLE_NS, done);
        if alive && !done(self) {
            let oldest = self.books.borrow().oldest().copied();
            self.broken(
                invariant,
                format!("not settled {SETTLE_NS} ns after the faults ended; oldest open: {oldest:?}"),
            );
            return false;
        }
        alive
    }

    /// Every partition must take a write.
    fn last_writes(&mut self) -> bool {
        self.ask_until_done("every partition takes a write once faults have ended", |subject, unique| {
            (Kind::Write, subject.write(unique))
        })
    }

    /// Asks every partition a question, again where it was refused.
    fn ask_until_done(
        &mut self,
        invariant: &'static str,
        question: impl Fn(&S, u64) -> (Kind, Vec<u8>),
    ) -> bool {
        let deadline_ns = self.now_ns + SETTLE_NS;
        let mut left = (1..=self.plan.knobs.partitions).map(PartitionId).collect::<Vec<_>>();
        loop {
            let Some(refused) = self.ask_all(&left, &question) else { return false };
            if refused.is_empty() {
                return true;
            }
            if self.now_ns > deadline_ns {
                self.broken(invariant, format!("refused after {SETTLE_NS} ns: {refused:?}"));
                return false;
            }
            left = refused.into_iter().map(|(partition, _)| partition).collect();
            if !self.pump(self.now_ns + 100 * MS, |_| false) {
                return false;
            }
        }
    }

    /// Reads everything; the books compare each answer with the model.
    fn audit(&mut self) -> bool {
        let reads = self.books.borrow().subject().audit(&self.plan.knobs);
        for read in reads {
            let invariant = "every partition answers reads once faults have ended";
            if !self.ask_until_done(invariant, |_, _| (Kind::Read, read.clone())) {
                return false;
            }
        }
        let behind = self.books.borrow().behind();
        if !behind.is_empty() {
            let what = format!("partitions {behind:?} have not come back to where they were");
            self.broken("acknowledged means kept", what);
        }
        !self.over()
    }

    /// Stops in order and checks that nothing is left lying about.
    fn stop_in_order(&mut self) -> bool {
        self.stopping = true;
        self.close();
        let quiet = |world: &Self| world.is_quiet();
        if !self.pump(self.now_ns + SETTLE_NS, quiet) {
            return false;
        }
        if !self.is_quiet() {
            self.broken("resources return to zero", self.what_is_left());
            return false;
        }
        self.stop();
        !self.over()
    }

    fn restart_at_once(&mut self) -> bool {
        self.open();
        !self.over()
    }

    fn report(self) -> Report {
        let violation = self.books.borrow().violation().cloned();
        let ending = match (violation, self.halted.clone()) {
            (Some(violation), _) => Ending::Violated(violation),
            (None, Some(why)) => Ending::SafeHalt(why),
            (None, None) => Ending::Clean,
        };
        Report {
            ending,
            trace_hash: self.trace.hash(),
            events: self.trace.count(),
            ended_ns: self.now_ns,
            probes: self.books.borrow().probes.clone(),
            last: self.trace.last().copied().collect(),
            state: self.state(),
        }
    }
}
