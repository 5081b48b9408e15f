//! Settings that are changed while the server runs, and act at once; and what SLOWLOG tells of slow requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::{Commands, Value};

use crate::server::{Server, data_dir};

fn set(client: &mut redis::Connection, name: &str, value: &str) {
    redis::cmd("CONFIG").arg(&["SET", name, value]).query::<()>(client).expect("a hot setting");
}

fn slow_commands(client: &mut redis::Connection) -> Vec<Vec<Value>> {
    redis::cmd("SLOWLOG").arg(&["GET", "-1"]).query(client).expect("the log")
}

fn number(value: &Value) -> i64 {
    redis::from_redis_value(value.clone()).expect("a number")
}

/// The stages that are known, by the numbers of the entries, with their times in order.
fn stages(client: &mut redis::Connection) -> HashMap<i64, Vec<(String, i64)>> {
    let all: Vec<(i64, Vec<(String, i64)>)> =
        redis::cmd("SLOWLOG").arg(&["STAGES", "-1"]).query(client).expect("the stages");
    all.into_iter().collect()
}

#[test]
fn a_slow_write_says_where_its_time_went() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--slowlog-slower-than-us", "-1", "--partitions", "4"]);
    let mut client = server.client();
    client.set::<_, _, ()>("a", "1").expect("set");
    assert!(slow_commands(&mut client).is_empty(), "the flag says that nothing is slow");
    set(&mut client, "slowlog-log-slower-than", "0");
    // The kernel deals connections to the cores; some of these hop to another core and back.
    for n in 0..8 {
        let mut other = server.client();
        other.set::<_, _, ()>(format!("key:{n}"), "value").expect("set");
        other.mget::<_, Vec<Option<String>>>(&["a", "b", "c", "d"]).expect("a split read");
    }
    let entries = slow_commands(&mut client);
    let stages = stages(&mut client);
    let (mut writes, mut reads) = (0, 0);
    for entry in &entries {
        let args: Vec<String> = redis::from_redis_value(entry[3].clone()).expect("arguments");
        assert_eq!(entry.len(), 6, "as in Redis");
        match (args[0].to_ascii_lowercase().as_str(), stages.get(&number(&entry[0]))) {
            ("set", Some(stages)) => {
                writes += 1;
                assert_eq!(args[1..], [format!("key:{}", 8 - writes), "value".to_owned()]);
                let names: Vec<&str> = stages.iter().map(|(name, _)| name.as_str()).collect();
                assert_eq!(names, ["queued_us", "proposed_us", "durable_us", "applied_us", "replied_us"]);
                let sum: i64 = stages.iter().map(|(_, us)| us).sum();
                let took = number(&entry[2]);
                assert!(took - sum <= 1 && sum <= took, "{took} µs are not {stages:?}");
                let durable = stages[2].1;
                assert!(durable > 0, "no disk is that fast: {stages:?}");
            }
            ("mget", None) => reads += 1,
            // What a new connection says of its library (CLIENT SETINFO), and what set the threshold.
            ("client" | "config", None) => {}
            other => panic!("{other:?} among the slow commands"),
        }
    }
    assert_eq!((writes, reads), (8, 8));
    set(&mut client, "slowlog-max-len", "3");
    assert_eq!(slow_commands(&mut client).len(), 3, "the longest length acts at once");
    set(&mut client, "slowlog-log-slower-than", "-1");
    redis::cmd("SLOWLOG").arg("RESET").query::<()>(&mut client).expect("reset");
    client.set::<_, _, ()>("a", "2").expect("set");
    assert!(slow_commands(&mut client).is_empty());
    let shown: Vec<String> = redis::cmd("CONFIG").arg(&["GET", "slowlog*"]).query(&mut client).expect("get");
    assert!(shown.windows(2).any(|pair| pair == ["slowlog-max-len", "3"]), "{shown:?}");
    assert!(shown.windows(2).any(|pair| pair == ["slowlog.max_len", "3"]), "{shown:?}");
}

