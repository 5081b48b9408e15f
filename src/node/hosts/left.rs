//! What replicas have left here whose members were removed: when it is deleted.
//!
//! Invariant: it stays for as long as `removed_keep_s` says, unless another member of the group is to be on this node before; and a
//! deletion that does not come to its end is asked for again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};

use corduroy_shards::raft::left::Deletion;
use corduroy_shards::{Now, Origin, PartitionId, ShardError};

use super::host::Host;

/// In a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// Of which shard here, of which partition, and where its next replica here comes from: [`Origin::Restart`] if there is none.
pub type Due = (usize, PartitionId, Origin);

/// See the file's head.
#[derive(Debug, Default)]
pub struct Left {
    /// Of which shard here, and since when it is kept, on the monotonic clock.
    kept: RefCell<HashMap<PartitionId, (usize, u64)>>,
    /// The same in the order of time, with some that are not kept any more, or since later.
    order: RefCell<VecDeque<(u64, PartitionId)>>,
    /// Deletions that have begun.
    under_way: RefCell<BTreeMap<PartitionId, (usize, Origin)>>,
    /// When those are asked for again, on the monotonic clock.
    again_ns: Cell<u64>,
}

impl Left {
    /// A replica was removed. What it has left is kept from now on.
    pub fn note(&self, index: usize, partition: PartitionId, now: Now) {
        self.kept.borrow_mut().insert(partition, (index, now.mono_ns));
        self.order.borrow_mut().push_back((now.mono_ns, partition));
    }

    /// A deletion has begun: it is asked for again in a second, if it does not end before.
    pub fn begun(&self, (index, partition, next): Due, now_ns: u64) {
        let mut under_way = self.under_way.borrow_mut();
        if under_way.is_empty() {
            self.again_ns.set(now_ns.saturating_add(NS_PER_S));
        }
        under_way.insert(partition, (index, next));
    }

    /// Nothing is left of the partition, or what is there may be needed.
    pub fn ended(&self, partition: PartitionId) {
        self.kept.borrow_mut().remove(&partition);
        self.under_way.borrow_mut().remove(&partition);
    }

    /// When the next of them is due, on the monotonic clock.
    pub fn next_ns(&self, keep_ns: u64) -> Option<u64> {
        let kept = self.order.borrow().front().map(|(since_ns, _)| since_ns.saturating_add(keep_ns));
        let again = (!self.under_way.borrow().is_empty()).then(|| self.again_ns.get());
        kept.into_iter().chain(again).min()
    }

    /// Those that are due.
    pub fn take_due(&self, keep_ns: u64, now_ns: u64) -> Vec<Due> {
        let mut due = Vec::new();
        let mut order = self.order.borrow_mut();
        let is_due = |(since_ns, _): &(u64, PartitionId)| since_ns.saturating_add(keep_ns) <= now_ns;
        while let Some((since_ns, partition)) = order.front().copied().filter(is_due) {
            order.pop_front();
            let mut kept = self.kept.borrow_mut();
            if let Some((index, _)) = kept.get(&partition).copied().filter(|at| at.1 == since_ns) {
                kept.remove(&partition);
                // Where it is being deleted for another member, that goes on.
                if !self.under_way.borrow().contains_key(&partition) {
                    due.push((index, partition, Origin::Restart));
                }
            }
        }
        if self.again_ns.get() <= now_ns {
            let again = self.under_way.take().into_iter();
            due.extend(again.map(|(partition, (index, next))| (index, partition, next)));
        }
        due
    }
}

/// Deletes what is there of a partition that has no member here any more, or another one `next`, as far as that goes now.
///
/// # Errors
/// [`ShardError`]: the process must end.
pub fn delete(host: &Host, partition: PartitionId, next: &Origin) -> Result<Deletion, ShardError> {
    let mut shard = host.shard.borrow_mut();
    let was_there = shard.replica(partition).is_some();
    let deletion = shard.delete(partition, next)?;
    if deletion == Deletion::Refused {
        return Ok(deletion);
    }
    host.dirty.set(true);
    if was_there {
        tracing::info!(
            shard = host.id.0,
            partition = partition.0,
            "deletes what a removed replica of the partition has left here"
        );
    }
    Ok(deletion)
}

#[cfg(test)]
mod tests {
    use corduroy_shards::StorageId;
    use corduroy_shards::ids::MemberId;

    use super::*;

    const P: PartitionId = PartitionId(2);
    const Q: PartitionId = PartitionId(3);

    const fn at(s: u64) -> Now {
        Now { mono_ns: s * NS_PER_S, wall_ms: 0 }
    }

    const fn restart(index: usize, partition: PartitionId) -> Due {
        (index, partition, Origin::Restart)
    }

    #[test]
    fn it_is_deleted_once_and_not_before_its_time() {
        let left = Left::default();
        assert_eq!(left.next_ns(60), None);
        left.note(0, P, at(100));
        left.note(1, Q, at(110));
        let (keep_ns, ns) = (60 * NS_PER_S, |s: u64| s * NS_PER_S);
        assert_eq!(left.next_ns(keep_ns), Some(ns(160)));
        assert_eq!(left.take_due(keep_ns, ns(159)), []);
        assert_eq!(left.take_due(keep_ns, ns(160)), [restart(0, P)]);
        assert_eq!(left.take_due(keep_ns, ns(200)), [restart(1, Q)]);
        assert_eq!((left.take_due(0, ns(300)), left.next_ns(0)), (vec![], None));
    }

    #[test]
    fn what_was_begun_is_asked_for_each_second_until_it_has_ended() {
        let (left, ns) = (Left::default(), |s: u64| s * NS_PER_S);
        let joins = Origin::Join { member: MemberId(9), leader: (MemberId(2), StorageId(2)) };
        left.note(0, P, at(100));
        left.begun((0, P, joins.clone()), ns(101));
        left.begun((0, P, joins.clone()), ns(101) + 1);
        assert_eq!(left.next_ns(60 * NS_PER_S), Some(ns(102)));
        assert_eq!(left.take_due(0, ns(101)), [], "it does not go as one that nobody is to be behind");
        assert_eq!(left.take_due(0, ns(102)), [(0, P, joins.clone())]);
        left.begun((0, P, joins), ns(102));
        left.ended(P);
        assert_eq!((left.take_due(0, ns(300)), left.next_ns(0)), (vec![], None));
    }

    #[test]
    fn who_is_reported_again_is_kept_from_then_on() {
        let left = Left::default();
        left.note(0, P, at(100));
        left.note(0, P, at(120));
        assert_eq!(left.take_due(60 * NS_PER_S, 179 * NS_PER_S), []);
        assert_eq!(left.take_due(0, 179 * NS_PER_S), [restart(0, P)], "the setting counts as it is now");
        assert_eq!(left.take_due(0, 179 * NS_PER_S), []);
    }
}
