//! What the protocol costs: parsing, rendering, and a session's whole work for a request, without the shard behind it.
//!
//! Figures are for a pipeline of 64 requests; divide by 64 for one.
#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark")]

use std::cell::RefCell;
use std::hint::black_box;

use corduroy::config::redis::Refused;
use corduroy::resp::parse::{Limits, Parsed, Parser};
use corduroy::resp::reply::Writer;
use corduroy::resp::{Backend, Figure, Opening, Output, Session, Timing, hub};
use corduroy::store::Outcome;
use corduroy_shards::wal::Lsn;
use corduroy_shards::{Kind, PartitionId, Reply, Ticket};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const DEPTH: usize = 64;
const VALUE: [u8; 64] = [b'x'; 64];

/// A node that has every key in memory and remembers who asked.
struct Node {
    tickets: RefCell<Vec<Ticket>>,
    partitions: [PartitionId; 1],
    started: std::time::Instant,
}

impl Backend for Node {
    fn partition_of_slot(&self, _: u16) -> PartitionId {
        self.partitions[0]
    }

    fn partitions(&self) -> &[PartitionId] {
        &self.partitions
    }

    fn submit(&self, ticket: Ticket, _: PartitionId, _: Kind, _: bool, op: &[u8]) {
        black_box(op);
        self.tickets.borrow_mut().push(ticket);
    }

    fn get_now(
        &self,
        _: PartitionId,
        _: u64,
        (_, op): (Kind, &[u8]),
        with: &mut dyn FnMut(Option<&[u8]>),
    ) -> bool {
        black_box(op);
        with(Some(&VALUE));
        true
    }

    fn prefetch(&self, _: &[&[u8]]) {}

    fn now_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn now_us(&self) -> u64 {
        self.now_ms() * 1000
    }

    fn mono_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn info(&self, _: &[&[u8]]) -> String {
        String::new()
    }

    fn memory_stats(&self) -> Vec<(&'static str, Figure)> {
        Vec::new()
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }

    fn config_set(&self, _: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        Ok(())
    }

    fn requires_password(&self) -> Option<String> {
        None
    }
}

fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let mut mset: Vec<&[u8]> = vec![b"MSET"];
    (0..10).for_each(|_| mset.extend([&b"key:000000000042"[..], &VALUE[..3]]));
    vec![
        ("ping", request(&[b"PING"])),
        ("get", request(&[b"GET", b"key:000000000042"])),
        ("set", request(&[b"SET", b"key:000000000042", &VALUE])),
        ("incr", request(&[b"INCR", b"counter:000000000042"])),
        ("mset10", request(&mset)),
    ]
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp/parse");
    group.throughput(Throughput::Elements(DEPTH as u64));
    for (name, bytes) in requests() {
        let bytes = bytes.repeat(DEPTH);
        let limits = Limits::default();
        let mut parser = Parser::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut used = 0;
                while let Ok(Parsed::Request(len)) = parser.parse(&bytes[used..], &limits) {
                    black_box(parser.args(&bytes[used..]).as_slice());
                    used += len;
                }
                assert_eq!(used, bytes.len());
            });
        });
    }
    group.finish();
}

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp/session");
    group.throughput(Throughput::Elements(DEPTH as u64));
    for (name, bytes) in requests() {
        let bytes = bytes.repeat(DEPTH);
        let node = Node {
            tickets: RefCell::default(),
            partitions: [PartitionId(2)],
            started: std::time::Instant::now(),
        };
        let opening = Opening { conn: 1, core: 0, peer: String::new(), local: String::new(), fd: 0 };
        let mut session = Session::new(&hub(1), opening, &node);
        let mut tickets = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                session.input(&bytes, &node);
                std::mem::swap(&mut tickets, &mut node.tickets.borrow_mut());
                for ticket in tickets.drain(..) {
                    session.reply(
                        ticket,
                        Reply::Done { lsn: Lsn(1), outcome: Outcome::Ok },
                        &Timing::default(),
                        &node,
                    );
                }
                // As a socket does it that takes everything.
                let out = session.output_mut();
                assert!(out.len() >= 5 * DEPTH);
                out.advance(out.len());
            });
        });
    }
    group.finish();
}

fn render(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp/render");
    let mut out = Output::default();
    let outcomes = [
        ("ok", Outcome::Ok),
        ("int", Outcome::Int(123_456)),
        ("bulk64", Outcome::Bulk(VALUE.to_vec())),
        ("array100", Outcome::Array(vec![Outcome::Bulk(VALUE.to_vec()); 100])),
    ];
    for (name, outcome) in outcomes {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.truncate(0);
                Writer::new(&mut out, false).outcome(black_box(&outcome));
                black_box(&out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse, session, render);
criterion_main!(benches);
