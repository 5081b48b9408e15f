//! Reads that a node answers which does not lead.

use std::time::{Duration, Instant};

use redis::{Connection, Value};

use crate::nodes::{Cluster, PATIENCE};

fn ask(client: &mut Connection, words: &[&str]) -> Result<Value, String> {
    let mut request = redis::Cmd::new();
    words.iter().for_each(|word| _ = request.arg(*word));
    request.query(client).map_err(|error| error.to_string())
}

/// It asks the leader how far it has come: what was acknowledged a moment ago there is seen here.
#[test]
fn readonly_has_a_follower_answer_with_what_the_leader_has_acknowledged() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader();
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("there are three");
    let mut near = cluster.client(follower);
    assert_eq!(ask(&mut near, &["READONLY"]), Ok(Value::Okay));
    for round in 0..50 {
        let value = round.to_string();
        if cluster.ask(leader, &["SET", "round", &value]).is_err() {
            // Another one leads by now.
            return;
        }
        assert_eq!(ask(&mut near, &["GET", "round"]), Ok(Value::BulkString(value.into_bytes())));
    }
    // What INFO says of connections may be a tenth of a second old.
    let begun = Instant::now();
    let has_asked =
        |info: &str| info.contains("peer_read_index:queued=") && !info.contains("peer_read_index:queued=0,");
    loop {
        let info = format!("{:?}", cluster.ask(follower, &["INFO", "peers"]).expect("INFO"));
        if has_asked(&info) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it has asked nobody: {info}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let info = format!("{:?}", cluster.ask(follower, &["INFO", "replication"]).expect("INFO"));
    assert!(info.contains("reads:quorum"), "{info}");
    assert_eq!(ask(&mut near, &["READWRITE"]), Ok(Value::Okay));
    // Of three nodes two have what is acknowledged.
    assert_eq!(ask(&mut near, &["WAIT", "1", "0"]), Ok(Value::Int(1)));
    assert_eq!(ask(&mut near, &["WAIT", "2", "10"]), Ok(Value::Int(1)));
}
