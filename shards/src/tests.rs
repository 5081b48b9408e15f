//! What only a look inside a shard can bring about: faults that no healthy part makes.

use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::{Options, Wal};
use slotmap::KeyData;

use crate::clock::Now;
use crate::ids::{PartitionId, ShardId, Ticket};
use crate::machine::Kind;
use crate::options::{Limits, ShardOptions};
use crate::raft::start::Origin;
use crate::shard::Shard;
use crate::shard::io::{Input, Outputs, Rejection, Reply};
use crate::sim::{Knobs, PlainSubject, Subject};
use crate::table::ReplicaIdx;

type Plain = <PlainSubject as Subject>::Machine;

const P: PartitionId = PartitionId(2);
const Q: PartitionId = PartitionId(3);

/// Turns until nothing moves; what requests were answered.
fn settle(shard: &mut Shard<MemDevice, Plain>, now: &mut Now) -> Vec<(u64, Reply<Option<u64>>)> {
    let (mut out, mut replies) = (Outputs::default(), Vec::new());
    for _ in 0..20 {
        now.mono_ns += 1000;
        shard.turn(*now, &mut out).expect("the turn goes well");
        shard.check();
        replies.extend(out.take_replies().map(|(ticket, reply, _)| (ticket.seq, reply)));
    }
    replies
}

#[test]
fn a_fence_says_unknown_of_what_may_be_in_the_log_and_gives_its_bytes_back() {
    let disk = MemDisk::new(1);
    let (wal, _) =
        Wal::open(disk.device(), Options { segment_bytes: 1 << 20, ..Options::default() }).expect("opens");
    let subject = PlainSubject;
    let machine = subject.open(&mut subject.media(ShardId(0)), ShardId(0), &Knobs::draw(1)).expect("opens");
    let limits = Limits { unapplied_bytes: 300, ..Limits::default() };
    let options = ShardOptions { limits, ..ShardOptions::default() };
    let mut shard =
        Shard::open(options, wal, machine, &Origin::all_alone(&[P, Q], options.storage), 7).expect("opens");
    let mut now = Now { mono_ns: 1, wall_ms: 1_700_000_000_000 };
    settle(&mut shard, &mut now);
    let mut put = subject.write(1);
    put.resize(400, 0);
    let write = |shard: &mut Shard<_, _>, partition, seq| {
        let (ticket, kind) = (Ticket { conn: 1, seq }, Kind::Write);
        shard.handle(Input::Request { ticket, partition, kind, op: &put });
    };
    disk.set_stalled(true);
    write(&mut shard, P, 1);
    assert!(settle(&mut shard, &mut now).is_empty());
    write(&mut shard, P, 2);
    assert!(settle(&mut shard, &mut now).is_empty(), "too much is held already");
    // The index of the replica that was added first: slot 1, generation 1.
    let first = ReplicaIdx::from(KeyData::from_ffi(1 << 32 | 1));
    shard.fence(first, "for a test".to_owned());
    let replies = settle(&mut shard, &mut now);
    let [(first, logged), (second, waiting)] = replies.as_slice() else { panic!("{replies:?}") };
    let (logged, waiting) = if first < second { (logged, waiting) } else { (waiting, logged) };
    assert!(matches!(logged, Reply::Unknown), "it may be in the log: {logged:?}");
    assert!(matches!(waiting, Reply::Rejected(Rejection::ReplicaStopped(P, _))), "{waiting:?}");
    // The other partition is not held back by what the fenced one held.
    disk.set_stalled(false);
    write(&mut shard, Q, 3);
    let replies = settle(&mut shard, &mut now);
    assert!(matches!(replies.as_slice(), [(3, Reply::Done { .. })]), "{replies:?}");
    assert!(shard.is_idle());
}
