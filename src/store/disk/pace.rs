//! How fast jobs write tables: in slices, with pauses between them as long as there is time, and with what was written
//! brought to the disk bit by bit.
//!
//! The requests of a core may share its CPU and its disk with such a job. One that went as fast as it can would hold up
//! each of them by what the system lets a thread run, and its table, written back as a whole at its end, would lie on the
//! disk's queue before the log's next frame. Invariant: the less room there is to wait in, the shorter the pauses, and in
//! the end there are none, so that no job is late for the sake of requests that would then wait for it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use corduroy_shards::runtime::pool;

use super::WantedHaste;
use super::manifest::table_file;

/// How long a job works before it pauses.
const SLICE: Duration = Duration::from_micros(250);
/// With all the time there is, pauses are so many times as long as the work before them.
const MOST_PAUSES: u32 = 3;
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// Rows after which the clock is looked at.
const ROWS_A_LOOK: u32 = 4;
/// Bytes of rows after which what was written is brought to the disk.
const SYNCED_BYTES: u64 = 1 << 20;

/// All the haste there is, in percent.
const FULL: u8 = 100;
/// Runs in level 0 up to which a merge has all the time there is, and from which on it has none.
const L0_RUNS: (u64, u64) = (8, 20);

/// How `value` lies between two bounds, in percent.
#[must_use]
pub fn percent(value: u64, (from, to): (u64, u64)) -> u8 {
    let part = value.saturating_sub(from).saturating_mul(u64::from(FULL)) / to.saturating_sub(from).max(1);
    u8::try_from(part).unwrap_or(FULL).min(FULL)
}

/// How much room there is to wait in: of the memory that changed rows may take, half is free for that.
#[must_use]
pub fn memory_haste(waiting_bytes: usize, max_bytes: usize) -> u8 {
    let max_bytes = max_bytes as u64;
    percent(waiting_bytes as u64, (max_bytes / 2, max_bytes - max_bytes / 4))
}

/// What the jobs of a tree are to know of each other and of their core.
#[derive(Default)]
pub(super) struct Haste {
    /// What the core says of flushes: by the memory that changed rows take, by the disk's room and by the log's.
    flush: AtomicU8,
    /// What it says of merges: by the disk's room.
    merge: AtomicU8,
    /// Flushes that wait for a merge.
    waiting: AtomicU64,
    /// The disk has little room: merges that stood back might not fit any more.
    is_tight: AtomicBool,
    l0_runs: AtomicU64,
    /// Tables from this number on are not written yet, or by a job that runs.
    next_table: AtomicU64,
}

impl Haste {
    pub(super) fn announce(&self, wanted: WantedHaste) {
        self.flush.store(wanted.flush, Ordering::Relaxed);
        self.merge.store(wanted.merge, Ordering::Relaxed);
    }

    /// A flush waits for merges, until what it gets is dropped.
    pub(super) fn wait_for_merge(&self) -> FlushWaits<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        FlushWaits(self)
    }

    pub(super) fn set_tight(&self, is_tight: bool) {
        self.is_tight.store(is_tight, Ordering::Relaxed);
    }

    pub(super) fn set_l0_runs(&self, runs: usize) {
        self.l0_runs.store(runs as u64, Ordering::Relaxed);
    }

    pub(super) fn set_next_table(&self, number: u64) {
        self.next_table.store(number, Ordering::Relaxed);
    }

    /// How long to pause after so much work. A merge that is in no haste itself stands back while writes wait for a flush.
    pub(super) fn pause(&self, wait: Wait, worked: Duration) -> Duration {
        let haste = self.of(wait);
        let stands_back = self.of(Wait::Flush) > 0 && !self.is_tight.load(Ordering::Relaxed);
        if wait == Wait::Merge && haste == 0 && stands_back {
            return PAUSE_MAX;
        }
        pause_after(worked, haste)
    }

    /// What it is now, in percent. A merge hurries for the room that it makes, and before flushes have to wait for it.
    fn of(&self, wait: Wait) -> u8 {
        match wait {
            Wait::Flush => self.flush.load(Ordering::Relaxed),
            Wait::Merge if self.waiting.load(Ordering::Relaxed) > 0 => FULL,
            Wait::Merge => {
                let by_runs = percent(self.l0_runs.load(Ordering::Relaxed), L0_RUNS);
                self.merge.load(Ordering::Relaxed).max(by_runs)
            }
        }
    }
}

