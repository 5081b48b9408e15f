//! Accepts connections: every core listens on the main port, and on one of its own where configured.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use corduroy_shards::runtime::{Listener, Socket};

use super::connection;
use super::core::Core;
use super::event::Event;
use crate::config::Config;

/// Connections accepted in a row before others of the core get their turn.
const ACCEPT_BATCH: u32 = 32;
/// How long to wait after a connection could not be accepted: out of descriptors, most of all, so it would fail at once
/// again.
const RETRY_NS: u64 = 100_000_000;

/// One address that a core listens on.
#[derive(Debug)]
pub struct Listening {
    listener: Listener,
    /// Connections may be waiting.
    has_waiting: bool,
    /// Not before this time, on the monotonic clock.
    retry_at_ns: u64,
}

/// The addresses that a core listens on, the main one first.
pub fn addresses(config: &Config, core: usize) -> Vec<SocketAddr> {
    let mut addresses = vec![config.listen];
    if config.core_ports > 0 {
        let number = u16::try_from(core).unwrap_or(u16::MAX);
        let mut own = config.listen;
        own.set_port(config.core_ports.saturating_add(number));
        addresses.push(own);
    }
    addresses
}

/// Starts listening.
///
/// # Errors
/// The address, and what the system says.
pub fn start(core: &Core) -> Result<(), (SocketAddr, io::Error)> {
    let config = core.config();
    let mut listening = core.listening.borrow_mut();
    for address in addresses(&config, core.index) {
        let failed = |error| (address, error);
        let listener = Listener::bind(address).map_err(failed)?;
        let token = Event::Listener(listening.len()).token();
        core.poller.watch_input(&listener, token).map_err(failed)?;
        if address == config.listen {
            core.shared.say_ready(listener.local_addr().unwrap_or(address));
        }
        listening.push(Listening { listener, has_waiting: true, retry_at_ns: 0 });
    }
    Ok(())
}

/// Takes news of a listener.
pub fn notice(core: &Core, at: usize) {
    if let Some(listening) = core.listening.borrow_mut().get_mut(at) {
        listening.has_waiting = true;
    }
}

/// Accepts what waits, some at a time. Answers when to look again, on the monotonic clock, if any still wait.
pub fn accept_all(core: &Rc<Core>) -> Option<u64> {
    let mut again = None;
    for listening in core.listening.borrow_mut().iter_mut() {
        if listening.has_waiting && listening.retry_at_ns <= core.now().mono_ns {
            accept(core, listening);
        }
        if listening.has_waiting {
            again = Some(again.map_or(listening.retry_at_ns, |at: u64| at.min(listening.retry_at_ns)));
        }
    }
    again
}

fn accept(core: &Rc<Core>, listening: &mut Listening) {
    for _ in 0..ACCEPT_BATCH {
        match listening.listener.try_accept() {
            Ok((socket, peer)) => admit(core, socket, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                listening.has_waiting = false;
                return;
            }
            // The client gave up while it waited.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if is_out_of_descriptors(&error) && refuse_one(core, listening) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                listening.retry_at_ns = core.now().mono_ns + RETRY_NS;
                return;
            }
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// Takes one connection by a descriptor that is kept for this, tells it that there is no room, and lets it go. Returns
/// whether there was one.
fn refuse_one(core: &Core, listening: &Listening) -> bool {
    let mut spare = core.spare_fd.borrow_mut();
    drop(spare.take());
    let accepted = listening.listener.try_accept();
    let was_there = accepted.is_ok();
    if let Ok((socket, _)) = accepted {
        core.shared.connections.fetch_add(1, Ordering::Relaxed);
        connection::refuse(core, &socket);
    }
    *spare = spare_descriptor();
    was_there
}

/// A descriptor to be given up when there is no other left; `None` if there is not even one.
pub fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Stops accepting. Connections that were not accepted yet are reset.
pub fn stop(core: &Core) {
    core.listening.borrow_mut().clear();
}

/// Takes a connection in, if there is room for one more.
fn admit(core: &Rc<Core>, socket: Socket, peer: Option<SocketAddr>) {
    let before = core.shared.connections.fetch_add(1, Ordering::Relaxed);
    if before >= core.config().max_clients {
        connection::refuse(core, &socket);
    } else {
        connection::open(core, socket, peer);
    }
}
