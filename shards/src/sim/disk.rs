//! The disk of one shard: the memory device of the WAL, driven by the world.
//!
//! The device holds the images; here lie the latencies, the stalls, which operation fails, and how a crash leaves what
//! was not yet durable. A fuse cuts an opening off after so many operations.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use corduroy_wal::Wal;
use corduroy_wal::device::mem::{MemBuffer, MemDevice, MemDisk, WriteFault};
use corduroy_wal::device::{Completion, Device, IoId, Op, SlotId};

use crate::sim::options::wal_options;
use crate::sim::rng::Rng;
use crate::sim::swarm::{Class, Knobs};

/// The unit that a crash keeps or loses, in bytes.
const SECTOR_BYTES: usize = 512;

/// What an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Write { slot: SlotId, offset: usize, bytes: usize },
    Read,
    Create,
    Remove,
}

impl What {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Write { .. } => "disk write",
            Self::Read => "disk read",
            Self::Create => "disk create",
            Self::Remove => "disk remove",
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Done,
    Failed,
}

/// What a crash did.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Lost {
    /// Writes of which nothing arrived.
    pub(super) lost: u64,
    /// Writes of which a part arrived.
    pub(super) torn: u64,
    /// Writes that arrived whole.
    pub(super) kept: u64,
}

/// What a process's device shares with the world.
#[derive(Debug, Default)]
struct Shared {
    /// Operations that have begun and not ended, in the order of the memory disk.
    pending: RefCell<Vec<(IoId, What)>>,
    /// Of those, how many at the end the world has not seen yet.
    unseen: Cell<usize>,
    /// Operations left until the process dies; `None` for no such end.
    fuse: Cell<Option<u64>>,
    blown: Cell<bool>,
}

