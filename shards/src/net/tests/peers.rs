//! Connections of a core: how they come up, what they carry, what is dropped, and how they end.

use super::handshake::local;
use super::world::{MS, World, shard_of};
use super::*;
use crate::ids::{NodeId, PartitionId};
use crate::net::message::ENTRIES_MAX;
use crate::net::{CoreId, Dropped, Ending, Epoch, LinkKey, LinkState, PeerOptions, Refusal, RefusalKind};

pub(super) fn options() -> PeerOptions {
    PeerOptions { queue_messages: 8, queue_bytes: 4_000, frame_bytes: 2_000, ..PeerOptions::default() }
}

fn two() -> World {
    World::new([local(1), local(2)], options())
}

fn key(node: u64, core: u16) -> LinkKey {
    LinkKey { node: NodeId(node), core: CoreId(core), lane: Lane::Log, is_theirs: false }
}

/// Two nodes whose cores 0 are connected.
pub(super) fn connected() -> World {
    let mut world = two();
    world.send((1, 0), (2, 0), 1);
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 1)]);
    world
}

#[test]
fn a_message_finds_its_core_and_answers_come_back_on_the_same_connection() {
    let mut world = connected();
    for commit in 2..5 {
        world.send((1, 0), (2, 0), commit);
        world.send((2, 0), (1, 0), commit);
    }
    world.run();
    assert_eq!(world.delivered().len(), 6);
    let one = world.core((1, 0)).counters().clone();
    assert_eq!(
        (one.dials, one.handshakes, one.frames_sent, one.messages_sent),
        (1, 1, 2, 4),
        "one frame a turn"
    );
    assert_eq!((one.frames_received, one.messages_received), (1, 3));
    let two = world.core((2, 0)).counters().clone();
    assert_eq!((two.dials, two.accepted, two.bytes_sent), (0, 1, one.bytes_received));
    assert!(world.unreachable().is_empty() && world.endings().is_empty());
}

#[test]
fn each_core_has_a_connection_of_its_own() {
    let mut world = two();
    world.send((1, 0), (2, 1), 1);
    world.send((1, 0), (2, 0), 2);
    world.run();
    // Where shards are is heard on the first connection; from then on nothing goes by way of another core.
    assert_eq!(world.delivered(), [((2, 0), 1, 2), ((2, 1), 1, 1)]);
    assert_eq!(world.core((1, 0)).counters().dials, 2);
    assert!(matches!(world.core((1, 0)).link(key(2, 1)), LinkState::Up(_)));
    assert!(matches!(world.core((2, 1)).link(key(1, 0)), LinkState::Up(_)), "it was handed over");
    assert_eq!(world.core((1, 0)).link(key(2, u16::MAX)), LinkState::Idle);
    world.send((2, 1), (1, 0), 3);
    world.run();
    assert_eq!((world.delivered(), world.core((2, 1)).counters().dials), (vec![((1, 0), 2, 3)], 0));
}

#[test]
fn lanes_do_not_share_a_connection() {
    let mut world = connected();
    let now_ns = world.now_ns;
    let message = Message { commit: 7, ..of(Kind::Heartbeat, (1, 2), 3) };
    world.core((1, 0)).queue(shard_of((2, 0)), Lane::Liveness, PartitionId(1), message, now_ns).unwrap();
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 7)]);
    assert_eq!(world.core((1, 0)).counters().dials, 2);
}

#[test]
fn of_two_connections_made_at_once_that_of_the_higher_node_stays() {
    let mut world = two();
    world.send((1, 0), (2, 0), 1);
    world.send((2, 0), (1, 0), 2);
    world.run();
    let dials = [1, 2].map(|node| world.core((node, 0)).counters().dials);
    assert_eq!(dials, [1, 1]);
    let replaced = world.endings();
    assert!(!replaced.is_empty() && replaced.iter().all(|(_, why)| *why == Ending::Replaced), "{replaced:?}");
    world.send((1, 0), (2, 0), 3);
    world.send((2, 0), (1, 0), 4);
    world.run();
    assert_eq!(world.delivered(), [((1, 0), 2, 4), ((2, 0), 1, 3)]);
    assert!(world.endings().is_empty());
    let dialled_by_two = world.core((2, 0)).counters().clone();
    assert_eq!((dialled_by_two.dials, world.wires.len()), (1, 2), "one connection, with two ends");
}

