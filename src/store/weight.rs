//! Which ops are heavy: those that may keep a core busy for milliseconds, whatever else they do. A connection has one of
//! them under way at a time, and a shard takes them one after the other, so that light ones get in between.
//!
//! Judged by the op alone, never by the state: the same on every node, and before anything is looked up.

use corduroy_shards::PartitionId;

use super::codec;
use super::lower::Lower;
use super::op::Op;
use super::state::{Lookup, Store};

/// An op of so many bytes is heavy, whatever it is; so is one that may make a value that long out of few bytes.
pub const HEAVY_BYTES: usize = 1 << 20;
/// Ops of a transaction above which it is heavy.
const HEAVY_OPS: usize = 1024;

impl Op<'_> {
    /// Whether it may take long, though it be short.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        match *self {
            Op::Keys { .. } | Op::Lcs { .. } => true,
            Op::SetRange { offset, value, .. } => {
                !value.is_empty() && offset.saturating_add(value.len() as u64) > HEAVY_BYTES as u64
            }
            Op::Multi { ops, .. } | Op::MarkedMulti { ops, .. } => {
                ops.len() > HEAVY_OPS || ops.iter().any(Self::is_heavy_bytes)
            }
            _ => false,
        }
    }

    /// The same for an encoded op, by its first bytes where they are enough.
    #[must_use]
    #[inline]
    pub fn is_heavy_bytes(op: &[u8]) -> bool {
        op.len() > HEAVY_BYTES
            || (codec::may_be_heavy(op) && Op::decode(op).is_ok_and(|decoded| decoded.is_heavy()))
    }
}

/// What a read may bring and still be light, bytes; and the keys it may look at.
const LIGHT_BYTES: usize = 4 << 10;
const LIGHT_KEYS: usize = 64;

impl<L: Lower> Store<L> {
    /// Whether heavy writes may come: while a flush is under way and half of what may be changed meanwhile is, the rest is
    /// kept for light ones, which would have to wait for the flush too.
    #[must_use]
    pub fn takes_heavy_writes(&self) -> bool {
        let waiting_bytes = self.ledger.dirty_bytes + self.ledger.captured_bytes;
        waiting_bytes <= self.options.max_dirty_bytes / 2 || !self.is_flushing()
    }

    /// Flushes that have ended, those that found no room included.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        u64::from(self.ledger.completed)
    }

    /// Whether a flush is under way, or about to be.
    fn is_flushing(&self) -> bool {
        let is_due = self.ledger.dirty_bytes >= self.options.hand_over_bytes;
        self.ledger.is_handing_over() || (is_due && self.has_room_to_flush())
    }

    /// Whether a read brings little, as far as memory tells: one that has to ask the lower level first waits anyway.
    pub(super) fn brings_little(&self, id: PartitionId, op: &[u8]) -> bool {
        let Ok(op) = Op::decode(op) else { return false };
        match op {
            Op::Get { key } | Op::GetRange { key, .. } => match self.get(id, key, 0) {
                Lookup::Value(value) => value.len() <= LIGHT_BYTES,
                Lookup::Absent | Lookup::Unknown => true,
            },
            Op::MGet { keys } => {
                let mut left = LIGHT_BYTES;
                keys.len() <= LIGHT_KEYS
                    && keys.iter().all(|key| match self.get(id, key, 0) {
                        Lookup::Value(value) => {
                            let is_little = value.len() <= left;
                            left = left.saturating_sub(value.len());
                            is_little
                        }
                        Lookup::Absent | Lookup::Unknown => true,
                    })
            }
            Op::Exists { keys } => keys.len() <= LIGHT_KEYS,
            Op::StrLen { .. }
            | Op::Type { .. }
            | Op::Ttl { .. }
            | Op::ObjectEncoding { .. }
            | Op::ObjectRefcount { .. }
            | Op::MemoryUsage { .. }
            | Op::DbSize
            | Op::Version { .. } => true,
            Op::Keys { .. } | Op::Scan { .. } | Op::RandomKey { .. } | Op::Lcs { .. } => false,
            Op::Set { .. }
            | Op::Append { .. }
            | Op::SetRange { .. }
            | Op::IncrBy { .. }
            | Op::IncrByFloat { .. }
            | Op::Del { .. }
            | Op::GetDel { .. }
            | Op::GetEx { .. }
            | Op::MSet { .. }
            | Op::Expire { .. }
            | Op::ExpireIn { .. }
            | Op::Watch { .. }
            | Op::Persist { .. }
            | Op::Rename { .. }
            | Op::Copy { .. }
            | Op::Flush
            | Op::Multi { .. }
            | Op::MarkedMulti { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{List, SetReply, SetWhen, op::Expiry};

    fn encoded(op: &Op<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        bytes
    }

    #[test]
    fn heavy_ops_are_known_from_their_bytes() {
        let set = Op::Set {
            key: b"k",
            value: b"v",
            when: SetWhen::Always,
            expiry: Expiry::Clear,
            reply: SetReply::Ok,
        };
        let keys = Op::Keys { pattern: b"*" };
        let long = Op::SetRange { key: b"k", offset: 32 << 20, value: b"x" };
        let short = Op::SetRange { key: b"k", offset: 100, value: b"x" };
        let nothing = Op::SetRange { key: b"k", offset: 32 << 20, value: b"" };
        let (set_bytes, keys_bytes, long_bytes) = (encoded(&set), encoded(&keys), encoded(&long));
        let light_ops: Vec<&[u8]> = vec![&set_bytes; 5];
        let many_ops: Vec<&[u8]> = vec![&set_bytes; HEAVY_OPS + 1];
        let multi = |ops| Op::Multi { guards: List::Args(&[]), ops };
        for (op, heavy) in [
            (set, false),
            (keys, true),
            (long, true),
            (short, false),
            (nothing, false),
            (multi(List::Args(&light_ops)), false),
            (multi(List::Args(&many_ops)), true),
            (multi(List::Args(&[&set_bytes, &keys_bytes])), true),
            (multi(List::Args(&[&set_bytes, &long_bytes])), true),
        ] {
            assert_eq!(op.is_heavy(), heavy, "{op:?}");
            assert_eq!(Op::is_heavy_bytes(&encoded(&op)), heavy, "{op:?}");
        }
        let value = vec![b'x'; HEAVY_BYTES];
        assert!(Op::is_heavy_bytes(&encoded(&Op::Append { key: b"k", value: &value })));
        assert!(!Op::is_heavy_bytes(b""));
    }
}
