//! The bytes of an op: version, opcode, fixed fields, then byte strings with their length (u32 LE) before them.
//!
//! Invariant: `decode` accepts exactly what `encode` wrote, checks every length before use, and never panics. Bytes
//! once written stay readable: a changed meaning gets a new opcode, a changed layout a new version.

use corduroy_wal::fields::Fields;

use super::op::{Condition, Expiry, List, Op, OpError, SetReply, SetWhen};

/// The layout written today.
pub(super) const VERSION: u8 = 1;

pub(super) mod code {
    pub const SET: u8 = 1;
    pub const APPEND: u8 = 2;
    pub const SET_RANGE: u8 = 3;
    pub const INCR_BY: u8 = 4;
    pub const INCR_BY_FLOAT: u8 = 5;
    pub const DEL: u8 = 6;
    pub const GET_DEL: u8 = 7;
    pub const GET_EX: u8 = 8;
    pub const M_SET: u8 = 9;
    pub const EXPIRE: u8 = 10;
    pub const PERSIST: u8 = 11;
    pub const RENAME: u8 = 12;
    pub const COPY: u8 = 13;
    pub const FLUSH: u8 = 14;
    pub const MARKED_MULTI: u8 = 15;
    pub const EXPIRE_IN: u8 = 16;
    pub const WATCH: u8 = 17;
    pub const MULTI: u8 = 18;
    pub const GET: u8 = 64;
    pub const STR_LEN: u8 = 65;
    pub const GET_RANGE: u8 = 66;
    pub const M_GET: u8 = 67;
    pub const EXISTS: u8 = 68;
    pub const TYPE: u8 = 69;
    pub const TTL: u8 = 70;
    pub const OBJECT_ENCODING: u8 = 71;
    pub const OBJECT_REFCOUNT: u8 = 72;
    pub const MEMORY_USAGE: u8 = 73;
    pub const KEYS: u8 = 74;
    pub const SCAN: u8 = 75;
    pub const RANDOM_KEY: u8 = 76;
    pub const DB_SIZE: u8 = 77;
    pub const LCS: u8 = 78;
    pub const VERSION_OF: u8 = 79;
}

/// Whether an op's first bytes leave it open that the op is heavy.
#[inline]
pub(super) fn may_be_heavy(op: &[u8]) -> bool {
    matches!(op, [_, code::KEYS | code::LCS | code::SET_RANGE | code::MULTI | code::MARKED_MULTI, ..])
}

