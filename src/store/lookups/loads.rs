//! What blocked ops want of the disk level: each thing is asked for once, keys by few jobs that read many, and whoever
//! waits is woken once, when all that it waits for is there.
//!
//! Walk: ops want keys during a turn; at its end the oldest of them go to as many jobs as may be under way, each a
//! stretch of them in the disk level's order; while all those are under way keys gather. Invariant: a wait counts what is
//! missing for it, so it is woken by the last answer, whatever comes in which order. Of the keys that no job has been given,
//! at least about a third are wanted by somebody who still waits.

use std::collections::VecDeque;

use corduroy_shards::{PartitionId, Wait};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::stored::Keyspace;
use crate::store::disk::{DiskError, DiskLevel};
use crate::store::jobs::{Job, Loaded, Task};
use crate::store::lookups::Want;
use crate::store::memory::listings::MatchLimit;
use crate::store::memory::row::FRESH;
use crate::store::state::{Options, Store};

/// Keys that one job reads at most: it takes less than a ms where they are cached.
const JOB_KEYS: usize = 64;
/// Keys below which a job is not worth being split, though others are free: to start one takes as long as to read a few.
const FEW_KEYS: usize = 4;

/// Keys of blind writes that one job resolves.
const RESOLVE_KEYS: usize = 4096;

/// A key that is to be read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::store) struct WantedKey {
    pub(in crate::store) keyspace: Keyspace,
    pub(in crate::store) hash: u64,
    pub(in crate::store) key: Vec<u8>,
}

/// A step that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    partition: PartitionId,
    /// The hash of its op.
    op: u64,
    /// What is missing for it.
    missing: u32,
}

/// Who wants a key.
#[derive(Default, Debug)]
struct Wanted {
    /// The steps that wait for it.
    steps: Vec<u64>,
    /// An op that waits for whatever job ends next wants it too.
    is_for_job: bool,
}

/// See the file's head.
#[derive(Default, Debug)]
pub(in crate::store) struct Loads {
    /// Keys that are wanted and not here yet.
    keys: HashMap<(PartitionId, u64), Wanted>,
    /// Of those, the ones that no job has been given.
    queue: VecDeque<WantedKey>,
    /// Jobs that read keys.
    under_way: usize,
    /// Questions under way other than for keys, with the steps that wait for each.
    questions: HashMap<(PartitionId, Want), Vec<u64>>,
    waiting: HashMap<u64, Waiting>,
    /// Steps that were given up since the queue was looked through for what only such want.
    abandoned: usize,
    last: u64,
    woken: Vec<(PartitionId, u64)>,
    /// The ops of steps that were woken, and their partitions.
    woken_ops: Vec<(PartitionId, u64)>,
}

