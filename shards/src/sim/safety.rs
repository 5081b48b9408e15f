//! The safety of groups, judged over all nodes while they run, from what replicas show of themselves after their turns.
//!
//! Invariant: what it remembers of a replica is of its present incarnation; what it remembers of a group is for ever.

use std::collections::HashMap;

use corduroy_wal::{Lsn, Term};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use crate::ids::PartitionId;
use crate::liveness::is_beat;
use crate::raft::quiescence::WAKE;
use crate::raft::replica::{ReplicaError, StartedAs};
use crate::sim::history::Broken;
use crate::sim::leases::Leases;
use crate::sim::sleepers::Sleepers;
use crate::status::ReplicaStatus;

/// What a replica shows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    pub(super) leads: bool,
    pub(super) term: Term,
    pub(super) last: Lsn,
    pub(super) committed: Lsn,
    pub(super) applied: Lsn,
}

impl Standing {
    /// That of a replica of a group; a log kept without Raft has none, nor has what was fenced.
    pub(super) fn of(status: &ReplicaStatus) -> Option<Self> {
        let is_stopped = matches!(status.error, Some(ReplicaError::ReplicaStopped { .. }));
        let is_group = status.started_as != StartedAs::Solo && !is_stopped;
        let &ReplicaStatus { role, term, last, committed, applied, .. } = status;
        is_group.then_some(Self { leads: role == StateRole::Leader, term, last, committed, applied })
    }
}

/// What a standing shows beside what is judged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct News {
    /// It is the first of a new leader.
    pub(super) is_elected: bool,
    /// The log is shorter than it was: another leader's entries replaced some of it.
    pub(super) is_cut_back: bool,
}

/// See the file's head.
#[derive(Default, Debug)]
pub(super) struct Safety {
    /// Which node's replica led a group in a term.
    leaders: HashMap<(PartitionId, Term), usize>,
    /// The terms of a group's entries, by LSN, as they were when a replica first called them committed.
    committed: HashMap<PartitionId, Vec<Option<Term>>>,
    replicas: HashMap<(usize, PartitionId), Standing>,
    /// Whom a node's replica voted for in a term, as it sent it.
    votes: HashMap<(usize, PartitionId, Term), u64>,
    pub(super) leases: Leases,
    pub(super) sleepers: Sleepers,
    /// The highest term that a node's replica sent, but for questions whether it would win an election.
    sent: HashMap<(usize, PartitionId), Term>,
}

impl Safety {
    /// A node's replica has ended, with its process or without.
    pub(super) fn ended(&mut self, node: usize, partition: PartitionId) {
        self.replicas.remove(&(node, partition));
        self.leases.ended(node, partition);
        self.sleepers.ended(node, partition);
    }

    /// The process of a node has died.
    pub(super) fn crashed(&mut self, node: usize) {
        self.replicas.retain(|(of, _), _| *of != node);
        self.leases.crashed(node);
    }

