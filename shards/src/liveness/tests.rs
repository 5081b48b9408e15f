//! What nodes hear of each other, and when one counts as silent.

use super::*;
use crate::ids::NodeId;

const MS: u64 = 1_000_000;
const P: PartitionId = PartitionId(4);

/// That of a storage whose process has started so often.
fn of(storage: u64, starts: u64) -> Liveness {
    let process = Process { node: NodeId(storage), incarnation: 7, starts };
    Liveness::new(StorageId(storage), process, (300 * MS, 1_000 * MS))
}

/// What one sends the other at a time, which gets it unless it is lost.
fn exchange(from: &mut Liveness, to: &mut Liveness, now_ns: u64, is_lost: bool) -> usize {
    let mut sent = Vec::new();
    from.look(now_ns, &mut sent);
    for PeerMessage { partition, to: storage, message } in sent.iter().filter(|_| !is_lost) {
        assert_eq!((*storage, is_beat(message)), (to.storage, true));
        to.heard(from.storage, *partition, message, now_ns);
    }
    sent.len()
}

fn events(of: &mut Liveness) -> Vec<PeerEvent> {
    std::iter::from_fn(|| of.take_event()).collect()
}

#[test]
fn nothing_is_sent_before_somebody_is_met_and_little_afterwards() {
    let (mut one, mut two) = (of(1, 0), of(2, 0));
    assert_eq!((one.next_ns(), exchange(&mut one, &mut two, 0, false)), (None, 0));
    (0..100).for_each(|partition| one.meet(StorageId(2), PartitionId(partition), 5 * MS));
    let sent: usize = (5..10_005).map(|ms| exchange(&mut one, &mut two, ms * MS, false)).sum();
    assert_eq!(sent, 34, "each third tick of 100 ms");
    assert_eq!(events(&mut two), [PeerEvent::Up(StorageId(1))]);
    assert!(two.is_alive(StorageId(1)) && !one.is_alive(StorageId(2)), "who is only met is not alive");
}

#[test]
fn shards_that_begin_at_different_times_beat_at_the_same() {
    let next = [5, 170, 299].map(|ms| {
        let mut shard = of(1, 0);
        shard.meet(StorageId(2), P, ms * MS);
        shard.look(ms * MS, &mut Vec::new());
        shard.next_ns()
    });
    assert_eq!(next, [Some(300 * MS); 3]);
}

#[test]
fn who_is_silent_is_down_and_up_again_with_the_first_beat() {
    let (mut one, mut two) = (of(1, 0), of(2, 0));
    one.meet(StorageId(2), P, 0);
    exchange(&mut one, &mut two, 0, false);
    assert_eq!(events(&mut two), [PeerEvent::Up(StorageId(1))]);
    // Two in a row may be lost.
    for (ms, is_lost) in [(300, true), (600, true), (900, false), (1_200, true), (1_500, true), (1_800, true)]
    {
        exchange(&mut one, &mut two, ms * MS, is_lost);
        two.look(ms * MS, &mut Vec::new());
        assert_eq!(events(&mut two), []);
    }
    assert!(two.next_ns().is_some_and(|at| at <= 1_900 * MS), "it looks again when the time is over");
    two.look(1_900 * MS, &mut Vec::new());
    assert_eq!((events(&mut two), two.is_alive(StorageId(1))), (vec![PeerEvent::Down(StorageId(1))], false));
    two.look(3_000 * MS, &mut Vec::new());
    assert_eq!(events(&mut two), [], "once");
    exchange(&mut one, &mut two, 3_100 * MS, false);
    assert_eq!(events(&mut two), [PeerEvent::Up(StorageId(1))]);
}

#[test]
fn what_was_overtaken_came_before_or_is_of_an_earlier_process_does_not_count() {
    let (mut one, mut two) = (of(1, 3), of(2, 0));
    let beat = |of: &mut Liveness, ms: u64| {
        let mut sent = Vec::new();
        of.meet(StorageId(2), P, ms * MS);
        of.look(ms * MS, &mut sent);
        sent.pop().expect("one is due").message
    };
    let (first, second) = (beat(&mut one, 0), beat(&mut one, 300));
    let mut heard = |beat: &Message, ms: u64| {
        two.heard(StorageId(1), P, beat, ms * MS);
        two.look(ms * MS, &mut Vec::new());
        events(&mut two)
    };
    assert_eq!(heard(&second, 300), [PeerEvent::Up(StorageId(1))]);
    assert_eq!((heard(&first, 1_200), heard(&second, 1_299)), (vec![], vec![]));
    assert_eq!(heard(&second, 1_300), [PeerEvent::Down(StorageId(1))]);
    let next = beat(&mut of(1, 4), 0);
    assert_eq!(heard(&next, 1_400), [PeerEvent::Up(StorageId(1))]);
    let third = beat(&mut one, 600);
    assert_eq!(heard(&third, 1_500), [], "of the process before");
    let after = beat(&mut of(1, 5), 0);
    assert_eq!(heard(&after, 1_600), [PeerEvent::Down(StorageId(1)), PeerEvent::Up(StorageId(1))]);
}

#[test]
fn that_a_replica_has_ended_is_heard_at_once_and_once() {
    let (mut one, mut two) = (of(1, 0), of(2, 0));
    one.meet(StorageId(2), P, 0);
    exchange(&mut one, &mut two, 0, false);
    one.replica_ended();
    assert_eq!(exchange(&mut one, &mut two, MS, false), 1);
    assert_eq!(events(&mut two), [PeerEvent::Up(StorageId(1)), PeerEvent::Changed(StorageId(1))]);
    exchange(&mut one, &mut two, 400 * MS, false);
    assert_eq!(events(&mut two), []);
}

#[test]
fn who_is_never_heard_is_forgotten_in_the_end() {
    let (mut one, mut nobody) = (of(1, 0), of(2, 0));
    one.meet(StorageId(2), P, 0);
    let sent = (0..7_200).map(|tick| exchange(&mut one, &mut nobody, tick * 100 * MS, true)).sum::<usize>();
    assert_eq!((sent, one.next_ns()), (2_000, None));
    one.meet(StorageId(2), P, 800_000 * MS);
    assert_eq!(exchange(&mut one, &mut nobody, 800_000 * MS, true), 1);
}

#[test]
fn where_no_group_sleeps_there_are_no_beats() {
    let process = Process { node: NodeId(1), incarnation: 7, starts: 0 };
    let mut one = Liveness::new(StorageId(1), process, (0, 1_000 * MS));
    one.meet(StorageId(2), P, 0);
    one.look(MS, &mut Vec::new());
    assert_eq!(one.next_ns(), None);
}
