//! A table with a row for each partition, and work queues of the rows that have something to do.
//!
//! Invariant: an index names one row for ever: it carries a generation, so what still has that of a row that was taken
//! out finds nothing, and never the row that has its slot now. A row is in a queue at most once, and one that was taken
//! out in none: so one round over as many as are listed meets each once. Whoever could change a row has it among the changed
//! ones: so whoever keeps a figure of all rows looks at those alone.

use std::collections::VecDeque;
use std::marker::PhantomData;

use corduroy_wal::device::prefetch;
use hashbrown::{HashMap, HashSet};
use slotmap::{Key, SlotMap, new_key_type};

use crate::ids::PartitionId;
use crate::planted::{self, PlantedBug};

new_key_type! {
    /// A replica's index in its shard's table: a slot, and its generation.
    pub(crate) struct ReplicaIdx;
}

/// A row of the table.
pub(crate) trait Row {
    /// Whose row it is.
    fn partition(&self) -> PartitionId;

    /// The queues that it is in, a bit each, and in the highest bit whether it is among the changed rows.
    fn queues(&mut self) -> &mut u16;

    /// Has what it points to fetched into the processor's caches; at depth 1 what that points to, once it is there itself.
    fn prefetch_parts(&self, depth: usize);
}

/// Rows that are fetched into the processor's caches at a time, before the first of them is looked at.
const AHEAD: usize = 16;

#[derive(Default)]
struct Queue {
    rows: VecDeque<ReplicaIdx>,
    /// How many of the next ones were fetched.
    fetched: usize,
}

/// The name of a queue.
pub(crate) trait QueueName: Copy {
    /// How many there are.
    const COUNT: usize;

    /// Its number, below that.
    fn number(self) -> usize;
}

/// The bit of a row that is among the changed ones.
const CHANGED: u16 = 1 << 15;

/// The table.
pub(crate) struct Table<R, Q> {
    rows: SlotMap<ReplicaIdx, R>,
    by_partition: HashMap<PartitionId, ReplicaIdx>,
    queues: Vec<Queue>,
    /// The partitions whose rows may have changed, have come or were taken out since somebody asked.
    changed: Vec<PartitionId>,
    names: PhantomData<Q>,
}

impl<R: Row, Q: QueueName> Default for Table<R, Q> {
    fn default() -> Self {
        let queues = (0..Q::COUNT).map(|_| Queue::default()).collect();
        let (rows, by_partition, changed) = (SlotMap::with_key(), HashMap::new(), Vec::new());
        Self { rows, by_partition, queues, changed, names: PhantomData }
    }
}

const QUEUE: &str = "each name has a queue";
const PRESENT: &str = "who keeps an index for later asks whether it is present";

