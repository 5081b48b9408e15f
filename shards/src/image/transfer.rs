//! What two replicas send each other about an image: the one that has it, and the one that is to get it.
//!
//! Invariant: each has one form as bytes; all other bytes are none, and never a panic.
//!
//! ```text
//! process           node u64 | incarnation u64 | starts u64
//! image             the process that made it | number u64
//! to the receiver   image | 1 offer: LSN u64 | its term u64 | version of its format u8 | bytes u64
//!                         | 2 chunk: the bytes of a chunk, to the end
//!                         | 3 withdrawn
//!                         | 4 asks: question
//! to the sender     image | the receiver's process | 1 wants: number of a chunk u32
//!                                                  | 2 ended: how u8
//!                                                  | 3 has: number of a chunk u32 | question
//! question          round u32 | number of a chunk u32
//!                                                                                                 all little-endian
//! ```

use bytes::Bytes;
use corduroy_wal::fields::Fields;
use corduroy_wal::{Lsn, Term};

use super::CHUNK_BYTES_MAX;
use crate::ids::NodeId;

/// A process of a node. Its incarnation alone does not name it: that stays over restarts, and two nodes may have
/// the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Process {
    /// The node.
    pub node: NodeId,
    /// The node's incarnation.
    pub incarnation: u64,
    /// How often the node has started in it.
    pub starts: u64,
}

/// Names an image for as long as there is any message about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ImageId {
    /// What made it.
    pub process: Process,
    /// Never used again by that process.
    pub number: u64,
}

/// What a receiver has to know of an image before it takes any of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The last entry that it includes.
    pub lsn: Lsn,
    /// Its term.
    pub term: Term,
    /// The version of its format.
    pub version: u8,
    /// About how many bytes its chunks have together; 0: the sender does not know.
    pub bytes: u64,
}

/// What the sender of an image sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToReceiver {
    /// The image.
    pub image: ImageId,
    /// What of it.
    pub part: Part,
}

/// See [`ToReceiver`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// There is one.
    Offer(Offer),
    /// A chunk of it.
    Chunk(Bytes),
    /// There is no more of it.
    Withdrawn,
    /// Which chunks are stored?
    Asks(Question),
}

/// A question that goes behind all chunks before one: when the answer comes, those that are not stored are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// How often the sender has sent chunks again before.
    pub round: u32,
    /// The first chunk that was not sent before it.
    pub before: u32,
}

/// What the receiver of an image answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToSender {
    /// The image.
    pub image: ImageId,
    /// What answers: what an earlier process of its node has taken in is lost.
    pub receiver: Process,
    /// What of it.
    pub answer: Answer,
}

/// See [`ToSender`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It has all chunks before this one, and wants this one and those behind it.
    Wants {
        /// The number of the chunk.
        chunk: u32,
    },
    /// It is through with it.
    Ended(Ended),
    /// It had stored all chunks before this one, and was storing none, when the question came or later.
    Has {
        /// The number of the chunk.
        chunk: u32,
        /// The question.
        question: Question,
    },
}

/// How a receiver ended with an image. The codes are part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ended {
    /// It was taken over.
    Installed = 1,
    /// The replica has all that it includes.
    NotNeeded = 2,
    /// It does not include the entry that added the replica.
    TooOld = 3,
    /// Its chunks are no image of the partition.
    Damaged = 4,
    /// The receiver has none of its chunks, or has dropped them.
    Unknown = 5,
    /// Another image is being taken over.
    Busy = 6,
    /// It could not be stored.
    Failed = 7,
    /// Its format is of a later release than the receiver.
    TooNew = 8,
    /// The receiver's disk has no room for it.
    NoRoom = 9,
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Installed,
        Self::NotNeeded,
        Self::TooOld,
        Self::Damaged,
        Self::Unknown,
        Self::Busy,
        Self::Failed,
        Self::TooNew,
        Self::NoRoom,
    ];
}

const OFFER: u8 = 1;
const CHUNK: u8 = 2;
const WITHDRAWN: u8 = 3;
const ASKS: u8 = 4;
const WANTS: u8 = 1;
const ENDED: u8 = 2;
const HAS: u8 = 3;

