//! Puts the layers together: defaults, file, environment, flags. Finds every problem, not only the first.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::foreign::redis_file;
use super::peers::{Description, Peers};
use super::value::{OptionalPath, Secret, Value};
use super::{Config, LogFormat, SETTINGS, find};

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file.
    File(PathBuf),
    /// The environment, under this name.
    Environment(String),
    /// The command line, with this flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// Something wrong with the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it was said.
    pub source: Source,
    /// The setting's key; empty if the whole source is meant.
    pub key: String,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.source, self.why)
        } else {
            write!(f, "{}: {} (from {})", self.key, self.why, self.source)
        }
    }
}

/// The configuration, and where each value comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The source of each setting, in the order of [`SETTINGS`].
    pub sources: Vec<Source>,
    /// The cluster that the node is part of; `None`: it is alone.
    pub peers: Option<Peers>,
}

impl Loaded {
    /// Whether somebody chose the setting's value, rather than that it is the default.
    #[must_use]
    pub fn is_said(&self, key: &str) -> bool {
        let at = SETTINGS.iter().position(|setting| setting.key == key);
        at.and_then(|at| self.sources.get(at)).is_some_and(|source| *source != Source::Default)
    }
}

/// What was said, from the weakest source to the strongest.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    said: Vec<(Source, String, String)>,
    problems: Vec<Problem>,
}

impl Layers {
    /// Nothing said yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a TOML file.
    pub fn file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.toml(path, &text),
            Err(error) => self.problem(Source::File(path.into()), "", format!("cannot be read: {error}")),
        }
    }

    /// Takes the text of a TOML file.
    pub fn toml(&mut self, path: &Path, text: &str) {
        let source = Source::File(path.into());
        match text.parse::<toml::Table>() {
            Ok(table) => self.table(&source, "", &table),
            Err(error) => {
                let why = redis_file(text).unwrap_or_else(|| error.to_string().trim_end().to_owned());
                self.problem(source, "", why);
            }
        }
    }

    fn table(&mut self, source: &Source, prefix: &str, table: &toml::Table) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            let text = match value {
                toml::Value::Table(inner) => {
                    self.table(source, &format!("{key}."), inner);
                    continue;
                }
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(yes) => yes.to_string(),
                _ => {
                    let why = "an array, a date or a fraction is not a value of any setting; write a string or a whole number".to_owned();
                    self.problem(source.clone(), &key, why);
                    continue;
                }
            };
            if find(&key).is_none() {
                self.problem(source.clone(), &key, unknown(&key));
            } else {
                self.said.push((source.clone(), key, text));
            }
        }
    }

    /// Takes what the environment says; names that begin with `CORDUROY_` and mean nothing, here or elsewhere, are problems.
    pub fn environment<T: Into<OsString>>(&mut self, variables: impl Iterator<Item = (T, T)>) {
        for (name, text) in variables {
            let name = name.into().to_string_lossy().into_owned();
            if !name.starts_with("CORDUROY_") || NOT_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            let Ok(text) = text.into().into_string() else {
                self.problem(Source::Environment(name), "", "the value is not UTF-8 text".to_owned());
                continue;
            };
            match SETTINGS.iter().find(|setting| setting.env() == name) {
                Some(setting) => self.said.push((Source::Environment(name), setting.key.to_owned(), text)),
                None => {
                    let nearest = nearest(&name, SETTINGS.iter().map(super::Setting::env));
                    let hint = nearest.map_or(LISTED.to_owned(), |near| format!("did you mean {near}?"));
                    let why = format!("no setting has this name; {hint}");
                    self.problem(Source::Environment(name), "", why);
                }
            }
        }
    }

    /// Takes a flag.
    pub fn flag(&mut self, flag: &str, key: &str, text: &str) {
        self.said.push((Source::Flag(flag.to_owned()), key.to_owned(), text.to_owned()));
    }

    fn problem(&mut self, source: Source, key: &str, why: String) {
        self.problems.push(Problem { source, key: key.to_owned(), why });
    }

    /// How logs are to be written, as far as that was said in a way that can be read: problems are written so, too.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        let said = self.said.iter().filter(|(_, key, _)| key == "log.format");
        said.filter_map(|(_, _, text)| LogFormat::read(text).ok()).next_back().unwrap_or(LogFormat::Text)
    }

    /// The configuration that all this makes.
    ///
    /// # Errors
    /// Every problem there is, in the order of the sources.
    pub fn load(mut self) -> Result<Loaded, Vec<Problem>> {
        let mut config = Config::default();
        let mut sources = vec![Source::Default; SETTINGS.len()];
        for (source, key, text) in std::mem::take(&mut self.said) {
            let Some((at, setting)) = SETTINGS.iter().enumerate().find(|(_, setting)| setting.key == key)
            else {
                self.problem(source, &key, unknown(&key));
                continue;
            };
            // A value that a stronger source overrides has to be right all the same: it would bite later.
            match (setting.set)(&mut config, &text) {
                Ok(()) => {
                    if let Some(known) = sources.get_mut(at) {
                        *known = source;
                    }
                }
                Err(why) => self.problem(source, &key, why),
            }
        }
        let source = |key: &str| {
            let at = SETTINGS.iter().position(|setting| setting.key == key);
            at.and_then(|at| sources.get(at)).cloned().unwrap_or(Source::Default)
        };
        if let Err(why) = read_password(&mut config) {
            self.problem(source("requirepass_file"), "requirepass_file", why);
        }
        let peers = self.read_peers(&mut config, &source);
        for (key, why) in config.contradictions().into_iter().chain(config.beyond_the_machine()) {
            self.problem(source(key), key, why);
        }
        if self.problems.is_empty() { Ok(Loaded { config, sources, peers }) } else { Err(self.problems) }
    }
}

