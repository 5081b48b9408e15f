//! How a replica of a group with several members goes to sleep, and what wakes it: see [`quiescence`](crate::raft::quiescence).
//!
//! Invariant: a replica that sleeps stands where its leader does, and that one's storage is heard. Whoever wakes has its leader,
//! or its followers, wake too, unless they are known to be awake.

use raft::eraftpb::{Message, MessageType};

use super::{Latch, Replica};
use crate::peer_event::PeerEvent;
use crate::planted::{self, PlantedBug};
use crate::raft::admit::Refused;
use crate::raft::group::Group;
use crate::raft::guard::Fault;
use crate::raft::membership::{MemberId, StorageId};
use crate::raft::quiescence::Sleep;

impl Replica {
    /// Whether its group sleeps, as far as it knows.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.sleep == Sleep::Asleep
    }

    /// It has something to do: what it has to be quiet for begins anew. Whatever comes of it wakes it, if it sleeps.
    pub(super) fn note_use(&mut self) {
        if self.sleep.is_awake() {
            self.sleep = Sleep::AWAKE;
        }
    }

    /// A tick: whether it goes to sleep, or has the others do so, instead of being ticked.
    pub(super) fn nears_sleep(
        &mut self,
        is_busy: bool,
        is_alive: impl Fn(StorageId) -> bool,
    ) -> Result<bool, Fault> {
        let leads = self.leadership.is_mine();
        if self.sleep.is_awake() && !leads {
            let group = self.engine.group_mut().filter(|_| !self.is_held);
            group.into_iter().for_each(|group| group.seek_leader(&is_alive));
            return Ok(false);
        }
        let is_still = !is_busy && self.has_peers && !self.is_held && self.latch == Latch::Ready;
        let Some(group) = self.engine.group_mut() else { return Ok(false) };
        let sleeps_on = self.sleep == Sleep::Asked && planted::is(PlantedBug::SleepsOn);
        let may_sleep = is_still && group.may_sleep(&is_alive) || sleeps_on;
        match self.sleep {
            Sleep::Awake { .. } if !may_sleep => self.sleep = self.sleep.roused(),
            Sleep::Awake { quiet_ticks, is_used }
                if quiet_ticks < Sleep::quiet_for(is_used, group.sleep_ticks()) =>
            {
                self.sleep = Sleep::Awake { quiet_ticks: quiet_ticks + 1, is_used };
            }
            Sleep::Awake { .. } => {
                group.announce_sleep(&is_alive);
                self.sleep = Sleep::Announced;
                return Ok(true);
            }
            Sleep::Announced | Sleep::Asked if may_sleep => {
                self.sleep = Sleep::Asleep;
                return Ok(true);
            }
            Sleep::Announced | Sleep::Asked => self.rouse(false)?,
            Sleep::Asleep => return Ok(true),
        }
        Ok(false)
    }

    /// The leader has it sleep.
    pub(super) fn take_sleep(
        &mut self,
        message: &Message,
        now_ns: u64,
    ) -> Result<Result<(), Refused>, Fault> {
        let Some(group) = self.engine.group_mut() else { return Ok(Err(Refused::Addressee)) };
        if group.takes_sleep(message, now_ns) {
            self.sleep = Sleep::Asked;
        } else if group.hard_state().term.get() <= message.term {
            // Its leader is to say first what this one lacks.
            self.sleep = Sleep::AWAKE;
            group.send_wake(MemberId(message.from));
        } else {
            return Ok(Err(Refused::Sender));
        }
        Ok(Ok(()))
    }

    /// Whether a message of another member shows that there is something to do. What answers the leader, and is late, does not.
    pub(super) fn is_roused_by(&self, message: &Message) -> bool {
        let is_answer = match message.get_msg_type() {
            MessageType::MsgHeartbeatResponse => true,
            MessageType::MsgAppendResponse => !message.reject,
            _ => false,
        };
        let has_all = |group: &Group| group.held_by(MemberId(message.from)) == Some(group.last());
        let is_late = is_answer && self.engine.group().is_some_and(has_all);
        !is_late
    }

    /// Has it go on, if it sleeps or is about to. Unless its leader is what wakes it, that wakes, too; a leader has all
    /// others wake.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn rouse(&mut self, by_leader: bool) -> Result<(), Fault> {
        let before = self.sleep;
        self.sleep = before.roused();
        let Some(group) = self.engine.group_mut().filter(|_| !before.is_awake()) else { return Ok(()) };
        match group.leader() {
            _ if group.leads() => group.greet(),
            Some(leader) if !by_leader => {
                group.send_wake(leader);
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What became of a peer, where that concerns it: it goes on without its leader, or finds out whether it still has one,
    /// or whether most of its followers are there, or brings back one of them. `is_alive`: which storages are heard. Returns whether
    /// it woke.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn heed(&mut self, event: PeerEvent, is_alive: impl Fn(StorageId) -> bool) -> Result<bool, Fault> {
        let leader = self.other_leader();
        let Some(group) = self.engine.group_mut().filter(|_| !self.sleep.is_awake()) else {
            return Ok(false);
        };
        let is_member = |storage| group.members().member_on(storage).is_some();
        match event {
            PeerEvent::Down(storage) if leader == Some(storage) => {
                if planted::is(PlantedBug::DeathUnnoticed) {
                    return Ok(false);
                }
                self.sleep = Sleep::LEADERLESS;
                group.miss_leader();
            }
            PeerEvent::Down(storage) if group.leads() && is_member(storage) => {
                group.miss(storage);
                if group.has_quorum(&is_alive) {
                    return Ok(false);
                }
                self.rouse(false)?;
            }
            PeerEvent::Up(storage) if group.leads() && is_member(storage) => {
                self.rouse(false)?;
            }
            PeerEvent::Changed(storage) if leader == Some(storage) => self.rouse(false)?,
            PeerEvent::Down(_) | PeerEvent::Up(_) | PeerEvent::Changed(_) => return Ok(false),
        }
        Ok(true)
    }
}
