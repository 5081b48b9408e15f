//! Frames: each comes once, in order and whole, however the connection cuts them, or the stream ends.

use corduroy_wal::mix::SplitMix64;

use super::*;
use crate::net::frame::{HEAD_BYTES, MESSAGES_MAX};

const BODY_BYTES_MAX: usize = 1 << 20;

fn reader() -> FrameReader {
    FrameReader::new(STREAM, BODY_BYTES_MAX)
}

fn beat(commit: u64) -> Message {
    Message { commit, ..of(Kind::Heartbeat, (1, 2), 3) }
}

/// A frame of two messages, one of them with entries.
fn sample(writer: &mut FrameWriter) -> (Bytes, Vec<(u64, Message)>) {
    let mut message = Message { log_term: 2, index: 7, ..of(Kind::Append, (1, 2), 5) };
    message.set_entries(
        entries(7, 2, vec![(0, 0, Bytes::from_static(b"a payload")), (1, 1, Bytes::new())]).into(),
    );
    let messages = vec![(4, message), (5, beat(9))];
    (frame_of(writer, &messages), messages)
}

proptest! {
    #[test]
    fn frames_come_however_they_are_cut(
        turns in proptest::collection::vec(proptest::collection::vec((any::<u64>(), any_message()), 1..4), 1..5),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..9),
    ) {
        let mut writer = FrameWriter::new(STREAM);
        let all: Vec<u8> = turns.iter().flat_map(|messages| frame_of(&mut writer, messages)).collect();
        let all = Bytes::from(all);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len())).collect();
        cuts.extend([0, all.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| all.slice(cut[0]..cut[1]));
        let (messages, error) = read(&mut reader(), pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(messages, turns.concat());
    }
}

#[test]
fn frames_come_byte_by_byte_and_cut_at_each() {
    let mut writer = FrameWriter::new(STREAM);
    let (first, messages) = sample(&mut writer);
    let both = Bytes::from([first.clone(), frame_of(&mut writer, &messages)].concat());
    let expected = [messages.clone(), messages].concat();
    let bytes = (0..both.len()).map(|at| both.slice(at..=at));
    assert_eq!(read(&mut reader(), bytes), (expected.clone(), None));
    for at in 0..=both.len() {
        let found = read(&mut reader(), [both.slice(..at), both.slice(at..)]);
        assert_eq!(found, (expected.clone(), None), "cut at {at}");
        // Without what follows, only what is whole has come.
        let (found, error) = read(&mut reader(), [both.slice(..at)]);
        assert_eq!(
            (found.len(), error),
            (
                if at == both.len() {
                    4
                } else if at >= first.len() {
                    2
                } else {
                    0
                },
                None
            )
        );
    }
}

#[test]
fn every_bit_that_flips_ends_the_stream() {
    let (frame, _) = sample(&mut FrameWriter::new(STREAM));
    for bit in 0..frame.len() * 8 {
        let mut bytes = frame.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (messages, error) = read(&mut reader(), [Bytes::from(bytes)]);
        assert!(messages.is_empty() && error.is_some(), "bit {bit} was not noticed");
    }
}

#[test]
fn a_frame_that_is_repeated_lost_or_moved_is_found() {
    let mut writer = FrameWriter::new(STREAM);
    let [one, two, three] = [1, 2, 3].map(|commit| frame_of(&mut writer, &[(1, beat(commit))]));
    let number = |found, expected| Some(FrameError::Number { found, expected });
    for (order, heard, error) in [
        (vec![&one, &two, &three], 3, None),
        (vec![&one, &one], 1, number(0, 1)),
        (vec![&one, &two, &one], 2, number(0, 2)),
        (vec![&one, &three], 1, number(2, 1)),
        (vec![&two, &one], 0, number(1, 0)),
    ] {
        let (messages, found) = read(&mut reader(), order.into_iter().cloned());
        assert_eq!((messages.len(), found), (heard, error));
    }
    let mut failed = reader();
    let (_, error) = read(&mut failed, [two]);
    assert_eq!(read(&mut failed, [one]), (Vec::new(), error), "nothing comes behind what is wrong");
}

#[test]
fn frames_of_other_streams_are_found() {
    let with = |stream: Stream| {
        let frame = frame_of(&mut FrameWriter::new(stream), &[(1, beat(1))]);
        read(&mut reader(), [frame]).1.expect("it is of another stream")
    };
    assert_eq!(with(Stream { id: 1, ..STREAM }), FrameError::Stream);
    assert_eq!(with(Stream { version: 2, ..STREAM }), FrameError::Version { found: 2, spoken: 1 });
    assert_eq!(with(Stream { lane: Lane::Bulk, ..STREAM }), FrameError::Lane { found: 3 });
}

