//! Finds state folders, those given and those under a node's data folder, and keeps nodes away from them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use corduroy::store::is_state;
use corduroy_wal::device::lock::{FolderLock, LOCK_FILE};

use crate::ToolError;

/// How deep under a given folder states are looked for.
const DEPTH_MAX: usize = 3;

/// The state folders among and under `given`, in order, named in full, so that what lies around them can be found.
pub fn find(given: &[PathBuf]) -> Result<Vec<PathBuf>, ToolError> {
    let mut all = Vec::new();
    for path in given {
        let failed = |source| ToolError::Path { path: path.clone(), source };
        let before = all.len();
        let full = path.canonicalize().map_err(failed)?;
        search(&full, DEPTH_MAX, &mut all).map_err(failed)?;
        if all.len() == before {
            let what = "no state (a file `manifest` or `current`, a folder `tables`) in it or under it";
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, what)));
        }
    }
    Ok(all)
}

fn search(path: &Path, depth: usize, all: &mut Vec<PathBuf>) -> io::Result<()> {
    if is_state(path) {
        all.push(path.to_owned());
        return Ok(());
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    for folder in folders.into_iter().filter(|_| depth > 0) {
        search(&folder, depth - 1, all)?;
    }
    Ok(())
}

/// Takes the locks that a node which uses the state would hold: that of the data folder, and that of the shard's log.
pub fn lock(state: &Path) -> Result<Vec<FolderLock>, ToolError> {
    let shard = state.parent();
    let folders = [shard.and_then(Path::parent).map(Path::to_owned), shard.map(|shard| shard.join("wal"))];
    // Where there is no lock file nobody holds a lock, and none is made in what may be no folder of ours.
    let used = folders.into_iter().flatten().filter(|folder| folder.join(LOCK_FILE).exists());
    used.map(|folder| FolderLock::acquire(&folder).map_err(ToolError::Lock)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_found_under_a_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().canonicalize().unwrap();
        for name in ["shard-0000/state/tables", "shard-0001/state/tables", "shard-0001/wal", "other"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let states = ["shard-0000/state", "shard-0001/state"].map(|name| dir.join(name));
        assert_eq!(find(std::slice::from_ref(&dir)).unwrap(), states);
        assert_eq!(find(&states[1..]).unwrap(), &states[1..]);
        let none = find(&[dir.join("other")]).unwrap_err();
        assert!(none.to_string().contains("no state"), "{none}");
    }
}
