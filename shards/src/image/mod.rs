//! An image of a partition: all that a replica has to have of it up to an entry, as bytes that another replica, of any
//! release and any store, takes over.
//!
//! Invariants: what [`Writer`] writes, [`Reader`] reads; all other bytes are [`Damage`], whatever they are, and never a panic.
//! A length takes memory only as far as what has come justifies it. Everything has one form, so two replicas that hold the
//! same, written by the same release, have the same image.
//!
//! ```text
//! image   chunks, numbered from 0: a header, the pieces of one stream of items, an end
//! chunk   magic u32 | crc32 of all behind it | version u8 | kind u8: 1 header, 2 items, 3 end | packing u8: 0 as it is,
//!         1 an LZ4 block | 0 u8 | number u32 | bytes of content u32, 1 to 262144 | bytes that follow u32 | those
//!         Pieces of 1024 bytes or more are packed where that makes them shorter, nothing else is written packed. A
//!         piece is 262144 bytes long but for the last one.
//! header  partition u64 | history u64 | LSN u64 | its term u64 | version LSN u64 | clock u64 | length u32, bytes: the configuration
//! items   sections, ascending: 1 u8 | number u8 | length u32 | bytes
//!         then rows, by keyspace: 2 u8 | keyspace u64 | version u64 | length of the stamp u8, of the key u32, of the
//!         value u32 | stamp | key | value
//! end     rows u64 | bytes of the stream u64 | sections u32 | crc32 over the contents of all chunks before it
//!                                                                                                 all little-endian
//! ```
//!
//! The header states what every partition has; what the state machine has beside rows is in section 1. Section 2 is kept for
//! idempotency keys, which no release writes yet. The order of a keyspace's rows is the state machine's.

pub mod ask;
mod chunk;
mod read;
pub mod small;
#[cfg(test)]
mod tests;

pub mod transfer;
mod write;

use corduroy_wal::{Lsn, Term};

use crate::ids::{KeyspaceId, PartitionId};

pub use bytes::Bytes;
pub use chunk::{CHUNK_BYTES_MAX, CONTENT_BYTES_MAX, ChunkFacts, VERSION, look};

pub use ask::{ImageAsk, ImageEvent, InstallError};
pub use read::Reader;
pub use write::Writer;

/// The longest configuration record, bytes.
pub const CONFIGURATION_BYTES_MAX: usize = 64 * 1024;
/// The longest stamp of a row, bytes.
pub const STAMP_BYTES_MAX: usize = u8::MAX as usize;
/// The section of what the state machine has beside rows.
pub const SECTION_MACHINE: u8 = 1;

/// What an image is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The partition.
    pub partition: PartitionId,
    /// The history that it is on.
    pub history: u64,
    /// The last entry that the image includes. All of its operations, and none of the next one.
    pub lsn: Lsn,
    /// The term of that entry.
    pub term: Term,
    /// The version LSN of the last entry with operations.
    pub source_lsn: Lsn,
    /// The highest stamp of an entry that it includes, ms since 1970.
    pub clock_ms: u64,
    /// The configuration record as of that entry, as `raft::membership` writes it.
    pub configuration: Vec<u8>,
}

/// A row of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row<'a> {
    /// The keyspace that its key is in.
    pub keyspace: KeyspaceId,
    /// The version of the operation that wrote it.
    pub version: u64,
    /// What the state machine keeps of it beside key, value and version.
    pub stamp: &'a [u8],
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// What the stream of an image consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// What there is beside rows.
    Section {
        /// Which one.
        number: u8,
        /// Its content.
        bytes: &'a [u8],
    },
    /// A row.
    Row(Row<'a>),
}

/// What an image ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Its rows.
    pub rows: u64,
    /// The bytes of all items.
    pub stream_bytes: u64,
    /// Its sections.
    pub sections: u32,
}

/// Bytes that are no image, or not the one that was begun. Nothing of it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// No chunk begins like this, or it was cut off.
    #[error("the bytes are no chunk of an image")]
    NoChunk,
    /// Its checksum does not hold.
    #[error("a chunk was changed on its way: checksum {found:08x}, its bytes have {computed:08x}")]
    Checksum {
        /// The one in the chunk.
        found: u32,
        /// That of its bytes.
        computed: u32,
    },
    /// A later release wrote it.
    #[error(
        "the image is of format version {found}, this release reads {}: start a release that has it",
        chunk::VERSION
    )]
    TooNew {
        /// Its version.
        found: u8,
    },
    /// Its checksum holds, and it is no chunk of the drawing.
    #[error("chunk {number} contradicts itself: {why}")]
    Contradiction {
        /// Its number.
        number: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another chunk is next.
    #[error("chunk {found} came where {wanted} is next")]
    OutOfOrder {
        /// Its number.
        found: u32,
        /// The next one.
        wanted: u32,
    },
    /// The chunks are not those of one image: counts or the checksum of all do not agree with its end.
    #[error("the chunks are not those of one image: {why}")]
    Mixed {
        /// What does not agree.
        why: &'static str,
    },
    /// An item that this release or this state machine cannot take.
    #[error("an item of the image cannot be taken: {why}")]
    Item {
        /// Why.
        why: &'static str,
    },
}
