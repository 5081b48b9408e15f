//! One row of the upper level: key and value in one allocation, 48 bytes beside them.
//!
//! A row is *dirty* until a flush captures it, then *clean*: the disk level has it, or will have it when the
//! flush of its `epoch` completes. A *tombstone* says that the key does not exist, whatever the disk level says.

use std::cell::Cell;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::store::op::Outcome;
use crate::store::op::shared::{Kept, SharedBytes};
use crate::store::text::number::parse_integer;

/// No time to live.
pub(in crate::store) const NO_EXPIRY: u64 = u64::MAX;

/// What a row costs beside key and value: itself, its share of the page's table, the allocator's header.
pub(in crate::store) const ROW_OVERHEAD_BYTES: usize = 96;

/// What OBJECT ENCODING has to remember, since the value does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(in crate::store) enum Encoding {
    /// By the value: int, embstr or raw.
    Auto = 0,
    /// Never int (results of INCRBYFLOAT).
    Text = 1,
    /// raw (after APPEND, SETRANGE).
    Raw = 2,
}

impl Encoding {
    pub(in crate::store) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Auto, Self::Text, Self::Raw].into_iter().find(|encoding| *encoding as u8 == byte)
    }
}

/// Not yet captured by a flush.
pub(in crate::store) const DIRTY: u8 = 1;
/// The key does not exist.
pub(in crate::store) const TOMBSTONE: u8 = 2;
/// The disk level has, or is about to get, a version of this key (so a removal needs a tombstone).
pub(in crate::store) const BELOW: u8 = 4;
/// Written blindly: whether the key existed below at that time is not known yet, and was counted as "no".
pub(in crate::store) const UNKNOWN: u8 = 8;
/// Used since the eviction hand last came by.
pub(in crate::store) const REFERENCED: u8 = 16;

/// Read from below for an op that has not looked at it yet.
pub(in crate::store) const FRESH: u8 = 32;

/// Answers of so many bytes are shares of the row's.
const SHARED_BYTES: usize = 64 << 10;
/// A row of fewer bytes is copied for a flush: what it takes to share them would be as much again.
const COPIED_BYTES: usize = 256;

/// Key and value.
#[derive(Debug)]
enum Data {
    Own(Box<[u8]>),
    /// Answers and flushes may hold it too.
    Shared(Arc<Vec<u8>>),
}

impl Data {
    fn new(bytes: Vec<u8>) -> Self {
        if bytes.len() < SHARED_BYTES {
            Self::Own(bytes.into_boxed_slice())
        } else {
            Self::Shared(Arc::new(bytes))
        }
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// The bytes, to be changed; `None` if others hold them.
    fn own_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Own(bytes) => Some(bytes),
            Self::Shared(bytes) => Arc::get_mut(bytes).map(Vec::as_mut_slice),
        }
    }

    /// The bytes, and how many had to be copied for it.
    fn into_vec(self) -> (Vec<u8>, usize) {
        match self {
            Self::Own(bytes) => (bytes.into_vec(), 0),
            Self::Shared(bytes) => match Arc::try_unwrap(bytes) {
                Ok(bytes) => (bytes, 0),
                Err(shared) => (shared.to_vec(), shared.len()),
            },
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self::Own(Box::default())
    }
}

/// A row.
#[derive(Debug)]
pub(in crate::store) struct Row {
    pub(in crate::store) hash: u64,
    data: Data,
    /// The last change; see `Partition::version`.
    pub(in crate::store) version: u64,
    /// ms since 1970, or [`NO_EXPIRY`].
    pub(in crate::store) expire_at_ms: u64,
    /// Dirty: the epoch of the last change. Clean: the flush that captured it (0: loaded from below).
    pub(in crate::store) epoch: u32,
    key_len: u16,
    flags: Cell<u8>,
    pub(in crate::store) encoding: Encoding,
}

/// The fields of a row that a write sets.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Stamp {
    pub(in crate::store) version: u64,
    pub(in crate::store) expire_at_ms: u64,
    pub(in crate::store) encoding: Encoding,
}

