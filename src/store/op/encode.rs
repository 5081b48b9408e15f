//! Writing an op's bytes: what `codec.rs` reads.
//!
//! Invariant: the code is that of the op's kind, so that none can be written as another.

use super::kind::Kind;
use super::{Condition, Expiry, List, Op, SetReply, SetWhen};

/// Appends fields to an op's bytes.
struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    fn kind(&mut self, kind: Kind) -> &mut Self {
        self.0.extend_from_slice(&kind.bytes());
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

    fn option(&mut self, string: Option<&[u8]>) -> &mut Self {
        self.flag(string.is_some());
        match string {
            Some(string) => self.string(string),
            None => self,
        }
    }

    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        when: SetWhen<'_>,
        expiry: Expiry,
        reply: SetReply,
    ) -> &mut Self {
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
        self.byte(when).byte(reply).expiry(expiry).string(key).string(value);
        match expected {
            Some(expected) => self.string(expected),
            None => self,
        }
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
        let to = &mut Writer(out);
        to.kind(self.kind());
        match self {
            Op::Set { key, value, when, expiry, reply } => to.set(key, value, *when, *expiry, *reply),
            Op::Append { key, value } => to.string(key).string(value),
            Op::SetRange { key, offset, value } => to.number(*offset).string(key).string(value),
            Op::IncrBy { key, delta } => to.signed(*delta).string(key),
            Op::IncrByFloat { key, delta } => to.string(key).string(delta),
            Op::GetEx { key, expiry } => to.expiry(*expiry).string(key),
            Op::MSet { pairs, only_if_none } => to.flag(*only_if_none).list(pairs),
            Op::Expire { key, at_ms: ms, condition } | Op::ExpireIn { key, in_ms: ms, condition } => {
                to.byte(condition_byte(*condition)).signed(*ms).string(key)
            }
            Op::Rename { from, to: target, only_if_none: flag }
            | Op::Copy { from, to: target, replace: flag } => to.flag(*flag).string(from).string(target),
            Op::Multi { guards, ops } | Op::MarkedMulti { guards, ops } => to.list(guards).list(ops),
            Op::GetRange { key, start, end } => to.signed(*start).signed(*end).string(key),
            Op::Ttl { key, absolute, seconds } => to.flag(*absolute).flag(*seconds).string(key),
            Op::Scan { cursor, count, pattern, kind } => {
                to.number(*cursor).number(*count).option(*pattern).option(*kind)
            }
            Op::RandomKey { seed } => to.number(*seed),
            Op::Lcs { a, b, len, idx, min_match_len, with_match_len } => {
                to.flag(*len).flag(*idx).flag(*with_match_len).number(*min_match_len).string(a).string(b)
            }
            Op::Keys { pattern } => to.string(pattern),
            Op::Del { keys } | Op::MGet { keys } | Op::Exists { keys } => to.list(keys),
            Op::GetDel { key }
            | Op::Persist { key }
            | Op::Watch { key }
            | Op::Get { key }
            | Op::StrLen { key }
            | Op::Type { key }
            | Op::ObjectEncoding { key }
            | Op::ObjectRefcount { key }
            | Op::MemoryUsage { key }
            | Op::Version { key } => to.string(key),
            Op::Flush | Op::DbSize => to,
        };
    }
}
