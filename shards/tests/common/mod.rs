//! A small key-value state machine and a world of one shard around it: a disk that can crash, a clock, jobs.
#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod answers;
mod open;
mod saved;
mod shown;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use corduroy_shards::image::Header;
use corduroy_shards::image::ask::{ImageAsk, ImageEvent};
use corduroy_shards::image::small::SmallImages;
use corduroy_shards::image::transfer::ImageId;
use corduroy_shards::{
    Applied, Input, Kind, LeadChange, Limits, MemberOutcome, Now, Origin, Outputs, PartitionId, Prepared,
    Rejection, Reply, Shard, ShardOptions, StageStamps, StateMachine, Step, Ticket, Unreadable, Urgency,
    Wait,
};
use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::{Lsn, Options};
pub use open::{open_shard, open_with};
pub use saved::{Got, Job, NoSpace, Part, Saved};

/// Commands: `set k v`, `append k v`, `del k`, `get k`, `clock`; a key that starts with `cold` has to be fetched by a
/// job before it can be read or written; `until` and a time in ms is one that has expired then; one that ends with `any` too makes its step wait for whatever job ends.
#[derive(Default)]
pub struct Kv {
    pub parts: BTreeMap<u64, Part>,
    pub saved: Saved,
    pub jobs: Vec<Job>,
    /// Keys that are on their way, with the steps that wait for each.
    pub fetching: BTreeMap<String, Vec<(PartitionId, u64)>>,
    pub last_wait: u64,
    pub woken: Vec<(PartitionId, u64)>,
    pub abandoned: Vec<u64>,
    pub warm: BTreeSet<String>,
    pub flushes_wanted: u64,
    /// The last time it was asked for one, the log was full.
    pub is_flush_urgent: bool,
    pub reads: u64,
    /// When a partition wants an entry; what the shard was not told of yet; how often it has asked.
    pub alarms: BTreeMap<u64, u64>,
    pub announced: Vec<PartitionId>,
    pub alarms_asked: u64,
    /// Whether operations are looked at before they are proposed; those of keys that start with `bad` are refused then.
    pub screens: bool,
    /// How often that was asked, and whether an operation is let in while the disk is full.
    pub prepared: u64,
    pub asked_when_full: Cell<u64>,
    /// The operations that were fetched ahead, by calls.
    pub prefetched: RefCell<Vec<Vec<String>>>,
    /// Something waits to be tried again.
    pub wants_retry: bool,
    pub retries: u64,
    pub is_out_of_room: bool,
    /// Slices of what it does by itself that are left.
    pub upkeep_slices: u64,
    pub images: SmallImages,
    /// The image that a job stores a chunk of, by partition: one chunk at a time, as in the store.
    pub storing: BTreeMap<PartitionId, ImageId>,
    pub refused_chunks: Vec<ImageEvent>,
    pub clearing: BTreeSet<u64>,
}

impl Kv {
    /// What a step has to wait for that needs this key.
    fn wait_for(&mut self, partition: PartitionId, key: &str) -> Option<Wait> {
        if !key.starts_with("cold") || self.warm.contains(key) {
            return None;
        }
        if !self.fetching.contains_key(key) {
            self.jobs.push(Job::Fetch(key.to_owned()));
        }
        let steps = self.fetching.entry(key.to_owned()).or_default();
        if key.ends_with("any") {
            return Some(Wait::Job);
        }
        self.last_wait += 1;
        steps.push((partition, self.last_wait));
        Some(Wait::Number(self.last_wait))
    }
}

fn words(op: &[u8]) -> Vec<&str> {
    std::str::from_utf8(op).expect("tests speak text").split(' ').collect()
}

impl StateMachine for Kv {
    type Outcome = String;
    type View<'m> = String;
    type Job = Job;
    type JobDone = Job;
    type Failure = NoSpace;

    fn apply(&mut self, at: &Applied, op: &[u8]) -> Step<String> {
        let words = words(op);
        if self.parts.get_mut(&at.partition.0).is_some_and(Part::passes_over) {
            return Step::Passed;
        }
        if let Some(wait) = words.get(1).and_then(|key| self.wait_for(at.partition, key)) {
            return Step::Blocked(wait);
        }
        let part = self.parts.entry(at.partition.0).or_default();
        part.begun += 1;
        part.history.push((at.lsn.get(), words.join(" ")));
        Step::Done(match words.as_slice() {
            ["set", key, value] => {
                part.data.insert((*key).to_owned(), (*value).to_owned());
                "OK".to_owned()
            }
            ["append", key, value] => {
                let stored = part.data.entry((*key).to_owned()).or_default();
                stored.push_str(value);
                stored.clone()
            }
            ["del", key] => u8::from(part.data.remove(*key).is_some()).to_string(),
            ["clock"] => at.stamp_ms.to_string(),
            ["where", key] => {
                let written = format!("keyspace {} version {}", at.keyspace, at.version_lsn);
                part.data.insert((*key).to_owned(), written);
                "OK".to_owned()
            }
            _ => format!("ERR {}", words.join(" ")),
        })
    }

