//! Numbers and patterns as Redis reads and writes them.

pub(in crate::store) mod float;
pub(in crate::store) mod glob;
pub(in crate::store) mod number;
