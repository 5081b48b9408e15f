//! corduroy-sim as a process: what it prints of panics.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::fs::File;
use std::process::{Command, Output, Stdio};

fn corduroy_sim(args: &[&str], stdout: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corduroy-sim"));
    command.args(args).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A panic of the program itself: what it prints cannot be written.
#[test]
fn a_panic_outside_a_play_is_printed() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = corduroy_sim(&["planted"], full.into());
    assert!(!ended.status.success());
    assert!(text(&ended.stderr).contains("failed printing to stdout"), "{:?}", text(&ended.stderr));
}

#[test]
fn a_panic_in_a_play_is_in_the_report_alone() {
    let args = ["run", "--machine", "plain", "--seeds", "0..60", "--twice-every", "0", "--planted"];
    let planted = "wal:LostRunAtRoll";
    let ended = corduroy_sim(&[&args[..], &[planted]].concat(), Stdio::piped());
    assert!(text(&ended.stdout).contains("nothing panics"), "{}", text(&ended.stdout));
    assert!(!text(&ended.stderr).contains("panicked"), "{}", text(&ended.stderr));
}
