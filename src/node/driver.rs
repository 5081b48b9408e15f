//! The loop of a core: takes what has come, turns the shards, brings outcomes home, and sleeps when there is nothing.
//!
//! Order of a pass: what sockets hold, messages and finished jobs in, one turn of every shard that has something, outcomes
//! to sessions, one send a connection, one wake a core. Invariant: before it sleeps it has said so to its doorbell and
//! looked once more; whatever comes later (bytes, the log's completion, a message) is an event of its poller, and nothing
//! but a deadline else ends its sleep.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use corduroy_shards::runtime::heap;
use corduroy_shards::runtime::pool::Kind;
use corduroy_shards::{ClockReport, Input, Now, Outputs, ShardError, StateMachine};

use super::clock::mono_ns;
use super::core::Core;
use super::error::{EXIT_IO, StartError};
use super::event::Event;
use super::facts::bump;
use super::front::{conn as connection, overdue, waits};
use super::hosts::host::{Host, Job, Machine};
use super::shared::Phase;
use super::{listen, log};
use crate::resp::latency::SlowEvent;

/// Messages taken from each core in a pass.
const DRAIN_MAX: usize = 1024;
/// How long to wait for room in another core's ring before trying again.
const RETRY: Duration = Duration::from_millis(1);
/// How often figures are published while there is something to do.
const PUBLISH_EVERY_NS: u64 = 100_000_000;
/// How long a core has nothing to do, and nothing is due, before it gives memory back.
const REST: Duration = Duration::from_secs(5);

/// Drives a core until the node has drained.
///
/// # Errors
/// What the system says of the core's descriptors; never in a sound process.
pub fn run(core: &Rc<Core>) -> io::Result<()> {
    core.poller.watch_input(core.mesh.borrow().bell().fd(), Event::Bell.token())?;
    for (at, host) in core.hosts.iter().enumerate() {
        let shard = host.shard.borrow();
        core.poller.watch_input(shard.wal().device().event_fd(), Event::Log(at).token())?;
    }
    let mut driver = Driver {
        out: Outputs::default(),
        phase: Phase::Starting,
        is_counted: false,
        drained: false,
        accept_at_ns: None,
        config_version: core.shared.version(),
        has_rested: false,
        ran_ns: 0,
    };
    loop {
        let again = driver.pass(core);
        driver.follow_phase(core);
        if driver.phase == Phase::Stopping || driver.drained {
            return Ok(());
        }
        driver.wait(core, again)?;
    }
}

struct Driver {
    out: Outputs<Machine>,
    phase: Phase,
    is_counted: bool,
    drained: bool,
    /// When connections wait to be accepted: when to.
    accept_at_ns: Option<u64>,
    /// The version of the configuration that the shards follow.
    config_version: u64,
    /// Nothing came since memory was given back.
    has_rested: bool,
    /// What the turns took that have brought no outcome yet.
    ran_ns: u64,
}

impl Driver {
    /// One pass. Returns whether another is due at once.
    fn pass(&mut self, core: &Rc<Core>) -> bool {
        let began = core.tick();
        core.sent_bytes.set(0);
        core.closings.set(0);
        self.accept_at_ns = listen::accept_all(core);
        connection::go_on_all(core);
        connection::read_all(core);
        // Reading took time and looked at the clock; from here on the pass has one time.
        let now = core.tick();
        self.take_messages(core);
        take_jobs_done(core);
        if core.shared.version() != self.config_version {
            self.config_version = core.shared.version();
            core.follow_config();
        }
        let again = self.turn_all(core, now);
        start_jobs(core);
        if core.sweep_at_ns.get().is_some_and(|at| at <= now.mono_ns) {
            overdue::sweep(core);
        }
        waits::end_due(core);
        core.hosts.iter().filter(|host| host.rest.take_due(now.mono_ns)).for_each(|host| {
            // What is under way makes itself heard when it ends.
            if host.shard.borrow().wal().in_flight() == 0 {
                mark_end(host);
            }
        });
        connection::send_on_all(core);
        settle_all(core);
        core.flush_mesh();
        if core.held_back.get() && !core.is_congested() {
            core.held_back.set(false);
            core.conns.borrow().all().iter().for_each(|conn| connection::queue(core, conn));
        }
        if core.unpublished.get() && now.mono_ns.saturating_sub(core.published_ns.get()) >= PUBLISH_EVERY_NS {
            core.publish();
        }
        if let Some(facts) = core.shared.facts.get(core.index) {
            bump(&facts.passes, 1);
            bump(&facts.pass_ns, mono_ns(core.shared.started).saturating_sub(began.mono_ns));
        }
        again
    }

