//! A node that was alone founds a cluster with its data: others join it, and it may leave.

use std::collections::BTreeMap;

use redis::Value;

use crate::members::{add_by, until_done_by};
use crate::nodes::{CLUSTER, Cluster, SECRET};
use crate::server::{Server, run, text};

const KEYS: u64 = 300;

fn cmd<T: redis::FromRedisValue>(client: &mut redis::Connection, words: &[&str]) -> T {
    let mut request = redis::Cmd::new();
    words.iter().for_each(|word| _ = request.arg(*word));
    request.query(client).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Keys of all kinds: some that were written over or deleted, and some that expire, soon or late.
fn fill(server: &Server) -> BTreeMap<String, String> {
    let mut client = server.client();
    let mut expected = BTreeMap::new();
    for n in 0..KEYS {
        let (key, value) = (format!("key:{n}"), "v".repeat(1 + (n as usize * 37) % 3_000));
        match n % 10 {
            0 => cmd::<()>(&mut client, &["SET", &key, &value, "EX", "100000"]),
            1 => {
                cmd::<()>(&mut client, &["SET", &key, "before"]);
                cmd::<u64>(&mut client, &["APPEND", &key, &value]);
            }
            _ => cmd::<()>(&mut client, &["SET", &key, &value]),
        }
        let before = if n % 10 == 1 { "before" } else { "" };
        expected.insert(key, format!("{before}{value}"));
    }
    for n in (5..KEYS).step_by(20) {
        let key = format!("key:{n}");
        assert_eq!(cmd::<u64>(&mut client, &["DEL", &key]), 1);
        expected.remove(&key);
        cmd::<()>(&mut client, &["SET", &format!("short:{n}"), "1", "PX", "1"]);
    }
    for _ in 0..7 {
        cmd::<u64>(&mut client, &["INCR", "counted"]);
    }
    expected.insert("counted".into(), "7".into());
    expected
}

fn has_all(cluster: &mut Cluster, id: u64, expected: &BTreeMap<String, String>) {
    for (key, value) in expected {
        let found = until_done_by(cluster, id, &["GET", key]);
        assert_eq!(found, Value::BulkString(value.clone().into_bytes()), "{key} at node {id}");
    }
    let Value::Int(lasts_s) = until_done_by(cluster, id, &["TTL", "key:10"]) else { panic!("TTL") };
    assert!((90_000..=100_000).contains(&lasts_s), "{lasts_s}");
    let keys = until_done_by(cluster, id, &["KEYS", "*"]);
    let mut keys: Vec<String> = redis::from_redis_value(keys).expect("names");
    keys.sort_unstable();
    assert_eq!(keys, expected.keys().cloned().collect::<Vec<_>>(), "node {id}");
    let short = until_done_by(cluster, id, &["EXISTS", "short:5", "short:25"]);
    assert_eq!(short, Value::Int(0), "expired before");
}

/// A step of SCAN; returns the next cursor.
fn scan(cluster: &mut Cluster, id: u64, cursor: &str, found: &mut Vec<String>) -> String {
    let step = until_done_by(cluster, id, &["SCAN", cursor, "COUNT", "10"]);
    let (next, keys): (String, Vec<String>) = redis::from_redis_value(step).expect("a cursor and keys");
    found.extend(keys);
    next
}

/// The message of a format that is refused.
fn refused(cluster: &mut Cluster, peers: &std::path::Path, node: &str) -> String {
    let folder = text(&cluster.node(1).folder);
    let (code, _, stderr) =
        run(&["format", "--peers", &text(peers), "--node-id", node, "--data-dir", &folder]);
    assert_eq!(code, Some(78), "{stderr}");
    stderr
}

fn grows(replication: &str) {
    let mut cluster = Cluster::alone(2, &["--redirect", "never"]);
    let folder = cluster.node(1).folder.clone();
    let alone = ["--replication", replication, "--shards", "2", "--partitions", "2"];
    let server = Server::start(&folder, &alone);
    let mut expected = fill(&server);
    let (own, other) = (cluster.take_id_of(1), cluster.describe("other.toml", CLUSTER, SECRET));
    assert!(refused(&mut cluster, &own, "1").contains("in use"), "it runs");
    server.kill_9();
    let why = refused(&mut cluster, &other, "1");
    assert!(why.contains(&format!("write cluster = \"{}\"", cluster.cluster)), "{why}");
    let mut early = cluster.spawn_by(1, &own, &[]);
    assert_eq!(early.wait().code(), Some(78));
    assert!(early.log().contains("is of a node that is alone"), "{}", early.log());
    cluster.format(1);
    cluster.format(1);
    let mut late = Server::spawn(&folder, cluster.node(1).client_port, &alone);
    assert_eq!(late.wait().code(), Some(78));
    assert!(late.log().contains("start it with --peers"), "{}", late.log());
    cluster.start(1);
    has_all(&mut cluster, 1, &expected);
    cluster.kill_9(1);
    cluster.start(1);
    // A folder with data of its own joins none.
    let ids = [cluster.add_joining(), cluster.add_joining()];
    let stranger = cluster.dir.path().join("node-9");
    Server::start(&stranger, &alone).stop();
    let joins = text(&cluster.dir.path().join("node-2.toml"));
    let (code, _, stderr) =
        run(&["format", "--peers", &joins, "--node-id", "2", "--data-dir", &text(&stranger)]);
    assert_eq!(code, Some(78), "{stderr}");
    assert!(stderr.contains("cannot join"), "{stderr}");
    for id in ids {
        cluster.start(id);
        add_by(&mut cluster, 1, id);
        until_done_by(&mut cluster, 1, &["REPLICA", "PROMOTE", "ALL", &id.to_string()]);
        let key = format!("with {id}");
        until_done_by(&mut cluster, 1, &["SET", &key, "here"]);
        expected.insert(key, "here".into());
    }
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    for _ in 0..8 {
        cursor = scan(&mut cluster, 1, &cursor, &mut found);
        assert_ne!(cursor, "0", "there is more");
    }
    until_done_by(&mut cluster, 2, &["REPLICA", "TRANSFER", "ALL", "2"]);
    until_done_by(&mut cluster, 2, &["REPLICA", "REMOVE", "ALL", "1"]);
    cluster.kill_9(1);
    while cursor != "0" {
        cursor = scan(&mut cluster, 2, &cursor, &mut found);
    }
    found.sort_unstable();
    assert_eq!(found, expected.keys().cloned().collect::<Vec<_>>(), "each key once");
    for id in ids {
        has_all(&mut cluster, id, &expected);
        assert!(cluster.figure(id, "raft", "raft_images_installed") >= 2, "nothing of term 0 was sent");
    }
    cluster.kill_9(3);
    cluster.start(3);
    cluster.await_level();
    has_all(&mut cluster, 3, &expected);
}

/// Flips a bit of this value wherever a log has it. Returns how often that was.
fn damage(folder: &std::path::Path, value: &str) -> usize {
    let mut times = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            times += damage(&path, value);
        } else if path.components().any(|part| part.as_os_str() == "wal") {
            let mut bytes = std::fs::read(&path).expect("a file of the log");
            let found = bytes.windows(value.len()).position(|window| window == value.as_bytes());
            if let Some(at) = found {
                *bytes.get_mut(at).expect("it was found there") ^= 1;
                std::fs::write(&path, bytes).expect("written back");
                times += 1;
            }
        }
    }
    times
}

