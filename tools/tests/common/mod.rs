//! What tests of several tools share.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: a process that another one is starting has our files, and their locks, until it runs its program.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
