//! One connection: bytes in, operations out; outcomes in, replies out, in request order. Sans-IO.
//!
//! Invariants: reply k answers request k. Memory is bounded: parsing stops while too much is in flight or unread. A read goes
//! the short way only if nothing of this connection is under way.

use std::collections::VecDeque;
use std::mem::take;

use corduroy_shards::routing::slot_of;
use corduroy_shards::{Kind, PartitionId, Reply, Ticket};

use super::backend::{Backend, SessionReply, Timing};
use super::commands::census::Census;
use super::commands::{self, Call, Entry, Flow, Request, Run, Scope};
use super::commands::{connection, introspection};
use super::conn::{ConnState, Ending, ReplyMode};
use super::errors::{self, Refusal};
use super::guesses::Turn;
use super::output::Output;
use super::parse::{Parser, ProtocolError};
use super::reply::Writer;
use super::slowlog::Briefs;
use super::stats::CoreStats;
use crate::store::op::{HEAVY_BYTES, may_wait};
use crate::store::{Op, Outcome};

mod footprint;
mod input;
mod intake;
mod local;
mod members;
mod output;
mod queue;
mod roster;
mod spread;
mod tally;
mod transaction;
mod wait;

use queue::{Body, Held, Slot};
use roster::Roster;
use tally::Tally;
use transaction::{Transaction, Watched};
use wait::Pause;

/// Requests of one connection that may be under way at a time.
const MAX_IN_FLIGHT: usize = 1024;
/// What ops are encoded into is not kept if it has grown further.
const SCRATCH_BYTES: usize = 1 << 20;
/// Arguments of a command that the session answers by itself: each may bring a long reply.
const MAX_LOCAL_ARGS: usize = 1024;
/// Unread output above which parsing stops.
const OUTPUT_PAUSE_BYTES: usize = 1 << 20;
/// The same for a client that has not given the password.
const UNAUTHENTICATED_OUTPUT_BYTES: usize = 1 << 10;
/// Replies from this size on are large: writes behind reads that may bring them wait for them.
const LARGE_REPLY_BYTES: usize = 64 << 10;
/// Work that a request is, at least; and one that is carried out at once and not known to be quick.
const UNITS_A_REQUEST: u32 = 1;
const UNITS_A_SLOW_REQUEST: u32 = 256;
/// Time that is as much work as a small request.
const NS_A_UNIT: u64 = 1_000;
/// Bytes of replies that are as much work as a small request.
const BYTES_A_UNIT: usize = 512;
/// What a reply is taken to bring before any has come: the window opens as small ones come in.
const UNKNOWN_REPLY_BYTES: usize = 4 << 20;
/// Tickets carry the slot's number above these bits and the part of a split request in them.
const PART_BITS: u32 = 16;

/// The state of one connection.
pub struct Session {
    state: ConnState,
    core: usize,
    conn: u64,
    table: &'static commands::Table,
    parser: Parser,
    /// Bytes received and not parsed yet, from `head` on.
    pending: Vec<u8>,
    head: usize,
    out: Output,
    /// Replies that wait for their turn, the oldest first; empty if and only if nothing is in flight.
    queue: VecDeque<Slot>,
    /// What SLOWLOG would show of the requests that it waits for.
    briefs: Briefs,
    /// The number of the queue's first slot.
    front: u64,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Outcomes of split requests whose other parts are still to come, bytes.
    parts_bytes: usize,
    /// Keys that are watched, bytes.
    watched_bytes: usize,
    /// The largest output so far.
    peak_output_bytes: usize,
    /// Work that may be done before others get their turn.
    units: u32,
    /// Work done since it got that share.
    worked: u32,
    /// Bytes of the request being carried out, and with those behind it that were read with it.
    request_bytes: usize,
    unparsed_bytes: usize,
    /// Requests under way whose replies may be large, and those of them that only read.
    unsure: usize,
    unsure_reads: usize,
    /// Replies in the queue, behind one that is still to come.
    held: Held,
    /// Parsing stands before a request that needs everything before it to be answered.
    stalled: bool,
    /// One of the requests under way may wait for its turn in its shard.
    may_wait: bool,
    /// A recent large reply's size, for guessing what the requests in flight will bring.
    reply_size_hint: usize,
    scratch: Vec<u8>,
    transaction: Option<Transaction>,
    watched: Vec<Watched>,
    watches_in_flight: usize,
    /// The monotonic clock as last read.
    clock_ns: u64,
    clock_is_fresh: bool,
    /// Calls that are not counted yet.
    tally: Tally,
    /// The newest request's command.
    last_command: u16,
    /// The kind of the newest op that was submitted.
    newest: Kind,
    /// CLIENT LIST or CLIENT KILL is under way.
    census: Option<Box<Census>>,
    /// A long list is being written for the newest request under way.
    roster: Option<Box<Roster>>,
    /// It is paused.
    pause: Option<Pause>,
    /// Local commands of one kind since `clock_ns`, timed together.
    run: (u16, u64),
    /// The node is part of a cluster: requests may have to go to another one.
    is_clustered: bool,
}

