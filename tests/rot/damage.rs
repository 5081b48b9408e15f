//! What can become of the files of a stopped node: bits, ranges, lengths, names, and files and folders of elsewhere.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use corduroy_wal::mix::{STEP, SplitMix64};

use crate::home::{Content, Files, Home, shards, write_folder};

/// The same draws for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(SplitMix64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(SplitMix64::new(seed ^ STEP));
        dice.next();
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len() as u64) as usize)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Flip,
    Zero,
    Random,
    Truncate,
    Extend,
    Delete,
    Empty,
    Rename,
    Swap,
    CopyOver,
    OtherShard,
    OtherNode,
    LastWeek,
}

pub const KINDS: [Kind; 13] = [
    Kind::Flip,
    Kind::Zero,
    Kind::Random,
    Kind::Truncate,
    Kind::Extend,
    Kind::Delete,
    Kind::Empty,
    Kind::Rename,
    Kind::Swap,
    Kind::CopyOver,
    Kind::OtherShard,
    Kind::OtherNode,
    Kind::LastWeek,
];

/// What a file is to the node.
fn class(path: &Path) -> &'static str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    match (folder, name) {
        ("wal", name) if name.starts_with("slot-") => "log",
        ("tables", _) => "table",
        ("wal", _) => "log's other files",
        ("state", _) => "state's small files",
        (_, name) if name.starts_with("identity") => "identity",
        _ => "other",
    }
}

/// A file: first what kind of file, so that the small ones have their turn, then which.
fn file(files: &Files, dice: &mut Dice) -> PathBuf {
    let mut classes: Vec<&str> = files.keys().map(|path| class(path)).collect();
    classes.sort_unstable();
    classes.dedup();
    let wanted = *dice.pick(&classes).expect("there are files");
    let of_class: Vec<&PathBuf> = files.keys().filter(|path| class(path) == wanted).collect();
    (*dice.pick(&of_class).expect("there is one")).clone()
}

/// Where in a file: its head, its content, the end of it, or anywhere.
fn offset(files: &Files, path: &Path, dice: &mut Dice) -> u64 {
    let content = files.get(path).expect("a file");
    let (len, used) = (content.len.max(1), content.used().max(1));
    match dice.below(4) {
        0 => dice.below(len.min(160)),
        1 => dice.below(used),
        2 => used - 1 - dice.below(used.min(5000)),
        _ => dice.below(len),
    }
}

/// A range to overwrite: a few bytes, whole blocks, the last blocks of the content, or the head.
fn range(files: &Files, path: &Path, dice: &mut Dice) -> (u64, u64) {
    let content = files.get(path).expect("a file");
    let (len, used) = (content.len.max(1), content.used().max(1));
    let (from, bytes) = match dice.below(4) {
        0 => (offset(files, path, dice), 1 + dice.below(64)),
        1 => (dice.below(used) / 4096 * 4096, 4096 * (1 + dice.below(4))),
        2 => {
            let bytes = 4096 * (1 + dice.below(20));
            (used.div_ceil(4096).saturating_mul(4096).saturating_sub(bytes), bytes)
        }
        _ => (0, 4096),
    };
    (from.min(len - 1), bytes.min(len - from.min(len - 1)))
}

/// Another file of the same folder.
fn neighbour(files: &Files, path: &Path, dice: &mut Dice) -> Option<PathBuf> {
    let beside: Vec<&PathBuf> =
        files.keys().filter(|other| other.parent() == path.parent() && other.as_path() != path).collect();
    dice.pick(&beside).map(|path| (*path).clone())
}

/// A file, or a folder of a shard, that may come from elsewhere.
fn part(files: &Files, dice: &mut Dice) -> PathBuf {
    if dice.below(2) == 0 {
        return file(files, dice);
    }
    let shard = dice.pick(&shards(files)).expect("a shard").clone();
    match dice.below(3) {
        0 => PathBuf::from(shard),
        1 => PathBuf::from(shard).join("wal"),
        _ => PathBuf::from(shard).join("state"),
    }
}

