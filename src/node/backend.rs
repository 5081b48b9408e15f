//! What sessions ask of their core.

use std::borrow::Cow;

use corduroy_shards::{Kind, PartitionId, StageStamps, Ticket};

use super::clock::{mono_ns, wall_us};
use super::core::{Core, core_of_conn};
use super::info;
use super::message::Message;
use super::notify;
use super::shared::Phase;
use crate::config::redis::Refused;
use crate::resp::Backend;
use crate::resp::guesses::{PER_SECOND, Report};

impl Backend for Core {
    fn partition_of_slot(&self, slot: u16) -> PartitionId {
        self.shared.layout.partition_of_slot(slot)
    }

    fn partitions(&self) -> &[PartitionId] {
        &self.shared.partitions
    }

    fn submit(&self, ticket: Ticket, partition: PartitionId, kind: Kind, op: &[u8]) {
        self.request(ticket, partition, kind, op);
    }

    fn get_now(
        &self,
        partition: PartitionId,
        conn: u64,
        op: &[u8],
        with: &mut dyn FnMut(Option<&[u8]>),
    ) -> bool {
        let Some(host) = self.host_of(partition) else { return false };
        let mut shard = host.shard.borrow_mut();
        let value = shard.read_now(partition, conn, op, self.now());
        let is_read = value.map(with).is_some();
        if is_read {
            // No turn does it.
            self.unpublished.set(true);
        }
        is_read
    }

    fn now_ms(&self) -> u64 {
        self.now().wall_ms
    }

    fn now_us(&self) -> u64 {
        wall_us()
    }

    fn mono_ns(&self) -> u64 {
        mono_ns(self.shared.started)
    }

    fn info(&self, section: &str) -> Option<Vec<(Cow<'static, str>, String)>> {
        self.publish();
        info::section(&self.shared, section)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        self.shared.settings()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.shared.setting(name)
    }

    fn config_set(&self, changes: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        self.shared.set(changes)
    }

    fn requires_password(&self) -> Option<String> {
        let config = self.config();
        (!config.requirepass.0.is_empty()).then(|| config.requirepass.0.clone())
    }

    fn ran_ns(&self) -> u64 {
        self.ran_ns.get()
    }

    fn stage_stamps(&self) -> Option<StageStamps> {
        self.stages.get()
    }

    fn report_guesses(&self, report: &Report) {
        tracing::warn!(
            "wrong password from {}: {} so far; more than {PER_SECOND} a second have to wait",
            report.source,
            report.wrong
        );
    }

    fn wake_connection(&self, conn: u64) {
        let core = core_of_conn(conn);
        if core == self.index { self.look(conn) } else { self.post(core, Message::Look { conn }) }
    }

    fn shutdown(&self) -> Result<(), String> {
        tracing::info!("told to stop by a client");
        notify::say("STOPPING=1");
        self.shared.set_phase(Phase::Draining);
        Ok(())
    }
}
