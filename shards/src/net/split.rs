//! Cuts an append that is too long for one frame into several: what the leader would have sent as several messages.
//!
//! The crate adds entries to an append that was not sent yet without a bound. Invariant: the parts carry the entries of the
//! whole, in order, each behind the last entry of the part before.

use raft::eraftpb::{Message, MessageType};

use super::message::{ENTRIES_MAX, ENTRY_BYTES, HEAD_BYTES, RUN_BYTES};

/// Bytes of an append without entries.
const APPEND_BYTES: usize = HEAD_BYTES + 3 * 8 + 4;

/// Takes the first part off an append that has more bytes or entries than go into one; `None` if it fits. A part has one
/// entry at least, however long that is.
pub(super) fn cut(message: &mut Message, bytes_max: usize) -> Option<Message> {
    if message.msg_type != MessageType::MsgAppend {
        return None;
    }
    let mut bytes = APPEND_BYTES;
    let fits = |data: usize| {
        bytes += RUN_BYTES + ENTRY_BYTES + data;
        bytes <= bytes_max
    };
    let fitting = message.entries.iter().map(|entry| entry.data.len()).take(ENTRIES_MAX);
    let count = fitting.map(fits).take_while(|fits| *fits).count().max(1);
    if count >= message.entries.len() {
        return None;
    }
    let mut first = message.take_entries().into_vec();
    let rest = first.split_off(count);
    let (index, log_term) = first.last().map(|last| (last.index, last.term))?;
    let mut part = message.clone();
    part.set_entries(first.into());
    (message.index, message.log_term) = (index, log_term);
    message.set_entries(rest.into());
    Some(part)
}
