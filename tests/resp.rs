//! Sessions over the real state: plays whose replies were taken from Redis, and a client library as the judge of our bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use corduroy::config::Config;
use corduroy::config::redis::{Live, Refused};
use corduroy::resp::commands::table;
use corduroy::resp::errors::PREFIXES;
use corduroy::resp::parse::{Limits, Parsed, Parser};
use corduroy::resp::{Backend, Figure, Opening, Session, Timing, hub};
use corduroy::store::{HashSeed, MemLevel, Options, Outcome, Store};
use corduroy_shards::wal::{Lsn, Term};
use corduroy_shards::{Applied, Kind, PartitionId, Reply, StateMachine, Step, Ticket};

type State = Store<MemLevel>;

type Submitted = (Ticket, PartitionId, Kind, Vec<u8>);

/// A node of one core without a log.
struct Node {
    partitions: Vec<PartitionId>,
    submitted: RefCell<VecDeque<Submitted>>,
    now_ms: Cell<u64>,
    live: RefCell<Live>,
}

impl Backend for Node {
    fn partition_of_slot(&self, slot: u16) -> PartitionId {
        self.partitions[usize::from(slot) * self.partitions.len() / 16384]
    }

    fn partitions(&self) -> &[PartitionId] {
        &self.partitions
    }

    fn submit(&self, ticket: Ticket, partition: PartitionId, kind: Kind, _: bool, op: &[u8]) {
        self.submitted.borrow_mut().push_back((ticket, partition, kind, op.to_vec()));
    }

    fn get_now(&self, _: PartitionId, _: u64, _: (Kind, &[u8]), _: &mut dyn FnMut(Option<&[u8]>)) -> bool {
        false
    }

    fn prefetch(&self, _: &[&[u8]]) {}

    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn now_us(&self) -> u64 {
        self.now_ms() * 1000
    }

    fn mono_ns(&self) -> u64 {
        0
    }

    fn info(&self, _: &[&[u8]]) -> String {
        String::new()
    }

    fn memory_stats(&self) -> Vec<(&'static str, Figure)> {
        Vec::new()
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        self.live.borrow().all()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.live.borrow().get(name)
    }

    fn config_set(&self, changes: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        self.live.borrow_mut().set_all(changes)
    }

    fn requires_password(&self) -> Option<String> {
        None
    }
}

struct Talk {
    node: Node,
    state: State,
    session: Session,
    lsn: u64,
}

impl Talk {
    fn new(partitions: u64) -> Self {
        let node = Node {
            partitions: (2..2 + partitions).map(PartitionId).collect(),
            submitted: RefCell::default(),
            now_ms: Cell::new(1_700_000_000_000),
            live: RefCell::new(Live::new(Config::default(), 0)),
        };
        let state =
            Store::open(MemLevel::default(), Options::with_memory(64 << 20, HashSeed([1, 2])), &[]).unwrap();
        let opening = Opening {
            conn: 1,
            core: 0,
            peer: "127.0.0.1:1".to_owned(),
            local: "127.0.0.1:2".to_owned(),
            fd: 5,
        };
        let session = Session::new(&hub(1), opening, &node);
        Self { node, state, session, lsn: 0 }
    }

    fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.input(bytes, &self.node);
        let mut out = Vec::new();
        loop {
            let next = self.node.submitted.borrow_mut().pop_front();
            if let Some((ticket, partition, kind, op)) = next {
                let outcome = self.carry_out(partition, kind, &op);
                self.session.reply(
                    ticket,
                    Reply::Done { lsn: Lsn(self.lsn), outcome },
                    &Timing::default(),
                    &self.node,
                );
                continue;
            }
            let some = self.session.take_output().to_vec();
            out.extend_from_slice(&some);
            self.session.resume(&self.node);
            if some.is_empty() && self.node.submitted.borrow().is_empty() {
                return out;
            }
        }
    }

    fn carry_out(&mut self, partition: PartitionId, kind: Kind, op: &[u8]) -> Outcome {
        self.lsn += 1;
        let now = self.node.now_ms();
        let at = Applied::first(partition, Lsn(self.lsn), Term(1), now);
        loop {
            let step = match kind {
                Kind::Write => self.state.apply(&at, op),
                Kind::Read | Kind::ReadAnywhere => self.state.read(partition, op, now),
            };
            if let Step::Done(outcome) = step {
                if kind == Kind::Write {
                    self.state.end_entry(&at);
                }
                return outcome;
            }
            let mut jobs = Vec::new();
            self.state.take_jobs(&mut jobs);
            assert!(!jobs.is_empty(), "a blocked step has queued a job");
            for job in jobs {
                self.state.job_done(State::run_job(job)).unwrap();
            }
        }
    }
}

/// Reads one reply off the front of `bytes` and writes it as a play does: headers and values on lines of their own.
fn unfold<'a>(bytes: &'a [u8], lines: &mut Vec<String>) -> &'a [u8] {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a whole reply");
    let header = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut rest = &bytes[end + 2..];
    let count: i64 = header[1..].parse().unwrap_or(0);
    match bytes[0] {
        b'$' | b'=' if count >= 0 => {
            let (value, after) = rest.split_at(count as usize);
            lines.push(header);
            lines.push(value.escape_ascii().to_string());
            rest = after.strip_prefix(b"\r\n").expect("a value ends in a line end");
        }
        b'*' | b'~' | b'>' => {
            lines.push(header);
            for _ in 0..count {
                rest = unfold(rest, lines);
            }
        }
        b'%' => {
            lines.push(header);
            for _ in 0..2 * count {
                rest = unfold(rest, lines);
            }
        }
        _ => lines.push(header),
    }
    rest
}