impl Row {
    /// A row for `key`, which must be shorter than 64 KiB.
    pub(in crate::store) fn new(
        hash: u64,
        key: &[u8],
        value: &[u8],
        stamp: Stamp,
        epoch: u32,
        flags: u8,
    ) -> Self {
        let key_len = u16::try_from(key.len()).expect("longer keys are refused before they come here");
        Self {
            hash,
            data: joined(key, value),
            version: stamp.version,
            expire_at_ms: stamp.expire_at_ms,
            epoch,
            key_len,
            flags: Cell::new(flags),
            encoding: stamp.encoding,
        }
    }

    #[inline]
    fn parts(&self) -> (&[u8], &[u8]) {
        self.data.as_slice().split_at(usize::from(self.key_len))
    }

    #[inline]
    pub(in crate::store) fn key(&self) -> &[u8] {
        self.parts().0
    }

    #[inline]
    pub(in crate::store) fn value(&self) -> &[u8] {
        self.parts().1
    }

    /// Its first and its last byte, mixed: whoever looks at that has the CPU fetch a small row.
    #[inline]
    pub(in crate::store) fn ends(&self) -> u8 {
        let bytes = self.data.as_slice();
        bytes.first().unwrap_or(&0) ^ bytes.last().unwrap_or(&0)
    }

    /// An op looks at it. The first look after it was read from below is that of the op that wanted it, and does not count:
    /// what is read once does not drive out what is read again and again.
    #[inline]
    pub(in crate::store) fn touch(&self) {
        if self.has(FRESH) {
            self.clear(FRESH);
        } else {
            self.set(REFERENCED);
        }
    }

    /// Replaces the value, in place if the length stays. Returns the change of the row's bytes.
    pub(in crate::store) fn set_value(&mut self, value: &[u8]) -> isize {
        let key_len = usize::from(self.key_len);
        let old_len = self.value().len();
        if old_len == value.len()
            && let Some(data) = self.data.own_mut()
        {
            data.split_at_mut(key_len).1.copy_from_slice(value);
            return 0;
        }
        let difference = value.len().cast_signed() - old_len.cast_signed();
        self.data = joined(self.key(), value);
        difference
    }

    /// Puts bytes into the value from `offset` on, with zeros before them where the value was shorter. Returns the bytes
    /// that were moved: those that came, and all of it whenever it had to move for the sake of its growth.
    pub(in crate::store) fn set_range(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let start = usize::from(self.key_len) + offset;
        let (before, end) = (self.data.as_slice().len(), start + bytes.len());
        let mut moved = bytes.len();
        if end > before {
            moved += end - before;
            let (mut data, copied) = std::mem::take(&mut self.data).into_vec();
            moved += copied;
            // The allocator gives what it has set aside for a block of this size without moving it; what is given back
            // stays with the block. So a value that grows by little is moved once in an eighth of its length.
            let room = grown_bytes(end);
            if room != grown_bytes(before) {
                moved += before;
            }
            data.reserve_exact(room - before);
            data.resize(end, 0);
            self.data = Data::new(data);
        }
        if self.data.own_mut().is_none() {
            // Others hold what it was: they keep it.
            moved += before;
            self.data = Data::new(self.data.as_slice().to_vec());
        }
        let data = self.data.own_mut().expect("nobody holds what was just made");
        let target = data.get_mut(start..end).expect("it was just made long enough");
        target.copy_from_slice(bytes);
        moved
    }

    /// Whether [`Row::set_range`] moves all of it for a value that ends there: others share it, or it outgrows its block.
    pub(in crate::store) fn moves_for(&self, end: usize) -> bool {
        let (before, end) = (self.data.as_slice().len(), usize::from(self.key_len).saturating_add(end));
        let is_shared = match &self.data {
            Data::Own(_) => false,
            Data::Shared(data) => Arc::strong_count(data) > 1,
        };
        is_shared || (end > before && grown_bytes(end) != grown_bytes(before))
    }

