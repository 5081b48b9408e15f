//! Members that come, go, get a vote and lose it: one change at a time, each once, and durable before anything behind it is
//! applied.

use corduroy_shards::raft::membership::{MemberId, StorageId};
use corduroy_shards::{Change, ChangeRefusal, MemberOutcome, MemberRequest, Role};
use corduroy_wal::Lsn;
use raft::eraftpb::MessageType;

use crate::cluster::{Cluster, PARTITION, Way, storage};
use crate::common::Got;

/// The member that founded the group on a node.
pub const fn founder(node: usize) -> MemberId {
    MemberId(1 + node as u64)
}

pub fn others(cluster: &Cluster, node: usize) -> Vec<usize> {
    cluster.nodes().filter(|other| *other != node).collect()
}

#[test]
fn a_vote_is_taken_and_given_back_and_every_disk_says_so() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let other = (leader + 1) % 3;
    let demoted = cluster.make(leader, &[Change::Demote(founder(other))]);
    for node in cluster.nodes() {
        let saved = cluster.saved(node);
        assert_eq!((saved.as_of, saved.is_voter(founder(other))), (demoted, false), "node {node}");
        assert_eq!(saved.storage(founder(other)), Some(storage(other)), "node {node}");
    }
    cluster.put(leader, "set a 2");
    let promoted = cluster.make(leader, &[Change::Promote(founder(other))]);
    assert!(promoted > demoted);
    for node in cluster.nodes() {
        assert_eq!((cluster.saved(node).as_of, cluster.saved(node).voters().count()), (promoted, 3));
    }
    cluster.pass(300);
    assert_eq!(cluster.check_same().len(), 2);
}

/// A learner that has everything is no part of a majority.
#[test]
fn without_a_vote_nobody_counts() {
    let (mut cluster, leader) = Cluster::led(3);
    let [learner, voter] = others(&cluster, leader)[..] else { panic!("three nodes") };
    cluster.make(leader, &[Change::Demote(founder(learner))]);
    cluster.isolate(voter);
    let ticket = cluster.write(leader, "set a 1");
    for _ in 0..50 {
        cluster.turn();
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    assert_eq!(cluster.got(leader, ticket), None, "of two voters one has it");
    cluster.heal();
    cluster.pass(300);
    assert!(matches!(cluster.got(leader, ticket), Some(Got::Done(..))));
}

/// Before that nothing says that a change of who led before is not the last word (the erratum of 2015 to single changes).
#[test]
fn a_new_leader_changes_nothing_before_an_entry_of_its_term() {
    let (mut cluster, old) = Cluster::led(3);
    cluster.put(old, "set a 1");
    cluster.isolate(old);
    let [first, second] = others(&cluster, old)[..] else { panic!("three nodes") };
    let leads = |cluster: &Cluster| {
        [first, second].into_iter().find(|node| cluster.status(*node).role == Role::Leader)
    };
    let mut turns = 0..2_000;
    let new = loop {
        assert!(turns.next().is_some(), "one of the two others is elected");
        if turns.start % 20 == 0 {
            cluster.wait(50);
        }
        cluster.turn();
        // Votes come and go; what would commit an entry does not.
        cluster.deliver(|_, _, sent| match sent.message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgHeartbeat => Way::Lost,
            _ => Way::Arrives,
        });
        if let Some(new) = leads(&cluster) {
            break new;
        }
    };
    let status = cluster.status(new);
    assert!(status.applied < status.last, "its first entry is not committed");
    let other = first + second - new;
    let remove = [Change::Demote(founder(other))];
    let ticket = cluster.change(new, &remove);
    cluster.turn();
    assert_eq!(cluster.outcome(new, ticket), Some(MemberOutcome::Rejected(ChangeRefusal::TooEarly)));
    let ticket = cluster.transfer(new, founder(other));
    cluster.turn();
    assert_eq!(cluster.outcome(new, ticket), Some(MemberOutcome::Rejected(ChangeRefusal::TooEarly)));
    cluster.heal();
    cluster.pass(500);
    let leader = cluster.elect();
    cluster.make(leader, &[Change::Demote(founder((leader + 1) % 3))]);
}

