//! Plays of a replica and of a shard as text: each `.txt` file of the folders `raft` and `shard` is commands with what they
//! print, readable without the code. How a script is written: `wal/tests/scripts/script.rs`.
//!
//! `UPDATE=1 cargo test -p corduroy-shards --test scripts` writes down what the commands print now.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

#[path = "../common/mod.rs"]
mod common;
mod replica;
#[path = "../../../wal/tests/scripts/script.rs"]
mod script;
mod shard;
#[path = "../../../wal/tests/scripts/words.rs"]
mod words;

use std::path::{Path, PathBuf};

use corduroy_shards::planted::{PlantedBug, plant};
use script::{Script, play_all};

/// What a command prints; an error is one of the script.
type Lines = Result<Vec<String>, String>;

/// Does the commands of one script about a replica.
fn replica() -> impl FnMut(&str) -> Lines {
    let mut play = replica::Play::new();
    move |command| play.run(command)
}

/// The same about a shard.
fn shard() -> impl FnMut(&str) -> Lines {
    let mut play = shard::Play::new();
    move |command| play.run(command)
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name)
}

fn differences(all: Vec<(String, Vec<String>)>) -> Vec<String> {
    let differ = all.into_iter().filter(|(_, differences)| !differences.is_empty());
    differ.map(|(name, found)| format!("{name}, {}", found.join("\n"))).collect()
}

#[test]
fn every_script_prints_what_it_says() {
    let update = std::env::var_os("UPDATE").is_some_and(|wanted| wanted == "1");
    let replicas = play_all(&folder("raft"), update, replica);
    let shards = play_all(&folder("shard"), update, shard);
    assert!(replicas.len() >= 6 && shards.len() >= 6, "{} and {}", replicas.len(), shards.len());
    let differ = [differences(replicas), differences(shards)].concat();
    assert!(update || differ.is_empty(), "{}\nUPDATE=1 writes it down", differ.join("\n\n"));
}

#[test]
fn scripts_find_planted_bugs() {
    for bug in [
        PlantedBug::AckBeforeDurable,
        PlantedBug::SkipHardState,
        PlantedBug::ReadOvertakesWrite,
        PlantedBug::ReadAtOnceTooEarly,
        PlantedBug::StaleReplicaIndex,
        PlantedBug::ClockStandsStill,
    ] {
        plant(Some(bug));
        let found = std::panic::catch_unwind(|| differences(play_all(&folder("shard"), false, shard)).len());
        plant(None);
        // A guard of the shard itself may find it first.
        assert!(found.is_err() || found.is_ok_and(|scripts| scripts > 0), "{bug:?} changes no script");
    }
}

#[test]
fn what_no_script_can_mean_is_refused() {
    let why = |text: &str, run: &mut dyn FnMut(&str) -> Lines| {
        Script::read(text).and_then(|script| script.play(run)).err().unwrap_or_default()
    };
    for (text, wanted) in [
        ("strat\n----\n", "there is no command"),
        ("begin\n----\n", "no replica was started"),
        ("start applied=x\n----\n", "applied=x is not a number"),
        ("start\n----\n\npropose\n----\n", "bytes= is missing"),
    ] {
        let told = why(text, &mut replica());
        assert!(told.contains(wanted), "{text:?}: {told:?}");
    }
    for (text, wanted) in [
        ("turns\n----\n", "there is no command"),
        ("turn\n----\n", "no shard is open"),
        ("open partitions=2\n----\n\nwrite partition=2 conn=1\n----\n", "no operation"),
        ("open partitions=two\n----\n", "partitions=two"),
    ] {
        let told = why(text, &mut shard());
        assert!(told.contains(wanted), "{text:?}: {told:?}");
    }
}
