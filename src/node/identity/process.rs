//! Which process this is: a number that no other has, by which peers distinguish two that run on copies of one folder.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// The number of this process, drawn when it is first asked for.
#[must_use]
pub fn process_number() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    // Its keys come from the system's source of random numbers.
    *NUMBER.get_or_init(|| RandomState::new().build_hasher().finish())
}
