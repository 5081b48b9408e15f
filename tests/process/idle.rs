//! What partitions cost that nobody uses: memory, and nothing else; and what an empty node takes of the disk.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::server::{Server, corduroy, cpus, data_dir, free_port};

/// Memory of an idle partition at most, in bytes, above a server with the same shards open.
const LIMIT_BYTES: u64 = 4096;
/// What the figures of two servers differ by at most beside that, in bytes: heaps keep free pages, of which one machine gets back more than
/// another. Of what is in use a partition has 3.6 KiB.
const NOISE_BYTES: u64 = 4 << 20;

/// Anonymous memory of a process, in bytes.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a kernel from this decade");
    let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// A fresh server with so many partitions, all of which lead and have served.
fn server_with(dir: &Path, partitions: u64) -> Server {
    // One core: with several, what the starting threads leave in their heaps differs from run to run.
    let core = cpus().first().expect("a CPU").to_string();
    let partitions_text = partitions.to_string();
    let server = Server::start(dir, &["--cores", &core, "--shards", "8", "--partitions", &partitions_text]);
    let mut stream = server.connect();
    let ready = format!("raft_ready:{partitions}\r");
    let mut figures = String::new();
    for _ in 0..200 {
        stream.write_all(b"INFO raft\r\n").expect("send");
        let mut reply = vec![0; 1 << 20];
        let bytes = stream.read(&mut reply).expect("a reply");
        figures = String::from_utf8_lossy(reply.get(..bytes).unwrap_or_default()).into_owned();
        if figures.contains(&ready) {
            return server;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not all of {partitions} partitions became ready: {figures}");
}

#[test]
fn ten_thousand_idle_partitions_take_less_than_4_kib_each() {
    const FEW: u64 = 8;
    const MANY: u64 = 10_000;
    let (few_dir, many_dir) = (data_dir(), data_dir());
    let few_server = server_with(few_dir.path(), FEW);
    let many_server = server_with(many_dir.path(), MANY);
    let limit = LIMIT_BYTES * (MANY - FEW) + NOISE_BYTES;
    let (mut few, mut many) = (0, 0);
    // Partitions go to sleep at the next tick or two, and heaps give pages back some time after.
    for _ in 0..300 {
        std::thread::sleep(Duration::from_millis(200));
        (few, many) = (anonymous_bytes(few_server.pid()), anonymous_bytes(many_server.pid()));
        let grown = many.saturating_sub(few);
        assert!(grown > 1000 * (MANY - FEW), "{few} and {many} bytes: that is not what was to be measured");
        if grown <= limit {
            return;
        }
    }
    let each = many.saturating_sub(few) / (MANY - FEW);
    panic!("{each} bytes a partition: {few} bytes with {FEW}, {many} with {MANY}");
}

#[test]
fn a_server_at_rest_gives_back_what_its_load_took() {
    const VALUE_BYTES: usize = 100_000;
    let dir = data_dir();
    let core = cpus().first().expect("a CPU").to_string();
    let server = Server::start(dir.path(), &["--cores", &core]);
    let mut client = server.client();
    let value = vec![b'x'; VALUE_BYTES];
    let empty = anonymous_bytes(server.pid());
    let mut loaded = empty;
    for round in 0..10 {
        let mut pipe = redis::pipe();
        (0..100).for_each(|key| {
            pipe.set(format!("{round}:{key}"), &value).ignore();
        });
        pipe.exec(&mut client).expect("written");
        // What was handed to the disk meanwhile is given back already.
        loaded = loaded.max(anonymous_bytes(server.pid()));
    }
    redis::cmd("FLUSHALL").exec(&mut client).expect("emptied");
    let taken = loaded - empty;
    assert!(taken > 32 << 20, "{taken} bytes: that is not what was to be measured");
    let mut rest = loaded;
    // What was flushed is read once first, piece by piece.
    for _ in 0..400 {
        std::thread::sleep(Duration::from_millis(200));
        rest = anonymous_bytes(server.pid());
        if rest < empty + taken / 2 {
            return;
        }
    }
    panic!("{empty} bytes when empty, {loaded} under load, {rest} at rest");
}

/// What an empty node takes of the disk at most, in bytes: the state's reserve is 16 MiB of it.
const EMPTY_BYTES: u64 = 24 << 20;

/// Bytes of the disk that a folder and all in it take.
fn disk_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let of_entry = |path: &Path| match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => disk_bytes(path),
        Ok(found) => found.blocks() * 512,
        // Gone since the folder was listed.
        Err(_) => 0,
    };
    entries.map(|entry| of_entry(&entry.path())).sum()
}

/// The figure of this name in `INFO`.
fn figure(client: &mut redis::Connection, name: &str) -> u64 {
    let info: String = redis::cmd("INFO").arg("all").query(client).expect("INFO");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|figure| figure.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {info}"))
}

/// A process that ends with its test.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn an_empty_node_takes_little_of_the_disk() {
    // As people start it: all sizes are those that hold if nothing is said.
    let (dir, port) = (data_dir(), free_port());
    let folder = dir.path().to_str().expect("an ordinary path");
    let listen = format!("127.0.0.1:{port}");
    let mut serve = corduroy(&["serve", "--data-dir", folder, "--listen", &listen]);
    let _server = Ends(serve.stderr(std::process::Stdio::null()).spawn().expect("the binary starts"));
    let client = redis::Client::open(format!("redis://{listen}/")).expect("an address");
    let connected = || {
        std::thread::sleep(Duration::from_millis(50));
        client.get_connection().ok()
    };
    let mut client = (0..600).find_map(|_| connected()).expect("the server comes up");
    // The log is whole: a segment that is written, and its spares.
    let begun = std::time::Instant::now();
    while figure(&mut client, "wal_spare_segments") < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no spares are made");
        std::thread::sleep(Duration::from_millis(50));
    }
    redis::cmd("SET").arg("a").arg("1").exec(&mut client).expect("written");
    let found = disk_bytes(dir.path());
    assert!(found <= EMPTY_BYTES, "an empty node takes {found} bytes of the disk");
    assert!(found > 3 << 20, "{found} bytes: that is not what was to be measured");
}

#[test]
fn a_log_writes_down_where_it_ends_while_its_core_goes_on() {
    let dir = data_dir();
    let core = cpus().first().expect("a CPU").to_string();
    let server = Server::start(dir.path(), &["--cores", &core, "--shards", "2", "--partitions", "2"]);
    let mut client = server.client();
    let manifests = || {
        let folders = ["shard-0000", "shard-0001"].map(|shard| dir.path().join(shard).join("wal"));
        folders.map(|folder| std::fs::read(folder.join("manifest.wal")).expect("a manifest"))
    };
    // Both shards, and from here on one write a second to the one, and many requests that write nothing.
    (0..100).for_each(|n| redis::cmd("SET").arg(n).arg(n).exec(&mut client).expect("written"));
    let mut before = manifests();
    for round in 0..600 {
        if round % 10 == 0 {
            redis::cmd("SET").arg("one").arg(round).exec(&mut client).expect("written");
        }
        redis::cmd("PING").exec(&mut client).expect("a reply");
        redis::cmd("GET").arg(round % 100).exec(&mut client).expect("a reply");
        std::thread::sleep(Duration::from_millis(100));
        let now = manifests();
        if round == 20 {
            before = now;
        } else if round > 20 && now != before {
            return;
        }
    }
    panic!("no log has written down where it ends in a minute");
}
