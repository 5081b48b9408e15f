//! The reserve: an owner that asks for room is never left without, whatever it holds and lets go.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use std::collections::BTreeMap;

use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::{Fit, LogId, Lsn, Options, Space};
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
    /// So many slots the disk has room for; `None` if the log has a limit itself.
    slots: Option<usize>,
    /// So many times as long as the smallest slot is the largest.
    sizes: u64,
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
        let sizes = 1 << draw.below(3);
        let options = Options {
            segment_bytes: (64 << 10) * sizes as u32,
            max_in_flight: 1 + draw.below(3) as usize,
            max_segments: if is_limited { slots } else { 0 },
            ..options(seed)
        };
        let (wal, _) = try_open(&disk, options).unwrap();
        disk.set_manual(true);
        let slots = (!is_limited).then_some(slots);
        Self { wal, disk, draw, next: BTreeMap::new(), term: 1, slots, sizes }
    }

    /// A turn: what the disk has done, then a frame of what there is room for.
    fn turn(&mut self) {
        for _ in 0..self.draw.below(4) {
            self.disk.complete_any();
        }
        if let Some(slots) = self.slots
            && self.draw.below(20) == 0
        {
            // Others take of the disk, and give back.
            self.disk.set_max_slots(Some(slots + self.draw.below(2) as usize));
            self.wal.retry_slots();
        }
        self.wal.poll(&mut Vec::new()).unwrap();
        self.wal.check();
        if !self.wal.can_submit() {
            return;
        }
        for _ in 0..self.draw.below(6) {
            let log = 1 + self.draw.below(12);
            let most = if self.draw.0.is_multiple_of(3) { 22_000 } else { 3_000 } * self.sizes;
            let bytes = 1 + self.draw.below(most) as usize;
            if self.draw.below(5) == 0 {
                if self.wal.admits(SLACK) {
                    self.term += 1;
                    append_state(&mut self.wal, log, self.term, 0).unwrap();
                }
            } else if self.wal.fit(bytes + SLACK) == Fit::Ready {
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

/// Appends one entry, for which there is room.
fn append_asked(wal: &mut MemWal, log: u64, lsn: u64, bytes: usize) {
    assert!(wal.has_room(bytes + SLACK), "entry {lsn} of log {log}");
    append(wal, log, lsn, 1, 1, bytes).unwrap();
}

/// Appends to log 9 as long as there is room for that.
fn fill(wal: &mut MemWal, next: &mut u64) {
    for bytes in [3_000, 1] {
        while wal.has_room(bytes + SLACK) {
            append_asked(wal, 9, *next, bytes);
            commit(wal);
            *next += 1;
        }
    }
}

/// The disk ends all writes, and nothing else.
fn end_writes(wal: &mut MemWal, disk: &MemDisk) {
    while let Some((at, _)) = disk.writes_under_way().first() {
        assert!(disk.complete(*at));
        settle(wal);
    }
}

#[test]
fn what_was_admitted_to_a_new_slot_stays_so_when_the_next_one_cannot_be_made() {
    let disk = MemDisk::new(1);
    disk.set_max_slots(Some(1));
    let (mut wal, _) = try_open(&disk, Options { segment_bytes: 256 << 10, ..options(1) }).unwrap();
    fill(&mut wal, &mut 1);
    // Two are begun for what waits outside, and there is room for one.
    disk.set_max_slots(Some(2));
    disk.set_manual(true);
    wal.retry_slots();
    assert!(!wal.admits(100_000));
    assert_eq!(disk.pending(), 2);
    assert!(disk.complete_next());
    settle(&mut wal);
    assert_eq!(wal.stats().spare_segments, 1);
    append_asked(&mut wal, 1, 1, 3_000);
    wal.submit().unwrap();
    append_asked(&mut wal, 1, 2, 7_000);
    append_asked(&mut wal, 1, 3, 26_000);
    let last = wal.submit().unwrap();
    assert_eq!(disk.pending_writes(), 2, "the third waits for the end of one");
    assert!(disk.complete_next(), "the other cannot be made");
    settle(&mut wal);
    assert_eq!(wal.stats().spare_segments, 1);
    end_writes(&mut wal, &disk);
    assert_eq!((Some(wal.durable()), wal.stats().live_segments), (last, 2));
}

#[test]
fn the_slot_beyond_the_limit_is_kept_until_the_limit_is_reached() {
    let disk = MemDisk::new(1);
    disk.set_max_slots(Some(1));
    let (mut wal, _) = try_open(&disk, Options { max_segments: 2, ..options(1) }).unwrap();
    let mut next = 1;
    fill(&mut wal, &mut next);
    assert_eq!(wal.stats().live_segments, 1);
    disk.set_max_slots(None);
    for _ in 0..5 {
        wal.retry_slots();
        wal.admits(SLACK);
        settle(&mut wal);
        fill(&mut wal, &mut next);
    }
    let stats = wal.stats();
    assert_eq!((stats.live_segments, stats.spare_segments), (3, 0), "one more than two, and no other");
}

#[test]
fn copies_that_there_is_no_room_for_hold_nothing_up() {
    let disk = MemDisk::new(1);
    let sizes = Options { segment_bytes: 1 << 20, first_segment_bytes: 1 << 20, ..options(1) };
    let (mut wal, _) = try_open(&disk, Options { long_segments: 1, ..sizes }).unwrap();
    append_asked(&mut wal, 1, 1, 300_000);
    commit(&mut wal);
    for lsn in 1..=5 {
        if lsn == 4 {
            // No more slots are made.
            disk.set_manual(true);
        }
        append_asked(&mut wal, 2, lsn, 400_000);
        wal.submit().unwrap();
        end_writes(&mut wal, &disk);
        settle(&mut wal);
    }
    let stats = wal.stats();
    assert_eq!((stats.live_segments, stats.spare_segments, wal.space()), (3, 1, Space::Ok));
    wal.release(LogId(2), Lsn(5));
    let before = disk.pending();
    settle(&mut wal);
    assert_eq!(disk.pending(), before + 1, "the one entry that is left in the oldest segment is read");
    assert!(disk.complete(before));
    settle(&mut wal);
    assert!(wal.has_room(2 * (64 << 10)) && !wal.has_room(300_000));
    append_asked(&mut wal, 3, 1, 100);
    let batch = wal.submit().unwrap();
    end_writes(&mut wal, &disk);
    assert_eq!(Some(wal.durable()), batch, "it waits for no copy");
    // With more slots the copy goes, and with it the oldest segments.
    disk.set_manual(false);
    for lsn in 2..6 {
        settle(&mut wal);
        append_asked(&mut wal, 3, lsn, 100);
        commit(&mut wal);
    }
    let stats = wal.stats();
    assert!(stats.rewritten_bytes > 300_000 && stats.live_segments < 3, "{stats:?}");
}
