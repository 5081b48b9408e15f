//! A long list of keys, as it was gathered: given away whole, and read out name by name.

use std::collections::{BTreeMap, btree_map};

/// The names of the keys that KEYS found, where they are many.
#[derive(Clone, PartialEq, Eq)]
pub struct Names {
    /// By hash and key, with the time at which each expires.
    found: BTreeMap<(u64, Vec<u8>), u64>,
    /// What has expired by then is not in the list.
    now_ms: u64,
    /// What it takes in memory.
    bytes: usize,
}

impl Names {
    /// The list of what was found, as of a time.
    #[must_use]
    pub const fn new(found: BTreeMap<(u64, Vec<u8>), u64>, now_ms: u64, bytes: usize) -> Self {
        Self { found, now_ms, bytes }
    }

    /// What it takes in memory.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Its names.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let live = self.found.iter().filter(|(_, expire_at_ms)| **expire_at_ms > self.now_ms);
        live.map(|((_, key), _)| key.as_slice())
    }
}

impl IntoIterator for Names {
    type Item = Vec<u8>;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter { found: self.found.into_iter(), now_ms: self.now_ms }
    }
}

/// Gives the names one by one, and what they took back with them.
#[derive(Debug)]
pub struct IntoIter {
    found: btree_map::IntoIter<(u64, Vec<u8>), u64>,
    now_ms: u64,
}

impl Iterator for IntoIter {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let now_ms = self.now_ms;
        self.found.find(|(_, expire_at_ms)| *expire_at_ms > now_ms).map(|((_, key), _)| key)
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Names({} keys at most)", self.found.len())
    }
}
