//! The shard's replicas and the lists of those that have something to do.
//!
//! Invariant: a replica stands on a list at most once, and an idle one on none: a turn costs what is active, whatever
//! the number of partitions.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::replica_slot::Slot;
use crate::ids::PartitionId;

/// Something that a replica may have to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum List {
    /// Start: the first election.
    Begin = 0,
    /// Batches wait to be proposed.
    Propose,
    /// Batches were begun since the last turn.
    Age,
    /// Its node may have a Ready.
    Ready,
    /// Entries wait to be applied.
    Apply,
    /// Something waits for whatever job of the state machine ends next.
    Blocked,
    /// Parked reads may be tried.
    Due,
    /// Ticks or deadlines run.
    Watched,
    /// It has applied more than the state machine has persisted.
    Unpersisted,
}

const LISTS: usize = 9;

/// All replicas of a shard.
#[derive(Default)]
pub(crate) struct Replicas {
    slots: Vec<Slot>,
    by_partition: HashMap<PartitionId, u32>,
    lists: [VecDeque<u32>; LISTS],
}

impl Replicas {
    /// Makes room for so many.
    pub fn reserve(&mut self, replicas: usize) {
        self.slots.reserve_exact(replicas);
    }

    /// Adds a replica; `None` if its partition has one.
    pub fn add(&mut self, slot: Slot) -> Option<u32> {
        let idx = u32::try_from(self.slots.len()).expect("a shard has far fewer than 4 billion replicas");
        if self.by_partition.try_insert(slot.partition, idx).is_ok() {
            self.slots.push(slot);
            return Some(idx);
        }
        None
    }

    pub fn find(&self, partition: PartitionId) -> Option<u32> {
        self.by_partition.get(&partition).copied()
    }

    pub fn slot(&self, idx: u32) -> &Slot {
        self.slots.get(idx as usize).expect("places come from this table")
    }

    pub fn slot_mut(&mut self, idx: u32) -> &mut Slot {
        self.slots.get_mut(idx as usize).expect("places come from this table")
    }

    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    fn list_mut(&mut self, list: List) -> &mut VecDeque<u32> {
        self.lists.get_mut(list as usize).expect("there is a queue for each list")
    }

    /// Puts a replica on a list, unless it stands there.
    pub fn enlist(&mut self, list: List, idx: u32) {
        let bit = 1u16 << (list as u8);
        let slot = self.slot_mut(idx);
        if slot.listed & bit == 0 {
            slot.listed |= bit;
            self.list_mut(list).push_back(idx);
        }
    }

    /// Takes the first of a list.
    pub fn next(&mut self, list: List) -> Option<u32> {
        let idx = self.list_mut(list).pop_front()?;
        self.slot_mut(idx).listed &= !(1u16 << (list as u8));
        Some(idx)
    }

    /// How many stand on a list.
    pub fn listed(&self, list: List) -> usize {
        self.lists.get(list as usize).map_or(0, VecDeque::len)
    }
}
