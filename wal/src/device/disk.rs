//! The device that the server uses: the ring where the kernel allows one, blocking calls where it does not.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::{
    AlignedBuffer, Completion, Device, DirectIo, FileDevice, IoId, Op, OpenError, SlotId, SyncMode,
    UnknownWord, UringDevice, UringOptions,
};

/// Which device to use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Engine {
    /// io_uring where the kernel allows it, else blocking calls.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Blocking calls.
    File,
}

impl FromStr for Engine {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "file" => Ok(Self::File),
            other => Err(UnknownWord::new("WAL engine", other, "auto, uring or file")),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::File => "file",
        })
    }
}

/// A WAL folder on a disk, by whichever means.
#[derive(Debug)]
pub enum DiskDevice {
    /// By io_uring.
    Uring(Box<UringDevice>),
    /// By blocking calls.
    File {
        /// The device.
        device: Box<FileDevice>,
        /// Why not by io_uring, where that was wanted.
        because: Option<String>,
    },
}

/// Runs the same call on whichever device there is.
macro_rules! either {
    ($self:ident, $device:ident => $call:expr) => {
        match $self {
            Self::Uring($device) => $call,
            Self::File { device: $device, .. } => $call,
        }
    };
}

impl DiskDevice {
    /// Opens (or makes) the folder and takes its lock.
    ///
    /// # Errors
    /// [`OpenError`]; with [`Engine::Auto`] a refused ring and a file system without O_DIRECT are not among them.
    pub fn open(path: &Path, engine: Engine, options: UringOptions) -> Result<Self, OpenError> {
        let because = match engine {
            Engine::File => None,
            Engine::Auto | Engine::Uring => match UringDevice::open(path, options) {
                Ok(device) => return Ok(Self::Uring(Box::new(device))),
                Err(e @ (OpenError::UringRefused { .. } | OpenError::NoDirectIo { .. }))
                    if engine == Engine::Auto =>
                {
                    Some(e.to_string())
                }
                Err(e) => return Err(e),
            },
        };
        let device = Box::new(FileDevice::open(path, DirectIo::Preferred)?);
        Ok(Self::File { device, because })
    }

    /// Readable whenever an operation may have ended; read 8 bytes to reset it. In blocking mode, so that it can
    /// be read through a ring.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        either!(self, device => device.event_fd())
    }

    /// Blocks until [`Device::poll`] may have something to collect, or until `timeout`.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        either!(self, device => device.wait(timeout))
    }

    /// Changes how durability is asked for, from the next write on. The blocking device knows one way only.
    pub fn set_sync_mode(&mut self, mode: SyncMode) {
        if let Self::Uring(device) = self {
            device.set_sync_mode(mode);
        }
    }

    /// How durability is asked for now: never [`SyncMode::Auto`].
    #[must_use]
    pub fn sync_mode(&self) -> SyncMode {
        match self {
            Self::Uring(device) => device.report().effective,
            Self::File { .. } => SyncMode::Inline,
        }
    }

    /// What is in use, as a line for the start-up log.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Uring(device) => device.report().to_string(),
            Self::File { device, because } => {
                let cache = if device.is_direct() { "O_DIRECT" } else { "through the page cache" };
                let because = because.as_ref().map_or(String::new(), |why| format!(" because {why}"));
                format!("blocking log writes, each with a flush behind it, {cache}{because}")
            }
        }
    }
}

impl Device for DiskDevice {
    type Buffer = AlignedBuffer;

    fn buffer(&mut self, min_bytes: usize) -> AlignedBuffer {
        either!(self, device => device.buffer(min_bytes))
    }

    fn recycle(&mut self, buffer: AlignedBuffer) {
        either!(self, device => device.recycle(buffer));
    }

    fn submit(&mut self, id: IoId, op: Op<AlignedBuffer>) {
        either!(self, device => device.submit(id, op));
    }

    fn in_flight(&self, id: IoId) -> Option<&[u8]> {
        either!(self, device => device.in_flight(id))
    }

    fn poll(&mut self, ended: &mut Vec<Completion<AlignedBuffer>>) {
        either!(self, device => device.poll(ended));
    }

    fn list(&mut self) -> io::Result<Vec<(SlotId, u64)>> {
        either!(self, device => device.list())
    }

    fn sync_all(&mut self) -> io::Result<()> {
        either!(self, device => device.sync_all())
    }

    fn read_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &mut AlignedBuffer,
        len: u32,
    ) -> io::Result<()> {
        either!(self, device => device.read_blocking(slot, offset, buffer, len))
    }

    fn write_blocking(
        &mut self,
        slot: SlotId,
        offset: u32,
        buffer: &AlignedBuffer,
        len: u32,
    ) -> io::Result<()> {
        either!(self, device => device.write_blocking(slot, offset, buffer, len))
    }

    fn create_blocking(&mut self, slot: SlotId, content: &[u8]) -> io::Result<()> {
        either!(self, device => device.create_blocking(slot, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocking_device_is_there_when_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let device = DiskDevice::open(dir.path(), Engine::File, UringOptions::default()).unwrap();
        assert!(device.describe().starts_with("blocking log writes"), "{}", device.describe());
        let held = DiskDevice::open(dir.path(), Engine::Auto, UringOptions::default()).unwrap_err();
        assert!(matches!(held, OpenError::Lock(_)), "a held folder is no reason to fall back: {held}");
    }

    #[test]
    fn engine_names_round_trip() {
        for engine in [Engine::Auto, Engine::Uring, Engine::File] {
            assert_eq!(engine.to_string().parse::<Engine>(), Ok(engine));
        }
        assert!("posix".parse::<Engine>().unwrap_err().to_string().contains("uring"));
    }
}
