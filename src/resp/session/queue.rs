//! Replies that wait for their turn, and how outcomes fill them.

use std::borrow::Cow;

use corduroy_shards::{Rejection, StageStamps};

use super::output::OUTPUT_HARD_BYTES;
use super::roster::Roster;
use super::{
    Backend, Ending, Outcome, Output, PartitionId, Reply, Session, SessionReply, Timing, Watched, Writer,
    errors, take,
};
use crate::resp::output::SharesMark;
use crate::resp::slowlog::{Brief, BriefIndex, SlowCommand, StageTimes};
use crate::store::{ErrorKind, Op, SetReply};

/// One reply in the order of requests.
pub struct Slot {
    pub body: Body,
    /// That of its first key, if it has one and may have to go to another node.
    pub hash_slot: Option<u16>,
    pub entry: u16,
    pub resp3: bool,
    pub muted: bool,
    /// Its reply may be large: it counts against the window until it is there.
    pub is_unsure: bool,
    /// It changes nothing.
    pub is_read: bool,
    pub request_bytes: usize,
    pub started_ns: u64,
    /// What carrying it out took.
    pub ran_ns: u64,
    pub brief: BriefIndex,
}

impl Slot {
    /// A slot for replies that are known already.
    pub fn ready(resp3: bool) -> Self {
        Self {
            body: Body::Ready(Output::default()),
            hash_slot: None,
            entry: 0,
            resp3,
            muted: false,
            is_unsure: false,
            is_read: false,
            request_bytes: 0,
            started_ns: 0,
            ran_ns: 0,
            brief: BriefIndex::default(),
        }
    }
}

/// What replies hold that wait behind one that is still to come.
#[derive(Clone, Copy, Default)]
pub struct Held {
    /// What is to be sent of them.
    pub bytes: usize,
    /// What they keep in memory: of a part of a large value the whole.
    pub memory: usize,
    /// Stands for the large values among them.
    pub shares: SharesMark,
}

impl Held {
    /// Of one of them.
    pub fn of(out: &Output) -> Self {
        Self { bytes: out.len(), memory: out.held_bytes(), shares: out.shares_mark() }
    }

    /// One of them has changed.
    pub fn replace(&mut self, before: Self, after: Self) {
        self.bytes = self.bytes - before.bytes + after.bytes;
        self.memory = self.memory - before.memory + after.memory;
        self.shares = self.shares - before.shares + after.shares;
    }
}

/// What a slot waits for.
pub enum Body {
    /// Nothing: these bytes.
    Ready(Output),
    /// One outcome.
    Waiting,
    /// A page of SCAN of the partition with this index.
    Scan(usize),
    /// Outcomes of several partitions.
    Parts(Box<Parts>),
    /// The outcome of EXEC.
    Exec(Box<super::transaction::Plan>),
}

/// The error of a request that was certainly not done: where to send it, if that is known.
fn refusal(why: &Rejection, hash_slot: Option<u16>, backend: &dyn Backend) -> Cow<'static, str> {
    if let Rejection::NotLeader(partition, storage) = why
        && let Some(topology) = backend.topology()
        && let Some(node) = topology.node_of(*storage)
    {
        // That of EXEC, which names no key, is any of the partition's.
        let hash_slot = hash_slot.unwrap_or_else(|| topology.first_slot(*partition));
        return errors::moved(hash_slot, &node).into();
    }
    errors::rejection(why)
}

/// Whether an op's answer may hold a value or many keys, and not only a number or a word.
pub fn may_be_large(op: &Op<'_>) -> bool {
    match op {
        Op::Set { reply, .. } => *reply == SetReply::Old,
        other => other.kind().may_be_large(),
    }
}

/// Outcomes of a split request.
pub struct Parts {
    /// Still to come.
    pub missing: usize,
    /// As they came.
    pub outcomes: Vec<Option<Outcome>>,
    /// What they take in memory.
    bytes: usize,
    /// The first refusal, or unknown result.
    pub failure: Option<Failure>,
    /// Whether the request changes the state.
    pub writes: bool,
    /// What becomes of them.
    pub merge: Merge,
}

