//! The rules of the house, kept by reading the sources: who may know whom, where unsafe code may stand, how long things
//! may get, what must not be left behind. Each rule has a test that breaks it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod crates;
mod once;
mod ratchets;
mod source;

use std::collections::BTreeSet;

use source::{Source, blank, functions, holds_word, paths, sources};

const ALL: [&str; 6] = ["wal", "shards", "src", "tools", "tests", "benches"];

/// Longest file and function, in lines.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Fails with all findings, one a line.
fn keep(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}\n  {}", findings.join("\n  "));
}

// ---- Who may know whom ----

/// The modules of its own crate that a file uses, as paths from the crate's root. `src` is the crate's source folder.
fn used_modules(source: &Source, src: &str) -> BTreeSet<Vec<String>> {
    let inside = source.path.strip_prefix(src).unwrap().trim_start_matches('/').trim_end_matches(".rs");
    let mut module: Vec<&str> = inside.split('/').collect();
    if matches!(module.last(), Some(&"mod" | &"lib" | &"main")) {
        module.pop();
    }
    let mut used = BTreeSet::new();
    for path in paths(&source.code) {
        match path[0].as_str() {
            "crate" => {
                used.insert(path[1..].to_vec());
            }
            "super" => {
                let up = path.iter().take_while(|part| *part == "super").count();
                if up >= module.len() {
                    used.insert(path[up..].to_vec());
                }
            }
            _ => {}
        }
    }
    used
}

/// The first part of a file's path below `src`: its organ.
fn organ_of<'a>(source: &'a Source, src: &str) -> &'a str {
    let inside = source.path.strip_prefix(src).unwrap().trim_start_matches('/');
    inside.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Findings where an organ knows another of `strangers`, or one of `above` it.
fn strangers_that_met(
    files: &[Source],
    src: &str,
    strangers: &[&str],
    above: &[(&str, &str)],
) -> Vec<String> {
    let mut findings = Vec::new();
    for source in files {
        let organ = organ_of(source, src);
        for path in used_modules(source, src) {
            let Some(other) = path.first().map(String::as_str).filter(|other| *other != organ) else {
                continue;
            };
            let are_strangers = strangers.contains(&organ) && strangers.contains(&other);
            if are_strangers || above.contains(&(organ, other)) {
                findings.push(format!("{} uses {}", source.path, path.join("::")));
            }
        }
    }
    findings
}

const SHARDS_STRANGERS: [&str; 5] = ["raft", "net", "routing", "runtime", "liveness"];
/// (organ, what it must not know because that one knows it).
const SHARDS_ABOVE: [(&str, &str); 11] = [
    ("clock", "shard"),
    ("entry", "shard"),
    ("ids", "shard"),
    ("liveness", "shard"),
    ("net", "shard"),
    ("planted", "shard"),
    ("raft", "shard"),
    ("routing", "shard"),
    ("runtime", "shard"),
    ("shard", "runtime"),
    ("shard", "sim"),
];

#[test]
fn organs_of_shards_meet_only_in_the_heart() {
    let files = sources(&["shards/src"]);
    keep(
        "raft, net, routing, liveness and runtime do not know each other",
        strangers_that_met(&files, "shards/src", &SHARDS_STRANGERS, &SHARDS_ABOVE),
    );
}

const ROOT_ORGANS: [&str; 5] = ["store", "cluster", "replication", "resp", "admin"];

/// What `resp` may use of `store`: its operations, its patterns, its way to read numbers, also under the names that `store` gives on.
fn resp_may_use(store: &Source, path: &[String]) -> bool {
    let given_on = || {
        let uses = store.code.lines().filter(|line| line.starts_with("pub use"));
        let text = uses.collect::<Vec<_>>().join("\n");
        let text = text
            .replace("pub use op::", "pub use crate::op::")
            .replace("pub use text::", "pub use crate::text::");
        paths(&text)
            .into_iter()
            .filter(|path| path.len() > 2)
            .map(|path| path.last().unwrap().clone())
            .collect::<Vec<_>>()
    };
    match path {
        [store, organ, ..] if store == "store" => {
            matches!(organ.as_str(), "op" | "text") || given_on().contains(organ)
        }
        _ => false,
    }
}

