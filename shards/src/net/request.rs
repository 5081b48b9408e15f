//! What a node that serves a client sends to the node that leads the client's partition, and what comes back, as bytes.
//!
//! Invariant: what is written comes back equal from `decode`; all other bytes are a [`MessageDamage`], never a panic. What
//! an operation or an answer carries is a slice of the buffer that it came in.
//!
//! ```text
//! head         kind u8 | flags u8 | partition u64 | process of the asking node u64 | number u64
//!  1 request   flag 1: it changes the state; connection u64 | length u32 | operation
//!  2 answer    flag 2: more of it follows; length u32 | bytes
//!  3 not led   storage of the leader u64, 0: it is not known                              all little-endian
//! ```
//!
//! They have a lane of their own, from version 2 of the frames on.

use bytes::Bytes;
use corduroy_wal::fields::Fields;

use super::message::MessageDamage;
use super::parcel::Writable;
use crate::ids::{PartitionId, StorageId};
use crate::machine::Kind;

/// Bytes before the fields of a kind.
const HEAD_BYTES: usize = 1 + 1 + 3 * 8;
/// The bytes of the shortest.
pub const LEAST_BYTES: usize = HEAD_BYTES + 4;
/// Bytes of a request before its operation.
pub const REQUEST_BYTES: usize = HEAD_BYTES + 8 + 4;
/// Bytes of an answer before what it carries.
const ANSWER_BYTES: usize = HEAD_BYTES + 4;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const NOT_LED: u8 = 3;

/// The request changes the state.
const IS_WRITE: u8 = 1;
/// More of the answer follows.
const IS_PART: u8 = 2;

/// Names one request as its node has sent it: another number each time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// Drawn by the process that asks; an answer to another one is for nobody.
    pub process: u64,
    /// Its number there.
    pub number: u64,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forwarded {
    /// Carry this out, if you lead.
    Request {
        /// The request's.
        id: RequestId,
        /// For which partition.
        partition: PartitionId,
        /// The client's connection to the asking node: what it asks of a partition keeps its order.
        conn: u64,
        /// Logged or not.
        kind: Kind,
        /// The encoded operation.
        op: Bytes,
    },
    /// What came of it, or the next part of that.
    Answer {
        /// The request's.
        id: RequestId,
        /// For which partition.
        partition: PartitionId,
        /// Nothing follows.
        is_last: bool,
        /// The encoded reply, or its next part.
        bytes: Bytes,
    },
    /// It was certainly not done: the asked node does not lead.
    NotLed {
        /// The request's.
        id: RequestId,
        /// For which partition.
        partition: PartitionId,
        /// The storage of the replica that leads, as far as the asked one knows.
        leader: Option<StorageId>,
    },
}

impl Forwarded {
    /// The request that it is, or answers.
    #[must_use]
    pub const fn id(&self) -> RequestId {
        match self {
            Self::Request { id, .. } | Self::Answer { id, .. } | Self::NotLed { id, .. } => *id,
        }
    }

    /// The request's partition.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        match self {
            Self::Request { partition, .. }
            | Self::Answer { partition, .. }
            | Self::NotLed { partition, .. } => *partition,
        }
    }

    /// Whether it is a request, and no answer.
    #[must_use]
    pub const fn is_request(&self) -> bool {
        matches!(self, Self::Request { .. })
    }

    /// Whether nothing of an answer follows it.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Answer { is_last: true, .. } | Self::NotLed { .. })
    }

    fn payload(&self) -> &[u8] {
        match self {
            Self::Request { op, .. } => op,
            Self::Answer { bytes, .. } => bytes,
            Self::NotLed { .. } => &[],
        }
    }

    const fn code_and_flags(&self) -> [u8; 2] {
        match self {
            Self::Request { kind: Kind::Write, .. } => [REQUEST, IS_WRITE],
            // Another node is asked since it leads.
            Self::Request { kind: Kind::Read | Kind::ReadAnywhere, .. } => [REQUEST, 0],
            Self::Answer { is_last: true, .. } => [ANSWER, 0],
            Self::Answer { is_last: false, .. } => [ANSWER, IS_PART],
            Self::NotLed { .. } => [NOT_LED, 0],
        }
    }
}

impl Writable for Forwarded {
    fn bytes(&self) -> usize {
        let fixed = match self {
            Self::Request { .. } => REQUEST_BYTES,
            Self::Answer { .. } => ANSWER_BYTES,
            Self::NotLed { .. } => HEAD_BYTES + 8,
        };
        fixed + self.payload().len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(self.bytes());
        out.extend_from_slice(&self.code_and_flags());
        let RequestId { process, number } = self.id();
        let mut put = |field: u64| out.extend_from_slice(&field.to_le_bytes());
        [self.partition().0, process, number].into_iter().for_each(&mut put);
        match self {
            Self::Request { conn, .. } => put(*conn),
            Self::Answer { .. } => {}
            Self::NotLed { leader, .. } => return put(leader.unwrap_or_default().0),
        }
        let length = u32::try_from(self.payload().len()).expect("frames are far shorter than 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(self.payload());
        assert_eq!(out.len() - start, self.bytes(), "the bytes that were announced");
    }
}

/// Takes the next one off the fields of `frame`.
///
/// # Errors
/// [`MessageDamage`]: nothing that follows can be read either.
pub(super) fn decode(frame: &Bytes, fields: &mut Fields<'_>) -> Result<Forwarded, MessageDamage> {
    let [code, flags] = fields.array().ok_or(MessageDamage::Short)?;
    let number = |fields: &mut Fields<'_>| fields.u64().ok_or(MessageDamage::Short);
    let payload = |fields: &mut Fields<'_>| {
        let length = fields.u32().ok_or(MessageDamage::Short)?;
        let bytes = fields.take(length as usize).ok_or(MessageDamage::Short)?;
        Ok(frame.slice_ref(bytes))
    };
    let partition = PartitionId(number(fields)?);
    let id = RequestId { process: number(fields)?, number: number(fields)? };
    match (code, flags) {
        (REQUEST, 0 | IS_WRITE) => {
            let kind = if flags == IS_WRITE { Kind::Write } else { Kind::Read };
            let conn = number(fields)?;
            Ok(Forwarded::Request { id, partition, conn, kind, op: payload(fields)? })
        }
        (ANSWER, 0 | IS_PART) => {
            let is_last = flags == 0;
            Ok(Forwarded::Answer { id, partition, is_last, bytes: payload(fields)? })
        }
        (NOT_LED, 0) => {
            let leader = Some(StorageId(number(fields)?)).filter(|leader| *leader != StorageId::UNKNOWN);
            Ok(Forwarded::NotLed { id, partition, leader })
        }
        (REQUEST | ANSWER | NOT_LED, _) => Err(MessageDamage::ForwardedFlags { kind: code, found: flags }),
        _ => Err(MessageDamage::Kind { found: code }),
    }
}
