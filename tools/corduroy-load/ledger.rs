//! What a run knows about each key it writes: the newest version sent and the newest acknowledged.
//!
//! A key has one writer, a connection, whose requests are executed in order. So at any time the server must hold a
//! version from the acknowledged one up to the one sent last, and nothing else. Values say which key and version they
//! are, and every byte of them is fixed by that, so a value that nobody wrote cannot pass.

use corduroy_wal::mix::scramble;

use crate::resp::put_decimal;

/// What a key holds, and so how its version is read from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Versioned values, written by SET and MSET.
    Value,
    /// A number, counted up by INCR; the number is the version.
    Counter,
}

/// The bounds of what a key may hold. Version 0 stands for no key.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Marks {
    /// The newest acknowledged version.
    pub acked: u64,
    /// The newest version that may have been written.
    pub sent: u64,
    /// Increments that have not been answered with a number (counters only).
    pub waiting: u64,
}

/// The marks of all keys, by key number.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ledger {
    values: Vec<Marks>,
    counters: Vec<Marks>,
}

/// Key numbers stay below this, since names have twelve digits.
pub const KEYS_MAX: u64 = 1_000_000_000_000;

impl Ledger {
    fn table(&self, kind: Kind) -> &Vec<Marks> {
        match kind {
            Kind::Value => &self.values,
            Kind::Counter => &self.counters,
        }
    }

    /// The marks of a key.
    #[must_use]
    pub fn marks(&self, kind: Kind, key: u64) -> Marks {
        self.table(kind).get(key as usize).copied().unwrap_or_default()
    }

    /// The marks of a key, to be changed.
    pub fn marks_mut(&mut self, kind: Kind, key: u64) -> &mut Marks {
        assert!(key < KEYS_MAX, "key {key} is out of range");
        let table = match kind {
            Kind::Value => &mut self.values,
            Kind::Counter => &mut self.counters,
        };
        let at = key as usize;
        if at >= table.len() {
            table.resize(at + 1, Marks::default());
        }
        table.get_mut(at).expect("the table was just made long enough")
    }

    /// All keys that were ever sent, in order.
    pub fn keys(&self) -> impl Iterator<Item = (Kind, u64, Marks)> + '_ {
        let of = |kind: Kind| {
            self.table(kind)
                .iter()
                .enumerate()
                .filter(|(_, marks)| marks.sent > 0)
                .map(move |(key, marks)| (kind, key as u64, *marks))
        };
        of(Kind::Value).chain(of(Kind::Counter))
    }

    /// Takes in the keys of another ledger; where both know a key, the other one's marks count.
    pub fn merge(&mut self, other: &Ledger) {
        for (kind, key, marks) in other.keys() {
            *self.marks_mut(kind, key) = marks;
        }
    }

    /// The part of it that concerns the keys that `owned` names.
    #[must_use]
    pub fn part(&self, owned: impl Fn(u64) -> bool) -> Ledger {
        let mut part = Ledger::default();
        for (kind, key, marks) in self.keys().filter(|(_, key, _)| owned(*key)) {
            *part.marks_mut(kind, key) = marks;
        }
        part
    }

    /// A new version of a value: its number.
    pub fn send_value(&mut self, key: u64) -> u64 {
        let marks = self.marks_mut(Kind::Value, key);
        marks.sent += 1;
        marks.sent
    }

    /// A version was acknowledged.
    pub fn ack_value(&mut self, key: u64, version: u64) {
        let marks = self.marks_mut(Kind::Value, key);
        assert!(version <= marks.sent, "key {key}: version {version} was acknowledged but never sent");
        marks.acked = marks.acked.max(version);
    }

    /// One more increment is on its way: the most that the counter can now be.
    pub fn send_increment(&mut self, key: u64) -> u64 {
        let marks = self.marks_mut(Kind::Counter, key);
        marks.sent += 1;
        marks.waiting += 1;
        marks.sent
    }

    /// An increment was answered with `count`. False if it cannot be right: it must be above what was acknowledged
    /// and no more than what was sent.
    pub fn ack_increment(&mut self, key: u64, count: u64) -> bool {
        let marks = self.marks_mut(Kind::Counter, key);
        if count <= marks.acked || count > marks.sent {
            return false;
        }
        marks.waiting = marks.waiting.saturating_sub(1);
        marks.acked = count;
        marks.sent = count + marks.waiting;
        true
    }
}

/// Versions stay below this, so that heads stay short.
const VERSIONS_MAX: u64 = 1_000_000_000_000;

/// Shortest versioned value: room for the longest head.
pub const VALUE_BYTES_MIN: usize = 40;

/// Appends the value of a version: `c1.KEY.VERSION.LENGTH.` and letters that these fix, `value_bytes` in all (but at
/// least [`VALUE_BYTES_MIN`]).
pub fn put_value(out: &mut Vec<u8>, key: u64, version: u64, value_bytes: usize) {
    let value_bytes = value_bytes.max(VALUE_BYTES_MIN);
    let start = out.len();
    out.extend_from_slice(b"c1.");
    for part in [key, version, value_bytes as u64] {
        put_decimal(out, part);
        out.push(b'.');
    }
    let end = start + value_bytes;
    assert!(out.len() <= end, "the head of version {version} of key {key} is too long");
    let mut seed = scramble(key ^ scramble(version));
    while out.len() < end {
        seed = scramble(seed.wrapping_add(1));
        let mut nibbles = seed;
        for _ in 0..16.min(end - out.len()) {
            out.push(b'a' + (nibbles & 15) as u8);
            nibbles >>= 4;
        }
    }
}

