//! A member that joins a group: it knows itself and who leads, and waits for an image of the state.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::membership::MemberId;
use corduroy_shards::raft::replica::StartedAs;
use corduroy_shards::{Change, ChangeRefusal, Origin, Role};
use corduroy_wal::Lsn;

use crate::cluster::{Cluster, PARTITION, Way, options, storage};
use crate::common::{World, small_wal};
use crate::members::founder;

/// A group of one with a second node that joins it; returns the new member.
fn with_a_joiner() -> (Cluster, MemberId) {
    let (mut cluster, leader) = Cluster::led(1);
    cluster.put(leader, "set a 1");
    let member = MemberId(cluster.make(leader, &[Change::AddLearner(storage(1))]).get());
    let origin = Origin::Join { member, leader: (founder(leader), storage(leader)) };
    let mut world = World::of(options(1), small_wal(), vec![(PARTITION, origin)]);
    world.now = cluster.worlds[leader].now;
    cluster.worlds.push(world);
    cluster.is_up.push(true);
    (cluster, member)
}

/// Who joins does not know what the group was founded with: it starts from an image of the state, never from the log's
/// beginning, be its leader one that has all of that in memory.
#[test]
fn who_joins_never_gets_the_logs_beginning() {
    let (mut cluster, member) = with_a_joiner();
    for round in 0..3 {
        cluster.pass(2_000);
        let status = cluster.status(1);
        assert_eq!(
            (status.started_as, status.last, status.role),
            (StartedAs::Joining, Lsn::ZERO, Role::Follower)
        );
        assert_eq!((status.leader, status.term), (Some(MemberId::FIRST), cluster.status(0).term));
        assert_eq!(cluster.worlds[1].shard.counters().refused_messages, 0, "it was not even sent");
        cluster.put(0, &format!("set a {round}"));
        // What was applied comes from the log in memory again.
        cluster.kill(0);
        cluster.start(0, true);
        cluster.elect();
    }
    assert_eq!(cluster.refusal(0, &[Change::Promote(member)]), {
        let entries = cluster.status(0).last.get();
        ChangeRefusal::Behind { member, entries }
    });
    cluster.make(0, &[Change::Remove(member)]);
    cluster.put(0, "set a 9");
}

/// What it is was written before it says anything, and it is that after a restart.
#[test]
fn who_joins_keeps_its_name_before_it_answers() {
    let (mut cluster, member) = with_a_joiner();
    let disk = cluster.worlds[1].disk.clone();
    disk.set_manual(true);
    for _ in 0..10 {
        for world in &mut cluster.worlds {
            world.now.mono_ns += 50_000_000;
        }
        cluster.turn();
        assert!(cluster.under_way.iter().all(|(from, _)| *from == 0), "it answers before it is durable");
        cluster.deliver(|_, _, _| Way::Arrives);
    }
    disk.complete_all();
    disk.set_manual(false);
    cluster.pass(300);
    let saved = cluster.saved(1);
    assert!(saved.is_joining(member), "{saved:?}");
    assert_eq!((saved.storage(member), saved.storage(MemberId::FIRST)), (Some(storage(1)), Some(storage(0))));
    cluster.worlds[1].origins = vec![(PARTITION, Origin::Restart)];
    cluster.kill(1);
    cluster.start(1, true);
    cluster.pass(1_000);
    assert_eq!(cluster.status(1).started_as, StartedAs::Joining);
    assert_eq!(cluster.status(1).leader, Some(MemberId::FIRST));
}
