//! Leases: by which a leader answers reads without asking the others, and what those promise it for that.
//!
//! Whoever hears its leader promises to give no vote and to ask for none for a while, by its own clock: [`Promise`]. A round
//! of heartbeats that a majority has answered was heard after it had been sent. So until those promises can end, counted from
//! the *sending*, nobody else leads: [`Lease`]. It is shorter than the promise, since the clock of who leads may be slow and
//! that of who promised may be fast. What breaks promises ends the lease first: handing the lead on, for good in its term,
//! since the message that has the next leader begin may arrive late. A member that restarts does not know what it had promised, and
//! takes it that it just did.
//!
//! Invariant: a lease is over before the first of the promises that it rests on, as long as clocks run at nine tenths to
//! eleven tenths of the right speed.

use crate::planted::{self, PlantedBug};

/// How a leader with other members knows, when a read comes, that it still leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reads {
    /// A majority answers what was sent after the read had come.
    #[default]
    Quorum,
    /// The same, or a lease that an earlier answer has brought, if clocks can be relied on.
    Lease,
}

/// Of a promise so much is the lease, in percent: less than 90 / 110.
const LEASE_PERCENT: u64 = 80;

/// How long a lease is that rests on promises of this length.
#[must_use]
pub const fn lease_ns(promise_ns: u64) -> u64 {
    promise_ns / 100 * LEASE_PERCENT
}

/// What a member has promised its leader: until when it neither votes for another one nor asks for votes.
#[derive(Debug)]
pub struct Promise {
    length_ns: u64,
    /// `None`: it was restarted, and has not looked at the clock since.
    until_ns: Option<u64>,
}

impl Promise {
    /// That of a member that may have promised something to somebody in an earlier process, or has never been one before.
    #[must_use]
    pub fn starting(length_ns: u64, is_restarted: bool) -> Self {
        let is_bound = is_restarted && !planted::is(PlantedBug::RestartedVotesAtOnce);
        Self { length_ns, until_ns: (!is_bound).then_some(0) }
    }

    /// The leader was heard.
    pub fn renew(&mut self, now_ns: u64) {
        let until_ns = now_ns.saturating_add(self.length_ns);
        self.until_ns = Some(self.until_ns.unwrap_or_default().max(until_ns));
    }

    /// Whether it binds now.
    pub fn binds(&mut self, now_ns: u64) -> bool {
        let from_start_ns = now_ns.saturating_add(self.length_ns);
        now_ns < *self.until_ns.get_or_insert(from_start_ns)
    }
}

/// A leader's lease, in one term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// 0: reads have no leases.
    length_ns: u64,
    /// When the last round was sent that a majority has answered.
    sent_ns: Option<u64>,
    /// The lead was to be handed on in this term.
    is_given_up: bool,
}

impl Lease {
    /// None yet; they are so long.
    #[must_use]
    pub const fn new(length_ns: u64) -> Self {
        Self { length_ns, sent_ns: None, is_given_up: false }
    }

    /// A majority has answered a round that was sent then.
    pub fn extend(&mut self, sent_ns: u64, now_ns: u64) {
        assert!(sent_ns <= now_ns, "a round is answered at {now_ns}, and was sent at {sent_ns}");
        let from_ns = if planted::is(PlantedBug::LeaseFromAnswer) { now_ns } else { sent_ns };
        if !self.is_given_up {
            self.sent_ns = self.sent_ns.max(Some(from_ns));
        }
    }

    /// The lead is about to be handed on: there is no lease any more in this term.
    pub fn give_up(&mut self) {
        if !planted::is(PlantedBug::LeaseKeptInTransfer) {
            (self.sent_ns, self.is_given_up) = (None, true);
        }
    }

    /// Others vote from now on, or the lead was lost or won: what was answered before means nothing.
    pub const fn forget(&mut self) {
        self.sent_ns = None;
    }

    /// Another term begins.
    pub const fn begin_term(&mut self) {
        (self.sent_ns, self.is_given_up) = (None, false);
    }

    /// When it ends, if there is one.
    #[must_use]
    pub fn until_ns(&self) -> Option<u64> {
        self.sent_ns.filter(|_| self.length_ns > 0).map(|sent_ns| sent_ns.saturating_add(self.length_ns))
    }

    /// How much of it is left now, in ns.
    const fn left_ns(&self, now_ns: u64) -> u64 {
        match self.sent_ns {
            Some(sent_ns) => sent_ns.saturating_add(self.length_ns).saturating_sub(now_ns),
            None => 0,
        }
    }

    /// Whether nobody else leads now.
    #[must_use]
    pub const fn holds(&self, now_ns: u64) -> bool {
        self.left_ns(now_ns) > 0
    }

    /// Whether a read that comes now should have it renewed, so that later ones find it too: half of it is over.
    #[must_use]
    pub const fn is_to_renew(&self, now_ns: u64) -> bool {
        let left_ns = self.left_ns(now_ns);
        left_ns > 0 && left_ns <= self.length_ns / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_before_any_promise_that_it_rests_on() {
        for promise_ns in [90_000_000_u64, 900_000_000, 1_900_000_000] {
            // Sent and heard at once, by the slowest clock and the fastest.
            let lease_real_ns = lease_ns(promise_ns) * 100 / 90;
            let promise_real_ns = promise_ns * 100 / 110;
            assert!(lease_real_ns < promise_real_ns, "{promise_ns}");
        }
    }

    #[test]
    fn a_lease_counts_from_the_sending() {
        let mut lease = Lease::new(100);
        assert!(!lease.holds(0) && !lease.is_to_renew(0));
        lease.extend(1_000, 1_070);
        assert!(lease.holds(1_099) && !lease.holds(1_100));
        assert!(!lease.is_to_renew(1_049) && lease.is_to_renew(1_050) && !lease.is_to_renew(1_100));
        lease.extend(900, 1_080);
        assert!(lease.holds(1_099), "an answer to what was sent earlier takes nothing away");
        lease.forget();
        assert!(!lease.holds(1_000));
    }

    #[test]
    fn no_lease_comes_back_in_a_term_in_which_the_lead_was_to_be_handed_on() {
        let mut lease = Lease::new(100);
        lease.extend(1_000, 1_001);
        lease.give_up();
        assert!(!lease.holds(1_001));
        lease.extend(1_050, 1_051);
        lease.forget();
        lease.extend(1_060, 1_061);
        assert!(!lease.holds(1_061));
        lease.begin_term();
        lease.extend(1_070, 1_071);
        assert!(lease.holds(1_071));
    }

    #[test]
    fn without_leases_no_answer_brings_one() {
        let mut lease = Lease::new(0);
        lease.extend(1_000, 1_000);
        assert!(!lease.holds(1_000) && !lease.is_to_renew(1_000));
    }

    #[test]
    fn a_promise_binds_for_its_length_and_a_restarted_member_from_its_first_look() {
        let mut promise = Promise::starting(100, false);
        assert!(!promise.binds(5));
        promise.renew(10);
        promise.renew(50);
        promise.renew(30);
        assert!(promise.binds(149) && !promise.binds(150));
        let mut restarted = Promise::starting(100, true);
        assert!(restarted.binds(1_000) && restarted.binds(1_099) && !restarted.binds(1_100));
        let mut heard = Promise::starting(100, true);
        heard.renew(1_050);
        assert!(heard.binds(1_149) && !heard.binds(1_150));
    }
}
