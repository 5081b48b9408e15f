//! The replicas of a shard in sum, kept by what changes of each.
//!
//! Invariant: what each replica adds is kept beside the sums, and taken out of them before it is added anew: so a replica that did not
//! change costs nothing, however many there are. Those shown one by one are those of the lowest partitions.

use std::collections::HashMap;

use corduroy_shards::wal::Lsn;
use corduroy_shards::{PartitionId, ReplicaStatus, Role};

use crate::node::facts::{Groups, MAX_GROUPS};

/// What a replica adds to the sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Part {
    applied: Lsn,
    leads: bool,
    is_ready: bool,
    is_asleep: bool,
    has_failed: bool,
}

impl Part {
    fn of(replica: &ReplicaStatus) -> Self {
        Self {
            applied: replica.applied,
            leads: replica.role == Role::Leader,
            is_ready: replica.is_ready,
            is_asleep: replica.is_asleep,
            has_failed: replica.error.is_some(),
        }
    }

    /// The sums, with what it adds to each made of them by `change`.
    fn apply(self, sums: &mut Groups, change: impl Fn(u64, u64) -> u64) {
        let Self { applied, leads, is_ready, is_asleep, has_failed } = self;
        let counts = [
            (&mut sums.replicas, true),
            (&mut sums.leaders, leads),
            (&mut sums.ready, is_ready),
            (&mut sums.asleep, is_asleep),
            (&mut sums.failed, has_failed),
        ];
        for (sum, counts) in counts {
            *sum = change(*sum as u64, counts.into()) as usize;
        }
        sums.applied = change(sums.applied, applied.get());
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Tally {
    groups: Groups,
    parts: HashMap<PartitionId, Part>,
}

impl Tally {
    /// The sums, and the first replicas.
    pub const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The partition's replica is this now; `None`: there is none.
    pub fn count(&mut self, partition: PartitionId, replica: Option<ReplicaStatus>) {
        let part = replica.as_ref().map(Part::of);
        let before = match part {
            Some(part) => self.parts.insert(partition, part),
            None => self.parts.remove(&partition),
        };
        if let Some(before) = before {
            before.apply(&mut self.groups, |sum, by| sum - by);
        }
        if let Some(part) = part {
            part.apply(&mut self.groups, |sum, by| sum + by);
        }
        self.show(partition, replica);
    }

    /// Keeps a replica if it is one of those that are shown. Where one was taken off, the next to be shown is the next that changes.
    fn show(&mut self, partition: PartitionId, replica: Option<ReplicaStatus>) {
        let first = &mut self.groups.first;
        let at = first.binary_search_by_key(&partition, |shown| shown.partition);
        match (at, replica) {
            (Ok(at), Some(replica)) => *first.get_mut(at).expect("it was just found") = replica,
            (Ok(at), None) => drop(first.remove(at)),
            (Err(at), Some(replica)) if at < MAX_GROUPS => {
                first.insert(at, replica);
                first.truncate(MAX_GROUPS);
            }
            (Err(_), Some(_) | None) => {}
        }
    }

    /// Whether these are all replicas, and they have been counted as they stand. Costs as much as there are, and no memory.
    pub fn is_of(&self, replicas: impl Iterator<Item = ReplicaStatus>) -> bool {
        let (mut sums, mut count, mut shown) = (Groups::default(), 0, 0);
        for replica in replicas {
            let part = Part::of(&replica);
            if self.parts.get(&replica.partition) != Some(&part) {
                return false;
            }
            part.apply(&mut sums, |sum, by| sum + by);
            count += 1;
            let at = self.groups.first.binary_search_by_key(&replica.partition, |shown| shown.partition);
            shown += usize::from(at.is_ok_and(|at| self.groups.first.get(at) == Some(&replica)));
        }
        sums.first.clone_from(&self.groups.first);
        sums == self.groups && count == self.parts.len() && shown == self.groups.first.len()
    }
}

#[cfg(test)]
mod tests {
    use corduroy_shards::raft::start::StartedAs;
    use corduroy_shards::wal::Term;

    use super::*;

    fn replica(partition: u64, applied: u64, role: Role) -> ReplicaStatus {
        ReplicaStatus {
            partition: PartitionId(partition),
            has_peers: true,
            copies: 0,
            role,
            started_as: StartedAs::Bootstrapped,
            term: Term(1),
            leader: None,
            leader_storage: None,
            members_as_of: Lsn::ZERO,
            leader_since_ns: 0,
            leader_changes: 0,
            last: Lsn(applied),
            committed: Lsn(applied),
            applied: Lsn(applied),
            released: Lsn::ZERO,
            unapplied_bytes: 0,
            pending_requests: 0,
            pending_bytes: 0,
            pending_entries: 0,
            read_rounds: 0,
            leased_until_ns: None,
            is_asleep: role == Role::Follower,
            is_held: false,
            is_ready: true,
            error: None,
        }
    }

    #[test]
    fn what_changes_is_counted_anew_and_nothing_else() {
        let mut tally = Tally::default();
        let mut all: Vec<_> = (2..200).map(|id| replica(id, id, Role::Follower)).collect();
        for replica in all.iter().rev() {
            tally.count(replica.partition, Some(replica.clone()));
        }
        assert!(tally.is_of(all.iter().cloned()));
        let shown: Vec<_> = tally.groups().first.iter().map(|replica| replica.partition.0).collect();
        assert_eq!(shown, (2..2 + MAX_GROUPS as u64).collect::<Vec<_>>(), "those of the lowest partitions");
        for (at, role) in [(0, Role::Leader), (150, Role::Leader), (0, Role::Candidate)] {
            all[at] = replica(all[at].partition.0, 1000, role);
            assert!(!tally.is_of(all.iter().cloned()), "one has changed that was not counted");
            tally.count(all[at].partition, Some(all[at].clone()));
            assert!(tally.is_of(all.iter().cloned()));
        }
        let Groups { replicas, leaders, asleep, failed, .. } = *tally.groups();
        assert_eq!((replicas, leaders, asleep, failed), (198, 1, 196, 0));
        for at in [150, 0] {
            let taken_off = all.remove(at);
            tally.count(taken_off.partition, None);
            assert!(tally.is_of(all.iter().cloned()));
        }
        assert_eq!((tally.groups().leaders, tally.groups().first.len()), (0, MAX_GROUPS - 1));
    }
}
