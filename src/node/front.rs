//! The connections of a core.

pub mod conn;
pub mod conns;
pub mod overdue;
pub mod waits;
