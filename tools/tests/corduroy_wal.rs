//! corduroy-wal as it is run: output, exit status, refusal of a folder in use.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use corduroy_wal::device::{DiskDevice, Engine, UringOptions};
use corduroy_wal::{EntryKind, EntryRef, LogId, Lsn, Options, RecordHead, Term, Wal};
use serde_json::Value;

const FRAMES: u64 = 5;

fn write_log(path: &Path) -> Wal<DiskDevice> {
    let device = DiskDevice::open(path, Engine::File, UringOptions::default()).unwrap();
    let options = Options { segment_bytes: 64 << 10, seed: 1, ..Options::default() };
    let (mut wal, _) = Wal::open(device, options).unwrap();
    let mut events = Vec::new();
    for lsn in 1..=FRAMES {
        while !wal.can_submit() {
            wal.device_mut().wait(Duration::from_secs(5)).unwrap();
            wal.poll(&mut events).unwrap();
        }
        let head = RecordHead { log: LogId(42), ..RecordHead::default() };
        let entry = EntryRef { lsn: Lsn(lsn), term: Term(3), kind: EntryKind::Normal, data: &[7; 900] };
        wal.append(head, std::iter::once(entry)).unwrap();
        let batch = wal.submit().unwrap().unwrap();
        while wal.durable() < batch {
            wal.device_mut().wait(Duration::from_secs(5)).unwrap();
            wal.poll(&mut events).unwrap();
        }
    }
    wal
}

fn run(args: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corduroy-wal")).args(args).arg(path).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_sound_folder_is_dumped_verified_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("shard-0/wal");
    drop(write_log(&wal));
    let verified = run(&["verify"], dir.path());
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(
        String::from_utf8_lossy(&verified.stdout).contains("sound: 1 segments, 5 frames, 5 records, 1 logs")
    );
    let stats = &lines(&run(&["stats", "--json"], &wal))[0];
    assert_eq!(
        (stats["logs"][0]["log"].as_u64(), stats["logs"][0]["last"].as_u64()),
        (Some(42), Some(FRAMES))
    );
    let dump = lines(&run(&["dump", "--json"], &wal));
    let records: Vec<_> = dump.iter().filter(|line| line["log"] == 42).collect();
    assert_eq!(records.len() as u64, FRAMES);
    assert_eq!((records[4]["first"].as_u64(), records[4]["first_term"].as_u64()), (Some(5), Some(3)));
    let other = lines(&run(&["dump", "--json", "--log", "1"], &wal));
    assert!(other.iter().all(|line| line.get("log").is_none()) && other.len() == dump.len() - records.len());
    let text = run(&["dump"], &wal);
    assert!(String::from_utf8_lossy(&text.stdout).contains("log 42 entries 5..=5 term 3"), "{text:?}");
}

#[test]
fn damage_is_printed_and_told_by_the_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    drop(write_log(dir.path()));
    let stats = &lines(&run(&["stats", "--json"], dir.path()))[0];
    let slot = stats["segments"][0]["slot"].as_u64().unwrap();
    let file = dir.path().join(format!("slot-{slot:06}.wal"));
    // In the entry of the second frame.
    OpenOptions::new().write(true).open(file).unwrap().write_all_at(&[1], 2 * 4096 + 300).unwrap();
    let verified = run(&["verify", "--json"], dir.path());
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let line = &lines(&verified)[0];
    assert_eq!(line["sound"], false);
    let fault = &line["faults"][0];
    assert_eq!((fault["offset"].as_u64(), fault["slot"].as_u64()), (Some(8192), Some(slot)));
    assert_eq!(fault["logs"][0].as_u64(), Some(42));
    let text = run(&["verify"], dir.path());
    assert!(String::from_utf8_lossy(&text.stdout).contains("DAMAGE segment 1"), "{text:?}");
}

#[test]
fn a_folder_in_use_and_one_without_a_log_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = write_log(dir.path());
    let refused = run(&["verify"], dir.path());
    assert_eq!(refused.status.code(), Some(2));
    let process = format!("process {}", std::process::id());
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&process), "{refused:?}");
    drop(wal);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(run(&["stats"], empty.path()).status.code(), Some(2));
}
