//! One chunk of an image: its head, its checksum, its packing.

use corduroy_wal::fields::Fields;

use super::Damage;

/// The version of the format that is written, and the latest that is read.
pub const VERSION: u8 = 1;
const MAGIC: u32 = 0xC0D5_1A01;
/// Bytes before those of a chunk's content.
pub(super) const HEAD_BYTES: usize = 4 + 4 + 4 + 3 * 4;
/// The part of it that no checksum covers.
const UNCOVERED_BYTES: usize = 8;

/// The longest content of a chunk, bytes.
pub const CONTENT_BYTES_MAX: usize = 256 * 1024;
/// The longest chunk, bytes.
pub const CHUNK_BYTES_MAX: usize = HEAD_BYTES + CONTENT_BYTES_MAX;

/// Shorter contents are not packed, nor are header and end.
const PACKED_BYTES_MIN: usize = 1024;

const AS_IT_IS: u8 = 0;
const LZ4: u8 = 1;

/// What a chunk carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Header = 1,
    Items = 2,
    End = 3,
}

/// What is to be seen of a chunk without unpacking it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkFacts {
    /// Its number in its image.
    pub number: u32,
    /// Whether the image ends with it.
    pub is_end: bool,
}

/// Looks whether bytes are a whole, unchanged chunk.
///
/// # Errors
/// [`Damage`]: they are none.
pub fn look(chunk: &[u8]) -> Result<ChunkFacts, Damage> {
    let head = Head::read(chunk)?;
    Ok(ChunkFacts { number: head.number, is_end: head.kind == Kind::End })
}

pub(super) struct Head<'c> {
    pub(super) kind: Kind,
    pub(super) number: u32,
    packing: u8,
    content_bytes: usize,
    stored: &'c [u8],
}

impl<'c> Head<'c> {
    pub(super) fn read(chunk: &'c [u8]) -> Result<Self, Damage> {
        let mut fields = Fields::new(chunk);
        if chunk.len() > CHUNK_BYTES_MAX || fields.u32() != Some(MAGIC) {
            return Err(Damage::NoChunk);
        }
        let found = fields.u32().ok_or(Damage::NoChunk)?;
        let computed = crc32fast::hash(fields.rest);
        if found != computed {
            return Err(Damage::Checksum { found, computed });
        }
        let [version, kind, packing, zero] = fields.array().ok_or(Damage::NoChunk)?;
        if version != VERSION {
            return Err(Damage::TooNew { found: version });
        }
        let (number, content, stored) = match (fields.u32(), fields.u32(), fields.u32()) {
            (Some(number), Some(content), Some(stored)) => (number, content as usize, stored as usize),
            _ => return Err(Damage::NoChunk),
        };
        let wrong = |why| Damage::Contradiction { number, why };
        let kind = match kind {
            1 => Kind::Header,
            2 => Kind::Items,
            3 => Kind::End,
            _ => return Err(wrong("it is of no kind that there is")),
        };
        if zero != 0 || packing > LZ4 {
            return Err(wrong("its content is packed in a way that there is not"));
        }
        if fields.rest.len() != stored || content == 0 || content > CONTENT_BYTES_MAX {
            return Err(wrong("its lengths do not agree"));
        }
        // Packed content is shorter, or it was not to be packed.
        if (packing == AS_IT_IS) != (stored == content) || stored > content {
            return Err(wrong("its lengths do not go with its packing"));
        }
        Ok(Self { kind, number, packing, content_bytes: content, stored: fields.rest })
    }

    /// Its content, into `room`, which is emptied before.
    pub(super) fn unpack(&self, room: &mut Vec<u8>) -> Result<(), Damage> {
        room.clear();
        if self.packing == AS_IT_IS {
            room.extend_from_slice(self.stored);
            return Ok(());
        }
        room.resize(self.content_bytes, 0);
        let unpacked = lz4_flex::block::decompress_into(self.stored, room);
        if unpacked.is_ok_and(|bytes| bytes == self.content_bytes) {
            return Ok(());
        }
        Err(Damage::Contradiction {
            number: self.number,
            why: "what is packed in it is not as long as stated",
        })
    }
}

/// The chunk of a content.
pub(super) fn pack(kind: Kind, number: u32, content: &[u8]) -> Vec<u8> {
    assert!(
        !content.is_empty() && content.len() <= CONTENT_BYTES_MAX,
        "chunk {number} has {} bytes",
        content.len()
    );
    let is_worth_it = kind == Kind::Items && content.len() >= PACKED_BYTES_MIN;
    let packed = if is_worth_it { lz4_flex::block::compress(content) } else { content.to_vec() };
    let (packing, stored) = if packed.len() < content.len() { (LZ4, &*packed) } else { (AS_IT_IS, content) };
    let mut chunk = Vec::with_capacity(HEAD_BYTES + stored.len());
    chunk.extend_from_slice(&MAGIC.to_le_bytes());
    chunk.extend_from_slice(&[0; 4]);
    chunk.extend_from_slice(&[VERSION, kind as u8, packing, 0]);
    for field in [number, length(content.len()), length(stored.len())] {
        chunk.extend_from_slice(&field.to_le_bytes());
    }
    chunk.extend_from_slice(stored);
    let (head, covered) = chunk.split_at_mut(UNCOVERED_BYTES);
    let (_, checksum) = head.split_at_mut(4);
    checksum.copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
    chunk
}

/// A length in four bytes.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("what an image has is shorter than 4 GiB")
}
