//! A total for each partition: a small state machine over a log on the disk, driven by hand.
//!
//! `cargo run -p corduroy-shards --example totals`

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use corduroy_shards::image::Header;
use corduroy_shards::image::ask::{ImageAsk, ImageEvent, refused};
use corduroy_shards::{
    Applied, Input, Kind, Now, Origin, Outputs, PartitionId, Prepared, Reply, Shard, ShardOptions,
    StateMachine, Step, StorageId, Ticket, Unreadable, Urgency,
};
use corduroy_wal::device::{DiskDevice, Engine, UringOptions};
use corduroy_wal::{Lsn, Options, Wal};

const APPLES: PartitionId = PartitionId(2);
const MELONS: PartitionId = PartitionId(3);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut node = Node::open(folder.path(), 1)?;
    // All that comes before a turn rides together: one entry for each partition, one write for both.
    node.ask(&[
        (APPLES, Kind::Write, "5"),
        (MELONS, Kind::Write, "2"),
        (APPLES, Kind::Write, "7"),
        (MELONS, Kind::Write, "two"),
        (APPLES, Kind::Read, ""),
    ])?;
    // Nothing is closed in order here, as in a crash: what was answered is in the log.
    drop(node);
    let mut node = Node::open(folder.path(), 2)?;
    node.ask(&[(APPLES, Kind::Read, ""), (MELONS, Kind::Read, "")])
}

/// What a request gets. That something cannot be done is an outcome too, since all replicas have to come to it alike.
#[derive(Debug)]
#[allow(dead_code, reason = "they are printed")]
enum Outcome {
    Total(i64),
    NotANumber,
}

/// The totals, in memory alone: a start applies the whole log again. A machine that keeps its state on disk says in
/// `persisted` up to which entry it has, and the log lets go of those.
#[derive(Default)]
struct Totals {
    of: BTreeMap<PartitionId, i64>,
    image_events: Vec<ImageEvent>,
}

impl StateMachine for Totals {
    type Outcome = Outcome;
    type View<'m> = i64;
    type Job = Infallible;
    type JobDone = Infallible;
    type Failure = Infallible;

    fn apply(&mut self, at: &Applied, op: &[u8]) -> Step<Outcome> {
        let Some(number) = std::str::from_utf8(op).ok().and_then(|text| text.parse::<i64>().ok()) else {
            return Step::Done(Outcome::NotANumber);
        };
        let total = self.of.entry(at.partition).or_default();
        *total = total.wrapping_add(number);
        Step::Done(Outcome::Total(*total))
    }

    fn read(&mut self, partition: PartitionId, _op: &[u8], _now_ms: u64) -> Step<Outcome> {
        Step::Done(Outcome::Total(self.of.get(&partition).copied().unwrap_or_default()))
    }

    /// The same without a turn: [`Shard::read_now`] asks for it.
    fn rests_on_clock(&self, _partition: PartitionId, _op: &[u8], _now_ms: u64) -> bool {
        false
    }

    fn look<T>(
        &mut self,
        partition: PartitionId,
        _op: &[u8],
        _now_ms: u64,
        with: impl FnOnce(i64) -> T,
    ) -> Option<T> {
        Some(with(self.of.get(&partition).copied().unwrap_or_default()))
    }

    fn end_entry(&mut self, _at: &Applied) {}

    fn persisted(&self, _partition: PartitionId) -> Lsn {
        Lsn::ZERO
    }

    fn is_inside_entry(&self, _partition: PartitionId) -> bool {
        false
    }

    fn persisted_stamp_ms(&self, _partition: PartitionId) -> u64 {
        0
    }

    fn want_flush(&mut self, _urgency: Urgency) {}

    fn expect_replay(&mut self, _partition: PartitionId, _last: Lsn) {}

    // All is in memory, so no step ever waits, and there are no jobs.

    fn prepare(&mut self, _partition: PartitionId, _op: &[u8]) -> Prepared {
        Prepared::Ready
    }

    fn may_need_reads(&self, _partition: PartitionId) -> bool {
        false
    }

    fn maintain(&mut self, _budget_ns: u64) -> bool {
        false
    }

    fn take_jobs(&mut self, _jobs: &mut Vec<Infallible>) {}

    fn take_woken(&mut self, _woken: &mut Vec<(PartitionId, u64)>) {}

