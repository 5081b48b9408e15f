//! The journal of a run: what was sent and what was acknowledged, so that a crashed server can be checked later.
//!
//! A text file that is only appended to; several runs may follow each other in one. Lines:
//!
//! ```text
//! corduroy-load journal 1 PREFIX    a run begins
//! S KEY VERSION                     this version of a value is about to be sent
//! A KEY VERSION                     it was acknowledged
//! I KEY MOST                        an increment is about to be sent; the counter may now be up to MOST
//! C KEY COUNT MOST                  an increment was answered with COUNT; the counter may be up to MOST
//! ```
//!
//! Lines of sending reach the file before the bytes reach the socket, so whatever the server can hold is in it, even
//! if the generator is killed. A last line without an end was torn by that and counts for nothing.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::ledger::{KEYS_MAX, Kind, Ledger};
use crate::resp::put_decimal;

const MAGIC: &str = "corduroy-load journal 1 ";

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file could not be opened, read or written.
    #[error("journal {path}: cannot {doing}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A line is not one that this program writes.
    #[error("journal {path}, line {line}: {problem}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// The writing end, one a thread; whole lines only, so that threads may share the file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    lines: Vec<u8>,
}

impl Journal {
    /// Opens or makes the file and notes the start of a run. A torn last line of an earlier run is ended first.
    ///
    /// # Errors
    /// If the file cannot be opened or written.
    pub fn begin_run(path: &Path, prefix: &str) -> Result<(), JournalError> {
        let torn = ends_torn(path);
        let mut journal = Self::open(path)?;
        if torn {
            journal.lines.extend_from_slice(b" torn\n");
        }
        journal.lines.extend_from_slice(format!("{MAGIC}{prefix}\n").as_bytes());
        journal.flush()
    }

    /// Opens the file for one thread.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|source| JournalError::Io { path: path.to_owned(), doing: "open it", source })?;
        Ok(Self { path: path.to_owned(), file, lines: Vec::with_capacity(64 * 1024) })
    }

    fn line(&mut self, tag: u8, numbers: &[u64]) {
        self.lines.push(tag);
        for number in numbers {
            self.lines.push(b' ');
            put_decimal(&mut self.lines, *number);
        }
        self.lines.push(b'\n');
    }

    /// A version is about to be sent.
    pub fn value_sent(&mut self, key: u64, version: u64) {
        self.line(b'S', &[key, version]);
    }

    /// A version was acknowledged.
    pub fn value_acked(&mut self, key: u64, version: u64) {
        self.line(b'A', &[key, version]);
    }

    /// An increment is about to be sent.
    pub fn increment_sent(&mut self, key: u64, most: u64) {
        self.line(b'I', &[key, most]);
    }

    /// An increment was answered.
    pub fn increment_acked(&mut self, key: u64, count: u64, most: u64) {
        self.line(b'C', &[key, count, most]);
    }

    /// Hands the lines to the kernel; to be called before what they announce is sent.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self) -> Result<(), JournalError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let done = self.file.write_all(&self.lines);
        self.lines.clear();
        done.map_err(|source| JournalError::Io { path: self.path.clone(), doing: "append to it", source })
    }
}

/// Whether the file's last line has no end.
fn ends_torn(path: &Path) -> bool {
    let mut last = [b'\n'];
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)
    });
    read.is_ok() && last != [b'\n']
}

/// What a journal says: the marks of all keys, and the prefix of their names. `None` if there is no such file.
///
/// # Errors
/// If it cannot be read, or holds lines that no run wrote.
pub fn read(path: &Path) -> Result<Option<(String, Ledger)>, JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), doing: "read it", source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut ledger, mut prefix, mut line, mut number) =
        (Ledger::default(), None::<String>, String::new(), 0);
    loop {
        line.clear();
        number += 1;
        if reader.read_line(&mut line).map_err(io)? == 0 {
            break;
        }
        // Torn: either still without its end, or ended by the run that came after.
        let Some(text) = line.strip_suffix('\n').filter(|text| !text.ends_with(" torn")) else { continue };
        let bad = |problem| JournalError::Line { path: path.to_owned(), line: number, problem };
        if let Some(name) = text.strip_prefix(MAGIC) {
            if prefix.as_deref().is_some_and(|earlier| earlier != name) {
                return Err(bad("an earlier run used another key prefix; use another journal"));
            }
            prefix = Some(name.to_owned());
        } else if prefix.is_none() {
            return Err(bad("this is not a journal of corduroy-load"));
        } else {
            apply(&mut ledger, text).map_err(bad)?;
        }
    }
    Ok(Some((prefix.unwrap_or_default(), ledger)))
}