/// Why a part brought no outcome.
pub enum Failure {
    /// Certainly not done.
    Rejected(Cow<'static, str>),
    /// Not known.
    Unknown,
}

/// How the parts of a split request become one reply.
pub enum Merge {
    /// The sum of numbers.
    Sum,
    /// All lists in one.
    Joined,
    /// OK.
    Ok,
    /// One that is not nil, picked by this number.
    One(u64),
    /// For each element of the reply, its part and its index there.
    Values(Vec<(usize, usize)>),
    /// Versions of watched keys.
    Watch(Vec<(Vec<u8>, PartitionId)>),
}

impl Parts {
    /// A request of `count` parts.
    pub fn new(count: usize, writes: bool, merge: Merge) -> Self {
        let outcomes = (0..count).map(|_| None).collect();
        Self { missing: count, outcomes, bytes: 0, failure: None, writes, merge }
    }

    /// The watched key of this part, if it is absent and has to be registered: then a change is seen though it be undone.
    fn absent(&self, part: usize, reply: &SessionReply) -> Option<(Vec<u8>, PartitionId)> {
        match (&self.merge, reply) {
            (Merge::Watch(keys), Reply::Done { outcome: Outcome::Int(0), .. }) => keys.get(part).cloned(),
            _ => None,
        }
    }

    fn take(&mut self, part: usize, reply: SessionReply) {
        self.missing -= 1;
        match reply {
            Reply::Done { mut outcome, .. } => {
                self.bytes += outcome.cost_bytes();
                if self.bytes > OUTPUT_HARD_BYTES {
                    outcome = Outcome::Error(ErrorKind::ReplyTooLarge);
                }
                *self.outcomes.get_mut(part).expect("tickets carry the parts' own numbers") = Some(outcome);
            }
            Reply::Rejected(why) => {
                let rejected = Failure::Rejected(errors::rejection(&why));
                self.failure.get_or_insert(rejected);
            }
            Reply::Unknown => self.failure = Some(Failure::Unknown),
        }
    }

    /// The error to answer if parts failed. A write that was done in some partitions only must not look undone.
    fn error(&self) -> Option<Cow<'static, str>> {
        match self.failure.as_ref()? {
            Failure::Unknown if self.writes => Some(errors::UNKNOWN_RESULT.into()),
            Failure::Rejected(_) if self.writes && self.outcomes.iter().any(Option::is_some) => {
                Some(errors::PARTLY_DONE.into())
            }
            Failure::Rejected(text) => Some(text.clone()),
            Failure::Unknown => Some(errors::UNKNOWN_RESULT.into()),
        }
    }

    /// The list that they are, for the slot of this number, if it is a long one.
    fn roster(&mut self, number: u64) -> Option<Roster> {
        if !matches!(self.merge, Merge::Joined) || self.failure.is_some() {
            return None;
        }
        let outcomes: Vec<Outcome> = self.outcomes.drain(..).flatten().collect();
        match Roster::new(number, outcomes) {
            Ok(roster) => Some(roster),
            Err(outcomes) => {
                self.outcomes = outcomes.into_iter().map(Some).collect();
                None
            }
        }
    }

