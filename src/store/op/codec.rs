//! The bytes of an op: its code, fixed fields, then byte strings with their length (u32 LE) before them.
//!
//! A code is two bytes, the family of the op and its number in that: writes below 64, reads from 64 on. Families begin at 16:
//! the first byte of what was written before there were families is the version, 1, and the second one a code of those.
//!
//! Invariant: `decode` accepts exactly what `encode` wrote, now or in version 1, checks every length before use, and never
//! panics. Bytes once written stay readable: a changed meaning or layout gets a new code.

use corduroy_wal::fields::Fields;

use crate::store::op::{Condition, Expiry, List, Op, OpError, SetReply, SetWhen};

/// The first byte of an op of version 1, whose codes know no families. Its fields are those of today.
const VERSION_1: u8 = 1;
/// The first family.
const FAMILIES: u8 = 16;
/// The first code of reads in each family.
const READS: u8 = 64;

pub(super) mod code {
    /// Keys of any type.
    const GENERIC: u16 = 0x10 << 8;
    /// Strings.
    const STRINGS: u16 = 0x11 << 8;
    /// All of a keyspace.
    const KEYSPACE: u16 = 0x12 << 8;
    /// Several operations as one.
    const TRANSACTIONS: u16 = 0x13 << 8;

    pub const DEL: u16 = GENERIC | 1;
    pub const EXPIRE: u16 = GENERIC | 2;
    pub const EXPIRE_IN: u16 = GENERIC | 3;
    pub const PERSIST: u16 = GENERIC | 4;
    pub const RENAME: u16 = GENERIC | 5;
    pub const COPY: u16 = GENERIC | 6;
    pub const WATCH: u16 = GENERIC | 7;
    pub const EXISTS: u16 = GENERIC | 64;
    pub const TYPE: u16 = GENERIC | 65;
    pub const TTL: u16 = GENERIC | 66;
    pub const OBJECT_ENCODING: u16 = GENERIC | 67;
    pub const OBJECT_REFCOUNT: u16 = GENERIC | 68;
    pub const MEMORY_USAGE: u16 = GENERIC | 69;
    pub const VERSION_OF: u16 = GENERIC | 70;

    pub const SET: u16 = STRINGS | 1;
    pub const APPEND: u16 = STRINGS | 2;
    pub const SET_RANGE: u16 = STRINGS | 3;
    pub const INCR_BY: u16 = STRINGS | 4;
    pub const INCR_BY_FLOAT: u16 = STRINGS | 5;
    pub const GET_DEL: u16 = STRINGS | 6;
    pub const GET_EX: u16 = STRINGS | 7;
    pub const M_SET: u16 = STRINGS | 8;
    pub const GET: u16 = STRINGS | 64;
    pub const STR_LEN: u16 = STRINGS | 65;
    pub const GET_RANGE: u16 = STRINGS | 66;
    pub const M_GET: u16 = STRINGS | 67;
    pub const LCS: u16 = STRINGS | 68;

    pub const FLUSH: u16 = KEYSPACE | 1;
    pub const KEYS: u16 = KEYSPACE | 64;
    pub const SCAN: u16 = KEYSPACE | 65;
    pub const RANDOM_KEY: u16 = KEYSPACE | 66;
    pub const DB_SIZE: u16 = KEYSPACE | 67;

    pub const MULTI: u16 = TRANSACTIONS | 1;
    pub const MARKED_MULTI: u16 = TRANSACTIONS | 2;

    /// The code of what version 1 names so.
    pub(super) const fn of_version_1(code: u8) -> Option<u16> {
        Some(match code {
            1 => SET,
            2 => APPEND,
            3 => SET_RANGE,
            4 => INCR_BY,
            5 => INCR_BY_FLOAT,
            6 => DEL,
            7 => GET_DEL,
            8 => GET_EX,
            9 => M_SET,
            10 => EXPIRE,
            11 => PERSIST,
            12 => RENAME,
            13 => COPY,
            14 => FLUSH,
            15 => MARKED_MULTI,
            16 => EXPIRE_IN,
            17 => WATCH,
            18 => MULTI,
            64 => GET,
            65 => STR_LEN,
            66 => GET_RANGE,
            67 => M_GET,
            68 => EXISTS,
            69 => TYPE,
            70 => TTL,
            71 => OBJECT_ENCODING,
            72 => OBJECT_REFCOUNT,
            73 => MEMORY_USAGE,
            74 => KEYS,
            75 => SCAN,
            76 => RANDOM_KEY,
            77 => DB_SIZE,
            78 => LCS,
            79 => VERSION_OF,
            _ => return None,
        })
    }
}

/// The code of an op, by its first bytes.
#[inline]
fn code_of(op: &[u8]) -> Option<u16> {
    match op {
        [VERSION_1, code, ..] => code::of_version_1(*code),
        [family, number, ..] => Some(u16::from_be_bytes([*family, *number])),
        [_] | [] => None,
    }
}

/// Whether an op's first bytes leave it open that the op is heavy.
#[inline]
pub(in crate::store) fn may_be_heavy(op: &[u8]) -> bool {
    use code::{KEYS, LCS, MARKED_MULTI, MULTI, SET_RANGE};
    matches!(code_of(op), Some(KEYS | LCS | SET_RANGE | MULTI | MARKED_MULTI))
}

/// The same of copying rows, or having them flushed again.
#[inline]
pub(in crate::store) fn may_renew_rows(op: &[u8]) -> bool {
    use code::*;
    let renews = |code| {
        matches!(
            code,
            APPEND | SET_RANGE | GET_EX | EXPIRE | EXPIRE_IN | PERSIST | RENAME | COPY | MULTI | MARKED_MULTI
        )
    };
    code_of(op).is_some_and(renews)
}

/// Takes fields from an op's bytes.
struct Reader<'a>(Fields<'a>);

const CUT_OFF: OpError = OpError("it ends too early");
const UNKNOWN: OpError = OpError("unknown operation");

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
            if matches!(code_of(op), Some(code::MULTI | code::MARKED_MULTI)) {
                return Err(OpError("a transaction inside a transaction"));
            }
            Op::decode(op)?;
        }
        Ok((guards, ops))
    }

    fn write_op(&mut self, code: u16) -> Result<Op<'a>, OpError> {
        Ok(match code {
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
            _ => return Err(UNKNOWN),
        })
    }

    fn read_op(&mut self, code: u16) -> Result<Op<'a>, OpError> {
        Ok(match code {
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
            _ => return Err(UNKNOWN),
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
        let [family, number] = reader.array()?;
        if family < FAMILIES && family != VERSION_1 {
            return Err(OpError("written in a layout that this version does not know"));
        }
        let code = code_of(&[family, number]).ok_or(UNKNOWN)?;
        let [_, number] = code.to_be_bytes();
        let op = if number < READS { reader.write_op(code)? } else { reader.read_op(code)? };
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
