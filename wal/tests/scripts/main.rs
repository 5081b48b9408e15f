//! Plays of the log as text: each `.txt` file of this folder is commands with what they print, readable without the code.
//!
//! How a script is written: `script.rs`. `UPDATE=1 cargo test -p corduroy-wal --test scripts` writes down what the commands print now.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod disk;
mod play;
mod script;
#[path = "../support/mod.rs"]
mod support;
mod words;

use std::path::Path;

use corduroy_wal::planted::{self, Planted};
use play::Play;
use script::Script;

/// Plays all scripts; returns the differences of each, by its name.
fn play_all(update: bool) -> Vec<(String, Vec<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    script::play_all(&folder, update, player)
}

/// Does the commands of one script.
fn player() -> impl FnMut(&str) -> Result<Vec<String>, String> {
    let mut play = Play::new();
    move |command| play.run(command)
}

#[test]
fn every_script_prints_what_it_says() {
    let update = std::env::var_os("UPDATE").is_some_and(|wanted| wanted == "1");
    let all = play_all(update);
    assert!(all.len() >= 12, "{} scripts", all.len());
    let differ = all.into_iter().filter(|(_, differences)| !differences.is_empty());
    let differ: Vec<_> = differ.map(|(name, found)| format!("{name}, {}", found.join("\n"))).collect();
    assert!(update || differ.is_empty(), "{}\nUPDATE=1 writes it down", differ.join("\n\n"));
}

#[test]
fn scripts_find_planted_bugs() {
    for bug in [Planted::CutAboveWatermark, Planted::SkipHardState, Planted::AckBeforeDurable] {
        planted::plant(Some(bug));
        let found = std::panic::catch_unwind(|| {
            play_all(false).iter().filter(|(_, differences)| !differences.is_empty()).count()
        });
        planted::plant(None);
        // A guard of the log itself may find it first.
        assert!(found.is_err() || found.is_ok_and(|scripts| scripts > 0), "{bug:?} changes no script");
    }
}

const SMALL: &str =
    "# Two words.\nopen\n----\nopen: an empty log\n\nlogs\n----\nthere are no logs\n\n# The end.\n";

#[test]
fn a_script_is_written_as_it_was_read() {
    let script = Script::read(SMALL).unwrap();
    assert_eq!((script.steps.len(), script.write().as_str()), (2, SMALL));
    let (now, differences) = script.play(player()).unwrap();
    assert_eq!((differences, now.write().as_str()), (Vec::new(), SMALL));
}

#[test]
fn a_script_that_says_something_else_is_found_and_mended() {
    let wrong = Script::read(&SMALL.replace("there are no logs", "log 1: entries 1")).unwrap();
    let (now, differences) = wrong.play(player()).unwrap();
    assert!(differences.len() == 1 && differences[0].starts_with("line 6: logs"), "{differences:?}");
    assert_eq!(now.write(), SMALL);
}

#[test]
fn what_no_script_can_mean_is_refused() {
    for (text, why) in [
        ("open\nlogs\n----\n", "line 1: no ---- follows"),
        ("opne\n----\n", "there is no command"),
        ("open spare=3\n----\n", "spare is not understood"),
        ("append log=1 entries=1 term=1 bytes=1\n----\n", "the log is not open"),
        ("open\n----\n\nappend log=1 entries=one term=1 bytes=1\n----\n", "entries=one is not"),
        ("open\n----\n\nappend log=1 term=1 bytes=1\n----\n", "entries= is missing"),
        ("open\n----\n\nzero segment=1 header\n----\n", "the log is open"),
        ("zero segment=1 header\n----\n", "there is no segment 1"),
    ] {
        let told =
            Script::read(text).and_then(|script| script.play(player())).map(|(_, differences)| differences);
        assert!(told.as_ref().is_err_and(|error| error.contains(why)), "{text:?}: {told:?}");
    }
}
