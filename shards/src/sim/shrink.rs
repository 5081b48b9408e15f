//! Makes a failing plan small: drops fault classes, cuts the horizon, takes shards, partitions and clients away, then
//! takes faults out one group at a time (ddmin). Every candidate is judged by playing it.
//!
//! Invariant: the result breaks the same invariant as the plan that came in.

use crate::sim::plan::Plan;
use crate::sim::swarm::{Class, CutShape, Fault, Planned};

/// Shrinks `plan`; `fails` plays a plan and says whether the same invariant breaks. Plays at most `max_plays` plans.
pub fn shrink(plan: &Plan, max_plays: usize, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let mut left = max_plays;
    let mut judge = |candidate: &Plan| {
        left > 0 && {
            left -= 1;
            fails(candidate)
        }
    };
    let mut best = plan.clone();
    loop {
        let before = best.clone();
        drop_classes(&mut best, &mut judge);
        for name in [
            "nodes",
            "horizon_ns",
            "requests",
            "shards",
            "partitions",
            "connections",
            "pipeline",
            "keys",
            "value_bytes",
        ] {
            lower(&mut best, name, &mut judge);
        }
        drop_faults(&mut best, &mut judge);
        if best == before {
            return best;
        }
    }
}

const fn class_of(fault: Fault) -> Class {
    match fault {
        Fault::Crash { nested: 0 } => Class::Crash,
        Fault::Crash { .. } => Class::NestedCrash,
        Fault::WriteError { .. } => Class::WriteError,
        Fault::FullDisk { .. } => Class::FullDisk,
        Fault::Stall { .. } => Class::Stall,
        Fault::FlipUnacked { .. } => Class::FlipUnacked,
        Fault::FlipAnywhere { .. } => Class::FlipAnywhere,
        Fault::ClockJump { .. } => Class::ClockJump,
        Fault::Cut { .. } => Class::Cut,
        Fault::Pause { .. } => Class::Pause,
        Fault::SlowDisk { .. } => Class::SlowDisk,
        Fault::Members { .. } => Class::Members,
        Fault::Usurp { .. } => Class::Usurp,
        Fault::CleanStop => Class::CleanStop,
        Fault::Replication { .. } => Class::Replication,
        Fault::StateDamage { .. } => Class::StateDamage,
        Fault::Reopen { .. } => Class::Reopen,
    }
}

fn drop_classes(best: &mut Plan, judge: &mut impl FnMut(&Plan) -> bool) {
    for class in best.knobs.classes.clone() {
        let mut candidate = best.clone();
        candidate.knobs.classes.remove(&class);
        candidate.faults.retain(|planned| class_of(planned.fault) != class);
        if judge(&candidate) {
            *best = candidate;
        }
    }
}

/// Finds a small value of a number by halving the distance to 1.
fn lower(best: &mut Plan, name: &str, judge: &mut impl FnMut(&Plan) -> bool) {
    let value =
        best.knobs.numbers().into_iter().find(|(known, _)| *known == name).map_or(1, |(_, value)| value);
    let (mut low, mut high) = (1, value);
    while low < high {
        let middle = low + (high - low) / 2;
        let mut candidate = best.clone();
        if candidate.knobs.set(name, middle).is_ok() && fits(&candidate) && judge(&candidate) {
            *best = candidate;
            high = middle;
        } else {
            low = middle + 1;
        }
        // Ten halvings are enough; the last percent is not worth its plays.
        if high - low <= value / 1024 {
            break;
        }
    }
}

/// Every shard has a partition, every fault a node and a shard.
fn fits(plan: &Plan) -> bool {
    let shards = plan.knobs.shards;
    u64::from(shards) <= plan.knobs.partitions
        && plan.faults.iter().all(|planned| planned.node < plan.knobs.nodes)
        && plan.faults.iter().all(|planned| match planned.fault {
            Fault::WriteError { shard }
            | Fault::StateDamage { shard }
            | Fault::Stall { shard, .. }
            | Fault::SlowDisk { shard, .. }
            | Fault::Reopen { shard, .. }
            | Fault::FlipAnywhere { shard } => shard < shards,
            Fault::Cut { shape: CutShape::Between(peer) | CutShape::Towards(peer), .. } => {
                peer < plan.knobs.nodes
            }
            _ => true,
        })
}

/// ddmin: takes ever smaller groups of faults out for as long as the plan fails without them.
fn drop_faults(best: &mut Plan, judge: &mut impl FnMut(&Plan) -> bool) {
    let mut group = best.faults.len().div_ceil(2);
    while group > 0 {
        let mut at = 0;
        while at < best.faults.len() {
            let keep =
                |(index, planned): (usize, &Planned)| (index < at || index >= at + group).then_some(*planned);
            let faults = best.faults.iter().enumerate().filter_map(keep).collect();
            let candidate = Plan { faults, ..best.clone() };
            if judge(&candidate) {
                *best = candidate;
            } else {
                at += group;
            }
        }
        group /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::swarm::Knobs;

    #[test]
    fn keeps_what_the_failure_needs_and_nothing_else() {
        let mut knobs = Knobs::draw(3);
        knobs.classes = [Class::Crash, Class::Stall, Class::ClockJump].into();
        (knobs.requests, knobs.nodes) = (1000, 5);
        let mut faults = knobs.schedule(3);
        let needed = Planned { at_ns: 77, node: 1, fault: Fault::Crash { nested: 0 } };
        faults.insert(0, needed);
        let plan = Plan { seed: 3, knobs, faults, planted: None };
        let mut plays = 0;
        let small = shrink(&plan, 1000, |candidate| {
            plays += 1;
            candidate.faults.contains(&needed) && candidate.knobs.requests >= 100
        });
        assert_eq!(small.faults, vec![needed]);
        assert_eq!(small.knobs.classes, [Class::Crash].into());
        assert_eq!(small.knobs.nodes, 2, "the fault strikes the second one");
        assert_eq!((small.knobs.requests, small.knobs.partitions, small.knobs.connections), (100, 1, 1));
        assert!(plays < 300, "{plays}");
    }
}
