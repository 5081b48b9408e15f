//! A replica and images of its state: those that it has for others, and the one that replaces its own.
//!
//! Invariant: a replica is held from before an image is installed until the log begins behind it, durably: it is not ticked,
//! stepped or proposed to, and applies nothing meanwhile.

use corduroy_wal::{Lsn, Term};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::Replica;
use crate::image::Header;
use crate::image::transfer::Ended;
use crate::raft::admit::is_sane_image;
use crate::raft::group::Group;
use crate::raft::guard::Fault;
use crate::raft::membership::{MemberId, Membership};
use crate::raft::quiescence::Sleep;

impl Replica {
    /// See [`Group::wants_images`](crate::raft::group::Group::wants_images).
    #[must_use]
    pub fn wants_images(&self) -> bool {
        self.engine.group().is_some_and(Group::wants_images)
    }

    /// See [`Group::take_asked_images`](crate::raft::group::Group::take_asked_images).
    pub fn take_asked_images(&mut self) -> Vec<MemberId> {
        self.engine.group_mut().map(Group::take_asked_images).unwrap_or_default()
    }

    /// See [`Group::take_named_images`](crate::raft::group::Group::take_named_images).
    pub fn take_named_images(&mut self) -> Vec<MemberId> {
        self.engine.group_mut().map(Group::take_named_images).unwrap_or_default()
    }

    /// See [`Group::least_image`](crate::raft::group::Group::least_image).
    #[must_use]
    pub fn least_image(&self, member: MemberId) -> Lsn {
        self.engine.group().map_or(Lsn::ZERO, |group| group.least_image(member))
    }

    /// See [`Group::has_image`](crate::raft::group::Group::has_image).
    ///
    /// # Errors
    /// [`Fault`].
    pub fn has_image(&mut self, member: MemberId, lsn: Lsn) -> Result<Option<(Term, Vec<u8>)>, Fault> {
        self.engine.group_mut().map_or(Ok(None), |group| group.has_image(member, lsn))
    }

    /// See [`Group::report_image`](crate::raft::group::Group::report_image).
    ///
    /// # Errors
    /// [`Fault`].
    pub fn report_image(&mut self, member: MemberId, has_it: (bool, bool)) -> Result<(), Fault> {
        self.engine.group_mut().map_or(Ok(()), |group| group.report_image(member, has_it))
    }

    /// Whether it leads in this term a group that has the member, which may be sent images then.
    #[must_use]
    pub fn sends_images_to(&self, member: MemberId, term: Term) -> bool {
        let group = self.engine.group().filter(|group| group.leads() && group.hard_state().term == term);
        group.is_some_and(|group| group.members().storage(member).is_some())
    }

    /// What is sent of an image, to the member that gets it or that sends it.
    #[must_use]
    pub fn image_message(&self, to: MemberId, is_of_sender: bool, bytes: bytes::Bytes) -> Message {
        let (from, term) = (self.leadership.member().0, self.term().get());
        let mut message = Message { from, to: to.0, term, context: bytes, ..Message::default() };
        let kind = if is_of_sender { MessageType::MsgSnapshot } else { MessageType::MsgSnapStatus };
        message.set_msg_type(kind);
        message
    }

    /// The entry that made it a member, as far as it knows: an older image does not have it among the members.
    #[must_use]
    pub fn member_since(&self) -> Lsn {
        let me = self.leadership.member();
        self.engine.group().map_or(Lsn(me.0), |group| group.members().since(me))
    }

    /// Whether an image that was validated may replace its state; what its header says of who belongs to the group. The
    /// raft crate declines without a word what is refused here.
    ///
    /// # Errors
    /// What its sender gets as the answer.
    pub fn judge_image(&self, header: &Header, leader_term: Term) -> Result<Membership, Ended> {
        let me = self.leadership.member();
        let Some(group) = self.engine.group() else { return Err(Ended::Unknown) };
        let members = Membership::decode(&header.configuration).map_err(|_damage| Ended::Damaged)?;
        let is_sane = is_sane_image(header.lsn, header.term, leader_term);
        let is_of_before = members.as_of < group.members().as_of;
        let log_has_it = group.has_entry(header.lsn, header.term);
        match () {
            () if header.lsn <= self.committed || log_has_it => Err(Ended::NotNeeded),
            () if group.role() == StateRole::Leader || leader_term < self.term() => Err(Ended::Unknown),
            // What the log has brought since is not taken back.
            () if !is_sane || is_of_before => Err(Ended::Damaged),
            () if header.lsn < self.member_since() || members.storage(me).is_none() => Err(Ended::TooOld),
            () if members.storage(me) != group.members().storage(me) || members.as_of > header.lsn => {
                Err(Ended::Damaged)
            }
            () => Ok(members),
        }
    }

    /// It stands still from now on, since an image is to replace its state.
    ///
    /// # Panics
    /// If it leads.
    pub fn hold(&mut self) {
        assert!(!self.leadership.is_mine(), "partition {} leads, and gets an image", self.partition);
        self.is_held = true;
        self.sleep = Sleep::AWAKE;
    }

    /// Nothing has come of the image, and it goes on as it was.
    ///
    /// # Panics
    /// If the image was installed.
    pub fn let_go(&mut self) {
        assert!(!self.is_restoring(), "partition {}: the log does not go on", self.partition);
        self.is_held = false;
    }

    /// Whether it stands still.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.is_held
    }

    /// Whether all that it had to write is durable: an image can be installed.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.unpersisted() == 0 && !self.has_ready()
    }

    /// Its state was replaced by an image, which the leader of that term has sent. What begins the log behind it is in its next
    /// Ready.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn restore(
        &mut self,
        header: &Header,
        members: Membership,
        leader: (MemberId, Term),
        now_ns: u64,
    ) -> Result<(), Fault> {
        assert!(self.is_held && self.is_at_rest(), "partition {} is not held", self.partition);
        assert!(header.lsn > self.applied, "an image as of entry {} brings nothing", header.lsn);
        let Some(group) = self.engine.group_mut() else { return Ok(()) };
        group.restore((header.lsn, header.term), members, leader)?;
        (self.applied, self.committed) = (header.lsn, header.lsn);
        self.has_peers = self.engine.group().is_some_and(|group| !group.is_alone());
        self.observe(now_ns);
        Ok(())
    }

    /// Whether an image was installed, and the log does not begin behind it durably.
    pub(super) fn is_restoring(&self) -> bool {
        self.engine.group().is_some_and(Group::is_restoring)
    }
}
