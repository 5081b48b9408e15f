//! Attempts on leaders that have leases: chains of ordinary faults at the times at which they hurt, so that another one
//! leads too early if leases, or the promises that they rest on, are wrong.
//!
//! Invariant: what an attempt does is drawn from its plan; whether any replica has a lease makes no difference to it.

use crate::ids::{MemberId, PartitionId};
use crate::raft::requests::MemberRequest;
use crate::sim::net::Cut;
use crate::sim::node::SimNode;
use crate::sim::rng::Rng;
use crate::sim::swarm::{Class, Fault, Knobs, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Happening, World};
use crate::{Role, ShardOptions};

/// How somebody else comes to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usurper {
    /// The leader hands the lead on, and is cut off before it hears what came of that.
    Transfer,
    /// One follower does not hear the leader. The others have just answered it, restart, and are asked for their votes.
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
    /// A partition that its replicas lead.
    fn led(&self, rng: &mut Rng) -> Option<PartitionId> {
        let units = self.process.iter().flat_map(|process| &process.units);
        let replicas = units.flat_map(|unit| unit.shard.replicas());
        let led: Vec<_> = replicas
            .filter(|replica| replica.role == Role::Leader)
            .map(|replica| replica.partition)
            .collect();
        (!led.is_empty()).then(|| rng.pick(&led))
    }
}

impl<S: Subject> World<S> {
    /// An attempt on what a node leads begins.
    pub(super) fn usurp(&mut self, node: usize, how: Usurper, after_ns: u64) {
        let Self { nodes, common } = self;
        let mut rng = Rng::new(common.plan.seed ^ common.now_ns, "usurpers");
        let timeout_ns = common.plan.knobs.timeout_ns();
        let Some(leader) = nodes.get_mut(node) else { return };
        let Some(partition) = leader.led(&mut rng) else { return };
        let others = (0..common.plan.knobs.node_count()).filter(|other| *other != node).collect::<Vec<_>>();
        let other = rng.pick(&others);
        common.probe("attempts on leaders");
        let mut after_ns = after_ns;
        let then = match how {
            Usurper::Transfer => {
                let to = MemberId(other as u64 + 1);
                leader.asked_about_members(common, partition, MemberRequest::Transfer(to));
                Then::CutOff { for_ns: 2 * timeout_ns }
            }
            Usurper::Restart => {
                let number = common.net.cut(Cut::Between(node, other));
                common.agenda.put(common.now_ns + after_ns + 3 * timeout_ns, Happening::CutEnds { number });
                Then::Restart { but: other, for_ns: 2 * timeout_ns }
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
        let (cuts, for_ns) = match then {
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
