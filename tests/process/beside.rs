//! The same requests to this server and to a redis-server of Debian's package beside it, over RESP2 and RESP3: replies must
//! be the same to the byte, error texts included. Left out where redis-server is not installed.
//!
//! A script (tests/scripts/beside) has one request a line, quoted as redis-cli does. `== name` starts anew: no keys, new
//! connections. In front of a request may stand how replies are compared: `%` lists in any order; `~` the kind of reply
//! alone, for times and figures; `!` they differ on purpose, and must; and then the number of the connection, `2`, where
//! it is not the first. `raw "bytes"` sends bytes on a connection of its own and compares all that comes until it is closed.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corduroy::config::knobs;
use tempfile::TempDir;

use crate::server::{Server, data_dir, free_port};

const STRINGS: &str = include_str!("../scripts/beside/strings.txt");
const KEYS: &str = include_str!("../scripts/beside/keys.txt");
const TRANSACTIONS: &str = include_str!("../scripts/beside/transactions.txt");
const CONNECTION: &str = include_str!("../scripts/beside/connection.txt");
const SERVER: &str = include_str!("../scripts/beside/server.txt");
const WIRE: &str = include_str!("../scripts/beside/wire.txt");
const SCRIPTS: [&str; 6] = [STRINGS, KEYS, TRANSACTIONS, CONNECTION, SERVER, WIRE];

/// A redis-server; killed when the test ends.
struct Redis {
    child: Child,
    port: u16,
    /// `7.0.15`.
    version: String,
    _dir: TempDir,
}

impl Redis {
    /// Starts one; `None` if it is not installed.
    fn start() -> Option<Self> {
        let Ok(version) = Command::new("redis-server").arg("--version").output() else {
            println!("left out: redis-server is not installed");
            return None;
        };
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let version = version.split("v=").nth(1)?.split(' ').next()?.to_owned();
        let dir = data_dir();
        let port = free_port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "no", "--save", ""])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("it just told its version");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Self { child, port, version, _dir: dir })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One reply.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    /// A line, its kind first.
    Line(String),
    /// Bytes, shown as text.
    Bytes(char, String),
    /// Elements; those of a map are pairs.
    List(char, Vec<Value>),
    /// The connection was closed.
    Closed,
}

impl Value {
    fn in_any_order(self) -> Self {
        match self {
            Self::List(kind, items) => {
                let mut items: Vec<Value> = items.into_iter().map(Value::in_any_order).collect();
                items.sort();
                Self::List(kind, items)
            }
            other => other,
        }
    }

    fn kind(&self) -> Option<char> {
        match self {
            Self::Line(line) => line.chars().next(),
            Self::Bytes(kind, _) | Self::List(kind, _) => Some(*kind),
            Self::Closed => None,
        }
    }
}

pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        stream.set_nodelay(true).expect("no delay");
        Self { reader: BufReader::new(stream) }
    }

    /// Opens one, if the server is there.
    pub fn try_open(port: u16) -> Option<Self> {
        TcpStream::connect(("127.0.0.1", port)).ok().map(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
            stream.set_nodelay(true).expect("no delay");
            Self { reader: BufReader::new(stream) }
        })
    }

    /// Sends a line to a server that may end.
    pub fn say_or_lose(&mut self, line: &str) {
        let _ = self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes());
    }

    /// A reply of one line of a server that may end; `None`: it has.
    pub fn read_or_lose(&mut self) -> Option<Value> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).unwrap_or(0);
        (count > 0 && line.ends_with('\n')).then(|| Value::Line(line.trim_end().to_owned()))
    }

    /// Sends a line as it is.
    pub fn say(&mut self, line: &str) {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("send");
    }

    fn send(&mut self, args: &[Vec<u8>]) {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        // A connection that the server has closed is seen when it is read.
        let _ = self.reader.get_mut().write_all(&request);
    }

    pub fn read(&mut self) -> Value {
        let mut line = Vec::new();
        if self.reader.read_until(b'\n', &mut line).expect("a reply in time") == 0 {
            return Value::Closed;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let kind = line.chars().next().expect("a reply has a kind");
        let count = line.get(1..).and_then(|count| count.parse::<usize>().ok());
        match (kind, count) {
            ('$' | '=', Some(count)) => {
                let mut bytes = vec![0; count + 2];
                self.reader.read_exact(&mut bytes).expect("the value");
                Value::Bytes(kind, bytes.strip_suffix(b"\r\n").expect("its end").escape_ascii().to_string())
            }
            ('*' | '~' | '>', Some(count)) => Value::List(kind, (0..count).map(|_| self.read()).collect()),
            ('%', Some(count)) => {
                let pairs = (0..count).map(|_| Value::List(' ', vec![self.read(), self.read()]));
                Value::List(kind, pairs.collect())
            }
            _ => Value::Line(line),
        }
    }

    /// All that comes for these bytes.
    fn raw(port: u16, bytes: &[u8]) -> Value {
        let mut connection = Self::open(port);
        let stream = connection.reader.get_mut();
        stream.write_all(bytes).expect("send");
        // A server that has hung up may have reset the connection already.
        let _ = stream.shutdown(Shutdown::Write);
        let mut came = Vec::new();
        let _ = stream.read_to_end(&mut came);
        Value::Bytes(' ', came.escape_ascii().to_string())
    }
}

/// The words of a line, as redis-cli reads them: apart by spaces, or in double quotes with C's escapes.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = line.trim_start().as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let mut word = Vec::new();
        if first == b'"' {
            rest = after;
            loop {
                match rest {
                    [b'"', after @ ..] => {
                        rest = after;
                        break;
                    }
                    [b'\\', b'x', high, low, after @ ..] => {
                        let digits = [*high, *low];
                        let digits = std::str::from_utf8(&digits).expect("hex digits");
                        word.push(u8::from_str_radix(digits, 16).expect("hex digits"));
                        rest = after;
                    }
                    [b'\\', escaped, after @ ..] => {
                        word.push(match escaped {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            other => *other,
                        });
                        rest = after;
                    }
                    [byte, after @ ..] => {
                        word.push(*byte);
                        rest = after;
                    }
                    [] => panic!("a quote is not closed: {line}"),
                }
            }
        } else {
            let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
            let (plain, after) = rest.split_at(end);
            word.extend_from_slice(plain);
            rest = after;
        }
        found.push(word);
        rest = rest.trim_ascii_start();
    }
    found
}

/// One server under comparison, with its connections by number.
struct Side {
    port: u16,
    hello: &'static str,
    connections: HashMap<char, Connection>,
}

impl Side {
    fn begin(&mut self) {
        self.connections.clear();
        let flushed = self.ask('1', &words("FLUSHALL"));
        assert_eq!(flushed, Value::Line("+OK".to_owned()));
        // Connections get their protocol before the section looks at them.
        self.connection('2');
    }

    fn connection(&mut self, name: char) -> &mut Connection {
        let (port, hello) = (self.port, self.hello);
        self.connections.entry(name).or_insert_with(|| {
            let mut connection = Connection::open(port);
            connection.send(&words(hello));
            connection.read();
            connection
        })
    }

    fn ask(&mut self, name: char, args: &[Vec<u8>]) -> Value {
        if let [first, bytes] = args
            && first == b"raw"
        {
            return Connection::raw(self.port, bytes);
        }
        let connection = self.connection(name);
        connection.send(args);
        connection.read()
    }
}

/// Splits off a mark, which stands before a space.
fn mark<'a>(line: &'a str, known: &str) -> (Option<char>, &'a str) {
    let mut chars = line.chars();
    match (chars.next(), chars.next()) {
        (Some(mark), Some(' ')) if known.contains(mark) => (Some(mark), chars.as_str()),
        _ => (None, line),
    }
}

/// The lines of a script that are no comments.
fn requests(script: &str) -> impl Iterator<Item = &str> {
    script.lines().filter(|line| !line.is_empty() && !line.starts_with("# "))
}

