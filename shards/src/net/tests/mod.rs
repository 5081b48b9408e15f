//! Peers, from the bytes of a message to the connections between nodes; and messages to try them with.

mod beats;
mod chaos;
mod fixtures;
mod founders;
mod frame;
mod handshake;
mod message;
mod pace;
mod peers;
mod raft;
mod requests;
mod twins;
mod world;

use ::raft::eraftpb::{Entry, EntryType, Message, MessageType};
use bytes::Bytes;
use corduroy_wal::{Lsn, Term};
use proptest::prelude::*;

use super::frame::{FrameReader, FrameWriter, Stream};
use super::{FrameError, Kind, Lane, Outgoing};
use crate::ids::{NodeId, PartitionId};
use crate::image::transfer::{Answer, Ended, ImageId, Offer, Part, Process, Question, ToReceiver, ToSender};

/// Terms and indexes: small ones, which meet, and any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..5_u64, 1 => any::<u64>()]
}

fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), len).prop_map(Bytes::from)
}

/// Entries that follow index `index`, as (steps of the term, kind, payload), the first of a term from `term` on.
fn entries(index: u64, term: u64, steps: Vec<(u64, u8, Bytes)>) -> Vec<Entry> {
    let mut term = term;
    let mut entries = Vec::new();
    for (at, (step, kind, data)) in steps.into_iter().enumerate() {
        term += step;
        let entry_type = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2]
            [usize::from(kind)];
        entries.push(Entry { entry_type, term, index: index + 1 + at as u64, data, ..Entry::default() });
    }
    entries
}

/// A message with its sender, receiver and term.
fn of(kind: Kind, members: (u64, u64), term: u64) -> Message {
    Message { msg_type: kind.message_type(), from: members.0, to: members.1, term, ..Message::default() }
}

fn append() -> impl Strategy<Value = Message> {
    let step = prop_oneof![6 => Just(0), 1 => 1..3_u64];
    let steps = proptest::collection::vec((step, 0..3_u8, bytes(0..40)), 0..12);
    (0..1_000_u64, 1..9_u64, number(), 0..9_u64, steps).prop_map(|(index, log_term, commit, above, steps)| {
        let log_term = if index == 0 { 0 } else { log_term };
        let entries = entries(index, log_term.max(1), steps);
        let last = entries.last().map_or(log_term.max(1), |entry| entry.term);
        let mut message = of(Kind::Append, (1, 2), last + above);
        (message.log_term, message.index, message.commit) = (log_term, index, commit);
        message.set_entries(entries.into());
        message
    })
}

fn vote(kind: Kind) -> impl Strategy<Value = Message> {
    let priority = prop_oneof![4 => Just(0), 1 => any::<i64>()];
    (number(), number(), number(), number(), priority, any::<bool>()).prop_map(
        move |(log_term, index, commit, commit_term, priority, is_transfer)| {
            let mut message = of(kind, (3, 4), 7);
            (message.log_term, message.index) = (log_term, index);
            (message.commit, message.commit_term) = (commit, commit_term);
            message.priority = priority;
            message.deprecated_priority = u64::try_from(priority).unwrap_or(0);
            if is_transfer {
                message.context = Bytes::from_static(b"CampaignTransfer");
            }
            message
        },
    )
}

