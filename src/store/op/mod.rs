//! What an entry means: the operations of the state machine and their outcomes. Their bytes: `codec`.

pub(in crate::store) mod codec;
mod encode;
pub(in crate::store) mod kind;
pub(in crate::store) mod names;
mod outcomes;
pub(in crate::store) mod shared;
pub(in crate::store) mod weight;

pub use self::kind::Kind;
use self::kind::traits;
pub use self::names::{IntoIter as NamesIter, Names};
pub use self::shared::SharedBytes;
pub use self::weight::{HEAVY_BYTES, HEAVY_ROOM_BYTES, may_wait};

/// Keys whose rows are fetched together: enough to keep the CPU's memory accesses busy, and far fewer rows than its nearest
/// cache holds.
pub const PREFETCH_KEYS: usize = 32;

/// Ops of one transaction that may look at more than the keys they name (KEYS, SCAN, RANDOMKEY): what they need from
/// below is held in memory until the transaction has run. Those beyond end in an error.
pub const MAX_WALKS: usize = 8;

/// When SET takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetWhen<'a> {
    /// Always.
    Always,
    /// Only if the key does not exist (NX).
    Absent,
    /// Only if the key exists (XX).
    Present,
    /// Only if its value equals this (IFEQ).
    Equals(&'a [u8]),
}

/// What becomes of a key's time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// None from now on.
    Clear,
    /// As it was (KEEPTTL; GETEX without options).
    Keep,
    /// At this time, ms since 1970. In the past: the key is deleted.
    At(u64),
    /// So many ms after the stamp of the entry that says so: that long, whatever the wall clock does.
    In(u64),
}

/// What SET answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetReply {
    /// `OK`, or nil where the condition did not hold (SET).
    Ok,
    /// 1 or 0 (SETNX).
    Done,
    /// The old value or nil, whether or not the condition held (SET GET, GETSET).
    Old,
}

/// The condition of the EXPIRE family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// None.
    Always,
    /// Only if it has no time to live.
    NoExpiry,
    /// Only if it has one.
    HasExpiry,
    /// Only if the new one is later (no time to live counts as infinity).
    Later,
    /// Only if the new one is sooner (likewise).
    Sooner,
    /// XX and GT together: has one, and the new one is later.
    HasAndLater,
    /// XX and LT together.
    HasAndSooner,
}

/// A list of byte strings, borrowed: argument lists, or the encoded form of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List<'a> {
    /// As a client's arguments.
    Args(&'a [&'a [u8]]),
    /// As encoded in an op: count (u32), then each with its length (u32) before it; checked at decoding.
    Encoded(&'a [u8]),
}

impl<'a> List<'a> {
    /// The number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            List::Args(args) => args.len(),
            List::Encoded(bytes) => codec::list_count(bytes),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items in order.
    #[must_use]
    pub fn iter(&self) -> codec::ListIter<'a> {
        codec::ListIter::new(*self)
    }
}

impl<'a> IntoIterator for List<'a> {
    type Item = &'a [u8];
    type IntoIter = codec::ListIter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        codec::ListIter::new(self)
    }
}

