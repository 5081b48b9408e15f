//! A node that stops transfers the leads of its groups to members on other nodes first, so that no client waits until somebody
//! misses it.
//!
//! Invariant: that takes [`MOST_NS`] at most, and [`WINDOW`] of a core are under way at once; a lead that is not transferred by
//! then costs an election, as if the node had died.

use std::cell::{Cell, RefCell};

use corduroy_shards::{ChangeRefusal, Input, MemberOutcome, MemberRequest, PartitionId, Role, Ticket};

use super::host::Host;
use crate::node::core::Core;

/// Transfers under way at once.
const WINDOW: usize = 256;
/// What all of them may take.
const MOST_NS: u64 = 500_000_000;
/// The connection of their tickets: none of a client's.
const NO_CONN: u64 = u64::MAX;

/// The transfers of a core.
#[derive(Debug, Default)]
pub struct Transfers {
    began_ns: Cell<Option<u64>>,
    is_over: Cell<bool>,
    /// Leads that are yet to be transferred: their shards, and their partitions.
    left: RefCell<Vec<(usize, PartitionId)>>,
    /// How many there were.
    all: Cell<usize>,
    under_way: Cell<usize>,
    done: Cell<usize>,
    /// The last reason why one was not.
    refusal: Cell<Option<ChangeRefusal>>,
}

impl Transfers {
    /// Takes the outcome of a request about members, if it is one of these.
    pub fn take(&self, ticket: Ticket, outcome: MemberOutcome) {
        if ticket.conn != NO_CONN {
            return;
        }
        self.under_way.set(self.under_way.get() - 1);
        match outcome {
            MemberOutcome::Done(_) => self.done.set(self.done.get() + 1),
            MemberOutcome::Rejected(why) => self.refusal.set(Some(why)),
            MemberOutcome::Unknown => {}
        }
    }

    /// Transfers what these shards lead; to be called until it returns that this is over.
    pub fn go_on(&self, core: &Core, hosts: &[Host]) -> bool {
        if self.is_over.get() {
            return true;
        }
        let now_ns = core.mono_ns();
        let began_ns = self.began_ns.get().unwrap_or(now_ns);
        if self.began_ns.replace(Some(began_ns)).is_none() {
            // Of a node that is alone there is nothing to transfer.
            let leads = if core.shared.peers().is_some() { leads(hosts) } else { Vec::new() };
            self.all.set(leads.len());
            self.left.replace(leads);
        }
        while self.under_way.get() < WINDOW {
            let Some((index, partition)) = self.left.borrow_mut().pop() else { break };
            let Some(host) = hosts.get(index) else { continue };
            let (ticket, request) = (Ticket { conn: NO_CONN, seq: partition.0 }, MemberRequest::TransferAway);
            host.shard.borrow_mut().handle(Input::Members { ticket, partition, request });
            host.dirty.set(true);
            core.wake();
            self.under_way.set(self.under_way.get() + 1);
        }
        let took_ns = now_ns.saturating_sub(began_ns);
        if self.under_way.get() == 0 || took_ns >= MOST_NS {
            self.is_over.set(true);
            self.report(took_ns / 1_000_000);
        }
        self.is_over.get()
    }

    fn report(&self, took_ms: u64) {
        let (done, all) = (self.done.get(), self.all.get());
        if all == 0 {
            return;
        }
        if done == all {
            return tracing::info!("the lead of {done} partitions is transferred, in {took_ms} ms");
        }
        let why = self.refusal.get().map_or_else(|| "it took too long".to_owned(), |why| why.to_string());
        tracing::warn!("the lead of {done} of {all} partitions is transferred, in {took_ms} ms: {why}");
    }
}

/// What shards lead that others may lead: the shards, and the partitions.
fn leads(hosts: &[Host]) -> Vec<(usize, PartitionId)> {
    let mut leads = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let shard = host.shard.borrow();
        let of_it = shard.replicas().filter(|replica| replica.role == Role::Leader && replica.has_peers);
        leads.extend(of_it.map(|replica| (index, replica.partition)));
    }
    leads
}