    fn take_messages(&mut self, core: &Rc<Core>) {
        let decided = std::mem::take(&mut *core.decided.borrow_mut());
        core.ran_ns.set(0);
        for (ticket, reply) in decided {
            core.answer(ticket, reply, None);
        }
        // Handling a message may post others, so the mesh must not be borrowed meanwhile.
        let mut messages = Vec::new();
        core.mesh.borrow_mut().drain(DRAIN_MAX, |message| messages.push(message));
        for message in messages {
            core.receive(message);
        }
    }

    /// Turns the shards that have something to do, unless other cores have yet to take too much of what they have made.
    fn turn_all(&mut self, core: &Rc<Core>, now: Now) -> bool {
        let mut again = false;
        core.is_held_back.set(false);
        core.hosts.iter().for_each(|host| core.admit(host, now));
        for (at, host) in core.hosts.iter().enumerate() {
            if !is_due(host, now) {
                continue;
            }
            if core.shared.ledger.is_full() {
                core.is_held_back.set(true);
                return false;
            }
            again |= self.turn(core, at, host, now);
        }
        again
    }

    /// Turns one shard and carries out what comes of it.
    fn turn(&mut self, core: &Rc<Core>, at: usize, host: &Host, now: Now) -> bool {
        host.dirty.set(false);
        let began_ns = mono_ns(core.shared.started);
        let result = host.shard.borrow_mut().turn(now, &mut self.out);
        if let Err(error) = result {
            end_process(host, &error);
        }
        core.unpublished.set(true);
        host.wake_at_ns.set(self.out.wake_at_ns.take());
        let (durable, is_marked) = {
            let shard = host.shard.borrow();
            (shard.wal().durable(), shard.wal().is_end_marked())
        };
        host.rest.follow(durable, is_marked, now.mono_ns);
        for (partition, why) in self.out.fenced.drain(..) {
            tracing::error!(shard = host.id.0, partition = partition.0, "partition fenced: {why}");
        }
        if let Some(report) = self.out.clock.take() {
            log_clock(host, report);
        }
        self.out.jobs.drain(..).for_each(|job| add_job(core, at, job));
        // What the turns since the last outcomes took is shared by those that they brought.
        let turn_ns = mono_ns(core.shared.started) - began_ns;
        let latency = &core.shared.hub.latency;
        latency.note(SlowEvent::ShardTurn, turn_ns, now.wall_ms);
        if let Some(waited_ns) = host.end_of_flush_wait(began_ns + turn_ns) {
            latency.note(SlowEvent::FlushWait, waited_ns, now.wall_ms);
        }
        self.ran_ns += turn_ns;
        if !self.out.replies.is_empty() {
            core.ran_ns.set(std::mem::take(&mut self.ran_ns) / self.out.replies.len() as u64);
        }
        for (ticket, reply, stages) in self.out.take_replies() {
            host.end(ticket);
            if let Some(stages) = &stages {
                let write_ns = stages.durable_ns.saturating_sub(stages.proposed_ns);
                latency.note(SlowEvent::LogWrite, write_ns, now.wall_ms);
            }
            core.answer(ticket, reply, stages);
        }
        let again = std::mem::take(&mut self.out.again) || host.dirty.get();
        if again {
            host.dirty.set(true);
        }
        again
    }