#[test]
fn organs_of_the_database_meet_only_in_the_node() {
    let files = sources(&["src"]);
    let store = files.iter().find(|file| file.path == "src/store/mod.rs").expect("the store has a mod.rs");
    let mut findings = Vec::new();
    for source in &files {
        let organ = organ_of(source, "src");
        if !ROOT_ORGANS.contains(&organ) {
            continue;
        }
        for path in used_modules(source, "src") {
            let Some(other) = path.first().map(String::as_str).filter(|other| *other != organ) else {
                continue;
            };
            let is_allowed = organ == "resp" && resp_may_use(store, &path);
            if (ROOT_ORGANS.contains(&other) || other == "node") && !is_allowed {
                findings.push(format!("{} uses {}", source.path, path.join("::")));
            }
        }
    }
    keep("store, cluster, replication, resp and admin meet only in node.rs", findings);
}

#[test]
fn a_forbidden_import_is_found() {
    let met = |path: &str, text: &str| {
        let file = Source::new(path, text);
        !strangers_that_met(&[file], "shards/src", &SHARDS_STRANGERS, &SHARDS_ABOVE).is_empty()
    };
    assert!(met("shards/src/raft/replica.rs", "use crate::net::Peers;"));
    assert!(met("shards/src/raft/replica.rs", "use crate::{ids::Lsn, routing};"));
    assert!(met(
        "shards/src/raft/replica.rs",
        "use crate::{\n    ids::{Lsn, Term},\n    net::{self, frame},\n};"
    ));
    assert!(met("shards/src/raft/replica.rs", "fn f() { super::super::net::go() }"));
    assert!(met("shards/src/net/mod.rs", "use super::routing::Cache;"));
    assert!(met("shards/src/routing.rs", "use crate::shard::Shard;"));
    assert!(!met("shards/src/raft/replica.rs", "use super::ready::Ready; use crate::ids::Lsn;"));
    assert!(!met("shards/src/raft/replica.rs", "// use crate::net::Peers;\nlet x = \"crate::net::Peers\";"));
    assert!(!met("shards/src/shard/mod.rs", "use crate::{net, raft, routing};"));
}

#[test]
fn resp_sees_only_the_operations_of_the_store() {
    let store =
        Source::new("src/store/mod.rs", "mod op;\npub use op::{Op, Outcome};\npub use state::Store;\n");
    let may = |path: &str| resp_may_use(&store, &path.split("::").map(str::to_owned).collect::<Vec<_>>());
    assert!(
        may("store::op::Op") && may("store::text::glob::glob") && may("store::Op") && may("store::Outcome")
    );
    assert!(!may("store::Store") && !may("store::state::Store") && !may("store"));
}

// ---- What the core must not touch ----

/// Words that have no place where time, chance and the world come in as inputs.
const WORLD: [&str; 15] = [
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::net",
    "std::fs",
    "File::open",
    "OpenOptions",
    "rustix",
    "lsm_tree",
    "glommio",
    "io_uring",
    "async fn",
    "await",
    "RandomState",
    "thread_rng",
];

/// All that production and the simulator run alike.
const CORE: [&str; 4] = ["wal/src", "shards/src", "src/store", "src/resp"];

