//! Rounds of heartbeats by which a leader learns that it still leads, and others how far their state has to be; see [`Rounds`].
//!
//! Invariant: a round is begun by who leads and has committed something in its term, since the crate drops it without a word
//! otherwise.

use corduroy_wal::{Lsn, Term};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::Group;
use crate::raft::guard::Fault;
use crate::raft::lease::Lease;
use crate::raft::membership::MemberId;
use crate::raft::reads::Rounds;

impl Group {
    /// The round that a read waits for which has just come.
    pub fn join_round(&mut self) -> u64 {
        self.made_rounds().join()
    }

    /// The rounds, whether or not there was one before.
    pub(super) fn made_rounds(&mut self) -> &mut Rounds {
        let (member, incarnation) = (MemberId(self.node.raft.id), self.seed);
        let (lease, stale_ns) = (Lease::new(self.members.lease_ns), self.members.stale_ns);
        self.rounds.get_or_insert_with(|| Box::new(Rounds::new(member, incarnation, lease, stale_ns)))
    }

    /// The rounds, if a read has ever waited for one.
    #[must_use]
    pub fn rounds(&self) -> Option<&Rounds> {
        self.rounds.as_deref()
    }

    /// See [`Group::rounds`].
    pub fn rounds_mut(&mut self) -> Option<&mut Rounds> {
        self.rounds.as_deref_mut()
    }

    /// The highest entry that a majority has, as far as this member knows: a read may have shown it to somebody, though it may
    /// not be durable here.
    #[must_use]
    pub fn agreed(&self) -> Lsn {
        Lsn(self.node.raft.raft_log.committed)
    }

    /// Whether a round is to be begun now: by the leader, or as a question to it.
    pub(super) fn is_round_due(&self) -> bool {
        let is_due = self.rounds.as_ref().is_some_and(|rounds| rounds.is_due());
        let raft = &self.node.raft;
        is_due
            && match self.leads() {
                true => raft.commit_to_current_term(),
                false => raft.leader_id != raft::INVALID_ID,
            }
    }

    /// Answers another member that asks how far its state has to be, if this one has a lease. Else the crate has a round
    /// answered first. While members change there is none, as for this member's own reads.
    pub(super) fn answer_by_lease(&mut self, message: &Message, now_ns: u64) -> bool {
        let holds =
            !self.is_changing() && self.rounds.as_ref().is_some_and(|rounds| rounds.lease().holds(now_ns));
        let raft = &mut self.node.raft;
        if message.get_msg_type() != MessageType::MsgReadIndex || !holds || !raft.commit_to_current_term() {
            return false;
        }
        let mut answer = Message { from: raft.id, to: message.from, term: raft.term, ..Message::default() };
        assert_eq!(raft.state, StateRole::Leader, "who has a lease leads");
        answer.set_msg_type(MessageType::MsgReadIndexResp);
        answer.index = raft.raft_log.committed;
        answer.entries = message.entries.clone();
        raft.msgs.push(answer);
        self.rounds.as_mut().into_iter().for_each(|rounds| rounds.renew(now_ns));
        true
    }

    /// Begins a round if one is due: its messages are part of the next Ready. Takes note of those that were answered; where this
    /// member is the only voter, that is at once.
    pub(super) fn take_round(&mut self, now_ns: u64) -> Result<(), Fault> {
        let is_due = self.is_round_due();
        let term = Term(self.node.raft.term);
        if let Some(rounds) = self.rounds.as_mut().filter(|_| is_due) {
            let context = rounds.begin(term, now_ns);
            self.call(|group| group.node.read_index(context.as_bytes().to_vec()))?;
        }
        let answered = std::mem::take(&mut self.node.raft.read_states);
        if let Some(rounds) = self.rounds.as_mut() {
            let applied = Lsn(self.node.raft.raft_log.applied);
            for state in answered {
                rounds.confirm(&state.request_ctx, (Lsn(state.index), applied), now_ns);
            }
        }
        Ok(())
    }
}
