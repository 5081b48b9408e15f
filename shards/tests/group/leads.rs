//! Leads that begin and end: handed over to whoever is best prepared, counted and reported.

use corduroy_shards::{LeadKind, MemberOutcome, MemberRequest, PeerMessage, Rejection, Role};
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, PARTITION, Way};
use crate::common::Got;

#[test]
fn the_lead_is_handed_to_a_member_that_answers_and_has_the_log() {
    let (mut cluster, leader) = Cluster::led(3);
    let away = (leader + 1) % 3;
    // The second time it is the first leader that is away.
    for away in [away, leader] {
        let leader = cluster.leader().expect("somebody leads");
        let heir = 3 - leader - away;
        cluster.put(leader, "append a 1,");
        cluster.isolate(away);
        // Longer than an election timeout: it has not just answered.
        cluster.pass(1_500);
        cluster.put(leader, "append a 2,");
        let term = cluster.status(leader).term;
        let before = cluster.worlds[heir].shard.counters().leads.elected;
        let ticket = cluster.ask_about_members(leader, MemberRequest::TransferAway);
        cluster.rest();
        assert!(matches!(cluster.outcome(leader, ticket), Some(MemberOutcome::Done(_))));
        assert_eq!(cluster.leader(), Some(heir));
        assert_eq!(cluster.status(heir).term.get(), term.get() + 1, "nobody else has campaigned");
        assert_eq!(cluster.worlds[heir].shard.counters().leads.elected, before + 1);
        let of_old = cluster.worlds[leader].shard.counters().leads;
        assert_eq!((of_old.transferred, of_old.lost), (1, 0), "{of_old:?}");
        let last = cluster.worlds[leader].leads.last().copied().expect("it is reported");
        assert_eq!((last.kind, last.partition), (LeadKind::Transferred, crate::cluster::PARTITION));
        cluster.put(heir, "append a 3,");
        cluster.heal();
        cluster.pass(1_000);
        assert_eq!(cluster.leader(), Some(heir), "whoever was away disturbs nobody");
    }
}

/// What asks for its election does not arrive; later the leader hears nobody any more.
#[test]
fn a_lead_that_could_not_be_handed_over_is_lost_as_any_other() {
    let (mut cluster, leader) = Cluster::led(3);
    let before = cluster.worlds[leader].shard.counters().leads;
    cluster.ask_about_members(leader, MemberRequest::TransferAway);
    for _ in 0..60 {
        let world = &mut cluster.worlds[leader];
        world.now.mono_ns += 50_000_000;
        cluster.turn();
        cluster.deliver(|from, _, _| if from == leader { Way::Lost } else { Way::Arrives });
    }
    let after = cluster.worlds[leader].shard.counters().leads;
    assert_eq!((after.transferred, after.lost), (before.transferred, before.lost + 1));
    assert!(after.lasted_ms >= 1_000, "it has led for an election timeout: {after:?}");
}

/// Time goes on by all clocks, and what can be done is done, while the disk of one node brings nothing.
fn pass_beside_a_stalled_disk(cluster: &mut Cluster, ms: u64) {
    for _ in 0..ms.div_ceil(50) {
        cluster.wait(50);
        for _ in 0..20 {
            cluster.turn();
            cluster.deliver(|_, _, _| Way::Arrives);
        }
    }
}

#[test]
fn a_leader_whose_disk_stands_still_gives_the_lead_away() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "append a 1,");
    cluster.worlds[leader].disk.set_stalled(true);
    let stuck = cluster.write(leader, "append a 2,");
    // It goes on with heartbeats, so nobody misses it: it has to find out by itself.
    pass_beside_a_stalled_disk(&mut cluster, 1_600);
    let next = cluster.leader().expect("the others have sound disks");
    assert_ne!(next, leader);
    assert_eq!(cluster.worlds[leader].shard.counters().leads.transferred, 1);
    let ticket = cluster.write(next, "append a 3,");
    pass_beside_a_stalled_disk(&mut cluster, 200);
    assert!(matches!(cluster.got(next, ticket), Some(Got::Done(..))));
    cluster.worlds[leader].disk.set_stalled(false);
    cluster.pass(500);
    assert!(matches!(cluster.got(leader, stuck), Some(Got::Done(..))), "the others had it");
    assert_eq!(cluster.check_same().len(), 3);
}

#[test]
fn a_leader_that_nobody_takes_the_lead_from_lays_it_down() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.worlds[leader].disk.set_stalled(true);
    cluster.write(leader, "append a 1,");
    // Others hear no request to begin an election, and all that keeps them from one.
    for _ in 0..50 {
        for world in &mut cluster.worlds {
            world.now.mono_ns += 50_000_000;
        }
        for _ in 0..20 {
            cluster.turn();
            let is_wish = |kind| kind == MessageType::MsgTimeoutNow;
            let way = |sent: &PeerMessage| {
                if is_wish(sent.message.get_msg_type()) { Way::Lost } else { Way::Arrives }
            };
            cluster.deliver(|_, _, sent| way(sent));
        }
    }
    let counts = cluster.worlds[leader].shard.counters().leads;
    assert_eq!(counts.transferred + counts.lost, 1, "{counts:?}");
    assert_ne!(cluster.status(leader).role, Role::Leader);
}

/// It may lead again before its disk takes what gathered meanwhile: others may have led, and written, in between.
#[test]
fn what_gathered_beside_a_stalled_disk_ends_with_the_lead() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.worlds[leader].disk.set_stalled(true);
    let mut written = vec![cluster.write(leader, "append a 0,")];
    for number in 1..4 {
        pass_beside_a_stalled_disk(&mut cluster, 50);
        written.push(cluster.write(leader, &format!("append a {number},")));
    }
    let under_way = cluster.worlds[leader].shard.wal().in_flight();
    assert!(under_way < 4, "the rest gathers");
    cluster.isolate(leader);
    pass_beside_a_stalled_disk(&mut cluster, 3_000);
    assert_ne!(cluster.status(leader).role, Role::Leader);
    let refused = Some(Got::Rejected(Rejection::NoLeader(PARTITION)));
    for (number, ticket) in written.into_iter().enumerate() {
        let wanted = if number < under_way { None } else { refused.clone() };
        assert_eq!(cluster.got(leader, ticket), wanted, "write {number} of {under_way} under way");
    }
}

#[test]
fn whoever_has_a_disk_that_stands_still_asks_for_no_votes() {
    let (mut cluster, leader) = Cluster::led(3);
    let stuck = (leader + 1) % 3;
    cluster.worlds[stuck].disk.set_stalled(true);
    let ticket = cluster.write(leader, "append a 1,");
    pass_beside_a_stalled_disk(&mut cluster, 1_500);
    assert!(matches!(cluster.got(leader, ticket), Some(Got::Done(..))), "two of three have it");
    let term = cluster.status(stuck).term;
    for node in (0..3).filter(|node| *node != stuck) {
        cluster.kill(node);
    }
    pass_beside_a_stalled_disk(&mut cluster, 10_000);
    assert_eq!((cluster.status(stuck).term, cluster.status(stuck).role), (term, Role::Follower));
    cluster.worlds[stuck].disk.set_stalled(false);
    pass_beside_a_stalled_disk(&mut cluster, 3_000);
    assert_eq!(cluster.status(stuck).role, Role::PreCandidate, "now it may");
}
