//! The upper level: rows in memory, their tables, what is known of absent keys, what is made of them over several turns, and
//! the accounts of what all that takes.

pub(in crate::store) mod absent;
pub(in crate::store) mod kept;
pub(in crate::store) mod ledger;
pub(in crate::store) mod listings;
pub(in crate::store) mod meta;
pub(in crate::store) mod partition;
pub(in crate::store) mod row;
pub(in crate::store) mod subsequences;
pub(in crate::store) mod sum;
pub(in crate::store) mod table;
