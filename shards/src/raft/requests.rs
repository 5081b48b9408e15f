//! Requests about a group's members that wait for their outcome: changes, and transfers of the lead.
//!
//! Invariant: each gets exactly one outcome, at its deadline at the latest; what was proposed and cannot be followed any more
//! is unknown.

use corduroy_wal::{Lsn, Term};

use super::changes::{Change, ChangeRefusal};
use super::group::AppliedChange;
use super::guard::Fault;
use super::replica::Replica;
use crate::ids::{MemberId, PartitionId, Ticket};
use crate::planted::{self, PlantedBug};

/// What is asked of a group's leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberRequest {
    /// To change the members: one change, or several at once.
    Change(Vec<Change>),
    /// To hand the lead to this member.
    Transfer(MemberId),
    /// To hand the lead to whichever member is best prepared for it.
    TransferAway,
}

/// The one outcome of such a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberOutcome {
    /// Done: the entry of the change is committed and applied here, and a joint configuration is left. A new member has the
    /// entry's LSN as its id. For a transfer: the last entry that is applied.
    Done(Lsn),
    /// Certainly not done.
    Rejected(ChangeRefusal),
    /// It may have been done, or be done yet.
    Unknown,
}

/// Requests of a shard that wait at once.
const WAITING_MAX: usize = 1024;

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waiting {
    /// This entry to be applied.
    Entry(Lsn, Term),
    /// The joint configuration that it has begun to be left.
    Leave(Lsn),
    /// That member to lead in a later term.
    Lead(MemberId, Term),
}

#[derive(Debug)]
struct Row {
    ticket: Ticket,
    partition: PartitionId,
    kind: usize,
    waiting: Waiting,
    deadline_ns: u64,
}

/// How often what was asked came to what.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MemberCounts {
    /// By kind.
    pub done: [u64; MemberRequest::KINDS.len()],
    /// By kind.
    pub unknown: [u64; MemberRequest::KINDS.len()],
    /// By kind, and in it by reason.
    pub rejected: [[u64; ChangeRefusal::REASONS.len()]; MemberRequest::KINDS.len()],
}

/// A shard's requests of this sort.
#[derive(Debug, Default)]
pub struct MemberRequests {
    asked: Vec<(Ticket, PartitionId, MemberRequest)>,
    rows: Vec<Row>,
    outcomes: Vec<(Ticket, MemberOutcome)>,
    counts: MemberCounts,
}

impl MemberRequest {
    /// The kinds, by name.
    pub const KINDS: [&str; 7] =
        ["add learner", "promote", "demote", "remove", "several", "transfer", "transfer away"];

    /// Its kind's index among [`MemberRequest::KINDS`].
    #[must_use]
    pub fn kind(&self) -> usize {
        match self {
            Self::Change(changes) => match changes.as_slice() {
                [Change::AddLearner(_) | Change::AddLearnerAt(..)] => 0,
                [Change::Promote(_)] => 1,
                [Change::Demote(_)] => 2,
                [Change::Remove(_)] => 3,
                [] | [_, _, ..] => 4,
            },
            Self::Transfer(_) => 5,
            Self::TransferAway => 6,
        }
    }
}

impl MemberRequests {
    /// Takes a request in; it is carried out in the next turn.
    pub fn ask(&mut self, ticket: Ticket, partition: PartitionId, request: MemberRequest) {
        if self.asked.len() + self.rows.len() >= WAITING_MAX {
            let rejected = MemberOutcome::Rejected(ChangeRefusal::Overloaded);
            return self.end(ticket, request.kind(), rejected);
        }
        self.asked.push((ticket, partition, request));
    }

    /// What came in since the last turn.
    pub fn take_asked(&mut self) -> Vec<(Ticket, PartitionId, MemberRequest)> {
        std::mem::take(&mut self.asked)
    }

