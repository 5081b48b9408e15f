//! What waits for the disk level: each request is tried when it comes and once more when what it needs is there, and few
//! jobs bring it. Work is counted, so a shard that tries all that waits after each job fails here, however fast it is.

use std::collections::{BTreeMap, VecDeque};

use corduroy::store::{Expiry, HashSeed, List, MemLevel, Op, Options, Outcome, SetReply, SetWhen, Store};
use corduroy_shards::wal::device::mem::{MemDevice, MemDisk};
use corduroy_shards::wal::{Options as WalOptions, Wal};
use corduroy_shards::{
    Counters, Input, Kind, Now, Origin, Outputs, PartitionId, Reply, Shard, ShardOptions, StateMachine,
    StorageId, Ticket,
};

type Machine = Store<MemLevel>;

const P: PartitionId = PartitionId(1);
const KEYS: u64 = 400;
const CONNS: u64 = 50;

/// A shard whose memory holds next to nothing of its keys.
struct World {
    shard: Shard<MemDevice, Machine>,
    out: Outputs<Machine>,
    now: Now,
    jobs: VecDeque<<Machine as StateMachine>::Job>,
    /// Jobs that read keys.
    loads: u64,
    answers: BTreeMap<u64, Outcome>,
    asked: u64,
}

fn key(number: u64) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

fn set<'a>(key: &'a [u8], value: &'a [u8], when: SetWhen<'a>) -> Op<'a> {
    Op::Set { key, value, when, expiry: Expiry::Clear, reply: SetReply::Ok }
}

impl World {
    fn new() -> Self {
        let (wal, _) = Wal::open(MemDisk::new(1).device(), WalOptions::default()).expect("the log opens");
        let options = Options { load_jobs: 4, ..Options::with_memory(4 << 10, HashSeed([1, 2])) };
        let store = Store::open(MemLevel::default(), options, &[]).expect("the store opens");
        let origins = Origin::all_alone(&[P], StorageId::UNKNOWN);
        let shard = Shard::open(ShardOptions::default(), wal, store, &origins, 7).expect("the shard opens");
        let now = Now { mono_ns: 1_000_000_000, wall_ms: 1_700_000_000_000 };
        let mut world = Self {
            shard,
            out: Outputs::default(),
            now,
            jobs: VecDeque::new(),
            loads: 0,
            answers: BTreeMap::new(),
            asked: 0,
        };
        world.settle();
        for number in 0..KEYS {
            world.ask(&set(&key(number), number.to_string().as_bytes(), SetWhen::Always));
            world.settle();
        }
        world.answers.clear();
        world
    }

    fn ask(&mut self, op: &Op<'_>) -> u64 {
        self.asked += 1;
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        let ticket = Ticket { conn: self.asked % CONNS, seq: self.asked };
        let kind = if op.is_write() { Kind::Write } else { Kind::Read };
        self.shard.handle(Input::Request { ticket, partition: P, kind, op: &bytes });
        self.asked
    }

    fn turn(&mut self) {
        self.now.mono_ns += 1_000;
        self.shard.turn(self.now, &mut self.out).expect("the turn goes well");
        self.shard.check();
        self.shard.machine().check();
        for (ticket, reply, _) in self.out.take_replies() {
            let Reply::Done { outcome, .. } = reply else { panic!("{ticket:?} got {reply:?}") };
            assert!(self.answers.insert(ticket.seq, outcome).is_none(), "{ticket:?} is answered once");
        }
        self.loads += self.out.jobs.iter().filter(|job| format!("{job:?}") == "load").count() as u64;
        self.jobs.extend(self.out.jobs.drain(..));
    }

    /// Turns until nothing moves any more; each job ends in a turn of its own.
    fn settle(&mut self) {
        loop {
            self.turn();
            if self.out.again || self.shard.wal().in_flight() > 0 {
                continue;
            }
            let Some(job) = self.jobs.pop_front() else { return };
            self.shard.handle(Input::JobDone(Machine::run_job(job)));
        }
    }

