//! What a seed draws before its world begins: sizes, the workload's shape, and the schedule of faults.
//!
//! Invariant: knobs and schedule together with the seed are the whole run; both can be written down, edited (that is
//! how a failure is shrunk) and run again.

use std::collections::BTreeSet;

use crate::sim::rng::Rng;
use crate::sim::usurp::Usurper;

/// As much of a log is kept for members that lag behind as ever lags: more than a world writes.
pub(super) const KEPT_ALL_BYTES: u64 = 1 << 30;
/// One ms of the world's time.
pub const MS: u64 = 1_000_000;

/// A class of faults that a seed may have on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// The process dies at any event; unsynced writes are old, new or torn.
    Crash,
    /// The process dies while it opens; several times in a row.
    NestedCrash,
    /// A write or its flush ends in an error.
    WriteError,
    /// No new file can be made for a while.
    FullDisk,
    /// The disk stands still, for longer than an election timeout.
    Stall,
    /// Bits flip, while the node is stopped, in blocks whose write was never acknowledged.
    FlipUnacked,
    /// Bits flip anywhere while the node is stopped: opening may refuse, and that ends the run.
    FlipAnywhere,
    /// The wall clock jumps.
    ClockJump,
    /// Jobs of the state machine take long.
    SlowPool,
    /// The node is stopped in order and started again.
    CleanStop,
    /// Partitions run with replication off in some incarnations.
    Replication,
    /// Some of what the machine's storage holds cannot be read any more: requests that need it are refused with that, until
    /// the storage is restored. Not among those that are drawn together: it is on in a tenth of the seeds, whatever else is.
    StateDamage,
    /// Replicas are taken off a running shard and opened again. On in a fifth of the seeds, whatever else is.
    Reopen,
    /// Links between nodes are cut for a while. This class and the next three are on in half of the seeds that have several
    /// nodes, each by itself.
    Cut,
    /// A process gets no time for a while, and then goes on as if nothing had been.
    Pause,
    /// Several processes die at once, at times all of them.
    Together,
    /// A disk takes many times as long for a while.
    SlowDisk,
    /// The operator has groups change their members, or hand on the lead.
    Members,
    /// Somebody tries to take the lead from a leader that has a lease. On in some of the seeds that have leases.
    Usurp,
    /// The medium forgets acknowledged writes at a crash. Off unless asked for: a violation is then expected.
    LyingFlush,
}

/// Every class that the swarm draws from.
pub const CLASSES: [Class; 11] = [
    Class::Crash,
    Class::NestedCrash,
    Class::WriteError,
    Class::FullDisk,
    Class::Stall,
    Class::FlipUnacked,
    Class::FlipAnywhere,
    Class::ClockJump,
    Class::SlowPool,
    Class::CleanStop,
    Class::Replication,
];

/// Which links a cut takes, beside the node that it strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutShape {
    /// Those between the node and this one.
    Between(u32),
    /// Those from the node to this one.
    Towards(u32),
    /// All of the node.
    Around,
    /// Those between the nodes whose bit is set and the others, whichever node it strikes.
    Split(u32),
}

/// Those that several nodes have beside them.
pub const GROUP_CLASSES: [Class; 5] =
    [Class::Cut, Class::Pause, Class::Together, Class::SlowDisk, Class::Members];

/// A fault and what it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process dies.
    Crash {
        /// Openings that die too, in this many further crashes.
        nested: u32,
    },
    /// The next durable write of a shard's disk to end, ends in an error.
    WriteError {
        /// Which disk.
        shard: u32,
    },
    /// No slot can be created for this long.
    FullDisk {
        /// ns.
        for_ns: u64,
    },
    /// Nothing that is in flight ends for this long.
    Stall {
        /// Which disk.
        shard: u32,
        /// ns.
        for_ns: u64,
    },
    /// A crash, and then flipped bits in blocks whose write had not been acknowledged.
    FlipUnacked {
        /// How many.
        bits: u32,
    },
    /// A crash, and then one flipped bit anywhere.
    FlipAnywhere {
        /// Which disk.
        shard: u32,
    },
    /// The wall clock moves.
    ClockJump {
        /// ms, negative for back.
        by_ms: i64,
    },
    /// Some of what a shard's machine has stored becomes unreadable.
    StateDamage {
        /// The shard of the machine.
        shard: u32,
    },
    /// Two replicas of a shard are taken off, and opened again after this long.
    Reopen {
        /// Which shard.
        shard: u32,
        /// ns.
        for_ns: u64,
    },
    /// The process gets no time for this long.
    Pause {
        /// ns.
        for_ns: u64,
    },
    /// What a disk begins takes many times as long.
    SlowDisk {
        /// Which disk.
        shard: u32,
        /// ns.
        for_ns: u64,
    },
    /// Links between nodes are cut for this long.
    Cut {
        /// Which links.
        shape: CutShape,
        /// ns.
        for_ns: u64,
    },
    /// The operator asks a partition's leader for something that is drawn from a number.
    Members {
        /// Which partition.
        partition: u32,
        /// The number.
        draw: u32,
    },
    /// Another one is made to lead what the node leads; the second half of that comes after so long.
    Usurp {
        /// How.
        how: Usurper,
        /// ns.
        after_ns: u64,
    },
    /// The node stops when everything is answered, and starts again.
    CleanStop,
    /// As `CleanStop`, and from the next incarnation on replication is on or off.
    Replication {
        /// On or off.
        on: bool,
    },
}

