//! What is worked out between an op's question and its answer: kept until the op asks again.
//!
//! Whenever jobs end, each op that waits is tried again, and asks. So what was not asked for while jobs ended has lost its
//! op, as a rule: it gives way where there is no room for another, and goes by itself in the end. Invariants: no more are
//! begun than the bounds allow, in number and bytes, but for the one that exceeds them; and an op that found no room is
//! woken when there may be some.

use std::ops::{Deref, DerefMut};

/// Ends of jobs without a question, after which nobody seems to ask any more.
const BUSY_JOBS: u32 = 1;

/// How long ago one was asked for, in ends of jobs.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Idle {
    jobs: u32,
    most: u32,
}

impl Idle {
    /// Just asked for; to go once it was not while more than `most` jobs ended.
    pub(in crate::store) const fn new(most: u32) -> Self {
        Self { jobs: 0, most }
    }

    /// It is asked for.
    pub(in crate::store) const fn asked(&mut self) {
        self.jobs = 0;
    }

    /// It is kept for so long from now on.
    pub(in crate::store) const fn keep_for(&mut self, most: u32) {
        self.most = most;
    }

    /// Whether it was asked for since the last job ended.
    pub(in crate::store) const fn is_asked(&self) -> bool {
        self.jobs == 0
    }

    /// Whether its op was not tried when it was due.
    pub(in crate::store) const fn is_idle(&self) -> bool {
        self.jobs > BUSY_JOBS
    }

    const fn is_over(&self) -> bool {
        self.jobs > self.most
    }

    const fn left(&self) -> u32 {
        self.most.saturating_sub(self.jobs)
    }
}

/// What can be kept.
pub(in crate::store) trait Asked {
    /// What it takes in memory.
    fn bytes(&self) -> usize;
    /// Whether a job is going to end because of it, which was last asked for so long ago.
    fn goes_on(&self, idle: Idle) -> bool;
    /// Whether it stays even if nobody asks, since a job is at work on it.
    fn stays(&self) -> bool;
}

/// One that is kept.
#[derive(Debug)]
pub(in crate::store) struct Held<T> {
    /// How long ago it was asked for.
    pub(in crate::store) idle: Idle,
    pub(in crate::store) item: T,
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

/// How much is kept at most.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Bounds {
    pub(in crate::store) count: usize,
    pub(in crate::store) bytes: usize,
}

/// All of a kind.
#[derive(Debug)]
pub(in crate::store) struct Kept<T> {
    all: Vec<Held<T>>,
    /// One was removed, and not by the op that it is for: others may wait for it.
    has_removed: bool,
    /// An op found no room.
    is_wanted: bool,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { all: Vec::new(), has_removed: false, is_wanted: false }
    }
}

impl<T> Deref for Kept<T> {
    type Target = [Held<T>];

    fn deref(&self) -> &[Held<T>] {
        &self.all
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut [Held<T>] {
        &mut self.all
    }
}

impl<T: Asked> Kept<T> {
    pub(in crate::store) fn push(&mut self, item: T, idle: Idle) {
        self.all.push(Held { idle, item });
    }

    /// Gives one to its op.
    pub(in crate::store) fn take(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Option<Held<T>> {
        let at = self.all.iter().position(|held| is_it(held))?;
        Some(self.all.swap_remove(at))
    }

    /// Removes one that others may wait for.
    pub(in crate::store) fn remove(&mut self, is_it: impl FnMut(&T) -> bool) {
        self.has_removed |= self.take(is_it).is_some();
    }

    /// Jobs have ended: what nobody asks for any more goes.
    pub(in crate::store) fn age(&mut self) {
        let before = self.all.len();
        self.all.retain_mut(|held| {
            held.idle.jobs = held.idle.jobs.saturating_add(1);
            held.stays() || !held.idle.is_over()
        });
        self.has_removed |= self.all.len() < before;
    }

    /// What all take in memory.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.all.iter().map(|held| held.bytes()).sum()
    }

    /// Whether one more may begin.
    fn has_room(&self, bounds: Bounds) -> bool {
        self.all.len() < bounds.count && self.bytes() <= bounds.bytes
    }

