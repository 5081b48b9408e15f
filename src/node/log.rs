//! Logs go to stderr through a bounded queue and a thread of their own: a core never waits for a terminal or a pipe.
//!
//! Invariant: a line is written whole or not at all. When the queue is full, lines are dropped and the number is logged.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogLevel};

/// Lines that may wait for the writer.
const QUEUE_LINES: usize = 4096;

/// How long the end of the process waits for its last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

static WRITER: OnceLock<SyncSender<Item>> = OnceLock::new();
/// The level in force, and what changes it.
static LEVEL: OnceLock<Mutex<(LogLevel, Change)>> = OnceLock::new();
/// Puts a level in force; whether it is.
type Change = Box<dyn Fn(LogLevel) -> bool + Send + Sync>;
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Starts logging. Later calls do nothing.
pub fn start(level: LogLevel, format: LogFormat) {
    let (sender, receiver) = sync_channel(QUEUE_LINES);
    if WRITER.set(sender).is_err() {
        return;
    }
    let thread = std::thread::Builder::new().name("log".into()).spawn(move || write_all(&receiver));
    if let Err(error) = thread {
        last_words(LogFormat::Text, &[format!("no thread for logs ({error}); there will be none")]);
        return;
    }
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_writer(Queue);
    if format == LogFormat::Json {
        let builder = builder.json().flatten_event(true).with_target(false);
        let builder = builder.with_env_filter(filter(level)).with_filter_reloading();
        let handle = builder.reload_handle();
        remember(level, move |level| handle.reload(filter(level)).is_ok());
        builder.init();
    } else {
        let builder = builder.with_ansi(terminal).with_target(false);
        let builder = builder.with_env_filter(filter(level)).with_filter_reloading();
        let handle = builder.reload_handle();
        remember(level, move |level| handle.reload(filter(level)).is_ok());
        builder.init();
    }
}

/// What is logged at a level. Other crates' events are theirs to care about, unless they warn.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("warn,corduroy={level},corduroy_wal={level},corduroy_shards={level}"))
}

fn remember(level: LogLevel, reload: impl Fn(LogLevel) -> bool + Send + Sync + 'static) {
    let _ = LEVEL.set(Mutex::new((level, Box::new(reload))));
}

/// Changes what is logged from now on. Does nothing before [`start`].
pub fn set_level(level: LogLevel) {
    let Some(current) = LEVEL.get() else { return };
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    if current.0 != level && (current.1)(level) {
        current.0 = level;
    }
}

/// Says why the process ends, after all that was logged: as plain text, or as an event of its own where logs are JSON.
/// Whether logging was started does not matter.
pub fn last_words(format: LogFormat, lines: &[String]) {
    if format == LogFormat::Json {
        start(LogLevel::Info, format);
        lines.iter().for_each(|line| tracing::error!("{}", line.trim()));
        flush();
        return;
    }
    flush();
    let mut stderr = io::stderr().lock();
    for (at, line) in lines.iter().enumerate() {
        // If stderr is closed, nobody is left to read it.
        let _ = writeln!(stderr, "{}{line}", if at == 0 { "corduroy: " } else { "" });
    }
}

/// Waits until what was logged so far is written, but not for ever.
pub fn flush() {
    let Some(writer) = WRITER.get() else { return };
    let (done, wait) = sync_channel(1);
    if writer.try_send(Item::Flush(done)).is_ok() {
        let _ = wait.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn write_all(items: &Receiver<Item>) {
    let mut stderr = io::stderr();
    for item in items {
        // If stderr is closed, nobody is left to read it.
        match item {
            Item::Line(line) => {
                let _ = stderr.write_all(&line);
                let dropped = DROPPED.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    let _ = writeln!(stderr, "{dropped} log lines were dropped: stderr is too slow");
                }
            }
            Item::Flush(done) => {
                let _ = stderr.flush();
                let _ = done.try_send(());
            }
        }
    }
}

/// Gives each event its line buffer.
struct Queue;

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::with_capacity(256))
    }
}

/// One event's bytes, handed over when complete.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(writer) = WRITER.get() else { return };
        if let Err(TrySendError::Full(_)) = writer.try_send(Item::Line(std::mem::take(&mut self.0))) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}