    /// Does what a new phase of the node asks for.
    fn follow_phase(&mut self, core: &Rc<Core>) {
        let phase = core.shared.phase();
        if phase != self.phase {
            self.phase = phase;
            match phase {
                Phase::Serving => {
                    if let Err((address, source)) = listen::start(core) {
                        core.shared.fail(StartError::Listen { address, source });
                    }
                }
                Phase::Draining => begin_drain(core),
                Phase::Starting | Phase::Stopping => {}
            }
        }
        if self.phase == Phase::Draining {
            self.drain(core);
        }
    }

    /// Waits for connections to end, then for the shards; tells when both have.
    fn drain(&mut self, core: &Rc<Core>) {
        let waited = core.shared.drain_since().map_or(Duration::ZERO, |since| since.elapsed());
        let is_late = waited >= Duration::from_millis(core.config().shutdown_timeout_ms.0);
        if is_late {
            let left = core.conns.borrow().all();
            if !left.is_empty() {
                tracing::warn!(
                    core = core.index,
                    left = left.len(),
                    "requests still under way at the deadline"
                );
            }
            left.iter().for_each(|conn| connection::close(core, conn));
        }
        if core.conns.borrow().len() == 0 && !std::mem::replace(&mut self.is_counted, true) {
            core.shared.busy.fetch_sub(1, Ordering::AcqRel);
            core.shared.ring_all();
        }
        if core.shared.busy.load(Ordering::Acquire) == 0 {
            for host in &core.hosts {
                host.shard.borrow_mut().close();
                host.dirty.set(true);
                if host.shard.borrow().is_idle() {
                    mark_end(host);
                }
            }
            let is_closed = core.hosts.iter().all(|host| host.shard.borrow().is_closed());
            self.drained = is_closed || is_late;
        }
    }

    /// Takes events; sleeps until there are any, unless another pass is due at once.
    fn wait(&mut self, core: &Rc<Core>, again: bool) -> io::Result<()> {
        let is_due = again
            || core.take_woken()
            || !core.readable.borrow().is_empty()
            || !core.unfinished.borrow().is_empty()
            || !core.senders.borrow().is_empty();
        let timeout = if is_due || !may_sleep(core) { Some(Duration::ZERO) } else { self.timeout(core) };
        let rests = timeout.is_none_or(|timeout| timeout > REST) && !self.has_rested;
        let timeout = if rests { Some(REST) } else { timeout };
        let mut is_quiet = true;
        let result = core.poller.wait(timeout, |token, ready| {
            is_quiet = false;
            match Event::of(token) {
                Event::Conn(id) => connection::notice(core, id, ready),
                Event::Bell => {}
                Event::Log(at) => core.hosts.get(at).into_iter().for_each(|host| host.dirty.set(true)),
                Event::Listener(at) => listen::notice(core, at),
            }
        });
        core.mesh.borrow().bell().awake();
        if rests && is_quiet {
            heap::give_back();
        }
        self.has_rested = is_quiet && (rests || self.has_rested);
        result
    }

    /// How long until the next thing is due; `None` if nothing is.
    fn timeout(&self, core: &Core) -> Option<Duration> {
        let started = core.shared.started;
        let at = |ns: u64| started + Duration::from_nanos(ns);
        let now = Instant::now();
        let timers = core.hosts.iter().filter_map(|host| host.wake_at_ns.get()).map(at);
        let late = core.hosts.iter().filter_map(|host| host.gate.borrow().late_ns()).map(at);
        let rests = core.hosts.iter().filter_map(|host| host.rest.next_ns()).map(at);
        let sweep = core.sweep_at_ns.get().map(at);
        let wait = core.waits.next_ns().map(at);
        let accept = self.accept_at_ns.map(at);
        let publish = core.unpublished.get().then(|| at(core.published_ns.get() + PUBLISH_EVERY_NS));
        let needs_retry = core.is_congested() || core.jobs.has_waiting();
        let retry = needs_retry.then(|| now + RETRY);
        let drain = (self.phase == Phase::Draining).then(|| now + 10 * RETRY);
        let next = timers
            .chain(late)
            .chain(rests)
            .chain(sweep)
            .chain(wait)
            .chain(accept)
            .chain(publish)
            .chain(retry)
            .chain(drain)
            .min();
        next.map(|next| next.saturating_duration_since(now))
    }
}