#[test]
fn a_new_member_is_named_by_its_entry() {
    let (mut cluster, leader) = Cluster::led(1);
    cluster.put(leader, "set a 1");
    let before = cluster.status(leader).last;
    let added = cluster.make(leader, &[Change::AddLearner(storage(7))]);
    assert_eq!(added, before.next());
    let saved = cluster.saved(leader);
    assert_eq!(saved.storage(MemberId(added.get())), Some(storage(7)));
    assert!(!saved.votes(MemberId(added.get())));
    let taken = cluster.refusal(leader, &[Change::AddLearner(storage(7))]);
    assert_eq!(taken, ChangeRefusal::Storage(storage(7)));
    cluster.put(leader, "set a 2");
    let left = cluster.make(leader, &[Change::Remove(MemberId(added.get()))]);
    assert!(cluster.saved(leader).is_alone(MemberId::FIRST));
    let again = cluster.make(leader, &[Change::AddLearner(storage(7))]);
    assert!(again > left, "an id is never given again");
    assert_eq!(cluster.value(leader, "get a"), "2");
}

/// The ids of founders are no LSNs: what is added right after the founding must not get one of theirs.
#[test]
fn a_new_member_never_gets_the_id_of_a_founder() {
    let (mut cluster, leader) = Cluster::led(5);
    assert!(cluster.status(leader).last < Lsn(5));
    let added = cluster.make(leader, &[Change::AddLearner(storage(7))]);
    assert!(added > Lsn(5), "{added}");
    assert_eq!(cluster.saved(leader).ids().count(), 6);
}

#[test]
fn changes_that_cannot_be_are_refused_with_the_reason() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let other = (leader + 1) % 3;
    let (me, it, third) = (founder(leader), founder(other), founder((leader + 2) % 3));
    let stranger = MemberId(77);
    for (changes, why) in [
        (vec![], ChangeRefusal::Unclear),
        (vec![Change::Demote(it), Change::Remove(it)], ChangeRefusal::Unclear),
        (vec![Change::AddLearner(storage(7)), Change::AddLearner(storage(8))], ChangeRefusal::Unclear),
        (vec![Change::Remove(stranger)], ChangeRefusal::Member(stranger)),
        (vec![Change::Promote(stranger)], ChangeRefusal::Member(stranger)),
        (vec![Change::Promote(it)], ChangeRefusal::Vote(it)),
        (vec![Change::AddLearner(storage(other))], ChangeRefusal::Storage(storage(other))),
        (vec![Change::AddLearner(StorageId::UNKNOWN)], ChangeRefusal::Storage(StorageId::UNKNOWN)),
        (vec![Change::Remove(it)], ChangeRefusal::Vote(it)),
        (vec![Change::Demote(third), Change::Remove(it)], ChangeRefusal::Vote(it)),
        (vec![Change::Remove(me)], ChangeRefusal::Vote(me)),
        (vec![Change::Demote(me)], ChangeRefusal::Leads(me)),
    ] {
        assert_eq!(cluster.refusal(leader, &changes), why, "{changes:?}");
    }
    assert_eq!(cluster.refusal(other, &[Change::Demote(me)]), ChangeRefusal::NotLeader);
    cluster.make(leader, &[Change::Demote(it)]);
    assert_eq!(cluster.refusal(leader, &[Change::Demote(it)]), ChangeRefusal::Vote(it));
    let counts = cluster.worlds[leader].shard.status().members;
    let kind = MemberRequest::Change(vec![Change::Demote(me)]).kind();
    assert_eq!(counts.rejected[kind][ChangeRefusal::Leads(me).reason()], 1);
    assert_eq!(counts.done.iter().sum::<u64>(), 1);
    let (mut lone, leader) = Cluster::led(1);
    assert_eq!(lone.refusal(leader, &[Change::Demote(MemberId::FIRST)]), ChangeRefusal::LastVoter);
}

#[test]
fn two_changes_at_once_are_one_too_many() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let [one, other] = others(&cluster, leader)[..] else { panic!("three nodes") };
    let tickets = [
        cluster.change(leader, &[Change::Demote(founder(one))]),
        cluster.change(leader, &[Change::Demote(founder(other))]),
    ];
    cluster.pass(300);
    assert!(matches!(cluster.outcome(leader, tickets[0]), Some(MemberOutcome::Done(_))));
    assert_eq!(cluster.outcome(leader, tickets[1]), Some(MemberOutcome::Rejected(ChangeRefusal::UnderWay)));
    assert_eq!(cluster.saved(leader).voters().count(), 2);
}

