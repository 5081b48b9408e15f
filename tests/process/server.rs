//! A server process on a free port and a folder of its own; killed when the test ends.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a start may take on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    child: Child,
    pub port: u16,
    log: Arc<Mutex<String>>,
    /// Reads what it logs, until it has ended.
    reader: Option<JoinHandle<()>>,
}

/// A data folder on a disk: the server refuses one in memory.
pub fn data_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// A port that nobody listens on now, and that nobody here was given before: the system gives one again that is not used yet.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
        if GIVEN.lock().expect("nobody panics with it").insert(port) {
            return port;
        }
    }
}

/// The server that is tested: the one that was built, or another that is named.
pub fn binary() -> OsString {
    std::env::var_os("PROCESS_SERVER").unwrap_or_else(|| env!("CARGO_BIN_EXE_corduroy").into())
}

/// The binary with these arguments and none of the environment's settings.
pub fn corduroy(args: &[&str]) -> Command {
    corduroy_under(&[], args)
}

/// The same, started by another program, which becomes it.
pub fn corduroy_under(launcher: &[&str], args: &[&str]) -> Command {
    let mut words = launcher.iter().map(OsString::from).chain([binary()]);
    let mut command = Command::new(words.next().expect("the binary at least"));
    command.args(words);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CORDUROY_")) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

impl Server {
    /// Starts a server and waits until it takes connections.
    pub fn start(folder: &Path, more: &[&str]) -> Self {
        let mut server = Self::spawn(folder, free_port(), more);
        if let Err(status) = server.await_ready() {
            panic!("the server ended with {status}:\n{}", server.log());
        }
        server
    }

    /// The same for a server that may have so many files open.
    pub fn start_limited(folder: &Path, files: usize, more: &[&str]) -> Self {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n $0 && exec \"$@\"", &files.to_string()]);
        let mut server = Self::spawn_by(Some(limited), folder, free_port(), more);
        if let Err(status) = server.await_ready() {
            panic!("the server ended with {status}:\n{}", server.log());
        }
        server
    }

    /// Waits until it takes connections, or has ended instead.
    pub fn await_ready(&mut self) -> Result<(), ExitStatus> {
        let begun = Instant::now();
        while !self.log().contains("ready for connections") {
            if let Some(status) = self.child.try_wait().expect("a child") {
                self.read_last_words();
                return Err(status);
            }
            assert!(begun.elapsed() < START, "not ready in time:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts a server by way of another program and waits until it takes connections.
    pub fn start_under(launcher: &[&str], folder: &Path, more: &[&str]) -> Self {
        let mut server = Self::spawn_under(launcher, folder, free_port(), more);
        if let Err(status) = server.await_ready() {
            panic!("the server ended with {status}:\n{}", server.log());
        }
        server
    }

    /// Starts a server without waiting.
    pub fn spawn(folder: &Path, port: u16, more: &[&str]) -> Self {
        Self::spawn_by(None, folder, port, more)
    }

    /// Starts a server by way of another program, which becomes it, without waiting.
    pub fn spawn_under(launcher: &[&str], folder: &Path, port: u16, more: &[&str]) -> Self {
        let by = launcher.split_first().map(|(program, words)| {
            let mut by = Command::new(program);
            by.args(words);
            by
        });
        Self::spawn_by(by, folder, port, more)
    }

    /// The same, started by a command that is given its command line.
    fn spawn_by(by: Option<Command>, folder: &Path, port: u16, more: &[&str]) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let folder = folder.to_str().expect("an ordinary path");
        let serve = corduroy(&["serve", "--data-dir", folder, "--listen", &listen]);
        let mut command = match by {
            None => serve,
            Some(mut by) => {
                by.arg(serve.get_program()).args(serve.get_args());
                for (name, value) in serve.get_envs() {
                    match value {
                        Some(value) => by.env(name, value),
                        None => by.env_remove(name),
                    };
                }
                by
            }
        };
        let mut child = command
            // Small segments: the disk is shared with other tests.
            .args(["--wal-segment-bytes", "4MiB"].iter().filter(|_| !more.contains(&"--wal-segment-bytes")))
            .args(["--max-bulk-bytes", "1MiB"])
            .args(["--memory-bytes", "64MiB"].iter().filter(|_| !more.contains(&"--memory-bytes")))
            .args(["--log-format", "text"])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("piped");
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = lines.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, port, log, reader: Some(reader) }
    }

    /// Waits until all is read that a process has said which has ended.
    fn read_last_words(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("it reads to the end");
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// A raw connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        stream
    }

    /// A client's connection.
    pub fn client(&self) -> redis::Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))
            .and_then(|client| client.get_connection())
            .expect("connect")
    }

    /// The same of a client that has the password.
    pub fn client_with_password(&self, password: &str) -> redis::Connection {
        redis::Client::open(format!("redis://:{password}@127.0.0.1:{}/", self.port))
            .and_then(|client| client.get_connection())
            .expect("connect")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As the power cut of a process: no handler runs.
    pub fn kill_9(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status().expect("kill");
        assert!(status.success());
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits for its end, which must come by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                self.read_last_words();
                return status;
            }
            assert!(begun.elapsed() < START, "it did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it as an operator does, and checks that it ended well.
    pub fn stop(mut self) {
        self.signal("-TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends bytes and reads exactly as many as are expected, which must be these.
pub fn exchange(stream: &mut TcpStream, send: &[u8], expect: &[u8]) {
    stream.write_all(send).expect("send");
    let mut got = vec![0; expect.len()];
    stream.read_exact(&mut got).expect("a reply");
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expect));
}

/// Runs the binary to its end: exit code, stdout, stderr.
pub fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = corduroy(args).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The CPUs that this process may use, as `--cores` wants them.
pub fn cpus() -> Vec<usize> {
    corduroy_shards::runtime::CpuSet::of_this_thread().expect("affinity").cpus().to_vec()
}

/// A path as text.
pub fn text(path: &Path) -> String {
    PathBuf::from(path).to_str().expect("an ordinary path").to_owned()
}