/// What of it is the edge, with the reason.
const EDGE: [(&str, &str); 26] = [
    ("wal/src/device/", "the disk below the log; the memory device beside it is the simulator's"),
    ("shards/src/runtime/", "the driver: cores, threads, clocks, sockets"),
    ("shards/src/sim/batch.rs", "plays many worlds on several threads, and measures how long that takes"),
    ("shards/src/wires", "the sockets to peers"),
    (
        "src/store/disk/blocks.rs",
        "reads blocks, and asks the system for those that it can bring without waiting",
    ),
    ("src/store/disk/check.rs", "compares the files of a state folder before the tree is opened"),
    ("src/store/disk/dead.rs", "a filter that the tree's merges call"),
    ("src/store/disk/dump.rs", "reads the tables of a stopped node, for the tools"),
    ("src/store/disk/error.rs", "takes over the errors of the tree"),
    ("src/store/disk/folder.rs", "opens a state folder and its tree"),
    ("src/store/disk/gap.rs", "reads a damaged table from both ends"),
    ("src/store/disk/guard.rs", "catches the panics of the tree"),
    ("src/store/disk/index.rs", "reads the blocks of tables"),
    ("src/store/disk/inspect.rs", "reads the folder of a stopped node, for the tools"),
    ("src/store/disk/lsm.rs", "the disk below the state; mem.rs beside it is the simulator's"),
    ("src/store/disk/manifest.rs", "writes and reads the manifest's two files"),
    ("src/store/disk/merge.rs", "has the tree merge tables"),
    ("src/store/disk/pace.rs", "the pace of the jobs that write tables, by the clock"),
    ("src/store/disk/pinned.rs", "reads one version of the tree"),
    ("src/store/disk/removal.rs", "frees the files of tables"),
    ("src/store/disk/room.rs", "asks how full the disk is, and keeps a file in reserve"),
    ("src/store/disk/rows.rs", "looks rows up in the tables of the tree"),
    ("src/store/disk/scrub.rs", "reads tables in the background, to find damage"),
    ("src/store/disk/staged.rs", "a file for what is to be installed"),
    ("src/store/disk/tree.rs", "the tree, behind the guard"),
    ("src/store/disk/view.rs", "the tables of the tree as cores read them"),
];

fn touches_of_the_world(files: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in files.iter().filter(|source| !source.is_test()) {
        for word in WORLD {
            if holds_word(source.code_without_tests(), word) {
                findings.push(format!("{} holds {word}", source.path));
            }
        }
    }
    findings
}

#[test]
fn the_core_is_sans_io() {
    let (edge, core): (Vec<_>, Vec<_>) = sources(&CORE)
        .into_iter()
        .partition(|source| EDGE.iter().any(|(path, _)| source.path.starts_with(path)));
    assert!(core.len() > 100, "{} files", core.len());
    keep("no clock, chance, thread, socket or file in the core", touches_of_the_world(&core));
    let is_idle = |path: &&str| touches_of_the_world(&edge).iter().all(|finding| !finding.starts_with(path));
    let idle = EDGE.iter().map(|(path, _)| *path).filter(is_idle).map(str::to_owned).collect();
    keep("what touches nothing of the world is no edge", idle);
}

#[test]
fn a_touch_of_the_world_is_found() {
    let found =
        |text: &str| !touches_of_the_world(&[Source::new("shards/src/shard/mod.rs", text)]).is_empty();
    assert!(found("let t = Instant::now();"));
    assert!(found("use std::thread;"));
    assert!(!found("/// Instead of Instant::now."));
    assert!(!found("#[cfg(test)]\nmod tests { fn f() { std::thread::yield_now() } }"));
}

// ---- Unsafe ----

fn unsafe_elsewhere(files: &[Source]) -> Vec<String> {
    // The bare loop is what the device is measured against, so it cannot be built on it.
    let allowed = ["wal/src/device/", "shards/src/runtime/", "wal/benches/group_commit/bare.rs"];
    let elsewhere = |source: &&Source| !allowed.iter().any(|folder| source.path.starts_with(folder));
    let files = files.iter().filter(elsewhere).filter(|source| holds_word(&source.code, "unsafe"));
    files.map(|source| source.path.clone()).collect()
}

#[test]
fn unsafe_code_stands_in_two_folders_only() {
    keep("unsafe only in wal/src/device and shards/src/runtime", unsafe_elsewhere(&sources(&ALL)));
}

#[test]
fn unsafe_code_elsewhere_is_found() {
    assert_eq!(unsafe_elsewhere(&[Source::new("src/node.rs", "let x = unsafe { y() };")]).len(), 1);
    assert_eq!(unsafe_elsewhere(&[Source::new("wal/src/device/ring.rs", "unsafe {}")]).len(), 0);
    assert_eq!(
        unsafe_elsewhere(&[Source::new("src/node.rs", "// unsafe\n#![forbid(unsafe_code)]")]).len(),
        0
    );
}

