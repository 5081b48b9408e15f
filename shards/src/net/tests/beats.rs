//! Beats of several shards, as one message where the peer knows that.

use super::handshake::local;
use super::world::World;
use super::*;
use crate::net::beats::{apart, join};
use crate::net::parcel::Parcel;
use crate::net::{Local, PeerOptions, Versions};

/// A beat of a process of storage 1 that has started so often.
fn beat(starts: u64, epoch: u64, number: u64) -> Message {
    Message { index: 7, commit: epoch, commit_term: number, ..of(Kind::Beat, (1, 2), starts) }
}

fn joined(messages: &[(u64, Message)]) -> Vec<Parcel> {
    let parcels = messages.iter().map(|(partition, message)| outgoing(*partition, message.clone()));
    let mut parcels = parcels.map(Parcel::Replica).collect();
    join(&mut parcels);
    parcels
}

/// What parcels are, once they were written, read and taken apart.
fn read_apart(parcels: &[Parcel]) -> Vec<(u64, Message)> {
    let frame = FrameWriter::new(STREAM).write(parcels);
    let (messages, error) = read(&mut FrameReader::new(STREAM, 1 << 20), [frame]);
    assert_eq!((messages.len(), error), (parcels.len(), None));
    let messages =
        messages.into_iter().flat_map(|(partition, message)| apart(PartitionId(partition), message));
    messages.map(|(partition, message)| (partition.0, message)).collect()
}

#[test]
fn beats_of_one_process_are_one_message() {
    let wake = || of(Kind::Wake, (1, 2), 1);
    let sent = [
        (4, wake()),
        (1, beat(3, 0, 9)),
        (2, beat(3, 1, 8)),
        (4, wake()),
        (3, beat(4, 0, 1)),
        (9, beat(3, 5, 7)),
    ];
    let parcels = joined(&sent);
    let kinds: Vec<_> = parcels.iter().map(|parcel| parcel.partition().0).collect();
    assert_eq!(kinds, [4, 1, 4, 3], "those of one process, and all else as it was");
    assert_eq!(
        parcels.iter().map(Parcel::since).collect::<Vec<_>>(),
        [3, 4, 3, 3],
        "one alone is what it was"
    );
    let [.., last] = &sent;
    let came = read_apart(&parcels);
    assert_eq!(came, [&sent[..3], std::slice::from_ref(last), &sent[3..5]].concat());
}

#[test]
fn a_message_has_so_many_beats_and_the_next_one_the_others() {
    let sent: Vec<_> = (0..150).map(|at| (at + 1, beat(3, at, at + 5))).collect();
    let parcels = joined(&sent);
    assert_eq!(parcels.len(), 3);
    assert_eq!(read_apart(&parcels), sent);
}

/// Any message, or a beat of one of two processes.
fn sent() -> impl Strategy<Value = (u64, Message)> {
    (1..5_u64, any_message(), 0..3_u64, number()).prop_map(|(partition, message, starts, epoch)| {
        let is_beat = message.msg_type == Kind::Beat.message_type();
        (partition, if is_beat || starts > 0 { beat(starts + 1, epoch, partition) } else { message })
    })
}

proptest! {
    #[test]
    fn what_is_put_together_comes_apart_as_it_was(sent in proptest::collection::vec(sent(), 1..30)) {
        let came = read_apart(&joined(&sent));
        prop_assert_eq!(came.len(), sent.len());
        for starts in 0..4 {
            let is_of = |message: &Message| match Kind::of(message.msg_type) {
                Some(Kind::Beat) => message.term == starts,
                _ => starts == 0,
            };
            let of = |all: &[(u64, Message)]| -> Vec<_> {
                all.iter().filter(|(_, message)| is_of(message)).cloned().collect()
            };
            prop_assert_eq!(of(&came), of(&sent), "of process {}; 0: what is no beat", starts);
        }
    }
}

#[test]
fn peers_of_earlier_releases_get_each_beat_alone() {
    for (highest, messages) in [(3, 3), (4, 1)] {
        let versions = Versions { lowest: 1, highest };
        let mut world = World::new([local(1), Local { versions, ..local(2) }], PeerOptions::default());
        (1..4).for_each(|epoch| world.send_message((1, 0), (2, 1), beat(1, epoch, 5)));
        world.run();
        let epochs: Vec<_> = world.delivered().into_iter().map(|(.., epoch)| epoch).collect();
        assert_eq!(epochs, [1, 2, 3], "version {highest}");
        let sent = world.core((1, 0)).counters().messages_sent;
        let came: u64 = [0, 1].map(|core| world.core((2, core)).counters().messages_received).iter().sum();
        assert_eq!((sent, came), (messages, messages), "version {highest}");
    }
}
