//! Groups that sleep: what they cost, what wakes them, and that nobody stays behind.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::group::GroupOptions;
use corduroy_shards::raft::lease::Reads;
use corduroy_shards::{Change, MemberOutcome, Role, ShardOptions};
use corduroy_wal::Options;
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, PARTITION, Way, options};
use crate::common::Got;
use crate::members::founder;

/// Longer than members are sent beats that are not heard.
const FORGOTTEN_MS: u64 = 1_000_000;

fn sleepy(node: usize) -> ShardOptions {
    let group = GroupOptions { sleep_ticks: 5, reads: Reads::Lease, ..GroupOptions::default() };
    ShardOptions { group, ..options(node) }
}

/// A group that has been led, and written to; who leads.
fn led(members: usize) -> (Cluster, usize) {
    let wal = Options { segment_bytes: 1 << 20, ..Options::default() };
    let mut cluster = Cluster::with(members, sleepy, wal);
    let leader = cluster.elect();
    cluster.put(leader, "set a 1");
    (cluster, leader)
}

fn are_asleep(cluster: &Cluster) -> bool {
    let mut up = cluster.nodes().filter(|node| cluster.is_up[*node]);
    up.all(|node| cluster.status(node).is_asleep)
}

/// The same, asleep.
fn asleep(members: usize) -> (Cluster, usize) {
    let (mut cluster, leader) = led(members);
    cluster.pass(2_000);
    assert!(are_asleep(&cluster), "there was nothing to do for long");
    (cluster, leader)
}

/// A group of three that has been led, and written to, one of which has no vote: who leads, and that one.
fn led_with_learner() -> (Cluster, usize, usize) {
    let (mut cluster, leader) = led(3);
    let learner = (leader + 1) % 3;
    cluster.make(leader, &[Change::Demote(founder(learner))]);
    (cluster, leader, learner)
}

/// All sleep, and this member knows who leads.
fn assert_knows(cluster: &Cluster, member: usize, leader: usize) {
    assert!(are_asleep(cluster), "{:?}", cluster.status(member));
    assert_eq!(cluster.status(member).leader, Some(founder(leader)));
}

#[test]
fn a_group_that_sleeps_is_not_ticked_and_sends_nothing_but_beats() {
    let (mut cluster, _) = asleep(3);
    let terms: Vec<_> = cluster.nodes().map(|node| cluster.status(node).term).collect();
    let mut beats = 0;
    for _ in 0..200 {
        cluster.wait(50);
        cluster.turn();
        cluster.deliver(|_, _, sent| {
            assert_eq!(sent.message.get_msg_type(), MessageType::MsgBeat);
            beats += 1;
            Way::Arrives
        });
        cluster.rest();
    }
    assert!(are_asleep(&cluster));
    // Followers need not have met.
    assert!(
        (4 * 32..=6 * 34).contains(&beats),
        "{beats} beats of two or three pairs in ten seconds, both ways"
    );
    assert_eq!(terms, cluster.nodes().map(|node| cluster.status(node).term).collect::<Vec<_>>());
    // What wakes the driver is due with the beats, not with ticks.
    let world = &cluster.worlds[0];
    let wake_ns = world.out.wake_at_ns.expect("there are beats to send");
    assert!(wake_ns <= world.now.mono_ns + 300_000_000, "{wake_ns}");
}

#[test]
fn a_write_wakes_all_and_they_sleep_again() {
    let (mut cluster, leader) = asleep(3);
    for number in 2..6 {
        cluster.put(leader, &format!("set a {number}"));
        assert!(cluster.nodes().all(|node| !cluster.status(node).is_asleep));
        assert_eq!(cluster.value(leader, "get a"), number.to_string());
        cluster.pass(2_000);
        assert!(are_asleep(&cluster));
    }
    assert_eq!(cluster.check_same().len(), 5);
    assert_eq!(cluster.status(leader).role, Role::Leader, "nobody else has asked for the lead");
    assert_eq!(cluster.status(leader).leader_changes, 1);
}

