//! What partitions cost that nobody uses: memory, and nothing else.

use std::io::{Read, Write};
use std::time::Duration;

use crate::server::{Server, data_dir};

/// Memory of an idle partition at most, in bytes, above a server with the same shards open.
const LIMIT_BYTES: u64 = 4096;
/// What the figures of two runs of the same server differ by at most (heaps keep free pages for a while), in bytes.
const NOISE_BYTES: u64 = 2 << 20;

/// Anonymous memory of a process, in bytes.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a kernel from this decade");
    let kib = line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// The memory of a fresh server with so many partitions, all of which lead and have served.
fn memory_with(partitions: u64) -> u64 {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--shards", "8", "--partitions", &partitions.to_string()]);
    let mut stream = server.connect();
    let ready = format!("raft_ready:{partitions}\r");
    let mut figures = String::new();
    for _ in 0..200 {
        stream.write_all(b"INFO raft\r\n").expect("send");
        let mut reply = vec![0; 1 << 20];
        let bytes = stream.read(&mut reply).expect("a reply");
        figures = String::from_utf8_lossy(reply.get(..bytes).unwrap_or_default()).into_owned();
        if figures.contains(&ready) {
            // They go to sleep at the next tick or two.
            std::thread::sleep(Duration::from_millis(500));
            return anonymous_bytes(server.pid());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not all of {partitions} partitions became ready: {figures}");
}

#[test]
fn ten_thousand_idle_partitions_take_less_than_4_kib_each() {
    const FEW: u64 = 8;
    const MANY: u64 = 10_000;
    let (few, many) = (memory_with(FEW), memory_with(MANY));
    let grown = many.saturating_sub(few);
    let each = grown / (MANY - FEW);
    assert!(grown > 1000 * (MANY - FEW), "{few} and {many} bytes: that is not what was to be measured");
    assert!(
        grown <= LIMIT_BYTES * (MANY - FEW) + NOISE_BYTES,
        "{each} bytes a partition: {few} bytes with {FEW}, {many} with {MANY}"
    );
}
