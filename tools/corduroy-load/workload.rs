//! Makes requests: the next one of the mix, as bytes, with what its answer must look like.

use crate::journal::Journal;
use crate::keys::{KeyChooser, KeyCount, Random};
use crate::ledger::{Kind, Ledger, put_value};
use crate::plan::{Op, Plan};
use crate::resp::{put_arg, put_decimal, put_head};

/// Longest range of YCSB E.
const SCAN_KEYS_MAX: u64 = 100;

/// What the names of counters start with, before the prefix.
const COUNTER: &str = "counter:";

/// What an answer must look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// `+OK`.
    Ok,
    /// A value or nil; if tracked, a version from `low` to `high`.
    Value,
    /// A number.
    Int,
    /// A list of this many.
    Array(usize),
    /// As Value, and then the key is written: the second half of a read-modify-write.
    ValueThenWrite,
}

/// A request on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// When it was due (open loop) or sent (closed loop), ns since the run began.
    pub start_ns: u64,
    /// Its kind.
    pub op: Op,
    /// Its answer.
    pub expect: Expect,
    /// Its key, where it has one.
    pub key: u64,
    /// The oldest version that a read may answer.
    pub low: u64,
    /// The version written, or the newest that a read may answer.
    pub high: u64,
}

/// What is kept of each written key, if the run is tracked.
#[derive(Debug, Default)]
pub struct Tracker {
    /// The marks.
    pub ledger: Ledger,
    /// The journal, if one is asked for.
    pub journal: Option<Journal>,
}

impl Tracker {
    fn send_value(&mut self, key: u64) -> u64 {
        let version = self.ledger.send_value(key);
        if let Some(journal) = &mut self.journal {
            journal.value_sent(key, version);
        }
        version
    }

    fn send_increment(&mut self, key: u64) -> u64 {
        let most = self.ledger.send_increment(key);
        if let Some(journal) = &mut self.journal {
            journal.increment_sent(key, most);
        }
        most
    }

    /// A version was acknowledged.
    pub fn ack_value(&mut self, key: u64, version: u64) {
        self.ledger.ack_value(key, version);
        if let Some(journal) = &mut self.journal {
            journal.value_acked(key, version);
        }
    }

    /// An increment was answered; false if the number cannot be right.
    pub fn ack_increment(&mut self, key: u64, count: u64) -> bool {
        let right = self.ledger.ack_increment(key, count);
        if let Some(journal) = self.journal.as_mut().filter(|_| right) {
            let marks = self.ledger.marks(Kind::Counter, key);
            journal.increment_acked(key, marks.acked, marks.sent);
        }
        right
    }
}

/// Makes the requests of one thread.
#[derive(Debug)]
pub struct Generator {
    mix: &'static [(Op, u64)],
    keys: KeyChooser,
    random: Random,
    prefix: Vec<u8>,
    counter_prefix: Vec<u8>,
    connections: u64,
    keyspace: u64,
    mset_keys: usize,
    value_bytes: usize,
    /// The value of all writes that are not tracked, as an encoded argument.
    plain_value: Vec<u8>,
    scratch: Vec<u8>,
    /// What is tracked; `None` if nothing is.
    pub tracker: Option<Tracker>,
}

impl Generator {
    /// For one thread of a plan.
    #[must_use]
    pub fn new(plan: &Plan, seed: u64, count: KeyCount, tracker: Option<Tracker>) -> Self {
        let mut random = Random::new(seed);
        let value: Vec<u8> = (0..plan.value_bytes).map(|_| b'a' + random.below(26) as u8).collect();
        let mut plain_value = Vec::new();
        put_arg(&mut plain_value, &value);
        Self {
            mix: plan.workload.mix(),
            keys: KeyChooser::new(plan.distribution, plan.keyspace, count),
            random,
            prefix: plan.prefix.clone().into_bytes(),
            counter_prefix: format!("{COUNTER}{}", plan.prefix).into_bytes(),
            connections: plan.connections as u64,
            keyspace: plan.keyspace,
            mset_keys: plan.mset_keys,
            value_bytes: plan.value_bytes,
            plain_value,
            scratch: Vec::new(),
            tracker,
        }
    }