impl Layers {
    /// Reads the description of the cluster, if one is named, and takes from it what is the cluster's.
    fn read_peers(&mut self, config: &mut Config, source: &impl Fn(&str) -> Source) -> Option<Peers> {
        let path = config.peers.0.clone()?;
        let description = match Description::read(&path) {
            Ok(description) => description,
            Err(problems) => {
                for (key, why) in problems {
                    self.problem(Source::File(path.clone()), &key, why);
                }
                return None;
            }
        };
        let Some(node) = description.node(config.node_id).copied() else {
            let ids: Vec<_> = description.ids().iter().map(u64::to_string).collect();
            let why = match config.node_id {
                0 => {
                    format!("is missing: which node of {} is this one, {}?", path.display(), ids.join(" or "))
                }
                id => format!("{id} is no node of {}, which has {}", path.display(), ids.join(", ")),
            };
            self.problem(source("node_id"), "node_id", why);
            return None;
        };
        if node.left {
            let why = format!(
                "{} has left the cluster, as {} says; let it join under another id",
                node.id,
                path.display()
            );
            self.problem(source("node_id"), "node_id", why);
        }
        for (key, own, shared) in [
            ("partitions", &mut config.partitions, description.partitions),
            ("shards", &mut config.shards, description.shards),
        ] {
            if source(key) != Source::Default && *own != shared {
                let why = format!("{own} is not the {shared} of {}; leave it out", path.display());
                self.problem(source(key), key, why);
            }
            *own = shared;
        }
        if source("listen") == Source::Default {
            config.listen = node.client;
        }
        Some(Peers { description, node })
    }
}

