//! Folders to damage: made once by real servers, kept in memory without their zeros, and written out for each damage.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::{Answer, Client, Server};

const BLOCK: usize = 4096;

/// A file's bytes: its length, and the blocks that are not zero.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    pub len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let mut content = Self { len: bytes.len() as u64, blocks: BTreeMap::new() };
        for (at, block) in bytes.chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                content.blocks.insert((at * BLOCK) as u64, block.to_vec());
            }
        }
        Ok(content)
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.len)?;
        self.blocks.iter().try_for_each(|(at, block)| file.write_all_at(block, *at))
    }

    /// Where the last block that is not zero ends.
    pub fn used(&self) -> u64 {
        self.blocks.last_key_value().map_or(0, |(at, block)| at + block.len() as u64)
    }

    pub fn byte(&self, at: u64) -> u8 {
        let block = at - at % BLOCK as u64;
        let found = self.blocks.get(&block).and_then(|bytes| bytes.get((at - block) as usize));
        found.copied().unwrap_or(0)
    }
}

/// A data folder's files, by path in it.
pub type Files = BTreeMap<PathBuf, Content>;

/// Reads a folder; its locks are left out.
pub fn read_folder(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "LOCK") {
                let content = Content::read(&path).expect("a file");
                files.insert(path.strip_prefix(folder).expect("in it").to_owned(), content);
            }
        }
    }
    files
}

/// Writes a folder anew.
pub fn write_folder(files: &Files, folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    for part in ["wal", "state/tables"] {
        for shard in shards(files) {
            fs::create_dir_all(folder.join(shard).join(part)).expect("a folder");
        }
    }
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        content.write(&path).expect("written");
    }
}

/// The folders of shards.
pub fn shards(files: &Files) -> Vec<String> {
    let first =
        files.keys().filter_map(|path| Some(path.components().next()?.as_os_str().to_str()?.to_owned()));
    let mut shards: Vec<String> = first.filter(|name| name.starts_with("shard-")).collect();
    shards.dedup();
    shards
}

/// What must be read: a key's value, or that it has none.
pub type Oracle = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A node to damage.
pub struct Home {
    pub name: String,
    pub flags: Vec<String>,
    pub files: Files,
    /// The folder some starts earlier.
    pub last_week: Files,
    pub oracle: Oracle,
    /// Written in the last moments before the kill: these values, or what was there before.
    pub last_moments: BTreeMap<Vec<u8>, [Option<Vec<u8>>; 2]>,
}

/// How a node is made.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub partitions: u32,
    pub is_killed: bool,
    pub is_flushed: bool,
    /// A handful of keys, so that each bit of its files can be flipped in turn.
    pub is_tiny: bool,
}

pub fn recipes() -> Vec<Recipe> {
    let mut recipes = Vec::new();
    for partitions in [1, 4] {
        for is_killed in [false, true] {
            for is_flushed in [false, true] {
                recipes.push(Recipe { partitions, is_killed, is_flushed, is_tiny: false });
            }
        }
    }
    recipes
}

fn flags(partitions: u32) -> Vec<String> {
    let shards = partitions.min(2);
    ["--shards", &shards.to_string(), "--partitions", &partitions.to_string()].map(str::to_owned).to_vec()
}

fn set(client: &mut Client, oracle: &mut Oracle, key: String, value: Vec<u8>) {
    let answer = client.ask(&[vec![b"SET", key.as_bytes(), &value]]).expect("an answer");
    assert_eq!(answer, [Answer::Text("OK".into())], "{key}");
    oracle.insert(key.into_bytes(), Some(value));
}

fn delete(client: &mut Client, oracle: &mut Oracle, key: String) {
    let answer = client.ask(&[vec![b"DEL", key.as_bytes()]]).expect("an answer");
    assert!(matches!(answer.as_slice(), [Answer::Number(_)]), "{key}: {answer:?}");
    oracle.insert(key.into_bytes(), None);
}

fn value(key: &str, round: u32, bytes: usize) -> Vec<u8> {
    format!("{key}/{round};").into_bytes().into_iter().cycle().take(bytes).collect()
}

