//! What a world with several nodes must come to: a quorum that is whole serves, whatever the others are; and once all are
//! whole, all have the same state.
//!
//! Invariant: what is broken stays so until the quorum has served; nothing else strikes meanwhile.

use crate::ids::PartitionId;
use crate::machine::{Kind, StateMachine, Step, Wait};
use crate::sim::disk::Disk;
use crate::sim::net::Cut;
use crate::sim::node::{NodeEvent, SimNode};
use crate::sim::process::REQUEST_TIMEOUT_MS;
use crate::sim::rng::Rng;
use crate::sim::swarm::MS;
use crate::sim::workload::{Subject, stamp};
use crate::sim::world::{Common, Happening, World};

/// Of all that can be read, what is compared: a look at one replica costs as much as one at all of them.
const COMPARED_READS: usize = 3;
/// How often a replica is asked for what is not in its memory.
const TRIES: u64 = 1000;

const SAME_STATE: &str = "all replicas have the same state";

/// How a node stays broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    /// Its process stays dead.
    Dead,
    /// It reaches nobody, and nobody reaches it.
    CutOff,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
}

impl<S: Subject> SimNode<S> {
    /// Its faults end.
    pub(super) fn heal(&mut self, world: &mut Common<S>) {
        (self.nested, self.paused_until_ns) = (0, 0);
        self.full_disk_ends(world);
        self.disks.iter_mut().for_each(Disk::heal);
        if world.plan.knobs.nodes > 1 {
            self.hasten(world);
            // What was paused goes on at once.
            (0..self.disks.len()).for_each(|shard| self.turn_soon(world, shard));
        }
        if std::mem::take(&mut self.stays_down) {
            self.open(world);
        }
    }
}

impl<S: Subject> SimNode<S> {
    /// What its disks and its pool have under way takes no longer than what they begin now, though they were slow when it began:
    /// a node that waits for a disk or a pool that is not whole is not whole itself.
    fn hasten(&self, world: &mut Common<S>) {
        let (this, now_ns) = ((self.number, self.incarnation), world.now_ns);
        let mut rng = Rng::of_node(world.plan.seed, "hastened", self.number);
        let job_ns = world.healthy_job_ns();
        world.agenda.hasten(|event| {
            let Happening::OfNode { node, incarnation, what } = event else { return None };
            if (*node, *incarnation) != this {
                return None;
            }
            match what {
                NodeEvent::DiskDone { shard, io } => {
                    let disk = self.disks.get(*shard)?;
                    disk.under_way(*io).map(|what| disk.end_ns(what, now_ns, &mut rng))
                }
                NodeEvent::JobRun { .. } | NodeEvent::JobDone { .. } => Some(now_ns + rng.heavy(job_ns)),
                NodeEvent::Turn { .. }
                | NodeEvent::Restart
                | NodeEvent::TryStop
                | NodeEvent::Reopen { .. }
                | NodeEvent::Crash => None,
            }
        });
    }
}

impl<S: Subject> World<S> {
    /// A quorum drawn by chance is whole from now on, and the others are broken for as long as it is asked: each partition must
    /// take a write within ten elections.
    pub(super) fn heal_quorum(&mut self) -> bool {
        let nodes = self.nodes.len();
        if nodes == 1 || self.common.plan.knobs.classes.is_empty() {
            return true;
        }
        let mut rng = Rng::new(self.common.plan.seed, "quorum");
        let mut others = (0..nodes).collect::<Vec<_>>();
        let mut quorum = Vec::new();
        let size = rng.between(nodes as u64 / 2 + 1, nodes as u64 - 1);
        for _ in 0..size {
            let at = usize::try_from(rng.below(others.len() as u64)).expect("few nodes");
            quorum.push(others.swap_remove(at));
        }
        self.common.faults_over = true;
        self.common.net.heal();
        for &node in &quorum {
            self.common.note("whole", node as u64, 0, 0);
            let node = self.nodes.get_mut(node);
            node.into_iter().for_each(|node| node.heal(&mut self.common));
        }
        for &node in &others {
            self.break_one(node, &mut rng);
        }
        let Self { common, .. } = self;
        common.probe("quorums healed");
        let knobs = &common.plan.knobs;
        let for_ns = 10 * knobs.election_ns() + 3 * REQUEST_TIMEOUT_MS * MS;
        let up = |world: &Self| {
            let is_up = |node: &usize| world.nodes.get(*node).is_some_and(SimNode::is_serving);
            quorum.iter().all(is_up)
        };
        let until_ns = common.now_ns + 10_000 * MS;
        self.pump(until_ns, up)
            && self.ask_of(&quorum, "a quorum that is whole takes writes", for_ns, |subject, unique| {
                (Kind::Write, subject.write(unique))
            })
    }

