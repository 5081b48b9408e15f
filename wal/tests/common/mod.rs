//! Devices under test, and the means to drive one operation after another.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code, and each binary uses a part"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use corduroy_wal::device::{
    AlignedBuffer, Completion, Device, DiskDevice, Engine, IoId, Op, OpenError, SlotId, SyncMode,
    UringOptions,
};

pub const SLOT_BYTES: u32 = 256 << 10;

/// One way to open a folder.
pub type Open = fn(&Path) -> Result<DiskDevice, OpenError>;

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
pub fn collect(device: &mut DiskDevice, count: usize) -> Vec<Completion<AlignedBuffer>> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut ended = Vec::new();
    while ended.len() < count {
        assert!(Instant::now() < deadline, "{count} operations did not end: {ended:?}");
        device.poll(&mut ended);
        if ended.len() < count {
            device.wait(Duration::from_secs(1)).unwrap();
        }
    }
    assert_eq!(ended.len(), count);
    ended
}

pub fn run(device: &mut DiskDevice, op: Op<AlignedBuffer>) -> Completion<AlignedBuffer> {
    device.submit(IoId(77), op);
    let mut ended = collect(device, 1);
    let done = ended.pop().unwrap();
    assert_eq!(done.id, IoId(77));
    done
}

pub fn create(device: &mut DiskDevice, slot: u32) {
    run(device, Op::Create { slot: SlotId(slot), bytes: SLOT_BYTES }).result.unwrap();
}

/// A buffer filled with bytes told by `seed` and their place.
pub fn pattern(device: &mut DiskDevice, seed: u64, len: usize) -> AlignedBuffer {
    let mut buffer = device.buffer(len);
    for (place, byte) in buffer.iter_mut().enumerate() {
        *byte = (seed.wrapping_mul(0x9e37_79b9) >> 7) as u8 ^ (place / 64) as u8;
    }
    buffer
}

pub fn write(device: &mut DiskDevice, slot: u32, offset: u32, seed: u64, len: u32) {
    let buffer = pattern(device, seed, len as usize);
    let done = run(device, Op::WriteDurable { slot: SlotId(slot), offset, buffer, len });
    done.result.unwrap();
    device.recycle(done.buffer.expect("handed back"));
}

pub fn expect(device: &mut DiskDevice, slot: u32, offset: u32, seed: u64, len: u32) {
    let wanted = pattern(device, seed, len as usize);
    let buffer = device.buffer(len as usize);
    let done = run(device, Op::Read { slot: SlotId(slot), offset, buffer, len });
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

/// Runs each of the named tests against each way to open a folder.
#[macro_export]
macro_rules! conformance {
    ($($test:ident)*) => {
        $crate::conformance!(@with file, $($test)*);
        $crate::conformance!(@with linked, $($test)*);
        $crate::conformance!(@with dsync, $($test)*);
        $crate::conformance!(@with inline, $($test)*);
        $crate::conformance!(@with unregistered, $($test)*);
    };
    (@with $open:ident, $($test:ident)*) => {
        mod $open {
            $(#[test]
            fn $test() {
                super::$test($crate::common::$open);
            })*
        }
    };
}
