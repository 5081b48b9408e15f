//! A byte of the log flips while the server is stopped: the next start refuses, or stops the partition that is harmed, and
//! names segment, position, partition and remedy; or the byte was nobody's, and every acknowledged value is there. Never is
//! less there in silence. The log's own tests flip every byte of a small log; this samples the files of a whole node.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use redis::Commands;

use crate::server::{Server, data_dir, free_port};

const VALUE_BYTES: usize = 60_000;
const LAYOUT: [&str; 4] = ["--shards", "1", "--partitions", "4"];

/// The same positions every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

fn value(key: &str, life: usize) -> String {
    format!("{key}/{life};").repeat(VALUE_BYTES / (key.len() + 3))
}

/// Three lives of a node: a log with a sealed segment, one cut short by a kill, one that ended well, and spare slots.
fn fill(folder: &Path) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for (life, keys) in [0..90, 85..95, 95..100].into_iter().enumerate() {
        let server = Server::start(folder, &LAYOUT);
        let mut client = server.client();
        for key in keys.map(|n| format!("key:{n}")) {
            let value = value(&key, life);
            client.set::<_, _, ()>(&key, &value).expect("acknowledged");
            acknowledged.insert(key, value);
        }
        if life == 1 { server.stop() } else { server.kill_9() }
    }
    acknowledged
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { _ = fs::copy(&from, &to).expect("copy") }
    }
}

/// Where to flip in a file of these bytes: in its header, among its frames, where its content ends (the footer, if it is
/// sealed), and anywhere.
fn places(bytes: &[u8], dice: &mut Dice) -> [usize; 4] {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let frames = used.saturating_sub(4096);
    let end = used.saturating_sub(1 + dice.below(600.min(used)));
    [dice.below(144), 4096 + dice.below(frames), end, dice.below(bytes.len())]
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    Refused,
    Stopped,
    Harmless,
}

/// The message names the segment, the position in it, and what to do.
fn names_the_place(message: &str) -> bool {
    let place = message.split("damaged at segment ").nth(1).and_then(|rest| rest.split(' ').next());
    let (segment, offset) = place.and_then(|place| place.split_once(':')).unwrap_or_default();
    segment.parse::<u64>().is_ok()
        && offset.parse::<u64>().is_ok()
        && message.contains("Restore this folder from a copy")
}

/// Starts on a damaged folder and judges what comes of it.
fn judge(folder: &Path, acknowledged: &BTreeMap<String, String>) -> End {
    let mut server = Server::spawn(folder, free_port(), &LAYOUT);
    if let Err(status) = server.await_ready() {
        let log = server.log();
        assert_eq!(status.code(), Some(65), "{log}");
        let refusal = log.lines().find(|line| line.contains("cannot start")).unwrap_or_default();
        assert!(names_the_place(refusal) && refusal.contains("shard 0, partition "), "{log}");
        return End::Refused;
    }
    let mut client = server.client();
    let mut stopped = 0;
    for (key, value) in acknowledged {
        match client.get::<_, Option<String>>(key) {
            Ok(found) => assert!(found.as_ref() == Some(value), "{key} is silently different"),
            Err(error) => {
                let error = error.to_string();
                let is_named = error.contains("the replica of partition ") && names_the_place(&error);
                assert!(error.contains("STOPPED") && is_named, "{key}: {error}");
                stopped += 1;
            }
        }
    }
    if stopped == 0 {
        return End::Harmless;
    }
    assert!(
        server.log().lines().any(|line| line.contains("fenced") && names_the_place(line)),
        "{}",
        server.log()
    );
    assert!(stopped < acknowledged.len(), "one partition is harmed, the others serve");
    End::Stopped
}

#[test]
fn a_flipped_byte_is_refused_or_harmless() {
    let (home, work) = (data_dir(), data_dir());
    let acknowledged = fill(home.path());
    let mut files: Vec<PathBuf> = fs::read_dir(home.path().join("shard-0000/wal"))
        .expect("the log")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    files.sort();
    assert!(files.len() >= 5, "sealed, cut short, ended and spare slots: {files:?}");
    let mut dice = Dice(7);
    let mut ends: BTreeMap<End, usize> = BTreeMap::new();
    for file in &files {
        let bytes = fs::read(file).expect("a slot");
        for place in places(&bytes, &mut dice) {
            let folder = work.path().join("data");
            _ = fs::remove_dir_all(&folder);
            copy(home.path(), &folder);
            let damaged = folder.join(file.strip_prefix(home.path()).expect("below it"));
            let damaged = File::options().write(true).open(damaged).expect("a slot");
            let flipped = bytes.get(place).expect("inside") ^ (1 << dice.below(8));
            damaged.write_all_at(&[flipped], place as u64).expect("flip");
            drop(damaged);
            println!("{} at {place}", file.display());
            let end = judge(&folder, &acknowledged);
            println!("{end:?}");
            *ends.entry(end).or_default() += 1;
        }
    }
    let seen = |end| ends.get(&end).copied().unwrap_or(0);
    assert!(seen(End::Harmless) >= 4, "spare slots are nobody's: {ends:?}");
    assert!(seen(End::Refused) + seen(End::Stopped) >= 2, "values take most of what is written: {ends:?}");
}

#[test]
fn what_needs_a_person_has_an_exit_code_that_the_sample_unit_knows() {
    let home = data_dir();
    Server::start(home.path(), &LAYOUT).stop();
    fs::remove_dir_all(home.path().join("shard-0000/state")).expect("removed");
    let mut server = Server::spawn(home.path(), free_port(), &LAYOUT);
    let code = server.wait().code().expect("it ends by itself");
    assert_eq!(code, 65, "{}", server.log());
    assert!(server.log().contains("shard-0000/state") && server.log().contains("backup"), "{}", server.log());
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/corduroy.service");
    let unit = fs::read_to_string(unit).expect("the sample unit");
    let codes = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).expect("a line");
    for code in ["2", "65", "78"] {
        assert!(codes.split(' ').any(|listed| listed == code), "{code} in {codes}");
    }
}
