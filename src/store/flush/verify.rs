//! When the store has what lies below compared with what was written: piece by piece at a bounded rate until all was read,
//! then again after a day.

use crate::store::disk::DiskLevel;
use crate::store::jobs::{Job, Task};
use crate::store::state::Store;

/// From one piece to the next, in ns. A piece reads up to 4 MiB, so a shard up to 8 MiB a second.
const PIECE_EVERY_NS: u64 = 500_000_000;
/// From the end of a round to the next one, in ns.
const ROUND_EVERY_NS: u64 = 24 * 3600 * 1_000_000_000;

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::store) enum Verifying {
    /// There is nothing below yet.
    #[default]
    Nothing,
    /// In a round.
    Round,
    /// A piece is being read.
    Piece,
    /// A round has ended.
    Ended,
}

impl Verifying {
    /// There is something below.
    pub(in crate::store) fn has_tables(&mut self) {
        if *self == Self::Nothing {
            *self = Self::Round;
        }
    }

    /// A piece was read.
    pub(in crate::store) const fn ended(&mut self, is_round: bool) {
        *self = if is_round { Self::Ended } else { Self::Round };
    }

    /// When the next piece is due.
    pub(in crate::store) const fn in_ns(self) -> Option<u64> {
        match self {
            Self::Nothing | Self::Piece => None,
            Self::Round => Some(PIECE_EVERY_NS),
            Self::Ended => Some(ROUND_EVERY_NS),
        }
    }
}

impl<L: DiskLevel> Store<L> {
    /// Has the next piece read.
    pub(in crate::store) fn verify_piece(&mut self) {
        if self.upkeep.verifying.in_ns().is_some() {
            self.upkeep.verifying = Verifying::Piece;
            self.jobs.push(Job { disk: self.disk.clone(), task: Task::Verify });
        }
    }
}

#[cfg(test)]
mod tests {
    use corduroy_shards::StateMachine;

    use super::*;
    use crate::store::tests::{ADOPT, Driver, options, set};
    use crate::store::{LsmLevel, LsmShared};

    #[test]
    fn rounds_are_read_in_pieces_and_begin_again_after_a_day() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = LsmLevel::open(folder.path(), &LsmShared::new(1 << 20, 32), &ADOPT).expect("opens");
        let mut d = Driver::new(disk, options());
        assert_eq!(d.store.verify_in_ns(), None, "there is nothing yet");
        d.run(&set("a", "1"));
        d.flush();
        for round in 1..=2 {
            let mut pieces = 0;
            while d.store.stats().disk.verified_rounds < round {
                assert_eq!(
                    d.store.verify_in_ns(),
                    Some(if pieces == 0 && round == 2 { ROUND_EVERY_NS } else { PIECE_EVERY_NS })
                );
                d.store.verify();
                assert_eq!(d.store.verify_in_ns(), None, "one job at a time");
                d.store.verify();
                d.settle();
                pieces += 1;
            }
            assert_eq!(pieces, 2, "the table, and the end");
        }
        let disk = d.store.stats().disk;
        assert!(disk.verified_bytes >= 2 * disk.disk_bytes && disk.damaged_tables == 0, "{disk:?}");
    }
}
