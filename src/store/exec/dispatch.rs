//! From an op to the function that does it, and transactions.

use super::read::spend;
use super::write::Set;
use crate::store::exec::{Exec, Run, Stop};
use crate::store::op::{ErrorKind, List, MAX_WALKS, Op, Outcome};
use crate::store::text::lcs::Lcs;

impl Exec<'_> {
    pub(in crate::store) fn run(&mut self, op: &Op<'_>) -> Run {
        match *op {
            Op::Set { key, value, when, expiry, reply } => self.set(&Set { key, value, when, expiry, reply }),
            Op::Append { key, value } => self.append(key, value),
            Op::SetRange { key, offset, value } => self.set_range(key, offset, value),
            Op::IncrBy { key, delta } => self.incr_by(key, delta),
            Op::IncrByFloat { key, delta } => self.incr_by_float(key, delta),
            Op::Del { keys } => self.del(keys),
            Op::GetDel { key } => self.get_del(key),
            Op::GetEx { key, expiry } => self.get_ex(key, expiry),
            Op::MSet { pairs, only_if_none } => self.m_set(pairs, only_if_none),
            Op::Expire { key, at_ms, condition } => self.expire(key, at_ms, condition),
            Op::ExpireIn { key, in_ms, condition } => self.expire(key, self.after(in_ms), condition),
            Op::Persist { key } => self.persist(key),
            Op::Rename { from, to, only_if_none } => self.rename(from, to, only_if_none),
            Op::Copy { from, to, replace } => self.copy(from, to, replace),
            Op::Flush => Ok(self.flush()),
            Op::Watch { key } => self.watch(key),
            Op::Multi { guards, ops } => self.multi(guards, ops, |exec, key| exec.version_of(key).map(Some)),
            Op::MarkedMulti { guards, ops } => self.multi(guards, ops, Self::marked_version_of),
            Op::Get { key } => self.get(key),
            Op::StrLen { key } => self.str_len(key),
            Op::GetRange { key, start, end } => self.get_range(key, start, end),
            Op::MGet { keys } => self.m_get(keys),
            Op::Exists { keys } => self.exists(keys),
            Op::Type { key } => self.type_of(key),
            Op::Ttl { key, absolute, seconds } => self.ttl(key, absolute, seconds),
            Op::ObjectEncoding { key } => self.object_encoding(key),
            Op::ObjectRefcount { key } => self.object_refcount(key),
            Op::MemoryUsage { key } => self.memory_usage(key),
            Op::Keys { pattern } => self.keys(pattern),
            Op::Scan { cursor, count, pattern, kind } => self.scan(cursor, count, pattern, kind),
            Op::RandomKey { seed } => self.random_key(seed),
            Op::DbSize => self.db_size(),
            Op::Lcs { a, b, len, idx, min_match_len, with_match_len } => {
                self.lcs(a, b, Lcs { len, idx, min_match_len, with_match_len })
            }
            Op::Version { key } => {
                let version = self.version_of(key)?;
                Ok(Outcome::Int(i64::try_from(version).unwrap_or(i64::MAX)))
            }
        }
    }

    /// Runs the ops as one: first everything that any of them needs is made sure of, then all run to their end. An
    /// op that fails leaves its error as its outcome; the others run, as in Redis.
    fn multi(
        &mut self,
        guards: List<'_>,
        ops: List<'_>,
        version_of: impl Fn(&mut Self, &[u8]) -> Run<Option<u64>>,
    ) -> Run {
        let guarded = || guards.iter().step_by(2);
        self.know(guarded())?;
        for (key, expected) in guarded().zip(guards.iter().skip(1).step_by(2)) {
            let version = version_of(self, key)?.map(u64::to_le_bytes);
            if version.as_ref().map(<[u8; 8]>::as_slice) != Some(expected) {
                if self.is_gathering() {
                    self.drop_gathered(ops.iter().filter_map(|op| Op::decode(op).ok()));
                }
                return Ok(Outcome::NullArray);
            }
        }
        let decoded: Result<Vec<Op<'_>>, _> = ops.iter().map(Op::decode).collect();
        let decoded = decoded.map_err(|_| Stop::Error(ErrorKind::BadOp))?;
        self.prepare(&decoded)?;
        self.committed = true;
        let (mut walks, mut budget) = (0, self.options.max_reply_bytes);
        let outcomes = decoded.iter().map(|op| {
            walks += usize::from(op.is_walk());
            if op.is_walk() && walks > MAX_WALKS {
                return Outcome::Error(ErrorKind::TooManyWalks);
            }
            // What an answer takes has no say in what is done: replicas with other limits do the same.
            match self.run(op).and_then(|outcome| spend(&mut budget, outcome)) {
                Ok(outcome) => outcome,
                Err(Stop::Error(kind)) => Outcome::Error(kind),
                Err(Stop::Blocked) => unreachable!("prepare made sure of all that {op:?} needs"),
            }
        });
        let outcomes = outcomes.collect();
        self.drop_gathered(decoded.into_iter());
        Ok(Outcome::Array(outcomes))
    }

    /// Makes sure that all that an op needs of the state is in memory, without running it.
    pub(in crate::store) fn needs(&mut self, op: &Op<'_>) -> Run<()> {
        let (Op::Multi { guards, ops } | Op::MarkedMulti { guards, ops }) = *op else {
            return self.know(op.keys(false));
        };
        self.know(guards.iter().step_by(2))?;
        let decoded: Result<Vec<Op<'_>>, _> = ops.iter().map(Op::decode).collect();
        let decoded = decoded.map_err(|_| Stop::Error(ErrorKind::BadOp))?;
        self.prepare(&decoded)
    }

    /// Makes sure that none of the ops will block.
    fn prepare(&mut self, ops: &[Op<'_>]) -> Run<()> {
        // Blind writes would make the size unknown that a later op of the transaction has to return.
        let sized = ops.iter().any(|op| matches!(op, Op::DbSize));
        let keys = ops.iter().flat_map(|op| op.keys(sized));
        let mut blocked = self.know(keys).is_err();
        self.preparing = true;
        let (mut walks, mut held_bytes) = (0, 0);
        for op in ops.iter().filter(|op| op.is_walk() || matches!(op, Op::DbSize)) {
            walks += usize::from(op.is_walk());
            let is_keys = matches!(op, Op::Keys { .. });
            if op.is_walk() && (walks > MAX_WALKS || (is_keys && held_bytes > self.options.max_reply_bytes)) {
                continue;
            }
            blocked |= self.prepare_walk(op) == Err(Stop::Blocked);
            if let Op::Keys { pattern } = op {
                // One after the other: what the next may bring depends on what this one brought.
                if blocked {
                    break;
                }
                held_bytes += self.gathered_bytes(pattern);
            }
        }
        self.preparing = false;
        if blocked { Err(Stop::Blocked) } else { Ok(()) }
    }
}