impl Loads {
    /// The number of a step that is about to wait.
    pub(in crate::store) fn begin_wait(&mut self, partition: PartitionId, op: u64) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, Waiting { partition, op, missing: 0 });
        self.last
    }

    fn miss(waiting: &mut HashMap<u64, Waiting>, steps: &mut Vec<u64>, step: Option<u64>) {
        if let Some(number) = step {
            waiting.get_mut(&number).expect("a step waits from when it gets its number").missing += 1;
            steps.push(number);
        }
    }

    /// Has a key read, unless it is on its way; `step` waits for it.
    pub(in crate::store) fn want_key(&mut self, key: WantedKey, step: Option<u64>) {
        let Self { keys, queue, waiting, .. } = self;
        let wanted = match keys.entry((key.keyspace.partition, key.hash)) {
            Entry::Occupied(wanted) => wanted.into_mut(),
            Entry::Vacant(new) => {
                queue.push_back(key);
                new.insert(Wanted::default())
            }
        };
        wanted.is_for_job |= step.is_none();
        Self::miss(waiting, &mut wanted.steps, step);
    }

    /// Whether a key is on its way.
    pub(in crate::store) fn is_wanted(&self, partition: PartitionId, hash: u64) -> bool {
        self.keys.contains_key(&(partition, hash))
    }

    /// Nobody waits for a step any more: what no other one wants is not read, unless a job is at it.
    pub(in crate::store) fn abandon(&mut self, step: u64) {
        let Some(Waiting { partition, op, .. }) = self.waiting.remove(&step) else { return };
        self.woken_ops.push((partition, op));
        self.abandoned += 1;
        // All of it is looked through once for every so many, so that each costs the same.
        if self.abandoned > (self.queue.len() + self.waiting.len()) / 2 {
            self.forget_abandoned();
        }
    }

    fn forget_abandoned(&mut self) {
        let Self { keys, queue, waiting, .. } = self;
        queue.retain(|key| {
            let Entry::Occupied(mut wanted) = keys.entry((key.keyspace.partition, key.hash)) else {
                unreachable!("what is queued is wanted")
            };
            wanted.get_mut().steps.retain(|step| waiting.contains_key(step));
            let is_wanted = wanted.get().is_for_job || !wanted.get().steps.is_empty();
            if !is_wanted {
                wanted.remove();
            }
            is_wanted
        });
        self.abandoned = 0;
    }

    /// A job has not come to these keys: others before all that came later read them.
    fn requeue(&mut self, left: Vec<WantedKey>) {
        left.into_iter().rev().for_each(|key| self.queue.push_front(key));
    }

    /// Notes a question; `step` waits for its answer. False if it is under way already.
    pub(in crate::store) fn begin_question(
        &mut self,
        partition: PartitionId,
        want: Want,
        step: Option<u64>,
    ) -> bool {
        let Self { questions, waiting, .. } = self;
        match questions.entry((partition, want)) {
            Entry::Occupied(mut steps) => {
                Self::miss(waiting, steps.get_mut(), step);
                false
            }
            Entry::Vacant(new) => {
                Self::miss(waiting, new.insert(Vec::new()), step);
                true
            }
        }
    }

    /// A key is here, or cannot be read: both are an answer.
    pub(in crate::store) fn end_key(&mut self, partition: PartitionId, hash: u64) {
        let wanted = self.keys.remove(&(partition, hash)).expect("what jobs read is wanted until then");
        self.answer(&wanted.steps);
    }

    /// A question is answered.
    pub(in crate::store) fn end_question(&mut self, partition: PartitionId, want: Want) {
        let steps = self.questions.remove(&(partition, want)).expect("it was noted when it was asked");
        self.answer(&steps);
    }

    fn answer(&mut self, steps: &[u64]) {
        for number in steps {
            // It may have been given up.
            let Entry::Occupied(mut waiting) = self.waiting.entry(*number) else { continue };
            waiting.get_mut().missing -= 1;
            if waiting.get().missing == 0 {
                let Waiting { partition, op, .. } = waiting.remove();
                self.woken.push((partition, *number));
                self.woken_ops.push((partition, op));
            }
        }
    }

    /// Moves the steps that can be done into `woken`.
    pub(in crate::store) fn take_woken(&mut self, woken: &mut Vec<(PartitionId, u64)>) {
        woken.append(&mut self.woken);
    }

    /// The keys of jobs that may start now, while `most` are under way at a time: each a stretch of the oldest keys, in order.
    fn next_jobs(&mut self, most: usize) -> impl Iterator<Item = Vec<WantedKey>> + use<> {
        let free = most.max(1).saturating_sub(self.under_way);
        let count = self.queue.len().min(free * JOB_KEYS);
        let mut keys: Vec<WantedKey> = self.queue.drain(..count).collect();
        keys.sort_unstable();
        let jobs = count.div_ceil(FEW_KEYS).min(free);
        self.under_way += jobs;
        // The first ones take one more where they cannot all be as long.
        let (each, longer) = (count.checked_div(jobs).unwrap_or(0), count.checked_rem(jobs).unwrap_or(0));
        let mut keys = keys.into_iter();
        (0..jobs).map(move |job| keys.by_ref().take(each + usize::from(job < longer)).collect())
    }

    /// Compares what is counted.
    ///
    /// # Panics
    /// If a step waits for something else than what is under way for it.
    pub(in crate::store) fn check(&self) {
        let mut missing: HashMap<u64, u32> = HashMap::new();
        let steps = self.keys.values().map(|wanted| &wanted.steps).chain(self.questions.values()).flatten();
        for number in steps.filter(|number| self.waiting.contains_key(*number)) {
            *missing.entry(*number).or_default() += 1;
        }
        let counted: HashMap<u64, u32> =
            self.waiting.iter().map(|(number, step)| (*number, step.missing)).collect();
        assert_eq!(counted, missing, "what steps wait for");
        let is_wanted = |key: &WantedKey| self.keys.contains_key(&(key.keyspace.partition, key.hash));
        assert!(self.queue.iter().all(is_wanted), "what is queued is wanted");
    }
}

impl<L> Job<L> {
    /// Whether it takes about a ms at most, and requests wait for it.
    #[must_use]
    pub const fn is_short(&self) -> bool {
        match self.task {
            Task::Load { .. } | Task::Range { .. } | Task::Nothing => true,
            Task::Matches { .. }
            | Task::Warm { .. }
            | Task::Expired { .. }
            | Task::Resolve { .. }
            | Task::Flush { .. }
            | Task::Compact { .. }
            | Task::Look
            | Task::Verify
            | Task::Subsequence { .. }
            | Task::Image(_) => false,
        }
    }
}

