//! Rounds of heartbeats by which a leader learns that it still leads; see [`Rounds`].
//!
//! Invariant: a round is begun by who leads and has committed something in its term, since the crate drops it without a word
//! otherwise.

use corduroy_wal::{Lsn, Term};

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
        let (member, incarnation, lease) =
            (MemberId(self.node.raft.id), self.seed, Lease::new(self.members.lease_ns));
        self.rounds.get_or_insert_with(|| Box::new(Rounds::new(member, incarnation, lease)))
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

    /// Whether a round is to be begun now.
    pub(super) fn is_round_due(&self) -> bool {
        let is_due = self.rounds.as_ref().is_some_and(|rounds| rounds.is_due());
        is_due && self.leads() && self.node.raft.commit_to_current_term()
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
            answered.iter().for_each(|state| rounds.confirm(&state.request_ctx, now_ns));
        }
        Ok(())
    }
}
