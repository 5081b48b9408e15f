//! SIGTERM and SIGINT: the first drains, the second ends at once, unless it comes with the first. SIGHUP changes nothing, and says so.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::log;
use super::notify;
use super::shared::{Phase, Shared};

/// Signals so soon after the first count as one: `timeout` and shells send one to the process and one to its group.
const ONE_STOP: Duration = Duration::from_millis(300);

/// Watches for signals on a thread of its own.
///
/// # Errors
/// What the system says.
pub fn watch(shared: Arc<Shared>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked_at: Option<Instant> = None;
        for signal in signals.forever() {
            if signal == SIGHUP {
                tracing::info!(
                    "SIGHUP changes nothing: logs go to stderr, and settings change by CONFIG SET or a restart"
                );
                continue;
            }
            if let Some(at) = asked_at {
                if at.elapsed() < ONE_STOP {
                    continue;
                }
                tracing::warn!(signal, "asked to stop again: ending at once");
                log::flush();
                std::process::exit(128 + signal);
            }
            tracing::info!(
                signal,
                "asked to stop: finishing what is under way; once more, {} ms from now or later, ends at once",
                ONE_STOP.as_millis()
            );
            asked_at = Some(Instant::now());
            notify::say("STOPPING=1");
            shared.set_phase(Phase::Draining);
        }
    })?;
    Ok(())
}
