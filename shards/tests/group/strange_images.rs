//! What comes of images that no leader sends so, or to a replica that is not the one they were sent to.

use corduroy_shards::entry::of_time;
use corduroy_shards::ids::NodeId;
use corduroy_shards::image::transfer::{ImageId, Offer, Part, Process, ToReceiver};
use corduroy_shards::image::{Header, VERSION, Writer};
use corduroy_shards::raft::changes::ChangeEntry;
use corduroy_shards::raft::membership::{MemberId, Membership};
use corduroy_shards::{Change, Input, Origin};
use corduroy_wal::{Lsn, Term};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::cluster::{PARTITION, options, storage};
use crate::common::{Q, World, small_wal};
use crate::hazards::{append, lone_member};

/// The message by which member 2 sends something of an image.
fn said_of_image(term: u64, part: Part) -> Message {
    let process = Process { node: NodeId(2), incarnation: 1, starts: 1 };
    let image = ImageId { process, number: 1 };
    let context = ToReceiver { image, part }.encode();
    let mut message = Message { from: 2, to: 1, term, context, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    message
}

fn hear(world: &mut World, message: Message) {
    let (from, message) = (storage(1), Box::new(message));
    world.shard.handle(Input::Message { partition: PARTITION, from, message });
}

const fn offer(lsn: u64, term: u64) -> Part {
    Part::Offer(Offer { lsn: Lsn(lsn), term: Term(term), version: VERSION, bytes: 0 })
}

/// What the raft crate would not be told is looked at before an image is taken in.
#[test]
fn images_with_absurd_numbers_are_refused() {
    let strange = [
        said_of_image(u64::MAX >> 1, offer(9, 1)),
        said_of_image(1 << 40, offer(9, 1)),
        said_of_image(0, offer(9, 1)),
        said_of_image(1, offer(u64::MAX, 1)),
        said_of_image(1, offer(0, 1)),
        said_of_image(1, offer(9, 0)),
        said_of_image(1, offer(9, 2)),
        said_of_image(1 << 40, Part::Withdrawn),
    ];
    let mut world = lone_member();
    for (number, message) in strange.into_iter().enumerate() {
        let text = format!("{message:?}");
        hear(&mut world, message);
        world.settle();
        assert_eq!(world.shard.counters().refused_messages, number as u64 + 1, "{text}");
        assert!(world.out.messages.is_empty(), "{text}");
    }
    hear(&mut world, said_of_image(1, offer(9, 1)));
    world.settle();
    assert!(!world.out.messages.is_empty(), "one that is sane is wanted");
}

fn time(index: u64) -> Entry {
    Entry { index, term: 1, data: of_time(1).into(), ..Entry::default() }
}

/// A member of two groups that has got all of an image of the first one, but for its last chunk, which is returned.
/// `before`: entries that the log has brought before it.
fn nearly_whole(before: Vec<Entry>) -> (World, Part) {
    let founders: Vec<_> = (0..3).map(|node| (MemberId(1 + node as u64), storage(node))).collect();
    let origins = [PARTITION, Q].map(|partition| (partition, Origin::Found(founders.clone())));
    let mut world = World::of(options(0), small_wal(), origins.to_vec());
    world.settle();
    let header = Header {
        partition: PARTITION,
        history: 0,
        lsn: Lsn(9),
        term: Term(1),
        source_lsn: Lsn(9),
        clock_ms: 1,
        configuration: Membership::founded_by(&founders).encode(),
    };
    if !before.is_empty() {
        let commit = before.len() as u64;
        hear(&mut world, Message { commit, ..append(1, (0, 0), before) });
        world.settle();
        assert_eq!(world.shard.status().replicas.first().map(|status| status.applied), Some(Lsn(commit)));
    }
    let (writer, first) = Writer::new(&header);
    let mut chunks = vec![first];
    chunks.extend(writer.finish().0);
    let last = chunks.pop().expect("it has an end");
    for part in [offer(9, 1)].into_iter().chain(chunks.into_iter().map(|chunk| Part::Chunk(chunk.into()))) {
        hear(&mut world, said_of_image(1, part));
        world.settle();
        world.run_jobs();
    }
    world.settle();
    (world, Part::Chunk(last.into()))
}

/// It is held for an image, with a record that is not on its way to the disk yet, and taken off and added between two turns.
#[test]
fn who_is_added_again_is_not_installed_the_image_of_before() {
    let (mut world, last) = nearly_whole(vec![time(1)]);
    world.disk.set_manual(true);
    for index in 1..10 {
        if !world.shard.wal().can_submit() {
            break;
        }
        let message = Box::new(append(1, (index - 1, u64::from(index > 1)), vec![time(index)]));
        world.shard.handle(Input::Message { partition: Q, from: storage(1), message });
        world.turn();
    }
    assert!(!world.shard.wal().can_submit(), "the disk has enough to do");
    hear(&mut world, append(1, (1, 1), vec![time(2)]));
    hear(&mut world, said_of_image(1, last));
    for _ in 0..3 {
        world.turn();
        world.run_jobs();
    }
    assert!(world.shard.remove(PARTITION));
    assert!(world.shard.add(PARTITION, &Origin::Restart, 7).expect("it is opened"), "between two turns");
    for _ in 0..3 {
        world.turn();
        world.run_jobs();
    }
    assert_eq!(world.shard.counters().images_installed, 0);
    world.disk.set_manual(false);
    world.disk.complete_all();
    world.settle();
    assert_eq!(world.shard.counters().images_installed, 0);
}

/// It would take back a change of members that the log has brought.
#[test]
fn an_image_of_an_earlier_configuration_is_not_installed() {
    let data = ChangeEntry::of(&[Change::AddLearner(storage(7))], Lsn(4)).encode();
    let entry_type = EntryType::EntryConfChangeV2;
    let change = Entry { entry_type, index: 4, term: 1, data: data.into(), ..Entry::default() };
    for is_earlier in [true, false] {
        let before = if is_earlier { (1..4).map(time).chain([change.clone()]).collect() } else { Vec::new() };
        let (mut world, last) = nearly_whole(before);
        hear(&mut world, said_of_image(1, last));
        for _ in 0..3 {
            world.settle();
            world.run_jobs();
        }
        world.settle();
        assert_eq!(world.shard.counters().images_installed, u64::from(!is_earlier));
    }
}
