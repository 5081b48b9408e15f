//! What requests weigh by the rows that they copy or have flushed again, as far as memory has them: what is short may copy a
//! value of many MB. That decides when a request goes into its shard, and nothing else: what it does is the same on every
//! node. A row that only the disk level has counts as small: it is waited for anyway.

use corduroy_shards::PartitionId;

use crate::store::disk::DiskLevel;
use crate::store::exec::MAX_KEY_BYTES;
use crate::store::memory::partition::Found;
use crate::store::memory::row::Row;
use crate::store::op::Op;
use crate::store::op::kind::traits::{LITTLE, RENEWS};
use crate::store::op::weight::{HEAVY_BYTES, HEAVY_ROOM_BYTES, may_be_heavy, may_renew_rows};
use crate::store::state::{Lookup, Store};

/// Rows from this size on weigh what they take, for ops that copy them or have them flushed again.
const LARGE_ROW_BYTES: usize = 64 << 10;
/// What a read may bring and still be light, bytes; and the keys it may look at.
const LIGHT_BYTES: usize = 4 << 10;
const LIGHT_KEYS: usize = 64;

impl<L: DiskLevel> Store<L> {
    /// What a request weighs among those of which a shard has only so many under way ([`HEAVY_ROOM_BYTES`]); 0: it is light.
    /// By the rows as they are now, so it may be another one later.
    #[must_use]
    pub fn weight(&self, id: PartitionId, op: &[u8]) -> usize {
        let own_bytes = if op.len() > HEAVY_BYTES { op.len() } else { 0 };
        if !may_be_heavy(op) && !may_renew_rows(op) {
            return own_bytes;
        }
        let Ok(decoded) = Op::decode(op) else { return own_bytes };
        if decoded.is_heavy() {
            return own_bytes.max(HEAVY_ROOM_BYTES);
        }
        let row_bytes = self.renewed_bytes(id, &decoded);
        own_bytes + if row_bytes < LARGE_ROW_BYTES { 0 } else { row_bytes }
    }

    /// What an op copies of rows, or flushes get to write because of it, beyond what it brings.
    fn renewed_bytes(&self, id: PartitionId, op: &Op<'_>) -> usize {
        let ledger = &self.ledger;
        let changed = |row: &Row, end: usize| {
            let moved_bytes = if row.moves_for(end) { row.cost_bytes() } else { 0 };
            moved_bytes.max(ledger.renewed_bytes(row))
        };
        match *op {
            Op::Copy { from, .. } | Op::Rename { from, .. } => self.row(id, from).map_or(0, Row::cost_bytes),
            Op::Append { key, value } => {
                self.row(id, key).map_or(0, |row| changed(row, row.value().len() + value.len()))
            }
            Op::SetRange { key, offset, value } if !value.is_empty() => {
                let end = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(value.len());
                self.row(id, key).map_or(0, |row| changed(row, end))
            }
            Op::GetEx { key, .. }
            | Op::Expire { key, .. }
            | Op::ExpireIn { key, .. }
            | Op::Persist { key } => self.row(id, key).map_or(0, |row| ledger.renewed_bytes(row)),
            Op::Multi { ops, .. } | Op::MarkedMulti { ops, .. } => {
                let concerned = ops.iter().filter(|op| may_renew_rows(op));
                concerned.filter_map(|op| Op::decode(op).ok()).map(|op| self.renewed_bytes(id, &op)).sum()
            }
            // Of nothing.
            Op::SetRange { .. } => 0,
            other => {
                assert!(!other.kind().has(RENEWS), "{:?} is weighed by its rows", other.kind());
                0
            }
        }
    }

    /// The row of a key that exists, if memory has it.
    fn row(&self, id: PartitionId, key: &[u8]) -> Option<&Row> {
        let partition = self.partitions.get(&id).filter(|_| key.len() <= MAX_KEY_BYTES)?;
        match partition.find(self.seed.hash(key), key, partition.clock_ms) {
            Found::Live(row) => Some(row),
            Found::Absent | Found::Unknown => None,
        }
    }

    /// Whether heavy writes may come: while a flush is under way and half of what may be changed meanwhile is, the rest is
    /// kept for light ones, which would have to wait for the flush too.
    #[must_use]
    pub fn takes_heavy_writes(&self) -> bool {
        let waiting_bytes = self.ledger.dirty_bytes + self.ledger.captured_bytes;
        waiting_bytes <= self.options.max_dirty_bytes / 2 || !self.is_flushing()
    }

