//! The bytes of an outcome, on its way to another node.
//!
//! Invariant: `decode` accepts exactly what `encode` wrote, checks every length before use, and never panics. What is sent as
//! a share of a value, or as a long list, comes back equal as clients see it.
//!
//! ```text
//! outcome   0 OK | 1 nil | 2 nil array | 3 number i64 | 4 string | 5 word u8 | 6 count u32, outcomes | 7 count u32, strings: a
//!           long list of keys | 8 count u32, pairs of outcomes | 9 cursor u64, count u32, strings: a page | 10 error u8
//! string    length u32, bytes                                                                  all little-endian
//! ```

use std::collections::BTreeMap;

use corduroy_wal::fields::Fields;

use super::{ErrorKind, Names, OpError, Outcome};

/// Outcomes in each other: EXEC's list of lists, and room.
const DEPTH_MAX: usize = 8;
/// Bytes of the shortest outcome, and of the shortest string.
const LEAST_OUTCOME_BYTES: usize = 1;
const LEAST_STRING_BYTES: usize = 4;
const CUT_OFF: OpError = OpError("it ends too early");

/// The words that outcomes are, by their codes.
const WORDS: [&str; 2] = ["string", "none"];
/// The errors, by their codes.
const ERRORS: [ErrorKind; 14] = [
    ErrorKind::NotInteger,
    ErrorKind::IncrOverflow,
    ErrorKind::NotFloat,
    ErrorKind::NanOrInfinity,
    ErrorKind::StringTooLong,
    ErrorKind::SubsequenceTooLong,
    ErrorKind::KeyTooLong,
    ErrorKind::NoSuchKey,
    ErrorKind::BadOp,
    ErrorKind::TooManyKeys,
    ErrorKind::ReplyTooLarge,
    ErrorKind::PatternTooCostly,
    ErrorKind::TransactionTooLarge,
    ErrorKind::TooManyWalks,
];

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("answers are far shorter than 4 GiB");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn code_of<T: PartialEq>(all: &[T], one: &T) -> u8 {
    let at = all.iter().position(|other| other == one).expect("each of them has a code");
    u8::try_from(at).expect("there are few")
}

impl Outcome {
    /// Adds its bytes.
    ///
    /// # Panics
    /// If it holds a word that has no code: a test looks at all of them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok => out.push(0),
            Self::Nil => out.push(1),
            Self::NullArray => out.push(2),
            Self::Int(number) => {
                out.push(3);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Bulk(bytes) => {
                out.push(4);
                put_string(out, bytes);
            }
            Self::Shared(bytes) => {
                out.push(4);
                put_string(out, bytes.as_slice());
            }
            Self::Simple(word) => out.extend_from_slice(&[5, code_of(&WORDS, word)]),
            Self::Array(items) => {
                out.push(6);
                put_count(out, items.len());
                items.iter().for_each(|item| item.encode(out));
            }
            Self::Names(names) => {
                out.push(7);
                put_count(out, names.iter().count());
                names.iter().for_each(|name| put_string(out, name));
            }
            Self::Map(pairs) => {
                out.push(8);
                put_count(out, pairs.len());
                for (name, value) in pairs {
                    name.encode(out);
                    value.encode(out);
                }
            }
            Self::Scan { cursor, keys } => {
                out.push(9);
                out.extend_from_slice(&cursor.to_le_bytes());
                put_count(out, keys.len());
                keys.iter().for_each(|key| put_string(out, key));
            }
            Self::Error(kind) => out.extend_from_slice(&[10, code_of(&ERRORS, kind)]),
        }
    }

    /// Takes one off the front.
    ///
    /// # Errors
    /// [`OpError`]: the bytes are of none.
    pub fn decode(fields: &mut Fields<'_>) -> Result<Self, OpError> {
        decode(fields, DEPTH_MAX)
    }
}

/// A count of things that have so many bytes each at least.
fn count(fields: &mut Fields<'_>, least_bytes: usize) -> Result<usize, OpError> {
    let count = fields.u32().ok_or(CUT_OFF)? as usize;
    if count > fields.rest.len() / least_bytes {
        return Err(CUT_OFF);
    }
    Ok(count)
}

fn string(fields: &mut Fields<'_>) -> Result<Vec<u8>, OpError> {
    let length = fields.u32().ok_or(CUT_OFF)?;
    fields.take(length as usize).map(<[u8]>::to_vec).ok_or(CUT_OFF)
}

fn strings(fields: &mut Fields<'_>) -> Result<Vec<Vec<u8>>, OpError> {
    (0..count(fields, LEAST_STRING_BYTES)?).map(|_| string(fields)).collect()
}

