//! One process's door to the disk in memory: lends buffers, queues operations, and brings back what has ended.

use std::io;
use std::ops::{Deref, DerefMut};

use super::{Ended, MemDisk, Work, Write, copy_in};
use crate::device::folder::{beyond, check_range};
use crate::device::{BLOCK_BYTES, Completion, Device, IoId, Op, SlotId};

/// A buffer of the memory device.
#[derive(Debug)]
pub struct MemBuffer(Vec<u8>);

impl Deref for MemBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for MemBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// One process's door to a [`MemDisk`].
#[derive(Debug)]
pub struct MemDevice {
    disk: MemDisk,
    lent: Vec<(IoId, MemBuffer, bool)>,
    free: Vec<MemBuffer>,
}

impl MemDevice {
    pub(super) fn new(disk: MemDisk) -> Self {
        Self { disk, lent: Vec::new(), free: Vec::new() }
    }

    /// Refuses what a real disk's device refuses.
    fn check(&self, slot: SlotId, offset: u32, buffer_bytes: usize, len: u32) -> io::Result<()> {
        let bytes = self.disk.0.borrow().slots.get(&slot).map(|slot| slot.seen.len() as u64);
        check_range(slot, bytes, offset, len)?;
        if buffer_bytes < len as usize { Err(beyond(buffer_bytes, len)) } else { Ok(()) }
    }

    /// The medium behind it.
    #[must_use]
    pub fn disk(&self) -> &MemDisk {
        &self.disk
    }
}

impl Device for MemDevice {
    type Buffer = MemBuffer;

    fn buffer(&mut self, min_bytes: usize) -> MemBuffer {
        match self.free.iter().position(|buffer| buffer.len() >= min_bytes) {
            Some(at) => self.free.swap_remove(at),
            None => MemBuffer(vec![0xEE; min_bytes.next_multiple_of(BLOCK_BYTES)]),
        }
    }

    fn recycle(&mut self, mut buffer: MemBuffer) {
        if self.free.len() < 8 {
            // Bytes of an earlier use must not matter to anybody.
            buffer.iter_mut().step_by(61).for_each(|byte| *byte = 0xEE);
            self.free.push(buffer);
        }
    }

    fn submit(&mut self, id: IoId, op: Op<MemBuffer>) {
        let work = match op {
            Op::WriteDurable { slot, offset, buffer, len } => {
                let checked = self.check(slot, offset, buffer.len(), len);
                let data = buffer.get(..len as usize).unwrap_or_default().to_vec();
                self.lent.push((id, buffer, true));
                checked.map(|()| Work::Write(Write { slot, offset: offset as usize, data }))
            }
            Op::Read { slot, offset, buffer, len } => {
                let checked = self.check(slot, offset, buffer.len(), len);
                self.lent.push((id, buffer, false));
                checked.map(|()| Work::Read { slot, offset: offset as usize, len: len as usize })
            }
            Op::Create { slot, bytes } => Ok(Work::Create { slot, bytes: bytes as usize }),
            Op::Remove { slot } => Ok(Work::Remove { slot }),
        };
        let mut disk = self.disk.0.borrow_mut();
        match work {
            Ok(work) => disk.pending.push((id, work)),
            Err(refused) => disk.ended.push(Ended { id, result: Err(refused), data: None }),
        }
    }

    fn in_flight(&self, id: IoId) -> Option<&[u8]> {
        self.lent.iter().find(|(lent, _, write)| *lent == id && *write).map(|(_, buffer, _)| &**buffer)
    }

    fn poll(&mut self, ended: &mut Vec<Completion<MemBuffer>>) {
        let mut disk = self.disk.0.borrow_mut();
        if disk.stalled {
            return;
        }
        if !disk.manual {
            while disk.complete(0) {}
        }
        for done in std::mem::take(&mut disk.ended) {
            let buffer = self.lent.iter().position(|(id, _, _)| *id == done.id).map(|at| {
                let (_, mut buffer, _) = self.lent.swap_remove(at);
                if let Some(data) = &done.data {
                    copy_in(&mut buffer, 0, data);
                }
                buffer
            });
            ended.push(Completion { id: done.id, result: done.result, buffer });
        }
    }

    fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>> {
        Ok(self.disk.0.borrow().slots.iter().map(|(id, slot)| (*id, slot.seen.len() as u64)).collect())
    }

    fn sync_all(&mut self) -> io::Result<()> {
        let mut disk = self.disk.0.borrow_mut();
        if !disk.lying {
            for write in std::mem::take(&mut disk.volatile) {
                disk.persist(&write);
            }
        }
        Ok(())
    }

    fn read_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &mut MemBuffer,
        len: u32,
    ) -> io::Result<()> {
        self.check(slot, offset, buffer.len(), len)?;
        let data = self.disk.0.borrow().read(slot, offset as usize, len as usize)?;
        copy_in(buffer, 0, &data);
        Ok(())
    }

    fn write_blocking(&mut self, slot: SlotId, offset: u32, buffer: &MemBuffer, len: u32) -> io::Result<()> {
        self.check(slot, offset, buffer.len(), len)?;
        let data = buffer.get(..len as usize).unwrap_or_default().to_vec();
        self.disk.0.borrow_mut().write(Write { slot, offset: offset as usize, data })
    }

    fn create_blocking(&mut self, slot: SlotId, content: &[u8]) -> io::Result<()> {
        self.disk.0.borrow_mut().create_with(slot, content.to_vec())
    }
}