/// The state is ahead of nothing: an entry that changes members is applied once its record is durable, and what follows it
/// after that.
#[test]
fn nothing_behind_a_change_is_applied_before_it_is_durable() {
    let (mut cluster, leader) = Cluster::led(1);
    cluster.put(leader, "set a 1");
    let before = cluster.status(leader).applied;
    let disk = cluster.worlds[leader].disk.clone();
    disk.set_manual(true);
    let change = cluster.change(leader, &[Change::AddLearner(storage(7))]);
    cluster.turn();
    disk.complete_all();
    let write = cluster.write(leader, "set a 2");
    for _ in 0..5 {
        cluster.turn();
    }
    let status = cluster.status(leader);
    assert!(status.committed > before, "the entry is committed");
    assert_eq!(
        (status.applied, cluster.outcome(leader, change)),
        (before, None),
        "its record is not durable"
    );
    let world = &mut cluster.worlds[leader];
    world.shard.machine_mut().flush();
    cluster.turn();
    let world = &mut cluster.worlds[leader];
    world.run_jobs();
    cluster.turn();
    let persisted = cluster.worlds[leader].saved.borrow()[&PARTITION.0].applied;
    assert_eq!(Lsn(persisted), before, "the state does not go beyond");
    assert!(cluster.status(leader).released <= before, "nor does the log");
    for _ in 0..5 {
        disk.complete_all();
        cluster.turn();
    }
    assert_eq!(cluster.outcome(leader, change), Some(MemberOutcome::Done(before.next())));
    assert!(matches!(cluster.got(leader, write), Some(Got::Done(..))));
}

/// The machine is cut off between each two steps of a change: the entry is written, the record with the configuration is,
/// and the state is persisted behind it. Nobody ever forgets a change that was acknowledged, or takes it back.
#[test]
fn a_change_survives_a_power_cut_between_each_two_steps() {
    for cut_after in 0..12 {
        let (mut cluster, leader) = Cluster::led(1);
        cluster.put(leader, "set a 1");
        let added = cluster.make(leader, &[Change::AddLearner(storage(7))]);
        let disk = cluster.worlds[leader].disk.clone();
        disk.set_manual(true);
        let removed = cluster.status(leader).last.next();
        let change = cluster.change(leader, &[Change::Remove(MemberId(added.get()))]);
        for step in 0..cut_after {
            cluster.turn();
            if step % 3 == 1 {
                disk.complete_all();
            }
            if step % 4 == 3 {
                cluster.worlds[leader].shard.machine_mut().flush();
                cluster.turn();
                cluster.worlds[leader].run_jobs();
            }
        }
        let is_done = matches!(cluster.outcome(leader, change), Some(MemberOutcome::Done(_)));
        cluster.kill(leader);
        cluster.start(leader, true);
        cluster.elect();
        cluster.pass(300);
        let saved = cluster.saved(leader);
        let status = cluster.status(leader);
        assert!(saved.as_of <= status.applied, "{saved:?}, {} applied", status.applied);
        assert!(!is_done || saved.is_alone(MemberId::FIRST), "cut after {cut_after}: {saved:?}");
        let is_learner = saved.storage(MemberId(added.get())) == Some(storage(7));
        assert!(is_learner || saved.as_of == removed, "cut after {cut_after}: {saved:?}");
        assert_eq!(cluster.value(leader, "get a"), "1");
    }
}

/// The state was persisted before both changes, so both entries come again after a restart: taken in once more, the first
/// would take the vote away that the second has given back.
#[test]
fn changes_that_are_replayed_are_not_made_again() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let it = founder((leader + 1) % 3);
    cluster.make(leader, &[Change::Demote(it)]);
    let promoted = cluster.make(leader, &[Change::Promote(it)]);
    cluster.put(leader, "set a 2");
    cluster.pass(300);
    for node in cluster.nodes() {
        cluster.kill(node);
        cluster.start(node, true);
        // Turn by turn: at no point of the replay is anybody without a vote.
        for _ in 0..20 {
            cluster.turn_of(node);
            let saved = cluster.saved(node);
            assert_eq!((saved.as_of, saved.voters().count()), (promoted, 3), "node {node}");
        }
    }
    let leader = cluster.elect();
    assert_eq!(cluster.refusal(leader, &[Change::Promote(founder((leader + 1) % 3))]), {
        ChangeRefusal::Vote(founder((leader + 1) % 3))
    });
    cluster.pass(300);
    assert_eq!(cluster.check_same().len(), 2);
}

#[test]
fn who_is_behind_gets_no_vote() {
    let (mut cluster, leader) = Cluster::led(3);
    let learner = (leader + 1) % 3;
    cluster.make(leader, &[Change::Demote(founder(learner))]);
    cluster.isolate(learner);
    for number in 0..1_100 {
        cluster.put(leader, &format!("set a {number}"));
    }
    let why = cluster.refusal(leader, &[Change::Promote(founder(learner))]);
    assert!(matches!(why, ChangeRefusal::Behind { entries: 1_100.., .. }), "{why:?}");
    cluster.heal();
    cluster.pass(3_000);
    cluster.make(leader, &[Change::Promote(founder(learner))]);
}

