//! A group of several members over an unreliable network: who leads, what is acknowledged, what survives.

mod alone;
mod anywhere;
mod begun;
mod cluster;
mod coming_back;
mod coming_up;
#[path = "../common/mod.rs"]
mod common;
mod growing;
mod hazards;
mod images;
mod joining;
mod leads;
mod leases;
mod leaving;
mod members;
mod random;
mod reads;
mod retention;
mod room;
mod sleep;
mod strange_images;

use cluster::{Cluster, Way, storage};
use common::Got;
use corduroy_shards::sim::Rng;
use corduroy_shards::{Rejection, Role};

#[test]
fn members_elect_a_leader_and_apply_the_same() {
    let (mut cluster, leader) = Cluster::led(3);
    for number in 0..20 {
        cluster.put(leader, &format!("append log {number},"));
    }
    cluster.pass(300);
    assert_eq!(cluster.check_same().len(), 20);
    let leads = |node| cluster.status(node).role == Role::Leader;
    assert_eq!(cluster.nodes().filter(|node| leads(*node)).count(), 1);
    assert!(cluster.nodes().all(|node| cluster.status(node).is_ready));
}

#[test]
fn a_write_is_acknowledged_once_a_majority_has_it() {
    let (mut cluster, leader) = Cluster::led(3);
    let [one, other] = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.isolate(one);
    cluster.put(leader, "set a 1");
    cluster.isolate(other);
    let ticket = cluster.write(leader, "set a 2");
    cluster.rest();
    assert_eq!(cluster.got(leader, ticket), None, "it has nobody with it");
    cluster.heal();
    cluster.pass(300);
    assert!(matches!(cluster.got(leader, ticket), Some(Got::Done(..))));
    cluster.pass(300);
    assert_eq!(cluster.check_same().len(), 2);
}

#[test]
fn a_write_waits_for_the_disks_of_a_majority() {
    let (mut cluster, leader) = Cluster::led(3);
    for node in cluster.nodes().filter(|node| *node != leader) {
        cluster.worlds[node].disk.set_manual(true);
    }
    let ticket = cluster.write(leader, "set a 1");
    for _ in 0..50 {
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    assert_eq!(cluster.got(leader, ticket), None, "only the leader's disk has it");
    let follower = (leader + 1) % 3;
    cluster.worlds[follower].disk.complete_all();
    for _ in 0..50 {
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    assert!(matches!(cluster.got(leader, ticket), Some(Got::Done(..))));
}

#[test]
fn an_acknowledged_write_survives_its_leader_and_power_cuts_of_all() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    cluster.kill(leader);
    let next = cluster.elect();
    assert_ne!(next, leader);
    assert_eq!(cluster.value(next, "get a"), "1");
    cluster.put(next, "set a 2");
    cluster.start(leader, true);
    cluster.pass(1_000);
    assert_eq!(cluster.check_same().len(), 2);
    for node in cluster.nodes() {
        cluster.kill(node);
        cluster.start(node, true);
    }
    let last = cluster.elect();
    assert_eq!(cluster.value(last, "get a"), "2");
    cluster.check();
}

#[test]
fn who_does_not_lead_names_the_leader() {
    let (mut cluster, leader) = Cluster::led(3);
    let follower = (leader + 1) % 3;
    let tickets = [cluster.write(follower, "set a 1"), cluster.read(follower, "get a")];
    cluster.rest();
    for ticket in tickets {
        let refused = Got::Rejected(Rejection::NotLeader(cluster::PARTITION, storage(leader)));
        assert_eq!(cluster.got(follower, ticket), Some(refused));
    }
    assert_eq!(cluster.worlds[follower].read_now(cluster::PARTITION, 7, "get a"), None);
}

/// It answers nothing that it read before it knew that others went on without it.
#[test]
fn a_deposed_leader_answers_no_stale_read() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a old");
    cluster.isolate(leader);
    let before = cluster.write(leader, "set b 1");
    let stale = cluster.read(leader, "get a");
    assert_eq!(cluster.worlds[leader].read_now(cluster::PARTITION, 7, "get a"), None);
    let next = cluster.elect();
    assert_ne!(next, leader);
    cluster.put(next, "set a new");
    cluster.pass(500);
    for ticket in [before, stale] {
        assert!(
            !matches!(cluster.got(leader, ticket), Some(Got::Done(..))),
            "{:?}",
            cluster.got(leader, ticket)
        );
    }
    cluster.heal();
    cluster.pass(1_000);
    cluster.pass(1_000);
    // The entry of the write was replaced by one that is committed; a read has to be asked for again.
    assert_eq!(cluster.got(leader, before), Some(Got::Rejected(Rejection::Obsoleted)));
    let got = cluster.got(leader, stale);
    let is_turned_away =
        matches!(got, Some(Got::Rejected(Rejection::NotLeader(..) | Rejection::NoLeader(_))));
    assert!(is_turned_away, "{got:?}");
    cluster.check_same();
}

#[test]
fn a_member_that_was_away_catches_up_from_the_log() {
    let (mut cluster, leader) = Cluster::led(3);
    let away = (leader + 1) % 3;
    cluster.kill(away);
    for number in 0..300 {
        cluster.put(leader, &format!("append log {number},"));
    }
    assert_eq!(cluster.status(leader).applied, cluster.status(leader).last, "memory holds none of it");
    cluster.start(away, true);
    cluster.pass(1_000);
    cluster.pass(1_000);
    assert_eq!(cluster.check_same().len(), 300);
    assert_eq!(cluster.worlds[leader].shard.counters().failed_fetches, 0);
}

#[test]
fn messages_that_are_lost_or_doubled_change_nothing() {
    for seed in 0..40_u64 {
        let mut random = Rng::new(seed, "group");
        let mut draw = move |below: u64| random.below(below);
        let (mut cluster, _) = Cluster::led(3);
        let mut acknowledged = Vec::new();
        for round in 0..120 {
            cluster.wait(20);
            let mut draw_node = || usize::try_from(draw(3)).expect("one of three");
            let (node, other) = (draw_node(), draw_node());
            match draw(30) {
                0 => cluster.isolate(node),
                1 | 2 => cluster.heal(),
                3 => {
                    cluster.kill(node);
                    cluster.start(node, draw(2) == 0);
                }
                _ => {}
            }
            let op = format!("append log {seed}.{round},");
            acknowledged.push((other, cluster.write(other, &op), op));
            for _ in 0..6 {
                cluster.turn();
                cluster.deliver(|_, _, _| match draw(10) {
                    0 => Way::Lost,
                    1 => Way::Twice,
                    _ => Way::Arrives,
                });
            }
            cluster.check();
        }
        cluster.heal();
        let leader = cluster.elect();
        cluster.put(leader, "set end 1");
        cluster.pass(2_000);
        cluster.pass(2_000);
        let history = cluster.check_same();
        for (node, ticket, op) in acknowledged {
            let times = history.iter().filter(|(_, applied)| *applied == op).count();
            match cluster.got(node, ticket) {
                Some(Got::Done(..)) => assert_eq!(times, 1, "{op} was acknowledged"),
                Some(Got::Rejected(_)) => assert_eq!(times, 0, "{op} was refused"),
                Some(Got::Unknown) | None => assert!(times <= 1, "{op}"),
            }
        }
    }
}
