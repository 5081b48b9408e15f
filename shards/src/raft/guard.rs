//! The fence around the `raft` crate: its panics stop one replica, not the process. The simulator takes a panic of the
//! whole core so too.
//!
//! Invariant: between the start and the end of [`guarded`] the thread is marked, so that the process's panic hook
//! (which aborts on any other panic) lets the unwinding go on; see [`is_guarded`].

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, now, is caught and reported: it fences a replica, or is a simulated run's finding. The
/// panic hook asks this.
#[must_use]
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Why a replica had to be fenced, or a simulated core ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// Runs calls into the `raft` crate for one replica. After a fault the replica's Raft state must not be used again.
///
/// # Errors
/// [`Fault`] with the panic's message.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Fault> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    result.map_err(|payload| Fault(message(payload.as_ref())))
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault_and_the_mark_is_taken_back() {
        assert!(!is_guarded());
        let inside = guarded(is_guarded);
        assert_eq!(inside, Ok(true));
        let fault = guarded(|| -> () { panic!("range {}", 7) });
        assert_eq!(fault, Err(Fault("range 7".to_owned())));
        assert!(!is_guarded());
    }

    #[test]
    fn a_guard_inside_a_guard_keeps_the_mark() {
        let kept = guarded(|| {
            let inner = guarded(|| -> () { panic!("inner") });
            (inner.is_err(), is_guarded())
        });
        assert_eq!(kept, Ok((true, true)));
    }
}