/// The head of a frame with another field, and the checksum that goes with it.
fn forged(frame: &Bytes, at: usize, field: &[u8]) -> Bytes {
    let mut bytes = frame.to_vec();
    bytes[at..at + field.len()].copy_from_slice(field);
    let body = crc32fast::hash(&bytes[HEAD_BYTES..]);
    bytes[32..36].copy_from_slice(&body.to_le_bytes());
    let head = crc32fast::hash(&bytes[8..HEAD_BYTES]);
    bytes[4..8].copy_from_slice(&head.to_le_bytes());
    bytes.into()
}

#[test]
fn frames_that_nobody_writes_are_refused() {
    let (frame, _) = sample(&mut FrameWriter::new(STREAM));
    let error = |bytes: Bytes| read(&mut reader(), [bytes]).1;
    let bytes = frame.len() - HEAD_BYTES;
    assert_eq!(error(forged(&frame, 8, &[1])), None);
    for messages in [0, 5000] {
        let forged = forged(&frame, 10, &u16::to_le_bytes(messages));
        assert_eq!(error(forged), Some(FrameError::Messages { messages, bytes }));
    }
    let more = forged(&frame, 10, &[5]);
    assert_eq!(error(more), Some(FrameError::Messages { messages: 5, bytes }), "there is no room for them");
    let fewer = forged(&frame, 10, &[1]);
    let trailing = outgoing(5, beat(9)).bytes();
    assert_eq!(error(fewer), Some(FrameError::Trailing { bytes: trailing }));
    let long = forged(&frame, 12, &u32::MAX.to_le_bytes());
    let found = FrameError::Long { bytes: u32::MAX as usize, limit: BODY_BYTES_MAX };
    assert_eq!(error(long.slice(..HEAD_BYTES)), Some(found), "before any of it has come");
    assert_eq!(error(forged(&frame, 0, &[0])), Some(FrameError::Magic { found: 0xc0d5_4e00 }));
    let foreign = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: corduroy\r\n\r\n   ");
    assert!(matches!(error(foreign), Some(FrameError::Magic { .. })));
    let wrong = forged(&frame, HEAD_BYTES, &[13]);
    assert_eq!(error(wrong), Some(FrameError::Message(crate::net::MessageDamage::Kind { found: 13 })));
}

#[test]
fn memory_grows_with_what_came_and_not_with_what_was_announced() {
    let large = Message { context: Bytes::from(vec![1; 200]), ..beat(1) };
    let messages: Vec<_> = (0..MESSAGES_MAX as u64).map(|partition| (partition, large.clone())).collect();
    let frame = frame_of(&mut FrameWriter::new(STREAM), &messages);
    assert!(frame.len() > 900_000);
    let mut announced = reader();
    assert_eq!(read(&mut announced, [frame.slice(..HEAD_BYTES + 1)]), (Vec::new(), None));
    assert!(announced.reserved_bytes() <= 64 << 10, "{} bytes for one", announced.reserved_bytes());
    let pieces = (0..frame.len()).step_by(9_000).map(|at| frame.slice(at..frame.len().min(at + 9_000)));
    let mut whole = reader();
    assert_eq!(read(&mut whole, pieces).0.len(), MESSAGES_MAX);
    assert_eq!(whole.reserved_bytes(), 0);
}

#[test]
fn a_frame_in_one_piece_is_not_copied() {
    let (frame, _) = sample(&mut FrameWriter::new(STREAM));
    let (messages, _) = read(&mut reader(), [frame.clone()]);
    let payload = &messages[0].1.entries[0].data;
    assert_eq!(&payload[..], b"a payload");
    assert!(frame.as_ptr_range().contains(&payload.as_ptr()));
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let (frame, _) = sample(&mut FrameWriter::new(STREAM));
    let mut numbers = SplitMix64::new(7);
    for _ in 0..60_000 {
        let mut bytes = frame.to_vec();
        // A body that was put together by somebody who knows checksums.
        for _ in 0..=numbers.next_u64() % 4 {
            let at = usize::try_from(numbers.next_u64()).unwrap_or(0) % bytes.len();
            bytes[at] = u8::try_from(numbers.next_u64() % 256).unwrap();
        }
        let bytes = forged(&Bytes::from(bytes), 0, &frame[..4]);
        let at = usize::try_from(numbers.next_u64()).unwrap_or(0) % bytes.len();
        read(&mut reader(), [bytes.slice(..at), bytes.slice(at..)]);
    }
}
