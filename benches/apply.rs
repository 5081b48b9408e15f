//! The state's point operations: applying SET and INCR, GET through the short way and as an op, and a flush.
//!
//! `cargo bench --bench apply`. 200,000 keys of 16 bytes with values of 64 bytes, touched at random, so that a row is
//! seldom in the processor's nearest cache.

use std::hint::black_box;

use corduroy::store::{Expiry, HashSeed, MemLevel, Op, Options, Outcome, SetReply, SetWhen, Store};
use corduroy_shards::{Applied, PartitionId, StateMachine, Step};
use corduroy_wal::{Lsn, Term};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const KEYS: u64 = 200_000;
const PARTITION: PartitionId = PartitionId(2);

/// A store with all keys, and where its log stands.
struct Bench {
    store: Store<MemLevel>,
    lsn: u64,
    pick: u64,
    jobs: Vec<<Store<MemLevel> as StateMachine>::Job>,
}

fn key(n: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    for (at, byte) in key.iter_mut().rev().take(12).enumerate() {
        *byte += u8::try_from(n / 10u64.pow(u32::try_from(at).expect("12 digits")) % 10).expect("a digit");
    }
    key
}

fn set_op(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut op = Vec::new();
    let (when, expiry, reply) = (SetWhen::Always, Expiry::Clear, SetReply::Ok);
    Op::Set { key, value, when, expiry, reply }.encode(&mut op);
    op
}

impl Bench {
    fn new() -> Self {
        let options = Options::with_memory(4 << 30, HashSeed([1, 2]));
        let store = Store::open(MemLevel::default(), options, &[]).expect("memory");
        let mut bench = Self { store, lsn: 0, pick: 1, jobs: Vec::new() };
        for n in 0..KEYS {
            bench.apply(&set_op(&key(n), &[b'v'; 64]));
        }
        bench.settle();
        bench
    }

    /// The next key, by a linear congruence that visits all.
    fn next(&mut self) -> [u8; 16] {
        self.pick =
            (self.pick.wrapping_mul(6_364_136_223_846_793_005)).wrapping_add(1_442_695_040_888_963_407);
        key((self.pick >> 33) % KEYS)
    }

    fn apply(&mut self, op: &[u8]) -> Step<Outcome> {
        self.lsn += 1;
        let at = Applied::first(PARTITION, Lsn(self.lsn), Term(1), 1);
        let step = self.store.apply(&at, op);
        self.store.end_entry(&at);
        step
    }

    fn settle(&mut self) {
        while self.store.maintain(1_000_000) || !self.jobs.is_empty() {
            self.run_jobs();
        }
        self.run_jobs();
    }

    fn run_jobs(&mut self) {
        self.store.take_jobs(&mut self.jobs);
        for job in self.jobs.drain(..) {
            self.store.job_done(Store::run_job(job)).expect("memory");
        }
    }
}

fn point_operations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(1));
    let mut bench = Bench::new();
    let sets: Vec<Vec<u8>> = (0..8192).map(|_| set_op(&bench.next(), &[b'w'; 64])).collect();
    let mut at = sets.iter().cycle();
    group.bench_function("set 64 B, existing key", |b| {
        b.iter(|| black_box(bench.apply(at.next().expect("a cycle"))));
        bench.settle();
    });
    let incrs: Vec<Vec<u8>> = (0..8192u64)
        .map(|n| {
            let mut op = Vec::new();
            Op::IncrBy { key: &[b"counter:".as_slice(), &key(n)].concat(), delta: 1 }.encode(&mut op);
            op
        })
        .collect();
    let mut at = incrs.iter().cycle();
    group.bench_function("incr", |b| {
        b.iter(|| black_box(bench.apply(at.next().expect("a cycle"))));
        bench.settle();
    });
    let gets: Vec<Vec<u8>> = (0..8192)
        .map(|_| {
            let mut op = Vec::new();
            Op::Get { key: &bench.next() }.encode(&mut op);
            op
        })
        .collect();
    let mut at = gets.iter().cycle();
    group.bench_function("get, the short way", |b| {
        b.iter(|| {
            match bench
                .store
                .look(PARTITION, at.next().expect("a cycle"), 1, |looked| looked.value.map(<[u8]>::len))
            {
                Some(Some(bytes)) => black_box(bytes),
                other => unreachable!("{other:?}"),
            }
        });
    });
    let mut at = gets.iter().cycle();
    group.bench_function("get, as an op", |b| {
        b.iter(|| black_box(bench.store.read(PARTITION, at.next().expect("a cycle"), 1)));
    });
    group.finish();
}

criterion_group!(benches, point_operations);
criterion_main!(benches);
