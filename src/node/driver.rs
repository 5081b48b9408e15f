//! The loop of a core: takes what has come, turns the shards, brings outcomes home, and sleeps when there is nothing.
//!
//! The one module of a core that knows its hosts and its front. Order of a pass: what sockets hold, messages and finished jobs
//! in, one turn of every shard that has something, outcomes to sessions, one send a connection, one wake a core. Invariant:
//! before it sleeps it has said so to its doorbell and looked once more; whatever comes later (bytes, the log's completion, a
//! message) is an event of its poller, and nothing but a deadline else ends its sleep.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corduroy_shards::Now;
use corduroy_shards::forward::{FORWARDED_CORE, Request};
use corduroy_shards::runtime::heap;

use super::core::{Core, core_of_conn};
use super::error::{StartError, system};
use super::event::Event;
use super::facts::bump;
use super::founding::Founding;
use super::front::Front;
use super::hosts::Hosts;
use super::hosts::turn::Turns;
use super::message::{Answer, Message};
use super::peers::Peers;
use super::shared::Phase;
use crate::resp::Timing;

/// Messages taken from each core in a pass.
const DRAIN_MAX: usize = 1024;
/// How long to wait for room in another core's ring before trying again.
const RETRY: Duration = Duration::from_millis(1);
/// How long a core has nothing to do, and nothing is due, before it gives memory back.
const REST: Duration = Duration::from_secs(5);

/// See the file's head.
pub struct Driver {
    core: Rc<Core>,
    hosts: Rc<Hosts>,
    front: Front,
    /// Those of other nodes, if there are any.
    peers: Option<Peers>,
    turns: Turns,
    phase: Phase,
    is_counted: bool,
    drained: bool,
    /// When connections wait to be accepted: when to.
    accept_at_ns: Option<u64>,
    /// The version of the configuration that hosts and front follow.
    config_version: u64,
    /// Nothing came since memory was given back.
    has_rested: bool,
    founding: Founding,
}

impl Driver {
    /// Of a core whose shards are open.
    pub fn new(
        core: Rc<Core>,
        hosts: Rc<Hosts>,
        front: Front,
        peers: Option<Peers>,
        founding: Founding,
    ) -> Self {
        Self {
            turns: Turns::default(),
            phase: Phase::Starting,
            is_counted: false,
            drained: false,
            accept_at_ns: None,
            config_version: core.shared.version(),
            has_rested: false,
            founding,
            core,
            hosts,
            front,
            peers,
        }
    }

    /// Drives the core until the node has drained.
    ///
    /// # Errors
    /// What the system says of the core's descriptors; never in a sound process.
    pub fn run(mut self) -> io::Result<()> {
        let poller = &self.core.poller;
        poller.watch_input(self.hosts.links.bell().fd(), Event::Bell.token())?;
        for (index, host) in self.hosts.all().iter().enumerate() {
            let shard = host.shard.borrow();
            poller.watch_input(shard.wal().device().event_fd(), Event::Log(index).token())?;
        }
        self.founding.look(self.core.mono_ns(), || self.hosts.are_founded());
        loop {
            let again = self.pass();
            self.follow_phase();
            if self.phase == Phase::Stopping || self.drained {
                return Ok(());
            }
            self.wait(again)?;
        }
    }

    /// One pass. Returns whether another is due at once.
    fn pass(&mut self) -> bool {
        let began = self.core.tick();
        self.front.begin_pass();
        self.accept_at_ns = self.front.accept_all();
        self.front.go_on_all();
        self.front.read_all();
        // Reading took time and looked at the clock.
        let mut now = self.core.tick();
        self.take_messages();
        if let Some(peers) = &self.peers {
            peers.receive(now);
            // A turn's time is not before its input: what is promised to a leader runs from no earlier than it was heard, and a
            // lease has ended that a read came too late for.
            now = self.core.tick();
        }
        self.hosts.take_jobs_done();
        let version = self.core.shared.version();
        if self.config_version != version {
            self.config_version = version;
            self.hosts.follow_config();
            self.front.follow_config();
        }
        let again = self.turn_all(now);
        self.hosts.step_forwarded(now, |answer| self.bring(answer));
        if let Some(peers) = &self.peers {
            peers.send(self.turns.take_messages(), now);
        }
        self.hosts.start_jobs();
        self.front.sweep_if_due(now.mono_ns);
        self.front.end_due_waits();
        self.hosts.mark_rests(now);
        self.hosts.delete_left(now);
        self.front.send_on_all();
        self.front.follow_up_all();
        self.hosts.links.flush();
        if self.hosts.links.take_relief() {
            self.front.queue_all();
        }
        if self.hosts.publish_if_due(now) {
            self.peers.iter().for_each(Peers::publish);
        }
        let facts = self.core.facts();
        bump(&facts.passes, 1);
        bump(&facts.pass_ns, self.core.mono_ns().saturating_sub(began.mono_ns));
        again
    }

    fn take_messages(&mut self) {
        for (ticket, reply) in self.hosts.take_decided() {
            self.bring(Answer { ticket, reply, timing: Timing::default() });
        }
        self.hosts.links.drain(DRAIN_MAX).into_iter().for_each(|message| self.receive(message));
    }

