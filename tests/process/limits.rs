//! Clients that ask for too much: they are told, or slowed down, and others do not notice.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use redis::Commands;

use crate::server::{Server, cpus, data_dir, exchange};

#[test]
fn one_client_too_many_is_told_and_a_leaving_one_makes_room() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--max-clients", "2"]);
    let mut first = server.connect();
    exchange(&mut first, b"PING\r\n", b"+PONG\r\n");
    let mut second = server.connect();
    exchange(&mut second, b"PING\r\n", b"+PONG\r\n");
    let mut third = server.connect();
    let mut told = String::new();
    third.read_to_string(&mut told).expect("an answer and the end");
    assert_eq!(told, "-ERR max number of clients reached\r\n");
    exchange(&mut first, b"CONFIG SET maxclients 3\r\n", b"+OK\r\n");
    let mut fourth = server.connect();
    exchange(&mut fourth, b"PING\r\n", b"+PONG\r\n");
}

#[test]
fn a_pipeline_without_reading_is_slowed_down_and_answered_in_order() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--partitions", "4"]);
    let mut stream = server.connect();
    let mut writer = stream.try_clone().expect("clone");
    const COUNT: usize = 20_000;
    let sender = std::thread::spawn(move || {
        let mut batch = Vec::new();
        for n in 0..COUNT {
            batch.extend_from_slice(format!("SET k{} v{n}\r\nGET k{}\r\n", n % 7, n % 7).as_bytes());
        }
        writer.write_all(&batch).expect("all is taken in the end");
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    std::thread::sleep(Duration::from_millis(200));
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).expect("replies, then the end");
    sender.join().expect("sender");
    let mut expected = Vec::new();
    for n in 0..COUNT {
        let value = format!("v{n}");
        expected.extend_from_slice(format!("+OK\r\n${}\r\n{value}\r\n", value.len()).as_bytes());
    }
    assert!(replies == expected, "{} bytes of {}", replies.len(), expected.len());
}

