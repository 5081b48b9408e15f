//! The device of a real disk: O_DIRECT files behind a private io_uring.
//!
//! One ring a shard, owned by one thread: entries are handed to the kernel at once (one system call a frame), and
//! completions are read from memory. An eventfd is rung at every completion, for runtimes that wait.
//! Invariant: memory that the kernel may touch is owned by the flight table; the ring is entered by one thread
//! only, the one that submits first.

#![allow(unsafe_code, reason = "submits operations on memory that the flights own")]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::buffer::BufferPool;
use super::calls;
use super::flights::{Completed, Flight, Flights, Kind, Tag};
use super::folder::{DirectIo, OpenError, beyond, slot_file_name};
use super::setup::{FixedFiles, UringOptions, UringReport, new_ring, register_buffers};
use super::sync::{DiskFacts, SyncMode};
use super::{AlignedBuffer, Completion, Device, FileDevice, IoId, Op, SlotId};

/// Kernel workers for calls that block (the fdatasync of linked writes); as many as frames may be in flight.
const WORKERS_MAX: u32 = 4;

static POOLS: AtomicU32 = AtomicU32::new(0);

/// A WAL folder on a disk.
pub struct UringDevice {
    ring: IoUring,
    /// The ring starts disabled, so that it belongs to the thread that first submits, not to the one that opened.
    enabled: bool,
    /// The error of a refused system call: nothing is handed to the kernel any more.
    broken: Option<i32>,
    flights: Flights,
    /// Operations for which the flight table has no room yet.
    backlog: VecDeque<Flight>,
    /// All that does not go through the ring.
    plain: FileDevice,
    fixed_files: FixedFiles,
    pool_id: u32,
    report: UringReport,
}

impl UringDevice {
    /// Opens (or makes) the folder and takes its lock.
    ///
    /// # Errors
    /// [`OpenError`]: held by another process, no direct I/O, io_uring refused, or what the file system says.
    pub fn open(path: &Path, options: UringOptions) -> Result<Self, OpenError> {
        let mut plain = FileDevice::open(path, DirectIo::Required)?;
        let refused = |source| OpenError::UringRefused { source };
        let ring = new_ring().map_err(refused)?;
        ring.submitter().register_eventfd(plain.wake.as_raw_fd()).map_err(refused)?;
        let pool_id = POOLS.fetch_add(1, Ordering::Relaxed);
        let buffers = register_buffers(&ring, options, pool_id);
        let fixed_files = FixedFiles::register(&ring);
        let report = UringReport {
            requested: options.sync,
            effective: SyncMode::Linked,
            disk: DiskFacts::of(path),
            registered_bytes: buffers.iter().map(|b| b.len()).sum(),
            registered_files: fixed_files.is_registered(),
        };
        plain.pool = BufferPool::new(buffers);
        let mut device = Self {
            ring,
            enabled: false,
            broken: None,
            flights: Flights::new(),
            backlog: VecDeque::new(),
            plain,
            fixed_files,
            pool_id,
            report,
        };
        device.set_sync_mode(options.sync);
        Ok(device)
    }

    /// Changes how durability is asked for; applies to writes submitted from now on.
    pub fn set_sync_mode(&mut self, mode: SyncMode) {
        self.report.requested = mode;
        self.report.effective = mode.resolve(self.report.disk.as_ref());
    }

    /// What is in use.
    #[must_use]
    pub fn report(&self) -> &UringReport {
        &self.report
    }

