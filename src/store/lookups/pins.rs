//! Rows that ops wait for, and those that an op to be proposed was found to have: they stay in memory until their op has
//! run.
//!
//! An op that needs several rows may have them read by several jobs. If eviction took the first while the second is
//! on its way, and then the other way round, the op would never run. And an op that was proposed since its rows were here
//! must find them here: of those that have to be read once more, one may turn out to be damaged by then. Invariant: what an
//! op was blocked on once, or had when it was found ready, is not evicted until the op has run, was not tried again for a
//! long while, or came when too much was held already.

use std::collections::VecDeque;

use corduroy_shards::PartitionId;
use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

/// Rows held above which no further op gets its rows held. Those that do will run, and make room.
const MAX_ROWS: usize = 16_384;
/// The same for ops that are ready: they are many more, and wait for the disk alone.
const MAX_READY_ROWS: usize = 65_536;
/// Upkeeps after jobs, in which a blocked op is tried again each time, until one that was not is given up.
const MAX_IDLE_ROUNDS: u32 = 64;
/// The same for an op that is ready: it is not tried again before its entry is applied, if it ever is.
const MAX_READY_ROUNDS: u32 = 16_384;

/// What an op was blocked on, or has.
#[derive(Default, Debug)]
struct Waiting {
    /// Of keys.
    rows: HashSet<u64>,
    /// The round in which it was tried last.
    tried: u32,
    /// How many like it were found ready, and have not run yet.
    ready: u32,
    /// It is not tried before all is there that it waits for.
    is_asleep: bool,
}

/// See the file's head.
#[derive(Default, Debug)]
pub(in crate::store) struct Pins {
    /// Of each partition, by the hash of the op.
    waiting: HashMap<PartitionId, HashMap<u64, Waiting>>,
    /// How many ops want a row.
    rows: HashMap<(PartitionId, u64), u32>,
    round: u32,
    /// Ops to be looked at for having been given up, each with the round in which that was decided: so a round costs as much
    /// as there were ops some rounds ago. Some may have run since.
    looks: VecDeque<(u32, PartitionId, u64)>,
    /// Jobs have ended since the round began.
    pub(in crate::store) jobs_ended: bool,
}

impl Pins {
    /// An op was blocked on rows with these hashes; it holds what it was blocked on before as well.
    pub(in crate::store) fn hold(
        &mut self,
        partition: PartitionId,
        op: u64,
        rows: impl IntoIterator<Item = u64>,
    ) {
        self.add(partition, op, rows, MAX_ROWS);
    }

    /// An op has the rows with these hashes, and is going to be proposed.
    pub(in crate::store) fn keep(
        &mut self,
        partition: PartitionId,
        op: u64,
        rows: impl IntoIterator<Item = u64>,
    ) {
        self.add(partition, op, rows, MAX_READY_ROWS).ready += 1;
    }

    fn add(
        &mut self,
        partition: PartitionId,
        op: u64,
        rows: impl IntoIterator<Item = u64>,
        max_rows: usize,
    ) -> &mut Waiting {
        let has_room = self.rows.len() < max_rows;
        let waiting = match self.waiting.entry(partition).or_default().entry(op) {
            Entry::Occupied(waiting) => waiting.into_mut(),
            Entry::Vacant(new) => {
                self.looks.push_back((self.round, partition, op));
                new.insert(Waiting::default())
            }
        };
        waiting.tried = self.round;
        if has_room || !waiting.rows.is_empty() {
            for row in rows {
                if waiting.rows.insert(row) {
                    *self.rows.entry((partition, row)).or_default() += 1;
                }
            }
        }
        waiting
    }

    /// An op that was blocked is tried when it is woken.
    pub(in crate::store) fn sleep(&mut self, partition: PartitionId, op: u64) {
        if let Some(waiting) = self.find(partition, op) {
            waiting.is_asleep = true;
        }
    }

    /// An op is going to be tried.
    pub(in crate::store) fn wake(&mut self, partition: PartitionId, op: u64) {
        let round = self.round;
        if let Some(waiting) = self.find(partition, op) {
            (waiting.is_asleep, waiting.tried) = (false, round);
        }
    }

    fn find(&mut self, partition: PartitionId, op: u64) -> Option<&mut Waiting> {
        self.waiting.get_mut(&partition).and_then(|ops| ops.get_mut(&op))
    }

    /// Blocked ops of a partition were not tried, since something else must happen first.
    pub(in crate::store) fn still_wanted(&mut self, partition: PartitionId) {
        for waiting in self.waiting.get_mut(&partition).into_iter().flat_map(HashMap::values_mut) {
            waiting.tried = self.round;
        }
    }

    /// An op has run.
    pub(in crate::store) fn release(&mut self, partition: PartitionId, op: impl FnOnce() -> u64) {
        let Some(ops) = self.waiting.get_mut(&partition) else { return };
        let Entry::Occupied(mut found) = ops.entry(op()) else { return };
        if found.get().ready > 1 {
            found.get_mut().ready -= 1;
            return;
        }
        let waiting = found.remove();
        if ops.is_empty() {
            self.waiting.remove(&partition);
        }
        drop_rows(&mut self.rows, partition, &waiting.rows);
    }

    /// Whether a row must stay.
    #[inline]
    pub(in crate::store) fn holds(&self, partition: PartitionId, row: u64) -> bool {
        self.rows.contains_key(&(partition, row))
    }

