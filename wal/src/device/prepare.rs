//! Making and removing slots on one helper thread, so that the core never waits for a file system's metadata.
//!
//! A slot is made under a temporary name, zero-written in small steps with pauses (a disk kept busy would delay
//! every commit), synced, renamed, and the folder synced. Invariant: a failed making leaves nothing behind.
//! The thread starts with the first job and sleeps between jobs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use super::calls;
use super::folder::{Slot, slot_file_name, slot_open_options, temporary_path};
use super::wake::WakeFd;
use super::{AlignedBuffer, IoId, SlotId};

/// Bytes zero-written at a time.
const STEP_BYTES: usize = 512 << 10;
/// The pause after a step is as long as the step took, within these bounds: half of the disk's time at most.
const PAUSE_MIN: Duration = Duration::from_micros(100);
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// Left free on the disk when a slot is made, in slots: the state needs room to take over what the log holds, or a
/// full disk could never be left by it.
const KEEP_FREE_SLOTS: u64 = 4;
/// The helper holds no large frames.
const STACK_BYTES: usize = 128 << 10;

/// What the helper is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Make a slot of `bytes` zeros.
    Create { id: IoId, slot: SlotId, bytes: u32 },
    /// Remove a slot; the open file, if there is one, is closed there too (it frees the extents).
    Remove { id: IoId, slot: SlotId, open: Option<Slot> },
}

impl Job {
    fn id(&self) -> IoId {
        match self {
            Self::Create { id, .. } | Self::Remove { id, .. } => *id,
        }
    }
}

/// How a job ended; a created slot comes open.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: IoId,
    pub(super) result: io::Result<Option<(SlotId, Slot)>>,
}

/// The core's end of the helper thread.
#[derive(Debug)]
pub(super) struct Preparer {
    worker: Arc<Worker>,
    running: Option<Running>,
    outstanding: usize,
}

#[derive(Debug)]
struct Running {
    jobs: Sender<Job>,
    done: Receiver<Done>,
    thread: JoinHandle<()>,
}

/// What the helper needs to know.
#[derive(Debug)]
struct Worker {
    folder: PathBuf,
    dir: File,
    direct: bool,
    wake: Arc<WakeFd>,
    stop: AtomicBool,
    /// Held by a test while no slot is to be made.
    #[cfg(test)]
    gate: std::sync::Mutex<()>,
}

impl Preparer {
    /// A helper for `folder`, whose handle is `dir`; `wake` is rung at the end of each job.
    pub(super) fn new(folder: &Path, dir: File, direct: bool, wake: Arc<WakeFd>) -> Self {
        let folder = folder.to_owned();
        let worker = Arc::new(Worker {
            folder,
            dir,
            direct,
            wake,
            stop: AtomicBool::new(false),
            #[cfg(test)]
            gate: std::sync::Mutex::default(),
        });
        Self { worker, running: None, outstanding: 0 }
    }

    /// Jobs that have not come back from [`Preparer::poll`].
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Hands a job over.
    ///
    /// # Errors
    /// The helper could not be started or has died.
    pub(super) fn start(&mut self, job: Job) -> io::Result<()> {
        if self.running.is_none() {
            self.running = Some(Self::spawn(Arc::clone(&self.worker))?);
        }
        let running = self.running.as_ref().expect("set just above");
        running.jobs.send(job).map_err(|_| io::Error::other("the WAL's helper thread has died"))?;
        self.outstanding += 1;
        Ok(())
    }

    fn spawn(worker: Arc<Worker>) -> io::Result<Running> {
        let (jobs, inbox) = channel::<Job>();
        let (outbox, done) = channel();
        let body = move || {
            for job in inbox {
                let id = job.id();
                let result = worker.run(job);
                if outbox.send(Done { id, result }).is_err() {
                    break;
                }
                worker.wake.ring();
            }
        };
        let thread =
            thread::Builder::new().name("wal-prepare".to_owned()).stack_size(STACK_BYTES).spawn(body)?;
        Ok(Running { jobs, done, thread })
    }

