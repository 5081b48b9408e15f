//! A few plain threads beside the cores for work that may block: what requests wait for, flush, compaction, snapshot
//! files.
//!
//! Invariants: a task that was taken runs once, to its end. A full queue is an answer: the task comes back and its core
//! offers it again at its next turn. Neither kind of task waits for all of the other: one thread takes short ones alone,
//! and of the others the first one takes long ones first.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, select};

use super::cpuset::CpuSet;

/// Work for the pool.
pub type Task = Box<dyn FnOnce() + Send>;

/// What kind of work a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Done in about a ms, and requests wait for it.
    Short,
    /// May take seconds.
    Long,
}

/// Whether a pool ends: its tasks do not pause any more then.
#[derive(Default)]
struct Ending {
    has_begun: Mutex<bool>,
    begun: Condvar,
}

impl Ending {
    fn begin(&self) {
        *self.has_begun.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.begun.notify_all();
    }

    /// Waits for so long, or until it begins.
    fn wait(&self, time: Duration) {
        let has_begun = self.has_begun.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.begun.wait_timeout_while(has_begun, time, |has_begun| !*has_begun));
    }
}

/// What a pool's thread looks at before it pauses.
struct Pausing {
    ending: Arc<Ending>,
    /// The queue of tasks that take long.
    long: Receiver<Task>,
}

thread_local! {
    /// Of the pool whose thread this is.
    static PAUSING: RefCell<Option<Pausing>> = const { RefCell::new(None) };
}

/// Leaves the CPU and the disk to others for a while: for tasks that take long, between two slices of their work. Returns
/// at once while another such task waits for a thread, as a pause keeps this one; once the pool ends; and on a thread of
/// no pool.
pub fn pause(time: Duration) {
    PAUSING.with_borrow(|pausing| {
        if let Some(Pausing { ending, long }) = pausing
            && long.is_empty()
        {
            ending.wait(time);
        }
    });
}

/// The threads.
pub struct Pool {
    senders: Option<[Sender<Task>; 2]>,
    threads: Vec<JoinHandle<()>>,
    ending: Arc<Ending>,
}