    /// Takes a message from another core.
    fn receive(&self, message: Message) {
        match message {
            Message::Request { ticket, partition, kind, may_redirect, op } => {
                self.hosts.take_request(Request { ticket, partition, kind, may_redirect, op: &op });
            }
            Message::Reply { ticket, reply, ran_ns, stages, bytes } => {
                let timing = Timing { ran_ns: ran_ns.into(), stages: stages.map(|stages| *stages) };
                self.front.deliver(Answer { ticket, reply, timing });
                let shared = &self.core.shared;
                if bytes > 0 && shared.ledger.take_outcome(bytes) {
                    shared.bells.iter().for_each(|bell| bell.ring());
                }
            }
            Message::Peer(moved) => {
                let peers = self.peers.as_ref().expect("a core of a node without peers is sent none");
                peers.adopt(*moved, self.core.now());
            }
            Message::PeerSeen { node, epoch } => {
                self.peers.iter().for_each(|peers| peers.seen(node, epoch, self.core.now()));
            }
            Message::Look { conn } => self.front.look(conn),
            Message::Ended { conn, end } => self.hosts.note_ended(conn, end),
        }
    }

    fn bring(&self, answer: Answer) {
        bring(&self.core, &self.hosts, &self.front, answer);
    }

    fn turn_all(&mut self, now: Now) -> bool {
        let Self { core, hosts, front, turns, .. } = self;
        hosts.admit(now, |conn| core_of_conn(conn) != core.index || front.is_open(conn));
        turns.turn_all(hosts, now, |answer| {
            if !hosts.keeps_given_back(&answer) {
                bring(core, hosts, front, answer);
            }
        })
    }

    /// Does what a new phase of the node asks for.
    fn follow_phase(&mut self) {
        if self.phase == Phase::Starting {
            self.founding.look(self.core.mono_ns(), || self.hosts.are_founded());
        }
        let phase = self.core.shared.phase();
        if phase != self.phase {
            self.phase = phase;
            match phase {
                Phase::Serving => self.listen(),
                Phase::Draining => {
                    self.front.begin_drain();
                    self.front.follow_up_all();
                }
                Phase::Starting | Phase::Stopping => {}
            }
        }
        if self.phase == Phase::Draining {
            self.drain();
        }
    }

    fn listen(&self) {
        let shared = &self.core.shared;
        if let Err((address, source)) = self.front.listen() {
            shared.fail(StartError::Listen { address, source });
        }
        if let Some(Err(source)) = self.peers.as_ref().map(Peers::listen) {
            shared.fail(system("listening to peers")(source));
        }
    }

    /// Transfers what the shards lead and waits for connections to end, then for the shards; reports when all have.
    fn drain(&mut self) {
        let shared = &self.core.shared;
        let waited = shared.drain_since().map_or(Duration::ZERO, |since| since.elapsed());
        let is_late = waited >= Duration::from_millis(self.core.config().shutdown_timeout_ms.0);
        if is_late {
            let left = self.front.conns.borrow().all();
            if !left.is_empty() {
                tracing::warn!(
                    core = self.core.index,
                    left = left.len(),
                    "requests still under way at the deadline"
                );
            }
            left.iter().for_each(|conn| self.front.close(conn));
        }
        let has_transferred = self.hosts.transfer_leads() || is_late;
        let is_quiet = has_transferred && self.front.conns.borrow().len() == 0;
        if is_quiet && !std::mem::replace(&mut self.is_counted, true) {
            shared.busy.fetch_sub(1, Ordering::AcqRel);
            shared.ring_all();
        }
        if shared.busy.load(Ordering::Acquire) == 0 {
            self.drained = self.hosts.close() || is_late;
            if self.drained {
                self.peers.iter().for_each(Peers::close);
            }
        }
    }

    /// Takes events; sleeps until there are any, unless another pass is due at once.
    fn wait(&mut self, again: bool) -> io::Result<()> {
        let is_due = again
            || self.core.take_woken()
            || self.front.has_more()
            || self.peers.as_ref().is_some_and(Peers::has_more);
        let timeout = if is_due || !self.hosts.may_sleep() { Some(Duration::ZERO) } else { self.timeout() };
        let rests = timeout.is_none_or(|timeout| timeout > REST) && !self.has_rested;
        let timeout = if rests { Some(REST) } else { timeout };
        let mut is_quiet = true;
        let result = self.core.poller.wait(timeout, |token, ready| {
            is_quiet = false;
            match Event::of(token) {
                Event::Conn(id) => self.front.notice(id, ready),
                Event::Bell => {}
                Event::Log(index) => {
                    self.hosts.all().get(index).into_iter().for_each(|host| host.dirty.set(true))
                }
                Event::Listener(index) => self.front.notice_door(index),
                Event::Peer(conn) => self.peers.iter().for_each(|peers| peers.notice(conn, ready)),
                Event::PeerListener => self.peers.iter().for_each(Peers::notice_listener),
            }
        });
        self.hosts.links.bell().awake();
        if rests && is_quiet {
            heap::give_back();
        }
        self.has_rested = is_quiet && (rests || self.has_rested);
        result
    }

    /// How long until the next thing is due; `None` if nothing is.
    fn timeout(&self) -> Option<Duration> {
        let peers = self.peers.as_ref().and_then(Peers::next_ns);
        let times =
            [self.hosts.next_ns(), self.front.next_ns(), self.accept_at_ns, self.founding.late_ns(), peers];
        let now_ns = self.core.mono_ns();
        let until = |at_ns: u64| Duration::from_nanos(at_ns.saturating_sub(now_ns));
        let retry = self.hosts.needs_retry().then_some(RETRY);
        let drain = (self.phase == Phase::Draining).then_some(10 * RETRY);
        times.into_iter().flatten().map(until).chain(retry).chain(drain).min()
    }
}

/// Brings an outcome to its connection's core.
fn bring(core: &Core, hosts: &Hosts, front: &Front, answer: Answer) {
    match core_of_conn(answer.ticket.conn) {
        own if own == core.index => front.deliver(answer),
        FORWARDED_CORE => hosts.answer_node(answer),
        _ => hosts.send(answer),
    }
}

#[cfg(test)]
mod tests;
