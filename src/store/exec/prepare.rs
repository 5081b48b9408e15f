//! Before a write is proposed: what it needs of the rows below is read, so that one that needs damaged rows is refused
//! while it can be; and what it has is held until it has run, so that nothing has to be read again by then.

use corduroy_shards::{KeyspaceId, PartitionId, Prepared, Unreadable};
use corduroy_wal::Lsn;

use crate::store::disk::DiskLevel;
use crate::store::exec::{Exec, Stop};
use crate::store::lookups::Failure;
use crate::store::op::{ErrorKind, Op};
use crate::store::state::Store;

/// An operation that a newer version wrote, or nobody.
pub(in crate::store) fn unknown_op() -> Unreadable {
    Unreadable::Damaged(
        "an operation in it is not known to this version, or damaged; upgrade this node".to_owned(),
    )
}

/// An operation on a keyspace that only a newer version can have made.
pub(in crate::store) fn unknown_keyspace(keyspace: KeyspaceId) -> Unreadable {
    Unreadable::Damaged(format!(
        "an operation in it is on keyspace {keyspace}, and this version knows the default one alone; upgrade this node"
    ))
}

/// An entry whose rows would get versions that others have already.
pub(in crate::store) fn version_goes_back(found: Lsn, last: Lsn) -> Unreadable {
    Unreadable::Damaged(format!(
        "its version LSN {found} is not above {last}, which was applied before; rebuild the replica from a peer or a backup"
    ))
}

impl<L: DiskLevel> Store<L> {
    /// Looks whether an op has all rows that it needs in memory, or can have them at once.
    pub(in crate::store) fn prepare_op(&mut self, id: PartitionId, bytes: &[u8], op: &Op<'_>) -> Prepared {
        loop {
            if let Some(prepared) = self.try_to_prepare(id, bytes, op) {
                return prepared;
            }
        }
    }

    /// `None`: all that it lacked has been read meanwhile.
    fn try_to_prepare(&mut self, id: PartitionId, bytes: &[u8], op: &Op<'_>) -> Option<Prepared> {
        let seed = self.seed;
        let Some(partition) = self.partitions.get_mut(&id) else { return Some(Prepared::Ready) };
        let mut exec = Exec {
            now_ms: partition.clock_ms,
            version: 0,
            partition,
            ledger: &mut self.ledger,
            lookups: &mut self.lookups,
            options: &self.options,
            seed,
            committed: false,
            grown_bytes: 0,
            moved_bytes: 0,
            preparing: true,
            known: Some(Vec::new()),
        };
        let needs = exec.needs(op);
        let known = exec.known.take().unwrap_or_default();
        match needs {
            Err(Stop::Error(ErrorKind::BadOp)) => return Some(Prepared::Unreadable(unknown_op())),
            Ok(()) | Err(Stop::Error(_)) if known.is_empty() => return Some(Prepared::Ready),
            Ok(()) | Err(Stop::Error(_)) => {
                self.pins.keep(id, seed.hash(bytes), known);
                return Some(Prepared::Ready);
            }
            Err(Stop::Blocked) => {}
        }
        if let Some(Failure::Final(why)) = self.lookups.take_failure(id, false) {
            self.lookups.wants.clear();
            return Some(Prepared::Unreadable(why));
        }
        let rows = self.lookups.wanted_rows();
        if self.load_at_hand(id) {
            return None;
        }
        let op = seed.hash(bytes);
        self.pins.hold(id, op, rows);
        Some(Prepared::Blocked(self.ask(id, op)))
    }

    /// Whether eviction may begin before what is proposed now is applied: then what that needs is to be held.
    pub(in crate::store) fn is_about_to_evict(&self) -> bool {
        self.ledger.held_bytes() > self.options.memory_bytes / 16 * 15
    }
}