#[test]
fn a_group_that_is_used_does_not_sleep() {
    let (mut cluster, leader) = led(3);
    for _ in 0..40 {
        assert_eq!(cluster.value(leader, "get a"), "1");
        cluster.pass(100);
        assert!(cluster.nodes().all(|node| !cluster.status(node).is_asleep));
    }
}

#[test]
fn the_death_of_the_leader_wakes_the_others_which_sleep_without_it() {
    for members in [3, 5] {
        let (mut cluster, leader) = asleep(members);
        cluster.kill(leader);
        cluster.pass(4_500);
        let next = cluster.leader().expect("another one leads within two election timeouts and a bit");
        assert_ne!(next, leader);
        cluster.put(next, "set a 2");
        cluster.pass(4_000);
        assert!(are_asleep(&cluster), "who is dead does not keep the others awake");
        cluster.put(next, "set a 3");
        cluster.pass(4_000);
        assert!(are_asleep(&cluster));
        // It comes back, and is told what it lacks.
        cluster.start(leader, true);
        cluster.pass(4_000);
        assert_eq!(cluster.check_same().len(), 3);
        assert_eq!(cluster.leader(), Some(next), "it has taken the lead from nobody");
        cluster.pass(2_000);
        assert!(are_asleep(&cluster));
    }
}

/// Thousands of groups lose their leaders at once where a node dies: they do not stay awake as long as those that somebody uses.
#[test]
fn who_only_lost_its_leader_sleeps_again_as_soon_as_there_is_one() {
    let late = |node| {
        let sleepy = sleepy(node);
        ShardOptions { group: GroupOptions { sleep_ticks: 50, ..sleepy.group }, ..sleepy }
    };
    let mut cluster = Cluster::with(3, late, Options { segment_bytes: 1 << 20, ..Options::default() });
    let leader = cluster.elect();
    cluster.put(leader, "set a 1");
    cluster.pass(4_000);
    assert!(!are_asleep(&cluster), "it was used less than five seconds ago");
    cluster.pass(2_000);
    assert!(are_asleep(&cluster));
    cluster.kill(leader);
    cluster.pass(1_500);
    let next = cluster.elect();
    cluster.pass(1_000);
    assert!(are_asleep(&cluster), "nobody has asked for anything");
    cluster.put(next, "set a 2");
    cluster.pass(4_000);
    assert!(!are_asleep(&cluster), "somebody has");
    cluster.pass(2_000);
    assert!(are_asleep(&cluster));
}

#[test]
fn a_follower_that_was_away_is_brought_up_to_date() {
    let (mut cluster, leader) = asleep(3);
    let away = (leader + 1) % 3;
    cluster.isolate(away);
    cluster.pass(3_000);
    assert!(!cluster.status(away).is_asleep, "it does not hear its leader");
    cluster.put(leader, "set a 2");
    cluster.pass(4_000);
    assert!(cluster.status(leader).is_asleep);
    cluster.heal();
    cluster.pass(5_000);
    assert_eq!(cluster.check_same().len(), 2);
    assert!(are_asleep(&cluster));
}

#[test]
fn a_leader_that_loses_the_most_of_its_followers_wakes_and_lays_the_lead_down() {
    let (mut cluster, leader) = asleep(3);
    cluster.isolate(leader);
    cluster.pass(5_000);
    let status = cluster.status(leader);
    assert!(status.role != Role::Leader && !status.is_asleep, "{status:?}");
}

/// The leader's process starts again while nobody misses it.
#[test]
fn a_leader_that_was_restarted_is_not_taken_for_the_one_before() {
    let (mut cluster, leader) = asleep(3);
    cluster.kill(leader);
    cluster.start(leader, true);
    cluster.pass(600);
    assert!(cluster.nodes().all(|node| !cluster.status(node).is_asleep));
    let next = cluster.elect();
    cluster.put(next, "set a 2");
    cluster.pass(4_000);
    assert!(are_asleep(&cluster));
    assert_eq!(cluster.check_same().len(), 2);
}

