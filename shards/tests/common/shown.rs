//! What replicas show of themselves: it stays as it is unless they are named among the changed ones.

use std::collections::BTreeMap;

use corduroy_shards::{PartitionId, ReplicaStatus};

use super::World;

/// Each replica of a shard as it stood when it was named last.
#[derive(Default)]
pub struct Shown(BTreeMap<PartitionId, ReplicaStatus>);

impl World {
    /// Looks at the replicas that may have changed, and then at all of them.
    pub fn check_shown(&mut self) {
        let Self { shard, shown, .. } = self;
        for partition in shard.take_changed() {
            match shard.replica_status(partition) {
                Some(status) => drop(shown.0.insert(partition, status)),
                None => drop(shown.0.remove(&partition)),
            }
        }
        for replica in shard.replicas() {
            let partition = replica.partition;
            assert_eq!(shown.0.get(&partition), Some(&replica), "partition {partition} has changed unnamed");
        }
    }
}
