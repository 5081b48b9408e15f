//! What lies below the sessions of a core: its hosts, the settings, the figures.

use corduroy_shards::forward::Request;
use corduroy_shards::{Kind, PartitionId, Ticket};

use super::clock::wall_us;
use super::core::Core;
use super::hosts::Hosts;
use super::message::CoreSet;
use super::shared::Shared;
use super::{gather, info};
use crate::config::redis::Refused;
use crate::resp::backend::{Topology, partition_of};
use crate::resp::{Backend, Figure};
use crate::store::op::may_wait;

/// What a session is given for a call.
pub struct Backing<'c> {
    /// Its core.
    pub core: &'c Core,
    /// The core's hosts.
    pub hosts: &'c Hosts,
    /// The cores where something of the connection may have waited.
    pub waited_at: &'c CoreSet,
}

impl Backend for Backing<'_> {
    fn partition_of_slot(&self, slot: u16) -> PartitionId {
        self.core.shared.layout.partition_of_slot(slot)
    }

    fn partitions(&self) -> &[PartitionId] {
        &self.core.shared.partitions
    }

    fn submit(&self, ticket: Ticket, partition: PartitionId, kind: Kind, may_redirect: bool, op: &[u8]) {
        if let Some(core) = self.hosts.request(Request { ticket, partition, kind, may_redirect, op })
            && (self.hosts.forwards() || may_wait(op))
        {
            self.waited_at.add(core);
        }
    }

    fn get_now(
        &self,
        partition: PartitionId,
        conn: u64,
        read: (Kind, &[u8]),
        with: &mut dyn FnMut(Option<&[u8]>),
    ) -> bool {
        self.hosts.read_now(partition, conn, read, with)
    }

    fn prefetch(&self, keys: &[&[u8]]) {
        self.hosts.prefetch(keys.iter().map(|key| (partition_of(key, self), *key)));
    }

    fn now_ms(&self) -> u64 {
        self.core.now().wall_ms
    }

    fn now_us(&self) -> u64 {
        wall_us()
    }

    fn mono_ns(&self) -> u64 {
        self.core.mono_ns()
    }

    fn info(&self, words: &[&[u8]]) -> String {
        self.hosts.publish();
        info::text(&self.core.shared, words)
    }

    fn memory_stats(&self) -> Vec<(&'static str, Figure)> {
        self.hosts.publish();
        let shared = &self.core.shared;
        info::memory_stats(&gather::memory(shared, &gather::shards(shared)))
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        self.core.shared.settings()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.core.shared.setting(name)
    }

    fn config_set(&self, changes: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        self.core.shared.set(changes)
    }

    fn topology(&self) -> Option<&dyn Topology> {
        let shared: &Shared = &self.core.shared;
        shared.peers().map(|_| -> &dyn Topology { shared })
    }

    fn requires_password(&self) -> Option<String> {
        let config = self.core.config();
        (!config.requirepass.0.is_empty()).then(|| config.requirepass.0.clone())
    }
}
