//! When a group's member may hold an election.
//!
//! Invariant: an election that the raft crate refuses without a word is held as soon as it would not.

use corduroy_wal::Lsn;
use corduroy_wal::mix::{STEP, scramble};
use raft::eraftpb::{Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, StateRole};

use super::Group;
use crate::ids::PartitionId;
use crate::raft::guard::Fault;
use crate::raft::membership::MemberId;

/// Who says by a message that it leads, and in which term.
#[must_use]
pub fn claims_lead(message: &Message) -> Option<(MemberId, u64)> {
    let kinds = [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgSnapshot];
    kinds.contains(&message.get_msg_type()).then_some((MemberId(message.from), message.term))
}

/// Term, voters, role and whether a leader is known, in one number: a term has one leader at most, and far fewer bits than are left;
/// and the entry that made the voters what they are, on whom the turns depend, is above those.
const fn drawn_for((term, as_of): (u64, Lsn), role: StateRole, knows_leader: bool) -> u64 {
    as_of.get().rotate_left(40) ^ (term << 3 | (role as u64) << 1 | knows_leader as u64)
}

/// After how many ticks without a leader a member asks for votes: `at` is its turn among `of` voters, `number` is drawn. A tick more
/// than an election timeout at least: ticks of members do not come at the same time, and who has counted a tick less than the
/// timeout refuses, after which the other begins to count anew. And not much more, so that a new leader is there within two.
/// Each has a part of that span to itself, with a tick between two where there is room: of voters who ask in the same moment
/// each has voted for itself, and that takes an election timeout more. Where there are more voters than ticks, each may draw any.
fn timeout_ticks(base: usize, (at, of): (usize, usize), number: u64) -> usize {
    assert!(base > 0 && at < of, "an election timeout has ticks, and each voter its turn: {at} of {of}");
    let spread = (3 * base).div_ceil(5);
    let part = if of > spread { (0, spread + 1) } else { (at * spread / of, (at + 1) * spread / of) };
    let free = (part.1 - part.0).saturating_sub(1).max(1) as u64;
    base + 1 + part.0 + usize::try_from(number % free).unwrap_or(0)
}

/// Whose turn it is goes round with the terms, since a member that cannot lead is not to be the first each time, and with the
/// partitions, since no node is to lead all that another one led.
fn turn(voters: &mut [u64], member: u64, (partition, term): (PartitionId, u64)) -> (usize, usize) {
    voters.sort_unstable();
    let of = voters.len().max(1);
    let rank = voters.iter().position(|voter| *voter == member).unwrap_or(0);
    let shift = usize::try_from(partition.0.wrapping_add(term) % of as u64).unwrap_or(0);
    ((rank + shift) % of, of)
}

impl Group {
    /// Replaces the crate's own random election timeout whenever it may have drawn one.
    pub(super) fn draw_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let knows_leader = raft.leader_id != raft::INVALID_ID;
        let drawn = drawn_for((raft.term, self.members.now.as_of), raft.state, knows_leader);
        if drawn == self.drawn {
            return;
        }
        self.drawn = drawn;
        self.draws = self.draws.wrapping_add(1);
        let mut voters: Vec<_> = raft.prs().conf().voters().ids().iter().collect();
        let turn = turn(&mut voters, raft.id, (self.members.partition, raft.term));
        // A number of SplitMix64's, another one for each seed and draw.
        let number = scramble(self.seed.wrapping_add(u64::from(self.draws)).wrapping_mul(STEP));
        let base = raft.election_timeout();
        raft.set_randomized_election_timeout(timeout_ticks(base, turn, number));
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
        for (base, of) in (1..=40).flat_map(|base| (1..=7).map(move |of| (base, of))) {
            let turns =
                (0..of).flat_map(|at| (0..200).map(move |number| timeout_ticks(base, (at, of), number)));
            let drawn: Vec<_> = turns.collect();
            let (least, most) = (drawn.iter().min(), drawn.iter().max());
            assert_eq!(least, Some(&(base + 1)), "nobody who has heard as little refuses");
            assert!(most <= Some(&(base + (3 * base).div_ceil(5))), "of {base}: {most:?}");
        }
    }

    #[test]
    fn voters_ask_a_tick_apart_at_least() {
        let span = |at| (0..200).map(move |number| timeout_ticks(10, (at, 3), number));
        for at in 0..2 {
            assert!(span(at).max().unwrap() + 2 <= span(at + 1).min().unwrap(), "{at}, and who comes behind");
        }
        let of_five: std::collections::BTreeSet<_> = (0..5).map(|at| timeout_ticks(10, (at, 5), 7)).collect();
        assert_eq!(of_five.len(), 5, "{of_five:?}");
    }

    #[test]
    fn each_voter_is_first_in_its_term() {
        for term in 0..6 {
            let mut turns: Vec<_> =
                [4, 9, 2].map(|member| turn(&mut [4, 9, 2], member, (PartitionId(1), term)).0).into();
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2], "each has its own");
        }
        let first = |of| [2, 4, 9].into_iter().find(|member| turn(&mut [2, 4, 9], *member, of).0 == 0);
        let in_terms = (0..3).map(|term| first((PartitionId(3), term)));
        assert_eq!(in_terms.collect::<Vec<_>>(), [Some(2), Some(9), Some(4)]);
        let of_partitions = (3..6).map(|partition| first((PartitionId(partition), 0)));
        assert_eq!(of_partitions.collect::<Vec<_>>(), [Some(2), Some(9), Some(4)]);
        assert_eq!(
            turn(&mut [], 5, (PartitionId(1), 8)),
            (0, 1),
            "who knows no voters has all the time for itself"
        );
    }
}