/// A message of any kind that peers send.
fn any_message() -> impl Strategy<Value = Message> {
    let response = (number(), number(), any::<bool>(), number(), number(), number());
    let response = response.prop_map(|(index, commit, reject, log_term, hint, snapshot)| {
        let mut message = of(Kind::AppendResponse, (5, 6), 1);
        (message.index, message.commit, message.reject) = (index, commit, reject);
        if reject {
            (message.log_term, message.reject_hint, message.request_snapshot) = (log_term, hint, snapshot);
        }
        message
    });
    let voted = |kind| {
        (any::<bool>(), number(), number()).prop_map(move |(reject, commit, commit_term)| {
            let mut message = of(kind, (7, 8), 2);
            message.reject = reject;
            if reject {
                (message.commit, message.commit_term) = (commit, commit_term);
            }
            message
        })
    };
    let beat = |kind| {
        (number(), bytes(0..256)).prop_map(move |(commit, context)| Message {
            commit,
            context,
            ..of(kind, (1, 9), 3)
        })
    };
    let read = |kind: Kind| {
        (number(), bytes(1..256)).prop_map(move |(index, data)| {
            let term = u64::from(kind != Kind::ReadIndex);
            let mut message = of(kind, (2, 1), term);
            message.index = if term == 0 { 0 } else { index };
            message.set_entries(vec![Entry { data, ..Entry::default() }].into());
            message
        })
    };
    let image = (number(), number(), 0..4_u8, bytes(0..300)).prop_map(|(one, other, part, chunk)| {
        let part = match part {
            0 => {
                let (version, bytes) = (chunk.first().copied().unwrap_or_default(), other ^ one);
                Part::Offer(Offer { lsn: Lsn(one), term: Term(other), version, bytes })
            }
            1 => Part::Chunk(chunk),
            2 => Part::Asks(Question { round: one as u32, before: other as u32 }),
            _ => Part::Withdrawn,
        };
        let process = Process { node: NodeId(other), incarnation: one, starts: one ^ other };
        let image = ImageId { process, number: other };
        Message { context: ToReceiver { image, part }.encode(), ..of(Kind::Image, (1, 2), 5) }
    });
    let answer = (number(), any::<u32>(), any::<prop::sample::Index>(), 0..3_u8).prop_map(
        |(one, chunk, ended, how)| {
            let answer = match how {
                0 => Answer::Ended(Ended::ALL[ended.index(Ended::ALL.len())]),
                1 => Answer::Has { chunk, question: Question { round: !chunk, before: one as u32 } },
                _ => Answer::Wants { chunk },
            };
            let process = |node| Process { node: NodeId(node), incarnation: one, starts: u64::from(chunk) };
            let image = ImageId { process: process(5), number: 7 };
            let context = ToSender { image, receiver: process(one), answer }.encode();
            Message { context, ..of(Kind::ImageResponse, (2, 1), 5) }
        },
    );
    prop_oneof![
        1 => image,
        1 => answer,
        3 => append(),
        1 => response,
        1 => vote(Kind::VoteRequest),
        1 => vote(Kind::PreVoteRequest),
        1 => voted(Kind::VoteResponse),
        1 => voted(Kind::PreVoteResponse),
        1 => beat(Kind::Heartbeat),
        1 => beat(Kind::HeartbeatResponse),
        1 => Just(of(Kind::TimeoutNow, (1, 2), 5)),
        1 => Just(of(Kind::Wake, (1, 2), 5)),
        1 => number().prop_map(|index| Message { index, ..of(Kind::Sleep, (1, 2), 5) }),
        1 => (number(), number(), number(), 0..4_usize).prop_map(|(index, commit, commit_term, others)| {
            let context = Bytes::from(vec![7; others * 24]);
            Message { index, commit, commit_term, context, ..of(Kind::Beat, (1, 2), 5) }
        }),
        1 => read(Kind::ReadIndex),
        1 => read(Kind::ReadIndexResponse),
    ]
}

fn outgoing(partition: u64, message: Message) -> Outgoing {
    Outgoing::new(PartitionId(partition), message).expect("peers may be sent it")
}

/// The stream that tests write and read.
const STREAM: Stream = Stream { id: 0x1112_1314_1516_1718, version: 1, lane: Lane::Log };

fn frame_of(writer: &mut FrameWriter, messages: &[(u64, Message)]) -> Bytes {
    let messages: Vec<_> =
        messages.iter().map(|(partition, message)| outgoing(*partition, message.clone())).collect();
    writer.write(&messages)
}

/// All messages that a reader finds in bytes that come in these pieces, and what ended it.
fn read(
    reader: &mut FrameReader,
    pieces: impl IntoIterator<Item = Bytes>,
) -> (Vec<(u64, Message)>, Option<FrameError>) {
    let mut messages = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            let next = reader.next();
            reader.check_invariants(matches!(next, Ok(None)));
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            };
            for message in frame.into_messages() {
                match message {
                    Ok((partition, message)) => messages.push((partition.0, message)),
                    Err(error) => return (messages, Some(error)),
                }
            }
        }
    }
    (messages, None)
}

/// The kinds of the crate that are not sent.
const UNSENT: [MessageType; 3] =
    [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgTransferLeader];
