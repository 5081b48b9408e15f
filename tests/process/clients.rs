//! A client library that others wrote, without special settings.

use std::time::{Duration, Instant};

use redis::Commands;

use crate::server::{Server, data_dir, exchange};

#[test]
fn the_everyday_commands_behave() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    client.set::<_, _, ()>("name", "corduroy").expect("set");
    assert_eq!(client.get::<_, String>("name").expect("get"), "corduroy");
    assert_eq!(client.incr::<_, _, i64>("n", 5).expect("incr"), 5);
    assert_eq!(client.get::<_, Option<String>>("nothing").expect("get"), None);
    assert!(client.expire::<_, bool>("n", 100).expect("expire"));
    let ttl: i64 = client.ttl("n").expect("ttl");
    assert!((99..=100).contains(&ttl), "{ttl}");
    let (one, two): (i64, i64) =
        redis::pipe().atomic().incr("n", 1).incr("n", 1).query(&mut client).expect("a transaction");
    assert_eq!((one, two), (6, 7));
    let mut keys: Vec<String> = client.scan().expect("scan").map(|key| key.expect("a key")).collect();
    keys.sort();
    assert_eq!(keys, ["n", "name"]);
    let info: redis::InfoDict = redis::cmd("INFO").query(&mut client).expect("info");
    assert_eq!(info.get::<String>("role").as_deref(), Some("master"));
    assert_eq!(info.get::<u8>("cluster_enabled"), Some(0));
    // What INFO says of shards on another core may be a tenth of a second old.
    let wanted = Some("keys=2,expires=1,avg_ttl=0".to_owned());
    let mut keyspace = None;
    for _ in 0..100 {
        let info: redis::InfoDict = redis::cmd("INFO").arg("keyspace").query(&mut client).expect("info");
        keyspace = info.get::<String>("db0");
        if keyspace == wanted {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(keyspace, wanted);
}

/// What the shards have counted of this in sum, as INFO says.
fn of_shards(client: &mut redis::Connection, figure: &str) -> u64 {
    let info: String = redis::cmd("INFO").arg("shards").query(client).expect("info");
    let shards = info.lines().filter_map(|line| line.strip_prefix("shard_")?.split_once(':'));
    let figures = shards.flat_map(|(_, figures)| figures.trim().split(','));
    figures.filter_map(|field| field.strip_prefix(figure)?.strip_prefix('=')?.parse::<u64>().ok()).sum()
}

#[test]
fn reads_from_memory_are_counted() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--cores", "0"]);
    let mut client = server.client();
    client.set::<_, _, ()>("name", "corduroy").expect("set");
    let turned = of_shards(&mut client, "turns");
    for _ in 0..100 {
        assert_eq!(client.get::<_, String>("name").expect("get"), "corduroy");
        assert_eq!(client.get::<_, Option<String>>("nothing").expect("get"), None);
    }
    assert_eq!(of_shards(&mut client, "reads"), 200);
    assert!(of_shards(&mut client, "turns") - turned < 100, "none of them takes a turn");
}

#[test]
fn reads_from_memory_are_counted_for_whoever_asks() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut clients: Vec<_> = (0..8).map(|_| server.client()).collect();
    clients[0].set::<_, _, ()>("name", "corduroy").expect("set");
    for client in &mut clients {
        (0..10).for_each(|_| assert_eq!(client.get::<_, String>("name").expect("get"), "corduroy"));
    }
    // The kernel deals connections to the cores: some ask another core than the one that has read.
    for client in &mut clients {
        let begun = Instant::now();
        while of_shards(client, "reads") != 80 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} reads", of_shards(client, "reads"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn settings_can_be_asked_for_and_changed() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    let mut config = |args: &[&str]| redis::cmd("CONFIG").arg(args).query::<Vec<String>>(&mut client);
    assert_eq!(config(&["GET", "appendonly"]).expect("get"), ["appendonly", "yes"]);
    assert_eq!(config(&["GET", "maxclients"]).expect("get"), ["maxclients", "10000"]);
    let mut client = server.client();
    let mut set = |args: &[&str]| redis::cmd("CONFIG").arg("SET").arg(args).query::<()>(&mut client);
    set(&["maxclients", "77"]).expect("hot");
    assert!(set(&["shards", "9"]).is_err());
    set(&["requirepass", "secret"]).expect("hot");
    let mut stranger = server.connect();
    exchange(&mut stranger, b"GET a\r\n", b"-NOAUTH Authentication required.\r\n");
    exchange(&mut stranger, b"AUTH secret\r\n", b"+OK\r\n");
    exchange(&mut stranger, b"GET a\r\n", b"$-1\r\n");
}

#[test]
fn a_killed_connection_ends_wherever_it_lives() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut killer = server.client();
    for _ in 0..8 {
        // The kernel deals connections to the cores; some are on another than the killer's.
        let mut victim = server.client();
        let id: i64 = redis::cmd("CLIENT").arg("ID").query(&mut victim).expect("id");
        let killed: i64 = redis::cmd("CLIENT").arg(&["KILL", "ID"]).arg(id).query(&mut killer).expect("kill");
        assert_eq!(killed, 1);
        assert!(redis::cmd("PING").query::<String>(&mut victim).is_err());
    }
}

#[test]
fn a_shutdown_command_stops_the_server() {
    let dir = data_dir();
    let mut server = Server::start(dir.path(), &[]);
    let mut stream = server.connect();
    exchange(&mut stream, b"SET a 1\r\n", b"+OK\r\n");
    std::io::Write::write_all(&mut stream, b"SHUTDOWN\r\n").expect("send");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}
