//! Faults strike: what each planned fault does to the world.

use crate::ids::PartitionId;
use crate::raft::replica::StartedAs;
use crate::sim::planted::{MachineBug, Planted};
use crate::sim::rng::mix;
use crate::sim::swarm::{Fault, MS};
use crate::sim::workload::Subject;
use crate::sim::world::{Happening, World};

/// A full disk takes less than this of a machine's state.
const FULL_ROOM_BYTES: u64 = 120_000;

impl<S: Subject> World<S> {
    /// The planned fault `index` strikes.
    pub(super) fn strike(&mut self, index: usize) {
        let Some(planned) = self.plan.faults.get(index).copied() else { return };
        if self.faults_over {
            return;
        }
        self.note("fault", index as u64, 0, 0);
        match planned.fault {
            Fault::Crash { nested } => {
                self.nested = nested;
                self.crash();
            }
            Fault::WriteError { shard } => {
                if let Some(disk) = self.disks.get_mut(shard as usize) {
                    disk.fail_next_write();
                }
            }
            Fault::FullDisk { for_ns } => {
                self.full_disk += 1;
                self.probe("full disks");
                self.disks.iter().for_each(|disk| disk.set_full(true));
                self.set_room(Some(for_ns % FULL_ROOM_BYTES));
                let number = self.full_disk;
                self.agenda.put(self.now_ns + for_ns, Happening::FullDiskEnds { number });
            }
            Fault::Stall { shard, for_ns } => {
                self.probe("stalls");
                if for_ns > 1000 * MS {
                    self.probe("stalls longer than an election timeout");
                }
                if let Some(disk) = self.disks.get_mut(shard as usize) {
                    disk.stall(self.now_ns + for_ns);
                }
            }
            Fault::FlipUnacked { bits } => self.flip_unacknowledged(bits),
            Fault::FlipAnywhere { shard } => self.flip_anywhere(shard as usize),
            Fault::ClockJump { by_ms } => {
                self.probe("clock jumps");
                self.clock.jump(by_ms);
                self.books.borrow_mut().pace.jump(by_ms);
            }
            Fault::StateDamage { shard } => self.damage_state(shard as usize),
            Fault::Reopen { shard, for_ns } => self.take_off(shard as usize, for_ns),
            Fault::CleanStop => self.ask_to_stop(None),
            Fault::Replication { on } => self.ask_to_stop(Some(on)),
        }
    }

    /// A crash, then flipped bits where nothing was acknowledged.
    fn flip_unacknowledged(&mut self, bits: u32) {
        self.crash();
        for disk in &self.disks {
            let flipped = disk.flip_untouched(&mut self.streams.flip, bits);
            self.books.borrow_mut().probes.add("bits flipped, unacknowledged", flipped);
        }
    }

    /// A crash, then one flipped bit in anything that was ever written.
    fn flip_anywhere(&mut self, shard: usize) {
        self.crash();
        let Some(disk) = self.disks.get(shard) else { return };
        if let Some((slot, byte)) = disk.flip_anywhere(&mut self.streams.flip) {
            self.may_refuse = true;
            self.probe("bits flipped, anywhere");
            self.note("flip", shard as u64, u64::from(slot.0), byte);
        }
    }

    /// Something that a machine has stored cannot be read any more.
    fn damage_state(&mut self, shard: usize) {
        let Some(media) = self.media.get(shard) else { return };
        let is_served = Planted::of_machine(self.plan.planted) == Some(MachineBug::DamageServed);
        let mut books = self.books.borrow_mut();
        let damaged = books.subject().damage(media, &mut self.streams.flip, is_served);
        books.probes.add("rows damaged", damaged);
        drop(books);
        self.is_state_damaged |= damaged > 0;
        self.note("damage", shard as u64, damaged, 0);
    }

    /// Two replicas are taken off a shard, and opened again later, in the same order: so one gets the other's slot.
    fn take_off(&mut self, shard: usize, for_ns: u64) {
        let mut partitions = self.partitions_of(shard);
        for _ in 0..partitions.len().min(2) {
            let at = self.streams.reopen.below(partitions.len() as u64);
            let partition = partitions.swap_remove(usize::try_from(at).expect("few partitions"));
            let taken = self.with_shard(shard, |shard| {
                let is_open = shard.wal().in_flight() > 0;
                shard.remove(partition).then_some(is_open)
            });
            let Some(is_open) = taken.flatten() else { continue };
            self.note("taken off", partition.0, shard as u64, u64::from(is_open));
            self.probe(if is_open {
                "replicas taken off while the disk writes"
            } else {
                "replicas taken off"
            });
            let happening = Happening::Reopen { life: self.life, shard, partition };
            self.agenda.put(self.now_ns + for_ns, happening);
        }
        self.turn_soon(shard);
    }

    /// A replica that was taken off is opened again, as soon as it may be.
    pub(super) fn reopen(&mut self, shard: usize, partition: PartitionId) {
        let seed = mix(self.plan.seed ^ mix(self.now_ns ^ partition.0));
        let added = self.with_shard(shard, |shard| {
            let added = shard.add(partition, seed);
            (added, shard.replicas().find(|replica| replica.partition == partition))
        });
        match added {
            None => {}
            Some((Ok(true), replica)) => {
                self.note("opened again", partition.0, shard as u64, 0);
                self.probe("replicas opened again");
                // A fenced one is reported, and judged, with the next turn.
                if let Some(replica) = replica.filter(|replica| replica.started_as != StartedAs::Stopped) {
                    self.books.borrow_mut().started(partition, replica.started_as, replica.term);
                }
                self.turn_soon(shard);
            }
            Some((Ok(false), _)) => {
                self.probe("replicas that had to wait for their records");
                self.agenda
                    .put(self.now_ns + MS / 10, Happening::Reopen { life: self.life, shard, partition });
            }
            Some((Err(error), _)) => self.exited(shard, &error.to_string()),
        }
    }

    /// The storage is restored: everything must be there again. What was stopped by the damage starts anew.
    pub(super) fn restore_state(&mut self) {
        if self.is_state_damaged {
            let books = self.books.borrow();
            self.media.iter().for_each(|media| books.subject().restore(media));
            drop(books);
            self.crash();
        }
    }

    /// The operator stops the process in order and starts it again, with replication on or off.
    fn ask_to_stop(&mut self, replication: Option<bool>) {
        if self.node.is_none() || self.stopping {
            return;
        }
        self.stopping = true;
        self.close();
        self.wanted_replication = replication;
        self.agenda.put(self.now_ns + 10 * MS, Happening::TryStop { life: self.life });
    }

    /// Stops if everything is answered; else looks again later.
    pub(super) fn try_stop(&mut self) {
        if !self.is_quiet() {
            self.agenda.put(self.now_ns + 10 * MS, Happening::TryStop { life: self.life });
            return;
        }
        self.stop();
        if let Some(on) = self.wanted_replication.take() {
            self.probe(if on { "replication switched on" } else { "replication switched off" });
            self.replicated = on;
        }
        self.agenda.put(self.now_ns + 10 * MS, Happening::Restart { life: self.life });
    }

    /// The disk has room again.
    pub(super) fn full_disk_ends(&mut self) {
        self.disks.iter().for_each(|disk| disk.set_full(false));
        self.set_room(None);
    }

    /// How much the storage of all machines takes.
    fn set_room(&self, bytes: Option<u64>) {
        let books = self.books.borrow();
        self.media.iter().for_each(|media| books.subject().set_room(media, bytes));
    }
}
