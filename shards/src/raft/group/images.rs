//! Images of the state, for members that lack what the log does not have: which one a member needs, and what one that was installed here makes of the node.
//!
//! Invariant: an image includes the entry that added its member, and the configuration that it names is the one as of it. One
//! that is installed replaces the log in one record; until that is durable, nothing else happens to the node.

use corduroy_wal::{Lsn, Term};
use raft::ProgressState;
use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType, Snapshot};

use super::Group;
use crate::planted::{self, PlantedBug};
use crate::raft::guard::Fault;
use crate::raft::history::History;
use crate::raft::membership::{MemberId, Membership, StorageId};

/// Members that are not known yet and are remembered, at most.
const MET_MAX: usize = 8;

/// So many election timeouts the log is kept for a member that has its image and does not answer.
const AWAITED_ELECTIONS: u64 = 10;

/// An image that a member is sent, or comes up from: what follows it is kept in the log for that member.
#[derive(Debug)]
pub(super) struct ImagePin {
    pub(super) member: MemberId,
    /// The entry that it is as of.
    lsn: Lsn,
    /// The member has it, and comes up by the log.
    is_there: bool,
}

/// What a member notes of others for a while.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Members that the configuration does not have yet, and the storages that they were heard from.
    pub met: Vec<(MemberId, StorageId)>,
    /// Images that members are sent, or come up from.
    pub images: Vec<ImagePin>,
    /// The end of the log at the last tick at which there were any.
    pub last_at_tick: Lsn,
    /// Members that the crate has named an image to since that was asked.
    pub named_images: Vec<MemberId>,
    /// An image as of this entry was installed, and the record that begins the log behind it is not durable.
    pub restoring: Option<Lsn>,
    /// The entry that an image was as of which was installed last: what changes up to it have done is not known.
    pub replaced_to: Lsn,
}

impl Group {
    /// Whether the crate asked for images, or has named one.
    #[must_use]
    pub fn wants_images(&self) -> bool {
        self.store().history().is_some_and(History::asks_for_images)
            || self.members.notes.as_ref().is_some_and(|notes| !notes.named_images.is_empty())
    }

    /// Members that the crate asked for an image for.
    pub fn take_asked_images(&mut self) -> Vec<MemberId> {
        self.node.mut_store().history_mut().map(History::take_asked).unwrap_or_default()
    }

    /// Members that the crate has named an image to: they are to be sent it now.
    pub fn take_named_images(&mut self) -> Vec<MemberId> {
        self.members.notes.as_mut().map(|notes| std::mem::take(&mut notes.named_images)).unwrap_or_default()
    }

    /// The entry from which on an image may be that a member gets now. One that is older than the configuration would say
    /// nothing of who came since.
    #[must_use]
    pub fn least_image(&self, member: MemberId) -> Lsn {
        self.members.now.as_of.max(self.members.now.since(member))
    }

