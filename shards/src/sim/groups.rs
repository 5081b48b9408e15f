//! What a seed draws where its world has several nodes: how many, their network, and the faults that only those have.
//!
//! Invariant: a seed of one node draws nothing here, so what it draws elsewhere does not depend on this file.

use crate::sim::rng::Rng;
use crate::sim::swarm::{Class, CutShape, Fault, GROUP_CLASSES, KEPT_ALL_BYTES, Knobs, MS};

/// Seeds with several nodes, in thousandths.
const SEVERAL_NODES_PER_MILLE: u64 = 333;
/// Of these, those whose logs keep little, in thousandths.
const KEPT_LITTLE_PER_MILLE: u64 = 300;

impl Knobs {
    /// In some seeds there are several nodes, and a network between them.
    pub(super) fn draw_nodes(&mut self, seed: u64) {
        let mut rng = Rng::new(seed, "nodes");
        // Plans take what they do not name from seed 0, which has one node.
        if seed == 0 || !rng.chance(SEVERAL_NODES_PER_MILLE) {
            return;
        }
        self.nodes = rng.pick(&[3, 3, 3, 5]);
        self.link_ns = rng.pick(&[20_000, 200_000, 2 * MS]);
        // An election takes far longer than the slowest frame.
        self.tick_ms = if self.link_ns < MS { rng.pick(&[10, 20, 50]) } else { 50 };
        self.max_segments = 0;
        self.draw_leases(seed);
        self.draw_sleep(seed);
        if self.classes.is_empty() {
            return;
        }
        self.loss_per_mille = rng.pick(&[0, 0, 10, 100]);
        self.duplicate_per_mille = rng.pick(&[0, 0, 10, 100]);
        self.late_per_mille = rng.pick(&[0, 0, 10, 100]);
        self.replay_per_mille = rng.pick(&[0, 0, 10, 100]);
        self.changed_per_mille = rng.pick(&[0, 0, 10]);
        // What a replica may not come back from yet: damage of its log or state, and a log that goes on without its group.
        for class in [Class::FlipAnywhere, Class::StateDamage, Class::Replication] {
            self.classes.remove(&class);
        }
        self.replicated = true;
        self.draw_retention(seed);
        self.draw_spread(seed);
        for class in GROUP_CLASSES {
            if rng.chance(500) {
                self.classes.insert(class);
            }
        }
        self.draw_spares(seed);
    }

    /// In some seeds with several nodes, logs drop what a member that lags far behind needs.
    fn draw_retention(&mut self, seed: u64) {
        let mut rng = Rng::new(seed, "retention");
        if rng.chance(KEPT_LITTLE_PER_MILLE) {
            self.kept_bytes = rng.pick(&[0, 64 << 10, 128 << 10, 512 << 10]);
        }
        let mut rng = Rng::new(seed, "images");
        self.chunk_bytes = rng.pick(&[500, 4_000, 256 << 10]);
        self.image_bytes_per_s = rng.pick(&[200 << 10, 2 << 20, 64 << 20]);
    }

    /// Whether logs have all that a member may lack: nothing is dropped for want of room, and nobody joins or gets, behind a change,
    /// the first entry, which does not say what the group was founded with.
    pub(super) fn keeps_all(&self) -> bool {
        let may_change = self.spares > 0 || self.has(Class::Members);
        self.kept_bytes >= KEPT_ALL_BYTES && !may_change && !self.has(Class::FullDisk)
    }

    /// In half of the seeds with several nodes, requests come all the time until faults end: an election takes as long as many
    /// requests, and what is done between a leader and the next shows only where some are under way.
    fn draw_spread(&mut self, seed: u64) {
        if Rng::new(seed, "spread").chance(500) {
            self.spread_requests();
        }
    }

    /// Requests come all the time until faults end.
    pub(super) fn spread_requests(&mut self) {
        let bursts = self.requests.div_ceil(self.pipeline.clamp(1, 4));
        // A typical pause is a fifth of a pause on average.
        let think_ns = self.horizon_ns * self.connections / bursts / 5;
        self.think_ns = self.think_ns.max(think_ns);
    }

    /// Full segments above which a log is long and written again. Half of one that is long is kept for members, so where all
    /// that a world writes is to be kept, none ever is.
    pub(super) const fn long_segments(&self) -> usize {
        if self.nodes > 1 && self.kept_bytes == KEPT_ALL_BYTES { 4_000 } else { 6 }
    }

    /// The longest that a group waits for its leader before it elects another, in ns of the slowest clock.
    pub(super) const fn election_ns(&self) -> u64 {
        2 * 10 * self.tick_ms * MS * 10 / 9
    }

    /// A cut at a node.
    pub(super) fn draw_cut(&self, node: u32, rng: &mut Rng) -> Fault {
        let others = (0..self.nodes).filter(|other| *other != node).collect::<Vec<_>>();
        let peer = rng.pick(&others);
        let mask = u32::try_from(rng.between(1, (1 << self.nodes) - 2)).expect("a bit a node");
        let shapes =
            [CutShape::Between(peer), CutShape::Towards(peer), CutShape::Around, CutShape::Split(mask)];
        let shape = rng.pick(&shapes);
        Fault::Cut { shape, for_ns: rng.between(10, 4000) * MS }
    }
}
