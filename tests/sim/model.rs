//! What the store must answer, written as plainly as possible: one ordered map a partition, no levels, no cache.

use std::collections::BTreeMap;

use corduroy::store::{Condition, ErrorKind, Expiry, List, Op, Outcome, SetReply, SetWhen};
use corduroy_shards::Applied;
use corduroy_shards::sim::Model;

#[derive(Clone, Debug)]
struct Entry {
    value: Vec<u8>,
    expire_at_ms: Option<u64>,
    version: u64,
}

/// One partition's default keyspace.
#[derive(Clone, Default, Debug)]
pub struct StoreModel {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Absent keys that are watched and have not come since: the version of the op that registered them.
    watched: BTreeMap<Vec<u8>, u64>,
    /// The entry that is being applied, its ops so far, and the version of the present one.
    lsn: u64,
    ops: u64,
    version: u64,
}

impl Model for StoreModel {
    type Outcome = Outcome;

    fn apply(&mut self, at: &Applied, op: &[u8]) -> Outcome {
        self.ops = if self.lsn == at.lsn.get() { self.ops + 1 } else { 0 };
        self.lsn = at.lsn.get();
        self.version = self.lsn << 20 | self.ops;
        self.answer(op, at.stamp_ms)
    }

    fn read(&mut self, op: &[u8], now_ms: u64) -> Outcome {
        self.answer(op, now_ms)
    }
}

fn bulk(value: Option<Vec<u8>>) -> Outcome {
    value.map_or(Outcome::Nil, Outcome::Bulk)
}

