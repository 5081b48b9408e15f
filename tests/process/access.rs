//! Nobody but the node's user reads its files or keeps it from starting, whatever the mask and the modes were before.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use redis::Commands;

use crate::server::{Server, binary, data_dir, exchange, free_port, text};

/// Everything in a folder, itself included.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.extend(everything(&path)) } else { all.push(path) }
    }
    all
}

/// Fails at the first file that is not 0600, or folder that is not 0700. How many files there are.
fn assert_private(folder: &Path) -> usize {
    let all = everything(folder);
    for path in &all {
        // A server that runs renames and removes files between a listing and a look.
        let Ok(found) = fs::metadata(path) else { continue };
        let wanted = if found.is_dir() { 0o700 } else { 0o600 };
        let mode = found.permissions().mode() & 0o777;
        assert_eq!(mode, wanted, "{} has mode {mode:o}", path.display());
    }
    all.iter().filter(|path| path.is_file()).count()
}

/// Writes so much that the tree makes tables.
fn fill(server: &Server) {
    let mut client = server.client();
    let value = "v".repeat(60_000);
    for key in 0..400 {
        client.set::<_, _, ()>(format!("key:{key}"), &value).expect("acknowledged");
    }
}

fn has_tables(folder: &Path) -> bool {
    everything(folder)
        .iter()
        .any(|path| path.is_file() && path.parent().is_some_and(|p| p.ends_with("tables")))
}

#[test]
fn files_are_private_under_any_mask_and_after_an_upgrade() {
    let home = data_dir();
    let folder = home.path().join("data");
    let port = free_port();
    // The mask is the shell's, which becomes the server.
    let mut child = Command::new("sh")
        .args(["-c", "umask 0; exec \"$@\"", "sh"])
        .arg(binary())
        .args(["serve", "--data-dir"])
        .args([&text(&folder), "--listen", &format!("127.0.0.1:{port}"), "--wal-segment-bytes", "4MiB"])
        .args(["--memory-bytes", "16MiB", "--log-level", "error"])
        .spawn()
        .expect("sh");
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).expect("an address");
    let mut connection = loop {
        assert!(child.try_wait().expect("a child").is_none(), "the server ended");
        match client.get_connection() {
            Ok(connection) => break connection,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    };
    connection.set::<_, _, ()>("key", "value").expect("acknowledged");
    assert!(assert_private(&folder) >= 5, "identity, locks, log and state");
    child.kill().expect("kill");
    child.wait().expect("wait");

    for path in everything(&folder) {
        let mode = if path.is_dir() { 0o777 } else { 0o666 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
    }
    let server = Server::start(&folder, &[]);
    assert_private(&folder);
    assert!(server.log().contains("could be opened by other users"), "{}", server.log());
    fill(&server);
    let begun = std::time::Instant::now();
    while !has_tables(&folder) {
        assert!(begun.elapsed().as_secs() < 60, "the tree makes tables of what memory cannot hold");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    server.stop();
    assert_private(&folder);
}

#[test]
fn a_link_in_the_locks_stead_is_refused_and_not_written_through() {
    let dir = data_dir();
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious").expect("write");
    for (place, format) in [("LOCK", false), ("shard-0000/wal/LOCK", true)] {
        let folder = dir.path().join(place.replace('/', "-"));
        fs::create_dir(&folder).expect("a folder");
        if format {
            Server::start(&folder, &[]).stop();
            fs::remove_file(folder.join(place)).expect("remove");
        }
        std::os::unix::fs::symlink(&victim, folder.join(place)).expect("link");
        let mut server = Server::spawn(&folder, free_port(), &[]);
        assert_eq!(server.wait().code(), Some(78), "{}", server.log());
        let log = server.log();
        assert!(log.contains(place) && log.contains("symbolic link") && log.contains("remove it"), "{log}");
        assert_eq!(fs::read_to_string(&victim).expect("read"), "precious");
    }
}

#[test]
fn a_machine_tries_passwords_no_faster_than_a_person_and_is_logged() {
    const ATTEMPTS: usize = 400;
    let dir = data_dir();
    let file = dir.path().join("password");
    fs::write(&file, "right\n").expect("written");
    let server = Server::start(&dir.path().join("data"), &["--requirepass-file", &text(&file)]);
    let mut good = server.connect();
    exchange(&mut good, b"AUTH right\r\n", b"+OK\r\n");
    let begun = Instant::now();
    let mut attackers: Vec<_> = (0..ATTEMPTS).map(|_| BufReader::new(server.connect())).collect();
    for attacker in &mut attackers {
        attacker.get_mut().write_all(b"AUTH wrong\r\n").expect("sent");
    }
    exchange(&mut good, b"SET key value\r\nGET key\r\n", b"+OK\r\n$5\r\nvalue\r\n");
    let (mut wrong, mut refused) = (0, 0);
    for attacker in &mut attackers {
        let mut line = String::new();
        attacker.read_line(&mut line).expect("an answer");
        match line.split(' ').next() {
            Some("-WRONGPASS") => wrong += 1,
            Some("-OVERLOADED") => refused += 1,
            _ => panic!("{line}"),
        }
    }
    // At most twenty at once, twenty a second, and one that each core had begun with.
    let permitted = 20 + 20 * (begun.elapsed().as_secs() + 1) + 2;
    assert!(wrong <= permitted && refused > 0, "{wrong} of {permitted} looked at, {refused} refused");
    let mut again = server.connect();
    exchange(&mut again, b"AUTH right\r\n", b"+OK\r\n");
    let mut client = server.client_with_password("right");
    let info: redis::InfoDict = redis::cmd("INFO").arg("stats").query(&mut client).expect("INFO");
    assert_eq!(info.get::<u64>("acl_access_denied_auth"), Some(wrong));
    let log = server.log();
    let lines = log.matches("wrong password from 127.0.0.1: ").count();
    assert!((2..=5).contains(&lines) && log.contains("127.0.0.1: 10 so far"), "{log}");
}