/// The version that a value claims for `key`, if every byte of it is as that version was written.
#[must_use]
pub fn version_of(key: u64, value: &[u8]) -> Option<u64> {
    let mut parts = value.split(|byte| *byte == b'.');
    if parts.next() != Some(b"c1") {
        return None;
    }
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let (claimed_key, version, value_bytes) = (number()?, number()?, number()?);
    if claimed_key != key || value_bytes != value.len() as u64 || version >= VERSIONS_MAX {
        return None;
    }
    let mut expected = Vec::with_capacity(value.len());
    put_value(&mut expected, key, version, value_bytes as usize);
    (expected == value).then_some(version)
}

/// What a key was found to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// This version, which is allowed.
    Fine(u64),
    /// Acknowledged writes are lost.
    Lost {
        /// The version found; 0: no key.
        found: u64,
    },
    /// Something that was never sent to this key.
    NeverWritten,
}

/// Judges what a key holds.
#[must_use]
pub fn judge(kind: Kind, key: u64, marks: Marks, value: Option<&[u8]>) -> Finding {
    let version = match (kind, value) {
        (_, None) => Some(0),
        (Kind::Value, Some(value)) => version_of(key, value).filter(|version| *version > 0),
        (Kind::Counter, Some(value)) => std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
    };
    match version {
        None => Finding::NeverWritten,
        Some(version) if version > marks.sent => Finding::NeverWritten,
        Some(found) if found < marks.acked => Finding::Lost { found },
        Some(version) => Finding::Fine(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_version_and_no_other_passes() {
        for (key, version, len) in [(0, 1, 64), (12, 345, 0), (99_999, 7, 1000), (3, 18, 25)] {
            let mut value = Vec::new();
            put_value(&mut value, key, version, len);
            assert_eq!(value.len(), len.max(VALUE_BYTES_MIN));
            assert_eq!(version_of(key, &value), Some(version));
            assert_eq!(version_of(key + 1, &value), None);
            for at in 0..value.len() {
                let mut damaged = value.clone();
                damaged[at] ^= 1;
                assert_ne!(version_of(key, &damaged), Some(version), "byte {at} does not matter");
            }
            assert_eq!(version_of(key, &value[..value.len() - 1]), None);
        }
    }

    #[test]
    fn what_a_key_may_hold() {
        let marks = Marks { acked: 3, sent: 5, waiting: 0 };
        let judge_version = |version| {
            let mut value = Vec::new();
            put_value(&mut value, 8, version, 32);
            judge(Kind::Value, 8, marks, Some(&value))
        };
        assert_eq!(judge(Kind::Value, 8, marks, None), Finding::Lost { found: 0 });
        assert_eq!(judge_version(2), Finding::Lost { found: 2 });
        assert_eq!(judge_version(3), Finding::Fine(3));
        assert_eq!(judge_version(5), Finding::Fine(5));
        assert_eq!(judge_version(6), Finding::NeverWritten);
        assert_eq!(judge(Kind::Value, 8, marks, Some(b"3")), Finding::NeverWritten);
        assert_eq!(judge(Kind::Counter, 8, marks, Some(b"2")), Finding::Lost { found: 2 });
        assert_eq!(judge(Kind::Counter, 8, marks, Some(b"4")), Finding::Fine(4));
        assert_eq!(judge(Kind::Counter, 8, marks, Some(b"6")), Finding::NeverWritten);
        let unanswered = Marks { acked: 0, sent: 1, waiting: 1 };
        assert_eq!(judge(Kind::Value, 8, unanswered, None), Finding::Fine(0));
    }

    #[test]
    fn counters_narrow_their_bounds_as_answers_come() {
        let mut ledger = Ledger::default();
        assert_eq!((ledger.send_increment(4), ledger.send_increment(4)), (1, 2));
        assert!(ledger.ack_increment(4, 1));
        assert!(!ledger.ack_increment(4, 1), "the same number twice");
        assert!(!ledger.ack_increment(4, 3), "more than was sent");
        assert!(ledger.ack_increment(4, 2));
        assert_eq!(ledger.marks(Kind::Counter, 4), Marks { acked: 2, sent: 2, waiting: 0 });
    }

    #[test]
    fn ledgers_of_threads_are_put_together() {
        let (mut a, mut b) = (Ledger::default(), Ledger::default());
        let version = a.send_value(1);
        a.ack_value(1, version);
        let _ = b.send_value(2);
        a.merge(&b);
        assert_eq!(a.keys().count(), 2);
        assert_eq!(a.part(|key| key == 2), b);
        assert_eq!(a.marks(Kind::Value, 1).acked, 1);
    }
}