/// A flush that waits for a merge.
pub(super) struct FlushWaits<'h>(&'h Haste);

impl Drop for FlushWaits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// For whom there is to hurry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// A flush: writes wait for it once memory is full of changed rows, or the log is full.
    Flush,
    /// A merge: reads look into ever more tables without it, and in the end flushes wait for it.
    Merge,
}

/// The slices of one job; no clock is read here.
#[derive(Debug, Default)]
struct Slices {
    rows: u32,
    unsynced_bytes: u64,
}

impl Slices {
    /// A row was written. Whether to look at the clock.
    fn wants_look(&mut self, bytes: u64) -> bool {
        self.unsynced_bytes += bytes;
        self.rows += 1;
        if self.rows < ROWS_A_LOOK {
            return false;
        }
        self.rows = 0;
        true
    }

    /// Whether what was written is to be brought to the disk now.
    fn wants_sync(&mut self) -> bool {
        let is_due = self.unsynced_bytes >= SYNCED_BYTES;
        if is_due {
            self.unsynced_bytes = 0;
        }
        is_due
    }
}

/// How long to pause after so much work.
fn pause_after(worked: Duration, haste: u8) -> Duration {
    let patience = u32::from(FULL - haste.min(FULL));
    (worked * MOST_PAUSES * patience / u32::from(FULL)).min(PAUSE_MAX)
}

/// The pace of one job; see the file's head.
pub struct Pace {
    haste: Arc<Haste>,
    wait: Wait,
    slices: Slices,
    slice_begun: Instant,
    unsynced: Unsynced,
}

impl Pace {
    /// Of a job on the tree in a folder.
    pub(super) fn new(haste: &Arc<Haste>, wait: Wait, folder: PathBuf) -> Self {
        let next = haste.next_table.load(Ordering::Relaxed);
        Self {
            haste: Arc::clone(haste),
            wait,
            slices: Slices::default(),
            slice_begun: Instant::now(),
            unsynced: Unsynced { folder, next, files: Vec::new() },
        }
    }

    /// A row of so many bytes was read or written: pauses if it is time for that.
    pub fn step(&mut self, bytes: usize) {
        if !self.slices.wants_look(bytes as u64) || self.slice_begun.elapsed() < SLICE {
            return;
        }
        if self.slices.wants_sync() {
            self.unsynced.sync();
        }
        pool::pause(self.haste.pause(self.wait, self.slice_begun.elapsed()));
        self.slice_begun = Instant::now();
    }
}

/// Tables that are being written.
struct Unsynced {
    folder: PathBuf,
    /// The number of the next one.
    next: u64,
    /// The newest, and those that have grown of late, each with its length when it was brought to the disk last. Whoever
    /// writes one syncs it when it is whole, so there are few.
    files: Vec<(File, u64)>,
}

