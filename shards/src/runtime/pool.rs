//! A few plain threads beside the cores for work that may block: flush, compaction, snapshot files.
//!
//! Invariant: a task that was taken runs once, to its end. A full queue is an answer: the task comes back and its core
//! offers it again at its next turn.

use std::fmt;
use std::io;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, TrySendError, bounded};

use super::cpuset::CpuSet;

/// Work for the pool.
pub type Task = Box<dyn FnOnce() + Send>;

/// The threads.
pub struct Pool {
    sender: Option<Sender<Task>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads that take from one queue of `capacity` tasks. They stay off the cores' pinning: on
    /// `cpus`, unless it is empty.
    ///
    /// # Errors
    /// What the system says: out of threads.
    pub fn start(threads: usize, capacity: usize, cpus: &CpuSet) -> io::Result<Self> {
        let (sender, receiver) = bounded::<Task>(capacity);
        let threads = (0..threads.max(1))
            .map(|number| {
                let receiver = receiver.clone();
                let cpus = cpus.clone();
                std::thread::Builder::new().name(format!("pool-{number}")).spawn(move || {
                    place(&cpus);
                    for task in &receiver {
                        task();
                    }
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { sender: Some(sender), threads })
    }

    /// Hands a task over.
    ///
    /// # Errors
    /// The task itself, if the queue is full.
    pub fn submit(&self, task: Task) -> Result<(), Task> {
        let Some(sender) = &self.sender else { return Err(task) };
        sender.try_send(task).map_err(|error| match error {
            TrySendError::Full(task) | TrySendError::Disconnected(task) => task,
        })
    }
}

/// Keeps this thread on `cpus`; where that fails it runs wherever the system puts it, which is slower and not wrong.
fn place(cpus: &CpuSet) {
    if cpus.is_empty() {
        return;
    }
    if let Err(error) = cpus.pin_this_thread() {
        tracing::warn!(%cpus, %error, "a pool thread could not be placed");
    }
}

impl Drop for Pool {
    /// Waits until all tasks taken have run.
    fn drop(&mut self) {
        self.sender = None;
        for thread in self.threads.drain(..) {
            // A task that panicked has told why; the others still end.
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

    #[test]
    fn every_task_runs_once_and_a_full_queue_says_so() {
        let pool = Pool::start(1, 1, &CpuSet::default()).expect("threads");
        let ran = Arc::new(AtomicUsize::new(0));
        let (started, wait_started) = mpsc::channel();
        let (go, wait_go) = mpsc::channel::<()>();
        let counted = Arc::clone(&ran);
        pool.submit(Box::new(move || {
            started.send(()).expect("test waits");
            wait_go.recv().expect("test says go");
            counted.fetch_add(1, Ordering::SeqCst);
        }))
        .unwrap_or_else(|_| panic!("empty queue"));
        wait_started.recv().expect("the thread has taken it");
        let task = || -> Task {
            let counted = Arc::clone(&ran);
            Box::new(move || {
                counted.fetch_add(1, Ordering::SeqCst);
            })
        };
        assert!(pool.submit(task()).is_ok());
        assert!(pool.submit(task()).is_err(), "one runs, one waits, no room");
        go.send(()).expect("it waits");
        drop(pool);
        assert_eq!(ran.load(Ordering::SeqCst), 2);
    }
}