impl Session {
    /// Takes the outcome of a request that was submitted with this ticket, and how it was carried out.
    pub fn reply(&mut self, ticket: Ticket, reply: SessionReply, timing: &Timing, backend: &dyn Backend) {
        assert_eq!(ticket.conn, self.conn, "a reply came to the wrong connection");
        assert!(self.in_flight > 0, "a reply came that nobody asked for");
        self.in_flight -= 1;
        if !self.clock_is_fresh {
            self.clock_ns = backend.mono_ns();
            self.clock_is_fresh = true;
        }
        let at = (ticket.seq >> PART_BITS) - self.front;
        let part = (ticket.seq & ((1 << PART_BITS) - 1)) as usize;
        self.take_reply(at as usize, part, reply, timing, backend);
        if self.in_flight == 0 {
            (self.stalled, self.may_wait) = (false, false);
        }
        if self.in_flight * 2 <= MAX_IN_FLIGHT && self.unsure * 2 <= self.window() {
            self.resume(backend);
        }
    }

    fn stats(&self) -> &CoreStats {
        self.state.hub.stats(self.core)
    }

    /// How many requests whose replies may be large may be in flight: fewer when they are.
    fn window(&self) -> usize {
        (self.state.hub.shares.expected_output() / self.reply_size_hint.max(1)).clamp(1, MAX_IN_FLIGHT)
    }

    /// Refuses a request that was read only to be dropped.
    fn too_big(&mut self, refusal: &Refusal) {
        self.state.muted = self.state.reply_mode != ReplyMode::On;
        self.end_skip();
        self.reject(None, refusal);
    }

    fn protocol_error(&mut self, error: ProtocolError) {
        self.state.muted = false;
        self.reject(None, &error.refusal());
        self.state.ending = Ending::AfterReplies;
    }

    /// Carries out one request. False: it has to wait until nothing is in flight, and must be given again then.
    fn request(&mut self, args: &[&[u8]], backend: &dyn Backend) -> bool {
        self.state.muted = self.state.reply_mode != ReplyMode::On;
        let entry = match self.table.resolve(args) {
            Ok(entry) => entry,
            Err((index, refusal)) => {
                self.unresolved(args, index, &refusal);
                return true;
            }
        };
        self.last_command = entry.index;
        if !self.state.authenticated && !entry.traits.no_auth {
            self.end_skip();
            self.reject(Some(entry.index), &Refusal::new("NOAUTH Authentication required."));
            return true;
        }
        if entry.traits.no_auth && connection::is_guess(entry, args) {
            match self.guess(backend) {
                Turn::Now => {}
                Turn::At(_) => return false,
                Turn::Never => {
                    self.end_skip();
                    self.reject(Some(entry.index), &errors::TOO_MANY_GUESSES);
                    self.state.ending = Ending::AfterReplies;
                    return true;
                }
            }
        }
        if args.len() > MAX_LOCAL_ARGS && matches!(entry.row.run, Run::Local(_)) {
            self.end_skip();
            let text =
                format!("ERR too many arguments for '{}': the limit is {MAX_LOCAL_ARGS}", entry.full_name);
            self.reject(Some(entry.index), &Refusal::owned(text));
            return true;
        }
        if let Run::Flow(flow) = entry.row.run
            && self.must_stall(flow)
        {
            return false;
        }
        let reply_mode = self.state.reply_mode;
        self.end_skip();
        if self.transaction.is_some() && !is_immediate_in_transaction(entry) {
            self.queue_in_transaction(entry, args, backend);
            return true;
        }
        match entry.row.run {
            Run::Op(plan, scope) => {
                let request = Request { name: entry.row.name, args, backend };
                match plan(&request) {
                    Ok(op) if self.must_follow(&op) => {
                        self.state.reply_mode = reply_mode;
                        return false;
                    }
                    Ok(op) => self.op(entry, plan, scope, &op, &request),
                    Err(refusal) => self.refuse(entry, &refusal),
                }
            }
            Run::Local(function) => self.local(entry, function, args, backend),
            Run::Flow(flow) => self.flow(entry, flow, args, backend),
            Run::Refused(reason) => {
                self.reject(Some(entry.index), &Refusal::new(reason));
                if entry.traits.closes {
                    self.state.ending = Ending::AfterReplies;
                }
            }
            Run::Subcommands(_) => self.local(entry, introspection::bare, args, backend),
        }
        true
    }

