//! Founders: each is heard as the incarnation that was first heard of it, and as no other.

use super::handshake::local;
use super::peers::options;
use super::world::World;
use crate::ids::NodeId;
use crate::net::{Dropped, Ending, Epoch, Founder, Local, Refusal, RefusalKind};

/// A founder of three, as it starts with what it has kept.
fn founder(world: Option<&World>, node: u64, epoch: Epoch) -> Local {
    let met = |other| world.and_then(|world| world.met.get(&(node, other)).copied());
    let known = |other| met(other).map_or(Founder::Unmet, Founder::Met);
    let founders = (1..=3).filter(|other| *other != node).map(|other| (NodeId(other), known(other)));
    Local { epoch, founders: founders.collect(), ..local(node) }
}

/// One of two.
fn pair(node: u64) -> Local {
    Local { founders: [(NodeId(3 - node), Founder::Unmet)].into(), ..local(node) }
}

const fn epoch(incarnation: u64, starts: u64) -> Epoch {
    Epoch { incarnation, starts, process: starts }
}

/// Sends until it comes through, or never does.
fn comes_through(world: &mut World, from: u64, to: u64) -> bool {
    for commit in 0..20 {
        world.send((from, 0), (to, 0), commit);
        world.run();
        if !world.delivered().is_empty() {
            return true;
        }
        world.pass_ms(6_000);
    }
    false
}

/// All that are not dead get to know each other, whatever comes of it.
fn acquaint(world: &mut World, nodes: &[u64]) {
    for _ in 0..6 {
        for from in nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                world.send((*from, 0), (*to, 0), 0);
                world.run();
            }
        }
        world.pass_ms(6_000);
    }
    world.events.clear();
}

#[test]
fn nobody_takes_part_before_all_founders_have_met() {
    let mut world = World::new([1, 2, 3].map(|node| founder(None, node, epoch(10 + node, 1))), options());
    world.dead.push(3);
    acquaint(&mut world, &[1, 2]);
    assert_eq!(world.met, [((1, 2), 12), ((2, 1), 11)].into(), "the two have met");
    assert!(!comes_through(&mut world, 1, 2) && !comes_through(&mut world, 2, 1));
    assert!(world.core((1, 0)).counters().dropped(Dropped::NotMet) > 0);
    world.dead.clear();
    acquaint(&mut world, &[1, 2, 3]);
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        assert!(comes_through(&mut world, from, to), "{from} to {to}");
        assert!(world.core((from, 0)).counters().frames_sent > 0);
    }
}

#[test]
fn a_core_knows_founders_by_connections_that_another_core_has_accepted() {
    let mut world = World::new([1, 2].map(pair), options());
    for _ in 0..6 {
        world.send((1, 1), (2, 1), 1);
        world.run();
        world.pass_ms(6_000);
    }
    assert!(!world.delivered().is_empty(), "core 1 of node 2 accepts nothing itself");
}

#[test]
fn a_founder_is_written_down_before_it_is_heard_and_is_heard_again_after_each_start() {
    let mut world = World::new([1, 2, 3].map(|node| founder(None, node, epoch(10 + node, 1))), options());
    world.send((1, 0), (2, 0), 1);
    world.run();
    assert!(world.delivered().is_empty(), "it was not written down yet");
    assert_eq!(world.met, [((1, 2), 12)].into(), "who answered has proved itself first");
    acquaint(&mut world, &[1, 2, 3]);
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        assert!(comes_through(&mut world, from, to), "{from} to {to}");
        assert_eq!((world.met[&(from, to)], world.met[&(to, from)]), (10 + to, 10 + from));
    }
    // No wait grows by it as by a refusal.
    world.endings();
    for node in 1..=3 {
        let again = founder(Some(&world), node, epoch(10 + node, 2));
        world.start(again, options());
    }
    world.pass_ms(6_000);
    world.send((2, 0), (1, 0), 7);
    world.run();
    assert_eq!(world.delivered(), [((1, 0), 2, 7)], "at once");
}

#[test]
fn a_founder_that_lost_its_data_is_refused_by_who_has_met_it_for_ever() {
    let mut world = World::new([1, 2, 3].map(|node| founder(None, node, epoch(10 + node, 1))), options());
    acquaint(&mut world, &[1, 2, 3]);
    assert!(comes_through(&mut world, 1, 2));
    // Node 1 is down. Node 2 loses its disk and is formatted anew; node 3 starts again in between.
    world.dead.push(1);
    let anew = founder(None, 2, epoch(99, 1));
    let lost: Vec<_> =
        world.met.iter().filter(|((node, _), _)| *node == 2).map(|(of, met)| (*of, *met)).collect();
    world.met.retain(|(node, _), _| *node != 2);
    world.start(anew, options());
    let again = founder(Some(&world), 3, epoch(13, 2));
    world.start(again, options());
    world.pass_ms(6_000);
    world.endings();
    assert!(!comes_through(&mut world, 2, 3) && !comes_through(&mut world, 3, 2), "no vote, no append");
    let refusal = Refusal::FormattedAnew { node: NodeId(2), found: 99, known: 12 };
    let endings = world.endings();
    assert!(endings.contains(&((3, 0), Ending::Refused(refusal.clone()))), "{endings:?}");
    let by_peer = Ending::Refused(Refusal::ByPeer(RefusalKind::FormattedAnew));
    assert!(endings.contains(&((2, 0), by_peer)), "{endings:?}");
    assert!(refusal.to_string().contains("cannot come back under this id"), "{refusal}");
    // With the folder that it had, it may come back.
    world.met.retain(|(node, _), _| *node != 2);
    world.met.extend(lost);
    let restored = founder(Some(&world), 2, epoch(12, 2));
    world.start(restored, options());
    world.pass_ms(6_000);
    assert!(comes_through(&mut world, 2, 3));
}

#[test]
fn who_has_not_proved_itself_is_not_written_down() {
    let mut one = founder(None, 1, epoch(11, 1));
    one.secret = Some(crate::net::Secret::new(vec![7; 16]).unwrap());
    let mut world = World::new([one, founder(None, 2, epoch(12, 1))], options());
    assert!(!comes_through(&mut world, 1, 2));
    assert!(world.met.is_empty());
}

#[test]
fn a_founder_that_has_left_is_not_waited_for_and_never_heard() {
    let mut joiner = local(4);
    joiner.founders = [(1, Founder::Unmet), (2, Founder::Unmet), (3, Founder::Left)]
        .map(|(node, founder)| (NodeId(node), founder))
        .into();
    let founders = [1, 2, 3].map(|node| founder(None, node, epoch(10 + node, 1)));
    let mut world = World::new(founders.into_iter().chain([joiner]), options());
    acquaint(&mut world, &[1, 2, 3]);
    assert!(!comes_through(&mut world, 4, 1), "node 2 is not met yet");
    assert!(comes_through(&mut world, 4, 2), "all that are left have met");
    assert!(comes_through(&mut world, 4, 1) && comes_through(&mut world, 1, 4));
    world.endings();
    assert!(!comes_through(&mut world, 4, 3) && !comes_through(&mut world, 3, 4), "no vote, no append");
    let endings = world.endings();
    assert!(endings.contains(&((4, 0), Ending::Refused(Refusal::Left { node: NodeId(3) }))), "{endings:?}");
    let by_peer = Ending::Refused(Refusal::ByPeer(RefusalKind::Left));
    assert!(endings.contains(&((3, 0), by_peer)), "{endings:?}");
    assert!(!world.met.contains_key(&(4, 3)), "and nothing is kept of it");
}