    /// Readable whenever an operation may have ended; read 8 bytes to reset it. In blocking mode, so that it can
    /// be read through another ring.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.plain.event_fd()
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.plain.path()
    }

    /// Blocks until [`Device::poll`] may have something to collect, or until `timeout`. For tools and tests; a
    /// runtime waits on [`UringDevice::event_fd`].
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let plain = &self.plain;
        if !plain.ready.is_empty() || plain.preparer.outstanding() > 0 || self.flights.len() == 0 {
            return self.plain.wait(timeout);
        }
        let timeout = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
        let ended = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
        match ended {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The helper thread, for its test.
    #[cfg(test)]
    pub(super) fn preparer(&self) -> &super::prepare::Preparer {
        &self.plain.preparer
    }

    /// Reports a read or write that was refused before the ring.
    fn refuse(&mut self, flight: Flight, error: io::Error) {
        self.plain.end(flight.kind != Kind::Read, flight.ended(Err(error)));
    }

    fn transfer(&mut self, flight: Flight) {
        let checked = self.plain.folder.checked(flight.slot, flight.offset, flight.len).map(drop);
        let fits = (flight.buffer.len() >= flight.len as usize)
            .then_some(())
            .ok_or_else(|| beyond(flight.buffer.len(), flight.len));
        if let Err(refused) = checked.and(fits) {
            return self.refuse(flight, refused);
        }
        if let Some(errno) = self.broken {
            return self.refuse(flight, io::Error::from_raw_os_error(errno));
        }
        if self.flights.is_full() {
            self.backlog.push_back(flight);
        } else {
            self.queue(flight);
            self.flush();
        }
    }

    /// Puts an operation's entries into the submission queue.
    fn queue(&mut self, flight: Flight) {
        let slot = self.plain.folder.checked(flight.slot, flight.offset, flight.len);
        let open = &slot.expect("checked on arrival, and a slot in use is not removed").file;
        let file = match self.fixed_files.index(flight.slot) {
            Some(index) => (Fd(index), squeue::Flags::FIXED_FILE),
            None => (Fd(open.as_raw_fd()), squeue::Flags::empty()),
        };
        let (tag, flight) = self.flights.submit(flight);
        let registered = flight.buffer.registration().filter(|r| r.pool == self.pool_id);
        let transfer = transfer_entry(file, tag, flight, registered.map(|r| r.index));
        let sync = (flight.kind == Kind::WriteLinked).then(|| {
            let entry = opcode::Fsync::new(file.0).flags(FsyncFlags::DATASYNC).build();
            entry.flags(file.1).user_data(tag.sync().0)
        });
        let mut queue = self.ring.submission();
        for entry in [Some(transfer), sync].into_iter().flatten() {
            calls::entry(open, &entry);
            // SAFETY: the buffer lies in the flight table until the completion of this very entry (or of the
            // write that cancels it) has been seen, or is leaked; its length was checked; the file is open or
            // in the ring's table, and a slot with operations in flight is not removed.
            let pushed = unsafe { queue.push(&entry) };
            pushed.expect("the queue has two entries for every operation of the flight table");
        }
    }

    /// Hands everything queued to the kernel, and has it post completions that wait for a turn of this thread.
    fn flush(&mut self) {
        if let Err(error) = self.try_flush() {
            self.give_up(error.raw_os_error().unwrap_or(libc::EIO));
        }
    }

    fn try_flush(&mut self) -> io::Result<()> {
        if !self.enabled {
            let submitter = self.ring.submitter();
            submitter.register_enable_rings()?;
            // A limit that the kernel does not know is no reason to refuse work.
            let _ = submitter.register_iowq_max_workers(&mut [WORKERS_MAX, 0]);
            self.enabled = true;
        }
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    // Short of memory or of completion entries: the next poll tries again.
                    self.plain.wake.ring();
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The ring does not take entries any more. What it has been given may still be in the kernel's hands, so
    /// those buffers are never freed or used again.
    fn give_up(&mut self, errno: i32) {
        self.broken = Some(errno);
        for flight in self.flights.drain() {
            mem::forget(flight.buffer);
            let result = Err(io::Error::from_raw_os_error(errno));
            self.plain.end(false, Completion { id: flight.id, result, buffer: None });
        }
        for flight in mem::take(&mut self.backlog) {
            self.refuse(flight, io::Error::from_raw_os_error(errno));
        }
    }

    /// Reads completion entries from memory; enters the kernel only where it says that it holds some back, or
    /// did not take all entries.
    fn collect_ring(&mut self, ended: &mut Vec<Completion<AlignedBuffer>>) {
        if self.flights.len() == 0 || self.broken.is_some() {
            return;
        }
        let queue = self.ring.submission();
        let stalled = queue.taskrun() || queue.cq_overflow() || !queue.is_empty();
        drop(queue);
        if stalled {
            self.flush();
        }
        let mut again = Vec::new();
        for entry in self.ring.completion() {
            match self.flights.complete(Tag(entry.user_data()), entry.result()) {
                Completed::Stale | Completed::Waiting => {}
                Completed::Again(flight) => again.push(flight),
                Completed::Ended(completion) => ended.push(completion),
            }
        }
        self.backlog.extend(again);
        let mut queued = false;
        while !self.flights.is_full() && self.broken.is_none() {
            let Some(flight) = self.backlog.pop_front() else { break };
            self.queue(flight);
            queued = true;
        }
        if queued {
            self.flush();
        }
    }

    fn remove(&mut self, id: IoId, slot: SlotId) {
        if self.flights.uses(slot) || self.backlog.iter().any(|f| f.slot == slot) {
            let why = format!("{} has operations in flight", slot_file_name(slot));
            let result = Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
            return self.plain.end(false, Completion { id, result, buffer: None });
        }
        self.fixed_files.leave(&self.ring, slot);
        self.plain.submit(id, Op::Remove { slot });
    }
}

impl Device for UringDevice {
    type Buffer = AlignedBuffer;

    fn buffer(&mut self, min_bytes: usize) -> AlignedBuffer {
        self.plain.buffer(min_bytes)
    }

    fn recycle(&mut self, buffer: AlignedBuffer) {
        self.plain.recycle(buffer);
    }

    fn submit(&mut self, id: IoId, op: Op<AlignedBuffer>) {
        let write = match self.report.effective {
            SyncMode::Inline => None,
            SyncMode::Dsync => Some(Kind::WriteDsync),
            SyncMode::Linked | SyncMode::Auto => Some(Kind::WriteLinked),
        };
        match (op, write) {
            (Op::WriteDurable { slot, offset, buffer, len }, Some(kind)) => {
                self.transfer(Flight { id, kind, slot, offset, len, buffer, attempts: 0 });
            }
            (Op::Read { slot, offset, buffer, len }, _) => {
                self.transfer(Flight { id, kind: Kind::Read, slot, offset, len, buffer, attempts: 0 });
            }
            (Op::Remove { slot }, _) => self.remove(id, slot),
            (op @ (Op::WriteDurable { .. } | Op::Create { .. }), _) => self.plain.submit(id, op),
        }
    }

    fn in_flight(&self, id: IoId) -> Option<&[u8]> {
        let queued = || self.backlog.iter().find_map(|f| f.written(id));
        self.flights.written(id).or_else(queued).or_else(|| self.plain.in_flight(id))
    }

    fn poll(&mut self, ended: &mut Vec<Completion<AlignedBuffer>>) {
        self.collect_ring(ended);
        let (ring, fixed_files) = (&self.ring, &mut self.fixed_files);
        self.plain.collect(ended, |slot, open| fixed_files.enter(ring, slot, open));
    }

    fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>> {
        let slots = self.plain.list()?;
        for (slot, open) in self.plain.folder.slots() {
            self.fixed_files.enter(&self.ring, slot, open);
        }
        Ok(slots)
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.plain.sync_all()
    }

    fn read_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &mut AlignedBuffer,
        len: u32,
    ) -> io::Result<()> {
        self.plain.read_blocking(slot, offset, buffer, len)
    }

    fn write_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &AlignedBuffer,
        len: u32,
    ) -> io::Result<()> {
        self.plain.write_blocking(slot, offset, buffer, len)
    }

    fn create_blocking(&mut self, slot: SlotId, content: &[u8]) -> io::Result<()> {
        self.plain.create_blocking(slot, content)
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        while self.flights.len() > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // Another thread's ring, or a broken one: the kernel may still use the memory, so it stays.
                Err(_) => return self.flights.drain().into_iter().for_each(|f| mem::forget(f.buffer)),
            }
            for entry in self.ring.completion() {
                if let Completed::Again(flight) =
                    self.flights.complete(Tag(entry.user_data()), entry.result())
                {
                    drop(flight);
                }
            }
        }
    }
}