/// Has a shard's log write down how far it is durable, if it has not yet.
fn mark_end(host: &Host) {
    let mut shard = host.shard.borrow_mut();
    if shard.wal().is_end_marked() {
        return;
    }
    if let Err(error) = shard.mark_end() {
        end_process(host, &error);
    }
    host.dirty.set(true);
}

/// Says to the doorbell that the core is about to sleep, and looks once more at what it rings for.
fn may_sleep(core: &Core) -> bool {
    let mesh = core.mesh.borrow();
    mesh.bell().prepare_sleep();
    let is_held = !core.is_held_back.get() || core.shared.ledger.is_full();
    mesh.is_empty() && !core.jobs.has_done() && is_held
}

/// Whether a shard has anything to do: a request or completion came, a timer is due, or a write is under way whose
/// completion may lie in the ring already.
fn is_due(host: &Host, now: Now) -> bool {
    host.dirty.get()
        || host.wake_at_ns.get().is_some_and(|at| at <= now.mono_ns)
        || host.shard.borrow().wal().in_flight() > 0
}

/// Sends what the sessions have to say.
fn settle_all(core: &Rc<Core>) {
    let mut unsettled = core.unsettled.take();
    for conn in unsettled.drain(..) {
        conn.is_listed.set(false);
        connection::settle(core, &conn);
    }
    // Settling may have listed others; the emptied list is kept for its memory.
    let mut listed = core.unsettled.borrow_mut();
    if listed.is_empty() {
        *listed = unsettled;
    }
}

/// Hands finished jobs to their shards.
fn take_jobs_done(core: &Core) {
    while let Some((at, done)) = core.jobs.take_done() {
        if let Some(host) = core.hosts.get(at) {
            host.shard.borrow_mut().handle(Input::JobDone(done));
            host.dirty.set(true);
        }
    }
}

/// Hands waiting jobs to the pool, as many as both have room for.
fn start_jobs(core: &Core) {
    if core.jobs.has_waiting()
        && let Some(pool) = core.shared.pool()
    {
        core.jobs.start(|kind, task| pool.submit(kind, task));
    }
}

/// Takes a job of a shard, to be handed to the pool.
fn add_job(core: &Core, at: usize, job: Job) {
    let kind = if job.is_short() { Kind::Short } else { Kind::Long };
    let bell = Arc::clone(core.mesh.borrow().bell());
    core.jobs.add(kind, bell, move || (at, Machine::run_job(job)));
}

/// Stops accepting and lets every connection end as soon as it is quiet.
fn begin_drain(core: &Rc<Core>) {
    listen::stop(core);
    for conn in core.conns.borrow().all() {
        core.unsettle(conn);
    }
    settle_all(core);
}

/// Says that the wall clock is behind what was written, or that it has caught up.
fn log_clock(host: &Host, report: ClockReport) {
    match report {
        ClockReport::Ahead { by_ms } => tracing::warn!(
            shard = host.id.0,
            "the wall clock is {by_ms} ms behind the times that the log holds: it was set back, or was wrong before. \
             Times to live last as long as they should; EXPIREAT, PEXPIREAT and EXPIRETIME are off by as much until the \
             clocks have come together (INFO: clock_ahead_ms)"
        ),
        ClockReport::Together => {
            tracing::info!(shard = host.id.0, "the wall clock has caught up with the log's times")
        }
    }
}

/// The log or the state is not to be trusted any more: only a restart reads back what the disk holds.
fn end_process(host: &Host, error: &ShardError) -> ! {
    tracing::error!(
        shard = host.id.0,
        "{error}; ending the process, a restart reads back what the disk holds"
    );
    log::flush();
    std::process::exit(i32::from(EXIT_IO));
}

#[cfg(test)]
mod tests;
