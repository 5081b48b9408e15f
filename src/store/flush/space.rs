//! What a store does about a disk that fills up, and one that is full.
//!
//! Before: it looks at the room each time some more has changed, and flushes early, while what has changed still fits.
//! When there is none: a flush that found no room is undone, so that the next one writes what is left by then, not what
//! was deleted since; nothing waits for it. It is tried again when it may fit: in what is left, or in the reserve.

use corduroy_shards::{PartitionId, Unreadable};

use crate::store::disk::{DiskLevel, Room, WantedHaste, ingested_bytes, memory_haste, percent};
use crate::store::jobs::{Job, META_BYTES, Task};
use crate::store::lookups::Want;
use crate::store::memory::ledger::Captured;
use crate::store::memory::meta::PartitionMeta;
use crate::store::memory::row::{DIRTY, UNKNOWN};
use crate::store::memory::table::find_row;
use crate::store::state::Store;

/// Looks, about twice a second, after which a flush that found no room is tried again at the latest.
const MAX_WAIT_LOOKS: u32 = 8;

/// What is known of the room.
#[derive(Debug)]
pub(in crate::store) struct Space {
    room: Room,
    /// A look is under way.
    is_looking: bool,
    /// `dirty_bytes` as of the last look.
    looked_at_bytes: usize,
    /// Something was deleted since the last freeze, or before it: what makes room, and may have the reserve.
    pub(in crate::store) deletes: bool,
    pub(in crate::store) deletes_captured: bool,
    /// The last flush found no room.
    refused: Option<Refused>,
    /// Flushes that found no room.
    pub(in crate::store) undone: u64,
    /// Why the last flush could not be written, if that was not for want of room.
    pub(in crate::store) stalled: Option<Unreadable>,
    /// As of this turn, the log is full and waits for a flush.
    pub(in crate::store) is_log_full: bool,
}

/// A flush that found no room.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// What had changed then.
    changed_bytes: usize,
    /// The room that there was afterwards.
    usable_bytes: u64,
    /// Looks at the room since then.
    looks: u32,
    /// Looks until it is tried again whatever they find: who took the room may have been a merge that has ended since,
    /// and no figure says so.
    wait_looks: u32,
}

impl Refused {
    /// Whether another try would find no room either, as far as is known.
    const fn stands(self, changed_bytes: usize) -> bool {
        changed_bytes >= self.changed_bytes - self.changed_bytes / 8 && self.looks < self.wait_looks
    }
}

impl Default for Space {
    fn default() -> Self {
        Self {
            room: Room::PLENTY,
            is_looking: false,
            looked_at_bytes: 0,
            deletes: false,
            deletes_captured: false,
            refused: None,
            undone: 0,
            stalled: None,
            is_log_full: false,
        }
    }
}

impl Space {
    /// What has changed is being captured.
    pub(in crate::store) const fn freeze(&mut self) {
        (self.deletes_captured, self.deletes) = (self.deletes, false);
    }

    /// A flush found room.
    pub(in crate::store) fn has_flushed(&mut self) {
        (self.refused, self.stalled) = (None, None);
    }
}

/// The room there is; where it cannot be asked for, none.
pub(in crate::store) fn room<L: DiskLevel>(disk: &L) -> Room {
    disk.room().unwrap_or_else(|why| {
        tracing::warn!("{why}; writes are refused until it can be asked for");
        Room { is_short: true, free_bytes: 0, usable_bytes: 0, last_bytes: 0, step_bytes: 1 << 20 }
    })
}

impl<L: DiskLevel> Store<L> {
    /// What flushes of `changed` bytes of rows would write at most.
    fn flush_bytes(&self, changed: usize) -> u64 {
        ingested_bytes((changed as u64).saturating_add(META_BYTES * self.touched.len() as u64))
    }

    /// Whether a flush may find room, the reserve's included if it deletes. In a table small rows take half of what they
    /// take in memory, so that is tried; if it was too much, not again until there is less to write or more room, or some
    /// time has passed.
    pub(in crate::store) fn has_room_to_flush(&self) -> bool {
        let (changed, space) = (self.ledger.dirty_bytes, &self.upkeep.space);
        let Room { free_bytes, usable_bytes, last_bytes, .. } = space.room;
        let is_refused = space.refused.is_some_and(|refused| refused.stands(changed));
        let kept_bytes = if changed > 0 { last_bytes } else { 0 };
        let flush_bytes = self.flush_bytes(changed / 2);
        let fits_reserve = space.deletes && flush_bytes.saturating_add(kept_bytes) <= usable_bytes;
        !is_refused && (flush_bytes <= free_bytes || fits_reserve)
    }

    /// Whether writes other than deletes have to be refused: all that has changed must fit without the reserve.
    pub(in crate::store) fn is_short_of_room(&self) -> bool {
        let changed = self.ledger.dirty_bytes + self.ledger.captured_bytes;
        let Space { room, refused, stalled, .. } = &self.upkeep.space;
        let waits = refused.is_some() || stalled.is_some();
        waits || room.is_short || self.flush_bytes(changed) > room.free_bytes
    }

    /// Whether they will have to be after the changes of one more look.
    fn is_going_to_be_short(&self) -> bool {
        let Room { free_bytes, step_bytes, .. } = self.upkeep.space.room;
        let changed = self.ledger.dirty_bytes + self.ledger.captured_bytes;
        let ahead = changed.saturating_add(usize::try_from(step_bytes).unwrap_or(usize::MAX));
        step_bytes < u64::MAX && free_bytes < self.flush_bytes(ahead)
    }

