//! What one connection has under way in one partition that another node leads, or led a moment ago.
//!
//! Invariant: requests take effect in the order in which they came, each at most once. So one that was refused is sent again
//! only if none behind it has taken effect, or may have; until that is certain nothing else is sent.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::{NodeId, Ticket};
use crate::machine::Kind;

/// How far a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It is to be sent.
    Waiting,
    /// That node was sent it, under this number, and owes an answer until then.
    Sent { node: NodeId, number: u64, until_ns: u64 },
    /// It was certainly not done, and waits for what was sent behind it.
    Refused,
}

/// One request.
#[derive(Debug)]
pub(super) struct Item {
    pub ticket: Ticket,
    pub kind: Kind,
    pub may_redirect: bool,
    pub op: Bytes,
    /// When it is too late to send it.
    pub until_ns: u64,
    pub state: State,
    /// One that came behind it has taken effect, or may have: if it was not done, it will not be.
    pub is_overtaken: bool,
    /// What has come of its answer.
    pub parts: Vec<u8>,
}

impl Item {
    /// The node that it was sent to and that has not answered.
    pub const fn node(&self) -> Option<NodeId> {
        match self.state {
            State::Sent { node, .. } => Some(node),
            State::Waiting | State::Refused => None,
        }
    }

    fn is_numbered(&self, wanted: u64) -> bool {
        matches!(self.state, State::Sent { number, .. } if number == wanted)
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Those that wait to be sent are the newest.
    pub items: VecDeque<Item>,
    /// How many were refused.
    pub(super) refused: usize,
    /// The shard here may have requests of the connection that came before these.
    pub is_behind_shard: bool,
    /// Its number among those that wait for the partition's leader, if it is.
    pub listed: Option<u64>,
    /// Since when something is owed by a node that does not lead any more, on the monotonic clock.
    pub stray_since_ns: Option<u64>,
}

/// What is certain of a request that will not be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It was not done, and will not be.
    NotDone,
    /// It may have been done, or be done yet.
    Unknown,
}

impl Line {
    /// Whether something may be sent: nothing that was refused waits for what is behind it.
    pub fn may_send(&self) -> bool {
        self.refused == 0 && self.items.back().is_some_and(|item| item.state == State::Waiting)
    }

    /// Takes out those that wait to be sent and whose clients are to ask the leader themselves.
    pub fn take_redirected(&mut self) -> Vec<Item> {
        self.take_if(|item| item.state == State::Waiting && item.may_redirect)
    }

    /// Takes out all that no node owes an answer to.
    pub fn take_unsent(&mut self) -> Vec<Item> {
        self.take_if(|item| item.node().is_none())
    }

    /// Whether answers are owed by another node than this.
    pub fn is_owed_elsewhere(&self, than: Option<NodeId>) -> bool {
        self.items.iter().any(|item| item.node().is_some_and(|node| Some(node) != than))
    }

    pub fn numbered(&mut self, number: u64) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.is_numbered(number))
    }

    /// A request has its answer: takes it out.
    pub fn answered(&mut self, number: u64) -> Option<Item> {
        let at = self.items.iter().position(|item| item.is_numbered(number))?;
        self.items.iter_mut().take(at).for_each(|item| item.is_overtaken = true);
        self.items.remove(at)
    }

    /// A request was certainly not done. Returns who owed an answer to it, and how long it is.
    pub fn refuse(&mut self, number: u64) -> Option<(NodeId, usize)> {
        let item = self.items.iter_mut().find(|item| item.is_numbered(number))?;
        let owed = (item.node()?, item.op.len());
        item.state = State::Refused;
        item.parts = Vec::new();
        self.refused += 1;
        Some(owed)
    }

    /// No answer comes for what is owed by the nodes that `is_lost` names, or since then: reads were refused, writes may have
    /// been done. Takes these out.
    pub fn lose(&mut self, is_lost: impl Fn(&Item) -> bool) -> Vec<Item> {
        let mut unknown = Vec::new();
        // From the newest on, so that a read sees whether a write behind it may have been done.
        for at in (0..self.items.len()).rev() {
            let Some(item) = self.items.get_mut(at) else { continue };
            if item.node().is_none() || !is_lost(item) {
                continue;
            }
            match item.kind {
                Kind::Read | Kind::ReadAnywhere => {
                    item.state = State::Refused;
                    self.refused += 1;
                    item.parts = Vec::new();
                }
                Kind::Write => {
                    self.items.iter_mut().take(at).for_each(|item| item.is_overtaken = true);
                    unknown.extend(self.items.remove(at));
                }
            }
        }
        unknown
    }

    /// Takes out what was refused and has been overtaken; once nothing is owed any more, the others that were refused are to
    /// be sent again.
    pub fn review(&mut self) -> Vec<Item> {
        if self.refused == 0 {
            return Vec::new();
        }
        let is_over = |item: &Item| item.state == State::Refused && item.is_overtaken;
        let over = self.take_if(is_over);
        if self.items.iter().all(|item| item.node().is_none()) {
            for item in self.items.iter_mut().filter(|item| item.state == State::Refused) {
                item.state = State::Waiting;
            }
            self.refused = 0;
        }
        over
    }

    /// Takes out those for which it is too late, with what is certain of each.
    pub fn expire(&mut self, now_ns: u64) -> Vec<(Item, Fate)> {
        let is_silent =
            |item: &Item| matches!(item.state, State::Sent { until_ns, .. } if until_ns <= now_ns);
        let lost = self.lose(is_silent);
        let is_late = |item: &Item| item.node().is_none() && item.until_ns <= now_ns;
        let late = self.take_if(is_late);
        let unknown = lost.into_iter().map(|item| (item, Fate::Unknown));
        unknown.chain(late.into_iter().map(|item| (item, Fate::NotDone))).collect()
    }

    fn take_if(&mut self, is_wanted: impl Fn(&Item) -> bool) -> Vec<Item> {
        if !self.items.iter().any(&is_wanted) {
            return Vec::new();
        }
        let (taken, left): (VecDeque<Item>, VecDeque<Item>) =
            std::mem::take(&mut self.items).into_iter().partition(is_wanted);
        self.items = left;
        self.refused = self.items.iter().filter(|item| item.state == State::Refused).count();
        taken.into()
    }

    /// # Panics
    /// If it contradicts itself.
    pub fn check(&self) {
        assert!(!self.items.is_empty(), "a line without requests");
        let refused = self.items.iter().filter(|item| item.state == State::Refused).count();
        let is_owed = self.items.iter().any(|item| item.node().is_some());
        assert_eq!(refused, self.refused, "how many were refused");
        assert!(refused == 0 || is_owed, "what was refused waits for nothing");
        assert!(
            self.items.iter().is_sorted_by_key(|item| item.ticket.seq),
            "requests are in the order in which they came"
        );
        let mut sent_behind = self.items.iter().skip_while(|item| item.state != State::Waiting);
        assert!(sent_behind.all(|item| item.state == State::Waiting), "something overtook what waits");
    }
}