/// Takes the password from its file, if one is named.
fn read_password(config: &mut Config) -> Result<(), String> {
    let OptionalPath(Some(path)) = &config.requirepass_file else { return Ok(()) };
    if !config.requirepass.0.is_empty() {
        return Err("there is a password in `requirepass`, too; set one of the two".to_owned());
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.contains('\n') {
        return Err(format!("{} must hold one line, the password", path.display()));
    }
    config.requirepass = Secret(line.to_owned());
    Ok(())
}

/// Where all names stand.
/// Names that are for the tools, tests and benches, and for this file's path: they may stand in a shell's environment.
const NOT_SETTINGS: [&str; 9] = [
    "CORDUROY_CONFIG",
    "CORDUROY_PASSWORD",
    "CORDUROY_SKIP_CLIENTS",
    "CORDUROY_BESIDE_ALL",
    "CORDUROY_BESIDE_COMMANDS",
    "CORDUROY_BESIDE_SEED",
    "CORDUROY_BENCH_DIR",
    "CORDUROY_BENCH_SYNC",
    "CORDUROY_WAL_SEEDS",
];

const LISTED: &str = "`corduroy serve --help` lists all";

/// What to say of a key that is none.
fn unknown(key: &str) -> String {
    let nearest = nearest(key, SETTINGS.iter().map(|setting| setting.key.to_owned()));
    let hint = nearest.map_or(LISTED.to_owned(), |near| format!("did you mean `{near}`?"));
    format!("no such setting; {hint}")
}

/// The name that takes the fewest changes, if it is near enough to be meant: at most a third of the letters are wrong.
fn nearest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let letters = |name: &str| name.trim_start_matches("CORDUROY_").chars().count();
    let (changes, near) =
        names.map(|near| (distance(name, &near), near)).min_by_key(|(changes, _)| *changes)?;
    (changes * 3 <= letters(name)).then_some(near)
}