    /// A part of the value as an answer: a share of it if it is large. A share keeps all of the row's bytes in memory,
    /// whatever becomes of the row, so a part that is less than half of them is copied.
    pub(in crate::store) fn answer(&self, part: impl RangeBounds<usize>) -> Outcome {
        let len = self.value().len();
        let from = match part.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match part.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => len,
        };
        match &self.data {
            Data::Shared(data) if to - from >= SHARED_BYTES.max(data.len() / 2) => {
                let key_len = usize::from(self.key_len);
                Outcome::Shared(SharedBytes::new(Arc::clone(data), key_len + from..key_len + to))
            }
            Data::Own(_) | Data::Shared(_) => {
                Outcome::Bulk(self.value().get(from..to).unwrap_or_default().to_vec())
            }
        }
    }

    /// The value as it is now, whatever becomes of the row.
    pub(in crate::store) fn keep(&self) -> Kept {
        match &self.data {
            Data::Own(_) => Kept::Copy(self.value().to_vec()),
            Data::Shared(data) => {
                Kept::Share(SharedBytes::new(Arc::clone(data), usize::from(self.key_len)..data.len()))
            }
        }
    }

    /// The same for a flush: all but small values are shared with it, so that nothing is copied. Where the row changes
    /// before the flush ends, it gets bytes of its own then.
    pub(in crate::store) fn capture(&mut self) -> Kept {
        if let Data::Own(bytes) = &mut self.data
            && bytes.len() >= COPIED_BYTES
        {
            self.data = Data::Shared(Arc::new(std::mem::take(bytes).into_vec()));
        }
        self.keep()
    }

    /// Gives back what sharing took, once nobody else holds the bytes.
    pub(in crate::store) fn unshare(&mut self) {
        if let Data::Shared(bytes) = &mut self.data
            && bytes.len() < SHARED_BYTES
            && let Some(bytes) = Arc::get_mut(bytes)
        {
            self.data = Data::Own(std::mem::take(bytes).into_boxed_slice());
        }
    }

    /// What it costs.
    #[inline]
    pub(in crate::store) fn cost_bytes(&self) -> usize {
        ROW_OVERHEAD_BYTES + self.data.as_slice().len()
    }

    #[inline]
    pub(in crate::store) fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    #[inline]
    pub(in crate::store) fn set(&self, flags: u8) {
        self.flags.set(self.flags.get() | flags);
    }

    #[inline]
    pub(in crate::store) fn clear(&self, flags: u8) {
        self.flags.set(self.flags.get() & !flags);
    }

    /// Whether the key exists at this time.
    #[inline]
    pub(in crate::store) fn is_live(&self, now_ms: u64) -> bool {
        !self.has(TOMBSTONE) && self.expire_at_ms > now_ms
    }

    /// Whether the disk level, or the flushes up to `epoch`, say all that this row says.
    #[inline]
    pub(in crate::store) fn is_clean(&self, epoch: u32) -> bool {
        !self.has(DIRTY) && self.epoch <= epoch
    }

    pub(in crate::store) fn stamp(&self) -> Stamp {
        Stamp { version: self.version, expire_at_ms: self.expire_at_ms, encoding: self.encoding }
    }
}

/// What is asked for where a row of so many bytes has grown: the same for all lengths of a step, which are an eighth of
/// the length apart.
fn grown_bytes(len: usize) -> usize {
    const SMALL_BYTES: usize = 4 << 10;
    if len <= SMALL_BYTES { len } else { len.next_multiple_of(len.next_power_of_two() / 16) }
}

fn joined(key: &[u8], value: &[u8]) -> Data {
    let mut data = Vec::with_capacity(key.len() + value.len());
    data.extend_from_slice(key);
    data.extend_from_slice(value);
    Data::new(data)
}

/// Longer strings are "raw".
const EMBSTR_BYTES: usize = 44;

