//! The room that frames may take, and the reserve that is kept so that what frees segments can always be written.
//!
//! Batches are written in order, so one that waits for room holds back all behind it: also what would make room. Two
//! rules keep that from happening.
//!
//! 1. *The owner can ask how much it may append* ([`Wal::has_room`], [`Wal::admits`]), and what it appends within that is
//!    *admitted*: it never waits for room. Of `n` spares, it may take what the active segment has left, or, where `n` is
//!    two or more, what a fresh spare takes. So it leaves a whole spare, unless there is none: then it leaves the second
//!    half of the active segment. Either is the *reserve*.
//! 2. *Where room is short, reclaim's frames hold nothing else*, are begun only while no batch waits, and may take the
//!    reserve. So they stand behind nothing that waits for room, and before whatever the owner appends next.
//!
//! Why a dead segment then always goes: what must be written first are the states that idle logs have in it, and a frame
//! of one block that states that it is free. The reserve takes them as long as those states come to less than half of
//! what a segment holds (tens of thousands of logs in a segment of 64 MiB). While no spare is there, a second segment is
//! begun with only once the first has come back as a spare: so the reserve is whole again before it is needed again, and
//! each round leaves as many spares as there were.
//!
//! An owner that appends without asking can still find no room. Its batch waits, and takes of the reserve as soon as
//! anything is being freed. What starts take away without a spare coming back (elections, on a disk that stays full) is
//! bounded by the first half of the active segment; for a log at `max_segments` see [`Beyond`].

use crate::batch::{Batch, Claim};
use crate::device::{BLOCK_BYTES, Device};
use crate::error::WalError;
use crate::format::frame::FRAME_HEAD_BYTES;
use crate::format::record::RECORD_HEAD_BYTES;
use crate::format::{footer, sectors};
use crate::growth::{frame_room, frame_with};
use crate::options::{Fit, Space};
use crate::reclaim::REWRITES_PER_FRAME;
use crate::segment::Segment;
use crate::wal::{Beyond, Wal};

/// Up to where the owner's frames may reach in a segment of this size while no spare is left.
fn first_half(slot_bytes: u32) -> usize {
    frames_limit(slot_bytes) / 2
}

/// Up to where frames may reach in a segment of this size: behind it stands its footer.
fn frames_limit(slot_bytes: u32) -> usize {
    (slot_bytes - footer::reserve_bytes(slot_bytes)) as usize
}

impl<D: Device> Wal<D> {
    /// What the owner's frames may take, in bytes, those that wait included.
    pub(crate) fn room_bytes(&self) -> usize {
        let up_to = |limit: fn(u32) -> usize| {
            let active = self.segments.active.as_ref();
            active.map_or(0, |active| limit(active.bytes).saturating_sub(active.end as usize))
        };
        let half_of_spare = |bytes: u32| first_half(bytes).saturating_sub(BLOCK_BYTES);
        match self.segments.spares() {
            0 => up_to(first_half),
            1 if self.may_take_last() => {
                let fresh = self.segments.spare_bytes().map(half_of_spare).max();
                up_to(frames_limit).max(fresh.unwrap_or_default())
            }
            1 => up_to(frames_limit),
            _ => {
                up_to(frames_limit).max(self.segments.spare_bytes().map(frame_room).max().unwrap_or_default())
            }
        }
    }

    /// Whether the last spare is for the owner: for the first frame after a start, or made for a frame that waits.
    fn may_take_last(&self) -> bool {
        self.segments.active.is_none() || self.making.beyond == Beyond::Wanted
    }

    /// Whether there is room for a record of this length behind what was appended already.
    pub fn has_room(&self, record_bytes: usize) -> bool {
        let waiting = self.commit.waiting_bytes();
        let alone = waiting + frame_with(record_bytes);
        let together =
            self.commit.open.as_ref().map(|open| (open.frame_bytes(), open.frame_bytes_with(record_bytes)));
        let bytes = match together {
            Some((before, after)) if after <= self.batch_bytes() => waiting - before + after,
            Some(_) | None => alone,
        };
        bytes <= self.room_bytes()
    }

    /// The longest record that there is room for while nothing waits, in bytes.
    pub fn ready_record_bytes(&self) -> usize {
        let content_bytes = sectors::content_bytes(self.room_bytes());
        content_bytes.saturating_sub(FRAME_HEAD_BYTES).min(self.record_limit_bytes())
    }

    /// Whether there is room for a record of this length. If a larger slot must be made for it, that is begun; appended
    /// nevertheless, the record and all behind it wait.
    pub fn fit(&mut self, record_bytes: usize) -> Fit {
        if self.has_room(record_bytes) {
            return Fit::Ready;
        }
        if self.commit.waiting_bytes() > 0 {
            // The next frame may have room for it.
            return Fit::Coming;
        }
        let frame_bytes = frame_with(record_bytes.min(self.record_limit_bytes()));
        self.want_room_for(frame_bytes);
        let comes_back = self.is_freeing() && frame_bytes <= frame_room(self.slot_at_hand());
        if self.making.blocked && !comes_back { Fit::Lacking } else { Fit::Coming }
    }

    /// Whether there is room for a record that must be written sooner or later, whatever the room. If there is none, all is
    /// done that there can be some.
    pub fn admits(&mut self, record_bytes: usize) -> bool {
        let is_room = self.has_room(record_bytes);
        self.making.is_awaited = !is_room;
        if !is_room {
            self.want_room_for(frame_with(record_bytes.min(self.record_limit_bytes())));
            if self.making.wait_polls == 0 {
                self.make_spares();
            }
        }
        is_room
    }

    /// What the batches that wait may take.
    pub(crate) fn claim_room(&mut self) {
        if self.commit.waiting_bytes() <= self.room_bytes() {
            self.commit.claim(Claim::Admitted);
        }
    }