/// One run of the node: writes small and middling values, overwrites and deletes; with `large`, so much that the state is
/// flushed.
fn write_round(client: &mut Client, oracle: &mut Oracle, round: u32, large: bool) {
    for n in 0..60 {
        let key = format!("key:{}", round * 40 + n);
        let bytes = 20 + (n as usize * 37) % 900;
        set(client, oracle, key.clone(), value(&key, round, bytes));
    }
    for n in 0..15 {
        delete(client, oracle, format!("key:{}", round * 40 + n * 3));
    }
    if large {
        for n in 0..24 {
            let key = format!("large:{}", round * 16 + n);
            set(client, oracle, key.clone(), value(&key, round, 60_000));
        }
        for n in 0..8 {
            delete(client, oracle, format!("large:{}", round * 16 + n));
        }
    }
}

/// The same for a tiny node: few frames in the log, unless it is to be flushed: then large values that go again.
fn write_tiny_round(client: &mut Client, oracle: &mut Oracle, round: u32, is_flushed: bool) {
    if is_flushed && round == 0 {
        for n in 0..24 {
            let key = format!("large:{n}");
            set(client, oracle, key.clone(), value(&key, round, 60_000));
        }
    }
    if is_flushed && round == 1 {
        for n in 0..24 {
            delete(client, oracle, format!("large:{n}"));
        }
    }
    for n in 0..3 {
        let key = format!("key:{}", round * 2 + n);
        set(client, oracle, key.clone(), value(&key, round, 20 + 40 * n as usize));
    }
    delete(client, oracle, format!("key:{}", round * 2));
}

fn start(folder: &Path, flags: &[String]) -> Server {
    let mut server = Server::spawn(folder, flags);
    let ready = server.await_ready();
    assert!(matches!(ready, Some(Ok(()))), "{ready:?}\n{}", server.log());
    server
}

fn stop(server: &mut Server) {
    assert_eq!(server.stop().and_then(|status| status.code()), Some(0), "{}", server.log());
}

/// The state's tables under a folder. Names alone are looked at: a server that runs renames and removes
/// files between a listing and a read.
fn tables(folder: &Path) -> usize {
    let listed = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    listed(folder.to_owned()).map(|shard| listed(shard.path().join("state/tables")).count()).sum()
}

impl Home {
    /// Makes a node as the recipe says: three runs, with a copy of last week after the first.
    pub fn make(recipe: Recipe, name: &str, work: &Path) -> Self {
        let folder = work.join(name);
        let flags = flags(recipe.partitions);
        let mut oracle = Oracle::new();
        let mut last_moments = BTreeMap::new();
        let mut last_week = Files::new();
        for round in 0..4 {
            let mut server = start(&folder, &flags);
            let mut client = server.connect().expect("connect");
            if recipe.is_tiny {
                write_tiny_round(&mut client, &mut oracle, round, recipe.is_flushed);
            } else {
                write_round(&mut client, &mut oracle, round, recipe.is_flushed);
            }
            if recipe.is_flushed && round == 0 {
                let mut waits = 0..1000;
                while tables(&folder) == 0 {
                    waits.next().expect("the state is flushed");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            if round == 3 && recipe.is_killed {
                // A core is at rest after 5 s: what was written until now must never be missing without a word.
                std::thread::sleep(Duration::from_millis(6500));
                for n in 0..6 {
                    let key = format!("key:{}", 100 + n * 7);
                    let before = oracle.remove(key.as_bytes()).unwrap_or_default();
                    let new = value(&key, 99, 100);
                    set(&mut client, &mut oracle, key.clone(), new.clone());
                    oracle.remove(key.as_bytes());
                    last_moments.insert(key.into_bytes(), [before, Some(new)]);
                }
                server.kill_9();
            } else {
                stop(&mut server);
            }
            if round == 0 {
                last_week = read_folder(&folder);
            }
        }
        let files = read_folder(&folder);
        Self { name: name.to_owned(), flags, files, last_week, oracle, last_moments }
    }
}
