//! What a replica hears from other members and says to them.
//!
//! Invariant: only members are heard, and those that an entry has added which is not applied here, each from its own storage.

use raft::eraftpb::Message;

use super::Replica;
use crate::raft::admit::Refused;
use crate::raft::group::Group;
use crate::raft::guard::Fault;
use crate::raft::membership::{MemberId, StorageId};
use crate::raft::quiescence::{SLEEP, WAKE};

impl Replica {
    /// Takes in a message of the member on the storage `from`, if it may be.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn step(
        &mut self,
        from: StorageId,
        message: Message,
        now_ns: u64,
    ) -> Result<Result<(), Refused>, Fault> {
        if self.is_held {
            return Ok(Err(Refused::Installing));
        }
        if !self.hears(MemberId(message.from), from) {
            return Ok(Err(Refused::Sender));
        }
        let by_leader = self.leadership.leader() == Some(MemberId(message.from));
        match message.get_msg_type() {
            SLEEP => return self.take_sleep(&message, now_ns),
            WAKE => return self.rouse(by_leader).map(Ok),
            _ if self.is_roused_by(&message) => self.rouse(by_leader)?,
            _ => {}
        }
        let Some(group) = self.engine.group_mut() else { return Ok(Err(Refused::Addressee)) };
        let stepped = group.step(message, now_ns)?;
        self.note_committed();
        self.observe(now_ns);
        Ok(stepped)
    }

    /// See [`Group::hears`].
    pub fn hears(&mut self, member: MemberId, storage: StorageId) -> bool {
        self.engine.group_mut().is_some_and(|group| group.hears(member, storage))
    }

    /// The storage that a member is on; `None`: that is not known.
    #[must_use]
    pub fn storage_of(&self, member: MemberId) -> Option<StorageId> {
        self.engine.group().and_then(|group| group.storage_of(member))
    }

    /// A message to the member on this storage could not be sent.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn report_unreachable(&mut self, storage: StorageId) -> Result<(), Fault> {
        let member = self.engine.group().and_then(|group| group.members().member_on(storage));
        let known = self.engine.group_mut().zip(member).filter(|_| !self.is_held);
        known.map_or(Ok(()), |(group, member)| group.report_unreachable(member))
    }

    /// Whether messages to other members may leave now.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.engine.group().is_some_and(Group::has_messages)
    }

    /// Messages that may leave now, in order.
    pub fn take_messages(&mut self) -> Vec<Message> {
        self.engine.take_messages()
    }
}
