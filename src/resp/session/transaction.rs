//! MULTI, EXEC, DISCARD, WATCH, UNWATCH, and the other commands that change the course of a session.
//!
//! Invariant: queueing only remembers; nothing of a transaction is carried out before EXEC, and an EXEC is one entry of one
//! partition, guarded by the versions that WATCH saw.

use super::output::OUTPUT_HARD_BYTES;
use super::queue::{Body, Merge, Parts};
use super::wait;
use super::{
    Backend, Call, Ending, Entry, Flow, Kind, Op, Outcome, PartitionId, Refusal, ReplyMode, Request, Run,
    Session, Writer, errors, introspection, take,
};
use crate::resp::backend::partition_of;
use crate::resp::commands::Scope;
use crate::store::{ErrorKind, List, MAX_WALKS};

/// Keys that one connection may watch at a time.
const MAX_WATCHED: usize = 1024;

/// A transaction being queued.
#[derive(Default)]
pub struct Transaction {
    /// What EXEC will carry out.
    pub commands: Vec<(&'static Entry, Vec<Vec<u8>>)>,
    bytes: usize,
    /// Of these, KEYS, SCAN and RANDOMKEY.
    walks: usize,
    /// A command was refused: EXEC will abort.
    pub spoilt: bool,
}

impl Transaction {
    /// Memory that it holds.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.commands.capacity() * size_of::<(&'static Entry, Vec<Vec<u8>>)>()
    }
}

/// A key of WATCH and the version that it had.
pub struct Watched {
    pub key: Vec<u8>,
    pub partition: PartitionId,
    pub version: u64,
}

/// The ops of a transaction.
#[derive(Default)]
struct Ops {
    encoded: Vec<Vec<u8>>,
    /// One of them changes the state; else no entry is needed.
    write: bool,
}

/// How EXEC's reply is put together.
pub struct Plan {
    items: Vec<Item>,
}

