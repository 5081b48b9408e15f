//! What reads wait for at a replica of a group with several members; see [`Rounds`].

use corduroy_wal::Lsn;

use super::Replica;
use crate::planted::{self, PlantedBug};
use crate::raft::group::Group;
use crate::raft::lease::Lease;
use crate::raft::reads::{Gate, Rounds};

impl Replica {
    /// What a read waits for that has just come: a round that is begun after it, by its number, or 0 if none is needed; and the
    /// entry up to which it has to see the log besides. `is_anywhere`: it is answered where another member leads, too.
    pub fn join_round(&mut self, is_anywhere: bool, now_ns: u64) -> (u64, Lsn) {
        assert!(self.has_peers, "partition {}: a group of one needs no rounds", self.partition);
        if let Some(entry) = self.read_at_once(is_anywhere, now_ns) {
            return (0, entry);
        }
        let leads = self.leadership.is_mine();
        let group = self.engine.group_mut().expect("who has peers has a group");
        if planted::is(PlantedBug::ReadRidesAlong) && group.last() > self.applied {
            return (0, group.last());
        }
        // Who does not lead learns with the round which entry that is. Whoever gains the lead has to apply what it found.
        (group.join_round(), if leads { group.agreed() } else { Lsn::ZERO })
    }

    /// The last round that was answered, once this replica has applied what that takes: all that it found when it won the lead,
    /// or, where another one leads, the entry that came with the answer. One that has been left alone needs none.
    #[must_use]
    pub fn confirmed_round(&self) -> u64 {
        let rounds = self.engine.group().and_then(Group::rounds).filter(|_| self.has_peers);
        match self.gate() {
            Gate::Open if planted::is(PlantedBug::RoundSkipped) => u64::MAX,
            Gate::Open => rounds.map_or(u64::MAX, Rounds::confirmed),
            Gate::UntilApplied(_) => 0,
            Gate::NoLeader if planted::is(PlantedBug::IndexIgnored) => rounds.map_or(0, Rounds::confirmed),
            Gate::NoLeader => {
                rounds.and_then(|rounds| rounds.reached(self.applied)).map_or(0, |answer| answer.round)
            }
        }
    }

    /// The lease, if it leads and has applied what it found when it won the lead. While members change there is none: whoever has
    /// applied the change already may be the only voter left, who is bound by no promise.
    fn lease(&self) -> Option<&Lease> {
        let group = self.engine.group().filter(|group| self.gate() == Gate::Open && !group.is_changing());
        group.and_then(Group::rounds).map(Rounds::lease)
    }

    /// Whether it has a lease: nobody else leads now.
    #[must_use]
    pub fn has_lease(&self, now_ns: u64) -> bool {
        self.leased_until_ns().is_some_and(|until_ns| now_ns < until_ns)
    }

    /// When its lease ends, if it has one.
    #[must_use]
    pub fn leased_until_ns(&self) -> Option<u64> {
        let is_kept = self.is_asleep() && planted::is(PlantedBug::LeaseAsleep);
        let kept_ns = if is_kept { 3_600_000_000_000 } else { 0 };
        self.lease().and_then(Lease::until_ns).map(|until_ns| until_ns.saturating_add(kept_ns))
    }

    /// The entry up to which a read has to see the log that comes now and needs no round: the leader has a lease, or the read may
    /// be answered from a state as old as this one. Either is renewed for those that come later. `None`: it needs a round.
    pub fn read_at_once(&mut self, is_anywhere: bool, now_ns: u64) -> Option<Lsn> {
        self.note_use();
        let (has_lease, applied) = (self.has_lease(now_ns), self.applied);
        let may_be_old = is_anywhere && self.other_leader().is_some();
        let group = self.engine.group_mut()?;
        let agreed = group.agreed();
        let rounds = group.rounds_mut()?;
        if has_lease {
            rounds.renew(now_ns);
            return Some(agreed);
        }
        (may_be_old && rounds.is_fresh(applied, now_ns)).then_some(Lsn::ZERO)
    }

    /// Whether [`Replica::read_at_once`] may bring something, or nobody else can lead.
    #[must_use]
    pub fn may_read_at_once(&self) -> bool {
        let rounds = || self.engine.group().and_then(Group::rounds);
        let may_be_old = || self.other_leader().is_some() && rounds().is_some_and(Rounds::serves_old);
        !self.has_peers || self.leased_until_ns().is_some() || may_be_old()
    }

    /// Whether it leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leadership.is_mine()
    }

    /// Whether parked reads that wait for nothing are answered from what is applied. In a group with several members a round, or
    /// an entry, has shown for each that nobody else led: what is applied later is as good. None is while an image replaces the
    /// state.
    #[must_use]
    pub fn answers_parked(&self) -> bool {
        (self.has_peers || self.can_serve()) && !self.is_held
    }

    /// Whether it has lost the lead since this was asked last.
    pub const fn take_lost(&mut self) -> bool {
        self.leadership.take_lost()
    }

    /// Whether it has lost the lead since this was asked last, while reads may have waited for a round.
    pub fn take_lost_round(&mut self) -> bool {
        self.engine.group_mut().and_then(Group::rounds_mut).is_some_and(Rounds::take_lost)
    }

    /// How many rounds were begun, those that were tried again among them.
    #[must_use]
    pub fn rounds_begun(&self) -> u64 {
        self.engine.group().and_then(Group::rounds).map_or(0, Rounds::attempted)
    }
}
