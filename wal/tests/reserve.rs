//! The reserve: an owner that asks for room is never left without, whatever it holds and lets go.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use std::collections::BTreeMap;

use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::{LogId, Lsn, Options, Space};
use support::*;

/// Longest record beside its entry.
const SLACK: usize = 200;

/// Numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = corduroy_wal::mix::mix(self.0);
        self.0 % bound
    }
}

/// What an owner of some logs has appended, and let go.
struct Owner {
    wal: MemWal,
    disk: MemDisk,
    draw: Draw,
    next: BTreeMap<u64, u64>,
    term: u64,
}

impl Owner {
    fn new(seed: u64) -> Self {
        let disk = MemDisk::new(seed);
        let mut draw = Draw(seed);
        let slots = 3 + draw.below(8) as usize;
        let is_limited = draw.below(2) == 0;
        if !is_limited {
            disk.set_max_slots(Some(slots));
        }
        let options = Options {
            max_in_flight: 1 + draw.below(3) as usize,
            max_segments: if is_limited { slots } else { 0 },
            ..options(seed)
        };
        let (wal, _) = try_open(&disk, options).unwrap();
        disk.set_manual(true);
        Self { wal, disk, draw, next: BTreeMap::new(), term: 1 }
    }

    /// A turn: what the disk has done, then a frame of what there is room for.
    fn turn(&mut self) {
        for _ in 0..self.draw.below(4) {
            self.disk.complete_any();
        }
        self.wal.poll(&mut Vec::new()).unwrap();
        self.wal.check();
        if !self.wal.can_submit() {
            return;
        }
        for _ in 0..self.draw.below(6) {
            let log = 1 + self.draw.below(12);
            let bytes =
                1 + self.draw.below(if self.draw.0.is_multiple_of(3) { 22_000 } else { 3_000 }) as usize;
            if self.draw.below(5) == 0 {
                if self.wal.admits(SLACK) {
                    self.term += 1;
                    append_state(&mut self.wal, log, self.term, 0).unwrap();
                }
            } else if self.wal.has_room(bytes + SLACK) {
                let lsn = self.next.entry(log).or_insert(1);
                append(&mut self.wal, log, *lsn, 1, 1, bytes).unwrap();
                *lsn += 1;
            }
        }
        self.wal.submit().unwrap();
        self.wal.check();
        if self.draw.below(30) == 0 {
            let (log, keeps) = (1 + self.draw.below(12), self.draw.below(3));
            let last = self.next.get(&log).map_or(0, |next| next - 1);
            self.wal.release(LogId(log), Lsn(last.saturating_sub(keeps)));
        }
    }

    /// Everything is let go, and the disk does its work: then there is room again for any record.
    fn ends_with_room(&mut self, seed: u64) {
        for (log, next) in &self.next {
            self.wal.release(LogId(*log), Lsn(next - 1));
        }
        self.disk.set_manual(false);
        for _ in 0..30 {
            settle(&mut self.wal);
            if self.wal.can_submit() {
                self.wal.submit().unwrap();
            }
        }
        let stats = self.wal.stats();
        assert!(self.wal.in_flight() == 0 && self.wal.space() == Space::Ok, "seed {seed}: {stats:?}");
        let lsn = self.next.entry(1).or_insert(1);
        assert!(self.wal.has_room(24_200), "seed {seed}: {stats:?}");
        append(&mut self.wal, 1, *lsn, 1, 1, 24_000).unwrap();
        commit(&mut self.wal);
        *lsn += 1;
        self.disk.set_manual(true);
    }
}

#[test]
fn what_is_let_go_makes_room_for_an_owner_that_asks() {
    let mut was_full = 0;
    for seed in 0..150 {
        let mut owner = Owner::new(seed);
        for _ in 0..4 {
            for _ in 0..150 {
                owner.turn();
                was_full += u32::from(owner.wal.space() == Space::Full);
            }
            owner.ends_with_room(seed);
        }
    }
    assert!(was_full > 5_000, "only {was_full} turns found the disk full");
}
