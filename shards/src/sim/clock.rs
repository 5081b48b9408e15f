//! The clocks of a simulated node: a monotonic one that drifts and a wall clock that jumps.
//!
//! Invariant: within one incarnation the monotonic clock never goes back; the wall clock may do anything.

use crate::clock::Now;

/// Where the simulated wall clocks start: some day in 2024, ms since 1970.
const WALL_START_MS: i64 = 1_720_000_000_000;

/// A node's clocks, as functions of the world's time.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Speed against the world's time, in millionths; 1,000,000 is exact.
    rate_ppm: u64,
    /// What the monotonic clock showed when the world began.
    mono_offset_ns: u64,
    /// Sum of all jumps of the wall clock so far.
    wall_jumped_ms: i64,
}

impl Clock {
    /// A clock that runs `rate_ppm` millionths as fast as the world.
    #[must_use]
    pub const fn new(rate_ppm: u64, mono_offset_ns: u64) -> Self {
        Self { rate_ppm, mono_offset_ns, wall_jumped_ms: 0 }
    }

    /// What the clocks show at `world_ns`.
    #[must_use]
    pub fn now(&self, world_ns: u64) -> Now {
        let elapsed_ns = u64::try_from(u128::from(world_ns) * u128::from(self.rate_ppm) / 1_000_000)
            .expect("a simulated run lasts less than centuries");
        let wall_ms =
            WALL_START_MS + i64::try_from(elapsed_ns / 1_000_000).expect("likewise") + self.wall_jumped_ms;
        Now { mono_ns: self.mono_offset_ns + elapsed_ns, wall_ms: u64::try_from(wall_ms).unwrap_or(0) }
    }

    /// The world's time at which the monotonic clock shows `mono_ns`, rounded up.
    #[must_use]
    pub fn world_ns(&self, mono_ns: u64) -> u64 {
        let elapsed_ns = u128::from(mono_ns.saturating_sub(self.mono_offset_ns));
        u64::try_from((elapsed_ns * 1_000_000).div_ceil(u128::from(self.rate_ppm))).unwrap_or(u64::MAX)
    }

    /// Moves the wall clock, forward or back.
    pub const fn jump(&mut self, by_ms: i64) {
        self.wall_jumped_ms += by_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_and_jumps() {
        let mut clock = Clock::new(1_100_000, 5);
        assert_eq!(clock.now(1_000_000_000).mono_ns, 1_100_000_005);
        assert_eq!(clock.world_ns(1_100_000_005), 1_000_000_000);
        let before = clock.now(0).wall_ms;
        clock.jump(-86_400_000);
        assert_eq!(clock.now(0).wall_ms, before - 86_400_000);
        assert_eq!(clock.now(0).mono_ns, 5);
    }
}
