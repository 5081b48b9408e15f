//! How long a shard keeps entries of its log: until the state has persisted them, and beyond that, for members that lag
//! behind, as long as they lie near the log's end.
//!
//! Invariant: what is kept for members never makes the log look long to the state, which cannot shorten it by a flush, and
//! never lies before the newest `kept_bytes` of the log, so that it is not written again to free what lies before it; but for
//! what follows an image that is on its way.

use corduroy_wal::device::Device;
use corduroy_wal::{LogId, Lsn, SegmentSeq, Wal};

use super::group::Group;
use super::positions::{Position, Positions};
use super::replica::Replica;
use crate::planted::{self, PlantedBug};

/// What one shard keeps of its log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// The segment that was the newest when it was looked last.
    newest: SegmentSeq,
    /// Whether there was no room then.
    is_short: bool,
    /// The oldest segment that entries are kept in for members.
    kept_from: SegmentSeq,
    /// Nothing that the state has still to persist lies in front of this segment.
    unpersisted_from: SegmentSeq,
    /// Whether the state holds back more of the log than it should.
    is_long: bool,
}

impl Retention {
    /// The log was opened, and no replica's part of it is known yet.
    pub fn opened<D: Device>(wal: &Wal<D>, kept_bytes: u64) -> Self {
        let newest = wal.newest_segment();
        let kept_from = wal.first_segment_within(kept_bytes);
        Self { newest, is_short: false, kept_from, unpersisted_from: newest, is_long: false }
    }

    /// Looks at what was written. While log or state are short of room, nothing is kept for members but what lies in the segment
    /// that is being written, which would not become free anyway. Returns whether less is kept than before: then every
    /// replica that has other members [releases](Retention::release) some.
    pub fn look<D: Device>(&mut self, wal: &Wal<D>, kept_bytes: u64, is_short: bool) -> bool {
        let (newest, before) = (wal.newest_segment(), self.kept_from);
        if (newest, is_short) != (self.newest, self.is_short) {
            (self.newest, self.is_short) = (newest, is_short);
            self.kept_from = if is_short { newest } else { wal.first_segment_within(kept_bytes) };
        }
        assert!(
            self.kept_from <= newest.next(),
            "segment {} is kept, {newest} is the newest",
            self.kept_from
        );
        self.kept_from > before
    }

    /// Up to where other members need none of a replica's log, or are not going to have it.
    fn needless<D: Device>(&self, wal: &Wal<D>, log: LogId, replica: &Replica) -> Lsn {
        if planted::is(PlantedBug::ReleasedForPeers) {
            return replica.applied();
        }
        let far = wal.last_entry_before(log, self.kept_from).unwrap_or(Lsn::ZERO);
        replica.held_by_all().max(far.min(replica.applied()))
    }

    /// The positions of a replica that is opened.
    pub fn positions<D: Device>(
        &mut self,
        wal: &Wal<D>,
        log: LogId,
        replica: &Replica,
        persisted: Lsn,
    ) -> Positions {
        let mut positions = Positions::default();
        positions.register(Position::Persisted, persisted).expect("it is the first of a new log");
        if replica.has_peers() {
            let needless = self.needless(wal, log, replica).min(persisted);
            positions.register(Position::Members, needless).expect("it is the second");
        }
        let unpersisted = wal.segment_of(log, persisted.next());
        self.unpersisted_from = unpersisted.unwrap_or(self.unpersisted_from).min(self.unpersisted_from);
        positions
    }

    /// A replica's state has persisted this much: releases what nobody needs any more.
    pub fn release<D: Device>(
        &self,
        wal: &mut Wal<D>,
        log: LogId,
        (replica, positions): (&mut Replica, &mut Positions),
        persisted: Lsn,
    ) {
        let moves = "what the state machine has persisted stays persisted";
        let mut is_lowered = positions.advance(Position::Persisted, persisted).expect(moves);
        match (replica.has_peers(), positions.get(Position::Members)) {
            (true, None) => {
                let low_water = positions.low_water();
                positions.register(Position::Members, low_water).expect("it was not there");
            }
            (false, Some(_)) => {
                positions.remove(Position::Members).expect("it was there");
                is_lowered = true;
            }
            (true, Some(_)) | (false, None) => {}
        }
        if let Some(at) = positions.get(Position::Members) {
            let needless = self.needless(wal, log, replica).max(at);
            is_lowered |=
                positions.advance(Position::Members, needless).expect("it is not below where it was");
        }
        // Who gets an image needs what follows it, or gets another one, and so on. But for want of room, it is kept, though others
        // may have let go of it already: the state has not.
        let image = replica.group().and_then(Group::image_from).filter(|_| !self.is_short);
        is_lowered |= positions.set(Position::Images, image);
        if is_lowered {
            let low_water = positions.low_water();
            wal.release(log, low_water);
            replica.release(low_water.next());
        }
    }

    /// A flush has ended, and nothing that is unpersisted lies in front of this segment.
    pub fn flushed(&mut self, unpersisted_from: SegmentSeq) {
        self.unpersisted_from = unpersisted_from;
    }

    /// Finds out whether the state holds back more of the log than this many full segments.
    pub fn measure<D: Device>(&mut self, wal: &Wal<D>, soft_segments: u64) {
        self.is_long = wal.full_segments_from(self.unpersisted_from) > soft_segments;
    }

    /// Whether it did when it was measured: then a flush makes the log shorter.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.is_long
    }
}
