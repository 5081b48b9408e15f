//! The per-core routing cache: key -> hash slot -> partition -> shard -> core, and who is believed to lead.
//!
//! Invariant: everything but the leader hints is arithmetic on three numbers fixed at start, so every core answers
//! alike without asking another; hints only ever move forward in (term, LSN).

use std::ops::Range;

use corduroy_wal::{Lsn, Term};
use hashbrown::HashMap;

use crate::ids::{MemberId, PartitionId, ShardId};

/// Hash slots of the default keyspace, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;
const SLOT_BITS: u32 = 14;

/// The group that keeps the cluster's own metadata.
pub const METADATA: PartitionId = PartitionId(1);
/// The first partition that holds clients' data.
pub const FIRST_DATA: PartitionId = PartitionId(2);

/// A core, counted from 0 in the order of the CPU set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreIndex(pub u32);

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time; the loop bounds it")]
        {
            table[byte] = crc;
        }
        byte += 1;
    }
    table
};

/// CRC-16/XMODEM.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let place = usize::from((crc >> 8) as u8 ^ byte);
        (crc << 8) ^ CRC16.get(place).copied().unwrap_or_default()
    })
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

/// Numbers that make no layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// None, or more than there are slots.
    #[error("{0} partitions: between 1 and 16384 are possible")]
    Partitions(u32),
    /// None, or more than partitions: some would stay empty.
    #[error("{shards} shards for {partitions} partitions: between 1 and as many as partitions are possible")]
    Shards {
        /// Shards asked for.
        shards: u32,
        /// Partitions there are.
        partitions: u32,
    },
    /// None.
    #[error("no cores")]
    Cores,
}

/// Where a key is served on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its hash slot.
    pub slot: u16,
    /// Its partition.
    pub partition: PartitionId,
    /// The partition's shard.
    pub shard: ShardId,
    /// The shard's core.
    pub core: CoreIndex,
}

/// How slots, partitions, shards and cores are dealt. Each level is cut into contiguous runs, so that a core serves
/// few ranges of slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    partitions: u32,
    shards: u32,
    cores: u32,
}

impl Layout {
    /// A layout of data partitions over shards over cores. Where there are more cores than shards, some cores own
    /// none.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub const fn new(partitions: u32, shards: u32, cores: u32) -> Result<Self, LayoutError> {
        if partitions == 0 || partitions > SLOTS as u32 {
            return Err(LayoutError::Partitions(partitions));
        }
        if shards == 0 || shards > partitions {
            return Err(LayoutError::Shards { shards, partitions });
        }
        if cores == 0 {
            return Err(LayoutError::Cores);
        }
        Ok(Self { partitions, shards, cores })
    }

    /// The partition of a slot.
    #[must_use]
    pub const fn partition_of(&self, slot: u16) -> PartitionId {
        let index = (slot as u32 * self.partitions) >> SLOT_BITS;
        PartitionId(FIRST_DATA.0 + index as u64)
    }

    /// The slots of a data partition; empty for any other.
    #[must_use]
    pub fn slots_of(&self, partition: PartitionId) -> Range<u16> {
        let Some(index) = self.data_index(partition) else { return 0..0 };
        let start = |index: u32| {
            let slot = (u64::from(index) << SLOT_BITS).div_ceil(u64::from(self.partitions));
            u16::try_from(slot).expect("there are at most 16384 slots")
        };
        start(index)..start(index + 1)
    }

    fn data_index(&self, partition: PartitionId) -> Option<u32> {
        let index = u32::try_from(partition.0.checked_sub(FIRST_DATA.0)?).ok()?;
        (index < self.partitions).then_some(index)
    }

    /// The shard of a partition; the metadata group lives in the first.
    #[must_use]
    pub fn shard_of(&self, partition: PartitionId) -> Option<ShardId> {
        if partition == METADATA {
            return Some(ShardId(0));
        }
        let index = u64::from(self.data_index(partition)?);
        let shard = index * u64::from(self.shards) / u64::from(self.partitions);
        Some(ShardId(u32::try_from(shard).expect("it is below the number of shards")))
    }

    /// The partitions of a shard, the metadata group included.
    pub fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + '_ {
        self.partitions().filter(move |partition| self.shard_of(*partition) == Some(shard))
    }

    /// All partitions of the node, the metadata group first.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (METADATA.0..FIRST_DATA.0 + u64::from(self.partitions)).map(PartitionId)
    }

    /// The core that owns a shard.
    #[must_use]
    pub fn core_of(&self, shard: ShardId) -> CoreIndex {
        let (shards, cores) = (u64::from(self.shards), u64::from(self.cores));
        let core = u64::from(shard.0) * cores.min(shards) / shards;
        CoreIndex(u32::try_from(core).expect("it is below the number of cores"))
    }

    /// The shards of a core.
    pub fn shards_of(&self, core: CoreIndex) -> impl Iterator<Item = ShardId> + '_ {
        (0..self.shards).map(ShardId).filter(move |shard| self.core_of(*shard) == core)
    }

    /// Where a key is served.
    #[must_use]
    pub fn route(&self, key: &[u8]) -> Route {
        self.route_slot(slot_of(key))
    }

    /// Where a slot is served.
    #[must_use]
    pub fn route_slot(&self, slot: u16) -> Route {
        let partition = self.partition_of(slot);
        let shard = self.shard_of(partition).expect("every slot's partition is a data partition");
        Route { slot, partition, shard, core: self.core_of(shard) }
    }

    /// Shards of the node.
    #[must_use]
    pub const fn shards(&self) -> u32 {
        self.shards
    }

    /// Data partitions of the node.
    #[must_use]
    pub const fn data_partitions(&self) -> u32 {
        self.partitions
    }

    /// Cores of the node.
    #[must_use]
    pub const fn cores(&self) -> u32 {
        self.cores
    }
}

