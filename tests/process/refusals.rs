//! What a server must not start on, and what it says then.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;

use crate::server::{Server, corduroy, cpus, data_dir, free_port, run, text};

#[test]
fn a_second_process_on_the_same_folder_is_refused_by_name() {
    let dir = data_dir();
    let first = Server::start(dir.path(), &[]);
    let mut second = Server::spawn(dir.path(), free_port(), &[]);
    assert_eq!(second.wait().code(), Some(78));
    let pid = first.pid().to_string();
    assert!(second.log().contains(&pid), "the holder {pid} is named:\n{}", second.log());
}

#[test]
fn a_port_in_use_is_refused_before_the_folder_is_touched() {
    let (one, other) = (data_dir(), data_dir());
    let first = Server::start(one.path(), &[]);
    let mut second = Server::spawn(&other.path().join("new"), first.port, &[]);
    assert_eq!(second.wait().code(), Some(78));
    assert!(second.log().contains("cannot listen on"), "{}", second.log());
    assert_eq!(fs::read_dir(other.path()).expect("a folder").count(), 0, "nothing was made");
}

#[test]
fn start_errors_have_one_format_text_unless_json_is_asked_for() {
    let dir = data_dir();
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("written");
    let path = text(&file);
    let bad_folder = ["serve", "--data-dir", &path, "--listen", "127.0.0.1:0"];
    let bad_setting = ["serve", "--shards", "x"];
    for args in [&bad_folder[..], &bad_setting[..], &["format", "--data-dir", &path]] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, Some(78), "{stderr}");
        let line = stderr.lines().find(|line| line.starts_with("corduroy: ")).unwrap_or_default();
        assert!(line.contains("cannot") || line.contains("the configuration has 1 problem:"), "{stderr}");
        assert!(!stderr.contains('{'), "{stderr}");
        let (code, _, stderr) = run(&[args, &["--log-format", "json"]].concat());
        assert_eq!(code, Some(78), "{stderr}");
        assert!(stderr.contains("\"level\":\"ERROR\""), "{stderr}");
        assert!(stderr.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{stderr}");
    }
}

#[test]
fn what_people_type_who_come_from_redis_works_or_is_explained() {
    let (code, stdout, _) = run(&["check-config", "--port", "7000"]);
    assert_eq!((code, stdout.contains("listen = \"127.0.0.1:7000\"")), (Some(0), true), "{stdout}");
    let dir = data_dir();
    let file = dir.path().join("redis.conf");
    fs::write(&file, "port 6380\nbind 127.0.0.1\nmaxclients 50\nappendonly yes\n").expect("written");
    for args in [&["serve", "--config", &text(&file)][..], &["serve", &text(&file)]] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, Some(78), "{stderr}");
        for needle in [
            "configuration of Redis",
            "listen = \"127.0.0.1:6380\"",
            "max_clients = 50",
            "appendonly: leave it out",
        ] {
            assert!(stderr.contains(needle), "{needle} in {stderr}");
        }
    }
    let (code, _, stderr) = run(&["check-config", "--memory-bytes", "4096tb"]);
    assert_eq!((code, stderr.contains("more than the")), (Some(78), true), "{stderr}");
}

#[test]
fn a_port_of_one_core_in_use_is_refused() {
    let dir = data_dir();
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = holder.local_addr().expect("its number").port().to_string();
    let cpu = cpus()[0].to_string();
    let mut server = Server::spawn(dir.path(), free_port(), &["--cores", &cpu, "--core-ports", &port]);
    assert_eq!(server.wait().code(), Some(78));
    assert!(server.log().contains("cannot listen on"), "{}", server.log());
}

#[test]
fn an_environment_that_is_no_text_is_told_where_it_matters_and_ignored_elsewhere() {
    let no_text = OsString::from_vec(vec![b'x', 0xff]);
    let run = |name: &str| corduroy(&["check-config"]).env(name, &no_text).output().expect("it runs");
    assert_eq!(run("SOMEBODY_ELSES").status.code(), Some(0));
    let output = run("CORDUROY_DATA_DIR");
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CORDUROY_DATA_DIR: the value is not UTF-8"));
}

#[test]
fn the_file_that_the_readme_shows_is_one() {
    let readme = include_str!("../../README.md");
    let shown = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a file");
    let dir = data_dir();
    let file = dir.path().join("corduroy.toml");
    fs::write(&file, shown).expect("written");
    let (code, stdout, stderr) = run(&["check-config", "--config", &text(&file)]);
    assert_eq!(code, Some(0), "{stderr}");
    let named = shown.lines().filter(|line| line.contains(" = ")).count();
    let from_file = stdout.matches(&format!("(from {})", text(&file))).count();
    assert!(named > 5 && from_file == named, "{stdout}");
}