/// It has all entries, and has applied none of them: its first key has to be fetched, and is not.
#[test]
fn who_has_applied_too_little_gets_no_vote() {
    let (mut cluster, leader) = Cluster::led(3);
    let learner = (leader + 1) % 3;
    cluster.make(leader, &[Change::Demote(founder(learner))]);
    for node in others(&cluster, learner) {
        cluster.worlds[node].shard.machine_mut().warm.insert("cold".to_owned());
    }
    cluster.put(leader, "set cold 1");
    for number in 0..1_100 {
        cluster.put(leader, &format!("set a {number}"));
    }
    cluster.pass(300);
    assert_eq!(cluster.status(learner).last, cluster.status(leader).last);
    let why = cluster.refusal(leader, &[Change::Promote(founder(learner))]);
    assert!(matches!(why, ChangeRefusal::Behind { entries: 1_000.., .. }), "{why:?}");
    cluster.worlds[learner].run_jobs();
    cluster.pass(300);
    cluster.make(leader, &[Change::Promote(founder(learner))]);
}

/// Two members change at once, and the leader dies at each step of it: whoever leads then leaves the joint configuration.
#[test]
fn a_joint_configuration_is_left_whoever_dies() {
    for died_after in 0..12 {
        let (mut cluster, leader) = Cluster::led(5);
        cluster.put(leader, "set a 1");
        let [one, other, ..] = others(&cluster, leader)[..] else { panic!("five nodes") };
        let demoted = [Change::Demote(founder(one)), Change::Demote(founder(other))];
        let ticket = cluster.change(leader, &demoted);
        for _ in 0..died_after {
            cluster.turn();
            cluster.deliver(|_, _, _| Way::Arrives);
        }
        let outcome = cluster.outcome(leader, ticket);
        cluster.kill(leader);
        let next = cluster.elect();
        cluster.start(leader, true);
        cluster.pass(1_000);
        let saved = cluster.saved(next);
        assert!(!saved.is_joint(), "died after {died_after}: {saved:?}");
        let voters = saved.voters().count();
        assert!(voters == 3 || voters == 5 && outcome.is_none(), "died after {died_after}: {saved:?}");
        for node in cluster.nodes() {
            assert_eq!(cluster.saved(node), saved, "died after {died_after}: node {node}");
        }
        let leader = cluster.leader().expect("somebody leads");
        cluster.put(leader, "set a 2");
        cluster.pass(300);
        assert_eq!(cluster.check_same().len(), 2);
    }
}

#[test]
fn the_lead_is_handed_on() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let next = (leader + 1) % 3;
    let ticket = cluster.transfer(leader, founder(next));
    cluster.pass(300);
    assert!(matches!(cluster.outcome(leader, ticket), Some(MemberOutcome::Done(_))));
    assert_eq!(cluster.leader(), Some(next));
    cluster.put(next, "set a 2");
    let stranger = cluster.transfer(next, MemberId(77));
    let itself = cluster.transfer(next, founder(next));
    cluster.rest();
    let rejected = |why| Some(MemberOutcome::Rejected(why));
    assert_eq!(cluster.outcome(next, stranger), rejected(ChangeRefusal::Member(MemberId(77))));
    assert_eq!(cluster.outcome(next, itself), rejected(ChangeRefusal::Leads(founder(next))));
    // Nobody is there to take it: it stays, as far as anybody can know.
    let gone = (next + 1) % 3;
    cluster.kill(gone);
    let vain = cluster.transfer(next, founder(gone));
    cluster.pass(2_000);
    assert_eq!(cluster.outcome(next, vain), Some(MemberOutcome::Unknown));
    cluster.put(next, "set a 3");
}

/// What changes members has no stamp: the clock of who leads next goes on from the writes.
#[test]
fn changes_do_not_move_the_clock() {
    let (mut cluster, leader) = Cluster::led(3);
    let next = (leader + 1) % 3;
    let third = (leader + 2) % 3;
    cluster.put(leader, "set a 1");
    cluster.make(leader, &[Change::Demote(founder(third))]);
    cluster.make(leader, &[Change::Promote(founder(third))]);
    cluster.transfer(leader, founder(next));
    cluster.pass(300);
    let ticket = cluster.write(next, "clock");
    cluster.rest();
    let wall_ms = cluster.worlds[next].now.wall_ms;
    match cluster.got(next, ticket) {
        Some(Got::Done(_, stamp)) => {
            let stamp: u64 = stamp.parse().expect("a number");
            assert!(stamp <= wall_ms, "{stamp} at {wall_ms}");
        }
        other => panic!("{other:?}"),
    }
}
