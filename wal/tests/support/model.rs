//! A model of the log that is too simple to be wrong, and a driver that runs both side by side from a seed.

use std::collections::BTreeMap;

use corduroy_wal::device::mem::{MemDisk, WriteFault};
use corduroy_wal::{
    BatchSeq, HardState, LogId, Lsn, Options, ReadToken, RecordHead, Space, Term, Wal, WalError, WalEvent,
};

use super::{MemWal, append_owned, entry, hard_state, read_all};

/// What a log must hold. Entries are told by term and length; see `entry`.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct ModelLog {
    /// All entries ever written and not replaced, released ones included.
    pub entries: BTreeMap<u64, (u64, usize)>,
    pub last: u64,
    /// The lowest entry of this life, and the term before it.
    pub base: (u64, u64),
    pub hard_state: Option<HardState>,
    pub conf: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Change {
    Entries {
        first: u64,
        term: u64,
        lens: Vec<usize>,
    },
    HardState(HardState),
    Conf(Vec<u8>),
    Remove,
    /// With the configuration that is in the same record.
    Reset {
        prev: u64,
        term: u64,
        conf: Option<Vec<u8>>,
    },
}

/// All logs.
pub type Model = BTreeMap<u64, ModelLog>;

fn change(model: &mut Model, log: u64, change: &Change) {
    if matches!(change, Change::Remove) {
        model.remove(&log);
        return;
    }
    let held = model.entry(log).or_insert_with(|| ModelLog { base: (1, 0), ..ModelLog::default() });
    match change {
        Change::Entries { first, term, lens } => {
            held.entries.split_off(first);
            held.entries.extend((*first..).zip(lens.iter().map(|len| (*term, *len))));
            held.last = first + lens.len() as u64 - 1;
        }
        Change::HardState(state) => held.hard_state = Some(*state),
        Change::Conf(conf) => held.conf = Some(conf.clone()),
        Change::Reset { prev, term, conf } => {
            held.entries.clear();
            held.conf = conf.clone().or(held.conf.take());
            (held.last, held.base) = (*prev, (prev + 1, *term));
        }
        Change::Remove => unreachable!("handled above"),
    }
}

/// A WAL under a random load, and what it must hold.
pub struct World {
    pub disk: MemDisk,
    pub wal: Option<MemWal>,
    pub options: Options,
    random: u64,
    /// The state at the acknowledged watermark, and the changes behind it.
    base: Model,
    changes: Vec<(BatchSeq, u64, Change)>,
    acked: BatchSeq,
    /// Per log, entries up to here may be gone.
    released: BTreeMap<u64, u64>,
    graves: BTreeMap<u64, u64>,
    reads: BTreeMap<u64, (u64, u64)>,
    next_read: u64,
    pub reopened: u64,
    pub torn: u64,
    pub footers: u64,
    pub copied: u64,
    pub given_back: u64,
    gives_back: bool,
}

fn grows(seed: u64) -> bool {
    seed.is_multiple_of(4)
}

type Check = Result<(), String>;

macro_rules! check {
    ($cond:expr, $($why:tt)*) => { if !$cond { return Err(format!($($why)*)); } };
}

