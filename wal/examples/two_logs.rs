//! Two logs in one write-ahead log: one disk write makes entries of both durable, and both are there when it is opened
//! again.
//!
//! `cargo run -p corduroy-wal --example two_logs`

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use corduroy_wal::device::{DiskDevice, Engine, UringOptions};
use corduroy_wal::{
    BatchSeq, EntryKind, EntryRef, LogId, Lsn, Options, RecordHead, Space, Term, Wal, WalEvent,
};

const ORDERS: LogId = LogId(1);
const LETTERS: LogId = LogId(2);

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut wal = open(folder.path(), 1)?;
    append(&mut wal, ORDERS, Lsn(1), &["3 apples", "1 melon"])?;
    let batch = append(&mut wal, LETTERS, Lsn(1), &["your order has arrived"])?;
    make_durable(&mut wal, batch)?;
    let stats = wal.stats();
    println!("{} records became durable by {} write", stats.records, stats.frames);

    // Never submitted, so it ends with the process; but then it was never reported durable.
    append(&mut wal, LETTERS, Lsn(2), &["your order is on its way"])?;
    drop(wal);

    let mut wal = open(folder.path(), 2)?;
    for log in wal.logs() {
        let state = wal.log_state(log).ok_or("a log that is listed has a state")?;
        for entry in wal.read_blocking(log, state.first, state.last)? {
            println!("log {log}, entry {}: {}", entry.lsn, String::from_utf8_lossy(&entry.data));
        }
    }
    // Whoever has the effect of an entry on disk elsewhere lets go of it; a segment that holds nothing else is used again.
    wal.release(ORDERS, Lsn(2));
    Ok(())
}

/// Opens the log in a folder, or begins one. The seed must differ at every opening: a program draws it at random.
fn open(folder: &Path, seed: u64) -> Result<Wal<DiskDevice>, Box<dyn Error>> {
    let device = DiskDevice::open(folder, Engine::Auto, UringOptions::default())?;
    println!("{}", device.describe());
    let (wal, _) = Wal::open(device, Options { seed, ..Options::default() })?;
    Ok(wal)
}

/// Appends entries in one record: after a crash all of them are there, or none.
fn append(
    wal: &mut Wal<DiskDevice>,
    log: LogId,
    first: Lsn,
    texts: &[&str],
) -> Result<BatchSeq, Box<dyn Error>> {
    let head = RecordHead { log, ..RecordHead::default() };
    let entries = texts.iter().enumerate().map(|(at, text)| EntryRef {
        lsn: Lsn(first.get() + at as u64),
        term: Term(1),
        kind: EntryKind::Normal,
        data: text.as_bytes(),
    });
    Ok(wal.append(head, entries)?)
}

/// Writes what was appended, and waits until the disk has it. A server does other things meanwhile, and polls when the
/// device's descriptor is readable.
fn make_durable(wal: &mut Wal<DiskDevice>, batch: BatchSeq) -> Result<(), Box<dyn Error>> {
    let mut events = Vec::new();
    while wal.durable() < batch {
        // Not at once in a new folder: its first segment is being made.
        if wal.can_submit() {
            wal.submit()?;
        }
        wal.device_mut().wait(Duration::from_secs(1))?;
        wal.poll(&mut events)?;
        if events.drain(..).any(|event| matches!(event, WalEvent::Space(Space::Full))) {
            return Err("the disk has no room for the log".into());
        }
    }
    Ok(())
}
