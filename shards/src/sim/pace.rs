//! The judgement of partitions' clocks: what reads are judged by keeps the pace of time, however the wall clock jumps.
//!
//! A key with a time to live of T goes when its partition's clock has moved on by T since the entry's stamp, which the
//! model checks. So a clock that keeps pace is all that a time to live needs to last its time. Only a wall clock that
//! jumps forward may take the partitions' clocks along; one that jumps back must change nothing.

use std::collections::HashMap;

use crate::clock::Now;
use crate::ids::PartitionId;

/// A clock may lose so much, in thousandths, while it waits for the wall clock to catch up...
const SLOW_PER_MILLE: u64 = 2;
/// ... and be off by so many ms: both clocks are read in whole ms.
const SLACK_MS: u64 = 3;

/// What a partition's clock showed last in this incarnation.
#[derive(Clone, Copy, Debug)]
struct Shown {
    clock_ms: u64,
    mono_ns: u64,
    /// All jumps forward of the wall clock until then.
    jumped_ms: u64,
}

/// See the file's head.
#[derive(Default, Debug)]
pub struct Pace {
    shown: HashMap<PartitionId, Shown>,
    jumped_ms: u64,
}

impl Pace {
    /// The wall clock jumps.
    pub fn jump(&mut self, by_ms: i64) {
        self.jumped_ms += u64::try_from(by_ms).unwrap_or(0);
    }

    /// The process has died: the next one starts from what the log holds.
    pub fn crashed(&mut self) {
        self.shown.clear();
    }

    /// A read of the partition is judged by this clock. Returns what is wrong with it.
    pub fn show(&mut self, partition: PartitionId, clock_ms: u64, now: Now) -> Option<String> {
        let shown = Shown { clock_ms, mono_ns: now.mono_ns, jumped_ms: self.jumped_ms };
        let before = self.shown.insert(partition, shown)?;
        let elapsed_ms = (now.mono_ns - before.mono_ns) / 1_000_000;
        let least_ms =
            (before.clock_ms + elapsed_ms).saturating_sub(elapsed_ms * SLOW_PER_MILLE / 1000 + SLACK_MS);
        let most_ms = before.clock_ms + elapsed_ms + SLACK_MS + (self.jumped_ms - before.jumped_ms);
        if clock_ms < before.clock_ms || !(least_ms..=most_ms).contains(&clock_ms) {
            let moved_ms = i128::from(clock_ms) - i128::from(before.clock_ms);
            return Some(format!(
                "partition {partition}: its clock moved by {moved_ms} ms in {elapsed_ms} ms"
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(2);

    fn at(ms: u64) -> Now {
        Now { mono_ns: ms * 1_000_000, wall_ms: 0 }
    }

    #[test]
    fn a_clock_that_stands_still_or_runs_ahead_is_found_but_not_one_that_jumps_with_the_wall_clock() {
        let mut pace = Pace::default();
        assert_eq!(pace.show(P, 1000, at(0)), None);
        assert_eq!(pace.show(P, 2000, at(1000)), None);
        assert!(pace.show(P, 2000, at(1010)).is_some(), "it stands still");
        assert!(pace.show(P, 2020, at(1011)).is_some(), "it runs ahead");
        pace.jump(-5000);
        assert!(pace.show(P, 2019, at(1011)).is_some(), "it goes back");
        pace.jump(5000);
        assert_eq!(pace.show(P, 7000, at(1012)), None);
        pace.crashed();
        assert_eq!(pace.show(P, 1, at(1013)), None);
    }
}