#[test]
fn too_few_open_files_are_refused_before_anything_is_opened() {
    let cpu = cpus()[0].to_string();
    for files in [20, 60] {
        let dir = data_dir();
        let folder = dir.path().join("new");
        let launcher = ["sh", "-c", "ulimit -n $0 && exec \"$@\"", &files.to_string()];
        let mut server = Server::spawn_under(&launcher, &folder, free_port(), &["--cores", &cpu]);
        assert_eq!(server.wait().code(), Some(71), "{}", server.log());
        let log = server.log();
        assert!(log.contains(&format!("may have {files} files open")) && log.contains("ulimit -n"), "{log}");
        assert!(!folder.exists(), "nothing was made");
    }
}

#[test]
fn a_bad_configuration_lists_all_its_problems() {
    let dir = data_dir();
    let file = dir.path().join("bad.toml");
    fs::write(&file, "shard = 3\npartitions = 0\n[wal]\nsync = \"never\"\n").expect("write");
    for command in ["serve", "check-config", "format"] {
        let (code, _, stderr) = run(&[command, "--config", &text(&file), "--cores", "3-1"]);
        assert_eq!(code, Some(78), "{command}");
        for needle in [
            "the configuration has 4 problems:",
            "shard: no such setting; did you mean `shards`?",
            "partitions: 0",
            "wal.sync: `never`",
            "cores: the range",
        ] {
            assert!(stderr.contains(needle), "{command}: {needle} in\n{stderr}");
        }
    }
}

#[test]
fn a_good_configuration_is_shown_with_its_sources() {
    let (code, stdout, _) = run(&["check-config", "--partitions", "4"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("(from --partitions)\npartitions = 4\n"), "{stdout}");
    assert!(stdout.contains("listen = \"127.0.0.1:7379\""), "{stdout}");
}

#[test]
fn a_folder_of_something_else_or_of_another_layout_is_left_alone() {
    let dir = data_dir();
    fs::write(dir.path().join("thesis.tex"), "x").expect("write");
    let mut server = Server::spawn(dir.path(), free_port(), &[]);
    assert_eq!(server.wait().code(), Some(78));
    assert!(server.log().contains("not a data folder"), "{}", server.log());
    fs::remove_file(dir.path().join("thesis.tex")).expect("remove");

    let folder = text(dir.path());
    let (code, stdout, _) = run(&["format", "--data-dir", &folder, "--shards", "2", "--partitions", "2"]);
    assert_eq!(code, Some(0), "{stdout}");
    let (code, _, stderr) = run(&["format", "--data-dir", &folder]);
    assert_eq!((code, stderr.contains("formatted already")), (Some(78), true), "{stderr}");
    let mut server = Server::spawn(dir.path(), free_port(), &["--shards", "3"]);
    assert_eq!(server.wait().code(), Some(78));
    assert!(server.log().contains("shards = 2"), "{}", server.log());
}

#[test]
fn a_data_folder_that_cannot_be_made_is_refused_with_the_remedy() {
    let dir = data_dir();
    let file = dir.path().join("file");
    fs::write(&file, "x").expect("write");
    for path in [file.clone(), file.join("data")] {
        let mut server = Server::spawn(&path, free_port(), &[]);
        assert_eq!(server.wait().code(), Some(78), "{}", server.log());
        for needle in [text(&path).as_str(), "cannot make the data folder", "is a file", "--data-dir"] {
            assert!(server.log().contains(needle), "{needle} in {}", server.log());
        }
    }
}

#[test]
fn cores_that_are_not_there_are_refused() {
    let dir = data_dir();
    let missing = (cpus().last().expect("a CPU") + 1000).to_string();
    let mut server = Server::spawn(dir.path(), free_port(), &["--cores", &missing]);
    assert_eq!(server.wait().code(), Some(78));
    assert!(server.log().contains(&missing), "{}", server.log());
}

#[test]
fn an_open_door_needs_a_password() {
    let (code, _, stderr) = run(&["check-config", "--listen", "0.0.0.0:7379"]);
    assert_eq!(code, Some(78));
    assert!(stderr.contains("requirepass"), "{stderr}");
    let (code, _, _) = run(&["check-config", "--listen", "0.0.0.0:7379", "--requirepass", "x"]);
    assert_eq!(code, Some(0));
}

#[test]
fn the_version_tells_about_the_build() {
    let (code, stdout, _) = run(&["version", "--build-info"]);
    assert_eq!(code, Some(0));
    for needle in ["corduroy 0.", "commit: ", "compiler: rustc ", "target: ", "allocator: ", "data format: 6"]
    {
        assert!(stdout.contains(needle), "{stdout}");
    }
}
