//! corduroy-state as it is run: output, exit status, refusal of a folder in use.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use corduroy::config::Config;
use corduroy::node::identity;
use corduroy::store::{
    Expiry, HashSeed, LsmLevel, LsmShared, Op, Options, SetReply, SetWhen, Store, inspect,
};
use corduroy_shards::{Applied, PartitionId, ShardId, StateMachine, Step, Urgency};
use corduroy_wal::device::lock::FolderLock;
use corduroy_wal::{Lsn, Term};
use serde_json::Value;

use common::alone;

const PARTITION: PartitionId = PartitionId(1);
const FAR_MS: u64 = 95_617_584_000_000;

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    /// A formatted data folder of two shards, the first of which has 600 keys in two tables.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().canonicalize().unwrap();
        let config = Config { data_dir, shards: 2, partitions: 2, ..Config::default() };
        let identity = identity::format(&config, false, |_| true).unwrap();
        let binding = identity::binding_of(&identity, ShardId(0));
        let node = Self { dir };
        let disk = LsmLevel::open(&node.state(0), &LsmShared::new(1 << 20, 32), &binding).unwrap();
        let mut store = Store::open(disk, Options::with_memory(8 << 20, HashSeed([1, 2])), &[]).unwrap();
        for round in 0..2_u64 {
            for number in round * 300..(round + 1) * 300 {
                let key = format!("key:{number:03}");
                let expiry = if number == 7 { Expiry::At(FAR_MS) } else { Expiry::Clear };
                let value = if number == 8 { "12345".to_owned() } else { "v".repeat(200) };
                apply(&mut store, number + 1, &set(&key, &value, expiry));
            }
            store.want_flush(Urgency::Soon);
            work(&mut store);
        }
        apply(&mut store, 601, &Op::Del { keys: corduroy::store::List::Args(&[b"key:009"]) });
        store.want_flush(Urgency::Soon);
        work(&mut store);
        node
    }

    fn data(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    fn state(&self, shard: u32) -> PathBuf {
        self.data().join(format!("shard-{shard:04}/state"))
    }

    fn table(&self) -> PathBuf {
        let tables = inspect(&self.state(0)).unwrap().tables;
        let largest = tables.iter().max_by_key(|table| table.bytes).unwrap();
        self.state(0).join(format!("tables/{}", largest.number))
    }
}

fn set<'a>(key: &'a str, value: &'a str, expiry: Expiry) -> Op<'a> {
    let (key, value) = (key.as_bytes(), value.as_bytes());
    Op::Set { key, value, when: SetWhen::Always, expiry, reply: SetReply::Ok }
}

fn work(store: &mut Store<LsmLevel>) {
    loop {
        let mut jobs = Vec::new();
        let more = store.maintain(1_000_000);
        store.take_jobs(&mut jobs);
        if jobs.is_empty() && !more {
            return;
        }
        for job in jobs {
            store.job_done(Store::<LsmLevel>::run_job(job)).unwrap();
        }
    }
}

fn apply(store: &mut Store<LsmLevel>, lsn: u64, op: &Op<'_>) {
    let at = Applied::first(PARTITION, Lsn(lsn), Term(1), 1_000_000);
    let mut bytes = Vec::new();
    op.encode(&mut bytes);
    while matches!(store.apply(&at, &bytes), Step::Blocked(_)) {
        work(store);
    }
    store.end_entry(&at);
}