impl Unsynced {
    /// Brings to the disk what has been written since the last time. Its failure is found again by whoever writes the
    /// file, since a file is synced before it counts.
    fn sync(&mut self) {
        while let Ok(file) = File::open(table_file(&self.folder, self.next)) {
            self.files.push((file, 0));
            self.next += 1;
        }
        let mut newer = self.files.len();
        self.files.retain_mut(|(file, synced_bytes)| {
            newer -= 1;
            let len = file.metadata().map_or(0, |metadata| metadata.len());
            let has_grown = len > *synced_bytes;
            if has_grown {
                *synced_bytes = len;
                drop(file.sync_data());
            }
            has_grown || newer == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_shrink_as_the_room_does_and_end_before_it_is_full() {
        const MAX: usize = 256 << 20;
        let worked = Duration::from_micros(300);
        let pause = |waiting_bytes: usize| pause_after(worked, memory_haste(waiting_bytes, MAX));
        assert_eq!(pause(0), worked * MOST_PAUSES);
        assert_eq!(pause(MAX / 2), worked * MOST_PAUSES, "a flush begins with a quarter of it");
        let steps: Vec<Duration> = (0..=64).map(|step| pause(step * MAX / 64)).collect();
        assert!(steps.is_sorted_by(|earlier, later| earlier >= later), "{steps:?}");
        assert!(pause(MAX * 5 / 8) < worked * MOST_PAUSES && pause(MAX * 5 / 8) > Duration::ZERO);
        assert_eq!([pause(MAX * 3 / 4), pause(MAX), pause(usize::MAX)], [Duration::ZERO; 3]);
        assert_eq!(pause_after(Duration::from_secs(1), 0), PAUSE_MAX);
        assert_eq!(memory_haste(1, 0), FULL, "there never was any room");
    }

    #[test]
    fn a_merge_has_no_time_left_before_flushes_wait_for_it() {
        let haste = |runs| percent(runs, L0_RUNS);
        assert_eq!([haste(0), haste(4), haste(8)], [0; 3], "a merge is due from 4 runs on");
        assert!((1..FULL).contains(&haste(14)));
        assert_eq!([haste(20), haste(32), haste(u64::MAX)], [FULL; 3]);
    }

    #[test]
    fn what_was_written_is_brought_to_the_disk_bit_by_bit() {
        let mut slices = Slices::default();
        let looks = (0..2000).filter(|_| slices.wants_look(1000)).count();
        assert_eq!(looks, 2000 / ROWS_A_LOOK as usize);
        assert!(slices.wants_sync() && !slices.wants_sync());
        let looks = (0..1000).filter(|_| slices.wants_look(1000)).count();
        assert!(looks > 0 && !slices.wants_sync(), "less than a step");

        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("tables")).expect("folder");
        let write = |number, bytes: usize| {
            std::fs::write(table_file(folder.path(), number), vec![1; bytes]).expect("writes");
        };
        let mut unsynced = Unsynced { folder: folder.path().to_owned(), next: 7, files: Vec::new() };
        let synced = |unsynced: &Unsynced| -> Vec<u64> { unsynced.files.iter().map(|file| file.1).collect() };
        write(6, 100);
        unsynced.sync();
        assert!(synced(&unsynced).is_empty(), "those of others are not its own");
        write(7, 100);
        unsynced.sync();
        write(7, 300);
        write(8, 50);
        unsynced.sync();
        assert_eq!((synced(&unsynced), unsynced.next), (vec![300, 50], 9));
        for number in 9..30 {
            write(number, 10);
            unsynced.sync();
            assert_eq!(
                (synced(&unsynced), unsynced.next),
                (vec![10], number + 1),
                "those before it are whole"
            );
        }
        unsynced.sync();
        assert_eq!(synced(&unsynced), [10], "nothing new, and it may still grow");
    }

    #[test]
    fn a_merge_hurries_as_level_0_says_and_as_the_core_does() {
        let haste = Haste::default();
        let both = |flush, merge, runs| {
            haste.announce(WantedHaste { flush, merge });
            haste.set_l0_runs(runs);
            [haste.of(Wait::Flush), haste.of(Wait::Merge)]
        };
        assert_eq!([both(0, 0, 0), both(0, 0, 20)], [[0, 0], [0, FULL]], "a flush waits for no merge yet");
        assert_eq!(
            [both(40, 0, 1), both(FULL, 0, 4)],
            [[40, 0], [FULL, 0]],
            "writes wait for the flush alone"
        );
        assert_eq!([both(FULL, FULL, 1), both(1, 0, 20)], [[FULL; 2], [1, FULL]]);
        let worked = Duration::from_micros(100);
        let pauses = |flush, merge, runs| {
            both(flush, merge, runs);
            [haste.pause(Wait::Flush, worked), haste.pause(Wait::Merge, worked)]
        };
        let all = worked * MOST_PAUSES;
        assert_eq!(pauses(0, 0, 4), [all, all]);
        assert_eq!(pauses(50, 0, 4), [all / 2, PAUSE_MAX], "it stands back");
        assert_eq!(pauses(50, 50, 4), [all / 2; 2], "but not where it makes room");
        assert_eq!(pauses(FULL, 0, 14), [Duration::ZERO, all / 2], "nor once there is much to merge");
        let waits = haste.wait_for_merge();
        assert_eq!(pauses(50, 0, 4), [all / 2, Duration::ZERO], "nor where the flush waits for it");
        drop(waits);
        haste.set_tight(true);
        assert_eq!(pauses(50, 0, 4), [all / 2, all], "nor where it might not fit later");
    }
}
