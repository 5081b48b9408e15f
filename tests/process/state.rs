//! The state's files as a disk may leave them: what is damaged answers DAMAGED and names its file, everything else is
//! served; what the system refuses answers IOERR and is tried again; a start that cannot be names file and remedy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use corduroy::store::inspect;
use redis::{Commands, RedisResult};
use tempfile::TempDir;

use crate::server::{Server, data_dir, free_port};

/// Little memory, so that most rows are in tables only.
const LAYOUT: [&str; 6] = ["--shards", "1", "--partitions", "4", "--memory-bytes", "16MiB"];
const KEYS: usize = 2000;
const VALUE_BYTES: usize = 16_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn state(folder: &Path) -> PathBuf {
    folder.join("shard-0000/state")
}

fn value(key: &str) -> String {
    format!("{key};").repeat(VALUE_BYTES / (key.len() + 1))
}

/// A stopped node, and what it acknowledged.
fn filled() -> (TempDir, BTreeMap<String, String>) {
    let folder = data_dir();
    let server = Server::start(folder.path(), &LAYOUT);
    let mut client = server.client();
    let mut all = BTreeMap::new();
    for key in (0..KEYS).map(|number| format!("key:{number}")) {
        client.set::<_, _, ()>(&key, value(&key)).expect("acknowledged");
        all.insert(key.clone(), value(&key));
    }
    server.stop();
    (folder, all)
}

fn flip(file: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(file).expect("reads");
    let at = at(bytes.len());
    *bytes.get_mut(at).expect("inside") ^= 4;
    fs::write(file, bytes).expect("writes");
}

/// The table that takes the most.
fn largest_table(folder: &Path) -> PathBuf {
    let tables = inspect(&state(folder)).expect("lists").tables;
    let largest = tables.iter().max_by_key(|table| table.bytes).expect("there are tables");
    state(folder).join(format!("tables/{}", largest.number))
}

fn info(client: &mut redis::Connection, field: &str) -> String {
    let text: String = redis::cmd("INFO").query(client).expect("INFO");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {field} in {text}"))
}

