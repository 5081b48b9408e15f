//! What is written in one place, so that it cannot differ in another.

use crate::source::{Source, sources};
use crate::{ALL, keep};

/// Marks by which a thing is known, without underscores and in lower case, and the file where it stands.
const ONCE: [(&str, &str); 4] = [
    // SplitMix64, by its constants.
    ("bf58476d1ce4e5b9", "wal/src/mix.rs"),
    // A hash for tables.
    ("hasher for ", "wal/src/mix.rs"),
    // A reader of formats' fields.
    ("splitfirstchunk::<n>", "wal/src/fields.rs"),
    // The version of Redis that clients are told.
    ("\"7.2.5\"", "src/resp/commands/connection.rs"),
];

fn written_again(files: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    // This file names them all.
    for source in files.iter().filter(|source| source.path != "tests/rules/once.rs") {
        let text = source.text.replace('_', "").to_ascii_lowercase();
        for (mark, home) in ONCE {
            if text.contains(mark) != (source.path == home) {
                findings.push(format!("{}: {mark}, which stands in {home}", source.path));
            }
        }
    }
    findings
}

#[test]
fn what_stands_once_is_not_written_again() {
    keep("one place each", written_again(&sources(&ALL)));
}

#[test]
fn what_is_written_again_is_found() {
    let found = |path: &str, text: &str| written_again(&[Source::new(path, text)]).len();
    assert_eq!(found("src/a.rs", "let x = 1; // see mix.rs"), 0);
    assert_eq!(found("tools/a.rs", "z.wrapping_mul(0xBF58_476D_1CE4_E5B9)"), 1);
    assert_eq!(found("src/a.rs", "impl std::hash::BuildHasher for Mine {}"), 1);
    assert_eq!(found("src/a.rs", "self.0.split_first_chunk::<N>()?"), 1);
    assert_eq!(found("src/a.rs", "const VERSION: &str = \"7.2.5\";"), 1);
    assert_eq!(found("wal/src/fields.rs", "moved away"), 1);
}