    /// Carries a request out at the replica of its partition, if there is one.
    ///
    /// # Errors
    /// [`Fault`] of the replica: nothing was done.
    pub fn begin(
        &mut self,
        (ticket, partition, request): (Ticket, PartitionId, MemberRequest),
        replica: Option<&mut Replica>,
        lag_most: u64,
        deadline_ns: u64,
    ) -> Result<(), Fault> {
        let kind = request.kind();
        let begun = match (replica, &request) {
            (None, _) => Ok(Err(ChangeRefusal::NoPartition)),
            (Some(replica), MemberRequest::Change(changes)) => {
                let proposed = replica.propose_change(changes, lag_most);
                proposed.map(|proposed| proposed.map(|(lsn, term)| Waiting::Entry(lsn, term)))
            }
            (Some(replica), MemberRequest::Transfer(to)) => {
                let (term, begun) = (replica.term(), replica.transfer(*to, lag_most));
                begun.map(|begun| begun.map(|()| Waiting::Lead(*to, term)))
            }
            (Some(replica), MemberRequest::TransferAway) => {
                let (term, begun) = (replica.term(), replica.transfer_away(lag_most));
                begun.map(|begun| begun.map(|to| Waiting::Lead(to, term)))
            }
        };
        match begun {
            Ok(Ok(waiting)) => self.rows.push(Row { ticket, partition, kind, waiting, deadline_ns }),
            Ok(Err(why)) => self.end(ticket, kind, MemberOutcome::Rejected(why)),
            Err(_) => self.end(ticket, kind, MemberOutcome::Rejected(ChangeRefusal::NoGroup)),
        }
        begun.map(|_| ())
    }

    fn end(&mut self, ticket: Ticket, kind: usize, outcome: MemberOutcome) {
        assert!(kind < MemberRequest::KINDS.len(), "kind {kind} has a count");
        let count = match outcome {
            MemberOutcome::Done(_) => self.counts.done.get_mut(kind),
            MemberOutcome::Unknown => self.counts.unknown.get_mut(kind),
            MemberOutcome::Rejected(why) => {
                self.counts.rejected.get_mut(kind).and_then(|reasons| reasons.get_mut(why.reason()))
            }
        };
        *count.expect("kinds and reasons are counted by their numbers") += 1;
        self.outcomes.push((ticket, outcome));
    }

    /// Whether any waits for its outcome.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.rows.is_empty()
    }

    /// Ends those that have their outcome; `replica` finds the replica of a partition.
    pub fn look<'a>(&mut self, now_ns: u64, replica: impl Fn(PartitionId) -> Option<&'a Replica>) {
        assert!(self.rows.len() <= WAITING_MAX, "{} requests about members wait", self.rows.len());
        for mut row in std::mem::take(&mut self.rows) {
            let outcome = match replica(row.partition) {
                Some(replica) => row.look(replica),
                None => Some(MemberOutcome::Unknown),
            };
            let late = (row.deadline_ns <= now_ns).then_some(MemberOutcome::Unknown);
            match outcome.or(late) {
                Some(outcome) => self.end(row.ticket, row.kind, outcome),
                None => self.rows.push(row),
            }
        }
    }

    /// When the first deadline is.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.rows.iter().map(|row| row.deadline_ns).min()
    }

    /// Outcomes, in the order that they were decided.
    pub fn take_outcomes(&mut self, outcomes: &mut Vec<(Ticket, MemberOutcome)>) {
        outcomes.append(&mut self.outcomes);
    }

    /// What came of all of them.
    #[must_use]
    pub const fn counts(&self) -> &MemberCounts {
        &self.counts
    }
}

impl Row {
    /// Its outcome, if the replica shows it.
    fn look(&mut self, replica: &Replica) -> Option<MemberOutcome> {
        let Some(group) = replica.group() else { return Some(MemberOutcome::Unknown) };
        if let Waiting::Entry(lsn, term) = self.waiting
            && replica.applied() >= lsn
        {
            let ours = AppliedChange { lsn, term, has_effect: true };
            let applied = group.applied_change();
            if applied.lsn > lsn || group.has_replaced(lsn) {
                return Some(MemberOutcome::Unknown);
            }
            if applied != ours && !planted::is(PlantedBug::EmptiedChangeDone) {
                return Some(MemberOutcome::Rejected(ChangeRefusal::Obsoleted));
            }
            self.waiting = Waiting::Leave(lsn);
        }
        match self.waiting {
            Waiting::Leave(lsn) if !group.members().is_joint() => Some(MemberOutcome::Done(lsn)),
            Waiting::Entry(..) | Waiting::Leave(_) => None,
            Waiting::Lead(to, term) => {
                let leader = group.leader()?;
                let is_later = replica.term() > term;
                if is_later && leader == to {
                    return Some(MemberOutcome::Done(replica.applied()));
                }
                // The message that hands it the lead may still be on its way, and is heard until the term is over.
                let unknown = (!group.is_transferring()).then_some(MemberOutcome::Unknown);
                if is_later { Some(MemberOutcome::Rejected(ChangeRefusal::NotHandedOver)) } else { unknown }
            }
        }
    }
}