#[test]
fn a_client_may_send_all_it_has_before_it_reads() {
    const VALUE_BYTES: usize = 200_000;
    const PAIRS: usize = 60;
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut stream = server.connect();
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("timeout");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let value = vec![b'x'; VALUE_BYTES];
    let mut batch = Vec::new();
    for _ in 0..PAIRS {
        batch.extend_from_slice(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE_BYTES}\r\n").as_bytes());
        batch.extend_from_slice(&value);
        batch.extend_from_slice(b"\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
    stream.write_all(&batch).expect("all is taken before a reply is read");
    let mut reply = format!("+OK\r\n${VALUE_BYTES}\r\n").into_bytes();
    reply.extend_from_slice(&value);
    reply.extend_from_slice(b"\r\n");
    let mut replies = vec![0; reply.len() * PAIRS];
    stream.read_exact(&mut replies).expect("every reply");
    assert!(replies.chunks(reply.len()).all(|chunk| chunk == reply), "replies are those of the requests");
}

#[test]
fn a_client_whose_requests_use_up_its_share_of_work_is_read_on() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let value = |bytes: usize| [format!("${bytes}\r\n").as_bytes(), &vec![b'x'; bytes], b"\r\n"].concat();
    let quarter = value(256 << 10);
    let mut setter = server.connect();
    exchange(&mut setter, &[b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n".as_slice(), &quarter].concat(), b"+OK\r\n");
    let inputs = [
        (b"GET k\r\n".repeat(16), quarter.repeat(16).len()),
        (b"PING\r\n".repeat(8192), 8192 * "+PONG\r\n".len()),
        (b"CLIENT ID\r\n".repeat(32), 0),
    ];
    for (requests, reply_bytes) in &inputs {
        for turn in 0..3 {
            let mut stream = server.connect();
            let mut writer = stream.try_clone().expect("clone");
            std::thread::scope(|scope| {
                scope.spawn(move || writer.write_all(requests).expect("all is taken"));
                read_replies(&mut stream, *reply_bytes, 32);
            });
            exchange(&mut stream, b"PING\r\n", b"+PONG\r\n");
            stream.write_all(requests).expect("written");
            read_replies(&mut stream, *reply_bytes, 32);
            stream.shutdown(Shutdown::Write).expect("half-close");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).expect("the end is seen");
            assert_eq!(rest, b"", "turn {turn}");
        }
    }
}

/// Reads replies of so many bytes, or of so many lines where their length is not known.
fn read_replies(stream: &mut TcpStream, bytes: usize, lines: usize) {
    let mut left = lines;
    let mut reply = vec![0; if bytes > 0 { bytes } else { 1 }];
    while left > 0 {
        stream.read_exact(&mut reply).expect("every reply");
        left = if bytes > 0 { 0 } else { left - usize::from(reply == b"\n") };
    }
}

#[test]
fn shares_of_work_that_many_use_up_at_once_leave_none_of_them_waiting() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let clients: Vec<_> = (0..40).map(|_| server.connect()).collect();
    std::thread::scope(|scope| {
        for mut stream in clients {
            scope.spawn(move || {
                // Those of one client have less to do than those of another, which are unfinished meanwhile.
                for count in [8192, 256, 10_000, 512, 4096, 512, 256, 2048, 1024, 256, 10_240] {
                    stream.write_all(&b"PING\r\n".repeat(count)).expect("written");
                    read_replies(&mut stream, count * "+PONG\r\n".len(), 1);
                }
                stream.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(stream.read(&mut [0]).expect("the end is seen"), 0);
            });
        }
    });
}

#[test]
fn no_connection_is_forgotten_when_the_rings_between_cores_run_full() {
    // Together more than a ring between two cores holds, whichever of them the connections are on.
    const CONNECTIONS: usize = 48;
    const ROUNDS: usize = 10;
    const PIPELINE: usize = 900;
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let threads = clients.into_iter().map(|mut stream| {
        std::thread::spawn(move || {
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
            for _ in 0..ROUNDS {
                stream.write_all(&b"SET k v\r\n".repeat(PIPELINE)).expect("written");
                let mut replies = vec![0; PIPELINE * 5];
                stream.read_exact(&mut replies).expect("every request of a connection is answered");
                assert!(replies == b"+OK\r\n".repeat(PIPELINE));
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
}

#[test]
fn a_client_that_never_reads_does_not_harm_others() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    client.set::<_, _, ()>("big", vec![b'x'; 512 << 10]).expect("set");
    let deaf = server.connect();
    deaf.set_nonblocking(true).expect("non-blocking");
    for _ in 0..10_000 {
        if (&deaf).write(b"GET big\r\n").is_err() {
            break;
        }
    }
    for n in 0..200 {
        client.set::<_, _, ()>("other", n).expect("it goes on");
        assert_eq!(client.get::<_, u32>("other").expect("it goes on"), n);
    }
    let memory = resident_bytes(server.pid());
    assert!(memory < 400 << 20, "{memory} bytes resident");
}

#[test]
fn half_a_request_is_not_waited_for_for_ever() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--timeout-partial-ms", "300"]);
    let mut stream = server.connect();
    exchange(&mut stream, b"PING\r\n*2\r\n$3\r\nGE", b"+PONG\r\n");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn a_transaction_that_waits_for_its_turn_is_not_overtaken() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut stream = server.connect();
    for bytes in (1 << 20) - 36..(1 << 20) - 16 {
        exchange(&mut stream, b"DEL k\r\n", if bytes == (1 << 20) - 36 { b":0\r\n" } else { b":1\r\n" });
        let set = format!("MULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${bytes}\r\n");
        let requests = [set.as_bytes(), &vec![b'x'; bytes], b"\r\nEXEC\r\nSTRLEN k\r\n"].concat();
        exchange(&mut stream, &requests, format!("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n:{bytes}\r\n").as_bytes());
    }
}

#[test]
fn nothing_overtakes_a_copy_that_waits_for_its_turn() {
    const BYTES: usize = 3_000_000;
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    exchange(&mut server.connect(), format!("SETRANGE big {} x\r\n", BYTES - 1).as_bytes(), b":3000000\r\n");
    std::thread::scope(|scope| {
        for client in 0..6 {
            let mut stream = server.connect();
            scope.spawn(move || {
                let own = format!("own:{client}");
                let requests = format!(
                    "COPY big {own} REPLACE\r\nAPPEND {own} y\r\nSTRLEN {own}\r\nRENAME {own} {own}:b\r\n\
                     EXISTS {own}\r\nCOPY {own}:b {own}\r\nSETRANGE {own} 0 z\r\nGETRANGE {own} 0 0\r\n\
                     STRLEN {own}\r\nSET {own} w\r\nGET {own}\r\nDEL {own} {own}:b\r\n"
                );
                let len = BYTES + 1;
                let replies = format!(
                    ":1\r\n:{len}\r\n:{len}\r\n+OK\r\n:0\r\n:1\r\n:{len}\r\n$1\r\nz\r\n:{len}\r\n+OK\r\n\
                     $1\r\nw\r\n:2\r\n"
                );
                for _ in 0..3 {
                    exchange(&mut stream, requests.as_bytes(), replies.as_bytes());
                }
            });
        }
    });
}

#[test]
fn idle_connections_close_where_configured() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--timeout-idle-s", "1"]);
    let mut stream = server.connect();
    exchange(&mut stream, b"PING\r\n", b"+PONG\r\n");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn a_time_limit_may_be_set_beyond_all_bounds() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    // Redis's own name has Redis's own range.
    let longest =
        [("timeout", i32::MAX as u64), ("timeout.partial_ms", u64::MAX), ("output.soft_ms", u64::MAX)];
    for (name, longest) in longest {
        let set: String =
            redis::cmd("CONFIG").arg("SET").arg(name).arg(longest).query(&mut client).expect("a number");
        assert_eq!(set, "OK");
    }
    let mut stream = server.connect();
    stream.write_all(b"*2\r\n$3\r\nGET\r\n$4\r\nha").expect("sent");
    // Connections are looked at once a second.
    std::thread::sleep(Duration::from_millis(1_500));
    stream.write_all(b"lf\r\n").expect("sent");
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).expect("nobody was closed, and the server is there");
    assert_eq!(&reply, b"$-1\r\n");
}

fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("it runs");
    statm.split(' ').nth(1).expect("resident").parse::<u64>().expect("pages") * 4096
}

#[test]
fn figures_may_be_asked_for_in_one_breath_with_a_write() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--cores", &cpus()[0].to_string()]);
    let mut stream = server.connect();
    for _ in 0..20 {
        // Both in one read: the figures are brought up to date, then the write's turn outdates them.
        stream.write_all(b"INFO server\r\nSET k v\r\n").expect("sent");
        let mut told = Vec::new();
        let mut buffer = [0; 4096];
        while !told.ends_with(b"\r\n+OK\r\n") {
            let count = stream.read(&mut buffer).expect("a reply");
            assert!(count > 0, "the server is gone");
            told.extend(buffer.iter().take(count));
        }
        assert!(String::from_utf8_lossy(&told).contains("process_id"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_clients_hold_is_bounded_over_all_connections() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--memory-clients-bytes", "8MiB", "--cores", "0"]);
    let mut other = server.connect();
    exchange(&mut other, b"SETRANGE big 999999 x\r\n", b":1000000\r\n");
    // None of them alone holds too much: reads behind writes are answered whether or not their replies are read.
    let mut silent: Vec<_> = (0..24).map(|_| server.connect()).collect();
    // A value that is written while others are sent it counts beside theirs: each holds bytes of its own.
    for stream in &mut silent {
        stream.write_all(&b"SETRANGE big 0 x\r\nGET big\r\n".repeat(7)).expect("sent");
    }
    let begun = std::time::Instant::now();
    while !server.log().contains("it holds the most") {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Who reads is served; whoever was closed finds the end, the others all their replies.
    exchange(&mut other, b"PING\r\n", b"+PONG\r\n");
    let whole = 7 * (":1000000\r\n".len() + "$1000000\r\n\r\n".len() + 1_000_000);
    let got = silent.iter_mut().map(|stream| {
        let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
        while total < whole {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => total += count,
            }
        }
        total
    });
    let whole_ones = got.filter(|total| *total == whole).count();
    assert!((1..24).contains(&whole_ones), "{whole_ones} of 24 got everything");
}

#[test]
fn idle_connections_take_no_descriptor_from_log_and_state() {
    const LIMIT: usize = 400;
    let dir = data_dir();
    let server = Server::start_limited(dir.path(), LIMIT, &["--cores", &cpus()[0].to_string()]);
    assert!(server.log().contains("max_clients is lowered from 10000 to"), "{}", server.log());
    let mut client = server.client();
    let most: Vec<String> =
        redis::cmd("CONFIG").arg(&["GET", "maxclients"]).query(&mut client).expect("a number");
    let most: usize = most[1].parse().expect("a number");
    assert!((50..LIMIT).contains(&most), "{most}");
    let higher = redis::cmd("CONFIG").arg(&["SET", "maxclients", "9999"]).query::<()>(&mut client);
    assert!(higher.expect_err("there are no descriptors").to_string().contains(&format!("try with {most}")));
    // More than memory holds, so that tables are made and read; then all connections that there may be.
    let value = vec![b'x'; 100_000];
    for round in 0..12 {
        let mut pipe = redis::pipe();
        (0..100).for_each(|key| {
            pipe.set(format!("{round}:{key}"), &value).ignore();
        });
        pipe.exec(&mut client).expect("written");
    }
    let mut idle: Vec<_> = (0..LIMIT + 100).map(|_| server.connect()).collect();
    let mut told = 0;
    for stream in &mut idle[LIMIT..] {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer and the end");
        told += usize::from(text == "-ERR max number of clients reached\r\n");
    }
    assert_eq!(told, 100, "whoever is too many is told");
    for round in 0..12 {
        for key in [0, 50, 99] {
            let got: Vec<u8> = client.get(format!("{round}:{key}")).expect("read from its table");
            assert!(got == value);
        }
    }
}

#[test]
fn unfinished_requests_and_transactions_of_many_are_bounded_together() {
    const HALF_BYTES: usize = 900_000;
    let dir = data_dir();
    let server = Server::start(dir.path(), &["--memory-clients-bytes", "8MiB"]);
    // A server that has not served yet would be measured without what every load brings.
    let mut client = server.client();
    client.set::<_, _, ()>("a", "1").expect("set");
    let before = resident_bytes(server.pid());
    let half = [
        format!("*2\r\n$4\r\nECHO\r\n${}\r\n", 2 * (HALF_BYTES / 2)).into_bytes(),
        vec![b'x'; HALF_BYTES - 9],
    ]
    .concat();
    let queued = [
        b"MULTI\r\n".as_slice(),
        format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${HALF_BYTES}\r\n").as_bytes(),
        &vec![b'x'; HALF_BYTES],
        b"\r\n",
    ]
    .concat();
    let mut streams = Vec::new();
    for n in 0..100 {
        let mut stream = server.connect();
        // Whoever is closed meanwhile cannot write.
        let _ = stream.write_all(if n % 2 == 0 { &half } else { &queued });
        streams.push(stream);
        assert_eq!(client.get::<_, String>("a").expect("it goes on"), "1");
    }
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more for 90 MB that clients sent");
    // What a stream took may still lie in its socket: it is read and counted in its turn.
    let began = Instant::now();
    loop {
        let info: redis::InfoDict = redis::cmd("INFO").arg("stats").query(&mut client).expect("info");
        let evicted = info.get::<u64>("evicted_clients").expect("counted");
        if evicted > 80 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{evicted} clients were closed");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(server.log().contains("it holds the most"), "{}", server.log());
}

#[test]
fn too_long_a_value_is_refused_with_the_limit_and_the_connection_goes_on() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut stream = server.connect();
    let mut client = server.client();
    redis::cmd("CONFIG").arg(&["SET", "max_bulk_bytes", "0"]).query::<()>(&mut client).expect("the most");
    let most: Vec<String> =
        redis::cmd("CONFIG").arg(&["GET", "proto-max-bulk-len"]).query(&mut client).expect("a number");
    let most: usize = most[1].parse().expect("a number");
    let set = |bytes: usize| {
        let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${bytes}\r\n").into_bytes();
        [head, vec![b'x'; bytes], b"\r\n".to_vec()].concat()
    };
    exchange(&mut stream, &set(most), b"+OK\r\n");
    let over = most + 1;
    let refusal = format!(
        "-ERR an argument of {over} bytes exceeds the limit of {most} (max_bulk_bytes, proto-max-bulk-len); nothing was done\r\n"
    );
    exchange(&mut stream, &set(over), refusal.as_bytes());
    exchange(&mut stream, b"STRLEN k\r\n", format!(":{most}\r\n").as_bytes());
    let set_higher =
        redis::cmd("CONFIG").arg(&["SET", "proto-max-bulk-len", &over.to_string()]).query::<()>(&mut client);
    assert!(set_higher.expect_err("an entry does not take it").to_string().contains(&most.to_string()));
    let key = "k".repeat(60_001);
    exchange(
        &mut stream,
        format!("SET {key} v\r\n").as_bytes(),
        b"-ERR key exceeds maximum allowed size (60000 bytes); nothing was done\r\n",
    );
}