/// A fault and when it strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// World time, ns.
    pub at_ns: u64,
    /// The node that it strikes.
    pub node: u32,
    /// What.
    pub fault: Fault,
}

/// Sizes and shapes of one world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knobs {
    /// Nodes, each with a replica of every partition, but for the last ones.
    pub nodes: u32,
    /// The last nodes, which have no replicas until members join there.
    pub spares: u32,
    /// Shards of a node, 1 to 4.
    pub shards: u32,
    /// Partitions, 1 to 16.
    pub partitions: u64,
    /// Clients.
    pub connections: u64,
    /// Requests a client has open at most.
    pub pipeline: u64,
    /// Requests sent in all.
    pub requests: u64,
    /// When the faults end, ns.
    pub horizon_ns: u64,
    /// What a client waits between requests, ns (typical).
    pub think_ns: u64,
    /// Reads among the requests, in thousandths.
    pub reads_per_mille: u64,
    /// Different keys in a partition.
    pub keys: u64,
    /// Bytes of the largest values.
    pub value_bytes: u64,
    /// Bytes of a WAL segment.
    pub segment_bytes: u32,
    /// Slots that the WAL may have, 0 for no limit.
    pub max_segments: usize,
    /// Slots kept ready.
    pub spare_segments: usize,
    /// Frames in flight.
    pub max_in_flight: usize,
    /// Bytes of requests without an outcome above which a frame starts beside another.
    pub second_frame_bytes: usize,
    /// Bytes in the memtable at which it is handed over.
    pub flush_bytes: u64,
    /// Requests waiting in a shard at most.
    pub queue: usize,
    /// Operations applied in a turn at most.
    pub apply_ops: usize,
    /// What a disk operation takes, ns (typical).
    pub disk_ns: u64,
    /// Of a thousand of the machine's reads, those that need no job, as if what they need were in the page cache.
    pub at_hand_per_mille: u64,
    /// What a job takes, ns (typical).
    pub job_ns: u64,
    /// Speed of the node's clock, millionths.
    pub clock_ppm: u64,
    /// Whether the first incarnation has replication on.
    pub replicated: bool,
    /// Bytes of a log that are kept for members that lag behind.
    pub kept_bytes: u64,
    /// Bytes of rows in a chunk of an image.
    pub chunk_bytes: u64,
    /// Bytes of an image that are sent in a second.
    pub image_bytes_per_s: u64,
    /// ms between ticks of the groups.
    pub tick_ms: u64,
    /// Whether leaders have leases, 0 or 1.
    pub leases: u64,
    /// How old a state may be that reads see which may be answered anywhere, ms.
    pub stale_ms: u64,
    /// Ticks without anything to do after which groups sleep; 0: none does.
    pub sleep_ticks: u16,
    /// What a frame between nodes takes, ns (typical).
    pub link_ns: u64,
    /// Frames between nodes that are lost, in thousandths; and likewise those that arrive twice, late, again or changed.
    pub loss_per_mille: u64,
    /// See `loss_per_mille`.
    pub duplicate_per_mille: u64,
    /// See `loss_per_mille`.
    pub late_per_mille: u64,
    /// See `loss_per_mille`.
    pub replay_per_mille: u64,
    /// See `loss_per_mille`.
    pub changed_per_mille: u64,
    /// Fault classes that are on.
    pub classes: BTreeSet<Class>,
}

