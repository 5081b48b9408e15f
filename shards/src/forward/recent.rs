//! The requests that were handed to the shards here last, as long as there is room for them: what a shard gives back because it
//! has lost the lead goes to the node that has it.
//!
//! Invariant: what is found is what was handed in. Nothing is taken out when it is done; the oldest is overwritten. Of a long
//! request only that it was there is kept.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashSet;

use crate::ids::{PartitionId, Ticket};
use crate::machine::Kind;

/// Bytes of operations that are kept.
const BYTES: usize = 4 << 20;
/// Those of longer ones are not.
const OP_BYTES: usize = BYTES / 8;
/// How many are kept.
const REQUESTS: usize = 65_536;

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// Its operation is too long to be kept.
    is_long: bool,
}

/// A request that was given back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recalled {
    /// As it was handed in.
    pub handed: Handed,
    /// Its operation; `None`: it was too long to be kept.
    pub op: Option<Bytes>,
    /// All that its connection has asked of the partition since was given back too.
    pub is_last: bool,
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
        let is_long = op.len() > OP_BYTES;
        let op = if is_long { &[] } else { op };
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
        self.entries.push_back(Entry { handed, at, bytes: op.len(), is_long });
        self.end = end;
    }

    /// What was given back of it, as far as it is still there: the newest first.
    #[must_use]
    pub fn recall(&self, given_back: &HashSet<Ticket>) -> Vec<Recalled> {
        let (mut found, mut kept) = (Vec::new(), HashSet::new());
        let mut left = given_back.clone();
        for entry in self.entries.iter().rev() {
            if left.is_empty() {
                break;
            }
            let Handed { ticket, partition, .. } = entry.handed;
            // It may have been handed in again since it was given back before.
            if left.remove(&ticket) {
                let op = self.bytes.get(entry.at..entry.at + entry.bytes).expect("it was written there");
                let op = (!entry.is_long).then(|| Bytes::copy_from_slice(op));
                let is_last = !kept.contains(&(ticket.conn, partition));
                found.push(Recalled { handed: entry.handed, op, is_last });
            } else if !given_back.contains(&ticket) {
                kept.insert((ticket.conn, partition));
            }
        }
        found
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
            if seq % 300 == 299 {
                for (at, (ticket, byte, bytes)) in all.iter().enumerate() {
                    let kept = find(&recent, ticket.seq).and_then(|recalled| recalled.op);
                    assert!(kept.is_some() || at + 100 < all.len(), "request {at} of {}", all.len());
                    if let Some(op) = kept {
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
        let long = find(&recent, 7_000_000).expect("that it was there is known");
        assert_eq!((long.op, long.is_last), (None, true));
    }

    fn find(recent: &Recent, seq: u64) -> Option<Recalled> {
        recent.recall(&[Ticket { conn: 1, seq }].into_iter().collect()).pop()
    }

    #[test]
    fn what_was_given_back_may_go_elsewhere_only_if_nothing_behind_it_was_kept() {
        let mut recent = Recent::default();
        let elsewhere = Handed { partition: PartitionId(3), ..handed(1, 4) };
        let long = vec![0; OP_BYTES + 1];
        for (one, op) in [
            (handed(1, 1), b"one".as_slice()),
            (handed(2, 2), b"two"),
            (handed(1, 3), b"three"),
            (elsewhere, b"four"),
            (handed(1, 5), &long),
            (handed(1, 3), b"again"),
        ] {
            recent.push(one, op);
        }
        let recall = |names: &[(u64, u64)]| -> Vec<(u64, Option<Bytes>, bool)> {
            let given_back = names.iter().map(|(conn, seq)| Ticket { conn: *conn, seq: *seq }).collect();
            let recalled = recent.recall(&given_back).into_iter();
            recalled.map(|of| (of.handed.ticket.seq, of.op, of.is_last)).collect()
        };
        let op = |op: &'static [u8]| Some(Bytes::from_static(op));
        assert_eq!(recall(&[(1, 1)]), [(1, op(b"one"), false)], "a long one came behind it");
        assert_eq!(recall(&[(2, 2), (1, 4)]), [(4, op(b"four"), true), (2, op(b"two"), true)]);
        let all = recall(&[(1, 1), (1, 3), (1, 5), (1, 9)]);
        assert_eq!(all, [(3, op(b"again"), true), (5, None, true), (1, op(b"one"), true)]);
    }
}
