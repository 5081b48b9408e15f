//! The bytes of an op: the code of its kind, fixed fields, then byte strings with their length (u32 LE) before them.
//!
//! Invariant: `decode` accepts exactly what `encode` wrote, now or in version 1, checks every length before use, and never
//! panics. Bytes once written stay readable: a changed meaning or layout gets a new code.

use corduroy_wal::fields::Fields;

use super::kind::{Kind, Named};
use crate::store::op::{Condition, Expiry, List, Op, OpError, SetReply, SetWhen};

/// Takes fields from an op's bytes.
struct Reader<'a>(Fields<'a>);

const CUT_OFF: OpError = OpError("it ends too early");

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], OpError> {
        self.0.take(len).ok_or(CUT_OFF)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], OpError> {
        self.0.array().ok_or(CUT_OFF)
    }

    fn byte(&mut self) -> Result<u8, OpError> {
        self.0.byte().ok_or(CUT_OFF)
    }

    fn flag(&mut self) -> Result<bool, OpError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(OpError("a flag is neither 0 nor 1")),
        }
    }

    fn number(&mut self) -> Result<u64, OpError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn signed(&mut self) -> Result<i64, OpError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<&'a [u8], OpError> {
        let len = u32::from_le_bytes(self.array()?);
        self.take(len as usize)
    }

    /// A list; every item's length is checked here, so that [`ListIter`] cannot run out of bytes.
    fn list(&mut self) -> Result<List<'a>, OpError> {
        let start = self.0.rest;
        let count = u32::from_le_bytes(self.array()?);
        for _ in 0..count {
            self.string()?;
        }
        let (list, _) = start.split_at(start.len() - self.0.rest.len());
        Ok(List::Encoded(list))
    }

    fn expiry(&mut self) -> Result<Expiry, OpError> {
        match self.byte()? {
            0 => Ok(Expiry::Clear),
            1 => Ok(Expiry::Keep),
            2 => Ok(Expiry::At(self.number()?)),
            3 => Ok(Expiry::In(self.number()?)),
            _ => Err(OpError("unknown kind of expiry")),
        }
    }

    fn condition(&mut self) -> Result<Condition, OpError> {
        Ok(match self.byte()? {
            0 => Condition::Always,
            1 => Condition::NoExpiry,
            2 => Condition::HasExpiry,
            3 => Condition::Later,
            4 => Condition::Sooner,
            5 => Condition::HasAndLater,
            6 => Condition::HasAndSooner,
            _ => return Err(OpError("unknown condition")),
        })
    }

    fn set(&mut self) -> Result<Op<'a>, OpError> {
        let when = self.byte()?;
        let reply = match self.byte()? {
            0 => SetReply::Ok,
            1 => SetReply::Done,
            2 => SetReply::Old,
            _ => return Err(OpError("unknown kind of reply")),
        };
        let expiry = self.expiry()?;
        let key = self.string()?;
        let value = self.string()?;
        let when = match when {
            0 => SetWhen::Always,
            1 => SetWhen::Absent,
            2 => SetWhen::Present,
            3 => SetWhen::Equals(self.string()?),
            _ => return Err(OpError("unknown condition")),
        };
        Ok(Op::Set { key, value, when, expiry, reply })
    }

    /// `ops` must all decode, none of them a `Multi`: nothing of a transaction runs if a part of it is unreadable.
    fn multi(&mut self) -> Result<(List<'a>, List<'a>), OpError> {
        let (guards, ops) = (self.list()?, self.list()?);
        if guards.len() % 2 != 0 {
            return Err(OpError("a guard without a version"));
        }
        if guards.iter().skip(1).step_by(2).any(|version| version.len() != 8) {
            return Err(OpError("a guard's version is not 8 bytes"));
        }
        for op in ops {
            if Kind::of(op).is_some_and(Kind::is_transaction) {
                return Err(OpError("a transaction inside a transaction"));
            }
            Op::decode(op)?;
        }
        Ok((guards, ops))
    }

    fn m_set(&mut self) -> Result<Op<'a>, OpError> {
        let (only_if_none, pairs) = (self.flag()?, self.list()?);
        if pairs.len() % 2 != 0 {
            return Err(OpError("a key without a value"));
        }
        Ok(Op::MSet { pairs, only_if_none })
    }

    fn scan(&mut self) -> Result<Op<'a>, OpError> {
        let (cursor, count) = (self.number()?, self.number()?);
        let pattern = if self.flag()? { Some(self.string()?) } else { None };
        let kind = if self.flag()? { Some(self.string()?) } else { None };
        Ok(Op::Scan { cursor, count, pattern, kind })
    }

    fn lcs(&mut self) -> Result<Op<'a>, OpError> {
        let (len, idx, with_match_len) = (self.flag()?, self.flag()?, self.flag()?);
        let min_match_len = self.number()?;
        Ok(Op::Lcs { a: self.string()?, b: self.string()?, len, idx, min_match_len, with_match_len })
    }

    fn op(&mut self, kind: Kind) -> Result<Op<'a>, OpError> {
        Ok(match kind {
            Kind::Set => self.set()?,
            Kind::Append => Op::Append { key: self.string()?, value: self.string()? },
            Kind::SetRange => {
                Op::SetRange { offset: self.number()?, key: self.string()?, value: self.string()? }
            }
            Kind::IncrBy => Op::IncrBy { delta: self.signed()?, key: self.string()? },
            Kind::IncrByFloat => Op::IncrByFloat { key: self.string()?, delta: self.string()? },
            Kind::Del => Op::Del { keys: self.list()? },
            Kind::GetDel => Op::GetDel { key: self.string()? },
            Kind::GetEx => Op::GetEx { expiry: self.expiry()?, key: self.string()? },
            Kind::MSet => self.m_set()?,
            Kind::Expire => {
                Op::Expire { condition: self.condition()?, at_ms: self.signed()?, key: self.string()? }
            }
            Kind::ExpireIn => {
                Op::ExpireIn { condition: self.condition()?, in_ms: self.signed()?, key: self.string()? }
            }
            Kind::Persist => Op::Persist { key: self.string()? },
            Kind::Rename => {
                Op::Rename { only_if_none: self.flag()?, from: self.string()?, to: self.string()? }
            }
            Kind::Copy => Op::Copy { replace: self.flag()?, from: self.string()?, to: self.string()? },
            Kind::Flush => Op::Flush,
            Kind::Watch => Op::Watch { key: self.string()? },
            Kind::Multi => self.multi().map(|(guards, ops)| Op::Multi { guards, ops })?,
            Kind::MarkedMulti => self.multi().map(|(guards, ops)| Op::MarkedMulti { guards, ops })?,
            Kind::Get => Op::Get { key: self.string()? },
            Kind::StrLen => Op::StrLen { key: self.string()? },
            Kind::GetRange => {
                Op::GetRange { start: self.signed()?, end: self.signed()?, key: self.string()? }
            }
            Kind::MGet => Op::MGet { keys: self.list()? },
            Kind::Exists => Op::Exists { keys: self.list()? },
            Kind::Type => Op::Type { key: self.string()? },
            Kind::Ttl => Op::Ttl { absolute: self.flag()?, seconds: self.flag()?, key: self.string()? },
            Kind::ObjectEncoding => Op::ObjectEncoding { key: self.string()? },
            Kind::ObjectRefcount => Op::ObjectRefcount { key: self.string()? },
            Kind::MemoryUsage => Op::MemoryUsage { key: self.string()? },
            Kind::Keys => Op::Keys { pattern: self.string()? },
            Kind::Scan => self.scan()?,
            Kind::RandomKey => Op::RandomKey { seed: self.number()? },
            Kind::DbSize => Op::DbSize,
            Kind::Lcs => self.lcs()?,
            Kind::Version => Op::Version { key: self.string()? },
        })
    }
}