    fn end_entry(&mut self, at: &Applied) {
        let part = self.parts.entry(at.partition.0).or_default();
        assert!(at.lsn.get() > part.applied, "entry {} applied behind {}", at.lsn, part.applied);
        part.applied = at.lsn.get();
        part.stamp_ms = at.stamp_ms;
        (part.installed, part.begun, part.to_pass) = (None, 0, 0);
    }

    fn read(&mut self, partition: PartitionId, op: &[u8], now_ms: u64) -> Step<String> {
        self.reads += 1;
        let words = words(op);
        if let Some(wait) = words.get(1).and_then(|key| self.wait_for(partition, key)) {
            return Step::Blocked(wait);
        }
        Step::Done(self.answer(partition, &words, now_ms))
    }

    fn rests_on_clock(&self, partition: PartitionId, op: &[u8], now_ms: u64) -> bool {
        self.rests(partition, &words(op), now_ms)
    }

    fn look<T>(
        &mut self,
        partition: PartitionId,
        op: &[u8],
        now_ms: u64,
        with: impl FnOnce(String) -> T,
    ) -> Option<T> {
        let words = words(op);
        let is_here = words.get(1).is_none_or(|key| !key.starts_with("cold") || self.warm.contains(*key));
        is_here.then(|| with(self.answer(partition, &words, now_ms)))
    }

    fn persisted(&self, partition: PartitionId) -> Lsn {
        Lsn(self.saved.borrow().get(&partition.0).map_or(0, |part| part.applied))
    }

    fn is_inside_entry(&self, partition: PartitionId) -> bool {
        self.parts.get(&partition.0).is_some_and(Part::is_inside_entry)
    }

    fn persisted_stamp_ms(&self, partition: PartitionId) -> u64 {
        self.saved.borrow().get(&partition.0).map_or(0, |part| part.stamp_ms)
    }

    fn maintain(&mut self, _budget_ns: u64) -> bool {
        self.upkeep_slices = self.upkeep_slices.saturating_sub(1);
        self.upkeep_slices > 0
    }

    fn take_jobs(&mut self, jobs: &mut Vec<Job>) {
        jobs.append(&mut self.jobs);
    }

    fn take_woken(&mut self, woken: &mut Vec<(PartitionId, u64)>) {
        woken.append(&mut self.woken);
    }

    fn abandon(&mut self, number: u64) {
        self.abandoned.push(number);
    }

    fn run_job(job: Job) -> Job {
        job
    }

    fn job_done(&mut self, done: Job) -> Result<(), NoSpace> {
        match done {
            Job::Flush(parts) if parts.values().any(|part| part.data.contains_key("unwritable")) => {
                return Err(NoSpace);
            }
            Job::Flush(parts) => {
                for (id, part) in parts {
                    // What was installed meanwhile stays.
                    let mut saved = self.saved.borrow_mut();
                    let at = saved.entry(id).or_default();
                    *at = if part.applied >= at.applied { part } else { std::mem::take(at) };
                }
                self.with_images(|images, machine| images.retry(machine));
            }
            Job::Image(ask) => self.image_job_done(ask),
            Job::Clear(partition) => self.deleted(partition),
            Job::Fetch(key) => {
                self.woken.extend(self.fetching.remove(&key).unwrap_or_default());
                self.warm.insert(key);
            }
        }
        Ok(())
    }

    fn want_flush(&mut self, urgency: Urgency) {
        self.flushes_wanted += 1;
        self.is_flush_urgent = urgency == Urgency::Now;
    }

    fn step_bytes(&mut self, outcome: &String) -> usize {
        outcome.len()
    }

    fn takes_when_full(&self, op: &[u8]) -> bool {
        self.asked_when_full.set(self.asked_when_full.get() + 1);
        op.starts_with(b"del ")
    }

