//! How a write is made durable, and what the disk's own attributes say about the best way.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How durability is asked for. One code path but for the submission entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SyncMode {
    /// [`SyncMode::Dsync`] where the disk has FUA or no volatile cache, else [`SyncMode::Linked`].
    #[default]
    Auto,
    /// One write with `RWF_DSYNC`.
    Dsync,
    /// A write linked to an fdatasync.
    Linked,
    /// Blocking `pwrite` and `fdatasync` inside `submit`. For tests, benchmarks and refused rings.
    Inline,
}

impl SyncMode {
    /// The mode that is used on a disk with these attributes: never [`SyncMode::Auto`].
    #[must_use]
    pub fn resolve(self, disk: Option<&DiskFacts>) -> Self {
        match self {
            Self::Auto if disk.is_some_and(DiskFacts::flush_is_free) => Self::Dsync,
            Self::Auto => Self::Linked,
            chosen => chosen,
        }
    }
}

/// A text that names none of the choices there are.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown {of} {text:?}; use {choices}")]
pub struct UnknownWord {
    of: &'static str,
    text: String,
    choices: &'static str,
}

impl UnknownWord {
    pub(super) fn new(of: &'static str, text: &str, choices: &'static str) -> Self {
        Self { of, text: text.to_owned(), choices }
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Dsync => "dsync",
            Self::Linked => "linked",
            Self::Inline => "inline",
        })
    }
}

impl FromStr for SyncMode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "auto" => Ok(Self::Auto),
            "dsync" => Ok(Self::Dsync),
            "linked" => Ok(Self::Linked),
            "inline" => Ok(Self::Inline),
            other => Err(UnknownWord::new("sync mode", other, "auto, dsync, linked or inline")),
        }
    }
}

/// What sysfs reports of the disk under a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskFacts {
    /// The kernel's name of the whole disk, e.g. `nvme0n1`.
    pub name: String,
    /// Whether the disk may lose acknowledged writes unless flushed ("write back").
    pub volatile_cache: bool,
    /// Whether a single write can be forced to the medium.
    pub fua: bool,
    /// Whether it spins.
    pub rotational: bool,
}

impl DiskFacts {
    /// The disk under `path`; `None` where there is no single block device (overlay, network, memory) or sysfs
    /// is not mounted.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let dev = fs::metadata(path).ok()?.dev();
        let (major, minor) = (libc::major(dev), libc::minor(dev));
        let node = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let disk: PathBuf = if node.join("partition").exists() { node.parent()?.to_owned() } else { node };
        Self::read(&disk)
    }

    fn read(disk: &Path) -> Option<Self> {
        let attribute = |name: &str| fs::read_to_string(disk.join("queue").join(name)).ok();
        let set = |text: Option<String>| text.is_some_and(|t| t.trim() == "1");
        Some(Self {
            name: disk.file_name()?.to_string_lossy().into_owned(),
            volatile_cache: attribute("write_cache")?.trim() != "write through",
            fua: set(attribute("fua")),
            rotational: set(attribute("rotational")),
        })
    }

    /// Whether a durable overwrite needs no separate flush.
    #[must_use]
    pub fn flush_is_free(&self) -> bool {
        self.fua || !self.volatile_cache
    }
}

impl fmt::Display for DiskFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match (self.volatile_cache, self.fua) {
            (false, _) => "what is written is on the medium",
            (true, true) => "its cache forgets at a power cut; log writes go past it",
            (true, false) => "its cache forgets at a power cut; each log write has it flushed",
        };
        write!(f, "{} ({way})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(cache: &str, fua: &str) -> (tempfile::TempDir, DiskFacts) {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue");
        fs::create_dir(&queue).unwrap();
        fs::write(queue.join("write_cache"), format!("{cache}\n")).unwrap();
        fs::write(queue.join("fua"), format!("{fua}\n")).unwrap();
        let facts = DiskFacts::read(dir.path()).unwrap();
        (dir, facts)
    }

    #[test]
    fn auto_follows_the_disk() {
        for (cache, fua, mode) in [
            ("write back", "0", SyncMode::Linked),
            ("write back", "1", SyncMode::Dsync),
            ("write through", "0", SyncMode::Dsync),
        ] {
            let (_dir, facts) = disk(cache, fua);
            assert_eq!(SyncMode::Auto.resolve(Some(&facts)), mode, "{cache} {fua}");
            assert_eq!(SyncMode::Inline.resolve(Some(&facts)), SyncMode::Inline);
        }
        assert_eq!(SyncMode::Auto.resolve(None), SyncMode::Linked);
    }

    #[test]
    fn names_round_trip() {
        for mode in [SyncMode::Auto, SyncMode::Dsync, SyncMode::Linked, SyncMode::Inline] {
            assert_eq!(mode.to_string().parse::<SyncMode>(), Ok(mode));
        }
        assert!("fsync".parse::<SyncMode>().unwrap_err().to_string().contains("linked"));
    }
}
