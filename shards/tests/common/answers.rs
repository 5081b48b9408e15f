//! What reads of the small state machine are answered with, and what a world looks at.

use std::collections::BTreeSet;

use corduroy_shards::PartitionId;

use super::{Kv, P, Part, World};

impl Kv {
    /// What a read is answered with whose key is there.
    pub(super) fn answer(&self, partition: PartitionId, words: &[&str], now_ms: u64) -> String {
        let part = self.parts.get(&partition.0);
        match words {
            ["get", key] if expiry(key).is_some_and(|at_ms| at_ms <= now_ms) => "nil".to_owned(),
            ["get", key] => {
                part.and_then(|part| part.data.get(*key)).cloned().unwrap_or_else(|| "nil".to_owned())
            }
            ["clock", ..] => now_ms.to_string(),
            _ => format!("ERR {}", words.join(" ")),
        }
    }

    /// Whether a read is answered otherwise at `now_ms` than at the highest stamp applied.
    pub(super) fn rests(&self, partition: PartitionId, words: &[&str], now_ms: u64) -> bool {
        let stamp_ms = self.parts.get(&partition.0).map_or(0, |part| part.stamp_ms);
        match words {
            ["clock", ..] => now_ms > stamp_ms,
            ["get", key] => expiry(key).is_some_and(|at_ms| stamp_ms < at_ms && at_ms <= now_ms),
            _ => false,
        }
    }
}

/// When a key expires, if its name says so.
fn expiry(key: &str) -> Option<u64> {
    key.strip_prefix("until").and_then(|at_ms| at_ms.parse().ok())
}

impl World {
    pub fn part(&self) -> Part {
        self.shard.machine().parts.get(&P.0).cloned().unwrap_or_default()
    }

    pub fn key(&self, key: &str) -> Option<String> {
        self.part().data.get(key).cloned()
    }

    /// No op was applied twice, and entries were applied in order.
    pub fn check_history(&self) {
        for part in self.shard.machine().parts.values() {
            assert!(part.history.is_sorted_by_key(|(lsn, _)| *lsn), "{:?}", part.history);
            let doubles = part.history.len() - part.history.iter().collect::<BTreeSet<_>>().len();
            assert_eq!(doubles, 0, "doubles in {:?}", part.history);
        }
    }
}