    /// There is an image as of the entry `lsn`. Returns the entry's term and the configuration, if a member can be sent it; then
    /// it is announced to the crate.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn has_image(&mut self, member: MemberId, lsn: Lsn) -> Result<Option<(Term, Vec<u8>)>, Fault> {
        let term = raft::Storage::term(self.store(), lsn.get()).unwrap_or_default();
        // An entry that was written without Raft has no term, and shows no gap.
        if term == 0 || lsn < self.least_image(member) || !self.leads() {
            return Ok(None);
        }
        let mut image = Snapshot::default();
        let metadata = image.mut_metadata();
        (metadata.index, metadata.term) = (lsn.get(), term);
        metadata.set_conf_state(self.members.now.conf_state());
        let configuration = self.members.now.encode();
        let images = &mut self.members.notes_mut().images;
        images.retain(|pin| pin.member != member);
        images.push(ImagePin { member, lsn, is_there: false });
        assert!(Term(term) <= self.hard_state().term, "entry {lsn} is of a term that has not begun");
        self.set_image(member, Some(image));
        self.call(|group| {
            if group.node.raft.prs().get(member.0).is_some() {
                group.node.raft.send_append(member.0);
            }
        })?;
        Ok(Some((Term(term), configuration)))
    }

    fn set_image(&mut self, member: MemberId, image: Option<Snapshot>) {
        self.node
            .mut_store()
            .history_mut()
            .into_iter()
            .for_each(|history| history.set_image(member, image.clone()));
    }

    /// What became of the image for a member. The crate asks only while it leads; what is kept for the image is kept on for a
    /// member that may have it, until that has come up.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn report_image(
        &mut self,
        member: MemberId,
        (has_it, may_have_it): (bool, bool),
    ) -> Result<(), Fault> {
        let comes_up = may_have_it && self.leads();
        if has_it {
            self.members.answers.note(member);
        }
        if let Some(notes) = &mut self.members.notes {
            notes.images.retain(|pin| comes_up || pin.member != member);
            notes.images.iter_mut().filter(|pin| pin.member == member).for_each(|pin| pin.is_there = true);
            notes.last_at_tick = Lsn(u64::MAX);
        }
        self.set_image(member, None);
        if !self.leads() {
            return Ok(());
        }
        let status = if has_it { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.call(|group| group.node.report_snapshot(member.0, status))
    }

    /// The entry behind which the log is kept for members that images are on their way to, or that come up from one.
    #[must_use]
    pub fn image_from(&self) -> Option<Lsn> {
        let needed = |pin: &ImagePin| {
            let has = self.node.raft.prs().get(pin.member.0).map_or(0, |progress| progress.matched);
            if pin.is_there { pin.lsn.max(Lsn(has)) } else { pin.lsn }
        };
        self.members.notes.as_ref()?.images.iter().map(needed).min()
    }

    /// A tick later. A member that has what the log had at the last one has come up; for one that says nothing nothing is kept.
    pub(super) fn let_pins_go(&mut self) {
        let (last, leads) = (self.last(), self.leads());
        let ticks = AWAITED_ELECTIONS * self.node.raft.election_timeout() as u64;
        let answers = &self.members.answers;
        let prs = self.node.raft.prs();
        let Some(notes) = self.members.notes.as_mut().filter(|notes| !notes.images.is_empty()) else {
            return;
        };
        let before = std::mem::replace(&mut notes.last_at_tick, last);
        notes.images.retain(|pin| {
            let is_behind = prs.get(pin.member.0).is_some_and(|progress| Lsn(progress.matched) < before);
            !pin.is_there || (leads && is_behind && answers.has_within(pin.member, ticks))
        });
    }

    /// Whether a member lacks what the log does not have any more, as far as its leader knows.
    pub(super) fn needs_image(&self, member: MemberId) -> bool {
        let Some(progress) = self.node.raft.prs().get(member.0) else { return true };
        let is_served = |next: Lsn| self.store().history().is_none_or(|history| history.serves(next));
        progress.state == ProgressState::Snapshot || !is_served(Lsn(progress.matched).next())
    }

    /// Takes what the crate says of images out of what is sent: the images are sent instead.
    pub(super) fn note_named_images(&mut self, messages: &mut Vec<Message>) {
        messages.retain(|message| {
            let names = message.get_msg_type() == MessageType::MsgSnapshot;
            if names {
                let named = &mut self.members.notes_mut().named_images;
                named.retain(|member| *member != MemberId(message.to));
                named.push(MemberId(message.to));
            }
            !names
        });
    }

    /// Whether the log has the entry already, with this term.
    #[must_use]
    pub fn has_entry(&self, lsn: Lsn, term: Term) -> bool {
        lsn <= self.last() && self.node.raft.raft_log.term(lsn.get()) == Ok(term.get())
    }

    /// The state was replaced by an image as of entry `lsn` of term `term`, which `leader` has sent. The log begins behind it.
    ///
    /// # Errors
    /// [`Fault`] if the crate does not take it: the state has what the log does not lead to.
    pub fn restore(
        &mut self,
        (lsn, term): (Lsn, Term),
        members: Membership,
        (leader, leader_term): (MemberId, Term),
    ) -> Result<(), Fault> {
        let is_ignored = planted::is(PlantedBug::ImageConfigurationIgnored);
        let members = if is_ignored { self.members.now.clone() } else { members };
        let mut message =
            Message { from: leader.0, to: self.node.raft.id, term: leader_term.get(), ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (lsn.get(), term.get());
        metadata.set_conf_state(members.conf_state());
        let stepped = self.call(|group| group.node.step(message))?;
        let taken = self.node.raft.raft_log.unstable_snapshot().as_ref();
        if stepped.is_err() || taken.is_none_or(|taken| taken.get_metadata().index != lsn.get()) {
            return Err(Fault(format!("Raft does not take the image as of entry {lsn}, which is installed")));
        }
        self.node.mut_store().restore(lsn, term);
        assert_eq!(self.last(), lsn, "the log begins behind the image");
        self.members.campaign_from = None;
        let notes = self.members.notes_mut();
        (notes.restoring, notes.replaced_to) = (Some(lsn), lsn);
        self.save_members(members);
        Ok(())
    }

    /// Whether an image has replaced the entry: nothing shows whether it is the one that was proposed here.
    #[must_use]
    pub fn has_replaced(&self, lsn: Lsn) -> bool {
        self.members.notes.as_ref().is_some_and(|notes| lsn <= notes.replaced_to)
    }

    /// Whether the record that begins the log anew is not durable yet.
    #[must_use]
    pub fn is_restoring(&self) -> bool {
        self.members.notes.as_ref().is_some_and(|notes| notes.restoring.is_some())
    }

    /// Records have become durable: the one that begins the log anew may be among them.
    pub(super) fn end_restoring(&mut self) {
        let restoring = self.members.notes.as_ref().and_then(|notes| notes.restoring);
        if let Some(lsn) = restoring.filter(|lsn| self.durable() >= *lsn && !self.readies.is_saving_conf()) {
            self.members.notes_mut().restoring = None;
            self.node.advance_apply_to(lsn.get());
        }
    }

    /// Where a member is, that this one knows, or has heard of late.
    #[must_use]
    pub fn storage_of(&self, member: MemberId) -> Option<StorageId> {
        let notes = self.members.notes.as_ref();
        let met = notes
            .and_then(|notes| notes.met.iter().find(|(of, _)| *of == member))
            .map(|(_, storage)| *storage);
        self.members.now.storage(member).or(met)
    }

    /// Whether a member is heard from this storage: from its own, if it is known. One that is not known was added by an entry
    /// which is not applied here; its storage was shown by whoever brings the message. Members that were removed have
    /// earlier entries, and are not heard; nor is anybody by a member that is alone, without which nobody is added.
    pub fn hears(&mut self, member: MemberId, storage: StorageId) -> bool {
        if let Some(known) = self.storage_of(member) {
            return known == storage;
        }
        if member.0 <= self.members.now.as_of.get() || storage == StorageId::UNKNOWN || self.is_alone() {
            return false;
        }
        let met = &mut self.members.notes_mut().met;
        if met.len() == MET_MAX {
            met.remove(0);
        }
        met.push((member, storage));
        assert!(met.len() <= MET_MAX, "few strangers are remembered");
        true
    }
}
