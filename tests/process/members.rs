//! Nodes that join a cluster and leave it while it runs.

use std::time::{Duration, Instant};

use redis::Value;

use crate::nodes::{Cluster, PATIENCE};

/// Asks the second node, which stays, until it is done.
fn until_done(cluster: &mut Cluster, words: &[&str]) -> Value {
    until_done_by(cluster, 2, words)
}

/// Asks a node until it is done. What is refused meanwhile has to say so in one of these words.
pub fn until_done_by(cluster: &mut Cluster, id: u64, words: &[&str]) -> Value {
    let begun = Instant::now();
    loop {
        match cluster.ask(id, words) {
            Ok(done) => return done,
            Err(error) => {
                let is_typed =
                    ["REFUSED", "UNKNOWNRESULT", "CLUSTERDOWN", "no leader", "its result is not known"];
                assert!(is_typed.iter().any(|word| error.contains(word)), "{words:?}: {error}");
                assert!(begun.elapsed() < PATIENCE, "{words:?}: {error}\n{}", cluster.log(id));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// The members as the leader of the first partition has them, each as a text.
fn members(cluster: &mut Cluster) -> String {
    format!("{:?}", until_done(cluster, &["REPLICA", "LIST", "2"]))
}

fn add(cluster: &mut Cluster, id: u64) {
    add_by(cluster, 2, id);
}

/// Has a node add another one.
pub fn add_by(cluster: &mut Cluster, by: u64, id: u64) {
    let (peer, client) = (cluster.node(id).peer_port, cluster.node(id).client_port);
    let [peer, client] = [peer, client].map(|port| format!("127.0.0.1:{port}"));
    until_done_by(cluster, by, &["REPLICA", "ADD", "ALL", &id.to_string(), &peer, &client]);
}

fn set_keys(cluster: &mut Cluster, name: &str) {
    let leader = cluster.leader();
    for n in 0..50 {
        cluster.ask(leader, &["SET", &format!("{name}:{n}"), &n.to_string()]).expect("acknowledged");
    }
}

fn has_keys(cluster: &mut Cluster, name: &str) {
    let leader = cluster.leader();
    for n in 0..50 {
        let found = cluster.ask(leader, &["GET", &format!("{name}:{n}")]);
        assert_eq!(found, Ok(Value::BulkString(n.to_string().into_bytes())), "{name}:{n}");
    }
}

#[test]
fn a_fourth_node_joins_gets_a_vote_and_the_first_leaves() {
    let mut cluster = Cluster::started(3);
    set_keys(&mut cluster, "before");
    let fourth = cluster.add_joining();
    cluster.start(fourth);
    // Nothing has come yet, and nothing is lost.
    cluster.kill_9(fourth);
    cluster.start(fourth);
    let early = cluster.ask(1, &["REPLICA", "PROMOTE", "2", "4"]).expect_err("it is no member");
    assert!(early.contains("node 4 has no member of the group"), "{early}");
    add(&mut cluster, fourth);
    assert!(members(&mut cluster).contains("role=learner"));
    until_done(&mut cluster, &["REPLICA", "PROMOTE", "ALL", "4"]);
    let promoted = members(&mut cluster);
    assert!(promoted.contains("node=4") && !promoted.contains("role=learner"), "{promoted}");
    set_keys(&mut cluster, "between");
    until_done(&mut cluster, &["REPLICA", "TRANSFER", "2", "1"]);
    until_done(&mut cluster, &["REPLICA", "REMOVE", "ALL", "1"]);
    let removed = members(&mut cluster);
    assert!(!removed.contains("node=1"), "{removed}");
    cluster.kill_9(1);
    set_keys(&mut cluster, "after");
    // Two of three: the vote of the fourth counts, and after a restart it is found by what the log has of it.
    for (away, back) in [(2, 3), (3, 2)] {
        cluster.kill_9(back);
        cluster.start(back);
        cluster.await_level();
        cluster.kill_9(away);
        for name in ["before", "between", "after"] {
            has_keys(&mut cluster, name);
        }
        cluster.start(away);
        cluster.await_level();
    }
    cluster.kill_9(fourth);
    cluster.start(fourth);
    cluster.await_level();
    has_keys(&mut cluster, "after");
}

/// A node that joins cannot meet a founder that is gone for good: it is told that it has left, and never hears it.
#[test]
fn a_new_node_takes_the_place_of_a_founder_that_is_gone() {
    let mut cluster = Cluster::started(3);
    set_keys(&mut cluster, "before");
    cluster.kill_9(3);
    until_done(&mut cluster, &["REPLICA", "REMOVE", "ALL", "3"]);
    cluster.left = vec![3];
    // It is on the same machine.
    let fourth = cluster.add_joining_at(3);
    cluster.start(fourth);
    add(&mut cluster, fourth);
    until_done(&mut cluster, &["REPLICA", "PROMOTE", "ALL", "4"]);
    // Each of the three can be away, though one founder is.
    for away in [1, fourth, 2] {
        cluster.await_level();
        cluster.kill_9(away);
        has_keys(&mut cluster, "before");
        cluster.start(away);
    }
    cluster.await_level();
    let shared = cluster.node(3).client_port;
    for id in [fourth, 1, 2] {
        let nodes = format!("{:?}", cluster.ask(id, &["CLUSTER", "NODES"]).expect("a list"));
        let named = nodes.matches(&format!(":{shared}@")).count();
        assert_eq!(named, 1, "the one that is gone is not named by node {id}: {nodes}");
    }
    // By a description that says so it cannot come back.
    let own = cluster.dir.path().join("node-4.toml");
    let mut server = cluster.spawn_by(3, &own, &[]);
    assert_eq!(server.wait().code(), Some(78), "{}", server.log());
    assert!(server.log().contains("3 has left the cluster"), "{}", server.log());
}

#[test]
fn a_node_that_lost_its_data_is_not_heard_as_the_member_that_it_was() {
    let mut cluster = Cluster::started(3);
    let fourth = cluster.add_joining();
    cluster.start(fourth);
    add(&mut cluster, fourth);
    until_done(&mut cluster, &["REPLICA", "PROMOTE", "ALL", "4"]);
    cluster.await_level();
    cluster.kill_9(fourth);
    std::fs::remove_dir_all(&cluster.node(fourth).folder).expect("removed");
    let peers = cluster.dir.path().join("node-4.toml");
    cluster.format_by(fourth, &peers, "4MiB");
    cluster.start(fourth);
    set_keys(&mut cluster, "without");
    let (peer, client) = (cluster.node(fourth).peer_port, cluster.node(fourth).client_port);
    let [peer, client] = [peer, client].map(|port| format!("127.0.0.1:{port}"));
    let begun = Instant::now();
    loop {
        match cluster.ask(1, &["REPLICA", "ADD", "2", "4", &peer, &client]) {
            Err(error) if error.contains("lost the data of its member") => break,
            // It was not heard yet.
            other => assert!(begun.elapsed() < PATIENCE, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // As another member it may come back.
    until_done(&mut cluster, &["REPLICA", "REMOVE", "ALL", "4"]);
    add(&mut cluster, fourth);
    until_done(&mut cluster, &["REPLICA", "PROMOTE", "ALL", "4"]);
    cluster.await_level();
}

/// What it has left is deleted: by its time, or since it is to be a member again, whether it has heard of its removal or was away.
#[test]
fn a_founder_that_was_removed_comes_back_with_its_folder() {
    let mut cluster = Cluster::started(3);
    for (round, (is_away, keep_s)) in [(false, "0"), (false, "3600"), (true, "3600")].into_iter().enumerate()
    {
        set_keys(&mut cluster, &format!("before {round}"));
        cluster.ask(1, &["CONFIG", "SET", "removed_keep_s", keep_s]).expect("it is set");
        if is_away {
            cluster.kill_9(1);
        }
        until_done(&mut cluster, &["REPLICA", "REMOVE", "ALL", "1"]);
        set_keys(&mut cluster, &format!("without {round}"));
        if is_away {
            cluster.start(1);
        }
        if keep_s == "0" {
            // Its replicas are deleted before any of another member comes; whoever leads is asked all the same.
            cluster.await_figure(1, ("raft", "raft_groups"), 0);
            let moved = cluster.ask(1, &["GET", "before 0:0"]).expect_err("it is told who leads");
            assert!(moved.contains("Moved"), "{moved}");
        }
        add(&mut cluster, 1);
        until_done(&mut cluster, &["REPLICA", "PROMOTE", "ALL", "1"]);
        cluster.await_level();
        cluster.kill_9(1);
        cluster.start(1);
        cluster.await_level();
        // Its vote counts, and it has everything.
        for away in [2, 3] {
            cluster.kill_9(away);
            for known in 0..=round {
                has_keys(&mut cluster, &format!("before {known}"));
                has_keys(&mut cluster, &format!("without {known}"));
            }
            cluster.start(away);
            cluster.await_level();
        }
    }
}
