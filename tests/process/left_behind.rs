//! A node that was away for longer than the others keep the log.

use std::collections::BTreeMap;
use std::time::Instant;

use redis::{RedisResult, Value};

use crate::nodes::{Cluster, PATIENCE};

const KEYS: u64 = 60;
/// A value is long enough that an image of all keys takes many chunks.
const VALUE_BYTES: usize = 512 << 10;
/// Far more than the log of a node is long.
const WRITES: u64 = 1_000;

fn value(number: u64) -> Vec<u8> {
    format!("{number} ").bytes().cycle().take(VALUE_BYTES).collect()
}

/// Sets a key at whoever leads.
fn set(cluster: &mut Cluster, (leader, client): &mut (u64, redis::Connection), number: u64) {
    let key = format!("key:{}", number % KEYS);
    let begun = Instant::now();
    loop {
        let done: RedisResult<Value> = redis::cmd("SET").arg(&key).arg(value(number)).query(client);
        match done {
            Ok(_) => return,
            // Another one leads by now, or what became of it is not known: it is the same again.
            Err(error) => {
                assert!(begun.elapsed() < PATIENCE, "{error}");
                *leader = cluster.leader();
                *client = cluster.client(*leader);
            }
        }
    }
}

/// A figure of the group that all keys belong to, as a node shows it.
fn of_group(cluster: &mut Cluster, id: u64, name: &str) -> u64 {
    let info = format!("{:?}", cluster.ask(id, &["INFO", "raft"]).expect("INFO"));
    let group = info.split("raft_group_2:").nth(1).unwrap_or_else(|| panic!("no group in {info}"));
    let figure = group.split([',', '\\']).find_map(|figure| figure.strip_prefix(name)?.strip_prefix('='));
    figure.unwrap_or_else(|| panic!("{name} in {group}")).parse().expect("a number")
}

/// Writes until the nodes that run do not have what follows this entry of the log any more. Returns the write that each key is of.
fn write_until_released(cluster: &mut Cluster, last: u64) -> BTreeMap<u64, u64> {
    let leader = cluster.leader();
    let mut at = (leader, cluster.client(leader));
    let mut written = BTreeMap::new();
    for number in 0..WRITES {
        set(cluster, &mut at, number);
        written.insert(number % KEYS, number);
        let is_looked_at = number >= KEYS && number % 8 == 0;
        if is_looked_at && cluster.ids().into_iter().all(|id| of_group(cluster, id, "released") > last + 1) {
            return written;
        }
    }
    panic!("{WRITES} writes are kept for a node that has entry {last}");
}

#[test]
fn a_node_that_was_away_for_longer_than_the_log_is_kept_comes_back_by_an_image() {
    let mut cluster = Cluster::started(3);
    let away = cluster.followers()[0];
    let last = of_group(&mut cluster, away, "last");
    cluster.kill_9(away);
    let written = write_until_released(&mut cluster, last);
    cluster.start(away);
    cluster.await_level();
    assert_eq!(cluster.figure(away, "raft", "raft_images_installed"), 1, "{}", cluster.log(away));
    // It goes on from its disk, and the others do without each other.
    cluster.kill_9(away);
    cluster.start(away);
    cluster.await_level();
    while cluster.leader() != away {
        let leader = cluster.leader();
        if leader != away {
            cluster.kill_9(leader);
            cluster.leader();
            cluster.start(leader);
            cluster.await_level();
        }
    }
    let mut client = cluster.client(away);
    for (key, number) in written {
        let found: Value = redis::cmd("GET").arg(format!("key:{key}")).query(&mut client).expect("it leads");
        assert!(found == Value::BulkString(value(number)), "key {key} is not that of write {number}");
    }
    assert_eq!(
        cluster.ask(away, &["DBSIZE"]),
        Ok(Value::Int(KEYS as i64 + 1)),
        "and the one that says who leads"
    );
}