    fn prepare(&mut self, partition: PartitionId, op: &[u8]) -> Prepared {
        self.prepared += 1;
        match words(op).get(1) {
            Some(key) if key.starts_with("bad") => Prepared::Unreadable(Unreadable::Damaged((*key).into())),
            Some(key) => self.wait_for(partition, key).map_or(Prepared::Ready, Prepared::Blocked),
            None => Prepared::Ready,
        }
    }

    fn may_need_reads(&self, _partition: PartitionId) -> bool {
        self.screens
    }

    fn prefetch<'o>(&self, ops: impl Iterator<Item = (PartitionId, &'o [u8])>) -> usize {
        let ops = ops.map(|(_, op)| words(op).join(" ")).filter(|op| !op.is_empty());
        let fetched: Vec<_> = ops.take(Self::PREFETCHED).collect();
        let count = fetched.len().max(1);
        self.prefetched.borrow_mut().extend(Some(fetched).filter(|fetched| !fetched.is_empty()));
        count
    }

    fn is_light(&self, _partition: PartitionId, _op: &[u8]) -> bool {
        false
    }

    fn expect_replay(&mut self, _partition: PartitionId, _last: Lsn) {}

    fn take_alarms(&mut self, partitions: &mut Vec<PartitionId>) {
        partitions.append(&mut self.announced);
    }

    fn alarm_ms(&mut self, partition: PartitionId) -> Option<u64> {
        self.alarms_asked += 1;
        let stamp_ms = self.parts.get(&partition.0).map_or(0, |part| part.stamp_ms);
        self.alarms.get(&partition.0).copied().filter(|at_ms| *at_ms > stamp_ms)
    }

    fn is_out_of_room(&self) -> bool {
        self.is_out_of_room
    }

    fn wants_retry(&self) -> bool {
        self.wants_retry
    }

    fn retry(&mut self) {
        self.retries += 1;
    }

    fn stalled_by(&self) -> Option<Unreadable> {
        None
    }

    fn verify_in_ns(&self) -> Option<u64> {
        None
    }

    fn verify(&mut self) {}

    fn ask_image(&mut self, ask: ImageAsk) {
        self.ask_of_images(ask);
    }

    fn take_image_events(&mut self, events: &mut Vec<ImageEvent>) {
        self.images.take(events);
        events.append(&mut self.refused_chunks);
    }

    fn clear(&mut self, partition: PartitionId) -> bool {
        self.delete(partition)
    }

    fn installed_image(&self, partition: PartitionId) -> Option<Header> {
        self.parts.get(&partition.0)?.installed.clone()
    }
}

/// One shard and all that it needs.
pub struct World {
    pub disk: MemDisk,
    pub saved: Saved,
    pub shard: Shard<MemDevice, Kv>,
    pub out: Outputs<Kv>,
    pub now: Now,
    pub jobs: Vec<Job>,
    pub replies: BTreeMap<(u64, u64), Vec<Got>>,
    pub order: Vec<(u64, u64)>,
    pub stamps: BTreeMap<(u64, u64), StageStamps>,
    pub fenced: Vec<(PartitionId, String)>,
    /// Outcomes of requests about members, and replicas that were removed.
    pub members: Vec<(Ticket, MemberOutcome)>,
    pub leads: Vec<LeadChange>,
    pub removed: Vec<(PartitionId, Lsn)>,
    pub options: ShardOptions,
    pub wal_options: Options,
    pub origins: Vec<(PartitionId, Origin)>,
    pub shown: shown::Shown,
    lives: u64,
}

pub const P: PartitionId = PartitionId(2);
pub const Q: PartitionId = PartitionId(3);

pub fn small_wal() -> Options {
    Options { segment_bytes: 1 << 20, ..Options::default() }
}

/// A second frame starts beside one under way, however small.
pub fn small_frames() -> ShardOptions {
    ShardOptions { limits: Limits { second_frame_bytes: 0, ..Limits::default() }, ..ShardOptions::default() }
}

impl World {
    pub fn new(partitions: &[PartitionId]) -> Self {
        Self::with(ShardOptions::default(), small_wal(), partitions)
    }

    /// The same where a second frame starts beside one under way, however small.
    pub fn ready_with_small_frames(partitions: &[PartitionId]) -> Self {
        let mut world = Self::with(small_frames(), small_wal(), partitions);
        world.settle();
        world
    }

    pub fn with(options: ShardOptions, wal_options: Options, partitions: &[PartitionId]) -> Self {
        Self::of(options, wal_options, Origin::all_alone(partitions, options.storage))
    }

