//! Faults strike: what each planned fault does to the world.

use crate::ids::PartitionId;
use crate::raft::replica::StartedAs;
use crate::sim::net::Cut;
use crate::sim::node::{NodeEvent, SimNode};
use crate::sim::planted::{MachineBug, Planted};
use crate::sim::rng::mix;
use crate::sim::swarm::{CutShape, Fault, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Common, Happening};

/// A full disk takes less than this of a machine's state.
const FULL_ROOM_BYTES: u64 = 120_000;
/// So long a process that is to stop in order may try to.
const SHUTDOWN_TIMEOUT_NS: u64 = 5_000 * MS;

impl<S: Subject> SimNode<S> {
    /// The planned fault `index` strikes.
    pub(super) fn strike(&mut self, world: &mut Common<S>, index: usize) {
        let Some(planned) = world.plan.faults.get(index).copied() else { return };
        if world.faults_over {
            return;
        }
        world.note("fault", index as u64, 0, 0);
        match planned.fault {
            Fault::Crash { nested } => {
                self.nested = nested;
                self.crash(world);
            }
            Fault::WriteError { shard } => {
                if let Some(disk) = self.disks.get_mut(shard as usize) {
                    disk.fail_next_write();
                }
            }
            Fault::FullDisk { for_ns } => {
                self.full_disk += 1;
                world.probe("full disks");
                if world.plan.knobs.nodes > 1 {
                    world.probe("full disks in groups");
                }
                self.disks.iter().for_each(|disk| disk.set_full(true));
                self.set_room(world, Some(for_ns % FULL_ROOM_BYTES));
                world.agenda.put(world.now_ns + for_ns, self.full_disk_end());
            }
            Fault::Stall { shard, for_ns } => {
                world.probe("stalls");
                if for_ns > 1000 * MS {
                    world.probe("stalls longer than an election timeout");
                }
                if let Some(disk) = self.disks.get_mut(shard as usize) {
                    disk.stall(world.now_ns + for_ns);
                }
            }
            Fault::FlipUnacked { bits } => self.flip_unacknowledged(world, bits),
            Fault::FlipAnywhere { shard } => self.flip_anywhere(world, shard as usize),
            Fault::ClockJump { by_ms } => {
                world.probe("clock jumps");
                self.clock.jump(by_ms);
                world.books.borrow_mut().clock_jumps(self.number, by_ms);
            }
            Fault::StateDamage { shard } => self.damage_state(world, shard as usize),
            Fault::Reopen { shard, for_ns } => self.take_off(world, shard as usize, for_ns),
            Fault::Pause { for_ns } => {
                world.probe("pauses");
                self.paused_until_ns = world.now_ns + for_ns;
            }
            Fault::SlowDisk { shard, for_ns } => {
                world.probe("slow disks");
                let disk = self.disks.get_mut(shard as usize);
                disk.into_iter().for_each(|disk| disk.slow_down(world.now_ns + for_ns));
            }
            Fault::Cut { shape, for_ns } => self.cut(world, shape, for_ns),
            Fault::Members { partition, draw } => {
                let (partition, draw) = (PartitionId(partition.into()), draw.into());
                world.agenda.put(world.now_ns, Happening::AskAboutMembers { partition, draw });
            }
            Fault::Usurp { .. } => unreachable!("it strikes the world, not one node"),
            Fault::CleanStop => self.ask_to_stop(world, None),
            Fault::Replication { on } => self.ask_to_stop(world, Some(on)),
        }
    }

    /// Links of the node are cut.
    fn cut(&self, world: &mut Common<S>, shape: CutShape, for_ns: u64) {
        world.probe("cuts");
        let cut = match shape {
            CutShape::Between(peer) => Cut::Between(self.number, peer as usize),
            CutShape::Towards(peer) => Cut::OneWay(self.number, peer as usize),
            CutShape::Around => Cut::Around(self.number),
            CutShape::Split(mask) => Cut::Split(mask),
        };
        let number = world.net.cut(cut);
        world.agenda.put(world.now_ns + for_ns, Happening::CutEnds { number });
    }

    /// A crash, then flipped bits where nothing was acknowledged.
    fn flip_unacknowledged(&mut self, world: &mut Common<S>, bits: u32) {
        self.crash(world);
        for disk in &self.disks {
            let flipped = disk.flip_untouched(&mut self.streams.flip, bits);
            world.books.borrow_mut().probes.add("bits flipped, unacknowledged", flipped);
        }
    }

    /// A crash, then one flipped bit in anything that was ever written.
    fn flip_anywhere(&mut self, world: &mut Common<S>, shard: usize) {
        self.crash(world);
        let Some(disk) = self.disks.get(shard) else { return };
        if let Some((slot, byte)) = disk.flip_anywhere(&mut self.streams.flip) {
            world.may_refuse = true;
            world.probe("bits flipped, anywhere");
            world.note("flip", self.name(shard), u64::from(slot.0), byte);
        }
    }

