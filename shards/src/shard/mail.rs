//! Messages to and from other members of groups.
//!
//! Invariant: what waits to be stepped is bounded, and kept in the order it came, member by member; nothing of it is held
//! that the replica has no room for. A message that is dropped is counted: Raft sends what matters again.

use corduroy_wal::device::Device;
use corduroy_wal::{OwnedEntry, ReadToken, Space, WalError};
use hashbrown::HashSet;
use raft::eraftpb::Message;

use super::io::PeerMessage;
use super::replica_slot::Slot;
use super::replicas::List;
use super::{Shard, ShardError};
use crate::ids::{MemberId, PartitionId, StorageId};
use crate::letters::{Letter, record_bytes, size_bytes};
use crate::liveness::is_beat;
use crate::machine::StateMachine;
use crate::options::RECORD_SLACK_BYTES;
use crate::planted::{self, PlantedBug};
use crate::raft::admit::{Refused, entry_bytes};
use crate::raft::history::Wanted;
use crate::raft::snapshot::transfers::is_of_image;
use crate::table::ReplicaIdx;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Has the replicas take in what came for them.
    pub(super) fn read_mail(&mut self) {
        let waiting = std::mem::take(&mut self.mail).into_waiting();
        // Replicas that have taken in as much as one record holds: the rest of theirs waits for the next frame.
        let mut filled: HashSet<PartitionId> = HashSet::new();
        for (partition, storage, letter) in waiting {
            if let Letter::Message(message) = &letter
                && is_beat(message)
            {
                self.liveness.heard(storage, partition, message, self.now.mono_ns);
                continue;
            }
            let Some(idx) = self.replicas.find(partition) else {
                self.counters.refused_messages += 1;
                continue;
            };
            // What came first is taken in first; what only keeps the group together does not wait.
            let is_behind = letter.is_append() && filled.contains(&partition);
            let is_filled = is_behind || letter.has_entries() && self.is_filled(idx, &letter);
            if is_filled {
                filled.insert(partition);
                let is_kept = self.mail.push(partition, storage, letter, usize::MAX);
                assert!(is_kept, "what had room keeps it");
                continue;
            }
            self.read_letter(idx, storage, letter);
        }
    }

    /// Whether the replica must write what it has before it takes a message in: a Ready is one record.
    fn is_filled(&self, idx: ReplicaIdx, letter: &Letter) -> bool {
        let Letter::Message(message) = letter else { return false };
        let untaken = self.replicas.slot(idx).replica.untaken_record_bytes();
        let most = self.wal.record_limit_bytes() - RECORD_SLACK_BYTES;
        untaken > 0 && untaken + size_bytes(message) > most && !planted::is(PlantedBug::RecordOverfilled)
    }

    fn read_letter(&mut self, idx: ReplicaIdx, storage: StorageId, letter: Letter) {
        let now_ns = self.now.mono_ns;
        let has_room = !matches!(&letter, Letter::Message(message) if !self.has_room(idx, message));
        let Slot { partition, replica, .. } = self.replicas.slot_mut(idx);
        let partition = *partition;
        let result = match letter {
            Letter::Unreachable => {
                self.transfers.lost(partition, replica, storage);
                replica.report_unreachable(storage).map(Ok)
            }
            Letter::Message(message) if is_of_image(&message) => {
                let room_bytes = if self.machine.is_out_of_room() { 0 } else { u64::MAX };
                Ok(self.transfers.received(partition, replica, (storage, &message), (room_bytes, now_ns)))
            }
            Letter::Message(_) if !has_room => Ok(Err(Refused::NoRoom)),
            Letter::Message(message) => replica.step(storage, *message, now_ns),
        };
        let Some(taken) = self.fence_on_fault(idx, result) else { return };
        self.counters.refused_messages += u64::from(taken.is_err());
        self.liveness.meet(storage, partition, now_ns);
        self.recount(idx);
        // It may have woken by what it does not take, too.
        self.replicas.enqueue_on([List::Ready, List::Apply, List::Watched], idx);
    }

    /// Has the beats sent that are due, and groups wake that it concerns who is heard and who is not.
    pub(super) fn follow_liveness(&mut self) {
        self.liveness.look(self.now.mono_ns, &mut self.outbox.messages);
        while let Some(event) = self.liveness.take_event() {
            let groups = self.replicas.iter().filter(|(_, slot)| slot.replica.has_peers());
            for idx in groups.map(|(idx, _)| idx).collect::<Vec<_>>() {
                let is_alive = |storage| self.liveness.is_alive(storage);
                let woken = self.replicas.slot_mut(idx).replica.heed(event, is_alive);
                if self.fence_on_fault(idx, woken) == Some(true) {
                    self.counters.woken_by_peers += 1;
                    self.replicas.enqueue_on([List::Ready, List::Watched], idx);
                }
            }
        }
    }

    fn give_up_read(&mut self, idx: ReplicaIdx) {
        self.counters.failed_fetches += 1;
        let result = self.replicas.slot_mut(idx).replica.fetched(None);
        let _fenced = self.fence_on_fault(idx, result);
    }

    /// Entries for a member that lags behind were read.
    ///
    /// # Errors
    /// [`ShardError`] if the log has failed. One that is damaged there is none for the member, which goes on asking.
    pub(super) fn fetched(
        &mut self,
        token: ReadToken,
        result: Result<Vec<OwnedEntry>, WalError>,
    ) -> Result<(), ShardError> {
        let idx = self.reads.remove(&token).expect("each read was started here");
        let Some(idx) = self.replicas.present(idx) else { return Ok(()) };
        match result {
            Ok(entries) => {
                assert!(!entries.is_empty(), "a read of the log brings one entry at least");
                let result = self.replicas.slot_mut(idx).replica.fetched(Some(entries));
                if self.fence_on_fault(idx, result).is_some() {
                    self.replicas.enqueue(List::Ready, idx);
                }
            }
            Err(WalError::Damaged { .. } | WalError::OutOfRange { .. }) => self.give_up_read(idx),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Whether entries of a message have room, on the disk and until they are applied. What begins within the log has: it may
    /// be there already, or replace what will never be applied, and nothing would become less without it.
    fn has_room(&self, idx: ReplicaIdx, message: &Message) -> bool {
        if message.get_entries().is_empty() {
            return true;
        }
        let (bytes, most) = (entry_bytes(message), self.options.limits.unapplied_bytes);
        let is_small = self.unapplied_bytes == 0 || self.unapplied_bytes + bytes <= most;
        let begins_within = message.index < self.replicas.slot(idx).replica.last().get();
        let fits = record_bytes(message) <= self.wal.record_limit_bytes();
        fits && (begins_within || is_small && self.space != Space::Full)
    }

    /// Puts the messages of a replica that may leave into the outbox, and has read what it needs for others.
    pub(super) fn send_mail(&mut self, idx: ReplicaIdx) {
        let slot = self.replicas.slot_mut(idx);
        if !slot.replica.has_peers() {
            return;
        }
        if self.reads.len() < self.options.limits.catch_up_reads
            && let Some(Wanted { from, to }) = slot.replica.take_wanted()
        {
            assert!(from <= to, "entries {from}..={to} are wanted");
            self.last_read += 1;
            let (token, most) = (ReadToken(self.last_read), self.options.group.message_bytes);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            match self.wal.read(token, slot.partition.log(), from, to, most) {
                Ok(()) => drop(self.reads.insert(token, idx)),
                // The log has failed, or has dropped them: the first ends the shard at its next turn.
                Err(_refused) => self.give_up_read(idx),
            }
        }
        let now_ns = self.now.mono_ns;
        let slot = self.replicas.slot_mut(idx);
        if !slot.replica.has_messages() && !slot.replica.wants_images() {
            return;
        }
        assert!(slot.replica.is_running(), "partition {} is stopped, and has messages", slot.partition);
        let partition = slot.partition;
        for message in slot.replica.take_messages() {
            match slot.replica.storage_of(MemberId(message.to)) {
                Some(to) => {
                    self.liveness.meet(to, partition, now_ns);
                    self.outbox.messages.push(PeerMessage { partition, to, message });
                }
                None => self.counters.lost_messages += 1,
            }
        }
        if slot.replica.wants_images() {
            let begun = self.transfers.begin(partition, &mut slot.replica, now_ns);
            let _fenced = self.fence_on_fault(idx, begun);
        }
    }
}
