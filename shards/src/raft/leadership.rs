//! Who leads a group, since when, and for how long the leader before did.
//!
//! Invariant: `since_ns` moves only when the leader does.

use super::membership::MemberId;

/// The leader as this replica knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leadership {
    me: MemberId,
    leader: Option<MemberId>,
    since_ns: u64,
    changes: u64,
}

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
        Self { me, leader: None, since_ns: now_ns, changes: 0 }
    }

    /// Takes note of the leader; `None` if it is the same as before.
    pub fn set(&mut self, leader: Option<MemberId>, now_ns: u64) -> Option<Change> {
        if leader == self.leader {
            return None;
        }
        let led = self.is_mine();
        assert!(now_ns >= self.since_ns, "the leader changes at {now_ns}, before {}", self.since_ns);
        let lasted_ns = now_ns.saturating_sub(self.since_ns);
        self.leader = leader;
        self.since_ns = now_ns;
        self.changes += 1;
        Some(Change { lasted_ns, gained: !led && self.is_mine(), lost: led && !self.is_mine() })
    }

    /// The leader, if one is known.
    #[must_use]
    pub const fn leader(&self) -> Option<MemberId> {
        self.leader
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.leader == Some(self.me)
    }

    /// When the leader last changed, on the monotonic clock in ns.
    #[must_use]
    pub const fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// How often it changed.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
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
}
