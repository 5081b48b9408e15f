//! What is not yet as it is wanted, held at what it is: each of these figures may shrink, and none may grow.
//!
//! Who brings a figure down lowers its most with the same change.

use std::collections::{BTreeMap, BTreeSet};

use crate::keep;
use crate::source::{Source, paths, sources};

/// What is wrong with a figure that may only shrink: it has grown; or it has shrunk, and its most is to be lowered.
fn ratchet(what: &str, found: usize, most: usize, wanted: usize) -> Option<String> {
    if found > most.max(wanted) {
        return Some(format!("{what}: {found}, and at most {most} may be"));
    }
    let is_loose = found.max(wanted) + most / 50 < most;
    is_loose.then(|| format!("{what}: {found} of {most}: lower its most"))
}

#[test]
fn a_figure_that_grows_is_found_and_one_that_shrinks_is_held() {
    let of = |found, most, wanted| ratchet("x", found, most, wanted).is_some();
    assert!(!of(200, 200, 60) && !of(197, 200, 60) && of(201, 200, 60) && of(195, 200, 60));
    assert!(!of(13, 13, 0) && of(14, 13, 0) && of(12, 13, 0));
    assert!(
        !of(50, 60, 60) && !of(60, 60, 60) && of(61, 60, 60),
        "what is reached is the budget from then on"
    );
}

// ---- The heart ----

/// Lines of the heart without its tests, and its budget.
const HEART_LINES_MAX: usize = 3000;
const HEART_LINES_WANTED: usize = 3000;

#[test]
fn the_heart_fits_into_a_head() {
    let files = sources(&["shards/src/shard"]);
    let code = files.iter().filter(|source| !source.is_test());
    let lines: usize = code.map(|source| source.code_without_tests().lines().count()).sum();
    assert!(lines > 1000, "{lines} lines");
    let finding = ratchet("lines of shards/src/shard", lines, HEART_LINES_MAX, HEART_LINES_WANTED);
    keep("the heart can be read in one go", finding.into_iter().collect());
}

// ---- Circles ----

/// Rooms and files of the store that stand in circles of imports. Between the folders of a crate there are none, and none in the
/// node, in the sessions, and in some other folders.
const STORE_IN_CIRCLES_MAX: usize = 5;

/// The modules below a folder, each with those that it uses. A file in a module's own folder counts with that module; what
/// the folder's own file (`name.rs`, `lib.rs`) holds is the module `top`.
struct Modules<'f> {
    /// The crate's sources.
    src: &'f str,
    /// The folder in it, as a path of modules; empty for the crate.
    folder: &'f [&'f str],
    files: &'f [Source],
}

impl Modules<'_> {
    /// A file's path of modules from the crate's root.
    fn module(&self, source: &Source) -> Vec<String> {
        let inside =
            source.path.strip_prefix(self.src).unwrap().trim_start_matches('/').trim_end_matches(".rs");
        let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
        module.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
        module
    }

    /// What a path of modules names of this folder; `None`: something elsewhere.
    fn named(&self, path: &[String], children: &BTreeSet<String>) -> Option<String> {
        let inside = path.strip_prefix_of(self.folder)?;
        let child = inside.first().filter(|child| children.contains(*child));
        Some(child.cloned().unwrap_or_else(|| TOP.to_owned()))
    }

    fn uses(&self) -> BTreeMap<String, BTreeSet<String>> {
        let files = || self.files.iter().filter(|source| !source.is_test());
        let modules: Vec<_> = files().map(|source| (self.module(source), source)).collect();
        let inside = |module: &[String]| module.strip_prefix_of(self.folder).map(<[String]>::to_vec);
        let children: BTreeSet<String> =
            modules.iter().filter_map(|(module, _)| inside(module)?.first().cloned()).collect();
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (module, source) in &modules {
            let Some(unit) = self.named(module, &children) else { continue };
            let code = source.code_without_tests();
            let used = uses.entry(unit.clone()).or_default();
            for path in paths(code) {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let from: &[String] = match path[0].as_str() {
                    "crate" => &[],
                    "super" => &module[..module.len().saturating_sub(ups)],
                    _ => module.as_slice(),
                };
                let path = [from, &path[ups.max(1)..]].concat();
                used.extend(self.named(&path, &children).filter(|other| *other != unit));
            }
            if unit == TOP {
                used.extend(children.iter().filter(|child| begins_path(code, child)).cloned());
            }
        }
        uses
    }

    /// The modules that use themselves by way of others.
    fn in_circles(&self) -> BTreeSet<String> {
        let uses = self.uses();
        let reaches_itself = |module: &&String| {
            let mut seen = BTreeSet::new();
            let mut next = vec![*module];
            while let Some(at) = next.pop() {
                for used in uses.get(at).into_iter().flatten() {
                    if used == *module {
                        return true;
                    }
                    if seen.insert(used) {
                        next.push(used);
                    }
                }
            }
            false
        };
        uses.keys().filter(reaches_itself).cloned().collect()
    }
}