// ---- Budgets ----

fn over_budget(files: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in files {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            findings.push(format!("{}: {lines} lines", source.path));
        }
        // A play or a table of cases in a test may be long; it is read from top to bottom.
        let functions = if source.is_test() { Vec::new() } else { functions(&source.code) };
        for (name, line, lines) in functions {
            if lines > FUNCTION_LINES_MAX {
                findings.push(format!("{}:{line}: fn {name} has {lines} lines", source.path));
            }
        }
    }
    findings
}

#[test]
fn files_and_functions_keep_to_their_budgets() {
    let rule = format!("a file has at most {FILE_LINES_MAX} lines, a function at most {FUNCTION_LINES_MAX}");
    keep(&rule, over_budget(&sources(&ALL)));
}

/// Where a file is compiled in more than one way.
fn switches(files: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in files.iter().filter(|source| !source.is_test()) {
        let code = source.code.replace("#[cfg(test)]", "");
        for switch in ["cfg(", "cfg!(", "cfg_attr("].iter().filter(|switch| code.contains(**switch)) {
            findings.push(format!("{} holds {switch}", source.path));
        }
    }
    findings
}

#[test]
fn the_heart_is_the_same_wherever_it_beats() {
    keep(
        "no cfg in the heart: planted bugs have their form in planted.rs",
        switches(&sources(&["shards/src/shard"])),
    );
}

#[test]
fn a_switch_in_the_heart_is_found() {
    let found = |text: &str| switches(&[Source::new("shards/src/shard/mod.rs", text)]).len();
    assert_eq!(found("#[cfg(feature = \"sim\")]\nuse x;"), 1);
    assert_eq!(found("fn f() { if cfg!(debug_assertions) {} }"), 1);
    assert_eq!(found("// #[cfg(feature)]\n#[cfg(test)]\nmod tests;"), 0);
}

#[test]
fn what_is_over_budget_is_found() {
    let body = "    x();\n".repeat(70);
    assert_eq!(over_budget(&[Source::new("a.rs", &format!("fn f(x: [u8; 3]) {{\n{body}}}\n"))]).len(), 1);
    assert_eq!(over_budget(&[Source::new("a.rs", &format!("trait T {{ fn f(); }}\n{body}"))]).len(), 0);
    assert_eq!(over_budget(&[Source::new("a.rs", &"\n".repeat(501))]).len(), 1);
}

// ---- What every file has, and what none may have ----

fn untidy(files: &[Source]) -> Vec<String> {
    // In pieces, so that this file does not break its own rule.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let calls = [concat!("to", "do!"), concat!("unimpl", "emented!"), concat!("db", "g!")];
    let mut findings = Vec::new();
    for source in files {
        if !source.text.starts_with("//! ") {
            findings.push(format!("{} does not open with a line that says what it is", source.path));
        }
        for mark in marks.iter().filter(|mark| holds_word(&source.text, mark)) {
            findings.push(format!("{} holds {mark}", source.path));
        }
        for call in calls.iter().filter(|call| source.code.contains(**call)) {
            findings.push(format!("{} holds {call}", source.path));
        }
    }
    findings
}

#[test]
fn every_file_says_what_it_is_and_leaves_nothing_undone() {
    keep("files open with //! and hold no marks of unfinished work", untidy(&sources(&ALL)));
}

#[test]
fn untidiness_is_found() {
    assert_eq!(untidy(&[Source::new("a.rs", "use x;\n")]).len(), 1);
    assert_eq!(untidy(&[Source::new("a.rs", concat!("//! What.\n// TO", "DO later\n"))]).len(), 1);
    assert_eq!(untidy(&[Source::new("a.rs", concat!("//! What.\nfn f() { to", "do!() }\n"))]).len(), 1);
    assert_eq!(untidy(&[Source::new("a.rs", "//! What.\nfn f() {}\n")]).len(), 0);
}

// ---- What the pages name ----

