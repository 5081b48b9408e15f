//! What a removed member has left is deleted, and its storage has another member of the group later.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::left::Deletion;
use corduroy_shards::raft::membership::MemberId;
use corduroy_shards::raft::replica::StartedAs;
use corduroy_shards::{Change, Origin, Role};
use corduroy_wal::Lsn;

use crate::cluster::{Cluster, PARTITION, storage};
use crate::images::catch_up;
use crate::members::{founder, others};

/// A group of three that has removed one, which may not hear of that: the leader, and the one that was removed.
fn with_one_removed(hears: bool) -> (Cluster, usize, usize) {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let gone = (leader + 1) % 3;
    if !hears {
        cluster.isolate(gone);
        cluster.put(leader, "set a unheard");
    }
    for change in [Change::Demote(founder(gone)), Change::Remove(founder(gone))] {
        cluster.make(leader, &[change]);
    }
    cluster.put(leader, "set b 2");
    cluster.may_stop.insert(gone);
    cluster.heal();
    (cluster, leader, gone)
}

/// The storage is added to the group again; returns where its replica comes from.
fn add(cluster: &mut Cluster, leader: usize, node: usize) -> Origin {
    let member = MemberId(cluster.make(leader, &[Change::AddLearner(storage(node))]).get());
    let known = cluster.status(leader).leader.expect("it leads");
    Origin::Join { member, leader: (known, storage(leader)) }
}

/// Asks for the deletion once, and does what there is to do.
fn delete(cluster: &mut Cluster, node: usize, next: &Origin) -> Deletion {
    let deletion = cluster.worlds[node].shard.delete(PARTITION, next).expect("the log goes on");
    if deletion == Deletion::UnderWay {
        cluster.worlds[node].settle();
        cluster.worlds[node].run_jobs();
        cluster.worlds[node].settle();
    }
    deletion
}

fn delete_all(cluster: &mut Cluster, node: usize, next: &Origin) {
    let mut asked = 0;
    while delete(cluster, node, next) != Deletion::Done {
        asked += 1;
        assert!(asked < 10, "it does not end");
    }
}

fn open(cluster: &mut Cluster, node: usize, origin: &Origin) {
    assert!(cluster.worlds[node].shard.add(PARTITION, origin, 9).expect("the log goes on"));
    cluster.worlds[node].origins = vec![(PARTITION, Origin::Restart)];
}

/// What is left is deleted, and the replica of another member is there.
fn begin_anew(cluster: &mut Cluster, node: usize, origin: &Origin) {
    delete_all(cluster, node, origin);
    open(cluster, node, origin);
}

/// It is a member like any other: it has all, gets a vote, and the others can do without the leader.
fn takes_part(cluster: &mut Cluster, leader: usize, node: usize, origin: &Origin) {
    let Origin::Join { member, .. } = *origin else { panic!("it joins") };
    catch_up(cluster, leader, node);
    cluster.make(leader, &[Change::Promote(member)]);
    cluster.put(leader, "set c 3");
    cluster.work(500);
    cluster.check_same();
    assert_eq!(cluster.saved(node).member_on(storage(node)), Some(member));
    cluster.kill(leader);
    let next = cluster.elect();
    assert_ne!(next, leader);
    cluster.put(next, "set d 4");
    cluster.kill(node);
    cluster.start(node, true);
    cluster.start(leader, true);
    cluster.work(4_000);
    let history = cluster.check_same();
    assert_eq!(history.last().map(|(_, op)| op.as_str()), Some("set d 4"));
}

#[test]
fn a_removed_member_comes_back_as_another_one() {
    for hears in [true, false] {
        let (mut cluster, leader, gone) = with_one_removed(hears);
        let origin = add(&mut cluster, leader, gone);
        delete_all(&mut cluster, gone, &origin);
        assert_eq!(delete(&mut cluster, gone, &origin), Deletion::Done, "it may be asked again");
        open(&mut cluster, gone, &origin);
        assert_eq!(cluster.status(gone).started_as, StartedAs::Joining);
        assert_eq!(cluster.status(gone).applied, Lsn::ZERO);
        takes_part(&mut cluster, leader, gone, &origin);
    }
}

/// Wherever the power is cut, the next start finds either what there was or nothing, and the deletion is begun again.
#[test]
fn a_deletion_that_is_cut_off_is_begun_again() {
    for (hears, is_power_loss) in [(true, true), (true, false), (false, true), (false, false)] {
        for steps in 0..5 {
            let (mut cluster, leader, gone) = with_one_removed(hears);
            let origin = add(&mut cluster, leader, gone);
            for _ in 0..steps {
                delete(&mut cluster, gone, &origin);
            }
            if steps == 4 {
                open(&mut cluster, gone, &origin);
            }
            cluster.kill(gone);
            cluster.start(gone, is_power_loss);
            cluster.turn();
            if cluster.status(gone).started_as != StartedAs::Joining {
                begin_anew(&mut cluster, gone, &origin);
            }
            takes_part(&mut cluster, leader, gone, &origin);
        }
    }
}

