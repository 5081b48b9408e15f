//! Folders of another shard, another node or another time are refused by name; a folder of the first format is taken over
//! with all its data; a lost identity is made of what is there, and of nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use redis::Commands;

use crate::server::{Server, data_dir, free_port, run, text};

const LAYOUT: [&str; 4] = ["--shards", "2", "--partitions", "4"];
const KEYS: usize = 400;

fn fill(folder: &Path, value: &str) {
    let server = Server::start(folder, &LAYOUT);
    let mut client = server.client();
    for key in 0..KEYS {
        client.set::<_, _, ()>(format!("key:{key}"), format!("{value}:{key}")).expect("acknowledged");
    }
    server.stop();
}

fn assert_holds(folder: &Path, value: &str) {
    let server = Server::start(folder, &[]);
    let mut client = server.client();
    for key in 0..KEYS {
        let found: Option<String> = client.get(format!("key:{key}")).expect("an answer");
        assert_eq!(found, Some(format!("{value}:{key}")), "key:{key}");
    }
    server.stop();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { _ = fs::copy(&from, &to).expect("copy") }
    }
}

fn replace(with: &Path, at: &Path) {
    fs::remove_dir_all(at).expect("remove");
    copy(with, at);
}

fn exchange(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).expect("rename");
    fs::rename(other, one).expect("rename");
    fs::rename(aside, other).expect("rename");
}

/// What a start says that must be refused.
fn refusal(folder: &Path) -> String {
    let mut server = Server::spawn(folder, free_port(), &[]);
    // Whoever is to decide is a person in both cases: about what is lost, or about whose it is.
    assert!(matches!(server.wait().code(), Some(65 | 78)), "{}", server.log());
    // What it said last is read by another thread.
    while !server.log().contains("cannot start") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let log = server.log();
    log.lines().find(|line| line.contains("cannot start")).unwrap_or_default().to_owned()
}

#[test]
fn folders_that_belong_elsewhere_or_to_another_time_are_refused_by_name() {
    let home = data_dir();
    let (node, other, old, work) = (
        home.path().join("node"),
        home.path().join("other"),
        home.path().join("old"),
        home.path().join("work"),
    );
    fill(&other, "other");
    fill(&node, "first");
    copy(&node, &old);
    fill(&node, "second");
    assert_holds(&node, "second");
    let parts = ["shard-0000", "shard-0001/wal", "shard-0001/state"];
    let begin = || {
        _ = fs::remove_dir_all(&work);
        copy(&node, &work);
    };
    for (one, two) in [
        ("shard-0000", "shard-0001"),
        ("shard-0000/wal", "shard-0001/wal"),
        ("shard-0000/state", "shard-0001/state"),
    ] {
        begin();
        exchange(&work.join(one), &work.join(two));
        let text = refusal(&work);
        assert!(
            text.contains(one) && text.contains("belongs to shard 1 of this node, not to shard 0"),
            "{text}"
        );
    }
    for part in parts {
        begin();
        replace(&other.join(part), &work.join(part));
        let text = refusal(&work);
        assert!(text.contains(part) && text.contains("belongs to another node"), "{text}");
        begin();
        replace(&old.join(part), &work.join(part));
        let text = refusal(&work);
        assert!(text.contains(part) && text.contains("is a copy from another time"), "{text}");
    }
    begin();
    for name in ["identity.0", "identity.1"] {
        fs::copy(old.join(name), work.join(name)).expect("copy");
    }
    assert!(refusal(&work).contains("is newer than the identity"));
    begin();
    assert_holds(&work, "second");
    assert_holds(&old, "first");
}