    /// The next job that has ended, if one has.
    pub(super) fn poll(&mut self) -> Option<Done> {
        if self.outstanding == 0 {
            return None;
        }
        let done = self.running.as_ref()?.done.try_recv().ok()?;
        self.outstanding -= 1;
        Some(done)
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.worker.stop.store(true, Ordering::Relaxed);
        if let Some(Running { jobs, done, thread }) = self.running.take() {
            drop((jobs, done));
            // A panic of the helper has been printed by the runtime and has nobody left to act on it.
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn run(&self, job: Job) -> io::Result<Option<(SlotId, Slot)>> {
        match job {
            Job::Create { slot, bytes, .. } => self.create(slot, bytes).map(|made| Some((slot, made))),
            Job::Remove { slot, open, .. } => {
                drop(open);
                calls::remove(&self.folder.join(slot_file_name(slot)))?;
                calls::sync_all(&self.dir)?;
                Ok(None)
            }
        }
    }

    fn create(&self, slot: SlotId, bytes: u32) -> io::Result<Slot> {
        #[cfg(test)]
        let _open = self.gate.lock().expect("a test that failed has ended");
        let named = self.folder.join(slot_file_name(slot));
        if named.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", named.display())));
        }
        let temporary = temporary_path(&self.folder, slot);
        // The first error is the one to report; what cannot be removed now is removed at the next opening.
        let file = self.create_at(&temporary, bytes).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        calls::rename(&temporary, &named).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
        calls::sync_all(&self.dir).inspect_err(|_| drop(fs::remove_file(&named)))?;
        Ok(Slot { file, bytes: u64::from(bytes) })
    }

    /// A file of `bytes` zeros, written (not merely allocated) and synced.
    fn create_at(&self, path: &Path, bytes: u32) -> io::Result<File> {
        let disk = fstatvfs(&self.dir)?;
        if disk.f_bavail * disk.f_frsize < u64::from(bytes) * (1 + KEEP_FREE_SLOTS) {
            return Err(Errno::NOSPC.into());
        }
        let file = slot_open_options(self.direct).create(true).truncate(true).open(path)?;
        // Asked for in one piece: few extents, and a full disk shows before anything is written.
        match fallocate(&file, FallocateFlags::empty(), 0, u64::from(bytes)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let zeros = AlignedBuffer::zeroed(STEP_BYTES.min(bytes as usize));
        let mut offset = 0_u64;
        while offset < u64::from(bytes) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the WAL is being closed"));
            }
            let left = usize::try_from(u64::from(bytes) - offset).unwrap_or(usize::MAX);
            let step = zeros.get(..left.min(zeros.len())).expect("cut to the buffer's length");
            let begun = Instant::now();
            calls::write_all_at(&file, step, offset)?;
            offset += step.len() as u64;
            if offset < u64::from(bytes) {
                thread::sleep(begun.elapsed().clamp(PAUSE_MIN, PAUSE_MAX));
            }
        }
        calls::sync_all(&file)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{
        Completion, Device, DirectIo, FileDevice, Op, OpenError, SyncMode, UringDevice, UringOptions,
    };

    const MAKING: IoId = IoId(1);
    const SLOT_BYTES: u32 = 256 << 10;

    fn ended(device: &mut impl Device<Buffer = AlignedBuffer>) -> Vec<IoId> {
        let mut ended = Vec::new();
        device.poll(&mut ended);
        ended
            .into_iter()
            .map(|Completion { id, result, .. }| {
                result.unwrap();
                id
            })
            .collect()
    }

    /// Writes while the helper is held in the middle of its work, then lets it go.
    fn writes_go_on<D: Device<Buffer = AlignedBuffer>>(
        device: &mut D,
        preparer: impl Fn(&D) -> &Preparer,
        wait: impl Fn(&mut D),
    ) {
        device.submit(IoId(0), Op::Create { slot: SlotId(0), bytes: SLOT_BYTES });
        while ended(device).is_empty() {
            wait(device);
        }
        let worker = Arc::clone(&preparer(device).worker);
        let gate = worker.gate.lock().unwrap();
        device.submit(MAKING, Op::Create { slot: SlotId(1), bytes: SLOT_BYTES });
        for number in 2..10 {
            let buffer = device.buffer(4096);
            let op = Op::WriteDurable { slot: SlotId(0), offset: 0, buffer, len: 4096 };
            device.submit(IoId(number), op);
            loop {
                match ended(device).as_slice() {
                    [] => wait(device),
                    [id] => break assert_eq!(*id, IoId(number), "the slot cannot have been made yet"),
                    more => panic!("one write was under way, and these ended: {more:?}"),
                }
            }
        }
        assert_eq!(device.list().unwrap().len(), 1);
        drop(gate);
        loop {
            match ended(device).as_slice() {
                [] => wait(device),
                made => break assert_eq!(made, [MAKING]),
            }
        }
        assert_eq!(device.list().unwrap().len(), 2);
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn blocking_writes_go_on_while_a_slot_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let mut device = FileDevice::open(dir.path(), DirectIo::Preferred).unwrap();
        writes_go_on(&mut device, |device| &device.preparer, |device| device.wait(PATIENCE).unwrap());
    }

    #[test]
    fn ring_writes_go_on_while_a_slot_is_made() {
        for sync in [SyncMode::Linked, SyncMode::Dsync, SyncMode::Inline] {
            let dir = tempfile::tempdir().unwrap();
            let options = UringOptions { sync, ..UringOptions::default() };
            let mut device = match UringDevice::open(dir.path(), options) {
                Err(refused @ OpenError::NoDirectIo { .. }) => return eprintln!("SKIPPED: {refused}"),
                opened => opened.unwrap(),
            };
            writes_go_on(&mut device, UringDevice::preparer, |device| device.wait(PATIENCE).unwrap());
        }
    }
}
