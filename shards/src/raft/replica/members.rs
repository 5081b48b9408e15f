//! What a replica is asked about its group's members.
//!
//! Invariant: a replica counts as alone only once that is durable.

use corduroy_wal::{Lsn, Term};

use super::{Engine, Replica};
use crate::raft::changes::{Change, ChangeRefusal};
use crate::raft::group::{Changed, Group};
use crate::raft::guard::Fault;
use crate::raft::membership::MemberId;

impl Replica {
    /// Takes in the committed configuration entry `lsn`. Asked again until it is done, with what comes before it applied.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn change(&mut self, lsn: Lsn) -> Result<Changed, Fault> {
        assert_eq!(
            self.applied.next(),
            lsn,
            "partition {}: a change is taken in in its turn",
            self.partition
        );
        let changed = self.engine.change(lsn)?;
        let has_peers = self.engine.group().is_some_and(|group| !group.is_alone());
        // Until it is durable that it is alone, it does not behave so.
        self.has_peers = has_peers || self.has_peers && changed == Changed::Waits;
        Ok(changed)
    }

    /// See [`Group::propose_change`]. Nothing is changed by a replica that reads must wait for.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn propose_change(
        &mut self,
        changes: &[Change],
        lag_most: u64,
    ) -> Result<Result<(Lsn, Term), ChangeRefusal>, Fault> {
        let group = self.engine.group_mut();
        group.map_or(Ok(Err(ChangeRefusal::NoGroup)), |group| group.propose_change(changes, lag_most))
    }

    /// See [`Group::transfer`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn transfer(&mut self, to: MemberId, lag_most: u64) -> Result<Result<(), ChangeRefusal>, Fault> {
        let group = self.engine.group_mut();
        group.map_or(Ok(Err(ChangeRefusal::NoGroup)), |group| group.transfer(to, lag_most))
    }

    /// Its group, if Raft drives it.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.engine.group()
    }

    /// The last entry that changed the members of its group, if it had been removed before it was started.
    #[must_use]
    pub fn removed_by(&self) -> Option<Lsn> {
        match &self.engine {
            Engine::Stopped(stop) => (stop.removed_by > Lsn::ZERO).then_some(stop.removed_by),
            Engine::Group(_) | Engine::Solo(_) => None,
        }
    }

    /// Whether an election waits that can be held now.
    #[must_use]
    pub fn awaits_election(&self) -> bool {
        self.engine.group().is_some_and(Group::can_campaign_now)
    }

    /// Whether it was removed from its group: the entry that did it is applied.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.engine.group().is_some_and(|group| group.is_removed() && group.members().as_of <= self.applied)
    }
}
