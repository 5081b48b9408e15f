//! The whole generator against a small server that can be told to lie: every lie must be caught, and no honest server
//! be accused.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;

use crate::check::{Verdict, check};
use crate::cli::{Cli, Command};
use crate::report::{Label, Report};
use crate::resp::{self, Reply};
use crate::run::{Outcome, run};
use crate::{journal, report};

/// How a server misbehaves. The number: at each so-many-th write (or read, for `StaleRead`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Acknowledges a write and drops it.
    Lose(u64),
    /// Stores other bytes than it was given.
    Corrupt(u64),
    /// Stores the value under the next key.
    Misplace(u64),
    /// Counts twice.
    CountTwice(u64),
    /// Answers a read from before the last write.
    StaleRead(u64),
    /// Refuses a write.
    Refuse(u64),
    /// Does not answer anybody for this many ms, once, at the hundredth request.
    StallMs(u64),
    /// Closes all connections at this request.
    DieAt(u64),
}

type Data = Arc<Mutex<HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)>>>;

struct Fake {
    fault: Fault,
    data: Data,
    requests: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    stall: Mutex<()>,
}

impl Fake {
    /// A server on a port of its own, for as long as the test runs.
    fn start(fault: Fault, data: &Data) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let fake = Arc::new(Fake {
            fault,
            data: Arc::clone(data),
            requests: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            stall: Mutex::new(()),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let fake = Arc::clone(&fake);
                std::thread::spawn(move || fake.serve(stream));
            }
        });
        addr
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).unwrap();
        let (mut inbox, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let len = stream.read(&mut chunk).ok().filter(|len| *len > 0)?;
            inbox.extend_from_slice(&chunk[..len]);
            let (mut out, mut used) = (Vec::new(), 0);
            while let Ok(Some((Reply::Array(_, mut items), len))) = resp::parse(&inbox[used..]) {
                used += len;
                let mut args = Vec::new();
                while let Ok(Some((Reply::Bulk(arg), len))) = resp::parse(items) {
                    args.push(arg);
                    items = &items[len..];
                }
                self.answer(&args, &mut out)?;
            }
            inbox.drain(..used);
            stream.write_all(&out).ok()?;
        }
    }

    fn is_turn(count: &AtomicU64, every: u64) -> bool {
        count.fetch_add(1, Ordering::SeqCst) % every == every - 1
    }

    fn answer(&self, args: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
        if matches!(args[0], b"INFO" | b"CONFIG" | b"PING") {
            out.extend_from_slice(if args[0] == b"PING" { b"+PONG\r\n" } else { b"$-1\r\n" });
            return Some(());
        }
        let request = self.requests.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::DieAt(at) if request >= at => return None,
            Fault::StallMs(ms) => {
                let _everybody_waits = self.stall.lock().unwrap();
                if request == 100 {
                    std::thread::sleep(Duration::from_millis(ms));
                }
            }
            _ => {}
        }
        match args {
            [b"GET", key] => {
                let stale =
                    matches!(self.fault, Fault::StaleRead(every) if Self::is_turn(&self.reads, every));
                let data = self.data.lock().unwrap();
                match data.get(*key).map(|(new, old)| if stale { old } else { new }) {
                    Some(value) if !value.is_empty() => resp_bulk(out, value),
                    _ => out.extend_from_slice(b"$-1\r\n"),
                }
            }
            [b"MGET", keys @ ..] => {
                out.extend_from_slice(
                    format!("*{}\r\n{}", keys.len(), "$-1\r\n".repeat(keys.len())).as_bytes(),
                );
            }
            [b"SET", key, value] => {
                let reply = self.set(key, value);
                out.extend_from_slice(reply);
            }
            [b"MSET", pairs @ ..] => {
                for pair in pairs.chunks(2) {
                    let _always_ok = self.set(pair[0], pair[1]);
                }
                out.extend_from_slice(b"+OK\r\n");
            }
            [b"INCR", key] => {
                let twice =
                    matches!(self.fault, Fault::CountTwice(every) if Self::is_turn(&self.writes, every));
                let mut data = self.data.lock().unwrap();
                let (value, _) = data.entry(key.to_vec()).or_default();
                let count: u64 = String::from_utf8_lossy(value).parse().unwrap_or(0);
                let count = count + 1 + u64::from(twice);
                *value = count.to_string().into_bytes();
                out.extend_from_slice(format!(":{count}\r\n").as_bytes());
            }
            other => panic!("the generator sent {other:?}"),
        }
        Some(())
    }

    fn set(&self, key: &[u8], value: &[u8]) -> &'static [u8] {
        let (mut key, mut value) = (key.to_vec(), value.to_vec());
        match self.fault {
            Fault::Lose(every) if Self::is_turn(&self.writes, every) => return b"+OK\r\n",
            Fault::Refuse(every) if Self::is_turn(&self.writes, every) => return b"-DISKFULL no space\r\n",
            Fault::Corrupt(every) if Self::is_turn(&self.writes, every) => *value.last_mut().unwrap() ^= 1,
            Fault::Misplace(every) if Self::is_turn(&self.writes, every) => *key.last_mut().unwrap() ^= 1,
            _ => {}
        }
        let mut data = self.data.lock().unwrap();
        let (new, old) = data.entry(key).or_default();
        *old = std::mem::replace(new, value);
        b"+OK\r\n"
    }
}

