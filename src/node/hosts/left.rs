//! What replicas have left here whose members were removed: when it is deleted.
//!
//! Invariant: it stays for as long as `removed_keep_s` says, unless another member of the group is to be on this node before; and a
//! deletion that does not come to its end is asked for again.

use std::cell::RefCell;

use corduroy_shards::raft::left::Deletion;
use corduroy_shards::{Now, Origin, PartitionId, ShardError};

use super::host::Host;

/// In a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Left {
    /// Of which shard here, of which partition, and since when, on the monotonic clock.
    all: RefCell<Vec<(usize, PartitionId, u64)>>,
}

impl Left {
    /// A replica was removed. What it has left is kept from now on.
    pub fn note(&self, index: usize, partition: PartitionId, now: Now) {
        let mut all = self.all.borrow_mut();
        all.retain(|(_, of, _)| *of != partition);
        all.push((index, partition, now.mono_ns));
    }

    /// When the next of them is due, on the monotonic clock.
    pub fn next_ns(&self, keep_ns: u64) -> Option<u64> {
        self.all.borrow().iter().map(|(.., since_ns)| since_ns.saturating_add(keep_ns)).min()
    }

    /// One that was due is looked at again in a second.
    pub fn again(&self, index: usize, partition: PartitionId, keep_ns: u64, now: Now) {
        let since_ns = now.mono_ns.saturating_add(NS_PER_S).saturating_sub(keep_ns);
        self.all.borrow_mut().push((index, partition, since_ns));
    }

    /// Those that are due.
    pub fn take_due(&self, keep_ns: u64, now_ns: u64) -> Vec<(usize, PartitionId)> {
        let is_due = |at: &mut (usize, PartitionId, u64)| at.2.saturating_add(keep_ns) <= now_ns;
        let due = self.all.borrow_mut().extract_if(.., is_due).collect::<Vec<_>>();
        due.into_iter().map(|(index, partition, _)| (index, partition)).collect()
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
    use super::*;

    const P: PartitionId = PartitionId(2);
    const Q: PartitionId = PartitionId(3);

    const fn at(s: u64) -> Now {
        Now { mono_ns: s * NS_PER_S, wall_ms: 0 }
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
        assert_eq!(left.take_due(keep_ns, ns(160)), [(0, P)]);
        left.again(0, P, keep_ns, at(160));
        assert_eq!(left.next_ns(keep_ns), Some(ns(161)));
        assert_eq!(left.take_due(keep_ns, ns(200)), [(1, Q), (0, P)]);
        assert_eq!(left.take_due(0, ns(300)), []);
    }

    #[test]
    fn who_is_reported_again_is_kept_from_then_on() {
        let left = Left::default();
        left.note(0, P, at(100));
        left.note(0, P, at(120));
        assert_eq!(left.take_due(60 * NS_PER_S, 179 * NS_PER_S), []);
        assert_eq!(left.take_due(0, 179 * NS_PER_S), [(0, P)], "the setting counts as it is now");
    }
}
