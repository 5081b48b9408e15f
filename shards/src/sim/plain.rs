//! The smallest whole state machine: registers and counters, written back by a job. The simulator's own test subject.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corduroy_wal::Lsn;

use crate::ids::{PartitionId, ShardId};
use crate::image::Header;
use crate::image::ask::{ImageAsk, ImageEvent};
use crate::image::small::{Holds, Pairs, SmallImages};
use crate::machine::{Applied, Kind, Prepared, StateMachine, Step, Unreadable, Urgency};
use crate::sim::probes::Probes;
use crate::sim::rng::Rng;
use crate::sim::swarm::Knobs;
use crate::sim::workload::{Model, Subject};

/// What an op of this machine is: a tag, a key, a number.
const PUT: u8 = 0;
const ADD: u8 = 1;
const GET: u8 = 2;

/// One partition: its registers and the entry they stand at.
#[derive(Clone, Default, Debug)]
pub struct Registers {
    values: BTreeMap<u8, u64>,
    applied: Lsn,
    stamp_ms: u64,
    /// While an entry is half applied: as they were before it. A flush never writes a part of an entry.
    before: Option<Box<Registers>>,
    /// The image that it was installed from, until an entry is applied.
    installed: Option<Box<Header>>,
}

impl Registers {
    fn run(&mut self, op: &[u8]) -> Option<u64> {
        // What follows the number only makes the op long.
        let (&[tag, key], rest) = op.split_first_chunk::<2>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let number = u64::from_le_bytes(*number);
        match tag {
            PUT => self.values.insert(key, number),
            ADD => {
                let value = self.values.entry(key).or_default();
                *value = value.wrapping_add(number);
                Some(*value)
            }
            _ => self.values.get(&key).copied(),
        }
    }
}

type Shared = Arc<Mutex<BTreeMap<PartitionId, Registers>>>;

/// The machine of one shard.
#[derive(Debug)]
pub struct Plain {
    state: BTreeMap<PartitionId, Registers>,
    persisted: BTreeMap<PartitionId, (Lsn, u64)>,
    media: Shared,
    /// Entries applied since the last flush began.
    fresh: u64,
    flush_after: u64,
    wanted: bool,
    under_way: bool,
    flushes: u64,
    /// The last flush left a partition out.
    lagged: bool,
    images: SmallImages,
}

/// Writes a copy of the whole state to the media.
#[derive(Debug)]
pub struct WriteBack {
    state: BTreeMap<PartitionId, Registers>,
    /// The lowest partition is left as it is on the media.
    lags: bool,
    media: Shared,
}

/// The lowest partition of a shard takes part in one flush of this many only, so that it keeps the log.
const LAG_FLUSHES: u64 = 16;

impl StateMachine for Plain {
    type Outcome = Option<u64>;
    type View<'m> = Option<u64>;
    type Job = WriteBack;
    type JobDone = BTreeMap<PartitionId, (Lsn, u64)>;
    type Failure = Infallible;

    fn apply(&mut self, at: &Applied, op: &[u8]) -> Step<Option<u64>> {
        let registers = self.state.entry(at.partition).or_default();
        if registers.before.is_none() {
            registers.before = Some(Box::new(registers.clone()));
        }
        Step::Done(registers.run(op))
    }

    fn end_entry(&mut self, at: &Applied) {
        let registers = self.state.entry(at.partition).or_default();
        (registers.applied, registers.stamp_ms) = (at.lsn, registers.stamp_ms.max(at.stamp_ms));
        (registers.before, registers.installed) = (None, None);
        self.fresh += 1;
    }

    fn read(&mut self, partition: PartitionId, op: &[u8], _now_ms: u64) -> Step<Option<u64>> {
        Step::Done(self.state.entry(partition).or_default().run(op))
    }

    fn rests_on_clock(&self, _partition: PartitionId, _op: &[u8], _now_ms: u64) -> bool {
        false
    }

