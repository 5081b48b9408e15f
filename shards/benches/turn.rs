//! What the shard itself costs a request: a disk that is done at once, a state machine that does next to nothing.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hint::black_box;

use corduroy_shards::image::Header;
use corduroy_shards::image::ask::{ImageAsk, ImageEvent, refused};
use corduroy_shards::raft::group::{Group, GroupOptions};
use corduroy_shards::raft::log_store::LogStore;
use corduroy_shards::raft::membership::{MemberId, Membership};
use corduroy_shards::{
    Applied, Input, Kind, Now, Origin, Outputs, PartitionId, Prepared, Shard, ShardOptions, StateMachine,
    Step, StorageId, Ticket, Unreadable, Urgency,
};
use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::{HardState, Lsn, Options, Term, Wal};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft::eraftpb::ConfState;

/// Keeps one register a partition.
#[derive(Default)]
struct Registers {
    values: HashMap<u64, (u64, u64)>,
    persisted: HashMap<u64, u64>,
    jobs: Vec<HashMap<u64, u64>>,
    image_events: Vec<ImageEvent>,
}

impl StateMachine for Registers {
    type Outcome = u64;
    type View<'m> = u64;
    type Job = HashMap<u64, u64>;
    type JobDone = HashMap<u64, u64>;
    type Failure = Infallible;

    fn apply(&mut self, at: &Applied, op: &[u8]) -> Step<u64> {
        let register = self.values.entry(at.partition.0).or_default();
        register.0 = register.0.wrapping_add(op.len() as u64);
        Step::Done(register.0)
    }

    fn end_entry(&mut self, at: &Applied) {
        self.values.entry(at.partition.0).or_default().1 = at.lsn.get();
    }

    fn read(&mut self, partition: PartitionId, _op: &[u8], _now_ms: u64) -> Step<u64> {
        Step::Done(self.values.get(&partition.0).map_or(0, |register| register.0))
    }

    fn rests_on_clock(&self, _partition: PartitionId, _op: &[u8], _now_ms: u64) -> bool {
        false
    }

    fn look<T>(
        &mut self,
        partition: PartitionId,
        _op: &[u8],
        _now_ms: u64,
        with: impl FnOnce(u64) -> T,
    ) -> Option<T> {
        Some(with(self.values.get(&partition.0).map_or(0, |register| register.0)))
    }

    fn persisted(&self, partition: PartitionId) -> Lsn {
        Lsn(self.persisted.get(&partition.0).copied().unwrap_or_default())
    }

    fn maintain(&mut self, _budget_ns: u64) -> bool {
        false
    }

    fn take_jobs(&mut self, jobs: &mut Vec<Self::Job>) {
        jobs.append(&mut self.jobs);
    }

    fn abandon(&mut self, _number: u64) {}

    fn take_woken(&mut self, _woken: &mut Vec<(PartitionId, u64)>) {}

    fn run_job(job: Self::Job) -> Self::JobDone {
        job
    }

    fn job_done(&mut self, done: Self::JobDone) -> Result<(), Infallible> {
        self.persisted = done;
        Ok(())
    }

    fn want_flush(&mut self, _urgency: Urgency) {
        self.jobs.push(self.values.iter().map(|(partition, register)| (*partition, register.1)).collect());
    }

    fn takes_when_full(&self, _op: &[u8]) -> bool {
        false
    }

    fn step_bytes(&mut self, _outcome: &u64) -> usize {
        0
    }

    fn is_inside_entry(&self, _partition: PartitionId) -> bool {
        false
    }

    fn persisted_stamp_ms(&self, _partition: PartitionId) -> u64 {
        0
    }

    fn expect_replay(&mut self, _partition: PartitionId, _last: Lsn) {}

    fn take_alarms(&mut self, _partitions: &mut Vec<PartitionId>) {}

    fn alarm_ms(&mut self, _partition: PartitionId) -> Option<u64> {
        None
    }

    fn prepare(&mut self, _partition: PartitionId, _op: &[u8]) -> Prepared {
        Prepared::Ready
    }

    fn may_need_reads(&self, _partition: PartitionId) -> bool {
        false
    }

    fn prefetch<'o>(&self, ops: impl Iterator<Item = (PartitionId, &'o [u8])>) -> usize {
        ops.count()
    }

    fn is_light(&self, _partition: PartitionId, _op: &[u8]) -> bool {
        false
    }

    fn is_out_of_room(&self) -> bool {
        false
    }

    fn wants_retry(&self) -> bool {
        false
    }

    fn retry(&mut self) {}

    fn stalled_by(&self) -> Option<Unreadable> {
        None
    }

    fn verify_in_ns(&self) -> Option<u64> {
        None
    }

    fn verify(&mut self) {}

    // A group of one member neither sends images nor is sent any, nor is it left.

    fn ask_image(&mut self, ask: ImageAsk) {
        self.image_events.extend(refused(ask));
    }

    fn take_image_events(&mut self, events: &mut Vec<ImageEvent>) {
        events.append(&mut self.image_events);
    }

    fn clear(&mut self, _partition: PartitionId) -> bool {
        false
    }

    fn installed_image(&self, _partition: PartitionId) -> Option<Header> {
        None
    }
}

