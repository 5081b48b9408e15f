//! The yardstick: nothing but an io_uring that overwrites a zero-written file, as fast as it ends.
//!
//! Written without the crate's device, so that it can show what the device costs; hence the unsafe code here.

#![allow(unsafe_code, reason = "drives a ring without the crate's device")]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use corduroy_wal::device::{AlignedBuffer, SyncMode};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};

use crate::measure::{Clock, Round};

const DEPTH_MAX: usize = 4;
const BUFFER_BYTES: usize = 1 << 20;

pub struct Bare {
    ring: IoUring,
    buffers: Vec<AlignedBuffer>,
    payload: Vec<u8>,
    /// Whether the bytes of each write are summed up and copied into its buffer, as no log can do without; else the same,
    /// untouched since the loop began, are written again and again.
    copies: bool,
    sync: SyncMode,
    offset: u64,
    file_bytes: u64,
    _file: File,
}

impl Bare {
    /// Makes a file of so many bytes; every write will begin with `payload`.
    pub fn new(folder: &Path, sync: SyncMode, payload: &[u8], file_bytes: u64) -> Self {
        let payload = payload.to_vec();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_DIRECT)
            .open(folder.join("bare"))
            .unwrap();
        let zeros = AlignedBuffer::zeroed(BUFFER_BYTES);
        for offset in (0..file_bytes).step_by(BUFFER_BYTES) {
            file.write_all_at(&zeros, offset).unwrap();
        }
        file.sync_all().unwrap();
        let ring = IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(64).unwrap();
        let mut buffers: Vec<_> = (0..DEPTH_MAX).map(|_| AlignedBuffer::zeroed(BUFFER_BYTES)).collect();
        // What is written is the same as elsewhere: whatever lies below may treat zeros better.
        for buffer in &mut buffers {
            buffer[..payload.len()].copy_from_slice(&payload);
        }
        let table: Vec<_> = buffers
            .iter_mut()
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() })
            .collect();
        // SAFETY: the buffers live as long as the ring and are never written while an operation uses them.
        unsafe { ring.submitter().register_buffers(&table) }.unwrap();
        ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
        Self { ring, buffers, payload, copies: false, sync, offset: 0, file_bytes, _file: file }
    }

    /// Has the bytes of each write summed up and copied from now on, or not.
    pub fn set_copies(&mut self, copies: bool) {
        self.copies = copies;
    }

    /// Keeps `depth` durable writes of `len` bytes going for `length`.
    pub fn run(&mut self, len: u32, depth: usize, length: Duration) -> Round {
        let mut clock = Clock::start(length);
        let mut begun = VecDeque::new();
        for place in 0..depth {
            begun.push_back((place as u64, Instant::now()));
            self.queue(place as u64, len);
        }
        while !begun.is_empty() {
            self.ring.submit_and_wait(1).unwrap();
            let ended: Vec<_> = self.ring.completion().map(|e| (e.user_data(), e.result())).collect();
            for (place, result) in ended {
                assert!(result == 0 || result == len as i32, "bare write: {result}");
                let at = begun.iter().position(|(p, _)| *p == place).unwrap();
                let (_, start) = begun.remove(at).unwrap();
                clock.record(start.elapsed());
                if clock.running() {
                    begun.push_back((place, Instant::now()));
                    self.queue(place, len);
                }
            }
        }
        clock.finish()
    }

    fn queue(&mut self, place: u64, len: u32) {
        if self.offset + u64::from(len) > self.file_bytes {
            self.offset = 0;
        }
        if self.copies {
            black_box(crc32fast::hash(&self.payload));
            self.buffers[place as usize][..self.payload.len()].copy_from_slice(&self.payload);
        }
        let start = self.buffers[place as usize].as_ptr();
        let flags = if self.sync == SyncMode::Dsync { libc::RWF_DSYNC } else { 0 };
        let write = opcode::WriteFixed::new(Fixed(0), start, len, place as u16)
            .offset(self.offset)
            .rw_flags(flags)
            .build()
            .user_data(place);
        self.offset += u64::from(len);
        let mut queue = self.ring.submission();
        if self.sync == SyncMode::Dsync {
            // SAFETY: the buffer lives as long as the ring.
            unsafe { queue.push(&write) }.unwrap();
        } else {
            let write = write.flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS);
            let sync = opcode::Fsync::new(Fixed(0)).flags(FsyncFlags::DATASYNC).build().user_data(place);
            // SAFETY: the buffer lives as long as the ring.
            unsafe { queue.push_multiple(&[write, sync]) }.unwrap();
        }
    }
}