impl World {
    pub fn new(seed: u64) -> Self {
        let disk = MemDisk::new(seed);
        disk.set_manual(true);
        let mut world = Self {
            disk,
            wal: None,
            options: Options {
                // Every fourth log has small segments first.
                segment_bytes: if grows(seed) { 512 << 10 } else { 64 << 10 },
                first_segment_bytes: 64 << 10,
                spare_segments: 2,
                max_in_flight: 1 + (seed % 4) as usize,
                max_segments: 0,
                long_segments: 1 + (seed % 5) as usize,
                seed: 0,
                ..Options::default()
            },
            random: seed,
            base: Model::new(),
            changes: Vec::new(),
            acked: BatchSeq::ZERO,
            released: BTreeMap::new(),
            graves: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_read: 0,
            reopened: 0,
            torn: 0,
            footers: 0,
            copied: 0,
            given_back: 0,
            // In every eighth log others are short of room now and then.
            gives_back: seed % 8 == 3,
        };
        world.reopen().expect("an empty folder opens");
        world
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn at(&self, batch: BatchSeq) -> Model {
        let mut model = self.base.clone();
        self.changes
            .iter()
            .filter(|(seq, _, _)| *seq <= batch)
            .for_each(|(_, log, c)| change(&mut model, *log, c));
        model
    }

    fn now(&self) -> Model {
        self.at(BatchSeq(u64::MAX))
    }

    /// Opens and compares with the model: exactly the state of some batch that is not below the acknowledged one.
    pub fn reopen(&mut self) -> Check {
        self.options.seed = self.draw(u64::MAX >> 33) + (self.reopened << 40);
        self.reopened += 1;
        let opened = match Wal::open(self.disk.device(), self.options) {
            // The manifest's write at the opening has failed: the process ends, and another one starts.
            Err(WalError::Io { .. }) => {
                self.disk.crash();
                Wal::open(self.disk.device(), self.options)
            }
            opened => opened,
        };
        let (wal, recovered) = opened.map_err(|error| format!("refused: {error}"))?;
        let durable = wal.durable();
        self.torn += u64::from(recovered.torn_tail.is_some());
        self.footers += recovered.by_footer;
        check!(durable >= self.acked, "batch {} was acknowledged, recovery ends at {durable}", self.acked);
        self.base = self.at(durable);
        self.changes.clear();
        self.acked = durable;
        self.reads.clear();
        let base = &self.base;
        // A removal that did not survive brings the log back, with what was released of it.
        for (log, upto) in std::mem::take(&mut self.graves) {
            let released = self.released.entry(log).or_default();
            *released = (*released).max(upto);
        }
        self.released.retain(|log, upto| {
            *upto = base.get(log).map_or(0, |held| held.last.min(*upto));
            *upto > 0
        });
        wal.check();
        self.wal = Some(wal);
        self.compare()
    }

    /// Compares all logs with the model.
    pub fn compare(&mut self) -> Check {
        let model = self.now();
        let wal = self.wal.as_mut().expect("open");
        let logs: Vec<u64> = wal.logs().iter().map(|log| log.0).collect();
        check!(
            logs == model.keys().copied().collect::<Vec<_>>(),
            "logs {logs:?}, expected {:?}",
            model.keys()
        );
        for (log, held) in &model {
            let state = wal.log_state(LogId(*log)).expect("listed");
            check!(state.last.0 == held.last, "log {log} ends at {}, expected {}", state.last, held.last);
            check!(
                state.hard_state == held.hard_state,
                "log {log}: {:?} is not {:?}",
                state.hard_state,
                held.hard_state
            );
            check!(state.conf == held.conf, "log {log}: its configuration differs");
            let released = self.released.get(log).copied().unwrap_or(0);
            let must = held.base.0.max((released + 1).min(held.last + 1));
            check!(
                state.first.0 <= must.min(held.last + 1),
                "log {log} starts at {}, {must} is needed",
                state.first
            );
            let before = state.first.0 - 1;
            let term = held.entries.get(&before).map_or(held.base.1, |entry| entry.0);
            let known = held.entries.contains_key(&before) || state.first.0 == held.base.0;
            check!(
                !known || state.prev_term.0 == term,
                "log {log}: term {} before the first",
                state.prev_term
            );
            let found = read_all(wal, *log).map_err(|error| format!("log {log}: {error}"))?;
            let expected: Vec<_> = (state.first.0..=held.last)
                .map(|lsn| held.entries.get(&lsn).map(|(term, len)| entry(*log, lsn, *term, *len)))
                .collect();
            check!(expected.iter().all(Option::is_some), "log {log} holds entries from an earlier life");
            check!(found.iter().eq(expected.iter().flatten()), "log {log}: entries differ");
        }
        Ok(())
    }

    fn submit_change(&mut self, log: u64, what: Change) {
        let model = self.now();
        let wal = self.wal.as_mut().expect("open");
        let head = RecordHead { log: LogId(log), ..RecordHead::default() };
        let result = match &what {
            Change::Entries { first, term, lens } => {
                let owned: Vec<_> =
                    (*first..).zip(lens).map(|(lsn, len)| entry(log, lsn, *term, *len)).collect();
                append_owned(wal, head, &owned)
            }
            Change::HardState(state) => {
                append_owned(wal, RecordHead { hard_state: Some(*state), ..head }, &[])
            }
            Change::Conf(conf) => append_owned(wal, RecordHead { conf: Some(conf), ..head }, &[]),
            Change::Remove => wal.remove(LogId(log)),
            Change::Reset { prev, term, conf } => {
                wal.reset(RecordHead { conf: conf.as_deref(), ..head }, Lsn(*prev), Term(*term))
            }
        };
        let batch = result.unwrap_or_else(|error| panic!("{what:?} on {:?}: {error}", model.get(&log)));
        if matches!(what, Change::Remove)
            && let Some(upto) = self.released.remove(&log)
        {
            self.graves.insert(log, upto);
        }
        self.changes.push((batch, log, what));
    }

    fn random_change(&mut self) {
        let log = 1 + self.draw(5) * self.draw(3);
        let held =
            self.now().get(&log).cloned().unwrap_or_else(|| ModelLog { base: (1, 0), ..ModelLog::default() });
        let low = held.base.0.max(self.released.get(&log).copied().unwrap_or(0) + 1);
        let last_term = held.entries.get(&held.last).map_or(held.base.1, |entry| entry.0);
        let what = match self.draw(40) {
            0 => Change::Remove,
            1 => {
                let conf = (self.draw(2) == 0).then(|| vec![self.draw(256) as u8; 7]);
                Change::Reset { prev: held.last + self.draw(50), term: last_term + 1, conf }
            }
            2..6 => Change::HardState(hard_state(last_term + self.draw(3), self.draw(held.last + 1))),
            6..8 => Change::Conf(vec![self.draw(256) as u8; self.draw(30) as usize]),
            pick => {
                let back = if pick < 12 { self.draw(8) } else { 0 };
                let first = (held.last + 1).saturating_sub(back).max(low);
                let term = if first <= held.last { last_term + 1 } else { last_term.max(1) };
                // The largest take a slot larger than the first.
                let longest = if self.options.segment_bytes > self.options.first_segment_bytes {
                    [40, 600, 3900, 30_000][self.draw(4) as usize]
                } else {
                    [40, 600, 3900][self.draw(3) as usize]
                };
                let lens = (0..=self.draw(5)).map(|_| self.draw(longest) as usize).collect();
                Change::Entries { first, term, lens }
            }
        };
        self.submit_change(log, what);
    }

    fn random_release(&mut self) {
        let model = self.now();
        for (log, held) in model {
            // Released is only what is acknowledged and applied, as a state machine would.
            let Some(base) = self.base.get(&log).filter(|base| base.base == held.base) else { continue };
            let same = |lsn: &u64| base.entries.get(lsn) == held.entries.get(lsn);
            let acked = (held.base.0..=held.last).take_while(same).last().unwrap_or(0);
            let upto = acked.saturating_sub(self.draw(4));
            if self.draw(2) == 0 && held.base.0 <= upto {
                self.wal.as_mut().expect("open").release(LogId(log), Lsn(upto));
                let released = self.released.entry(log).or_default();
                *released = (*released).max(upto);
            }
        }
    }

    fn random_read(&mut self) {
        let log = 1 + self.draw(9);
        let wal = self.wal.as_mut().expect("open");
        let Some(state) = wal.log_state(LogId(log)).filter(|state| state.first <= state.last) else { return };
        let from = state.first.0 + self.random % (state.last.0 - state.first.0 + 1);
        let token = self.next_read;
        self.next_read += 1;
        self.wal
            .as_mut()
            .expect("open")
            .read(ReadToken(token), LogId(log), Lsn(from), Lsn(from + 9), 20_000)
            .expect("in range");
        self.reads.insert(token, (log, from));
    }

    /// Polls; false once the WAL is poisoned.
    fn poll(&mut self) -> Result<bool, String> {
        let mut events = Vec::new();
        if self.wal.as_mut().expect("open").poll(&mut events).is_err() {
            return Ok(false);
        }
        for event in events {
            match event {
                WalEvent::Durable(seq) => {
                    check!(seq > self.acked, "the watermark went from {} to {seq}", self.acked);
                    self.base = self.at(seq);
                    self.changes.retain(|(batch, _, _)| *batch > seq);
                    self.acked = seq;
                }
                WalEvent::Read { token, result } => self.check_read(token, result)?,
                WalEvent::Space(space) => check!(space == Space::Ok, "the disk is not full"),
            }
        }
        Ok(true)
    }

    fn check_read(
        &mut self,
        token: ReadToken,
        result: Result<Vec<corduroy_wal::OwnedEntry>, WalError>,
    ) -> Check {
        let (log, from) = self.reads.remove(&token.0).ok_or("an unknown read ended")?;
        let model = self.now();
        match result {
            Ok(found) => {
                check!(!found.is_empty(), "an empty read");
                for (lsn, found) in (from..).zip(found) {
                    let held = model.get(&log).and_then(|held| held.entries.get(&lsn));
                    let same = held.is_some_and(|(term, len)| entry(log, lsn, *term, *len) == found);
                    check!(same, "log {log} entry {lsn} differs");
                }
                Ok(())
            }
            // Released, removed or replaced since.
            Err(WalError::OutOfRange { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One life: some steps, then an end of one of several kinds, then a reopening, perhaps cut short.
    pub fn live(&mut self, steps: u64) -> Check {
        for _ in 0..steps {
            match self.draw(16) {
                0..6 => self.random_change(),
                6..9 if self.wal.as_ref().expect("open").can_submit() => {
                    self.wal.as_mut().expect("open").submit().map_err(|error| error.to_string())?;
                }
                9..13 => {
                    self.disk.complete_any();
                }
                13 => self.random_release(),
                14 => self.random_read(),
                _ if self.draw(4) == 0 => {
                    self.wal.as_mut().expect("open").mark_end().map_err(|error| error.to_string())?;
                }
                _ if self.gives_back => {
                    let few = (self.random >> 40).is_multiple_of(2);
                    self.wal.as_mut().expect("open").keep_few_spares(few);
                }
                _ => {}
            }
            if self.draw(400) == 0 {
                let pick = self.draw(3) as usize;
                self.disk.fail_next_write([WriteFault::Eio, WriteFault::FlushEio, WriteFault::Short][pick]);
            }
            self.wal.as_ref().expect("open").check();
            if self.draw(2) == 0 && !self.poll()? {
                break;
            }
            self.wal.as_ref().expect("open").check();
        }
        self.end()
    }

    fn end(&mut self) -> Check {
        let stats = self.wal.as_ref().expect("open").stats();
        self.copied += stats.rewritten_entries;
        self.given_back += stats.spares_given_back;
        loop {
            if self.draw(3) == 0 {
                self.disk.kill();
            } else {
                self.disk.crash();
            }
            self.wal = None;
            self.reopen()?;
            // Recovery itself may be cut short, also after its first operations.
            match self.draw(4) {
                0 => {}
                1 => {
                    self.disk.complete_any();
                }
                _ => return Ok(()),
            }
        }
    }
}
