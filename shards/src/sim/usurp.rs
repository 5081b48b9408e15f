//! Attempts on leaders that have leases: chains of ordinary faults at the times at which they hurt, so that another one
//! leads too early if leases, or the promises that they rest on, are wrong.
//!
//! Invariant: what an attempt does is drawn from its plan; whether any replica has a lease makes no difference to it.

use std::collections::BTreeSet;

use crate::ids::{MemberId, PartitionId};
use crate::raft::requests::MemberRequest;
use crate::sim::net::Cut;
use crate::sim::node::SimNode;
use crate::sim::rng::Rng;
use crate::sim::swarm::{Class, Fault, Knobs, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Happening, World};
use crate::status::ReplicaStatus;
use crate::{Role, ShardOptions};

/// How somebody else comes to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usurper {
    /// The leader hands the lead on, and is cut off before it hears what came of that.
    Transfer,
    /// One follower does not hear the leader. The others have just answered it, restart, and are asked for their votes; which they
    /// could give, since nothing was written meanwhile.
    Restart,
    /// What the leader asks is answered, but the answers are late; nothing that it sends later arrives.
    LateAnswers,
}

impl Usurper {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Transfer, Self::Restart, Self::LateAnswers];
}

/// The part of an attempt that comes later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// All links of the leader are cut for so long.
    CutOff { for_ns: u64 },
    /// It says nothing more for so long.
    Mute { for_ns: u64 },
    /// One that has everything does not hear the leader any more, and after so long the others restart.
    Forget { partition: PartitionId, other: usize, after_ns: u64 },
    /// The leader is asked for something, again and again until then, so that it has a lease.
    Ask { partition: PartitionId, until_ns: u64 },
    /// All others but one restart, and the leader is cut off for so long.
    Restart { but: usize, for_ns: u64 },
}

impl Knobs {
    /// Whether leaders have leases, and whether anybody tries to take the lead from one; in seeds with several nodes.
    pub(super) fn draw_leases(&mut self, seed: u64) {
        let mut rng = Rng::new(seed, "leases");
        self.leases = u64::from(rng.chance(500));
        self.stale_ms = rng.pick(&[0, 0, 20, 500]);
        if self.leases > 0 && !self.classes.is_empty() && rng.chance(600) {
            self.classes.insert(Class::Usurp);
        }
    }

    /// An attempt.
    pub(super) fn draw_usurper(&self, rng: &mut Rng) -> Fault {
        let how = rng.pick(&Usurper::ALL);
        let timeout_ns = self.timeout_ns();
        let after_ns = match how {
            Usurper::Transfer => rng.between(1, 6 * self.link_ns),
            Usurper::Restart => rng.between(timeout_ns, 4 * timeout_ns),
            Usurper::LateAnswers => rng.between(timeout_ns / 3, timeout_ns),
        };
        Fault::Usurp { how, after_ns }
    }

    /// The shortest time after which a member asks for votes.
    fn timeout_ns(&self) -> u64 {
        ShardOptions::default().group.election_ticks as u64 * self.tick_ms * MS
    }
}

impl<S: Subject> SimNode<S> {
    fn replicas(&self) -> impl Iterator<Item = ReplicaStatus> {
        let units = self.process.iter().flat_map(|process| &process.units);
        units.flat_map(|unit| unit.shard.replicas())
    }
}

impl<S: Subject> World<S> {
    /// Partitions that a node leads, each with a node that follows it.
    fn led_by(&self, node: &SimNode<S>) -> Vec<(PartitionId, usize)> {
        let leader = Some(self.common.plan.knobs.storage(node.number));
        let leads = |replica: &ReplicaStatus| replica.role == Role::Leader;
        let led: BTreeSet<_> = node.replicas().filter(leads).map(|replica| replica.partition).collect();
        let follows = |replica: &ReplicaStatus| {
            let is_its = replica.leader_storage == leader && led.contains(&replica.partition);
            is_its && replica.role == Role::Follower
        };
        let followers = self.nodes.iter().flat_map(|other| {
            let followed = other.replicas().filter(follows);
            followed.map(|replica| (replica.partition, other.number)).collect::<Vec<_>>()
        });
        followers.collect()
    }

