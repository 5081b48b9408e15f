//! Images of replicas' states on their way to other members and from them.
//!
//! Invariant: what an image has replaced is answered by nobody: requests of entries that it may include get "unknown".

use corduroy_wal::device::Device;
use corduroy_wal::{Lsn, Term};

use super::Shard;
use super::io::PeerMessage;
use super::replica_slot::ApplyWait;
use super::replicas::List;
use crate::budget::Budget;
use crate::entry::Cursor;
use crate::ids::PartitionId;
use crate::image::Header;
use crate::machine::StateMachine;
use crate::raft::snapshot::transfers::{Todo, is_of_image};
use crate::reply::Reply;
use crate::table::ReplicaIdx;

impl<D: Device, M: StateMachine> Shard<D, M> {
    /// Goes on with all images that are on their way, as far as that goes now.
    pub(super) fn follow_images(&mut self) {
        while !self.transfers.is_idle() {
            let room_bytes = if self.machine.is_out_of_room() { 0 } else { u64::MAX };
            for partition in self.transfers.partitions() {
                let idx = self.replicas.find(partition);
                let replica = idx.map(|idx| &mut self.replicas.slot_mut(idx).replica);
                let followed = self.transfers.follow(partition, replica, (room_bytes, self.now.mono_ns));
                if let Some(idx) = idx {
                    let _fenced = self.fence_on_fault(idx, followed);
                }
                while let Some(todo) = self.transfers.poll() {
                    self.carry_out(todo);
                }
                if let Some(idx) = idx.filter(|idx| self.replicas.slot(*idx).replica.has_ready()) {
                    self.replicas.enqueue(List::Ready, idx);
                    self.left_over = true;
                }
            }
            // What is left is about what is not on its way any more.
            self.transfers.events().clear();
            self.machine.take_image_events(self.transfers.events());
            if self.transfers.events().is_empty() {
                break;
            }
        }
    }

    fn carry_out(&mut self, todo: Todo) {
        match todo {
            Todo::Ask(ask) => self.machine.ask_image(ask),
            Todo::Send(partition, to, message) => {
                assert!(is_of_image(&message), "partition {partition}: a message of no image");
                self.outbox.messages.push(PeerMessage { partition, to, message });
            }
            Todo::Hold(partition) => self.wait_for_image(partition, Some(ApplyWait::Image)),
            Todo::LetGo(partition) => self.wait_for_image(partition, None),
            Todo::Restored(partition, header) => {
                self.wait_for_image(partition, None);
                if let Some(idx) = self.replicas.find(partition) {
                    self.restored(idx, &header);
                }
            }
        }
    }

    fn wait_for_image(&mut self, partition: PartitionId, wait: Option<ApplyWait>) {
        let Some(idx) = self.replicas.find(partition) else { return };
        let number = self.replicas.slot_mut(idx).wait_for(wait);
        number.into_iter().for_each(|number| self.machine.abandon(number));
        self.refuse_reads(idx);
        self.replicas.enqueue_on([List::Apply, List::Watched], idx);
    }

    /// An image has replaced what was applied.
    fn restored(&mut self, idx: ReplicaIdx, header: &Header) {
        let now = self.now;
        let slot = self.replicas.slot_mut(idx);
        assert!(header.lsn > Lsn::ZERO, "partition {}: an image of no entry", slot.partition);
        assert_eq!(slot.replica.applied(), header.lsn, "partition {}: what is applied", slot.partition);
        assert!(slot.batches.is_empty() || !slot.replica.can_propose(), "partition {} leads", slot.partition);
        slot.cursor = Cursor::default();
        slot.applied_stamp_ms = slot.applied_stamp_ms.max(header.clock_ms);
        slot.clock.raise(header.clock_ms, now);
        assert!(slot.replica.is_held(), "partition {}: it goes on before its log does", slot.partition);
        // The log has no entry behind it: those that were proposed here may come back.
        slot.rows.set_aside(header.lsn.next(), Term::ZERO);
        let (mut applying, slot) = self.applying(idx, Budget::NONE);
        let why = slot.refusal();
        while let Some(row) = slot.rows.take_one_if(|row| row.lsn <= header.lsn) {
            applying.refuse(slot, row.requests, |work| Reply::of_logged(work, &why));
        }
        self.counters.images_installed += 1;
        self.replicas.enqueue_on([List::Unpersisted, List::Watched], idx);
        self.recount(idx);
    }
}
