//! Which ops are heavy by themselves: those that may keep a core busy for milliseconds, or are long. A connection has one of
//! them under way at a time, and a shard takes them one after the other, so that light ones get in between.
//!
//! A session judges by the op alone, before anything is looked up; a shard's gate looks at the rows too (`Store::weight`).

use super::kind::traits::{HEAVY, MAY_BE_HEAVY, RENEWS};
use super::{Kind, Op};

/// An op of so many bytes is heavy, whatever it is; so is one that may make a value that long out of few bytes.
pub const HEAVY_BYTES: usize = 1 << 20;
/// What heavy ops may weigh together that a shard has under way; one alone may weigh more.
pub const HEAVY_ROOM_BYTES: usize = 4 * HEAVY_BYTES;
/// Ops of a transaction above which it is heavy.
const HEAVY_OPS: usize = 1024;

impl Op<'_> {
    /// Whether it may take long, though it be short.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        if let Op::SetRange { offset, value, .. } = *self {
            return !value.is_empty() && offset.saturating_add(value.len() as u64) > HEAVY_BYTES as u64;
        }
        if let Op::Multi { ops, .. } | Op::MarkedMulti { ops, .. } = *self {
            return ops.len() > HEAVY_OPS || ops.iter().any(Self::is_heavy_bytes);
        }
        let kind = self.kind();
        assert!(!kind.has(MAY_BE_HEAVY), "{kind:?} is judged by its arguments");
        kind.has(HEAVY)
    }

    /// The same for an encoded op, by its first bytes where they are enough.
    #[must_use]
    #[inline]
    pub fn is_heavy_bytes(op: &[u8]) -> bool {
        op.len() > HEAVY_BYTES || (may_be_heavy(op) && Op::decode(op).is_ok_and(|decoded| decoded.is_heavy()))
    }
}

/// Whether an op's first bytes leave it open that the op is heavy.
#[inline]
pub(in crate::store) fn may_be_heavy(op: &[u8]) -> bool {
    Kind::of(op).is_some_and(|kind| kind.has(HEAVY | MAY_BE_HEAVY))
}

/// The same of copying rows, or having them flushed again.
#[inline]
pub(in crate::store) fn may_renew_rows(op: &[u8]) -> bool {
    Kind::of(op).is_some_and(|kind| kind.has(RENEWS))
}

/// Whether an encoded op may have to wait for its turn in its shard (`Store::weight`), whatever the rows are.
#[must_use]
#[inline]
pub fn may_wait(op: &[u8]) -> bool {
    may_renew_rows(op) || Op::is_heavy_bytes(op)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expiry, List, SetReply, SetWhen};

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