struct Bed {
    shard: Shard<MemDevice, Registers>,
    out: Outputs<Registers>,
    now: Now,
    seq: u64,
}

impl Bed {
    fn new(partitions: u64) -> Self {
        let partitions: Vec<_> = (2..2 + partitions).map(PartitionId).collect();
        let disk = MemDisk::new(1);
        let options = Options { segment_bytes: 16 << 20, ..Options::default() };
        let (wal, _) = Wal::open(disk.device(), options).expect("the log opens");
        let shard = Shard::open(
            ShardOptions { log_soft_segments: 2, ..ShardOptions::default() },
            wal,
            Registers::default(),
            &Origin::all_alone(&partitions, StorageId::UNKNOWN),
            7,
        )
        .expect("the shard opens");
        let mut bed = Self { shard, out: Outputs::default(), now: Now::default(), seq: 0 };
        (0..20).for_each(|_| bed.turn());
        assert!(
            partitions
                .iter()
                .all(|partition| bed.shard.replica(*partition).is_some_and(|replica| replica.is_ready()))
        );
        bed
    }

    fn turn(&mut self) {
        self.now.mono_ns += 1_000;
        self.shard.turn(self.now, &mut self.out).expect("the turn goes well");
        for job in self.out.jobs.drain(..) {
            self.shard.handle(Input::JobDone(Registers::run_job(job)));
        }
    }

    /// Hands requests in, spread over `partitions`, and turns until all are answered.
    fn round(&mut self, requests: u64, partitions: u64, op: &[u8]) {
        self.round_from(0, requests, partitions, op);
    }

    /// The same, with the first one for another partition.
    fn round_from(&mut self, first: u64, requests: u64, partitions: u64, op: &[u8]) {
        for request in first..first + requests {
            self.seq += 1;
            let ticket = Ticket { conn: request % 50, seq: self.seq };
            let partition = PartitionId(2 + request % partitions);
            self.shard.handle(Input::Request { ticket, partition, kind: Kind::Write, op });
        }
        let mut answered = 0;
        while answered < requests {
            self.turn();
            answered += self.out.replies.len() as u64;
            black_box(&self.out.replies);
            self.out.replies.clear();
        }
    }
}

fn turns(criterion: &mut Criterion) {
    let op = [7u8; 64];
    let mut group = criterion.benchmark_group("turn");
    for (requests, partitions) in [(1, 1), (16, 1), (64, 1), (256, 1), (256, 16), (256, 256)] {
        let mut bed = Bed::new(partitions);
        group.throughput(Throughput::Elements(requests));
        group.bench_function(BenchmarkId::new(format!("{partitions} partitions"), requests), |bencher| {
            bencher.iter(|| bed.round(requests, partitions, &op));
        });
    }
    let mut many = Bed::new(4_096);
    let mut first = 0;
    group.throughput(Throughput::Elements(256));
    group.bench_function("256 among 4096 partitions, others each turn", |bencher| {
        bencher.iter(|| {
            first = (first + 256) % 4_096;
            many.round_from(first, 256, 4_096, &op);
        });
    });
    let mut idle = Bed::new(10_000);
    group.throughput(Throughput::Elements(1));
    group.bench_function("idle among 10000 partitions", |bencher| bencher.iter(|| idle.turn()));
    let mut one = Bed::new(10_000);
    group.bench_function("one write among 10000 partitions", |bencher| {
        bencher.iter(|| one.round(1, 1, &op));
    });
    group.finish();
}

/// A group of one that leads, with its first entry applied.
fn lone_group(seed: u64) -> Group {
    let conf = ConfState { voters: vec![1], ..ConfState::default() };
    let store = LogStore::new(Lsn::ZERO, Term::ZERO, HardState::default(), conf);
    let saved = HardState::default();
    let members = (Membership::founding(MemberId::FIRST, StorageId::UNKNOWN), false);
    let (options, of) = (GroupOptions::default(), (PartitionId(1), seed));
    let mut group = Group::start(store, MemberId::FIRST, saved, members, &options, of)
        .expect("the crate takes the state");
    group.campaign().expect("it wins");
    commit_and_apply(&mut group);
    group
}

fn commit_and_apply(group: &mut Group) {
    let record = group.take(0).expect("it has no fault").expect("it has a record");
    group.persisted(record.number).expect("it has no fault");
    group.applied(group.committed()).expect("it has no fault");
}

/// What Raft alone costs an entry: nothing is written and nothing applied.
fn raft_alone(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("raft");
    bench.throughput(Throughput::Elements(256));
    for count in [1, 256, 1_024] {
        let mut groups: Vec<_> = (0..count).map(lone_group).collect();
        let mut next = 0;
        let payload = vec![7_u8; 110];
        let name = format!("256 entries, each of the next of {count} groups");
        bench.bench_function(name, |bencher| {
            bencher.iter(|| {
                for _ in 0..256 {
                    next = (next + 1) % groups.len();
                    let group = groups.get_mut(next).expect("it is below their number");
                    black_box(group.propose(payload.clone().into()).expect("it has no fault"));
                    commit_and_apply(group);
                }
            });
        });
    }
    bench.finish();
}

criterion_group!(benches, turns, raft_alone);
criterion_main!(benches);
