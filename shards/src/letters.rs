//! What came for groups from their other members, and waits to be taken in.
//!
//! Invariant: it is bounded by its bytes, and kept in the order it came.

use std::collections::VecDeque;

use raft::eraftpb::{Message, MessageType};

use crate::ids::{PartitionId, StorageId};
use crate::options::RECORD_SLACK_BYTES;
use crate::raft::admit::{ENTRY_BYTES, entry_bytes};

/// What came for a group.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A message of the member on the storage.
    Message(Box<Message>),
    /// The member on the storage could not be reached.
    Unreachable,
}

impl Letter {
    /// Whether it appends, if only a commit index.
    pub fn is_append(&self) -> bool {
        matches!(self, Self::Message(message) if message.get_msg_type() == MessageType::MsgAppend)
    }

    /// Whether it brings entries.
    pub fn has_entries(&self) -> bool {
        matches!(self, Self::Message(message) if !message.get_entries().is_empty())
    }
}

/// Letters that wait to be taken in.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    waiting: VecDeque<(PartitionId, StorageId, Letter)>,
    bytes: usize,
}

/// What a message takes in memory, and its entries in a record, roughly, in bytes.
pub(crate) fn size_bytes(message: &Message) -> usize {
    size_of::<Message>()
        + message.context.len()
        + entry_bytes(message)
        + ENTRY_BYTES * message.get_entries().len()
}

/// What a record of a message's entries takes at most, in bytes. The longest entry that a leader may have written fits.
pub(crate) fn record_bytes(message: &Message) -> usize {
    let others = message.get_entries().len().saturating_sub(1);
    entry_bytes(message) + ENTRY_BYTES * others + RECORD_SLACK_BYTES / 2
}

impl Mail {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All that waits, in order.
    pub fn into_waiting(self) -> VecDeque<(PartitionId, StorageId, Letter)> {
        self.waiting
    }

    /// Adds a letter. Returns whether there was room. What has no entries, and keeps groups together, has twice as much.
    pub fn push(&mut self, partition: PartitionId, storage: StorageId, letter: Letter, limit: usize) -> bool {
        let bytes = match &letter {
            Letter::Message(message) => size_bytes(message),
            Letter::Unreachable => size_of::<Message>(),
        };
        let limit = if letter.has_entries() { limit } else { limit.saturating_mul(2) };
        let has_room = self.bytes == 0 || self.bytes + bytes <= limit;
        if has_room {
            self.bytes += bytes;
            self.waiting.push_back((partition, storage, letter));
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_taken_but_for_the_first() {
        let (mut mail, limit) = (Mail::default(), size_of::<Message>());
        let add = |mail: &mut Mail| mail.push(PartitionId(2), StorageId(7), Letter::Unreachable, limit);
        assert_eq!([add(&mut mail), add(&mut mail), add(&mut mail)], [true, true, false]);
        assert_eq!(mail.into_waiting().len(), 2);
        let mut mail = Mail::default();
        assert!(mail.push(PartitionId(2), StorageId(7), Letter::Unreachable, 0), "one is always let in");
    }
}