/// Paths that a page names in backticks, below the workspace's folders.
fn named_paths(page: &str) -> BTreeSet<String> {
    let named = page.split('`').skip(1).step_by(2).filter_map(|name| name.split_whitespace().next());
    let below = |path: &&str| {
        let mut tops = ALL.iter().copied().chain(["docs"]);
        tops.any(|top| path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/')))
    };
    named.filter(below).map(str::to_owned).collect()
}

/// Paths that pages name and that are not there.
fn paths_not_there(pages: &[(String, String)], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let named = |(page, text): &(String, String)| {
        named_paths(text).into_iter().map(|path| (page.clone(), path)).collect::<Vec<_>>()
    };
    let missing = pages.iter().flat_map(named).filter(|(_, path)| !exists(path));
    missing.map(|(page, path)| format!("{page} names {path}, which is not there")).collect()
}

#[test]
fn the_pages_name_what_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    files.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|file| file.extension().is_some_and(|ending| ending == "md"));
    files.sort();
    let page = |file: &std::path::PathBuf| {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(file).unwrap())
    };
    let pages: Vec<_> = files.iter().map(page).collect();
    assert!(pages.len() > 6 && pages.iter().map(|(_, text)| named_paths(text).len()).sum::<usize>() > 50);
    keep("a path that a page names is there", paths_not_there(&pages, |path| root.join(path).exists()));
}

#[test]
fn a_page_that_names_what_is_not_there_is_found() {
    let found = |text: &str| {
        let exists = |path: &str| path == "src/store/op/mod.rs" || path == "docs/wal.md";
        paths_not_there(&[("docs/store.md".to_owned(), text.to_owned())], exists).len()
    };
    assert_eq!(
        found("`src/store/op/mod.rs`, [log](docs/wal.md), `docs/wal.md`, `op.rs`, `a/b`, `srcs/x`"),
        0
    );
    assert_eq!(found("`src/store/gone.rs`, `docs/gone.md` and `tests/power/gone.sh\n 3000`"), 3);
}

// ---- The README's tour ----

/// Named paths that are not there, and folders of sources that are not named.
fn tour_faults(readme: &str, exists: impl Fn(&str) -> bool, files: &[Source]) -> Vec<String> {
    let named = named_paths(readme);
    let mut findings: Vec<_> =
        named.iter().filter(|path| !exists(path)).map(|path| format!("{path} is not there")).collect();
    let folders: BTreeSet<&str> =
        files.iter().map(|source| source.path.rsplit_once('/').unwrap().0).collect();
    for folder in folders {
        // Below a folder that is named on its own account; a whole crate's `src/` names nothing in it.
        let covers = |path: &String| format!("{folder}/").starts_with(path.as_str());
        if !named.iter().any(covers) {
            findings.push(format!("{folder} is not in the tour"));
        }
    }
    findings
}

#[test]
fn the_readme_tour_matches_the_tree() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let exists = |path: &str| root.join(path).exists();
    keep("the README's tour shows the tree as it is", tour_faults(&readme, exists, &sources(&ALL)));
}

#[test]
fn a_tour_that_went_stale_is_found() {
    let files = [Source::new("wal/src/device/ring.rs", ""), Source::new("shards/src/sim/time.rs", "")];
    let exists = |path: &str| path != "wal/src/gone.rs";
    let faults = |readme: &str| tour_faults(readme, exists, &files).len();
    assert_eq!(faults("`wal/` and `shards/src/sim/`"), 0);
    assert_eq!(faults("`wal/` and `wal/src/gone.rs`"), 2);
    assert_eq!(faults("`wal/src/device/`"), 1);
}

// ---- The reader of sources itself ----

#[test]
fn comments_and_strings_are_blanked_and_nothing_else() {
    let text = "a /* b /* c */ d */ e\n\"f \\\" g\" 'h' '\\'' &'i j r#\"k \" l\"# b\"m\" // n\no";
    let code = blank(text);
    assert_eq!(code.lines().count(), text.lines().count());
    let words: Vec<_> = code.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    assert_eq!(words, ["a", "e", "i", "j", "r", "b", "o"]);
}
