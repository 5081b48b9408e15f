//! Devices on disks that fail them: a full one, and one that takes only part of a write.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use common::{Medium, OnDisk, create, expect, linked, pattern, run, scratch, write};
use corduroy_wal::device::{Device, Op, OpenError, SlotId, SyncMode};

on_disks! { a_full_disk_leaves_nothing_behind }

fn a_full_disk_leaves_nothing_behind(disk: OnDisk) {
    let path = disk.dir.path();
    let Some(_mount) = SmallDisk::mount(path) else { return };
    let mut device = match (disk.open)(path) {
        Err(OpenError::NoDirectIo { .. }) => {
            eprintln!("SKIPPED: this kernel's tmpfs has no O_DIRECT");
            return;
        }
        opened => opened.unwrap(),
    };
    create::<OnDisk>(&mut device, 0);
    let failed = run::<OnDisk>(&mut device, Op::Create { slot: SlotId(1), bytes: 8 << 20 });
    assert_eq!(failed.result.unwrap_err().kind(), ErrorKind::StorageFull);
    disk.holds_only(&[0]);
    write::<OnDisk>(&mut device, 0, 0, 5, 4096);
    create::<OnDisk>(&mut device, 1);
}

/// Four MiB of memory as a disk; unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(path).output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self(path)),
            other => {
                eprintln!("SKIPPED: no small disk could be mounted (needs root): {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.0).status().unwrap();
        assert!(done.success());
    }
}

/// Run by `short_writes_are_errors` in a process of its own, under a limit on file sizes.
#[test]
#[ignore = "run by short_writes_are_errors"]
fn child_writes_across_the_limit() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let limit = 64 << 10;
    for sync in [SyncMode::Linked, SyncMode::Dsync, SyncMode::Inline] {
        let mut device = linked(dir.path()).unwrap();
        device.set_sync_mode(sync);
        if device.list().unwrap().is_empty() {
            create::<OnDisk>(&mut device, 0);
        }
        rustix::process::setrlimit(
            rustix::process::Resource::Fsize,
            rustix::process::Rlimit { current: Some(limit), maximum: None },
        )
        .unwrap();
        for (offset, fine) in
            [(limit as u32 - 8192, true), (limit as u32 - 4096, false), (limit as u32, false)]
        {
            let buffer = pattern(&mut device, 3, 8192);
            let done =
                run::<OnDisk>(&mut device, Op::WriteDurable { slot: SlotId(0), offset, buffer, len: 8192 });
            assert_eq!(done.result.is_ok(), fine, "{sync} at {offset}: {:?}", done.result);
            assert!(done.buffer.is_some());
        }
        write::<OnDisk>(&mut device, 0, 0, 4, 4096);
        expect::<OnDisk>(&mut device, 0, 0, 4, 4096);
    }
    println!("short writes seen");
}

#[test]
fn short_writes_are_errors() {
    // A signal ignored by the shell stays ignored in the child, which then gets short writes instead of dying.
    let script = "trap '' XFSZ; exec \"$0\" --exact child_writes_across_the_limit --ignored --nocapture";
    let exe = std::env::current_exe().unwrap();
    let done = Command::new("sh").arg("-c").arg(script).arg(exe).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("short writes seen"), "{done:?}");
}