/// The keys of an op, without an allocation.
enum Keys<'a> {
    Few(std::array::IntoIter<&'a [u8], 2>),
    One(std::iter::Once<&'a [u8]>),
    Many(crate::store::op::codec::ListIter<'a>),
    Every2nd(std::iter::StepBy<crate::store::op::codec::ListIter<'a>>),
    None,
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Keys::Few(keys) => keys.next(),
            Keys::One(key) => key.next(),
            Keys::Many(keys) => keys.next(),
            Keys::Every2nd(keys) => keys.next(),
            Keys::None => None,
        }
    }
}

impl<'a> Op<'a> {
    /// The keys that it names and that must be known before it runs, none for a transaction; `blind`: those of blind writes
    /// too, so all.
    pub fn keys(&self, blind: bool) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        use crate::store::op::SetReply;
        use crate::store::op::{Expiry, SetWhen};
        match *self {
            Op::Set { key, when, expiry, reply, .. } => {
                let is_blind = when == SetWhen::Always && expiry == Expiry::Clear && reply != SetReply::Old;
                if is_blind && !blind { Keys::None } else { Keys::One(std::iter::once(key)) }
            }
            Op::MSet { only_if_none: false, .. } if !blind => Keys::None,
            Op::MSet { pairs, .. } => Keys::Every2nd(pairs.iter().step_by(2)),
            Op::Del { keys } | Op::MGet { keys } | Op::Exists { keys } => Keys::Many(keys.iter()),
            Op::Rename { from, to, .. } | Op::Copy { from, to, .. } => Keys::Few([from, to].into_iter()),
            Op::Lcs { a, b, .. } => Keys::Few([a, b].into_iter()),
            Op::Append { key, .. }
            | Op::SetRange { key, .. }
            | Op::IncrBy { key, .. }
            | Op::IncrByFloat { key, .. }
            | Op::GetDel { key }
            | Op::GetEx { key, .. }
            | Op::Expire { key, .. }
            | Op::ExpireIn { key, .. }
            | Op::Persist { key }
            | Op::Get { key }
            | Op::StrLen { key }
            | Op::GetRange { key, .. }
            | Op::Type { key }
            | Op::Ttl { key, .. }
            | Op::ObjectEncoding { key }
            | Op::ObjectRefcount { key }
            | Op::MemoryUsage { key }
            | Op::Watch { key }
            | Op::Version { key } => Keys::One(std::iter::once(key)),
            Op::Flush
            | Op::Multi { .. }
            | Op::MarkedMulti { .. }
            | Op::Keys { .. }
            | Op::Scan { .. }
            | Op::RandomKey { .. }
            | Op::DbSize => Keys::None,
        }
    }
}