/// Who led a partition when its log stood at (term, LSN).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderHint {
    /// The leader.
    pub leader: MemberId,
    /// Its term.
    pub term: Term,
    /// The highest committed entry known to whoever said so.
    pub lsn: Lsn,
}

/// The leaders that a core believes in. A hint costs a detour at worst: whoever does not lead refuses, and its
/// refusal is a newer hint.
#[derive(Clone, Debug, Default)]
pub struct LeaderHints {
    hints: HashMap<PartitionId, LeaderHint>,
}

impl LeaderHints {
    /// Takes a hint, unless a newer one is known. Returns whether it was taken.
    pub fn learn(&mut self, partition: PartitionId, hint: LeaderHint) -> bool {
        let newer =
            self.hints.get(&partition).is_none_or(|known| (known.term, known.lsn) < (hint.term, hint.lsn));
        if newer {
            self.hints.insert(partition, hint);
        }
        newer
    }

    /// The leader believed in.
    #[must_use]
    pub fn leader(&self, partition: PartitionId) -> Option<MemberId> {
        self.hints.get(&partition).map(|hint| hint.leader)
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
                let route = Layout::new(partitions, shards, 1).unwrap().route(&key);
                let found = format!("{}/{}", route.partition.0, route.shard.0);
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
    fn every_slot_has_one_partition_and_runs_are_contiguous() {
        for partitions in [1, 2, 3, 7, 16, 1000, 16_384] {
            let layout = Layout::new(partitions, 1, 1).unwrap();
            let mut next = 0;
            for partition in layout.partitions().skip(1) {
                let slots = layout.slots_of(partition);
                assert_eq!(slots.start, next, "{partitions} partitions");
                assert!(!slots.is_empty());
                for slot in [slots.start, slots.end - 1] {
                    assert_eq!(layout.partition_of(slot), partition);
                }
                next = slots.end;
            }
            assert_eq!(next, SLOTS);
        }
    }

    #[test]
    fn shards_and_cores_are_dealt_evenly_and_in_runs() {
        for (partitions, shards, cores) in [(16, 4, 2), (17, 5, 3), (64, 64, 64), (8, 2, 6), (1, 1, 1)] {
            let layout = Layout::new(partitions, shards, cores).unwrap();
            let dealt: Vec<_> =
                (0..shards).map(|shard| layout.partitions_of(ShardId(shard)).count()).collect();
            assert_eq!(dealt.iter().sum::<usize>(), partitions as usize + 1);
            assert!(dealt.iter().all(|count| *count >= (partitions / shards) as usize), "{dealt:?}");
            let owned: Vec<_> = (0..cores).map(|core| layout.shards_of(CoreIndex(core)).count()).collect();
            assert_eq!(owned.iter().sum::<usize>(), shards as usize);
            let busy: Vec<_> = owned.into_iter().filter(|count| *count > 0).collect();
            assert!(busy.iter().max().unwrap() - busy.iter().min().unwrap() <= 1, "{busy:?}");
            let slots: Vec<_> = (0..SLOTS).map(|slot| layout.route_slot(slot)).collect();
            assert!(slots.is_sorted_by_key(|route| (route.core, route.shard, route.partition)));
        }
    }

    #[test]
    fn the_metadata_group_is_in_the_first_shard_and_has_no_slots() {
        let layout = Layout::new(8, 4, 2).unwrap();
        assert_eq!(layout.shard_of(METADATA), Some(ShardId(0)));
        assert!(layout.slots_of(METADATA).is_empty());
        assert_eq!(layout.shard_of(PartitionId(10)), None);
        assert_eq!(layout.route(b"foo").partition, layout.partition_of(12_182));
    }

    #[test]
    fn impossible_layouts_are_refused() {
        assert_eq!(Layout::new(0, 1, 1), Err(LayoutError::Partitions(0)));
        assert_eq!(Layout::new(16_385, 1, 1), Err(LayoutError::Partitions(16_385)));
        assert_eq!(Layout::new(2, 3, 1), Err(LayoutError::Shards { shards: 3, partitions: 2 }));
        assert_eq!(Layout::new(2, 2, 0), Err(LayoutError::Cores));
    }

    #[test]
    fn hints_move_forward_only() {
        let hint =
            |leader, term, lsn| LeaderHint { leader: MemberId(leader), term: Term(term), lsn: Lsn(lsn) };
        let mut hints = LeaderHints::default();
        assert_eq!(hints.leader(METADATA), None);
        assert!(hints.learn(METADATA, hint(1, 2, 10)));
        assert!(!hints.learn(METADATA, hint(2, 1, 99)), "an older term");
        assert!(!hints.learn(METADATA, hint(2, 2, 10)), "nothing new");
        assert!(hints.learn(METADATA, hint(3, 2, 11)));
        assert!(hints.learn(METADATA, hint(4, 3, 0)));
        assert_eq!(hints.leader(METADATA), Some(MemberId(4)));
    }
}
