//! One connection: bytes out, replies in, requests on their way between them. Never waits, but for connecting.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::resp::{self, Reply};
use crate::workload::{Pending, Writes};

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No connection.
    #[error("cannot connect to {addr}: {source}; is a server running there? (--addr HOST:PORT)")]
    Io {
        /// Where to.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The password was refused.
    #[error("{addr} refused the password: {reply}")]
    Auth {
        /// Where to.
        addr: SocketAddr,
        /// What it said.
        reply: String,
    },
}

/// Connects, authenticates if there is a password, and leaves a blocking stream without Nagle's delay.
///
/// # Errors
/// If either fails within five seconds.
pub fn connect(addr: SocketAddr, password: Option<&str>) -> Result<TcpStream, ConnectError> {
    let io = |source| ConnectError::Io { addr, source };
    let timeout = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&addr, timeout).map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    if let Some(password) = password {
        stream.set_read_timeout(Some(timeout)).map_err(io)?;
        let mut inbox = Vec::new();
        let reply = ask(&mut stream, &mut inbox, &[b"AUTH", password.as_bytes()]).map_err(io)?;
        if let Answer::Error(reply) = reply {
            return Err(ConnectError::Auth { addr, reply });
        }
        stream.set_read_timeout(None).map_err(io)?;
    }
    Ok(stream)
}

/// A reply that owns its bytes, for the few questions that are asked outside the measured path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A value, or a simple string.
    Bytes(Vec<u8>),
    /// A number.
    Int(i64),
    /// No such key.
    Nil,
    /// A list, flattened to its strings.
    List(Vec<Vec<u8>>),
    /// An error.
    Error(String),
}

impl Answer {
    fn of(reply: Reply<'_>) -> Self {
        match reply {
            Reply::Simple(bytes) | Reply::Bulk(bytes) => Answer::Bytes(bytes.to_vec()),
            Reply::Int(number) => Answer::Int(number),
            Reply::Nil => Answer::Nil,
            Reply::Error(text) => Answer::Error(String::from_utf8_lossy(text).into_owned()),
            Reply::Array(count, mut items) => {
                let mut list = Vec::with_capacity(count);
                while let Ok(Some((item, len))) = resp::parse(items) {
                    if let Reply::Simple(bytes) | Reply::Bulk(bytes) = item {
                        list.push(bytes.to_vec());
                    }
                    items = items.get(len..).unwrap_or_default();
                }
                Answer::List(list)
            }
        }
    }
}

/// Sends one request on a blocking stream and waits for its reply.
///
/// # Errors
/// If the connection ends, or answers with what is no reply.
pub fn ask(stream: &mut TcpStream, inbox: &mut Vec<u8>, args: &[&[u8]]) -> std::io::Result<Answer> {
    let mut request = Vec::new();
    resp::put_request(&mut request, args);
    stream.write_all(&request)?;
    read_answer(stream, inbox)
}

/// Waits for the next reply on a blocking stream; `inbox` keeps what came after it.
///
/// # Errors
/// If the connection ends, or answers with what is no reply.
pub fn read_answer(stream: &mut TcpStream, inbox: &mut Vec<u8>) -> std::io::Result<Answer> {
    let mut chunk = [0_u8; 16 * 1024];
    loop {
        let parsed = resp::parse(inbox).map_err(|bad| std::io::Error::new(ErrorKind::InvalidData, bad))?;
        if let Some((reply, len)) = parsed {
            let answer = Answer::of(reply);
            inbox.drain(..len);
            return Ok(answer);
        }
        match stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            len => inbox.extend_from_slice(chunk.get(..len).unwrap_or_default()),
        }
    }
}

/// Whether a connection can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It can.
    Open,
    /// The server closed it, or the network did.
    Closed,
}

/// A connection in a run.
#[derive(Debug)]
pub struct Conn {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// Its number over all threads.
    pub number: u64,
    /// Requests on their way, oldest first.
    pub pending: VecDeque<Pending>,
    /// Keys and versions of tracked MSETs on their way.
    pub writes: Writes,
    /// Bytes to be sent.
    pub out: Vec<u8>,
    sent: usize,
    /// Bytes that came; those before `parsed` are done with.
    pub inbox: Vec<u8>,
    /// Whether the socket is watched for room to write.
    pub watches_write: bool,
    /// Whether it stands in the list of connections with room for a request.
    pub is_ready: bool,
    /// Whether it has bytes to send in this round.
    pub is_dirty: bool,
    /// Whether it can go on.
    pub health: Health,
    /// How many keys it has preloaded.
    pub preloaded: u64,
}

impl Conn {
    /// Takes a connected stream.
    ///
    /// # Errors
    /// If the socket cannot be set to non-blocking.
    pub fn new(stream: TcpStream, number: u64) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            number,
            pending: VecDeque::new(),
            writes: Writes::new(),
            out: Vec::new(),
            sent: 0,
            inbox: Vec::new(),
            watches_write: false,
            is_ready: false,
            is_dirty: false,
            health: Health::Open,
            preloaded: 0,
        })
    }

    /// Sends what the socket takes. True if something is left.
    pub fn flush(&mut self) -> bool {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.health = Health::Closed;
                    break;
                }
            }
        }
        self.out.clear();
        self.sent = 0;
        false
    }

    /// Reads once. True if there may be more. What came before an end is kept and may be parsed.
    pub fn read(&mut self, scratch: &mut [u8]) -> bool {
        match self.stream.read(scratch) {
            Ok(0) => {
                self.health = Health::Closed;
                false
            }
            Ok(len) => {
                self.inbox.extend_from_slice(scratch.get(..len).unwrap_or_default());
                len == scratch.len()
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(_) => {
                self.health = Health::Closed;
                false
            }
        }
    }

    /// A buffer of the size that `read` works best with.
    #[must_use]
    pub fn scratch() -> Vec<u8> {
        vec![0; READ_BYTES]
    }
}
