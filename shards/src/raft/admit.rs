//! Which messages of peers the raft crate is given.
//!
//! The crate trusts whoever calls it: it steps proposals and transfers that a peer sent, takes an entry of term 0 for one
//! that it has, and panics where a commit index lies beyond its log (reference: raft 0.7.0, `raft.rs`, `step` and
//! `raft_log.rs`, `term`, `commit_to`). Invariant: what is admitted makes none of its assertions fail, nor one of ours.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use corduroy_wal::{Lsn, Term};

use super::changes::ChangeEntry;
use super::membership::MemberId;
use super::reads::CONTEXT_BYTES;
use crate::entry;

/// The highest term and member id that are believed: no group comes so far, and beyond lies what only damage writes.
const SANE_MAX: u64 = 1 << 48;

/// What a record, or an entry in it, takes beside its payload, roughly, in bytes: for sizing frames and messages.
pub const ENTRY_BYTES: usize = 64;
/// By how much a term may be above this member's: no group has so many elections while one is away.
const TERM_LEAP_MAX: u64 = 1 << 32;

/// Why a message was not taken in. It is dropped; its sender sends another one if it matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refused {
    /// Its kind is not one that peers send each other.
    #[error("peers do not send each other messages of this kind")]
    Kind,
    /// It is for another member.
    #[error("it is for another member of the group")]
    Addressee,
    /// It answers for somebody who is not a member, or comes from where that member is not.
    #[error("its sender is no member of the group, or not where it says")]
    Sender,
    /// A term, an index or an id that no group has.
    #[error("it has a term, an index or an id that no group comes to")]
    Absurd,
    /// Its entries do not follow one another, or what they follow.
    #[error("its entries do not follow one another")]
    Order,
    /// It follows an entry that was written without Raft: the raft crate cannot see whether it has that.
    #[error("it follows an entry of term 0, which is never served from a log")]
    TermZero,
    /// An entry cannot be applied.
    #[error("it has an entry that cannot be read")]
    Entry,
    /// It brings the log from its beginning to a member that starts from an image of the state.
    #[error("it begins at the log's beginning, and who joins starts from an image of the state")]
    Beginning,
    /// It speaks of entries that this leader does not have.
    #[error("it acknowledges entries that are not there")]
    Ahead,
    /// It refuses entries that its sender has acknowledged since: it was overtaken on its way.
    #[error("it refuses entries that its sender has acknowledged since")]
    Stale,
    /// Now is not the time: the tail must be durable first.
    #[error("it asks for an election before the log is durable")]
    TooEarly,
    /// It asks for a vote, and the leader that this member has heard was promised that it gives none yet.
    #[error("it asks for a vote within the time that was promised to the leader")]
    Promised,
    /// It asks who does not lead how far a state has to be, answers for who does not lead, or is not of the form of such.
    #[error("it is no question to the leader about reads, or no answer of the leader's")]
    Question,
    /// There is no room for its entries until others are applied, or written.
    #[error("there is no room for its entries now")]
    NoRoom,
    /// An image replaces the state, and the member stands still.
    #[error("an image is being installed, and nothing else is taken in")]
    Installing,
    /// What it has of an image is nothing that this member sends or gets now.
    #[error("it has nothing of an image that is on its way from or to this member")]
    Image,
    /// The raft crate does not take it.
    #[error("Raft does not take it")]
    ByRaft,
}

/// What an incoming message is judged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Admission {
    /// This member.
    pub me: MemberId,
    /// Whether the sender belongs to the group, as far as this member knows.
    pub knows_sender: bool,
    /// This member's term.
    pub term: Term,
    /// The leader that it knows.
    pub leader: Option<MemberId>,
    /// Whether it leads.
    pub leads: bool,
    /// The highest entry of its log.
    pub last: Lsn,
    /// Up to which entry the sender is known to hold it; zero unless this member leads.
    pub matched: Lsn,
    /// Whether it joins its group, and has nothing of the log.
    pub joins: bool,
    /// Whether an election that it would win alone must wait for the disk.
    pub must_flush: bool,
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is stepped.
    Step,
    /// It is dropped.
    Drop(Refused),
    /// The leader knows that this member had entries up to this one: they are lost.
    Lost(Lsn),
}

