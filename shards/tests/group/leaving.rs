//! Members that lose their vote and go, dead ones that would be counted on, and the lead that may still change hands.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::membership::MemberId;
use corduroy_shards::{Change, ChangeRefusal, MemberOutcome, Origin, PartitionId, PeerMessage, Role};
use corduroy_wal::Lsn;
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, PARTITION, Way, storage};
use crate::members::{founder, others};

/// Demoted first, then removed; returns the entry that did it.
fn remove(cluster: &mut Cluster, leader: usize, node: usize) -> Lsn {
    cluster.make(leader, &[Change::Demote(founder(node))]);
    cluster.make(leader, &[Change::Remove(founder(node))])
}

/// A member that is removed applies that, and nothing behind it; what it sends afterwards is dropped, and moves nobody.
#[test]
fn a_removed_member_disturbs_nobody() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let other = (leader + 1) % 3;
    let removed = remove(&mut cluster, leader, other);
    assert_eq!(cluster.saved(leader).voters().count(), 2);
    let gone = &cluster.worlds[other];
    assert!(gone.removed.is_empty() || gone.removed == [(PARTITION, removed)]);
    cluster.put(leader, "set a 2");
    let (term, changes) = (cluster.status(leader).term, cluster.status(leader).leader_changes);
    cluster.kill(other);
    cluster.start(other, true);
    cluster.pass(4_000);
    let status = cluster.status(leader);
    assert_eq!((status.role, status.term, status.leader_changes), (Role::Leader, term, changes));
    cluster.put(leader, "set a 3");
}

/// Who was removed stops when it hears of that. The other one must not need its vote any more then, wherever its power is cut.
#[test]
fn who_has_left_is_needed_by_nobody() {
    for cut_after in 0..24 {
        let (mut cluster, leader) = Cluster::led(2);
        cluster.put(leader, "set a 1");
        let other = 1 - leader;
        let disk = cluster.worlds[leader].disk.clone();
        disk.set_manual(true);
        let mut ticket = cluster.change(leader, &[Change::Remove(founder(other))]);
        for step in 0..cut_after {
            cluster.turn_of(leader);
            // The leader's disk is the slower one.
            for _ in 0..3 {
                cluster.deliver(|_, _, _| Way::Arrives);
                cluster.turn_of(other);
            }
            if step % 3 == 1 {
                disk.complete_all();
            }
            let is_voter = cluster.saved(leader).is_voter(founder(other));
            match cluster.outcome(leader, ticket) {
                Some(MemberOutcome::Rejected(ChangeRefusal::Vote(_))) => {
                    ticket = cluster.change(leader, &[Change::Demote(founder(other))]);
                }
                Some(MemberOutcome::Done(_)) if !is_voter && cluster.worlds[other].removed.is_empty() => {
                    ticket = cluster.change(leader, &[Change::Remove(founder(other))]);
                }
                _ => {}
            }
        }
        cluster.kill(leader);
        disk.set_manual(false);
        cluster.start(leader, true);
        let now = cluster.elect();
        cluster.put(now, "set a 2");
        assert!(cut_after < 23 || cluster.worlds[other].removed.len() == 1, "it has not even left");
    }
}

/// Whoever asked for it has lost the lead to the very member that is to lose its vote: it loses it nevertheless, and the
/// others go on. It is removed then, and knows that after a restart.
#[test]
fn a_leader_that_is_demoted_goes_once_the_others_know_it() {
    for members in [2, 3] {
        let (mut cluster, leader) = Cluster::led(members);
        cluster.put(leader, "set a 1");
        let next = (leader + 1) % members;
        // The entry reaches the other one, and its leader dies before it hears of that.
        let ticket = cluster.change(leader, &[Change::Demote(founder(next))]);
        cluster.turn();
        cluster.cut.extend(others(&cluster, leader).iter().map(|node| (*node, leader)));
        for _ in 0..5 {
            cluster.deliver(|_, _, _| Way::Arrives);
            cluster.turn();
        }
        assert_eq!(cluster.outcome(leader, ticket), None);
        cluster.kill(leader);
        cluster.start(leader, false);
        cluster.heal();
        let (entry, term) = (cluster.status(next).last, cluster.status(next).term);
        assert_eq!(cluster.status(leader).last, entry);
        while cluster.status(next).term == term {
            cluster.pass_for(next..next + 1, 50);
        }
        cluster.pass(3_000);
        let now = cluster.leader().expect("somebody leads");
        assert_ne!(now, next);
        assert!(!cluster.saved(now).is_voter(founder(next)));
        cluster.put(now, "set a 2");
        cluster.pass(300);
        assert!(cluster.nodes().all(|node| cluster.history(node).len() == 2));
        let removed = (PARTITION, cluster.make(now, &[Change::Remove(founder(next))]));
        assert_eq!(cluster.worlds[next].removed, [removed]);
        is_removed_after_a_restart(&mut cluster, next, now, removed);
    }
}

