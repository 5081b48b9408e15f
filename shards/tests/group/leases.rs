//! Leases of leaders: what they save, and that nobody else leads while one holds.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::Change;
use corduroy_shards::planted::{PlantedBug, plant};
use corduroy_shards::raft::group::GroupOptions;
use corduroy_shards::raft::lease::Reads;
use corduroy_shards::{MemberOutcome, Role, ShardOptions};
use corduroy_wal::Options;
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, PARTITION, Way, options};
use crate::common::Got;
use crate::members::founder;

const PROMISE_MS: u64 = 900;
const LEASE_MS: u64 = 720;

fn leased(node: usize) -> ShardOptions {
    let group = GroupOptions { reads: Reads::Lease, ..GroupOptions::default() };
    ShardOptions { group, ..options(node) }
}

/// Three members whose leader may have leases; who leads.
fn led() -> (Cluster, usize) {
    let mut cluster = Cluster::with(3, leased, Options { segment_bytes: 1 << 20, ..Options::default() });
    let leader = cluster.elect();
    cluster.put(leader, "set a old");
    (cluster, leader)
}

/// What a read is answered at once, if it is.
fn at_once(cluster: &mut Cluster, node: usize, op: &str) -> Option<String> {
    cluster.worlds[node].read_now(PARTITION, 7, op)
}

/// Has the leader win a lease.
fn renew(cluster: &mut Cluster, leader: usize) {
    assert_eq!(cluster.value(leader, "get a"), "old");
    assert_eq!(at_once(cluster, leader, "get a").as_deref(), Some("old"));
}

#[test]
fn reads_under_a_lease_cost_no_message_and_no_entry() {
    let (mut cluster, leader) = led();
    renew(&mut cluster, leader);
    let (rounds, last) = (cluster.status(leader).read_rounds, cluster.status(leader).last);
    let delivered = cluster.delivered;
    for _ in 0..100 {
        assert_eq!(at_once(&mut cluster, leader, "get a").as_deref(), Some("old"));
    }
    let tickets: Vec<_> = (0..100).map(|_| cluster.read(leader, "get a")).collect();
    cluster.rest();
    assert!(tickets.iter().all(|ticket| matches!(cluster.got(leader, *ticket), Some(Got::Done(..)))));
    assert_eq!((cluster.status(leader).read_rounds, cluster.delivered), (rounds, delivered));
    assert_eq!(cluster.status(leader).last, last);
}

/// Nothing but a read asks for a lease: a group that nobody reads of has none.
#[test]
fn a_lease_lapses_and_reads_that_go_on_keep_it() {
    let (mut cluster, leader) = led();
    renew(&mut cluster, leader);
    cluster.wait(LEASE_MS);
    assert_eq!(at_once(&mut cluster, leader, "get a"), None);
    renew(&mut cluster, leader);
    for _ in 0..100 {
        assert!(at_once(&mut cluster, leader, "get a").is_some());
        cluster.pass(50);
    }
    cluster.pass(2_000);
    assert_eq!(at_once(&mut cluster, leader, "get a"), None);
}

#[test]
fn where_reads_ask_a_majority_no_answer_brings_a_lease() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a old");
    assert_eq!(cluster.value(leader, "get a"), "old");
    assert_eq!(at_once(&mut cluster, leader, "get a"), None);
}

/// Plays a leader that is cut off at the moment at which it has won a lease. Returns whether it answered a read at once after
/// another one had led.
fn is_deceived(mut cluster: Cluster, old: usize) -> bool {
    cluster.isolate(old);
    for _ in 0..500 {
        cluster.pass(10);
        let leads = |node: &usize| *node != old && cluster.status(*node).role == Role::Leader;
        if let Some(leader) = cluster.nodes().find(leads) {
            cluster.put(leader, "set a new");
            return at_once(&mut cluster, old, "get a").is_some();
        }
    }
    panic!("nobody else leads");
}

#[test]
fn nobody_else_leads_while_a_lease_holds() {
    let (mut cluster, leader) = led();
    renew(&mut cluster, leader);
    assert!(!is_deceived(cluster, leader));
}