/// Waits until INFO says so.
fn await_info(client: &mut redis::Connection, field: &str, wanted: &str) {
    let begun = Instant::now();
    while info(client, field) != wanted {
        assert!(begun.elapsed() < PATIENCE, "{field} is {}, not {wanted}", info(client, field));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn error<T: std::fmt::Debug>(result: RedisResult<T>) -> String {
    result.expect_err("refused").to_string()
}

/// The error of a transaction.
fn exec(client: &mut redis::Connection, commands: &[&[&str]]) -> String {
    let mut run = |words: &[&str]| {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| _ = command.arg(*word));
        command.query::<redis::Value>(client)
    };
    run(&["MULTI"]).expect("begins");
    for command in commands {
        run(command).expect("is queued");
    }
    error(run(&["EXEC"]))
}

/// Reads everything: each key has its value, or is damaged, which names its partition and the table.
fn damaged_keys(client: &mut redis::Connection, all: &BTreeMap<String, String>, table: &Path) -> Vec<String> {
    let mut damaged = Vec::new();
    for (key, value) in all {
        match client.get::<_, Option<String>>(key) {
            Ok(found) => assert!(found.as_ref() == Some(value), "{key} is silently different"),
            Err(error) => {
                let text = error.to_string();
                let names = text.contains("DAMAGED") && text.contains("partition ");
                assert!(names && text.contains(table.to_str().expect("text")), "{key}: {text}");
                damaged.push(key.clone());
            }
        }
    }
    damaged
}

#[test]
fn a_damaged_table_harms_its_own_rows_only_and_says_which() {
    let (folder, mut all) = filled();
    let table = largest_table(folder.path());
    flip(&table, |len| len / 2);
    let mut harmed = Vec::new();
    for start in 0..2 {
        let server = Server::start(folder.path(), &LAYOUT);
        let mut client = server.client();
        let found = damaged_keys(&mut client, &all, &table);
        assert!((1..=4).contains(&found.len()), "a block holds few rows: {found:?}");
        assert!(start == 0 || found == harmed, "at each start the same");
        harmed = found;
        await_info(&mut client, "state_damaged_tables", "1");
        assert!(info(&mut client, "state_damaged_reads").parse::<u64>().expect("a number") > 0);
        let log = server.log();
        let told = log.lines().filter(|line| line.contains(table.to_str().expect("text")));
        let told: Vec<&str> = told.filter(|line| line.contains("is damaged")).collect();
        let says = |words: &str| told.iter().any(|line| line.contains(words));
        assert!(says("cannot be read") && says("of partition ") && says("from a backup"), "{log}");
        server.stop();
    }
    // What needs the row is refused before it is logged, what does not writes over it; nothing is stopped by either.
    let server = Server::start(folder.path(), &LAYOUT);
    let mut client = server.client();
    let key = harmed.first().expect("one at least").clone();
    let fresh = format!("{{{key}}}in the same partition");
    for refused in [
        error(client.append::<_, _, i64>(&key, "x")),
        error(client.incr::<_, _, i64>(&key, 1)),
        error(client.del::<_, i64>(&key)),
        error(client.rename::<_, _, ()>(&key, &fresh)),
        exec(&mut client, &[&["APPEND", &key, "x"], &["APPEND", &fresh, "x"]]),
        error(client.mget::<_, Vec<Option<String>>>(&[key.as_str(), key.as_str()])),
    ] {
        assert!(refused.contains("DAMAGED") && refused.contains("nothing was done"), "{refused}");
    }
    assert_eq!(
        client.get::<_, Option<String>>(&fresh).expect("served"),
        None,
        "the whole transaction was refused"
    );
    client.set::<_, _, ()>(&key, "new").expect("needs no row");
    all.insert(key.clone(), "new".to_owned());
    harmed.retain(|harmed| *harmed != key);
    assert_eq!(damaged_keys(&mut client, &all, &table), harmed);
    drop(client);
    server.kill_9();
    let server = Server::start(folder.path(), &LAYOUT);
    assert_eq!(damaged_keys(&mut server.client(), &all, &table), harmed, "after a crash too");
    assert!(!server.log().contains("fenced"), "{}", server.log());
}

/// The tables that begin with what flushes write first, the newest last.
fn tables_with_heads(folder: &Path) -> Vec<PathBuf> {
    let mut tables = inspect(&state(folder)).expect("lists").tables;
    // What merges made is older than what flushes did, whatever its number.
    tables.sort_by_key(|table| (std::cmp::Reverse(table.level), table.number));
    let head = tables.last().expect("there are tables").first.clone();
    tables.retain(|table| table.first == head);
    tables.iter().map(|table| state(folder).join(format!("tables/{}", table.number))).collect()
}

#[test]
fn damage_where_tables_begin_is_refused_in_words_or_served_as_any_other() {
    let (folder, all) = filled();
    let tables = tables_with_heads(folder.path());
    let newest = tables.last().expect("there are tables").clone();
    let (mut refused, mut served) = (Vec::new(), 0);
    for table in &tables {
        let sound = fs::read(table).expect("reads");
        // Among the rows of the store and of the partitions, which each flush writes first.
        flip(table, |_| 60);
        let mut server = Server::spawn(folder.path(), free_port(), &LAYOUT);
        match server.await_ready() {
            Ok(()) => {
                let found = damaged_keys(&mut server.client(), &all, table);
                assert!(found.len() <= 4, "a block holds few rows: {found:?}");
                served += 1;
                server.stop();
            }
            Err(status) => {
                let log = server.log();
                assert_eq!(status.code(), Some(65), "{log}");
                let line = log.lines().find(|line| line.contains("cannot start")).unwrap_or_default();
                let words = ["a block's checksum is not", "how far partition ", "from a backup"];
                let names = line.contains(table.to_str().expect("text"));
                let is_known = line.contains(words[1]) || line.contains("how its keys are ordered");
                assert!(names && is_known && line.contains(words[0]) && line.contains(words[2]), "{log}");
                assert!(!line.contains("ChecksumMismatch") && !line.contains('{'), "{log}");
                refused.push(table.clone());
            }
        }
        fs::write(table, sound).expect("writes");
    }
    // Each flush was of all partitions.
    assert!(refused == [newest.clone()] && served >= 1, "{refused:?} refused, {served} served");
    assert_eq!(
        damaged_keys(&mut Server::start(folder.path(), &LAYOUT).client(), &all, &newest),
        Vec::<String>::new()
    );
}

#[test]
fn damage_that_nobody_reads_is_found_in_the_background() {
    let (folder, _) = filled();
    let server = Server::start(folder.path(), &LAYOUT);
    let mut client = server.client();
    let begun = Instant::now();
    while info(&mut client, "state_verified_rounds") == "0" {
        assert!(begun.elapsed() < PATIENCE, "{}", info(&mut client, "state_verified_bytes"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let verified: u64 = info(&mut client, "state_verified_bytes").parse().expect("a number");
    assert!(verified > (KEYS * VALUE_BYTES / 8) as u64, "all of the tables: {verified} bytes");
    assert_eq!(info(&mut client, "state_damaged_tables"), "0");
    server.stop();
    let table = largest_table(folder.path());
    flip(&table, |len| len / 3);
    let server = Server::start(folder.path(), &LAYOUT);
    await_info(&mut server.client(), "state_damaged_tables", "1");
    assert!(server.log().contains(table.to_str().expect("text")), "{}", server.log());
}

#[test]
fn a_flush_that_is_refused_answers_ioerr_with_the_file_until_it_can_be_written() {
    let folder = data_dir();
    let server = Server::start(folder.path(), &LAYOUT);
    let mut client = server.client();
    client.set::<_, _, ()>("kept", "1").expect("acknowledged");
    // What stands in the way of a file is a folder of its name, which stops root too.
    let blocker = state(folder.path()).join("manifest.new");
    fs::create_dir(&blocker).expect("a folder");
    let mut acknowledged = BTreeMap::new();
    let refused = (0..KEYS).map(|number| format!("key:{number}")).find_map(|key| {
        match client.set::<_, _, ()>(&key, value(&key)) {
            Ok(()) => {
                acknowledged.insert(key.clone(), value(&key));
                None
            }
            Err(error) => Some(error.to_string()),
        }
    });
    let refused = refused.expect("what has changed must not grow without end");
    assert!(refused.contains("IOERR") && refused.contains(blocker.to_str().expect("text")), "{refused}");
    assert!(refused.contains("nothing was done") && !refused.contains("DISKFULL"), "{refused}");
    assert_eq!(client.get::<_, String>("kept").expect("reads go on"), "1");
    assert!(server.log().contains("the flush is tried again"), "{}", server.log());
    fs::remove_dir(&blocker).expect("removes");
    let begun = Instant::now();
    while let Err(error) = client.set::<_, _, ()>("after", "1") {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    await_info(&mut client, "state_full", "0");
    assert_ne!(info(&mut client, "hand_overs"), "0", "it was written in the end");
    drop(client);
    server.kill_9();
    let server = Server::start(folder.path(), &LAYOUT);
    let mut client = server.client();
    for (key, value) in &acknowledged {
        assert!(client.get::<_, Option<String>>(key).expect("served").as_ref() == Some(value), "{key}");
    }
}

/// Starts on a folder that must be refused, and returns what was said.
fn refusal(folder: &Path) -> (ExitStatus, String) {
    let mut server = Server::spawn(folder, free_port(), &LAYOUT);
    let status = server.await_ready().expect_err("the start is refused");
    (status, server.log())
}

/// Where to flip a bit in a file of this length.
type At = fn(usize) -> usize;

#[test]
fn a_start_on_a_damaged_state_names_the_file_and_the_remedy() {
    let (folder, all) = filled();
    let state = state(folder.path());
    let table = largest_table(folder.path());
    let version = inspect(&state).expect("lists").version.expect("a tree");
    let cases: [(&[PathBuf], At); 4] = [
        (&[state.join("current")], |len| len / 2),
        (&[state.join(format!("v{version}"))], |len| len / 2),
        (&[state.join("manifest"), state.join("manifest.copy")], |len| len / 2),
        (std::slice::from_ref(&table), |len| len - 20),
    ];
    for (files, at) in cases {
        let before: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("reads")).collect();
        for file in files {
            flip(file, at);
        }
        let (status, log) = refusal(folder.path());
        let file = files.first().expect("one").to_str().expect("text");
        assert_eq!(status.code(), Some(65), "{log}");
        let line = log.lines().find(|line| line.contains("cannot start")).unwrap_or_default();
        assert!(line.contains(file) && line.contains("from a backup"), "{file}: {log}");
        for (file, bytes) in files.iter().zip(before) {
            fs::write(file, bytes).expect("writes");
        }
    }
    // One copy of the manifest is enough.
    flip(&state.join("manifest"), |len| len / 2);
    let server = Server::start(folder.path(), &LAYOUT);
    assert!(server.log().contains("written anew of the other copy"), "{}", server.log());
    assert_eq!(damaged_keys(&mut server.client(), &all, &table), Vec::<String>::new());
}
