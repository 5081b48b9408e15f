//! How long writes take in each stage of their walk: the stamps of an entry, which of a turn's replies have which, and sums.
//!
//! Time comes in with turns, and no clock is read for a stamp: each is the beginning of the turn that saw the stage done.
//! Invariant: what a turn answers keeps its position among the turn's replies, so stamps name replies by their numbers.

use crate::ids::Ticket;

/// When a logged request passed the stages of its walk, for whoever asks why it was slow: on the monotonic clock in ns. One
/// set serves all requests of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StageStamps {
    /// The first of its requests was taken in by a turn. Those that joined it came later.
    pub queued_ns: u64,
    /// It was proposed: its frame was put together and handed to the disk.
    pub proposed_ns: u64,
    /// Its frame was durable here.
    pub durable_ns: u64,
    /// It was committed and applied.
    pub applied_ns: u64,
}

impl StageStamps {
    /// Of an entry that is proposed now.
    pub(crate) const fn proposed(queued_ns: u64, now_ns: u64) -> Self {
        Self { queued_ns, proposed_ns: now_ns, durable_ns: 0, applied_ns: 0 }
    }
}

/// Time spent in one stage of a write, in ns, over all entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stage {
    /// Sum.
    pub total_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

impl Stage {
    pub(crate) fn add(&mut self, from_ns: u64, to_ns: u64) {
        let ns = to_ns.saturating_sub(from_ns);
        self.total_ns += ns;
        self.max_ns = self.max_ns.max(ns);
    }
}

/// Replies of a turn that share their stamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answered {
    /// The first one's number.
    pub from: usize,
    /// One behind the last one's.
    pub until: usize,
    /// When they passed their stages.
    pub stamps: StageStamps,
}

/// Takes all replies with the stamps that they have.
pub(crate) fn with_stamps<'a, R>(
    replies: &'a mut Vec<(Ticket, R)>,
    answered: &'a mut Vec<Answered>,
) -> impl Iterator<Item = (Ticket, R, Option<StageStamps>)> + use<'a, R> {
    let mut answered = answered.drain(..).peekable();
    replies.drain(..).enumerate().map(move |(at, (ticket, reply))| {
        while answered.next_if(|group| group.until <= at).is_some() {}
        let stamps = answered.peek().filter(|group| group.from <= at).map(|group| group.stamps);
        (ticket, reply, stamps)
    })
}

/// Adds replies with their stamps behind those that were not taken yet, and leaves none.
pub(crate) fn append<R>(
    (to, to_answered): (&mut Vec<(Ticket, R)>, &mut Vec<Answered>),
    (from, from_answered): (&mut Vec<(Ticket, R)>, &mut Vec<Answered>),
) {
    if to.is_empty() {
        // Whoever took the replies alone has no use for their stamps.
        to_answered.clear();
        std::mem::swap(to, from);
        std::mem::swap(to_answered, from_answered);
    } else {
        let shift = to.len();
        to.append(from);
        to_answered.extend(from_answered.drain(..).map(|group| Answered {
            from: group.from + shift,
            until: group.until + shift,
            ..group
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_get_the_stamps_of_their_entries() {
        let mut replies: Vec<(Ticket, ())> = (0..6).map(|seq| (Ticket { conn: 1, seq }, ())).collect();
        let group = |from, until| Answered { from, until, stamps: StageStamps::proposed(from as u64, 9) };
        let mut answered = vec![group(1, 3), group(3, 4), group(5, 6)];
        let got: Vec<_> = with_stamps(&mut replies, &mut answered)
            .map(|(ticket, _, stamps)| (ticket.seq, stamps.map(|stamps| stamps.queued_ns)))
            .collect();
        assert_eq!(got, [(0, None), (1, Some(1)), (2, Some(1)), (3, Some(3)), (4, None), (5, Some(5))]);
        assert!(replies.is_empty() && answered.is_empty());
    }
}