    fn look<T>(
        &mut self,
        partition: PartitionId,
        op: &[u8],
        _now_ms: u64,
        with: impl FnOnce(Option<u64>) -> T,
    ) -> Option<T> {
        let (&[tag, key], _) = op.split_first_chunk::<2>()?;
        let value = || self.state.get(&partition).and_then(|registers| registers.values.get(&key)).copied();
        (tag == GET).then(value).map(with)
    }

    fn persisted(&self, partition: PartitionId) -> Lsn {
        self.persisted.get(&partition).copied().unwrap_or_default().0
    }

    fn is_inside_entry(&self, partition: PartitionId) -> bool {
        self.state.get(&partition).is_some_and(|registers| registers.before.is_some())
    }

    fn persisted_stamp_ms(&self, partition: PartitionId) -> u64 {
        self.persisted.get(&partition).copied().unwrap_or_default().1
    }

    fn maintain(&mut self, _budget_ns: u64) -> bool {
        self.wanted |= self.fresh >= self.flush_after;
        false
    }

    fn take_jobs(&mut self, jobs: &mut Vec<WriteBack>) {
        let lags = !self.flushes.is_multiple_of(LAG_FLUSHES);
        if self.wanted && (self.fresh > 0 || self.lagged) && !self.under_way {
            (self.wanted, self.under_way, self.fresh, self.lagged) = (false, true, 0, lags);
            let whole = |registers: &Registers| registers.before.as_deref().unwrap_or(registers).clone();
            let state = self.state.iter().map(|(id, registers)| (*id, whole(registers))).collect();
            jobs.push(WriteBack { state, lags, media: Arc::clone(&self.media) });
        }
    }

    fn take_woken(&mut self, _woken: &mut Vec<(PartitionId, u64)>) {}

    fn abandon(&mut self, _number: u64) {}

    fn run_job(mut job: WriteBack) -> Self::JobDone {
        let mut media = job.media.lock().unwrap_or_else(PoisonError::into_inner);
        if job.lags
            && let Some((lowest, registers)) = job.state.iter_mut().next()
        {
            *registers = media.get(lowest).cloned().unwrap_or_default();
        }
        for (id, registers) in job.state {
            // What was installed meanwhile stays.
            let at = media.entry(id).or_default();
            if registers.applied >= at.applied {
                *at = registers;
            }
        }
        media.iter().map(|(id, registers)| (*id, (registers.applied, registers.stamp_ms))).collect()
    }

    fn job_done(&mut self, done: Self::JobDone) -> Result<(), Infallible> {
        for (id, persisted) in done {
            let at = self.persisted.entry(id).or_default();
            *at = persisted.max(*at);
        }
        self.under_way = false;
        self.flushes += 1;
        self.with_images(|images, machine| images.retry(machine));
        Ok(())
    }

    fn want_flush(&mut self, _urgency: Urgency) {
        self.wanted = true;
    }

    fn takes_when_full(&self, _op: &[u8]) -> bool {
        false
    }

    fn step_bytes(&mut self, _outcome: &Option<u64>) -> usize {
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

    fn ask_image(&mut self, ask: ImageAsk) {
        self.with_images(|images, machine| images.ask(ask, machine));
    }

    fn take_image_events(&mut self, events: &mut Vec<ImageEvent>) {
        self.images.take(events);
    }

    fn clear(&mut self, partition: PartitionId) -> bool {
        if self.under_way {
            // It may write the partition.
            return false;
        }
        self.media().remove(&partition);
        self.persisted.remove(&partition);
        self.state.remove(&partition);
        true
    }

    fn installed_image(&self, partition: PartitionId) -> Option<Header> {
        self.state.get(&partition)?.installed.as_deref().cloned()
    }
}

impl Plain {
    fn with_images(&mut self, act: impl FnOnce(&mut SmallImages, &mut Self)) {
        let mut images = std::mem::take(&mut self.images);
        act(&mut images, self);
        self.images = images;
    }

