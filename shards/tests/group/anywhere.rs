//! Reads that any member answers: what they cost, what they wait for, and how old what they see may be.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::planted::{PlantedBug, plant};
use corduroy_shards::raft::group::GroupOptions;
use corduroy_shards::raft::lease::Reads;
use corduroy_shards::{Kind, Rejection, Role, ShardOptions};
use corduroy_wal::Options;
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, PARTITION, Way, options, storage};
use crate::common::Got;

/// Members with these options of their groups; who leads, and one that does not.
fn led(members: usize, group: GroupOptions) -> (Cluster, usize, usize) {
    let options = |node| ShardOptions { group, ..options(node) };
    let mut cluster =
        Cluster::with(members, options, Options { segment_bytes: 1 << 20, ..Options::default() });
    let leader = cluster.elect();
    cluster.put(leader, "set a old");
    cluster.pass(300);
    (cluster, leader, (leader + 1) % members)
}

fn value(got: Option<Got>) -> Option<String> {
    match got? {
        Got::Done(_, value) => Some(value),
        Got::Rejected(_) | Got::Unknown => None,
    }
}

fn at_once(cluster: &mut Cluster, node: usize, op: &str) -> Option<String> {
    cluster.worlds[node].read_now_as(PARTITION, 7, (Kind::ReadAnywhere, op))
}

#[test]
fn a_follower_asks_its_leader_once_a_turn_and_logs_nothing() {
    let (mut cluster, leader, follower) = led(3, GroupOptions::default());
    let (delivered, last) = (cluster.delivered, cluster.status(leader).last);
    let tickets: Vec<_> = (0..200).map(|_| cluster.read_anywhere(follower, "get a")).collect();
    cluster.rest();
    for ticket in tickets {
        assert_eq!(value(cluster.got(follower, ticket)).as_deref(), Some("old"));
    }
    assert_eq!(cluster.delivered, delivered + 6, "a question, a heartbeat to each follower, three answers");
    assert_eq!(cluster.status(leader).last, last);
    assert_eq!(cluster.status(leader).read_rounds, 0, "the leader has begun none of its own");
    // Who may not be asked still is sent to the leader.
    let ticket = cluster.read(follower, "get a");
    cluster.rest();
    let refused = Some(Got::Rejected(Rejection::NotLeader(PARTITION, storage(leader))));
    assert_eq!(cluster.got(follower, ticket), refused);
}

#[test]
fn a_leader_answers_them_as_any_other() {
    let (mut cluster, leader, _) = led(3, GroupOptions::default());
    let ticket = cluster.read_anywhere(leader, "get a");
    cluster.rest();
    assert_eq!(value(cluster.got(leader, ticket)).as_deref(), Some("old"));
}

#[test]
fn a_leader_with_a_lease_answers_without_asking_others() {
    let (mut cluster, leader, follower) =
        led(3, GroupOptions { reads: Reads::Lease, ..GroupOptions::default() });
    cluster.value(leader, "get a");
    let delivered = cluster.delivered;
    let ticket = cluster.read_anywhere(follower, "get a");
    cluster.rest();
    assert_eq!(value(cluster.got(follower, ticket)).as_deref(), Some("old"));
    assert_eq!(cluster.delivered, delivered + 2, "a question and its answer");
}