    fn end_skip(&mut self) {
        if self.state.reply_mode == ReplyMode::SkipNext {
            self.state.reply_mode = ReplyMode::On;
        }
    }

    /// Sends an op to its partition, or to its partitions.
    fn op(&mut self, entry: &'static Entry, plan: Plan, scope: Scope, op: &Op<'_>, request: &Request<'_>) {
        let backend = request.backend;
        let partition = match backend.partitions() {
            [only] => *only,
            _ => match self.one_partition(entry, scope, request) {
                Some(partition) => partition,
                None => {
                    self.spread(entry, plan, scope, op, request);
                    return;
                }
            },
        };
        self.encode(op);
        if matches!(op, Op::Get { .. }) && self.in_flight == 0 && self.get_now(entry, partition, request) {
            return;
        }
        self.push_slot(entry, Body::Waiting, request.args);
        self.submit_encoded(self.kind_of(op), partition, 0, op, backend);
    }

    /// Whether an op may keep its shard busy for long: then it is the only request of this connection under way, so that
    /// nothing of others has to wait behind it for the sake of order. By the request, for its op is not encoded yet; what
    /// follows it goes by the op's own length, as its shard does.
    fn is_heavy(&self, op: &Op<'_>) -> bool {
        self.request_bytes > HEAVY_BYTES || op.is_heavy()
    }

    /// Whether an op must wait for what is in flight: a heavy one for all of it, a write for reads that may bring much.
    fn must_follow(&self, op: &Op<'_>) -> bool {
        self.in_flight > 0
            && (self.is_heavy(op)
                || (op.is_write() && self.awaits_much())
                || self.may_part_ways(op.is_write()))
    }

    /// Whether an op may be carried out by another node than the one before it, which nothing keeps in order then: reads anywhere,
    /// writes by who leads.
    fn may_part_ways(&self, is_write: bool) -> bool {
        self.reads_apart() && self.newest.is_read() == is_write
    }

    /// Whether reads may be carried out by another node than writes.
    fn reads_apart(&self) -> bool {
        self.state.reads_anywhere || self.newest == Kind::ReadAnywhere
    }

    /// Whether reads are in flight whose replies are likely to be large: they may have to wait for their turn.
    fn awaits_much(&self) -> bool {
        self.unsure_reads > 0 && self.reply_size_hint >= LARGE_REPLY_BYTES
    }

    /// Encodes an op and submits it for the newest slot.
    #[inline]
    fn submit(&mut self, partition: PartitionId, part: usize, op: &Op<'_>, backend: &dyn Backend) {
        self.submit_as(self.kind_of(op), partition, part, op, backend);
    }

    fn kind_of(&self, op: &Op<'_>) -> Kind {
        if op.is_write() { Kind::Write } else { self.read_kind() }
    }

    const fn read_kind(&self) -> Kind {
        if self.state.reads_anywhere { Kind::ReadAnywhere } else { Kind::Read }
    }

    fn encode(&mut self, op: &Op<'_>) {
        self.scratch.clear();
        op.encode(&mut self.scratch);
    }

    fn trim_scratch(&mut self) {
        if self.scratch.capacity() > SCRATCH_BYTES {
            self.scratch = Vec::new();
        }
    }

    fn submit_as(
        &mut self,
        kind: Kind,
        partition: PartitionId,
        part: usize,
        op: &Op<'_>,
        backend: &dyn Backend,
    ) {
        self.encode(op);
        self.submit_encoded(kind, partition, part, op, backend);
    }

    /// Submits the op that was encoded last for the newest slot.
    fn submit_encoded(
        &mut self,
        kind: Kind,
        partition: PartitionId,
        part: usize,
        op: &Op<'_>,
        backend: &dyn Backend,
    ) {
        let mut may_redirect = false;
        if let Some(slot) = self.queue.back_mut() {
            // What goes to several partitions is for no single other node.
            let is_whole = matches!(slot.body, Body::Waiting | Body::Exec(_));
            may_redirect = self.is_clustered && is_whole && self.state.may_redirect();
            let is_unsure = !slot.is_unsure && queue::may_be_large(op);
            slot.is_unsure |= is_unsure;
            slot.is_read = kind.is_read();
            self.unsure += usize::from(is_unsure);
            self.unsure_reads += usize::from(is_unsure && slot.is_read);
        }
        let ticket = self.count_part(kind, part, self.scratch.len());
        // Those behind it wait whenever it waits for its turn, or they would overtake it.
        self.stalled |= Op::is_heavy_bytes(&self.scratch);
        self.may_wait |= may_wait(&self.scratch);
        backend.submit(ticket, partition, kind, may_redirect, &self.scratch);
        self.trim_scratch();
    }

