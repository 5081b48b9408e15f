//! Simulated nodes in their world: the loop over events, and the acts of a run.
//!
//! Invariant: everything that happens is drawn from the seed's streams and happens at a whole ns; the core under test
//! is the real one and gets the time as an input. A run has acts: faults (safety is judged), healing, draining (every request
//! ends, every partition takes a write: liveness), audit, a clean stop, a restart and the audit again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::ids::PartitionId;
use crate::machine::Kind;
use crate::raft::guard::{Fault, guarded};
use crate::sim::agenda::Agenda;
use crate::sim::check::{Books, Violation};
use crate::sim::clients::Clients;
use crate::sim::mail::Post;
use crate::sim::members::Operator;
use crate::sim::net::Net;
use crate::sim::node::{NodeEvent, SimNode};
use crate::sim::plan::Plan;
use crate::sim::planted::Planted;
use crate::sim::probes::Probes;
use crate::sim::rng::Rng;
use crate::sim::safety::Safety;
use crate::sim::swarm::{self, MS, Planned};
use crate::sim::trace::{Event, Trace};
use crate::sim::usurp::Then;
use crate::sim::workload::Subject;

/// Events that a run may have at most; one that needs more is stuck in a loop.
const MAX_EVENTS: u64 = 3_000_000;
/// How long a request may be without its outcome while the process runs: the longest stall, and then some.
const LONGEST_WAIT_NS: u64 = 30_000 * MS;
/// What a typical job takes at most once faults are over: the slowest pool is one of them.
const HEALTHY_JOB_NS: u64 = 2 * MS;
/// How long settling may take.
pub(super) const DRAIN_NS: u64 = 60_000 * MS;

/// Something that will happen.
pub(super) enum Happening<S: Subject> {
    /// To the process that the node has in this incarnation.
    OfNode {
        node: usize,
        incarnation: u64,
        what: NodeEvent<S>,
    },
    ClientSend {
        client: usize,
    },
    Fault {
        index: usize,
    },
    /// The operator asks whoever leads a partition for something that is drawn from a number.
    AskAboutMembers {
        partition: PartitionId,
        draw: u64,
    },
    /// A frame reaches a node, if it gets through.
    Deliver {
        from: usize,
        to: usize,
        parcel: Box<Post>,
    },
    /// A cut is mended.
    CutEnds {
        number: u64,
    },
    /// An attempt on what a node leads goes on.
    Usurp {
        node: usize,
        then: Then,
    },
    FullDiskEnds {
        node: usize,
        number: u64,
    },
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

/// The world: its nodes, and all else.
pub(super) struct World<S: Subject> {
    pub(super) nodes: Vec<SimNode<S>>,
    pub(super) common: Common<S>,
}

/// What all nodes have in common.
pub(super) struct Common<S: Subject> {
    pub(super) plan: Plan,
    pub(super) watch: Watch,
    pub(super) now_ns: u64,
    pub(super) agenda: Agenda<Happening<S>>,
    pub(super) trace: Trace,
    pub(super) books: Rc<RefCell<Books<S>>>,
    pub(super) safety: Safety,
    pub(super) operator: Operator,
    pub(super) net: Net<Post>,
    /// When the last of what came over a link during a pause is taken in.
    pub(super) resumed_ns: HashMap<(usize, usize), u64>,
    pub(super) clients: Clients,
    /// A flip changed bytes that may have been acknowledged: refusing to start is right from now on.
    pub(super) may_refuse: bool,
    /// Some of a machine's storage was damaged: requests may be refused with that.
    pub(super) is_state_damaged: bool,
    pub(super) halted: Option<String>,
    pub(super) faults_over: bool,
    pub(super) streams: Streams,
}

/// The streams of randomness that belong to no node and no fault class.
pub(super) struct Streams {
    pub(super) workload: Rng,
    /// Which node a client goes to.
    pub(super) moves: Rng,
    /// Which reads ask whoever is near.
    pub(super) anywhere: Rng,
    /// When disks are looked at.
    images: Rng,
    /// Whether who sent what did not arrive learns of it.
    pub(super) news: Rng,
    /// When a process that was paused takes in what came meanwhile.
    pub(super) resumed: Rng,
}

/// Plays a plan.
pub fn run<S: Subject>(subject: S, plan: Plan, watch: Watch) -> Report {
    Planted::plant(plan.planted);
    let report = World::new(subject, plan, watch).play();
    Planted::plant(None);
    report
}

impl<S: Subject> Common<S> {
    /// What a typical job takes on a pool that is not slow.
    pub(super) fn healthy_job_ns(&self) -> u64 {
        self.plan.knobs.job_ns.min(HEALTHY_JOB_NS)
    }

    /// The shard that has a partition, of each node.
    pub(super) fn shard_of(&self, partition: PartitionId) -> usize {
        usize::try_from((partition.0 - 1) % u64::from(self.plan.knobs.shards)).expect("at most 4 shards")
    }

