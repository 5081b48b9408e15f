//! Where a key is on this node: key -> hash slot -> partition -> shard -> core.
//!
//! Invariant: it is arithmetic on three numbers, so every core has the whole map and asks no other. Where a partition
//! is depends on the numbers of partitions and shards alone, which never change for a data folder, so any number of
//! cores finds the same data.

use std::ops::Range;

use crate::ids::{PartitionId, ShardId};

/// Hash slots of the default keyspace, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;
const SLOT_BITS: u32 = 14;

/// The group that keeps the cluster's own metadata.
pub const METADATA: PartitionId = PartitionId(1);
/// The first partition that holds clients' data.
pub const FIRST_DATA: PartitionId = PartitionId(2);

/// For eight bytes at once: table `n` has what a byte does that `n` others follow.
const CRC16: [[u16; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut after = 0;
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time; the loops bound it")]
        while after < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            tables[after][byte] = crc;
            after += 1;
        }
        byte += 1;
    }
    tables
};

/// CRC-16/XMODEM.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &CRC16;
    let look = |table: &[u16; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or_default();
    let (chunks, rest) = bytes.as_chunks::<8>();
    // Only the first two bytes of eight wait for those before them.
    let crc = chunks.iter().fold(0u16, |crc, [a, b, c, d, e, f, g, h]| {
        let [high, low] = crc.to_be_bytes();
        let front = look(t7, a ^ high) ^ look(t6, b ^ low) ^ look(t5, *c) ^ look(t4, *d);
        front ^ look(t3, *e) ^ look(t2, *f) ^ look(t1, *g) ^ look(t0, *h)
    });
    rest.iter().fold(crc, |crc, byte| (crc << 8) ^ look(t0, (crc >> 8) as u8 ^ byte))
}

/// A key's hash slot: of what stands between the first `{` and the next `}`, unless that is empty or missing.
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    let tagged = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}').filter(|close| *close > 0)?;
        rest.get(..close)
    });
    crc16(tagged.unwrap_or(key)) % SLOTS
}

/// How slots, partitions, shards and cores are dealt: slots in contiguous runs, one a partition, that differ in length by
/// one at most; partitions to shards and shards to cores like cards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    partitions: u32,
    shards: u32,
    cores: usize,
}

impl Layout {
    /// So many data partitions in so many shards on so many cores. Shards beyond the partitions, and cores beyond the
    /// shards, hold none.
    ///
    /// # Panics
    /// Unless there are 1 to 16,384 partitions, and a shard and a core at least: identity and settings are checked for that
    /// when they are read.
    #[must_use]
    pub fn new(partitions: u32, shards: u32, cores: usize) -> Self {
        Self::checked(partitions, shards, cores).unwrap_or_else(|| {
            panic!("{partitions} partitions of {SLOTS} slots in {shards} shards on {cores} cores")
        })
    }

    /// The same of numbers that nobody has checked; `None` if there is no such layout.
    #[must_use]
    pub fn checked(partitions: u32, shards: u32, cores: usize) -> Option<Self> {
        let is_possible = (1..=u32::from(SLOTS)).contains(&partitions) && shards > 0 && cores > 0;
        is_possible.then_some(Self { partitions, shards, cores })
    }