    /// A node's replica sends a message.
    pub(super) fn sends(
        &mut self,
        (node, partition): (usize, PartitionId),
        message: &Message,
    ) -> Result<(), Broken> {
        let term = Term(message.term);
        let kind = message.get_msg_type();
        if matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse) {
            // Their terms are those of elections that are not held yet.
            return Ok(());
        }
        if is_beat(message) || kind == WAKE {
            // They speak of no term: a beat's is a number of its process, and whoever is woken learns nothing by the other.
            return Ok(());
        }
        let asks = (kind == MessageType::MsgRequestVote).then_some(message.from);
        let grants = kind == MessageType::MsgRequestVoteResponse && !message.reject;
        let vote = asks.or(grants.then_some(message.to));
        let sent = self.sent.entry((node, partition)).or_default();
        *sent = term.max(*sent);
        let Some(vote) = vote else { return Ok(()) };
        let first = *self.votes.entry((node, partition, term)).or_insert(vote);
        if first != vote {
            let what = format!(
                "partition {partition}: node {node} votes for member {vote} in term {term}, before for {first}"
            );
            return Err(("a member votes once in a term", what));
        }
        Ok(())
    }

    /// A replica of a group stands so; `term_at`: the term of an entry of its log, if the log has it.
    pub(super) fn stands(
        &mut self,
        (node, partition): (usize, PartitionId),
        now: Standing,
        term_at: impl Fn(Lsn) -> Option<Term>,
    ) -> Result<News, Broken> {
        let before = self.replicas.insert((node, partition), now);
        let mut news = News::default();
        if before == Some(now) {
            return Ok(news);
        }
        let found =
            |what: &str| format!("partition {partition} on node {node}: {what}: {now:?} after {before:?}");
        if now.committed > now.last || now.applied > now.committed {
            return Err(("applied is committed, committed is in the log", found("")));
        }
        let sent = self.sent.get(&(node, partition)).copied().unwrap_or_default();
        if now.term < sent {
            return Err(("a term that was sent survives", found(&format!("it had sent term {sent}"))));
        }
        let back = |before: Standing| {
            now.term < before.term || now.committed < before.committed || now.applied < before.applied
        };
        if before.is_some_and(back) {
            return Err(("terms, commits and applies never go back", found("went back")));
        }
        news.is_cut_back = before.is_some_and(|before| now.last < before.last);
        if now.leads {
            news.is_elected = !self.leaders.contains_key(&(partition, now.term));
            let first = *self.leaders.entry((partition, now.term)).or_insert(node);
            if first != node {
                let what = found(&format!("node {first} led this term"));
                return Err(("a term has one leader", what));
            }
        }
        let from = before.map_or(now.applied.min(now.committed), |before| before.committed);
        self.commits((node, partition), from, now.committed, term_at)?;
        Ok(news)
    }

    /// A replica calls the entries above `from` up to `to` committed.
    fn commits(
        &mut self,
        (node, partition): (usize, PartitionId),
        from: Lsn,
        to: Lsn,
        term_at: impl Fn(Lsn) -> Option<Term>,
    ) -> Result<(), Broken> {
        let known = self.committed.entry(partition).or_default();
        let end = usize::try_from(to.get()).expect("as many entries as fit into memory");
        if known.len() < end {
            known.resize(end, None);
        }
        let mut lsn = from;
        while lsn < to {
            lsn = lsn.next();
            let index = usize::try_from(lsn.get() - 1).expect("it is below the end");
            let first = known.get_mut(index).expect("it is below the end");
            match (*first, term_at(lsn)) {
                (_, None) => {}
                (None, here) => *first = here,
                (Some(first), Some(here)) if first == here => {}
                (Some(first), Some(here)) => {
                    let what = format!(
                        "partition {partition}: entry {lsn} was committed with term {first}, on node {node} with {here}"
                    );
                    return Err(("a committed entry never changes", what));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(4);

    const fn standing(leads: bool, term: u64, last: u64, committed: u64, applied: u64) -> Standing {
        Standing {
            leads,
            term: Term(term),
            last: Lsn(last),
            committed: Lsn(committed),
            applied: Lsn(applied),
        }
    }

    /// What is wrong once node 0 has stood so, each time in a log of that term only, and then node `node`.
    fn after(first: &[Standing], node: usize, then: Standing) -> Option<&'static str> {
        let mut safety = Safety::default();
        for &standing in first {
            assert!(safety.stands((0, P), standing, |_| Some(standing.term)).is_ok());
        }
        safety.stands((node, P), then, |_| Some(then.term)).err().map(|(invariant, _)| invariant)
    }

    #[test]
    fn a_term_has_one_leader_and_a_leader_many_terms() {
        let first = [standing(false, 1, 0, 0, 0), standing(true, 2, 3, 0, 0), standing(false, 3, 3, 0, 0)];
        assert_eq!(after(&first, 1, standing(true, 2, 3, 0, 0)), Some("a term has one leader"));
        assert_eq!(after(&first, 1, standing(true, 3, 3, 0, 0)), None);
        assert_eq!(after(&first, 0, standing(true, 4, 3, 0, 0)), None);
        let mut safety = Safety::default();
        assert!(safety.stands((0, P), standing(true, 2, 3, 0, 0), |_| None).is_ok());
        let mut news = |standing| safety.stands((1, PartitionId(5)), standing, |_| None).map_err(drop);
        assert_eq!(news(standing(true, 2, 3, 0, 0)), Ok(News { is_elected: true, is_cut_back: false }));
        assert_eq!(news(standing(true, 2, 4, 0, 0)), Ok(News::default()), "another group's leader goes on");
        assert_eq!(news(standing(false, 3, 2, 0, 0)), Ok(News { is_elected: false, is_cut_back: true }));
    }

    #[test]
    fn votes_and_terms_that_were_sent_survive() {
        let message = |kind, term, to, reject| {
            let mut message = Message { from: 1, to, term, reject, ..Message::default() };
            message.set_msg_type(kind);
            message
        };
        let (ask, answer) = (MessageType::MsgRequestVote, MessageType::MsgRequestVoteResponse);
        let mut safety = Safety::default();
        let mut wrong =
            |message: Message| safety.sends((0, P), &message).err().map(|(invariant, _)| invariant);
        assert_eq!(wrong(message(answer, 4, 2, false)), None);
        assert_eq!(wrong(message(answer, 4, 2, false)), None, "an answer that was repeated");
        assert_eq!(wrong(message(answer, 4, 3, true)), None);
        assert_eq!(wrong(message(answer, 4, 3, false)), Some("a member votes once in a term"));
        assert_eq!(wrong(message(ask, 4, 3, false)), Some("a member votes once in a term"));
        assert_eq!(wrong(message(ask, 5, 3, false)), None);
        assert_eq!(wrong(message(MessageType::MsgRequestPreVote, 6, 3, false)), None);
        safety.crashed(0);
        let after = |safety: &mut Safety, term| {
            let stands = safety.stands((0, P), standing(false, term, 0, 0, 0), |_| None);
            stands.err().map(|(invariant, _)| invariant)
        };
        assert_eq!(after(&mut safety, 4), Some("a term that was sent survives"));
        assert_eq!(after(&mut safety, 5), None);
    }

    #[test]
    fn within_an_incarnation_nothing_goes_back() {
        let first = [standing(true, 4, 9, 7, 5)];
        let back = Some("terms, commits and applies never go back");
        assert_eq!(after(&first, 0, standing(false, 3, 9, 7, 5)), back);
        assert_eq!(after(&first, 0, standing(true, 4, 9, 6, 5)), back);
        assert_eq!(after(&first, 0, standing(true, 4, 9, 7, 4)), back);
        assert_eq!(
            after(&first, 0, standing(false, 5, 8, 7, 5)),
            None,
            "a log may lose what was not committed"
        );
        for end in [|safety: &mut Safety| safety.crashed(0), |safety: &mut Safety| safety.ended(0, P)] {
            let mut safety = Safety::default();
            assert!(safety.stands((0, P), standing(true, 4, 9, 7, 5), |_| Some(Term(4))).is_ok());
            end(&mut safety);
            assert!(safety.stands((0, P), standing(false, 4, 9, 5, 5), |_| Some(Term(4))).is_ok());
        }
    }

    #[test]
    fn what_is_applied_is_committed_and_what_is_committed_is_there() {
        let wrong = Some("applied is committed, committed is in the log");
        assert_eq!(after(&[], 0, standing(true, 1, 5, 6, 5)), wrong);
        assert_eq!(after(&[], 0, standing(true, 1, 7, 5, 6)), wrong);
    }

    #[test]
    fn another_entry_at_an_lsn_that_was_committed_is_found() {
        let first = [standing(true, 2, 4, 0, 0), standing(true, 2, 4, 3, 0)];
        let then = |committed| standing(true, 3, 4, committed, 0);
        let mut safety = Safety::default();
        for standing in first {
            assert!(safety.stands((0, P), standing, |_| Some(Term(2))).is_ok());
        }
        // Its log says term 3 from entry 3 on, which is committed with term 2.
        let terms = |lsn: Lsn| Some(if lsn < Lsn(3) { Term(2) } else { Term(3) });
        assert!(safety.stands((1, P), then(2), terms).is_ok());
        let found = safety.stands((1, P), then(3), terms).err().map(|(invariant, _)| invariant);
        assert_eq!(found, Some("a committed entry never changes"));
        // What a log has dropped says nothing, and what nobody had called committed is free.
        let follower = Standing { leads: false, ..then(4) };
        assert!(safety.stands((2, P), follower, |lsn| terms(lsn).filter(|_| lsn > Lsn(3))).is_ok());
    }
}
