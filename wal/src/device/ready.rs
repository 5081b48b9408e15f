//! Ends that did not come from the ring, waiting to be collected.

use super::{AlignedBuffer, Completion, IoId};

/// In the order they were put; writes are marked, as their bytes may be read until they are collected.
#[derive(Debug, Default)]
pub(super) struct Ready {
    ends: Vec<(bool, Completion<AlignedBuffer>)>,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn put(&mut self, is_write: bool, completion: Completion<AlignedBuffer>) {
        self.ends.push((is_write, completion));
    }

    /// The bytes of a write that has ended and was not collected yet.
    pub(super) fn written(&self, id: IoId) -> Option<&[u8]> {
        let (_, found) = self.ends.iter().find(|(is_write, end)| *is_write && end.id == id)?;
        found.buffer.as_deref()
    }

    pub(super) fn collect(&mut self, ended: &mut Vec<Completion<AlignedBuffer>>) {
        ended.extend(self.ends.drain(..).map(|(_, completion)| completion));
    }
}
