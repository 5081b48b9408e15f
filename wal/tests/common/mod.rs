//! Devices under test, and the means to drive one operation after another.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code, and each binary uses a part"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use corduroy_wal::device::folder::slot_file_name;
use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::device::{
    Completion, Device, DiskDevice, Engine, IoId, Op, OpenError, SlotId, SyncMode, UringOptions,
};

pub const SLOT_BYTES: u32 = 256 << 10;

/// One way to open a folder.
pub type Open = fn(&Path) -> Result<DiskDevice, OpenError>;

/// What a device is opened on, once for every process that uses it.
pub trait Medium {
    type Device: Device;

    fn open(&self) -> Self::Device;

    /// Waits until something may have ended.
    fn wait(device: &mut Self::Device);

    /// Nothing lies there but these slots.
    fn holds_only(&self, slots: &[u32]);
}

/// A folder, opened in one of the ways.
pub struct OnDisk {
    pub dir: tempfile::TempDir,
    pub open: Open,
}

impl OnDisk {
    pub fn new(open: Open) -> Self {
        Self { dir: tempfile::tempdir_in(scratch()).unwrap(), open }
    }
}

impl Medium for OnDisk {
    type Device = DiskDevice;

    fn open(&self) -> DiskDevice {
        (self.open)(self.dir.path()).unwrap()
    }

    fn wait(device: &mut DiskDevice) {
        device.wait(Duration::from_secs(1)).unwrap();
    }

    fn holds_only(&self, slots: &[u32]) {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let slots = slots.iter().map(|slot| slot_file_name(SlotId(*slot)));
        assert_eq!(names, std::iter::once("LOCK".to_owned()).chain(slots).collect::<Vec<_>>());
    }
}

impl Medium for MemDisk {
    type Device = MemDevice;

    fn open(&self) -> MemDevice {
        // The process before has ended.
        self.kill();
        self.device()
    }

    fn wait(device: &mut MemDevice) {
        assert!(device.disk().pending() > 0, "nothing is under way that could end");
    }

    fn holds_only(&self, slots: &[u32]) {
        assert_eq!(self.slots(), slots.iter().map(|slot| SlotId(*slot)).collect::<Vec<_>>());
    }
}

fn uring(path: &Path, sync: SyncMode, registered_buffers: u16) -> Result<DiskDevice, OpenError> {
    let options = UringOptions { sync, registered_buffers, ..UringOptions::default() };
    let device = DiskDevice::open(path, Engine::Uring, options)?;
    if let DiskDevice::Uring(ring) = &device {
        assert_eq!(ring.report().registered_bytes > 0, registered_buffers > 0);
    }
    Ok(device)
}

pub fn linked(path: &Path) -> Result<DiskDevice, OpenError> {
    uring(path, SyncMode::Linked, 4)
}

pub fn dsync(path: &Path) -> Result<DiskDevice, OpenError> {
    uring(path, SyncMode::Dsync, 4)
}

pub fn inline(path: &Path) -> Result<DiskDevice, OpenError> {
    uring(path, SyncMode::Inline, 4)
}

pub fn unregistered(path: &Path) -> Result<DiskDevice, OpenError> {
    uring(path, SyncMode::Auto, 0)
}

pub fn file(path: &Path) -> Result<DiskDevice, OpenError> {
    DiskDevice::open(path, Engine::File, UringOptions::default())
}

/// Waits for `count` completions.
pub fn collect<M: Medium>(
    device: &mut M::Device,
    count: usize,
) -> Vec<Completion<<M::Device as Device>::Buffer>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut ended = Vec::new();
    while ended.len() < count {
        assert!(Instant::now() < deadline, "{count} operations did not end: {ended:?}");
        device.poll(&mut ended);
        if ended.len() < count {
            M::wait(device);
        }
    }
    assert_eq!(ended.len(), count);
    ended
}

pub fn run<M: Medium>(
    device: &mut M::Device,
    op: Op<<M::Device as Device>::Buffer>,
) -> Completion<<M::Device as Device>::Buffer> {
    device.submit(IoId(77), op);
    let mut ended = collect::<M>(device, 1);
    let done = ended.pop().unwrap();
    assert_eq!(done.id, IoId(77));
    done
}

pub fn create<M: Medium>(device: &mut M::Device, slot: u32) {
    run::<M>(device, Op::Create { slot: SlotId(slot), bytes: SLOT_BYTES }).result.unwrap();
}

/// A buffer filled with bytes told by `seed` and their place.
pub fn pattern<D: Device>(device: &mut D, seed: u64, len: usize) -> D::Buffer {
    let mut buffer = device.buffer(len);
    for (place, byte) in buffer.iter_mut().enumerate() {
        *byte = (seed.wrapping_mul(0x9e37_79b9) >> 7) as u8 ^ (place / 64) as u8;
    }
    buffer
}

pub fn write<M: Medium>(device: &mut M::Device, slot: u32, offset: u32, seed: u64, len: u32) {
    let buffer = pattern(device, seed, len as usize);
    let done = run::<M>(device, Op::WriteDurable { slot: SlotId(slot), offset, buffer, len });
    done.result.unwrap();
    device.recycle(done.buffer.expect("handed back"));
}

pub fn expect<M: Medium>(device: &mut M::Device, slot: u32, offset: u32, seed: u64, len: u32) {
    let wanted = pattern(device, seed, len as usize);
    let buffer = device.buffer(len as usize);
    let done = run::<M>(device, Op::Read { slot: SlotId(slot), offset, buffer, len });
    done.result.unwrap();
    let got = done.buffer.unwrap();
    assert!(got[..len as usize] == wanted[..len as usize], "slot {slot} at {offset}: other bytes");
    let mut blocking = device.buffer(len as usize);
    device.read_blocking(SlotId(slot), offset, &mut blocking, len).unwrap();
    assert!(blocking[..len as usize] == wanted[..len as usize]);
}

/// On the disk, not in a memory file system.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Runs each of the named tests on the memory device, and on a folder opened in each way.
#[macro_export]
macro_rules! conformance {
    ($($test:ident)*) => {
        mod memory {
            $(#[test]
            fn $test() {
                super::$test(corduroy_wal::device::mem::MemDisk::new(1));
            })*
        }
        $crate::on_disks!($($test)*);
    };
}

/// Runs each of the named tests on a folder opened in each way.
#[macro_export]
macro_rules! on_disks {
    ($($test:ident)*) => {
        $crate::on_disks!(@with file, $($test)*);
        $crate::on_disks!(@with linked, $($test)*);
        $crate::on_disks!(@with dsync, $($test)*);
        $crate::on_disks!(@with inline, $($test)*);
        $crate::on_disks!(@with unregistered, $($test)*);
    };
    (@with $open:ident, $($test:ident)*) => {
        mod $open {
            $(#[test]
            fn $test() {
                super::$test($crate::common::OnDisk::new($crate::common::$open));
            })*
        }
    };
}