fn resp_bulk(out: &mut Vec<u8>, value: &[u8]) {
    resp::put_arg(out, value);
}

fn load(addr: SocketAddr, options: &str) -> (Outcome, Report) {
    let line = format!("corduroy-load --addr {addr} --drain 2 {options}");
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let plan = Arc::new(cli.load.plan(42).unwrap());
    let outcome = run(&plan, false).unwrap();
    let report = Report::new(&plan, Label::default(), &outcome);
    (outcome, report)
}

fn verify(fault: Fault, options: &str) -> (Verdict, Report) {
    let addr = Fake::start(fault, &Data::default());
    let (outcome, report) = load(addr, &format!("--verify -c 4 -t 2 -P 4 {options}"));
    (outcome.verdict.unwrap(), report)
}

#[test]
fn an_honest_server_is_not_accused() {
    for workload in ["set", "mset", "incr", "ycsb-a", "ycsb-b", "ycsb-f"] {
        let (verdict, report) = verify(Fault::None, &format!("-n 3000 -w {workload} -r 2000"));
        assert!(verdict.is_good() && report.is_good(), "{workload}: {verdict:?} {report:?}");
        assert_eq!(report.figures[0].answers, 3000, "{workload}");
        assert!(verdict.keys_acked > 1000, "{workload}: {verdict:?}");
    }
}

#[test]
fn workloads_that_are_not_tracked_get_the_answers_they_expect() {
    for workload in ["get", "ycsb-c", "ycsb-d", "ycsb-e"] {
        let addr = Fake::start(Fault::None, &Data::default());
        let (_, report) = load(addr, &format!("-w {workload} -c 2 -r 500 -n 1000 -P 8"));
        assert!(report.is_good(), "{workload}: {report:?}");
        assert_eq!(report.sent, 1000);
    }
}

#[test]
fn a_lost_write_is_caught() {
    for workload in ["set", "mset"] {
        let (verdict, report) = verify(Fault::Lose(10), &format!("-n 1000 -w {workload} -r 2000"));
        assert!(verdict.lost > 0 && verdict.never_written == 0, "{workload}: {verdict:?}");
        assert!(!report.is_good());
    }
}

#[test]
fn a_value_that_nobody_wrote_is_caught() {
    let (verdict, report) = verify(Fault::Corrupt(10), "-n 1000 -r 2000");
    assert!(verdict.never_written > 0 && verdict.lost == 0, "{verdict:?}");
    assert!(!report.is_good());
    let (verdict, _) = verify(Fault::Misplace(10), "-n 1000 -r 2000");
    assert!(verdict.never_written > 0 && verdict.lost > 0, "{verdict:?}");
}

#[test]
fn an_increment_that_counts_twice_is_caught() {
    let (_, report) = verify(Fault::CountTwice(100), "-n 1000 -w incr -r 2000");
    assert!(report.violations.iter().any(|it| it.kind.contains("doubled")), "{:?}", report.violations);
    assert!(!report.is_good());
}

#[test]
fn a_stale_read_is_caught() {
    let (verdict, report) = verify(Fault::StaleRead(10), "-n 2000 -w ycsb-a -r 50");
    assert!(report.violations.iter().any(|it| it.kind == "stale read"), "{report:?} {verdict:?}");
}

#[test]
fn error_replies_are_counted_and_fail_the_run_but_lose_nothing() {
    let (verdict, report) = verify(Fault::Refuse(10), "-n 1000 -r 2000");
    assert!(verdict.is_good(), "{verdict:?}");
    assert_eq!((report.errors[0].kind.as_str(), report.errors[0].count), ("DISKFULL", 100));
    assert!(!report.is_good());
}

/// Runs until the server dies, twice on one journal, and checks what a third server made of it.
fn crash_and_check(spoil: impl Fn(&Data)) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let data = Data::default();
    for round in 0..2 {
        let addr = Fake::start(Fault::DieAt(1500), &data);
        let options = format!("--journal {} --until-disconnect -c 4 -t 2 -P 4 -r 400", path.display());
        let (outcome, report) = load(addr, &options);
        assert!(outcome.server_went_away && report.is_good(), "round {round}: {report:?}");
        assert!(report.unanswered > 0, "round {round}: nothing was under way");
    }
    spoil(&data);
    let addr = Fake::start(Fault::None, &data);
    check_journal(&path, addr)
}

fn check_journal(path: &Path, addr: SocketAddr) -> Verdict {
    let kept = journal::read(path).unwrap().unwrap();
    check(addr, None, Duration::from_secs(5), &kept.prefix, &kept.ledger).unwrap()
}

#[test]
fn a_journal_proves_what_a_crash_kept() {
    let verdict = crash_and_check(|_| {});
    assert!(verdict.is_good() && verdict.keys_acked > 300, "{verdict:?}");
}

