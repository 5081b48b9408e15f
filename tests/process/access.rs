//! Nobody but the node's user reads its files or keeps it from starting, whatever the mask and the modes were before.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use redis::Commands;

use crate::server::{Server, data_dir, free_port, text};

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
        let found = fs::metadata(path).expect("it is there");
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
        .args(["-c", "umask 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_corduroy"), "serve", "--data-dir"])
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
