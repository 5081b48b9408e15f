//! The rows of flushed keyspaces, which merges leave out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use lsm_tree::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};

use super::pace::{Haste, Pace, Wait};

/// Keys from the first on, below the second.
pub(super) type Range = (Vec<u8>, Vec<u8>);

/// Above every key.
const LAST_KEY: &[u8] = &[u8::MAX];

/// The rows of flushed keyspaces, which merges leave out: key ranges, from their first key to above their last.
#[derive(Clone, Default)]
pub(super) struct DeadRanges(Arc<RwLock<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl DeadRanges {
    pub(super) fn add(&self, from: &[u8], to: &[u8]) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(from.to_vec(), to.to_vec());
    }

    fn contains(&self, key: &[u8]) -> bool {
        let ranges = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let at_or_before = (std::ops::Bound::Unbounded, std::ops::Bound::Included(key));
        ranges.range::<[u8], _>(at_or_before).next_back().is_some_and(|(_, to)| key < to.as_slice())
    }

    /// The ranges between them, in order.
    pub(super) fn gaps(&self) -> Vec<Range> {
        let ranges = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (mut gaps, mut from) = (Vec::new(), Vec::new());
        for (dead, to) in ranges.iter() {
            gaps.push((from, dead.clone()));
            from = to.clone();
        }
        gaps.push((from, LAST_KEY.to_vec()));
        gaps
    }
}

/// What every merge of a tree asks about every row: whether it is dead, and whether it is time for a pause.
pub(super) struct Merging {
    pub(super) dead: DeadRanges,
    pub(super) haste: Arc<Haste>,
    pub(super) folder: PathBuf,
}

impl Factory for Merging {
    fn name(&self) -> &'static str {
        "flushed-keyspaces"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let pace = Pace::new(&self.haste, Wait::Merge, self.folder.clone());
        Box::new(Merge { dead: self.dead.clone(), pace })
    }
}

/// One merge.
struct Merge {
    dead: DeadRanges,
    pace: Pace,
}

impl CompactionFilter for Merge {
    /// All versions of such a row are dead, so none can come back when one goes.
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        self.pace.step(item.key().len() + item.value()?.len());
        Ok(if self.dead.contains(item.key()) { Verdict::Destroy } else { Verdict::Keep })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gaps_are_all_that_no_range_covers() {
        let dead = DeadRanges::default();
        assert_eq!(dead.gaps(), [(vec![], LAST_KEY.to_vec())]);
        dead.add(b"f", b"h");
        dead.add(b"b", b"d");
        let keys = |from: &[u8], to: &[u8]| (from.to_vec(), to.to_vec());
        assert_eq!(dead.gaps(), [keys(b"", b"b"), keys(b"d", b"f"), keys(b"h", LAST_KEY)]);
        for (key, is_dead) in
            [("a", false), ("b", true), ("czz", true), ("d", false), ("g", true), ("h", false)]
        {
            assert_eq!(dead.contains(key.as_bytes()), is_dead, "{key}");
        }
    }
}