/// Judges a message.
#[must_use]
pub fn judge(at: Admission, message: &Message) -> Verdict {
    use MessageType as M;
    if message.to != at.me.0 {
        return Verdict::Drop(Refused::Addressee);
    }
    let leaps = message.term > at.term.get() + TERM_LEAP_MAX;
    if !is_sane(message) || leaps || message.from == at.me.0 {
        return Verdict::Drop(Refused::Absurd);
    }
    let refusal = match message.get_msg_type() {
        M::MsgAppend if at.joins && message.index == 0 && !message.get_entries().is_empty() => {
            Some(Refused::Beginning)
        }
        M::MsgAppend => refusal_of_entries(message),
        M::MsgHeartbeat => {
            let is_current = message.term >= at.term.get();
            let leads = at.leads && message.term == at.term.get();
            if is_current && !leads && message.commit > at.last.get() {
                return Verdict::Lost(Lsn(message.commit));
            }
            None
        }
        M::MsgRequestVote | M::MsgRequestPreVote => None,
        M::MsgAppendResponse
        | M::MsgHeartbeatResponse
        | M::MsgRequestVoteResponse
        | M::MsgRequestPreVoteResponse
        | M::MsgReadIndex
        | M::MsgReadIndexResp
            if !at.knows_sender =>
        {
            Some(Refused::Sender)
        }
        M::MsgAppendResponse => {
            let is_ahead = !message.reject && message.index > at.last.get();
            let wants_snapshot = message.request_snapshot != raft::INVALID_INDEX;
            match at.leads && message.term == at.term.get() {
                true if is_ahead || wants_snapshot => Some(Refused::Ahead),
                // The crate would send from below what the member holds, where the log may have been released: a snapshot
                // then (raft-rs, pull request 557).
                true if message.reject && is_overtaken(message, at.matched) => Some(Refused::Stale),
                true | false => None,
            }
        }
        M::MsgHeartbeatResponse | M::MsgRequestVoteResponse | M::MsgRequestPreVoteResponse => None,
        M::MsgTimeoutNow => {
            let is_leaders = message.term == at.term.get() && at.leader == Some(MemberId(message.from));
            match is_leaders {
                true => at.must_flush.then_some(Refused::TooEarly),
                false => Some(Refused::Sender),
            }
        }
        M::MsgReadIndex => (!at.leads || !is_question(message)).then_some(Refused::Question),
        M::MsgReadIndexResp => {
            let is_leaders = message.term == at.term.get() && at.leader == Some(MemberId(message.from));
            (at.leads || !is_leaders || !is_question(message)).then_some(Refused::Question)
        }
        M::MsgHup
        | M::MsgBeat
        | M::MsgPropose
        | M::MsgSnapshot
        | M::MsgUnreachable
        | M::MsgSnapStatus
        | M::MsgCheckQuorum
        | M::MsgTransferLeader => Some(Refused::Kind),
    };
    refusal.map_or(Verdict::Step, Verdict::Drop)
}

/// What is wrong with a message of an image, of which the raft crate sees none until the image is installed; `offered`: the
/// last entry that it includes, and that one's term, if the message offers it.
#[must_use]
pub fn refusal_of_image(
    (me, term): (MemberId, Term),
    message: &Message,
    offered: Option<(Lsn, Term)>,
) -> Option<Refused> {
    let leaps = message.term > term.get() + TERM_LEAP_MAX;
    let is_absurd = offered.is_some_and(|(lsn, of)| !is_sane_image(lsn, of, Term(message.term)));
    let is_refused = !is_sane(message) || leaps || message.from == me.0 || is_absurd;
    is_refused.then_some(Refused::Absurd)
}

