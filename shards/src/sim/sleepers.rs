//! Groups that sleep: in which seeds they may, the idle time that has them do so, what wakes them, and an act of its own, in which
//! all have nothing to do, until one node breaks.
//!
//! Invariant: where no group sleeps nothing is drawn here, so what such seeds draw elsewhere does not depend on this file.

use std::collections::HashMap;

use corduroy_wal::Lsn;
use corduroy_wal::mix::{STEP, scramble};

use crate::Role;
use crate::ids::PartitionId;
use crate::machine::Kind;
use crate::raft::replica::ReplicaError;
use crate::sim::node::SimNode;
use crate::sim::process::REQUEST_TIMEOUT_MS;
use crate::sim::rng::Rng;
use crate::sim::swarm::{Knobs, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Common, World};
use crate::status::ReplicaStatus;

/// Seeds with several nodes whose groups sleep, in thousandths.
const SLEEPS_PER_MILLE: u64 = 500;
/// How often, at least, another third of the groups is asked until faults end.
const IDLE_TIMES: u64 = 8;
/// Of so many groups one is asked at a time.
const BUSY_ONE_OF: u64 = 3;
/// How long it may take until groups without anything to do sleep, in ns.
const FALLS_ASLEEP_NS: u64 = 60_000 * MS;

impl Knobs {
    /// In half of the seeds with several nodes groups sleep, soon, and requests come until faults end.
    pub(super) fn draw_sleep(&mut self, seed: u64) {
        let mut rng = Rng::new(seed, "sleep");
        if rng.chance(SLEEPS_PER_MILLE) {
            self.sleep_ticks = rng.pick(&[1, 2, 5, 20]);
            self.horizon_ns = self.horizon_ns.max(IDLE_TIMES * self.idle_ns());
            self.spread_requests();
        }
    }

    /// For how long the same groups are left alone, in ns: they fall asleep meanwhile. 0: none is.
    const fn idle_ns(&self) -> u64 {
        if self.sleep_ticks == 0 { 0 } else { (self.sleep_ticks as u64 + 15) * self.tick_ms * MS }
    }
}

/// Replicas that sleep, as they have shown it after their last turns: up to where their logs went, and whether they led.
#[derive(Default, Debug)]
pub(super) struct Sleepers {
    asleep: HashMap<(usize, PartitionId), (Lsn, bool)>,
}

impl Sleepers {
    /// A node's replica has ended.
    pub(super) fn ended(&mut self, node: usize, partition: PartitionId) {
        self.asleep.remove(&(node, partition));
    }

    /// The process of a node has died. Returns how many of its replicas led groups that slept.
    pub(super) fn crashed(&mut self, node: usize) -> u64 {
        let led = self.asleep.iter().filter(|((of, _), (_, leads))| *of == node && *leads).count() as u64;
        self.asleep.retain(|(of, _), _| *of != node);
        led
    }

    /// A replica stands so. Returns the probe of what has happened.
    pub(super) fn shows(&mut self, node: usize, status: &ReplicaStatus) -> Option<&'static str> {
        let (of, leads) = ((node, status.partition), status.role == Role::Leader);
        if status.is_asleep {
            let before = self.asleep.insert(of, (status.last, leads));
            return (before.is_none() && leads).then_some("leaders fallen asleep");
        }
        let (last, led) = self.asleep.remove(&of)?;
        Some(match (led, leads) {
            (true, true) if status.last > last => "leaders woken by a proposal",
            (true, true) => "leaders woken",
            (true, false) => "leaders woken by the loss of the lead",
            (false, true) => "followers woken by winning the lead",
            (false, false) if status.leader.is_none() => "followers woken without a leader",
            (false, false) => "followers woken",
        })
    }
}

impl<S: Subject> Common<S> {
    /// The partition that a client asks; `None`: nobody asks any just now. Where groups sleep, most are left alone for a
    /// while.
    pub(super) fn draw_partition(&mut self) -> Option<PartitionId> {
        let partitions = self.plan.knobs.partitions;
        let idle_ns = self.plan.knobs.idle_ns();
        let mut drawn = || PartitionId(self.streams.workload.between(1, partitions));
        if idle_ns == 0 {
            return Some(drawn());
        }
        let time = (self.now_ns / idle_ns).wrapping_mul(STEP);
        let is_busy = |partition: &PartitionId| {
            scramble(self.plan.seed ^ time ^ partition.0).is_multiple_of(BUSY_ONE_OF)
        };
        let tries = [(); 4].map(|()| drawn());
        tries.into_iter().find(is_busy)
    }

    /// The process of a node has died, and with it what slept there.
    pub(super) fn sleepers_crashed(&mut self, node: usize) {
        let led = self.safety.sleepers.crashed(node);
        self.books.borrow_mut().probes.add("leaders that died asleep", led);
    }
}

impl<S: Subject> SimNode<S> {
    /// Of the partitions whose replicas run here and have other members: those that do not sleep.
    fn awake(&self) -> impl Iterator<Item = PartitionId> + '_ {
        let units = self.process.iter().flat_map(|process| &process.units);
        let replicas = units.flat_map(|unit| unit.shard.replicas());
        let is_awake = |replica: &ReplicaStatus| {
            let is_stopped = matches!(replica.error, Some(ReplicaError::ReplicaStopped { .. }));
            replica.has_peers && !replica.is_asleep && !is_stopped
        };
        replicas.filter(is_awake).map(|replica| replica.partition)
    }
}

impl<S: Subject> World<S> {
    /// Replicas that do not sleep, though they belong to their groups.
    fn awake(&self) -> Vec<(PartitionId, usize)> {
        let awake = self.nodes.iter().flat_map(|node| node.awake().map(|partition| (partition, node.number)));
        awake.filter(|(partition, node)| !self.left_behind(*partition).contains(node)).collect()
    }

    /// Nobody asks anything: all groups fall asleep. Then one node breaks, and every partition must take a write at the others.
    pub(super) fn sleep_and_wake(&mut self) -> bool {
        if self.common.plan.knobs.sleep_ticks == 0 {
            return true;
        }
        if !self.pump(self.common.now_ns + FALLS_ASLEEP_NS, |world| world.awake().is_empty()) {
            return false;
        }
        let awake = self.awake();
        if !awake.is_empty() {
            self.common.broken("groups without anything to do sleep", format!("{awake:?} do not"));
            return false;
        }
        if self.common.plan.knobs.classes.is_empty() {
            return true;
        }
        let nodes = self.nodes.len();
        let mut rng = Rng::new(self.common.plan.seed, "who breaks while all sleep");
        let broken = usize::try_from(rng.below(nodes as u64)).expect("few nodes");
        let others: Vec<_> = (0..nodes).filter(|node| *node != broken).collect();
        self.break_one(broken, &mut rng);
        let for_ns = 10 * self.common.plan.knobs.election_ns() + 3 * REQUEST_TIMEOUT_MS * MS;
        self.ask_of(&others, "groups that slept take writes without one node", for_ns, |subject, unique| {
            (Kind::Write, subject.write(unique))
        }) && self.heal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_sleep_in_half_of_the_seeds_with_several_nodes() {
        let several: Vec<_> = (0..3000).map(Knobs::draw).filter(|knobs| knobs.nodes > 1).collect();
        let sleepy = several.iter().filter(|knobs| knobs.sleep_ticks > 0).count();
        assert!((several.len() * 4 / 10..several.len() * 6 / 10).contains(&sleepy), "{sleepy}");
        assert!((0..3000).map(Knobs::draw).all(|knobs| knobs.nodes > 1 || knobs.sleep_ticks == 0));
    }
}
