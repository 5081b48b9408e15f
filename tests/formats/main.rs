//! Data folders as earlier versions left them: today's server starts on each of them and has every key.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../process/server.rs"]
mod server;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use server::{Server, data_dir};

/// As the nodes were formatted, and so small that their tables need not fit.
const FLAGS: [&str; 6] = ["--shards", "2", "--partitions", "2", "--memory-bytes", "16MiB"];

fn from_hex(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Makes the files of a text by `make.py`.
fn restore(text: &str, folder: &Path) {
    let mut file = None;
    for line in text.lines() {
        if let Some(named) = line.strip_prefix("file ") {
            let (path, bytes) = named.rsplit_once(' ').unwrap();
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let made = File::create(path).unwrap();
            made.set_len(bytes.parse().unwrap()).unwrap();
            file = Some(made);
        } else {
            let (at, hex) = line.split_once(": ").unwrap();
            let at = u64::from_str_radix(at, 16).unwrap();
            file.as_ref().unwrap().write_all_at(&from_hex(hex), at).unwrap();
        }
    }
}

/// What `make.py` wrote.
fn assert_holds(server: &Server) {
    let mut client = server.client();
    let mut ask = |words: &[&[u8]]| {
        let mut request = redis::Cmd::new();
        words.iter().for_each(|word| _ = request.arg(*word));
        request.query::<redis::Value>(&mut client).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    };
    let text = |text: &[u8]| redis::Value::BulkString(text.to_vec());
    let all: Vec<u8> = (0..=255).collect();
    for (key, value) in [
        (&b"flushed"[..], &b"overwritten"[..]),
        (b"flushed:int", b"-12"),
        (b"flushed:raw", b"raw"),
        (b"flushed:float", b"0.5"),
        (b"flushed:expires", b"later"),
        (b"\xff\x00binary", &all),
        (b"logged", b"\0\0\0\0range"),
        (b"{tag}a", b"2"),
        (b"{tag}c", b"3"),
        (b"{tag}n", b"7"),
        (b"last", b"of three starts"),
    ] {
        assert_eq!(ask(&[b"GET", key]), text(value), "{}", key.escape_ascii());
    }
    for key in [&b"removed"[..], b"{tag}b", b"{tag}d", b"{tag}absent", b"large:0", b"large:11"] {
        assert_eq!(ask(&[b"GET", key]), redis::Value::Nil, "{}", key.escape_ascii());
    }
    let number = redis::Value::Int;
    assert_eq!(ask(&[b"DBSIZE"]), number(11));
    assert_eq!(ask(&[b"PEXPIRETIME", b"logged"]), number(95_617_584_000_000));
    assert_eq!(ask(&[b"PEXPIRETIME", b"flushed:expires"]), number(-1));
    for (key, encoding) in [("flushed:int", "int"), ("logged", "raw"), ("flushed:float", "embstr")] {
        assert_eq!(ask(&[b"OBJECT", b"ENCODING", key.as_bytes()]), text(encoding.as_bytes()), "{key}");
    }
    let mut cursor = b"0".to_vec();
    let mut keys = 0;
    loop {
        let redis::Value::Array(page) = ask(&[b"SCAN", &cursor]) else { panic!("no page") };
        let [redis::Value::BulkString(next), redis::Value::Array(found)] = &page[..] else {
            panic!("{page:?}")
        };
        keys += found.len();
        cursor.clone_from(next);
        if cursor == b"0" {
            break;
        }
    }
    assert_eq!(keys, 11);
}

fn starts_on(text: &str) {
    let home = data_dir();
    let folder = home.path().join("node");
    restore(text, &folder);
    // The second start is on what the first one made of it.
    for _start in 0..2 {
        let server = Server::start(&folder, &FLAGS);
        assert_holds(&server);
        server.stop();
        for copy in ["identity.0", "identity.1"] {
            let identity = fs::read_to_string(folder.join(copy)).unwrap();
            assert!(
                identity.contains("format = 3\n") && identity.contains("operation_bytes = "),
                "{identity}"
            );
        }
    }
}

/// Identity 1: log and state know nothing of their owner, and there are no manifests.
#[test]
fn a_node_of_identity_1() {
    starts_on(include_str!("node-1.txt"));
}

#[test]
fn a_node_of_identity_2() {
    starts_on(include_str!("node-2.txt"));
}

/// The last whose entries, operations and configurations are of version 1.
#[test]
fn a_node_of_entries_of_version_1() {
    starts_on(include_str!("node-3.txt"));
}

/// The last that records no limits.
#[test]
fn a_node_before_identity_3() {
    starts_on(include_str!("node-4.txt"));
}
