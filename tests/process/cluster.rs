//! Three processes that replicate to each other: what was acknowledged survives its leader, and what does not belong together
//! stays apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::nodes::{CLUSTER, Cluster, ELECTION, Node, PATIENCE, SECRET};
use crate::server::{Server, data_dir, free_port, run, text};

fn bulk(text: &str) -> redis::Value {
    redis::Value::BulkString(text.as_bytes().to_vec())
}

#[test]
fn what_was_acknowledged_survives_the_leader() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader();
    for n in 0..50 {
        cluster.ask(leader, &["SET", &format!("key:{n}"), &format!("value:{n}")]).expect("acknowledged");
    }
    cluster.kill_9(leader);
    let next = cluster.leader();
    assert_ne!(next, leader);
    for n in 0..50 {
        assert_eq!(cluster.ask(next, &["GET", &format!("key:{n}")]), Ok(bulk(&format!("value:{n}"))));
    }
    // The old one comes back, catches up by the log, and a third leader has everything.
    cluster.start(leader);
    cluster.await_level();
    cluster.kill_9(next);
    let third = cluster.leader();
    assert_ne!(third, next);
    assert_eq!(cluster.ask(third, &["GET", "key:49"]), Ok(bulk("value:49")));
}

#[test]
fn a_follower_sends_clients_to_the_leader() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader();
    let port = cluster.node(leader).client_port;
    for follower in cluster.followers() {
        for words in [&["SET", "foo", "1"][..], &["GET", "foo"]] {
            let error = cluster.ask(follower, words).expect_err("it does not lead");
            assert!(error.contains(&format!("12182 127.0.0.1:{port}")), "{error}");
        }
        let begun = Instant::now();
        let is_known = |found: &redis::Value| format!("{found:?}").contains(&format!("int({port})"));
        loop {
            let slots = cluster.ask(follower, &["CLUSTER", "SLOTS"]).expect("it is one of a cluster");
            if is_known(&slots) {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{slots:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        while cluster.figure(follower, "peers", "peer_handshakes") == 0 {
            assert!(begun.elapsed() < PATIENCE, "its connections are not counted");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for id in cluster.ids() {
        cluster.await_role(id, if id == leader { "master" } else { "slave" });
    }
}

#[test]
fn a_minority_acknowledges_nothing() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader();
    for follower in cluster.followers() {
        cluster.kill_9(follower);
    }
    // It may think for a moment that it leads; what it takes in it cannot commit, and says so.
    let begun = Instant::now();
    while begun.elapsed() < 2 * ELECTION {
        match cluster.ask(leader, &["SET", "lonely", "1"]) {
            Err(error) => {
                assert!(error.contains("UNKNOWNRESULT") || error.contains("nothing was done"), "{error}")
            }
            Ok(answer) => panic!("acknowledged by one node of three: {answer:?}"),
        }
    }
    let back = cluster.nodes.iter().map(|node| node.id).find(|id| *id != leader).expect("there are three");
    cluster.start(back);
    cluster.leader();
}

#[test]
fn a_follower_that_was_away_catches_up_by_the_log() {
    let mut cluster = Cluster::started(3);
    let away = cluster.followers()[0];
    cluster.kill_9(away);
    let leader = cluster.leader();
    for n in 0..200 {
        cluster
            .ask(leader, &["SET", &format!("missed:{n}"), &"x".repeat(1000)])
            .expect("two of three are there");
    }
    cluster.start(away);
    cluster.await_level();
    let keyspace = format!("{:?}", cluster.ask(away, &["INFO", "keyspace"]).expect("INFO"));
    assert!(keyspace.contains("keys=201"), "{keyspace}");
}

#[test]
fn what_does_not_belong_to_the_cluster_is_refused_and_named() {
    let mut cluster = Cluster::described(3);
    let other_secret = cluster.describe("secret.toml", CLUSTER, "another secret of theirs");
    let other_cluster = cluster.describe("cluster.toml", &CLUSTER.replace('5', "6"), SECRET);
    cluster.format(1);
    cluster.start(1);
    for (peers, segment, needle) in [
        (&other_secret, "4MiB", "secret of the cluster is another one"),
        (&other_cluster, "4MiB", "the peer is of cluster"),
        (&cluster.dir.path().join("peers.toml"), "8MiB", "replicas take"),
    ] {
        cluster.format_by(2, peers, segment);
        cluster.start_by(2, peers, &["--wal-segment-bytes", segment]);
        cluster.await_log(2, needle);
        cluster.await_log(1, needle);
        cluster.kill_9(2);
        fs::remove_dir_all(&cluster.node(2).folder).expect("removed");
    }
}

#[test]
fn two_processes_of_one_node_are_noticed() {
    let mut cluster = Cluster::described(3);
    (1..=2).for_each(|id| cluster.format(id));
    cluster.start(1);
    // A second folder of node 1, started at the address where node 2 is looked for.
    let other = cluster.dir.path().join("copy");
    let peers = cluster.dir.path().join("peers.toml");
    let mut described = fs::read_to_string(&peers).expect("written");
    for (one, two) in [
        (cluster.node(1).peer_port, cluster.node(2).peer_port),
        (cluster.node(1).client_port, cluster.node(2).client_port),
    ] {
        let (one, two) = (format!(":{one}\""), format!(":{two}\""));
        described = described.replace(&one, ":x\"").replace(&two, &one).replace(":x\"", &two);
    }
    let exchanged = cluster.dir.path().join("exchanged.toml");
    fs::write(&exchanged, described).expect("written");
    let own = std::mem::replace(&mut cluster.node(1).folder, other);
    cluster.format_by(1, &exchanged, "4MiB");
    let port = cluster.node(2).client_port;
    let flags = ["--peers", &text(&exchanged), "--node-id", "1"];
    let mut second = Server::spawn(&cluster.node(1).folder, port, &flags);
    assert!(second.await_ready().is_ok(), "{}", second.log());
    cluster.node(1).folder = own;
    cluster.await_log(1, "answers where node");
}

#[test]
fn a_node_founds_nothing_by_itself_and_does_not_forget_that_it_was_founded() {
    let mut cluster = Cluster::described(3);
    let peers = cluster.dir.path().join("peers.toml");
    let mut server = cluster.spawn_by(1, &peers, &[]);
    assert_eq!(server.wait().code(), Some(78), "{}", server.log());
    assert!(
        server.log().contains("nothing of node 1") && server.log().contains("corduroy format"),
        "{}",
        server.log()
    );
    (1..=3).for_each(|id| cluster.format(id));
    let log_of = |node: &Node| node.folder.join("shard-0000/wal");
    let files = |folder: &Path| -> Vec<PathBuf> {
        let all = fs::read_dir(folder).expect("a log").map(|file| file.expect("a file").path());
        all.filter(|file| file.file_name().is_some_and(|name| name != "owner" && name != "LOCK")).collect()
    };
    let empty = cluster.dir.path().join("empty log");
    fs::create_dir(&empty).expect("made");
    for file in files(&log_of(cluster.node(1))) {
        fs::copy(&file, empty.join(file.file_name().expect("it has one"))).expect("copied");
    }
    cluster.start_all();
    while cluster.leader() == 1 {
        cluster.kill_9(1);
        cluster.leader();
        cluster.start(1);
    }
    let (leader, follower) = (cluster.leader(), 1);
    cluster.kill_9(follower);
    // Its log is one that was never written to, and is its own.
    let log = log_of(cluster.node(follower));
    files(&log).iter().for_each(|file| fs::remove_file(file).expect("removed"));
    for file in files(&empty) {
        fs::copy(&file, log.join(file.file_name().expect("it has one"))).expect("copied");
    }
    let mut server = cluster.spawn_by(follower, &peers, &[]);
    assert_eq!(server.wait().code(), Some(65), "{}", server.log());
    let log = server.log();
    assert!(log.contains("nothing of partition 2 is in its log"), "{log}");
    assert_eq!(cluster.ask(leader, &["SET", "go", "on"]), Ok(redis::Value::Okay));
    // Nor is it one of a node that is alone.
    cluster.kill_9(leader);
    let folder = cluster.node(leader).folder.clone();
    let mut alone = Server::spawn(&folder, free_port(), &[]);
    assert_eq!(alone.wait().code(), Some(78));
    assert!(alone.log().contains("start it with --peers"), "{}", alone.log());
}

#[test]
fn a_cluster_of_one_node_is_one_as_well() {
    let mut cluster = Cluster::started(1);
    assert_eq!(cluster.ask(1, &["SET", "a", "1"]), Ok(redis::Value::Okay));
    cluster.kill_9(1);
    cluster.start(1);
    assert_eq!(cluster.ask(1, &["GET", "a"]), Ok(bulk("1")));
}

#[test]
fn a_description_with_problems_lists_them_all() {
    let dir = data_dir();
    let path = dir.path().join("peers.toml");
    fs::write(&path, "cluster = \"5\"\n[[nodes]]\nid = 1\npeer = \"here\"\n").expect("written");
    let (code, _, stderr) =
        run(&["check-config", "--peers", &text(&path), "--node-id", "1", "--shards", "0"]);
    assert_eq!(code, Some(78));
    for needle in [
        "cluster: `5`",
        "secret: is missing",
        "nodes[1].peer: `here`",
        "nodes[1].client: is missing",
        "shards: 0",
    ] {
        assert!(stderr.contains(needle), "{needle} in {stderr}");
    }
}

/// The third node is behind, the second has lost its disk and was formatted anew, and the first is down: the vote of the second
/// would make a leader of one that lacks what was acknowledged.
#[test]
fn a_node_that_was_formatted_anew_votes_for_nobody() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader();
    let followers = cluster.followers();
    let (lost, behind) = (followers[0], followers[1]);
    cluster.kill_9(behind);
    for n in 1..=100 {
        cluster.ask(leader, &["SET", &format!("entry:{n}"), &n.to_string()]).expect("two of three are there");
    }
    cluster.kill_9(leader);
    cluster.kill_9(lost);
    fs::remove_dir_all(&cluster.node(lost).folder).expect("removed");
    cluster.format(lost);
    cluster.start(lost);
    cluster.start(behind);
    cluster.await_log(behind, "cannot come back under this id");
    let begun = Instant::now();
    while begun.elapsed() < 2 * ELECTION {
        for id in [lost, behind] {
            assert!(cluster.ask(id, &["SET", "foo", "bar"]).is_err(), "node {id} acknowledges");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // With the first there are two who know everything that was acknowledged.
    cluster.start(leader);
    let again = cluster.leader();
    assert_ne!(again, lost);
    for n in 1..=100 {
        assert_eq!(cluster.ask(again, &["GET", &format!("entry:{n}")]), Ok(bulk(&n.to_string())));
    }
}
