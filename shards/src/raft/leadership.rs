//! Who leads a group, since when, and for how long the leader before did.
//!
//! Invariant: `since_ns` moves only when the leader does; a lead that is reported as begun is reported once more when it ends,
//! unless its replica is stopped.

use corduroy_wal::Term;

use super::membership::MemberId;
use crate::ids::PartitionId;

/// Nobody: the id of no member.
const NOBODY: MemberId = MemberId(raft::INVALID_ID);

/// What has become of the lead of this member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeadKind {
    /// It has got it.
    Elected,
    /// It has handed it to another member.
    Transferred,
    /// It has it no more, without having handed it over.
    Lost,
}

/// A lead that has begun or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeadChange {
    /// Of which group.
    pub partition: PartitionId,
    /// What has happened.
    pub kind: LeadKind,
    /// The member's term now.
    pub term: Term,
    /// How long the lead that has ended lasted, or, of one that has begun, what was before: in ns.
    pub lasted_ns: u64,
}

/// How many leads have begun and ended, and how long those were that have ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LeadCounts {
    /// Leads that have begun.
    pub elected: u64,
    /// Leads that were handed to another member.
    pub transferred: u64,
    /// Leads that ended otherwise.
    pub lost: u64,
    /// How long those that have ended lasted, all together, in ms.
    pub lasted_ms: u64,
}

impl LeadCounts {
    /// Counts one.
    pub fn add(&mut self, kind: LeadKind, lasted_ns: u64) {
        match kind {
            LeadKind::Elected => return self.elected += 1,
            LeadKind::Transferred => self.transferred += 1,
            LeadKind::Lost => self.lost += 1,
        }
        self.lasted_ms += lasted_ns / 1_000_000;
    }
}

/// The leader as this replica knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leadership {
    me: MemberId,
    /// Or [`NOBODY`].
    leader: MemberId,
    since_ns: u64,
    /// How long what is to be reported next lasted.
    lasted_ns: u64,
    changes: u32,
    /// It is handing the lead on.
    transfers: bool,
    /// A lead of its own has begun, or ended so, and that was not reported.
    begun: bool,
    ended: Option<LeadKind>,
    /// A lead of its own has ended, and what waited for it was not turned away.
    is_lost: bool,
}

/// It is part of every replica.
const _: () = assert!(size_of::<Leadership>() <= 40, "who leads has grown");

/// A change of leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// How long the state before lasted, in ns.
    pub lasted_ns: u64,
    /// Whether this replica gained the lead by it.
    pub gained: bool,
    /// Whether this replica lost the lead by it.
    pub lost: bool,
}

impl Leadership {
    /// Nobody leads yet.
    #[must_use]
    pub const fn new(me: MemberId, now_ns: u64) -> Self {
        Self {
            me,
            leader: NOBODY,
            since_ns: now_ns,
            lasted_ns: 0,
            changes: 0,
            transfers: false,
            begun: false,
            ended: None,
            is_lost: false,
        }
    }

    /// The member that this replica is.
    #[must_use]
    pub const fn member(&self) -> MemberId {
        self.me
    }

    /// Takes note of the leader; `None` if it is the same as before.
    pub fn set(&mut self, leader: Option<MemberId>, now_ns: u64) -> Option<Change> {
        if leader == self.leader() {
            return None;
        }
        let led = self.is_mine();
        assert!(now_ns >= self.since_ns, "the leader changes at {now_ns}, before {}", self.since_ns);
        let lasted_ns = now_ns.saturating_sub(self.since_ns);
        self.leader = leader.unwrap_or(NOBODY);
        self.since_ns = now_ns;
        self.changes += 1;
        let change = Change { lasted_ns, gained: !led && self.is_mine(), lost: led && !self.is_mine() };
        self.note(change);
        Some(change)
    }

    /// Keeps a change until it is reported. A lead that ends before anybody has heard of it was none.
    fn note(&mut self, change: Change) {
        assert!(!change.lost || !self.is_mine(), "member {} has lost the lead, and has it", self.me.0);
        if change.lost {
            self.is_lost = true;
            let was_transferred = std::mem::take(&mut self.transfers);
            if !std::mem::take(&mut self.begun) {
                self.ended = Some(if was_transferred { LeadKind::Transferred } else { LeadKind::Lost });
                self.lasted_ns = change.lasted_ns;
            }
        } else if change.gained {
            self.begun = true;
            if self.ended.is_none() {
                self.lasted_ns = change.lasted_ns;
            }
        }
    }

    /// Whether it is handing the lead on: then that is how it ends.
    pub const fn set_transfers(&mut self, transfers: bool) {
        self.transfers = transfers;
    }

