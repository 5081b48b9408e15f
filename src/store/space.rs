//! What a store does about a disk that fills up, and one that is full.
//!
//! Before: it looks at the room each time some more has changed, and flushes early, while what has changed still fits.
//! When there is none: a flush that found no room is undone, so that the next one writes what is left by then, not what
//! was deleted since; nothing waits for it. It is tried again when it may fit: in what is left, or in the reserve.

use corduroy_shards::PartitionId;

use super::jobs::{Job, META_BYTES, Task};
use super::ledger::Captured;
use super::lower::format::PartitionMeta;
use super::lower::{Lower, Room, ingested_bytes};
use super::row::{DIRTY, UNKNOWN};
use super::state::Store;
use super::table::find_row;

/// What is known of the room.
#[derive(Debug)]
pub(super) struct Space {
    room: Room,
    /// A look is under way.
    is_looking: bool,
    /// `dirty_bytes` as of the last look.
    looked_at_bytes: usize,
    /// Flushes that found no room.
    pub(super) undone: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self { room: Room::PLENTY, is_looking: false, looked_at_bytes: 0, undone: 0 }
    }
}

impl<L: Lower> Store<L> {
    /// What a flush of all that has changed would write, roughly, with `more_bytes` of further changes.
    fn flush_bytes(&self, more_bytes: u64) -> u64 {
        let metas = META_BYTES * self.touched.len() as u64;
        ingested_bytes((self.ledger.dirty_bytes as u64 + metas).saturating_add(more_bytes))
    }

    /// Whether a flush may find room, the reserve's included.
    pub(super) fn has_room_to_flush(&self) -> bool {
        self.flush_bytes(0) <= self.upkeep.space.room.usable_bytes
    }

    /// Whether writes other than deletes have to be refused.
    pub(super) fn is_short_of_room(&self) -> bool {
        self.upkeep.space.room.is_short || !self.has_room_to_flush()
    }

    pub(super) fn take_room(&mut self, room: Room) {
        self.upkeep.space.room = room;
        self.upkeep.space.looked_at_bytes = self.ledger.dirty_bytes;
    }

    /// Looks at the room.
    pub(super) fn look(&mut self) {
        if !self.upkeep.space.is_looking {
            self.upkeep.space.is_looking = true;
            self.jobs.push(Job { lower: self.lower.clone(), task: Task::Look });
        }
    }

    /// Looks at the room if much has changed since the last look.
    pub(super) fn look_if_due(&mut self) {
        let space = &self.upkeep.space;
        let grown_bytes = self.ledger.dirty_bytes.saturating_sub(space.looked_at_bytes) as u64;
        if grown_bytes >= space.room.step_bytes {
            self.look();
        }
    }

    /// Takes the answer. Where room is short, what was deleted is flushed and merged, which makes some; where it is going
    /// to be, a flush goes ahead while it fits.
    pub(super) fn looked(&mut self, room: Room) {
        self.upkeep.space.is_looking = false;
        self.take_room(room);
        let has_changes = self.ledger.dirty_bytes > 0 || !self.touched.is_empty();
        if has_changes && (room.is_short || room.free_bytes < self.flush_bytes(room.step_bytes)) {
            self.hand_over_wanted = true;
        }
        self.freeze_if_due();
        if room.is_short && !self.ledger.is_handing_over() {
            self.compact();
        }
    }

    /// A flush found no room: its rows are changed ones again, as if it had not begun. Rows that changed since are so
    /// already; of a keyspace that was flushed since nothing is left to do. All others are still in memory, since rows on
    /// their way below are not dropped.
    pub(super) fn undo_hand_over(
        &mut self,
        rows: Vec<Captured>,
        metas: &[(PartitionId, PartitionMeta)],
        needed_bytes: u64,
    ) {
        self.upkeep.space.undone += 1;
        // The disk has said that this is too much, whatever it says is left.
        let usable_bytes = &mut self.upkeep.space.room.usable_bytes;
        *usable_bytes = (*usable_bytes).min(needed_bytes.saturating_sub(1));
        for (id, _) in metas {
            let partition = self.partitions.get_mut(id).expect("a frozen partition exists");
            partition.touch(&mut self.touched);
        }
        for captured in rows {
            let partition = self.partitions.get_mut(&captured.partition).expect("a frozen partition exists");
            if partition.keyspace != captured.keyspace {
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
        self.ledger.captured_bytes = 0;
        self.ledger.completed = self.ledger.epoch;
        self.upkeep.space.looked_at_bytes = self.ledger.dirty_bytes;
        self.hand_over_wanted = true;
    }
}
