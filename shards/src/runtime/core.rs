//! One core: a pinned thread that runs the core's main task to its end.
//!
//! Where the kernel allows io_uring the task runs in an executor, which is glommio's, and only this file names it, so that
//! it can be replaced. With nothing to do that task sleeps in its [`Poller`](super::Poller) and not in the executor, which
//! would make each wake-up and each read of a socket dearer (see `poller`); so a core has no task beside its main one, and
//! where io_uring or the memory to lock for it is refused, the same task runs on the bare thread and lacks nothing.

use std::io;
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};

use super::cpuset::CpuSet;

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
    /// Whether the kernel allows io_uring, without which there is no executor.
    pub has_uring: bool,
}

/// A started core.
#[derive(Debug)]
pub struct CoreHandle<T: Send + 'static> {
    name: String,
    join: JoinHandle<T>,
}

impl<T: Send + 'static> CoreHandle<T> {
    /// Waits for its main task to end.
    ///
    /// # Errors
    /// If its thread panicked.
    pub fn join(self) -> io::Result<T> {
        let name = self.name;
        self.join.join().map_err(|_| io::Error::other(format!("core {name}: its thread panicked")))
    }
}

/// Starts a pinned thread whose one task is `main`. A CPU that it cannot be pinned to, and an executor that cannot be had,
/// are logged and done without.
///
/// # Errors
/// What the system says: out of threads.
pub fn spawn_core<T, M>(options: CoreOptions, main: M) -> io::Result<CoreHandle<T>>
where
    T: Send + 'static,
    M: FnOnce() -> T + Send + 'static,
{
    let name = options.name.clone();
    let join = std::thread::Builder::new().name(options.name.clone()).spawn(move || run(&options, main))?;
    Ok(CoreHandle { name, join })
}

fn run<T>(options: &CoreOptions, main: impl FnOnce() -> T) -> T {
    if let Some(cpu) = options.cpu
        && let Err(error) = CpuSet::new([cpu]).pin_this_thread()
    {
        tracing::warn!(
            core = options.name,
            "cannot be pinned to CPU {cpu} ({error}): it runs where the system puts it"
        );
    }
    if !options.has_uring {
        return main();
    }
    // The thread is placed already.
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY_BYTES);
    match builder.make() {
        Ok(executor) => executor.run(async move { main() }),
        Err(error) => {
            tracing::debug!(core = options.name, "runs without an executor: {error}");
            main()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_pinned_with_an_executor_and_without() {
        let cpu = *CpuSet::of_this_thread().expect("affinity").cpus().last().expect("one");
        for has_uring in [true, false] {
            let options = CoreOptions { name: "pinned".into(), cpu: Some(cpu), has_uring };
            let core = spawn_core(options, || CpuSet::of_this_thread().expect("affinity"));
            assert_eq!(core.expect("a core").join().expect("its end").cpus(), [cpu]);
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_done_without() {
        let options = CoreOptions { name: "nowhere".into(), cpu: Some(8000), has_uring: false };
        assert_eq!(spawn_core(options, || 7).expect("a core").join().expect("its end"), 7);
    }
}
