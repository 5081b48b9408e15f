//! The journal of a run: what was sent and what was acknowledged, so that a crashed server can be checked later.
//!
//! A text file that is only appended to; several runs may follow each other in one. Lines:
//!
//! ```text
//! corduroy-load journal 2 server=HOST:PORT auth=yes|no prefix=PREFIX
//!                                   a run begins, on this server; whether with a password, which never stands here
//! corduroy-load journal 1 PREFIX    the same, as older versions wrote it
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

const MAGIC: &str = "corduroy-load journal 2 ";
/// Without a server.
const MAGIC_1: &str = "corduroy-load journal 1 ";

/// The server that a run was on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunServer {
    /// Its host and port, as they were given.
    pub addr: String,
    /// Whether the run gave a password.
    pub with_password: bool,
}

/// What a journal says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Kept {
    /// What the names of its keys start with.
    pub prefix: String,
    /// The server of the last run; older versions did not note it.
    pub server: Option<RunServer>,
    /// The marks of all keys.
    pub ledger: Ledger,
}

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
    pub fn begin_run(path: &Path, server: &RunServer, prefix: &str) -> Result<(), JournalError> {
        let torn = ends_torn(path);
        let mut journal = Self::open(path)?;
        if torn {
            journal.lines.extend_from_slice(b" torn\n");
        }
        let RunServer { addr, with_password } = server;
        let auth = if *with_password { "yes" } else { "no" };
        let line = format!("{MAGIC}server={addr} auth={auth} prefix={prefix}\n");
        journal.lines.extend_from_slice(line.as_bytes());
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

/// What a journal says. `None` if there is no such file.
///
/// # Errors
/// If it cannot be read, or holds lines that no run wrote.
pub fn read(path: &Path) -> Result<Option<Kept>, JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), doing: "read it", source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut kept, mut has_begun, mut line, mut number) = (Kept::default(), false, String::new(), 0);
    loop {
        line.clear();
        number += 1;
        if reader.read_line(&mut line).map_err(io)? == 0 {
            break;
        }
        // Torn: either still without its end, or ended by the run that came after.
        let Some(text) = line.strip_suffix('\n').filter(|text| !text.ends_with(" torn")) else { continue };
        let bad = |problem| JournalError::Line { path: path.to_owned(), line: number, problem };
        if let Some((server, prefix)) = beginning(text) {
            if has_begun && kept.prefix != prefix {
                return Err(bad("an earlier run used another key prefix; use another journal"));
            }
            (has_begun, kept.prefix) = (true, prefix.to_owned());
            kept.server = server.or(kept.server);
        } else if has_begun {
            apply(&mut kept.ledger, text).map_err(bad)?;
        } else {
            return Err(bad("this is not a journal of corduroy-load, or a later version's"));
        }
    }
    Ok(Some(kept))
}

/// What the line says with which a run begins: its server, if it names one, and the prefix of its keys.
fn beginning(line: &str) -> Option<(Option<RunServer>, &str)> {
    if let Some(prefix) = line.strip_prefix(MAGIC_1) {
        return Some((None, prefix));
    }
    let (addr, rest) = line.strip_prefix(MAGIC)?.strip_prefix("server=")?.split_once(' ')?;
    let (auth, prefix) = rest.strip_prefix("auth=")?.split_once(' ')?;
    let with_password = match auth {
        "yes" => true,
        "no" => false,
        _ => return None,
    };
    Some((Some(RunServer { addr: addr.to_owned(), with_password }), prefix.strip_prefix("prefix=")?))
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

    fn server() -> RunServer {
        RunServer { addr: "db.example:7379".to_owned(), with_password: true }
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        Journal::begin_run(&path, &server(), "key:").unwrap();
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
        let Kept { prefix, server: named, ledger } = read(&path).unwrap().unwrap();
        assert_eq!((prefix.as_str(), named), ("key:", Some(server())));
        assert_eq!(ledger.marks(Kind::Value, 7), Marks { acked: 1, sent: 2, waiting: 0 });
        assert_eq!(ledger.marks(Kind::Counter, 3), Marks { acked: 1, sent: 2, waiting: 0 });
        assert_eq!(read(&path.with_extension("none")).unwrap(), None);
    }

    /// A journal of an older version is read and gone on with; the last server that any run named counts.
    #[test]
    fn a_journal_without_a_server_is_read_and_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, "corduroy-load journal 1 a prefix \nS 7 1\nA 7 1\n").unwrap();
        let kept = read(&path).unwrap().unwrap();
        assert_eq!((kept.prefix.as_str(), kept.server), ("a prefix ", None));
        assert_eq!(kept.ledger.marks(Kind::Value, 7).acked, 1);
        for addr in ["one:1", "[::1]:2"] {
            let server = RunServer { addr: addr.to_owned(), with_password: false };
            Journal::begin_run(&path, &server, "a prefix ").unwrap();
            assert_eq!(read(&path).unwrap().unwrap().server, Some(server));
        }
        assert_eq!(read(&path).unwrap().unwrap().ledger.marks(Kind::Value, 7).acked, 1);
    }

    /// Wherever the last line is cut, it counts for nothing, and a later run can go on behind it.
    #[test]
    fn a_torn_last_line_counts_for_nothing() {
        let (_folder, path) = written();
        let whole = std::fs::read(&path).unwrap();
        for torn in ["A 7 2", "A 7 ", "A", "S 9 1"] {
            std::fs::write(&path, [&whole, torn.as_bytes()].concat()).unwrap();
            let ledger = read(&path).unwrap().unwrap().ledger;
            assert_eq!(ledger.marks(Kind::Value, 7).acked, 1, "{torn:?}");
            assert_eq!(ledger.marks(Kind::Value, 9).sent, 0, "{torn:?}");

            Journal::begin_run(&path, &server(), "key:").unwrap();
            let mut journal = Journal::open(&path).unwrap();
            journal.value_sent(7, 3);
            journal.flush().unwrap();
            let ledger = read(&path).unwrap().unwrap().ledger;
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
            "corduroy-load journal 2 server=a:1 auth=no prefix=other:\n",
            "corduroy-load journal 2 server=a:1 auth=maybe prefix=key:\n",
            "corduroy-load journal 3 server=a:1 auth=no prefix=key:\n",
        ] {
            std::fs::write(&path, format!("{whole}{bad}S 8 1\n")).unwrap();
            assert!(matches!(read(&path), Err(JournalError::Line { .. })), "{bad:?}");
        }
        std::fs::write(&path, "root:x:0:0\n").unwrap();
        assert!(matches!(read(&path), Err(JournalError::Line { line: 1, .. })));
    }
}
