//! Start-up lines, a clean stop, a hurried one, and an idle server.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use redis::Commands;

use crate::server::{Server, data_dir, exchange, free_port};

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
        "8 shards, 1 partition, data format",
        "one partition",
        "cores: CPUs",
        "wal.sync auto",
        "state memory 64 MiB",
        "only clients on this machine",
    ] {
        assert!(log.contains(needle), "{needle} in\n{log}");
    }
    for word in ["by_footer", "scanned", "FUA", "8 shards in use", "took_ms"] {
        assert!(!log.contains(word), "{word} is a word of ours in\n{log}");
    }
}

/// What a service manager was told next.
fn told(manager: &UnixDatagram) -> String {
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut bytes = [0; 256];
    let count = manager.recv(&mut bytes).expect("it is told");
    String::from_utf8_lossy(bytes.get(..count).expect("within the buffer")).into_owned()
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    let dir = data_dir();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("bound");
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let server = Server::start_under(&["env", &variable], &dir.path().join("data"), &[]);
    assert_eq!(told(&manager), "READY=1");
    server.stop();
    assert_eq!(told(&manager), "STOPPING=1");
}

#[test]
fn a_terminal_that_hangs_up_does_not_end_it() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    server.signal("-HUP");
    let begun = Instant::now();
    while !server.log().contains("SIGHUP changes nothing") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", server.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    exchange(&mut server.connect(), b"PING\r\n", b"+PONG\r\n");
    server.stop();
}

#[test]
fn clients_of_the_machine_may_come_by_a_unix_socket() {
    let dir = data_dir();
    let (folder, path) = (dir.path().join("data"), dir.path().join("socket"));
    let flags =
        ["--unix-socket", path.to_str().expect("text"), "--unix-socket-mode", "640", "--partitions", "4"];
    let server = Server::start(&folder, &flags);
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o640);
    let mut stream = UnixStream::connect(&path).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    let mut ask = |request: &[u8], wanted: &str| {
        stream.write_all(request).expect("sent");
        let mut got = String::new();
        while !got.contains(wanted) {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).expect("a reply");
            assert!(count > 0, "{got}");
            got.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        got
    };
    ask(b"MSET {a}1 x {a}2 y\r\nGET {a}1\r\n", "+OK\r\n$1\r\nx\r\n");
    let listed = ask(b"CLIENT LIST\r\n", "lib-ver");
    let shown = format!("addr={0}:0 laddr={0}:0 ", path.display());
    assert!(listed.contains(&shown) && listed.contains("flags=U"), "{listed}");
    // A second server is told, and leaves the socket of the first alone.
    let mut second = Server::spawn(&dir.path().join("other"), free_port(), &flags);
    assert_eq!(second.wait().code(), Some(78), "{}", second.log());
    assert!(second.log().contains("remove what is there if nobody uses it"), "{}", second.log());
    assert!(second.log().contains("--unix-socket"), "{}", second.log());
    // What is in the way of another path is another thing.
    let missing = dir.path().join("missing/socket");
    let mut third = Server::spawn(
        &dir.path().join("third"),
        free_port(),
        &["--unix-socket", missing.to_str().expect("text")],
    );
    assert_eq!(third.wait().code(), Some(78));
    assert!(third.log().contains("make the folder that it lies in"), "{}", third.log());
    ask(b"PING\r\n", "+PONG\r\n");
    server.kill_9();
    assert!(path.exists(), "what a killed server leaves behind");
    let server = Server::start(&folder, &flags);
    UnixStream::connect(&path).expect("the dead socket was replaced");
    server.stop();
    assert!(!path.exists(), "a clean stop removes it");
    // What is no socket is nobody's to remove.
    fs::write(&path, "precious").expect("written");
    let mut server = Server::spawn(&folder, free_port(), &flags);
    assert_eq!(server.wait().code(), Some(78), "{}", server.log());
    assert_eq!(fs::read(&path).expect("left alone"), b"precious");
}

#[test]
fn the_password_on_the_command_line_is_warned_of_and_one_in_a_file_is_not() {
    let dir = data_dir();
    let folder = dir.path().join("data");
    let server = Server::start(&folder, &["--requirepass", " "]);
    assert!(server.log().contains("--requirepass-file"), "{}", server.log());
    exchange(
        &mut server.connect(),
        b"GET a\r\nAUTH \" \"\r\nGET a\r\n",
        b"-NOAUTH Authentication required.\r\n+OK\r\n$-1\r\n",
    );
    server.stop();
    let file = dir.path().join("password");
    fs::write(&file, "a b\n").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
    let server = Server::start(&folder, &["--requirepass-file", file.to_str().expect("text")]);
    assert!(!server.log().contains("WARN"), "{}", server.log());
    exchange(&mut server.connect(), b"AUTH \"a b\"\r\nPING\r\n", b"+OK\r\n+PONG\r\n");
    server.stop();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("changed");
    let server = Server::start(&folder, &["--requirepass-file", file.to_str().expect("text")]);
    assert!(server.log().contains("chmod 600"), "{}", server.log());
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