impl Knobs {
    /// What `seed` draws.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed, "knobs");
        let shards = u32::try_from(rng.pick(&[1, 1, 1, 2, 2, 3, 4])).expect("small");
        let mut knobs = Self {
            nodes: 1,
            spares: 0,
            tick_ms: 100,
            kept_bytes: KEPT_ALL_BYTES,
            chunk_bytes: 256 << 10,
            image_bytes_per_s: 64 << 20,
            leases: 0,
            stale_ms: 0,
            sleep_ticks: 0,
            link_ns: 0,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            late_per_mille: 0,
            replay_per_mille: 0,
            changed_per_mille: 0,
            shards,
            partitions: rng.between(u64::from(shards), 16),
            connections: rng.between(1, 12),
            pipeline: rng.pick(&[1, 1, 4, 16, 64]),
            requests: rng.between(200, 1500),
            horizon_ns: rng.between(500, 6000) * MS,
            think_ns: rng.pick(&[20_000, 200_000, 2 * MS]),
            reads_per_mille: rng.pick(&[100, 300, 600]),
            keys: rng.pick(&[2, 8, 40]),
            value_bytes: rng.pick(&[16, 200, 3000, 9000]),
            // The first ones have 64 KiB in any case. Drawn apart, so that the other knobs stay as they are.
            segment_bytes: Rng::new(seed, "segments").pick(&[64 << 10, 64 << 10, 64 << 10, 256 << 10]),
            max_segments: rng.pick(&[0, 0, 12, 24]),
            spare_segments: rng.pick(&[1, 2]),
            max_in_flight: rng.pick(&[1, 2, 2, 3, 4]),
            // A stream of its own, so that nothing else is drawn otherwise.
            second_frame_bytes: Rng::new(seed, "second frames").pick(&[0, 0, 1_000, 16 << 10]),
            at_hand_per_mille: Rng::new(seed, "at hand").pick(&[0, 0, 500, 1000]),
            flush_bytes: rng.pick(&[2_000, 20_000, 200_000]),
            queue: rng.pick(&[4, 64, 4096]),
            apply_ops: rng.pick(&[1, 5, 8192]),
            disk_ns: rng.pick(&[20_000, 100_000, MS]),
            job_ns: rng.pick(&[50_000, 2 * MS]),
            clock_ppm: rng.between(900_000, 1_100_000),
            replicated: true,
            classes: BTreeSet::new(),
        };
        knobs.draw_classes(&mut rng, seed);
        if knobs.classes.contains(&Class::SlowPool) {
            knobs.job_ns = 200 * MS;
        }
        if knobs.classes.contains(&Class::Replication) {
            knobs.replicated = rng.chance(500);
        }
        knobs.draw_nodes(seed);
        knobs
    }

    /// Which classes of faults are on.
    fn draw_classes(&mut self, rng: &mut Rng, seed: u64) {
        if !rng.chance(100) {
            // Few at once, so that one fault's effect is not drowned in another's; crashes in most worlds.
            let wanted = rng.between(1, 4);
            for _ in 0..wanted {
                self.classes.insert(rng.pick(&CLASSES));
            }
            if rng.chance(800) {
                self.classes.insert(Class::Crash);
            }
        }
        // A stream of its own, so that nothing else is drawn otherwise.
        if Rng::new(seed, "state-damage-on").chance(100) {
            self.classes.insert(Class::StateDamage);
        }
        if Rng::new(seed, "reopen-on").chance(200) {
            self.classes.insert(Class::Reopen);
        }
    }

    /// As [`Knobs::nodes`].
    #[must_use]
    pub fn node_count(&self) -> usize {
        usize::try_from(self.nodes).expect("a handful of nodes")
    }

    /// Whether a class is on.
    #[must_use]
    pub fn has(&self, class: Class) -> bool {
        self.classes.contains(&class)
    }

    /// The faults of `seed` with these knobs, in order of time. Each class has a stream of its own.
    #[must_use]
    pub fn schedule(&self, seed: u64) -> Vec<Planned> {
        let mut plan = Vec::new();
        for &class in &self.classes {
            let mut rng = Rng::new(seed, class.name());
            let mut nodes = Rng::new(seed, &format!("{}, nodes", class.name()));
            let times = class.times(&mut rng);
            for _ in 0..times {
                let at_ns = rng.between(1, self.horizon_ns);
                let node = u32::try_from(nodes.below(u64::from(self.nodes))).expect("a handful of nodes");
                let fault = match class {
                    Class::Cut => Some(self.draw_cut(node, &mut rng)),
                    _ => self.draw_fault(class, &mut rng),
                };
                let is_together = class == Class::Together;
                let all = if is_together { 0..self.nodes } else { node..node + 1 };
                let struck = all.filter(|_| !is_together || nodes.chance(700)).collect::<Vec<_>>();
                let planned = |node| fault.map(|fault| Planned { at_ns, node, fault });
                plan.extend(struck.into_iter().filter_map(planned));
            }
        }
        plan.sort_by_key(|planned| planned.at_ns);
        plan
    }

    fn draw_fault(&self, class: Class, rng: &mut Rng) -> Option<Fault> {
        let shard =
            u32::try_from(rng.below(u64::from(self.shards))).expect("as small as the number of shards");
        Some(match class {
            Class::Crash | Class::Together => Fault::Crash { nested: 0 },
            Class::Pause => Fault::Pause { for_ns: rng.between(5, 3000) * MS },
            Class::Members => Fault::Members {
                partition: u32::try_from(rng.between(1, self.partitions)).expect("few partitions"),
                draw: u32::try_from(rng.below(1 << 32)).expect("below the bound"),
            },
            Class::SlowDisk => Fault::SlowDisk { shard, for_ns: rng.between(50, 4000) * MS },
            Class::NestedCrash => Fault::Crash { nested: u32::try_from(rng.between(1, 3)).expect("small") },
            Class::WriteError => Fault::WriteError { shard },
            Class::FullDisk => Fault::FullDisk { for_ns: rng.between(10, 1500) * MS },
            Class::Stall => Fault::Stall { shard, for_ns: rng.between(50, 4000) * MS },
            Class::FlipUnacked => Fault::FlipUnacked { bits: 1 },
            Class::FlipAnywhere => Fault::FlipAnywhere { shard },
            Class::ClockJump => Fault::ClockJump {
                by_ms: rng.pick(&[-86_400_000, -60_000, -3000, -10, 10, 3000, 60_000, 86_400_000]),
            },
            Class::StateDamage => Fault::StateDamage { shard },
            Class::Reopen => Fault::Reopen { shard, for_ns: rng.pick(&[1000, 100_000, MS, 50 * MS]) },
            Class::CleanStop => Fault::CleanStop,
            Class::Replication => Fault::Replication { on: rng.chance(500) },
            Class::Usurp => self.draw_usurper(rng),
            Class::SlowPool | Class::LyingFlush | Class::Cut => return None,
        })
    }
}

