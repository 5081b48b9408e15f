//! Connections on a core: a listener and a socket, neither of which ever waits. The [`Poller`](super::Poller) reports when to try.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{
    set_socket_keepalive, set_socket_oobinline, set_socket_reuseaddr, set_socket_reuseport, set_tcp_keepidle,
    set_tcp_keepintvl, set_tcp_nodelay, set_tcp_user_timeout, socket_error,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

/// How long the listener of a process that was killed just now may outlive it.
const GHOST_WAIT: Duration = Duration::from_millis(200);
/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 1024;

/// Of every socket.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Accepts connections on this core. Several cores may listen on one address; the kernel spreads connections.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens on an address that nobody else listens on, and lets others of this user share it from then on: this
    /// process's other cores, by [`Listener::bind`]. What a killed server leaves behind does not count: its connections,
    /// which hold the address for a minute, and its listener, which may be there a moment longer.
    ///
    /// # Errors
    /// What the system says: the address is in use or not ours.
    pub fn claim(address: SocketAddr) -> io::Result<Self> {
        let begun = Instant::now();
        loop {
            match Self::listen(address, false) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < GHOST_WAIT => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error),
                Ok(listener) => {
                    set_socket_reuseport(&listener.0, true)?;
                    return Ok(listener);
                }
            }
        }
    }

    /// Listens on an address that this process has claimed.
    ///
    /// # Errors
    /// What the system says: the address is in use or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::listen(address, true)
    }

    fn listen(address: SocketAddr, shared: bool) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
        set_socket_reuseaddr(&fd, true)?;
        set_socket_reuseport(&fd, shared)?;
        rustix::net::bind(&fd, &address)?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self(fd))
    }

    /// Listens on a path of the file system, with these permissions.
    ///
    /// # Errors
    /// `AddrInUse` if something is there; else what the system says.
    pub fn bind_path(path: &Path, mode: u32) -> io::Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect yet, so nobody does with other permissions.
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
        rustix::net::listen(&fd, BACKLOG)?;
        Ok(Self(fd))
    }

    /// The same listener for another core.
    ///
    /// # Errors
    /// What the system says: out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// The address listened on (with the port chosen by the system, if it was 0).
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        local_addr(&self.0)
    }

    /// Takes the next connection, and the other end's address.
    ///
    /// # Errors
    /// `WouldBlock` if there is none; else what the system says: out of descriptors, most of all.
    pub fn try_accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        let (fd, peer) = rustix::net::acceptfrom_with(&self.0, FLAGS)?;
        // Small answers must not wait for more; a socket that is closed already fails here and is found out at reading.
        let _ = set_tcp_nodelay(&fd, true);
        // An urgent byte is a byte like any other: else reads would stop at it, with bytes behind it that nobody announces.
        let _ = set_socket_oobinline(&fd, true);
        Ok((Socket(fd), peer.and_then(|peer| SocketAddr::try_from(peer).ok())))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Begins to connect. Whether that came about is asked of [`Socket::connected`], once the socket can be written.
    ///
    /// # Errors
    /// What the system says at once: out of descriptors, no way there.
    pub fn dial(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
        set_tcp_nodelay(&fd, true)?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Self(fd)),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the connection that was begun is made.
    ///
    /// # Errors
    /// Why it is not: nobody listens there, no way there, no answer.
    pub fn connected(&self) -> io::Result<()> {
        Ok(socket_error(&self.0)??)
    }

    /// Has the kernel end the connection when the other side's machine has acknowledged nothing for that long: neither what
    /// was sent, nor, when nothing was, that it is there. Else what the kernel took for a machine that is lost is never
    /// heard of again.
    ///
    /// # Errors
    /// What the system says; the connection may be closed.
    pub fn give_up_after(&self, silence: Duration) -> io::Result<()> {
        let silence_ms = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
        // Asked twice in that time; the kernel counts whole seconds.
        let ask = (silence / 2).max(Duration::from_secs(1));
        set_tcp_user_timeout(&self.0, silence_ms)?;
        set_tcp_keepidle(&self.0, ask)?;
        set_tcp_keepintvl(&self.0, ask)?;
        Ok(set_socket_keepalive(&self.0, true)?)
    }

    /// This end's address.
    ///
    /// # Errors
    /// What the system says; the connection may be closed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        local_addr(&self.0)
    }

    /// The descriptor's number, for CLIENT LIST.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Reads what is there into `buffer`; the number of bytes. 0: the end. Fewer than asked for: nothing is left but perhaps
    /// the end, if that was announced; what comes later is a new event.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; else what the system says: connection reset.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = rustix::net::recv(&self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(count)
    }

    /// Sends what the socket takes at once; the number of bytes. Fewer than asked for: it is full, and room is an event.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing now; else what the system says: the connection is closed.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Ends both directions.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn local_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(fd)?)
        .map_err(|_| io::Error::other("not an internet address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Poller;
    use std::collections::VecDeque;
    use std::io::{Read, Write};

    /// Echoes one connection until its end, one thread, the way a core does it.
    fn echo(listener: &Listener) {
        let poller = Poller::new().expect("epoll");
        poller.watch_input(listener, 0).expect("watched");
        let mut socket = None;
        let mut unsent = VecDeque::new();
        let mut buffer = vec![0; 4096];
        let (mut is_ending, mut has_ended) = (false, false);
        while !has_ended || !unsent.is_empty() {
            let mut can_read = false;
            poller
                .wait(None, |token, ready| {
                    can_read |= token == 1 && ready.readable;
                    is_ending |= token == 1 && ready.ended;
                })
                .expect("epoll");
            if socket.is_none()
                && let Ok((accepted, peer)) = listener.try_accept()
            {
                assert!(peer.is_some_and(|peer| peer.ip().is_loopback()));
                assert_eq!(accepted.local_addr().expect("open"), listener.local_addr().expect("open"));
                poller.watch_both(&accepted, 1).expect("watched");
                socket = Some(accepted);
            }
            let Some(socket) = &socket else { continue };
            while can_read && !has_ended {
                match socket.try_recv(&mut buffer) {
                    Ok(count) => {
                        unsent.extend(buffer.iter().take(count));
                        has_ended = count == 0;
                        can_read = count == buffer.len() || is_ending;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => can_read = false,
                    Err(error) => panic!("{error}"),
                }
            }
            while !unsent.is_empty() {
                match socket.try_send(unsent.make_contiguous()) {
                    Ok(sent) => drop(unsent.drain(..sent)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    #[test]
    fn bytes_go_both_ways_and_the_end_is_seen() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("bind");
        let address = listener.local_addr().expect("address");
        let server = std::thread::spawn(move || echo(&listener));
        let mut client = std::net::TcpStream::connect(address).expect("connect");
        // More than both sockets buffer: the echo has to wait for its reader, and goes on.
        let sent: Vec<u8> = (0..8 << 20).map(|n: u32| n as u8).collect();
        let mut reader = client.try_clone().expect("clone");
        let size = sent.len();
        let check = std::thread::spawn(move || {
            let mut got = vec![0; size];
            reader.read_exact(&mut got).expect("echo");
            got
        });
        client.write_all(&sent).expect("write");
        assert!(check.join().expect("reader") == sent);
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        server.join().expect("its end");
    }

    #[test]
    fn several_listeners_share_an_address_of_either_family() {
        for ip in ["127.0.0.1", "::1"] {
            let first = Listener::claim(
                format!("{}:0", if ip == "::1" { "[::1]" } else { ip }).parse().expect("one"),
            );
            // A machine without IPv6 has nothing to share there.
            let Ok(first) = first else { continue };
            let address = first.local_addr().expect("address");
            let second = Listener::bind(address).expect("shared");
            let refused = Listener::claim(address).expect_err("another process would be told");
            assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
            assert_eq!(second.local_addr().expect("address"), address);
            assert_eq!(second.try_accept().map(drop).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
        }
    }
}
