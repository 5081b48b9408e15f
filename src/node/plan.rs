//! What lives where: slots in partitions, partitions in shards, shards on cores.
//!
//! Invariant: slots are cut into contiguous runs, one a partition, that differ in length by one at most; where a partition
//! lives depends on the identity alone, so any number of cores finds the same data.

use corduroy_shards::runtime::topology::core_of_shard;
use corduroy_shards::{PartitionId, ShardId};

use super::identity::Identity;

/// Hash slots of the default keyspace.
pub const SLOTS: u32 = 16_384;

/// The first partition of the default keyspace; 1 is the metadata group.
const FIRST_PARTITION: u64 = 2;

/// The map.
#[derive(Clone, Debug)]
pub struct Plan {
    partitions: Vec<PartitionId>,
    shards: u32,
    cores: usize,
}

impl Plan {
    /// The map of a data folder on so many cores.
    #[must_use]
    pub fn new(identity: &Identity, cores: usize) -> Self {
        let partitions =
            (0..u64::from(identity.partitions)).map(|n| PartitionId(FIRST_PARTITION + n)).collect();
        Self { partitions, shards: identity.shards, cores }
    }

    /// All partitions of the default keyspace, in slot order.
    #[must_use]
    pub fn partitions(&self) -> &[PartitionId] {
        &self.partitions
    }

    /// The partition of a slot.
    #[must_use]
    pub fn partition_of_slot(&self, slot: u16) -> PartitionId {
        let at = u64::from(slot) * self.partitions.len() as u64 / u64::from(SLOTS);
        PartitionId(FIRST_PARTITION + at)
    }

    /// The shard of a partition; `None` if there is no such partition.
    #[must_use]
    pub fn shard_of(&self, partition: PartitionId) -> Option<ShardId> {
        let at = partition.0.checked_sub(FIRST_PARTITION).filter(|&at| at < self.partitions.len() as u64)?;
        u32::try_from(at % u64::from(self.shards)).ok().map(ShardId)
    }

    /// The core of a partition; `None` if there is no such partition.
    #[must_use]
    pub fn core_of(&self, partition: PartitionId) -> Option<usize> {
        self.shard_of(partition).map(|shard| core_of_shard(shard, self.cores))
    }

    /// The partitions of a shard.
    #[must_use]
    pub fn partitions_of(&self, shard: ShardId) -> Vec<PartitionId> {
        self.partitions.iter().copied().filter(|&partition| self.shard_of(partition) == Some(shard)).collect()
    }

    /// The shards of a core that hold any partition; the others are not opened at all.
    #[must_use]
    pub fn shards_of_core(&self, core: usize) -> Vec<ShardId> {
        (0..self.used_shards())
            .map(ShardId)
            .filter(|&shard| core_of_shard(shard, self.cores) == core)
            .collect()
    }

    /// How many shards hold any partition: the first ones.
    #[must_use]
    pub fn used_shards(&self) -> u32 {
        self.shards.min(u32::try_from(self.partitions.len()).unwrap_or(u32::MAX))
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::FORMAT_VERSION;
    use super::*;

    fn plan(shards: u32, partitions: u32, cores: usize) -> Plan {
        let identity = Identity {
            format: FORMAT_VERSION,
            generation: 1,
            cluster: 1,
            node: 1,
            storage: 1,
            storage_name: "disk".into(),
            incarnation: 1,
            starts: 0,
            pair: 1,
            shards,
            partitions,
        };
        Plan::new(&identity, cores)
    }

    #[test]
    fn slots_are_cut_into_even_runs() {
        for partitions in [1, 2, 3, 7, 16, 1000, 16_384] {
            let plan = plan(8, partitions, 2);
            let mut sizes = vec![0; partitions as usize];
            let mut last = plan.partition_of_slot(0);
            for slot in 0..SLOTS as u16 {
                let partition = plan.partition_of_slot(slot);
                assert!(partition >= last, "runs are contiguous");
                last = partition;
                let at = plan.partitions().iter().position(|&known| known == partition).expect("a real one");
                sizes[at] += 1;
            }
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{partitions}");
        }
    }

    #[test]
    fn every_partition_has_one_shard_and_that_one_core() {
        for cores in [1, 2, 3, 8, 11] {
            let plan = plan(8, 20, cores);
            let mut seen = Vec::new();
            for core in 0..cores {
                for shard in plan.shards_of_core(core) {
                    for partition in plan.partitions_of(shard) {
                        assert_eq!(plan.shard_of(partition), Some(shard));
                        assert_eq!(plan.core_of(partition), Some(core));
                        seen.push(partition);
                    }
                }
            }
            seen.sort_unstable();
            assert_eq!(seen, plan.partitions());
        }
        assert_eq!(plan(8, 20, 1).shard_of(PartitionId(1)), None);
        assert_eq!(plan(8, 20, 1).shard_of(PartitionId(22)), None);
    }

    #[test]
    fn only_shards_with_partitions_are_used() {
        assert_eq!(plan(8, 1, 2).used_shards(), 1);
        assert_eq!(plan(8, 1, 2).shards_of_core(1), []);
        assert_eq!(plan(8, 100, 2).used_shards(), 8);
    }
}
