//! Questions to every partition that must be answered once nothing hinders that, of one node after the other.
//!
//! Invariant: a partition is found not to answer only once each node was asked after the time that it may take; where one of them
//! lacks what no log has any more, that is the time of an image, too.

use corduroy_wal::{LogState, Lsn};

use crate::ids::PartitionId;
use crate::machine::Kind;
use crate::sim::swarm::MS;
use crate::sim::workload::Subject;
use crate::sim::world::{DRAIN_NS, World};

impl<S: Subject> World<S> {
    /// Asks every partition a question, again where it was refused.
    pub(super) fn ask_until_done(
        &mut self,
        invariant: &'static str,
        question: impl Fn(&S, u64) -> (Kind, Vec<u8>),
    ) -> bool {
        let nodes = (0..self.nodes.len()).collect::<Vec<_>>();
        self.ask_of(&nodes, invariant, DRAIN_NS, question)
    }

    /// Whether one of these nodes, a member of a partition's group, lacks entries that none of their logs has any more, or has none,
    /// since the first one is served to nobody.
    fn awaits_image(&self, partition: PartitionId, nodes: &[usize]) -> bool {
        let (shard, left) = (self.common.shard_of(partition), self.left_behind(partition));
        let members = nodes.iter().filter(|node| !left.contains(node));
        let processes = members.filter_map(|node| self.nodes.get(*node)?.process.as_ref());
        let shards = processes.filter_map(|process| Some(&process.units.get(shard)?.shard));
        let logs = shards.filter_map(|shard| shard.wal().log_state(partition.log())).collect::<Vec<_>>();
        logs.iter().any(|log| {
            let mut ahead = logs.iter().filter(|other| other.last > log.last).peekable();
            let lacks = |other: &LogState| log.last == Lsn::ZERO || other.first > log.last.next();
            ahead.peek().is_some() && ahead.all(lacks)
        })
    }

    /// The same, of one of these nodes after the other, for so long.
    pub(super) fn ask_of(
        &mut self,
        nodes: &[usize],
        invariant: &'static str,
        for_ns: u64,
        question: impl Fn(&S, u64) -> (Kind, Vec<u8>),
    ) -> bool {
        let (begun_ns, mut deadline_ns) = (self.common.now_ns, self.common.now_ns + for_ns);
        let images_ns = deadline_ns + self.common.plan.knobs.image_ns();
        let mut tries = nodes.iter().cycle();
        // Each node is asked once more after that: who leads by then need not have been asked since it does.
        let mut last_tries = nodes.len();
        let mut left = (1..=self.common.plan.knobs.partitions).map(PartitionId).collect::<Vec<_>>();
        loop {
            let node = tries.next().copied().unwrap_or_default();
            let Some(mut refused) = self.ask_all(node, &left, &question) else { return false };
            if refused.is_empty() {
                return true;
            }
            let is_late = self.common.now_ns > deadline_ns;
            if is_late {
                // They would lengthen the last rounds for the others.
                let is_hindered =
                    |(partition, _): &mut (PartitionId, String)| self.are_hindered(*partition, nodes);
                let hindered = refused.extract_if(.., is_hindered).count() as u64;
                self.common.books.borrow_mut().probes.add("groups without the log", hindered);
                if refused.is_empty() {
                    return true;
                }
            }
            let awaits = |(partition, _): &(PartitionId, String)| self.awaits_image(*partition, nodes);
            if is_late && last_tries == 0 && deadline_ns < images_ns && refused.iter().all(awaits) {
                (deadline_ns, last_tries) = (images_ns, nodes.len() + 1);
                self.common.probe("answers that wait for an image");
            }
            if is_late && last_tries == 0 {
                let after_ns = self.common.now_ns - begun_ns;
                self.common.broken(invariant, format!("refused after {after_ns} ns: {refused:?}"));
                return false;
            }
            last_tries -= usize::from(is_late);
            left = refused.into_iter().map(|(partition, _)| partition).collect();
            if !self.pump(self.common.now_ns + 100 * MS, |_| false) {
                return false;
            }
        }
    }
}
