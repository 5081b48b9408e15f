//! A disk in memory with a fault model: the device of the simulator and of the tests.
//!
//! [`MemDisk`] is the medium and outlives crashes; [`MemDevice`] is one process's view of it. Nothing is durable
//! before its write has completed; what a crash leaves of anything else is drawn per sector from the disk's seed, so a
//! seed replays exactly. Completions come by themselves, or one by one in any order when the disk is `manual`.

mod door;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use crate::device::folder::no_file;
use crate::device::{BLOCK_BYTES, IoId, SlotId};
use crate::mix::{STEP, mix};

pub use door::{MemBuffer, MemDevice};

const SECTOR_BYTES: usize = 512;

/// What goes wrong with a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteFault {
    /// The write fails; any sectors of it may have arrived.
    Eio,
    /// The write arrives but the flush fails; later flushes succeed without covering it.
    FlushEio,
    /// Only a part is written, and the device says so.
    Short,
}

#[derive(Clone, Debug)]
struct Write {
    slot: SlotId,
    offset: usize,
    data: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Work {
    Write(Write),
    Read { slot: SlotId, offset: usize, len: usize },
    Create { slot: SlotId, bytes: usize },
    Remove { slot: SlotId },
}

#[derive(Debug)]
struct Ended {
    id: IoId,
    result: io::Result<()>,
    data: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// What survives a crash.
    media: Vec<u8>,
    /// What a read sees.
    seen: Vec<u8>,
}

#[derive(Debug, Default)]
struct Disk {
    slots: BTreeMap<SlotId, Slot>,
    pending: Vec<(IoId, Work)>,
    ended: Vec<Ended>,
    /// Writes that were completed, rightly or not, without being durable.
    volatile: Vec<Write>,
    write_faults: Vec<WriteFault>,
    bad_reads: Vec<(SlotId, usize)>,
    max_slots: Option<usize>,
    manual: bool,
    stalled: bool,
    lying: bool,
    random: u64,
}

/// The medium. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Rc<RefCell<Disk>>);

impl MemDisk {
    /// An empty disk; equal seeds make equal faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.0.borrow_mut().random = mix(seed);
        disk
    }

    /// A process's view of the disk. One at a time is in use; after [`MemDisk::crash`] a new one is taken.
    #[must_use]
    pub fn device(&self) -> MemDevice {
        MemDevice::new(self.clone())
    }

    /// An independent copy of what is durable, with no operations under way.
    #[must_use]
    pub fn fork(&self) -> Self {
        let from = self.0.borrow();
        let slots = from
            .slots
            .iter()
            .map(|(id, slot)| (*id, Slot { media: slot.media.clone(), seen: slot.media.clone() }));
        Self(Rc::new(RefCell::new(Disk { slots: slots.collect(), random: from.random, ..Disk::default() })))
    }

    /// Whether operations end only through [`MemDisk::complete`] and its kin.
    pub fn set_manual(&self, manual: bool) {
        self.0.borrow_mut().manual = manual;
    }

    /// Withholds all completions until this is set back.
    pub fn set_stalled(&self, stalled: bool) {
        self.0.borrow_mut().stalled = stalled;
    }

    /// While set, writes are reported durable without being so.
    pub fn set_lying(&self, lying: bool) {
        self.0.borrow_mut().lying = lying;
    }

    /// Slots that the disk has room for; making another fails with ENOSPC.
    pub fn set_max_slots(&self, max: Option<usize>) {
        self.0.borrow_mut().max_slots = max;
    }

    /// The next write to be completed that has no fault yet gets this one.
    pub fn fail_next_write(&self, fault: WriteFault) {
        self.0.borrow_mut().write_faults.push(fault);
    }

    /// Reads that touch this byte fail from now on.
    pub fn fail_reads(&self, slot: SlotId, offset: usize) {
        self.0.borrow_mut().bad_reads.push((slot, offset));
    }

    /// Makes all bad sectors readable again.
    pub fn heal_reads(&self) {
        self.0.borrow_mut().bad_reads.clear();
    }

    /// Operations that have not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// Writes among them.
    #[must_use]
    pub fn pending_writes(&self) -> usize {
        self.0.borrow().pending.iter().filter(|(_, work)| matches!(work, Work::Write(_))).count()
    }

    /// The slots of these writes, each with its index in the order of arrival of all operations.
    #[must_use]
    pub fn writes_under_way(&self) -> Vec<(usize, SlotId)> {
        let disk = self.0.borrow();
        let slot = |(at, (_, work)): (usize, &(IoId, Work))| match work {
            Work::Write(write) => Some((at, write.slot)),
            Work::Read { .. } | Work::Create { .. } | Work::Remove { .. } => None,
        };
        disk.pending.iter().enumerate().filter_map(slot).collect()
    }

