//! Going on in the newest segment after a start that finds no spare slot.
//!
//! Writing after a start goes on in a new segment, since what a crash left behind the newest one's end could be taken
//! for frames that follow. On a full disk there may be no slot for one, and then nothing could be written that frees
//! any. So the newest segment is written further there, after all that was written behind its end has been overwritten
//! with zeros. Invariant: no frame starts before those zeros are durable; a start that is cut short in the middle finds
//! the same end and begins again.

use std::ops::Range;

use crate::device::{BLOCK_BYTES, Device, Op};
use crate::index::SegmentIndex;
use crate::segment::Segment;
use crate::wal::{Purpose, Wal};

/// Bytes overwritten at a time.
const STEP_BYTES: u32 = 1 << 20;

/// The newest segment, if frames may follow in it.
#[derive(Debug)]
pub(crate) struct Unsealed {
    /// What its frames say: its footer to be.
    pub effects: SegmentIndex,
    /// Behind its frames: blocks that a crash left written.
    pub leftovers: Range<u32>,
}

impl<D: Device> Wal<D> {
    /// Makes the newest segment the active one again, if no other can be had.
    pub(crate) fn resume(&mut self, unsealed: Option<Unsealed>) {
        let Some(Unsealed { effects, leftovers }) = unsealed.filter(|_| self.segments.spares() == 0) else {
            return;
        };
        if self.segments.reopen_newest() {
            self.active_index = effects;
            self.leftovers = leftovers;
            self.wipe();
        }
    }

    /// Whether frames must wait for leftovers to be overwritten.
    pub(crate) fn is_wiping(&self) -> bool {
        !self.leftovers.is_empty()
    }

    /// Overwrites the next leftovers, if there are any.
    fn wipe(&mut self) {
        let Some(Segment { slot, .. }) = self.segments.active.as_ref().filter(|_| self.is_wiping()) else {
            return;
        };
        let (slot, offset) = (*slot, self.leftovers.start);
        let len = (self.leftovers.end - offset).min(STEP_BYTES);
        let mut buffer = self.device.buffer(len as usize);
        buffer.get_mut(..len as usize).expect("as large as asked for").fill(0);
        let io = self.new_io(Purpose::Wipe);
        self.device.submit(io, Op::WriteDurable { slot, offset, buffer, len });
    }

    /// A step of overwriting has ended well.
    pub(crate) fn on_wiped(&mut self) {
        assert!(self.is_wiping(), "nothing was to be overwritten");
        self.leftovers.start = (self.leftovers.start + STEP_BYTES).min(self.leftovers.end);
        self.wipe();
    }
}

/// Whether a segment has room for another frame in front of its footer.
pub(crate) fn has_room(end: u32, bytes: u32) -> bool {
    end + 2 * u32::try_from(BLOCK_BYTES).expect("a small constant")
        <= bytes - crate::format::footer::reserve_bytes(bytes)
}