#[test]
fn who_lost_a_connection_that_the_other_side_still_has_gets_another_one() {
    for (node, other) in [(1, 2), (2, 1)] {
        let mut world = connected();
        world.pass_ms(10_000);
        let end = *world.wires.keys().find(|(at, _)| at.0 == node).unwrap();
        // The other side hears nothing of it.
        let far = world.wires.remove(&end).unwrap().unwrap();
        world.wires.remove(&far);
        let now_ns = world.now_ns;
        world.core(end.0).closed(end.1, now_ns);
        world.pass_ms(1_000);
        world.send((node, 0), (other, 0), 5);
        world.run();
        assert_eq!(world.delivered(), [((other, 0), node, 5)]);
        assert_eq!(world.endings(), [((other, 0), Ending::Replaced)]);
    }
}

#[test]
fn what_there_is_no_room_for_is_reported() {
    let mut world = two();
    for commit in 0..10 {
        world.send((1, 0), (2, 0), commit);
    }
    world.act();
    assert_eq!(world.unreachable(), [((1, 0), 102); 2], "eight may wait");
    assert_eq!(world.core((1, 0)).counters().dropped(Dropped::QueueFull), 2);
    world.run();
    assert_eq!(world.delivered().len(), 8);

    world.takes = false;
    let long =
        |commit| Message { commit, context: Bytes::from(vec![1; 250]), ..of(Kind::Heartbeat, (1, 2), 3) };
    let narrow = PeerOptions { queue_bytes: 600, ..options() };
    let mut world = World::new([local(1), local(2)], narrow);
    for commit in 0..4 {
        world.send_message((1, 0), (2, 0), long(commit));
    }
    world.act();
    assert_eq!(world.unreachable().len(), 2, "600 bytes may wait");
    let tight = PeerOptions { queue_bytes: 100, ..options() };
    let mut world = World::new([local(1), local(2)], tight);
    world.send_message((1, 0), (2, 0), long(1));
    world.run();
    assert_eq!(world.delivered().len(), 1, "one message always may");
}

#[test]
fn a_frame_waits_until_the_one_before_is_taken() {
    let mut world = connected();
    world.takes = false;
    for commit in 2..5 {
        world.send((1, 0), (2, 0), commit);
        world.run();
    }
    assert_eq!(world.delivered(), [((2, 0), 1, 2)]);
    let conn = world.wires.keys().find(|(at, _)| *at == (1, 0)).unwrap().1;
    world.core((1, 0)).written(conn);
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 3), ((2, 0), 1, 4)]);
    assert_eq!(world.core((1, 0)).counters().frames_sent, 3, "what waited is one frame");
}

#[test]
fn frames_are_cut_by_bytes() {
    let mut world = connected();
    let long =
        |commit| Message { commit, context: Bytes::from(vec![1; 255]), ..of(Kind::Heartbeat, (1, 2), 3) };
    (0..8).for_each(|commit| world.send_message((1, 0), (2, 0), long(commit)));
    world.run();
    assert_eq!(
        world.delivered().iter().map(|(_, _, commit)| *commit).collect::<Vec<_>>(),
        (0..8).collect::<Vec<_>>()
    );
    assert_eq!(world.core((1, 0)).counters().frames_sent, 3, "six of them have less than 2,000 bytes");
}

#[test]
fn waits_grow_up_to_a_bound_and_start_anew_after_a_steady_connection() {
    let mut world = two();
    world.dead = vec![2];
    let mut waits = Vec::new();
    for _ in 0..12 {
        world.send((1, 0), (2, 0), 1);
        world.run();
        let LinkState::BackingOff { until_ns, .. } = world.core((1, 0)).link(key(2, u16::MAX)) else {
            panic!("it failed")
        };
        assert_eq!(world.core((1, 0)).next_tick_ns(), Some(until_ns));
        waits.push((until_ns - world.now_ns) / 1_000);
        // Nothing is kept meanwhile, and the group is told each time.
        world.send((1, 0), (2, 0), 2);
        world.act();
        assert_eq!(world.unreachable(), [((1, 0), 102); 2]);
        world.now_ns = until_ns;
        world.pass_ms(0);
        assert_eq!(world.core((1, 0)).link(key(2, u16::MAX)), LinkState::Idle);
    }
    for (at, wait_us) in waits.iter().enumerate() {
        let most_us = (50_000_u64 << at).min(5_000_000);
        assert!((most_us / 2..=most_us).contains(wait_us), "wait {at} of {wait_us} us");
    }
    let fractions: std::collections::BTreeSet<_> = waits[7..].iter().collect();
    assert!(fractions.len() > 3, "they are drawn: {waits:?}");
    let counters = world.core((1, 0)).counters().clone();
    assert_eq!((counters.dropped(Dropped::BackingOff), counters.dropped(Dropped::ConnectionLost)), (12, 12));

    world.dead.clear();
    let wait_after = |world: &mut World, steady_ms| {
        world.send((1, 0), (2, 0), 3);
        world.run();
        assert_eq!(world.delivered().len(), 1);
        world.pass_ms(steady_ms);
        let end = *world.wires.keys().find(|(at, _)| *at == (1, 0)).unwrap();
        world.cut(end);
        let LinkState::BackingOff { until_ns, .. } = world.core((1, 0)).link(key(2, 0)) else {
            panic!("it failed")
        };
        let wait_ms = (until_ns - world.now_ns) / MS;
        world.pass_ms(6_000);
        wait_ms
    };
    let first = wait_after(&mut world, 10);
    let second = wait_after(&mut world, 10);
    assert!((25..=50).contains(&first) && (50..=100).contains(&second), "{first} ms, {second} ms");
    assert!((25..=50).contains(&wait_after(&mut world, 5_000)), "it was steady");
}