    /// All data partitions, in the order of their slots.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = PartitionId> + use<> {
        (0..self.partitions).map(|at| PartitionId(FIRST_DATA.0 + u64::from(at)))
    }

    /// The partition of a slot.
    #[must_use]
    pub const fn partition_of_slot(&self, slot: u16) -> PartitionId {
        let at = (slot as u32 * self.partitions) >> SLOT_BITS;
        PartitionId(FIRST_DATA.0 + at as u64)
    }

    /// The slots of a data partition; empty for any other.
    #[must_use]
    pub fn slots_of(&self, partition: PartitionId) -> Range<u16> {
        let Some(at) = self.data_index(partition) else { return 0..0 };
        let start = |at: u32| {
            let slot = (u64::from(at) << SLOT_BITS).div_ceil(u64::from(self.partitions));
            u16::try_from(slot).expect("there are at most 16384 slots")
        };
        start(at)..start(at + 1)
    }

    /// The index of a data partition among [`Layout::partitions`]; `None` if there is no such partition.
    #[must_use]
    pub fn data_index(&self, partition: PartitionId) -> Option<u32> {
        let at = u32::try_from(partition.0.checked_sub(FIRST_DATA.0)?).ok()?;
        (at < self.partitions).then_some(at)
    }

    /// The shard of a data partition; `None` if there is no such partition.
    #[must_use]
    pub fn shard_of(&self, partition: PartitionId) -> Option<ShardId> {
        self.data_index(partition).map(|at| ShardId(at % self.shards))
    }

    /// The core of a data partition; `None` if there is no such partition.
    #[must_use]
    pub fn core_of(&self, partition: PartitionId) -> Option<usize> {
        self.shard_of(partition).map(|shard| self.core_of_shard(shard))
    }

    /// The core that owns a shard.
    #[must_use]
    pub const fn core_of_shard(&self, shard: ShardId) -> usize {
        shard.0 as usize % self.cores
    }

    /// The data partitions of a shard.
    pub fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + use<> {
        let layout = *self;
        layout.partitions().filter(move |partition| layout.shard_of(*partition) == Some(shard))
    }

    /// The shards of a core that hold any partition; the others are not opened at all.
    pub fn shards_of_core(&self, core: usize) -> impl Iterator<Item = ShardId> + use<> {
        let layout = *self;
        (0..layout.used_shards()).map(ShardId).filter(move |shard| layout.core_of_shard(*shard) == core)
    }

    /// How many shards hold any partition: the first ones.
    #[must_use]
    pub fn used_shards(&self) -> u32 {
        self.shards.min(self.partitions)
    }

    /// How many cores there are.
    #[must_use]
    pub const fn cores(&self) -> usize {
        self.cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_and_slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"bar"), 5_061);
        assert_eq!(slot_of(b""), 0);
    }

    #[test]
    fn eight_bytes_at_once_are_as_one_after_the_other() {
        let bytes: Vec<u8> = (0..100u32).map(|byte| (byte * 151 + 7) as u8).collect();
        let one_by_one = |bytes: &[u8]| {
            bytes.iter().fold(0u16, |crc, byte| {
                (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
                    if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
                })
            })
        };
        for from in 0..20 {
            for to in from..bytes.len() {
                assert_eq!(crc16(&bytes[from..to]), one_by_one(&bytes[from..to]), "{from}..{to}");
            }
        }
    }

    /// Keys stay where they were put: a node that looks for them elsewhere has lost them.
    #[test]
    fn keys_keep_their_slots_partitions_and_shards() {
        const LAYOUTS: [(u32, u32); 6] = [(1, 1), (4, 2), (7, 3), (64, 8), (1000, 6), (16_384, 16)];
        let lines = include_str!("routing-1.txt").lines().filter(|line| !line.starts_with('#'));
        let mut seen = 0;
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            let digits = words[0].trim_matches('-').as_bytes().chunks(2);
            let key: Vec<u8> = digits
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            assert_eq!(slot_of(&key).to_string(), words[1], "{line}");
            for ((partitions, shards), word) in LAYOUTS.into_iter().zip(&words[2..]) {
                let layout = Layout::new(partitions, shards, 1);
                let partition = layout.partition_of_slot(slot_of(&key));
                let found = format!("{}/{}", partition.0, layout.shard_of(partition).unwrap().0);
                assert_eq!(found, *word, "{partitions} partitions, {shards} shards: {line}");
            }
            assert_eq!(words.len(), 2 + LAYOUTS.len());
            seen += 1;
        }
        assert_eq!(seen, 29);
    }

    #[test]
    fn hash_tags() {
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"{user1000}.x"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS, "an empty tag is none");
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn slots_are_cut_into_even_runs() {
        for partitions in [1, 2, 3, 7, 16, 1000, 16_384] {
            let layout = Layout::new(partitions, 8, 2);
            let of_slots: Vec<_> = (0..SLOTS).map(|slot| layout.partition_of_slot(slot)).collect();
            assert!(of_slots.is_sorted(), "runs are contiguous");
            let mut sizes = Vec::new();
            for partition in layout.partitions() {
                let slots = layout.slots_of(partition);
                assert!(slots.clone().all(|slot| layout.partition_of_slot(slot) == partition));
                sizes.push(slots.len());
            }
            assert_eq!(sizes.iter().sum::<usize>(), usize::from(SLOTS));
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{partitions}");
        }
    }

    #[test]
    fn every_partition_has_one_shard_and_that_one_core() {
        for cores in 1..=11 {
            let layout = Layout::new(20, 8, cores);
            let mut seen = Vec::new();
            let mut hands = vec![0; cores];
            for (core, hand) in hands.iter_mut().enumerate() {
                for shard in layout.shards_of_core(core) {
                    *hand += 1;
                    for partition in layout.partitions_of(shard) {
                        assert_eq!(layout.shard_of(partition), Some(shard));
                        assert_eq!(layout.core_of(partition), Some(core));
                        seen.push(partition);
                    }
                }
            }
            assert!(hands.iter().max().unwrap() - hands.iter().min().unwrap() <= 1, "{hands:?}");
            seen.sort_unstable();
            assert_eq!(seen, layout.partitions().collect::<Vec<_>>());
        }
        let layout = Layout::new(20, 8, 1);
        for no_data in [METADATA, PartitionId(22)] {
            assert_eq!((layout.shard_of(no_data), layout.slots_of(no_data)), (None, 0..0));
        }
    }

    #[test]
    fn only_shards_with_partitions_are_used() {
        assert_eq!(Layout::new(1, 8, 2).used_shards(), 1);
        assert_eq!(Layout::new(1, 8, 2).shards_of_core(1).count(), 0);
        assert_eq!(Layout::new(100, 8, 2).used_shards(), 8);
    }
}