/// The same of copying rows, or having them flushed again.
#[inline]
pub(super) fn may_renew_rows(op: &[u8]) -> bool {
    use code::*;
    let codes = [APPEND, SET_RANGE, GET_EX, EXPIRE, EXPIRE_IN, PERSIST, RENAME, COPY, MULTI, MARKED_MULTI];
    op.get(1).is_some_and(|code| codes.contains(code))
}

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
            if matches!(op.get(1), Some(&(code::MULTI | code::MARKED_MULTI))) {
                return Err(OpError("a transaction inside a transaction"));
            }
            Op::decode(op)?;
        }
        Ok((guards, ops))
    }

    fn write_op(&mut self, opcode: u8) -> Result<Op<'a>, OpError> {
        Ok(match opcode {
            code::SET => self.set()?,
            code::APPEND => Op::Append { key: self.string()?, value: self.string()? },
            code::SET_RANGE => {
                Op::SetRange { offset: self.number()?, key: self.string()?, value: self.string()? }
            }
            code::INCR_BY => Op::IncrBy { delta: self.signed()?, key: self.string()? },
            code::INCR_BY_FLOAT => Op::IncrByFloat { key: self.string()?, delta: self.string()? },
            code::DEL => Op::Del { keys: self.list()? },
            code::GET_DEL => Op::GetDel { key: self.string()? },
            code::GET_EX => Op::GetEx { expiry: self.expiry()?, key: self.string()? },
            code::M_SET => {
                let (only_if_none, pairs) = (self.flag()?, self.list()?);
                if pairs.len() % 2 != 0 {
                    return Err(OpError("a key without a value"));
                }
                Op::MSet { pairs, only_if_none }
            }
            code::EXPIRE => {
                Op::Expire { condition: self.condition()?, at_ms: self.signed()?, key: self.string()? }
            }
            code::EXPIRE_IN => {
                Op::ExpireIn { condition: self.condition()?, in_ms: self.signed()?, key: self.string()? }
            }
            code::PERSIST => Op::Persist { key: self.string()? },
            code::RENAME => {
                Op::Rename { only_if_none: self.flag()?, from: self.string()?, to: self.string()? }
            }
            code::COPY => Op::Copy { replace: self.flag()?, from: self.string()?, to: self.string()? },
            code::FLUSH => Op::Flush,
            code::WATCH => Op::Watch { key: self.string()? },
            code::MULTI => {
                let (guards, ops) = self.multi()?;
                Op::Multi { guards, ops }
            }
            code::MARKED_MULTI => {
                let (guards, ops) = self.multi()?;
                Op::MarkedMulti { guards, ops }
            }
            _ => return Err(OpError("unknown operation")),
        })
    }

    fn read_op(&mut self, opcode: u8) -> Result<Op<'a>, OpError> {
        Ok(match opcode {
            code::GET => Op::Get { key: self.string()? },
            code::STR_LEN => Op::StrLen { key: self.string()? },
            code::GET_RANGE => {
                Op::GetRange { start: self.signed()?, end: self.signed()?, key: self.string()? }
            }
            code::M_GET => Op::MGet { keys: self.list()? },
            code::EXISTS => Op::Exists { keys: self.list()? },
            code::TYPE => Op::Type { key: self.string()? },
            code::TTL => Op::Ttl { absolute: self.flag()?, seconds: self.flag()?, key: self.string()? },
            code::OBJECT_ENCODING => Op::ObjectEncoding { key: self.string()? },
            code::OBJECT_REFCOUNT => Op::ObjectRefcount { key: self.string()? },
            code::MEMORY_USAGE => Op::MemoryUsage { key: self.string()? },
            code::KEYS => Op::Keys { pattern: self.string()? },
            code::SCAN => {
                let (cursor, count) = (self.number()?, self.number()?);
                let pattern = if self.flag()? { Some(self.string()?) } else { None };
                let kind = if self.flag()? { Some(self.string()?) } else { None };
                Op::Scan { cursor, count, pattern, kind }
            }
            code::RANDOM_KEY => Op::RandomKey { seed: self.number()? },
            code::DB_SIZE => Op::DbSize,
            code::LCS => Op::Lcs {
                len: self.flag()?,
                idx: self.flag()?,
                with_match_len: self.flag()?,
                min_match_len: self.number()?,
                a: self.string()?,
                b: self.string()?,
            },
            code::VERSION_OF => Op::Version { key: self.string()? },
            _ => return Err(OpError("unknown operation")),
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
        if reader.byte()? != VERSION {
            return Err(OpError("written in a layout that this version does not know"));
        }
        let opcode = reader.byte()?;
        let op = if opcode < code::GET { reader.write_op(opcode)? } else { reader.read_op(opcode)? };
        if reader.0.is_empty() { Ok(op) } else { Err(OpError("bytes are left over")) }
    }
}

/// The count at the head of an encoded list.
pub(super) fn list_count(list: &[u8]) -> usize {
    list.first_chunk::<4>().map_or(0, |count| u32::from_le_bytes(*count) as usize)
}

/// The items of a [`List`].
#[derive(Clone, Debug)]
pub struct ListIter<'a> {
    args: std::slice::Iter<'a, &'a [u8]>,
    encoded: &'a [u8],
}

impl<'a> ListIter<'a> {
    pub(super) fn new(list: List<'a>) -> Self {
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
