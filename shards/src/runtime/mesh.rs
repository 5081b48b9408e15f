//! The rings between all cores, and the rule of waking: drain everything a wake, one wake a batch.
//!
//! Invariant: a message sent is received once and in order of its sender. `send` only queues; `flush` rings the bell
//! of each core that was sent something since, at most once. A full ring gives the message back: the sender keeps it,
//! stops taking more from its sockets, and tries again at its next turn.

use std::io;
use std::sync::Arc;

use super::doorbell::Doorbell;
use super::ring::{RingReceiver, RingSender, ring};

/// The ring to that core is full; here is the message back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// One core's ends of all its rings.
#[derive(Debug)]
pub struct Endpoint<T> {
    core: usize,
    lanes: Vec<Option<Lane<T>>>,
    inbound: Vec<RingReceiver<T>>,
    bell: Arc<Doorbell>,
    unflushed: bool,
}

#[derive(Debug)]
struct Lane<T> {
    sender: RingSender<T>,
    bell: Arc<Doorbell>,
    unflushed: bool,
}

/// Builds the ends of all cores at once.
#[derive(Debug)]
pub struct Mesh;

impl Mesh {
    /// Rings of `capacity` messages between each ordered pair of `bells.len()` cores; `bells[i]` wakes core `i`.
    #[must_use]
    pub fn endpoints<T: Send>(bells: &[Arc<Doorbell>], capacity: usize) -> Vec<Endpoint<T>> {
        let mut ends: Vec<Endpoint<T>> = bells
            .iter()
            .enumerate()
            .map(|(core, bell)| Endpoint {
                core,
                lanes: Vec::with_capacity(bells.len()),
                inbound: Vec::new(),
                bell: Arc::clone(bell),
                unflushed: false,
            })
            .collect();
        for from in 0..bells.len() {
            for (to, bell) in bells.iter().enumerate() {
                let lane = (from != to).then(|| {
                    let (sender, receiver) = ring(capacity);
                    if let Some(end) = ends.get_mut(to) {
                        end.inbound.push(receiver);
                    }
                    Lane { sender, bell: Arc::clone(bell), unflushed: false }
                });
                if let Some(end) = ends.get_mut(from) {
                    end.lanes.push(lane);
                }
            }
        }
        ends
    }

    /// Doorbells for `cores` cores.
    ///
    /// # Errors
    /// What the system says; out of descriptors.
    pub fn doorbells(cores: usize) -> io::Result<Vec<Arc<Doorbell>>> {
        (0..cores).map(|_| Doorbell::new().map(Arc::new)).collect()
    }
}

impl<T: Send> Endpoint<T> {
    /// This core's number.
    #[must_use]
    pub fn core(&self) -> usize {
        self.core
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.lanes.len()
    }

    /// This core's doorbell.
    #[must_use]
    pub fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Queues a message for another core; it is seen after [`Endpoint::flush`] at the latest.
    ///
    /// # Errors
    /// [`Full`]. Keep it, flush, and try again after this core's next wake.
    ///
    /// # Panics
    /// If `to` is this core or none: a message to oneself must not leave the core.
    pub fn send(&mut self, to: usize, message: T) -> Result<(), Full<T>> {
        let lane =
            self.lanes.get_mut(to).and_then(Option::as_mut).expect("messages go to other cores that exist");
        let sent = lane.sender.push(message);
        // A full ring is rung as well: its reader may sleep on what an earlier, unflushed send put there.
        lane.unflushed = true;
        self.unflushed = true;
        sent.map_err(Full)
    }

    /// Wakes the cores that were sent something since the last flush, those of them that sleep.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.unflushed) {
            return;
        }
        for lane in self.lanes.iter_mut().flatten() {
            if std::mem::take(&mut lane.unflushed) {
                lane.bell.ring();
            }
        }
    }

    /// Takes everything that has arrived, `max` messages of each sender at most. Returns how many.
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(T)) -> usize {
        let mut taken = 0;
        for inbound in &self.inbound {
            for _ in 0..max {
                let Some(message) = inbound.pop() else { break };
                each(message);
                taken += 1;
            }
        }
        taken
    }

    /// Whether nothing waits here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbound.iter().all(RingReceiver::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Poller;

    fn pair(capacity: usize) -> (Endpoint<u32>, Endpoint<u32>) {
        let bells = Mesh::doorbells(2).expect("eventfds");
        let mut ends = Mesh::endpoints(&bells, capacity);
        let b = ends.pop().expect("two");
        let a = ends.pop().expect("two");
        (a, b)
    }

    fn drain(end: &mut Endpoint<u32>) -> Vec<u32> {
        let mut got = Vec::new();
        end.drain(usize::MAX, |message| got.push(message));
        got
    }

    #[test]
    fn one_wake_a_batch_and_none_for_the_waking() {
        let (mut a, mut b) = pair(8);
        b.bell().prepare_sleep();
        for message in 0..5 {
            a.send(1, message).expect("room");
        }
        assert_eq!(b.bell().wakes(), 0, "sending alone wakes nobody");
        a.flush();
        a.flush();
        assert_eq!(b.bell().wakes(), 1);
        b.bell().awake();
        a.send(1, 5).expect("room");
        a.flush();
        assert_eq!(b.bell().wakes(), 1, "it was awake");
        assert_eq!(drain(&mut b), [0, 1, 2, 3, 4, 5]);
        assert!(b.is_empty());
    }

    #[test]
    fn full_is_an_answer_and_each_direction_has_its_own_room() {
        let (mut a, mut b) = pair(2);
        a.send(1, 1).expect("room");
        a.send(1, 2).expect("room");
        assert_eq!(a.send(1, 3), Err(Full(3)));
        b.send(0, 9).expect("the way back is not full");
        assert_eq!(drain(&mut b), [1, 2]);
        a.send(1, 3).expect("room again");
        assert_eq!(drain(&mut b), [3]);
        assert_eq!(drain(&mut a), [9]);
    }

    #[test]
    fn drain_is_fair_to_all_senders() {
        let bells = Mesh::doorbells(3).expect("eventfds");
        let mut ends = Mesh::endpoints::<u32>(&bells, 16);
        for from in [1, 2] {
            for n in 0..4 {
                ends[from].send(0, from as u32 * 10 + n).expect("room");
            }
        }
        let mut got = Vec::new();
        assert_eq!(ends[0].drain(2, |message| got.push(message)), 4);
        assert_eq!(got, [10, 11, 20, 21]);
        assert_eq!((ends[0].core(), ends[0].cores()), (0, 3));
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const COUNT: u32 = 20_000;
        let (mut a, mut b) = pair(4);
        let poller = Poller::new().expect("epoll");
        poller.watch_input(b.bell().fd(), 0).expect("watched");
        let sender = std::thread::spawn(move || {
            for mut message in 0..COUNT {
                while let Err(Full(back)) = a.send(1, message) {
                    a.flush();
                    message = back;
                    std::thread::yield_now();
                }
                a.flush();
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            b.drain(usize::MAX, |message| {
                assert_eq!(message, expected);
                expected += 1;
            });
            b.bell().prepare_sleep();
            if expected < COUNT && b.is_empty() {
                poller.wait(None, |_, _| {}).expect("rung");
            }
            b.bell().awake();
        }
        sender.join().expect("sender");
    }
}