/// The answers to a round are on their way for long.
fn with_late_answers() -> (Cluster, usize) {
    let (mut cluster, leader) = led();
    cluster.pass(3_000);
    let read = cluster.read(leader, "get a");
    let mut is_held = true;
    for step in 0..90 {
        cluster.wait(10);
        cluster.turn();
        is_held = step < 85;
        cluster.deliver(|from, _, sent| {
            let is_answer =
                from != leader && sent.message.get_msg_type() == MessageType::MsgHeartbeatResponse;
            // What is sent after the round does not arrive: only that proves something.
            let is_later = from == leader && step > 2;
            match () {
                () if is_later => Way::Lost,
                () if is_answer && is_held => Way::Late,
                () => Way::Arrives,
            }
        });
    }
    assert!(!is_held);
    assert!(matches!(cluster.got(leader, read), Some(Got::Done(..))), "it is answered");
    (cluster, leader)
}

/// A round proves something of the time at which it was sent.
#[test]
fn a_lease_counts_from_the_sending_of_its_round() {
    let (mut cluster, leader) = with_late_answers();
    assert_eq!(at_once(&mut cluster, leader, "get a"), None, "it was over when the answers came");
    assert!(!is_deceived(cluster, leader));
    plant(Some(PlantedBug::LeaseFromAnswer));
    let (cluster, leader) = with_late_answers();
    let is_deceived = is_deceived(cluster, leader);
    plant(None);
    assert!(is_deceived, "counted from the answer it would be wrong");
}

/// A leader with a lease hands the lead on, and hears nothing of what comes of that. Whether it still answers.
fn is_deceived_by_transfer() -> bool {
    let (mut cluster, leader) = led();
    renew(&mut cluster, leader);
    let next = (leader + 1) % 3;
    cluster.transfer(leader, founder(next));
    cluster.turn();
    let mut is_told = false;
    for _ in 0..20 {
        cluster.deliver(|_, to, sent| {
            is_told |= sent.message.get_msg_type() == MessageType::MsgTimeoutNow;
            if to == leader { Way::Lost } else { Way::Arrives }
        });
        cluster.turn();
    }
    assert!(is_told && cluster.status(next).role == Role::Leader);
    assert_eq!(cluster.status(leader).role, Role::Leader, "it does not know");
    at_once(&mut cluster, leader, "get a").is_some()
}

#[test]
fn a_transfer_ends_the_lease_first() {
    assert!(!is_deceived_by_transfer());
    plant(Some(PlantedBug::LeaseKeptInTransfer));
    let is_deceived = is_deceived_by_transfer();
    plant(None);
    assert!(is_deceived);
}

/// What tells the other one to lead may arrive as long as the term lasts.
#[test]
fn no_lease_comes_back_after_a_transfer_that_came_to_nothing() {
    let (mut cluster, leader) = led();
    renew(&mut cluster, leader);
    let ticket = cluster.transfer(leader, founder((leader + 1) % 3));
    for _ in 0..60 {
        cluster.wait(50);
        cluster.turn();
        cluster.deliver(|_, _, sent| match sent.message.get_msg_type() {
            MessageType::MsgTimeoutNow => Way::Lost,
            _ => Way::Arrives,
        });
    }
    assert_eq!(cluster.outcome(leader, ticket), Some(MemberOutcome::Unknown));
    assert_eq!(cluster.leader(), Some(leader));
    assert_eq!(cluster.value(leader, "get a"), "old");
    assert_eq!(at_once(&mut cluster, leader, "get a"), None);
}