fn integer(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number = text.parse::<i64>().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A sum of numbers that have few binary digits, as Redis writes it.
fn sum_of_floats(old: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
    Some((number(old)? + number(delta)?).to_string().into_bytes())
}

impl StoreModel {
    fn answer(&mut self, bytes: &[u8], now_ms: u64) -> Outcome {
        match Op::decode(bytes) {
            Ok(op) => self.run(&op, now_ms),
            Err(_) => Outcome::Error(ErrorKind::BadOp),
        }
    }

    fn live(&self, key: &[u8], now_ms: u64) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| entry.expire_at_ms.is_none_or(|at| at > now_ms))
    }

    fn value(&self, key: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.live(key, now_ms).map(|entry| entry.value.clone())
    }

    /// Writes a key; a time in the past removes it.
    fn put(&mut self, key: &[u8], value: Vec<u8>, expire_at_ms: Option<u64>, now_ms: u64) {
        if expire_at_ms.is_some_and(|at| at <= now_ms) {
            self.remove(key, now_ms);
            return;
        }
        let version = self.version;
        self.watched.remove(key);
        self.entries.insert(key.to_vec(), Entry { value, expire_at_ms, version });
    }

    fn remove(&mut self, key: &[u8], now_ms: u64) -> bool {
        let was = self.live(key, now_ms).is_some();
        self.entries.remove(key);
        was
    }

    /// What WATCH remembers.
    fn version(&self, key: &[u8], now_ms: u64) -> u64 {
        let absent = self.watched.get(key).map_or(0, |version| version | 1 << 62);
        self.live(key, now_ms).map_or(absent, |entry| entry.version)
    }

    fn run(&mut self, op: &Op<'_>, now_ms: u64) -> Outcome {
        match *op {
            Op::Set { key, value, when, expiry, reply } => self.set(key, value, when, expiry, reply, now_ms),
            Op::Append { key, value } => {
                let mut text = self.value(key, now_ms).unwrap_or_default();
                text.extend_from_slice(value);
                let length = text.len();
                let expiry = self.live(key, now_ms).and_then(|entry| entry.expire_at_ms);
                self.put(key, text, expiry, now_ms);
                Outcome::Int(i64::try_from(length).expect("short values"))
            }
            Op::IncrBy { key, delta } => self.incr_by(key, delta, now_ms),
            Op::IncrByFloat { key, delta } => {
                let (old, expiry) = self
                    .live(key, now_ms)
                    .map_or((b"0".to_vec(), None), |old| (old.value.clone(), old.expire_at_ms));
                let Some(sum) = sum_of_floats(&old, delta) else {
                    return Outcome::Error(ErrorKind::NotFloat);
                };
                self.put(key, sum.clone(), expiry, now_ms);
                Outcome::Bulk(sum)
            }
            Op::Del { keys } => {
                let removed = keys.iter().filter(|key| self.remove(key, now_ms)).count();
                Outcome::Int(i64::try_from(removed).expect("few keys"))
            }
            Op::GetDel { key } => {
                let value = self.value(key, now_ms);
                self.remove(key, now_ms);
                bulk(value)
            }
            Op::MSet { pairs, only_if_none } => self.mset(pairs.iter().collect(), only_if_none, now_ms),
            Op::Expire { key, at_ms, condition } => self.expire(key, at_ms, condition, now_ms),
            Op::ExpireIn { key, in_ms, condition } => {
                let now = i64::try_from(now_ms).expect("times of this century");
                self.expire(key, now.saturating_add(in_ms), condition, now_ms)
            }
            Op::Persist { key } => {
                let had = self.live(key, now_ms).is_some_and(|entry| entry.expire_at_ms.is_some());
                if let Some(entry) = self.entries.get_mut(key).filter(|_| had) {
                    (entry.expire_at_ms, entry.version) = (None, self.version);
                }
                Outcome::Int(i64::from(had))
            }
            Op::Rename { from, to, only_if_none } => self.rename(from, to, only_if_none, now_ms),
            Op::Copy { from, to, replace } => {
                let Some(entry) = self.live(from, now_ms).cloned() else { return Outcome::Int(0) };
                if from == to || (self.live(to, now_ms).is_some() && !replace) {
                    return Outcome::Int(0);
                }
                self.put(to, entry.value, entry.expire_at_ms, now_ms);
                Outcome::Int(1)
            }
            Op::Flush => {
                self.entries.clear();
                Outcome::Ok
            }
            Op::Watch { key } => {
                if self.live(key, now_ms).is_none() {
                    self.watched.entry(key.to_vec()).or_insert(self.version);
                }
                Outcome::Int(i64::try_from(self.version(key, now_ms)).expect("below 2^63"))
            }
            Op::Multi { guards, ops } => self.multi(guards, ops, now_ms),
            ref read => self.look(read, now_ms),
        }
    }

    fn multi(&mut self, guards: List<'_>, ops: List<'_>, now_ms: u64) -> Outcome {
        let pairs = guards.iter().step_by(2).zip(guards.iter().skip(1).step_by(2));
        for (key, version) in pairs {
            if self.version(key, now_ms).to_le_bytes() != version {
                return Outcome::NullArray;
            }
        }
        Outcome::Array(ops.iter().map(|op| self.answer(op, now_ms)).collect())
    }

    fn look(&self, op: &Op<'_>, now_ms: u64) -> Outcome {
        match *op {
            Op::Version { key } => {
                Outcome::Int(i64::try_from(self.version(key, now_ms)).expect("below 2^63"))
            }
            // All of them; how much of that a page must hold is the caller's to judge.
            Op::Scan { .. } => {
                let live = self.entries.keys().filter(|key| self.live(key, now_ms).is_some());
                Outcome::Scan { cursor: 0, keys: live.cloned().collect() }
            }
            Op::Get { key } => bulk(self.value(key, now_ms)),
            Op::StrLen { key } => {
                let length = self.live(key, now_ms).map_or(0, |entry| entry.value.len());
                Outcome::Int(i64::try_from(length).expect("short values"))
            }
            Op::MGet { keys } => {
                Outcome::Array(keys.iter().map(|key| bulk(self.value(key, now_ms))).collect())
            }
            Op::Exists { keys } => {
                let there = keys.iter().filter(|key| self.live(key, now_ms).is_some()).count();
                Outcome::Int(i64::try_from(there).expect("few keys"))
            }
            Op::Ttl { key, absolute: true, seconds: false } => {
                let at = self.live(key, now_ms).map(|entry| entry.expire_at_ms);
                let ms = at.map(|at| {
                    at.map_or(-1, |at| i64::try_from(at).expect("times before the year 292 million"))
                });
                Outcome::Int(ms.unwrap_or(-2))
            }
            Op::Keys { pattern: b"*" } => {
                let live = self.entries.keys().filter(|key| self.live(key, now_ms).is_some());
                Outcome::Array(live.map(|key| Outcome::Bulk(key.clone())).collect())
            }
            _ => panic!("the simulated clients do not send {op:?}"),
        }
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        when: SetWhen<'_>,
        expiry: Expiry,
        reply: SetReply,
        now_ms: u64,
    ) -> Outcome {
        let old = self.live(key, now_ms).cloned();
        let holds = match when {
            SetWhen::Always => true,
            SetWhen::Absent => old.is_none(),
            SetWhen::Present => old.is_some(),
            SetWhen::Equals(expected) => old.as_ref().is_some_and(|old| old.value == expected),
        };
        if holds {
            let expire_at_ms = match expiry {
                Expiry::Clear => None,
                Expiry::Keep => old.as_ref().and_then(|old| old.expire_at_ms),
                Expiry::At(at) => Some(at),
                Expiry::In(ms) => Some(now_ms + ms),
            };
            self.put(key, value.to_vec(), expire_at_ms, now_ms);
        }
        match reply {
            SetReply::Old => bulk(old.map(|old| old.value)),
            SetReply::Done => Outcome::Int(i64::from(holds)),
            SetReply::Ok if holds => Outcome::Ok,
            SetReply::Ok => Outcome::Nil,
        }
    }

    fn incr_by(&mut self, key: &[u8], delta: i64, now_ms: u64) -> Outcome {
        let old = self.live(key, now_ms).cloned();
        let Some(number) = old.as_ref().map_or(Some(0), |old| integer(&old.value)) else {
            return Outcome::Error(ErrorKind::NotInteger);
        };
        let Some(sum) = number.checked_add(delta) else { return Outcome::Error(ErrorKind::IncrOverflow) };
        let expire_at_ms = old.and_then(|old| old.expire_at_ms);
        self.put(key, sum.to_string().into_bytes(), expire_at_ms, now_ms);
        Outcome::Int(sum)
    }

    fn mset(&mut self, items: Vec<&[u8]>, only_if_none: bool, now_ms: u64) -> Outcome {
        let pairs = items
            .chunks_exact(2)
            .filter_map(|pair| Some((*pair.first()?, *pair.last()?)))
            .collect::<Vec<_>>();
        if only_if_none && pairs.iter().any(|(key, _)| self.live(key, now_ms).is_some()) {
            return Outcome::Int(0);
        }
        for (key, value) in pairs {
            self.put(key, value.to_vec(), None, now_ms);
        }
        if only_if_none { Outcome::Int(1) } else { Outcome::Ok }
    }

    fn expire(&mut self, key: &[u8], at_ms: i64, condition: Condition, now_ms: u64) -> Outcome {
        let Some(entry) = self.live(key, now_ms).cloned() else { return Outcome::Int(0) };
        let new = u64::try_from(at_ms).unwrap_or(0);
        let holds = match (condition, entry.expire_at_ms) {
            (Condition::Always, _)
            | (Condition::NoExpiry | Condition::Sooner, None)
            | (Condition::HasExpiry, Some(_)) => true,
            (Condition::Later | Condition::HasAndLater, Some(old)) => new > old,
            (Condition::Sooner | Condition::HasAndSooner, Some(old)) => new < old,
            (Condition::NoExpiry, Some(_)) => false,
            (
                Condition::HasExpiry | Condition::Later | Condition::HasAndLater | Condition::HasAndSooner,
                None,
            ) => false,
        };
        if holds {
            self.put(key, entry.value, Some(new), now_ms);
        }
        Outcome::Int(i64::from(holds))
    }

    fn rename(&mut self, from: &[u8], to: &[u8], only_if_none: bool, now_ms: u64) -> Outcome {
        let Some(entry) = self.live(from, now_ms).cloned() else {
            return Outcome::Error(ErrorKind::NoSuchKey);
        };
        if only_if_none && self.live(to, now_ms).is_some() {
            return Outcome::Int(0);
        }
        if from != to {
            self.put(to, entry.value, entry.expire_at_ms, now_ms);
            self.remove(from, now_ms);
        }
        if only_if_none { Outcome::Int(1) } else { Outcome::Ok }
    }
}
