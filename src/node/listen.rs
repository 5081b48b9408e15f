//! Accepts connections: every core listens on the main port, and on one of its own where configured.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use corduroy_shards::runtime::core::yield_now;
use corduroy_shards::runtime::{Listener, Signal, Socket, sleep, spawn_local};

use super::connection;
use super::core::Core;

/// Connections accepted in a row before others of the core get their turn.
const ACCEPT_BATCH: u32 = 32;

/// Starts listening.
///
/// # Errors
/// The address, and what the system says.
pub fn start(core: &Rc<Core>) -> Result<(), (SocketAddr, io::Error)> {
    let config = core.config();
    let mut addresses = vec![config.listen];
    if config.core_ports > 0 {
        let number = u16::try_from(core.index).unwrap_or(u16::MAX);
        let mut own = config.listen;
        own.set_port(config.core_ports.saturating_add(number));
        addresses.push(own);
    }
    for address in addresses {
        let listener = Listener::bind(address).map_err(|error| (address, error))?;
        if address == config.listen {
            core.shared.say_ready(listener.local_addr().unwrap_or(address));
        }
        let stop = Signal::new();
        core.stops.borrow_mut().push(Rc::clone(&stop));
        let core = Rc::clone(core);
        spawn_local(async move { accept(core, listener, stop).await });
    }
    Ok(())
}

/// Accepts until told to stop.
async fn accept(core: Rc<Core>, listener: Listener, stop: Rc<Signal>) {
    let mut in_a_row = 0;
    loop {
        match unless(&stop, listener.accept()).await {
            None => return,
            Some(Ok(socket)) => admit(&core, socket),
            Some(Err(error)) => {
                // Out of descriptors, most of all: it would fail at once again.
                tracing::warn!(%error, "a connection could not be accepted");
                if unless(&stop, sleep(Duration::from_millis(100))).await.is_none() {
                    return;
                }
            }
        }
        in_a_row += 1;
        if in_a_row == ACCEPT_BATCH {
            in_a_row = 0;
            yield_now().await;
        }
    }
}

/// Takes a connection in, if there is room for one more.
fn admit(core: &Rc<Core>, socket: Socket) {
    let before = core.shared.connections.fetch_add(1, Ordering::Relaxed);
    if before >= core.config().max_clients {
        connection::refuse(core, &socket);
    } else {
        connection::open(core, socket);
    }
}

/// The future's outcome, or `None` if the signal is raised first.
async fn unless<T>(stop: &Signal, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if stop.poll_raised(cx).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
