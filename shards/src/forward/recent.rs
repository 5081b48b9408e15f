//! The requests that were handed to the shards here last, as long as there is room for them: what a shard gives back because it
//! has lost the lead goes to the node that has it.
//!
//! Invariant: what is found is what was handed in. Nothing is taken out when it is done; the oldest is overwritten.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::{PartitionId, Ticket};
use crate::machine::Kind;

/// Bytes of operations that are kept.
const BYTES: usize = 4 << 20;
/// Longer ones are not.
const OP_BYTES: usize = BYTES / 8;
/// How many are kept.
const REQUESTS: usize = 65_536;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Handed {
    /// The request's.
    pub ticket: Ticket,
    /// For which partition.
    pub partition: PartitionId,
    /// Logged or not.
    pub kind: Kind,
    /// Its client follows to the node that leads.
    pub may_redirect: bool,
    /// When it is too late to send it elsewhere, on the monotonic clock.
    pub until_ns: u64,
}

#[derive(Debug)]
struct Entry {
    handed: Handed,
    at: usize,
    bytes: usize,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Recent {
    bytes: Vec<u8>,
    /// In the order in which they came; their operations follow each other in `bytes`, which is a ring.
    entries: VecDeque<Entry>,
    end: usize,
}

impl Recent {
    /// Keeps a request that is handed to a shard.
    pub fn push(&mut self, handed: Handed, op: &[u8]) {
        if op.len() > OP_BYTES {
            return;
        }
        if self.end + op.len() > BYTES {
            // What lies behind is older than what lies at the beginning.
            let end = std::mem::take(&mut self.end);
            while self.entries.front().is_some_and(|entry| entry.at >= end) {
                self.entries.pop_front();
            }
        }
        let (at, end) = (self.end, self.end + op.len());
        let is_over = |entry: &Entry| entry.at < end && at < entry.at + entry.bytes;
        while self.entries.len() >= REQUESTS || self.entries.front().is_some_and(is_over) {
            self.entries.pop_front();
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let room = self.bytes.get_mut(at..end).expect("it was made");
        room.copy_from_slice(op);
        self.entries.push_back(Entry { handed, at, bytes: op.len() });
        self.end = end;
    }

    /// A request and its operation, if they are still there.
    #[must_use]
    pub fn find(&self, ticket: Ticket) -> Option<(Handed, Bytes)> {
        let entry = self.entries.iter().rev().find(|entry| entry.handed.ticket == ticket)?;
        let op = self.bytes.get(entry.at..entry.at + entry.bytes).expect("it was written there");
        Some((entry.handed, Bytes::copy_from_slice(op)))
    }

    /// What the same connection asked of the same partition after this request.
    pub fn behind(&self, handed: Handed) -> impl Iterator<Item = Ticket> {
        let newest_first = self.entries.iter().rev().map(|entry| entry.handed);
        let later = newest_first.take_while(move |other| other.ticket != handed.ticket);
        let is_same = move |other: &Handed| {
            other.ticket.conn == handed.ticket.conn && other.partition == handed.partition
        };
        later.filter(is_same).map(|other| other.ticket)
    }
}

#[cfg(test)]
mod tests {
    use corduroy_wal::mix::SplitMix64;

    use super::*;

    fn handed(conn: u64, seq: u64) -> Handed {
        let partition = PartitionId(2);
        Handed {
            ticket: Ticket { conn, seq },
            partition,
            kind: Kind::Write,
            may_redirect: false,
            until_ns: 9,
        }
    }

    #[test]
    fn what_is_found_is_what_was_handed_in_and_the_newest_is() {
        let mut numbers = SplitMix64::new(3);
        let mut recent = Recent::default();
        let mut all: Vec<(Ticket, u8, usize)> = Vec::new();
        for seq in 0..3_000 {
            let (byte, bytes) = (seq as u8, numbers.next_u64() as usize % 20_000);
            recent.push(handed(1, seq), &vec![byte; bytes]);
            all.push((Ticket { conn: 1, seq }, byte, bytes));
            let (mut found, mut found_bytes) = (0, 0);
            if seq % 100 == 99 {
                for (at, (ticket, byte, bytes)) in all.iter().enumerate() {
                    let kept = recent.find(*ticket);
                    assert!(kept.is_some() || at + 100 < all.len(), "request {at} of {}", all.len());
                    if let Some((_, op)) = kept {
                        assert!(op.len() == *bytes && op.iter().all(|other| other == byte), "request {at}");
                        (found, found_bytes) = (found + 1, found_bytes + bytes);
                    }
                }
                assert!(found >= all.len().min(300) && found_bytes <= BYTES, "{found} of {}", all.len());
            }
        }
        for seq in 3_000..3_000 + 2 * REQUESTS as u64 {
            recent.push(handed(1, seq), b"");
        }
        assert_eq!(recent.entries.len(), REQUESTS);
        recent.push(handed(1, 7_000_000), &vec![0; OP_BYTES + 1]);
        assert!(recent.find(Ticket { conn: 1, seq: 7_000_000 }).is_none(), "it is too long");
    }

    #[test]
    fn what_came_behind_a_request_is_what_its_connection_asked_of_the_partition() {
        let mut recent = Recent::default();
        let elsewhere = Handed { partition: PartitionId(3), ..handed(1, 4) };
        for one in [handed(1, 1), handed(2, 2), handed(1, 3), elsewhere, handed(1, 5)] {
            recent.push(one, b"op");
        }
        let behind: Vec<u64> = recent.behind(handed(1, 1)).map(|ticket| ticket.seq).collect();
        assert_eq!(behind, [5, 3]);
        assert_eq!(recent.behind(handed(1, 5)).count(), 0);
    }
}
