//! What a group's member has to be like to sleep, and what it says about that to the others.
//!
//! Invariant: who sleeps has all that the group agreed on, applied and durable; nothing of a round, a change of members, a transfer
//! of the lead or an image is under way. A leader sleeps only with most of the voters heard, and each member that is heard, or has
//! answered lately, stands where it does.

use raft::StateRole;
use raft::eraftpb::Message;

use super::Group;
use crate::planted::{self, PlantedBug};
use crate::raft::guard::Fault;
use crate::raft::membership::{MemberId, StorageId};
use crate::raft::quiescence::{SLEEP, WAKE};
use crate::raft::reads::Rounds;

impl Group {
    /// Ticks without anything to do after which it sleeps.
    pub(in crate::raft) const fn sleep_ticks(&self) -> u16 {
        self.members.sleep_ticks
    }

    /// Whether it may sleep.
    pub(in crate::raft) fn may_sleep(&self, is_alive: impl Fn(StorageId) -> bool) -> bool {
        if !self.is_at_rest() {
            return false;
        }
        match self.node.raft.state {
            StateRole::Leader => self.has_quorum(&is_alive) && self.are_others_at_rest(&is_alive),
            StateRole::Follower => {
                self.leader().and_then(|leader| self.storage_of(leader)).is_some_and(is_alive)
            }
            StateRole::Candidate | StateRole::PreCandidate => false,
        }
    }

    /// Whether this member has nothing to do, as far as it knows.
    fn is_at_rest(&self) -> bool {
        let raft = &self.node.raft;
        let (last, log) = (raft.raft_log.last_index(), &raft.raft_log);
        let is_all_applied = [log.committed, log.persisted, log.applied].iter().all(|at| *at == last);
        let notes = self.members.notes.as_deref();
        let has_images = notes.is_some_and(|notes| !notes.images.is_empty() || notes.restoring.is_some());
        self.members.sleep_ticks > 0
            && is_all_applied
            && self.readies.unpersisted() == 0
            && !self.has_ready()
            && !self.has_messages()
            && !self.is_changing()
            && !self.is_transferring()
            && self.members.campaign_from.is_none()
            && !has_images
            && self.rounds().is_none_or(Rounds::is_at_rest)
    }

    /// Whether every other member has all of the log, or is neither heard nor has answered within an election timeout.
    fn are_others_at_rest(&self, is_alive: impl Fn(StorageId) -> bool) -> bool {
        let raft = &self.node.raft;
        let mut others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        others.all(|(id, progress)| match self.storage_of(MemberId(*id)).is_some_and(&is_alive) {
            true => progress.matched == raft.raft_log.last_index(),
            false => !self.members.answers.has_within(MemberId(*id), raft.election_timeout() as u64),
        })
    }

    /// Whether most of the voters are heard, this one among them.
    pub(in crate::raft) fn has_quorum(&self, is_alive: impl Fn(StorageId) -> bool) -> bool {
        let members = &self.members.now;
        let is_there =
            |id: &MemberId| id.0 == self.node.raft.id || members.storage(*id).is_some_and(&is_alive);
        self.node.raft.prs().has_quorum(&members.ids().filter(is_there).map(|id| id.0).collect())
    }

    /// Has the members that are heard sleep.
    pub(in crate::raft) fn announce_sleep(&mut self, is_alive: impl Fn(StorageId) -> bool) {
        let (me, members) = (self.node.raft.id, &self.members.now);
        let is_there = |id: &MemberId| id.0 != me && members.storage(*id).is_some_and(&is_alive);
        let others: Vec<_> = members.ids().filter(is_there).collect();
        for to in others {
            let raft = &self.node.raft;
            let mut message = Message { from: me, to: to.0, term: raft.term, ..Message::default() };
            message.set_msg_type(SLEEP);
            message.index = raft.raft_log.last_index();
            self.readies.send(message);
        }
    }

    /// Whether it goes along with a leader that has it sleep: one that it follows, whose log ends where its own does. It has heard
    /// that leader then, as by any other message.
    pub(in crate::raft) fn takes_sleep(&mut self, message: &Message, now_ns: u64) -> bool {
        let raft = &mut self.node.raft;
        let is_led = (raft.id, raft.term, raft.leader_id) == (message.to, message.term, message.from);
        let is_level = raft.raft_log.last_index() == message.index || planted::is(PlantedBug::SleepsOn);
        let is_along = is_led && raft.state == StateRole::Follower && is_level;
        if is_along {
            raft.election_elapsed = 0;
            self.members.promise.renew(now_ns);
        }
        is_along
    }

    /// Has another member go on. It says nothing of a term: this member's own need not be durable.
    pub(in crate::raft) fn send_wake(&mut self, to: MemberId) {
        let mut message = Message { from: self.node.raft.id, to: to.0, term: 1, ..Message::default() };
        message.set_msg_type(WAKE);
        self.readies.send(message);
    }

    /// Whoever has no vote asks for none. If it has heard nothing of its leader for an election timeout, though that one's storage
    /// is heard, that sleeps, and this member has missed it: it has the leader go on. Else it asks all, heard or not: after a long
    /// time without it they may have forgotten it, and it them. All are asked each other time in any case, since whoever led may
    /// belong to the group no more. `is_alive`: which storages are heard.
    pub(in crate::raft) fn seek_leader(&mut self, is_alive: impl Fn(StorageId) -> bool) {
        let raft = &self.node.raft;
        let is_due =
            raft.election_elapsed > 0 && raft.election_elapsed.is_multiple_of(raft.election_timeout());
        if self.members.sleep_ticks == 0 || raft.promotable() || !is_due {
            return;
        }
        let me = MemberId(raft.id);
        let is_heard = |id: &MemberId| self.storage_of(*id).is_some_and(&is_alive);
        let is_second = (raft.election_elapsed / raft.election_timeout()).is_multiple_of(2);
        let asked: Vec<_> = match self.leader().filter(is_heard).filter(|_| !is_second) {
            Some(leader) => vec![leader],
            None => self.members.now.ids().filter(|id| *id != me).collect(),
        };
        asked.into_iter().for_each(|to| self.send_wake(to));
    }

    /// Sends heartbeats out of their turn: all others wake.
    pub(in crate::raft) fn greet(&mut self) -> Result<(), Fault> {
        self.call(|group| group.node.ping())
    }

    /// Its leader is not heard any more: it votes for others from now on, and asks for votes itself some time later.
    pub(in crate::raft) fn miss_leader(&mut self) {
        let raft = &mut self.node.raft;
        raft.election_elapsed = raft.election_elapsed.max(raft.election_timeout());
    }

    /// The member on that storage is not heard any more, and what it has answered is long ago.
    pub(in crate::raft) fn miss(&mut self, storage: StorageId) {
        if let Some(member) = self.members.now.member_on(storage) {
            self.members.answers.last.retain(|(of, _)| *of != member);
        }
    }
}