    /// One outcome out of all.
    fn merged(&mut self) -> Outcome {
        let outcomes: Vec<Outcome> = self.outcomes.drain(..).flatten().collect();
        if let Some(error) = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Error(_))) {
            return error.clone();
        }
        let mut items: Vec<Vec<Outcome>> = Vec::new();
        let mut sum = 0;
        let mut present = Vec::new();
        for outcome in outcomes {
            match outcome {
                Outcome::Int(number) => sum += number,
                Outcome::Array(list) => items.push(list),
                Outcome::Nil => {}
                other => present.push(other),
            }
        }
        match &self.merge {
            Merge::Sum => Outcome::Int(sum),
            Merge::Ok | Merge::Watch(_) => Outcome::Ok,
            Merge::Joined => Outcome::Array(items.into_iter().flatten().collect()),
            Merge::One(_) if present.is_empty() => Outcome::Nil,
            Merge::One(pick) => {
                let pick = (pick % present.len() as u64) as usize;
                present.swap_remove(pick)
            }
            Merge::Values(origins) => Outcome::Array(
                origins
                    .iter()
                    .map(|&(part, at)| {
                        let value = items.get_mut(part).and_then(|list| list.get_mut(at));
                        value.map_or(Outcome::Nil, |value| std::mem::replace(value, Outcome::Nil))
                    })
                    .collect(),
            ),
        }
    }
}

impl Session {
    /// Puts an outcome into the slot at this index of the queue.
    pub(super) fn take_reply(
        &mut self,
        at: usize,
        part: usize,
        reply: SessionReply,
        timing: &Timing,
        backend: &dyn Backend,
    ) {
        let slot = self.queue.get_mut(at).expect("a ticket's slot stays queued until its outcomes have come");
        slot.ran_ns += timing.ran_ns;
        let stages = timing.stages.as_ref();
        if let Body::Parts(parts) = &mut slot.body {
            if let Some((key, partition)) = parts.absent(part, &reply) {
                assert_eq!(at + 1, self.queue.len(), "nothing is sent behind a WATCH before it is answered");
                return self.submit(partition, part, &Op::Watch { key: &key }, backend);
            }
            let before = parts.bytes;
            parts.take(part, reply);
            self.parts_bytes += parts.bytes - before;
            if parts.missing > 0 {
                return;
            }
            self.parts_bytes -= parts.bytes;
            let Body::Parts(mut parts) = take(&mut slot.body) else { return };
            if let Some(roster) = parts.roster(self.front + at as u64) {
                return self.begin_roster(at, roster, backend);
            }
            return self.complete(at, stages, backend, |session, out| session.finish_parts(*parts, out));
        }
        let outcome = match reply {
            Reply::Done { outcome, .. } => outcome,
            Reply::Rejected(why) => {
                let text = match self.state.may_redirect() {
                    true => refusal(&why, slot.hash_slot, backend),
                    false => errors::rejection(&why),
                };
                return self.complete(at, stages, backend, |_, out| out.error(text.as_bytes()));
            }
            Reply::Unknown => {
                return self.complete(at, stages, backend, |_, out| out.error(errors::UNKNOWN_RESULT));
            }
        };
        let body = take(&mut slot.body);
        let outcome = match (&body, outcome) {
            (Body::Waiting, outcome @ Outcome::Names(_)) => {
                match Roster::new(self.front + at as u64, vec![outcome]) {
                    Ok(roster) => return self.begin_roster(at, roster, backend),
                    Err(_) => unreachable!("a list of names is one"),
                }
            }
            (_, outcome) => outcome,
        };
        match body {
            Body::Scan(partition) => self.complete(at, stages, backend, |_, out| {
                super::spread::write_page(out, partition, backend.partitions().len(), &outcome);
            }),
            Body::Exec(plan) => self.complete(at, stages, backend, |session, out| {
                session.write_transaction(*plan, outcome, out, backend);
            }),
            _ => {
                self.count_lookups(at, &outcome);
                self.complete(at, stages, backend, |_, out| out.outcome(&outcome));
            }
        }
    }

    fn finish_parts(&mut self, mut parts: Parts, out: &mut Writer<'_>) {
        if matches!(parts.merge, Merge::Watch(_)) {
            self.watches_in_flight -= 1;
        }
        if let Some(error) = parts.error() {
            return out.error(error.as_bytes());
        }
        if let Merge::Watch(keys) = &mut parts.merge {
            for ((key, partition), outcome) in take(keys).into_iter().zip(&parts.outcomes) {
                if let Some(Outcome::Int(version)) = outcome {
                    self.watched_bytes += key.len();
                    self.watched.push(Watched { key, partition, version: *version as u64 });
                }
            }
            return out.ok();
        }
        out.outcome(&parts.merged());
    }