impl<L: DiskLevel> Store<L> {
    /// Asks for what the last op wants, whose hash is `op`. Returns what it has to wait for.
    pub(in crate::store) fn ask(&mut self, id: PartitionId, op: u64) -> Wait {
        let wants = std::mem::take(&mut self.lookups.wants);
        let Some(partition) = self.partitions.get(&id) else { return Wait::Job };
        let keyspace = Keyspace { partition: id, flush_version: partition.flush_version };
        // The others need more than one answer, or none of their own.
        let is_counted = |want: &Want| matches!(want, Want::Key { .. } | Want::Range { .. });
        let is_step = !wants.is_empty() && wants.iter().all(is_counted);
        let step = is_step.then(|| {
            self.pins.sleep(id, op);
            self.loads.begin_wait(id, op)
        });
        for want in wants {
            match want {
                Want::Key { hash, key } => self.loads.want_key(WantedKey { keyspace, hash, key }, step),
                Want::Range { .. } | Want::Matches { .. } | Want::Unknown => {
                    self.question(keyspace, want, step)
                }
            }
        }
        step.map_or(Wait::Job, Wait::Number)
    }

    /// Makes a job of a question other than for a key, unless one is under way.
    fn question(&mut self, keyspace: Keyspace, want: Want, step: Option<u64>) {
        let (id, asked) = (keyspace.partition, self.ledger.completed);
        // A flush under way resolves them, and its completion lets the op run again.
        let is_resolved = want == Want::Unknown && self.ledger.has_running_flush();
        if is_resolved || !self.loads.begin_question(id, want.clone(), step) {
            return;
        }
        let partition = self.partitions.get(&id).expect("ops run in partitions that there are");
        let task = match want {
            Want::Key { .. } => unreachable!("keys are asked for together"),
            Want::Range { from } => Task::Range { keyspace, from, clock_ms: partition.clock_ms, asked },
            Want::Matches { pattern } => {
                let Options { max_keys_reply: keys, max_reply_bytes: bytes, .. } = self.options;
                Task::Matches { keyspace, pattern, limit: MatchLimit { keys, bytes }, asked }
            }
            Want::Unknown => {
                let keys = partition.unknown_keys(RESOLVE_KEYS);
                Task::Resolve { keyspace, keys, epoch: self.ledger.epoch }
            }
        };
        if !matches!(task, Task::Resolve { .. }) {
            self.lookups.ask(asked);
        }
        self.jobs.push(Job { disk: self.disk.clone(), task });
    }

    /// Takes the keys that a job has read, or could not read, or has left.
    pub(in crate::store) fn take_loaded(
        &mut self,
        rows: Vec<(Keyspace, Loaded)>,
        failed: Vec<(Keyspace, u64, DiskError)>,
        left: Vec<WantedKey>,
    ) {
        self.loads.under_way -= 1;
        self.ledger.totals.loads -= left.len() as u64;
        self.loads.requeue(left);
        for (keyspace, hash, why) in failed {
            let want = Want::Key { hash, key: Vec::new() };
            self.lookups.fail(keyspace.partition, want, why.into());
            self.loads.end_key(keyspace.partition, hash);
        }
        let mut partitions: Vec<PartitionId> = rows.iter().map(|(keyspace, _)| keyspace.partition).collect();
        partitions.dedup();
        for (keyspace, row) in rows {
            self.put_loaded(keyspace, &row, FRESH);
            self.loads.end_key(keyspace.partition, row.hash);
        }
        partitions.into_iter().for_each(|partition| self.announce(partition));
    }

    /// After a job: ops that have what they waited for are going to be tried.
    pub(in crate::store) fn wake_ops(&mut self) {
        for (partition, op) in self.loads.woken_ops.drain(..) {
            self.pins.wake(partition, op);
        }
    }