impl<R: Row, Q: QueueName> Table<R, Q> {
    /// Makes room for so many.
    pub fn reserve(&mut self, rows: usize) {
        self.rows.reserve(rows);
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If its partition has one.
    pub fn add(&mut self, row: R) -> ReplicaIdx {
        let partition = row.partition();
        let idx = self.rows.insert(row);
        let before = self.by_partition.insert(partition, idx);
        assert_eq!(before, None, "partition {partition} has a row");
        self.slot_mut(idx);
        idx
    }

    /// Takes a row out, also of its queues. From now on its index names nothing.
    pub fn remove(&mut self, idx: ReplicaIdx) -> R {
        // That it is there no more is a change, too.
        self.slot_mut(idx);
        let mut row = self.rows.remove(idx).expect(PRESENT);
        for (number, queue) in self.queues.iter_mut().enumerate() {
            if *row.queues() & (1 << number) != 0 {
                queue.rows.retain(|queued| *queued != idx);
            }
        }
        let known = self.by_partition.remove(&row.partition());
        assert_eq!(known, Some(idx), "the index of partition {}", row.partition());
        row
    }

    pub fn find(&self, partition: PartitionId) -> Option<ReplicaIdx> {
        self.by_partition.get(&partition).copied()
    }

    /// The same index, if its row is still there.
    pub fn present(&self, idx: ReplicaIdx) -> Option<ReplicaIdx> {
        if planted::is(PlantedBug::StaleReplicaIndex) {
            let slot = |idx: ReplicaIdx| idx.data().as_ffi() & 0xffff_ffff;
            return self.rows.keys().find(|other| slot(*other) == slot(idx));
        }
        self.rows.contains_key(idx).then_some(idx)
    }

    pub fn slot(&self, idx: ReplicaIdx) -> &R {
        self.rows.get(idx).expect(PRESENT)
    }

    /// A row to be changed.
    pub fn slot_mut(&mut self, idx: ReplicaIdx) -> &mut R {
        let row = self.rows.get_mut(idx).expect(PRESENT);
        if *row.queues() & CHANGED == 0 {
            *row.queues() |= CHANGED;
            self.changed.push(row.partition());
        }
        row
    }

    /// The partitions whose rows may have changed since this was asked last, those among them that came or were taken out.
    pub fn take_changed(&mut self) -> Vec<PartitionId> {
        let changed = std::mem::take(&mut self.changed);
        for partition in &changed {
            if let Some(idx) = self.find(*partition) {
                *self.rows.get_mut(idx).expect(PRESENT).queues() &= !CHANGED;
            }
        }
        changed
    }

    fn queues_of(&mut self, idx: ReplicaIdx) -> &mut u16 {
        self.rows.get_mut(idx).expect(PRESENT).queues()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ReplicaIdx, &R)> {
        self.rows.iter()
    }

    fn queue_mut(&mut self, name: Q) -> &mut Queue {
        self.queues.get_mut(name.number()).expect(QUEUE)
    }

    /// Puts a row into a queue, unless it is in it.
    pub fn enqueue(&mut self, name: Q, idx: ReplicaIdx) {
        let bit = 1 << name.number();
        let queues = self.queues_of(idx);
        if *queues & bit == 0 {
            *queues |= bit;
            self.queue_mut(name).rows.push_back(idx);
        }
    }

    /// Puts a row on each of these queues.
    pub fn enqueue_on<const N: usize>(&mut self, names: [Q; N], idx: ReplicaIdx) {
        names.into_iter().for_each(|name| self.enqueue(name, idx));
    }

    /// Takes the first of a queue, and from time to time has the next ones [fetched](Self::prefetch).
    pub fn next(&mut self, name: Q) -> Option<ReplicaIdx> {
        let queue = self.queues.get(name.number()).expect(QUEUE);
        self.prefetch(queue.fetched, queue.rows.iter().copied());
        let queue = self.queue_mut(name);
        queue.fetched =
            queue.fetched.checked_sub(1).unwrap_or(AHEAD - 1).min(queue.rows.len().saturating_sub(1));
        let idx = queue.rows.pop_front()?;
        *self.queues_of(idx) &= !(1 << name.number());
        Some(idx)
    }

    /// The rows that come next in a queue: of row number 0 of a round and of every 16th behind it those up to the next such
    /// one, and of the others none.
    pub fn upcoming(&self, name: Q, number: usize) -> impl Iterator<Item = &R> {
        let most = if number.is_multiple_of(AHEAD) { AHEAD } else { 0 };
        let queue = self.queues.get(name.number()).into_iter().flat_map(|queue| &queue.rows);
        queue.take(most).filter_map(|idx| self.rows.get(*idx))
    }

    /// Has rows that are looked at soon fetched into the processor's caches, 16 at once, if row `number` of them is the first
    /// that was not: one after the other, as each is looked at, the processor would wait for memory many times a row.
    pub fn prefetch(&self, number: usize, upcoming: impl Iterator<Item = ReplicaIdx> + Clone) {
        if number.is_multiple_of(AHEAD) {
            let rows = upcoming.take(AHEAD).filter_map(|idx| self.rows.get(idx));
            rows.clone().for_each(prefetch);
            rows.clone().for_each(|row| row.prefetch_parts(0));
            rows.for_each(|row| row.prefetch_parts(1));
        }
    }

    /// How many are in a queue.
    pub fn listed(&self, name: Q) -> usize {
        self.queues.get(name.number()).map_or(0, |queue| queue.rows.len())
    }

    /// Compares the queues and the index with the rows; `queues`: those that a row says it is in.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self, queues: impl Fn(&R) -> u16) {
        assert_eq!(self.by_partition.len(), self.rows.len(), "every row is found by its partition");
        for (idx, row) in &self.rows {
            assert_eq!(self.find(row.partition()), Some(idx), "the index of partition {}", row.partition());
        }
        let changed: HashSet<_> = self.changed.iter().copied().collect();
        for row in self.rows.values() {
            let is_marked = queues(row) & CHANGED != 0;
            assert_eq!(
                is_marked,
                changed.contains(&row.partition()),
                "partition {} has changed",
                row.partition()
            );
        }
        for (at, Queue { rows: queue, .. }) in self.queues.iter().enumerate() {
            let mut present: Vec<_> = queue.iter().filter(|idx| self.rows.contains_key(**idx)).collect();
            let wanted = self.rows.values().filter(|row| queues(row) & (1 << at) != 0).count();
            assert_eq!(present.len(), queue.len(), "who was taken out is in queue {at}");
            assert_eq!(present.len(), wanted, "who is in queue {at}");
            present.sort_unstable();
            present.dedup();
            assert_eq!(present.len(), wanted, "nobody is twice in queue {at}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Its partition, the queues that it is in, and how often it was fetched.
    struct Named(PartitionId, u16, Cell<usize>);

    impl Row for Named {
        fn partition(&self) -> PartitionId {
            self.0
        }

        fn queues(&mut self) -> &mut u16 {
            &mut self.1
        }

        fn prefetch_parts(&self, depth: usize) {
            self.2.update(|fetched| fetched + usize::from(depth == 0));
        }
    }

    fn named(id: u64) -> Named {
        Named(PartitionId(id), 0, Cell::new(0))
    }

    #[derive(Clone, Copy)]
    enum Queue {
        Tick,
        Tock,
    }

    impl QueueName for Queue {
        const COUNT: usize = 2;

        fn number(self) -> usize {
            self as usize
        }
    }

    fn table(partitions: &[u64]) -> (Table<Named, Queue>, Vec<ReplicaIdx>) {
        let mut table = Table::default();
        let indexes = partitions.iter().map(|id| table.add(named(*id))).collect();
        (table, indexes)
    }

    #[test]
    fn an_index_never_names_the_next_one_in_its_slot() {
        let (mut table, indexes) = table(&[7, 8]);
        let [seven, eight] = indexes[..] else { unreachable!("two were added") };
        table.enqueue(Queue::Tick, seven);
        table.enqueue(Queue::Tick, eight);
        assert_eq!(table.remove(seven).0, PartitionId(7));
        assert_eq!(table.listed(Queue::Tick), 1, "what was taken out is not listed");
        let nine = table.add(named(9));
        assert_eq!(nine.data().as_ffi() & 0xffff_ffff, seven.data().as_ffi() & 0xffff_ffff, "the same slot");
        assert_eq!((table.present(seven), table.present(nine)), (None, Some(nine)));
        assert_eq!((table.find(PartitionId(7)), table.find(PartitionId(9))), (None, Some(nine)));
        table.enqueue(Queue::Tick, nine);
        table.check(|row| row.1);
        let queue: Vec<_> = std::iter::from_fn(|| table.next(Queue::Tick)).collect();
        assert_eq!(queue, [eight, nine]);
        assert!(table.next(Queue::Tock).is_none());
    }

    #[test]
    fn what_may_have_changed_is_named_once() {
        let (mut table, indexes) = table(&[7, 8, 9]);
        let changed = |table: &mut Table<Named, Queue>| {
            table.check(|row| row.1);
            table.take_changed().iter().map(|partition| partition.0).collect::<Vec<_>>()
        };
        assert_eq!(changed(&mut table), [7, 8, 9], "all of them are new");
        assert_eq!(table.slot(indexes[0]).0, PartitionId(7));
        table.enqueue(Queue::Tick, indexes[0]);
        assert_eq!(table.next(Queue::Tick), Some(indexes[0]));
        assert!(changed(&mut table).is_empty(), "that a row is looked at or listed changes nothing of it");
        for idx in [indexes[1], indexes[0], indexes[1]] {
            table.slot_mut(idx);
        }
        assert_eq!(changed(&mut table), [8, 7]);
        table.slot_mut(indexes[2]);
        table.remove(indexes[2]);
        table.remove(indexes[1]);
        assert_eq!(changed(&mut table), [9, 8], "those that are there no more are named as well");
        table.add(named(9));
        assert_eq!(changed(&mut table), [9]);
    }

    #[test]
    fn a_row_is_in_a_queue_once() {
        let (mut table, indexes) = table(&[7]);
        table.enqueue(Queue::Tock, indexes[0]);
        table.enqueue(Queue::Tock, indexes[0]);
        table.check(|row| row.1);
        assert_eq!((table.listed(Queue::Tock), table.listed(Queue::Tick)), (1, 0));
        assert_eq!((table.next(Queue::Tock), table.next(Queue::Tock)), (Some(indexes[0]), None));
        table.enqueue(Queue::Tock, indexes[0]);
        assert_eq!(table.listed(Queue::Tock), 1);
    }

    #[test]
    fn rows_are_fetched_once_before_they_are_taken() {
        let ids: Vec<u64> = (1..=40).collect();
        let (mut table, indexes) = table(&ids);
        for rounds in 1..=3 {
            let active = &indexes[..if rounds == 2 { 1 } else { 40 }];
            active.iter().for_each(|idx| table.enqueue(Queue::Tick, *idx));
            for (number, idx) in active.iter().enumerate() {
                assert_eq!(table.next(Queue::Tick), Some(*idx));
                let wanted = if rounds == 3 && number > 0 { 2 } else { rounds };
                assert_eq!(table.slot(*idx).2.get(), wanted, "row {number}, round {rounds}");
                let last = table.slot(indexes[39]).2.get();
                assert_eq!(rounds == 1 && number < 32, last == 0, "no more than 16 are fetched at a time");
            }
            assert_eq!(table.next(Queue::Tick), None);
        }
    }

    #[test]
    #[should_panic(expected = "partition 7 has a row")]
    fn a_partition_has_one_row() {
        table(&[7, 7]);
    }

    #[test]
    #[should_panic(expected = "who is in queue 0")]
    fn a_row_that_says_something_else_is_found() {
        let (mut table, indexes) = table(&[7]);
        table.slot_mut(indexes[0]).1 |= 1;
        table.check(|row| row.1);
    }
}