    /// An attempt begins on what a node leads, or, if it leads nothing, the next one that does.
    pub(super) fn usurp(&mut self, drawn: usize, how: Usurper, after_ns: u64) {
        let mut rng = Rng::new(self.common.plan.seed ^ self.common.now_ns, "usurpers");
        let in_turn = self.nodes.iter().cycle().skip(drawn).take(self.nodes.len());
        let leaders = in_turn.map(|node| (node.number, self.led_by(node)));
        let Some((node, led)) = leaders.into_iter().find(|(_, led)| !led.is_empty()) else { return };
        let (partition, other) = rng.pick(&led);
        let Self { nodes, common } = self;
        let timeout_ns = common.plan.knobs.timeout_ns();
        let Some(leader) = nodes.get_mut(node) else { return };
        common.probe("attempts on leaders");
        let mut after_ns = after_ns;
        let then = match how {
            Usurper::Transfer => {
                let to = MemberId(other as u64 + 1);
                leader.asked_about_members(common, partition, MemberRequest::Transfer(to));
                Then::CutOff { for_ns: 2 * timeout_ns }
            }
            Usurper::Restart => {
                // What is under way arrives before.
                let level_ns = 20 * common.plan.knobs.link_ns;
                common.clients.only_read(partition, common.now_ns + level_ns + after_ns + timeout_ns);
                let then = Then::Forget { partition, other, after_ns };
                after_ns = level_ns;
                then
            }
            Usurper::LateAnswers => {
                common.net.delay_to(node, common.now_ns + 4 * timeout_ns, after_ns);
                after_ns = rng.between(1, timeout_ns / 2);
                Then::Mute { for_ns: 4 * timeout_ns }
            }
        };
        common.agenda.put(common.now_ns + after_ns, Happening::Usurp { node, then });
    }

    /// An attempt goes on.
    pub(super) fn go_on_usurping(&mut self, node: usize, then: Then) {
        let Self { nodes, common } = self;
        if common.faults_over {
            return;
        }
        let others = |but: usize| (0..nodes.len()).filter(move |other| *other != node && *other != but);
        let timeout_ns = common.plan.knobs.timeout_ns();
        let (cuts, for_ns) = match then {
            Then::Forget { partition, other, after_ns } => {
                let until_ns = common.now_ns + after_ns;
                let then = Then::Restart { but: other, for_ns: 2 * timeout_ns };
                common.agenda.put(until_ns, Happening::Usurp { node, then });
                let then = Then::Ask { partition, until_ns };
                common.agenda.put(common.now_ns, Happening::Usurp { node, then });
                (vec![Cut::Between(node, other)], after_ns + 3 * timeout_ns)
            }
            Then::Ask { partition, until_ns } => {
                nodes.get_mut(node).into_iter().for_each(|node| node.asked_by_a_client(common, partition));
                let next_ns = common.now_ns + timeout_ns / 8;
                if next_ns < until_ns {
                    common.agenda.put(next_ns, Happening::Usurp { node, then });
                }
                return;
            }
            Then::CutOff { for_ns } => (vec![Cut::Around(node)], for_ns),
            Then::Mute { for_ns } => (others(node).map(|other| Cut::OneWay(node, other)).collect(), for_ns),
            Then::Restart { but, for_ns } => {
                for other in others(but).collect::<Vec<_>>() {
                    nodes.get_mut(other).into_iter().for_each(|other| other.crash(common));
                }
                (vec![Cut::Around(node)], for_ns)
            }
        };
        for cut in cuts {
            let number = common.net.cut(cut);
            common.agenda.put(common.now_ns + for_ns, Happening::CutEnds { number });
        }
    }
}
