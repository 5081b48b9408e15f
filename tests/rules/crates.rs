//! What the crates declare: dependencies that are used, where they are used, each with its reason; and unsafe code
//! forbidden wherever there is none.

use std::path::Path;

use crate::keep;
use crate::source::{Source, sources};

/// The crates of the workspace: folder, and where their own code is.
const CRATES: [(&str, &[&str]); 4] =
    [("", &["src"]), ("wal", &["wal/src"]), ("shards", &["shards/src"]), ("tools", &["tools"])];

/// Where tests, benchmarks and examples of a crate are, below its folder.
const BESIDE: [&str; 3] = ["tests", "benches", "examples"];

fn manifest(folder: &str) -> toml::Table {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
    std::fs::read_to_string(file).unwrap().parse().unwrap()
}

/// The names that a table of a manifest lists, as paths in the code begin with them.
fn listed(manifest: &toml::Table, path: &[&str]) -> Vec<String> {
    let (first, rest) = path.split_first().unwrap();
    let Some(table) = manifest.get(*first).and_then(toml::Value::as_table) else { return Vec::new() };
    if rest.is_empty() {
        return table.keys().map(|name| name.replace('-', "_")).collect();
    }
    listed(table, rest)
}

/// Whether a path in the code begins with the name of this crate, or a `use` takes it whole.
fn uses_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].trim_end_matches("::");
        // With `::` in front, it is a crate's name only if nothing stands before that.
        let is_first = !before.ends_with(|c: char| c.is_alphanumeric() || "_>".contains(c));
        let after = &code[at + name.len()..];
        let is_taken = code[..at].ends_with("use ") && (after.starts_with(';') || after.starts_with(" as "));
        is_first && (after.starts_with("::") || is_taken)
    })
}

/// Dependencies of a crate that it does not use: ordinary ones outside of tests, those for tests anywhere.
fn unused(manifest: &toml::Table, own: &[Source], beside: &[Source]) -> Vec<String> {
    let in_own = |name: &str| {
        let mut code = own.iter().filter(|source| !source.is_test()).map(Source::code_without_tests);
        code.any(|code| uses_crate(code, name))
    };
    let in_tests = |name: &str| own.iter().chain(beside).any(|source| uses_crate(&source.code, name));
    let ordinary = listed(manifest, &["dependencies"]).into_iter().filter(|name| !in_own(name));
    let for_tests = listed(manifest, &["dev-dependencies"]).into_iter().filter(|name| !in_tests(name));
    let ordinary = ordinary.map(|name| format!("{name} is not used outside of tests"));
    ordinary.chain(for_tests.map(|name| format!("{name} is not used in tests"))).collect()
}

#[test]
fn dependencies_are_used() {
    let mut findings = Vec::new();
    for (folder, own) in CRATES {
        let beside = BESIDE.map(|part| Path::new(folder).join(part).to_str().unwrap().to_owned());
        let beside = sources(&beside.each_ref().map(String::as_str));
        let manifest = manifest(folder);
        assert!(listed(&manifest, &["dependencies"]).len() > 5, "{folder} depends on something");
        let found = unused(&manifest, &sources(own), &beside);
        findings.extend(found.into_iter().map(|finding| format!("{folder}/Cargo.toml: {finding}")));
    }
    keep("every dependency is used by the crate that lists it", findings);
}

#[test]
fn a_dependency_without_use_is_found() {
    let manifest: toml::Table =
        "[dependencies]\nmy-ring = '1'\n[dev-dependencies]\ncheck = { version = '2' }".parse().unwrap();
    let found = |own: &str, beside: &str| {
        let beside = [Source::new("tests/a.rs", beside)];
        unused(&manifest, &[Source::new("src/a.rs", own)], &beside).len()
    };
    assert_eq!(found("use my_ring::Ring;", "use check;"), 0);
    assert_eq!(found("fn f(x: ::my_ring::Ring) {}", "check::that!(x);"), 0);
    assert_eq!(found("use my_ring as ring;", "#[check::test]"), 0);
    assert_eq!(found("#[cfg(test)]\nmod tests {\n    use my_ring::Ring;\n}", "use check;"), 1);
    assert_eq!(found("use crate::my_ring::Ring;\nlet x = \"my_ring::Ring\";", "use check;"), 1);
    assert_eq!(found("use my_ring::Ring;", "let check = 1; // check::that"), 1);
    assert_eq!(found("use my_ring::Ring;", "crosscheck::that()"), 1);
}

