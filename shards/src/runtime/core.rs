//! One core: a pinned thread with its own executor, and everything of the executor that the rest may use.
//!
//! The executor is glommio's, and only this file and `socket.rs` name it, so that it can be replaced. Tasks never leave
//! their core. A core with nothing to do sleeps in the kernel; it never spins.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use glommio::timer::Timer;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};

/// How long ready tasks may run before the executor looks at I/O again.
const PREEMPT_EVERY: Duration = Duration::from_micros(500);

/// Registered memory of the executor, bytes: little, for nothing here reads files through it (and 10 MiB, its own
/// default, exceeds what a user may lock).
const IO_MEMORY_BYTES: usize = 256 << 10;

/// How to start a core.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The thread's name.
    pub name: String,
    /// The CPU to pin it to; `None` leaves it to the system.
    pub cpu: Option<usize>,
}

/// A started core.
#[derive(Debug)]
pub struct CoreHandle<T: Send + 'static> {
    name: String,
    join: glommio::ExecutorJoinHandle<T>,
}

impl<T: Send + 'static> CoreHandle<T> {
    /// Waits for its main task to end.
    ///
    /// # Errors
    /// If its executor could not be set up (io_uring forbidden, too little lockable memory) or its thread panicked.
    pub fn join(self) -> io::Result<T> {
        let name = self.name;
        self.join.join().map_err(|error| io::Error::other(format!("core {name}: {error}")))
    }
}

/// Starts a thread with an executor that runs `main` to its end. `main` is made on the new thread.
///
/// # Errors
/// What the system says: out of threads or descriptors.
pub fn spawn_core<T, F, M>(options: CoreOptions, main: M) -> io::Result<CoreHandle<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    M: FnOnce() -> F + Send + 'static,
{
    let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let name = options.name.clone();
    let join = LocalExecutorBuilder::new(placement)
        .name(&options.name)
        .io_memory(IO_MEMORY_BYTES)
        .spawn(move || async move {
            let queue = glommio::executor().create_task_queue(
                Shares::Static(1000),
                Latency::Matters(PREEMPT_EVERY),
                "core",
            );
            // The future need not be `Send`, and is made where it runs.
            match glommio::spawn_local_into(async move { main().await }, queue) {
                Ok(task) => task.await,
                Err(error) => unreachable!("the queue was made just now: {error}"),
            }
        })
        .map_err(|error| io::Error::other(format!("core {name}: {error}")))?;
    Ok(CoreHandle { name, join })
}

/// Starts a task on this core, in the queue of the task that calls. It runs only after the caller has waited: glommio
/// would poll it inside this call, where the caller may hold borrows that the task wants.
pub fn spawn_local(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(async move {
        yield_now().await;
        future.await;
    })
    .detach();
}

/// Lets the other ready tasks of this core run first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for some time; late by some tens of µs.
pub async fn sleep(duration: Duration) {
    Timer::new(duration).await;
}

/// A re-armable timer for a task that waits for a deadline that moves.
#[derive(Debug, Default)]
pub struct Sleep {
    armed: Option<(Instant, Timer)>,
}

