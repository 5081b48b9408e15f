//! Spares: how many are kept, and that those are given back which others need the room of.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::device::mem::MemDisk;
use corduroy_wal::{LogId, Lsn, Options, Space, Wal};
use support::*;

/// Writes one log that keeps its last entries, a frame at a time, until as many spares are kept as ever will be.
fn churn(wal: &mut MemWal, from: u64, frames: u64) {
    for lsn in from..from + frames {
        append(wal, 1, lsn, 1, 1, 3000).unwrap();
        commit(wal);
        // In steps, so that several segments come free together.
        if lsn.is_multiple_of(100) {
            wal.release(LogId(1), Lsn(lsn - 10));
        }
    }
}

/// Segments by role: (with frames, spare), as the log counts them; the disk must hold just these.
fn counted(disk: &MemDisk, wal: &MemWal) -> (u64, u64) {
    let stats = wal.stats();
    assert_eq!(slots(disk), stats.live_segments + stats.spare_segments, "{stats:?}");
    (stats.live_segments, stats.spare_segments)
}

/// The log's slots in the folder.
fn slots(disk: &MemDisk) -> u64 {
    disk.slots().len() as u64
}

#[test]
fn spares_are_given_back_while_others_are_short_of_room_and_taken_up_again() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk, 1);
    churn(&mut wal, 1, 205);
    let (live, spare) = counted(&disk, &wal);
    assert_eq!((live, spare), (2, 4), "{:?}", wal.stats());
    wal.keep_few_spares(true);
    settle(&mut wal);
    assert_eq!(counted(&disk, &wal), (2, 2));
    assert_eq!((wal.stats().spares_given_back, wal.space()), (2, Space::Ok));
    // It goes on without the room, and keeps no more of what comes free.
    churn(&mut wal, 206, 200);
    assert_eq!(counted(&disk, &wal), (2, 2));
    wal.keep_few_spares(false);
    churn(&mut wal, 406, 200);
    assert_eq!(counted(&disk, &wal), (2, 4));
    let (mut wal, _) = open(&disk, 2);
    assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, 605, 1, 3000)));
}

#[test]
fn so_are_those_that_were_made_ahead() {
    let disk = MemDisk::new(1);
    let options = |seed| Options { spare_segments: 8, ..options(seed) };
    let (mut wal, _) = try_open(&disk, options(1)).unwrap();
    assert_eq!(counted(&disk, &wal), (0, 8));
    churn(&mut wal, 1, 5);
    wal.keep_few_spares(true);
    settle(&mut wal);
    assert_eq!(counted(&disk, &wal), (1, 2));
    wal.keep_few_spares(false);
    settle(&mut wal);
    assert_eq!(counted(&disk, &wal), (1, 8));
    // Those on the way when room gets short are given back as soon as they are there.
    disk.set_manual(true);
    fill_a_segment(&disk, &mut wal, 6);
    assert!(disk.pending() > 0, "a slot is being made");
    wal.keep_few_spares(true);
    disk.set_manual(false);
    settle(&mut wal);
    assert_eq!(counted(&disk, &wal), (2, 2));
}

/// Fills more than the active segment; of what the disk is asked, only writes end.
fn fill_a_segment(disk: &MemDisk, wal: &mut MemWal, from: u64) {
    for lsn in from..from + 14 {
        append(wal, 1, lsn, 1, 1, 3000).unwrap();
        wal.submit().unwrap();
        while let Some((at, _)) = disk.writes_under_way().first() {
            disk.complete(*at);
            wal.poll(&mut Vec::new()).unwrap();
        }
    }
}

#[test]
fn the_largest_are_kept() {
    let disk = MemDisk::new(1);
    let options = |seed| Options { segment_bytes: 1 << 20, ..options(seed) };
    let (mut wal, _) = try_open(&disk, options(1)).unwrap();
    // A large record has a large slot made beside the small ones.
    assert_eq!(wal.fit(400_000), corduroy_wal::Fit::Coming);
    settle(&mut wal);
    assert_eq!(counted(&disk, &wal), (0, 3));
    wal.keep_few_spares(true);
    settle(&mut wal);
    assert_eq!(counted(&disk, &wal), (0, 2));
    assert_eq!(wal.fit(400_000), corduroy_wal::Fit::Ready);
    append(&mut wal, 1, 1, 1, 1, 400_000).unwrap();
    commit(&mut wal);
    assert_eq!(counted(&disk, &wal), (1, 2));
}

#[test]
fn a_power_cut_while_they_go_loses_nothing() {
    let mut came_back = 0;
    for seed in 0..40 {
        let disk = MemDisk::new(seed);
        let (mut wal, _) = open(&disk, 1);
        churn(&mut wal, 1, 205);
        disk.set_manual(true);
        wal.keep_few_spares(true);
        wal.poll(&mut Vec::new()).unwrap();
        (0..seed % 3).for_each(|_| assert!(disk.complete_any()));
        drop(wal);
        disk.crash();
        disk.set_manual(false);
        came_back += slots(&disk) - 4;
        let (mut wal, _) = Wal::open(disk.device(), options(2)).unwrap();
        assert_eq!(wal.log_state(LogId(1)).unwrap().last, Lsn(205), "seed {seed}");
        assert_eq!(read_all(&mut wal, 1).unwrap().last(), Some(&entry(1, 205, 1, 3000)));
        wal.keep_few_spares(true);
        settle(&mut wal);
        assert_eq!(wal.stats().spare_segments, 2, "seed {seed}");
        churn(&mut wal, 206, 100);
        assert_eq!(counted(&disk, &wal).1, 2, "seed {seed}");
    }
    assert!((1..80).contains(&came_back), "{came_back} of 80 removals did not reach the disk");
}