    /// Appends the next request of `connection` (its number over all threads) to `out`. The keys and versions of a
    /// tracked MSET go to `writes`.
    pub fn next(
        &mut self,
        connection: u64,
        start_ns: u64,
        out: &mut Vec<u8>,
        writes: &mut Writes,
    ) -> Pending {
        let op = self.choose_op();
        let key = if op == Op::Insert { self.keys.insert() } else { self.choose_key(connection) };
        let mut pending = Pending { start_ns, op, expect: Expect::Ok, key, low: 0, high: 0 };
        match op {
            Op::Set | Op::Update | Op::Insert => pending.high = self.put_set(out, key),
            Op::Get | Op::Read | Op::ReadModifyWrite => {
                self.put_get(out, key);
                let and_write = op == Op::ReadModifyWrite;
                pending.expect = if and_write { Expect::ValueThenWrite } else { Expect::Value };
                if let Some(tracker) = &self.tracker {
                    let marks = tracker.ledger.marks(Kind::Value, key);
                    (pending.low, pending.high) = (marks.acked, marks.sent);
                }
            }
            Op::Incr => {
                put_head(out, 2);
                put_arg(out, b"INCR");
                put_name(out, &self.counter_prefix, key);
                pending.expect = Expect::Int;
                if let Some(tracker) = &mut self.tracker {
                    pending.high = tracker.send_increment(key);
                }
            }
            Op::Mset => self.put_mset(connection, out, writes),
            Op::Scan => {
                let len = (1 + self.random.below(SCAN_KEYS_MAX)).min(self.keyspace - key);
                put_head(out, 1 + len as usize);
                put_arg(out, b"MGET");
                for member in key..key + len {
                    put_name(out, &self.prefix, member);
                }
                pending.expect = Expect::Array(len as usize);
            }
        }
        pending
    }

    /// Appends the write that ends a read-modify-write, or one of a preload: its version.
    pub fn put_set(&mut self, out: &mut Vec<u8>, key: u64) -> u64 {
        put_head(out, 3);
        put_arg(out, b"SET");
        put_name(out, &self.prefix, key);
        self.put_value_of(out, key)
    }

    /// Keys of an MSET.
    #[must_use]
    pub fn mset_keys(&self) -> usize {
        self.mset_keys
    }

    fn put_get(&self, out: &mut Vec<u8>, key: u64) {
        put_head(out, 2);
        put_arg(out, b"GET");
        put_name(out, &self.prefix, key);
    }

    fn put_mset(&mut self, connection: u64, out: &mut Vec<u8>, writes: &mut Writes) {
        put_head(out, 1 + 2 * self.mset_keys);
        put_arg(out, b"MSET");
        for _ in 0..self.mset_keys {
            let key = self.choose_key(connection);
            put_name(out, &self.prefix, key);
            let version = self.put_value_of(out, key);
            if self.tracker.is_some() {
                writes.push_back((key, version));
            }
        }
    }

    fn put_value_of(&mut self, out: &mut Vec<u8>, key: u64) -> u64 {
        let Some(tracker) = &mut self.tracker else {
            out.extend_from_slice(&self.plain_value);
            return 0;
        };
        let version = tracker.send_value(key);
        self.scratch.clear();
        put_value(&mut self.scratch, key, version, self.value_bytes);
        put_arg(out, &self.scratch);
        version
    }

    fn choose_op(&mut self) -> Op {
        let [(first, share), rest @ ..] = self.mix else { unreachable!("every workload has a mix") };
        match rest {
            [] => *first,
            [(second, _), ..] => {
                if self.random.below(100) < *share {
                    *first
                } else {
                    *second
                }
            }
        }
    }

    /// A key; in a tracked run one that belongs to the connection.
    fn choose_key(&mut self, connection: u64) -> u64 {
        let key = self.keys.next(&mut self.random);
        if self.tracker.is_none() {
            return key;
        }
        let rows = self.keyspace / self.connections;
        (key % rows) * self.connections + connection
    }
}

/// The keys and versions of MSETs on their way.
pub type Writes = std::collections::VecDeque<(u64, u64)>;

/// Appends a key's name as an argument: the prefix and twelve digits, as redis-benchmark does.
fn put_name(out: &mut Vec<u8>, prefix: &[u8], key: u64) {
    out.push(b'$');
    put_decimal(out, prefix.len() as u64 + 12);
    out.extend_from_slice(b"\r\n");
    put_bare_name(out, prefix, key);
    out.extend_from_slice(b"\r\n");
}

fn put_bare_name(out: &mut Vec<u8>, prefix: &[u8], key: u64) {
    let mut digits = [b'0'; 12];
    let mut left = key;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (left % 10) as u8;
        left /= 10;
    }
    out.extend_from_slice(prefix);
    out.extend_from_slice(&digits);
}

/// A key's name.
#[must_use]
pub fn name_of(kind: Kind, prefix: &str, key: u64) -> Vec<u8> {
    let mut name = Vec::new();
    if kind == Kind::Counter {
        name.extend_from_slice(COUNTER.as_bytes());
    }
    put_bare_name(&mut name, prefix.as_bytes(), key);
    name
}
