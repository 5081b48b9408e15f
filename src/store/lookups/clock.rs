//! Whether a read's answer rests on the clock: whether it may be another one by now than at the highest stamp applied, since
//! something has expired in between, or since the time that is left to a key is answered.
//!
//! Invariant: where it is not certain that it would be the same, it may be another one.

use corduroy_shards::PartitionId;

use crate::store::disk::DiskLevel;
use crate::store::memory::partition::{Found, Partition};
use crate::store::memory::row::NO_EXPIRY;
use crate::store::op::Op;
use crate::store::state::Store;

impl<L: DiskLevel> Store<L> {
    /// Whether a read may be answered otherwise at `now_ms` than at the highest stamp applied.
    pub(in crate::store) fn may_answer_otherwise(&self, id: PartitionId, op: &[u8], now_ms: u64) -> bool {
        let Some(partition) = self.partitions.get(&id) else { return false };
        now_ms > partition.clock_ms && Op::decode(op).is_ok_and(|op| self.rests(partition, &op, now_ms))
    }

    fn rests(&self, partition: &Partition, op: &Op<'_>, now_ms: u64) -> bool {
        let is_any_due = partition.may_hold_expired(now_ms);
        match *op {
            Op::Multi { ops, .. } | Op::MarkedMulti { ops, .. } => {
                is_any_due
                    || ops.iter().any(|op| Op::decode(op).is_ok_and(|op| self.rests(partition, &op, now_ms)))
            }
            Op::Ttl { key, absolute: false, .. } => self.may_expire(partition, key),
            op if op.is_walk() || op == Op::DbSize => is_any_due,
            op => is_any_due && op.keys(true).any(|key| self.has_expired(partition, key, now_ms)),
        }
    }

    /// Whether a key is there that expires some day.
    fn may_expire(&self, partition: &Partition, key: &[u8]) -> bool {
        match partition.find(self.seed.hash(key), key, partition.clock_ms) {
            Found::Live(row) => row.expire_at_ms != NO_EXPIRY,
            Found::Absent => false,
            Found::Unknown => true,
        }
    }

    /// Whether a key has expired since the highest stamp applied.
    fn has_expired(&self, partition: &Partition, key: &[u8], now_ms: u64) -> bool {
        match partition.find(self.seed.hash(key), key, partition.clock_ms) {
            Found::Live(row) => !row.is_live(now_ms),
            Found::Absent => false,
            Found::Unknown => true,
        }
    }
}
