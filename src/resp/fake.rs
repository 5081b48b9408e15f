//! A node for tests: a map for each partition, with outcomes handed back when the test says so.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use corduroy_shards::{Kind, PartitionId, Rejection, Reply, StageStamps, StorageId, Ticket, wal::Lsn};

use super::backend::{ClientNode, Topology};
use super::{Backend, Figure, Hub, Opening, Session, SessionReply, Timing, hub};
use crate::config::Config;
use crate::config::redis::{Live, Refused};
use crate::store::{ErrorKind, List, Op, Outcome, SetReply, SetWhen};

/// How long a request of the tests takes, and when it passes its stages.
pub const TIMING: Timing = Timing {
    ran_ns: 0,
    stages: Some(StageStamps {
        queued_ns: 1_000,
        proposed_ns: 3_000,
        durable_ns: 203_000,
        applied_ns: 213_000,
    }),
};
/// The clock of all tests.
pub const NOW_MS: u64 = 1_700_000_000_123;

#[derive(Default)]
struct Map {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    versions: BTreeMap<Vec<u8>, u64>,
}

/// What was submitted and not answered yet.
pub struct Submitted {
    pub ticket: Ticket,
    pub partition: PartitionId,
    pub op: Vec<u8>,
}

pub struct Fake {
    partitions: Vec<PartitionId>,
    maps: RefCell<Vec<Map>>,
    pub submitted: RefCell<VecDeque<Submitted>>,
    /// The kinds of all that was submitted.
    pub kinds: RefCell<Vec<Kind>>,
    /// Outcomes for the next ops, instead of the map's.
    pub scripted: RefCell<VecDeque<SessionReply>>,
    /// Whether GET may go the short way.
    pub in_memory: Cell<bool>,
    pub short_ways: Cell<u64>,
    /// Keys whose rows were to be fetched, by calls.
    pub prefetched: RefCell<Vec<Vec<Vec<u8>>>>,
    pub password: RefCell<Option<String>>,
    pub clock_ns: Cell<u64>,
    pub live: RefCell<Live>,
    /// The cluster that it is part of.
    pub cluster: Option<FakeCluster>,
}

/// Nodes 1 to 3, of which node 1 is asked, and node 2 leads the first partition.
pub struct FakeCluster;

impl Topology for FakeCluster {
    fn id(&self) -> u64 {
        1
    }

    fn nodes(&self) -> Vec<ClientNode> {
        (1..=3).map(|id| ClientNode { id, host: format!("10.0.0.{id}"), port: 7379 }).collect()
    }

    fn node_of(&self, storage: StorageId) -> Option<ClientNode> {
        self.nodes().into_iter().find(|node| node.id == storage.0)
    }

    fn slots(&self) -> Vec<(Range<u16>, Option<u64>)> {
        vec![(0..8192, Some(2)), (8192..16384, None)]
    }

    fn copies(&self) -> usize {
        1
    }

    fn first_slot(&self, partition: PartitionId) -> u16 {
        if partition == PartitionId(2) { 0 } else { 8192 }
    }
}

impl Fake {
    pub fn new(partitions: u64) -> Self {
        Self {
            partitions: (1..=partitions).map(|id| PartitionId(id + 1)).collect(),
            maps: RefCell::new((0..partitions).map(|_| Map::default()).collect()),
            submitted: RefCell::default(),
            kinds: RefCell::default(),
            scripted: RefCell::default(),
            in_memory: Cell::new(true),
            short_ways: Cell::new(0),
            prefetched: RefCell::default(),
            password: RefCell::default(),
            clock_ns: Cell::new(0),
            live: RefCell::new(Live::new(Config::default(), 0)),
            cluster: None,
        }
    }

    /// The same, part of a cluster.
    pub fn clustered(partitions: u64) -> Self {
        Self { cluster: Some(FakeCluster), ..Self::new(partitions) }
    }

    /// Does what was submitted longest ago, or most recently.
    pub fn carry_out(&self, newest_first: bool) -> Option<(Ticket, SessionReply)> {
        let mut submitted = self.submitted.borrow_mut();
        let next = if newest_first { submitted.pop_back() } else { submitted.pop_front() }?;
        if let Some(reply) = self.scripted.borrow_mut().pop_front() {
            return Some((next.ticket, reply));
        }
        let at = (next.partition.0 - 2) as usize;
        let op = Op::decode(&next.op).expect("sessions submit what can be decoded");
        let outcome = apply(&mut self.maps.borrow_mut()[at], &op);
        Some((next.ticket, Reply::Done { lsn: Lsn(1), outcome }))
    }
}

