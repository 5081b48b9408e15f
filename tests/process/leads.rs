//! Leads that move while nodes stop and start as they are asked to.

use std::time::{Duration, Instant};

use crate::nodes::{Cluster, PATIENCE};

/// The term of the group that a node leads.
fn term(cluster: &mut Cluster, id: u64) -> u64 {
    cluster.await_role(id, "master");
    let info = format!("{:?}", cluster.ask(id, &["INFO", "raft"]).expect("INFO"));
    let (_, rest) = info.split_once(",term=").expect("a group");
    rest.split(',').next().expect("a number").parse().expect("a number")
}

/// Nobody misses it: the one election is that which it has asked for. A machine that is busy may keep it from that, though not
/// each time.
#[test]
fn a_leader_that_is_asked_to_stop_hands_the_lead_over() {
    let mut cluster = Cluster::started(3);
    let mut seen = Vec::new();
    for round in 0..5 {
        let leader = cluster.leader();
        let before = term(&mut cluster, leader);
        let log = cluster.stop(leader);
        let next = cluster.leader();
        cluster.ask(next, &["SET", "round", &round.to_string()]).expect("it leads");
        let after = term(&mut cluster, next);
        seen.push(format!("term {before}, then {after}\n{log}"));
        if log.contains("has transferred the lead after") && after == before + 1 {
            assert!(log.contains("the lead of 1 partitions is transferred, in "), "{log}");
            let begun = Instant::now();
            while cluster.figure(next, "raft", "raft_leads_elected") == 0 {
                assert!(begun.elapsed() < PATIENCE, "its lead is not counted");
                std::thread::sleep(Duration::from_millis(20));
            }
            return;
        }
        cluster.start(leader);
        cluster.await_level();
    }
    panic!("no leader has handed its lead over when it was asked to stop:\n{}", seen.join("\n"));
}
