//! The commands that change keys, by Redis's rules.

use crate::store::exec::{Exec, Run, Stop};
use crate::store::memory::row::{Encoding, NO_EXPIRY, Row, Stamp};
use crate::store::op::PREFETCH_KEYS;
use crate::store::op::{Condition, ErrorKind, Expiry, List, Outcome, SetReply, SetWhen};
use crate::store::text::float::LongDouble;
use crate::store::text::number::{IntegerText, is_infinity, parse_integer};

/// The arguments of SET and its relatives.
pub(in crate::store) struct Set<'a> {
    pub(in crate::store) key: &'a [u8],
    pub(in crate::store) value: &'a [u8],
    pub(in crate::store) when: SetWhen<'a>,
    pub(in crate::store) expiry: Expiry,
    pub(in crate::store) reply: SetReply,
}

/// The expiry of an existing row, [`NO_EXPIRY`] if there is none.
fn expiry_of(row: Option<&Row>) -> u64 {
    row.map_or(NO_EXPIRY, |row| row.expire_at_ms)
}

fn bulk(row: Option<&Row>) -> Outcome {
    row.map_or(Outcome::Nil, |row| row.answer(..))
}

impl Exec<'_> {
    fn stamp(&self, expire_at_ms: u64, encoding: Encoding) -> Stamp {
        Stamp { version: self.version, expire_at_ms, encoding }
    }

    fn put(&mut self, key: &[u8], value: &[u8], expire_at_ms: u64, encoding: Encoding) {
        let (hash, stamp) = (self.hash(key), self.stamp(expire_at_ms, encoding));
        self.partition.absent.written(key, self.version, expire_at_ms != NO_EXPIRY);
        self.partition.is_written = true;
        self.partition.write(self.ledger, hash, key, value, stamp);
    }

    /// Removes a key that exists.
    fn drop_key(&mut self, key: &[u8]) {
        let hash = self.hash(key);
        self.partition.absent.removed(key, self.version);
        self.partition.remove(self.ledger, hash, key);
    }

    pub(in crate::store) fn set(&mut self, set: &Set<'_>) -> Run {
        self.fits(set.key, set.value.len())?;
        if let Some(expire_at_ms) = self.blind_expiry(set) {
            self.put(set.key, set.value, expire_at_ms, Encoding::Auto);
            return Ok(if set.reply == SetReply::Done { Outcome::Int(1) } else { Outcome::Ok });
        }
        let now_ms = self.now_ms;
        let row = self.live(set.key)?;
        let holds = match set.when {
            SetWhen::Always => true,
            SetWhen::Absent => row.is_none(),
            SetWhen::Present => row.is_some(),
            SetWhen::Equals(expected) => row.is_some_and(|row| row.value() == expected),
        };
        let outcome = match set.reply {
            SetReply::Ok if holds => Outcome::Ok,
            SetReply::Ok => Outcome::Nil,
            SetReply::Done => Outcome::Int(i64::from(holds)),
            SetReply::Old => bulk(row),
        };
        if !holds {
            return Ok(outcome);
        }
        let exists = row.is_some();
        let expire_at_ms = match set.expiry {
            Expiry::Clear => NO_EXPIRY,
            Expiry::Keep => expiry_of(row),
            Expiry::At(at_ms) => at_ms.min(NO_EXPIRY - 1),
            Expiry::In(in_ms) => now_ms.saturating_add(in_ms).min(NO_EXPIRY - 1),
        };
        if expire_at_ms > now_ms {
            self.put(set.key, set.value, expire_at_ms, Encoding::Auto);
        } else if exists {
            self.drop_key(set.key);
        }
        Ok(outcome)
    }

    /// The expiry of a SET that need not know whether the key exists.
    fn blind_expiry(&self, set: &Set<'_>) -> Option<u64> {
        if set.when != SetWhen::Always || set.reply == SetReply::Old || self.partition.exact_wanted {
            return None;
        }
        match set.expiry {
            Expiry::Clear => Some(NO_EXPIRY),
            Expiry::At(at_ms) if at_ms > self.now_ms => Some(at_ms.min(NO_EXPIRY - 1)),
            Expiry::In(in_ms) if in_ms > 0 => Some(self.now_ms.saturating_add(in_ms).min(NO_EXPIRY - 1)),
            Expiry::At(_) | Expiry::In(_) | Expiry::Keep => None,
        }
    }

    pub(in crate::store) fn append(&mut self, key: &[u8], value: &[u8]) -> Run {
        let Some(row) = self.live(key)? else {
            self.fits(key, value.len())?;
            self.put(key, value, NO_EXPIRY, Encoding::Auto);
            return Ok(Outcome::length(value.len()));
        };
        let (before, expire_at_ms) = (row.value().len(), row.expire_at_ms);
        self.fits(key, before + value.len())?;
        self.grow(value.len())?;
        self.change(key, before, value, expire_at_ms);
        Ok(Outcome::length(before + value.len()))
    }

    pub(in crate::store) fn set_range(&mut self, key: &[u8], offset: u64, value: &[u8]) -> Run {
        let row = self.live(key)?;
        let (before, expire_at_ms) = (row.map(|row| row.value().len()), expiry_of(row));
        if value.is_empty() {
            return Ok(Outcome::length(before.unwrap_or(0)));
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(value.len());
        self.fits(key, end)?;
        self.grow(end.saturating_sub(before.unwrap_or(0)))?;
        if before.is_none() {
            self.put(key, b"", NO_EXPIRY, Encoding::Raw);
        }
        self.change(key, offset, value, expire_at_ms);
        Ok(Outcome::length(end.max(before.unwrap_or(0))))
    }

    /// Puts bytes into the value of a key that exists, without moving the rest of it. When it expires stays as it is.
    fn change(&mut self, key: &[u8], offset: usize, bytes: &[u8], expire_at_ms: u64) {
        let (hash, stamp) = (self.hash(key), self.stamp(expire_at_ms, Encoding::Raw));
        self.partition.absent.written(key, self.version, expire_at_ms != NO_EXPIRY);
        self.partition.is_written = true;
        self.moved_bytes += self.partition.set_range(self.ledger, hash, key, (offset, bytes), stamp);
    }

    pub(in crate::store) fn incr_by(&mut self, key: &[u8], delta: i64) -> Run {
        self.fits(key, 0)?;
        let row = self.live(key)?;
        let (old, expire_at_ms) = (row.map(|row| parse_integer(row.value())), expiry_of(row));
        let old = old.unwrap_or(Some(0)).ok_or(Stop::Error(ErrorKind::NotInteger))?;
        let new = old.checked_add(delta).ok_or(Stop::Error(ErrorKind::IncrOverflow))?;
        self.put(key, IntegerText::new(new).as_bytes(), expire_at_ms, Encoding::Auto);
        Ok(Outcome::Int(new))
    }

    pub(in crate::store) fn incr_by_float(&mut self, key: &[u8], delta: &[u8]) -> Run {
        self.fits(key, 0)?;
        let row = self.live(key)?;
        let not_float = Stop::Error(ErrorKind::NotFloat);
        if row.is_some_and(|row| is_infinity(row.value())) {
            return Err(Stop::Error(ErrorKind::NanOrInfinity));
        }
        let (old, expire_at_ms) = (row.map(|row| LongDouble::parse(row.value())), expiry_of(row));
        let old = old.unwrap_or(Some(LongDouble::ZERO)).ok_or(not_float)?;
        // What is no number was refused before; what is left is infinity by name.
        let sum = LongDouble::parse(delta).and_then(|delta| old.add(&delta));
        let sum = sum.ok_or(Stop::Error(ErrorKind::NanOrInfinity))?;
        let text = sum.to_text();
        self.put(key, &text, expire_at_ms, Encoding::Text);
        Ok(Outcome::Bulk(text))
    }

    pub(in crate::store) fn del(&mut self, keys: List<'_>) -> Run {
        self.know(keys)?;
        let mut removed = 0;
        for key in keys {
            if self.live(key)?.is_some() {
                self.drop_key(key);
                removed += 1;
            }
        }
        Ok(Outcome::Int(removed))
    }

    pub(in crate::store) fn get_del(&mut self, key: &[u8]) -> Run {
        let outcome = bulk(self.live(key)?);
        if outcome != Outcome::Nil {
            self.drop_key(key);
        }
        Ok(outcome)
    }

    pub(in crate::store) fn get_ex(&mut self, key: &[u8], expiry: Expiry) -> Run {
        let row = self.live(key)?;
        let (outcome, current) = (bulk(row), expiry_of(row));
        let at_ms = match expiry {
            _ if outcome == Outcome::Nil => return Ok(outcome),
            Expiry::Keep => current,
            Expiry::Clear => NO_EXPIRY,
            Expiry::At(at_ms) => at_ms.min(NO_EXPIRY - 1),
            Expiry::In(in_ms) => self.now_ms.saturating_add(in_ms).min(NO_EXPIRY - 1),
        };
        if at_ms != current {
            self.expire_at(key, at_ms);
        }
        Ok(outcome)
    }

    /// Sets when an existing key expires; at once, if that is past.
    fn expire_at(&mut self, key: &[u8], at_ms: u64) {
        if at_ms <= self.now_ms {
            self.drop_key(key);
            return;
        }
        let hash = self.hash(key);
        self.partition.absent.written(key, self.version, at_ms != NO_EXPIRY);
        self.partition.set_expiry(self.ledger, hash, key, self.version, at_ms);
    }

    pub(in crate::store) fn m_set(&mut self, pairs: List<'_>, only_if_none: bool) -> Run {
        let keys = || pairs.iter().step_by(2);
        for (key, value) in keys().zip(pairs.iter().skip(1).step_by(2)) {
            self.fits(key, value.len())?;
        }
        if only_if_none || self.partition.exact_wanted {
            self.know(keys())?;
        }
        if only_if_none {
            for key in keys() {
                if self.live(key)?.is_some() {
                    return Ok(Outcome::Int(0));
                }
            }
        }
        let mut ahead = keys();
        for (at, (key, value)) in keys().zip(pairs.iter().skip(1).step_by(2)).enumerate() {
            // Fewer were fetched with the ops around it.
            if at % PREFETCH_KEYS == 0 && pairs.len() > 2 * PREFETCH_KEYS {
                self.prefetch(&mut ahead);
            }
            self.put(key, value, NO_EXPIRY, Encoding::Auto);
        }
        Ok(if only_if_none { Outcome::Int(1) } else { Outcome::Ok })
    }

    /// The time so many ms from the op's own, on the scale of EXPIREAT.
    pub(in crate::store) fn after(&self, in_ms: i64) -> i64 {
        i64::try_from(self.now_ms).unwrap_or(i64::MAX).saturating_add(in_ms)
    }

    pub(in crate::store) fn expire(&mut self, key: &[u8], at_ms: i64, condition: Condition) -> Run {
        let Some(row) = self.live(key)? else { return Ok(Outcome::Int(0)) };
        let current = row.expire_at_ms;
        let (has, new) = (current != NO_EXPIRY, u64::try_from(at_ms).unwrap_or(0));
        let holds = match condition {
            Condition::Always => true,
            Condition::NoExpiry => !has,
            Condition::HasExpiry => has,
            Condition::Later | Condition::HasAndLater => has && new > current,
            Condition::Sooner => !has || new < current,
            Condition::HasAndSooner => has && new < current,
        };
        if holds {
            self.expire_at(key, new);
        }
        Ok(Outcome::Int(i64::from(holds)))
    }

    pub(in crate::store) fn persist(&mut self, key: &[u8]) -> Run {
        let expires = expiry_of(self.live(key)?) != NO_EXPIRY;
        if expires {
            self.expire_at(key, NO_EXPIRY);
        }
        Ok(Outcome::Int(i64::from(expires)))
    }

    pub(in crate::store) fn rename(&mut self, from: &[u8], to: &[u8], only_if_none: bool) -> Run {
        self.fits(to, 0)?;
        self.know([from, to])?;
        let target_exists = self.live(to)?.is_some();
        let row = self.live(from)?.ok_or(Stop::Error(ErrorKind::NoSuchKey))?;
        let (value, stamp) = (row.keep(), row.stamp());
        let done = if only_if_none { Outcome::Int(i64::from(!target_exists)) } else { Outcome::Ok };
        if (only_if_none && target_exists) || from == to {
            return Ok(done);
        }
        let value = value.as_slice();
        self.moved_bytes += value.len();
        self.put(to, value, stamp.expire_at_ms, stamp.encoding);
        self.drop_key(from);
        Ok(done)
    }

    pub(in crate::store) fn copy(&mut self, from: &[u8], to: &[u8], replace: bool) -> Run {
        self.fits(to, 0)?;
        self.know([from, to])?;
        let target_exists = self.live(to)?.is_some();
        let Some(row) = self.live(from)? else { return Ok(Outcome::Int(0)) };
        if (target_exists && !replace) || from == to {
            return Ok(Outcome::Int(0));
        }
        let (value, stamp) = (row.keep(), row.stamp());
        let value = value.as_slice();
        self.grow(value.len())?;
        self.moved_bytes += value.len();
        self.put(to, value, stamp.expire_at_ms, stamp.encoding);
        Ok(Outcome::Int(1))
    }

    pub(in crate::store) fn flush(&mut self) -> Outcome {
        self.lookups.forget_pages(self.partition.id);
        self.partition.flush(self.ledger, self.version);
        Outcome::Ok
    }
}