/// A session and its node.
pub struct Talk {
    pub fake: Fake,
    pub hub: Arc<Hub>,
    pub session: Session,
}

impl Talk {
    pub fn new(partitions: u64) -> Self {
        Self::with(Fake::new(partitions), hub(1), 1)
    }

    pub fn with(fake: Fake, hub: Arc<Hub>, conn: u64) -> Self {
        let (peer, local) = (format!("127.0.0.1:{conn}"), "127.0.0.1:7379".to_owned());
        let session = Session::new(&hub, Opening { conn, core: 0, peer, local, fd: 8 }, &fake);
        Self { fake, hub, session }
    }

    /// Feeds bytes, answers everything, and takes the output.
    pub fn say_bytes(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.input(bytes, &self.fake);
        self.answer(false);
        self.output()
    }

    /// Sends lines as inline requests.
    pub fn say(&mut self, lines: &str) -> String {
        let bytes: String = lines.lines().map(|line| format!("{}\r\n", line.trim())).collect();
        String::from_utf8_lossy(&self.say_bytes(bytes.as_bytes())).into_owned()
    }

    pub fn answer(&mut self, newest_first: bool) {
        while let Some((ticket, reply)) = self.fake.carry_out(newest_first) {
            self.session.reply(ticket, reply, &TIMING, &self.fake);
        }
    }

    pub fn output(&mut self) -> Vec<u8> {
        let out = self.session.take_output().to_vec();
        self.session.resume(&self.fake);
        out
    }

    /// Sends lines and compares the replies; `~` stands for CR LF in what is expected.
    #[track_caller]
    pub fn check(&mut self, lines: &str, expected: &str) {
        assert_eq!(self.say(lines).replace("\r\n", "~"), expected, "{lines}");
    }
}

fn apply(map: &mut Map, op: &Op<'_>) -> Outcome {
    let get = |map: &Map, key: &[u8]| map.values.get(key).cloned();
    let bulk = |value: Option<Vec<u8>>| value.map_or(Outcome::Nil, Outcome::Bulk);
    let put = |map: &mut Map, key: &[u8], value: Option<&[u8]>| {
        *map.versions.entry(key.to_vec()).or_default() += 1;
        match value {
            Some(value) => map.values.insert(key.to_vec(), value.to_vec()),
            None => map.values.remove(key),
        }
    };
    let present =
        |map: &Map, keys: &List<'_>| keys.iter().filter(|key| map.values.contains_key(*key)).count() as i64;
    match *op {
        Op::Set { key, value, when, reply, .. } => {
            let old = get(map, key);
            let holds = match when {
                SetWhen::Always => true,
                SetWhen::Absent => old.is_none(),
                SetWhen::Present => old.is_some(),
                SetWhen::Equals(other) => old.as_deref() == Some(other),
            };
            if holds {
                put(map, key, Some(value));
            }
            match reply {
                SetReply::Ok if holds => Outcome::Ok,
                SetReply::Ok => Outcome::Nil,
                SetReply::Done => Outcome::Int(i64::from(holds)),
                SetReply::Old => bulk(old),
            }
        }
        Op::IncrBy { key, delta } => {
            let old = get(map, key).unwrap_or_else(|| b"0".to_vec());
            let Some(old) = std::str::from_utf8(&old).ok().and_then(|text| text.parse::<i64>().ok()) else {
                return Outcome::Error(ErrorKind::NotInteger);
            };
            put(map, key, Some((old + delta).to_string().as_bytes()));
            Outcome::Int(old + delta)
        }
        Op::Append { key, value } => {
            let value = [get(map, key).unwrap_or_default().as_slice(), value].concat();
            put(map, key, Some(&value));
            Outcome::Int(value.len() as i64)
        }
        Op::Del { keys } => {
            let count = present(map, &keys);
            keys.iter().for_each(|key| _ = put(map, key, None));
            Outcome::Int(count)
        }
        Op::MSet { pairs, .. } => {
            let pairs: Vec<_> = pairs.iter().collect();
            pairs.chunks(2).for_each(|pair| _ = put(map, pair[0], Some(pair[1])));
            Outcome::Ok
        }
        Op::Flush => {
            map.values.clear();
            Outcome::Ok
        }
        Op::Multi { guards, ops } => {
            let guards: Vec<_> = guards.iter().collect();
            let version = |key: &[u8]| map.versions.get(key).copied().unwrap_or_default();
            if guards.chunks(2).any(|guard| version(guard[0]).to_le_bytes() != guard[1]) {
                return Outcome::NullArray;
            }
            Outcome::Array(ops.iter().map(|op| apply(map, &Op::decode(op).unwrap())).collect())
        }
        Op::Get { key } => bulk(get(map, key)),
        Op::MGet { keys } => Outcome::Array(keys.iter().map(|key| bulk(get(map, key))).collect()),
        Op::Exists { keys } => Outcome::Int(present(map, &keys)),
        Op::DbSize => Outcome::Int(map.values.len() as i64),
        Op::Keys { .. } => Outcome::Array(map.values.keys().cloned().map(Outcome::Bulk).collect()),
        Op::RandomKey { .. } => bulk(map.values.keys().next().cloned()),
        Op::Scan { cursor, count, .. } => {
            let keys: Vec<_> =
                map.values.keys().skip(cursor as usize).take(count as usize).cloned().collect();
            let next = cursor as usize + keys.len();
            Outcome::Scan { cursor: if next < map.values.len() { next as u64 } else { 0 }, keys }
        }
        Op::Watch { key } => Outcome::Int(*map.versions.entry(key.to_vec()).or_insert(1 << 40) as i64),
        Op::Version { key } => Outcome::Int(map.versions.get(key).copied().unwrap_or_default() as i64),
        Op::Type { .. } => Outcome::Simple("string"),
        // The tests that need more script their outcomes.
        _ => Outcome::Ok,
    }
}

