//! What every device must do, run against each of them: the ring in its three sync modes, with and without registered
//! buffers, the plain one, and the one in memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;

use common::{Medium, OnDisk, SLOT_BYTES, collect, create, expect, linked, pattern, run, scratch, write};
use corduroy_wal::device::{BLOCK_BYTES, Device, DiskDevice, IoId, Op, OpenError, SlotId, SyncMode};

conformance! {
    a_new_slot_is_zeros_and_listed
    what_is_written_is_read
    many_in_flight_end_once_each_with_their_own_bytes
    bad_operations_end_as_errors_and_harm_nothing
    a_removed_slot_is_gone_and_its_number_free
    dropping_with_operations_in_flight_is_sound
}

mod folders {
    use super::*;

    on_disks! {
        a_second_opening_is_refused_naming_the_holder
        opened_here_used_there
    }
}

fn a_new_slot_is_zeros_and_listed<M: Medium>(medium: M) {
    let mut device = medium.open();
    assert_eq!(device.list().unwrap(), vec![]);
    create::<M>(&mut device, 3);
    create::<M>(&mut device, 1);
    let all = vec![(SlotId(1), u64::from(SLOT_BYTES)), (SlotId(3), u64::from(SLOT_BYTES))];
    assert_eq!(device.list().unwrap(), all);
    let mut buffer = device.buffer(SLOT_BYTES as usize);
    buffer.fill(7);
    device.read_blocking(SlotId(3), 0, &mut buffer, SLOT_BYTES).unwrap();
    assert!(buffer[..SLOT_BYTES as usize].iter().all(|&b| b == 0));
    let again = run::<M>(&mut device, Op::Create { slot: SlotId(3), bytes: SLOT_BYTES });
    assert_eq!(again.result.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

fn what_is_written_is_read<M: Medium>(medium: M) {
    let mut device = medium.open();
    create::<M>(&mut device, 0);
    let sizes = [4096, 8192, 65536, 4096, 131_072];
    let mut offset = 0;
    for (seed, len) in (0..).zip(sizes) {
        write::<M>(&mut device, 0, offset, seed, len);
        offset += len;
    }
    let mut offset = 0;
    for (seed, len) in (0..).zip(sizes) {
        expect::<M>(&mut device, 0, offset, seed, len);
        offset += len;
    }
    device.sync_all().unwrap();
    drop(device);
    let mut device = medium.open();
    device.sync_all().unwrap();
    assert_eq!(device.list().unwrap(), vec![(SlotId(0), u64::from(SLOT_BYTES))]);
    expect::<M>(&mut device, 0, 4096, 1, 8192);
    write::<M>(&mut device, 0, 0, 99, 4096);
    expect::<M>(&mut device, 0, 0, 99, 4096);
}

fn many_in_flight_end_once_each_with_their_own_bytes<M: Medium>(medium: M) {
    // More than the ring's table takes at once, reads and writes mixed over two slots.
    const COUNT: u64 = 96;
    let mut device = medium.open();
    create::<M>(&mut device, 0);
    create::<M>(&mut device, 5000);
    let place = |n: u64| (SlotId(if n.is_multiple_of(2) { 0 } else { 5000 }), (n as u32 / 2) * 4096);
    for n in 0..COUNT {
        let (slot, offset) = place(n);
        let buffer = pattern(&mut device, n, 4096);
        device.submit(IoId(n), Op::WriteDurable { slot, offset, buffer, len: 4096 });
    }
    for n in 0..COUNT {
        let wanted = pattern(&mut device, n, 4096);
        let lent = device.in_flight(IoId(n)).expect("not handed back yet");
        assert!(lent[..4096] == wanted[..4096]);
    }
    assert!(device.in_flight(IoId(COUNT)).is_none());
    let mut seen = BTreeMap::new();
    for done in collect::<M>(&mut device, COUNT as usize) {
        done.result.unwrap();
        device.recycle(done.buffer.unwrap());
        *seen.entry(done.id).or_insert(0) += 1;
    }
    assert_eq!(seen, (0..COUNT).map(|n| (IoId(n), 1)).collect());
    for n in 0..COUNT {
        let (slot, offset) = place(n);
        let buffer = device.buffer(4096);
        device.submit(IoId(n), Op::Read { slot, offset, buffer, len: 4096 });
        assert!(device.in_flight(IoId(n)).is_none(), "a read's buffer is not to be looked at");
    }
    for done in collect::<M>(&mut device, COUNT as usize) {
        done.result.unwrap();
        let wanted = pattern(&mut device, done.id.0, 4096);
        assert!(done.buffer.unwrap()[..4096] == wanted[..4096], "{:?} has other bytes", done.id);
    }
}

fn bad_operations_end_as_errors_and_harm_nothing<M: Medium>(medium: M) {
    let mut device = medium.open();
    create::<M>(&mut device, 0);
    let cases = [
        (9, 0, 4096, ErrorKind::NotFound),
        (0, 100, 4096, ErrorKind::InvalidInput),
        (0, 0, 100, ErrorKind::InvalidInput),
        (0, 0, 0, ErrorKind::InvalidInput),
        (0, SLOT_BYTES, 4096, ErrorKind::UnexpectedEof),
        (0, SLOT_BYTES - 4096, 8192, ErrorKind::UnexpectedEof),
    ];
    for (slot, offset, len, kind) in cases {
        let slot = SlotId(slot);
        for write in [true, false] {
            let buffer = device.buffer(8192);
            let op = if write {
                Op::WriteDurable { slot, offset, buffer, len }
            } else {
                Op::Read { slot, offset, buffer, len }
            };
            let done = run::<M>(&mut device, op);
            assert_eq!(done.result.unwrap_err().kind(), kind, "slot {slot:?} {offset} {len} write {write}");
            assert!(done.buffer.is_some());
        }
        let mut buffer = device.buffer(8192);
        assert_eq!(device.read_blocking(slot, offset, &mut buffer, len).unwrap_err().kind(), kind);
    }
    let mut small = device.buffer(BLOCK_BYTES);
    let len = u32::try_from(small.len()).unwrap() * 2;
    assert_eq!(
        device.read_blocking(SlotId(0), 0, &mut small, len).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let done = run::<M>(&mut device, Op::WriteDurable { slot: SlotId(0), offset: 0, buffer: small, len });
    assert_eq!(done.result.unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(device.list().unwrap(), vec![(SlotId(0), u64::from(SLOT_BYTES))], "nothing grew");
    write::<M>(&mut device, 0, 0, 5, 4096);
    expect::<M>(&mut device, 0, 0, 5, 4096);
}

fn a_removed_slot_is_gone_and_its_number_free<M: Medium>(medium: M) {
    let mut device = medium.open();
    create::<M>(&mut device, 2);
    write::<M>(&mut device, 2, 0, 5, 4096);
    run::<M>(&mut device, Op::Remove { slot: SlotId(2) }).result.unwrap();
    assert_eq!(device.list().unwrap(), vec![]);
    medium.holds_only(&[]);
    let gone = run::<M>(&mut device, Op::Remove { slot: SlotId(2) });
    assert_eq!(gone.result.unwrap_err().kind(), ErrorKind::NotFound);
    create::<M>(&mut device, 2);
    let mut buffer = device.buffer(4096);
    device.read_blocking(SlotId(2), 0, &mut buffer, 4096).unwrap();
    assert!(buffer[..4096].iter().all(|&b| b == 0), "a new file, not the old one");
    write::<M>(&mut device, 2, 0, 6, 4096);
    expect::<M>(&mut device, 2, 0, 6, 4096);
}

fn a_second_opening_is_refused_naming_the_holder(disk: OnDisk) {
    let held = disk.open();
    let refused = (disk.open)(disk.dir.path()).map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Lock(_)));
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    drop(held);
    drop(disk.open());
}

fn dropping_with_operations_in_flight_is_sound<M: Medium>(medium: M) {
    let mut device = medium.open();
    create::<M>(&mut device, 0);
    for n in 0..8 {
        let buffer = pattern(&mut device, n, 16384);
        let offset = n as u32 * 16384;
        device.submit(IoId(n), Op::WriteDurable { slot: SlotId(0), offset, buffer, len: 16384 });
    }
    device.submit(IoId(8), Op::Create { slot: SlotId(1), bytes: 64 << 20 });
    drop(device);
    let mut device = medium.open();
    let slots = device.list().unwrap();
    assert_eq!(slots.first(), Some(&(SlotId(0), u64::from(SLOT_BYTES))));
    assert!(slots.get(1).is_none_or(|made| *made == (SlotId(1), 64 << 20)), "half a slot: {slots:?}");
    medium.holds_only(if slots.len() == 1 { &[0] } else { &[0, 1] });
    for n in 0..8 {
        expect::<M>(&mut device, 0, n as u32 * 16384, n, 16384);
    }
}

fn opened_here_used_there(disk: OnDisk) {
    let mut device = disk.open();
    device.list().unwrap();
    let used = std::thread::spawn(move || {
        create::<OnDisk>(&mut device, 0);
        write::<OnDisk>(&mut device, 0, 0, 5, 4096);
        expect::<OnDisk>(&mut device, 0, 0, 5, 4096);
    });
    used.join().unwrap();
}

#[test]
fn the_sync_mode_changes_between_two_writes() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let mut device = linked(dir.path()).unwrap();
    create::<OnDisk>(&mut device, 0);
    let modes = [SyncMode::Linked, SyncMode::Dsync, SyncMode::Inline, SyncMode::Auto];
    for (n, mode) in (0..).zip(modes) {
        device.set_sync_mode(mode);
        let DiskDevice::Uring(ring) = &device else { panic!("the ring was asked for") };
        assert_eq!(ring.report().requested, mode);
        assert_ne!(ring.report().effective, SyncMode::Auto);
        let buffer = pattern(&mut device, n, 4096);
        device.submit(
            IoId(n),
            Op::WriteDurable { slot: SlotId(0), offset: n as u32 * 4096, buffer, len: 4096 },
        );
    }
    collect::<OnDisk>(&mut device, modes.len()).into_iter().for_each(|done| done.result.unwrap());
    for n in 0..modes.len() {
        expect::<OnDisk>(&mut device, 0, n as u32 * 4096, n as u64, 4096);
    }
}

#[test]
fn the_event_fd_tells_of_every_end() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let mut device = linked(dir.path()).unwrap();
    create::<OnDisk>(&mut device, 0);
    let rung = |device: &DiskDevice, ms: i64| {
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: ms * 1_000_000 };
        let fd = device.event_fd();
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let ready = rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1;
        if ready {
            rustix::io::read(fd, &mut [0_u8; 8]).unwrap();
        }
        ready
    };
    while rung(&device, 0) {}
    for n in 0..20_u32 {
        assert!(!rung(&device, 0));
        let buffer = pattern(&mut device, 1, 4096);
        // Every fourth one is refused at once, which must be told the same way.
        let slot = SlotId(if n % 4 == 3 { 9 } else { 0 });
        device.submit(IoId(0), Op::WriteDurable { slot, offset: n * 4096, buffer, len: 4096 });
        assert!(rung(&device, 900), "no ring for operation {n}");
        let mut ended = Vec::new();
        device.poll(&mut ended);
        assert_eq!(ended.len(), 1, "one wake, one end");
        assert_eq!(ended.pop().unwrap().result.is_ok(), n % 4 != 3);
    }
}
