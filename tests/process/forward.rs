//! A cluster whose nodes serve any client: whoever leads, a plain client asks whichever node it is connected to.

use std::time::{Duration, Instant};

use crate::beside::{Connection, Value, compare_all};
use crate::nodes::{Cluster, ELECTION, PATIENCE};
use crate::server::{Server, data_dir};

fn bulk(text: &str) -> redis::Value {
    redis::Value::BulkString(text.as_bytes().to_vec())
}

/// The node that leads the first partition, as that node says itself.
fn leader(cluster: &mut Cluster) -> u64 {
    let begun = Instant::now();
    loop {
        for id in cluster.ids() {
            let info = format!("{:?}", cluster.ask(id, &["INFO", "replication"]).expect("INFO"));
            if info.contains("role:master") {
                return id;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "nobody leads");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn any_node_takes_writes_and_answers_reads() {
    let mut cluster = Cluster::of_three(1, &[]);
    for writer in cluster.ids() {
        let key = format!("by node {writer}");
        assert_eq!(cluster.ask(writer, &["SET", &key, "first"]), Ok(redis::Value::Okay));
        for reader in cluster.ids() {
            assert_eq!(cluster.ask(reader, &["GET", &key]), Ok(bulk("first")), "{writer}, {reader}");
        }
    }
    let leader = leader(&mut cluster);
    let begun = Instant::now();
    let answered = |cluster: &mut Cluster| -> u64 {
        cluster.ids().iter().map(|id| cluster.figure(*id, "peers", "forwarded_answered")).sum()
    };
    while answered(&mut cluster) < 8 {
        assert!(begun.elapsed() < PATIENCE, "{} requests were forwarded", answered(&mut cluster));
        std::thread::sleep(Duration::from_millis(20));
    }
    // Whoever asks for the map is one that follows it.
    let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("there are three");
    let port = cluster.node(leader).client_port;
    let mut client = cluster.node(follower).server.as_ref().expect("it runs").client();
    let _: redis::Value = redis::cmd("CLUSTER").arg("SLOTS").query(&mut client).expect("the map");
    let error =
        redis::cmd("GET").arg("foo").query::<redis::Value>(&mut client).expect_err("it is redirected");
    assert!(error.to_string().contains(&format!("12182 127.0.0.1:{port}")), "{error}");
}

#[test]
fn requests_wait_for_the_next_leader_at_any_node() {
    let mut cluster = Cluster::of_three(1, &[]);
    let first = leader(&mut cluster);
    let followers: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != first).collect();
    cluster.ask(followers[0], &["SET", "counter", "0"]).expect("it is forwarded");
    cluster.kill_9(first);
    let begun = Instant::now();
    // The first one may have been on its way to the old leader.
    for (n, id) in followers.iter().cycle().take(10).enumerate() {
        let answer = cluster.ask(*id, &["SET", "counter", &n.to_string()]);
        assert!(answer == Ok(redis::Value::Okay) || n == 0, "{n}: {answer:?}");
    }
    assert!(begun.elapsed() < 5 * ELECTION, "{:?}", begun.elapsed());
    assert_eq!(cluster.ask(followers[0], &["GET", "counter"]), Ok(bulk("9")));
}

/// Whoever has gone does not write over what others have written since.
#[test]
fn what_waits_for_a_leader_is_not_done_once_its_client_has_ended_the_connection() {
    let mut cluster = Cluster::of_three(1, &[]);
    let (first, ids) = (leader(&mut cluster), cluster.ids());
    let node = ids.iter().copied().find(|id| *id != first).expect("there are three");
    let others: Vec<u64> = ids.into_iter().filter(|id| *id != node).collect();
    others.iter().for_each(|id| cluster.kill_9(*id));
    let port = cluster.node(node).client_port;
    let mut patient = Connection::open(port);
    patient.say("SET patient 1");
    for client in 0..4 {
        let mut leaving = Connection::open(port);
        leaving.say(&format!("SET leaving:{client} 1"));
        std::thread::sleep(Duration::from_millis(20));
    }
    others.iter().for_each(|id| cluster.start(*id));
    assert_eq!(patient.read(), Value::Line("+OK".to_owned()));
    for client in 0..4 {
        let value = cluster.ask(node, &["GET", &format!("leaving:{client}")]);
        assert_eq!(value, Ok(redis::Value::Nil), "client {client}");
    }
}

/// Plays whose replies are those of Redis, as `tests/resp.rs` has them carried out without a server.
const PLAYS: [&str; 5] = [
    include_str!("../scripts/resp/strings.play"),
    include_str!("../scripts/resp/keys.play"),
    include_str!("../scripts/resp/transactions.play"),
    include_str!("../scripts/resp/errors.play"),
    include_str!("../scripts/resp/differs.play"),
];

/// What is shown of the description of a cluster, which a node alone is not part of.
const OF_CLUSTERS: [&str; 2] = ["CLUSTER INFO", "WAIT 0 0"];

/// Whether two replies are the same, but for times. Whether a time to live from now on is later than one that was given a moment
/// before depends on the moment.
fn are_alike(request: &str, one: &Value, other: &Value) -> bool {
    let words: Vec<_> = request.split_ascii_whitespace().map(str::to_ascii_uppercase).collect();
    let has = |of: &[&str]| words.iter().any(|word| of.contains(&word.as_str()));
    if one != other && has(&["EXPIRE", "PEXPIRE"]) && has(&["GT", "LT"]) {
        return matches!((one, other), (Value::Line(one), Value::Line(other)) if one.starts_with(':') && other.starts_with(':'));
    }
    let is_time = ["TTL", "EXPIRETIME"].iter().any(|word| request.to_ascii_uppercase().contains(word));
    let is_positive = |value: &Value| match value {
        Value::Line(line) => line.strip_prefix(':').is_some_and(|number| number.parse::<u64>().is_ok()),
        Value::Bytes(..) | Value::List(..) | Value::Closed => false,
    };
    one == other || (is_time && is_positive(one) && is_positive(other))
}

#[test]
fn the_protocol_is_the_same_through_any_node() {
    let mut cluster = Cluster::of_three(1, &[]);
    let ports: Vec<u16> = cluster.ids().into_iter().map(|id| cluster.node(id).client_port).collect();
    let dir = data_dir();
    let alone = Server::start(dir.path(), &["--replication", "off"]);
    let (mut differences, mut compared) = (Vec::new(), 0);
    for (port, play) in ports.iter().flat_map(|port| PLAYS.iter().map(move |play| (*port, *play))) {
        let [mut ours, mut theirs] = [port, alone.port].map(Connection::open);
        let mut ask = |request: &str| {
            let [one, other] = [&mut ours, &mut theirs].map(|side| {
                side.say(request);
                side.read()
            });
            compared += 1;
            if !are_alike(request, &one, &other) && !OF_CLUSTERS.contains(&request) {
                differences.push(format!("{port}: {request}\n  alone {other:?}\n  here  {one:?}"));
            }
        };
        ask("FLUSHALL");
        for part in format!("\n{}", play.trim_end()).split("\n> ").skip(1) {
            let (request, _) = part.split_once('\n').expect("a reply follows each request");
            ask(request);
        }
    }
    assert!(differences.is_empty(), "{} of {compared}:\n{}", differences.len(), differences.join("\n"));
    assert!(compared > 1_000, "{compared} requests");
    compare_all(&ports);
}

/// The leaders of all partitions, as a node has heard of them.
fn leaders(cluster: &mut Cluster, id: u64) -> Vec<u64> {
    let ports: Vec<(u64, i64)> =
        cluster.nodes.iter().map(|node| (node.id, i64::from(node.client_port))).collect();
    let ranges = items(cluster.ask(id, &["CLUSTER", "SLOTS"]).expect("the map"));
    let leader_of = |range: redis::Value| {
        // Two numbers of slots, then the leader: its host, its port.
        let port = items(items(range).remove(2)).remove(1);
        ports.iter().find(|(_, of)| port == redis::Value::Int(*of)).expect("a node's port").0
    };
    ranges.into_iter().map(leader_of).collect()
}

fn items(value: redis::Value) -> Vec<redis::Value> {
    let redis::Value::Array(items) = value else { panic!("{value:?}") };
    items
}

/// A cluster whose partitions are led by more than one node.
fn spread() -> Cluster {
    let mut cluster = Cluster::of_three(8, &[]);
    let begun = Instant::now();
    loop {
        let all = leaders(&mut cluster, 1);
        let is_spread = all.iter().any(|leader| Some(leader) != all.first());
        if all.len() == 8 && is_spread {
            return cluster;
        }
        assert!(begun.elapsed() < PATIENCE, "{all:?} lead");
        if let (8, Some(&all_led_by)) = (all.len(), all.first()) {
            // What it led is led by two others, and one of them is likely to lead some of it only.
            cluster.kill_9(all_led_by);
            std::thread::sleep(2 * ELECTION);
            cluster.start(all_led_by);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn string(value: redis::Value) -> String {
    let redis::Value::BulkString(bytes) = value else { panic!("{value:?}") };
    String::from_utf8(bytes).expect("text")
}

fn strings(value: redis::Value) -> Vec<String> {
    items(value).into_iter().map(string).collect()
}

#[test]
fn what_spans_partitions_is_gathered_from_all_their_leaders() {
    let mut cluster = spread();
    let keys: Vec<String> = (0..60).map(|n| format!("key:{n:02}")).collect();
    let ids = cluster.ids();
    for (n, key) in keys.iter().enumerate() {
        let id = ids[n % 3];
        assert_eq!(cluster.ask(id, &["SET", key, &n.to_string()]), Ok(redis::Value::Okay), "{key} by {id}");
    }
    let with = |name: &str| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(keys.iter().cloned()).collect()
    };
    for id in ids.clone() {
        let mut ask = |words: &[String]| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            cluster.ask(id, &words).unwrap_or_else(|error| panic!("{words:?} by {id}: {error}"))
        };
        let mut one = |words: &str| ask(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(one("DBSIZE"), redis::Value::Int(60));
        let mut found = strings(one("KEYS key:*"));
        found.sort();
        assert_eq!(found, keys);
        let (mut cursor, mut scanned) = ("0".to_owned(), Vec::new());
        loop {
            let mut page = items(one(&format!("SCAN {cursor} COUNT 7")));
            scanned.extend(strings(page.remove(1)));
            cursor = string(page.remove(0));
            if cursor == "0" {
                break;
            }
        }
        scanned.sort();
        scanned.dedup();
        assert_eq!(scanned, keys);
        let random = string(one("RANDOMKEY"));
        assert!(keys.contains(&random), "{random}");
        assert_eq!(ask(&with("EXISTS")), redis::Value::Int(60));
        let values: Vec<String> = (0..60).map(|n| n.to_string()).collect();
        assert_eq!(strings(ask(&with("MGET"))), values);
    }
    assert_eq!(
        cluster.ask(ids[1], &["DEL", &keys[0], &keys[1], &keys[2], "nosuch"]),
        Ok(redis::Value::Int(3))
    );
    assert_eq!(cluster.ask(ids[2], &["DBSIZE"]), Ok(redis::Value::Int(57)));
    assert_eq!(cluster.ask(ids[0], &["FLUSHALL"]), Ok(redis::Value::Okay));
    for id in ids {
        assert_eq!(cluster.ask(id, &["DBSIZE"]), Ok(redis::Value::Int(0)));
    }
}

#[test]
fn a_watch_at_one_node_sees_writes_at_another() {
    let mut cluster = spread();
    let ids = cluster.ids();
    for n in 0..12_usize {
        let (watcher, writer) = (ids[n % 3], ids[(n + 1 + n / 6) % 3]);
        let key = format!("{{{n}}}watched");
        let mut client = cluster.node(watcher).server.as_ref().expect("it runs").client();
        let mut ask = |words: &str| -> redis::Value {
            let mut request = redis::Cmd::new();
            words.split(' ').for_each(|word| _ = request.arg(word));
            request.query(&mut client).unwrap_or_else(|error| panic!("{words} at {watcher}: {error}"))
        };
        ask(&format!("WATCH {key}"));
        if n % 2 == 0 {
            cluster.ask(writer, &["SET", &key, "theirs"]).expect("it is forwarded");
        }
        ask("MULTI");
        ask(&format!("SET {key} ours"));
        ask(&format!("STRLEN {key}"));
        let done = ask("EXEC");
        let (expected, value) = match n % 2 {
            0 => (redis::Value::Nil, "theirs"),
            _ => (redis::Value::Array(vec![redis::Value::Okay, redis::Value::Int(4)]), "ours"),
        };
        assert_eq!(done, expected, "{key}: watched at {watcher}, written at {writer}");
        assert_eq!(cluster.ask(writer, &["GET", &key]), Ok(bulk(value)));
    }
}

/// Clients at all nodes count, in pipelines, while leaders are killed and paused: whatever was answered, each counter has been raised once
/// for each OK, and at most once for each result that is not known.
#[test]
fn nothing_is_done_twice_while_leaders_are_lost() {
    let mut cluster = Cluster::of_three(2, &[]);
    let ports: Vec<u16> = cluster.ids().into_iter().map(|id| cluster.node(id).client_port).collect();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = |stop: &std::sync::atomic::AtomicBool| stop.load(std::sync::atomic::Ordering::Relaxed);
    let counters: Vec<_> = (0..6_usize)
        .map(|n| {
            let (port, stop) = (ports[n % 3], std::sync::Arc::clone(&stop));
            std::thread::spawn(move || {
                let (mut sure, mut unsure, mut refused, mut last) = (0_u64, 0_u64, 0_u64, 0_u64);
                'connections: while !is_over(&stop) {
                    let Some(mut connection) = Connection::try_open(port) else {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    while !is_over(&stop) {
                        (0..8).for_each(|_| connection.say_or_lose(&format!("INCR counter:{n}")));
                        for left in (0..8).rev() {
                            match connection.read_or_lose() {
                                Some(Value::Line(line)) if line.starts_with(':') => {
                                    sure += 1;
                                    let value: u64 = line[1..].parse().expect("a number");
                                    assert!(value > last, "counter {n} went from {last} to {value}");
                                    last = value;
                                }
                                Some(Value::Line(line)) if line.starts_with("-UNKNOWNRESULT") => unsure += 1,
                                Some(Value::Line(line)) if line.contains("nothing was done") => refused += 1,
                                Some(other) => panic!("{other:?}"),
                                None => {
                                    unsure += left + 1;
                                    continue 'connections;
                                }
                            }
                        }
                    }
                }
                (sure, unsure, refused)
            })
        })
        .collect();
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(1));
        let killed = leader(&mut cluster);
        cluster.kill_9(killed);
        std::thread::sleep(2 * ELECTION);
        cluster.start(killed);
        std::thread::sleep(Duration::from_secs(1));
        // One that is only paused finds that another one leads, with all that its clients have sent meanwhile.
        let paused = leader(&mut cluster);
        let signal = |cluster: &mut Cluster, signal| {
            cluster.node(paused).server.as_ref().expect("it runs").signal(signal);
        };
        signal(&mut cluster, "-STOP");
        std::thread::sleep(2 * ELECTION);
        signal(&mut cluster, "-CONT");
    }
    std::thread::sleep(Duration::from_secs(2));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for (n, counter) in counters.into_iter().enumerate() {
        let (sure, unsure, refused) = counter.join().expect("it counts");
        let value = cluster.ask(1, &["GET", &format!("counter:{n}")]).expect("it is there");
        let value: u64 = string(value).parse().expect("a number");
        let most = sure + unsure;
        assert!((sure..=most).contains(&value), "counter {n}: {value}, {sure} to {most}, {refused} refused");
        assert!(sure > 100, "counter {n}: {sure}, {unsure} unknown, {refused} refused");
    }
}

/// A client that follows the map is sent to nobody who is dead: it waits where it is.
#[test]
fn nobody_is_sent_to_a_leader_that_is_not_there() {
    let mut cluster = Cluster::of_three(1, &["--redirect", "always"]);
    let first = leader(&mut cluster);
    let follower = cluster.ids().into_iter().find(|id| *id != first).expect("there are three");
    let dead = format!("127.0.0.1:{}", cluster.node(first).client_port);
    let answer = cluster.ask(follower, &["GET", "a"]);
    assert!(answer.as_ref().is_err_and(|error| error.contains(&dead)), "it is there: {answer:?}");
    cluster.kill_9(first);
    // Its end is seen by the connections that it had.
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < 2 * ELECTION {
        let answer = cluster.ask(follower, &["GET", "a"]);
        assert!(!answer.as_ref().is_err_and(|error| error.contains(&dead)), "{asked}: {answer:?}");
        asked += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(asked > 1, "it waited, and was answered");
}
