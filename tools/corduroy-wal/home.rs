//! Whose log a folder is: its shard, and the partitions in it with their slots.

use std::io;
use std::path::Path;

use corduroy::node::identity::Owner;
use corduroy_shards::ShardId;
use corduroy_shards::routing::{FIRST_DATA, Layout, METADATA};

/// Most partitions that are listed one by one.
const LISTED_MAX: u32 = 16;

/// The partition of a log.
#[must_use]
pub fn partition(log: u64) -> String {
    if log == METADATA.0 { "the cluster's own data".to_owned() } else { format!("partition {log}") }
}

/// What the folder says of itself, to stand behind its name; nothing if it says nothing.
pub fn words(folder: &Path) -> io::Result<String> {
    Ok(Owner::read(folder)?.map_or_else(String::new, |owner| format!(": {}", of_owner(&owner))))
}

fn of_owner(owner: &Owner) -> String {
    let Owner { shard, shards, partitions, .. } = *owner;
    let home = format!("shard {shard} of {shards} (counted from 0)");
    if partitions == 1 {
        let all = format!("{home}, with all keys in partition {}", FIRST_DATA.0);
        return if shard == 0 { all } else { format!("{home}, without keys") };
    }
    let Some(layout) = Layout::checked(partitions, shards, 1) else {
        return format!("{home}, of {partitions} partitions");
    };
    let here: Vec<_> = layout.partitions_of(ShardId(shard)).collect();
    if here.len() > LISTED_MAX as usize {
        return format!("{home}, with {} of {partitions} partitions", here.len());
    }
    let listed = here.iter().map(|partition| {
        let slots = layout.slots_of(*partition);
        format!("partition {} (slots {} to {})", partition.0, slots.start, slots.end - 1)
    });
    format!("{home}, with {}", listed.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(shard: u32, shards: u32, partitions: u32) -> String {
        of_owner(&Owner { cluster: 1, node: 1, storage: 1, shard, shards, partitions, pair: 1 })
    }

    #[test]
    fn a_log_is_named_by_its_partition_and_slots() {
        assert_eq!(owner(0, 8, 1), "shard 0 of 8 (counted from 0), with all keys in partition 2");
        assert_eq!(
            owner(1, 2, 4),
            "shard 1 of 2 (counted from 0), with partition 3 (slots 4096 to 8191), partition 5 (slots 12288 to 16383)"
        );
        assert_eq!(owner(0, 1, 20), "shard 0 of 1 (counted from 0), with 20 of 20 partitions");
    }
}
