//! How long connections may take, and how many may wait to prove themselves.

use super::handshake::local;
use super::of;
use super::peers::{options, restarted};
use super::world::{MS, World, shard_of};
use crate::ids::{NodeId, PartitionId};
use crate::net::frame::Lane;
use crate::net::hello::Greeting;
use crate::net::kind::Kind;
use crate::net::{Ending, PeerOptions, Refusal, RefusalKind};

#[test]
fn a_long_frame_may_take_as_long_as_it_goes_on() {
    let limits = PeerOptions { queue_bytes: 64 << 20, frame_bytes: 8 << 20, ..options() };
    let mut world = World::new([local(1), local(2)], limits);
    world.send((1, 0), (2, 0), 1);
    world.run();
    world.takes = false;
    world.send((1, 0), (2, 0), 2);
    world.run();
    let conn = world.wires.keys().find(|(at, _)| *at == (1, 0)).unwrap().1;
    // 32 MiB, of which 1 MiB is taken every 100 ms.
    for _ in 0..32 {
        world.pass_ms(100);
        assert!(world.endings().is_empty());
        let now_ns = world.now_ns;
        world.core((1, 0)).progressed(conn, now_ns);
        assert_eq!(world.core((1, 0)).next_tick_ns(), Some(now_ns + 2_000 * MS));
    }
    world.pass_ms(1_999);
    assert!(world.endings().is_empty());
    world.pass_ms(1);
    assert_eq!(world.endings(), [((1, 0), Ending::Stalled { after_ms: 2_000 })], "it has come to a halt");
}

#[test]
fn what_the_network_did_to_a_handshake_is_no_reason_to_wait_long() {
    for (kind, waits_long) in
        [(RefusalKind::TimedOut, false), (RefusalKind::Damage, false), (RefusalKind::Cluster, true)]
    {
        let mut world = World::new([local(1), local(2)], options());
        world.send((1, 0), (2, 0), 1);
        world.act();
        world.answer_dial();
        world.act();
        let (now_ns, conn) = (world.now_ns, world.wires.keys().find(|(at, _)| *at == (1, 0)).unwrap().1);
        world.core((1, 0)).received(conn, Greeting::Refused(kind).encode().into(), now_ns);
        world.act();
        assert_eq!(world.endings(), [((1, 0), Ending::Refused(Refusal::ByPeer(kind)))]);
        world.run();
        world.pass_ms(50);
        world.send((1, 0), (2, 0), 2);
        world.run();
        assert_eq!(world.delivered().is_empty(), waits_long, "{kind:?}");
    }
}

#[test]
fn strangers_keep_no_peer_out() {
    let mut world = World::new([local(1), local(2)], PeerOptions { connections: 100, ..options() });
    let now_ns = world.now_ns;
    for _ in 0..2_000 {
        let nonce = world.nonce();
        assert!(world.core((2, 0)).accepted(nonce, now_ns).is_some());
    }
    world.send((1, 0), (2, 0), 1);
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 1)]);
    let endings = world.endings();
    assert_eq!(endings.len(), 2_000 + 1 - 64);
    assert!(endings.iter().all(|ending| *ending == ((2, 0), Ending::Crowded)));
}

/// Two nodes, of which the first has lost the second for so long that it waits for seconds before it tries again.
fn given_up() -> World {
    let mut world = World::new([local(1), local(2)], options());
    // It has met the process that it is to find again.
    world.send((1, 0), (2, 0), 1);
    world.run();
    assert_eq!(world.delivered().len(), 1);
    let ends: Vec<_> = world.wires.keys().copied().filter(|(at, _)| *at == (1, 0)).collect();
    ends.into_iter().for_each(|end| world.cut(end));
    world.dead = vec![2];
    for _ in 0..400 {
        world.send((1, 0), (2, 0), 1);
        world.run();
        world.pass_ms(100);
    }
    world.dead.clear();
    // The last failure was less than the shortest wait ago, or a longer one has begun.
    world.pass_ms(60);
    world.send((1, 0), (2, 0), 2);
    world.run();
    assert!(world.delivered().is_empty(), "it waits");
    world
}

#[test]
fn an_election_does_not_wait_for_a_peer_that_was_lost_to_be_tried_again() {
    for kind in [Kind::PreVoteRequest, Kind::VoteRequest] {
        let mut world = given_up();
        world.send_message((1, 0), (2, 0), of(kind, (1, 2), 3));
        world.run();
        assert_eq!(world.delivered().len(), 1, "{kind:?}");
    }
    // It is not tried without a pause.
    let mut world = given_up();
    world.dead = vec![2];
    let dials = world.core((1, 0)).counters().dials;
    for _ in 0..100 {
        world.send_message((1, 0), (2, 0), of(Kind::PreVoteRequest, (1, 2), 3));
        world.run();
        world.pass_ms(5);
    }
    let tried = world.core((1, 0)).counters().dials - dials;
    assert!((9..=10).contains(&tried), "{tried} times in half a second");
}

#[test]
fn who_has_started_is_heard_of_by_those_that_wait_to_try_again() {
    let mut world = given_up();
    world.start(restarted(2, 9), options());
    let now_ns = world.now_ns;
    world.core((2, 0)).greet(NodeId(1), now_ns);
    world.run();
    world.send((1, 0), (2, 0), 3);
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 3)]);
}

/// One link to it is enough to know: a leader that is elected over one for votes has another one for entries.
#[test]
fn a_node_that_is_reached_by_one_link_is_tried_by_the_others() {
    let mut world = given_up();
    let (to, now_ns) = (shard_of((2, 0)), world.now_ns);
    let vote = of(Kind::PreVoteRequest, (1, 2), 3);
    world.core((1, 0)).queue(to, Lane::Liveness, PartitionId(1), vote, now_ns).expect("peers may be sent it");
    world.run();
    assert_eq!(world.delivered().len(), 1);
    world.send((1, 0), (2, 0), 3);
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 3)]);
}
