//! corduroy-wal as it is run: output, exit status, refusal of a folder in use.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use corduroy::store::{Expiry, List, Op, SetReply, SetWhen};
use corduroy_shards::entry::EntryBuilder;
use corduroy_shards::raft::membership::{MemberId, Membership, StorageId};
use corduroy_wal::device::{DiskDevice, Engine, UringOptions};
use corduroy_wal::{EntryKind, EntryRef, HardState, LogId, Lsn, Options, RecordHead, Term, Wal};
use serde_json::Value;

use common::alone;

const FRAMES: u64 = 5;

fn open(path: &Path) -> Wal<DiskDevice> {
    let device = DiskDevice::open(path, Engine::File, UringOptions::default()).unwrap();
    let options = Options { segment_bytes: 64 << 10, seed: 1, ..Options::default() };
    Wal::open(device, options).unwrap().0
}

/// Appends a record with one entry, in a frame of its own.
fn append(wal: &mut Wal<DiskDevice>, head: RecordHead<'_>, lsn: u64, kind: EntryKind, data: &[u8]) {
    let mut events = Vec::new();
    while !wal.can_submit() {
        wal.device_mut().wait(Duration::from_secs(5)).unwrap();
        wal.poll(&mut events).unwrap();
    }
    let entry = EntryRef { lsn: Lsn(lsn), term: Term(3), kind, data };
    wal.append(head, std::iter::once(entry)).unwrap();
    let batch = wal.submit().unwrap().unwrap();
    while wal.durable() < batch {
        wal.device_mut().wait(Duration::from_secs(5)).unwrap();
        wal.poll(&mut events).unwrap();
    }
}

fn write_log(path: &Path) -> Wal<DiskDevice> {
    let mut wal = open(path);
    for lsn in 1..=FRAMES {
        let head = RecordHead { log: LogId(42), ..RecordHead::default() };
        append(&mut wal, head, lsn, EntryKind::Normal, &[7; 900]);
    }
    wal
}

fn payload(ops: &[Op<'_>]) -> Vec<u8> {
    let mut entry = EntryBuilder::default();
    for op in ops {
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        entry.push(&bytes);
    }
    entry.finish(951_782_400_000)
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Op<'a> {
    Op::Set { key, value, when: SetWhen::Always, expiry: Expiry::Clear, reply: SetReply::Ok }
}

/// The log of two partitions as a node writes it: a leader's first entry, operations, a transaction.
fn write_operations(path: &Path) {
    let mut wal = open(path);
    let head = |log| RecordHead { log: LogId(log), ..RecordHead::default() };
    let state = HardState { term: Term(3), vote: 1, commit: Lsn(0) };
    let conf = Membership::founding(MemberId::FIRST, StorageId(7)).encode();
    let first = RecordHead { hard_state: Some(state), conf: Some(&conf), ..head(2) };
    append(&mut wal, first, 1, EntryKind::Normal, &[]);
    let long = [b'x'; 5000];
    append(
        &mut wal,
        head(2),
        2,
        EntryKind::Normal,
        &payload(&[set(b"a\r\n", b"1"), set(b"b", &long), Op::Del { keys: List::Args(&[b"c", b"d"]) }]),
    );
    let mut incr = Vec::new();
    Op::IncrBy { key: b"n", delta: 1 }.encode(&mut incr);
    let guards = [&b"b"[..], &2_u64.to_le_bytes()];
    let multi = Op::Multi { guards: List::Args(&guards), ops: List::Args(&[&incr]) };
    append(&mut wal, head(3), 1, EntryKind::Normal, &payload(&[multi]));
    append(&mut wal, head(3), 2, EntryKind::Normal, &payload(&[Op::Flush]));
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
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("shard-0/wal");
    drop(write_log(&wal));
    let verified = run(&["verify"], dir.path());
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(
        String::from_utf8_lossy(&verified.stdout)
            .contains("sound: 1 segment, 5 frames, 5 records, 1 partition, 0 faults")
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
    assert!(String::from_utf8_lossy(&text.stdout).contains("entry 5, term 3: 900 bytes that"), "{text:?}");
}

#[test]
fn a_dump_says_what_clients_asked_for() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    write_operations(dir.path());
    let text = String::from_utf8(run(&["dump", "--value-bytes", "4"], dir.path()).stdout).unwrap();
    for wanted in [
        "    partition 2: entry 1 (",
        "      raft's hard state: term 3, vote for member 1, committed up to entry 0\n      members: voters 1 on storage 0000000000000007\n",
        "      entry 1, term 3: a new leader's first entry, without an operation\n",
        concat!(
            "      entry 2, term 3, 2000-02-29 00:00:00.000 UTC: 3 operations\n",
            "        SET \"a\\r\\n\" \"1\"\n",
            "        SET \"b\" \"xxxx\"... (5000 bytes)\n",
            "        DEL \"c\" \"d\"\n",
        ),
        concat!(
            "        MULTI\n          only if \"b\" is unchanged since version 2 (WATCH)\n",
            "          INCRBY \"n\" 1\n        EXEC\n",
        ),
        "        FLUSHALL\n",
        "# A partition has a log of its own in it, of the same number.",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
}

#[test]
fn a_dump_shows_what_happened_to_a_key_and_no_more() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    write_operations(dir.path());
    let text = String::from_utf8(run(&["dump", "--key", "b"], dir.path()).stdout).unwrap();
    for (word, times) in
        [("SET", 1), ("DEL", 0), ("MULTI", 1), ("FLUSHALL", 1), ("segment 1 in", 1), ("frame at", 3)]
    {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let seen = lines.filter(|line| line.trim_start().starts_with(word)).count();
        assert_eq!(seen, times, "{word}\n{text}");
    }
    assert!(text.contains("and 2 more on other keys"), "{text}");
    let text =
        String::from_utf8(run(&["dump", "--key", "b", "--partition", "3"], dir.path()).stdout).unwrap();
    assert!(!text.contains("SET \"b\"") && text.contains("MULTI"), "{text}");
    let records = lines(&run(&["dump", "--json", "--key", "b"], dir.path()));
    let records: Vec<_> = records.iter().filter(|line| line.get("log").is_some()).collect();
    assert_eq!(records.len(), 3, "{records:?}");
    assert_eq!(records[0]["entries"][0]["stamp_ms"], 951_782_400_000_u64);
    let operations = &records[1]["entries"][0]["operations"];
    let wanted = "MULTI\n  only if \"b\" is unchanged since version 2 (WATCH)\n  INCRBY \"n\" 1\nEXEC";
    assert_eq!(operations[0], wanted);
}

#[test]
fn damage_is_printed_and_told_by_the_exit_status() {
    let _alone = alone();
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
    let _alone = alone();
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
