//! What a connection holds in memory, by kind: for the node's ledger and for CLIENT LIST.
//!
//! Invariant: asking how much it is costs the same however much is held, and so does asking whether its large values are
//! still the same; what is reserved counts, not only what is used.

use super::queue::{Body, Slot};
use super::{Output, Session, Transaction, Watched};
use crate::resp::clients::{Client, Footprint};
use crate::resp::output::SharesMark;
use crate::store::SharedBytes;

/// A session and what the node keeps for each connection, without its buffers: counted for every connection.
const FIXED_BYTES: usize = size_of::<Session>() + 1024;

impl Session {
    /// What it holds. What its driver has taken and not sent is for the driver to add.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let queued = self.transaction.as_ref().map_or(0, Transaction::held_bytes);
        Footprint {
            fixed: FIXED_BYTES,
            input: self.held_input_bytes() + self.unparsed_bytes,
            input_free: self.pending.capacity() - self.held_input_bytes()
                + self.parser.held_bytes()
                + self.scratch.capacity(),
            arguments: self.in_flight_bytes + self.request_bytes,
            queued: queued + self.watched_bytes + self.watched.capacity() * size_of::<Watched>(),
            output: self.out.len() + self.held.bytes,
            output_reserved: self.out.held_bytes()
                + self.held.memory
                + self.parts_bytes
                + self.roster.as_ref().map_or(0, |roster| roster.held_bytes())
                + self.census.as_ref().map_or(0, |census| census.held_bytes())
                + self.queue.capacity() * size_of::<Slot>()
                + self.briefs.held_bytes(),
            output_peak: self.peak_output_bytes,
            unsent: 0,
            names: self.state.client.names_bytes(),
        }
    }

    /// Has CLIENT LIST and the node's ledger see what it holds, `unsent` bytes with its driver included. Answers all of it.
    pub fn publish_footprint(&mut self, unsent: usize) -> usize {
        self.peak_output_bytes = self.peak_output_bytes.max(self.out.len() + unsent);
        let footprint = Footprint { unsent, ..self.footprint() };
        self.state.client.publish(&footprint);
        footprint.total()
    }

    /// The large values that it holds, and other connections may too.
    pub fn shares(&self) -> impl Iterator<Item = &SharedBytes> {
        let slots = (self.held.shares != SharesMark::default()).then_some(&self.queue).into_iter().flatten();
        let replies =
            slots.filter_map(|slot| if let Body::Ready(out) = &slot.body { Some(out) } else { None });
        std::iter::once(&self.out).chain(replies).flat_map(Output::shares)
    }

    /// Stands for the large values that it holds.
    #[must_use]
    pub fn shares_mark(&self) -> SharesMark {
        self.out.shares_mark() + self.held.shares
    }

    /// What others may know of the connection.
    #[must_use]
    pub fn client(&self) -> &std::sync::Arc<Client> {
        &self.state.client
    }
}
