//! Hosts that refuse what others allow: filtered system calls, little memory to lock, hidden file systems, a folder that is
//! gone. The server serves, or says what to do and ends with an exit code of its own; it never panics.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use redis::Commands;

use crate::server::{Server, corduroy_under, data_dir, free_port, text};

/// A program that has the kernel refuse these calls, and becomes what follows. `None`, with a word of why, without Python.
fn refusing(calls: &[&str]) -> Option<Vec<String>> {
    if std::env::var_os("CORDUROY_SKIP_CLIENTS").is_some() {
        eprintln!("SKIPPED: the filter is installed by python3");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/refuse.py");
    let words = ["python3".to_owned(), text(&script)].into_iter();
    Some(words.chain(calls.iter().map(|call| (*call).to_owned())).chain(["--".to_owned()]).collect())
}

fn words(launcher: &[String]) -> Vec<&str> {
    launcher.iter().map(String::as_str).collect()
}

/// A shell that does this and becomes what follows.
fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", &format!("{script}\nexec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

/// A shell with mounts of its own; `None` where only root may have them.
fn with_mounts(script: &str) -> Option<Vec<String>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounts of one's own need root");
        return None;
    }
    let mut words = ["unshare", "--mount", "--propagation", "private"].map(str::to_owned).to_vec();
    words.extend(shell(script));
    Some(words)
}

/// Serves there, and what it acknowledged is there after a kill, on a host without refusals.
fn serves(launcher: &[String], more: &[&str]) -> String {
    let dir = data_dir();
    let server = Server::start_under(&words(launcher), dir.path(), more);
    let mut client = server.client();
    for n in 0..200 {
        client.set::<_, _, ()>(format!("key:{n}"), n).expect("written");
    }
    let info: redis::InfoDict = redis::cmd("INFO").query(&mut client).expect("INFO");
    let uring: String = info.get("io_uring").expect("a field");
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    server.kill_9();
    let again = Server::start(dir.path(), more);
    let mut client = again.client();
    for n in 0..200 {
        assert_eq!(client.get::<_, i32>(format!("key:{n}")).expect("acknowledged"), n);
    }
    format!("{log}\nINFO io_uring:{uring}\n")
}

#[test]
fn without_io_uring_the_whole_server_runs_and_says_so() {
    for refused in
        ["io_uring_setup=EPERM", "io_uring_setup=ENOSYS", "io_uring_register=EPERM", "io_uring_enter=EPERM"]
    {
        let Some(launcher) = refusing(&[refused]) else { return };
        let said = serves(&launcher, &["--partitions", "4"]);
        assert_eq!(said.matches("io_uring refused").count(), 1, "{refused}: in one line\n{said}");
        assert!(said.contains("INFO io_uring:refused: "), "{refused}:\n{said}");
    }
}

#[test]
fn without_pinned_threads_it_serves_and_says_so() {
    for refused in ["sched_setaffinity=EPERM", "sched_getaffinity=EPERM"] {
        let Some(launcher) = refusing(&[refused]) else { return };
        let said = serves(&launcher, &[]);
        assert!(said.contains("WARN"), "{refused}:\n{said}");
        assert!(said.contains("INFO io_uring:used"), "{refused}:\n{said}");
    }
    let Some(launcher) =
        refusing(&["sched_setaffinity=EPERM", "sched_getaffinity=ENOSYS", "io_uring_setup=EPERM"])
    else {
        return;
    };
    serves(&launcher, &[]);
}

#[test]
fn little_memory_to_lock_is_enough() {
    for bytes in ["65536", "0"] {
        let launcher = ["prlimit", &format!("--memlock={bytes}:{bytes}"), "--"].map(str::to_owned);
        serves(&launcher, &[]);
    }
}

#[test]
fn hidden_proc_and_sys_are_done_without() {
    let hide = "mount -t tmpfs none /sys; mount -t tmpfs none /proc";
    let Some(launcher) = with_mounts(hide) else { return };
    serves(&launcher, &[]);
    serves(&shell("unset HOME PATH USER"), &[]);
}

#[test]
fn a_current_folder_that_is_gone_matters_only_to_a_relative_path() {
    let dir = data_dir();
    let gone = dir.path().join("gone");
    let launcher = shell(&format!("mkdir {0}; cd {0}; rmdir {0}", text(&gone)));
    serves(&launcher, &[]);
    let mut server = Server::spawn_under(&words(&launcher), Path::new("relative"), free_port(), &[]);
    assert_eq!(server.wait().code(), Some(78), "{}", server.log());
    for needle in ["relative", "--data-dir", "absolute"] {
        assert!(server.log().contains(needle), "{needle} in {}", server.log());
    }
}

#[test]
fn a_data_folder_that_cannot_be_written_is_refused_with_the_remedy() {
    let dir = data_dir();
    let folder = text(dir.path());
    let Some(launcher) =
        with_mounts(&format!("mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}"))
    else {
        return;
    };
    let mut server = Server::spawn_under(&words(&launcher), dir.path(), free_port(), &[]);
    assert_eq!(server.wait().code(), Some(78), "{}", server.log());
    assert!(server.log().contains("must be writable"), "{}", server.log());
    assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 0, "it is left alone");
}

#[test]
fn closed_standard_streams_do_not_matter() {
    let (dir, port) = (data_dir(), free_port());
    let listen = format!("127.0.0.1:{port}");
    let folder = text(dir.path());
    let launcher = shell("exec <&- >&- 2>&-");
    let args = ["serve", "--data-dir", &folder, "--listen", &listen, "--wal-segment-bytes", "4MiB"];
    let mut child = corduroy_under(&words(&launcher), &args).spawn().expect("it starts");
    let begun = Instant::now();
    let client = redis::Client::open(format!("redis://{listen}/")).expect("an address");
    let set = loop {
        if let Ok(mut client) = client.get_connection() {
            break client.set::<_, _, ()>("key", 1);
        }
        assert!(child.try_wait().expect("a child").is_none() && begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    };
    child.kill().expect("killed");
    child.wait().expect("its end");
    set.expect("served");
}

#[test]
fn words_that_nobody_takes_are_no_panic() {
    for args in
        [&["version", "--build-info"][..], &["check-config"], &["check-config", "--shards", "0"], &["--help"]]
    {
        let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("a device"));
        let status = corduroy_under(&[], args).stdout(full()).stderr(full()).status().expect("it runs");
        assert!(status.code().is_some(), "{args:?}: {status}");
    }
}
