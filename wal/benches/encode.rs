//! What the log itself costs a frame: encoding, checksums, stamps and bookkeeping, on a device that does nothing.
//! Beside it the bare checksum of as many bytes.

#![allow(clippy::unwrap_used, missing_docs, reason = "a failed step ends the benchmark")]

use std::hint::black_box;
use std::io;
use std::time::Duration;

use corduroy_wal::device::{AlignedBuffer, Completion, Device, IoId, Op, SlotId};
use corduroy_wal::{EntryKind, EntryRef, LogId, Lsn, Options, RecordHead, Term, Wal, WalEvent};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Ends every operation at once and keeps nothing.
#[derive(Debug, Default)]
struct Nowhere {
    free: Vec<AlignedBuffer>,
    ended: Vec<Completion<AlignedBuffer>>,
}

impl Device for Nowhere {
    type Buffer = AlignedBuffer;

    fn buffer(&mut self, min_bytes: usize) -> AlignedBuffer {
        match self.free.iter().position(|buffer| buffer.len() >= min_bytes) {
            Some(place) => self.free.swap_remove(place),
            None => AlignedBuffer::zeroed(min_bytes),
        }
    }

    fn recycle(&mut self, buffer: AlignedBuffer) {
        self.free.push(buffer);
    }

    fn submit(&mut self, id: IoId, op: Op<AlignedBuffer>) {
        let buffer = match op {
            Op::WriteDurable { buffer, .. } | Op::Read { buffer, .. } => Some(buffer),
            Op::Create { .. } | Op::Remove { .. } => None,
        };
        self.ended.push(Completion { id, result: Ok(()), buffer });
    }

    fn in_flight(&self, _: IoId) -> Option<&[u8]> {
        None
    }

    fn poll(&mut self, ended: &mut Vec<Completion<AlignedBuffer>>) {
        ended.append(&mut self.ended);
    }

    fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>> {
        Ok(Vec::new())
    }

    fn sync_all(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_blocking(&mut self, _: SlotId, _: u32, _: &mut AlignedBuffer, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_blocking(&mut self, _: SlotId, _: u32, _: &AlignedBuffer, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn create_blocking(&mut self, _: SlotId, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A log whose writes take no time.
struct Log {
    wal: Wal<Nowhere>,
    next: u64,
    events: Vec<WalEvent>,
}

impl Log {
    fn new() -> Self {
        let (wal, _) = Wal::open(Nowhere::default(), Options::default()).unwrap();
        Self { wal, next: 1, events: Vec::new() }
    }

    /// One frame of `records` records, each of one log and with one entry.
    fn frame(&mut self, records: u64, payload: &[u8]) {
        while !self.wal.can_submit() {
            self.wal.poll(&mut self.events).unwrap();
        }
        let lsn = Lsn(self.next);
        for log in 1..=records {
            let head = RecordHead { log: LogId(log), ..RecordHead::default() };
            let entry = EntryRef { lsn, term: Term(1), kind: EntryKind::Normal, data: black_box(payload) };
            self.wal.append(head, std::iter::once(entry)).unwrap();
        }
        self.wal.submit().unwrap();
        self.wal.poll(&mut self.events).unwrap();
        self.events.clear();
        if self.next > 1 {
            (1..=records).for_each(|log| self.wal.release(LogId(log), Lsn(self.next - 1)));
        }
        self.next += 1;
    }
}

fn frames(criterion: &mut Criterion) {
    for (records, bytes) in [(1, 64), (64, 64), (1, 4 << 10), (16, 4 << 10)] {
        let payload = vec![0x5a_u8; bytes];
        let mut group = criterion.benchmark_group(format!("{records}x{bytes}B"));
        group.throughput(Throughput::Bytes(records * bytes as u64));
        let mut log = Log::new();
        group.bench_function("frame", |bencher| bencher.iter(|| log.frame(records, &payload)));
        let whole = vec![0x5a_u8; bytes * usize::try_from(records).unwrap()];
        group.bench_function("crc32 alone", |bencher| bencher.iter(|| crc32fast::hash(black_box(&whole))));
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20);
    targets = frames
}
criterion_main!(benches);
