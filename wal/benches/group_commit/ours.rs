//! Our group commit over the real device, driven as a shard's loop drives it: gather what is pending, submit one
//! frame while a slot in flight is free, wait, acknowledge.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use corduroy_wal::device::{SyncMode, UringDevice, UringOptions};
use corduroy_wal::{BatchSeq, EntryKind, EntryRef, LogId, Lsn, Options, RecordHead, Term, Wal, WalEvent};

use crate::measure::{Clock, Round};

/// Released entries stay this many behind, so that reading the tail would still work.
const KEEP: u64 = 64;
/// Segments that are filled before anything is measured.
const WARM_UP_SEGMENTS: u64 = 6;

pub struct Ours {
    wal: Wal<UringDevice>,
    next: Vec<u64>,
    events: Vec<WalEvent>,
}

impl Ours {
    /// Begins a WAL in an empty folder.
    pub fn new(folder: &Path, sync: SyncMode, writers: usize, depth: usize) -> Self {
        let device = UringDevice::open(folder, UringOptions { sync, ..UringOptions::default() }).unwrap();
        let options = Options { max_in_flight: depth, ..Options::default() };
        let (wal, _) = Wal::open(device, options).unwrap();
        let mut ours = Self { wal, next: vec![1; writers], events: Vec::new() };
        ours.warm_up(options);
        ours
    }

    /// Goes on until slots are used again and none is made any more: what is measured is the steady state.
    fn warm_up(&mut self, options: Options) {
        let payload = vec![0x5a; 1 << 20];
        let bytes = u64::from(options.segment_bytes) * WARM_UP_SEGMENTS;
        while self.wal.stats().bytes < bytes || self.wal.stats().spare_segments < 2 {
            if self.wal.can_submit() {
                self.append(0, &payload);
                self.wal.submit().unwrap();
            }
            self.wait();
            self.release();
        }
    }

    /// Bytes of the files that it goes over and over.
    pub fn slots_bytes(&self) -> u64 {
        let stats = self.wal.stats();
        (stats.live_segments + stats.spare_segments) * u64::from(Options::default().segment_bytes)
    }

    /// What the device turned out to use.
    pub fn describe(&self) -> String {
        self.wal.device().report().to_string()
    }

    /// Keeps `depth` frames of one record going: the same work as the bare loop's.
    pub fn run_frames(&mut self, payload: &[u8], length: Duration) -> Round {
        let mut clock = Clock::start(length);
        let mut in_flight: VecDeque<(BatchSeq, Instant)> = VecDeque::new();
        while clock.running() || !in_flight.is_empty() {
            while clock.running() && self.wal.can_submit() {
                let start = Instant::now();
                self.append(0, payload);
                let batch = self.wal.submit().unwrap().expect("a record was appended");
                in_flight.push_back((batch, start));
            }
            let durable = self.wait();
            while in_flight.front().is_some_and(|(batch, _)| *batch <= durable) {
                let (_, start) = in_flight.pop_front().expect("seen just above");
                clock.record(start.elapsed());
            }
            self.release();
        }
        clock.finish()
    }

    /// Closed loop: every writer has one batch outstanding, and all that are waiting ride in one frame.
    pub fn run_writers(&mut self, payload: &[u8], length: Duration) -> Round {
        let mut clock = Clock::start(length);
        let mut waiting: Vec<(usize, Instant)> = (0..self.next.len()).map(|w| (w, Instant::now())).collect();
        let mut in_flight: VecDeque<(BatchSeq, Vec<(usize, Instant)>)> = VecDeque::new();
        while !waiting.is_empty() || !in_flight.is_empty() {
            if !waiting.is_empty() && self.wal.can_submit() {
                for (writer, _) in &waiting {
                    self.append(*writer, payload);
                }
                let batch = self.wal.submit().unwrap().expect("records were appended");
                in_flight.push_back((batch, std::mem::take(&mut waiting)));
            }
            let durable = self.wait();
            while in_flight.front().is_some_and(|(batch, _)| *batch <= durable) {
                let (_, riders) = in_flight.pop_front().expect("seen just above");
                for (writer, start) in riders {
                    clock.record(start.elapsed());
                    if clock.running() {
                        waiting.push((writer, Instant::now()));
                    }
                }
            }
            self.release();
        }
        clock.finish()
    }

    fn append(&mut self, writer: usize, payload: &[u8]) {
        let lsn = Lsn(self.next[writer]);
        self.next[writer] += 1;
        let head = RecordHead { log: LogId(writer as u64 + 1), ..RecordHead::default() };
        let entry = EntryRef { lsn, term: Term(1), kind: EntryKind::Normal, data: payload };
        self.wal.append(head, std::iter::once(entry)).unwrap();
    }

    fn wait(&mut self) -> BatchSeq {
        self.wal.device_mut().wait(Duration::from_secs(10)).unwrap();
        self.wal.poll(&mut self.events).unwrap();
        self.events.clear();
        self.wal.durable()
    }

    fn release(&mut self) {
        for (log, next) in (1..).zip(&self.next) {
            if next % KEEP == 0 && *next > 2 * KEEP {
                self.wal.release(LogId(log), Lsn(next - KEEP));
            }
        }
    }
}
