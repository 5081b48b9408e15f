//! Scripts: commands with what they print.
//!
//! A command stands on a line of its own, `----` below it, then what it prints, up to an empty line. Lines that begin with `#`
//! are for people.

use std::path::{Path, PathBuf};

/// What stands between a command and what it prints.
const RULE: &str = "----";

/// A command, and what it is to print.
pub struct Step {
    /// Comments and empty lines above it.
    above: Vec<String>,
    /// The command's line in the file, counted from 1.
    line: usize,
    command: String,
    prints: Vec<String>,
}

/// A script, and the comments behind its last command.
pub struct Script {
    pub steps: Vec<Step>,
    below: Vec<String>,
}

impl Script {
    pub fn read(text: &str) -> Result<Self, String> {
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

    pub fn write(&self) -> String {
        let mut lines = Vec::new();
        for step in &self.steps {
            lines.extend(step.above.iter().map(String::as_str));
            lines.extend([step.command.as_str(), RULE]);
            lines.extend(step.prints.iter().map(String::as_str));
        }
        lines.extend(self.below.iter().map(String::as_str));
        lines.join("\n") + "\n"
    }

    /// Plays it: `run` does a command and returns what that prints. Returns what all print, and where that is not what they
    /// were to print.
    pub fn play(
        &self,
        mut run: impl FnMut(&str) -> Result<Vec<String>, String>,
    ) -> Result<(Self, Vec<String>), String> {
        let mut differences = Vec::new();
        let mut steps = Vec::new();
        for step in &self.steps {
            let Step { line, command, .. } = step;
            let prints = run(command).map_err(|why| format!("line {line}, {command:?}: {why}"))?;
            if prints != step.prints {
                let (was, is) = (step.prints.join("\n  "), prints.join("\n  "));
                differences.push(format!("line {line}: {command}\n  {was}\nis now\n  {is}"));
            }
            steps.push(Step { above: step.above.clone(), line: *line, command: command.clone(), prints });
        }
        Ok((Self { steps, below: self.below.clone() }, differences))
    }
}

/// Plays all scripts of a folder, each with a player of its own; returns the differences of each, by its name. `update`: what
/// they print now is written down.
pub fn play_all<R: FnMut(&str) -> Result<Vec<String>, String>>(
    folder: &Path,
    update: bool,
    player: impl Fn() -> R,
) -> Vec<(String, Vec<String>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    let play = |file: PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let script = Script::read(&std::fs::read_to_string(&file).unwrap());
        let played = script.and_then(|script| script.play(player()));
        let (now, differences) = played.unwrap_or_else(|why| panic!("{name}: {why}"));
        if update && !differences.is_empty() {
            std::fs::write(&file, now.write()).unwrap();
        }
        (name, differences)
    };
    files.into_iter().map(play).collect()
}