    /// Ends the operation that is `at`-th in order of arrival. False if there is none.
    pub fn complete(&self, at: usize) -> bool {
        self.0.borrow_mut().complete(at)
    }

    /// Ends the oldest operation.
    pub fn complete_next(&self) -> bool {
        self.complete(0)
    }

    /// Ends an operation drawn from the disk's seed.
    pub fn complete_any(&self) -> bool {
        let mut disk = self.0.borrow_mut();
        let count = disk.pending.len() as u64;
        if count == 0 {
            return false;
        }
        let at = disk.draw(count);
        disk.complete(usize::try_from(at).unwrap_or(0))
    }

    /// Ends all operations in order.
    pub fn complete_all(&self) {
        while self.complete_next() {}
    }

    /// Power fails: operations under way and volatile writes arrive in parts, drawn from the seed.
    pub fn crash(&self) {
        self.0.borrow_mut().crash();
    }

    /// The process dies and the machine keeps running: what was handed to the disk arrives whole.
    pub fn kill(&self) {
        let mut disk = self.0.borrow_mut();
        for (_, work) in std::mem::take(&mut disk.pending) {
            if let Work::Write(write) = work {
                disk.see(&write);
                disk.volatile.push(write);
            }
        }
        disk.ended.clear();
    }

    /// The slots there are, without the manifest.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotId> {
        self.0.borrow().slots.keys().copied().filter(|slot| *slot != SlotId::MANIFEST).collect()
    }

    /// A slot's bytes as a read would see them.
    #[must_use]
    pub fn bytes(&self, slot: SlotId) -> Vec<u8> {
        self.0.borrow().slots.get(&slot).map(|slot| slot.seen.clone()).unwrap_or_default()
    }

    /// Changes a byte on the medium.
    pub fn flip(&self, slot: SlotId, offset: usize, mask: u8) {
        if let Some(slot) = self.0.borrow_mut().slots.get_mut(&slot) {
            for bytes in [&mut slot.media, &mut slot.seen] {
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= mask;
                }
            }
        }
    }

    /// Overwrites bytes on the medium: misdirected writes, stale blocks.
    pub fn overwrite(&self, slot: SlotId, offset: usize, data: &[u8]) {
        let write = Write { slot, offset, data: data.to_vec() };
        let mut disk = self.0.borrow_mut();
        disk.see(&write);
        disk.persist(&write);
    }

    /// Cuts a slot's file short.
    pub fn truncate(&self, slot: SlotId, bytes: usize) {
        if let Some(slot) = self.0.borrow_mut().slots.get_mut(&slot) {
            slot.media.truncate(bytes);
            slot.seen.truncate(bytes);
        }
    }

    /// Takes a slot away.
    pub fn delete(&self, slot: SlotId) {
        self.0.borrow_mut().slots.remove(&slot);
    }
}

fn error(kind: io::ErrorKind, what: &str) -> io::Error {
    io::Error::new(kind, what.to_owned())
}