/// One follower does not hear the leader, and asks for votes. The other one has just answered it, and is restarted. Whether
/// the leader is deceived.
fn is_deceived_by_restart() -> bool {
    let (mut cluster, leader) = led();
    let [deaf, other] = [(leader + 1) % 3, (leader + 2) % 3];
    cluster.cut.extend([(leader, deaf), (deaf, leader)]);
    cluster.pass(2_500);
    for _ in 0..40 {
        renew(&mut cluster, leader);
        cluster.kill(other);
        cluster.start(other, true);
        // What it says after its restart does not reach the leader.
        cluster.cut.extend([(leader, other), (other, leader)]);
        for _ in 0..LEASE_MS / 10 {
            if at_once(&mut cluster, leader, "get a").is_some() && cluster.status(deaf).role == Role::Leader {
                return true;
            }
            cluster.wait(10);
            cluster.rest();
        }
        if cluster.status(deaf).role == Role::Leader {
            return false;
        }
        cluster.cut.retain(|(from, to)| ![*from, *to].contains(&other));
        cluster.pass(1_500);
        assert_eq!(cluster.leader(), Some(leader));
    }
    false
}

#[test]
fn a_member_that_was_restarted_does_not_vote_within_what_it_had_promised() {
    assert!(!is_deceived_by_restart());
    plant(Some(PlantedBug::RestartedVotesAtOnce));
    let is_deceived = is_deceived_by_restart();
    plant(None);
    assert!(is_deceived);
}

/// It answers nothing before its promise is over, whoever asks; and then there is a leader soon.
#[test]
fn a_group_whose_members_were_restarted_has_a_leader_soon() {
    let (mut cluster, _) = led();
    for node in cluster.nodes() {
        cluster.kill(node);
        cluster.start(node, true);
    }
    cluster.pass(PROMISE_MS);
    assert_eq!(cluster.leader(), None);
    cluster.pass(2 * 1_000);
    assert!(cluster.leader().is_some());
}

/// Whoever has applied a change already may be the only voter left: a leader that has not heard what became of it has no lease.
#[test]
fn while_members_change_there_is_no_lease() {
    let (mut cluster, leader) = led();
    renew(&mut cluster, leader);
    let ticket = cluster.change(leader, &[Change::Demote(founder((leader + 1) % 3))]);
    cluster.turn();
    cluster.deliver(|_, _, _| Way::Lost);
    assert_eq!(cluster.outcome(leader, ticket), None);
    assert_eq!(at_once(&mut cluster, leader, "get a"), None);
    // Nor does it answer others by one.
    let asks = (leader + 2) % 3;
    let read = cluster.read_anywhere(asks, "get a");
    let mut questions = 0;
    for _ in 0..4 {
        cluster.turn();
        cluster.deliver(|_, _, sent| match sent.message.get_msg_type() {
            MessageType::MsgReadIndex => {
                questions += 1;
                Way::Arrives
            }
            MessageType::MsgReadIndexResp => Way::Arrives,
            _ => Way::Lost,
        });
    }
    assert_eq!((questions, cluster.got(asks, read)), (1, None));
}

/// A lease that is half over is renewed once, however many reads come until that is answered.
#[test]
fn one_round_renews_a_lease() {
    let (mut cluster, leader) = led();
    renew(&mut cluster, leader);
    cluster.wait(LEASE_MS / 2 + 10);
    let rounds = cluster.status(leader).read_rounds;
    for _ in 0..10 {
        assert!(at_once(&mut cluster, leader, "get a").is_some());
        cluster.turn();
    }
    assert_eq!(cluster.status(leader).read_rounds, rounds + 1);
}

/// What only the clock calls expired is logged before anybody is told, under a lease too.
#[test]
fn what_has_expired_is_logged_first() {
    let (mut cluster, leader) = led();
    let key = format!("until{}", cluster.worlds[leader].now.wall_ms + 100);
    cluster.put(leader, &format!("set {key} alive"));
    let key = format!("get {key}");
    renew(&mut cluster, leader);
    assert_eq!(at_once(&mut cluster, leader, &key).as_deref(), Some("alive"));
    cluster.pass(200);
    renew(&mut cluster, leader);
    assert_eq!(at_once(&mut cluster, leader, &key), None);
    let times = cluster.worlds[leader].shard.counters().times_proposed;
    assert_eq!(cluster.value(leader, &key), "nil");
    assert_eq!(cluster.worlds[leader].shard.counters().times_proposed, times + 1);
    assert_eq!(at_once(&mut cluster, leader, &key).as_deref(), Some("nil"));
}