    pub fn of(options: ShardOptions, wal_options: Options, origins: Vec<(PartitionId, Origin)>) -> Self {
        let disk = MemDisk::new(1);
        let saved = Saved::default();
        let shard = open_with(&disk, &saved, options, wal_options, &origins);
        Self {
            disk,
            saved,
            shard,
            out: Outputs::default(),
            now: Now { mono_ns: 1_000_000_000, wall_ms: 1_700_000_000_000 },
            jobs: Vec::new(),
            replies: BTreeMap::new(),
            order: Vec::new(),
            stamps: BTreeMap::new(),
            fenced: Vec::new(),
            members: Vec::new(),
            leads: Vec::new(),
            removed: Vec::new(),
            options,
            wal_options,
            origins,
            shown: shown::Shown::default(),
            lives: 1,
        }
    }

    /// A world whose replicas lead.
    pub fn ready(partitions: &[PartitionId]) -> Self {
        let mut world = Self::new(partitions);
        world.settle();
        world
    }

    pub fn at(&mut self, seconds: u64) {
        self.now.mono_ns += seconds * 1_000_000_000;
        self.now.wall_ms += seconds * 1_000;
    }

    pub fn turn(&mut self) {
        self.now.mono_ns += 1_000;
        self.shard.turn(self.now, &mut self.out).expect("the turn goes well");
        if self.origins.len() < 100 {
            self.shard.check();
            self.check_shown();
        }
        for (ticket, reply, stamps) in self.out.take_replies() {
            if let Some(stamps) = stamps {
                self.stamps.insert((ticket.conn, ticket.seq), stamps);
            }
            let got = match reply {
                Reply::Done { lsn, outcome } => Got::Done(lsn.get(), outcome),
                Reply::Rejected(why) => Got::Rejected(why),
                Reply::Unknown => Got::Unknown,
            };
            self.order.push((ticket.conn, ticket.seq));
            self.replies.entry((ticket.conn, ticket.seq)).or_default().push(got);
        }
        self.fenced.append(&mut self.out.fenced);
        self.members.append(&mut self.out.members);
        self.leads.append(&mut self.out.leads);
        self.removed.append(&mut self.out.removed);
        self.jobs.append(&mut self.out.jobs);
    }

    pub fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// Turns until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.turn();
            if !self.out.again && self.shard.wal().in_flight() == 0 {
                self.turn();
                return;
            }
        }
        panic!("the shard does not come to rest: {:?}", self.shard.status());
    }

    pub fn run_jobs(&mut self) {
        for job in std::mem::take(&mut self.jobs) {
            self.shard.handle(Input::JobDone(Kv::run_job(job)));
        }
    }

    pub fn request(&mut self, partition: PartitionId, conn: u64, seq: u64, kind: Kind, op: &str) {
        let ticket = Ticket { conn, seq };
        self.shard.handle(Input::Request { ticket, partition, kind, op: op.as_bytes() });
    }

    pub fn write(&mut self, conn: u64, seq: u64, op: &str) {
        self.request(P, conn, seq, Kind::Write, op);
    }

    pub fn read(&mut self, conn: u64, seq: u64, op: &str) {
        self.request(P, conn, seq, Kind::Read, op);
    }

    /// The one outcome of a request; `None` if it has none yet.
    pub fn got(&self, conn: u64, seq: u64) -> Option<Got> {
        let replies = self.replies.get(&(conn, seq))?;
        assert_eq!(replies.len(), 1, "request {conn}/{seq} got {replies:?}");
        replies.first().cloned()
    }

    /// What a request was answered with.
    pub fn value(&self, conn: u64, seq: u64) -> String {
        match self.got(conn, seq) {
            Some(Got::Done(_, value)) => value,
            other => panic!("request {conn}/{seq} got {other:?}"),
        }
    }

    pub fn lsn(&self, conn: u64, seq: u64) -> u64 {
        match self.got(conn, seq) {
            Some(Got::Done(lsn, _)) => lsn,
            other => panic!("request {conn}/{seq} got {other:?}"),
        }
    }

    /// The process ends; the disk keeps what it must (`is_power_loss`) or all that it was handed.
    pub fn restart(&mut self, is_power_loss: bool) {
        if is_power_loss {
            self.disk.crash();
        } else {
            self.disk.kill();
        }
        self.lives += 1;
        self.wal_options.seed = self.lives;
        self.options.images.process.starts = self.lives;
        self.jobs.clear();
        self.out = Outputs::default();
        self.disk.set_stalled(false);
        self.disk.set_manual(false);
        self.shard = open_with(&self.disk, &self.saved, self.options, self.wal_options, &self.origins);
    }
}