/// An identity as the first format wrote it, with the ids of the one that is there.
fn as_first_format(identity: &str) -> String {
    let fields: BTreeMap<&str, &str> = identity.lines().filter_map(|line| line.split_once(" = ")).collect();
    let names = ["generation", "cluster", "node", "storage", "shards", "partitions"];
    let field = |name: &&str| format!("{name} = {}\n", fields.get(name).copied().unwrap_or_default());
    let lines: String = names.iter().map(field).collect();
    let text = format!("corduroy identity\nformat = 1\n{lines}");
    format!("{text}crc32 = {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// Makes of a stopped node's folder one of the first format: nothing says whose the shards' folders are.
fn make_old(folder: &Path) {
    for name in ["identity.0", "identity.1"] {
        let identity = fs::read_to_string(folder.join(name)).expect("an identity");
        fs::write(folder.join(name), as_first_format(&identity)).expect("write");
    }
    for shard in ["shard-0000", "shard-0001"] {
        for file in ["wal/owner", "state/owner", "wal/manifest.wal", "state/manifest", "state/manifest.copy"]
        {
            _ = fs::remove_file(folder.join(shard).join(file));
        }
    }
}

fn spoil_identity(folder: &Path) {
    for name in ["identity.0", "identity.1"] {
        fs::write(folder.join(name), "rubbish").expect("write");
    }
}

#[test]
fn a_folder_of_the_first_format_is_upgraded_with_its_data_and_bound_from_then_on() {
    let home = data_dir();
    let folder = home.path().join("node");
    fill(&folder, "value");
    make_old(&folder);
    exchange(&folder.join("shard-0000"), &folder.join("shard-0001"));
    let text = refusal(&folder);
    assert!(text.contains("holds partition") && text.contains("put the folder back"), "{text}");
    exchange(&folder.join("shard-0000"), &folder.join("shard-0001"));
    // The refused start was none: nothing is bound to the wrong shard.
    assert_holds(&folder, "value");
    let identity = fs::read_to_string(folder.join("identity.0")).expect("an identity");
    assert!(identity.contains("format = 3\n") && identity.contains("starts = 1\n"), "{identity}");
    assert_holds(&folder, "value");
    exchange(&folder.join("shard-0000/wal"), &folder.join("shard-0001/wal"));
    assert!(refusal(&folder).contains("belongs to shard 1 of this node"));
}

#[test]
fn a_lost_identity_is_made_of_what_is_there_whatever_is_said() {
    let home = data_dir();
    let folder = home.path().join("node");
    fill(&folder, "value");
    let recover =
        |more: &[&str]| run(&[&["format", "--recover", "--data-dir", &text(&folder)], more].concat());
    for is_old in [false, true] {
        if is_old {
            make_old(&folder);
        }
        spoil_identity(&folder);
        let advice = refusal(&folder);
        assert!(advice.contains("which takes ids and numbers from the shards' folders"), "{advice}");
        for more in [["--partitions", "8"], ["--shards", "1"]] {
            let (code, _, stderr) = recover(&more);
            assert_eq!(code, Some(78), "{stderr}");
            assert!(stderr.contains("was formatted with"), "{stderr}");
        }
        let (code, stdout, stderr) = recover(&[]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains("2 shards, 4 partitions"), "{stdout}");
        assert!(stdout.contains("identity made anew") && !stdout.contains("formatted"), "{stdout}");
        assert_holds(&folder, "value");
    }
}

#[test]
fn a_crafted_identity_is_refused_and_no_panic() {
    let home = data_dir();
    let folder: PathBuf = home.path().join("node");
    let (code, ..) = run(&["format", "--data-dir", &text(&folder)]);
    assert_eq!(code, Some(0));
    let good = fs::read_to_string(folder.join("identity.0")).expect("an identity");
    let body = good.split("crc32").next().unwrap_or_default().to_owned();
    for (from, to) in [
        ("shards = 8", "shards = 0"),
        ("partitions = 1", "partitions = 0"),
        ("partitions = 1", "partitions = 4000000000"),
        ("node = ", "node = \u{e9}"),
    ] {
        let crafted = body.replace(from, to);
        let crafted = format!("{crafted}crc32 = {:08x}\n", crc32fast::hash(crafted.as_bytes()));
        for name in ["identity.0", "identity.1"] {
            fs::write(folder.join(name), &crafted).expect("write");
        }
        let text = refusal(&folder);
        assert!(text.contains("identity.0: ") && text.contains("format --recover"), "{text}");
    }
}

#[test]
fn file_systems_mounted_for_log_state_and_node_are_used_as_they_are_made() {
    let dir = data_dir();
    for mount in ["", "shard-0000/wal", "shard-0000/state", "shard-0001"] {
        fs::create_dir_all(dir.path().join(mount).join("lost+found")).expect("made");
    }
    fill(dir.path(), "v");
    assert_holds(dir.path(), "v");
    assert!(dir.path().join("shard-0000/state/lost+found").is_dir());
}

#[test]
fn a_start_that_cannot_be_written_down_is_one_nevertheless_and_info_says_so() {
    let dir = data_dir();
    fill(dir.path(), "v");
    let blocker = dir.path().join("identity.0.new");
    let counted = |server: &Server| {
        let info: redis::InfoDict =
            redis::cmd("INFO").arg("persistence").query(&mut server.client()).expect("INFO");
        info.get::<u8>("start_counted").expect("a number")
    };
    for is_blocked in [false, true, true, false] {
        // A folder in the way of the file is what stops root too.
        if is_blocked {
            fs::create_dir_all(&blocker).expect("made")
        } else {
            drop(fs::remove_dir(&blocker))
        }
        let server = Server::start(dir.path(), &[]);
        assert_eq!(counted(&server), u8::from(!is_blocked));
        assert_eq!(server.log().contains("this start is not counted"), is_blocked, "{}", server.log());
        server.stop();
    }
    assert_holds(dir.path(), "v");
}
