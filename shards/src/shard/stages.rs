//! Which of a turn's replies have which stamps of their stages.
//!
//! Time comes in with turns, and no clock is read for a stamp: each is the beginning of the turn that saw the stage done.
//! Invariant: what a turn answers keeps its position among the turn's replies, so stamps name replies by their numbers.

use super::io::Reply;
use crate::ids::Ticket;
use crate::raft::proposals::StageStamps;

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
pub(crate) fn with_stamps<'a, O>(
    replies: &'a mut Vec<(Ticket, Reply<O>)>,
    answered: &'a mut Vec<Answered>,
) -> impl Iterator<Item = (Ticket, Reply<O>, Option<StageStamps>)> + use<'a, O> {
    let mut answered = answered.drain(..).peekable();
    replies.drain(..).enumerate().map(move |(at, (ticket, reply))| {
        while answered.next_if(|group| group.until <= at).is_some() {}
        let stamps = answered.peek().filter(|group| group.from <= at).map(|group| group.stamps);
        (ticket, reply, stamps)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_get_the_stamps_of_their_entries() {
        let mut replies: Vec<(Ticket, Reply<()>)> =
            (0..6).map(|seq| (Ticket { conn: 1, seq }, Reply::Unknown)).collect();
        let group = |from, until| Answered { from, until, stamps: StageStamps::proposed(from as u64, 9) };
        let mut answered = vec![group(1, 3), group(3, 4), group(5, 6)];
        let got: Vec<_> = with_stamps(&mut replies, &mut answered)
            .map(|(ticket, _, stamps)| (ticket.seq, stamps.map(|stamps| stamps.queued_ns)))
            .collect();
        assert_eq!(got, [(0, None), (1, Some(1)), (2, Some(1)), (3, Some(3)), (4, None), (5, Some(5))]);
        assert!(replies.is_empty() && answered.is_empty());
    }
}