#[test]
fn what_was_under_way_or_waited_is_reported_when_the_connection_is_lost() {
    let mut world = connected();
    world.takes = false;
    world.send((1, 0), (2, 0), 2);
    world.act();
    let now_ns = world.now_ns;
    world.core((1, 0)).flush(now_ns);
    world.act();
    world.send((1, 0), (2, 0), 3);
    world.act();
    let end = *world.wires.keys().find(|(at, _)| *at == (1, 0)).unwrap();
    world.cut(end);
    world.act();
    assert_eq!(world.unreachable(), [((1, 0), 102); 2]);
    world.cores.values().for_each(crate::net::Peers::check);
    let counters = world.core((1, 0)).counters();
    assert_eq!((counters.lost, counters.dropped(Dropped::ConnectionLost)), (1, 2));
}

#[test]
fn a_frame_that_was_changed_ends_the_connection_and_nothing_of_it_arrives() {
    for (at, kind) in [(0, "magic"), (9, "checksum"), (60, "checksum")] {
        let mut world = connected();
        world.send((1, 0), (2, 0), 2);
        let now_ns = world.now_ns;
        world.core((1, 0)).flush(now_ns);
        world.act();
        let end = *world.flying.keys().next().unwrap();
        let mut bytes = world.flying[&end][0].to_vec();
        bytes[at] ^= 4;
        world.flying.get_mut(&end).unwrap()[0] = bytes.into();
        world.run();
        assert!(world.delivered().is_empty());
        assert!(matches!(world.endings()[..], [((2, 0), Ending::Frame(_))]));
        let counted: Vec<_> =
            world.core((2, 0)).counters().bad_frames().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(kind, 1)]);
        // The group goes on once there is another connection.
        world.pass_ms(1_000);
        world.send((1, 0), (2, 0), 3);
        world.run();
        assert_eq!(world.delivered(), [((2, 0), 1, 3)]);
    }
}

pub(super) fn restarted(node: u64, starts: u64) -> crate::net::Local {
    let mut local = local(node);
    local.epoch = Epoch { incarnation: 1, starts, process: starts };
    local
}

