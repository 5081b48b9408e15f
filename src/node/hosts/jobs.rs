//! Jobs of a core's shards, on their way to the pool and back.
//!
//! Invariant: short ones, for which requests wait, never wait for long ones, nor the other way round: each kind has a line
//! of its own, and may have so many with the pool. A result always has room to come back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use corduroy_shards::runtime::Doorbell;
use corduroy_shards::runtime::pool::{Kind, Task};
use corduroy_shards::runtime::ring::{RingReceiver, RingSender, ring};

/// Jobs of a kind that a core may have with the pool at a time.
pub const MAX_OF_KIND: usize = 32;

/// The kinds, in the order in which they are handed over.
const KINDS: [Kind; 2] = [Kind::Short, Kind::Long];

/// Jobs of a kind.
#[derive(Default)]
struct Line {
    /// Those that the pool has not taken, in the order in which they came.
    waiting: VecDeque<Task>,
    under_way: usize,
}

/// See the file's head. `R`: what a job brings.
pub struct Jobs<R> {
    lines: RefCell<[Line; 2]>,
    done: RingReceiver<(Kind, R)>,
    /// Given to each job.
    sender: Arc<RingSender<(Kind, R)>>,
}

const fn index(kind: Kind) -> usize {
    match kind {
        Kind::Short => 0,
        Kind::Long => 1,
    }
}

impl<R: Send + 'static> Jobs<R> {
    /// None yet.
    pub fn new() -> Self {
        let (sender, done) = ring(KINDS.len() * MAX_OF_KIND);
        Self { lines: RefCell::default(), done, sender: Arc::new(sender) }
    }

    fn with<T>(&self, kind: Kind, with: impl FnOnce(&mut Line) -> T) -> T {
        let mut lines = self.lines.borrow_mut();
        with(lines.get_mut(index(kind)).expect("there is a line for each kind"))
    }

    /// Adds a job; `bell` is rung when its result is there.
    pub fn add(&self, kind: Kind, bell: Arc<Doorbell>, work: impl FnOnce() -> R + Send + 'static) {
        let done = Arc::clone(&self.sender);
        let task = move || {
            assert!(done.push((kind, work())).is_ok(), "the ring has room for every job under way");
            bell.ring();
        };
        self.with(kind, |line| line.waiting.push_back(Box::new(task)));
    }

    /// Hands waiting jobs to the pool by `submit`, which gives back what there is no room for.
    pub fn start(&self, mut submit: impl FnMut(Kind, Task) -> Result<(), Task>) {
        for kind in KINDS {
            self.with(kind, |line| {
                while line.under_way < MAX_OF_KIND
                    && let Some(task) = line.waiting.pop_front()
                {
                    if let Err(task) = submit(kind, task) {
                        line.waiting.push_front(task);
                        return;
                    }
                    line.under_way += 1;
                }
            });
        }
    }

    /// The next result.
    pub fn take_done(&self) -> Option<R> {
        let (kind, result) = self.done.pop()?;
        self.with(kind, |line| line.under_way -= 1);
        Some(result)
    }

    /// Whether results are there.
    pub fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether some wait for the pool to take them.
    pub fn has_waiting(&self) -> bool {
        self.lines.borrow().iter().any(|line| !line.waiting.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn bell() -> Arc<Doorbell> {
        Arc::new(Doorbell::new().expect("an eventfd"))
    }

    fn filled(long: usize, short: usize) -> Jobs<usize> {
        let jobs = Jobs::new();
        (0..long).for_each(|number| jobs.add(Kind::Long, bell(), move || number));
        (0..short).for_each(|number| jobs.add(Kind::Short, bell(), move || 1000 + number));
        jobs
    }

    /// Runs what is handed over of this kind at once; of the other the pool takes none.
    fn run(jobs: &Jobs<usize>, wanted: Kind) -> usize {
        let ran = Cell::new(0);
        jobs.start(|kind, task| {
            if kind != wanted {
                return Err(task);
            }
            task();
            ran.set(ran.get() + 1);
            Ok(())
        });
        ran.get()
    }

    #[test]
    fn short_ones_do_not_wait_for_long_ones_that_the_pool_does_not_take() {
        let jobs = filled(3, 2);
        assert_eq!(run(&jobs, Kind::Short), 2);
        assert_eq!([jobs.take_done(), jobs.take_done(), jobs.take_done()], [Some(1000), Some(1001), None]);
        assert!(jobs.has_waiting());
        assert_eq!(run(&jobs, Kind::Long), 3);
        assert!(!jobs.has_waiting() && jobs.has_done());
    }

    #[test]
    fn either_kind_has_places_of_its_own_and_all_results_have_room() {
        let jobs = filled(3 * MAX_OF_KIND, 2 * MAX_OF_KIND);
        assert_eq!(run(&jobs, Kind::Long), MAX_OF_KIND);
        assert_eq!(run(&jobs, Kind::Short), MAX_OF_KIND, "however many long ones are under way");
        assert_eq!((run(&jobs, Kind::Long), run(&jobs, Kind::Short)), (0, 0));
        let results: Vec<usize> = std::iter::from_fn(|| jobs.take_done()).collect();
        let expected: Vec<usize> = (0..MAX_OF_KIND).chain(1000..1000 + MAX_OF_KIND).collect();
        assert_eq!(results, expected, "each kind in the order in which they came");
        assert_eq!((run(&jobs, Kind::Long), run(&jobs, Kind::Short)), (MAX_OF_KIND, MAX_OF_KIND));
    }
}