enum Item {
    /// The next outcome of the op.
    Outcome(&'static Entry),
    /// A command of the session, carried out when the outcome is there.
    Local(&'static Entry, Vec<Vec<u8>>),
    /// Known already.
    Ready(Vec<u8>),
}

impl Item {
    fn held_bytes(&self) -> usize {
        let heap_bytes = match self {
            Self::Outcome(_) => 0,
            Self::Local(_, args) => args.iter().map(|arg| arg.len() + size_of::<Vec<u8>>()).sum(),
            Self::Ready(bytes) => bytes.len(),
        };
        size_of::<Self>() + heap_bytes
    }
}

impl Session {
    /// Whether a command has to wait for everything in flight.
    pub(super) fn must_stall(&self, flow: Flow) -> bool {
        match flow {
            Flow::Wait => self.transaction.is_none() && self.in_flight > 0,
            // What it changes must not have to wait for reads that others wait for too.
            Flow::Exec => {
                let follows = self.in_flight > 0 && self.reads_apart();
                self.watches_in_flight > 0 || self.awaits_much() || follows
            }
            _ => self.watches_in_flight > 0,
        }
    }

    /// Forgets the watched keys.
    fn unwatch(&mut self) {
        self.watched = Vec::new();
        self.watched_bytes = 0;
    }

    /// Remembers a command for EXEC.
    pub(super) fn queue_in_transaction(
        &mut self,
        entry: &'static Entry,
        args: &[&[u8]],
        backend: &dyn Backend,
    ) {
        if entry.traits.no_multi {
            return self
                .reject(Some(entry.index), &Refusal::new("ERR Command not allowed inside a transaction"));
        }
        if let Run::Op(_, scope) = entry.row.run
            && backend.partitions().len() > 1
            && self.one_partition(entry, scope, &Request { name: entry.row.name, args, backend }).is_none()
        {
            return self.reject(Some(entry.index), &errors::CROSSSLOT);
        }
        let is_walk = matches!(entry.row.run, Run::Op(_, Scope::WholeJoined | Scope::WholeOne | Scope::Scan));
        if is_walk && self.transaction.as_ref().is_some_and(|transaction| transaction.walks >= MAX_WALKS) {
            return self.reject(Some(entry.index), &Refusal::new(errors::op_error(ErrorKind::TooManyWalks)));
        }
        let limit = self.state.limits.max_request_bytes;
        let Some(transaction) = &mut self.transaction else { return };
        transaction.bytes += args.iter().map(|arg| arg.len() + 32).sum::<usize>();
        if transaction.bytes > limit {
            transaction.commands.clear();
            let text = format!("ERR the transaction exceeds the limit of {limit} bytes");
            return self.reject(Some(entry.index), &Refusal::owned(text));
        }
        transaction.walks += usize::from(is_walk);
        transaction.commands.push((entry, args.iter().map(|arg| arg.to_vec()).collect()));
        self.emit(None, |_, out| out.simple("QUEUED"));
    }

    /// Carries out a command that changes the course of the session.
    pub(super) fn flow(&mut self, entry: &'static Entry, flow: Flow, args: &[&[u8]], backend: &dyn Backend) {
        match flow {
            Flow::Exec => return self.exec(entry, args, backend),
            Flow::Watch => return self.watch(entry, args, backend),
            Flow::Wait => return self.wait(entry, args, backend),
            Flow::Members => return self.ask_members(entry, args, backend),
            _ => {}
        }
        self.count_local(entry.index, backend);
        let in_transaction = self.transaction.is_some();
        self.emit(Some(entry.index), |session, out| match flow {
            Flow::Multi if in_transaction => out.error("ERR MULTI calls can not be nested"),
            Flow::Multi => {
                session.transaction = Some(Transaction::default());
                out.ok();
            }
            Flow::Discard if !in_transaction => out.error("ERR DISCARD without MULTI"),
            Flow::Discard => {
                session.transaction = None;
                session.unwatch();
                out.ok();
            }
            Flow::Unwatch => {
                session.unwatch();
                out.ok();
            }
            Flow::Quit => {
                session.state.ending = Ending::AfterReplies;
                out.ok();
            }
            Flow::Reset => session.reset(backend, out),
            Flow::Exec | Flow::Watch | Flow::Wait | Flow::Members => unreachable!("taken care of above"),
        });
    }

    fn reset(&mut self, backend: &dyn Backend, out: &mut Writer<'_>) {
        self.transaction = None;
        self.unwatch();
        self.state.resp3 = false;
        self.state.reply_mode = ReplyMode::On;
        (self.state.muted, self.state.reads_anywhere) = (false, false);
        self.state.client.set_name("");
        self.state.authenticated = backend.requires_password().is_none();
        out.resp3 = false;
        out.simple("RESET");
    }

    /// An EXEC that cannot even be carried out ends its transaction, and says so.
    pub(super) fn abort_exec(&mut self, index: Option<u16>, refusal: &Refusal) -> Option<Refusal> {
        let run = self.table.entry(index?).row.run;
        if !matches!(run, Run::Flow(Flow::Exec)) {
            return None;
        }
        self.transaction = None;
        self.unwatch();
        let why = refusal.0.strip_prefix(b"ERR ").unwrap_or(&refusal.0);
        Some(Refusal::owned([b"EXECABORT Transaction discarded because of: ", why].concat()))
    }

    fn watch(&mut self, entry: &'static Entry, args: &[&[u8]], backend: &dyn Backend) {
        if self.transaction.is_some() {
            return self.emit(Some(entry.index), |_, out| out.error("ERR WATCH inside MULTI is not allowed"));
        }
        let mut keys: Vec<(Vec<u8>, PartitionId)> = Vec::new();
        if self.watched.len() + args.len() > MAX_WATCHED {
            let text = format!("ERR too many watched keys: the limit is {MAX_WATCHED}");
            return self.refuse(entry, &Refusal::owned(text));
        }
        for key in entry.keys(args) {
            let known = self.watched.iter().any(|watched| watched.key == key);
            if !known && !keys.iter().any(|(other, _)| other == key) {
                keys.push((key.to_vec(), partition_of(key, backend)));
            }
        }
        if keys.is_empty() {
            self.count_local(entry.index, backend);
            return self.emit(Some(entry.index), |_, out| out.ok());
        }
        self.watches_in_flight += 1;
        let body = Body::Parts(Box::new(Parts::new(keys.len(), false, Merge::Watch(keys.clone()))));
        self.push_slot(entry, body, args);
        for (part, (key, partition)) in keys.iter().enumerate() {
            self.submit(*partition, part, &Op::Version { key }, backend);
        }
        // Keys that are absent are asked for twice: what comes behind must not get in between.
        self.stalled = true;
    }

    fn exec(&mut self, entry: &'static Entry, args: &[&[u8]], backend: &dyn Backend) {
        let Some(transaction) = self.transaction.take() else {
            return self.refuse(entry, &Refusal::new("ERR EXEC without MULTI"));
        };
        self.watched_bytes = 0;
        let watched = take(&mut self.watched);
        if transaction.spoilt {
            let text = "EXECABORT Transaction discarded because of previous errors.";
            return self.refuse(entry, &Refusal::new(text));
        }
        let mut ops = Ops::default();
        let mut items = Vec::new();
        let mut partitions: Vec<PartitionId> = watched.iter().map(|watched| watched.partition).collect();
        for (entry, args) in transaction.commands {
            self.stats().command(entry.index).add(1, 0, 0);
            items.push(self.exec_item(entry, args, backend, &mut ops, &mut partitions));
        }
        partitions.dedup();
        let has_local = items.iter().any(|item| matches!(item, Item::Local(..)));
        let plan_bytes = items.iter().map(Item::held_bytes).sum();
        let plan = Plan { items };
        match partitions.as_slice() {
            [] => {
                self.count_local(entry.index, backend);
                self.emit(None, |session, out| {
                    session.write_transaction(plan, Outcome::Array(Vec::new()), out, backend);
                });
            }
            [partition] => {
                self.push_slot(entry, Body::Exec(Box::new(plan)), args);
                self.submit_transaction(*partition, &ops, &watched, backend);
                self.hold_for_slot(plan_bytes);
                // What its local commands change must be seen by those that follow.
                self.stalled |= has_local;
            }
            _ => self.refuse(entry, &errors::CROSSSLOT),
        }
    }

    /// One queued command's part of the reply; its op, if it has one, goes to the end of `ops`.
    fn exec_item(
        &self,
        entry: &'static Entry,
        args: Vec<Vec<u8>>,
        backend: &dyn Backend,
        ops: &mut Ops,
        partitions: &mut Vec<PartitionId>,
    ) -> Item {
        let mut reply = super::Output::default();
        let mut out = Writer::new(&mut reply, self.state.resp3);
        match entry.row.run {
            Run::Op(plan, _) => {
                let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                match plan(&Request { name: entry.row.name, args: &slices, backend }) {
                    Ok(op) => {
                        let mut encoded = Vec::new();
                        op.encode(&mut encoded);
                        ops.encoded.push(encoded);
                        ops.write |= op.is_write();
                        let keys = entry.keys(&slices).map(|key| partition_of(key, backend));
                        partitions.extend(keys);
                        if entry.row.keys.first == 0 {
                            partitions.extend(backend.partitions().first());
                        }
                        return Item::Outcome(entry);
                    }
                    Err(refusal) => out.error(&refusal.0),
                }
            }
            Run::Local(_) | Run::Subcommands(_) => return Item::Local(entry, args),
            Run::Flow(Flow::Wait) => {
                let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                match wait::arguments(&args, backend.now_ms()) {
                    Ok(_) => out.int(wait::copies(backend)),
                    Err(refusal) => out.error(&refusal.0),
                }
            }
            Run::Flow(_) => out.ok(),
            Run::Refused(reason) => out.error(reason),
        }
        Item::Ready(reply.to_vec())
    }

    fn submit_transaction(
        &mut self,
        partition: PartitionId,
        ops: &Ops,
        watched: &[Watched],
        backend: &dyn Backend,
    ) {
        let versions: Vec<[u8; 8]> = watched.iter().map(|watched| watched.version.to_le_bytes()).collect();
        let guards: Vec<&[u8]> =
            watched.iter().zip(&versions).flat_map(|(watched, version)| [&*watched.key, version]).collect();
        let kind = if ops.write { Kind::Write } else { self.read_kind() };
        let ops: Vec<&[u8]> = ops.encoded.iter().map(Vec::as_slice).collect();
        let op = Op::Multi { guards: List::Args(&guards), ops: List::Args(&ops) };
        self.submit_as(kind, partition, 0, &op, backend);
    }

    /// Counts what the newest slot holds.
    pub(super) fn hold_for_slot(&mut self, bytes: usize) {
        if let Some(slot) = self.queue.back_mut() {
            slot.request_bytes += bytes;
            self.in_flight_bytes += bytes;
        }
    }

    /// EXEC's reply; its local commands are carried out now, in their order.
    pub(super) fn write_transaction(
        &mut self,
        plan: Plan,
        outcome: Outcome,
        out: &mut Writer<'_>,
        backend: &dyn Backend,
    ) {
        let Outcome::Array(outcomes) = outcome else { return out.outcome(&outcome) };
        let mut outcomes = outcomes.iter();
        out.array(plan.items.len());
        for item in &plan.items {
            let mark = out.out.mark();
            if out.out.len() > OUTPUT_HARD_BYTES {
                self.state.ending = Ending::AtOnce;
                return;
            }
            match item {
                Item::Ready(bytes) => out.out.extend_from_slice(bytes),
                Item::Outcome(_) => {
                    out.outcome(outcomes.next().expect("EXEC answers one outcome for each op"))
                }
                Item::Local(entry, args) => {
                    let function =
                        if let Run::Local(function) = entry.row.run { function } else { introspection::bare };
                    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                    if !entry.traits.fast {
                        self.publish(backend);
                    }
                    let (conn, writer) = (&mut self.state, Writer::new(out.out, out.resp3));
                    function(&mut Call { conn, backend, args: &args, out: writer, entry, visits: None });
                    // HELLO acts on the replies behind its own.
                    out.resp3 = self.state.resp3;
                }
            }
            let index = match item {
                Item::Outcome(entry) | Item::Local(entry, _) => Some(entry.index),
                Item::Ready(_) => None,
            };
            self.note_error(index, out.out.since(mark));
        }
    }
}
