//! corduroy-sim as a process: how a run ends, and what it prints of panics.

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

#[test]
fn a_run_ends_with_a_verdict_in_words() {
    let last = |ended: &Output| text(&ended.stdout).trim_end().rsplit("VERDICT: ").next().unwrap().to_owned();
    let good = corduroy_sim(&["run", "--seeds", "0..40", "--twice-every", "0"], Stdio::piped());
    assert_eq!(last(&good), "good: nothing that was acknowledged was lost, nothing broke");
    assert_eq!(good.status.code(), Some(0));
    let planted = ["run", "--seeds", "0..20", "--planted", "wal:AckBeforeDurable"];
    let broken = corduroy_sim(&planted, Stdio::piped());
    assert!(last(&broken).starts_with("the planted bug wal:AckBeforeDurable was found"), "{}", last(&broken));
    assert_eq!(broken.status.code(), Some(1));
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
