//! The time of partitions: what entries are stamped with, and what reads are judged by.
//!
//! A partition's clock follows the wall clock, but never goes back behind what it has shown: a key that a read found
//! expired stays expired. Where the wall clock was set back, the partition's clock goes on at the pace of the monotonic
//! one, a thousandth slower: a time to live lasts as long as it should, and the two clocks come together again.
//! Invariant: in one process a partition's clock never goes back; over a restart it starts at the highest stamp in its
//! log. The time in which no process ran is not counted while it is ahead, since nobody has measured it.

use crate::planted::{self, PlantedBug};

/// While a clock is ahead of the wall clock, it loses one ms in so many.
const SLEW: u64 = 1000;
/// A clock that is ahead of the wall clock by more than this is reported, in ms.
pub const AHEAD_MS: u64 = 1000;
/// No time was seen yet.
const UNSEEN: u64 = u64::MAX;

/// The time, handed in by the driver, which looks at its clock after it has taken what the shard is given with it: what a member
/// promises its leader for a time runs from then, and a read that came meanwhile finds a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic, ns from any origin, through times in which the machine is suspended too.
    pub mono_ns: u64,
    /// Wall clock, ms since 1970.
    pub wall_ms: u64,
}

/// One partition's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PartitionClock {
    /// What it showed when the monotonic clock was at `base_ns`, in ms since 1970.
    base_ms: u64,
    base_ns: u64,
}

impl PartitionClock {
    /// A clock that was last seen at `ms`.
    pub const fn last_at(ms: u64) -> Self {
        Self { base_ms: ms, base_ns: UNSEEN }
    }

    /// What it shows; from now on it never shows less.
    pub fn read(&mut self, now: Now) -> u64 {
        let paced_ms = self.paced_ms(now.mono_ns);
        if now.wall_ms > paced_ms || self.base_ns == UNSEEN {
            *self = Self { base_ms: now.wall_ms.max(paced_ms), base_ns: now.mono_ns };
            return self.base_ms;
        }
        paced_ms
    }

    /// It is at `ms` at least: the stamp of an entry.
    pub fn raise(&mut self, ms: u64, now: Now) {
        if ms > self.read(now) {
            *self = Self { base_ms: ms, base_ns: now.mono_ns };
        }
    }

    /// What it shows if nobody asks the wall clock.
    const fn paced_ms(&self, mono_ns: u64) -> u64 {
        if self.base_ns == UNSEEN {
            return self.base_ms;
        }
        let elapsed_ms = mono_ns.saturating_sub(self.base_ns) / 1_000_000;
        self.base_ms + elapsed_ms - elapsed_ms / SLEW
    }
}

/// What is to be reported of a shard's clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockReport {
    /// The stamps of a partition are ahead of the wall clock: it was set back, or had been wrong.
    Ahead {
        /// By how much, in ms.
        by_ms: u64,
    },
    /// They have come together again.
    Together,
}

/// What all clocks of a shard have in common.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// The one that is furthest ahead.
    latest: PartitionClock,
    is_ahead: bool,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { latest: PartitionClock::last_at(0), is_ahead: false }
    }
}

impl Clocks {
    /// A partition's log holds this stamp.
    pub fn found(&mut self, stamp_ms: u64) {
        self.latest.base_ms = self.latest.base_ms.max(stamp_ms);
    }

    /// What a partition's clock shows: what reads are judged by.
    pub fn read(&mut self, clock: &mut PartitionClock, now: Now) -> u64 {
        let now = if planted::is(PlantedBug::ClockStandsStill) { Now { mono_ns: 0, ..now } } else { now };
        let shown_ms = clock.read(now);
        if shown_ms > now.wall_ms {
            self.latest.raise(shown_ms, now);
        }
        shown_ms
    }

    /// The stamp of a partition's next entry.
    pub fn stamp(&mut self, clock: &mut PartitionClock, now: Now) -> u64 {
        if planted::is(PlantedBug::StampGoesBack) {
            return now.wall_ms;
        }
        self.read(clock, now)
    }

