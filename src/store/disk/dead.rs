//! The rows of flushed keyspaces, which merges leave out.

use std::collections::BTreeMap;
use std::ops::Bound;
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

    /// Whether a key is dead; and the key up to which all from it on are what it is.
    fn stretch(&self, key: &[u8]) -> (bool, Vec<u8>) {
        let ranges = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let at_or_before = ranges.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        match at_or_before.filter(|(_, to)| key < to.as_slice()) {
            Some((_, to)) => (true, to.clone()),
            None => {
                let next = ranges.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
                (false, next.map_or(LAST_KEY.to_vec(), |(from, _)| from.clone()))
            }
        }
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
        Box::new(Merge { dead: self.dead.clone(), stretch: (false, Vec::new()), pace })
    }
}

/// One merge.
struct Merge {
    dead: DeadRanges,
    /// Whether the last row was dead; and the key up to which those after it are what it was. A merge goes through rows in
    /// their order. What dies meanwhile further on goes with this one or the next.
    stretch: (bool, Vec<u8>),
    pace: Pace,
}

impl CompactionFilter for Merge {
    /// All versions of such a row are dead, so none can come back when one goes.
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        self.pace.step(item.key().len() + item.value()?.len());
        Ok(if self.is_dead(item.key()) { Verdict::Destroy } else { Verdict::Keep })
    }
}

impl Merge {
    /// Of the next key.
    fn is_dead(&mut self, key: &[u8]) -> bool {
        if key >= self.stretch.1.as_slice() {
            self.stretch = self.dead.stretch(key);
        }
        self.stretch.0
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
        let pace = Pace::new(&Arc::default(), Wait::Merge, PathBuf::new());
        let mut merge = Merge { dead, stretch: (false, Vec::new()), pace };
        for (key, is_dead) in
            [("a", false), ("az", false), ("b", true), ("czz", true), ("d", false), ("g", true), ("h", false)]
        {
            assert_eq!(merge.is_dead(key.as_bytes()), is_dead, "{key}");
        }
        merge.dead.add(b"i", b"k");
        assert_eq!([b"h", b"i", b"j", b"k"].map(|key| merge.is_dead(key)), [false; 4], "not in this merge");
    }
}