/// Runs a script on a server of its own and tells every difference.
#[track_caller]
fn compare(script: &str) {
    let Some(redis) = Redis::start() else { return };
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    compare_with(&redis, server.port, script, |_| true);
    server.stop();
}

/// Runs all scripts on the servers at these ports, which are nodes of a cluster, one after the other.
pub fn compare_all(ports: &[u16]) {
    let Some(redis) = Redis::start() else { return };
    for port in ports {
        // What Redis refuses outside of a cluster, and what it answers without replicas.
        let differs = |line: &str| ["CLUSTER ", "WAIT "].iter().any(|word| line.starts_with(word));
        let is_alike = |line: &str| !differs(line) && !["READONLY", "READWRITE"].contains(&line);
        SCRIPTS.iter().for_each(|script| compare_with(&redis, *port, script, is_alike));
    }
}

/// Runs the lines of a script on both that are `wanted`, and tells every difference.
#[track_caller]
fn compare_with(redis: &Redis, port: u16, script: &str, wanted: impl Fn(&str) -> bool) {
    let mut differences = Vec::new();
    let mut compared = 0;
    for hello in ["HELLO 2", "HELLO 3"] {
        let side = |port| Side { port, hello, connections: HashMap::new() };
        let (mut theirs, mut ours) = (side(redis.port), side(port));
        for line in requests(script).filter(|line| wanted(line)) {
            if line.starts_with("== ") {
                theirs.begin();
                ours.begin();
                continue;
            }
            let (how, rest) = mark(line, "%~!");
            let (name, rest) = mark(rest, "2");
            let name = name.unwrap_or('1');
            let args = words(rest);
            let (wanted, got) = (theirs.ask(name, &args), ours.ask(name, &args));
            compared += 1;
            let same = match how {
                Some('~') => wanted.kind() == got.kind(),
                Some('%') => wanted.clone().in_any_order() == got.clone().in_any_order(),
                // What differs on purpose is known of one version.
                Some('!') => wanted != got || !redis.version.starts_with("7.0."),
                _ => wanted == got,
            };
            if !same {
                differences.push(format!("{hello}: {line}\n  redis {wanted:?}\n  ours  {got:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} of {compared}:\n{}", differences.len(), differences.join("\n"));
    assert!(compared > 40, "the script is empty");
}

/// Settings that a script sets though it has not read them: what they were before would be compared nowhere.
fn set_unread(script: &str) -> Vec<String> {
    let (mut read, mut found) = (HashSet::new(), Vec::new());
    for line in requests(script).filter(|line| !line.starts_with("== ")) {
        let (_, line) = mark(line, "%~!");
        let words: Vec<String> = words(mark(line, "2").1)
            .iter()
            .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
            .collect();
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["config", "get", names @ ..] => read.extend(names.iter().map(|name| (*name).to_owned())),
            ["config", "set", pairs @ ..] => {
                let names = pairs.iter().step_by(2).filter(|name| knobs::find(name).is_some());
                found.extend(names.filter(|name| !read.contains(**name)).map(|name| (*name).to_owned()));
            }
            _ => {}
        }
    }
    found
}

#[test]
fn scripts_read_settings_before_they_set_them() {
    assert_eq!(
        set_unread("CONFIG SET hz 1\n2 config get HZ\nCONFIG SET hz 2 nosuch 1 timeout 3"),
        ["hz", "timeout"]
    );
    for script in SCRIPTS {
        assert_eq!(set_unread(script), [""; 0]);
    }
}

#[test]
fn string_commands() {
    compare(STRINGS);
}

#[test]
fn key_commands() {
    compare(KEYS);
}

#[test]
fn transactions() {
    compare(TRANSACTIONS);
}

#[test]
fn connection_commands() {
    compare(CONNECTION);
}

#[test]
fn server_commands() {
    compare(SERVER);
}

#[test]
fn the_wire() {
    compare(WIRE);
}