impl Class {
    /// How often a class strikes in a run that has it on.
    fn times(self, rng: &mut Rng) -> u64 {
        match self {
            Self::Crash => rng.between(1, 12),
            Self::NestedCrash | Self::WriteError | Self::FlipUnacked | Self::Replication => rng.between(1, 4),
            Self::FullDisk | Self::Stall | Self::CleanStop => rng.between(1, 3),
            Self::Cut | Self::Pause => rng.between(1, 8),
            Self::Together | Self::SlowDisk => rng.between(1, 3),
            Self::Usurp => rng.between(2, 8),
            Self::FlipAnywhere => 1,
            Self::Reopen | Self::Members => rng.between(5, 60),
            Self::ClockJump | Self::StateDamage => rng.between(1, 10),
            Self::SlowPool | Self::LyingFlush => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_a_class_off_leaves_the_others_alone() {
        let seed =
            (0..).find(|&seed| Knobs::draw(seed).classes.len() >= 3 && Knobs::draw(seed).has(Class::Crash));
        let seed = seed.expect("some seed has three classes");
        let mut knobs = Knobs::draw(seed);
        let crashes = |knobs: &Knobs| {
            let plan = knobs.schedule(seed);
            plan.into_iter().filter(|planned| planned.fault == Fault::Crash { nested: 0 }).collect::<Vec<_>>()
        };
        let before = crashes(&knobs);
        knobs.classes.retain(|&class| class == Class::Crash);
        assert_eq!(before, crashes(&knobs));
        assert!(!before.is_empty());
    }

    #[test]
    fn a_tenth_of_the_seeds_is_free_of_faults_and_every_class_occurs() {
        let free = (0..1000).filter(|&seed| Knobs::draw(seed).classes.is_empty()).count();
        assert!((60..140).contains(&free), "{free}");
        for class in CLASSES.into_iter().chain(GROUP_CLASSES) {
            assert!((0..200).any(|seed| Knobs::draw(seed).has(class)), "{class:?}");
        }
    }
}