/// Removes what is at `to` and puts there what `from` has under `at`.
fn replace(from: &Files, at: &Path, folder: &Path, to: &Path) {
    let target = folder.join(to);
    if target.is_dir() {
        fs::remove_dir_all(&target).expect("remove");
    }
    for (path, content) in from.iter().filter(|(path, _)| path.starts_with(at)) {
        let inside = path.strip_prefix(at).expect("in it");
        let path = if inside.as_os_str().is_empty() { target.clone() } else { target.join(inside) };
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        content.write(&path).expect("written");
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).and_then(|file| file.write_all_at(bytes, at)).expect("written");
}

/// Writes a home's folder and damages it. What was done, in words; `None` if this kind cannot be done here.
pub fn damage(home: &Home, other: &Files, kind: Kind, folder: &Path, dice: &mut Dice) -> Option<String> {
    write_folder(&home.files, folder);
    let files = &home.files;
    match kind {
        Kind::Flip | Kind::Zero | Kind::Random | Kind::Truncate | Kind::Extend => {
            Some(of_bytes(files, kind, folder, dice))
        }
        Kind::Delete | Kind::Empty | Kind::Rename | Kind::Swap | Kind::CopyOver => {
            of_names(files, kind, folder, dice)
        }
        Kind::OtherShard => {
            let part = part(files, dice);
            let mut inside = part.components();
            let own = inside.next()?.as_os_str().to_str()?.to_owned();
            let of = shards(files).into_iter().find(|shard| own.starts_with("shard-") && *shard != own)?;
            let from = Path::new(&of).join(inside.as_path());
            let from = if inside.as_path().as_os_str().is_empty() { PathBuf::from(&of) } else { from };
            let there = files.keys().any(|path| path.starts_with(&from));
            replace(files, &from, folder, &part);
            there.then(|| format!("{} taken from {}", part.display(), from.display()))
        }
        Kind::OtherNode | Kind::LastWeek => {
            let (from, whose) = if kind == Kind::OtherNode {
                (other, "another node")
            } else {
                (&home.last_week, "last week")
            };
            let parts = if dice.below(8) == 0 {
                vec![PathBuf::from("identity.0"), PathBuf::from("identity.1")]
            } else {
                vec![part(files, dice)]
            };
            let there = |part: &PathBuf| {
                let of = |files: &Files| -> Files {
                    files
                        .iter()
                        .filter(|(path, _)| path.starts_with(part))
                        .map(|(p, c)| (p.clone(), c.clone()))
                        .collect()
                };
                !of(from).is_empty() && of(from) != of(files)
            };
            if !parts.iter().all(there) {
                return None;
            }
            for part in &parts {
                replace(from, part, folder, part);
            }
            Some(format!(
                "{} taken from {whose}",
                parts.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
            ))
        }
    }
}

fn of_bytes(files: &Files, kind: Kind, folder: &Path, dice: &mut Dice) -> String {
    let path = file(files, dice);
    let content = files.get(&path).expect("a file");
    let at = folder.join(&path);
    let name = path.display();
    match kind {
        Kind::Flip if content.len > 0 => {
            let (place, bit) = (offset(files, &path, dice).min(content.len - 1), dice.below(8));
            overwrite(&at, place, &[content.byte(place) ^ (1 << bit)]);
            format!("bit {bit} of byte {place} of {name} flipped")
        }
        Kind::Zero | Kind::Random if content.len > 0 => {
            let (from, bytes) = range(files, &path, dice);
            let is_zero = kind == Kind::Zero;
            let fill: Vec<u8> = (0..bytes).map(|_| if is_zero { 0 } else { dice.next() as u8 }).collect();
            overwrite(&at, from, &fill);
            let with = if is_zero { "zeros" } else { "random bytes" };
            format!("{bytes} bytes of {name} from {from} on are {with}")
        }
        Kind::Truncate => {
            let len = match dice.below(3) {
                0 => 0,
                1 => dice.below(content.len.max(1)),
                _ => offset(files, &path, dice) / 4096 * 4096,
            };
            File::options().write(true).open(&at).and_then(|file| file.set_len(len)).expect("cut");
            format!("{name} cut to {len} bytes")
        }
        _ => {
            let bytes: Vec<u8> = (0..1 + dice.below(5000)).map(|_| dice.next() as u8).collect();
            overwrite(&at, content.len, &bytes);
            format!("{} bytes put behind {name}", bytes.len())
        }
    }
}