    /// How much haste jobs are to make: writes wait for a flush where memory is full of changed rows, and are refused where
    /// the log or the disk may not take them. A merge gives no memory back, nor any of the log: while writes wait for a
    /// flush, it leaves the CPU and the disk to that, and merges the more of them at a time.
    pub(in crate::store) fn haste(&self) -> WantedHaste {
        let waiting_bytes = self.ledger.dirty_bytes + self.ledger.captured_bytes;
        let by_memory = memory_haste(waiting_bytes, self.options.max_dirty_bytes);
        let lacks_room = self.is_short_of_room() || self.is_going_to_be_short();
        let percent = |is_all: bool| if is_all { 100 } else { 0 };
        WantedHaste {
            flush: by_memory.max(percent(self.upkeep.space.is_log_full || lacks_room)),
            merge: percent(lacks_room),
        }
    }

    /// The same for eviction: there is none to make until memory is over its budget, and all if it is by a sixteenth.
    pub(in crate::store) fn haste_to_evict(&self) -> u8 {
        let (held, budget) = (self.ledger.held_bytes(), self.options.memory_bytes);
        percent(held as u64, (budget as u64, (budget + budget / 16) as u64))
    }

    /// Whether even deletes have to be refused, since what they leave in memory can neither be written nor kept.
    pub(in crate::store) fn is_overfull(&self) -> bool {
        self.ledger.dirty_bytes >= self.options.memory_bytes && self.is_short_of_room()
    }

    pub(in crate::store) fn take_room(&mut self, room: Room) {
        let space = &mut self.upkeep.space;
        let has_more = |then: u64| room.usable_bytes > then.saturating_add(then / 8);
        space.refused = space.refused.filter(|refused| !has_more(refused.usable_bytes));
        space.room = room;
        space.looked_at_bytes = self.ledger.dirty_bytes;
    }

    /// Looks at the room.
    pub(in crate::store) fn look(&mut self) {
        if !self.upkeep.space.is_looking {
            self.upkeep.space.is_looking = true;
            self.jobs.push(Job { disk: self.disk.clone(), task: Task::Look });
        }
    }

    /// Looks at the room if much has changed since the last look.
    pub(in crate::store) fn look_if_due(&mut self) {
        let space = &self.upkeep.space;
        let grown_bytes = self.ledger.dirty_bytes.saturating_sub(space.looked_at_bytes) as u64;
        if grown_bytes >= space.room.step_bytes {
            self.look();
        }
    }

    /// Takes the answer. Where room is short, what was deleted is flushed and merged, which makes some; where it is going
    /// to be, a flush goes ahead while it fits.
    pub(in crate::store) fn looked(&mut self, room: Room) {
        self.upkeep.space.is_looking = false;
        if let Some(refused) = &mut self.upkeep.space.refused {
            refused.looks = refused.looks.saturating_add(1);
        }
        self.take_room(room);
        if self.is_short_of_room() {
            self.begin_emptied_anew();
        }
        let is_due = match self.is_short_of_room() {
            true => self.upkeep.space.deletes || self.ledger.dirty_bytes > 0,
            false => self.ledger.dirty_bytes > 0 && self.is_going_to_be_short(),
        };
        self.flush_wanted |= is_due;
        self.freeze_if_due();
        if room.is_short && !self.ledger.has_running_flush() {
            self.compact();
        }
    }

    /// Partitions whose last key was deleted begin a keyspace, as after a flush of it: whole tables go then, and no
    /// tombstone has to be written.
    fn begin_emptied_anew(&mut self) {
        if self.ledger.has_running_flush() {
            return;
        }
        for at in 0..self.touched.len() {
            let Some(id) = self.touched.get(at).copied() else { return };
            let partition = self.partitions.get_mut(&id).expect("a touched partition exists");
            if partition.keys > partition.unknown {
                continue;
            }
            if partition.unknown > 0 {
                // Its keys may have been fewer than it seems.
                self.lookups.wants.push(Want::Unknown);
                self.ask(id, 0);
            } else if partition.table.page_count() > 0 {
                self.lookups.forget_pages(id);
                partition.begin_anew(&mut self.ledger);
            }
        }
    }

    /// A flush found no room: its rows are changed ones again, as if it had not begun. Rows that changed since are so
    /// already; of a keyspace that was flushed since nothing is left to do. All others are still in memory, since rows on
    /// their way below are not dropped.
    pub(in crate::store) fn undo_flush(
        &mut self,
        rows: Vec<Captured>,
        metas: &[(PartitionId, PartitionMeta)],
    ) {
        self.upkeep.space.undone += 1;
        for (id, _) in metas {
            let partition = self.partitions.get_mut(id).expect("a frozen partition exists");
            partition.touch(&mut self.touched);
        }
        for captured in rows {
            let partition = self.partitions.get_mut(&captured.partition).expect("a frozen partition exists");
            if partition.flush_version != captured.flush_version {
                continue;
            }
            let page = partition.table.page_mut(captured.hash);
            let row = find_row(&mut page.rows, captured.hash, &captured.key)
                .expect("a captured row stays in memory until its flush has ended");
            if !row.has(DIRTY) {
                row.set(DIRTY);
                page.dirty += 1;
                self.ledger.dirty_bytes += row.cost_bytes();
            }
            if captured.unknown {
                row.set(UNKNOWN);
                partition.unknown_hashes.push(captured.hash);
            }
        }
        self.ledger.end_flush();
        let (changed, space) = (self.ledger.dirty_bytes, &mut self.upkeep.space);
        let wait_looks = space.refused.map_or(1, |before| (2 * before.wait_looks).min(MAX_WAIT_LOOKS));
        let usable_bytes = space.room.usable_bytes;
        space.refused = Some(Refused { changed_bytes: changed, usable_bytes, looks: 0, wait_looks });
        space.looked_at_bytes = changed;
        space.deletes |= space.deletes_captured;
        self.flush_wanted = true;
    }
}
