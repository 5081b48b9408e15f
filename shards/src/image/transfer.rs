//! What two replicas send each other about an image: the one that has it, and the one that is to get it.
//!
//! Invariant: each has one form as bytes; all other bytes are none, and never a panic.
//!
//! ```text
//! to the receiver   image: incarnation u64, number u64 | 1 offer: LSN u64 | its term u64
//!                                                      | 2 chunk: the bytes of a chunk, to the end
//!                                                      | 3 withdrawn
//! to the sender     image: incarnation u64, number u64 | incarnation of the receiver u64
//!                                                      | 1 wants: number of a chunk u32
//!                                                      | 2 ended: how u8
//!                                                                                                 all little-endian
//! ```

use bytes::Bytes;
use corduroy_wal::fields::Fields;
use corduroy_wal::{Lsn, Term};

use super::CHUNK_BYTES_MAX;

/// Names an image for as long as there is any message about it: the incarnation of the process that made it, and a number
/// that this one never uses again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ImageId {
    /// Of the process that made it.
    pub incarnation: u64,
    /// In that process.
    pub number: u64,
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
    Offer {
        /// The last entry that it includes.
        lsn: Lsn,
        /// Its term.
        term: Term,
    },
    /// A chunk of it.
    Chunk(Bytes),
    /// There is no more of it.
    Withdrawn,
}

/// What the receiver of an image answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToSender {
    /// The image.
    pub image: ImageId,
    /// The receiver's incarnation: what another one has taken in is lost.
    pub receiver: u64,
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
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Installed,
        Self::NotNeeded,
        Self::TooOld,
        Self::Damaged,
        Self::Unknown,
        Self::Busy,
        Self::Failed,
    ];
}

const OFFER: u8 = 1;
const CHUNK: u8 = 2;
const WITHDRAWN: u8 = 3;
const WANTS: u8 = 1;
const ENDED: u8 = 2;

/// The longest of them, as bytes.
pub const TRANSFER_BYTES_MAX: usize = 2 * 8 + 1 + CHUNK_BYTES_MAX;

impl ImageId {
    fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice([self.incarnation, self.number].map(u64::to_le_bytes).as_flattened());
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { incarnation: fields.u64()?, number: fields.u64()? })
    }
}

impl ToReceiver {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(2 * 8 + 1 + 2 * 8);
        self.image.encode(&mut out);
        match &self.part {
            Part::Offer { lsn, term } => {
                out.push(OFFER);
                out.extend_from_slice([lsn.0, term.0].map(u64::to_le_bytes).as_flattened());
            }
            Part::Chunk(chunk) => {
                out.push(CHUNK);
                out.extend_from_slice(chunk);
            }
            Part::Withdrawn => out.push(WITHDRAWN),
        }
        out.into()
    }

    /// Reads [`ToReceiver::encode`]'s bytes; a chunk is a slice of them, and was not looked at.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let image = ImageId::decode(&mut fields)?;
        let part = match fields.byte()? {
            OFFER => Part::Offer { lsn: Lsn(fields.u64()?), term: Term(fields.u64()?) },
            CHUNK => {
                let chunk = std::mem::take(&mut fields.rest);
                (chunk.len() <= CHUNK_BYTES_MAX).then(|| Part::Chunk(bytes.slice_ref(chunk)))?
            }
            WITHDRAWN => Part::Withdrawn,
            _ => return None,
        };
        fields.is_empty().then_some(Self { image, part })
    }
}

impl ToSender {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(3 * 8 + 1 + 4);
        self.image.encode(&mut out);
        out.extend_from_slice(&self.receiver.to_le_bytes());
        match self.answer {
            Answer::Wants { chunk } => {
                out.push(WANTS);
                out.extend_from_slice(&chunk.to_le_bytes());
            }
            Answer::Ended(ended) => out.extend_from_slice(&[ENDED, ended as u8]),
        }
        out.into()
    }

    /// Reads [`ToSender::encode`]'s bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let (image, receiver) = (ImageId::decode(&mut fields)?, fields.u64()?);
        let answer = match fields.byte()? {
            WANTS => Answer::Wants { chunk: fields.u32()? },
            ENDED => {
                let code = fields.byte()?;
                Answer::Ended(Ended::ALL.into_iter().find(|ended| *ended as u8 == code)?)
            }
            _ => return None,
        };
        fields.is_empty().then_some(Self { image, receiver, answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that were written out by hand from the drawing.
    #[test]
    fn these_are_their_bytes() {
        let image = ImageId { incarnation: 0x0102, number: 3 };
        let id = [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        let parts = [
            (
                Part::Offer { lsn: Lsn(9), term: Term(5) },
                [&[1][..], &[9, 0, 0, 0, 0, 0, 0, 0], &[5, 0, 0, 0, 0, 0, 0, 0]].concat(),
            ),
            (Part::Chunk(Bytes::from_static(b"chunk")), b"\x02chunk".to_vec()),
            (Part::Withdrawn, vec![3]),
        ];
        for (part, bytes) in parts {
            let message = ToReceiver { image, part };
            let bytes = Bytes::from([&id[..], &bytes].concat());
            assert_eq!(message.encode(), bytes);
            assert_eq!(ToReceiver::decode(&bytes), Some(message));
        }
        let endings = Ended::ALL.map(|ended| (Answer::Ended(ended), vec![2, ended as u8]));
        let wants = (Answer::Wants { chunk: 0x0405 }, vec![1, 5, 4, 0, 0]);
        for (answer, bytes) in endings.into_iter().chain([wants]) {
            let message = ToSender { image, receiver: 7, answer };
            let bytes = [&id[..], &[7, 0, 0, 0, 0, 0, 0, 0], &bytes].concat();
            assert_eq!(message.encode(), bytes);
            assert_eq!(ToSender::decode(&bytes), Some(message));
        }
        let codes: Vec<u8> = Ended::ALL.into_iter().map(|ended| ended as u8).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn other_bytes_are_none() {
        let image = ImageId { incarnation: 1, number: 2 };
        let offer = ToReceiver { image, part: Part::Offer { lsn: Lsn(9), term: Term(5) } }.encode();
        let withdrawn = ToReceiver { image, part: Part::Withdrawn }.encode();
        for message in [&offer, &withdrawn] {
            assert!((0..message.len()).all(|length| ToReceiver::decode(&message.slice(..length)).is_none()));
            let longer = Bytes::from([&message[..], &[0]].concat());
            assert_eq!(ToReceiver::decode(&longer), None);
        }
        let too_long = Bytes::from([&withdrawn[..16], &[2], &vec![0; CHUNK_BYTES_MAX + 1]].concat());
        assert_eq!(ToReceiver::decode(&too_long), None);
        assert!(
            too_long.len() > TRANSFER_BYTES_MAX
                && ToReceiver::decode(&too_long.slice(..TRANSFER_BYTES_MAX)).is_some()
        );
        for answer in [Answer::Wants { chunk: 1 }, Answer::Ended(Ended::Busy)] {
            let message = ToSender { image, receiver: 7, answer }.encode();
            assert!((0..message.len()).all(|length| ToSender::decode(&message[..length]).is_none()));
            assert_eq!(ToSender::decode(&[&message[..], &[0]].concat()), None);
        }
        let mut unknown =
            ToSender { image, receiver: 7, answer: Answer::Ended(Ended::Busy) }.encode().to_vec();
        *unknown.last_mut().expect("a code") = 8;
        assert_eq!(ToSender::decode(&unknown), None);
    }
}