/// Plays a script: `> request` lines, each followed by its reply.
#[track_caller]
fn play(script: &str) {
    let mut talk = Talk::new(1);
    let mut differences = Vec::new();
    for part in format!("\n{}", script.trim_end()).split("\n> ").skip(1) {
        let (request, expected) = part.split_once('\n').expect("a reply follows each request");
        let expected = format!("{expected}\n");
        let out = talk.say(format!("{request}\r\n").as_bytes());
        let mut lines = Vec::new();
        let mut rest = out.as_slice();
        while !rest.is_empty() {
            rest = unfold(rest, &mut lines);
        }
        let got: String = lines.iter().map(|line| format!("{line}\n")).collect();
        if got != expected {
            differences.push(format!("> {request}\n{got}  instead of\n{expected}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn strings() {
    play(include_str!("scripts/resp/strings.play"));
}

#[test]
fn keys() {
    play(include_str!("scripts/resp/keys.play"));
}

#[test]
fn transactions() {
    play(include_str!("scripts/resp/transactions.play"));
}

#[test]
fn errors() {
    play(include_str!("scripts/resp/errors.play"));
}

/// Where we answer otherwise than Redis, on purpose.
#[test]
fn differences() {
    play(include_str!("scripts/resp/differs.play"));
}

#[test]
fn what_a_client_library_packs_is_what_is_parsed() {
    let args: [&[u8]; 5] = [b"SET", b"", b"a\r\nb", &[0, 255, b'$'], &[b'x'; 5000]];
    for count in 1..=args.len() {
        let mut command = redis::Cmd::new();
        args[..count].iter().for_each(|arg| _ = command.arg(arg));
        let bytes = command.get_packed_command();
        let mut parser = Parser::default();
        assert_eq!(parser.parse(&bytes, &Limits::default()), Ok(Parsed::Request(bytes.len())));
        assert_eq!(parser.args(&bytes).as_slice(), &args[..count]);
    }
}

#[test]
fn a_client_library_reads_one_value_for_each_request() {
    let requests = [
        "COMMAND",
        "COMMAND DOCS",
        "COMMAND DOCS set client",
        "COMMAND INFO get client nosuch",
        "COMMAND LIST",
        "INFO everything",
        "CLIENT LIST",
        "CLIENT INFO",
        "CLIENT HELP",
        "CONFIG GET *",
        "MEMORY STATS",
        "SLOWLOG GET",
        "TIME",
        "SET a 1",
        "GET a",
        "GET nosuch",
        "MGET a nosuch",
        "SCAN 0",
        "LCS a a IDX",
        "TTL a",
        "OBJECT ENCODING a",
        "NOSUCH",
        "KEYS *",
        "WATCH a",
        "MULTI",
        "SET a 2",
        "EXEC",
    ];
    for hello in ["HELLO 2", "HELLO 3"] {
        for partitions in [1, 3] {
            let mut talk = Talk::new(partitions);
            talk.say(format!("{hello}\r\n").as_bytes());
            for request in requests {
                let out = talk.say(format!("{request}\r\n").as_bytes());
                let mut reader = std::io::Cursor::new(&out);
                // An error reply is a value too.
                redis::parse_redis_value(&out).unwrap_or_else(|error| panic!("{request}: {error}"));
                let mut parser = redis::Parser::new();
                parser.parse_value(&mut reader).unwrap_or_else(|error| panic!("{request}: {error}"));
                assert_eq!(reader.position() as usize, out.len(), "{request} got more than one value");
            }
        }
    }
}

/// What a reader wants to know first: whether the program at hand works, and above all where it seems to and does not.
#[test]
fn the_readme_says_near_its_top_what_works_and_what_does_not() {
    let readme = include_str!("../README.md");
    let top: Vec<&str> = readme.lines().take(40).collect();
    for (client, words) in [
        ("cachelib", "work"),
        ("Flask-Caching", "work"),
        ("Flask-Session", "work"),
        ("`RedisCache`", "works"),
        ("connect-redis", "work"),
        ("keyv", "work"),
        ("django-redis", "`incr`"),
        ("redlock-py", "unlocks"),
        ("node-redlock", "`EVAL`"),
        ("Celery", "lists"),
    ] {
        let is_row = |line: &&&str| line.starts_with('|') && line.contains(client) && line.contains(words);
        assert!(top.iter().any(|line| is_row(&line)), "no row near the top has {client} and {words}");
    }
    for silent in ["django-redis", "redlock-py"] {
        let row = top.iter().find(|line| line.contains(silent)).unwrap();
        assert!(row.contains("without a word") || row.contains("does not hear of it"), "{row}");
    }
    let first = readme.split("\n\n").nth(1).unwrap();
    assert!(first.contains("does not ([what\nworks](#what-works-with-it))"), "{first}");
}

#[test]
fn the_readme_knows_every_command_and_every_error_prefix() {
    let readme = include_str!("../README.md");
    let table = table();
    let listed = table.top.iter().map(|&index| table.entry(index)).filter(|entry| entry.is_listed());
    for name in listed.map(|entry| entry.row.name.to_ascii_uppercase()) {
        assert!(readme.contains(&format!("`{name}`")), "{name} is missing in the README");
    }
    // Those that are refused by name; the rest of them is what a browser sends.
    let refused = table.top.iter().map(|&index| table.entry(index)).filter(|entry| !entry.is_listed());
    let names: Vec<_> = refused.map(|entry| entry.row.name.to_ascii_uppercase()).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names.iter().filter(|name| *name != "HOST:") {
        assert!(readme.contains(&format!("`{name}`")), "{name}, which is refused, is missing in the README");
    }
    for row in PREFIXES {
        let line = format!("| `{}` | {} | {} |", row.prefix, row.when, row.retry);
        assert!(readme.contains(&line), "the README's table of errors should have: {line}");
    }
}