/// Levenshtein's distance: insertions, deletions and replacements from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(from != *to)).min(left + 1).min(*above + 1);
            diagonal = *above;
            *above = cost;
            left = cost;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{WalSync, value::Bytes};

    #[test]
    fn distances() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("wal.snc", "wal.sync"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn the_stronger_source_wins_and_is_remembered() {
        let mut layers = Layers::new();
        layers.toml(
            Path::new("f.toml"),
            "shards = 4\nlisten = \"127.0.0.1:1\"\n[wal]\nsync = \"dsync\"\nsegment_bytes = \"8MiB\"\n",
        );
        layers.environment(
            [("CORDUROY_WAL_SYNC", "linked"), ("CORDUROY_SHARDS", "5"), ("HOME", "/")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into_iter(),
        );
        layers.flag("shards", "shards", "6");
        let loaded = layers.load().expect("no problem");
        assert_eq!(loaded.config.shards, 6);
        assert_eq!(loaded.config.wal_sync, WalSync::Linked);
        assert_eq!(loaded.config.wal_segment_bytes, Bytes(8 << 20));
        let source = |key: &str| {
            let at = SETTINGS.iter().position(|setting| setting.key == key).expect(key);
            loaded.sources[at].to_string()
        };
        assert_eq!(source("shards"), "--shards");
        assert_eq!(source("wal.sync"), "CORDUROY_WAL_SYNC");
        assert_eq!(source("listen"), "f.toml");
        assert_eq!(source("replication"), "default");
    }

    fn loaded_with(description: &str, flags: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("peers.toml");
        std::fs::write(&path, description).expect("written");
        let mut layers = Layers::new();
        layers.flag("peers", "peers", path.to_str().expect("text"));
        flags.iter().for_each(|(key, text)| layers.flag(key, key, text));
        layers.load().map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn a_node_takes_what_is_the_clusters_from_the_description() {
        let node = |id: u64| {
            format!(
                "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{}\"\nclient = \"127.0.0.1:{}\"\n",
                7800 + id,
                7900 + id
            )
        };
        let head = format!("cluster = \"{:032x}\"\nsecret = \"sixteen bytes at least\"\npartitions = 5\n", 7);
        let text = [head, node(1), node(2)].concat();
        let loaded = loaded_with(&text, &[("node_id", "2")]).expect("no problem");
        let peers = loaded.peers.expect("a cluster");
        assert_eq!((peers.node.id, peers.description.cluster), (2, 7));
        assert_eq!((loaded.config.partitions, loaded.config.shards), (5, 8));
        assert_eq!(loaded.config.listen.port(), 7902, "clients are told this address");
        let loaded = loaded_with(&text, &[("node_id", "2"), ("listen", "127.0.0.1:1")]).expect("no problem");
        assert_eq!(loaded.config.listen.port(), 1);
        for (flags, needle) in [
            (&[][..], "node_id: is missing: which node of"),
            (&[("node_id", "3")], "node_id: 3 is no node of"),
            (&[("node_id", "1"), ("partitions", "4")], "partitions: 4 is not the 5 of"),
            (&[("node_id", "1"), ("shards", "4")], "shards: 4 is not the 8 of"),
            (&[("node_id", "1"), ("replication", "off")], "replication: a node with `peers`"),
        ] {
            let problems = loaded_with(&text, flags).expect_err("a problem");
            assert!(matches!(&problems[..], [only] if only.starts_with(needle)), "{needle}: {problems:?}");
        }
        let problems = loaded_with(&node(0), &[("node_id", "1"), ("shards", "0")]).expect_err("problems");
        assert_eq!(problems.len(), 4, "of both files at once: {problems:#?}");
        let mut layers = Layers::new();
        layers.flag("node-id", "node_id", "1");
        assert!(layers.load().is_err_and(|problems| problems[0].why.contains("means nothing without")));
    }

    #[test]
    fn all_problems_are_listed_with_their_keys() {
        let mut layers = Layers::new();
        layers.toml(
            Path::new("f.toml"),
            "shard = 4\nlisten = \"nowhere\"\ncores = [1]\n[wal]\nsinc = \"dsync\"\nmax_in_flight = 9\n",
        );
        let elsewhere = NOT_SETTINGS.map(|name| (name.to_owned(), "1".to_owned()));
        layers.environment(elsewhere.into_iter());
        layers.environment([("CORDUROY_SHARD".to_owned(), "1".to_owned())].into_iter());
        layers.flag("partitions", "partitions", "many");
        let shown: Vec<String> =
            layers.load().expect_err("problems").iter().map(ToString::to_string).collect();
        for needle in [
            "shard: no such setting; did you mean `shards`?",
            "listen: `nowhere`",
            "cores: an array",
            "wal.sinc: no such setting; did you mean `wal.sync`?",
            "wal.max_in_flight: 9 is not",
            "CORDUROY_SHARD: no setting has this name; did you mean CORDUROY_SHARDS?",
            "partitions: `many`",
        ] {
            assert!(shown.iter().any(|problem| problem.starts_with(needle)), "{needle} in {shown:#?}");
        }
        assert_eq!(shown.len(), 7, "{shown:#?}");
    }

    #[test]
    fn a_name_far_from_all_is_not_taken_for_another() {
        let mut layers = Layers::new();
        layers.toml(Path::new("f.toml"), "foo = 1\n[wal]\nnope = 2\n");
        layers.environment([("CORDUROY_FOO".to_owned(), "1".to_owned())].into_iter());
        let shown: Vec<String> =
            layers.load().expect_err("problems").iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 3, "{shown:#?}");
        for problem in shown {
            assert!(problem.contains("`corduroy serve --help` lists all"), "{problem}");
        }
    }

    #[test]
    fn a_password_is_taken_from_its_file_as_it_stands_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("password");
        let load = |text: &str, more: &[(&str, &str)]| {
            std::fs::write(&path, text).expect("written");
            let mut layers = Layers::new();
            layers.flag("requirepass-file", "requirepass_file", path.to_str().expect("text"));
            more.iter().for_each(|(key, text)| layers.flag(key, key, text));
            layers
                .load()
                .map(|loaded| loaded.config.requirepass.0)
                .map_err(|problems| problems[0].to_string())
        };
        for (text, password) in
            [("secret\n", "secret"), ("secret", "secret"), (" \n", " "), ("a b \r\n", "a b ")]
        {
            assert_eq!(load(text, &[]).as_deref(), Ok(password), "{text:?}");
        }
        for text in ["", "\n", "one\ntwo\n"] {
            assert!(load(text, &[]).expect_err("no password").contains("one line"), "{text:?}");
        }
        assert!(load("x", &[("requirepass", "y")]).expect_err("two").contains("one of the two"));
        assert_eq!(load("x\n", &[("listen", "0.0.0.0:1")]).as_deref(), Ok("x"), "it counts as one");
    }

    #[test]
    fn a_file_that_is_no_toml_or_not_there_is_a_problem() {
        let mut layers = Layers::new();
        layers.toml(Path::new("f.toml"), "shards = = 1");
        layers.file(Path::new("/nonexistent/f.toml"));
        assert_eq!(layers.load().expect_err("problems").len(), 2);
    }
}
