//! Rot: the files of a stopped node are damaged at random, and what the node then does is judged. It gives every
//! acknowledged value, or refuses to start and names the place, or answers `-DAMAGED` (`-STOPPED`, for a partition) for what
//! it does not have. Never is anything wrong or missing without a word, and nothing panics.
//!
//! `ROT_DAMAGES` says how many (40), `ROT_SEED` with which draws, `ROT_FIRST` from which one on, so that one can be played
//! again: nodes are made anew each time, so it is the same damage to a folder of the same history, not to the same bytes.
//! `ROT_SERVER` names another binary. `ROT_SWEEP=N` flips each Nth bit (1: every) of the files of two nodes with a handful of keys, one
//! after the other, and 2,000 bits of each file of a log that is larger than 5 KB. `tests/power/rot.sh` runs it at length.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(clippy::cast_possible_truncation, reason = "bytes are drawn from larger numbers")]

mod damage;
mod home;
mod judge;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use damage::{Dice, KINDS, bits_to_flip, damage, flip};
use home::{Files, Home, Recipe, recipes, write_folder};
use judge::{End, judge};

fn number(name: &str, default: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// One of each recipe, and for each layout another node.
struct World {
    homes: Vec<Home>,
    others: Vec<Files>,
}

impl World {
    fn make(work: &Path) -> Self {
        let recipes = recipes();
        let (homes, others) = std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                let of = |at: usize| Home::make(recipes[at], &format!("other-{at}"), work).files;
                [of(1), of(5)]
            });
            let homes: Vec<Home> = recipes
                .iter()
                .enumerate()
                .map(|(at, recipe)| Home::make(*recipe, &format!("home-{at}"), work))
                .collect();
            (homes, others.join().expect("made"))
        });
        let others = (0..homes.len()).map(|at| others[at * 2 / recipes.len()].clone()).collect();
        Self { homes, others }
    }
}

/// What came of all damages.
#[derive(Default)]
struct Table {
    ends: BTreeMap<(String, &'static str), u64>,
    bad: Vec<String>,
}

impl Table {
    fn add(&mut self, row: String, end: &End, what: String) {
        *self.ends.entry((row, end.name())).or_default() += 1;
        if let Some(why) = end.fault() {
            self.bad.push(format!("{}: {what}: {why}", end.name()));
        }
    }

    fn print(&self) {
        let columns = End::NAMES;
        println!("\n{:14}{}", "", columns.map(|name| format!("{name:>10}")).concat());
        let mut rows: Vec<&String> = self.ends.keys().map(|(row, _)| row).collect();
        rows.dedup();
        let count = |row: Option<&String>, name: &str| -> u64 {
            let of = self.ends.iter().filter(|((r, n), _)| row.is_none_or(|row| r == row) && *n == name);
            of.map(|(_, count)| count).sum()
        };
        for row in rows {
            println!("{row:14}{}", columns.map(|name| format!("{:>10}", count(Some(row), name))).concat());
        }
        println!("{:14}{}", "all", columns.map(|name| format!("{:>10}", count(None, name))).concat());
        for bad in &self.bad {
            println!("BAD {bad}");
        }
    }
}

/// Keeps the damaged folder for whoever looks into it.
fn keep(files: &Files, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rot-kept").join(name);
    write_folder(files, &folder);
}

/// The damage of this number to a node of its choice.
fn play(world: &World, seed: u64, number: u64, folder: &Path, table: &Mutex<Table>) {
    let mut dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number));
    let (home, kind, what) = loop {
        let at = dice.below(world.homes.len() as u64) as usize;
        let kind = *dice.pick(&KINDS).expect("there are kinds");
        let home = &world.homes[at];
        if let Some(what) = damage(home, &world.others[at], kind, folder, &mut dice) {
            break (home, kind, what);
        }
    };
    let damaged = home::read_folder(folder);
    let end = judge(home, folder, dice.below(6) == 0);
    let what = format!("{number} ({}): {what}", home.name);
    if end.fault().is_some() {
        keep(&damaged, &number.to_string());
        println!("BAD {}: {what}", end.name());
    }
    table.lock().expect("table").add(format!("{kind:?}"), &end, what);
}

/// Does `work` for the numbers from `first` on, on two threads, each with a folder of its own.
fn on_threads(first: u64, last: u64, folder: &Path, work: impl Fn(u64, &Path) + Sync) {
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (next, work) = (&next, &work);
            let folder = folder.join(format!("work-{thread}"));
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= last {
                        break;
                    }
                    work(number, &folder);
                }
            });
        }
    });
}

#[test]
fn damaged_files_are_never_believed() {
    let (damages, seed, first) = (number("ROT_DAMAGES", 40), number("ROT_SEED", 7), number("ROT_FIRST", 0));
    println!("ROT_SEED={seed} ROT_FIRST={first} ROT_DAMAGES={damages}");
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let world = World::make(work.path());
    for home in &world.homes {
        let folder = work.path().join("sound");
        write_folder(&home.files, &folder);
        let end = judge(home, &folder, true);
        assert_eq!(end, End::Whole, "{} was not damaged", home.name);
    }
    let table = Mutex::new(Table::default());
    on_threads(first, first + damages, work.path(), |number, folder| {
        play(&world, seed, number, folder, &table);
    });
    let table = table.into_inner().expect("table");
    table.print();
    assert!(
        table.bad.is_empty(),
        "{} of {damages} damages; play one again by ROT_SEED={seed} ROT_FIRST=NUMBER ROT_DAMAGES=1",
        table.bad.len()
    );
}

#[test]
fn every_bit_of_a_node() {
    // Without being asked for: a few bits of each file.
    let step = number("ROT_SWEEP", 200_003);
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    // Stopped in order: one with all in the log, and one with a flushed state.
    let homes = [false, true].map(|is_flushed| {
        let recipe = Recipe { partitions: 1, is_killed: false, is_flushed, is_tiny: true };
        Home::make(recipe, &format!("sweep-{is_flushed}"), work.path())
    });
    let flips: Vec<(&Home, PathBuf, u64)> = homes
        .iter()
        .flat_map(|home| {
            bits_to_flip(&home.files, step).into_iter().map(move |(path, bit)| (home, path, bit))
        })
        .collect();
    let mut of_files: BTreeMap<String, u64> = BTreeMap::new();
    for (home, path, _) in &flips {
        *of_files.entry(format!("{} {}", home.name, path.display())).or_default() += 1;
    }
    println!("ROT_SWEEP={step}: {} flips\n{of_files:#?}", flips.len());
    let done = AtomicU64::new(0);
    let table = Mutex::new(Table::default());
    on_threads(0, flips.len() as u64, work.path(), |number, folder| {
        let (home, path, bit) = &flips[number as usize];
        let what = flip(home, path, *bit, folder);
        let end = judge(home, folder, false);
        let row = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if end.fault().is_some() {
            println!("BAD {}: {what}", end.name());
        }
        table.lock().expect("table").add(row, &end, what);
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(5000) {
            println!("{done} of {}", flips.len());
        }
    });
    let table = table.into_inner().expect("table");
    table.print();
    assert!(table.bad.is_empty(), "{} of {} flips", table.bad.len(), flips.len());
}
