//! When a read may be answered from the applied state, and what it waits for if not.
//!
//! Invariant: a read that is answered sees every write acknowledged before it came. With one voter that needs no
//! round: the replica leads, nobody else can, and once the first entry of its term is applied (with it everything
//! that earlier terms acknowledged), the applied state is the newest there is. With more voters a [round](Rounds) of
//! heartbeats shows that nobody else could lead when the read came: a majority has answered what was sent after it. A member that
//! does not lead asks the leader, which has such a round answered, and learns up to which entry it has to have applied.

use std::collections::VecDeque;

use corduroy_wal::{Lsn, Term};

use super::lease::Lease;
use super::membership::MemberId;
use crate::planted::{self, PlantedBug};

/// What decides whether reads may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadView {
    /// Whether this replica leads.
    pub leads: bool,
    /// The entry that must be applied first: the first of this leader's term.
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

/// Bytes of a context.
pub const CONTEXT_BYTES: usize = 32;
/// Rounds under way at once: what comes meanwhile shares the next one, so load sets how many reads share one.
const ROUNDS_MAX: usize = 4;
/// Attempts under way at once, at rounds and at rounds that got lost; beyond, the oldest is given up.
const ATTEMPTS_MAX: usize = 12;
/// Ticks after which a round that nobody has answered is begun again, the first time and at most.
const PATIENCE_TICKS: u32 = 3;
const PATIENCE_MAX_TICKS: u32 = 24;

/// The name of an attempt at a round. No two have the same one: the member that sends it is in it, the incarnation of its
/// process (which differs at each start), the term, and a number that the incarnation never uses again. The raft crate takes
/// a second request with a name that it knows for the first one, and would answer with an index from before the read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context([u8; CONTEXT_BYTES]);

impl Context {
    fn new(member: MemberId, incarnation: u64, term: Term, number: u64) -> Self {
        let mut bytes = [0; CONTEXT_BYTES];
        let fields = [member.0, incarnation, term.get(), number];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        Self(bytes)
    }

    /// Its bytes, as they are sent.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a round has brought: whoever has applied this entry has a state that is no older than the round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The round; those before it are answered too.
    pub round: u64,
    /// The entry.
    pub index: Lsn,
    /// When it was begun.
    pub begun_ns: u64,
}

/// Answers whose entries are not applied that are kept apart.
const ANSWERS_MAX: usize = 64;

/// One try to have a round answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Attempt {
    context: Context,
    round: u64,
    begun_ns: u64,
}

/// The rounds of one member. A read joins the next round that is not begun; one is begun at most once a turn, and serves all
/// that came before. That a later one is answered confirms the earlier ones too. What the crate drops without a word (a round
/// of a leader that has committed nothing in its term, all of them at a change of leader) or the network loses is begun
/// again, with a fresh context; the attempts before it count still, so that a network slower than our patience is no
/// hindrance. Whoever waits has a deadline of its own.
#[derive(Debug)]
pub struct Rounds {
    member: MemberId,
    incarnation: u64,
    /// The last round that a read has joined.
    joined: u64,
    /// The last round that was begun; all that is joined, or the one before.
    begun: u64,
    /// All rounds up to this one are answered.
    confirmed: u64,
    attempts: VecDeque<Attempt>,
    /// What has come of rounds: the last one whose entry was applied at the last look, and those after it.
    answers: VecDeque<Answer>,
    /// Nobody waits any more for rounds up to this one: the lead was lost.
    given_up: u64,
    /// Contexts made so far.
    contexts: u64,
    /// Ticks since something was begun or answered, and how many of them are borne.
    waited_ticks: u32,
    patience_ticks: u32,
    is_overdue: bool,
    /// Whether the lead was lost while reads may have waited for a round.
    is_lost: bool,
    /// What the rounds bring later reads.
    lease: Lease,
    /// How old a state may be that reads see which need no newer one, in ns.
    stale_ns: u64,
}

