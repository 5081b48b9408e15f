//! How far into a partition's history outcomes have shown: what is asked later must not be answered by less.
//!
//! A group of one judges reads by its wall clock, and logs nothing of that. What the clock has shown beyond the log binds its process,
//! and the group that it has later, but no process after it: the wall clock may have been set back while none ran.

use std::collections::VecDeque;

use corduroy_wal::Lsn;

/// How far into a history outcomes have shown.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Shown {
    /// The highest entry that any of them spoke of.
    pub lsn: Lsn,
    /// Ops applied up to the newest state that any of them showed: entries without ops change nothing.
    pub ops: u64,
    /// The latest clock of the partition that any of them was judged by, in ms.
    pub clock_ms: u64,
}

/// See the file's head.
#[derive(Default)]
pub(super) struct Shows {
    now: Shown,
    /// What that was at the times at which requests were sent, as far back as it matters.
    before: VecDeque<(u64, Shown)>,
    /// The latest clock that the log had, too.
    logged_ms: u64,
    /// Whose wall clock has shown a later time.
    beyond: Option<usize>,
}

impl Shows {
    /// As of now.
    pub(super) const fn now(&self) -> Shown {
        self.now
    }

    /// Whose wall clock has shown a time that the log did not have.
    pub(super) const fn beyond(&self) -> Option<usize> {
        self.beyond
    }

    /// As of a time `age_ns` before this one; or a little less far.
    pub(super) fn at(&mut self, now_ns: u64, age_ns: u64) -> Shown {
        if age_ns == 0 {
            return self.now;
        }
        self.before.push_back((now_ns, self.now));
        let from_ns = now_ns.saturating_sub(age_ns);
        while self.before.get(1).is_some_and(|(at_ns, _)| *at_ns <= from_ns) {
            self.before.pop_front();
        }
        let oldest = self.before.front().filter(|(at_ns, _)| *at_ns <= from_ns);
        oldest.map_or_else(Shown::default, |(_, shown)| *shown)
    }

    /// An outcome speaks of this entry, and shows what so many ops made, by this clock; `beyond`: that of a node's wall.
    pub(super) fn show(&mut self, new: Shown, beyond: Option<usize>) {
        let Shown { lsn, ops, clock_ms } = self.now;
        self.now =
            Shown { lsn: lsn.max(new.lsn), ops: ops.max(new.ops), clock_ms: clock_ms.max(new.clock_ms) };
        match beyond {
            Some(node) => self.beyond = Some(node),
            None => self.logged_ms = self.logged_ms.max(new.clock_ms),
        }
    }

    /// The process of a node has died.
    pub(super) fn crashed(&mut self, node: usize) {
        if self.beyond.take_if(|beyond| *beyond == node).is_some() {
            self.now.clock_ms = self.logged_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn by(clock_ms: u64) -> Shown {
        Shown { lsn: Lsn(1), ops: 1, clock_ms }
    }

    #[test]
    fn what_only_a_wall_clock_has_shown_goes_with_its_process() {
        let mut shows = Shows::default();
        shows.show(by(10), None);
        shows.show(by(30), Some(2));
        assert_eq!(shows.now(), by(30));
        shows.crashed(1);
        assert_eq!(shows.now(), by(30), "another one's");
        shows.crashed(2);
        assert_eq!(shows.now(), by(10));
        shows.show(by(40), Some(2));
        shows.show(by(40), None);
        shows.crashed(2);
        assert_eq!(shows.now(), by(40), "the log has it");
    }
}
