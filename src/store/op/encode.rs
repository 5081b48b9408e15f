//! Writing an op's bytes: what `codec.rs` reads.
//!
//! Invariant: every op has a line of its own here, so that a new one cannot be written as another.

use super::codec::code;
use crate::store::op::{Condition, Expiry, List, Op, SetReply, SetWhen, reads, single_writes};

/// Appends fields to an op's bytes.
struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    fn code(&mut self, code: u16) -> &mut Self {
        self.0.extend_from_slice(&code.to_be_bytes());
        self
    }

    fn flag(&mut self, flag: bool) -> &mut Self {
        self.byte(u8::from(flag))
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn signed(&mut self, number: i64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn count(&mut self, count: usize) -> &mut Self {
        let count = u32::try_from(count).expect("requests are limited to far less than 4 GiB");
        self.0.extend_from_slice(&count.to_le_bytes());
        self
    }

    fn string(&mut self, string: &[u8]) -> &mut Self {
        self.count(string.len());
        self.0.extend_from_slice(string);
        self
    }

    fn list(&mut self, list: &List<'_>) -> &mut Self {
        match list {
            List::Encoded(bytes) => self.0.extend_from_slice(bytes),
            List::Args(args) => {
                self.count(args.len());
                for arg in *args {
                    self.string(arg);
                }
            }
        }
        self
    }

    fn expiry(&mut self, expiry: Expiry) -> &mut Self {
        match expiry {
            Expiry::Clear => self.byte(0),
            Expiry::Keep => self.byte(1),
            Expiry::At(at_ms) => self.byte(2).number(at_ms),
            Expiry::In(in_ms) => self.byte(3).number(in_ms),
        }
    }
}

/// The condition's byte.
fn condition_byte(condition: Condition) -> u8 {
    match condition {
        Condition::Always => 0,
        Condition::NoExpiry => 1,
        Condition::HasExpiry => 2,
        Condition::Later => 3,
        Condition::Sooner => 4,
        Condition::HasAndLater => 5,
        Condition::HasAndSooner => 6,
    }
}

impl Op<'_> {
    /// Appends the op's bytes. Reads use the same encoding as writes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_write(&mut Writer(out));
    }

    fn encode_write(&self, to: &mut Writer<'_>) {
        match self {
            Op::Set { key, value, when, expiry, reply } => {
                let (when, expected) = match when {
                    SetWhen::Always => (0, None),
                    SetWhen::Absent => (1, None),
                    SetWhen::Present => (2, None),
                    SetWhen::Equals(expected) => (3, Some(expected)),
                };
                let reply = match reply {
                    SetReply::Ok => 0,
                    SetReply::Done => 1,
                    SetReply::Old => 2,
                };
                to.code(code::SET).byte(when).byte(reply).expiry(*expiry).string(key).string(value);
                if let Some(expected) = expected {
                    to.string(expected);
                }
            }
            Op::Append { key, value } => _ = to.code(code::APPEND).string(key).string(value),
            Op::SetRange { key, offset, value } => {
                to.code(code::SET_RANGE).number(*offset).string(key).string(value);
            }
            Op::IncrBy { key, delta } => _ = to.code(code::INCR_BY).signed(*delta).string(key),
            Op::IncrByFloat { key, delta } => {
                to.code(code::INCR_BY_FLOAT).string(key).string(delta);
            }
            Op::Del { keys } => _ = to.code(code::DEL).list(keys),
            Op::GetDel { key } => _ = to.code(code::GET_DEL).string(key),
            Op::GetEx { key, expiry } => _ = to.code(code::GET_EX).expiry(*expiry).string(key),
            Op::MSet { pairs, only_if_none } => {
                to.code(code::M_SET).flag(*only_if_none).list(pairs);
            }
            Op::Expire { key, at_ms, condition } => {
                to.code(code::EXPIRE).byte(condition_byte(*condition)).signed(*at_ms).string(key);
            }
            Op::ExpireIn { key, in_ms, condition } => {
                to.code(code::EXPIRE_IN).byte(condition_byte(*condition)).signed(*in_ms).string(key);
            }
            Op::Persist { key } => _ = to.code(code::PERSIST).string(key),
            Op::Rename { from, to: target, only_if_none } => {
                to.code(code::RENAME).flag(*only_if_none).string(from).string(target);
            }
            Op::Copy { from, to: target, replace } => {
                to.code(code::COPY).flag(*replace).string(from).string(target);
            }
            Op::Watch { key } => _ = to.code(code::WATCH).string(key),
            Op::Multi { guards, ops } => _ = to.code(code::MULTI).list(guards).list(ops),
            Op::MarkedMulti { guards, ops } => _ = to.code(code::MARKED_MULTI).list(guards).list(ops),
            Op::Flush => _ = to.code(code::FLUSH),
            reads!() => self.encode_read(to),
        }
    }

    fn encode_read(&self, to: &mut Writer<'_>) {
        match self {
            Op::Get { key } => _ = to.code(code::GET).string(key),
            Op::StrLen { key } => _ = to.code(code::STR_LEN).string(key),
            Op::GetRange { key, start, end } => {
                to.code(code::GET_RANGE).signed(*start).signed(*end).string(key);
            }
            Op::MGet { keys } => _ = to.code(code::M_GET).list(keys),
            Op::Exists { keys } => _ = to.code(code::EXISTS).list(keys),
            Op::Type { key } => _ = to.code(code::TYPE).string(key),
            Op::Ttl { key, absolute, seconds } => {
                to.code(code::TTL).flag(*absolute).flag(*seconds).string(key);
            }
            Op::ObjectEncoding { key } => _ = to.code(code::OBJECT_ENCODING).string(key),
            Op::ObjectRefcount { key } => _ = to.code(code::OBJECT_REFCOUNT).string(key),
            Op::MemoryUsage { key } => _ = to.code(code::MEMORY_USAGE).string(key),
            Op::Keys { pattern } => _ = to.code(code::KEYS).string(pattern),
            Op::Scan { cursor, count, pattern, kind } => {
                to.code(code::SCAN).number(*cursor).number(*count);
                for text in [pattern, kind] {
                    to.flag(text.is_some());
                    if let Some(text) = text {
                        to.string(text);
                    }
                }
            }
            Op::RandomKey { seed } => _ = to.code(code::RANDOM_KEY).number(*seed),
            Op::Lcs { a, b, len, idx, min_match_len, with_match_len } => {
                to.code(code::LCS).flag(*len).flag(*idx).flag(*with_match_len).number(*min_match_len);
                to.string(a).string(b);
            }
            Op::Version { key } => _ = to.code(code::VERSION_OF).string(key),
            Op::DbSize => _ = to.code(code::DB_SIZE),
            single_writes!() | Op::Multi { .. } | Op::MarkedMulti { .. } => {
                unreachable!("writes are encoded before reads come here")
            }
        }
    }
}