    /// Makes jobs of the keys that are wanted.
    pub(in crate::store) fn start_loads(&mut self) {
        let asked = self.ledger.completed;
        for keys in self.loads.next_jobs(self.options.load_jobs) {
            self.lookups.ask(asked);
            self.ledger.totals.loads += keys.len() as u64;
            self.jobs.push(Job { disk: self.disk.clone(), task: Task::Load { keys, asked } });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);

    fn key(hash: u64) -> WantedKey {
        WantedKey {
            keyspace: Keyspace { partition: P, flush_version: 0 },
            hash,
            key: hash.to_be_bytes().to_vec(),
        }
    }

    fn woken(loads: &mut Loads) -> Vec<u64> {
        let mut woken = Vec::new();
        loads.take_woken(&mut woken);
        woken.into_iter().map(|(_, number)| number).collect()
    }

    #[test]
    fn a_step_is_woken_once_by_the_last_of_what_it_waits_for() {
        let mut loads = Loads::default();
        let [one, both] = [1, 2].map(|op| loads.begin_wait(P, op));
        loads.want_key(key(10), Some(one));
        loads.want_key(key(10), Some(both));
        loads.want_key(key(11), Some(both));
        assert!(loads.begin_question(P, Want::Range { from: 5 }, Some(both)));
        assert_eq!(loads.queue.len(), 2, "a key is read once for all");
        loads.check();
        assert_eq!(loads.next_jobs(1).count(), 1);
        loads.end_key(P, 10);
        assert_eq!(woken(&mut loads), [one]);
        loads.end_question(P, Want::Range { from: 5 });
        assert!(woken(&mut loads).is_empty());
        loads.end_key(P, 11);
        assert_eq!((woken(&mut loads), woken(&mut loads)), (vec![both], vec![]));
        loads.check();
        assert!(loads.waiting.is_empty() && loads.keys.is_empty() && loads.questions.is_empty());
    }

    #[test]
    fn what_only_steps_want_that_were_given_up_is_not_read() {
        const KEYS: u64 = 1000;
        let mut loads = Loads::default();
        let steps: Vec<u64> = (0..KEYS).map(|op| loads.begin_wait(P, op)).collect();
        for (hash, step) in steps.iter().enumerate() {
            loads.want_key(key(hash as u64), Some(*step));
            loads.want_key(key(hash as u64 / 2), Some(*step));
        }
        loads.want_key(key(7), None);
        loads.want_key(key(KEYS), None);
        // One of them is awaited still, with two keys.
        for step in steps.iter().filter(|step| **step != steps[900]) {
            loads.abandon(*step);
            loads.check();
        }
        let mut queued: Vec<u64> = loads.queue.iter().map(|key| key.hash).collect();
        queued.sort_unstable();
        assert!(queued.len() < 20 && loads.keys.len() == queued.len(), "{queued:?}");
        assert!([7, 450, 900, KEYS].iter().all(|hash| queued.contains(hash)), "{queued:?}");
        loads.next_jobs(1).for_each(drop);
        loads.end_key(P, 450);
        assert!(woken(&mut loads).is_empty());
        loads.end_key(P, 900);
        assert_eq!(woken(&mut loads), [steps[900]]);
        assert!(loads.waiting.is_empty());
    }

    #[test]
    fn a_key_on_its_way_to_somebody_who_has_gone_wakes_nobody() {
        let mut loads = Loads::default();
        let [gone, other] = [1, 2].map(|op| loads.begin_wait(P, op));
        loads.want_key(key(10), Some(gone));
        loads.want_key(key(11), Some(gone));
        loads.want_key(key(11), Some(other));
        assert_eq!(loads.next_jobs(1).count(), 1);
        loads.abandon(gone);
        loads.check();
        loads.end_key(P, 10);
        loads.end_key(P, 11);
        assert_eq!(woken(&mut loads), [other]);
        loads.abandon(gone);
        assert!(loads.keys.is_empty() && loads.waiting.is_empty());
    }

    #[test]
    fn keys_go_to_few_jobs_each_a_stretch_of_the_oldest() {
        let mut loads = Loads::default();
        let want = |loads: &mut Loads, hashes: &[u64]| {
            hashes.iter().for_each(|hash| loads.want_key(key(*hash), None));
        };
        let hashes = |jobs: Vec<Vec<WantedKey>>| -> Vec<Vec<u64>> {
            jobs.into_iter().map(|job| job.into_iter().map(|key| key.hash).collect()).collect()
        };
        want(&mut loads, &[9, 1, 5]);
        let jobs = hashes(loads.next_jobs(2).collect());
        assert_eq!(jobs, [[1, 5, 9]], "few are not split");
        want(&mut loads, &(100..100 + JOB_KEYS as u64 + 3).rev().collect::<Vec<_>>());
        let jobs = hashes(loads.next_jobs(2).collect());
        assert_eq!(jobs.len(), 1, "one is under way");
        assert_eq!(jobs[0], (103..103 + JOB_KEYS as u64).collect::<Vec<_>>());
        assert_eq!(loads.next_jobs(2).count(), 0);
        loads.under_way -= 1;
        loads.under_way -= 1;
        want(&mut loads, &[50, 40]);
        let jobs = hashes(loads.next_jobs(2).collect());
        assert_eq!(jobs, [vec![40, 50, 100], vec![101, 102]], "split among those that are free");
        assert_eq!(loads.next_jobs(2).count(), 0);
    }
}