/// The module that owns a folder.
const TOP: &str = "(top)";

/// A path that begins with another.
trait PrefixOf {
    fn strip_prefix_of(&self, prefix: &[&str]) -> Option<&[String]>;
}

impl PrefixOf for [String] {
    fn strip_prefix_of(&self, prefix: &[&str]) -> Option<&[String]> {
        let (start, rest) = self.split_at_checked(prefix.len())?;
        start.iter().zip(prefix).all(|(one, other)| one == other).then_some(rest)
    }
}

/// Whether a path begins with this name.
fn begins_path(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        let is_start = !before.is_alphanumeric() && before != '_' && before != ':';
        is_start && code[at + name.len()..].starts_with("::")
    })
}

fn circles(src: &str, folder: &[&str], files: &[Source], most: usize) -> Vec<String> {
    let found = Modules { src, folder, files }.in_circles();
    let names = found.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let what = format!("modules of {src}/{} in circles ({names})", folder.join("/"));
    ratchet(&what, found.len(), most, 0).into_iter().collect()
}

#[test]
fn circles_of_imports_do_not_grow() {
    let (root, shards) = (sources(&["src"]), sources(&["shards/src"]));
    let without = [&[][..], &["node"], &["node", "hosts"], &["node", "front"], &["resp"]];
    let mut findings: Vec<_> = without.iter().flat_map(|folder| circles("src", folder, &root, 0)).collect();
    findings.extend(circles("src", &["store"], &root, STORE_IN_CIRCLES_MAX));
    for room in ["exec", "flush", "lookups", "memory", "text"] {
        findings.extend(circles("src", &["store", room], &root, 0));
    }
    for folder in [&[][..], &["raft"], &["runtime"]] {
        findings.extend(circles("shards/src", folder, &shards, 0));
    }
    keep("modules do not import each other in circles", findings);
}

#[test]
fn a_circle_of_imports_is_found() {
    let in_circles = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        Modules { src: "src", folder: &["node"], files: &files }.in_circles().into_iter().collect::<Vec<_>>()
    };
    let (top, a) = (("src/node.rs", "mod a;\nmod b;\nuse a::A;"), ("src/node/a.rs", "use super::b::B;"));
    assert_eq!(in_circles(&[top, a, ("src/node/b.rs", "use crate::store::Store;")]), [""; 0]);
    assert_eq!(in_circles(&[top, a, ("src/node/b.rs", "use crate::node::a;")]), ["a", "b"]);
    assert_eq!(in_circles(&[top, a, ("src/node/b/c.rs", "use super::super::a::A;")]), ["a", "b"]);
    assert_eq!(in_circles(&[top, a, ("src/node/b.rs", "fn f() { super::start() }")]), [TOP, "a", "b"]);
    assert_eq!(
        in_circles(&[top, a, ("src/node/b.rs", "#[cfg(test)]\nmod tests { use crate::node::a; }")]),
        [""; 0]
    );
}

// ---- Assertions ----

/// Lines of code to an assertion.
const LINES_AN_ASSERTION_MAX: [(&str, usize); 3] =
    [("wal/src", 60), ("shards/src/raft", 60), ("shards/src/shard", 60)];
const LINES_AN_ASSERTION_WANTED: usize = 60;

/// Lines that hold code, and assertions in them; without tests.
fn assertions(files: &[Source]) -> (usize, usize) {
    let mut sum = (0, 0);
    for source in files.iter().filter(|source| !source.is_test()) {
        let code = source.code_without_tests();
        sum.0 += code.lines().filter(|line| !line.trim().is_empty()).count();
        let calls = ["assert!(", "assert_eq!(", "assert_ne!("];
        sum.1 += calls.iter().map(|call| code.matches(call).count()).sum::<usize>();
    }
    sum
}

#[test]
fn assertions_do_not_get_rarer() {
    let findings = LINES_AN_ASSERTION_MAX.iter().filter_map(|(folder, most)| {
        let (lines, assertions) = assertions(&sources(&[folder]));
        let what = format!("lines of {folder} to an assertion ({assertions} in {lines})");
        ratchet(&what, lines / assertions.max(1), *most, LINES_AN_ASSERTION_WANTED)
    });
    keep("what must hold is asserted", findings.collect());
}