impl<'a> Op<'a> {
    /// Reads an op's bytes; the op borrows from them.
    ///
    /// # Errors
    /// [`OpError`] on bytes that no version so far wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, OpError> {
        let mut reader = Reader(Fields::new(bytes));
        let kind = match Kind::named(reader.array()?) {
            Named::Kind(kind) => kind,
            Named::UnknownKind => return Err(OpError("unknown operation")),
            Named::UnknownLayout => {
                return Err(OpError("written in a layout that this version does not know"));
            }
        };
        let op = reader.op(kind)?;
        if reader.0.is_empty() { Ok(op) } else { Err(OpError("bytes are left over")) }
    }
}

/// The count at the head of an encoded list.
pub(in crate::store) fn list_count(list: &[u8]) -> usize {
    list.first_chunk::<4>().map_or(0, |count| u32::from_le_bytes(*count) as usize)
}

/// The items of a [`List`].
#[derive(Clone, Debug)]
pub struct ListIter<'a> {
    args: std::slice::Iter<'a, &'a [u8]>,
    encoded: &'a [u8],
}

impl<'a> ListIter<'a> {
    pub(in crate::store) fn new(list: List<'a>) -> Self {
        match list {
            List::Args(args) => Self { args: args.iter(), encoded: &[] },
            List::Encoded(bytes) => Self { args: [].iter(), encoded: bytes.get(4..).unwrap_or_default() },
        }
    }
}

impl<'a> Iterator for ListIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(arg) = self.args.next() {
            return Some(arg);
        }
        let (len, rest) = self.encoded.split_first_chunk::<4>()?;
        let (item, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.encoded = rest;
        Some(item)
    }
}
