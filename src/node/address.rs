//! Addresses of clients and of what they connect to.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where clients connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// What to do if it cannot be had, as the system says by `why`.
    pub fn remedy(&self, why: &io::Error) -> &'static str {
        use io::ErrorKind::{AddrInUse, NotADirectory, NotFound, PermissionDenied};
        match (self, why.kind()) {
            (Self::Tcp(_), _) => "choose another address by --listen",
            (Self::Unix(_), NotFound | NotADirectory) => {
                "make the folder that it lies in, or choose another path by --unix-socket"
            }
            (Self::Unix(_), PermissionDenied) => {
                "let this user write to the folder that it lies in, or choose another path by --unix-socket"
            }
            (Self::Unix(_), AddrInUse) => {
                "remove what is there if nobody uses it, or choose another path by --unix-socket"
            }
            (Self::Unix(_), _) => "choose another path by --unix-socket",
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The addresses of a connection's two ends, where they are known.
#[derive(Debug)]
pub struct Ends {
    /// The client's.
    pub peer: Option<Address>,
    /// The one it connected to.
    pub local: Option<Address>,
}

/// An address as Redis writes it: both ends of a Unix socket bear its path.
fn name(address: Option<&Address>) -> String {
    match address {
        None => "?:0".to_owned(),
        Some(Address::Tcp(address)) => address.to_string(),
        Some(Address::Unix(path)) => format!("{}:0", path.display()),
    }
}

impl Ends {
    /// The client's.
    pub fn peer(&self) -> String {
        name(self.peer.as_ref())
    }

    /// The one it connected to.
    pub fn local(&self) -> String {
        name(self.local.as_ref())
    }
}
