//! When a read may be answered from the applied state, and what it waits for if not.
//!
//! Invariant: a read that is answered sees every write acknowledged before it came. With one voter that needs no
//! round: the replica leads, nobody else can, and once the first entry of its term is applied (with it everything
//! that earlier terms acknowledged), the applied state is the newest there is. With more voters a round of heartbeats
//! stands in for "nobody else can": its index stands for the term's first entry.

use corduroy_wal::Lsn;

/// What decides whether reads may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadView {
    /// Whether this replica leads.
    pub leads: bool,
    /// The entry that must be applied first: the first of this leader's term, or the index that a round confirmed.
    pub safe_from: Option<Lsn>,
    /// The highest entry applied.
    pub applied: Lsn,
}

/// What a read does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// It runs now.
    Open,
    /// It waits until this entry is applied.
    UntilApplied(Lsn),
    /// It waits for a leader.
    NoLeader,
}

/// What a read that finds this view does next.
#[must_use]
pub fn gate(view: ReadView) -> Gate {
    match view.safe_from {
        Some(lsn) if view.leads && view.applied >= lsn => Gate::Open,
        Some(lsn) if view.leads => Gate::UntilApplied(lsn),
        _ => Gate::NoLeader,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leader_that_applied_its_terms_first_entry_answers() {
        let view = |leads, safe_from: Option<u64>, applied| ReadView {
            leads,
            safe_from: safe_from.map(Lsn),
            applied: Lsn(applied),
        };
        assert_eq!(gate(view(true, Some(5), 5)), Gate::Open);
        assert_eq!(gate(view(true, Some(5), 4)), Gate::UntilApplied(Lsn(5)));
        assert_eq!(gate(view(true, None, 9)), Gate::NoLeader);
        assert_eq!(gate(view(false, Some(5), 9)), Gate::NoLeader);
        assert_eq!(gate(view(true, Some(0), 0)), Gate::Open);
    }
}