    /// By how much stamps are ahead of the wall clock, in ms.
    pub fn ahead_ms(&self, now: Now) -> u64 {
        let mut latest = self.latest;
        latest.read(now).saturating_sub(now.wall_ms)
    }

    /// What there is to report, once for each time that stamps get ahead.
    pub fn look(&mut self, now: Now) -> Option<ClockReport> {
        let by_ms = self.latest.read(now).saturating_sub(now.wall_ms);
        let is_ahead = by_ms > AHEAD_MS;
        if is_ahead == std::mem::replace(&mut self.is_ahead, is_ahead) {
            return None;
        }
        Some(if is_ahead { ClockReport::Ahead { by_ms } } else { ClockReport::Together })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, wall_ms: u64) -> Now {
        Now { mono_ns: 77 + seconds * 1_000_000_000, wall_ms }
    }

    #[test]
    fn a_clock_whose_wall_clock_was_set_back_goes_on_at_the_monotonic_pace() {
        let mut clock = PartitionClock::last_at(500);
        assert_eq!(clock.read(at(0, 10_000_000)), 10_000_000);
        assert_eq!(clock.read(at(1, 10_001_000)), 10_001_000);
        // An hour back.
        assert_eq!(clock.read(at(1, 6_401_000)), 10_001_000);
        assert_eq!(clock.read(at(51, 6_451_000)), 10_050_950);
        let ahead = |clock: &mut PartitionClock, seconds: u64| {
            let wall_ms = 6_400_000 + seconds * 1000;
            clock.read(at(seconds, wall_ms)) - wall_ms
        };
        assert_eq!(ahead(&mut clock, 1001), 3_599_000);
        assert_eq!(ahead(&mut clock, 3_600_001), 0, "they come together");
        assert_eq!(ahead(&mut clock, 5_000_000), 0);
    }

    #[test]
    fn it_never_goes_back_and_looking_often_does_not_hold_it_up() {
        let mut clock = PartitionClock::last_at(1_000_000);
        let mut last_ms = 0;
        for us in 0..5_000_000u64 {
            let wall_ms = if us % 7 == 0 { 0 } else { 400_000 + us / 1000 };
            let shown_ms = clock.read(Now { mono_ns: us * 1000, wall_ms });
            assert!(shown_ms >= last_ms);
            last_ms = shown_ms;
        }
        assert_eq!(last_ms, 1_000_000 + 4999 - 4);
    }

    #[test]
    fn a_stamp_of_another_leader_raises_it() {
        let mut clock = PartitionClock::last_at(0);
        assert_eq!(clock.read(at(0, 1000)), 1000);
        clock.raise(9000, at(1, 2000));
        assert_eq!(clock.read(at(3, 4000)), 10_998);
        clock.raise(9000, at(4, 5000));
        assert_eq!(clock.read(at(4, 5000)), 11_997);
    }

    #[test]
    fn being_ahead_is_reported_once_an_episode() {
        let (mut clocks, mut clock) = (Clocks::default(), PartitionClock::last_at(50_000));
        clocks.found(50_000);
        assert_eq!(clocks.look(at(0, 49_500)), None, "half a second is nothing");
        assert_eq!(clocks.look(at(1, 20_000)), Some(ClockReport::Ahead { by_ms: 30_999 }));
        assert_eq!(clocks.look(at(2, 21_000)), None);
        assert_eq!(clocks.ahead_ms(at(2, 21_000)), 30_998);
        assert_eq!(clocks.look(at(3, 60_000)), Some(ClockReport::Together));
        assert_eq!(clocks.read(&mut clock, at(3, 60_000)), 60_000);
        assert_eq!(clocks.read(&mut clock, at(3, 50_000)), 60_000);
        assert_eq!(clocks.look(at(3, 50_000)), Some(ClockReport::Ahead { by_ms: 10_000 }));
    }
}