#[test]
fn assertions_are_counted_in_code_alone() {
    let text = "// assert!(x)\nassert!(x);\n\ndebug_assert_eq!(x, \"assert!(y)\");\nstatic_assertions!();\n";
    let tests = "#[cfg(test)]\nmod tests {\n    assert!(x);\n}\n";
    assert_eq!(
        assertions(&[Source::new("a.rs", &format!("{text}{tests}")), Source::new("tests.rs", text)]),
        (3, 2)
    );
}

// ---- Words ----

/// Words that are not ours, what to write instead, and how often they stand in names and comments. Some uses are ordinary
/// English; a figure that has only those left is as low as it gets.
const WORDS: [(&str, &str, usize); 19] = [
    ("by and by", "later", 0),
    ("enlist", "enqueue, the work queue", 0),
    ("gone", "a tombstone; deleted; closed", 0),
    ("hand over", "flush", 0),
    ("hand overs", "flushes", 0),
    ("land", "complete", 0),
    ("launch", "submit", 0),
    ("life", "incarnation, lifetime of the process", 0),
    ("lives", "incarnations", 0),
    ("lower level", "disk level", 0),
    ("place", "index, location, position", 2),
    ("places", "indexes, locations, positions", 0),
    ("settle", "complete; the flush's output", 0),
    ("settled", "completed", 0),
    ("sift", "what it does, by name", 0),
    ("tell", "return, log, store, announce", 0),
    ("telling", "announcing", 0),
    ("tells", "returns, logs, stores, announces", 0),
    ("told", "announced", 0),
];

/// Docs that are there for the lint alone, and how many there are.
const FILLERS: [&str; 2] = ["/// Which.", "/// Whose."];
const FILLERS_MAX: usize = 0;

fn fillers(files: &[Source]) -> usize {
    let lines = files.iter().flat_map(|source| source.text.lines());
    lines.filter(|line| FILLERS.contains(&line.trim())).count()
}

#[test]
fn docs_that_say_nothing_do_not_spread() {
    let found = fillers(&sources(&["wal/src", "shards/src", "src", "tools"]));
    keep("docs say something", ratchet("docs of one word", found, FILLERS_MAX, 0).into_iter().collect());
}

#[test]
fn a_doc_that_says_nothing_is_found() {
    assert_eq!(fillers(&[Source::new("a.rs", "/// Which.\nx: u8,\n    /// Whose.\n/// Which one.\n")]), 2);
}

/// Words of names and comments, in lower case: of `HandOver` and `hand_over` two.
fn words(source: &Source) -> Vec<String> {
    let code = source.code_without_tests();
    let mut words = Vec::new();
    for (line, text) in code.lines().zip(source.text.lines()) {
        split_words(line, &mut words);
        // What stands behind the code of a line is blank there, if it is a comment. Blanks are as many as characters.
        let behind: String = text.chars().skip(line.trim_end().chars().count()).collect();
        if behind.trim_start().starts_with("//") {
            split_words(&behind, &mut words);
        }
    }
    words
}

fn split_words(text: &str, words: &mut Vec<String>) {
    let mut word = String::new();
    for c in text.chars().chain([' ']) {
        let is_next = c.is_uppercase() && word.ends_with(|last: char| !last.is_uppercase());
        if (!c.is_alphabetic() || is_next) && !word.is_empty() {
            words.push(std::mem::take(&mut word).to_lowercase());
        }
        if c.is_alphabetic() {
            word.push(c);
        }
    }
}

/// How often a word, or several in a row, stand among words.
fn count(words: &[String], wanted: &str) -> usize {
    let wanted: Vec<&str> = wanted.split(' ').collect();
    words.windows(wanted.len()).filter(|row| row.iter().zip(&wanted).all(|(one, other)| one == other)).count()
}

#[test]
fn words_that_are_not_ours_do_not_spread() {
    let files = sources(&["wal/src", "shards/src", "src", "tools"]);
    let files: Vec<_> = files.iter().filter(|source| !source.is_test()).map(words).collect();
    let findings = WORDS.iter().filter_map(|(word, instead, most)| {
        let found = files.iter().map(|words| count(words, word)).sum();
        ratchet(&format!("\"{word}\" (rather: {instead})"), found, *most, 0)
    });
    keep("one word, one meaning, the field's own", findings.collect());
}

#[test]
fn words_are_found_in_names_and_comments_alone() {
    let found = |text: &str| count(&words(&Source::new("a.rs", text)), "hand over");
    assert_eq!(found("fn hand_over() {}\nstruct HandOver;\nconst HAND_OVER: u8 = 0;\n/// A hand-over.\n"), 4);
    assert_eq!(found("x(\"hand_over\"); // hand over\n"), 1);
    assert_eq!(found("fn hand() {}\nfn over_hand() {}\nlet handover = 1;\n"), 0);
    assert_eq!(found("#[cfg(test)]\nmod tests {\n    // hand over\n}\n"), 0);
}