    /// What these requests cost, in tries and jobs, and their answers.
    fn cost(&mut self, ops: &[Op<'_>]) -> (Counters, u64, Vec<Outcome>) {
        let (before, loads) = (*self.shard.counters(), self.loads);
        let asked: Vec<u64> = ops.iter().map(|op| self.ask(op)).collect();
        self.settle();
        let after = *self.shard.counters();
        let tries = Counters {
            read_tries: after.read_tries - before.read_tries,
            apply_tries: after.apply_tries - before.apply_tries,
            prepare_tries: after.prepare_tries - before.prepare_tries,
            ..Counters::default()
        };
        let answers = asked.iter().map(|seq| self.answers.remove(seq).expect("all are answered")).collect();
        (tries, self.loads - loads, answers)
    }
}

#[test]
fn reads_of_single_keys() {
    let mut world = World::new();
    let keys: Vec<Vec<u8>> = (0..KEYS).map(key).collect();
    let gets: Vec<Op<'_>> = keys.iter().map(|key| Op::Get { key }).collect();
    let (tries, loads, answers) = world.cost(&gets);
    let expected: Vec<_> = (0..KEYS).map(|number| Outcome::Bulk(number.to_string().into_bytes())).collect();
    assert_eq!(answers, expected);
    println!("{} tries of {KEYS} reads, {loads} jobs", tries.read_tries);
    // A row that was here when its read came may have gone when its turn comes.
    assert!(tries.read_tries <= 2 * KEYS + KEYS / 20, "{} tries of {KEYS} reads", tries.read_tries);
    assert!(loads <= KEYS / 16, "{loads} jobs for {KEYS} keys");
}

#[test]
fn reads_of_many_keys() {
    const EACH: usize = 8;
    let mut world = World::new();
    let keys: Vec<Vec<u8>> = (0..KEYS).map(key).collect();
    // Neighbours share keys, and each one's are brought by several jobs.
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let sets: Vec<Vec<&[u8]>> = (0..keys.len())
        .step_by(4)
        .map(|from| keys.iter().cycle().skip(from).take(EACH).copied().collect())
        .collect();
    let gets: Vec<Op<'_>> = sets.iter().map(|keys| Op::MGet { keys: List::Args(keys) }).collect();
    let (tries, loads, answers) = world.cost(&gets);
    for (at, answer) in answers.iter().enumerate() {
        let number = |place: usize| (4 * at + place) as u64 % KEYS;
        let expected = (0..EACH).map(|place| Outcome::Bulk(number(place).to_string().into_bytes())).collect();
        assert_eq!(*answer, Outcome::Array(expected));
    }
    let reads = gets.len() as u64;
    println!("{} tries of {reads} reads of {EACH} keys, {loads} jobs", tries.read_tries);
    assert!(tries.read_tries <= 2 * reads + reads / 20, "{} tries of {reads} reads", tries.read_tries);
    assert!(loads <= KEYS / 16, "{loads} jobs for {KEYS} keys");
}

#[test]
fn writes_that_need_old_rows() {
    let mut world = World::new();
    let keys: Vec<Vec<u8>> = (0..KEYS).map(key).collect();
    let writes: Vec<Op<'_>> = keys
        .iter()
        .enumerate()
        .map(|(number, key)| match number % 4 {
            0 => Op::IncrBy { key, delta: 1 },
            1 => Op::Append { key, value: b"0" },
            2 => set(key, b"new", SetWhen::Absent),
            _ => Op::Watch { key },
        })
        .collect();
    let (tries, loads, answers) = world.cost(&writes);
    for (number, answer) in answers.iter().enumerate() {
        let expected = match number % 4 {
            0 => Outcome::Int(number as i64 + 1),
            1 => Outcome::Int(number.to_string().len() as i64 + 1),
            2 => Outcome::Nil,
            _ => continue,
        };
        assert_eq!(*answer, expected, "key {number}");
    }
    let (prepares, applies) = (tries.prepare_tries, tries.apply_tries);
    println!("{prepares} looks at {KEYS} writes, applied in {applies} steps, {loads} jobs");
    assert!(prepares <= 2 * KEYS, "{prepares} looks at {KEYS} writes");
    assert!(applies <= KEYS + KEYS / 4, "{applies} tries to apply {KEYS} writes");
    assert!(loads <= KEYS / 8, "{loads} jobs for {KEYS} keys");
}