/// It is reported again, and is no fault; and what it has left is not taken for somebody else's.
fn is_removed_after_a_restart(
    cluster: &mut Cluster,
    node: usize,
    leader: usize,
    removed: (PartitionId, Lsn),
) {
    let led_by = (founder(leader), storage(leader));
    let before = cluster.worlds[node].origins.clone();
    let joined = vec![(PARTITION, Origin::Join { member: founder(node), leader: led_by })];
    for origins in [before, joined] {
        cluster.worlds[node].removed.clear();
        cluster.worlds[node].origins = origins;
        cluster.kill(node);
        cluster.start(node, true);
        cluster.turn();
        assert_eq!(cluster.worlds[node].removed, [removed]);
        assert_eq!(cluster.worlds[node].shard.counters().fenced, 0);
    }
    cluster.may_stop.insert(node);
    let member = cluster.make(leader, &[Change::AddLearner(storage(node))]);
    let member = MemberId(member.get());
    cluster.kill(node);
    cluster.worlds[node].origins = vec![(PARTITION, Origin::Join { member, leader: led_by })];
    cluster.start(node, true);
    cluster.turn();
    let why = cluster.worlds[node].fenced.pop().map(|(_, why)| why).unwrap_or_default();
    assert!(why.contains("delete the old one first"), "{why}");
}

/// A leader that is demoted goes on until the others know that this is committed; cut off from them it loses the lead, takes it
/// in, and votes for the one that does not know it.
#[test]
fn a_leader_that_is_demoted_stays_until_the_others_know_it() {
    for is_cut_off in [false, true] {
        let (mut cluster, leader) = Cluster::led(2);
        cluster.put(leader, "set a 1");
        let next = 1 - leader;
        cluster.change(leader, &[Change::Demote(founder(next))]);
        cluster.turn();
        cluster.cut.insert((next, leader));
        for _ in 0..5 {
            cluster.deliver(|_, _, _| Way::Arrives);
            cluster.turn();
        }
        cluster.kill(leader);
        cluster.start(leader, false);
        cluster.heal();
        let demotion = cluster.status(next).last;
        let mut quiet = 0;
        while quiet < 20 {
            let is_led = cluster.status(next).role == Role::Leader;
            quiet += usize::from(is_led);
            if !is_led {
                let now = &mut cluster.worlds[next].now;
                (now.mono_ns, now.wall_ms) = (now.mono_ns + 50_000_000, now.wall_ms + 50);
            }
            cluster.turn();
            // Nothing arrives that says so.
            cluster.deliver(|from, _, sent| match from == next && sent.message.commit >= demotion.get() {
                true => Way::Lost,
                false => Way::Arrives,
            });
        }
        assert!(cluster.status(next).committed >= demotion);
        assert!(cluster.saved(next).is_voter(founder(next)), "the other one does not know it");
        if is_cut_off {
            cluster.isolate(next);
            cluster.pass(3_000);
            assert_eq!(cluster.saved(next).as_of, demotion);
            cluster.heal();
        }
        cluster.pass(3_000);
        assert_eq!(cluster.saved(next).as_of, demotion);
        assert_eq!(cluster.leader(), Some(leader));
        cluster.put(leader, "set a 2");
    }
}

/// A learner that had everything, and died, gets no vote; nor is a vote taken from one without whom the dead would be half.
#[test]
fn the_dead_are_not_counted_on() {
    let (mut cluster, leader) = Cluster::led(2);
    cluster.put(leader, "set a 1");
    let other = 1 - leader;
    cluster.make(leader, &[Change::Demote(founder(other))]);
    cluster.kill(other);
    cluster.pass(3_000);
    let silent = ChangeRefusal::Silent { answered: 1, voters: 2 };
    assert_eq!(cluster.refusal(leader, &[Change::Promote(founder(other))]), silent);
    cluster.put(leader, "set a 2");
    cluster.start(other, true);
    cluster.pass(300);
    cluster.make(leader, &[Change::Promote(founder(other))]);

    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let [dead, other] = others(&cluster, leader)[..] else { panic!("three nodes") };
    cluster.kill(dead);
    cluster.pass(3_000);
    assert_eq!(cluster.refusal(leader, &[Change::Demote(founder(other))]), silent);
    cluster.make(leader, &[Change::Demote(founder(dead))]);
    cluster.put(leader, "set a 2");
}

/// What tells a member to take the lead is heard in the whole of its term, also when whoever sent it has given up.
#[test]
fn a_lead_that_was_not_handed_on_may_still_be() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let next = (leader + 1) % 3;
    let ticket = cluster.transfer(leader, founder(next));
    for _ in 0..3 {
        cluster.turn();
    }
    let is_it = |sent: &PeerMessage| sent.message.get_msg_type() == MessageType::MsgTimeoutNow;
    let at = cluster.under_way.iter().position(|(_, sent)| is_it(sent)).expect("it was told");
    let late = cluster.under_way.remove(at).expect("it is under way");
    cluster.pass(2_000);
    assert_eq!(cluster.outcome(leader, ticket), Some(MemberOutcome::Unknown));
    assert_eq!(cluster.leader(), Some(leader));
    cluster.under_way.push_back(late);
    cluster.pass(300);
    assert_eq!(cluster.leader(), Some(next));
}

/// A change that is committed and comes again after a restart holds up the election until it is applied, not longer.
#[test]
fn a_lone_voter_leads_again_without_waiting() {
    for is_alone in [false, true] {
        let (mut cluster, leader) = Cluster::led(1);
        cluster.put(leader, "set a 1");
        let learner = cluster.make(leader, &[Change::AddLearner(storage(7))]);
        if is_alone {
            let member = MemberId(learner.get());
            cluster.make(leader, &[Change::Remove(member)]);
        }
        cluster.put(leader, "set a 2");
        cluster.kill(leader);
        cluster.start(leader, true);
        // No time goes by.
        cluster.rest();
        assert_eq!(cluster.status(leader).role, Role::Leader, "alone: {is_alone}");
        cluster.put(leader, "set a 3");
    }
}
