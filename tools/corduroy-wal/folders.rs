//! Finds WAL folders: those given, and those under a node's data folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use corduroy_wal::device::folder::parse_slot_file_name;

use crate::ToolError;

/// How deep under a given folder WAL folders are looked for.
const DEPTH_MAX: usize = 4;

/// The WAL folders among and under `given`, in order.
pub fn find(given: &[PathBuf]) -> Result<Vec<PathBuf>, ToolError> {
    let mut all = Vec::new();
    for path in given {
        let before = all.len();
        search(path, DEPTH_MAX, &mut all).map_err(|source| ToolError::Path { path: path.clone(), source })?;
        if all.len() == before {
            let source =
                io::Error::new(io::ErrorKind::NotFound, "no WAL (files slot-*.wal) in it or under it");
            return Err(ToolError::Path { path: path.clone(), source });
        }
    }
    Ok(all)
}

fn search(path: &Path, depth: usize, all: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut folders = Vec::new();
    let mut is_wal = false;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        is_wal |= entry.file_name().to_str().and_then(parse_slot_file_name).is_some();
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    if is_wal {
        all.push(path.to_owned());
    } else if depth > 0 {
        folders.sort();
        for folder in folders {
            search(&folder, depth - 1, all)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_folders_are_found_under_a_data_folder() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["shard-0/wal", "shard-1/wal", "other"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let wals = ["shard-0/wal", "shard-1/wal"].map(|name| dir.path().join(name));
        for wal in &wals {
            fs::write(wal.join("slot-000000.wal"), b"").unwrap();
        }
        assert_eq!(find(&[dir.path().to_owned()]).unwrap(), wals);
        assert_eq!(find(&wals[1..]).unwrap(), &wals[1..]);
        let none = find(&[dir.path().join("other")]).unwrap_err();
        assert!(none.to_string().contains("no WAL"), "{none}");
    }
}