    /// The partitions of a shard, of each node.
    pub(super) fn partitions_of(&self, shard: usize) -> Vec<PartitionId> {
        let all = (1..=self.plan.knobs.partitions).map(PartitionId);
        all.filter(|id| self.shard_of(*id) == shard).collect()
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
}

impl<S: Subject> World<S> {
    fn new(subject: S, plan: Plan, watch: Watch) -> Self {
        let seed = plan.seed;
        let nodes =
            (0..plan.knobs.node_count()).map(|number| SimNode::new(number, &subject, &plan)).collect();
        let partitions = (1..=plan.knobs.partitions).map(PartitionId);
        let common = Common {
            now_ns: 0,
            agenda: Agenda::default(),
            trace: Trace::new(watch.print),
            books: Rc::new(RefCell::new(Books::new(subject, partitions, plan.knobs.node_count()))),
            safety: Safety::default(),
            operator: Operator::default(),
            net: Net::new(seed, plan.knobs.node_count(), plan.knobs.links()),
            resumed_ns: HashMap::new(),
            clients: Clients::new(&plan.knobs),
            may_refuse: false,
            is_state_damaged: false,
            halted: None,
            faults_over: false,
            streams: Streams {
                workload: Rng::new(seed, "workload"),
                moves: Rng::new(seed, "moves of clients"),
                anywhere: Rng::new(seed, "reads anywhere"),
                images: Rng::new(seed, "images of disks"),
                news: Rng::new(seed, "news of what did not arrive"),
                resumed: Rng::new(seed, "frames after a pause"),
            },
            plan,
            watch,
        };
        common.books.borrow_mut().expect(&common.plan.knobs);
        Self { nodes, common }
    }

    fn play(mut self) -> Report {
        self.start();
        // An act returns false when the run is over.
        let _ended = self.pump(self.common.plan.knobs.horizon_ns, |_| false)
            && self.heal_quorum()
            && self.heal()
            && self.drain("every request is answered")
            && self.last_writes()
            && self.sleep_and_wake()
            && self.audit()
            && self.compare_states()
            && self.stop_in_order()
            && self.restart_at_once()
            && self.audit()
            && self.stop_in_order();
        self.report()
    }

    fn start(&mut self) {
        for (index, planned) in self.common.plan.faults.iter().enumerate() {
            self.common.agenda.put(planned.at_ns, Happening::Fault { index });
        }
        for client in 0..self.common.clients.count() {
            self.common.agenda.put(self.common.streams.workload.below(MS), Happening::ClientSend { client });
        }
        self.common.agenda.put(1000 * MS, Happening::CheckWaits);
        self.each_node(SimNode::open);
    }

    /// Leaves the processes as they are: after a panic nothing of them can be trusted, not even to be dropped in order.
    fn abandon(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.process = None);
    }

    fn each_node(&mut self, mut act: impl FnMut(&mut SimNode<S>, &mut Common<S>)) {
        self.nodes.iter_mut().for_each(|node| act(node, &mut self.common));
    }

    /// Whether all nodes do what is asked for.
    fn all_nodes(&self, does: impl Fn(&SimNode<S>) -> bool) -> bool {
        self.nodes.iter().all(does)
    }

    /// Whether the run has nothing more to show.
    pub(super) fn over(&self) -> bool {
        self.common.halted.is_some() || self.common.books.borrow().violation().is_some()
    }

    /// Lets events happen until `stop`, or until `until_ns`. Returns false if the run is over.
    pub(super) fn pump(&mut self, until_ns: u64, stop: impl Fn(&Self) -> bool) -> bool {
        while !self.over() && !stop(self) {
            if self.common.agenda.next_ns().is_none_or(|at| at > until_ns) {
                self.common.now_ns = until_ns;
                break;
            }
            if self.common.watch.until.is_some_and(|until| self.common.trace.count() >= until) {
                self.common.halted = Some("stopped before the event asked for".to_owned());
                break;
            }
            let Some((at_ns, event)) = self.common.agenda.take() else { break };
            self.common.now_ns = at_ns;
            // A panic anywhere in the core ends a real process; here it is a finding like any other.
            if let Err(Fault(panic)) = guarded(|| self.happen(event)) {
                self.common.broken("nothing panics", panic);
                self.abandon();
            }
            if self.common.trace.count() > MAX_EVENTS {
                self.common.broken("no endless loop", format!("{MAX_EVENTS} events"));
            }
        }
        !self.over()
    }

