//! How requests end that no answer comes for, and what is counted of all.

use hashbrown::{HashMap, HashSet};

use super::{Forwarder, LineKey, Load, NS_PER_MS, list};
use crate::forward::decisions::{Decision, ForwardOptions};
use crate::forward::ended::End;
use crate::forward::line::{Fate, Item, Line, State};
use crate::ids::{NodeId, PartitionId, Ticket};
use crate::machine::Kind;
use crate::net::RequestId;
use crate::rejection::Rejection;

impl Forwarder {
    /// The line of a request that was sent, and the request; counts an answer that nobody waits for.
    pub(super) fn numbered(&mut self, id: RequestId) -> Option<(LineKey, Option<&mut Item>)> {
        let key = if id.process == self.options.process { self.sent.get(&id.number).copied() } else { None };
        let Some(key) = key else {
            self.counters.late += 1;
            return None;
        };
        Some((key, self.lines.get_mut(&key).and_then(|line| line.numbered(id.number))))
    }

    /// Changes a line, and stops counting what is not owed any more.
    pub(super) fn change_owed(&mut self, key: LineKey, change: impl FnOnce(&mut Line)) {
        let owed = |line: &Line| -> Vec<(u64, NodeId, usize)> {
            let sent = line.items.iter().filter_map(|item| match item.state {
                State::Sent { node, number, .. } => Some((number, node, item.op.len())),
                State::Waiting | State::Refused => None,
            });
            sent.collect()
        };
        let Some(line) = self.lines.get_mut(&key) else { return };
        let before = owed(line);
        change(line);
        let after: HashSet<u64> = owed(line).into_iter().map(|(number, ..)| number).collect();
        for (number, node, bytes) in before.into_iter().filter(|(number, ..)| !after.contains(number)) {
            self.sent.remove(&number);
            self.owed.get_mut(&node).expect("it was counted").sub(bytes);
        }
    }

    pub(super) fn lose(&mut self, key: LineKey, is_lost: impl Fn(&Item) -> bool) {
        let mut lost = Vec::new();
        self.change_owed(key, |line| lost = line.lose(is_lost));
        for item in lost {
            self.end(key, item, Fate::Unknown);
        }
        self.give_up(key);
        self.review(key);
    }

    pub(super) fn lose_one(&mut self, key: LineKey, number: u64) {
        self.lose(key, |item| matches!(item.state, State::Sent { number: sent, .. } if sent == number));
    }

    pub(super) fn refuse(&mut self, key: LineKey, number: u64) {
        let line = self.lines.get_mut(&key).expect("it has the request");
        let (node, bytes) = line.refuse(number).expect("it was sent");
        self.sent.remove(&number);
        self.owed.get_mut(&node).expect("it was counted").sub(bytes);
        self.give_up(key);
        self.review(key);
    }

    /// A client has ended a connection of which something may be under way, here or in the shards.
    pub fn end_conn(&mut self, conn: u64, end: End, now_ns: u64) {
        let ForwardOptions { wait_ms, answer_ms, .. } = self.options;
        self.ended.note(conn, end, now_ns + (wait_ms + answer_ms) * NS_PER_MS, now_ns);
        self.may_wait_ended = true;
        if end == End::Closed {
            let keys: Vec<LineKey> =
                self.partitions.keys().map(|id| LineKey { conn, partition: *id }).collect();
            keys.into_iter().for_each(|key| self.give_up(key));
        }
    }

    /// A request was given back, and is refused: what its connection asked behind it has had to wait for that. Returns whether
    /// the connection has ended.
    pub fn refused(&mut self, conn: u64, partition: PartitionId) -> bool {
        self.give_up(LineKey { conn, partition });
        self.ended.holds(conn)
    }

    /// Something in a line has had to wait, for a leader or for what became of it: if the connection has ended, nothing of it is
    /// sent any more.
    pub(super) fn give_up(&mut self, key: LineKey) {
        if !self.ended.holds(key.conn) {
            return;
        }
        let Some(line) = self.lines.get_mut(&key) else { return };
        for item in line.take_unsent() {
            self.end(key, item, Fate::NotDone);
        }
        self.review(key);
    }

    /// A request that was answered is owed no more, and held no more.
    pub(super) fn forget(&mut self, item: &Item) {
        self.held.sub(item.op.len());
        if let State::Sent { node, number, .. } = item.state {
            self.sent.remove(&number);
            self.owed.get_mut(&node).expect("it was counted").sub(item.op.len());
        }
    }

    /// A request without an answer, which is out of its line, gets its outcome.
    pub(super) fn end(&mut self, key: LineKey, item: Item, fate: Fate) {
        self.held.sub(item.op.len());
        match (fate, item.kind) {
            (Fate::Unknown, Kind::Write) => {
                self.counters.unknown += 1;
                self.decisions.push_back(Decision::Unknown { ticket: item.ticket });
            }
            // A read that may have been done changed nothing.
            (Fate::NotDone, Kind::Read | Kind::ReadAnywhere | Kind::Write)
            | (Fate::Unknown, Kind::Read | Kind::ReadAnywhere) => {
                self.reject(item.ticket, Rejection::NoLeader(key.partition));
            }
        }
    }

    pub(super) fn reject(&mut self, ticket: Ticket, why: Rejection) {
        self.counters.rejected += 1;
        self.decisions.push_back(Decision::Reject { ticket, why });
    }

    /// Something has changed in a line: ends what was overtaken, and lets the line wait for the leader or go.
    pub(super) fn review(&mut self, key: LineKey) {
        let Some(line) = self.lines.get_mut(&key) else { return };
        for item in line.review() {
            self.end(key, item, Fate::NotDone);
        }
        let line = self.lines.get_mut(&key).expect("it was there");
        if line.items.is_empty() {
            self.remove(key);
            return;
        }
        let partition = self.partitions.get_mut(&key.partition).expect("it has the line");
        list(line, partition, key.conn);
    }

    /// Compares all that is counted with the lines.
    ///
    /// # Panics
    /// If they contradict each other.
    pub fn check(&self) {
        let (mut held, mut owed, mut sent) = (Load::default(), HashMap::<NodeId, Load>::new(), 0);
        for (key, line) in &self.lines {
            line.check();
            let partition = self.partitions.get(&key.partition).expect("a line's partition");
            let listed = line.listed.map(|number| partition.waiting.get(&number) == Some(&key.conn));
            assert_ne!(listed, Some(false), "{key:?} is not where it is listed");
            assert!(listed.is_some() || !line.may_send(), "{key:?} has something to send, and is not listed");
            for item in &line.items {
                held.add(item.op.len());
                if let State::Sent { node, number, .. } = item.state {
                    assert_eq!(self.sent.get(&number), Some(key), "the line of request {number}");
                    owed.entry(node).or_default().add(item.op.len());
                    sent += 1;
                }
            }
        }
        assert_eq!((held, sent), (self.held, self.sent.len()), "what is held, and sent");
        for (node, load) in &self.owed {
            assert_eq!(owed.get(node).copied().unwrap_or_default(), *load, "what node {node} owes");
        }
        for (id, partition) in &self.partitions {
            let of_it = || self.lines.iter().filter(|(key, _)| key.partition == *id);
            let listed = of_it().filter(|(_, line)| line.listed.is_some()).count();
            assert_eq!(listed, partition.waiting.len(), "lines of partition {id} that are listed");
            let lines = of_it().count();
            assert!(lines == partition.lines && lines > 0, "partition {id} has {lines} lines");
        }
    }
}