/// The longest of them, as bytes.
pub const TRANSFER_BYTES_MAX: usize = IMAGE_BYTES + 1 + CHUNK_BYTES_MAX;
const PROCESS_BYTES: usize = 3 * 8;
const IMAGE_BYTES: usize = PROCESS_BYTES + 8;

impl Process {
    fn encode(self, out: &mut Vec<u8>) {
        let Self { node, incarnation, starts } = self;
        out.extend_from_slice([node.0, incarnation, starts].map(u64::to_le_bytes).as_flattened());
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { node: NodeId(fields.u64()?), incarnation: fields.u64()?, starts: fields.u64()? })
    }
}

impl ImageId {
    fn encode(self, out: &mut Vec<u8>) {
        self.process.encode(out);
        out.extend_from_slice(&self.number.to_le_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { process: Process::decode(fields)?, number: fields.u64()? })
    }
}

impl Offer {
    fn encode(self, out: &mut Vec<u8>) {
        let Self { lsn, term, version, bytes } = self;
        out.extend_from_slice([lsn.0, term.0].map(u64::to_le_bytes).as_flattened());
        out.push(version);
        out.extend_from_slice(&bytes.to_le_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (lsn, term) = (Lsn(fields.u64()?), Term(fields.u64()?));
        Some(Self { lsn, term, version: fields.byte()?, bytes: fields.u64()? })
    }
}

impl Question {
    fn encode(self, out: &mut Vec<u8>) {
        let Self { round, before } = self;
        out.extend_from_slice([round, before].map(u32::to_le_bytes).as_flattened());
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { round: fields.u32()?, before: fields.u32()? })
    }
}

impl ToReceiver {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(IMAGE_BYTES + 1 + 3 * 8 + 1);
        self.image.encode(&mut out);
        match &self.part {
            Part::Offer(offer) => {
                out.push(OFFER);
                offer.encode(&mut out);
            }
            Part::Chunk(chunk) => {
                out.push(CHUNK);
                out.extend_from_slice(chunk);
            }
            Part::Withdrawn => out.push(WITHDRAWN),
            Part::Asks(question) => {
                out.push(ASKS);
                question.encode(&mut out);
            }
        }
        out.into()
    }

    /// Reads [`ToReceiver::encode`]'s bytes; a chunk is a slice of them, and was not looked at.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let image = ImageId::decode(&mut fields)?;
        let part = match fields.byte()? {
            OFFER => Part::Offer(Offer::decode(&mut fields)?),
            CHUNK => {
                let chunk = std::mem::take(&mut fields.rest);
                (chunk.len() <= CHUNK_BYTES_MAX).then(|| Part::Chunk(bytes.slice_ref(chunk)))?
            }
            WITHDRAWN => Part::Withdrawn,
            ASKS => Part::Asks(Question::decode(&mut fields)?),
            _ => return None,
        };
        fields.is_empty().then_some(Self { image, part })
    }
}

