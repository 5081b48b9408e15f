//! Data folders as earlier versions left them: today's server starts on each of them and has every key, and so has a cluster that
//! is founded with it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../process/server.rs"]
mod server;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use server::{Server, data_dir, free_port, run};

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

/// What the one of these nodes answers that leads.
fn ask_leader(clients: &mut [redis::Connection], words: &[&[u8]]) -> redis::Value {
    let mut request = redis::Cmd::new();
    words.iter().for_each(|word| _ = request.arg(*word));
    let begun = Instant::now();
    loop {
        for client in &mut *clients {
            let error = match request.query::<redis::Value>(client) {
                Ok(value) => return value,
                Err(error) => error.to_string(),
            };
            // These are reads, and changes that are done once: where the lead goes away in between, they are asked again.
            let passing = ["ClusterDown", "Moved", "UNKNOWNRESULT", "REFUSED"];
            let leads_not = passing.iter().any(|known| error.contains(known));
            assert!(leads_not && begun.elapsed() < Duration::from_secs(60), "{words:?}: {error}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `make.py` wrote.
fn assert_holds(servers: &[Server]) {
    let mut clients: Vec<_> = servers.iter().map(Server::client).collect();
    let mut ask = |words: &[&[u8]]| ask_leader(&mut clients, words);
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
        assert_holds(std::slice::from_ref(&server));
        server.stop();
        for copy in ["identity.0", "identity.1"] {
            let identity = fs::read_to_string(folder.join(copy)).unwrap();
            assert!(
                identity.contains("format = 3\n") && identity.contains("operation_bytes = "),
                "{identity}"
            );
        }
    }
    founds_with(&folder, home.path());
}

/// The folder's node founds a cluster with its data, and another one that joins it has all of that.
fn founds_with(folder: &Path, home: &Path) {
    let identity = fs::read_to_string(folder.join("identity.0")).unwrap();
    let cluster = identity.lines().find_map(|line| line.strip_prefix("cluster = ")).unwrap();
    let ports: Vec<[u16; 2]> = (0..2).map(|_| [free_port(), free_port()]).collect();
    let mut described = format!(
        "cluster = \"{cluster}\"\nsecret = \"any, of 16 bytes or more\"\nshards = 2\npartitions = 2\n"
    );
    for (id, [peer, client]) in (1..).zip(&ports) {
        described.push_str(&format!(
            "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nclient = \"127.0.0.1:{client}\"\njoins = {}\n",
            id > 1
        ));
    }
    let peers = home.join("peers.toml");
    fs::write(&peers, described).unwrap();
    let joining = home.join("joining");
    let mut servers = Vec::new();
    for ((id, folder), [_, client]) in (1..).zip([folder, &joining]).zip(&ports) {
        let id: u32 = id;
        let flags = ["--peers", peers.to_str().unwrap(), "--node-id", &id.to_string()];
        let format = ["format", "--data-dir", folder.to_str().unwrap(), "--wal-segment-bytes", "4MiB"];
        let (code, _, stderr) = run(&[&format[..], &flags, &["--max-bulk-bytes", "1MiB"]].concat());
        assert_eq!(code, Some(0), "{stderr}");
        let mut server = Server::spawn(folder, *client, &flags);
        assert!(server.await_ready().is_ok(), "{}", server.log());
        servers.push(server);
    }
    assert_holds(&servers[..1]);
    let [peer, client] = ports[1].map(|port| format!("127.0.0.1:{port}"));
    for change in
        [&["ADD", "ALL", "2", &peer, &client][..], &["PROMOTE", "ALL", "2"], &["TRANSFER", "ALL", "2"]]
    {
        let words: Vec<&[u8]> =
            std::iter::once("REPLICA").chain(change.iter().copied()).map(str::as_bytes).collect();
        let mut clients: Vec<_> = servers.iter().map(Server::client).collect();
        ask_leader(&mut clients, &words);
    }
    // Both partitions are led by the node that has joined.
    let mut clients = [servers[1].client()];
    ask_leader(&mut clients, &[b"REPLICA", b"REMOVE", b"ALL", b"1"]);
    servers.remove(0).kill_9();
    assert_holds(&servers);
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

/// Identity 6: a node that was alone has founded a cluster with its data, and is called otherwise than its log and its state say.
#[test]
fn a_node_that_has_founded_a_cluster() {
    let home = data_dir();
    let folder = home.path().join("node");
    restore(include_str!("node-6.txt"), &folder);
    let identity = || fs::read_to_string(folder.join("identity.0")).unwrap();
    let kept = |identity: &str| {
        let is_kept = |line: &&str| {
            !["generation", "starts", "crc32"]
                .iter()
                .any(|changes| line.starts_with(&format!("{changes} = ")))
        };
        identity.lines().filter(is_kept).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = identity();
    assert!(before.contains("format = 6\n") && before.contains("former_node = "), "{before}");
    founds_with(&folder, home.path());
    assert_eq!(kept(&identity()), kept(&before));
}

/// Identity 4: the nodes know their founders, and the incarnations of those that they have met.
#[test]
fn three_nodes_of_a_cluster() {
    let home = data_dir();
    restore(include_str!("node-5.txt"), home.path());
    let peers = home.path().join("peers.toml");
    let mut described =
        "cluster = \"5b0f6c1e9d2a47388c41f0b7a6d3e592\"\nsecret = \"any, of 16 bytes or more\"\n\
                         shards = 1\npartitions = 1\n"
            .to_owned();
    let ports = [(); 3].map(|()| free_port());
    for (id, client) in (1..).zip(ports) {
        let peer = free_port();
        described.push_str(&format!(
            "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{peer}\"\nclient = \"127.0.0.1:{client}\"\n"
        ));
    }
    fs::write(&peers, described).unwrap();
    let identities = || -> Vec<String> {
        let of = |id| fs::read_to_string(home.path().join(format!("node-{id}/identity.0"))).unwrap();
        (1..=3).map(of).collect()
    };
    let line = |identity: &str, name: &str| {
        let found = identity.lines().find(|line| line.starts_with(&format!("{name} = ")));
        found.unwrap_or_else(|| panic!("{name} in {identity}")).to_owned()
    };
    let before = identities();
    for _start in 0..2 {
        let servers: Vec<Server> = (1..)
            .zip(ports)
            .map(|(id, port): (u32, u16)| {
                let folder = home.path().join(format!("node-{id}"));
                let flags = ["--peers", peers.to_str().unwrap(), "--node-id", &id.to_string()];
                let mut server = Server::spawn(&folder, port, &flags);
                assert!(server.await_ready().is_ok(), "{}", server.log());
                server
            })
            .collect();
        assert_holds(&servers);
        servers.into_iter().for_each(Server::stop);
    }
    for (before, after) in before.iter().zip(identities()) {
        for name in ["format", "cluster", "node", "incarnation", "founders", "met"] {
            assert_eq!(line(before, name), line(&after, name));
        }
        assert_eq!(line(&after, "format"), "format = 4");
        assert_ne!(line(before, "starts"), line(&after, "starts"));
    }
}
