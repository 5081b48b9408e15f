//! What the tests share: short ways to append, to settle, and to compare a WAL with what it must hold.
#![allow(
    dead_code,
    clippy::indexing_slicing,
    reason = "each test file uses a part of it; an index out of range fails the test"
)]

use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::{
    BatchSeq, EntryKind, EntryRef, HardState, LogId, Lsn, Options, OwnedEntry, RecordHead, Recovered, Term,
    Wal, WalError, WalEvent,
};

pub mod model;

/// A WAL over the memory device.
pub type MemWal = Wal<MemDevice>;

/// Small segments, so that a test sees many of them.
pub fn options(seed: u64) -> Options {
    Options {
        segment_bytes: 64 << 10,
        first_segment_bytes: 64 << 10,
        spare_segments: 2,
        max_in_flight: 2,
        max_segments: 0,
        long_segments: 32,
        seed,
        ..Options::default()
    }
}

/// Opens a WAL whose spares are ready.
pub fn open(disk: &MemDisk, seed: u64) -> (MemWal, Recovered) {
    try_open(disk, options(seed)).expect("the WAL opens")
}

/// Opens a WAL and lets the making of spares end.
pub fn try_open(disk: &MemDisk, options: Options) -> Result<(MemWal, Recovered), WalError> {
    let (mut wal, recovered) = Wal::open(disk.device(), options)?;
    settle(&mut wal);
    Ok((wal, recovered))
}

/// Polls until nothing is under way; returns the events.
pub fn settle(wal: &mut MemWal) -> Vec<WalEvent> {
    let mut events = Vec::new();
    for _ in 0..8 {
        wal.poll(&mut events).expect("not poisoned");
        wal.check();
    }
    events
}

/// The payload of an entry, told by log, number and term.
pub fn payload(log: u64, lsn: u64, term: u64, len: usize) -> Vec<u8> {
    format!("{log}/{lsn}/{term};").into_bytes().into_iter().cycle().take(len).collect()
}

/// An entry as it must come back.
pub fn entry(log: u64, lsn: u64, term: u64, len: usize) -> OwnedEntry {
    OwnedEntry {
        lsn: Lsn(lsn),
        term: Term(term),
        kind: EntryKind::Normal,
        data: payload(log, lsn, term, len),
    }
}

/// Appends entries `first..first + count` of one term.
pub fn append(
    wal: &mut MemWal,
    log: u64,
    first: u64,
    count: u64,
    term: u64,
    len: usize,
) -> Result<BatchSeq, WalError> {
    let owned: Vec<_> = (first..first + count).map(|lsn| entry(log, lsn, term, len)).collect();
    append_owned(wal, RecordHead { log: LogId(log), ..RecordHead::default() }, &owned)
}

/// Appends owned entries.
pub fn append_owned(
    wal: &mut MemWal,
    head: RecordHead<'_>,
    entries: &[OwnedEntry],
) -> Result<BatchSeq, WalError> {
    wal.append(
        head,
        entries.iter().map(|e| EntryRef { lsn: e.lsn, term: e.term, kind: e.kind, data: &e.data }),
    )
}

/// Appends a hard state alone.
pub fn append_state(wal: &mut MemWal, log: u64, term: u64, commit: u64) -> Result<BatchSeq, WalError> {
    let head = RecordHead { log: LogId(log), hard_state: Some(hard_state(term, commit)), conf: None };
    append_owned(wal, head, &[])
}

/// A hard state.
pub fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote: 1, commit: Lsn(commit) }
}

/// Submits and waits until all is durable.
pub fn commit(wal: &mut MemWal) {
    let batch = wal.submit().expect("not poisoned");
    settle(wal);
    assert!(batch.is_none_or(|batch| wal.durable() >= batch), "the batch became durable");
}

/// All entries that a log says it holds.
pub fn read_all(wal: &mut MemWal, log: u64) -> Result<Vec<OwnedEntry>, WalError> {
    match wal.log_state(LogId(log)) {
        Some(state) if state.first <= state.last => wal.read_blocking(LogId(log), state.first, state.last),
        _ => Ok(Vec::new()),
    }
}