/// What cannot be opened was not served before either; whatever else there is goes on, at each start.
#[test]
fn a_partition_that_cannot_be_opened_keeps_no_cluster_from_being_founded() {
    for replication in ["off", "raft"] {
        let mut cluster = Cluster::alone(2, &["--redirect", "never"]);
        let folder = cluster.node(1).folder.clone();
        let alone = ["--replication", replication, "--shards", "2", "--partitions", "2"];
        let server = Server::start(&folder, &alone);
        let mut client = server.client();
        cmd::<()>(&mut client, &["SET", "harmed", "a value that is damaged"]);
        // The segment with that value is sealed: of one that is not, the start would refuse what is not whole.
        let (keys, whole) = ((0..200).map(|n| format!("key:{n}")).collect::<Vec<_>>(), "w".repeat(60_000));
        keys.iter().for_each(|key| cmd::<()>(&mut client, &["SET", key, &whole]));
        server.kill_9();
        assert_eq!(damage(&folder, "a value that is damaged"), 1);
        cluster.take_id_of(1);
        cluster.format(1);
        for _ in 0..2 {
            cluster.start(1);
            let why = cluster.ask(1, &["GET", "harmed"]).expect_err("its partition is stopped");
            assert!(why.contains("STOPPED"), "{why}");
            let is_there = |key: &&String| cluster.ask(1, &["GET", key]).is_ok();
            let there = keys.iter().filter(is_there).count();
            assert!(there > 0 && there < keys.len(), "the other partition is served: {there}");
            cluster.kill_9(1);
        }
    }
}

#[test]
fn a_log_that_began_without_raft_goes_on_in_a_cluster() {
    grows("off");
}

#[test]
fn a_node_that_was_alone_with_raft_founds_a_cluster() {
    grows("raft");
}
