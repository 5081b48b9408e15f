//! A group of one that grows: what it had answered, and what waits at it, meanwhile.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use corduroy_shards::Change;

use crate::cluster::{Cluster, storage};
use crate::common::Got;

/// It has shown by its own clock that a key has expired. Whoever leads next may have a clock that is behind.
#[test]
fn what_a_lone_member_has_shown_as_expired_is_logged_when_it_gets_company() {
    let (mut cluster, alone) = Cluster::led(1);
    let at_ms = cluster.worlds[alone].now.wall_ms + 100;
    cluster.put(alone, &format!("set until{at_ms} alive"));
    cluster.pass(300);
    let last = cluster.status(alone).last;
    assert_eq!(cluster.value(alone, &format!("get until{at_ms}")), "nil");
    assert_eq!(cluster.status(alone).last, last, "a lone member logs no read");
    cluster.make(alone, &[Change::AddLearner(storage(1))]);
    assert!(cluster.worlds[alone].part().stamp_ms >= at_ms, "whoever leads next knows it");
    assert_eq!(cluster.status(alone).applied, last.next().next());
}

/// A read that waits for something else when another member may lead from then on waits for a round, too.
#[test]
fn a_read_that_waits_while_it_gets_company_takes_a_round() {
    let (mut cluster, alone) = Cluster::led(1);
    cluster.put(alone, "set a 1");
    let [cold, any] = ["get cold", "get coldany"].map(|op| cluster.read(alone, op));
    cluster.rest();
    cluster.make(alone, &[Change::AddLearner(storage(1))]);
    assert_eq!((cluster.got(alone, cold), cluster.status(alone).read_rounds), (None, 1));
    assert_eq!(cluster.worlds[alone].shard.machine().abandoned.len(), 1, "it asks anew");
    cluster.worlds[alone].run_jobs();
    cluster.pass(200);
    cluster.worlds[alone].run_jobs();
    cluster.pass(200);
    for ticket in [cold, any] {
        assert!(matches!(cluster.got(alone, ticket), Some(Got::Done(_, value)) if value == "nil"));
    }
}