    /// Whether the active segment takes a batch.
    pub(crate) fn fits_active(&self, batch: &Batch<D::Buffer>) -> bool {
        let takes_reserve = self.takes_reserve(batch);
        let limit = if self.segments.spares() > 0 || takes_reserve { frames_limit } else { first_half };
        let active = self.segments.active.as_ref();
        active.is_some_and(|active| active.end as usize + batch.frame_bytes() <= limit(active.bytes))
    }

    /// A roll needs a spare that takes the frame, and the active segment's header on the medium: so the chain of headers has
    /// no gap.
    pub(crate) fn can_roll(&self, batch: &Batch<D::Buffer>) -> bool {
        let may_take = match self.segments.spares() {
            0 => false,
            1 => self.may_take_last() || self.takes_reserve(batch),
            _ => true,
        };
        may_take && self.segments.spare_for(batch.frame_bytes()).is_some() && !self.is_header_under_way()
    }

    fn is_header_under_way(&self) -> bool {
        self.segments.active.as_ref().is_some_and(|active| active.first_batch > self.commit.durable)
    }

    fn takes_reserve(&self, batch: &Batch<D::Buffer>) -> bool {
        match batch.claim {
            Claim::Reclaim => true,
            Claim::Admitted => false,
            // What is freed comes back, and nothing is freed behind a batch that waits.
            Claim::Unasked => self.is_freeing(),
        }
    }

    /// Asserts that a batch that can not be started was not admitted.
    pub(crate) fn assert_not_admitted(&self, batch: &Batch<D::Buffer>) {
        assert!(
            batch.claim != Claim::Admitted || self.is_header_under_way(),
            "batch {} of {} bytes was admitted, and there is no room for it: {} spares, {:?}",
            batch.seq,
            batch.frame_bytes(),
            self.segments.spares(),
            self.segments.active
        );
    }

    /// Asserts that a batch of the owner has left the reserve.
    pub(crate) fn assert_reserve(&self, claim: Claim) {
        let keeps = |active: &Segment| active.end as usize <= first_half(active.bytes);
        assert!(
            claim != Claim::Admitted
                || self.segments.spares() > 0
                || self.segments.active.as_ref().is_some_and(keeps),
            "an admitted frame has taken of the reserve: {:?}",
            self.segments.active
        );
    }

    /// Whether older segments go as soon as frames have carried what lets them.
    fn is_freeing(&self) -> bool {
        self.dead_segment().is_some()
            || self.segments.has_retired()
            || (self.space() == Space::Full && self.is_copying())
    }

    /// Where room is short: writes what lets older segments go, in frames of its own.
    pub(crate) fn free_segments(&mut self) -> Result<(), WalError> {
        let is_idle = self.commit.ready.is_empty() && self.commit.open.is_none() && !self.is_wiping();
        if self.space() != Space::Full
            || !is_idle
            || self.commit.in_flight.len() >= self.options.max_in_flight
        {
            return Ok(());
        }
        // Without a spare, the one that is on its way back is waited for before more of the reserve is taken.
        if self.segments.spares() > 0 || !self.segments.has_retired() {
            self.add_copies()?;
            self.add_states()?;
        }
        if self.commit.open.is_none() && self.commit.ready.is_empty() && self.segments.has_unannounced() {
            let buffer = self.device.buffer(2 * BLOCK_BYTES);
            self.commit.begin(buffer);
        }
        self.commit.close();
        self.commit.claim(Claim::Reclaim);
        self.start_frames();
        Ok(())
    }

    /// Where there is room: adds to the open batch, if there is one, what lets older segments go.
    pub(crate) fn ride_along(&mut self) -> Result<(), WalError> {
        self.retire();
        if self.commit.open.is_none() || self.space() == Space::Full {
            return Ok(());
        }
        self.add_copies()?;
        self.add_states()
    }

    /// Adds the states that logs have in the dead segment, a few at a time, as far as there is room.
    fn add_states(&mut self) -> Result<(), WalError> {
        let Some(segment) = self.dead_segment().map(|dead| dead.seq) else { return Ok(()) };
        let is_short = self.space() == Space::Full;
        for _ in 0..REWRITES_PER_FRAME {
            let state_bytes = |wal: &Self, log| {
                let conf = wal.index.get(log).and_then(|entry| entry.conf.as_ref());
                2 * RECORD_HEAD_BYTES + conf.map_or(0, |conf| conf.len())
            };
            let Some(log) = self.reclaim.peek() else { break };
            if !is_short && !self.has_room(state_bytes(self, log)) {
                break;
            }
            self.reclaim.next();
            if self.index.get(log).is_some_and(|entry| entry.needs_state_in(segment)) {
                self.push_state(log)?;
                self.stats.rewritten_bytes += RECORD_HEAD_BYTES as u64;
            }
            // Also where a newer record made the rewrite needless: that one may still be on its way.
            self.reclaim.rewritten(self.commit.latest());
        }
        Ok(())
    }

    /// Whether nothing can be written for want of a segment: not even an election then, so what fills the log could
    /// never be handed over. The limit does not hold for one slot of each incarnation.
    pub(crate) fn is_stranded(&self) -> bool {
        let is_stuck = || {
            let is_idle = self.commit.in_flight.is_empty() && !self.is_wiping();
            is_idle
                && match self.commit.ready.front() {
                    Some(front) => !self.fits_active(front),
                    None => self.making.is_awaited && !self.is_freeing(),
                }
        };
        self.making.beyond == Beyond::Unused
            && self.segments.spares() + self.segments.making() == 0
            && (self.segments.active.is_none() || is_stuck())
    }
}