/// A long list of keys, in the order in which they were sent.
fn names(keys: Vec<Vec<u8>>) -> Names {
    let held_bytes = |key: &Vec<u8>| key.len() + size_of::<((u64, Vec<u8>), u64)>();
    let bytes = keys.iter().map(held_bytes).sum();
    let found: BTreeMap<(u64, Vec<u8>), u64> =
        (0..).zip(keys).map(|(at, key)| ((at, key), u64::MAX)).collect();
    Names::new(found, 0, bytes)
}

fn decode(fields: &mut Fields<'_>, depth: usize) -> Result<Outcome, OpError> {
    let inner = depth.checked_sub(1).ok_or(OpError("outcomes lie too deep in each other"))?;
    Ok(match fields.byte().ok_or(CUT_OFF)? {
        0 => Outcome::Ok,
        1 => Outcome::Nil,
        2 => Outcome::NullArray,
        3 => Outcome::Int(i64::from_le_bytes(fields.array().ok_or(CUT_OFF)?)),
        4 => Outcome::Bulk(string(fields)?),
        5 => {
            let word = WORDS.get(usize::from(fields.byte().ok_or(CUT_OFF)?));
            Outcome::Simple(word.ok_or(OpError("unknown word"))?)
        }
        6 => {
            let count = count(fields, LEAST_OUTCOME_BYTES)?;
            Outcome::Array((0..count).map(|_| decode(fields, inner)).collect::<Result<_, _>>()?)
        }
        7 => Outcome::Names(names(strings(fields)?)),
        8 => {
            let pair = |fields: &mut Fields<'_>| Ok((decode(fields, inner)?, decode(fields, inner)?));
            let count = count(fields, 2 * LEAST_OUTCOME_BYTES)?;
            Outcome::Map((0..count).map(|_| pair(fields)).collect::<Result<_, _>>()?)
        }
        9 => {
            let cursor = fields.u64().ok_or(CUT_OFF)?;
            Outcome::Scan { cursor, keys: strings(fields)? }
        }
        10 => {
            let kind = ERRORS.get(usize::from(fields.byte().ok_or(CUT_OFF)?));
            Outcome::Error(*kind.ok_or(OpError("unknown error"))?)
        }
        _ => return Err(OpError("unknown kind of outcome")),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::SharedBytes;

    fn bytes_of(outcome: &Outcome) -> Vec<u8> {
        let mut bytes = Vec::new();
        outcome.encode(&mut bytes);
        bytes
    }

    fn back(bytes: &[u8]) -> Result<Outcome, OpError> {
        let mut fields = Fields::new(bytes);
        let outcome = Outcome::decode(&mut fields)?;
        if fields.is_empty() { Ok(outcome) } else { Err(OpError("something follows")) }
    }

    /// One of each kind.
    fn samples() -> Vec<Outcome> {
        let mut samples = vec![
            Outcome::Ok,
            Outcome::Nil,
            Outcome::NullArray,
            Outcome::Int(-7),
            Outcome::Bulk(b"value".to_vec()),
            Outcome::Array(vec![Outcome::Array(vec![Outcome::Ok, Outcome::Nil]), Outcome::Int(1)]),
            Outcome::Names(names(vec![b"b".to_vec(), b"a".to_vec(), Vec::new()])),
            Outcome::Map(vec![(Outcome::Bulk(b"k".to_vec()), Outcome::Int(i64::MAX))]),
            Outcome::Scan { cursor: 0x0102_0304, keys: vec![b"key".to_vec(), b"2".to_vec()] },
        ];
        samples.extend(WORDS.map(Outcome::Simple));
        samples.extend(ERRORS.map(Outcome::Error));
        samples
    }

    #[test]
    fn each_comes_back_equal() {
        for outcome in samples() {
            assert_eq!(back(&bytes_of(&outcome)), Ok(outcome));
        }
        let shared = Outcome::Shared(SharedBytes::new(Arc::new(b"a value".to_vec()), 2..7));
        assert_eq!(back(&bytes_of(&shared)), Ok(Outcome::Bulk(b"value".to_vec())));
    }

    #[test]
    fn bytes_are_those_of_version_1() {
        let all: Vec<u8> = samples().iter().flat_map(bytes_of).collect();
        let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("outcomes-1.hex").replace('\n', ""));
    }

    #[test]
    fn other_bytes_are_an_error_and_never_a_panic() {
        for outcome in samples() {
            let bytes = bytes_of(&outcome);
            for end in 0..bytes.len() {
                assert!(back(&bytes[..end]).is_err(), "{outcome:?} cut at {end}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                if let Ok(other) = back(&bytes) {
                    assert_eq!(bytes_of(&other), bytes, "one form each");
                }
            }
        }
        let mut deep = Outcome::Ok;
        for _ in 0..DEPTH_MAX {
            deep = Outcome::Array(vec![deep]);
        }
        assert!(back(&bytes_of(&deep)).is_err());
        assert!(back(&[6, 255, 255, 255, 255]).is_err() && back(&[11]).is_err());
    }
}