#[test]
fn a_journal_proves_what_a_crash_lost() {
    let verdict = crash_and_check(|data| {
        let mut data = data.lock().unwrap();
        let mut keys: Vec<_> = data.keys().cloned().collect();
        keys.sort();
        data.remove(&keys[7]);
        // Back to an older value, which is a real one.
        let (new, old) = data.get_mut(&keys[9]).unwrap();
        assert!(!old.is_empty(), "the key was written twice");
        std::mem::swap(new, old);
    });
    assert!((1..=2).contains(&verdict.lost) && verdict.never_written == 0, "{verdict:?}");
}

fn check_words(words: &[&str]) -> Result<bool, (u8, String)> {
    let words = ["corduroy-load", "check"].iter().chain(words);
    let Some(Command::Check(args)) = Cli::try_parse_from(words).unwrap().command else { panic!("check") };
    crate::check_journal(&args)
}

/// Without an address the run's own server is asked, and no other.
#[test]
fn a_check_remembers_the_server_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let addr = Fake::start(Fault::None, &Data::default());
    load(addr, &format!("--journal {} -c 4 -n 400 -r 100", path.display()));
    let journal = path.to_str().unwrap();
    assert_eq!(check_words(&[journal]), Ok(true));
    // Another server has none of it.
    let other = Fake::start(Fault::None, &Data::default()).to_string();
    assert_eq!(check_words(&[journal, "--addr", &other]), Ok(false));
    // One that is not there is named, with what named it.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&addr.to_string(), "127.0.0.1:1")).unwrap();
    let (code, why) = check_words(&[journal, "--wait", "0"]).unwrap_err();
    assert!(code == crate::EXIT_FAILED && why.contains("127.0.0.1:1, as the journal says"), "{why}");
}

#[test]
fn a_password_is_asked_for_and_never_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let server = journal::RunServer { addr: "127.0.0.1:1".to_owned(), with_password: true };
    journal::Journal::begin_run(&path, &server, "key:").unwrap();
    let mut journal = journal::Journal::open(&path).unwrap();
    journal.value_sent(1, 1);
    journal.flush().unwrap();
    let (code, why) = check_words(&[path.to_str().unwrap(), "--wait", "0"]).unwrap_err();
    assert!(code == crate::EXIT_USAGE && why.contains("CORDUROY_PASSWORD"), "{why}");
}

/// A crash test whose load never ran must not pass.
#[test]
fn a_journal_without_a_write_proves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    for make in [
        |path: &Path| std::fs::write(path, "").unwrap(),
        |path: &Path| {
            let server = journal::RunServer { addr: "127.0.0.1:1".to_owned(), with_password: false };
            journal::Journal::begin_run(path, &server, "key:").unwrap();
        },
    ] {
        make(&path);
        let (_, why) = check_words(&[path.to_str().unwrap()]).unwrap_err();
        assert!(why.contains("no write stands in it"), "{why}");
    }
}

/// One stall of 600 ms: in an open loop all requests that fell due in it pay, in a closed loop only those under way.
#[test]
fn a_stall_is_not_omitted() {
    let slow = |options: &str| {
        let addr = Fake::start(Fault::StallMs(600), &Data::default());
        let (outcome, report) = load(addr, &format!("-c 4 -P 1 -n 1000 {options}"));
        assert!(report.is_good(), "{report:?}");
        let latencies = outcome.recorder.all_latencies();
        latencies.len() - latencies.count_between(0, 300_000_000)
    };
    assert!(slow("") <= 4);
    let seen = slow("--rate 1000");
    assert!((150..=700).contains(&seen), "{seen} requests were slow");
}

#[test]
fn an_open_loop_that_is_too_fast_says_so() {
    let addr = Fake::start(Fault::StallMs(400), &Data::default());
    let (_, report) = load(addr, "-c 2 -P 1 -d 0.4 --rate 2000");
    assert!(report.unsent > 100, "{report:?}");
    assert!(report::table::render(&report).contains("DID NOT KEEP UP"));
}

#[test]
fn a_report_can_be_shown_in_every_form() {
    let addr = Fake::start(Fault::None, &Data::default());
    let (outcome, report) = load(addr, "-c 2 -n 500 -w ycsb-a -r 100");
    let table = report::table::render(&report);
    assert!(table.contains("update") && table.contains("p99.9"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&report::json(&report)).unwrap();
    assert_eq!(json["figures"][0]["answers"], 500);
    assert_eq!(json["load"]["workload"], "ycsb-a");
    let page = report::html::render(&report, &outcome.recorder);
    assert_eq!(page.matches("<svg").count(), 3);
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_the_run() {
    let data = Data::default();
    let addr = Fake::start(Fault::None, &data);
    for option in ["--json", "--hdr", "--html"] {
        let words = format!("corduroy-load -q -a {addr} -n 100 {option} /nonexistent/report");
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let (code, why) = crate::load(&cli.load).unwrap_err();
        assert_eq!(code, crate::EXIT_USAGE);
        assert!(why.contains("/nonexistent/report"), "{why}");
    }
    assert!(data.lock().unwrap().is_empty(), "nothing was sent");
}