    fn count_lookups(&self, at: usize, outcome: &Outcome) {
        let Some(slot) = self.queue.get(at) else { return };
        if self.table.entry(slot.entry).traits.counts_hits {
            let items =
                if let Outcome::Array(items) = outcome { items } else { std::slice::from_ref(outcome) };
            for item in items {
                match item {
                    Outcome::Bulk(_) | Outcome::Shared(_) => self.stats().count_lookup(true),
                    Outcome::Nil => self.stats().count_lookup(false),
                    _ => {}
                }
            }
        }
    }

    /// Writes the reply of the slot at this index of the queue, and lets it go if its turn has come.
    pub(super) fn complete(
        &mut self,
        at: usize,
        stages: Option<&StageStamps>,
        backend: &dyn Backend,
        write: impl FnOnce(&mut Self, &mut Writer<'_>),
    ) {
        let Some(slot) = self.queue.get(at) else { return };
        let (resp3, muted, is_unsure, index) = (slot.resp3, slot.muted, slot.is_unsure, slot.entry);
        let is_unsure_read = is_unsure && slot.is_read;
        let mut out = if at == 0 { take(&mut self.out) } else { Output::default() };
        let (before, mark) = (out.len(), out.mark());
        write(self, &mut Writer::new(&mut out, resp3));
        if is_unsure {
            self.unsure -= 1;
            self.unsure_reads -= usize::from(is_unsure_read);
            self.reply_size_hint = (self.reply_size_hint - self.reply_size_hint / 16).max(out.len() - before);
        }
        self.note_error(Some(index), out.since(mark));
        if muted {
            out.truncate(mark);
        }
        self.account(at, stages, backend);
        if at > 0 {
            self.held.replace(Held::default(), Held::of(&out));
            if let Some(slot) = self.queue.get_mut(at) {
                slot.body = Body::Ready(out);
            }
            return;
        }
        if out.len() > OUTPUT_HARD_BYTES {
            self.state.ending = Ending::AtOnce;
        }
        self.queue.pop_front();
        self.front += 1;
        while let Some(Slot { body: Body::Ready(replies), .. }) = self.queue.front_mut() {
            self.held.replace(Held::of(replies), Held::default());
            out.append(take(replies));
            self.queue.pop_front();
            self.front += 1;
        }
        match self.queue.front() {
            Some(next) => self.briefs.release_before(next.brief),
            None => self.briefs.clear(),
        }
        self.out = out;
    }

    /// Statistics and SLOWLOG for the slot at this index of the queue, which has its reply.
    fn account(&mut self, at: usize, stages: Option<&StageStamps>, backend: &dyn Backend) {
        let Some(slot) = self.queue.get(at) else { return };
        let took_ns = self.clock_ns.saturating_sub(slot.started_ns);
        self.in_flight_bytes -= slot.request_bytes;
        let (entry, ran_ns, started_ns, brief) = (slot.entry, slot.ran_ns, slot.started_ns, slot.brief);
        if self.count(entry, ran_ns, took_ns, backend) {
            let stages = stages.map(|stamps| StageTimes::of(started_ns, stamps, self.clock_ns));
            self.log_slow(&self.briefs.get(brief), took_ns, stages, backend);
        }
    }

    /// Adds a request to SLOWLOG.
    pub(super) fn log_slow(
        &self,
        brief: &Brief,
        took_ns: u64,
        stages: Option<StageTimes>,
        backend: &dyn Backend,
    ) {
        self.state.hub.slowlog.add(SlowCommand {
            id: 0,
            at_s: backend.now_ms() / 1000,
            took_us: took_ns / 1000,
            args: brief.shown(),
            addr: self.state.client.addr.clone(),
            name: self.state.client.name(),
            stages,
        });
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::Ready(Output::default())
    }
}
