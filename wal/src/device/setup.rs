//! What a ring is opened with, what it turned out to get, and the registering of buffers and files.

#![allow(unsafe_code, reason = "registers buffers, and submits an operation to try the ring")]

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode};

use super::buffer::Registration;
use super::flights::FLIGHTS_MAX;
use super::folder::Slot;
use super::sync::{DiskFacts, SyncMode};
use super::{AlignedBuffer, SlotId};

/// Submission entries: two for each flight.
const RING_ENTRIES: u32 = 2 * FLIGHTS_MAX as u32;
/// Entries of a ring that is only tried.
const TRIAL_ENTRIES: u32 = 4;
/// Entries of the ring's table of files; slots numbered higher are used by their plain descriptor.
const FIXED_FILES_MAX: u32 = 1024;

/// How to open a [`UringDevice`](super::UringDevice).
#[derive(Clone, Copy, Debug)]
pub struct UringOptions {
    /// How durability is asked for.
    pub sync: SyncMode,
    /// Buffers registered with the ring. Default 4.
    pub registered_buffers: u16,
    /// Their size. Default 1 MiB; halved, down to 64 KiB, where the memlock limit is too low.
    pub registered_buffer_bytes: usize,
}

impl Default for UringOptions {
    fn default() -> Self {
        Self { sync: SyncMode::Auto, registered_buffers: 4, registered_buffer_bytes: 1 << 20 }
    }
}

/// What a device turned out to use; for the start-up lines.
#[derive(Clone, Debug)]
pub struct UringReport {
    /// The sync mode asked for.
    pub requested: SyncMode,
    /// The sync mode in use; never [`SyncMode::Auto`].
    pub effective: SyncMode,
    /// The disk, where it is known.
    pub disk: Option<DiskFacts>,
    /// Bytes of buffers registered with the ring; 0 where the memlock limit refused them (about 1 µs a write).
    pub registered_bytes: usize,
    /// Whether files are registered with the ring.
    pub registered_files: bool,
}

impl fmt::Display for UringReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.effective {
            SyncMode::Dsync => "write through to the medium",
            SyncMode::Auto | SyncMode::Linked => "write with a flush behind it",
            SyncMode::Inline => "blocking write with a flush behind it",
        };
        let chosen = if self.requested == SyncMode::Auto { "as suits the disk" } else { "as set" };
        write!(f, "log writes by io_uring, each a {way}, {chosen}")?;
        if self.registered_bytes == 0 {
            write!(f, "; no buffers registered, for too little memory may be locked")?;
        }
        if !self.registered_files {
            write!(f, "; no files registered")?;
        }
        Ok(())
    }
}

/// A ring that belongs to the thread that enables it; completions are posted when that thread enters the kernel for
/// whatever reason, or is asked to by a flag.
pub(super) fn new_ring() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_r_disabled()
        .dontfork()
        .build(RING_ENTRIES)
}

/// Why io_uring is not to be had, if it is not: all of its calls are tried, for filters may refuse any of them.
pub(super) fn refusal() -> Option<io::Error> {
    let attempt = || {
        new_ring()?;
        let mut ring = IoUring::new(TRIAL_ENTRIES)?;
        ring.submitter().register_probe(&mut Probe::new())?;
        // SAFETY: the entry names no memory and no file.
        let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
        pushed.map_err(|_| io::Error::other("a new ring is full"))?;
        ring.submit_and_wait(1).map(drop)
    };
    attempt().err()
}

/// Buffers known to the ring; smaller ones, then none, where the memlock limit is too low.
pub(super) fn register_buffers(ring: &IoUring, options: UringOptions, pool: u32) -> Vec<AlignedBuffer> {
    let mut bytes = options.registered_buffer_bytes;
    while bytes >= 64 << 10 {
        let mut buffers: Vec<_> =
            (0..options.registered_buffers).map(|_| AlignedBuffer::zeroed(bytes)).collect();
        let table: Vec<_> = buffers
            .iter_mut()
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() })
            .collect();
        // SAFETY: the entries point at live memory. The kernel holds the pages by reference count, so a buffer
        // freed before the ring leaves its entry of the table pointing at pages that nobody else uses.
        if unsafe { ring.submitter().register_buffers(&table) }.is_ok() {
            for (index, buffer) in (0..).zip(&mut buffers) {
                buffer.set_registration(Some(Registration { pool, index }));
            }
            return buffers;
        }
        bytes /= 2;
    }
    Vec::new()
}

/// The ring's table of files, and which slots have an entry in it.
#[derive(Debug)]
pub(super) struct FixedFiles {
    /// Slots below this number may have an entry; 0 where the kernel refused the table.
    entries: u32,
    slots: BTreeSet<SlotId>,
}

impl FixedFiles {
    /// An empty table, as large as the limit of open files allows.
    pub(super) fn register(ring: &IoUring) -> Self {
        // The kernel refuses a table larger than the limit of open files.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let entries =
            limit.map_or(FIXED_FILES_MAX, |n| u32::try_from(n).unwrap_or(u32::MAX).min(FIXED_FILES_MAX));
        let taken = ring.submitter().register_files_sparse(entries).is_ok();
        Self { entries: if taken { entries } else { 0 }, slots: BTreeSet::new() }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.entries > 0
    }

    /// A slot's index in the table, if it has one.
    pub(super) fn index(&self, slot: SlotId) -> Option<i32> {
        self.slots.contains(&slot).then(|| i32::try_from(slot.0).expect("below the number of entries"))
    }

    /// Enters a slot, if the table has an entry for it.
    pub(super) fn enter(&mut self, ring: &IoUring, slot: SlotId, open: &Slot) {
        if slot.0 < self.entries
            && !self.slots.contains(&slot)
            && ring.submitter().register_files_update(slot.0, &[open.file.as_raw_fd()]).is_ok()
        {
            self.slots.insert(slot);
        }
    }

    /// A slot is about to be removed.
    pub(super) fn leave(&mut self, ring: &IoUring, slot: SlotId) {
        if self.slots.remove(&slot) {
            // If this fails the table keeps the file open until its entry is used again; nothing else changes.
            let _ = ring.submitter().register_files_update(slot.0, &[-1]);
        }
    }
}