    fn abandon(&mut self, _number: u64) {}

    fn run_job(job: Infallible) -> Infallible {
        job
    }

    fn job_done(&mut self, done: Infallible) -> Result<(), Infallible> {
        match done {}
    }

    fn prefetch<'o>(&self, ops: impl Iterator<Item = (PartitionId, &'o [u8])>) -> usize {
        ops.count()
    }

    fn is_light(&self, _partition: PartitionId, _op: &[u8]) -> bool {
        true
    }

    fn step_bytes(&mut self, _outcome: &Outcome) -> usize {
        size_of::<Outcome>()
    }

    // Nothing is to be done at a time of its own.

    fn take_alarms(&mut self, _partitions: &mut Vec<PartitionId>) {}

    fn alarm_ms(&mut self, _partition: PartitionId) -> Option<u64> {
        None
    }

    // Nothing is written but the log, which looks after its own room.

    fn takes_when_full(&self, _op: &[u8]) -> bool {
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

    // A group of one member neither sends images nor is sent any.

    fn ask_image(&mut self, ask: ImageAsk) {
        self.image_events.extend(refused(ask));
    }

    fn take_image_events(&mut self, events: &mut Vec<ImageEvent>) {
        events.append(&mut self.image_events);
    }

    fn clear(&mut self, partition: PartitionId) -> bool {
        self.of.remove(&partition);
        true
    }

    fn installed_image(&self, _partition: PartitionId) -> Option<Header> {
        None
    }
}

/// One shard with its driver: it has the clocks and waits for the disk, since the shard does neither.
struct Node {
    shard: Shard<DiskDevice, Totals>,
    out: Outputs<Totals>,
    started: Instant,
    seq: u64,
}

impl Node {
    /// Opens the shard in a folder, or begins one. The seed must differ at every opening: a program draws it at random.
    fn open(folder: &Path, seed: u64) -> Result<Self, Box<dyn Error>> {
        let device = DiskDevice::open(folder, Engine::Auto, UringOptions::default())?;
        let (wal, _) = Wal::open(device, Options { seed, ..Options::default() })?;
        let partitions = Origin::all_alone(&[APPLES, MELONS], StorageId::UNKNOWN);
        let shard = Shard::open(ShardOptions::default(), wal, Totals::default(), &partitions, seed)?;
        Ok(Self { shard, out: Outputs::default(), started: Instant::now(), seq: 0 })
    }

    /// Hands requests in, and turns the shard until each has its one reply.
    fn ask(&mut self, requests: &[(PartitionId, Kind, &str)]) -> Result<(), Box<dyn Error>> {
        for (partition, kind, op) in requests {
            self.seq += 1;
            let ticket = Ticket { conn: 1, seq: self.seq };
            let op = op.as_bytes();
            self.shard.handle(Input::Request { ticket, partition: *partition, kind: *kind, op });
        }
        let mut answered = 0;
        while answered < requests.len() {
            let now = self.now()?;
            self.shard.turn(now, &mut self.out)?;
            if let Some((partition, why)) = self.out.fenced.pop() {
                return Err(format!("partition {partition} cannot serve: {why}").into());
            }
            for (ticket, reply, _) in self.out.take_replies() {
                answered += 1;
                match reply {
                    Reply::Done { lsn, outcome } => {
                        println!("request {}: {outcome:?}, as of entry {lsn}", ticket.seq)
                    }
                    Reply::Rejected(why) => println!("request {}: certainly not done: {why}", ticket.seq),
                    Reply::Unknown => println!("request {}: perhaps done, perhaps not", ticket.seq),
                }
            }
            // The driver of a real node waits for sockets and other cores in the same place.
            let wake_at_ns = self.out.wake_at_ns.take();
            if !std::mem::take(&mut self.out.again) && answered < requests.len() {
                let until_ns = wake_at_ns.unwrap_or(now.mono_ns + 1_000_000_000);
                let timeout = Duration::from_nanos(until_ns.saturating_sub(now.mono_ns));
                self.shard.wal_mut().device_mut().wait(timeout)?;
            }
        }
        Ok(())
    }

    fn now(&self) -> Result<Now, Box<dyn Error>> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Now {
            mono_ns: u64::try_from(self.started.elapsed().as_nanos())?,
            wall_ms: u64::try_from(wall.as_millis())?,
        })
    }
}
