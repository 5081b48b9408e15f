//! What is not acknowledged is asked about, and is not sent again before the member has said that it lacks it.

use std::collections::VecDeque;

use super::*;
use crate::image::transfer::Question;

fn asks(question: Question) -> SenderOutput {
    SenderOutput::Send(ToReceiver { image: ID, part: Part::Asks(question) })
}

fn has(chunk: u32, question: Question) -> Answer {
    Answer::Has { chunk, question }
}

fn to_sender(answer: Answer) -> ToSender {
    ToSender { image: ID, receiver: RECEIVER, answer }
}

/// A way on which a message takes twenty times as long as is waited before it is asked: in order, and all of it comes, but for
/// two chunks.
#[test]
fn on_a_slow_way_only_what_was_lost_is_sent_twice() {
    const CHUNKS: u32 = 40;
    const LOST: [u32; 2] = [17, 2];
    let delay_ms = 20 * options().retry_ms;
    let options = SenderOptions { bytes_per_s: 1 << 40, expiry_ms: 60_000, ..options() };
    let mut sender = Sender::new(options, ID, offer_of(50), 0);
    let mut lost = LOST.to_vec();
    let (mut read, mut sent, mut asked, mut stored) = (0, 0, 0, 0);
    let (mut there, mut back) = (VecDeque::new(), VecDeque::new());
    for ms in 1.. {
        sender.tick(ms * NS_PER_MS);
        while let Some((_, part)) = there.pop_front_if(|(at, _)| *at == ms) {
            let answer = match part {
                Part::Asks(question) => has(stored, question),
                Part::Chunk(bytes) if u32::from(bytes[0]) == stored => {
                    stored += 1;
                    Answer::Wants { chunk: stored }
                }
                Part::Chunk(_) | Part::Offer(_) | Part::Withdrawn => Answer::Wants { chunk: stored },
            };
            back.push_back((ms + delay_ms, to_sender(answer)));
        }
        while let Some((_, answer)) = back.pop_front_if(|(at, _)| *at == ms) {
            sender.received(&answer);
        }
        while let Some(output) = sender.poll() {
            let SenderOutput::Send(message) = output else {
                assert_eq!(output, SenderOutput::Read);
                sender.read(Some((Bytes::from(vec![read; 100]), u32::from(read) + 1 == CHUNKS)));
                read += 1;
                continue;
            };
            if let Part::Chunk(bytes) = &message.part {
                sent += 1;
                let number = u32::from(bytes[0]);
                if lost.pop_if(|lost| *lost == number).is_some() {
                    continue;
                }
            } else {
                asked += 1;
            }
            there.push_back((ms + delay_ms, message.part));
        }
        if stored == CHUNKS {
            break;
        }
    }
    assert!(lost.is_empty(), "{lost:?}");
    // With what is lost, what was under way behind it is in vain: less than a window.
    let most = CHUNKS + LOST.len() as u32 * options.window as u32;
    assert!(sent > CHUNKS && sent <= most, "{sent}");
    assert!(asked > 100, "{asked}");
}

/// Each question is answered by itself: one that was asked before what was lost has been sent again, or before what is under
/// way was sent, says nothing of that.
#[test]
fn an_answer_is_to_its_question() {
    let mut sender = asked();
    // The last chunk is read when the first one is acknowledged.
    let chunks = |sender: &mut Sender| {
        let mut count = 0;
        while let Some(output) = sender.poll() {
            match output {
                SenderOutput::Read => sender.read(Some((chunk_of(1), true))),
                SenderOutput::Send(message) => count += u32::from(matches!(message.part, Part::Chunk(_))),
                SenderOutput::Done(status) => panic!("{status:?}"),
            }
        }
        count
    };
    sender.tick(10 * NS_PER_MS);
    assert_eq!(chunks(&mut sender), 1);
    sender.tick(200 * NS_PER_MS);
    let first = Question { round: 0, before: 1 };
    assert!(all(&mut sender).contains(&asks(first)));
    sender.tick(400 * NS_PER_MS);
    let second = Question { round: 0, before: 3 };
    let _asks = all(&mut sender);
    sender.received(&to_sender(has(1, first)));
    assert_eq!(chunks(&mut sender), 1, "the one before it has come: the last chunk is new");
    sender.received(&to_sender(has(1, second)));
    sender.tick(650 * NS_PER_MS);
    assert_eq!(chunks(&mut sender), 3, "the others have not");
    sender.received(&to_sender(has(1, second)));
    sender.tick(700 * NS_PER_MS);
    assert_eq!(chunks(&mut sender), 0, "what was sent again is not sent a third time by that");
}

/// What has come before the question is not missed because it is not stored yet.
#[test]
fn who_asks_what_is_stored_waits_for_what_is_being_stored() {
    let chunks = image(46, 20);
    let question = |before| Question { round: 6, before };
    let has = |chunk, before| answers(ID, has(chunk, question(before)));
    let wants = |chunk| answers(ID, Answer::Wants { chunk });
    let mut receiver = Receiver::new(ReceiverOptions::default(), RECEIVER);
    let unknown = answers(ID, Answer::Ended(Ended::Unknown));
    assert_eq!(receive(&mut receiver, 5, ID, Part::Asks(question(0))), [unknown]);
    receive(&mut receiver, 5, ID, offer(46));
    assert_eq!(receive(&mut receiver, 5, ID, Part::Asks(question(1))), [has(0, 1)]);
    for chunk in &chunks[..2] {
        assert_eq!(receive(&mut receiver, 5, ID, Part::Chunk(chunk.clone())).len(), 1);
    }
    for before in [1, 2] {
        assert_eq!(receive(&mut receiver, 5, ID, Part::Asks(question(before))), []);
    }
    let mut stored = |number| {
        receiver.stored(ID, number, true, &STANDING);
        std::iter::from_fn(|| receiver.poll()).collect::<Vec<_>>()
    };
    assert_eq!(stored(0), [wants(1)]);
    assert_eq!(stored(1), [wants(2), has(2, 2)], "of the chunk, and to the last question");
}