    /// A node breaks in a way that is drawn, until all is healed.
    pub(super) fn break_one(&mut self, node: usize, rng: &mut Rng) {
        let how = rng.pick(&[Broken::Dead, Broken::CutOff, Broken::Deaf, Broken::Mute]);
        let Self { nodes: all, common } = self;
        common.note("broken", node as u64, how as u64, 0);
        let others = (0..all.len()).filter(|other| *other != node);
        match how {
            Broken::Dead => {
                let node = all.get_mut(node).expect("it is one of the nodes");
                node.stays_down = true;
                node.crash(common);
            }
            Broken::CutOff => {
                common.net.cut(Cut::Around(node));
            }
            Broken::Deaf => others.for_each(|other| {
                common.net.cut(Cut::OneWay(other, node));
            }),
            Broken::Mute => others.for_each(|other| {
                common.net.cut(Cut::OneWay(node, other));
            }),
        }
    }

    /// Every replica answers alike, also those that nobody asks.
    pub(super) fn compare_states(&mut self) -> bool {
        if self.nodes.len() == 1 {
            return true;
        }
        let reads = self.common.books.borrow().subject().audit(&self.common.plan.knobs);
        for read in reads.into_iter().take(COMPARED_READS) {
            for partition in (1..=self.common.plan.knobs.partitions).map(PartitionId) {
                let left_behind = self.left_behind(partition);
                self.compare_members(partition, &left_behind);
                if self.over() {
                    return false;
                }
                self.common.books.borrow_mut().probes.add("replicas left behind", left_behind.len() as u64);
                for node in (0..self.nodes.len()).filter(|node| !left_behind.contains(node)) {
                    if !self.read_replica(node, partition, &read) {
                        return false;
                    }
                }
            }
        }
        !self.over()
    }

    /// Has a replica's machine answer a read; the books compare it with the model.
    fn read_replica(&mut self, node: usize, partition: PartitionId, read: &[u8]) -> bool {
        let id = self.common.books.borrow_mut().new_request();
        let (op, shard) = (stamp(id, read), self.common.shard_of(partition));
        let mut waited = None;
        for _ in 0..TRIES {
            let now_ms = self.common.books.borrow().last_stamp_ms(partition);
            let asked = self.nodes.get_mut(node).expect("it is one of the nodes");
            let step = asked.with_shard(shard, |shard| {
                let step = shard.machine_mut().read(partition, &op, now_ms);
                let waits = match step {
                    Step::Blocked(Wait::Number(number)) => Some(number),
                    Step::Blocked(Wait::Job) | Step::Done(_) | Step::Passed | Step::Unreadable(_) => None,
                };
                if let Some(number) = std::mem::replace(&mut waited, waits) {
                    shard.machine_mut().abandon(number);
                }
                step
            });
            match step {
                Some(Step::Done(_)) => {
                    self.common.probe("replicas compared");
                    self.common.books.borrow_mut().name_violation(SAME_STATE);
                    return !self.over();
                }
                Some(Step::Blocked(_)) | None => asked.turn_soon(&mut self.common, shard),
                Some(Step::Passed | Step::Unreadable(_)) => break,
            }
            if !self.pump(self.common.now_ns + 5 * MS, |_| false) {
                return false;
            }
        }
        let what = format!("partition {partition} on node {node} answers nothing");
        self.common.broken(SAME_STATE, what);
        false
    }
}
