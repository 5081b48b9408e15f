//! A disk that makes nothing durable costs its member the lead: nothing that it takes in is acknowledged, while others could.
//!
//! Invariant: whoever leads others has made a record durable within two election timeouts, or has none under way; and whoever
//! has made none durable for one of them asks for no votes, which it could not use.

use super::Group;
use crate::raft::guard::Fault;

/// For how many ticks the oldest record that is not durable has been the same one.
#[derive(Debug, Default)]
pub(super) struct Stall {
    oldest: Option<u64>,
    ticks: usize,
}

impl Stall {
    fn tick(&mut self, oldest: Option<u64>) {
        let is_same = oldest.is_some() && oldest == self.oldest;
        self.ticks = if is_same { self.ticks + 1 } else { 0 };
        self.oldest = oldest;
    }
}

impl Group {
    /// A tick later. A leader whose disk has stood still for an election timeout has the lead transferred to a member that is
    /// prepared for it, and lays it down after a second one. Returns whether the disk stands still.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn watch_disk(&mut self) -> Result<bool, Fault> {
        self.members.stall.tick(self.readies.oldest());
        let (ticks, timeout) = (self.members.stall.ticks, self.node.raft.election_timeout());
        if ticks < timeout || self.is_sole_voter() {
            return Ok(false);
        }
        if self.leads() && ticks >= 2 * timeout {
            let term = self.node.raft.term;
            self.call(|group| group.node.raft.become_follower(term, raft::INVALID_ID))?;
        } else if self.leads() && !self.is_transferring() {
            // Whoever has none of that to go on with is asked again with the next tick.
            let _is_begun = self.transfer_away(u64::MAX)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_stands_still_while_its_oldest_record_stays_the_same() {
        let mut stall = Stall::default();
        let mut after = |oldest| {
            stall.tick(oldest);
            stall.ticks
        };
        assert_eq!([None, None, Some(1), Some(1), Some(1)].map(&mut after), [0, 0, 0, 1, 2]);
        assert_eq!([Some(2), Some(2), Some(3)].map(&mut after), [0, 1, 0], "slow, but it goes on");
        assert_eq!([None, Some(3), Some(3)].map(&mut after), [0, 0, 1]);
    }
}
