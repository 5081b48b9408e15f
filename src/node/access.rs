//! Who may read what the node writes: its own user, nobody else. A password is worth nothing beside a log that all can read.
//!
//! Files that are made get their mode by the process's mask, so that those which the library of the tree makes have it
//! too; those that are there from an earlier release are corrected at each start.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use corduroy_wal::device::folder::{OF_OTHERS, PRIVATE_FILE, PRIVATE_FOLDER};
use rustix::fs::{Mode, OFlags};
use rustix::process::umask;

use super::identity::{Identity, LOST_AND_FOUND};
use crate::config::{Loaded, SETTINGS, Source};

/// From now on this process makes files and folders for its own user alone, whatever mask it was started with.
pub fn restrict_new_files() {
    umask(Mode::from_raw_mode(OF_OTHERS));
}

/// What others on this machine can see though it is secret.
pub fn warn_of_open_secrets(loaded: &Loaded) {
    let source = SETTINGS.iter().zip(&loaded.sources).find(|(setting, _)| setting.key == "requirepass");
    if let Some((_, Source::Flag(flag))) = source
        && !loaded.config.requirepass.0.is_empty()
    {
        tracing::warn!(
            "all users of this machine can read the password of --{flag} in the list of processes: use --requirepass-file, or \
             CORDUROY_REQUIREPASS in the environment"
        );
    }
    if let Some(path) = &loaded.config.requirepass_file.0
        && std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
    {
        tracing::warn!("others than its owner may read the password in {}: chmod 600", path.display());
    }
}

/// What [`restrict`] did.
#[derive(Debug, Default)]
pub struct Restricted {
    /// Files and folders that others could open, and cannot any more.
    pub changed: usize,
    /// The first one that stayed as it is, and why; the others like it are only counted.
    pub failed: Option<(PathBuf, io::Error)>,
    /// How many stayed as they are.
    pub failures: usize,
}

/// Takes from others what they may do with the data folder and everything of ours in it. Links to folders are followed,
/// since an operator may have moved a shard to another disk; links to files are not.
pub fn restrict(data_dir: &Path) -> Restricted {
    let mut done = Restricted::default();
    done.of(data_dir);
    for entry in names(data_dir, &mut done).into_iter().filter(|path| is_ours(path)) {
        done.all(&entry);
    }
    done
}

/// Whether a file or folder in the data folder is one that we make there: others' stay as they are.
fn is_ours(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(Identity::owns)
}

/// What is in a folder; without what only the system may touch.
fn names(folder: &Path, done: &mut Restricted) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    let mut listed: Vec<PathBuf> = listed.unwrap_or_else(|error| {
        done.note(folder, error);
        Vec::new()
    });
    listed.retain(|path| !path.ends_with(LOST_AND_FOUND));
    listed
}

impl Restricted {
    /// A file, or a folder with all that is in it.
    fn all(&mut self, path: &Path) {
        self.of(path);
        if path.is_dir() {
            for path in names(path, self) {
                self.all(&path);
            }
        }
    }

    fn of(&mut self, path: &Path) {
        match restrict_one(path) {
            Ok(changed) => self.changed += usize::from(changed),
            Err(error) => self.note(path, error),
        }
    }

    fn note(&mut self, path: &Path, error: io::Error) {
        // The tree removes what an interrupted change left, so a file may be there no more.
        if error.kind() != io::ErrorKind::NotFound {
            self.failures += 1;
            self.failed.get_or_insert_with(|| (path.to_owned(), error));
        }
    }
}

/// Whether the mode of a file or folder had to be changed.
fn restrict_one(path: &Path) -> io::Result<bool> {
    let is_folder = path.is_dir();
    let found = if is_folder { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
    if !(is_folder || found.is_file()) || !lets_others_in(&found) {
        return Ok(false);
    }
    let flags = OFlags::NONBLOCK | if is_folder { OFlags::DIRECTORY } else { OFlags::NOFOLLOW };
    let file: File = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let mode = if is_folder { PRIVATE_FOLDER } else { PRIVATE_FILE };
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(true)
}

fn lets_others_in(found: &Metadata) -> bool {
    found.permissions().mode() & OF_OTHERS != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    }

    #[test]
    fn all_of_ours_is_closed_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let deep = dir.path().join("shard-0000/state/tables");
        fs::create_dir_all(&deep).expect("folders");
        let outside = tempfile::tempdir().expect("tempdir");
        let of_system = dir.path().join("shard-0000/state/lost+found");
        fs::create_dir(&of_system).expect("folder");
        set(&of_system, 0o755);
        let files =
            ["identity.0", "LOCK", "shard-0000/wal", "shard-0000/state/v1", "shard-0000/state/tables/3"];
        for file in files {
            fs::write(dir.path().join(file), b"x").expect("write");
            set(&dir.path().join(file), 0o666);
        }
        for folder in [dir.path(), &deep] {
            set(folder, 0o777);
        }
        let (stranger, target) = (dir.path().join("notes.txt"), outside.path().join("target"));
        for file in [&stranger, &target] {
            fs::write(file, b"x").expect("write");
            set(file, 0o644);
        }
        std::os::unix::fs::symlink(&target, dir.path().join("shard-0000/state/link")).expect("link");
        let done = restrict(dir.path());
        assert!(done.failed.is_none() && done.failures == 0, "{done:?}");
        for file in files {
            assert_eq!(mode(&dir.path().join(file)), 0o600, "{file}");
        }
        assert_eq!((mode(dir.path()), mode(&deep)), (0o700, 0o700));
        assert_eq!((mode(&stranger), mode(&target), mode(&of_system)), (0o644, 0o644, 0o755));
        assert!(done.changed >= 7, "{done:?}");
        assert_eq!(restrict(dir.path()).changed, 0, "once");
    }
}
