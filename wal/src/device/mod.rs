//! The WAL's only door to a disk: a folder of fixed-size files, written in aligned blocks.
//!
//! `submit` hands an operation over, `poll` collects what has ended. After opening a device never blocks, but for the
//! plain one ([`FileDevice`]), which carries out each write, sync and read as it is submitted.
//! Files ("slots") are created once, zero-written to their full size, and then used again and again, so a
//! durable write changes no file metadata. A slot's position in the log is in its header block alone.

pub mod buffer;
mod calls;
pub mod disk;
pub mod file;
mod flights;
pub mod folder;
pub mod lock;
pub mod mapped;
#[cfg(feature = "sim")]
pub mod mem;
mod prefetch;
mod prepare;
pub mod probe;
mod ready;
mod setup;
pub mod sync;
pub mod uring;
mod wake;

pub use buffer::AlignedBuffer;
pub use disk::{DiskDevice, Engine};
pub use file::FileDevice;
pub use folder::{DirectIo, OpenError};
pub use prefetch::{prefetch, prefetch_front};
pub use probe::{ProbeError, ProbeOptions, ProbeReport, probe};
pub use setup::{UringOptions, UringReport};
pub use sync::{DiskFacts, SyncMode, UnknownWord};
pub use uring::UringDevice;

use std::fmt::Debug;
use std::io;
use std::ops::{Deref, DerefMut};

/// Alignment, in bytes, of every offset, length and buffer address.
pub const BLOCK_BYTES: usize = 4096;

/// The number in a slot's file name (`slot-000007.wal`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId(pub u32);

impl SlotId {
    /// The manifest: not a slot, but a file of two blocks that is read and written like one.
    pub const MANIFEST: Self = Self(u32::MAX);
}

/// Names an operation in flight; chosen by the caller, unique among those in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoId(pub u64);

/// An operation handed to the device.
#[derive(Debug)]
pub enum Op<B> {
    /// Write `buffer[..len]` at `offset` and make it durable. Ends only when it is on the medium.
    WriteDurable {
        /// Where.
        slot: SlotId,
        /// Bytes from the start of the file; a multiple of [`BLOCK_BYTES`].
        offset: u32,
        /// What; handed back on completion, untouched.
        buffer: B,
        /// How many bytes of it; a multiple of [`BLOCK_BYTES`].
        len: u32,
    },
    /// Fill `buffer[..len]` from `offset`.
    Read {
        /// Where.
        slot: SlotId,
        /// Bytes from the start of the file; a multiple of [`BLOCK_BYTES`].
        offset: u32,
        /// Filled and handed back.
        buffer: B,
        /// How many bytes; a multiple of [`BLOCK_BYTES`].
        len: u32,
    },
    /// Create a slot of `bytes` zeros, synced, its directory entry too. Done off the core.
    Create {
        /// Its number; not in use.
        slot: SlotId,
        /// Its full and final size.
        bytes: u32,
    },
    /// Remove a slot and sync the directory. Done off the core.
    Remove {
        /// Its number.
        slot: SlotId,
    },
}

/// An operation that has ended.
#[derive(Debug)]
pub struct Completion<B> {
    /// The id it was submitted with.
    pub id: IoId,
    /// `Ok` only if every byte was transferred (and, for `WriteDurable`, made durable). A short transfer is an error.
    pub result: io::Result<()>,
    /// The operation's buffer, if it had one.
    pub buffer: Option<B>,
}

/// A disk, or a model of one.
pub trait Device {
    /// Memory aligned to [`BLOCK_BYTES`], as the disk wants it.
    type Buffer: Deref<Target = [u8]> + DerefMut + Debug;

    /// A zeroed-or-reused buffer of at least `min_bytes`. Contents are unspecified. Reuses returned ones.
    fn buffer(&mut self, min_bytes: usize) -> Self::Buffer;

    /// Gives a buffer back for reuse.
    fn recycle(&mut self, buffer: Self::Buffer);

    /// Starts an operation. Never blocks; errors arrive as completions.
    fn submit(&mut self, id: IoId, op: Op<Self::Buffer>);

    /// The buffer of a [`Op::WriteDurable`] that has not been handed back by [`Device::poll`] yet, to read from: the
    /// newest entries of the log are served from it. `None` for any other id.
    fn in_flight(&self, id: IoId) -> Option<&[u8]>;

    /// Collects operations that have ended, in any order. Never blocks.
    fn poll(&mut self, ended: &mut Vec<Completion<Self::Buffer>>);

    /// All slots and their sizes in bytes, the manifest among them. Blocking; used at opening, after `sync_all`.
    ///
    /// # Errors
    /// What the file system says.
    fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>>;

    /// Makes everything written so far durable: all files and the folder. Blocking; the first call at opening,
    /// so that recovery never decides on bytes that could still vanish.
    ///
    /// # Errors
    /// What the file system says.
    fn sync_all(&mut self) -> io::Result<()>;

    /// Reads exactly `buffer[..len]`, blocking; used at opening only.
    ///
    /// # Errors
    /// What the file system says; a short read is `UnexpectedEof`.
    fn read_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &mut Self::Buffer,
        len: u32,
    ) -> io::Result<()>;

    /// Writes `buffer[..len]` and makes it durable, blocking; used at opening only.
    ///
    /// # Errors
    /// What the file system says.
    fn write_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &Self::Buffer,
        len: u32,
    ) -> io::Result<()>;

    /// Makes a file with this content (whole blocks), durably and whole or not at all. Blocking; used at opening only.
    ///
    /// # Errors
    /// What the file system says; `AlreadyExists`.
    fn create_blocking(&mut self, slot: SlotId, content: &[u8]) -> io::Result<()>;
}