impl Shared {
    /// Burns the fuse by one operation.
    fn burn(&self) -> io::Result<()> {
        match self.fuse.get() {
            None => Ok(()),
            Some(0) => {
                self.blown.set(true);
                Err(io::Error::other("the simulated process has died"))
            }
            Some(left) => {
                self.fuse.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

/// A process's view of a simulated disk.
#[derive(Debug)]
pub struct SimDevice {
    inner: MemDevice,
    shared: Rc<Shared>,
}

impl Device for SimDevice {
    type Buffer = MemBuffer;

    fn buffer(&mut self, min_bytes: usize) -> MemBuffer {
        self.inner.buffer(min_bytes)
    }

    fn recycle(&mut self, buffer: MemBuffer) {
        self.inner.recycle(buffer);
    }

    fn submit(&mut self, id: IoId, op: Op<MemBuffer>) {
        let what = match &op {
            Op::WriteDurable { slot, offset, len, .. } => {
                What::Write { slot: *slot, offset: *offset as usize, bytes: *len as usize }
            }
            Op::Read { .. } => What::Read,
            Op::Create { .. } => What::Create,
            Op::Remove { .. } => What::Remove,
        };
        self.shared.pending.borrow_mut().push((id, what));
        self.shared.unseen.set(self.shared.unseen.get() + 1);
        self.inner.submit(id, op);
    }

    fn in_flight(&self, id: IoId) -> Option<&[u8]> {
        self.inner.in_flight(id)
    }

    fn poll(&mut self, ended: &mut Vec<Completion<MemBuffer>>) {
        self.inner.poll(ended);
    }

    fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>> {
        self.shared.burn()?;
        self.inner.list()
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.shared.burn()?;
        self.inner.sync_all()
    }

    fn read_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &mut MemBuffer,
        len: u32,
    ) -> io::Result<()> {
        self.shared.burn()?;
        self.inner.read_blocking(slot, offset, buffer, len)
    }

    fn write_blocking(&mut self, slot: SlotId, offset: u32, buffer: &MemBuffer, len: u32) -> io::Result<()> {
        self.shared.burn()?;
        self.inner.write_blocking(slot, offset, buffer, len)
    }

    fn create_blocking(&mut self, slot: SlotId, content: &[u8]) -> io::Result<()> {
        self.shared.burn()?;
        self.inner.create_blocking(slot, content)
    }
}

/// The disk of one shard.
#[derive(Debug)]
pub(super) struct Disk {
    medium: MemDisk,
    shared: Rc<Shared>,
    latency_ns: u64,
    stalled_until_ns: u64,
    slow_until_ns: u64,
    fail_next_write: bool,
    /// Sectors of writes cut off by the last crash that still hold what they held before.
    untouched: Vec<(SlotId, usize)>,
    /// The positions of the last writes that ended well, newest last.
    recent: VecDeque<(SlotId, usize, usize)>,
}

/// By how much a slow disk is slower.
const SLOW_TIMES: u64 = 30;

/// How many of the last writes a flipped bit is aimed at.
const RECENT: usize = 6;

impl Disk {
    pub(super) fn new(seed: u64, (node, shard): (usize, u32), knobs: &Knobs) -> Self {
        let medium = MemDisk::new(Rng::of_node(seed, &format!("disk {shard}"), node).next_u64());
        medium.set_manual(true);
        Wal::create(&mut medium.device(), &wal_options(knobs, seed)).expect("an empty disk takes a log");
        medium.set_lying(knobs.has(Class::LyingFlush));
        Self {
            medium,
            shared: Rc::new(Shared::default()),
            latency_ns: knobs.disk_ns,
            stalled_until_ns: 0,
            slow_until_ns: 0,
            fail_next_write: false,
            untouched: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    /// A new process's view.
    pub(super) fn device(&self) -> SimDevice {
        SimDevice { inner: self.medium.device(), shared: Rc::clone(&self.shared) }
    }

    /// What a process would find after a power cut now, for one that works on a copy.
    pub(super) fn copy(&self) -> SimDevice {
        SimDevice { inner: self.medium.fork().device(), shared: Rc::default() }
    }

    /// The next opening dies after this many blocking operations.
    pub(super) fn set_fuse(&self, fuse: Option<u64>) {
        self.shared.fuse.set(fuse);
        self.shared.blown.set(false);
    }

    pub(super) fn fuse_blown(&self) -> bool {
        self.shared.blown.get()
    }

    /// Operations that began since the last call.
    pub(super) fn started(&self) -> Vec<(IoId, What)> {
        let pending = self.shared.pending.borrow();
        let seen = pending.len() - self.shared.unseen.take();
        pending.iter().skip(seen).copied().collect()
    }

    /// What an operation is that has begun and not ended.
    pub(super) fn under_way(&self, io: IoId) -> Option<What> {
        let pending = self.shared.pending.borrow();
        pending.iter().find(|(id, _)| *id == io).map(|(_, what)| *what)
    }

    /// When an operation that begins now ends, unless the disk stands still by then.
    pub(super) fn end_ns(&self, what: What, now_ns: u64, rng: &mut Rng) -> u64 {
        let typical = match what {
            What::Write { .. } | What::Read => self.latency_ns,
            What::Create | What::Remove => self.latency_ns * 8,
        };
        let times = if now_ns < self.slow_until_ns { SLOW_TIMES } else { 1 };
        now_ns + rng.heavy(typical) * times
    }

    pub(super) const fn slow_down(&mut self, until_ns: u64) {
        self.slow_until_ns = until_ns;
    }

    pub(super) const fn stall(&mut self, until_ns: u64) {
        self.stalled_until_ns = until_ns;
    }

    /// If the disk stands still, until when.
    pub(super) fn stalled_until(&self, now_ns: u64) -> Option<u64> {
        (self.stalled_until_ns > now_ns).then_some(self.stalled_until_ns)
    }

    pub(super) const fn fail_next_write(&mut self) {
        self.fail_next_write = true;
    }

    pub(super) fn set_full(&self, full: bool) {
        self.medium.set_max_slots(full.then(|| self.medium.slots().len()));
    }

    pub(super) fn in_flight(&self) -> usize {
        self.shared.pending.borrow().len()
    }

    /// An operation ends. `fault` decides how it fails, if it is to.
    pub(super) fn end(&mut self, io: IoId, rng: &mut Rng) -> End {
        let mut pending = self.shared.pending.borrow_mut();
        let at = pending
            .iter()
            .position(|(id, _)| *id == io)
            .expect("an operation ends once, while its process runs");
        let (_, what) = pending.remove(at);
        let fails = self.fail_next_write && matches!(what, What::Write { .. });
        if fails {
            self.fail_next_write = false;
            self.medium.fail_next_write(rng.pick(&[
                WriteFault::Eio,
                WriteFault::FlushEio,
                WriteFault::Short,
            ]));
        }
        assert!(self.medium.complete(at), "the memory disk has the operations that its device was given");
        if let What::Write { slot, offset, bytes } = what
            && !fails
        {
            self.recent.push_back((slot, offset, bytes));
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        if fails { End::Failed } else { End::Done }
    }

    /// The process has ended, with its machine (`power`) or alone.
    pub(super) fn crash(&mut self, power: bool) -> Lost {
        let mut lost = Lost::default();
        let writes = std::mem::take(&mut *self.shared.pending.borrow_mut());
        self.shared.unseen.set(0);
        self.set_fuse(None);
        self.fail_next_write = false;
        self.untouched.clear();
        let before = writes.iter().map(|(_, what)| self.image(*what)).collect::<Vec<_>>();
        if power {
            self.medium.crash();
        } else {
            self.medium.kill();
        }
        for ((_, what), before) in writes.iter().zip(before) {
            let What::Write { slot, offset, .. } = *what else { continue };
            let after = self.image(*what);
            let sectors = before.chunks(SECTOR_BYTES).zip(after.chunks(SECTOR_BYTES)).enumerate();
            let same = sectors.filter(|(_, (before, after))| before == after).map(|(number, _)| number);
            let same = same.collect::<Vec<_>>();
            match same.len() * SECTOR_BYTES {
                0 => lost.kept += 1,
                bytes if bytes >= before.len() => lost.lost += 1,
                _ => lost.torn += 1,
            }
            self.untouched.extend(same.into_iter().map(|number| (slot, offset + number * SECTOR_BYTES)));
        }
        lost
    }

    /// The bytes where a write goes.
    fn image(&self, what: What) -> Vec<u8> {
        let What::Write { slot, offset, bytes } = what else { return Vec::new() };
        self.medium.bytes(slot).get(offset..offset + bytes).unwrap_or_default().to_vec()
    }

    /// Flips bits where the last crash left no trace of a write under way. Returns how many.
    pub(super) fn flip_untouched(&self, rng: &mut Rng, bits: u32) -> u64 {
        if self.untouched.is_empty() {
            return 0;
        }
        for _ in 0..bits {
            let (slot, sector) = rng.pick(&self.untouched);
            let byte = sector + usize::try_from(rng.below(SECTOR_BYTES as u64)).expect("small");
            self.medium.flip(slot, byte, 1 << rng.below(8));
        }
        u64::from(bits)
    }

    /// Flips one bit of something that was written, half of the time of something written last. Returns where.
    pub(super) fn flip_anywhere(&self, rng: &mut Rng) -> Option<(SlotId, u64)> {
        if rng.chance(500) && !self.recent.is_empty() {
            let nth = usize::try_from(rng.below(self.recent.len() as u64)).expect("small");
            let (slot, offset, bytes) = *self.recent.get(nth)?;
            let byte = offset as u64 + rng.below(bytes as u64);
            self.medium.flip(
                slot,
                usize::try_from(byte).expect("a segment fits into memory"),
                1 << rng.below(8),
            );
            return Some((slot, byte));
        }
        let slots = self.medium.slots();
        let slot = (!slots.is_empty()).then(|| rng.pick(&slots))?;
        let bytes = self.medium.bytes(slot);
        let written = bytes.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let byte = rng.below(written);
        self.medium.flip(slot, usize::try_from(byte).expect("a segment fits into memory"), 1 << rng.below(8));
        Some((slot, byte))
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        self.stalled_until_ns = 0;
        self.slow_until_ns = 0;
        self.fail_next_write = false;
        self.set_full(false);
    }
}
