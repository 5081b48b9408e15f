//! What comes of an op that something is missing for.

use corduroy_shards::{PartitionId, Step, Wait};

use super::Failure;
use crate::store::disk::DiskLevel;
use crate::store::op::Outcome;
use crate::store::state::Store;

impl<L: DiskLevel> Store<L> {
    /// The last op was blocked, of an entry or not. `None`: it is to be tried again, since all is here now.
    pub(in crate::store) fn blocked(
        &mut self,
        id: PartitionId,
        bytes: &[u8],
        is_entry: bool,
    ) -> Option<Step<Outcome>> {
        let seed = self.seed;
        match self.lookups.take_failure(id, is_entry) {
            Some(Failure::Final(why)) => {
                self.lookups.wants.clear();
                // A blind write was made to look for its row only so that the number of keys is known.
                if is_entry && self.may_stay_unknown(id) {
                    return None;
                }
                self.pins.release(id, || seed.hash(bytes));
                return Some(Step::Unreadable(why));
            }
            Some(Failure::Waits) => {
                self.lookups.wants.clear();
                return Some(Step::Blocked(Wait::Job));
            }
            None => {}
        }
        let rows = self.lookups.wanted_rows();
        if self.load_at_hand(id) {
            return None;
        }
        if is_entry {
            self.lookups.hold(id, self.ledger.completed);
        }
        let op = seed.hash(bytes);
        self.pins.hold(id, op, rows);
        let wait = self.ask(id, op);
        self.begin_subsequences();
        Some(Step::Blocked(wait))
    }

    /// Lets blind writes of a partition be blind again, if they were not.
    fn may_stay_unknown(&mut self, id: PartitionId) -> bool {
        self.partitions.get_mut(&id).is_some_and(|partition| std::mem::take(&mut partition.exact_wanted))
    }
}
