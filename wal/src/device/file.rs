//! The plain device: blocking `pread`, `pwrite` and `fdatasync` at submission.
//!
//! The fallback where io_uring is refused, the device of the offline tools, the yardstick that the ring is checked
//! against, and the part of the ring's device that does not go through the ring: folder, buffers, the helper thread that
//! makes and removes slots, and ends that are known at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::buffer::BufferPool;
use super::folder::{DirectIo, Folder, OpenError, Slot};
use super::prepare::{Job, Preparer};
use super::ready::Ready;
use super::wake::WakeFd;
use super::{AlignedBuffer, Completion, Device, IoId, Op, SlotId};

/// A WAL folder, written by blocking calls.
#[derive(Debug)]
pub struct FileDevice {
    pub(super) folder: Folder,
    pub(super) preparer: Preparer,
    /// Operations that have ended and were not collected yet.
    pub(super) ready: Ready,
    pub(super) wake: Arc<WakeFd>,
    pub(super) pool: BufferPool,
}

impl FileDevice {
    /// Opens (or makes) the folder and takes its lock.
    ///
    /// # Errors
    /// [`OpenError`]: held by another process, no direct I/O though required, or what the file system says.
    pub fn open(path: &Path, direct: DirectIo) -> Result<Self, OpenError> {
        let folder = Folder::open(path, direct)?;
        let wake = Arc::new(WakeFd::new().map_err(OpenError::io("make an eventfd for", path))?);
        let dir = folder.clone_dir().map_err(OpenError::io("open the folder", path))?;
        let preparer = Preparer::new(path, dir, folder.is_direct(), Arc::clone(&wake));
        Ok(Self { folder, preparer, ready: Ready::default(), wake, pool: BufferPool::default() })
    }

    /// Readable whenever an operation may have ended; read 8 bytes to reset it. In blocking mode, so that it can be read
    /// through a ring.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Whether the page cache is bypassed.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.folder.is_direct()
    }

    /// Blocks until [`Device::poll`] may have something to collect, or until `timeout`.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if self.ready.is_empty() { self.wake.wait(timeout).map(drop) } else { Ok(()) }
    }

    /// Reports the end of an operation.
    pub(super) fn end(&mut self, is_write: bool, completion: Completion<AlignedBuffer>) {
        self.ready.put(is_write, completion);
        self.wake.ring();
    }

    fn start(&mut self, job: Job, id: IoId) {
        if let Err(refused) = self.preparer.start(job) {
            self.end(false, Completion { id, result: Err(refused), buffer: None });
        }
    }

    /// Collects what has ended; `adopt` sees every new slot's file.
    pub(super) fn collect(
        &mut self,
        ended: &mut Vec<Completion<AlignedBuffer>>,
        mut adopt: impl FnMut(SlotId, &Slot),
    ) {
        self.ready.collect(ended);
        while let Some(done) = self.preparer.poll() {
            let result = done.result.map(|made| {
                if let Some((slot, open)) = made {
                    adopt(slot, &open);
                    self.folder.insert(slot, open);
                }
            });
            ended.push(Completion { id: done.id, result, buffer: None });
        }
    }
}

impl Device for FileDevice {
    type Buffer = AlignedBuffer;

    fn buffer(&mut self, min_bytes: usize) -> AlignedBuffer {
        self.pool.take(min_bytes)
    }

    fn recycle(&mut self, buffer: AlignedBuffer) {
        self.pool.put(buffer);
    }

    fn submit(&mut self, id: IoId, op: Op<AlignedBuffer>) {
        match op {
            Op::WriteDurable { slot, offset, buffer, len } => {
                let result = self.folder.write(slot, offset, &buffer, len);
                self.end(true, Completion { id, result, buffer: Some(buffer) });
            }
            Op::Read { slot, offset, mut buffer, len } => {
                let result = self.folder.read(slot, offset, &mut buffer, len);
                self.end(false, Completion { id, result, buffer: Some(buffer) });
            }
            Op::Create { slot, bytes } => self.start(Job::Create { id, slot, bytes }, id),
            Op::Remove { slot } => {
                let open = self.folder.take(slot);
                self.start(Job::Remove { id, slot, open }, id);
            }
        }
    }

    fn in_flight(&self, id: IoId) -> Option<&[u8]> {
        self.ready.written(id)
    }

    fn poll(&mut self, ended: &mut Vec<Completion<AlignedBuffer>>) {
        self.collect(ended, |_, _| {});
    }

    fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>> {
        self.folder.list()
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn read_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &mut AlignedBuffer,
        len: u32,
    ) -> io::Result<()> {
        self.folder.read(slot, offset, buffer, len)
    }

    fn write_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &AlignedBuffer,
        len: u32,
    ) -> io::Result<()> {
        self.folder.write(slot, offset, buffer, len)
    }

    fn create_blocking(&mut self, slot: SlotId, content: &[u8]) -> io::Result<()> {
        self.folder.create(slot, content)
    }
}