/// Whether a leader of that term can have an image as of the entry `lsn` of term `term`.
#[must_use]
pub fn is_sane_image(lsn: Lsn, term: Term, leader_term: Term) -> bool {
    lsn > Lsn::ZERO && lsn.get() <= SANE_MAX && term > Term::ZERO && term <= leader_term
}

/// Whether a member that holds entries up to `matched` can have refused an append so only before it did: what it holds has the
/// leader's terms, so it matches there at least.
fn is_overtaken(refusal: &Message, matched: Lsn) -> bool {
    refusal.index <= matched.get() || refusal.reject_hint < matched.get()
}

/// Whether its numbers are such as groups come to.
fn is_sane(message: &Message) -> bool {
    let Message { from, term, log_term, index, commit, commit_term, reject_hint, .. } = message;
    let numbers = [from, term, log_term, index, commit, commit_term, reject_hint];
    // A message without a term is one of the crate's own, which it takes from nobody else, or a question about reads.
    let has_term = (*term > 0) != (message.get_msg_type() == MessageType::MsgReadIndex);
    numbers.into_iter().all(|number| *number <= SANE_MAX) && *from > 0 && has_term
}

/// Whether it has the name of an attempt at a round, as a question about reads and its answer have it, and no more.
fn is_question(message: &Message) -> bool {
    match message.get_entries() {
        [name] => name.data.len() == CONTEXT_BYTES && name.index == 0 && name.term == 0,
        _ => false,
    }
}

/// What is wrong with the entries of an append.
fn refusal_of_entries(message: &Message) -> Option<Refused> {
    if (message.log_term == 0) != (message.index == 0) {
        return Some(Refused::TermZero);
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.get_entries() {
        let follows = entry.index == index + 1 && entry.term >= term.max(1) && entry.term <= message.term;
        if !follows {
            return Some(Refused::Order);
        }
        (index, term) = (entry.index, entry.term);
        if !can_be_applied(entry) {
            return Some(Refused::Entry);
        }
    }
    (term > message.term).then_some(Refused::Order)
}

/// Whether every replica can read it, once it is committed.
fn can_be_applied(entry: &Entry) -> bool {
    match entry.get_entry_type() {
        EntryType::EntryNormal => entry.data.is_empty() || entry::decode(&entry.data).is_ok(),
        EntryType::EntryConfChange => false,
        EntryType::EntryConfChangeV2 => {
            ChangeEntry::decode(&entry.data).is_ok_and(|change| change.fits(Lsn(entry.index)))
        }
    }
}

/// Bytes of a message's entries, as they are counted against the room for them.
#[must_use]
pub fn entry_bytes(message: &Message) -> usize {
    message.get_entries().iter().map(|entry| entry.data.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lone voter that follows a leader which has just left the group: elected now, it would lead with a tail that is not
    /// durable, and the crate would panic.
    #[test]
    fn an_election_that_would_be_won_at_once_waits_for_the_disk() {
        let at = Admission {
            me: MemberId(1),
            knows_sender: false,
            term: Term(3),
            leader: Some(MemberId(2)),
            leads: false,
            last: Lsn(9),
            matched: Lsn::ZERO,
            joins: false,
            must_flush: true,
        };
        let mut message = Message { from: 2, to: 1, term: 3, ..Message::default() };
        message.set_msg_type(MessageType::MsgTimeoutNow);
        assert_eq!(judge(at, &message), Verdict::Drop(Refused::TooEarly));
        assert_eq!(judge(Admission { must_flush: false, ..at }, &message), Verdict::Step);
        let other = Admission { leader: Some(MemberId(3)), ..at };
        assert_eq!(
            judge(other, &message),
            Verdict::Drop(Refused::Sender),
            "only who leads hands the lead on"
        );
    }
}