fn apply(ledger: &mut Ledger, line: &str) -> Result<(), &'static str> {
    const BAD: &str = "not a line of a journal";
    let mut parts = line.split(' ');
    let tag = parts.next().ok_or(BAD)?;
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).ok_or(BAD);
    let key = number()?;
    if key >= KEYS_MAX {
        return Err("a key number is out of range");
    }
    match tag {
        "S" => {
            let (version, marks) = (number()?, ledger.marks_mut(Kind::Value, key));
            if version <= marks.sent {
                return Err("a version was sent twice: two runs at once wrote this journal");
            }
            marks.sent = version;
        }
        "A" => {
            let (version, marks) = (number()?, ledger.marks_mut(Kind::Value, key));
            if version > marks.sent {
                return Err("a version was acknowledged before it was sent");
            }
            marks.acked = marks.acked.max(version);
        }
        "I" => {
            let (most, marks) = (number()?, ledger.marks_mut(Kind::Counter, key));
            marks.sent = most;
        }
        "C" => {
            let (count, most, marks) = (number()?, number()?, ledger.marks_mut(Kind::Counter, key));
            if count < marks.acked || most < count {
                return Err("a counter went back");
            }
            (marks.acked, marks.sent) = (count, most);
        }
        _ => return Err(BAD),
    }
    if parts.next().is_some() { Err(BAD) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Marks;

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        Journal::begin_run(&path, "key:").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        journal.value_sent(7, 1);
        journal.value_sent(7, 2);
        journal.value_acked(7, 1);
        journal.increment_sent(3, 1);
        journal.increment_sent(3, 2);
        journal.increment_acked(3, 1, 2);
        journal.flush().unwrap();
        (folder, path)
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (_folder, path) = written();
        let (prefix, ledger) = read(&path).unwrap().unwrap();
        assert_eq!(prefix, "key:");
        assert_eq!(ledger.marks(Kind::Value, 7), Marks { acked: 1, sent: 2, waiting: 0 });
        assert_eq!(ledger.marks(Kind::Counter, 3), Marks { acked: 1, sent: 2, waiting: 0 });
        assert_eq!(read(&path.with_extension("none")).unwrap(), None);
    }

    /// Wherever the last line is cut, it counts for nothing, and a later run can go on behind it.
    #[test]
    fn a_torn_last_line_counts_for_nothing() {
        let (_folder, path) = written();
        let whole = std::fs::read(&path).unwrap();
        for torn in ["A 7 2", "A 7 ", "A", "S 9 1"] {
            std::fs::write(&path, [&whole, torn.as_bytes()].concat()).unwrap();
            let (_, ledger) = read(&path).unwrap().unwrap();
            assert_eq!(ledger.marks(Kind::Value, 7).acked, 1, "{torn:?}");
            assert_eq!(ledger.marks(Kind::Value, 9).sent, 0, "{torn:?}");

            Journal::begin_run(&path, "key:").unwrap();
            let mut journal = Journal::open(&path).unwrap();
            journal.value_sent(7, 3);
            journal.flush().unwrap();
            let (_, ledger) = read(&path).unwrap().unwrap();
            assert_eq!(ledger.marks(Kind::Value, 7), Marks { acked: 1, sent: 3, waiting: 0 }, "{torn:?}");
        }
    }

    #[test]
    fn foreign_and_contradictory_files_are_refused() {
        let (_folder, path) = written();
        let whole = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        for bad in [
            "A 7 3\n",
            "S 7 2\n",
            "X 1 2\n",
            "S 7 3 4\n",
            "C 3 0 2\n",
            "S x 1\n",
            "corduroy-load journal 1 other:\n",
        ] {
            std::fs::write(&path, format!("{whole}{bad}S 8 1\n")).unwrap();
            assert!(matches!(read(&path), Err(JournalError::Line { .. })), "{bad:?}");
        }
        std::fs::write(&path, "root:x:0:0\n").unwrap();
        assert!(matches!(read(&path), Err(JournalError::Line { line: 1, .. })));
    }
}
