//! When a group's member may hold an election.
//!
//! Invariant: an election that the raft crate refuses without a word is held as soon as it would not.

use corduroy_wal::Lsn;
use corduroy_wal::mix::{STEP, scramble};
use raft::eraftpb::{Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, StateRole};

use super::Group;
use crate::raft::guard::Fault;
use crate::raft::membership::MemberId;

/// Who says by a message that it leads, and in which term.
#[must_use]
pub fn claims_lead(message: &Message) -> Option<(MemberId, u64)> {
    let kinds = [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgSnapshot];
    kinds.contains(&message.get_msg_type()).then_some((MemberId(message.from), message.term))
}

/// Term, role and whether a leader is known, in one number: a term has one leader at most, and far fewer bits than are left.
const fn drawn_for(term: u64, role: StateRole, knows_leader: bool) -> u64 {
    term << 3 | (role as u64) << 1 | knows_leader as u64
}

/// After how many ticks without a leader a member asks for votes, where `number` is drawn. A tick more than an election timeout at
/// least: ticks of members do not come at the same time, and who has counted a tick less than the timeout refuses, after which
/// the other begins to count anew. And not much more, so that a new leader is there within two.
fn timeout_ticks(base: usize, number: u64) -> usize {
    assert!(base > 0, "an election timeout has ticks");
    let spread = (3 * base).div_ceil(5) as u64;
    base + 1 + usize::try_from(number % spread).unwrap_or(0)
}

impl Group {
    /// Replaces the crate's own random election timeout whenever it may have drawn one.
    pub(super) fn draw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let drawn = drawn_for(raft.term, raft.state, raft.leader_id != raft::INVALID_ID);
        if drawn == self.drawn {
            return;
        }
        self.drawn = drawn;
        self.draws = self.draws.wrapping_add(1);
        let base = raft.election_timeout();
        // A number of SplitMix64's, another one for each seed and draw.
        let number = self.seed.wrapping_add(u64::from(self.draws));
        raft.set_randomized_election_timeout(timeout_ticks(base, scramble(number.wrapping_mul(STEP))));
    }

    /// Starts an election; or, where the sole voter still has a tail to flush, as soon as that is durable; or, where a change of
    /// the members is committed and not applied, which the crate says nothing about, when that is.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn campaign(&mut self) -> Result<(), Fault> {
        if self.is_sole_voter() && !self.is_flushed() {
            self.members.campaign_from = Some(Lsn::ZERO);
            return Ok(());
        }
        assert!(!self.leads(), "a leader campaigns");
        self.make_room();
        self.call(|group| group.node.campaign())?
            .map_err(|error| Fault(format!("Raft refuses to campaign: {error}")))?;
        self.members.campaign_from = (self.role() == StateRole::Follower).then_some(self.committed());
        Ok(())
    }

    /// Whether an election waits, and now can be held.
    #[must_use]
    pub fn can_campaign_now(&self) -> bool {
        let applied = Lsn(self.node.raft.raft_log.applied);
        self.members.campaign_from.is_some_and(|from| from <= applied) && self.is_flushed() && !self.is_led()
    }

    /// An election that waits is not held any more once there is a leader, this member or another one: who has one waiting does
    /// not sleep.
    pub(super) fn drop_election(&mut self) {
        if self.is_led() {
            self.members.campaign_from = None;
        }
    }

    /// Whether there is a leader, as far as it knows. The only voter has none but itself: whoever led before has no vote any more.
    fn is_led(&self) -> bool {
        self.leads() || self.node.raft.leader_id != raft::INVALID_ID && !self.is_sole_voter()
    }

    /// Whether it may ask for votes, its own among them: nobody has been promised that it does not. Where nobody else has a vote
    /// there is nobody to lead.
    pub fn may_campaign(&mut self, now_ns: u64) -> bool {
        !self.members.promise.binds(now_ns) || self.is_sole_voter()
    }

    /// Whether a message asks for a vote that this member has promised not to give. The raft crate refuses some of them by itself,
    /// but forgets its leader whenever it hears of a later term, counts in ticks, and nothing over a restart. Who was asked
    /// to lead by its leader is not refused.
    pub(super) fn breaks_promise(&mut self, message: &Message, now_ns: u64) -> bool {
        let asks =
            matches!(message.get_msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        // The crate answers a request of an earlier term with its own.
        asks && message.context != CAMPAIGN_TRANSFER
            && message.term >= self.node.raft.term
            && self.members.promise.binds(now_ns)
    }

    /// Whether the next tick starts an election.
    pub(super) fn is_due(&self) -> bool {
        let raft = &self.node.raft;
        raft.promotable() && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_timeout_is_a_tick_longer_at_least_and_ends_within_two() {
        for base in 1..=40 {
            let drawn: Vec<_> = (0..200).map(|number| timeout_ticks(base, number)).collect();
            let (least, most) = (drawn.iter().min(), drawn.iter().max());
            assert_eq!(least, Some(&(base + 1)), "nobody who has heard as little refuses");
            assert_eq!(most, Some(&(base + (3 * base).div_ceil(5))), "of {base}");
        }
        assert_eq!((timeout_ticks(10, 0), timeout_ticks(10, 5)), (11, 16));
    }
}
