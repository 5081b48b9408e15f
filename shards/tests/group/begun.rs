//! States that were persisted in the middle of an entry: what they have of it is committed, though no log says so.
#![allow(clippy::indexing_slicing, reason = "a test names nodes that there are")]

use crate::cluster::PARTITION;
use crate::common::Job;
use crate::images::{catch_up, installed, with_one_far_behind};

/// Whoever leads has a state inside an entry of which it does not know that it is committed. A member needs an image, which
/// lies between two entries, and its acknowledgement would take the image.
#[test]
fn an_image_comes_from_who_was_stopped_in_the_middle_of_an_entry() {
    let (mut cluster, leader, away) = with_one_far_behind();
    let third = cluster.nodes().find(|node| ![leader, away].contains(node)).expect("there are three");
    // One entry: its second operation waits for a job.
    for op in ["append a 1", "append cold 2"] {
        cluster.write(leader, op);
    }
    cluster.rest();
    let entry = cluster.status(leader).committed;
    assert_eq!(cluster.status(leader).applied.next(), entry);
    cluster.worlds[leader].shard.machine_mut().flush();
    cluster.rest();
    cluster.worlds[leader].jobs.retain(|job| matches!(job, Job::Flush(_)));
    cluster.run_jobs();
    cluster.kill(third);
    cluster.kill(leader);
    cluster.start(leader, true);
    let state = cluster.worlds[leader].shard.wal().log_state(PARTITION.log());
    let commit = state.and_then(|state| state.hard_state).expect("it has one").commit;
    assert!(commit < entry, "the log has lost track of it");
    cluster.start(away, true);
    catch_up(&mut cluster, leader, away);
    assert_eq!(installed(&cluster, away), 1);
    cluster.work(2_000);
    cluster.put(leader, "append a 2");
    cluster.start(third, true);
    cluster.work(4_000);
    let history = cluster.check_same();
    let last: Vec<_> = history.iter().rev().take(3).map(|(_, op)| op.as_str()).collect();
    assert_eq!(last, ["append a 2", "append cold 2", "append a 1"]);
}
