//! What a node says of itself to those who look: that its newest log file is not what it was, what connections hold, what
//! time it is, what its figures are called. And what it does not take to remember.

use std::fs::File;
use std::os::unix::fs::FileExt;

use redis::Commands;

use crate::server::{Server, data_dir, free_port};

fn info(client: &mut redis::Connection, section: &str) -> String {
    redis::cmd("INFO").arg(section).query(client).expect("figures")
}

#[test]
fn a_newest_log_file_without_its_header_is_refused_by_name() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--shards", "1"]);
    let mut client = server.client();
    for key in ["a", "b", "c"] {
        client.set::<_, _, ()>(key, "value").expect("acknowledged");
    }
    server.stop();
    let slot = "slot-000000.wal";
    let file = dir.path().join("shard-0000/wal").join(slot);
    let file = File::options().write(true).open(file).expect("the only log file with data");
    file.write_all_at(&[0; 4096], 0).expect("zeros");
    let mut server = Server::spawn(dir.path(), free_port(), &["--shards", "1"]);
    assert_eq!(server.wait().code(), Some(65), "{}", server.log());
    assert!(server.log().contains(slot), "{}", server.log());
}

#[test]
fn a_name_of_half_a_megabyte_is_not_kept() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    let name = "n".repeat(500_000);
    let set = redis::cmd("CLIENT").arg("SETNAME").arg(&name).query::<String>(&mut client);
    let refused = set.expect_err("too long").to_string();
    assert!(refused.contains("cannot be longer than 1024 bytes"), "{refused}");
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).expect("a list");
    assert!(list.len() < 1000, "{} bytes", list.len());
}

#[test]
fn what_a_connection_holds_is_listed() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut client).expect("a list");
    for field in ["qbuf", "argv-mem", "tot-mem"] {
        let found = list.split([' ', '\n']).find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
        let bytes: u64 = found.unwrap_or_else(|| panic!("{field} in {list}")).parse().expect("a number");
        assert!(bytes > 0, "{field} in {list}");
    }
}

#[test]
fn the_figures_that_dashboards_read_are_there() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    client.set::<_, _, ()>("key", "value").expect("acknowledged");
    let all = info(&mut client, "all");
    for field in [
        "mem_fragmentation_ratio",
        "instantaneous_input_kbps",
        "instantaneous_output_kbps",
        "rdb_last_save_time",
        "rdb_last_bgsave_status",
        "rdb_changes_since_last_save",
        "aof_rewrite_in_progress",
        "hz",
        "config_file",
        "pubsub_channels",
        "total_reads_processed",
        "used_memory_overhead",
        "lazyfree_pending_objects",
        "unexpected_error_replies",
        "evicted_clients",
        "eventloop_cycles",
    ] {
        assert!(all.lines().any(|line| line.split(':').next() == Some(field)), "no {field}");
    }
    let latencies = info(&mut client, "latencystats");
    assert!(latencies.contains("latency_percentiles_usec_set:p50="), "{latencies}");
}

#[test]
fn the_time_is_told_in_microseconds() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    let fine = |micros: u64| !micros.is_multiple_of(1000);
    // One of so many may be a whole millisecond by chance.
    let times = (0..20).map(|_| redis::cmd("TIME").query::<(u64, u64)>(&mut client).expect("a time").1);
    assert!(times.filter(|micros| fine(*micros)).count() > 10);
    let stats: Vec<redis::Value> = redis::cmd("MEMORY").arg("STATS").query(&mut client).expect("figures");
    assert_eq!(stats.first(), Some(&redis::Value::BulkString(b"peak.allocated".to_vec())));
}