/// Whether a follower that has all of the log, but cannot apply it, answers from what it has applied.
fn is_answered_too_early() -> bool {
    let (mut cluster, leader, follower) = led(3, GroupOptions::default());
    cluster.worlds[follower].disk.set_manual(true);
    let write = cluster.write(leader, "set a new");
    for _ in 0..20 {
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    assert!(matches!(cluster.got(leader, write), Some(Got::Done(..))), "the other follower has it");
    let read = cluster.read_anywhere(follower, "get a");
    for _ in 0..20 {
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    let early = cluster.got(follower, read);
    if early.is_none() {
        cluster.worlds[follower].disk.set_manual(false);
        cluster.worlds[follower].disk.complete_all();
        cluster.pass(300);
        assert_eq!(value(cluster.got(follower, read)).as_deref(), Some("new"));
    }
    early.is_some()
}

#[test]
fn a_follower_answers_once_it_has_applied_what_the_leader_had_agreed() {
    assert!(!is_answered_too_early());
    plant(Some(PlantedBug::IndexIgnored));
    let is_early = is_answered_too_early();
    plant(None);
    assert!(is_early);
}

/// Its leader may have been deposed. That one is asked in vain.
#[test]
fn a_follower_of_a_deposed_leader_waits_for_the_new_one() {
    let (mut cluster, old, follower) = led(5, GroupOptions::default());
    for node in cluster.nodes().filter(|node| ![old, follower].contains(node)) {
        cluster.cut.extend([(old, node), (node, old), (follower, node), (node, follower)]);
    }
    let leads = |cluster: &Cluster, node: usize| cluster.status(node).role == Role::Leader;
    let read = cluster.read_anywhere(follower, "get a");
    let mut new = None;
    for _ in 0..60 {
        cluster.pass(50);
        new = cluster.nodes().find(|node| *node != old && leads(&cluster, *node));
        if new.is_some() {
            break;
        }
    }
    let new = new.expect("most of them elect another one");
    cluster.put(new, "set a new");
    assert_eq!(cluster.got(follower, read), None);
    let late = cluster.read_anywhere(follower, "get a");
    cluster.rest();
    assert_eq!(cluster.got(follower, late), None);
    cluster.heal();
    cluster.pass(2_000);
    assert_eq!(value(cluster.got(follower, late)).as_deref(), Some("new"));
    assert_eq!(value(cluster.got(follower, read)).as_deref(), Some("new"));
}

#[test]
fn a_question_that_is_lost_is_asked_again_and_one_that_nobody_answers_ends_at_its_deadline() {
    let (mut cluster, leader, follower) = led(3, GroupOptions::default());
    let read = cluster.read_anywhere(follower, "get a");
    let mut lost = 0;
    for _ in 0..20 {
        for world in &mut cluster.worlds {
            world.now.mono_ns += 50_000_000;
        }
        cluster.turn();
        cluster.deliver(|_, _, sent| {
            let is_question = sent.message.get_msg_type() == MessageType::MsgReadIndex;
            lost += u64::from(is_question);
            if is_question && lost == 1 { Way::Lost } else { Way::Arrives }
        });
    }
    assert!(lost > 1);
    assert_eq!(value(cluster.got(follower, read)).as_deref(), Some("old"));
    cluster.isolate(follower);
    let read = cluster.read_anywhere(follower, "get a");
    cluster.pass(12_000);
    assert_eq!(cluster.got(follower, read), Some(Got::Rejected(Rejection::NoLeader(PARTITION))));
    assert_ne!(cluster.status(leader).role, Role::Follower);
}

/// A member that asks and then leads has no lease by the answer that it was given.
#[test]
fn what_a_follower_was_answered_is_no_lease_when_it_leads() {
    let (mut cluster, leader, follower) =
        led(3, GroupOptions { reads: Reads::Lease, ..GroupOptions::default() });
    let read = cluster.read_anywhere(follower, "get a");
    cluster.rest();
    assert_eq!(value(cluster.got(follower, read)).as_deref(), Some("old"));
    cluster.transfer(leader, crate::members::founder(follower));
    cluster.rest();
    assert_eq!(cluster.leader(), Some(follower));
    assert_eq!(at_once(&mut cluster, follower, "get a"), None);
}

/// What has expired by the clock alone is for the leader to log.
#[test]
fn what_rests_on_the_clock_is_the_leaders_to_answer() {
    let (mut cluster, leader, follower) = led(3, GroupOptions::default());
    let key = format!("until{}", cluster.worlds[leader].now.wall_ms + 200);
    cluster.put(leader, &format!("set {key} alive"));
    cluster.pass(100);
    let get = format!("get {key}");
    let before = cluster.read_anywhere(follower, &get);
    cluster.rest();
    assert_eq!(value(cluster.got(follower, before)).as_deref(), Some("alive"));
    cluster.pass(200);
    let after = cluster.read_anywhere(follower, &get);
    cluster.rest();
    let refused = Some(Got::Rejected(Rejection::NotLeader(PARTITION, storage(leader))));
    assert_eq!(cluster.got(follower, after), refused);
    assert_eq!(cluster.value(leader, &get), "nil");
    cluster.pass(100);
    let logged = cluster.read_anywhere(follower, &get);
    cluster.rest();
    assert_eq!(value(cluster.got(follower, logged)).as_deref(), Some("nil"));
}

/// The same reads where they may see a state that was the newest half a second ago.
fn is_older_than_it_may_be() -> bool {
    let (mut cluster, leader, follower) =
        led(3, GroupOptions { stale_reads_ms: 500, ..GroupOptions::default() });
    assert_eq!(at_once(&mut cluster, follower, "get a"), None, "it has never asked");
    let read = cluster.read_anywhere(follower, "get a");
    cluster.rest();
    assert_eq!(value(cluster.got(follower, read)).as_deref(), Some("old"));
    let delivered = cluster.delivered;
    for _ in 0..50 {
        assert_eq!(at_once(&mut cluster, follower, "get a").as_deref(), Some("old"));
    }
    let read = cluster.read_anywhere(follower, "get a");
    cluster.rest();
    assert_eq!(value(cluster.got(follower, read)).as_deref(), Some("old"));
    assert_eq!(cluster.delivered, delivered, "they cost no message");
    cluster.isolate(follower);
    cluster.put(leader, "set a new");
    let mut answered_ms = 0;
    for ms in (0..1_000).step_by(10) {
        if at_once(&mut cluster, follower, "get a").is_some() {
            answered_ms = ms;
        }
        for world in &mut cluster.worlds {
            world.now.mono_ns += 10_000_000;
        }
    }
    assert!(answered_ms >= 490, "{answered_ms}");
    answered_ms > 500
}

#[test]
fn a_follower_may_answer_from_a_state_that_is_old_and_no_older() {
    assert!(!is_older_than_it_may_be());
    plant(Some(PlantedBug::StaleForEver));
    let is_older = is_older_than_it_may_be();
    plant(None);
    assert!(is_older);
}