    fn happen(&mut self, event: Happening<S>) {
        let Self { nodes, common } = self;
        match event {
            Happening::OfNode { node, incarnation, what } => {
                if let Some(node) = nodes.get_mut(node) {
                    node.happen(common, incarnation, what);
                }
            }
            Happening::ClientSend { client } => self.client_send(client),
            Happening::Fault { index } => {
                let planned = common.plan.faults.get(index).copied().filter(|_| !common.faults_over);
                if let Some(Planned { node, fault: swarm::Fault::Usurp { how, after_ns }, .. }) = planned {
                    return self.usurp(node as usize, how, after_ns);
                }
                let node =
                    common.plan.faults.get(index).and_then(|planned| nodes.get_mut(planned.node as usize));
                node.into_iter().for_each(|node| node.strike(common, index));
            }
            Happening::AskAboutMembers { partition, draw } => self.ask_about_members(partition, draw),
            Happening::FullDiskEnds { node, number } => {
                let node = nodes.get_mut(node).filter(|node| node.full_disk == number);
                node.into_iter().for_each(|node| node.full_disk_ends(common));
            }
            Happening::Deliver { from, to, parcel } => self.deliver((from, to), *parcel),
            Happening::CutEnds { number } => common.net.mend(number),
            Happening::Usurp { node, then } => self.go_on_usurping(node, then),
            Happening::CheckWaits => self.check_waits(),
        }
    }

    fn check_waits(&mut self) {
        self.start_joiners();
        self.common.agenda.put(self.common.now_ns + 1000 * MS, Happening::CheckWaits);
        let oldest = self.common.books.borrow().oldest().copied();
        if let Some(sent) = oldest.filter(|sent| self.common.now_ns - sent.at_ns > LONGEST_WAIT_NS) {
            self.common
                .broken("every request is answered", format!("{sent:?} is open after {LONGEST_WAIT_NS} ns"));
        }
        // A look costs as much as an opening. On one node a crash shows most of what it would show.
        if self.common.streams.images.chance(if self.nodes.len() > 1 { 500 } else { 30 }) {
            self.judge_images();
        }
    }

    /// Ends all faults: the disks work, the process is up.
    pub(super) fn heal(&mut self) -> bool {
        self.common.note("heal", 0, 0, 0);
        self.common.faults_over = true;
        self.common.net.heal();
        self.each_node(SimNode::heal);
        self.each_node(SimNode::restore_state);
        let until_ns = self.common.now_ns + DRAIN_NS;
        self.pump(until_ns, |world| world.all_nodes(|node| node.process.is_some()))
    }

    /// Waits until nothing is open and nothing more will be sent.
    fn drain(&mut self, invariant: &'static str) -> bool {
        let done = |world: &Self| {
            let quiet = world.common.clients.finished() && world.common.books.borrow().outstanding() == 0;
            quiet && world.all_nodes(SimNode::is_serving)
        };
        self.common.clients.finish();
        let alive = self.pump(self.common.now_ns + DRAIN_NS, done);
        if alive && !done(self) {
            let oldest = self.common.books.borrow().oldest().copied();
            self.common.broken(
                invariant,
                format!("not drained {DRAIN_NS} ns after the faults ended; oldest open: {oldest:?}"),
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

    /// Reads everything; the books compare each answer with the model.
    fn audit(&mut self) -> bool {
        self.start_joiners();
        let reads = self.common.books.borrow().subject().audit(&self.common.plan.knobs);
        for read in reads {
            let invariant = "every partition answers reads once faults have ended";
            if !self.ask_until_done(invariant, |_, _| (Kind::Read, read.clone())) {
                return false;
            }
        }
        // Replicas that answer nothing may come later.
        if !self.pump(self.common.now_ns + DRAIN_NS, |world| world.behind().is_empty()) {
            return false;
        }
        let behind = self.behind();
        if !behind.is_empty() {
            let what = format!("replicas {behind:?} have not come back to where they were");
            self.common.broken("acknowledged means kept", what);
        }
        !self.over()
    }

    /// Stops in order and checks that nothing is left lying about.
    fn stop_in_order(&mut self) -> bool {
        self.each_node(|node, common| {
            node.stopping = true;
            node.close(common);
        });
        let quiet = |world: &Self| world.all_nodes(|node| node.is_quiet(&world.common));
        if !self.pump(self.common.now_ns + DRAIN_NS, quiet) {
            return false;
        }
        if !quiet(self) {
            let left: Vec<_> = self.nodes.iter().map(|node| node.what_is_left(&self.common)).collect();
            self.common.broken("resources return to zero", left.join("; "));
            return false;
        }
        self.each_node(SimNode::stop);
        !self.over()
    }

    fn restart_at_once(&mut self) -> bool {
        self.each_node(SimNode::open);
        !self.over()
    }

    fn report(self) -> Report {
        let violation = self.common.books.borrow().violation().cloned();
        let ending = match (violation, self.common.halted.clone()) {
            (Some(violation), _) => Ending::Violated(violation),
            (None, Some(why)) => Ending::SafeHalt(why),
            (None, None) => Ending::Clean,
        };
        Report {
            ending,
            trace_hash: self.common.trace.hash(),
            events: self.common.trace.count(),
            ended_ns: self.common.now_ns,
            probes: self.common.books.borrow().probes.clone(),
            last: self.common.trace.last().copied().collect(),
            state: self.nodes.iter().flat_map(SimNode::state).collect(),
        }
    }
}