    fn media(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Registers>> {
        self.media.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holds for Plain {
    fn persisted(&self, partition: PartitionId) -> Option<(Lsn, u64, Pairs)> {
        let media = self.media();
        let registers = media.get(&partition).filter(|registers| registers.applied > Lsn::ZERO)?;
        let row = |(key, value): (&u8, &u64)| (vec![*key], value.to_le_bytes().to_vec());
        Some((registers.applied, registers.stamp_ms, registers.values.iter().map(row).collect()))
    }

    fn applied(&self, partition: PartitionId) -> Lsn {
        self.state.get(&partition).map_or(Lsn::ZERO, |registers| registers.applied)
    }

    fn replace(&mut self, header: &Header, rows: Pairs) -> Result<(), &'static str> {
        let mut registers = Registers {
            applied: header.lsn,
            stamp_ms: header.clock_ms,
            installed: Some(Box::new(header.clone())),
            ..Registers::default()
        };
        for (key, value) in rows {
            let ([key], Ok(value)) = (key.as_slice(), <[u8; 8]>::try_from(value)) else {
                return Err("it is no register");
            };
            registers.values.insert(*key, u64::from_le_bytes(value));
        }
        self.media().insert(header.partition, registers.clone());
        self.persisted.insert(header.partition, (header.lsn, header.clock_ms));
        self.state.insert(header.partition, registers);
        Ok(())
    }

    fn want_flush(&mut self) {
        // An idle machine has nothing fresh, and what it left out of a flush is still to be written.
        (self.wanted, self.lagged) = (true, true);
    }
}

/// The model: the same registers, without anything around them.
#[derive(Default, Debug)]
pub struct PlainModel(Registers);

impl Model for PlainModel {
    type Outcome = Option<u64>;

    fn apply(&mut self, _at: &Applied, op: &[u8]) -> Option<u64> {
        self.0.run(op)
    }

    fn read(&mut self, op: &[u8], _now_ms: u64) -> Option<u64> {
        self.0.run(op)
    }
}

/// Puts `Plain` into a world.
#[derive(Clone, Copy, Default, Debug)]
pub struct PlainSubject;

fn op(tag: u8, key: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![tag, u8::try_from(key).expect("few keys")];
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes
}

impl Subject for PlainSubject {
    type Outcome = Option<u64>;
    type Machine = Plain;
    type Media = Shared;
    type Model = PlainModel;
    type OpenError = Infallible;

    fn media(&self, _shard: ShardId) -> Shared {
        Shared::default()
    }

    fn crash(&self, _media: &mut Shared, _rng: &mut Rng) {}

    fn set_room(&self, _media: &Self::Media, _bytes: Option<u64>) {}

    fn open(&self, media: &mut Shared, _shard: ShardId, knobs: &Knobs) -> Result<Plain, Infallible> {
        let state = media.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Plain {
            persisted: state
                .iter()
                .map(|(id, registers)| (*id, (registers.applied, registers.stamp_ms)))
                .collect(),
            state,
            media: Arc::clone(media),
            fresh: 0,
            flush_after: knobs.flush_bytes / 200,
            wanted: false,
            under_way: false,
            flushes: 0,
            lagged: false,
            images: SmallImages::default(),
        })
    }

    fn model(&self) -> PlainModel {
        PlainModel::default()
    }

    fn request(&self, rng: &mut Rng, knobs: &Knobs, unique: u64, _now_ms: u64) -> (Kind, Vec<u8>) {
        let key = rng.below(knobs.keys);
        if rng.chance(knobs.reads_per_mille) {
            (Kind::Read, op(GET, key, 0))
        } else {
            let mut bytes = op(if rng.chance(300) { ADD } else { PUT }, key, unique);
            bytes.resize(bytes.len() + usize::try_from(rng.below(knobs.value_bytes)).expect("small"), 0);
            (Kind::Write, bytes)
        }
    }

    fn write(&self, unique: u64) -> Vec<u8> {
        op(PUT, 0, unique)
    }

    fn seen(&self, view: &Option<u64>) -> Option<u64> {
        *view
    }

    fn audit(&self, knobs: &Knobs) -> Vec<Vec<u8>> {
        (0..knobs.keys).map(|key| op(GET, key, 0)).collect()
    }

    fn probe(&self, machine: &Plain, probes: &mut Probes) {
        probes.add("flushes", machine.flushes);
    }
}
