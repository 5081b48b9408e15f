//! What is to happen, ordered by (time, order of entry).
//!
//! Invariant: of two things due at one time, the one that was put in first comes out first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug)]
struct Item<E> {
    at_ns: u64,
    seq: u64,
    event: E,
}

impl<E> PartialEq for Item<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ns, self.seq) == (other.at_ns, other.seq)
    }
}

impl<E> Eq for Item<E> {}

impl<E> PartialOrd for Item<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Item<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: the heap gives its greatest, the agenda its earliest.
        (other.at_ns, other.seq).cmp(&(self.at_ns, self.seq))
    }
}

/// A heap of future events.
#[derive(Debug)]
pub struct Agenda<E> {
    heap: BinaryHeap<Item<E>>,
    seq: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), seq: 0 }
    }
}

impl<E> Agenda<E> {
    /// Puts an event in, due at `at_ns`.
    pub fn put(&mut self, at_ns: u64, event: E) {
        self.heap.push(Item { at_ns, seq: self.seq, event });
        self.seq += 1;
    }

    /// When the next event is due.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|item| item.at_ns)
    }

    /// Has events happen earlier: each for which `latest_ns` says so is due then at the latest. It is asked in the order in which
    /// they are due.
    pub fn hasten(&mut self, mut latest_ns: impl FnMut(&E) -> Option<u64>) {
        let mut items = std::mem::take(&mut self.heap).into_vec();
        items.sort_by(|a, b| b.cmp(a));
        for item in &mut items {
            item.at_ns = latest_ns(&item.event).map_or(item.at_ns, |latest_ns| latest_ns.min(item.at_ns));
        }
        self.heap = items.into();
    }

    /// Takes the next event out.
    pub fn take(&mut self) -> Option<(u64, E)> {
        self.heap.pop().map(|item| (item.at_ns, item.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_and_ties_in_order_of_entry() {
        let mut agenda = Agenda::default();
        for (at, event) in [(5, 'c'), (3, 'a'), (5, 'd'), (3, 'b')] {
            agenda.put(at, event);
        }
        assert_eq!(agenda.next_ns(), Some(3));
        let order = std::iter::from_fn(|| agenda.take()).map(|(_, event)| event).collect::<String>();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn what_is_hastened_comes_no_later_than_that_and_all_else_when_it_was_due() {
        let mut agenda = Agenda::default();
        for (at, event) in [(9, 'd'), (1, 'a'), (4, 'c'), (8, 'b'), (2, 'x')] {
            agenda.put(at, event);
        }
        let mut asked = String::new();
        agenda.hasten(|event| {
            asked.push(*event);
            ['a', 'b', 'd'].contains(event).then_some(3)
        });
        assert_eq!(asked, "axcbd");
        let order = std::iter::from_fn(|| agenda.take()).collect::<Vec<_>>();
        assert_eq!(order, [(1, 'a'), (2, 'x'), (3, 'd'), (3, 'b'), (4, 'c')]);
    }
}
