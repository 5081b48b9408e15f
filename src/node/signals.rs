//! SIGTERM and SIGINT: the first drains, the second ends at once.

use std::io;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::log;
use super::shared::{Phase, Shared};

/// Watches for signals on a thread of its own.
///
/// # Errors
/// What the system says.
pub fn watch(shared: Arc<Shared>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                tracing::warn!(signal, "told to stop again: ending at once");
                log::flush();
                std::process::exit(128 + signal);
            }
            tracing::info!(signal, "told to stop: finishing what is under way; once more ends at once");
            shared.set_phase(Phase::Draining);
        }
    })?;
    Ok(())
}
