//! Where requests gather: per partition into batches, each of which becomes one entry.
//!
//! Invariant: everything in here is counted, per partition and per shard, from acceptance to outcome, and what does
//! not fit is refused at the door.

use std::collections::VecDeque;

use corduroy_wal::device::prefetch_front;

use crate::entry::{EntryBuilder, EntryOp, HEADER_BYTES};
use crate::ids::Ticket;
use crate::raft::proposals::{Requests, Spare, Work};
use crate::screening::Screening;

/// Requests that become one entry. Its first is a write.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub entry: EntryBuilder,
    pub requests: Requests,
    /// When it was begun; 0 until the turn after.
    pub queued_ns: u64,
    /// What is known of its operations.
    pub screening: Screening,
    /// It takes no further writes: it waits for what its operations need, and must not wait for ever more of them.
    pub is_sealed: bool,
}

/// The batches of one partition that are not proposed yet; the last one is open, unless it is sealed.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    pub(crate) queue: VecDeque<Batch>,
    last_bytes: usize,
}

impl Batches {
    /// Adds a write, to the open batch or, where that is full, to a new one.
    pub fn push_write(&mut self, ticket: Ticket, op: EntryOp<'_>, entry_bytes: usize, spare: &mut Spare) {
        let grown = |batch: &Batch| batch.entry.len_bytes() + op.entry_bytes();
        if self.queue.back().is_none_or(|batch| batch.is_sealed || grown(batch) > entry_bytes) {
            let capacity = self.last_bytes.max(HEADER_BYTES + op.entry_bytes());
            let entry = EntryBuilder::with_capacity(capacity);
            self.queue.reserve_exact(usize::from(self.queue.capacity() == 0));
            self.queue.push_back(Batch { entry, requests: spare.take(), ..Batch::default() });
        }
        let batch = self.queue.back_mut().expect("a batch was just made sure of");
        batch.entry.push_in(op.keyspace, op.op);
        batch.requests.push_write(ticket, op.op.len());
    }

    /// Has the oldest batch fetched into the processor's caches.
    pub fn prefetch(&self) {
        prefetch_front(&self.queue);
    }

    /// The newest batch, if there is one: reads that follow its writes ride in it.
    pub fn open_mut(&mut self) -> Option<&mut Batch> {
        self.queue.back_mut()
    }

    /// The oldest batch.
    pub fn front_mut(&mut self) -> Option<&mut Batch> {
        self.queue.front_mut()
    }

    /// The oldest batch.
    pub fn front(&self) -> Option<&Batch> {
        self.queue.front()
    }

    /// The length of the oldest batch's entry; 0 if there is none.
    pub fn front_bytes(&self) -> usize {
        self.queue.front().map_or(0, |batch| batch.entry.len_bytes())
    }

    /// Takes the oldest batch.
    pub fn pop(&mut self) -> Option<Batch> {
        let batch = self.queue.pop_front()?;
        // The next batch is likely to be as large; a rare giant must not make every later one reserve as much.
        self.last_bytes = batch.entry.len_bytes().min(64 << 10);
        Some(batch)
    }

    /// Puts a batch back to the front.
    pub fn put_back(&mut self, batch: Batch) {
        self.queue.push_front(batch);
    }

    /// Takes the newest batch.
    pub fn pop_newest(&mut self) -> Option<Batch> {
        self.queue.pop_back()
    }

    /// Batches that were begun since the last turn learn the time.
    pub fn stamp_age(&mut self, now_ns: u64) {
        for batch in self.queue.iter_mut().rev().take_while(|batch| batch.queued_ns == 0) {
            batch.queued_ns = now_ns;
        }
    }

    /// # Panics
    /// If a batch has nothing, or not an operation for each of its writes, or waits and takes further ones.
    pub fn check(&self) {
        for batch in &self.queue {
            let writes = batch.requests.rest().filter(|item| item.work == Work::Write).count();
            assert!(!batch.requests.is_empty() && writes > 0, "a batch has a write");
            assert_eq!(writes, batch.entry.count() as usize, "each write of a batch has an operation");
            batch.requests.check();
            batch.screening.check(writes, batch.is_sealed);
        }
    }

    /// Gives back the memory of the queue if it is empty.
    pub fn rest(&mut self) {
        self.queue.shrink_to_fit();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