impl Backend for Fake {
    fn topology(&self) -> Option<&dyn Topology> {
        self.cluster.as_ref().map(|cluster| -> &dyn Topology { cluster })
    }

    fn partition_of_slot(&self, slot: u16) -> PartitionId {
        self.partitions[usize::from(slot) * self.partitions.len() / 16384]
    }

    fn partitions(&self) -> &[PartitionId] {
        &self.partitions
    }

    fn submit(&self, ticket: Ticket, partition: PartitionId, kind: Kind, _: bool, op: &[u8]) {
        let writes = Op::decode(op).expect("sessions submit what can be decoded").is_write();
        let reads_only = |op: &Op<'_>| match op {
            Op::Multi { ops, .. } => !ops.iter().any(|op| Op::decode(op).expect("an op").is_write()),
            _ => !writes,
        };
        let expected =
            if reads_only(&Op::decode(op).expect("just decoded")) { Kind::Read } else { Kind::Write };
        assert_eq!(kind.is_read(), expected.is_read());
        self.kinds.borrow_mut().push(kind);
        self.submitted.borrow_mut().push_back(Submitted { ticket, partition, op: op.to_vec() });
    }

    fn get_now(
        &self,
        partition: PartitionId,
        conn: u64,
        (kind, op): (Kind, &[u8]),
        with: &mut dyn FnMut(Option<&[u8]>),
    ) -> bool {
        assert!(kind.is_read());
        let is_of_it = |submitted: &Submitted| submitted.ticket.conn == conn;
        assert!(!self.submitted.borrow().iter().any(is_of_it), "the short way while something is under way");
        let Ok(Op::Get { key }) = Op::decode(op) else { panic!("only GET goes the short way: {op:?}") };
        if self.in_memory.get() {
            self.short_ways.set(self.short_ways.get() + 1);
            with(self.maps.borrow()[(partition.0 - 2) as usize].values.get(key).map(Vec::as_slice));
        }
        self.in_memory.get()
    }

    fn prefetch(&self, keys: &[&[u8]]) {
        self.prefetched.borrow_mut().push(keys.iter().map(|key| key.to_vec()).collect());
    }

    fn now_ms(&self) -> u64 {
        NOW_MS
    }

    fn now_us(&self) -> u64 {
        NOW_MS * 1000 + 456
    }

    fn mono_ns(&self) -> u64 {
        self.clock_ns.get()
    }

    fn info(&self, words: &[&[u8]]) -> String {
        words.iter().map(|word| format!("# {}\r\n", word.escape_ascii())).collect()
    }

    fn memory_stats(&self) -> Vec<(&'static str, Figure)> {
        vec![("peak.allocated", Figure::Whole(1024)), ("fragmentation", Figure::Ratio(1.25))]
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
        self.password.borrow().clone()
    }
}

/// A refusal to script.
pub fn rejected(rejection: Rejection) -> SessionReply {
    Reply::Rejected(rejection)
}
