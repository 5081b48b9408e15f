//! The loop of one thread: takes answers, sends what is due, sleeps in epoll in between.
//!
//! A round is: wait, read and judge answers, make requests, write the journal, send. Since the journal goes before the
//! sockets, what the server may hold is always written down.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::conn::{Conn, Health};
use crate::journal::JournalError;
use crate::judge::judge_answers;
use crate::ledger::Ledger;
use crate::pace::Schedule;
use crate::plan::{Op, Plan, Stop};
use crate::recorder::{Progress, Recorder};
use crate::workload::{Expect, Generator, Pending};

/// Epoll's name for the timer.
const TIMER: u64 = u64::MAX;

/// Unanswered requests of a connection while the key space is filled.
const PRELOAD_PIPELINE: usize = 32;

/// Why a thread gave up.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The kernel refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// What is acknowledged could not be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What a thread is to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Each key once.
    Preload,
    /// The workload.
    Load,
}

/// The part of the plan that falls to one thread.
#[derive(Debug)]
pub struct Share {
    /// The whole plan.
    pub plan: Arc<Plan>,
    /// What is sent.
    pub phase: Phase,
    /// When the run began, for all threads.
    pub begin: Instant,
    /// Requests to send, if they are counted.
    pub requests: Option<u64>,
    /// The time of each request, in an open loop.
    pub schedule: Option<Schedule>,
}

/// One thread's run.
pub struct Driver {
    share: Share,
    conns: Vec<Conn>,
    generator: Generator,
    recorder: Recorder,
    progress: Arc<Progress>,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// Connections with room for a request, each once.
    ready: VecDeque<usize>,
    /// Connections with bytes to send.
    dirty: Vec<usize>,
    pipeline: usize,
    warmup_ns: u64,
    end_ns: Option<u64>,
    in_flight: u64,
    open: usize,
}

