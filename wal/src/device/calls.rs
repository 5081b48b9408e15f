//! The calls that make bytes and names durable, in one module, so that a test can hold what leaves against what is
//! promised. A test build keeps a trace of them; nothing else does.

#![allow(unsafe_code, reason = "a test reads the bytes of a ring's entry")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use io_uring::squeue;

/// Writes bytes, perhaps not all of them.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    #[cfg(test)]
    trace::of_file(file, trace::Call::Write);
    file.write_at(bytes, offset)
}

/// Writes all bytes.
pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    trace::of_file(file, trace::Call::Write);
    file.write_all_at(bytes, offset)
}

/// Makes a file's bytes durable; its size and blocks on the disk do not change.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    trace::of_file(file, trace::Call::SyncData);
    file.sync_data()
}

/// Makes all of a file durable, or all names of a folder.
pub(super) fn sync_all(file: &File) -> io::Result<()> {
    #[cfg(test)]
    trace::of_file(file, trace::Call::SyncAll);
    file.sync_all()
}

/// Gives a file its name; durable once the folder is synced.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    trace::of_path(to, trace::Call::Rename);
    fs::rename(from, to)
}

/// Takes a file's name away; durable once the folder is synced.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    trace::of_path(path, trace::Call::Remove);
    fs::remove_file(path)
}

/// An entry is about to go to the ring, for this file.
pub(super) fn entry(_file: &File, _entry: &squeue::Entry) {
    #[cfg(test)]
    trace::of_file(_file, trace::Call::of_entry(_entry));
}

#[cfg(test)]
mod trace {
    use std::path::PathBuf;
    use std::sync::Mutex;

    use super::*;
    use std::os::fd::AsRawFd;

