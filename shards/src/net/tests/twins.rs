//! Two processes that say that they are the same start of a node.

use super::handshake::local;
use super::peers::{connected, options, restarted};
use super::world::{World, shard_of};
use super::*;
use crate::ids::{NodeId, PartitionId};
use crate::net::{Ending, Epoch, Local, Output, Refusal, RefusalKind};

#[test]
fn of_two_processes_that_are_one_start_neither_is_heard_until_there_is_a_newer_one() {
    let mut world = connected();
    let (first, twin) = (local(1), Local { epoch: Epoch { process: 9, ..local(1).epoch }, ..local(1) });
    let refused = |world: &mut World| {
        let now = world.endings();
        let ended = |node: u64| {
            now.iter().filter(move |((of, _), _)| *of == node).map(|(_, why)| match why {
                Ending::Refused(refusal) => refusal.kind(),
                other => panic!("{other:?}"),
            })
        };
        (ended(1).collect::<Vec<_>>(), ended(2).collect::<Vec<_>>())
    };
    // The twin is heard of on another core than the one that the first is connected to.
    let now_ns = world.now_ns;
    world.core((2, 0)).seen(NodeId(1), twin.epoch, now_ns);
    world.run();
    assert_eq!(refused(&mut world), (vec![], vec![RefusalKind::TwoProcesses]));
    for process in [&twin, &first, &twin] {
        world.start(process.clone(), options());
        world.pass_ms(6_000);
        world.send((1, 0), (2, 0), 3);
        world.run();
        assert!(world.delivered().is_empty());
        assert_eq!(refused(&mut world), (vec![RefusalKind::ByPeer], vec![RefusalKind::TwoProcesses]));
    }
    world.start(restarted(1, 6), options());
    world.pass_ms(6_000);
    world.send((1, 0), (2, 0), 4);
    world.run();
    assert_eq!(world.delivered(), [((2, 0), 1, 4)]);
}

#[test]
fn a_process_that_comes_beside_its_twin_ends_the_twins_connections_on_all_cores() {
    let mut world = connected();
    let twin = Local { epoch: Epoch { process: 9, ..local(1).epoch }, ..local(1) };
    world.send((1, 1), (2, 1), 2);
    world.run();
    world.delivered();
    let mut elsewhere = World::new([twin], options());
    let (now_ns, nonce) = (world.now_ns, world.nonce());
    let conn = world.core((2, 0)).accepted(nonce, now_ns).unwrap();
    let new = elsewhere.core((1, 0));
    new.queue(shard_of((2, 0)), Lane::Log, PartitionId(1), of(Kind::Heartbeat, (1, 2), 3), now_ns).unwrap();
    let Some(Output::Dial { conn: dialled, .. }) = new.next_output() else { panic!("it dials") };
    new.connected(dialled, [77; 32], now_ns);
    for _ in 0..2 {
        while let Some(Output::Write { bytes, .. }) = elsewhere.core((1, 0)).next_output() {
            world.core((2, 0)).received(conn, bytes, now_ns);
        }
        while let Some(output) = world.core((2, 0)).next_output() {
            match output {
                Output::Write { bytes, .. } => {
                    elsewhere.core((1, 0)).received(dialled, bytes, now_ns);
                }
                Output::Seen { node, epoch } => world.core((2, 1)).seen(node, epoch, now_ns),
                Output::Close { why: Ending::Refused(Refusal::TwoProcesses { .. }), .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    for core in 0..2 {
        world.core((2, core)).check();
        // That of the twin; and two of the first process to core 0, one to core 1.
        let refused = world.core((2, core)).counters().refused(RefusalKind::TwoProcesses);
        assert_eq!(refused, if core == 0 { 3 } else { 1 });
    }
}
