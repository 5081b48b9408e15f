//! What reads wait for at a replica of a group with several members; see [`Rounds`].

use corduroy_wal::Lsn;

use super::Replica;
use crate::planted::{self, PlantedBug};
use crate::raft::group::Group;
use crate::raft::reads::{Gate, Rounds};

impl Replica {
    /// What a read waits for that has just come: a round that is begun after it, by its number; and the entry up to which
    /// it has to see the log, if this replica leads until then. Whoever gains the lead has to apply what it found besides.
    pub fn join_round(&mut self) -> (u64, Lsn) {
        assert!(self.has_peers, "partition {}: a group of one needs no rounds", self.partition);
        let group = self.engine.group_mut().expect("who has peers has a group");
        if planted::is(PlantedBug::ReadRidesAlong) && group.last() > self.applied {
            return (0, group.last());
        }
        (group.join_round(), group.agreed())
    }

    /// The last round that was answered, once this replica has applied all that it found when it gained the lead. One that has
    /// been left alone needs none.
    #[must_use]
    pub fn confirmed_round(&self) -> u64 {
        if self.gate() != Gate::Open {
            return 0;
        }
        if planted::is(PlantedBug::RoundSkipped) {
            return u64::MAX;
        }
        let rounds = self.engine.group().and_then(Group::rounds).filter(|_| self.has_peers);
        rounds.map_or(u64::MAX, Rounds::confirmed)
    }

    /// Whether it leads, has applied what it found when it won the lead, and has a lease: nobody else leads now.
    #[must_use]
    pub fn has_lease(&self, now_ns: u64) -> bool {
        let rounds = self.engine.group().and_then(Group::rounds);
        rounds.is_some_and(|rounds| rounds.lease().holds(now_ns)) && self.gate() == Gate::Open
    }

    /// When its lease ends, if it has one.
    #[must_use]
    pub fn leased_until_ns(&self) -> Option<u64> {
        let rounds = self.engine.group().and_then(Group::rounds).filter(|_| self.gate() == Gate::Open);
        rounds.and_then(|rounds| rounds.lease().until_ns())
    }

    /// What a read waits for that has just come to a leader with a lease: the entry up to which others may have seen the log.
    /// A lease that is old is renewed for those that come later. `None`: there is no lease.
    pub fn lease_read(&mut self, now_ns: u64) -> Option<Lsn> {
        if !self.has_lease(now_ns) {
            return None;
        }
        let group = self.engine.group_mut()?;
        let is_to_renew = |rounds: &&mut Rounds| rounds.lease().is_to_renew(now_ns);
        if let Some(rounds) = group.rounds_mut().filter(is_to_renew) {
            rounds.join();
        }
        Some(group.agreed())
    }

    /// Whether parked reads that wait for nothing are answered from what is applied. In a group with several members a round, or
    /// an entry, has shown for each that nobody else led: what is applied later is as good.
    #[must_use]
    pub fn answers_parked(&self) -> bool {
        self.has_peers || self.can_serve()
    }

    /// Whether it has lost the lead since this was asked last, while reads may have waited for a round.
    pub fn take_lost(&mut self) -> bool {
        self.engine.group_mut().and_then(Group::rounds_mut).is_some_and(Rounds::take_lost)
    }

    /// How many rounds were begun, those that were tried again among them.
    #[must_use]
    pub fn rounds_begun(&self) -> u64 {
        self.engine.group().and_then(Group::rounds).map_or(0, Rounds::attempted)
    }
}