impl fmt::Debug for UringDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringDevice")
            .field("plain", &self.plain)
            .field("in_flight", &self.flights.len())
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// The entry of a read or write of `flight`.
fn transfer_entry(
    (fd, file_flags): (Fd, squeue::Flags),
    tag: Tag,
    flight: &mut Flight,
    index: Option<u16>,
) -> squeue::Entry {
    let (len, offset) = (flight.len, u64::from(flight.offset));
    let rw_flags = if flight.kind == Kind::WriteDsync { libc::RWF_DSYNC } else { 0 };
    let start = flight.buffer.as_mut_ptr();
    let entry = match (flight.kind, index) {
        (Kind::Read, None) => opcode::Read::new(fd, start, len).offset(offset).build(),
        (Kind::Read, Some(index)) => opcode::ReadFixed::new(fd, start, len, index).offset(offset).build(),
        (_, None) => opcode::Write::new(fd, start, len).offset(offset).rw_flags(rw_flags).build(),
        (_, Some(index)) => {
            opcode::WriteFixed::new(fd, start, len, index).offset(offset).rw_flags(rw_flags).build()
        }
    };
    let link = match flight.kind {
        // A link whose first half succeeds posts the second half's completion only: one wake a frame.
        Kind::WriteLinked => squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS,
        Kind::Read | Kind::WriteDsync => squeue::Flags::empty(),
    };
    entry.flags(file_flags | link).user_data(tag.0)
}
