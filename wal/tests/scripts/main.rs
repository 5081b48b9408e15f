//! Plays of the log as text: each `.txt` file of this folder is commands with what they print, readable without the code.
//!
//! A command stands on a line of its own, `----` below it, then what it prints, up to an empty line. Lines that begin
//! with `#` are for people. `UPDATE=1 cargo test -p corduroy-wal --test scripts` writes down what the commands print now.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]

mod disk;
mod play;
#[path = "../support/mod.rs"]
mod support;
mod words;

use std::path::{Path, PathBuf};

use corduroy_wal::planted::{self, Planted};
use play::Play;

/// What stands between a command and what it prints.
const RULE: &str = "----";

/// A command, and what it is to print.
struct Step {
    /// Comments and empty lines above it.
    above: Vec<String>,
    /// The command's line in the file, counted from 1.
    line: usize,
    command: String,
    prints: Vec<String>,
}

/// A script, and the comments behind its last command.
struct Script {
    steps: Vec<Step>,
    below: Vec<String>,
}

impl Script {
    fn read(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut above = Vec::new();
        let mut lines = (1..).zip(text.lines()).peekable();
        while let Some((line, text)) = lines.next() {
            if text.is_empty() || text.starts_with('#') {
                above.push(text.to_owned());
                continue;
            }
            if lines.next().is_none_or(|(_, rule)| rule != RULE) {
                return Err(format!("line {line}: no {RULE} follows {text:?}"));
            }
            let mut prints = Vec::new();
            while let Some((_, printed)) = lines.next_if(|(_, next)| !next.is_empty()) {
                prints.push(printed.to_owned());
            }
            steps.push(Step { above: std::mem::take(&mut above), line, command: text.to_owned(), prints });
        }
        Ok(Self { steps, below: above })
    }

    fn write(&self) -> String {
        let mut lines = Vec::new();
        for step in &self.steps {
            lines.extend(step.above.iter().map(String::as_str));
            lines.extend([step.command.as_str(), RULE]);
            lines.extend(step.prints.iter().map(String::as_str));
        }
        lines.extend(self.below.iter().map(String::as_str));
        lines.join("\n") + "\n"
    }

    /// Plays it. Returns what it prints, and where that is not what it was to print.
    fn play(&self) -> Result<(Self, Vec<String>), String> {
        let mut play = Play::new();
        let mut differences = Vec::new();
        let mut steps = Vec::new();
        for step in &self.steps {
            let Step { line, command, .. } = step;
            let prints = play.run(command).map_err(|why| format!("line {line}, {command:?}: {why}"))?;
            if prints != step.prints {
                let (was, is) = (step.prints.join("\n  "), prints.join("\n  "));
                differences.push(format!("line {line}: {command}\n  {was}\nis now\n  {is}"));
            }
            steps.push(Step { above: step.above.clone(), line: *line, command: command.clone(), prints });
        }
        Ok((Self { steps, below: self.below.clone() }, differences))
    }
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    files
}

/// Plays all scripts; returns the differences of each, by its name.
fn play_all(update: bool) -> Vec<(String, Vec<String>)> {
    let play = |file: PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let script = Script::read(&std::fs::read_to_string(&file).unwrap());
        let played = script.and_then(|script| script.play());
        let (now, differences) = played.unwrap_or_else(|why| panic!("{name}: {why}"));
        if update && !differences.is_empty() {
            std::fs::write(&file, now.write()).unwrap();
        }
        (name, differences)
    };
    scripts().into_iter().map(play).collect()
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
    let (now, differences) = script.play().unwrap();
    assert_eq!((differences, now.write().as_str()), (Vec::new(), SMALL));
}

#[test]
fn a_script_that_says_something_else_is_found_and_mended() {
    let wrong = Script::read(&SMALL.replace("there are no logs", "log 1: entries 1")).unwrap();
    let (now, differences) = wrong.play().unwrap();
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
        let told = Script::read(text).and_then(|script| script.play()).map(|(_, differences)| differences);
        assert!(told.as_ref().is_err_and(|error| error.contains(why)), "{text:?}: {told:?}");
    }
}
