//! Random lives and deaths of a WAL, compared with a model: what was acknowledged is there, nothing else is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod support;

use corduroy_wal::planted::{self, Planted};
use support::model::World;

fn lives(seed: u64, lives: u64) -> Result<World, String> {
    let mut world = World::new(seed);
    for life in 0..lives {
        world.live(20 + (seed * 31 + life * 57) % 300).map_err(|why| format!("life {life}: {why}"))?;
    }
    Ok(world)
}

/// The seeds to run: `CORDUROY_WAL_SEEDS=from..to` runs others.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("CORDUROY_WAL_SEEDS").ok();
    let parsed = given
        .as_deref()
        .and_then(|range| range.split_once(".."))
        .map(|(from, to)| from.parse().expect("a number before ..")..to.parse().expect("a number after .."));
    parsed.unwrap_or(0..700)
}

#[test]
fn every_life_starts_with_what_was_acknowledged() {
    let (mut reopened, mut torn, mut footers, mut copied, mut given_back) = (0, 0, 0, 0, 0);
    for seed in seeds() {
        let world = lives(seed, 8).unwrap_or_else(|why| panic!("seed {seed}, {why}"));
        reopened += world.reopened;
        torn += world.torn;
        footers += world.footers;
        copied += world.copied;
        given_back += world.given_back;
    }
    assert!(
        reopened > 5000 && torn > 500 && footers > 5000 && copied > 10_000 && given_back > 50,
        "{reopened} {torn} {footers} {copied} {given_back}"
    );
}

#[test]
fn seeds_that_once_failed_pass() {
    for seed in [95, 525, 1434] {
        lives(seed, 8).unwrap_or_else(|why| panic!("seed {seed}, {why}"));
    }
}

#[test]
fn planted_bugs_are_found() {
    // Cutting damage off needs damage to show: see `damage.rs`. What a hard state says of the entries that it came with, only
    // the owner knows: `tests/sim` finds that.
    let elsewhere = [Planted::CutAboveWatermark, Planted::HardStateApart];
    for bug in Planted::ALL.into_iter().filter(|bug| !elsewhere.contains(bug)) {
        planted::plant(Some(bug));
        let found =
            (0..2000).find(|seed| std::panic::catch_unwind(|| lives(*seed, 8).is_err()).unwrap_or(true));
        planted::plant(None);
        assert!(found.is_some(), "{bug:?} was not found");
    }
}