fn run(args: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_corduroy-state")).args(args).arg(path).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All files of a folder and their bytes; but not the locks, in which their holders write who they are.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for entry in entries.filter(|entry| !entry.ends_with("LOCK")) {
        if entry.is_dir() {
            all.extend(files(&entry))
        } else {
            _ = all.insert(entry.clone(), fs::read(&entry).unwrap())
        }
    }
    all
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_sound_node_is_verified_and_dumped_and_stays_as_it_is() {
    let _alone = alone();
    let node = Node::new();
    let before = files(&node.data());
    let verified = run(&["verify", "--tables"], &node.data());
    let out = text(&verified);
    assert_eq!(verified.status.code(), Some(0), "{out}");
    assert!(out.contains("state: shard 0 of 2, 2 partitions, storage "), "{out}");
    assert!(out.contains("state: sound: version ") && out.contains(" tables, "), "{out}");
    assert!(out.contains("shard-0001/state: sound: no tree yet, 0 tables"), "{out}");
    assert!(out.contains(": table ") && out.contains("to key \"key:"), "{out}");

    let dump = text(&run(&["dump"], &node.data()));
    assert!(dump.contains("partition 1: 599 keys, 1 of them expire, as of entry 601"), "{dump}");
    assert!(dump.contains("\"key:000\" string (raw), 200 bytes, by entry 1, does not expire"), "{dump}");
    assert!(dump.contains("\"key:007\" string (raw), 200 bytes, by entry 8, expires in "), "{dump}");
    assert!(!dump.contains("key:009"), "it was deleted: {dump}");
    let keys = |args: &[&str]| {
        let all = lines(&run(&[&["dump", "--json"], args].concat(), &node.data()));
        all.iter().filter_map(|line| line["key"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(keys(&[]).len(), 599);
    assert_eq!(keys(&["--expiring"]), ["key:007"]);
    assert_eq!(keys(&["--match", "key:00[78]", "--min-bytes", "6"]), ["key:007"]);
    assert_eq!(keys(&["--partition", "2"]), [""; 0]);
    assert_eq!(keys(&["--match", "key:*", "--limit", "5"]).len(), 5);
    let shown = text(&run(&["dump", "--match", "key:008", "--values", "3"], &node.data()));
    assert!(
        shown.contains("\"key:008\" string (int), 5 bytes, by entry 9, does not expire: \"123\"..."),
        "{shown}"
    );
    assert!(before == files(&node.data()), "nothing was changed");
}

#[test]
fn a_flipped_bit_of_a_table_is_found_with_the_rows_that_it_harms() {
    let _alone = alone();
    let node = Node::new();
    let table = node.table();
    flip(&table, fs::read(&table).unwrap().len() / 2);
    let verified = run(&["verify"], &node.data());
    let out = text(&verified);
    assert_eq!(verified.status.code(), Some(1), "{out}");
    let line = out.lines().find(|line| line.starts_with("DAMAGE ")).unwrap();
    for words in [
        table.to_str().unwrap(),
        "rows between key \"key:",
        "of partition 1 cannot be read",
        "answer DAMAGED",
        "backup",
    ] {
        assert!(line.contains(words), "{words} in {line}");
    }
    let json = &lines(&run(&["verify", "--json"], &node.state(0)))[0];
    assert_eq!((&json["sound"], json["faults"][0]["file"].as_str()), (&Value::Bool(false), table.to_str()));

    let dump = run(&["dump", "--json"], &node.data());
    assert_eq!(dump.status.code(), Some(1));
    let dump = lines(&dump);
    let keys: Vec<&Value> = dump.iter().filter(|line| line["row"] == "key").collect();
    assert!((300..599).contains(&keys.len()), "those behind the damage too: {}", keys.len());
    assert!(
        dump.iter().any(|line| line["what"].as_str().is_some_and(|what| what.contains("cannot be read")))
    );
    let doubtful = keys.iter().filter(|line| line["doubtful"] == true).count();
    assert!(doubtful > 0 && doubtful < keys.len(), "{doubtful}: keys of other tables in between");
}

#[test]
fn every_file_of_a_state_is_compared() {
    let _alone = alone();
    type Harm = fn(&Node);
    let cases: [(&str, Harm, &str); 9] = [
        (
            "manifest",
            |node| flip(&node.state(0).join("manifest"), 30),
            "its checksum is not that of its content",
        ),
        ("current", |node| flip(&node.state(0).join("current"), 12), "its checksum is not the one"),
        ("current", |node| fs::remove_file(node.state(0).join("current")).unwrap(), "it is missing"),
        ("tables/", |node| fs::remove_file(node.table()).unwrap(), "it is missing"),
        ("tables/", |node| fs::write(node.table(), b"short").unwrap(), "5 bytes"),
        (
            "tables/stranger",
            |node| fs::write(node.state(0).join("tables/stranger"), b"").unwrap(),
            "it is no table of this shard; move it away",
        ),
        ("identity", |node| fs::remove_file(node.data().join("identity.0")).unwrap(), ""),
        (
            "shard-0000/state",
            |node| {
                let (one, two, aside) = (node.state(0), node.state(1), node.data().join("aside"));
                fs::rename(&one, &aside).and_then(|()| fs::rename(&two, &one)).unwrap();
                fs::rename(&aside, &two).unwrap();
            },
            "belongs to shard 1 of this node, not to shard 0",
        ),
        (
            "owner",
            |node| fs::copy(node.state(1).join("owner"), node.state(0).join("owner")).map(drop).unwrap(),
            "shard 1",
        ),
    ];
    for (file, harm, words) in cases {
        let node = Node::new();
        harm(&node);
        let before = files(&node.data());
        let verified = run(&["verify"], &node.data());
        let out = text(&verified);
        if words.is_empty() {
            assert_eq!(verified.status.code(), Some(0), "one copy is enough: {out}");
            assert!(out.contains("identity.0: No such file"), "{out}");
            continue;
        }
        assert_eq!(verified.status.code(), Some(1), "{file}: {out}");
        let line = out.lines().find(|line| line.starts_with("DAMAGE ") && line.contains(words));
        assert!(line.is_some_and(|line| line.contains(file)), "{file}, {words}: {out}");
        assert!(before == files(&node.data()), "{file}: nothing was changed");
    }
}

#[test]
fn what_a_crash_left_is_named_and_no_damage() {
    let _alone = alone();
    let node = Node::new();
    fs::write(node.state(0).join("tables/999"), b"of a flush that was cut off").unwrap();
    fs::write(node.state(0).join("v999"), b"of a merge that was cut off").unwrap();
    fs::write(node.state(0).join("notes.txt"), b"somebody's").unwrap();
    fs::create_dir(node.state(0).join("lost+found")).unwrap();
    let verified = run(&["verify"], &node.data());
    let out = text(&verified);
    assert_eq!(verified.status.code(), Some(0), "{out}");
    for words in [
        "tables/999: no version names it",
        "v999: a version of the tree that is not",
        "notes.txt: no file of a state",
    ] {
        assert!(out.contains(words), "{words} in {out}");
    }
    assert!(!out.contains("lost+found"), "{out}");
}

#[test]
fn a_folder_in_use_and_one_without_a_state_are_refused() {
    let _alone = alone();
    let node = Node::new();
    for held in [node.data(), node.data().join("shard-0000/wal")] {
        let lock = FolderLock::acquire(&held).unwrap();
        for command in ["verify", "dump"] {
            let refused = run(&[command], &node.data());
            assert_eq!(refused.status.code(), Some(2), "{refused:?}");
            let process = format!("in use by process {}", std::process::id());
            assert!(String::from_utf8_lossy(&refused.stderr).contains(&process), "{refused:?}");
        }
        drop(lock);
    }
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(run(&["verify"], empty.path()).status.code(), Some(2));
}
