//! What reads of the small state machine are answered with.

use corduroy_shards::PartitionId;

use super::Kv;

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