/// The process of the leader lives on, and its replica has ended.
#[test]
fn a_leader_that_is_taken_off_its_shard_is_missed() {
    let (mut cluster, leader) = asleep(3);
    assert!(cluster.worlds[leader].shard.remove(PARTITION));
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.pass(6_000);
    assert!(followers.into_iter().any(|node| cluster.status(node).role == Role::Leader));
}

#[test]
fn a_message_to_sleep_that_is_lost_leaves_nobody_behind() {
    let (mut cluster, leader) = led(3);
    let mut lost = 0;
    for _ in 0..400 {
        cluster.wait(50);
        for _ in 0..20 {
            cluster.turn();
            cluster.deliver(|_, to, sent| {
                let is_lost = sent.message.get_msg_type() == MessageType::MsgCheckQuorum
                    && to == (leader + 1) % 3
                    && lost < 3;
                lost += u32::from(is_lost);
                if is_lost { Way::Lost } else { Way::Arrives }
            });
        }
    }
    assert_eq!(lost, 3);
    assert!(are_asleep(&cluster));
    assert_eq!(cluster.status(leader).leader_changes, 1, "who went on was answered by the leader");
}

/// A heartbeat that was overtaken wakes who was just asked to sleep, and the leader sleeps already. A learner asks for no votes, by
/// which a voter would wake it.
#[test]
fn a_learner_that_missed_that_its_leader_sleeps_has_it_go_on() {
    let (mut cluster, leader, learner) = led_with_learner();
    let (mut overtaken, mut is_asked) = (None, false);
    for _ in 0..100 {
        cluster.wait(50);
        cluster.turn();
        cluster.deliver(|from, to, sent| {
            let kind = sent.message.get_msg_type();
            let is_for_learner = (from, to) == (leader, learner);
            if is_for_learner && kind == MessageType::MsgHeartbeat && !is_asked {
                overtaken = Some(sent.clone());
            }
            is_asked |= is_for_learner && kind == MessageType::MsgCheckQuorum;
            Way::Arrives
        });
        if is_asked && let Some(heartbeat) = overtaken.take() {
            cluster.under_way.push_back((leader, heartbeat));
        }
    }
    cluster.pass(1_000);
    assert!(is_asked && overtaken.is_none());
    cluster.pass(8_000);
    assert!(are_asleep(&cluster), "{:?}", cluster.status(learner));
    assert_eq!(cluster.status(leader).leader_changes, 1);
}

/// A learner was away for so long that the others do not count on it any more, and send it nothing. After its restart it has heard
/// nobody, either.
#[test]
fn a_learner_that_was_forgotten_is_heard_of_again() {
    let (mut cluster, leader, learner) = led_with_learner();
    cluster.pass(2_000);
    cluster.kill(learner);
    cluster.pass(FORGOTTEN_MS);
    assert!(cluster.status(leader).is_asleep);
    cluster.start(learner, true);
    cluster.pass(5_000);
    assert_knows(&cluster, learner, leader);
}

/// One that was cut off knows who led, and hears nobody of it.
#[test]
fn a_learner_that_was_cut_off_for_long_is_heard_of_again() {
    let (mut cluster, leader, learner) = led_with_learner();
    cluster.isolate(learner);
    cluster.put(leader, "set a 2");
    cluster.pass(FORGOTTEN_MS);
    assert!(cluster.status(leader).is_asleep && !cluster.status(learner).is_asleep);
    assert_eq!(cluster.status(learner).leader, Some(founder(leader)));
    cluster.heal();
    cluster.pass(5_000);
    assert_knows(&cluster, learner, leader);
}

/// A learner was restarted, which woke its leader, and nothing that this one said has arrived until it slept again.
#[test]
fn a_learner_that_knows_no_leader_finds_one() {
    let (mut cluster, leader, learner) = led_with_learner();
    cluster.pass(2_000);
    assert!(are_asleep(&cluster));
    cluster.kill(learner);
    cluster.start(learner, true);
    for _ in 0..60 {
        cluster.wait(50);
        for _ in 0..20 {
            cluster.turn();
            cluster.deliver(|_, to, sent| {
                let is_beat = sent.message.get_msg_type() == MessageType::MsgBeat;
                if to == learner && !is_beat { Way::Lost } else { Way::Arrives }
            });
        }
    }
    assert!(cluster.status(leader).is_asleep);
    assert_eq!(cluster.status(learner).leader, None);
    cluster.pass(5_000);
    assert_knows(&cluster, learner, leader);
}