    /// A call that has left.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) enum Call {
        Write,
        SyncData,
        SyncAll,
        Rename,
        Remove,
        /// A submission entry: `op_flags` are those of the operation (`RWF_`, `IORING_FSYNC_`).
        Entry {
            opcode: u8,
            flags: u8,
            op_flags: u32,
        },
    }

    impl Call {
        pub(super) fn of_entry(entry: &squeue::Entry) -> Self {
            // SAFETY: an entry is the kernel's 64-byte `io_uring_sqe`, plain numbers and unions of such.
            let bytes: [u8; 64] = unsafe { std::mem::transmute_copy(entry) };
            let [opcode, flags, ..] = bytes;
            let op_flags = bytes.get(28..32).and_then(|field| field.first_chunk()).expect("64 bytes");
            Self::Entry { opcode, flags, op_flags: u32::from_le_bytes(*op_flags) }
        }
    }

    static CALLS: Mutex<Vec<(PathBuf, Call)>> = Mutex::new(Vec::new());

    pub(super) fn of_file(file: &File, call: Call) {
        let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        of_path(&name.expect("an open file has a name"), call);
    }

    pub(super) fn of_path(path: &Path, call: Call) {
        CALLS.lock().expect("no holder panics").push((path.to_owned(), call));
    }

    /// What has left for a folder and what is in it since the last time, by the names relative to it.
    pub(super) fn take(folder: &Path) -> Vec<(String, Call)> {
        let mut calls = CALLS.lock().expect("no holder panics");
        let (ours, others) =
            std::mem::take(&mut *calls).into_iter().partition(|(path, _)| path.starts_with(folder));
        *calls = others;
        let ours: Vec<(PathBuf, Call)> = ours;
        let name =
            |path: &Path| path.strip_prefix(folder).expect("it starts so").to_string_lossy().into_owned();
        ours.into_iter().map(|(path, call)| (name(&path), call)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test says where")]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use io_uring::opcode;

    use super::trace::{self, Call};
    use crate::device::{Device, DiskDevice, Engine, IoId, Op, OpenError, SlotId, SyncMode, UringOptions};

    const SLOT_BYTES: u32 = 64 << 10;
    const LINK: u8 = 1 << 2;
    const SKIP_SUCCESS: u8 = 1 << 6;
    const DATASYNC: u32 = 1;

    struct Folder {
        _dir: tempfile::TempDir,
        path: PathBuf,
        device: DiskDevice,
    }

    impl Folder {
        /// A folder with one slot. `None` where a ring cannot be had for want of direct I/O.
        fn open(engine: Engine, sync: SyncMode, registered_buffers: u16) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().canonicalize().unwrap();
            let options = UringOptions { sync, registered_buffers, ..UringOptions::default() };
            let device = match DiskDevice::open(&path, engine, options) {
                Err(refused @ OpenError::NoDirectIo { .. }) => {
                    eprintln!("SKIPPED: {refused}");
                    return None;
                }
                opened => opened.unwrap(),
            };
            let mut folder = Self { _dir: dir, path, device };
            folder.run(Op::Create { slot: SlotId(0), bytes: SLOT_BYTES });
            Some(folder)
        }

        fn run(&mut self, op: Op<crate::device::AlignedBuffer>) {
            self.device.submit(IoId(1), op);
            let mut ended = Vec::new();
            while ended.is_empty() {
                self.device.wait(Duration::from_secs(30)).unwrap();
                self.device.poll(&mut ended);
            }
            ended.pop().unwrap().result.unwrap();
        }

        /// The calls of one durable write.
        fn calls_of_a_write(&mut self) -> Vec<(String, Call)> {
            trace::take(&self.path);
            let buffer = self.device.buffer(4096);
            self.run(Op::WriteDurable { slot: SlotId(0), offset: 4096, buffer, len: 4096 });
            trace::take(&self.path)
        }
    }

    fn named(name: &str, calls: &[Call]) -> Vec<(String, Call)> {
        calls.iter().map(|call| (name.to_owned(), *call)).collect()
    }

    #[test]
    fn a_linked_write_is_followed_by_its_fdatasync_and_by_nothing_else() {
        for (registered, code) in [(4, opcode::WriteFixed::CODE), (0, opcode::Write::CODE)] {
            let Some(mut folder) = Folder::open(Engine::Uring, SyncMode::Linked, registered) else { return };
            let calls = folder.calls_of_a_write();
            let [(_, Call::Entry { opcode, flags, op_flags }), (_, sync)] = calls.as_slice() else {
                panic!("a write and its sync were to leave: {calls:?}")
            };
            assert_eq!((*opcode, *op_flags), (code, 0));
            assert_eq!(flags & (LINK | SKIP_SUCCESS), LINK | SKIP_SUCCESS, "the sync waits for the write");
            let Call::Entry { opcode, flags, op_flags } = sync else { panic!("{sync:?}") };
            assert_eq!((*opcode, *op_flags), (opcode::Fsync::CODE, DATASYNC));
            assert_eq!(flags & (LINK | SKIP_SUCCESS), 0, "the sync's end is the operation's");
        }
    }

    #[test]
    fn a_dsync_write_carries_its_flag() {
        for (registered, code) in [(4, opcode::WriteFixed::CODE), (0, opcode::Write::CODE)] {
            let Some(mut folder) = Folder::open(Engine::Uring, SyncMode::Dsync, registered) else { return };
            let calls = folder.calls_of_a_write();
            let [(_, Call::Entry { opcode, flags, op_flags })] = calls.as_slice() else {
                panic!("one entry was to leave: {calls:?}")
            };
            assert_eq!(*opcode, code);
            assert_eq!(*op_flags, u32::try_from(libc::RWF_DSYNC).unwrap());
            assert_eq!(flags & (LINK | SKIP_SUCCESS), 0);
        }
    }

    #[test]
    fn a_blocking_write_is_synced_behind_it() {
        for (engine, sync) in [(Engine::Uring, SyncMode::Inline), (Engine::File, SyncMode::Auto)] {
            let Some(mut folder) = Folder::open(engine, sync, 4) else { continue };
            let expected = named("slot-000000.wal", &[Call::Write, Call::SyncData]);
            assert_eq!(folder.calls_of_a_write(), expected);
            let mut buffer = folder.device.buffer(4096);
            buffer.fill(0);
            folder.device.write_blocking(SlotId(0), 0, &buffer, 4096).unwrap();
            assert_eq!(trace::take(&folder.path), expected);
        }
    }

    #[test]
    fn a_slot_has_its_name_once_its_bytes_are_durable_and_the_name_is_synced() {
        for engine in [Engine::Uring, Engine::File] {
            let Some(mut folder) = Folder::open(engine, SyncMode::Auto, 4) else { continue };
            trace::take(&folder.path);
            folder.run(Op::Create { slot: SlotId(7), bytes: SLOT_BYTES });
            let mut expected = named("slot-000007.wal.tmp", &[Call::Write, Call::SyncAll]);
            expected.extend(named("slot-000007.wal", &[Call::Rename]));
            expected.extend(named("", &[Call::SyncAll]));
            assert_eq!(trace::take(&folder.path), expected);
            folder.run(Op::Remove { slot: SlotId(7) });
            let mut expected = named("slot-000007.wal", &[Call::Remove]);
            expected.extend(named("", &[Call::SyncAll]));
            assert_eq!(trace::take(&folder.path), expected);
        }
    }

    #[test]
    fn the_manifest_has_its_name_once_its_bytes_are_durable_and_the_name_is_synced() {
        for engine in [Engine::Uring, Engine::File] {
            let Some(mut folder) = Folder::open(engine, SyncMode::Auto, 4) else { continue };
            trace::take(&folder.path);
            folder.device.create_blocking(SlotId::MANIFEST, &[0; 8192]).unwrap();
            let mut expected = named("manifest.wal.tmp", &[Call::Write, Call::SyncAll]);
            expected.extend(named("manifest.wal", &[Call::Rename]));
            expected.extend(named("", &[Call::SyncAll]));
            assert_eq!(trace::take(&folder.path), expected);
        }
    }

    #[test]
    fn opening_syncs_every_file_and_then_the_folder() {
        for engine in [Engine::Uring, Engine::File] {
            let Some(mut folder) = Folder::open(engine, SyncMode::Auto, 4) else { continue };
            folder.run(Op::Create { slot: SlotId(3), bytes: SLOT_BYTES });
            trace::take(&folder.path);
            folder.device.sync_all().unwrap();
            let names = ["slot-000000.wal", "slot-000003.wal", ""];
            let expected: Vec<_> = names.into_iter().flat_map(|name| named(name, &[Call::SyncAll])).collect();
            assert_eq!(trace::take(&folder.path), expected);
        }
    }

    #[test]
    fn a_new_folders_own_name_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().canonicalize().unwrap();
        drop(DiskDevice::open(&parent.join("wal"), Engine::File, UringOptions::default()).unwrap());
        assert_eq!(trace::take(&parent).first(), Some(&(String::new(), Call::SyncAll)));
    }
}
