//! When a group's member may hold an election.
//!
//! Invariant: an election that the raft crate refuses without a word is held as soon as it would not.

use corduroy_wal::Lsn;
use raft::StateRole;

use super::Group;
use crate::raft::guard::Fault;

impl Group {
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
        self.members.campaign_from.is_some_and(|from| from <= applied) && self.is_flushed() && !self.leads()
    }

    /// Whether the next tick starts an election.
    pub(super) fn is_due(&self) -> bool {
        let raft = &self.node.raft;
        raft.promotable() && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
    }
}
