//! The commands that look at single keys, by Redis's rules.

use std::ops::Range;

use crate::store::exec::{Exec, Run, Stop};
use crate::store::memory::row::{NO_EXPIRY, ROW_OVERHEAD_BYTES, Row, encoding_of};
use crate::store::op::PREFETCH_KEYS;
use crate::store::op::{ErrorKind, List, Outcome};

impl Exec<'_> {
    pub(in crate::store) fn get(&mut self, key: &[u8]) -> Run {
        Ok(self.live(key)?.map_or(Outcome::Nil, |row| row.answer(..)))
    }

    pub(in crate::store) fn str_len(&mut self, key: &[u8]) -> Run {
        Ok(Outcome::length(self.live(key)?.map_or(0, |row| row.value().len())))
    }

    pub(in crate::store) fn get_range(&mut self, key: &[u8], start: i64, end: i64) -> Run {
        let part = self.live(key)?.map(|row| row.answer(range_of(row.value().len(), start, end)));
        Ok(part.unwrap_or_else(|| Outcome::Bulk(Vec::new())))
    }

    pub(in crate::store) fn m_get(&mut self, keys: List<'_>) -> Run {
        self.know(keys)?;
        let mut budget = self.options.max_reply_bytes;
        let mut ahead = keys.iter();
        let values = keys.iter().enumerate().map(|(at, key)| {
            if at % PREFETCH_KEYS == 0 {
                self.prefetch(&mut ahead);
            }
            self.get(key).and_then(|value| spend(&mut budget, value))
        });
        values.collect::<Run<Vec<_>>>().map(Outcome::Array)
    }

    pub(in crate::store) fn exists(&mut self, keys: List<'_>) -> Run {
        self.know(keys)?;
        let mut found = 0;
        for key in keys {
            found += i64::from(self.live(key)?.is_some());
        }
        Ok(Outcome::Int(found))
    }

    pub(in crate::store) fn type_of(&mut self, key: &[u8]) -> Run {
        Ok(Outcome::Simple(if self.live(key)?.is_some() { "string" } else { "none" }))
    }

    pub(in crate::store) fn ttl(&mut self, key: &[u8], absolute: bool, seconds: bool) -> Run {
        let now_ms = self.now_ms;
        let Some(row) = self.live(key)? else { return Ok(Outcome::Int(-2)) };
        if row.expire_at_ms == NO_EXPIRY {
            return Ok(Outcome::Int(-1));
        }
        let ms = if absolute { row.expire_at_ms } else { row.expire_at_ms.saturating_sub(now_ms) };
        let answer = if seconds { ms.saturating_add(500) / 1000 } else { ms };
        Ok(Outcome::Int(i64::try_from(answer).unwrap_or(i64::MAX)))
    }

    pub(in crate::store) fn object_encoding(&mut self, key: &[u8]) -> Run {
        Ok(self.live(key)?.map_or(Outcome::Nil, row_encoding))
    }

    pub(in crate::store) fn object_refcount(&mut self, key: &[u8]) -> Run {
        Ok(self.live(key)?.map_or(Outcome::Nil, |_| Outcome::Int(1)))
    }

    pub(in crate::store) fn memory_usage(&mut self, key: &[u8]) -> Run {
        let bytes = self.live(key)?.map(|row| ROW_OVERHEAD_BYTES + row.key().len() + row.value().len());
        Ok(bytes.map_or(Outcome::Nil, Outcome::length))
    }

    /// The version of a key for WATCH: different whenever the key has changed in between, also where it is absent both
    /// times; 0 for one that is absent and not watched.
    pub(in crate::store) fn version_of(&mut self, key: &[u8]) -> Run<u64> {
        let live = self.live(key)?.map(|row| row.version);
        Ok(live.unwrap_or_else(|| self.partition.absent.watched(key)))
    }

    /// The same for transactions of the first kind. `None`: it has changed.
    pub(in crate::store) fn marked_version_of(&mut self, key: &[u8]) -> Run<Option<u64>> {
        let live = self.live(key)?.map(|row| row.version);
        Ok(live.map_or_else(|| self.partition.absent.marked(key), Some))
    }

    /// The version of a key for WATCH; one that is absent is registered.
    pub(in crate::store) fn watch(&mut self, key: &[u8]) -> Run {
        let live = self.live(key)?.map(|row| row.version);
        let version = live.unwrap_or_else(|| self.partition.absent.watch(key, self.version));
        Ok(Outcome::Int(i64::try_from(version).unwrap_or(i64::MAX)))
    }
}

/// Lets an answer be made of what the budget still allows.
pub(in crate::store) fn spend(budget_bytes: &mut usize, part: Outcome) -> Run {
    let left = budget_bytes.checked_sub(part.cost_bytes());
    *budget_bytes = left.ok_or(Stop::Error(ErrorKind::ReplyTooLarge))?;
    Ok(part)
}

fn row_encoding(row: &Row) -> Outcome {
    Outcome::Bulk(encoding_of(row.encoding, row.value()).as_bytes().to_vec())
}

/// The bytes from `start` to `end` of so many, both included, negative ones counted from the end.
fn range_of(len: usize, start: i64, end: i64) -> Range<usize> {
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let from_front = |index: i64| if index < 0 { index.saturating_add(len).max(0) } else { index };
    let (start, end) = (from_front(start), from_front(end).min(len - 1));
    if start > end {
        return 0..0;
    }
    usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end + 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::range_of;

    #[test]
    fn ranges_as_redis_cuts_them() {
        let value = b"Hello World";
        let cases: &[(i64, i64, &[u8])] = &[
            (0, 4, b"Hello"),
            (0, -1, b"Hello World"),
            (-4, -1, b"orld"),
            (-3, -5, b""),
            (5, 3, b""),
            (5, 5000, b" World"),
            (-5000, 10_000, b"Hello World"),
            (11, 20, b""),
            (0, 0, b"H"),
            (0, -100, b"H"),
            (i64::MIN, i64::MAX, b"Hello World"),
        ];
        for (start, end, expected) in cases {
            let range = range_of(value.len(), *start, *end);
            assert_eq!(value.get(range), Some(*expected), "{start}..={end}");
        }
        assert_eq!(range_of(0, 0, -1), 0..0);
    }
}
