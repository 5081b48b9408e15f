//! Start-up lines, a clean stop, a hurried one, and an idle server.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use redis::Commands;

use crate::server::{Server, data_dir, exchange};

#[test]
fn a_time_limit_set_later_holds_for_connections_that_are_idle_already() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut idle = server.connect();
    exchange(&mut idle, b"PING\r\n", b"+PONG\r\n");
    let mut other = server.connect();
    exchange(&mut other, b"CONFIG SET timeout 1\r\n", b"+OK\r\n");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty(), "{rest:?}");
    exchange(&mut server.connect(), b"PING\r\n", b"+PONG\r\n");
}

#[test]
fn it_says_what_it_is_at_start() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let log = server.log();
    for needle in [
        "data folder",
        "8 shards",
        "one partition",
        "cores: CPUs",
        "wal.sync auto",
        "state memory 64 MiB",
        "only clients on this machine",
    ] {
        assert!(log.contains(needle), "{needle} in\n{log}");
    }
}

#[test]
fn sigterm_finishes_what_is_under_way() {
    let dir = data_dir();
    let mut server = Server::start(dir.path(), &[]);
    let mut stream = server.connect();
    exchange(&mut stream, b"PING\r\n", b"+PONG\r\n");
    // Sent before the signal: either all of it is answered, or the connection was not read any more.
    for n in 0..1000 {
        stream.write_all(format!("SET drain:{n} {n}\r\n").as_bytes()).expect("send");
    }
    server.signal("-TERM");
    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(server.log().contains("all acknowledged writes are on the disk"), "{}", server.log());
    let mut replies = String::new();
    // A reset instead of an end is fine: requests that were not read had no effect.
    let _ = std::io::Read::read_to_string(&mut stream, &mut replies);
    let acknowledged = replies.matches("+OK\r\n").count();

    let again = Server::start(dir.path(), &[]);
    let mut client = again.client();
    for n in 0..acknowledged {
        assert_eq!(client.get::<_, usize>(format!("drain:{n}")).expect("acknowledged"), n);
    }
    again.stop();
}

#[test]
fn a_stopping_server_does_not_wait_for_idle_clients() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut idle = server.connect();
    exchange(&mut idle, b"PING\r\n", b"+PONG\r\n");
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn being_told_to_stop_twice_at_once_is_being_told_once_and_later_again_ends_it() {
    let dir = data_dir();
    let mut server = Server::start(dir.path(), &["--timeout-shutdown-ms", "60000"]);
    // A client that does not read its replies keeps the drain waiting.
    let mut deaf = server.connect();
    let big = format!("SET big {}\r\n", "x".repeat(60_000));
    exchange(&mut deaf, big.as_bytes(), b"+OK\r\n");
    deaf.write_all(&b"GET big\r\n".repeat(500)).expect("sent");
    std::thread::sleep(Duration::from_millis(300));
    server.signal("-TERM");
    server.signal("-TERM");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(server.exited(), None, "{}", server.log());
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(143), "{}", server.log());
}

#[test]
fn an_idle_server_uses_no_cpu() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--partitions", "16"]);
    let mut idle = server.connect();
    exchange(&mut idle, b"SET a 1\r\n", b"+OK\r\n");
    // Let the start and the background preparation of log segments end.
    std::thread::sleep(Duration::from_secs(2));
    let before = cpu_ticks(server.pid());
    std::thread::sleep(Duration::from_secs(3));
    let used = cpu_ticks(server.pid()) - before;
    // 100 ticks a second: 3 s of one spinning core would be 300.
    assert!(used <= 6, "{used} ticks in 3 s");
}

/// User and system time of a process, in ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    fields.iter().skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum()
}