/// Dependencies of the workspace that no crate takes, and those that stand there without a reason.
fn without_purpose(root: &str, crates: &[toml::Table]) -> Vec<String> {
    let table: toml::Table = root.parse().unwrap();
    let taken = |name: &String| {
        let tables = crates.iter().flat_map(|manifest| {
            ["dependencies", "dev-dependencies", "build-dependencies"].map(|part| listed(manifest, &[part]))
        });
        tables.flatten().any(|other| other == *name)
    };
    let names = listed(&table, &["workspace", "dependencies"]);
    let mut findings: Vec<_> =
        names.iter().filter(|name| !taken(name)).map(|name| format!("{name} is taken by no crate")).collect();
    let lines = root.lines().skip_while(|line| *line != "[workspace.dependencies]").skip(1);
    for line in lines.take_while(|line| !line.starts_with('[')).filter(|line| line.contains(" = ")) {
        if !line.contains(" # ") && !line.contains("path = ") {
            findings.push(format!("{line}: no reason"));
        }
    }
    findings
}

#[test]
fn dependencies_of_the_workspace_have_a_purpose() {
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let crates = CRATES.map(|(folder, _)| manifest(folder));
    keep("every dependency of the workspace is taken and has its reason", without_purpose(&root, &crates));
}

#[test]
fn a_dependency_without_purpose_is_found() {
    let found = |root: &str| {
        let taken: toml::Table = "[dev-dependencies]\na-b = { workspace = true }".parse().unwrap();
        without_purpose(&format!("[workspace.dependencies]\n{root}\n[package]\nx = 1\n"), &[taken]).len()
    };
    assert_eq!(found("a-b = \"1\" # checks"), 0);
    assert_eq!(found("a-b = { path = \"b\" }"), 0);
    assert_eq!(found("a-b = \"1\""), 1);
    assert_eq!(found("a-b = \"1\" # checks\nc = \"1\" # nothing"), 1);
}

// ---- Unsafe code is forbidden where there is none ----

/// Roots of crates with unsafe code, and of no other: the workspace denies it to them, and each file allows it by name.
const UNSAFE_ROOTS: [&str; 2] = ["wal/src/lib.rs", "shards/src/lib.rs"];

/// Roots of libraries and programs that neither forbid unsafe code nor are known to hold some.
fn not_forbidding(files: &[Source]) -> Vec<String> {
    let is_root = |source: &&Source| {
        let name = source.path.rsplit('/').next().unwrap();
        let is_beside = BESIDE.iter().any(|part| source.path.split('/').any(|folder| folder == *part));
        !is_beside && matches!(name, "lib.rs" | "main.rs" | "build.rs")
    };
    let open = files.iter().filter(is_root).filter(|source| {
        let may = UNSAFE_ROOTS.contains(&source.path.as_str());
        may == source.code.contains("#![forbid(unsafe_code)]")
    });
    open.map(|source| source.path.clone()).collect()
}

#[test]
fn unsafe_code_is_forbidden_where_there_is_none() {
    keep(
        "libraries and programs forbid unsafe code",
        not_forbidding(&sources(&["wal", "shards", "src", "tools"])),
    );
    let lints = manifest("");
    let level = |table: &toml::Table, path: &[&str]| {
        path.iter().try_fold(toml::Value::Table(table.clone()), |value, part| value.get(*part).cloned())
    };
    let denied = level(&lints, &["workspace", "lints", "rust", "unsafe_code"]);
    assert_eq!(denied.as_ref().and_then(toml::Value::as_str), Some("deny"));
    for (folder, _) in CRATES {
        let inherits = level(&manifest(folder), &["lints", "workspace"]);
        assert_eq!(
            inherits.and_then(|value| value.as_bool()),
            Some(true),
            "{folder} has the workspace's lints"
        );
    }
}

#[test]
fn a_root_that_does_not_forbid_unsafe_code_is_found() {
    let found = |path: &str, text: &str| not_forbidding(&[Source::new(path, text)]).len();
    assert_eq!(found("tools/x/main.rs", "//! A tool.\n\n#![forbid(unsafe_code)]\n"), 0);
    assert_eq!(found("tools/x/main.rs", "//! #![forbid(unsafe_code)]\n"), 1);
    assert_eq!(found("wal/src/lib.rs", "mod a;"), 0);
    assert_eq!(found("wal/benches/a/main.rs", ""), 0);
}
