//! TCP on a core: a listener, and a socket that reads into borrowed memory and writes without waiting.
//!
//! Reading waits for readiness and only then needs a buffer, so all connections of a core share one. Writing is a
//! direct non-blocking send, since it nearly always succeeds; only a full socket is waited for.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use rustix::net::{SendFlags, Shutdown};

/// How long the listener of a killed server may outlive it.
const GHOST_WAIT: Duration = Duration::from_secs(3);

/// Accepts connections on this core. Several cores may listen on one address; the kernel spreads connections.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// What the system says: the address is in use or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).map(Self).map_err(io::Error::from)
    }

    /// Fails if another process listens on this address already. Since every core's listener shares its port, binding
    /// alone would not notice a second server. What a killed server leaves behind does not count: its connections, which
    /// hold the address for a minute, and its listener, which lives on until the kernel has wound up its io_uring.
    ///
    /// # Errors
    /// What the system says: the address is in use or not ours.
    pub fn check_free(address: impl ToSocketAddrs) -> io::Result<()> {
        let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        let is_refused = |address: &SocketAddr| {
            std::net::TcpStream::connect_timeout(address, GHOST_WAIT)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        let begun = Instant::now();
        loop {
            match std::net::TcpListener::bind(addresses.as_slice()) {
                Ok(_listener) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                Err(_) if addresses.iter().all(is_refused) => return Ok(()),
                Err(error) if begun.elapsed() >= GHOST_WAIT => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The address listened on (with the port chosen by the system, if it was 0).
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr().map_err(io::Error::from)
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// What the system says; out of descriptors, most of all.
    pub async fn accept(&self) -> io::Result<Socket> {
        let stream = self.0.accept().await.map_err(io::Error::from)?;
        Ok(Socket::new(stream))
    }
}

/// One TCP connection.
#[derive(Debug)]
pub struct Socket {
    stream: RefCell<TcpStream>,
    fd: RawFd,
}

impl Socket {
    fn new(stream: TcpStream) -> Self {
        // Small answers must not wait for more; a socket that is closed already fails here and is found out at reading.
        let _ = stream.set_nodelay(true);
        let fd = stream.as_raw_fd();
        Self { stream: RefCell::new(stream), fd }
    }

    /// The other end's address.
    ///
    /// # Errors
    /// What the system says; the connection may be gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.borrow().peer_addr().map_err(io::Error::from)
    }

    /// This end's address.
    ///
    /// # Errors
    /// What the system says; the connection may be gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(self.borrow_fd())?;
        SocketAddr::try_from(address).map_err(|_| io::Error::other("not an internet address"))
    }

    /// The descriptor's number, for CLIENT LIST.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Waits until bytes are there, then reads them into `shared` and hands them to `each`, whose result it returns.
    /// `shared` is borrowed only while reading. No bytes: the other end has closed.
    ///
    /// # Errors
    /// What the system says: connection reset.
    pub async fn read_with<R>(
        &self,
        shared: &RefCell<Vec<u8>>,
        mut each: impl FnMut(&[u8]) -> R,
    ) -> io::Result<R> {
        poll_fn(|cx| {
            let mut buffer = shared.borrow_mut();
            let mut stream = self.stream.borrow_mut();
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(count)) => {
                    drop(stream);
                    Poll::Ready(Ok(each(buffer.get(..count).unwrap_or_default())))
                }
            }
        })
        .await
    }

    /// Sends what the socket takes at once; the number of bytes.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing now; else what the system says: the connection is gone.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.borrow_fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Waits until the socket takes something of `bytes`; the number of bytes.
    ///
    /// # Errors
    /// What the system says: the connection is gone.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes)).await
    }

    /// Ends both directions: a waiting read sees the end, a waiting send fails.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(self.borrow_fd(), Shutdown::Both);
    }

    fn borrow_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `fd` is the stream's own descriptor; the stream lives in `self`, never gives it up, and closes it only
        // when dropped, so it is open as long as this borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{CoreOptions, spawn_core};
    use std::io::{Read, Write};
    use std::sync::mpsc;

    #[test]
    fn bytes_go_both_ways_and_the_end_is_seen() {
        let (tell, told) = mpsc::channel();
        let options = CoreOptions { name: "socket".into(), cpu: None };
        let core = spawn_core(options, move || async move {
            let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("bind");
            tell.send(listener.local_addr().expect("address")).expect("told");
            let socket = listener.accept().await.expect("a client");
            let shared = RefCell::new(vec![0; 4096]);
            let mut seen = Vec::new();
            loop {
                let count = socket
                    .read_with(&shared, |bytes| {
                        seen.extend_from_slice(bytes);
                        bytes.len()
                    })
                    .await
                    .expect("read");
                if count == 0 {
                    break;
                }
                let mut rest = seen.as_slice();
                while !rest.is_empty() {
                    let sent = match socket.try_send(rest) {
                        Ok(sent) => sent,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            socket.send(rest).await.expect("send")
                        }
                        Err(error) => panic!("{error}"),
                    };
                    rest = rest.split_at(sent).1;
                }
                seen.clear();
            }
        })
        .expect("a core");
        let address = told.recv().expect("address");
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
        core.join().expect("its end");
    }
}