impl Disk {
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(STEP);
        mix(self.random) % below
    }

    fn see(&mut self, write: &Write) {
        if let Some(slot) = self.slots.get_mut(&write.slot) {
            copy_in(&mut slot.seen, write.offset, &write.data);
        }
    }

    fn persist(&mut self, write: &Write) {
        if let Some(slot) = self.slots.get_mut(&write.slot) {
            copy_in(&mut slot.media, write.offset, &write.data);
        }
    }

    fn complete(&mut self, at: usize) -> bool {
        if at >= self.pending.len() {
            return false;
        }
        let (id, work) = self.pending.remove(at);
        let (result, data) = match work {
            Work::Write(write) => (self.write(write), None),
            Work::Read { slot, offset, len } => match self.read(slot, offset, len) {
                Ok(data) => (Ok(()), Some(data)),
                Err(error) => (Err(error), None),
            },
            Work::Create { slot, bytes } => (self.create(slot, bytes), None),
            Work::Remove { slot } => {
                let removed = self.slots.remove(&slot);
                (removed.map(drop).ok_or_else(|| no_file(slot)), None)
            }
        };
        self.ended.push(Ended { id, result, data });
        true
    }

    fn write(&mut self, write: Write) -> io::Result<()> {
        let fits = |slot: &Slot| write.offset + write.data.len() <= slot.seen.len();
        if !self.slots.get(&write.slot).is_some_and(fits) {
            return Err(error(io::ErrorKind::InvalidInput, "a write beyond a slot"));
        }
        if self.write_faults.is_empty() {
            self.see(&write);
            if self.lying {
                self.volatile.push(write);
            } else {
                self.persist(&write);
            }
            return Ok(());
        }
        match self.write_faults.remove(0) {
            WriteFault::Eio => {
                self.arrive_in_parts(&write, true);
                Err(error(io::ErrorKind::Other, "injected EIO on write"))
            }
            WriteFault::FlushEio => {
                self.see(&write);
                self.volatile.push(write);
                Err(error(io::ErrorKind::Other, "injected EIO on flush"))
            }
            WriteFault::Short => {
                let blocks = (write.data.len() / BLOCK_BYTES) as u64;
                let kept = usize::try_from(self.draw(blocks.max(1))).unwrap_or(0) * BLOCK_BYTES;
                let part = Write { data: write.data.get(..kept).unwrap_or_default().to_vec(), ..write };
                self.see(&part);
                self.volatile.push(part);
                Err(error(io::ErrorKind::WriteZero, "injected short write"))
            }
        }
    }

    fn read(&self, slot: SlotId, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        if self.bad_reads.iter().any(|(bad, at)| *bad == slot && (offset..offset + len).contains(at)) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let found = self.slots.get(&slot).ok_or_else(|| error(io::ErrorKind::NotFound, "no such slot"))?;
        let bytes = found.seen.get(offset..offset + len);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| error(io::ErrorKind::UnexpectedEof, "a read beyond a slot"))
    }

    fn create(&mut self, slot: SlotId, bytes: usize) -> io::Result<()> {
        let slots = self.slots.keys().filter(|slot| **slot != SlotId::MANIFEST).count();
        if self.max_slots.is_some_and(|max| slots >= max) {
            return Err(error(io::ErrorKind::StorageFull, "no space left on the memory disk"));
        }
        self.create_with(slot, vec![0; bytes])
    }

    fn create_with(&mut self, slot: SlotId, content: Vec<u8>) -> io::Result<()> {
        if self.slots.contains_key(&slot) {
            return Err(error(io::ErrorKind::AlreadyExists, "the slot exists"));
        }
        self.slots.insert(slot, Slot { media: content.clone(), seen: content });
        Ok(())
    }

    /// Some sectors of a write arrive and others do not.
    fn arrive_in_parts(&mut self, write: &Write, seen: bool) {
        let manner = self.draw(8);
        let cut = usize::try_from(self.draw((write.data.len() / SECTOR_BYTES) as u64 + 1)).unwrap_or(0);
        for (number, sector) in write.data.chunks(SECTOR_BYTES).enumerate() {
            let block = (number / (BLOCK_BYTES / SECTOR_BYTES)) as u64;
            let arrives = match manner {
                0 => false,
                1 => true,
                2 | 3 => number < cut,
                4 | 5 => mix(self.random ^ block) & 1 == 0,
                _ => self.draw(2) == 0,
            };
            if arrives {
                let part = Write {
                    slot: write.slot,
                    offset: write.offset + number * SECTOR_BYTES,
                    data: sector.to_vec(),
                };
                self.persist(&part);
                if seen {
                    self.see(&part);
                }
            }
        }
    }

    fn crash(&mut self) {
        self.ended.clear();
        let mut writes = std::mem::take(&mut self.volatile);
        for (_, work) in std::mem::take(&mut self.pending) {
            match work {
                Work::Write(write) => writes.push(write),
                Work::Create { slot, bytes } if self.draw(2) == 0 => {
                    // Whether the file came to be is left open; it is never half made.
                    let _room = self.create(slot, bytes);
                }
                Work::Remove { slot } if self.draw(2) == 0 => {
                    self.slots.remove(&slot);
                }
                Work::Read { .. } | Work::Create { .. } | Work::Remove { .. } => {}
            }
        }
        while !writes.is_empty() {
            let at = usize::try_from(self.draw(writes.len() as u64)).unwrap_or(0);
            let write = writes.swap_remove(at);
            self.arrive_in_parts(&write, false);
        }
        self.write_faults.clear();
        self.stalled = false;
        self.slots.values_mut().for_each(|slot| slot.seen.clone_from(&slot.media));
    }
}

fn copy_in(bytes: &mut [u8], offset: usize, data: &[u8]) {
    if let Some(range) = bytes.get_mut(offset..offset + data.len()) {
        range.copy_from_slice(data);
    }
}
