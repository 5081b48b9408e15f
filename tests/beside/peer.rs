//! The two servers, connections to them, and their replies to the byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::server::{data_dir, free_port};

/// A redis-server; killed when it is dropped.
pub struct Redis {
    child: Child,
    /// Where it listens.
    pub port: u16,
    _dir: TempDir,
}

impl Redis {
    /// Starts one; `None` if it is not installed.
    pub fn start() -> Option<Self> {
        let dir = data_dir();
        let port = free_port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "no", "--save", ""])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Self { child, port, _dir: dir })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One reply.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// A line, its kind first.
    Line(Vec<u8>),
    /// Bytes, and of which kind.
    Bulk(u8, Vec<u8>),
    /// Elements, and of which kind; those of a map one after another.
    List(u8, Vec<Reply>),
    /// The connection was closed.
    Closed,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{}", line.escape_ascii()),
            Self::Bulk(kind, bytes) => write!(f, "{}\"{}\"", char::from(*kind), bytes.escape_ascii()),
            Self::List(kind, items) => write!(f, "{}{items:?}", char::from(*kind)),
            Self::Closed => write!(f, "(closed)"),
        }
    }
}

impl Reply {
    /// The number that an integer reply holds.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Line(line) => std::str::from_utf8(line).ok()?.strip_prefix(':')?.parse().ok(),
            _ => None,
        }
    }

    /// Whether it says that there is nothing.
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Line(line) if line == b"$-1" || line == b"_")
    }

    /// The kind of reply; an error's first word belongs to it.
    pub fn kind(&self) -> Vec<u8> {
        match self {
            Self::Line(line) if line.starts_with(b"-") => {
                line.split(|byte| *byte == b' ').next().unwrap_or_default().to_vec()
            }
            Self::Line(line) => line[..1].to_vec(),
            Self::Bulk(kind, _) | Self::List(kind, _) => vec![*kind],
            Self::Closed => Vec::new(),
        }
    }

    /// With its lists in order, to compare what has none.
    pub fn sorted(&self) -> Self {
        match self {
            Self::List(kind, items) => {
                let mut items: Vec<Reply> = items.iter().map(Reply::sorted).collect();
                items.sort();
                Self::List(*kind, items)
            }
            other => other.clone(),
        }
    }
}

/// One connection.
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
        stream.set_nodelay(true).expect("no delay");
        Self { reader: BufReader::new(stream) }
    }

    fn send(&mut self, bytes: &[u8]) {
        // A connection that the server has closed is seen when it is read.
        let _ = self.reader.get_mut().write_all(bytes);
    }

    fn read(&mut self) -> Reply {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => return Reply::Closed,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no reply within a minute")
            }
            Err(_) => return Reply::Closed,
        }
        line.truncate(line.len() - 2);
        let count = std::str::from_utf8(&line[1..]).ok().and_then(|count| count.parse::<usize>().ok());
        match (line[0], count) {
            (kind @ (b'$' | b'='), Some(count)) => {
                let mut bytes = vec![0; count + 2];
                self.reader.read_exact(&mut bytes).expect("the value");
                bytes.truncate(count);
                Reply::Bulk(kind, bytes)
            }
            (kind @ (b'*' | b'~' | b'>'), Some(count)) => {
                Reply::List(kind, (0..count).map(|_| self.read()).collect())
            }
            (b'%', Some(count)) => Reply::List(b'%', (0..2 * count).map(|_| self.read()).collect()),
            _ => Reply::Line(line),
        }
    }
}

/// A request in the protocol's words.
pub fn packed(args: &[Vec<u8>]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        request.extend_from_slice(arg);
        request.extend_from_slice(b"\r\n");
    }
    request
}

/// One server under comparison, with two connections.
pub struct Side {
    port: u16,
    hello: &'static [u8],
    connections: [Option<Connection>; 2],
    /// All settings, names and values in turn, as they were when the first round began.
    settings: Vec<Reply>,
}

impl Side {
    pub fn new(port: u16) -> Self {
        Self { port, hello: b"HELLO 2\r\n", connections: [None, None], settings: Vec::new() }
    }

    /// Starts anew with this version of the protocol.
    pub fn begin(&mut self, resp3: bool) {
        self.hello = if resp3 { b"HELLO 3\r\n" } else { b"HELLO 2\r\n" };
        self.connections = [None, None];
        self.open(0);
        self.open(1);
    }

    /// Sets all settings to what they were when this was asked for the first time.
    pub fn restore_settings(&mut self) {
        let words = ["CONFIG", "GET", "*"].map(|word| word.as_bytes().to_vec());
        let Reply::List(_, now) = self.ask(0, &words) else { panic!("no settings") };
        if self.settings.is_empty() {
            self.settings = now;
            return;
        }
        let changed: Vec<(Reply, Reply)> = self
            .settings
            .chunks(2)
            .filter(|first| !now.chunks(2).any(|now| now == *first))
            .map(|first| (first[0].clone(), first[1].clone()))
            .collect();
        for (name, value) in changed {
            let (Reply::Bulk(_, name), Reply::Bulk(_, value)) = (name, value) else { panic!("no setting") };
            let set = [b"CONFIG".to_vec(), b"SET".to_vec(), name, value];
            let reply = self.ask(0, &set);
            assert_eq!(reply, Reply::Line(b"+OK".to_vec()), "{}", set[2].escape_ascii());
        }
    }

    fn open(&mut self, at: usize) {
        let mut connection = Connection::open(self.port);
        connection.send(self.hello);
        connection.read();
        self.connections[at] = Some(connection);
    }

    fn connection(&mut self, at: usize) -> &mut Connection {
        if self.connections[at].is_none() {
            self.open(at);
        }
        self.connections[at].as_mut().expect("just opened")
    }

    pub fn send(&mut self, at: usize, bytes: &[u8]) {
        self.connection(at).send(bytes);
    }

    /// The next reply; a closed connection is opened again when it is needed.
    pub fn read(&mut self, at: usize) -> Reply {
        let reply = self.connection(at).read();
        if reply == Reply::Closed {
            self.connections[at] = None;
        }
        reply
    }

    pub fn ask(&mut self, at: usize, args: &[Vec<u8>]) -> Reply {
        self.send(at, &packed(args));
        self.read(at)
    }

    /// All that comes for these bytes on a connection of their own.
    pub fn raw(&self, bytes: &[u8]) -> Reply {
        let mut connection = Connection::open(self.port);
        connection.send(bytes);
        // A server that has hung up may have reset the connection already.
        let _ = connection.reader.get_mut().shutdown(Shutdown::Write);
        let mut came = Vec::new();
        let _ = connection.reader.read_to_end(&mut came);
        Reply::Bulk(b' ', came)
    }

    /// All keys that a walk with SCAN finds, each once; or the error.
    pub fn walk(&mut self, at: usize, options: &[Vec<u8>]) -> Reply {
        let mut cursor = b"0".to_vec();
        let mut found = std::collections::BTreeSet::new();
        loop {
            let args: Vec<Vec<u8>> = [&[b"SCAN".to_vec(), cursor][..], options].concat();
            let reply = self.ask(at, &args);
            let Reply::List(_, items) = &reply else { return reply };
            let [Reply::Bulk(_, next), Reply::List(_, keys)] = items.as_slice() else { return reply };
            found.extend(keys.iter().cloned());
            cursor = next.clone();
            if cursor == b"0" {
                return Reply::List(b'*', found.into_iter().collect());
            }
        }
    }
}
