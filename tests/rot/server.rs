//! A server process, and what it answers, over a raw socket: a start and a few hundred reads cost a fraction of a second.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a start, an answer or an end may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Value(Option<Vec<u8>>),
    Text(String),
    Number(i64),
    Error(String),
}

pub struct Server {
    child: Child,
    port: u16,
    log: PathBuf,
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port()
}

impl Server {
    /// Starts the binary on a folder; what it says goes to a file beside that.
    pub fn spawn(folder: &Path, more: &[String]) -> Self {
        let port = free_port();
        let log = folder.with_extension("log");
        let server = std::env::var_os("ROT_SERVER").unwrap_or_else(|| env!("CARGO_BIN_EXE_corduroy").into());
        let mut command = Command::new(server);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CORDUROY_")) {
            command.env_remove(name);
        }
        let child = command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--log-format", "text", "--data-dir"])
            .arg(folder)
            .args(["--wal-segment-bytes", "4MiB", "--wal-spare-segments", "1", "--max-bulk-bytes", "1MiB"])
            .args(["--memory-bytes", "2MiB", "--pool-threads", "1"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::from(File::create(&log).expect("a log")))
            .spawn()
            .expect("the binary starts");
        Self { child, port, log }
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it serves, or has ended instead; `None`: neither came.
    pub fn await_ready(&mut self) -> Option<Result<(), ExitStatus>> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.log().contains("ready for connections") {
                return Some(Ok(()));
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                return Some(Err(status));
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        None
    }

    pub fn connect(&self) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { reader: BufReader::new(stream.try_clone()?), stream })
    }

    /// Its end, if it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    pub fn kill_9(&mut self) {
        // It may have ended by itself, which the caller has looked for.
        let _ = self.child.kill();
        self.child.wait().expect("wait");
    }

    /// Stops it as an operator does; `None`: it did not end.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        killed.expect("kill");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        None
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill_9();
    }
}

pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Sends requests at once and reads their answers.
    pub fn ask(&mut self, requests: &[Vec<&[u8]>]) -> std::io::Result<Vec<Answer>> {
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
            for part in request {
                bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
                bytes.extend_from_slice(part);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.stream.write_all(&bytes)?;
        requests.iter().map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> std::io::Result<Answer> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("the connection was closed"));
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at(1.min(line.len()));
        let number = || rest.parse::<i64>().map_err(|_| std::io::Error::other(format!("no number: {line}")));
        Ok(match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Number(number()?),
            "$" => match number()? {
                -1 => Answer::Value(None),
                len => {
                    let mut value = vec![0; usize::try_from(len).map_err(std::io::Error::other)? + 2];
                    self.reader.read_exact(&mut value)?;
                    value.truncate(value.len() - 2);
                    Answer::Value(Some(value))
                }
            },
            _ => return Err(std::io::Error::other(format!("an answer of another kind: {line}"))),
        })
    }
}