impl Rounds {
    /// No round yet. `incarnation`: differs at each start of the member's process.
    #[must_use]
    pub const fn new(member: MemberId, incarnation: u64, lease: Lease, stale_ns: u64) -> Self {
        Self {
            member,
            incarnation,
            joined: 0,
            begun: 0,
            confirmed: 0,
            attempts: VecDeque::new(),
            answers: VecDeque::new(),
            given_up: 0,
            contexts: 0,
            waited_ticks: 0,
            patience_ticks: PATIENCE_TICKS,
            is_overdue: false,
            is_lost: false,
            lease,
            stale_ns,
        }
    }

    /// Has the lease renewed for reads that come later, if it is old and nothing is under way that renews it.
    pub fn renew(&mut self, now_ns: u64) {
        if self.attempts.is_empty() && self.lease.is_to_renew(now_ns) {
            self.join();
        }
    }

    /// The leader's lease.
    #[must_use]
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// See [`Rounds::lease`].
    pub const fn lease_mut(&mut self) -> &mut Lease {
        &mut self.lease
    }

    /// The round that a read which has just come waits for: the next one to be begun.
    pub const fn join(&mut self) -> u64 {
        self.joined = self.begun + 1;
        self.joined
    }

    /// Whether a round is to be begun, as soon as the member leads and has committed something in its term.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let is_wanted = self.joined > self.begun && self.under_way() < ROUNDS_MAX;
        is_wanted || self.is_overdue
    }

    /// Rounds that are under way, however many attempts at each.
    fn under_way(&self) -> usize {
        let rounds = self.attempts.iter().map(|attempt| attempt.round);
        let later = rounds.clone().skip(1);
        usize::from(!self.attempts.is_empty()) + rounds.zip(later).filter(|(one, next)| one < next).count()
    }

    /// Begins the round that reads have joined, and tries those again that nobody has answered: the context to send, which
    /// stands for all of them.
    pub fn begin(&mut self, term: Term, now_ns: u64) -> Context {
        assert!(self.is_due(), "no round is due: {self:?}");
        self.begun = self.joined;
        if self.attempts.len() == ATTEMPTS_MAX {
            // Whoever is not heard for long asks on: nobody knows when that ends.
            self.attempts.pop_front();
        }
        self.contexts += 1;
        let number = if planted::is(PlantedBug::ContextReused) { 0 } else { self.contexts };
        let context = Context::new(self.member, self.incarnation, term, number);
        self.attempts.push_back(Attempt { context, round: self.begun, begun_ns: now_ns });
        (self.waited_ticks, self.is_overdue) = (0, false);
        context
    }

    /// A majority has answered what was sent with this context. What was sent by an earlier leader, or process, is nobody's.
    /// `index`: the last entry that was committed by then; `applied`: the last one that is applied here.
    pub fn confirm(&mut self, context: &[u8], (index, applied): (Lsn, Lsn), now_ns: u64) {
        let answered = self.attempts.iter().find(|attempt| attempt.context.as_bytes() == context);
        let Some(Attempt { round, begun_ns, .. }) = answered.copied() else { return };
        assert!(round > self.confirmed && round <= self.begun, "round {round} is answered: {self:?}");
        self.confirmed = round;
        self.lease.extend(begun_ns, now_ns);
        self.keep(Answer { round, index, begun_ns }, applied);
        self.attempts.retain(|attempt| attempt.round > round);
        (self.waited_ticks, self.patience_ticks, self.is_overdue) = (0, PATIENCE_TICKS, false);
    }

    fn keep(&mut self, answer: Answer, applied: Lsn) {
        while self.answers.get(1).is_some_and(|next| next.index <= applied) {
            self.answers.pop_front();
        }
        assert!(answer.round <= self.begun, "{answer:?} is of no round that was begun: {self:?}");
        let is_full = self.answers.len() >= ANSWERS_MAX;
        match self.answers.back_mut() {
            // What was said to be committed is, though one that answers later may not know it yet.
            Some(last) if last.index >= answer.index => {
                (last.round, last.begun_ns) = (answer.round, last.begun_ns.max(answer.begun_ns));
            }
            Some(last) if is_full => *last = Answer { begun_ns: last.begun_ns, ..answer },
            Some(_) | None => self.answers.push_back(answer),
        }
    }

    /// The last answer whose entry is applied, where everything up to this one is.
    #[must_use]
    pub fn reached(&self, applied: Lsn) -> Option<&Answer> {
        self.answers.iter().take_while(|answer| answer.index <= applied).last()
    }

    /// Whether reads that may be old are answered from a state that is.
    #[must_use]
    pub const fn serves_old(&self) -> bool {
        self.stale_ns > 0
    }

    /// Whether the state of who has applied everything up to this entry is young enough for reads that may see an old one. One
    /// that is not for long has the next round begun.
    pub fn is_fresh(&mut self, applied: Lsn, now_ns: u64) -> bool {
        let begun_ns = self.reached(applied).map(|answer| answer.begun_ns);
        let age_ns = begun_ns.map_or(u64::MAX, |begun_ns| now_ns.saturating_sub(begun_ns));
        let is_fresh = age_ns < self.stale_ns || planted::is(PlantedBug::StaleForEver) && begun_ns.is_some();
        if is_fresh && age_ns >= self.stale_ns / 2 {
            self.join();
        }
        is_fresh
    }

    /// Another member leads, or this one does now: what was asked of the leader before is asked again, and proves nothing of
    /// a lead.
    pub fn begin_again(&mut self) {
        assert!(self.confirmed <= self.joined, "{self:?}");
        self.attempts.clear();
        self.is_overdue = self.joined > self.completed();
        (self.waited_ticks, self.patience_ticks) = (0, PATIENCE_TICKS);
        self.lease.begin_term();
    }

    /// Whether none is wanted or under way. What was joined when the lead was lost is never confirmed, and nobody waits for it.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.joined == self.completed() && self.attempts.is_empty()
    }

    /// No read waits for a round up to this one.
    fn completed(&self) -> u64 {
        self.confirmed.max(self.given_up)
    }

    /// All rounds up to this one are answered.
    #[must_use]
    pub const fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// How many attempts were begun.
    #[must_use]
    pub const fn attempted(&self) -> u64 {
        self.contexts
    }

    /// The group's clock has moved on by one.
    pub fn tick(&mut self) {
        if self.attempts.is_empty() || planted::is(PlantedBug::RoundNotRepeated) {
            return;
        }
        self.waited_ticks += 1;
        if self.waited_ticks >= self.patience_ticks && !self.is_overdue {
            self.is_overdue = true;
            self.patience_ticks = (2 * self.patience_ticks).min(PATIENCE_MAX_TICKS);
        }
    }

    /// The member does not lead any more: nothing that is under way confirms anything, and no round is begun for those that
    /// have joined one.
    pub fn lose(&mut self) {
        self.is_lost |= self.joined > self.completed();
        (self.begun, self.given_up) = (self.joined, self.joined);
        self.attempts.clear();
        (self.waited_ticks, self.patience_ticks, self.is_overdue) = (0, PATIENCE_TICKS, false);
        self.lease.begin_term();
    }

    /// Whether the lead was lost since this was asked last, while reads may have waited for a round: those are to be turned
    /// away.
    pub const fn take_lost(&mut self) -> bool {
        std::mem::replace(&mut self.is_lost, false)
    }

    /// # Panics
    /// If rounds, or attempts at them, are not in order.
    pub fn check(&self) {
        assert!(self.confirmed <= self.begun && self.begun <= self.joined, "{self:?}");
        assert!(self.given_up <= self.begun, "{self:?}");
        assert!(self.joined <= self.begun + 1, "a round is left out: {self:?}");
        let rounds = || self.attempts.iter().map(|attempt| attempt.round);
        assert!(rounds().is_sorted() && rounds().all(|round| round > self.confirmed), "{self:?}");
        assert!(rounds().next_back().is_none_or(|last| last == self.begun), "{self:?}");
        assert!(self.attempts.len() <= ATTEMPTS_MAX && self.answers.len() <= ANSWERS_MAX, "{self:?}");
        let answers = self.answers.iter();
        assert!(
            answers.is_sorted_by(|one, next| one.round < next.round && one.index < next.index),
            "{self:?}"
        );
    }
}

#[cfg(test)]
mod tests;
