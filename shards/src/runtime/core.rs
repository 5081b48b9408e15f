//! One core: a pinned thread with its own executor.
//!
//! The executor is glommio's, and only this file names it, so that it can be replaced. It places the thread and runs the
//! core's main task, which never leaves the core. With nothing to do that task sleeps in its [`Poller`](super::Poller)
//! and not in the executor, which would make each wake-up and each read of a socket dearer (see `poller`); so a core has
//! no task beside its main one.

use std::io;

use glommio::{LocalExecutorBuilder, Placement};

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

/// Starts a pinned thread with an executor whose one task is `main`.
///
/// # Errors
/// What the system says: out of threads or descriptors.
pub fn spawn_core<T, M>(options: CoreOptions, main: M) -> io::Result<CoreHandle<T>>
where
    T: Send + 'static,
    M: FnOnce() -> T + Send + 'static,
{
    let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let name = options.name.clone();
    let join = LocalExecutorBuilder::new(placement)
        .name(&options.name)
        .io_memory(IO_MEMORY_BYTES)
        .spawn(move || async move { main() })
        .map_err(|error| io::Error::other(format!("core {name}: {error}")))?;
    Ok(CoreHandle { name, join })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_pinned() {
        let cpu = *crate::runtime::CpuSet::of_this_thread().expect("affinity").cpus().last().expect("one");
        let options = CoreOptions { name: "pinned".into(), cpu: Some(cpu) };
        let core = spawn_core(options, || crate::runtime::CpuSet::of_this_thread().expect("affinity"));
        assert_eq!(core.expect("a core").join().expect("its end").cpus(), [cpu]);
    }
}
