//! Numbers, patterns and common subsequences as Redis has them.

pub(in crate::store) mod float;
pub(in crate::store) mod glob;
pub(in crate::store) mod lcs;
pub(in crate::store) mod number;