    /// Counts a part of the newest slot's request, of so many bytes, which is submitted next: with this ticket.
    fn count_part(&mut self, kind: Kind, part: usize, bytes: usize) -> Ticket {
        self.hold_for_slot(bytes);
        self.in_flight += 1;
        self.newest = kind;
        let number = self.front + self.queue.len() as u64 - 1;
        Ticket { conn: self.conn, seq: number << PART_BITS | part as u64 }
    }

    fn push_slot(&mut self, entry: &Entry, body: Body, args: &[&[u8]]) {
        let brief = if self.state.hub.slowlog.is_on() { self.briefs.push(args) } else { self.briefs.end() };
        let key = if self.is_clustered { entry.keys(args).next() } else { None };
        self.queue.push_back(Slot {
            hash_slot: key.map(slot_of),
            body,
            entry: entry.index,
            resp3: self.state.resp3,
            muted: self.state.muted,
            is_unsure: false,
            is_read: false,
            request_bytes: 0,
            started_ns: self.clock_ns,
            ran_ns: 0,
            brief,
        });
    }

    /// Refuses a request that names nothing that there is, or has a wrong number of arguments.
    fn unresolved(&mut self, args: &[&[u8]], index: Option<u16>, refusal: &Refusal) {
        if self.table.named(args).is_err() {
            self.stats().count_unknown();
        }
        self.end_skip();
        self.reject(index, refusal);
    }

    /// Refuses a request before it was carried out; inside MULTI the transaction is spoilt.
    fn reject(&mut self, index: Option<u16>, refusal: &Refusal) {
        let aborted = self.abort_exec(index, refusal);
        let refusal = aborted.as_ref().unwrap_or(refusal);
        if let Some(transaction) = &mut self.transaction {
            transaction.spoilt = true;
        }
        if let Some(index) = index {
            self.stats().command(index).count_rejected();
        }
        self.emit(None, |_, out| out.error(&refusal.0));
    }

    /// Answers a command with an error found while carrying it out.
    fn refuse(&mut self, entry: &Entry, refusal: &Refusal) {
        self.stats().command(entry.index).add(1, 0, 0);
        self.emit(Some(entry.index), |_, out| out.error(&refusal.0));
    }

    /// Writes a reply in its order: to the output, or behind what is in flight.
    fn emit(&mut self, index: Option<u16>, write: impl FnOnce(&mut Self, &mut Writer<'_>)) {
        let direct = self.queue.is_empty();
        let mut out = match self.queue.back_mut() {
            None => take(&mut self.out),
            // Replies that wait for the same request share a slot.
            Some(Slot { body: Body::Ready(bytes), .. }) => take(bytes),
            Some(_) => {
                self.queue.push_back(Slot::ready(self.state.resp3));
                Output::default()
            }
        };
        let (before, mark) = (Held::of(&out), out.mark());
        let resp3 = self.state.resp3;
        write(self, &mut Writer::new(&mut out, resp3));
        self.note_error(index, out.since(mark));
        if self.state.muted {
            out.truncate(mark);
        }
        if direct {
            self.out = out;
        } else if let Some(Slot { body: Body::Ready(bytes), .. }) = self.queue.back_mut() {
            self.held.replace(before, Held::of(&out));
            *bytes = out;
        }
    }

    /// Keeps count of error replies.
    fn note_error(&self, index: Option<u16>, reply: &[u8]) {
        if let [b'-', text @ ..] = reply {
            let prefix = text.split(|&byte| byte == b' ' || byte == b'\r').next().unwrap_or_default();
            self.stats().count_error(prefix);
            if let Some(index) = index {
                self.stats().command(index).count_failed();
            }
        }
    }

    /// Lets CLIENT LIST see this connection's present state, and INFO its calls so far.
    fn publish(&mut self, backend: &dyn Backend) {
        self.end_tally();
        let queued = self.transaction.as_ref().map(|transaction| transaction.commands.len());
        self.state.client.set_last(backend.now_ms(), self.last_command);
        self.state.client.set_state(self.state.resp3, queued);
        self.state.client.publish(&self.footprint());
    }
}

/// How a row makes an op.
type Plan = for<'a> fn(&Request<'a>) -> Result<Op<'a>, Refusal>;

fn is_immediate_in_transaction(entry: &Entry) -> bool {
    use Flow::{Discard, Exec, Multi, Quit, Reset, Watch};
    matches!(entry.row.run, Run::Flow(Multi | Exec | Discard | Watch | Quit | Reset))
}

impl Drop for Session {
    fn drop(&mut self) {
        self.forget_wait();
        self.state.hub.clients.remove(&self.state.client);
    }
}

#[cfg(test)]
mod tests;