    /// After a turn: gives up ops that are not tried again any more.
    pub(in crate::store) fn next_round(&mut self) {
        if !std::mem::take(&mut self.jobs_ended) || self.waiting.is_empty() {
            return;
        }
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let is_due = |look: &(u32, PartitionId, u64)| round.wrapping_sub(look.0) > MAX_IDLE_ROUNDS;
        while self.looks.front().is_some_and(is_due)
            && let Some((_, partition, op)) = self.looks.pop_front()
        {
            let Some(ops) = self.waiting.get_mut(&partition) else { continue };
            let Entry::Occupied(found) = ops.entry(op) else { continue };
            let Waiting { ready, tried, is_asleep, .. } = *found.get();
            let max_rounds = if ready > 0 { MAX_READY_ROUNDS } else { MAX_IDLE_ROUNDS };
            if is_asleep || round.wrapping_sub(tried) <= max_rounds {
                self.looks.push_back((round, partition, op));
                continue;
            }
            let waiting = found.remove();
            if ops.is_empty() {
                self.waiting.remove(&partition);
            }
            drop_rows(&mut self.rows, partition, &waiting.rows);
        }
    }
}

fn drop_rows(held: &mut HashMap<(PartitionId, u64), u32>, partition: PartitionId, rows: &HashSet<u64>) {
    for row in rows {
        let count = held.get_mut(&(partition, *row)).expect("each row of a waiting op is counted");
        *count -= 1;
        if *count == 0 {
            held.remove(&(partition, *row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);

    #[test]
    fn rows_are_held_until_the_last_op_that_wants_them_has_run() {
        let mut pins = Pins::default();
        pins.hold(P, 1, [10, 11]);
        pins.hold(P, 2, [11]);
        pins.hold(P, 1, [12, 10]);
        assert!([10, 11, 12].iter().all(|row| pins.holds(P, *row)));
        assert!(!pins.holds(PartitionId(4), 10));
        pins.release(P, || 1);
        assert_eq!([10, 11, 12].map(|row| pins.holds(P, row)), [false, true, false]);
        pins.release(P, || 2);
        assert!(pins.rows.is_empty() && pins.waiting.is_empty());
        pins.release(P, || unreachable!("nothing waits, so no op has to be named"));
    }

    #[test]
    fn an_op_that_nobody_tries_again_is_given_up() {
        let mut pins = Pins::default();
        pins.hold(P, 1, [10]);
        pins.hold(P, 2, [11]);
        for _ in 0..=MAX_IDLE_ROUNDS {
            pins.hold(P, 2, []);
            pins.jobs_ended = true;
            pins.next_round();
        }
        assert_eq!([10, 11].map(|row| pins.holds(P, row)), [false, true]);
        for _ in 0..MAX_IDLE_ROUNDS {
            pins.next_round();
        }
        assert!(pins.holds(P, 11), "no job has ended, so nothing was to be tried");
    }

    #[test]
    fn an_op_that_sleeps_is_not_given_up_however_long_it_does() {
        let mut pins = Pins::default();
        let pass = |pins: &mut Pins| {
            for _ in 0..=2 * MAX_IDLE_ROUNDS {
                pins.jobs_ended = true;
                pins.next_round();
            }
        };
        pins.hold(P, 1, [10]);
        pins.sleep(P, 1);
        pass(&mut pins);
        pass(&mut pins);
        assert!(pins.holds(P, 10));
        pins.wake(P, 1);
        pins.release(P, || 2);
        assert!(pins.holds(P, 10), "it is tried now");
        pass(&mut pins);
        assert!(pins.rows.is_empty() && pins.waiting.is_empty() && pins.looks.is_empty());
    }

    #[test]
    fn ops_that_are_ready_hold_their_rows_until_as_many_have_run() {
        let mut pins = Pins::default();
        pins.hold(P, 1, [10]);
        pins.keep(P, 1, [10, 11]);
        pins.keep(P, 1, [10, 11]);
        pins.keep(P, 2, [12]);
        for _ in 0..=2 * MAX_IDLE_ROUNDS {
            pins.jobs_ended = true;
            pins.next_round();
        }
        let held = |pins: &Pins| [10, 11, 12].map(|row| pins.holds(P, row));
        assert_eq!(held(&pins), [true; 3], "an entry may wait for the disk for long");
        pins.release(P, || 1);
        assert_eq!(held(&pins), [true; 3]);
        pins.release(P, || 1);
        assert_eq!(held(&pins), [false, false, true]);
        // Its entry was never proposed, or another leader's replaced it.
        for _ in 0..=MAX_READY_ROUNDS + MAX_IDLE_ROUNDS {
            pins.jobs_ended = true;
            pins.next_round();
        }
        assert!(pins.rows.is_empty() && pins.waiting.is_empty());
    }

    #[test]
    fn what_is_held_is_bounded_but_one_op_always_gets_all() {
        let mut pins = Pins::default();
        pins.hold(P, 1, 0..2 * MAX_ROWS as u64);
        pins.hold(P, 2, [u64::MAX]);
        assert!(pins.holds(P, 2 * MAX_ROWS as u64 - 1) && !pins.holds(P, u64::MAX));
        pins.release(P, || 1);
        pins.hold(P, 2, [u64::MAX]);
        assert!(pins.holds(P, u64::MAX));
    }
}
