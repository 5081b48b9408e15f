//! What a damaged row below may change, and what not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::store::lower::{IngestError, LowerRow, LowerStats, Room};

/// A lower level of which some keys cannot be read.
#[derive(Clone, Default)]
struct Rotten {
    lower: MemLower,
    bad: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

impl Rotten {
    /// Whatever is asked of a key that ends so is damaged from now on.
    fn damage(&self, key: &str) {
        self.bad.lock().unwrap().insert(key.as_bytes().to_vec());
    }
}

impl Lower for Rotten {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        if self.bad.lock().unwrap().iter().any(|bad| key.ends_with(bad)) {
            return Err(LowerError::damaged(Path::new("tables/7"), "a block of it"));
        }
        self.lower.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LowerError> {
        // The partitions' own rows are read at the start, and are whole.
        if from.first() != Some(&1) && !self.bad.lock().unwrap().is_empty() {
            return Err(LowerError::damaged(Path::new("tables/7"), "a block of it"));
        }
        self.lower.scan(from, to, visit)
    }

    fn ingest(
        &self,
        bytes: u64,
        deletes: bool,
        rows: &mut dyn Iterator<Item = LowerRow>,
    ) -> Result<(), IngestError> {
        self.lower.ingest(bytes, deletes, rows)
    }

    fn room(&self) -> Result<Room, LowerError> {
        self.lower.room()
    }

    fn compact(&self, dead: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, LowerError> {
        self.lower.compact(dead)
    }

    fn verify(&self) -> bool {
        self.lower.verify()
    }

    fn stats(&self) -> LowerStats {
        self.lower.stats()
    }
}

/// A store after a restart, with `a` below and nothing in memory, where `b` cannot be looked for.
fn restarted() -> (Driver<Rotten>, Rotten) {
    let lower = Rotten::default();
    let mut d = Driver::new(lower.clone(), options());
    d.run(&set("a", "1"));
    d.hand_over();
    lower.damage("b");
    d.crash();
    (d, lower)
}

#[test]
fn damage_never_makes_the_number_of_keys_too_low() {
    let (mut d, _) = restarted();
    for _ in 0..3 {
        d.run(&set("b", "2"));
        assert_eq!(d.run(&Op::DbSize), Outcome::Int(2));
        assert_eq!(d.run(&Op::Del { keys: List::Args(&[b"b"]) }), Outcome::Int(1));
        assert_eq!(d.run(&Op::DbSize), Outcome::Int(1), "a is still there");
        d.hand_over();
        d.crash();
        assert_eq!(d.run(&get("a")), bulk("1"), "nor does a keyspace look empty that is not");
    }
}

#[test]
fn a_blind_write_is_not_stopped_by_a_size_that_is_wanted() {
    let (mut d, _) = restarted();
    d.hold_jobs = true;
    d.run(&set("c", "3"));
    assert_eq!(d.store.read(P, &bytes(&Op::DbSize), d.now_ms), Step::Blocked);
    assert_eq!(d.run(&set("b", "2")), Outcome::Ok, "it need not know what was there");
    assert_eq!(d.run(&get("b")), bulk("2"));
    assert_eq!(d.run(&Op::DbSize), Outcome::Int(3));
}