    /// Whether a lead of its own has ended since this was asked last.
    pub const fn take_lost(&mut self) -> bool {
        std::mem::replace(&mut self.is_lost, false)
    }

    /// Counts and lists what has become of the lead of this member since this was asked last.
    pub fn report(
        &mut self,
        partition: PartitionId,
        term: Term,
        counts: &mut LeadCounts,
        list: &mut Vec<LeadChange>,
    ) {
        if !self.begun && self.ended.is_none() {
            return;
        }
        let begun = std::mem::take(&mut self.begun).then_some(LeadKind::Elected);
        for kind in self.ended.take().into_iter().chain(begun) {
            let lasted_ns = std::mem::take(&mut self.lasted_ns);
            counts.add(kind, lasted_ns);
            list.push(LeadChange { partition, kind, term, lasted_ns });
        }
    }

    /// The leader, if one is known.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        (self.leader != NOBODY).then_some(self.leader)
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.leader == self.me
    }

    /// When the leader last changed, on the monotonic clock in ns.
    #[must_use]
    pub const fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// How often it changed.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MemberId = MemberId(1);
    const OTHER: MemberId = MemberId(2);

    #[test]
    fn starts_without_a_leader_and_ignores_no_change() {
        let mut leadership = Leadership::new(ME, 5);
        assert_eq!((leadership.leader(), leadership.is_mine(), leadership.since_ns()), (None, false, 5));
        assert_eq!(leadership.set(None, 9), None);
        assert_eq!((leadership.since_ns(), leadership.changes()), (5, 0));
    }

    #[test]
    fn gaining_losing_and_gaining_again() {
        let mut leadership = Leadership::new(ME, 0);
        assert_eq!(leadership.set(Some(ME), 10), Some(Change { lasted_ns: 10, gained: true, lost: false }));
        assert_eq!(leadership.set(Some(ME), 20), None);
        assert_eq!(
            leadership.set(Some(OTHER), 40),
            Some(Change { lasted_ns: 30, gained: false, lost: true })
        );
        assert_eq!(leadership.set(None, 45), Some(Change { lasted_ns: 5, gained: false, lost: false }));
        assert_eq!(leadership.set(Some(ME), 50), Some(Change { lasted_ns: 5, gained: true, lost: false }));
        assert_eq!((leadership.leader(), leadership.since_ns(), leadership.changes()), (Some(ME), 50, 4));
    }

    #[test]
    fn each_lead_is_reported_when_it_begins_and_when_it_ends() {
        let mut leadership = Leadership::new(ME, 0);
        let mut counts = LeadCounts::default();
        let mut kinds = |leadership: &mut Leadership| -> Vec<(LeadKind, u64)> {
            let mut list = Vec::new();
            leadership.report(PartitionId(2), Term(1), &mut counts, &mut list);
            list.into_iter().map(|change| (change.kind, change.lasted_ns / 1_000_000)).collect()
        };
        const MS: u64 = 1_000_000;
        assert_eq!(kinds(&mut leadership), []);
        leadership.set(Some(OTHER), MS);
        assert_eq!(kinds(&mut leadership), [], "another member's lead is not ours to report");
        leadership.set(Some(ME), 5 * MS);
        assert_eq!(kinds(&mut leadership), [(LeadKind::Elected, 4)]);
        assert_eq!(kinds(&mut leadership), []);
        // It was to be handed over, and was not; then it was.
        leadership.set_transfers(true);
        leadership.set_transfers(false);
        leadership.set(None, 7 * MS);
        assert_eq!(kinds(&mut leadership), [(LeadKind::Lost, 2)]);
        leadership.set(Some(ME), 8 * MS);
        assert_eq!(kinds(&mut leadership), [(LeadKind::Elected, 1)]);
        leadership.set_transfers(true);
        leadership.set(Some(OTHER), 18 * MS);
        // What ended and what began between two looks; and a lead that nobody has heard of.
        leadership.set(Some(ME), 20 * MS);
        assert_eq!(kinds(&mut leadership), [(LeadKind::Transferred, 10), (LeadKind::Elected, 0)]);
        leadership.set(None, 21 * MS);
        assert_eq!(kinds(&mut leadership), [(LeadKind::Lost, 1)]);
        leadership.set(Some(ME), 22 * MS);
        leadership.set(None, 23 * MS);
        assert_eq!(kinds(&mut leadership), []);
        assert_eq!(counts, LeadCounts { elected: 3, transferred: 1, lost: 2, lasted_ms: 13 });
    }
}
