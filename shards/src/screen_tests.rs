//! Batches out of which something is taken, as no client can make them yet: with operations on several keyspaces.

use corduroy_wal::device::mem::{MemDevice, MemDisk};
use corduroy_wal::{Options, Wal};

use crate::clock::Now;
use crate::entry::{EntryOp, Mark};
use crate::ids::{KeyspaceId, PartitionId, ShardId, StorageId, Ticket};
use crate::options::ShardOptions;
use crate::raft::start::Origin;
use crate::shard::{Outputs, Shard};
use crate::sim::{Knobs, PlainSubject, Subject};

type Plain = <PlainSubject as Subject>::Machine;

const P: PartitionId = PartitionId(2);

fn opened() -> Shard<MemDevice, Plain> {
    let wal_options = Options { segment_bytes: 1 << 20, ..Options::default() };
    let (wal, _) = Wal::open(MemDisk::new(1).device(), wal_options).expect("opens");
    let subject = PlainSubject;
    let machine = subject.open(&mut subject.media(ShardId(0)), ShardId(0), &Knobs::draw(1)).expect("opens");
    let origins = Origin::all_alone(&[P], StorageId::UNKNOWN);
    let mut shard = Shard::open(ShardOptions::default(), wal, machine, &origins, 7).expect("opens");
    let (mut now, mut out) = (Now { mono_ns: 1, wall_ms: 1_700_000_000_000 }, Outputs::default());
    // Until its log has room.
    for _ in 0..20 {
        now.mono_ns += 1000;
        shard.turn(now, &mut out).expect("the turn goes well");
    }
    shard
}

const fn on(keyspace: u64, op: &[u8]) -> EntryOp<'_> {
    EntryOp { keyspace: KeyspaceId(keyspace), op }
}

#[test]
fn what_stays_is_on_the_keyspace_it_was_on() {
    let mut shard = opened();
    let idx = shard.replicas.find(P).expect("it was opened");
    let ops = [on(0, b"first"), on(7, b"second"), on(0, b"to be refused"), on(7, b""), on(1 << 40, b"last")];
    let entry_bytes = shard.options.limits.entry_bytes;
    let slot = shard.replicas.slot_mut(idx);
    for (seq, op) in (0..).zip(ops) {
        let ticket = Ticket { conn: 1, seq };
        slot.pending.add(op.op.len());
        shard.totals.add(op.op.len());
        slot.conns.add(ticket.conn);
        slot.batches.push_write(ticket, op, entry_bytes, &mut shard.spare);
    }
    let batch = slot.batches.front_mut().expect("writes were pushed");
    // What it waited for is there, so all of it is to be looked at again.
    let mut mark = Mark::FIRST;
    while let Some((_, next)) = mark.op(batch.entry.as_bytes()) {
        batch.screening.woken.push(mark);
        mark = next;
    }
    batch.screening.prepared = mark;
    batch.refuse_longer(6);
    shard.remove_refused(idx);
    let batch = shard.replicas.slot(idx).batches.front().expect("four of them stay");
    let kept = [ops[0], ops[1], ops[3], ops[4]];
    let (mut there, mut here) = (Vec::new(), Mark::FIRST);
    while let Some((op, next)) = here.op(batch.entry.as_bytes()) {
        there.push(op);
        here = next;
    }
    assert_eq!(there, kept);
    assert_eq!(batch.screening.prepared, here);
    let woken = batch.screening.woken.iter().map(|mark| mark.op(batch.entry.as_bytes()).map(|(op, _)| op));
    assert_eq!(woken.collect::<Vec<_>>(), kept.map(Some), "each is looked at where it is now");
    shard.check();
}

#[test]
fn a_batch_counts_the_names_of_keyspaces() {
    let mut shard = opened();
    let idx = shard.replicas.find(P).expect("it was opened");
    let slot = shard.replicas.slot_mut(idx);
    // An entry's head, and one operation of 4 bytes on a keyspace: 14 + 16.
    for (seq, entry_bytes) in [(0, 46), (1, 46), (2, 46), (3, 45)] {
        slot.batches.push_write(Ticket { conn: 1, seq }, on(7, b"four"), entry_bytes, &mut shard.spare);
    }
    let lengths: Vec<usize> = slot.batches.queue.iter().map(|batch| batch.entry.len_bytes()).collect();
    assert_eq!(lengths, [46, 30, 30]);
}