impl ToSender {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(IMAGE_BYTES + PROCESS_BYTES + 1 + 3 * 4);
        self.image.encode(&mut out);
        self.receiver.encode(&mut out);
        match self.answer {
            Answer::Wants { chunk } => {
                out.push(WANTS);
                out.extend_from_slice(&chunk.to_le_bytes());
            }
            Answer::Ended(ended) => out.extend_from_slice(&[ENDED, ended as u8]),
            Answer::Has { chunk, question } => {
                out.push(HAS);
                out.extend_from_slice(&chunk.to_le_bytes());
                question.encode(&mut out);
            }
        }
        out.into()
    }

    /// Reads [`ToSender::encode`]'s bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let (image, receiver) = (ImageId::decode(&mut fields)?, Process::decode(&mut fields)?);
        let answer = match fields.byte()? {
            WANTS => Answer::Wants { chunk: fields.u32()? },
            ENDED => {
                let code = fields.byte()?;
                Answer::Ended(Ended::ALL.into_iter().find(|ended| *ended as u8 == code)?)
            }
            HAS => Answer::Has { chunk: fields.u32()?, question: Question::decode(&mut fields)? },
            _ => return None,
        };
        fields.is_empty().then_some(Self { image, receiver, answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(node: u64) -> Process {
        Process { node: NodeId(node), incarnation: 0x0102, starts: 6 }
    }

    /// Bytes that were written out by hand from the drawing.
    #[test]
    fn these_are_their_bytes() {
        let image = ImageId { process: process(8), number: 3 };
        let long = |byte: u8| [byte, 0, 0, 0, 0, 0, 0, 0];
        let starts = [[2, 1, 0, 0, 0, 0, 0, 0], long(6)].concat();
        let id = [&long(8)[..], &starts, &long(3)].concat();
        let parts = [
            (
                Part::Offer(Offer { lsn: Lsn(9), term: Term(5), version: 1, bytes: 7 }),
                [&[1][..], &long(9), &long(5), &[1], &long(7)].concat(),
            ),
            (Part::Chunk(Bytes::from_static(b"chunk")), b"\x02chunk".to_vec()),
            (Part::Withdrawn, vec![3]),
            (Part::Asks(Question { round: 5, before: 0x0102 }), vec![4, 5, 0, 0, 0, 2, 1, 0, 0]),
        ];
        for (part, bytes) in parts {
            let message = ToReceiver { image, part };
            let bytes = Bytes::from([&id[..], &bytes].concat());
            assert_eq!(message.encode(), bytes);
            assert_eq!(ToReceiver::decode(&bytes), Some(message));
        }
        let endings = Ended::ALL.map(|ended| (Answer::Ended(ended), vec![2, ended as u8]));
        let wants = (Answer::Wants { chunk: 0x0405 }, vec![1, 5, 4, 0, 0]);
        let question = Question { round: 5, before: 7 };
        let has = (Answer::Has { chunk: 0x0405, question }, vec![3, 5, 4, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0]);
        for (answer, bytes) in endings.into_iter().chain([wants, has]) {
            let message = ToSender { image, receiver: process(7), answer };
            let bytes = [&id[..], &long(7), &starts, &bytes].concat();
            assert_eq!(message.encode(), bytes);
            assert_eq!(ToSender::decode(&bytes), Some(message));
        }
        let codes: Vec<u8> = Ended::ALL.into_iter().map(|ended| ended as u8).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn other_bytes_are_none() {
        let image = ImageId { process: process(1), number: 2 };
        let offer = Offer { lsn: Lsn(9), term: Term(5), version: 1, bytes: 7 };
        let offer = ToReceiver { image, part: Part::Offer(offer) }.encode();
        let withdrawn = ToReceiver { image, part: Part::Withdrawn }.encode();
        let question = Question { round: 5, before: 7 };
        let asks = ToReceiver { image, part: Part::Asks(question) }.encode();
        for message in [&offer, &withdrawn, &asks] {
            assert!((0..message.len()).all(|length| ToReceiver::decode(&message.slice(..length)).is_none()));
            let longer = Bytes::from([&message[..], &[0]].concat());
            assert_eq!(ToReceiver::decode(&longer), None);
        }
        let too_long = Bytes::from([&withdrawn[..IMAGE_BYTES], &[2], &vec![0; CHUNK_BYTES_MAX + 1]].concat());
        assert_eq!(ToReceiver::decode(&too_long), None);
        assert!(
            too_long.len() > TRANSFER_BYTES_MAX
                && ToReceiver::decode(&too_long.slice(..TRANSFER_BYTES_MAX)).is_some()
        );
        let has = Answer::Has { chunk: 1, question };
        for answer in [Answer::Wants { chunk: 1 }, Answer::Ended(Ended::Busy), has] {
            let message = ToSender { image, receiver: process(7), answer }.encode();
            assert!((0..message.len()).all(|length| ToSender::decode(&message[..length]).is_none()));
            assert_eq!(ToSender::decode(&[&message[..], &[0]].concat()), None);
        }
        let mut unknown =
            ToSender { image, receiver: process(7), answer: Answer::Ended(Ended::Busy) }.encode().to_vec();
        *unknown.last_mut().expect("a code") = 10;
        assert_eq!(ToSender::decode(&unknown), None);
    }
}
