//! What comes of one step of the state machine: an outcome, what it waits for, or why it cannot be done.

use crate::waiting::Wait;

/// Why something of the state could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not as it was written, and does not become so by itself.
    #[error("{0}")]
    Damaged(String),
    /// The system refused to read it, and may let it be read later.
    #[error("{0}")]
    Refused(String),
}

/// The result of one step of the machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<O> {
    /// Done, with its outcome.
    Done(O),
    /// It needs something that is not in memory. Jobs bring it (see `StateMachine::take_jobs`); do this same step again
    /// when what it waits for is there. Nothing was changed.
    Blocked(Wait),
    /// Applied by an earlier process, and part of what was persisted then, though the entry as a whole is not. Only
    /// `StateMachine::apply` says so, and nobody waits for an outcome.
    Passed,
    /// It needs something that cannot be read. Nothing was changed. A read is answered with that; an operation of an entry
    /// cannot be passed over, so its replica is stopped (see `StateMachine::prepare`).
    Unreadable(Unreadable),
}

/// Whether an operation has all it needs in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Prepared {
    /// It has, or needs nothing.
    Ready,
    /// Jobs bring it; ask again when what it waits for is there.
    Blocked(Wait),
    /// Something that it needs cannot be read: it must not be proposed.
    Unreadable(Unreadable),
}