impl Driver {
    /// Takes a share, its connections, and what makes its requests.
    ///
    /// # Errors
    /// If epoll or the timer cannot be had.
    pub fn new(
        share: Share,
        conns: Vec<Conn>,
        generator: Generator,
        progress: Arc<Progress>,
    ) -> Result<Self, DriverError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io("make an epoll instance"))?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(io("make a timer"))?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)
            .map_err(io("watch the timer"))?;
        for (at, conn) in conns.iter().enumerate() {
            epoll::add(&epoll, &conn.stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)
                .map_err(io("watch a connection"))?;
        }
        let plan = &share.plan;
        let loads = share.phase == Phase::Load;
        let warmup_ns = if loads { plan.warmup.as_nanos() as u64 } else { 0 };
        let end_ns = match plan.stop {
            Stop::After(time) if loads => Some(warmup_ns + time.as_nanos() as u64),
            _ => None,
        };
        let pipeline = if loads { plan.pipeline } else { PRELOAD_PIPELINE };
        let open = conns.len();
        Ok(Self {
            share,
            conns,
            generator,
            recorder: Recorder::default(),
            progress,
            epoll,
            timer,
            ready: VecDeque::new(),
            dirty: Vec::new(),
            pipeline,
            warmup_ns,
            end_ns,
            in_flight: 0,
            open,
        })
    }

    /// Runs to the end of the share: what was measured, what is known of the keys, and the connections.
    ///
    /// # Errors
    /// If the kernel refuses a call, or the journal cannot be written.
    pub fn run(mut self) -> Result<(Recorder, Ledger, Vec<Conn>), DriverError> {
        for at in 0..self.conns.len() {
            self.mark_ready(at);
        }
        let mut events = Vec::with_capacity(512);
        let mut scratch = Conn::scratch();
        let mut drain_end_ns = None;
        loop {
            let now_ns = self.now_ns();
            if drain_end_ns.is_none() {
                self.make_requests(now_ns);
                if self.is_done_sending(now_ns) {
                    drain_end_ns = Some(now_ns + self.share.plan.drain.as_nanos() as u64);
                }
            }
            if let Some(journal) =
                self.generator.tracker.as_mut().and_then(|tracker| tracker.journal.as_mut())
            {
                journal.flush()?;
            }
            self.send()?;
            match drain_end_ns {
                Some(end_ns) if self.in_flight == 0 || now_ns >= end_ns => break,
                _ if self.open == 0 => break,
                _ => {}
            }
            self.wait(&mut events, drain_end_ns)?;
            self.take_answers(&events, &mut scratch);
        }
        Ok(self.finish())
    }

    fn now_ns(&self) -> u64 {
        self.share.begin.elapsed().as_nanos() as u64
    }

    fn is_done_sending(&self, now_ns: u64) -> bool {
        match self.share.phase {
            Phase::Preload => self.ready.is_empty() && self.in_flight == 0,
            Phase::Load => {
                self.share.requests == Some(0) || self.end_ns.is_some_and(|end_ns| now_ns >= end_ns)
            }
        }
    }

    fn mark_ready(&mut self, at: usize) {
        if let Some(conn) = self.conns.get_mut(at)
            && !conn.is_ready
            && conn.health == Health::Open
            && conn.pending.len() < self.pipeline
        {
            conn.is_ready = true;
            self.ready.push_back(at);
        }
    }

    fn mark_dirty(&mut self, at: usize) {
        if let Some(conn) = self.conns.get_mut(at)
            && !conn.is_dirty
        {
            conn.is_dirty = true;
            self.dirty.push(at);
        }
    }

    /// Makes all requests that are due and have room.
    fn make_requests(&mut self, now_ns: u64) {
        if self.end_ns.is_some_and(|end_ns| now_ns >= end_ns) {
            return;
        }
        while let Some(at) = self.ready.front().copied() {
            let Some(conn) = self.conns.get_mut(at) else { break };
            if conn.health == Health::Closed {
                conn.is_ready = false;
                self.ready.pop_front();
                continue;
            }
            let mut made = false;
            while conn.pending.len() < self.pipeline {
                let Some(start_ns) = self.share.next_start(now_ns, conn) else { break };
                let pending = match self.share.phase {
                    Phase::Load => {
                        self.generator.next(conn.number, start_ns, &mut conn.out, &mut conn.writes)
                    }
                    Phase::Preload => preload(&mut self.generator, &self.share.plan, conn, start_ns),
                };
                conn.pending.push_back(pending);
                self.in_flight += 1;
                self.recorder.sent += 1;
                made = true;
                if self.share.schedule.is_some() {
                    break; // An open loop deals its requests round.
                }
            }
            self.ready.pop_front();
            conn.is_ready = false;
            if made {
                self.mark_dirty(at);
            }
            let nothing_due = !made && self.share.phase == Phase::Load;
            if nothing_due || self.share.schedule.is_some() {
                self.mark_ready(at);
            }
            if nothing_due {
                break;
            }
        }
    }

    /// Sends what the rounds' requests left in the buffers.
    fn send(&mut self) -> Result<(), DriverError> {
        for at in std::mem::take(&mut self.dirty) {
            let Some(conn) = self.conns.get_mut(at) else { continue };
            conn.is_dirty = false;
            if conn.health == Health::Closed {
                continue;
            }
            let blocked = conn.flush();
            if conn.health == Health::Closed {
                self.lose(at);
            } else if blocked != conn.watches_write {
                conn.watches_write = blocked;
                let write = if blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
                let data = epoll::EventData::new_u64(at as u64);
                epoll::modify(&self.epoll, &conn.stream, data, epoll::EventFlags::IN | write)
                    .map_err(io("watch a connection"))?;
            }
        }
        Ok(())
    }

    /// Sleeps until there is an answer, room to write, a due request, or the end.
    fn wait(&self, events: &mut Vec<epoll::Event>, drain_end_ns: Option<u64>) -> Result<(), DriverError> {
        let due_ns = match (&self.share.schedule, drain_end_ns) {
            (_, Some(end_ns)) => Some(end_ns),
            (Some(schedule), None) if !self.ready.is_empty() => {
                Some(self.end_ns.map_or(schedule.next_ns(), |end_ns| end_ns.min(schedule.next_ns())))
            }
            (_, None) => self.end_ns,
        };
        events.clear();
        let mut timeout = None;
        if let Some(due_ns) = due_ns {
            let left_ns = due_ns.saturating_sub(self.now_ns());
            if left_ns == 0 {
                timeout = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
            } else {
                let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
                let it_value = Timespec {
                    tv_sec: (left_ns / 1_000_000_000) as i64,
                    tv_nsec: (left_ns % 1_000_000_000) as i64,
                };
                let at = Itimerspec { it_interval: zero, it_value };
                timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &at).map_err(io("set the timer"))?;
            }
        }
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io("wait for events")(error)),
        }
    }

    fn take_answers(&mut self, events: &[epoll::Event], scratch: &mut [u8]) {
        let (mut answers, mut slowest_ns) = (0, 0);
        let errors_before = self.recorder.error_count();
        for event in events {
            if event.data.u64() == TIMER {
                let mut ticks = [0_u8; 8];
                // Whether it rang or was set anew in between: both are fine, and there is nothing else to learn.
                let _rang = rustix::io::read(&self.timer, &mut ticks);
                continue;
            }
            let at = event.data.u64() as usize;
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) {
                self.mark_dirty(at);
            }
            let Some(conn) = self.conns.get_mut(at).filter(|conn| conn.health == Health::Open) else {
                continue;
            };
            while conn.read(scratch) {}
            let now_ns = self.share.begin.elapsed().as_nanos() as u64;
            let judged = judge_answers(conn, &mut self.generator, &mut self.recorder, now_ns, self.warmup_ns);
            answers += judged.answers;
            slowest_ns = judged.slowest_ns.max(slowest_ns);
            self.in_flight -= judged.answers;
            if conn.health == Health::Closed {
                self.lose(at);
                continue;
            }
            if judged.has_more_to_send {
                self.mark_dirty(at);
            }
            self.mark_ready(at);
        }
        self.progress.add(answers, self.recorder.error_count() - errors_before, slowest_ns);
    }

    fn lose(&mut self, at: usize) {
        let Some(conn) = self.conns.get_mut(at) else { return };
        self.open -= 1;
        self.recorder.disconnects += 1;
        self.recorder.unanswered += conn.pending.len() as u64;
        self.in_flight -= conn.pending.len() as u64;
        // Closing is all that is left to do for it, and epoll forgets a closed socket; failing changes nothing.
        let _forgotten = epoll::delete(&self.epoll, &conn.stream);
    }

    fn finish(mut self) -> (Recorder, Ledger, Vec<Conn>) {
        self.recorder.unanswered += self.in_flight;
        if let (Some(schedule), Some(end_ns)) = (&self.share.schedule, self.end_ns)
            && self.open > 0
        {
            self.recorder.unsent += schedule.due_until(end_ns);
        }
        let ledger = self.generator.tracker.map(|tracker| tracker.ledger).unwrap_or_default();
        (self.recorder, ledger, self.conns)
    }
}

impl Share {
    /// The start of the next request on this connection, if one may be sent now.
    fn next_start(&mut self, now_ns: u64, conn: &Conn) -> Option<u64> {
        if self.phase == Phase::Preload {
            let next = conn.number + conn.preloaded * self.plan.connections as u64;
            return (next < self.plan.keyspace).then_some(now_ns);
        }
        if self.requests == Some(0) {
            return None;
        }
        let start_ns = match &mut self.schedule {
            Some(schedule) => schedule.take(now_ns)?,
            None => now_ns,
        };
        if let Some(left) = &mut self.requests {
            *left -= 1;
        }
        Some(start_ns)
    }
}

fn preload(generator: &mut Generator, plan: &Plan, conn: &mut Conn, start_ns: u64) -> Pending {
    let key = conn.number + conn.preloaded * plan.connections as u64;
    conn.preloaded += 1;
    let high = generator.put_set(&mut conn.out, key);
    Pending { start_ns, op: Op::Set, expect: Expect::Ok, key, low: 0, high }
}

fn io(doing: &'static str) -> impl Fn(rustix::io::Errno) -> DriverError {
    move |errno| DriverError::Io { doing, source: errno.into() }
}
