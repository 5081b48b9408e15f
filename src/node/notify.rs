//! Notifies a service manager of the server's state: systemd's protocol, a datagram to the socket named by `NOTIFY_SOCKET`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the service manager listens, if there is one.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Notifies it, if there is one. It never waits; what cannot be sent is logged.
pub fn say(state: &str) {
    let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&name, state) {
        tracing::warn!(
            "the service manager could not be notified of {state} by {VARIABLE}={}: {error}",
            name.display()
        );
    }
}

/// Sends to a path, or to an abstract name, which is written with an @ before it.
fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names_are_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("bound");
        let name = format!("corduroy-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("bound");
        for (socket, name) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            send(&name, "READY=1").expect("told");
            let mut told = [0; 64];
            let count = socket.recv(&mut told).expect("heard");
            assert_eq!(&told[..count], b"READY=1");
        }
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1").is_err());
    }
}