    fn may_give_way(held: &Held<T>) -> bool {
        held.idle.is_idle() && !held.stays()
    }

    /// Has those go that nobody asks for, first what would go next by itself, until there is room. Returns whether there is.
    pub(in crate::store) fn make_room(&mut self, bounds: Bounds) -> bool {
        while !self.has_room(bounds) {
            let idle = self.all.iter().enumerate().filter(|(_, held)| Self::may_give_way(held));
            let next = idle.min_by_key(|(_, held)| held.idle.left());
            let Some((at, _)) = next else { return false };
            self.all.swap_remove(at);
            self.has_removed = true;
        }
        true
    }

    /// An op waits for room.
    pub(in crate::store) const fn want_room(&mut self) {
        self.is_wanted = true;
    }

    /// Whether somebody who waits can go on now, and no other job would have it tried again. It may do so in vain, but not
    /// again and again: who is tried asks, and what nobody asks for then gives way in two more tries.
    pub(in crate::store) fn take_wake(&mut self, bounds: Bounds) -> bool {
        let has_room = || self.has_room(bounds) || self.all.iter().any(Self::may_give_way);
        let is_wanted =
            self.is_wanted && (has_room() || !self.all.iter().any(|held| held.goes_on(held.idle)));
        self.is_wanted &= !is_wanted;
        std::mem::take(&mut self.has_removed) | is_wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { count: 4, bytes: 100 };

    struct One {
        name: u32,
        bytes: usize,
        is_at_work: bool,
    }

    impl Asked for One {
        fn bytes(&self) -> usize {
            self.bytes
        }

        fn goes_on(&self, _: Idle) -> bool {
            self.is_at_work
        }

        fn stays(&self) -> bool {
            self.is_at_work
        }
    }

    fn kept(sizes: &[usize]) -> Kept<One> {
        let mut kept = Kept::default();
        for (name, bytes) in (0..).zip(sizes) {
            kept.push(One { name, bytes: *bytes, is_at_work: false }, Idle::new(5));
        }
        kept
    }

    fn names(kept: &Kept<One>) -> Vec<u32> {
        let mut names: Vec<_> = kept.iter().map(|one| one.name).collect();
        names.sort_unstable();
        names
    }

    fn age(kept: &mut Kept<One>, jobs: u32, asked: &[u32]) {
        for _ in 0..jobs {
            kept.age();
            kept.iter_mut().filter(|one| asked.contains(&one.name)).for_each(|one| one.idle.asked());
        }
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes_with_age() {
        let mut kept = kept(&[1, 1, 1]);
        age(&mut kept, 5, &[1]);
        assert_eq!((names(&kept), kept.take_wake(BOUNDS)), (vec![0, 1, 2], false));
        kept.iter_mut().filter(|one| one.name == 2).for_each(|one| one.idle.keep_for(8));
        age(&mut kept, 1, &[1]);
        assert_eq!((names(&kept), kept.take_wake(BOUNDS)), (vec![1, 2], true));
        assert!(!kept.take_wake(BOUNDS), "nothing more has gone");
        age(&mut kept, 3, &[1]);
        assert_eq!(names(&kept), [1]);
    }

    #[test]
    fn neither_number_nor_bytes_exceed_the_bounds_by_more_than_one() {
        for (sizes, has_room) in [
            (vec![], true),
            (vec![500], false),
            (vec![50, 50], true),
            (vec![50, 50, 1], false),
            (vec![0; 3], true),
            (vec![0; 4], false),
        ] {
            assert_eq!(kept(&sizes).make_room(BOUNDS), has_room, "{sizes:?}");
        }
    }

    #[test]
    fn the_idlest_give_way_and_no_more_of_them_than_needed() {
        let mut kept = kept(&[40, 10, 40, 40]);
        assert!(!kept.make_room(BOUNDS), "all were just asked for");
        age(&mut kept, 1, &[]);
        assert!(!kept.make_room(BOUNDS), "their ops may be tried yet");
        // 1 is the last that goes by itself, then 2.
        kept.iter_mut().for_each(|one| one.idle.keep_for([5, 60, 6, 5][one.name as usize]));
        age(&mut kept, 1, &[3]);
        assert!(kept.make_room(BOUNDS));
        assert_eq!((names(&kept), kept.take_wake(BOUNDS)), (vec![1, 2, 3], true));
        kept.push(One { name: 4, bytes: 90, is_at_work: false }, Idle::new(5));
        let has_room = kept.make_room(Bounds { count: 9, ..BOUNDS });
        assert!(!has_room, "those that stay take too much");
        assert_eq!(names(&kept), [3, 4], "both idle ones were not enough, and had to go");
    }

    #[test]
    fn what_a_job_works_on_is_kept_and_counted() {
        let mut kept = kept(&[1, 1, 1, 1]);
        kept.iter_mut().for_each(|one| one.is_at_work = true);
        age(&mut kept, 100, &[]);
        assert!(!kept.make_room(BOUNDS));
        assert_eq!(kept.len(), 4);
        kept.iter_mut().for_each(|one| one.is_at_work = one.name != 2);
        assert!(kept.make_room(BOUNDS));
        assert_eq!(names(&kept), [0, 1, 3]);
    }

    /// Ops ask for what is kept, or for more, whenever jobs end; those that find no room have themselves woken. What is asked
    /// for is answered unless a job is at it.
    #[test]
    fn nobody_is_woken_in_vain_again_and_again() {
        for seed in 0..2000u64 {
            let mut random = {
                let mut at = seed;
                move |below: u64| {
                    at += 1;
                    corduroy_wal::mix::scramble(seed << 32 | at) % below
                }
            };
            let mut kept: Kept<One> = Kept::default();
            for name in 0..1 + random(6) as u32 {
                let idle = Idle::new([4, 64][random(2) as usize]);
                kept.push(One { name, bytes: random(80) as usize, is_at_work: random(3) == 0 }, idle);
            }
            let (mut waiting, mut wakes_in_a_row, mut most) = (3, 0, 0);
            // Who waits asks, in each round that a wake begins; no job ends by itself.
            for _ in 0..100 {
                let mut has_begun = false;
                while waiting > 0 && kept.make_room(BOUNDS) {
                    kept.push(One { name: 9, bytes: random(80) as usize, is_at_work: true }, Idle::new(64));
                    (waiting, has_begun) = (waiting - 1, true);
                }
                if waiting > 0 {
                    kept.want_room();
                }
                wakes_in_a_row = if has_begun { 0 } else { wakes_in_a_row };
                if !kept.take_wake(BOUNDS) {
                    break;
                }
                wakes_in_a_row += 1;
                most = most.max(wakes_in_a_row);
                kept.age();
            }
            assert!(most <= 4, "seed {seed}: woken {most} times in a row for nothing");
            let is_awaited = kept.iter().any(|one| one.is_at_work);
            assert!(waiting == 0 || is_awaited, "seed {seed}: {waiting} wait, and nothing wakes them");
        }
    }

    #[test]
    fn who_found_no_room_is_woken_once_that_there_may_be_some() {
        let mut kept = kept(&[1, 1, 1, 1]);
        kept.iter_mut().for_each(|one| one.is_at_work = true);
        assert!(!kept.take_wake(BOUNDS), "nobody waits");
        kept.want_room();
        assert!(!kept.take_wake(BOUNDS), "a job is going to end");
        kept.iter_mut().for_each(|one| one.is_at_work = false);
        assert!(kept.take_wake(BOUNDS), "no job is: only so is it seen who asks still");
        assert!(!kept.take_wake(BOUNDS));
        kept.want_room();
        assert!(kept.take(|one| one.name == 0).is_some());
        assert!(kept.take_wake(BOUNDS), "one was answered");
        kept.remove(|one| one.name == 9);
        assert!(!kept.take_wake(BOUNDS), "there was none");
        kept.remove(|one| one.name == 1);
        assert!(kept.take_wake(BOUNDS), "one was given up");
    }
}