/// One operation of the state machine on one partition's default keyspace. Writes first, then reads.
///
/// Replies are Redis's own for the command named. A missing key, an expired one (judged by the entry's stamp in
/// apply, by the leader's clock in reads), errors of type and range: as in Redis 7.2.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs, reason = "fields are the commands' own arguments")]
pub enum Op<'a> {
    /// SET, SETNX, SETEX, PSETEX, GETSET.
    Set { key: &'a [u8], value: &'a [u8], when: SetWhen<'a>, expiry: Expiry, reply: SetReply },
    /// APPEND.
    Append { key: &'a [u8], value: &'a [u8] },
    /// SETRANGE.
    SetRange { key: &'a [u8], offset: u64, value: &'a [u8] },
    /// INCR, DECR, INCRBY, DECRBY.
    IncrBy { key: &'a [u8], delta: i64 },
    /// INCRBYFLOAT; `delta` is the argument's text, checked to be a finite number.
    IncrByFloat { key: &'a [u8], delta: &'a [u8] },
    /// DEL, UNLINK: the number removed.
    Del { keys: List<'a> },
    /// GETDEL.
    GetDel { key: &'a [u8] },
    /// GETEX with an option that changes the time to live (without one it is a Get).
    GetEx { key: &'a [u8], expiry: Expiry },
    /// MSET (`only_if_none` false: OK), MSETNX (true: 1 or 0). `pairs` alternates key, value.
    MSet { pairs: List<'a>, only_if_none: bool },
    /// EXPIREAT, PEXPIREAT: 1 or 0.
    Expire { key: &'a [u8], at_ms: i64, condition: Condition },
    /// EXPIRE, PEXPIRE: so many ms after the entry's stamp; 1 or 0.
    ExpireIn { key: &'a [u8], in_ms: i64, condition: Condition },
    /// PERSIST: 1 or 0.
    Persist { key: &'a [u8] },
    /// RENAME (OK) and RENAMENX (1 or 0).
    Rename { from: &'a [u8], to: &'a [u8], only_if_none: bool },
    /// COPY: 1 or 0.
    Copy { from: &'a [u8], to: &'a [u8], replace: bool },
    /// FLUSHDB, FLUSHALL: OK. Takes O(1).
    Flush,
    /// WATCH of a key that is absent: as Version; if the key still is, it is registered, and answers the same number until
    /// it has changed.
    Watch { key: &'a [u8] },
    /// EXEC: `ops` is a list of encoded ops (reads too, never Multi), run as one. `guards` is a list of key, version
    /// (8 bytes LE, as answered by Version and Watch); if any differs, nothing runs and the outcome is NullArray.
    Multi { guards: List<'a>, ops: List<'a> },
    /// EXEC as logged before absent keys were registered: guards hold what Version answered then.
    MarkedMulti { guards: List<'a>, ops: List<'a> },

    /// GET.
    Get { key: &'a [u8] },
    /// STRLEN.
    StrLen { key: &'a [u8] },
    /// GETRANGE, SUBSTR.
    GetRange { key: &'a [u8], start: i64, end: i64 },
    /// MGET: Array.
    MGet { keys: List<'a> },
    /// EXISTS, TOUCH: the number that exist, repeated ones repeatedly.
    Exists { keys: List<'a> },
    /// TYPE: Simple("string") or Simple("none").
    Type { key: &'a [u8] },
    /// TTL family: -2 no key, -1 no time to live. `absolute`: EXPIRETIME family. `seconds`: rounded as Redis does.
    Ttl { key: &'a [u8], absolute: bool, seconds: bool },
    /// OBJECT ENCODING: Bulk("int" | "embstr" | "raw"), or Nil... as Redis answers.
    ObjectEncoding { key: &'a [u8] },
    /// OBJECT REFCOUNT: Int(1) or Nil.
    ObjectRefcount { key: &'a [u8] },
    /// MEMORY USAGE: bytes or Nil.
    MemoryUsage { key: &'a [u8] },
    /// KEYS: Array.
    Keys { pattern: &'a [u8] },
    /// SCAN: outcome Scan { cursor, keys }. Cursor 0 starts and ends. Guarantee: a key that is there from start to end is
    /// returned at least once. `kind` is TYPE's argument (anything but "string" matches nothing).
    Scan { cursor: u64, count: u64, pattern: Option<&'a [u8]>, kind: Option<&'a [u8]> },
    /// RANDOMKEY: Bulk or Nil; `seed` picks.
    RandomKey { seed: u64 },
    /// DBSIZE: Int, expired keys that are still stored included, as in Redis.
    DbSize,
    /// LCS: `len` only the length; `idx` the matches with `min_match_len` and `with_match_len`.
    Lcs { a: &'a [u8], b: &'a [u8], len: bool, idx: bool, min_match_len: u64, with_match_len: bool },
    /// For WATCH: Int with a number that changes with every change of the key, expiry counted as one; 0 for a key that is
    /// absent and not registered: ask Watch.
    Version { key: &'a [u8] },
}

/// What an op answers. Turned into RESP by `resp::reply`.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// `+OK`.
    Ok,
    /// Nil.
    Nil,
    /// Nil where an array is expected (EXEC aborted by WATCH).
    NullArray,
    /// An integer.
    Int(i64),
    /// A byte string.
    Bulk(Vec<u8>),
    /// A byte string that its row holds too: a large value.
    Shared(SharedBytes),
    /// A simple string.
    Simple(&'static str),
    /// A list.
    Array(Vec<Outcome>),
    /// A list of many keys.
    Names(Names),
    /// A list of (name, value), a map in RESP3.
    Map(Vec<(Outcome, Outcome)>),
    /// A page of SCAN.
    Scan {
        /// Where to go on; 0: done.
        cursor: u64,
        /// The page.
        keys: Vec<Vec<u8>>,
    },
    /// An error reply.
    Error(ErrorKind),
}

impl Outcome {
    /// A length.
    pub(in crate::store) fn length(bytes: usize) -> Self {
        Self::Int(i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// What it takes in memory, roughly.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        let heap_bytes = match self {
            Outcome::Bulk(bytes) => bytes.len(),
            Outcome::Shared(bytes) => bytes.len(),
            Outcome::Array(items) => items.iter().map(Outcome::cost_bytes).sum(),
            Outcome::Names(names) => names.held_bytes(),
            Outcome::Map(pairs) => {
                pairs.iter().map(|(name, value)| name.cost_bytes() + value.cost_bytes()).sum()
            }
            Outcome::Scan { keys, .. } => keys.iter().map(|key| size_of::<Vec<u8>>() + key.len()).sum(),
            Outcome::Ok
            | Outcome::Nil
            | Outcome::NullArray
            | Outcome::Int(_)
            | Outcome::Simple(_)
            | Outcome::Error(_) => 0,
        };
        size_of::<Outcome>() + heap_bytes
    }

    /// Of that, what had to be copied for it: all but shares of large values, and lists that are given away whole.
    #[must_use]
    pub fn copied_bytes(&self) -> usize {
        match self {
            Outcome::Shared(_) | Outcome::Names(_) => size_of::<Outcome>(),
            Outcome::Array(items) => {
                size_of::<Outcome>() + items.iter().map(Outcome::copied_bytes).sum::<usize>()
            }
            Outcome::Map(pairs) => {
                let copied = pairs.iter().map(|(name, value)| name.copied_bytes() + value.copied_bytes());
                size_of::<Outcome>() + copied.sum::<usize>()
            }
            Outcome::Ok
            | Outcome::Nil
            | Outcome::NullArray
            | Outcome::Int(_)
            | Outcome::Bulk(_)
            | Outcome::Simple(_)
            | Outcome::Scan { .. }
            | Outcome::Error(_) => self.cost_bytes(),
        }
    }
}

/// Errors that an op can end in; `resp::reply` gives Redis's text for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// `ERR value is not an integer or out of range`.
    NotInteger,
    /// `ERR increment or decrement would overflow`.
    IncrOverflow,
    /// `ERR value is not a valid float`.
    NotFloat,
    /// `ERR increment would produce NaN or Infinity`.
    NanOrInfinity,
    /// The value would be longer than a value may be.
    StringTooLong,
    /// The values of LCS are too long together: its table would be too large.
    SubsequenceTooLong,
    /// The key is longer than a key may be.
    KeyTooLong,
    /// `ERR no such key`.
    NoSuchKey,
    /// The op's bytes could not be read: written by a newer version, or damaged.
    BadOp,
    /// KEYS or the like would return more than the limit.
    TooManyKeys,
    /// The answer would be larger than the limit. A write was carried out all the same.
    ReplyTooLarge,
    /// KEYS or SCAN with a pattern that takes too long to match.
    PatternTooCostly,
    /// An operation of a transaction would add more to values than one transaction may. It was not carried out.
    TransactionTooLarge,
    /// Too many KEYS, SCAN and RANDOMKEY in one transaction.
    TooManyWalks,
}

/// Why an op's bytes could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("operation cannot be decoded: {0}")]
pub struct OpError(pub &'static str);

impl Op<'_> {
    /// Whether it goes through the log.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        self.kind().is_write()
    }

    /// Whether nothing in it changes the state: a transaction is as its operations are.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        match self {
            Op::Multi { ops, .. } => ops.iter().all(|op| Op::decode(op).is_ok_and(|op| !op.is_write())),
            other => !other.is_write(),
        }
    }

    /// Whether it looks at more than the keys it names, and brings some of them.
    #[must_use]
    pub const fn is_walk(&self) -> bool {
        self.kind().has(traits::WALKS)
    }

    /// Whether it writes, and then only ever frees space: DEL, GETDEL, FLUSH, and transactions of nothing but these and reads.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        if let Op::Multi { ops, .. } | Op::MarkedMulti { ops, .. } = self {
            return ops.iter().all(|op| Op::decode(op).is_ok_and(|op| !op.is_write() || op.frees_space()));
        }
        self.kind().has(traits::FREES)
    }
}
