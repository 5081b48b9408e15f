//! Faults strike: what each planned fault does to the world.

use crate::sim::planted::{MachineBug, Planted};
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
