//! Reads back every key that a run wrote, and reports which acknowledged writes are lost and which values nobody wrote.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::conn::{Answer, ConnectError, ask, connect, read_answer};
use crate::ledger::{Finding, Kind, Ledger, Marks, judge};
use crate::resp::put_request;
use crate::workload::name_of;

/// Keys asked for at once.
const BATCH_KEYS: usize = 256;

/// Keys of each kind of finding that are listed one by one.
const EXAMPLES_MAX: usize = 10;

/// Why the keys could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the connection to {addr} broke while reading back: {source}")]
    Io {
        /// The server.
        addr: SocketAddr,
        /// How.
        source: std::io::Error,
    },
    /// A key could not be read.
    #[error("GET {key} was answered with an error: {reply}")]
    Refused {
        /// The key.
        key: String,
        /// The answer.
        reply: String,
    },
    /// The server is still not ready.
    #[error("{addr} is still not ready after {waited_s} s: {reply}")]
    NotReady {
        /// The server.
        addr: SocketAddr,
        /// How long it was waited for.
        waited_s: u64,
        /// What it answers.
        reply: String,
    },
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Verdict {
    /// Keys read back: all that were ever sent.
    pub keys: u64,
    /// Keys with an acknowledged write.
    pub keys_acked: u64,
    /// Keys whose newest write was not acknowledged and is there all the same, which is allowed.
    pub unanswered_but_there: u64,
    /// Keys that lost an acknowledged write.
    pub lost: u64,
    /// Keys that hold what was never sent to them.
    pub never_written: u64,
    /// Some of the last two, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.never_written == 0
    }

    fn take(&mut self, kind: Kind, key: u64, marks: Marks, name: &[u8], value: Option<&[u8]>) {
        self.keys += 1;
        self.keys_acked += u64::from(marks.acked > 0);
        let finding = judge(kind, key, marks, value);
        let name = String::from_utf8_lossy(name);
        let text = match finding {
            Finding::Fine(version) => {
                self.unanswered_but_there += u64::from(version > marks.acked);
                return;
            }
            Finding::Lost { found: 0 } => {
                self.lost += 1;
                format!("{name}: lost: version {} was acknowledged, the key is not there", marks.acked)
            }
            Finding::Lost { found } => {
                self.lost += 1;
                format!("{name}: lost: version {} was acknowledged, version {found} is there", marks.acked)
            }
            Finding::NeverWritten => {
                self.never_written += 1;
                let value = value.map(String::from_utf8_lossy).unwrap_or_default();
                let shown: String = value.chars().take(80).collect();
                format!("{name}: never written: {shown:?} (versions up to {} were sent)", marks.sent)
            }
        };
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }
}

/// Waits until the server answers PING with PONG, for at most `patience`.
///
/// # Errors
/// If it does not by then.
pub fn wait_until_ready(
    addr: SocketAddr,
    password: Option<&str>,
    patience: Duration,
) -> Result<TcpStream, CheckError> {
    let begin = Instant::now();
    loop {
        let problem = match connect(addr, password) {
            Err(error @ ConnectError::Auth { .. }) => return Err(error.into()),
            Err(error) => CheckError::from(error),
            Ok(mut stream) => match ask(&mut stream, &mut Vec::new(), &[b"PING"]) {
                Ok(Answer::Bytes(_)) => return Ok(stream),
                Ok(answer) => {
                    let reply = match answer {
                        Answer::Error(text) => text,
                        other => format!("{other:?}"),
                    };
                    CheckError::NotReady { addr, waited_s: patience.as_secs(), reply }
                }
                Err(source) => CheckError::Io { addr, source },
            },
        };
        if begin.elapsed() >= patience {
            return Err(problem);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads back all keys of the ledger and judges them.
///
/// # Errors
/// If the server cannot be reached within `patience`, or a key cannot be read.
pub fn check(
    addr: SocketAddr,
    password: Option<&str>,
    patience: Duration,
    prefix: &str,
    ledger: &Ledger,
) -> Result<Verdict, CheckError> {
    let mut stream = wait_until_ready(addr, password, patience)?;
    let io = |source| CheckError::Io { addr, source };
    stream.set_read_timeout(Some(patience.max(Duration::from_secs(10)))).map_err(io)?;
    let (mut verdict, mut request, mut inbox) = (Verdict::default(), Vec::new(), Vec::new());
    let keys: Vec<_> = ledger.keys().collect();
    for batch in keys.chunks(BATCH_KEYS) {
        request.clear();
        for (kind, key, _) in batch {
            put_request(&mut request, &[b"GET", &name_of(*kind, prefix, *key)]);
        }
        stream.write_all(&request).map_err(io)?;
        for (kind, key, marks) in batch {
            let name = name_of(*kind, prefix, *key);
            let answer = read_answer(&mut stream, &mut inbox).map_err(io)?;
            let refused =
                |reply| CheckError::Refused { key: String::from_utf8_lossy(&name).into_owned(), reply };
            match &answer {
                Answer::Bytes(value) => verdict.take(*kind, *key, *marks, &name, Some(value)),
                Answer::Nil => verdict.take(*kind, *key, *marks, &name, None),
                Answer::Error(text) => return Err(refused(text.clone())),
                other => return Err(refused(format!("{other:?}"))),
            }
        }
    }
    Ok(verdict)
}
