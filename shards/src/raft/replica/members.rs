//! What a replica is asked about its group's members.
//!
//! Invariant: a replica counts as alone only once that is durable.

use corduroy_wal::{Lsn, Term};

use super::{Engine, Replica};
use crate::raft::changes::{Change, ChangeRefusal};
use crate::raft::group::{Changed, Group};
use crate::raft::guard::Fault;
use crate::raft::leadership::{LeadChange, LeadCounts};
use crate::raft::membership::{MemberId, StorageId};

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

    /// See [`Membership::copies`](crate::raft::membership::Membership::copies); a log kept without Raft has none.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.engine.group().map_or(0, |group| group.members().copies())
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
        self.rouse(false)?;
        let group = self.engine.group_mut();
        group.map_or(Ok(Err(ChangeRefusal::NoGroup)), |group| group.propose_change(changes, lag_most))
    }

    /// See [`Group::transfer`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn transfer(&mut self, to: MemberId, lag_most: u64) -> Result<Result<(), ChangeRefusal>, Fault> {
        self.rouse(false)?;
        let Some(group) = self.engine.group_mut() else { return Ok(Err(ChangeRefusal::NoGroup)) };
        let begun = group.transfer(to, lag_most)?;
        self.leadership.set_transfers(group.is_transferring());
        Ok(begun)
    }

    /// See [`Group::transfer_away`].
    ///
    /// # Errors
    /// [`Fault`].
    pub fn transfer_away(&mut self, lag_most: u64) -> Result<Result<MemberId, ChangeRefusal>, Fault> {
        self.rouse(false)?;
        let Some(group) = self.engine.group_mut() else { return Ok(Err(ChangeRefusal::NoGroup)) };
        let begun = group.transfer_away(lag_most)?;
        self.leadership.set_transfers(group.is_transferring());
        Ok(begun)
    }

    /// Counts and lists leads of this replica that have begun or ended since this was asked last. That of a group of one is
    /// never reported: nobody else can have it.
    pub fn report_lead(&mut self, counts: &mut LeadCounts, list: &mut Vec<LeadChange>) {
        if self.has_peers {
            let (partition, term) = (self.partition, self.engine.term());
            self.leadership.report(partition, term, counts, list);
        }
    }

    /// Up to which entry the member on a storage is known to hold the log, if this replica leads.
    #[must_use]
    pub fn held_by(&self, storage: StorageId) -> Option<Lsn> {
        let group = self.engine.group()?;
        group.held_by(group.members().member_on(storage)?)
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