/// Of whom nothing is left it is known nevertheless that it was removed, so nobody founds or joins the group as that one again.
#[test]
fn what_was_deleted_does_not_come_back_as_it_was() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let gone = others(&cluster, leader)[0];
    cluster.may_stop.insert(gone);
    cluster.make(leader, &[Change::Demote(founder(gone))]);
    let removed = cluster.make(leader, &[Change::Remove(founder(gone))]);
    // Brought up to date by whoever has it.
    assert_eq!(cluster.worlds[gone].removed, [(PARTITION, removed)]);
    let origins = cluster.worlds[gone].origins.clone();
    delete_all(&mut cluster, gone, &Origin::Restart);
    assert!(cluster.worlds[gone].shard.replica(PARTITION).is_none());
    let joins = Origin::Join { member: founder(gone), leader: (founder(leader), storage(leader)) };
    for origin in [origins[0].1.clone(), joins, Origin::Restart] {
        cluster.worlds[gone].removed.clear();
        cluster.worlds[gone].origins = vec![(PARTITION, origin)];
        cluster.kill(gone);
        cluster.start(gone, true);
        cluster.turn();
        assert_eq!(cluster.worlds[gone].removed, [(PARTITION, removed)]);
        assert_eq!(cluster.worlds[gone].shard.counters().fenced, 0);
        assert_eq!(cluster.worlds[gone].part().history, []);
        delete_all(&mut cluster, gone, &Origin::Restart);
    }
    // Once that is durable, it is not opened any more.
    cluster.worlds[gone].settle();
    cluster.worlds[gone].removed.clear();
    cluster.kill(gone);
    cluster.start(gone, true);
    cluster.turn();
    assert_eq!(cluster.worlds[gone].removed, []);
    assert!(cluster.worlds[gone].shard.replica(PARTITION).is_none());
    let origin = add(&mut cluster, leader, gone);
    begin_anew(&mut cluster, gone, &origin);
    takes_part(&mut cluster, leader, gone, &origin);
}

#[test]
fn a_member_is_not_deleted() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    let earlier = Origin::Join { member: founder(leader), leader: (MemberId(2), storage(1)) };
    for next in [Origin::Restart, earlier, cluster.worlds[leader].origins[0].1.clone()] {
        assert_eq!(delete(&mut cluster, leader, &next), Deletion::Refused);
    }
    assert_eq!(cluster.status(leader).role, Role::Leader);
    cluster.put(leader, "set a 2");
    let (mut cluster, leader) = Cluster::led(1);
    cluster.put(leader, "set a 1");
    let later = Origin::Join { member: MemberId(900), leader: (MemberId(2), storage(1)) };
    assert_eq!(delete(&mut cluster, leader, &later), Deletion::Refused, "the group cannot do without it");
    cluster.put(leader, "set a 2");
}

/// A replica that has lost the end of its log may have acknowledged it: it is fenced, and its storage has another member once it is
/// removed.
#[test]
fn a_fenced_replica_is_replaced_by_another_member() {
    let (mut cluster, leader) = Cluster::led(3);
    cluster.put(leader, "set a 1");
    cluster.pass(300);
    let lost = (leader + 1) % 3;
    cluster.worlds[lost].shard.machine_mut().flush();
    cluster.work(300);
    cluster.kill(lost);
    // The same as if the log had ended earlier.
    cluster.worlds[lost].saved.borrow_mut().get_mut(&PARTITION.0).expect("it is flushed").applied += 9;
    cluster.may_stop.insert(lost);
    cluster.start(lost, true);
    cluster.turn();
    let why = cluster.worlds[lost].fenced.pop().map(|(_, why)| why).unwrap_or_default();
    assert!(why.contains("entries are lost"), "{why}");
    let earlier = Origin::Join { member: founder(lost), leader: (founder(leader), storage(leader)) };
    for next in [Origin::Restart, earlier] {
        assert_eq!(delete(&mut cluster, lost, &next), Deletion::Refused, "it is still a member");
    }
    for change in [Change::Demote(founder(lost)), Change::Remove(founder(lost))] {
        cluster.make(leader, &[change]);
    }
    let origin = add(&mut cluster, leader, lost);
    delete_all(&mut cluster, lost, &origin);
    open(&mut cluster, lost, &origin);
    takes_part(&mut cluster, leader, lost, &origin);
}