/// Another name for a file: with more behind it, or with another number.
fn other_name(path: &Path, dice: &mut Dice) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = 50 + dice.below(40);
    let new = match (class(path), dice.below(2)) {
        ("log", 0) => format!("slot-{number:06}.wal"),
        ("table", 0) => number.to_string(),
        _ => format!("{name}.bak"),
    };
    path.with_file_name(new)
}

fn of_names(files: &Files, kind: Kind, folder: &Path, dice: &mut Dice) -> Option<String> {
    let path = file(files, dice);
    let at = folder.join(&path);
    match kind {
        Kind::Delete => {
            fs::remove_file(&at).expect("remove");
            Some(format!("{} deleted", path.display()))
        }
        Kind::Empty => {
            let shard = dice.pick(&shards(files))?.clone();
            let part = PathBuf::from(shard).join(if dice.below(2) == 0 { "wal" } else { "state" });
            fs::remove_dir_all(folder.join(&part))
                .and_then(|()| fs::create_dir(folder.join(&part)))
                .expect("emptied");
            Some(format!("{} emptied", part.display()))
        }
        Kind::Rename => {
            let new = other_name(&path, dice);
            fs::rename(&at, folder.join(&new)).expect("rename");
            Some(format!("{} renamed to {}", path.display(), new.display()))
        }
        Kind::Swap => {
            let other = neighbour(files, &path, dice)?;
            let (content, new) = (files.get(&path)?, files.get(&other)?);
            new.write(&at).and_then(|()| content.write(&folder.join(&other))).expect("written");
            (content != new).then(|| format!("{} and {} exchanged", path.display(), other.display()))
        }
        _ => {
            let other = neighbour(files, &path, dice)?;
            let new = files.get(&other)?;
            new.write(&at).expect("written");
            (files.get(&path) != Some(new))
                .then(|| format!("{} copied over {}", other.display(), path.display()))
        }
    }
}

/// Above so many bits a log or a table is looked at here and there only: at about as many bits as the second figure.
const SMALL_BITS: u64 = 40_000;
const LARGE_FLIPS: u64 = 2000;
/// Of a run of zeros the bytes that stand so far from others are all alike, and each so-manyth of their bits is flipped.
const ALIKE_BYTES: u64 = 8;
const ALIKE_STEP: usize = 1021;

/// The bits of a file that a sweep of every bit flips.
fn bits_that_matter(content: &Content) -> Vec<u64> {
    let end = content.used().min(content.len);
    let mut near = vec![false; usize::try_from(end).expect("in memory")];
    for at in (0..end).filter(|at| content.byte(*at) != 0) {
        let range = at.saturating_sub(ALIKE_BYTES) as usize..=(at + ALIKE_BYTES).min(end - 1) as usize;
        near[range].fill(true);
    }
    let is_near = |bit: &u64| near[(bit / 8) as usize];
    let mut bits: Vec<u64> = (0..end * 8).filter(is_near).collect();
    bits.extend((0..end * 8).filter(|bit| !is_near(bit)).step_by(ALIKE_STEP));
    bits
}

/// Each `step`th bit of the small files, tables and logs, and bits all over the large ones.
pub fn bits_to_flip(files: &Files, step: u64) -> Vec<(PathBuf, u64)> {
    let mut flips = Vec::new();
    for (path, content) in files {
        let bits = bits_that_matter(content);
        let few = match class(path) {
            "log" | "table" if bits.len() as u64 > SMALL_BITS => {
                step.max(bits.len() as u64 / LARGE_FLIPS) | 1
            }
            _ => step,
        };
        let step = usize::try_from(few).expect("a step");
        flips.extend(bits.into_iter().step_by(step).map(|bit| (path.clone(), bit)));
    }
    flips
}

/// Flips one bit of one file of a home's folder.
pub fn flip(home: &Home, path: &Path, bit: u64, folder: &Path) -> String {
    write_folder(&home.files, folder);
    let byte = home.files.get(path).expect("a file").byte(bit / 8);
    overwrite(&folder.join(path), bit / 8, &[byte ^ (1 << (bit % 8))]);
    format!("bit {} of byte {} of {} flipped", bit % 8, bit / 8, path.display())
}