#[test]
fn a_follower_answers_reads_in_a_group_that_sleeps() {
    let (mut cluster, leader) = asleep(3);
    let follower = (leader + 1) % 3;
    let read = cluster.read_anywhere(follower, "get a");
    cluster.rest();
    assert!(matches!(cluster.got(follower, read), Some(Got::Done(_, value)) if value == "1"));
    cluster.pass(2_000);
    assert!(are_asleep(&cluster));
}

#[test]
fn a_leader_does_not_sleep_while_a_read_waits_for_its_round() {
    let (mut cluster, leader) = led(3);
    cluster.pass(1_200);
    let read = cluster.read(leader, "get a");
    // Its lease is over, and for eight ticks nobody hears what it asks.
    for _ in 0..16 {
        cluster.wait(50);
        cluster.turn();
        cluster.deliver(|from, _, sent| {
            let is_beat = sent.message.get_msg_type() == MessageType::MsgBeat;
            if from == leader && !is_beat { Way::Lost } else { Way::Arrives }
        });
        assert!(!cluster.status(leader).is_asleep, "a read waits");
    }
    cluster.pass(1_500);
    assert!(matches!(cluster.got(leader, read), Some(Got::Done(_, value)) if value == "1"));
    cluster.pass(2_000);
    assert!(are_asleep(&cluster));
    assert_eq!(cluster.status(leader).leader_changes, 1);
}

#[test]
fn members_of_a_group_that_sleeps_are_changed() {
    let (mut cluster, leader) = asleep(3);
    let other = founder((leader + 1) % 3);
    let demoted = cluster.change(leader, &[Change::Demote(other)]);
    cluster.pass(500);
    assert!(matches!(cluster.outcome(leader, demoted), Some(MemberOutcome::Done(_))));
    cluster.pass(2_000);
    assert!(are_asleep(&cluster), "learners sleep as well");
    let transferred = cluster.transfer(leader, founder((leader + 2) % 3));
    cluster.pass(500);
    assert!(matches!(cluster.outcome(leader, transferred), Some(MemberOutcome::Done(_))));
    assert_eq!(cluster.status((leader + 2) % 3).role, Role::Leader);
}

/// Whether a leader that slept answers a read at once after another one has led: nothing that comes reaches it, and it takes no
/// turn meanwhile.
fn is_deceived() -> bool {
    let (mut cluster, leader) = led(3);
    assert_eq!(cluster.value(leader, "get a"), "1");
    assert!(cluster.worlds[leader].read_now(PARTITION, 7, "get a").is_some(), "it has a lease");
    cluster.pass(2_000);
    assert!(are_asleep(&cluster));
    cluster.is_up[leader] = false;
    cluster.pass(4_500);
    let next = cluster.leader().expect("another one leads");
    cluster.put(next, "set a 2");
    cluster.is_up[leader] = true;
    cluster.worlds[leader].read_now(PARTITION, 7, "get a").is_some()
}

#[test]
fn a_leader_that_sleeps_has_no_lease() {
    assert!(!is_deceived());
}

#[test]
fn nobody_sleeps_where_somebody_does_not() {
    let wal = Options { segment_bytes: 1 << 20, ..Options::default() };
    let awake = |node: usize| if node == 1 { options(node) } else { sleepy(node) };
    let mut cluster = Cluster::with(3, awake, wal);
    let leader = cluster.elect();
    cluster.put(leader, "set a 1");
    cluster.pass(10_000);
    assert!(cluster.nodes().all(|node| !cluster.status(node).is_asleep));
    assert_eq!(cluster.status(leader).leader_changes, 1);
}
