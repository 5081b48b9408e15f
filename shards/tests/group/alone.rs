//! Groups that were alone before members joined them: without Raft, or on a storage of another name.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::raft::membership::{MemberId, StorageId};
use corduroy_shards::raft::replica::Replication;
use corduroy_shards::{Change, Origin, ShardOptions};
use corduroy_wal::{Lsn, Options};

use crate::cluster::{Cluster, PARTITION, options, storage};
use crate::common::World;
use crate::images::{catch_up, installed, replace_one};

/// A log that was kept without Raft has entries of term 0, behind which a gap looks like a match: who joins gets none of it.
#[test]
fn who_joins_a_log_that_was_kept_without_raft_gets_an_image() {
    let solo = |node| ShardOptions { replication: Replication::Off, ..options(node) };
    let mut cluster = Cluster::with(1, solo, Options { segment_bytes: 1 << 20, ..Options::default() });
    cluster.rest();
    for number in 0..10 {
        cluster.put(0, &format!("set {number} solo"));
    }
    cluster.kill(0);
    cluster.worlds[0].options = options(0);
    cluster.worlds[0].origins = vec![(PARTITION, Origin::Restart)];
    cluster.start(0, false);
    grows(cluster, Lsn(11));
}

/// The same of a group that was alone on a storage of another name, with Raft or without: it goes on as its first member here.
#[test]
fn a_group_that_was_alone_goes_on_on_a_storage_of_another_name() {
    let before = StorageId(7);
    for (replication, first) in [(Replication::Off, Lsn(11)), (Replication::On, Lsn(12))] {
        let alone = |node| ShardOptions { replication, storage: before, ..options(node) };
        let mut cluster = Cluster::with(1, alone, Options { segment_bytes: 1 << 20, ..Options::default() });
        cluster.worlds[0] =
            World::of(alone(0), cluster.worlds[0].wal_options, vec![(PARTITION, Origin::alone(before))]);
        cluster.rest();
        for number in 0..10 {
            cluster.put(0, &format!("set {number} alone"));
        }
        cluster.worlds[0].options = options(0);
        cluster.worlds[0].origins = vec![(PARTITION, Origin::Restart)];
        if replication == Replication::On {
            cluster.may_stop.insert(0);
            cluster.kill(0);
            cluster.start(0, false);
            cluster.rest();
            let why = &cluster.worlds[0].fenced[0].1;
            assert!(why.contains("put the folder back"), "{why}");
            cluster.may_stop.clear();
            cluster.worlds[0].fenced.clear();
        }
        cluster.worlds[0].origins = vec![(PARTITION, Origin::AloneOn(before))];
        // However often it dies before its name is written, and after.
        for _ in 0..3 {
            cluster.kill(0);
            cluster.start(0, true);
        }
        cluster.elect();
        assert_eq!(
            cluster.saved(0).storage(MemberId::FIRST),
            Some(storage(0)),
            "what it is called now is saved"
        );
        cluster.worlds[0].origins = vec![(PARTITION, Origin::Restart)];
        cluster.kill(0);
        cluster.start(0, true);
        cluster.elect();
        let elections = cluster.status(0).last.get() - first.get();
        assert!(elections <= 4, "{elections} entries began terms");
        let last = cluster.status(0).last;
        grows(cluster, last);
    }
}

/// A second member joins the only one of a group and gets an image, a third one takes the place of the first.
fn grows(mut cluster: Cluster, last: Lsn) {
    let leader = cluster.elect();
    assert_eq!(cluster.status(leader).last, last);
    let leader = {
        let member = MemberId(cluster.make(leader, &[Change::AddLearner(storage(1))]).get());
        let node = cluster.join(member, leader);
        catch_up(&mut cluster, leader, node);
        assert_eq!(installed(&cluster, node), 1);
        cluster.work(500);
        cluster.make(leader, &[Change::Promote(member)]);
        leader
    };
    let next = replace_one(&mut cluster, leader);
    cluster.put(next, "set a after");
    cluster.work(500);
    let left: Vec<_> = cluster.nodes().filter(|node| cluster.is_up[*node]).collect();
    assert!(left.iter().all(|node| cluster.history(*node) == cluster.history(next)), "{left:?}");
}