#[test]
fn a_newer_process_replaces_the_older_and_the_older_is_refused() {
    let mut world = connected();
    let newest = Epoch { incarnation: 1, starts: 6, process: 6 };
    // The old process still runs, cut off from nobody; the new one comes from elsewhere.
    let mut elsewhere = World::new([restarted(1, 6)], options());
    let now_ns = world.now_ns;
    let (nonce, hello) = (world.nonce(), shard_of((2, 0)));
    let conn = world.core((2, 0)).accepted(nonce, now_ns).unwrap();
    let new = elsewhere.core((1, 0));
    new.queue(hello, Lane::Log, PartitionId(1), of(Kind::Heartbeat, (1, 2), 3), now_ns).unwrap();
    let Some(crate::net::Output::Dial { conn: dialled, .. }) = new.next_output() else { panic!("it dials") };
    new.connected(dialled, [77; 32], now_ns);
    for _ in 0..3 {
        while let Some(output) = elsewhere.core((1, 0)).next_output() {
            if let crate::net::Output::Write { bytes, .. } = output {
                world.core((2, 0)).received(conn, bytes, now_ns);
            }
        }
        while let Some(output) = world.core((2, 0)).next_output() {
            match output {
                crate::net::Output::Write { conn: to, bytes } if to == conn => {
                    elsewhere.core((1, 0)).received(dialled, bytes, now_ns);
                }
                crate::net::Output::Close { why, .. } => assert_eq!(why, Ending::Superseded { newest }),
                crate::net::Output::Seen { node, epoch } => assert_eq!((node, epoch), (NodeId(1), newest)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(world.core((2, 0)).counters().handshakes, 2);
    world.core((2, 0)).check();

    // The old one tries again.
    let old = *world.wires.keys().find(|(at, _)| at.0 == 1).unwrap();
    world.cut(old);
    world.pass_ms(1_000);
    world.send((1, 0), (2, 0), 9);
    world.run();
    assert!(world.delivered().is_empty());
    let refusals = world.endings();
    let known = newest;
    let found = local(1).epoch;
    let refusal = Refusal::OldIncarnation { node: NodeId(1), found, known };
    assert!(refusals.contains(&((2, 0), Ending::Refused(refusal))), "{refusals:?}");
    let by_peer = Refusal::ByPeer(RefusalKind::OldIncarnation);
    assert!(refusals.contains(&((1, 0), Ending::Refused(by_peer))), "{refusals:?}");
    let LinkState::BackingOff { until_ns, .. } = world.core((1, 0)).link(key(2, 0)) else {
        panic!("it was refused")
    };
    assert!(until_ns - world.now_ns >= 2_500 * MS, "who is refused waits long at once");
    assert_eq!(world.core((1, 0)).counters().refused(RefusalKind::ByPeer), 1);
    assert_eq!(world.core((2, 0)).counters().refused(RefusalKind::OldIncarnation), 1);
}

#[test]
fn a_core_that_hears_of_a_newer_process_from_another_core_ends_the_old_connections() {
    // What waited is for the new process, unless that has another folder: then it is for nobody.
    for (incarnation, starts, dials) in [(1, 9, 1), (2, 1, 0)] {
        let mut world = connected();
        let (now_ns, newest) = (world.now_ns, Epoch { incarnation, starts, process: 4 });
        world.send((1, 0), (2, 0), 5);
        world.core((1, 0)).seen(NodeId(2), newest, now_ns);
        world.act();
        assert_eq!(world.endings(), [((1, 0), Ending::Superseded { newest })]);
        assert_eq!(world.dials.len(), dials, "start {starts} of folder {incarnation}");
        world.core((1, 0)).seen(NodeId(2), Epoch { incarnation: 1, starts: 8, process: 4 }, now_ns);
        world.act();
        assert!(world.endings().is_empty());
    }
}

#[test]
fn a_node_that_comes_back_with_fewer_cores_is_found() {
    let mut world = two();
    world.send((1, 0), (2, 1), 1);
    world.run();
    assert_eq!(world.delivered(), [((2, 1), 1, 1)]);
    let mut fewer = restarted(2, 6);
    fewer.cores = 1;
    fewer.shards.iter_mut().for_each(|at| at.core = CoreId(0));
    world.start(fewer, options());
    world.pass_ms(1_000);
    world.send((1, 0), (2, 1), 2);
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 2)]);
    let (dials, _) = (world.core((1, 0)).counters().dials, world.endings());
    world.send((1, 0), (2, 0), 3);
    world.run();
    assert_eq!((world.delivered(), world.core((1, 0)).counters().dials), (vec![((2, 0), 1, 3)], dials));
}

#[test]
fn a_shard_that_the_node_does_not_have_is_reported() {
    let mut world = connected();
    world.send((1, 0), (2, 7), 2);
    world.act();
    assert_eq!(world.unreachable(), [((1, 0), 102)]);
    assert_eq!(world.core((1, 0)).counters().dropped(Dropped::NoShard), 1);
}

#[test]
fn what_takes_too_long_is_ended() {
    let mut world = two();
    world.send((1, 0), (2, 0), 1);
    world.act();
    let at_ns = world.core((1, 0)).next_tick_ns();
    assert_eq!(at_ns, Some(world.now_ns + 2_000 * MS));
    world.pass_ms(1_999);
    assert!(world.endings().is_empty());
    world.pass_ms(1);
    assert_eq!(world.endings(), [((1, 0), Ending::NotMade { after_ms: 2_000 })]);

    let mut world = two();
    world.send((1, 0), (2, 0), 1);
    world.act();
    world.answer_dial();
    world.act();
    world.pass_ms(2_000);
    let timed_out = || Ending::Refused(Refusal::TimedOut { after_ms: 2_000 });
    assert_eq!(world.endings(), [((1, 0), timed_out()), ((2, 0), timed_out())]);
    assert_eq!(world.core((2, 0)).counters().refused(RefusalKind::TimedOut), 1);
    assert_eq!(world.core((2, 0)).next_tick_ns(), None);

    let mut world = connected();
    world.takes = false;
    world.send((1, 0), (2, 0), 2);
    world.run();
    world.pass_ms(2_000);
    assert_eq!(world.endings(), [((1, 0), Ending::Stalled { after_ms: 2_000 })]);
}

#[test]
fn there_are_only_so_many_connections() {
    let mut world = World::new([local(1), local(2)], PeerOptions { connections: 2, ..options() });
    let now_ns = world.now_ns;
    assert!(world.core((2, 0)).accepted([1; 32], now_ns).is_some());
    assert!(world.core((2, 0)).accepted([2; 32], now_ns).is_some());
    assert!(world.core((2, 0)).accepted([3; 32], now_ns).is_none());
    assert_eq!(world.core((2, 0)).counters().not_accepted, 1);
    world.pass_ms(2_000);
    let now_ns = world.now_ns;
    assert!(world.core((2, 0)).accepted([4; 32], now_ns).is_some(), "strangers are let go");
}

#[test]
fn long_appends_are_cut_and_arrive_as_one_log() {
    let mut world = World::new([local(1), local(2)], PeerOptions { queue_bytes: 1 << 20, ..options() });
    let mut message = Message { log_term: 2, index: 7, commit: 6, ..of(Kind::Append, (1, 2), 5) };
    let steps = (0..40).map(|at| (u64::from(at == 20), 0, Bytes::from(vec![at; 300]))).collect();
    message.set_entries(entries(7, 2, steps).into());
    let whole = message.entries.clone();
    // A single entry may be longer than a frame is to be, but not than any may.
    let mut single = message.clone();
    single.set_entries(entries(7, 2, vec![(0, 0, Bytes::from(vec![1; 5_000]))]).into());
    world.send_message((1, 0), (2, 0), message);
    world.run();
    world.send_message((1, 0), (2, 0), single);
    world.run();
    let (mut found, mut before, mut parts) = (Vec::new(), (7, 2), 0);
    for event in &world.events {
        let super::world::Event::Deliver { message, .. } = event else { panic!("{event:?}") };
        if message.entries[0].data.len() > 1_000 {
            continue;
        }
        parts += 1;
        assert_eq!(
            (message.index, message.log_term, message.commit, message.term),
            (before.0, before.1, 6, 5)
        );
        let last = message.entries.last().unwrap();
        before = (last.index, last.term);
        found.extend(message.entries.iter().cloned());
    }
    assert!(found.len() == 40 && found == whole.to_vec());
    assert!((7..10).contains(&parts) && world.events.len() == parts + 1, "{parts} parts");

    let now_ns = world.now_ns;
    let mut long = Message { log_term: 2, index: 7, ..of(Kind::Append, (1, 2), 5) };
    long.set_entries(entries(7, 2, vec![(0, 0, Bytes::from(vec![1; 8 << 20]))]).into());
    world.core((1, 0)).queue(shard_of((2, 0)), Lane::Log, PartitionId(1), long, now_ns).unwrap();
    world.act();
    assert_eq!(world.core((1, 0)).counters().dropped(Dropped::TooLong), 1);
    assert_eq!(world.unreachable(), [((1, 0), 102)]);

    let mut many = Message { log_term: 2, index: 7, ..of(Kind::Append, (1, 2), 5) };
    many.set_entries(entries(7, 2, vec![(0, 0, Bytes::new()); 2 * ENTRIES_MAX + 1]).into());
    let part = crate::net::split::cut(&mut many, usize::MAX).unwrap();
    assert_eq!((part.entries.len(), many.index), (ENTRIES_MAX, 7 + ENTRIES_MAX as u64));
}

#[test]
fn what_no_peer_takes_is_refused_to_its_sender() {
    let mut world = two();
    let now_ns = world.now_ns;
    for kind in UNSENT {
        let message = Message { msg_type: kind, from: 1, to: 2, term: 1, ..Message::default() };
        let queued = world.core((1, 0)).queue(shard_of((2, 0)), Lane::Log, PartitionId(1), message, now_ns);
        assert!(queued.is_err(), "{kind:?}");
    }
    assert_eq!(world.core((1, 0)).counters().dropped(Dropped::Unsendable), UNSENT.len() as u64);
    world.act();
    assert!(world.dials.is_empty());
}

#[test]
fn a_peer_that_is_refused_is_counted_by_the_reason_on_both_sides() {
    let mut other = local(2);
    other.limits.value_bytes += 1;
    let mut world = World::new([local(1), other], options());
    world.send((1, 0), (2, 0), 1);
    world.run();
    assert_eq!(world.unreachable(), [((1, 0), 102)]);
    let counted = [1, 2].map(|node| world.core((node, 0)).counters().refused(RefusalKind::Limits));
    assert_eq!(counted, [1, 1]);
    assert!(world.delivered().is_empty());
}
