//! Requests over several partitions: by the keys' slots, split and merged where the command allows it.

use std::collections::BTreeMap;

use super::queue::{Body, Merge, Parts};
use super::{Entry, Op, Outcome, PartitionId, Plan, Request, Scope, Session, Writer, errors, queue};
use corduroy_shards::routing::slot_of;

/// Bits of SCAN's cursor that hold the partition's index.
const fn index_bits(partitions: usize) -> u32 {
    usize::BITS - partitions.saturating_sub(1).leading_zeros()
}

/// A page of SCAN of one of several partitions; the cursor says where the walk goes on.
pub fn write_page(out: &mut Writer<'_>, index: usize, partitions: usize, outcome: &Outcome) {
    let Outcome::Scan { cursor, keys } = outcome else { return out.outcome(outcome) };
    let bits = index_bits(partitions);
    let next = match cursor {
        0 if index + 1 == partitions => 0,
        0 => index as u64 + 1,
        &cursor => {
            assert!(
                cursor.leading_zeros() >= bits,
                "the state's cursors leave room for the partition's index"
            );
            cursor << bits | index as u64
        }
    };
    out.scan(next, keys);
}

impl Session {
    /// The partition of a request whose keys all live in one; `None` if they do not, or if it has none.
    pub(super) fn one_partition(
        &self,
        entry: &Entry,
        scope: Scope,
        request: &Request<'_>,
    ) -> Option<PartitionId> {
        if !matches!(scope, Scope::OnePartition | Scope::SplitSum | Scope::SplitValues) {
            return None;
        }
        let mut partitions =
            entry.keys(request.args).map(|key| request.backend.partition_of_slot(slot_of(key)));
        let first = partitions.next()?;
        partitions.all(|partition| partition == first).then_some(first)
    }

    /// Sends a request to several partitions.
    pub(super) fn spread(
        &mut self,
        entry: &'static Entry,
        plan: Plan,
        scope: Scope,
        op: &Op<'_>,
        request: &Request<'_>,
    ) {
        match scope {
            Scope::OnePartition => self.reject(Some(entry.index), &errors::CROSSSLOT),
            Scope::SplitSum | Scope::SplitValues => self.split(entry, plan, scope, request),
            Scope::WholeSum => self.send_to_all(entry, Merge::Sum, op, request),
            Scope::WholeJoined => self.send_to_all(entry, Merge::Joined, op, request),
            Scope::WholeOk => self.send_to_all(entry, Merge::Ok, op, request),
            Scope::WholeOne => {
                let pick = if let Op::RandomKey { seed } = op { seed >> 32 } else { 0 };
                self.send_to_all(entry, Merge::One(pick), op, request);
            }
            Scope::Scan => self.scan(entry, op, request),
        }
    }

    /// Each partition gets its own keys.
    fn split(&mut self, entry: &'static Entry, plan: Plan, scope: Scope, request: &Request<'_>) {
        let name = request.args.first().copied().unwrap_or_default();
        // In the order of first appearance, so that parts are numbered as they are submitted.
        let mut parts: Vec<(PartitionId, Vec<&[u8]>)> = Vec::new();
        let mut index: BTreeMap<PartitionId, usize> = BTreeMap::new();
        let mut origins = Vec::new();
        for key in entry.keys(request.args) {
            let partition = request.backend.partition_of_slot(slot_of(key));
            let part = *index.entry(partition).or_insert_with(|| {
                parts.push((partition, vec![name]));
                parts.len() - 1
            });
            if let Some((_, args)) = parts.get_mut(part) {
                args.push(key);
                origins.push((part, args.len() - 2));
            }
        }
        let merge = if scope == Scope::SplitValues { Merge::Values(origins) } else { Merge::Sum };
        let body = Body::Parts(Box::new(Parts::new(parts.len(), entry.traits.write, merge)));
        self.push_slot(entry, body, request.args);
        for (part, (partition, args)) in parts.iter().enumerate() {
            let op = plan(&Request { args, ..*request }).expect("a command that may be split takes any keys");
            self.submit(*partition, part, &op, request.backend);
        }
    }

    fn send_to_all(&mut self, entry: &'static Entry, merge: Merge, op: &Op<'_>, request: &Request<'_>) {
        let partitions = request.backend.partitions();
        let parts = Parts::new(partitions.len(), entry.traits.write, merge);
        self.push_slot(entry, Body::Parts(Box::new(parts)), request.args);
        for (part, partition) in partitions.iter().enumerate() {
            self.submit(*partition, part, op, request.backend);
        }
    }

    fn scan(&mut self, entry: &'static Entry, op: &Op<'_>, request: &Request<'_>) {
        let Op::Scan { cursor, count, pattern, kind } = *op else { return };
        let partitions = request.backend.partitions();
        let bits = index_bits(partitions.len());
        let index = (cursor & ((1 << bits) - 1)) as usize;
        let Some(partition) = partitions.get(index) else {
            return self.refuse(entry, &errors::Refusal::new("ERR invalid cursor"));
        };
        self.push_slot(entry, queue::Body::Scan(index), request.args);
        let op = Op::Scan { cursor: cursor >> bits, count, pattern, kind };
        self.submit(*partition, 0, &op, request.backend);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::output::Output;

    #[test]
    fn cursors_carry_the_partition() {
        assert_eq!([1, 2, 3, 4, 5, 16384].map(index_bits), [0, 1, 2, 2, 3, 14]);
        let next = |cursor, index, partitions| {
            let mut bytes = Output::default();
            write_page(
                &mut Writer::new(&mut bytes, false),
                index,
                partitions,
                &Outcome::Scan { cursor, keys: vec![] },
            );
            String::from_utf8(bytes.to_vec()).unwrap().split("\r\n").nth(2).unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(next(0, 0, 3), 1);
        assert_eq!(next(0, 2, 3), 0);
        assert_eq!(next(5, 2, 3), 5 << 2 | 2);
    }
}