impl Pool {
    /// Starts `threads` threads, one at least, that take from two queues of `capacity` tasks each, and one more for short
    /// tasks alone. They stay off the cores' pinning: on `cpus`, unless it is empty.
    ///
    /// # Errors
    /// What the system says: out of threads.
    pub fn start(threads: usize, capacity: usize, cpus: &CpuSet) -> io::Result<Self> {
        let (short, long) = (bounded::<Task>(capacity), bounded::<Task>(capacity));
        let ending = Arc::new(Ending::default());
        let threads = (0..=threads.max(1))
            .map(|number| {
                let receivers = (short.1.clone(), long.1.clone());
                let (cpus, ending) = (cpus.clone(), Arc::clone(&ending));
                std::thread::Builder::new().name(format!("pool-{number}")).spawn(move || {
                    confine(&cpus);
                    let (short, long) = &receivers;
                    PAUSING.set(Some(Pausing { ending, long: long.clone() }));
                    let next = || match number {
                        0 => short.recv().ok(),
                        1 => next(long, short),
                        _ => next(short, long),
                    };
                    while let Some(task) = next() {
                        task();
                    }
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { senders: Some([short.0, long.0]), threads, ending })
    }

    /// Hands a task over.
    ///
    /// # Errors
    /// The task itself, if its queue is full.
    pub fn submit(&self, kind: Kind, task: Task) -> Result<(), Task> {
        let Some([short, long]) = &self.senders else { return Err(task) };
        let sender = match kind {
            Kind::Short => short,
            Kind::Long => long,
        };
        sender.try_send(task).map_err(|error| match error {
            TrySendError::Full(task) | TrySendError::Disconnected(task) => task,
        })
    }
}

/// The next task, one of the `first` if there is any; `None`: no more will come.
fn next(first: &Receiver<Task>, second: &Receiver<Task>) -> Option<Task> {
    if let Ok(task) = first.try_recv() {
        return Some(task);
    }
    // Both queues are closed at once; what is left in the other one still runs.
    select! {
        recv(first) -> task => task.or_else(|_| second.recv()).ok(),
        recv(second) -> task => task.or_else(|_| first.recv()).ok(),
    }
}

/// Keeps this thread on `cpus`; where that fails it runs wherever the system puts it, which is slower and not wrong.
fn confine(cpus: &CpuSet) {
    if cpus.is_empty() {
        return;
    }
    if let Err(error) = cpus.pin_this_thread() {
        tracing::warn!(%cpus, %error, "a pool thread could not be pinned to its CPUs");
    }
}

impl Drop for Pool {
    /// Waits until all tasks taken have run.
    fn drop(&mut self) {
        self.senders = None;
        self.ending.begin();
        for thread in self.threads.drain(..) {
            // A task that panicked has printed why; the others still end.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    /// A pool whose tasks that take long have begun, and wait.
    struct Busy {
        pool: Pool,
        ran: Arc<AtomicUsize>,
        go: mpsc::Sender<()>,
    }

    impl Busy {
        fn new(threads: usize) -> Self {
            let pool = Pool::start(threads, 1, &CpuSet::default()).expect("threads");
            let ran = Arc::new(AtomicUsize::new(0));
            let (started, wait_started) = mpsc::channel();
            let (go, wait_go) = mpsc::channel::<()>();
            let counted = Arc::clone(&ran);
            let task = move || {
                started.send(()).expect("test waits");
                wait_go.recv().expect("test says go");
                counted.fetch_add(1, Ordering::SeqCst);
            };
            pool.submit(Kind::Long, Box::new(task)).unwrap_or_else(|_| panic!("empty queue"));
            wait_started.recv().expect("a thread has taken it");
            Self { pool, ran, go }
        }

        fn task(&self) -> Task {
            let counted = Arc::clone(&self.ran);
            Box::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            })
        }
    }

    #[test]
    fn every_task_runs_once_and_a_full_queue_says_so() {
        let Busy { pool, ran, go } = {
            let busy = Busy::new(1);
            assert!(busy.pool.submit(Kind::Long, busy.task()).is_ok());
            assert!(busy.pool.submit(Kind::Long, busy.task()).is_err(), "one runs, one waits, no room");
            assert!(busy.pool.submit(Kind::Short, busy.task()).is_ok());
            busy
        };
        go.send(()).expect("it waits");
        drop(pool);
        assert_eq!(ran.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_long_task_does_not_wait_until_there_are_no_short_ones() {
        const SHORT: usize = 1000;
        for threads in 1..4 {
            let pool = Pool::start(threads, 4, &CpuSet::default()).expect("threads");
            let (short, has_long) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let submit_short = || {
                let short = Arc::clone(&short);
                let task = move || {
                    std::thread::sleep(std::time::Duration::from_micros(100));
                    short.fetch_add(1, Ordering::SeqCst);
                };
                pool.submit(Kind::Short, Box::new(task)).is_ok()
            };
            while submit_short() {}
            let flag = Arc::clone(&has_long);
            let long = Box::new(move || flag.store(1, Ordering::SeqCst));
            assert!(pool.submit(Kind::Long, long).is_ok());
            // The queue of short ones is never empty.
            while has_long.load(Ordering::SeqCst) == 0 {
                assert!(short.load(Ordering::SeqCst) < SHORT, "{threads} threads do short tasks alone");
                if !submit_short() {
                    std::thread::yield_now();
                }
            }
        }
    }

    #[test]
    fn a_pool_that_ends_waits_for_no_pause() {
        let pool = Pool::start(1, 1, &CpuSet::default()).expect("threads");
        let (paused, wait_paused) = mpsc::channel();
        let task = Box::new(move || {
            paused.send(()).expect("test waits");
            (0..1000).for_each(|_| pause(Duration::from_secs(3600)));
        });
        assert!(pool.submit(Kind::Long, task).is_ok());
        wait_paused.recv().expect("it has begun");
        drop(pool);
        pause(Duration::from_secs(3600));
    }

    #[test]
    fn a_task_that_waits_for_a_thread_waits_for_no_pause() {
        let pool = Pool::start(1, 1, &CpuSet::default()).expect("threads");
        let (go, wait_go) = mpsc::channel::<()>();
        let task = Box::new(move || {
            wait_go.recv().expect("test says go");
            (0..1000).for_each(|_| pause(Duration::from_secs(3600)));
        });
        assert!(pool.submit(Kind::Long, task).is_ok());
        let (ran, wait_ran) = mpsc::channel();
        let mut next: Task = Box::new(move || ran.send(()).expect("test waits"));
        // The queue has room for one task, which the first task leaves as it begins.
        while let Err(task) = pool.submit(Kind::Long, next) {
            next = task;
            std::thread::yield_now();
        }
        go.send(()).expect("it waits");
        wait_ran.recv_timeout(Duration::from_secs(30)).expect("it has the thread");
    }

    #[test]
    fn a_short_task_does_not_wait_for_long_ones() {
        let busy = Busy::new(1);
        assert!(busy.pool.submit(Kind::Long, busy.task()).is_ok(), "it waits for the one that runs");
        for _ in 0..3 {
            let (done, wait_done) = mpsc::channel();
            let task = Box::new(move || done.send(()).expect("test waits"));
            assert!(busy.pool.submit(Kind::Short, task).is_ok());
            wait_done.recv().expect("it runs, though no long one has ended");
        }
        assert_eq!(busy.ran.load(Ordering::SeqCst), 0);
        busy.go.send(()).expect("it waits");
        drop(busy.pool);
        assert_eq!(busy.ran.load(Ordering::SeqCst), 2);
    }
}