impl Sleep {
    /// Ready once `deadline` is past. An armed timer that ends sooner is kept and ends this early: the caller looks at
    /// its deadlines anyway, and arming is the dear part.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let now = Instant::now();
        if deadline <= now {
            return Poll::Ready(());
        }
        if self.armed.as_ref().is_none_or(|(at, _)| *at > deadline) {
            self.armed = Some((deadline, Timer::new(deadline - now)));
        }
        let Some((_, timer)) = self.armed.as_mut() else { return Poll::Pending };
        let ended = Pin::new(timer).poll(cx).is_ready();
        if ended {
            self.armed = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Wakes one task of this core from others of this core. Raised signals merge into one.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// A signal that is not raised.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Raises it. Cheap if it is raised already.
    pub fn raise(&self) {
        if !self.raised.replace(true)
            && let Some(waiter) = self.waiter.borrow_mut().take()
        {
            waiter.wake();
        }
    }

    /// Ready once raised; takes it down again.
    pub fn poll_raised(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.raised.replace(false) {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        // One waker at a time, replaced only if it changed: the executor counts clones in 16 bits.
        if waiter.as_ref().is_none_or(|old| !old.will_wake(cx.waker())) {
            *waiter = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits until it is raised.
    pub async fn raised(&self) {
        poll_fn(|cx| self.poll_raised(cx)).await;
    }
}

/// Waits for an eventfd that others (a doorbell, a private ring) write to.
#[derive(Debug)]
pub struct EventWaiter(BufferedFile);

impl EventWaiter {
    /// Takes over a descriptor of a *blocking* eventfd. Must be called on a core.
    #[must_use]
    pub fn new(eventfd: OwnedFd) -> Self {
        // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, and the file takes it; nobody else closes it.
        // Reading an eventfd through the file ring needs nothing that a regular file has: no offset, no size.
        Self(unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) })
    }

    /// Waits until it has been written, and takes all writes so far.
    ///
    /// # Errors
    /// What the system says; never in a sound process.
    pub async fn wait(&self) -> io::Result<()> {
        let read = self.0.read_at(0, 8).await.map_err(io::Error::from)?;
        if read.len() == 8 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Closes the descriptor.
    ///
    /// # Errors
    /// What the system says.
    pub async fn close(self) -> io::Result<()> {
        self.0.close().await.map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Doorbell;
    use std::sync::Arc;

    fn on_a_core<T: Send + 'static, F: Future<Output = T> + 'static>(
        main: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        let options = CoreOptions { name: "test".into(), cpu: None };
        spawn_core(options, main).expect("a core").join().expect("its end")
    }

    #[test]
    fn a_core_is_pinned() {
        let cpu = *crate::runtime::CpuSet::of_this_thread().expect("affinity").cpus().last().expect("one");
        let options = CoreOptions { name: "pinned".into(), cpu: Some(cpu) };
        let core =
            spawn_core(options, || async { crate::runtime::CpuSet::of_this_thread().expect("affinity") });
        assert_eq!(core.expect("a core").join().expect("its end").cpus(), [cpu]);
    }

    #[test]
    fn a_new_task_does_not_run_inside_its_spawner() {
        let seen = on_a_core(|| async {
            let cell = Rc::new(RefCell::new(0));
            let held = cell.borrow_mut();
            let theirs = Rc::clone(&cell);
            spawn_local(async move { *theirs.borrow_mut() += 1 });
            drop(held);
            sleep(Duration::from_millis(5)).await;
            cell.take()
        });
        assert_eq!(seen, 1);
    }

    #[test]
    fn signals_merge_and_wake() {
        let woken = on_a_core(|| async {
            let signal = Signal::new();
            let count = Rc::new(Cell::new(0));
            let (theirs, counted) = (Rc::clone(&signal), Rc::clone(&count));
            spawn_local(async move {
                loop {
                    theirs.raised().await;
                    counted.set(counted.get() + 1);
                }
            });
            signal.raise();
            signal.raise();
            sleep(Duration::from_millis(5)).await;
            let merged = count.get();
            signal.raise();
            sleep(Duration::from_millis(5)).await;
            (merged, count.get())
        });
        assert_eq!(woken, (1, 2));
    }

    #[test]
    fn a_doorbell_wakes_a_sleeping_core() {
        let bell = Arc::new(Doorbell::new().expect("eventfd"));
        let theirs = Arc::clone(&bell);
        let options = CoreOptions { name: "bell".into(), cpu: None };
        let core = spawn_core(options, move || async move {
            let waiter = EventWaiter::new(theirs.waiter_fd().expect("fd"));
            waiter.wait().await.expect("first ring");
            waiter.wait().await.expect("second ring");
            waiter.close().await.expect("close");
        })
        .expect("a core");
        bell.ring_always();
        std::thread::sleep(Duration::from_millis(20));
        bell.ring_always();
        core.join().expect("its end");
    }

    #[test]
    fn a_moving_deadline_ends_early_never_late() {
        let waited = on_a_core(|| async {
            let start = Instant::now();
            let mut sleep = Sleep::default();
            let far = start + Duration::from_secs(60);
            let near = start + Duration::from_millis(5);
            assert!(poll_fn(|cx| Poll::Ready(sleep.poll_until(cx, Some(far)))).await.is_pending());
            poll_fn(|cx| sleep.poll_until(cx, Some(near))).await;
            start.elapsed()
        });
        assert!(waited >= Duration::from_millis(5) && waited < Duration::from_secs(30), "{waited:?}");
    }
}
