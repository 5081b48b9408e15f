//! Reading one version of the tree for as long as that takes: what an image is made of.
//!
//! An iterator of the library holds the version that it was made of; a value is read of whichever is the present one. So both
//! are of one version only if none came in between, which is looked at by the versions' numbers.

use std::ops::Bound;
use std::sync::Arc;

use lsm_tree::{AbstractTree, AnyTree, Guard, UserKey, UserValue};

use super::tree::{ABOVE_ALL, GuardedTree};
use super::{DiskError, KeyRange, Pinned, ReadPair, guard};

impl GuardedTree {
    /// See [`DiskLevel::pin`](super::DiskLevel::pin).
    pub(super) fn pin(
        self: &Arc<Self>,
        head: &[u8],
        rows: &mut dyn FnMut(&[u8]) -> Option<KeyRange>,
    ) -> Result<Option<Pinned>, DiskError> {
        let tree = self.usable()?.tree;
        let version =
            || guard::reading("looking at the tree", self.path(), || Ok(tree.current_version().id()));
        // A change of the tree takes a thousand times as long as this.
        loop {
            let before = version()?;
            let value = guard::reading("reading rows", self.path(), || tree.get(head, ABOVE_ALL));
            let value = value.map_err(|error| self.locate(&tree, head, Bound::Included(head), error))?;
            let Some((value, (from, to))) = value.and_then(|value| rows(&value).map(|range| (value, range)))
            else {
                return Ok(None);
            };
            let items = guard::reading("reading rows", self.path(), || {
                Ok(tree.range(from.as_slice()..to.as_slice(), ABOVE_ALL, None))
            })?;
            if version()? == before {
                let items = items.map(Guard::into_inner);
                let last: UserKey = from.as_slice().into();
                let rows = PinnedRows { tree: Arc::clone(self), opened: tree, items, last, to };
                return Ok(Some(Pinned { head: value.to_vec(), rows: Box::new(rows) }));
            }
        }
    }
}

struct PinnedRows<I> {
    tree: Arc<GuardedTree>,
    opened: AnyTree,
    items: I,
    /// The key that was read last, and where the range ends.
    last: UserKey,
    to: Vec<u8>,
}

impl<I: Iterator<Item = lsm_tree::Result<(UserKey, UserValue)>>> Iterator for PinnedRows<I> {
    type Item = ReadPair;

    fn next(&mut self) -> Option<ReadPair> {
        let items = &mut self.items;
        let read = guard::reading("reading rows", self.tree.path(), || items.next().transpose());
        match read.transpose()? {
            Ok((key, value)) => {
                self.last = key;
                Some(Ok((self.last.to_vec(), value.to_vec())))
            }
            Err(error) => {
                let to = Bound::Excluded(self.to.as_slice());
                Some(Err(self.tree.locate(&self.opened, &self.last, to, error)))
            }
        }
    }
}
