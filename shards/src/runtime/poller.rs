//! What a core sleeps on: one epoll descriptor for its doorbell, its logs, its listeners and all its connections.
//!
//! Everything is watched edge-triggered and for good, but for what another core takes over: a descriptor is added once, and neither reading from it nor
//! sleeping again costs a call. In return whoever gets "readable" reads until nothing is left, or remembers that
//! something is; and whoever gets "ended" reads until the end. Eventfds need not be read at all: every write to one is an edge.
//!
//! The core waits here and not in its executor: the executor's own sleep costs several `io_uring_enter` and a
//! `membarrier`, and a connection that waits in it one more request to the kernel for each read.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// Events taken in one call. What is left comes with the next, other descriptors first.
const EVENTS_MAX: usize = 256;

/// What has become possible on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Something may be read, or the end has come.
    pub readable: bool,
    /// Something may be written, or the end has come.
    pub writable: bool,
    /// The other end sends no more, or the connection is broken. What was sent before is to be read until reading says so;
    /// there is no other event for it.
    pub ended: bool,
}

/// One core's descriptors.
pub struct Poller {
    epoll: OwnedFd,
    events: RefCell<Vec<Event>>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl Poller {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// What the system says; out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: RefCell::new(Vec::with_capacity(EVENTS_MAX)) })
    }

    /// Watches a descriptor for reading, until it is closed: a listener, an eventfd. What is possible already is reported by
    /// the next wait. `token` comes back with each event.
    ///
    /// # Errors
    /// What the system says; out of memory, or the user's limit of watches.
    pub fn watch_input(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        self.watch(fd, token, EventFlags::IN)
    }

    /// The same for both directions: a connection.
    ///
    /// # Errors
    /// As for [`Poller::watch_input`].
    pub fn watch_both(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        self.watch(fd, token, EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP)
    }

    /// Watches a descriptor no more, which stays open: another core takes it over. Events of it that were not taken yet do not
    /// come any more.
    ///
    /// # Errors
    /// What the system says: it was not watched.
    pub fn forget(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    fn watch(&self, fd: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags | EventFlags::ET)?)
    }

    /// Waits until something is possible, `timeout` is over (`None`: never) or a signal or a completion of the kernel's
    /// interrupts it; then calls `each` with every event. Late by up to a millisecond.
    ///
    /// # Errors
    /// What the system says; never in a sound process.
    pub fn wait(&self, timeout: Option<Duration>, mut each: impl FnMut(u64, Ready)) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = self.events.borrow_mut();
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for &Event { flags, data, .. } in events.iter() {
            let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            let ended = broken || flags.intersects(EventFlags::RDHUP);
            let ready = Ready {
                readable: ended || flags.intersects(EventFlags::IN),
                writable: broken || flags.intersects(EventFlags::OUT),
                ended,
            };
            each(data.u64(), ready);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Doorbell;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    fn seen(poller: &Poller, timeout: Option<Duration>) -> Vec<(u64, bool)> {
        let mut seen = Vec::new();
        poller.wait(timeout, |token, ready| seen.push((token, ready.readable))).expect("epoll");
        seen
    }

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn an_event_is_reported_once_and_each_new_one_again() {
        let poller = Poller::new().expect("epoll");
        let (here, mut there) = UnixStream::pair().expect("a pair");
        poller.watch_both(&here, 7).expect("added");
        assert_eq!(seen(&poller, NOW), [(7, false)], "it can be written at once");
        there.write_all(b"x").expect("room");
        assert_eq!(seen(&poller, None), [(7, true)]);
        assert_eq!(seen(&poller, NOW), []);
        there.write_all(b"y").expect("room");
        assert_eq!(seen(&poller, NOW), [(7, true)], "though x was never read");
        drop(there);
        assert_eq!(seen(&poller, NOW), [(7, true)], "the end");
        drop(here);
        assert_eq!(seen(&poller, NOW), []);
    }

    #[test]
    fn what_is_forgotten_may_be_watched_by_another_which_learns_what_is_there() {
        let (one, other) = (Poller::new().expect("epoll"), Poller::new().expect("epoll"));
        let (here, mut there) = UnixStream::pair().expect("a pair");
        one.watch_both(&here, 7).expect("added");
        there.write_all(b"x").expect("room");
        one.forget(&here).expect("it was watched");
        assert_eq!(seen(&one, NOW), []);
        other.watch_both(&here, 9).expect("added");
        assert_eq!(seen(&other, NOW), [(9, true)]);
        assert!(one.forget(&here).is_err(), "once");
    }

    #[test]
    fn rings_of_a_bell_are_edges_though_nobody_reads_them() {
        let poller = Poller::new().expect("epoll");
        let bell = Doorbell::new().expect("eventfd");
        bell.ring_always();
        poller.watch_input(bell.fd(), 1).expect("added");
        for _ in 0..3 {
            assert_eq!(seen(&poller, None), [(1, true)]);
            assert_eq!(seen(&poller, NOW), []);
            bell.ring_always();
        }
    }

    #[test]
    fn another_thread_wakes_a_sleeper_and_a_timeout_ends_it() {
        let poller = Poller::new().expect("epoll");
        let bell = std::sync::Arc::new(Doorbell::new().expect("eventfd"));
        poller.watch_input(bell.fd(), 1).expect("added");
        let begun = Instant::now();
        assert_eq!(seen(&poller, Some(Duration::from_millis(20))), []);
        assert!(begun.elapsed() >= Duration::from_millis(20));
        let theirs = std::sync::Arc::clone(&bell);
        let ringer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            theirs.ring_always();
        });
        assert_eq!(seen(&poller, Some(Duration::from_secs(60))), [(1, true)]);
        ringer.join().expect("its end");
    }
}
