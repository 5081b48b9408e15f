//! What was acknowledged is there after any end of the process, on any number of cores.

use std::io::{Read, Write};

use redis::Commands;

use crate::server::{Server, cpus, data_dir};

/// Writes and overwrites through pipelines; every acknowledged value is remembered.
fn write(server: &Server, round: u32) {
    let mut client = server.client();
    for chunk in 0..10u32 {
        let mut pipe = redis::pipe();
        for n in 0..50 {
            pipe.set(format!("key:{}", chunk * 50 + n), format!("value:{round}:{}", chunk * 50 + n)).ignore();
        }
        pipe.incr("counter", 1).ignore();
        pipe.query::<()>(&mut client).expect("acknowledged");
    }
}

fn check(server: &Server, round: u32) {
    let mut client = server.client();
    for n in 0..500u32 {
        let value: String = client.get(format!("key:{n}")).expect("it was acknowledged");
        assert_eq!(value, format!("value:{round}:{n}"));
    }
    assert_eq!(client.get::<_, u32>("counter").expect("counter"), (round + 1) * 10);
    let size: u64 = redis::cmd("DBSIZE").query(&mut client).expect("size");
    assert_eq!(size, 501);
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let dir = data_dir();
    for round in 0..3 {
        let server = Server::start(dir.path(), &[]);
        if round > 0 {
            check(&server, round - 1);
        }
        write(&server, round);
        server.kill_9();
    }
    check(&Server::start(dir.path(), &[]), 2);
}

#[test]
fn any_number_of_cores_finds_the_same_data() {
    let cpus = cpus();
    let one = cpus.first().expect("a CPU").to_string();
    let all = cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let dir = data_dir();
    let layout = ["--shards", "4", "--partitions", "6"];
    for (round, cores) in [one.as_str(), all.as_str(), one.as_str()].into_iter().enumerate() {
        let round = round as u32;
        let mut flags = vec!["--cores", cores];
        flags.extend(layout);
        let server = Server::start(dir.path(), &flags);
        if round > 0 {
            check(&server, round - 1);
        }
        write(&server, round);
        if round == 1 { server.kill_9() } else { server.stop() }
    }
    // The layout is remembered; nobody has to say it again.
    check(&Server::start(dir.path(), &["--cores", &all]), 2);
}

#[test]
fn switching_replication_off_and_on_loses_nothing() {
    let dir = data_dir();
    for (round, replication) in ["off", "raft", "off", "raft"].into_iter().enumerate() {
        let round = round as u32;
        let server = Server::start(dir.path(), &["--replication", replication]);
        if round > 0 {
            check(&server, round - 1);
        }
        write(&server, round);
        server.kill_9();
    }
    check(&Server::start(dir.path(), &["--replication", "off"]), 3);
}

#[test]
fn a_long_log_of_few_keys_is_applied_without_a_pause() {
    const WRITES: usize = 600_000;
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--cores", &cpus().first().expect("a CPU").to_string()]);
    let mut stream = server.connect();
    let mut reader = stream.try_clone().expect("clone");
    let sender = std::thread::spawn(move || {
        let batch = b"SET k 0123456789\r\n".repeat(1000);
        (0..WRITES / 1000).for_each(|_| stream.write_all(&batch).expect("all is taken in"));
        stream.write_all(b"SET k last\r\n").expect("the last one too");
    });
    let mut replies = vec![0; (WRITES + 1) * 5];
    reader.read_exact(&mut replies).expect("every write is acknowledged");
    sender.join().expect("sender");
    server.kill_9();
    // All of it is applied again, thousands of writes a turn. Were a turn to wait for the next tick, it would not be
    // done before requests are refused, five seconds after the start.
    let again = Server::start(dir.path(), &[]);
    let value: String = again.client().get("k").expect("answered as soon as the log is applied");
    assert_eq!(value, "last");
}
