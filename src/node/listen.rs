//! Accepts connections: every core listens on the main port, on one of its own where configured, and on the Unix socket.
//!
//! Everything is listened on before anything else is touched: whoever starts a second server gets the error at once. Connections
//! that come meanwhile wait in the system's queue.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use corduroy_shards::runtime::{Listener, Poller, Socket};

use super::address::{Address, Ends};
use super::error::StartError;
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
    address: Address,
    /// Connections may be waiting.
    has_waiting: bool,
    /// Not before this time, on the monotonic clock.
    retry_at_ns: u64,
}

/// All that a node listens on.
#[derive(Debug)]
pub struct Listeners {
    /// For each core.
    pub cores: Vec<Vec<Listening>>,
    /// For each core, where peers connect to; none if the node is alone.
    pub peers: Vec<Listener>,
    /// Removed when it is dropped.
    pub unix: Option<UnixFile>,
}

/// Listens on everything, for so many cores.
///
/// # Errors
/// [`StartError::Listen`].
pub fn claim(config: &Config, cores: usize, peer: Option<SocketAddr>) -> Result<Listeners, StartError> {
    let mut listeners = Vec::new();
    // With port 0 the system chooses, once for all cores.
    let mut main = config.listen;
    for core in 0..cores {
        let mut own = Vec::new();
        own.push(if core == 0 { tcp(main, Listener::claim)? } else { tcp(main, Listener::bind)? });
        if let Some(Listening { listener, .. }) = own.first() {
            main = listener.local_addr().unwrap_or(main);
        }
        if config.core_ports > 0 {
            let number = u16::try_from(core).unwrap_or(u16::MAX);
            let mut address = config.listen;
            address.set_port(config.core_ports.saturating_add(number));
            own.push(tcp(address, Listener::claim)?);
        }
        listeners.push(own);
    }
    let mut unix = None;
    if let Some(path) = &config.unix_socket.0 {
        let address = Address::Unix(path.clone());
        let failed = |source| StartError::Listen { address: address.clone(), source };
        remove_dead(path).map_err(failed)?;
        let listener = Listener::bind_path(path, config.unix_socket_mode.0).map_err(failed)?;
        unix = Some(UnixFile::of(path).map_err(failed)?);
        for own in &mut listeners {
            own.push(Listening::new(listener.try_clone().map_err(failed)?, address.clone()));
        }
    }
    Ok(Listeners { cores: listeners, peers: claim_for_peers(cores, peer)?, unix })
}

/// Listens on the address for peers, on each core.
fn claim_for_peers(cores: usize, peer: Option<SocketAddr>) -> Result<Vec<Listener>, StartError> {
    let Some(address) = peer else { return Ok(Vec::new()) };
    let failed = |source| StartError::Listen { address: Address::Tcp(address), source };
    let listen = |core| if core == 0 { Listener::claim(address) } else { Listener::bind(address) };
    (0..cores).map(|core| listen(core).map_err(failed)).collect()
}

fn tcp(
    address: SocketAddr,
    listen: impl FnOnce(SocketAddr) -> io::Result<Listener>,
) -> Result<Listening, StartError> {
    let named = Address::Tcp(address);
    match listen(address) {
        Ok(listener) => Ok(Listening::new(listener, named)),
        Err(source) => Err(StartError::Listen { address: named, source }),
    }
}

/// Removes a socket that a server left behind; one that somebody listens on, or a file of any other kind, stays and is in
/// the way.
fn remove_dead(path: &Path) -> io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let is_dead =
        || UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.file_type().is_socket() && is_ours && is_dead() { std::fs::remove_file(path) } else { Ok(()) }
}

/// The Unix socket's file: removed at the end, unless another one has replaced it.
#[derive(Debug)]
pub struct UnixFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl UnixFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: inode(path)? })
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            // What cannot be removed is found dead at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listening {
    fn new(listener: Listener, address: Address) -> Self {
        Self { listener, address, has_waiting: true, retry_at_ns: 0 }
    }
}

/// A connection that was accepted.
pub enum Arrival {
    /// From and to these addresses.
    Client(Socket, Ends),
    /// By a descriptor that is kept for this: it gets an error that there is no room, and is closed.
    OneTooMany(Socket),
}

/// What a core listens on.
pub struct Doors {
    listening: Vec<Listening>,
    /// Given up to refuse a connection when there is no descriptor left.
    spare: Option<OwnedFd>,
}

impl Doors {
    /// These.
    pub fn new(listening: Vec<Listening>) -> Self {
        Self { listening, spare: spare_descriptor() }
    }

    /// Has connections that come be news. Returns where the first door is, if there is one and the system knows.
    ///
    /// # Errors
    /// The address, and what the system says.
    pub fn watch(&self, poller: &Poller) -> Result<Option<Option<SocketAddr>>, (Address, io::Error)> {
        for (index, own) in self.listening.iter().enumerate() {
            let watched = poller.watch_input(&own.listener, Event::Listener(index).token());
            watched.map_err(|error| (own.address.clone(), error))?;
        }
        Ok(self.listening.first().map(|own| own.listener.local_addr().ok()))
    }

    /// Takes news of a listener.
    pub fn notice(&mut self, index: usize) {
        if let Some(listening) = self.listening.get_mut(index) {
            listening.has_waiting = true;
        }
    }

    /// Stops accepting. Connections that were not accepted yet are reset.
    pub fn close(&mut self) {
        self.listening.clear();
    }

    /// Accepts what waits, some at a time, and hands each to `take`. Answers when to look again, on the monotonic clock, if
    /// any still wait.
    pub fn accept_all(&mut self, now_ns: u64, mut take: impl FnMut(Arrival)) -> Option<u64> {
        let mut again = None;
        for listening in &mut self.listening {
            if listening.has_waiting && listening.retry_at_ns <= now_ns {
                listening.accept(now_ns, &mut self.spare, &mut take);
            }
            if listening.has_waiting {
                again = Some(again.map_or(listening.retry_at_ns, |at: u64| at.min(listening.retry_at_ns)));
            }
        }
        again
    }
}

impl Listening {
    fn accept(&mut self, now_ns: u64, spare: &mut Option<OwnedFd>, take: &mut impl FnMut(Arrival)) {
        for _ in 0..ACCEPT_BATCH {
            match self.listener.try_accept() {
                Ok((socket, peer)) => {
                    let ends = self.ends(&socket, peer);
                    take(Arrival::Client(socket, ends));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.has_waiting = false;
                    return;
                }
                // The client gave up while it waited.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if is_out_of_descriptors(&error) && self.accept_one_too_many(spare, take) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.retry_at_ns = now_ns + RETRY_NS;
                    return;
                }
            }
        }
    }

    /// Takes one connection by the descriptor that is kept for this. Returns whether there was one.
    fn accept_one_too_many(&self, spare: &mut Option<OwnedFd>, take: &mut impl FnMut(Arrival)) -> bool {
        drop(spare.take());
        let accepted = self.listener.try_accept();
        let was_there = accepted.is_ok();
        if let Ok((socket, _)) = accepted {
            take(Arrival::OneTooMany(socket));
        }
        *spare = spare_descriptor();
        was_there
    }

    fn ends(&self, socket: &Socket, peer: Option<SocketAddr>) -> Ends {
        let (peer, local) = match &self.address {
            Address::Tcp(_) => (peer.map(Address::Tcp), socket.local_addr().ok().map(Address::Tcp)),
            unix @ Address::Unix(_) => (Some(unix.clone()), Some(unix.clone())),
        };
        Ends { peer, local }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// A descriptor to be given up when there is no other left; `None` if there is not even one.
fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