    /// Something that a machine has stored cannot be read any more.
    fn damage_state(&mut self, world: &mut Common<S>, shard: usize) {
        let Some(media) = self.media.get(shard) else { return };
        let is_served = Planted::of_machine(world.plan.planted) == Some(MachineBug::DamageServed);
        let mut books = world.books.borrow_mut();
        let damaged = books.subject().damage(media, &mut self.streams.flip, is_served);
        books.probes.add("rows damaged", damaged);
        drop(books);
        world.is_state_damaged |= damaged > 0;
        world.note("damage", self.name(shard), damaged, 0);
    }

    /// Two replicas are taken off a shard, and opened again later, in the same order: so one gets the other's slot.
    fn take_off(&mut self, world: &mut Common<S>, shard: usize, for_ns: u64) {
        let mut partitions = world.partitions_of(shard);
        for _ in 0..partitions.len().min(2) {
            let at = self.streams.reopen.below(partitions.len() as u64);
            let partition = partitions.swap_remove(usize::try_from(at).expect("few partitions"));
            let taken = self.with_shard(shard, |shard| {
                let is_open = shard.wal().in_flight() > 0;
                shard.remove(partition).then_some(is_open)
            });
            let Some(is_open) = taken.flatten() else { continue };
            world.safety.ended(self.number, partition);
            world.note("taken off", partition.0, self.name(shard), u64::from(is_open));
            world.probe(if is_open {
                "replicas taken off while the disk writes"
            } else {
                "replicas taken off"
            });
            let happening = self.event(NodeEvent::Reopen { shard, partition });
            world.agenda.put(world.now_ns + for_ns, happening);
        }
        self.turn_soon(world, shard);
    }

    /// A replica that was taken off is opened again, as soon as it may be.
    pub(super) fn reopen(&mut self, world: &mut Common<S>, shard: usize, partition: PartitionId) {
        if !self.make_way(world, shard, partition) {
            return;
        }
        // It was taken off, and came back as another member before it was to be opened again.
        if self.with_shard(shard, |shard| shard.replica(partition).is_some()) == Some(true) {
            return;
        }
        let seed = mix(world.plan.seed ^ mix(world.now_ns ^ partition.0 ^ self.name(0)));
        let Some(origin) = self.origin(&world.plan.knobs, partition) else { return };
        let added = self.with_shard(shard, |shard| {
            let added = shard.add(partition, &origin, seed);
            (added, shard.replicas().find(|replica| replica.partition == partition))
        });
        match added {
            None => {}
            Some((Ok(true), replica)) => {
                world.note("opened again", partition.0, self.name(shard), 0);
                world.probe("replicas opened again");
                // A fenced one is reported, and judged, with the next turn.
                if let Some(replica) = replica.filter(|replica| replica.started_as != StartedAs::Stopped) {
                    world.books.borrow_mut().started(
                        self.number,
                        partition,
                        replica.started_as,
                        replica.term,
                    );
                }
                self.turn_soon(world, shard);
            }
            Some((Ok(false), _)) => {
                world.probe("replicas that had to wait for their records");
                world.agenda.put(world.now_ns + MS / 10, self.event(NodeEvent::Reopen { shard, partition }));
            }
            Some((Err(error), _)) => self.exited(world, shard, &error.to_string()),
        }
    }

    /// The storage is restored: everything must be there again. What was stopped by the damage starts anew.
    pub(super) fn restore_state(&mut self, world: &mut Common<S>) {
        if world.is_state_damaged {
            let books = world.books.borrow();
            self.media.iter().for_each(|media| books.subject().restore(media));
            drop(books);
            self.crash(world);
        }
    }

    /// The operator stops the process in order and starts it again, with replication on or off.
    fn ask_to_stop(&mut self, world: &mut Common<S>, replication: Option<bool>) {
        if self.process.is_none() || self.stopping {
            return;
        }
        (self.stopping, self.stops_by_ns) = (true, world.now_ns + SHUTDOWN_TIMEOUT_NS);
        self.close(world);
        self.wanted_replication = replication;
        world.agenda.put(world.now_ns + 10 * MS, self.event(NodeEvent::TryStop));
    }

    /// Stops if everything is answered; else looks again later. Other nodes may be needed for that, and not be there: once it has
    /// tried for too long the process ends, as it is.
    pub(super) fn try_stop(&mut self, world: &mut Common<S>) {
        if !self.is_quiet(world) {
            if world.now_ns >= self.stops_by_ns && world.plan.knobs.nodes > 1 {
                world.probe("stops that took too long");
                return self.crash(world);
            }
            world.agenda.put(world.now_ns + 10 * MS, self.event(NodeEvent::TryStop));
            return;
        }
        self.stop(world);
        if let Some(on) = self.wanted_replication.take() {
            world.probe(if on { "replication switched on" } else { "replication switched off" });
            self.replicated = on;
        }
        world.agenda.put(world.now_ns + 10 * MS, self.event(NodeEvent::Restart));
    }

    /// The disk has room again.
    pub(super) fn full_disk_ends(&mut self, world: &mut Common<S>) {
        self.disks.iter().for_each(|disk| disk.set_full(false));
        self.set_room(world, None);
    }

    /// How much the storage of all machines takes.
    fn set_room(&self, world: &Common<S>, bytes: Option<u64>) {
        let books = world.books.borrow();
        self.media.iter().for_each(|media| books.subject().set_room(media, bytes));
    }
}