    /// Flushes that have ended, those that found no room included.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        u64::from(self.ledger.completed)
    }

    /// Whether a flush is under way, or about to be.
    fn is_flushing(&self) -> bool {
        let is_due = self.ledger.dirty_bytes >= self.options.flush_bytes;
        self.ledger.has_running_flush() || (is_due && self.has_room_to_flush())
    }

    /// Whether a read brings little, as far as memory shows: one that has to ask the disk level first waits anyway.
    pub(in crate::store) fn brings_little(&self, id: PartitionId, op: &[u8]) -> bool {
        let Ok(op) = Op::decode(op) else { return false };
        match op {
            Op::Get { key } | Op::GetRange { key, .. } => match self.get(id, key, 0) {
                Lookup::Value(value) => value.len() <= LIGHT_BYTES,
                Lookup::Absent | Lookup::Unknown => true,
            },
            Op::MGet { keys } => {
                let mut left = LIGHT_BYTES;
                keys.len() <= LIGHT_KEYS
                    && keys.iter().all(|key| match self.get(id, key, 0) {
                        Lookup::Value(value) => {
                            let is_little = value.len() <= left;
                            left = left.saturating_sub(value.len());
                            is_little
                        }
                        Lookup::Absent | Lookup::Unknown => true,
                    })
            }
            Op::Exists { keys } => keys.len() <= LIGHT_KEYS,
            other => other.kind().has(LITTLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::op::Expiry;
    use crate::store::tests::{Driver, P, bytes, get, options, set};
    use crate::store::{Condition, List, MemLevel, Outcome};

    #[test]
    fn what_copies_or_renews_a_large_row_weighs_what_the_row_takes() {
        const ROW_BYTES: usize = 3 << 20;
        let mut d = Driver::new(MemLevel::default(), options());
        let value = "v".repeat(ROW_BYTES);
        d.run(&set("large", &value));
        d.run(&set("small", "v"));
        let weight = |d: &Driver<MemLevel>, op: &Op<'_>| d.store.weight(P, &bytes(op));
        let copy = |from| Op::Copy { from, to: b"other", replace: true };
        let rename = |from| Op::Rename { from, to: b"other", only_if_none: false };
        let expiry = Expiry::At(u64::MAX);
        let changes = |key: &'static [u8]| {
            [
                Op::Append { key, value: b"x" },
                Op::SetRange { key, offset: 7, value: b"x" },
                Op::GetEx { key, expiry },
                Op::Expire { key, at_ms: i64::MAX, condition: Condition::Always },
                Op::ExpireIn { key, in_ms: 100_000, condition: Condition::Always },
                Op::Persist { key },
            ]
        };
        for op in [copy(b"large"), rename(b"large")] {
            assert!(weight(&d, &op) > ROW_BYTES, "{op:?}");
        }
        for op in changes(b"large") {
            assert_eq!(weight(&d, &op), 0, "the next flush writes it anyway: {op:?}");
        }
        let small = [copy(b"small"), rename(b"small"), copy(b"missing"), rename(b"missing"), get("large")];
        for op in small.into_iter().chain(changes(b"small")).chain(changes(b"missing")) {
            assert_eq!(weight(&d, &op), 0, "{op:?}");
        }
        // Once it is flushed, whoever changes it has it flushed again; and only the first of them.
        d.flush();
        for op in changes(b"large") {
            assert!(weight(&d, &op) > ROW_BYTES, "{op:?}");
        }
        d.run(&Op::Persist { key: b"large" });
        assert!(weight(&d, &changes(b"large")[0]) > 0, "it expires never, so nothing was changed");
        d.run(&changes(b"large")[3]);
        assert!(changes(b"large").iter().all(|op| weight(&d, op) == 0));
        // While it is sent to somebody, whoever changes its value copies it first.
        let Outcome::Shared(share) = d.run(&get("large")) else { panic!("it is large") };
        assert!(
            weight(&d, &changes(b"large")[0]) > ROW_BYTES && weight(&d, &changes(b"large")[1]) > ROW_BYTES
        );
        assert_eq!(weight(&d, &changes(b"large")[3]), 0, "its time is beside it");
        drop(share);
        // Growth is paid by steps.
        let more = "x".repeat(ROW_BYTES / 2);
        let grow = Op::Append { key: b"large", value: more.as_bytes() };
        assert!(weight(&d, &grow) > ROW_BYTES);
        // A transaction weighs what its parts do.
        let (light, heavy) = (bytes(&copy(b"small")), bytes(&copy(b"large")));
        let multi = |ops: &[&[u8]]| {
            d.store.weight(P, &bytes(&Op::Multi { guards: List::Args(&[]), ops: List::Args(ops) }))
        };
        assert_eq!(multi(&[&light, &light]), 0);
        assert!(multi(&[&light, &heavy, &heavy]) > 2 * ROW_BYTES);
        // And what is heavy by itself stays that.
        assert_eq!(weight(&d, &Op::Keys { pattern: b"*" }), HEAVY_ROOM_BYTES);
        assert_eq!(d.store.weight(P, &vec![0; HEAVY_BYTES + 1]), HEAVY_BYTES + 1);
    }
}