/// The name that OBJECT ENCODING has for a value.
pub(in crate::store) fn encoding_of(encoding: Encoding, value: &[u8]) -> &'static str {
    match encoding {
        Encoding::Auto if parse_integer(value).is_some() => "int",
        Encoding::Auto | Encoding::Text if value.len() <= EMBSTR_BYTES => "embstr",
        Encoding::Auto | Encoding::Text | Encoding::Raw => "raw",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_small() {
        assert_eq!(size_of::<Row>(), 48);
    }

    #[test]
    fn a_range_is_written_in_place_and_growth_is_paid_by_steps() {
        let stamp = Stamp { version: 1, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
        let mut row = Row::new(7, b"key", b"value", stamp, 1, DIRTY);
        assert_eq!(row.set_range(1, b"AL"), 2);
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b"vALue"[..]));
        row.set_range(7, b"end");
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b"vALue\0\0end"[..]));
        row.set_range(8 << 20, b"x");
        let at = row.data.as_slice().as_ptr();
        assert_eq!(row.set_range(4 << 20, b"y"), 1, "only what came is moved");
        assert_eq!(row.data.as_slice().as_ptr(), at);
        // A million bytes more, ten at a time: the value itself moves a few times.
        let moved: usize = (0..100_000).map(|_| row.set_range(row.value().len(), b"0123456789")).sum();
        assert_eq!(row.value().len(), (8 << 20) + 1 + 1_000_000);
        assert!(moved < 2 * 1_000_000 + 4 * (9 << 20), "{moved} bytes moved");
        assert_eq!((row.key(), row.value().get(..5)), (&b"key"[..], Some(&b"vALue"[..])));
    }

    #[test]
    fn large_answers_are_shares_which_never_change() {
        let stamp = Stamp { version: 1, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
        let value = vec![b'v'; 1 << 20];
        let mut row = Row::new(7, b"key", &value, stamp, 1, DIRTY);
        let at = row.data.as_slice().as_ptr();
        let share = |row: &Row| match row.answer(..) {
            Outcome::Shared(share) => share,
            other => panic!("{other:?}"),
        };
        let shares = [share(&row), share(&row)];
        assert!(shares.iter().all(|share| share.as_slice() == value));
        assert_eq!(shares[0].as_slice().as_ptr(), at.wrapping_add(3), "it is the row's own");
        assert_eq!(row.answer(1..3), Outcome::Bulk(b"vv".to_vec()));
        assert!(matches!(row.answer(1..=600_000), Outcome::Shared(part) if part.len() == 600_000));
        assert!(matches!(row.answer(1..=500_000), Outcome::Bulk(_)), "a small part keeps no large whole");
        // Whoever writes while others hold it pays for a copy, once.
        assert!(row.set_range(0, b"x") > value.len());
        assert_eq!(row.set_range(1, b"x"), 1);
        assert_eq!(row.value().get(..3), Some(&b"xxv"[..]));
        let other = share(&row);
        assert_eq!(row.set_value(&value), 0);
        assert_eq!((other.as_slice().get(..3), row.value()), (Some(&b"xxv"[..]), value.as_slice()));
        assert!(row.set_range(value.len(), b"end") > 3);
        let last = share(&row);
        assert!(row.set_range(value.len() + 3, b"!") > value.len());
        assert!(last.as_slice().ends_with(b"vend") && row.value().ends_with(b"vend!"));
        assert!(shares.iter().all(|share| share.as_slice() == value), "they stay as they were");
        assert_eq!(row.key(), b"key");
    }

    #[test]
    fn a_flush_keeps_the_value_as_it_was_without_a_copy_of_it() {
        let stamp = Stamp { version: 1, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
        let (old, new) = (vec![b'o'; 1000], vec![b'n'; 1000]);
        let mut row = Row::new(7, b"key", &old, stamp, 1, DIRTY);
        let at = row.data.as_slice().as_ptr();
        let kept = row.capture();
        assert_eq!((kept.copied_bytes(), row.data.as_slice().as_ptr()), (0, at));
        row.unshare();
        assert!(matches!(row.data, Data::Shared(_)), "it is still held");
        row.set_value(&new);
        assert_eq!((kept.as_slice(), row.value(), row.key()), (&old[..], &new[..], &b"key"[..]));
        let kept = row.capture();
        let at = row.data.as_slice().as_ptr();
        assert_eq!(row.set_range(1, b"x"), 1003 + 1, "what others hold is copied first");
        assert_ne!(row.data.as_slice().as_ptr(), at);
        assert_eq!(kept.as_slice(), new);
        drop((kept, row.capture()));
        let at = row.data.as_slice().as_ptr();
        row.unshare();
        assert!(matches!(row.data, Data::Own(_)) && row.data.as_slice().as_ptr() == at);
        let mut small = Row::new(7, b"key", b"value", stamp, 1, DIRTY);
        assert_eq!(small.capture().copied_bytes(), 5, "sharing would take more");
    }

    #[test]
    fn a_value_of_another_length_keeps_the_key() {
        let stamp = Stamp { version: 1, expire_at_ms: NO_EXPIRY, encoding: Encoding::Auto };
        let mut row = Row::new(7, b"key", b"value", stamp, 1, DIRTY);
        assert_eq!(row.set_value(b"VALUE"), 0);
        assert_eq!(row.set_value(b"v"), -4);
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b"v"[..]));
        assert_eq!(row.set_value(b""), -1);
        assert_eq!((row.key(), row.value()), (&b"key"[..], &b""[..]));
    }
}