/// How log writes are made durable now, as INFO tells: a core that sleeps may take a moment to say so.
fn await_sync(client: &mut redis::Connection, wanted: &str) {
    let begun = Instant::now();
    loop {
        let info: redis::InfoDict = redis::cmd("INFO").arg("persistence").query(client).expect("info");
        let now: String = info.get("wal_sync").expect("a field");
        if now == wanted {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "log writes are still {now}, not {wanted}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_way_of_a_durable_write_changes_under_load_and_loses_nothing() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--shards", "4", "--partitions", "4", "--wal-sync", "linked"]);
    let mut client = server.client();
    await_sync(&mut client, "linked");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|n| {
            let (mut client, stop) = (server.client(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut acknowledged = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    acknowledged = client.incr(format!("counter:{n}"), 1).expect("writes go on");
                }
                acknowledged
            })
        })
        .collect();
    for mode in ["inline", "dsync", "linked", "dsync", "inline"] {
        set(&mut client, "wal.sync", mode);
        await_sync(&mut client, mode);
        // At least one write of each connection goes this way.
        std::thread::sleep(Duration::from_millis(50));
    }
    let wrong = redis::cmd("CONFIG").arg(&["SET", "wal.sync", "never"]).query::<()>(&mut client);
    assert!(
        wrong
            .expect_err("no such way")
            .to_string()
            .contains("`never` is none of auto, dsync, linked, inline")
    );
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<u64> = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
    server.kill_9();
    let server = Server::start(dir.path(), &["--wal-sync", "auto"]);
    let mut client = server.client();
    for (n, acknowledged) in acknowledged.into_iter().enumerate() {
        assert!(acknowledged > 0, "counter {n} was never written");
        assert_eq!(client.get::<_, u64>(format!("counter:{n}")).expect("it was acknowledged"), acknowledged);
    }
}

#[test]
fn latency_shows_what_took_longer_than_the_threshold_and_by_what() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    client.set::<_, _, ()>("key", "before anybody looks").expect("written");
    let latest = |client: &mut redis::Connection| -> Vec<(String, u64, u64, u64)> {
        redis::cmd("LATENCY").arg("LATEST").query(client).expect("LATENCY")
    };
    let mut other = server.client();
    assert!(latest(&mut other).is_empty());
    set(&mut other, "latency-monitor-threshold", "10");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                client.set::<_, _, ()>("key", "value").expect("written");
            }
        }
    });
    // Whatever is under way when the process is stopped takes longer than the threshold: nearly always a log write.
    let wanted = ["command", "aof-fsync-always"];
    let mut events = Vec::new();
    for _ in 0..200 {
        server.signal("-STOP");
        std::thread::sleep(Duration::from_millis(20));
        server.signal("-CONT");
        events = latest(&mut other);
        if wanted.iter().all(|name| events.iter().any(|(event, ..)| event == name)) {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("all were written");
    for wanted in wanted {
        let (_, at_s, ms, max_ms) = events.iter().find(|(name, ..)| name == wanted).expect(wanted);
        assert!(*at_s > 0 && *ms >= 10 && max_ms >= ms, "{events:?}");
    }
    let histogram: redis::Value =
        redis::cmd("LATENCY").arg("HISTOGRAM").arg("set").query(&mut other).expect("LATENCY");
    assert!(format!("{histogram:?}").contains("histogram_usec"), "{histogram:?}");
}

#[test]
fn latency_shows_that_writes_outran_the_flushes() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--memory-bytes", "16MiB"]);
    let mut client = server.client();
    set(&mut client, "latency-monitor-threshold", "1");
    let value = vec![b'x'; 900_000];
    let mut pipe = redis::pipe();
    (0..40).for_each(|n| _ = pipe.set(format!("large:{n}"), &value).ignore());
    let begun = Instant::now();
    loop {
        pipe.query::<()>(&mut client).expect("written");
        let latest: Vec<(String, u64, u64, u64)> =
            redis::cmd("LATENCY").arg("LATEST").query(&mut client).expect("LATENCY");
        let waits = latest.iter().find(|(event, ..)| event == "flush-wait");
        if let Some((_, at_s, ms, max_ms)) = waits {
            assert!(*at_s > 0 && *ms >= 1 && max_ms >= ms, "{latest:?}");
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{latest:?}");
    }
    let history: Vec<(u64, u64)> =
        redis::cmd("LATENCY").arg(&["HISTORY", "flush-wait"]).query(&mut client).expect("LATENCY");
    assert!(!history.is_empty());
}

#[test]
fn huge_pages_are_kept_off_unless_they_are_wanted() {
    for (flags, thp, shown) in [(&[][..], "0", "yes"), (&["--disable-thp", "no"][..], "1", "no")] {
        let dir = data_dir();
        let server = Server::start(dir.path(), flags);
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
        let enabled = status.lines().find_map(|line| line.strip_prefix("THP_enabled:")).map(str::trim);
        assert_eq!(enabled, Some(thp), "{flags:?}");
        let mut client = server.client();
        let said: Vec<String> =
            redis::cmd("CONFIG").arg(&["GET", "disable-thp"]).query(&mut client).expect("it");
        assert_eq!(said, ["disable-thp", shown]);
        let refused = redis::cmd("CONFIG").arg(&["SET", "disable-thp", "no"]).query::<()>(&mut client);
        let refused = refused.expect_err("it takes a restart").to_string();
        assert!(refused.contains("immutable"), "{refused}");
    }
}
