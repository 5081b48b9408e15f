//! A bounded ring from one core to another.
//!
//! Invariant: what was pushed comes out once, in order. When it is full, the pusher gets the message back; nothing is
//! ever dropped or waits inside.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// The writing end.
#[derive(Debug)]
pub struct RingSender<T>(Arc<ArrayQueue<T>>);

/// The reading end.
#[derive(Debug)]
pub struct RingReceiver<T>(Arc<ArrayQueue<T>>);

/// A ring of `capacity` messages.
#[must_use]
pub fn ring<T: Send>(capacity: usize) -> (RingSender<T>, RingReceiver<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity.max(1)));
    (RingSender(Arc::clone(&queue)), RingReceiver(queue))
}

impl<T> RingSender<T> {
    /// Puts a message in.
    ///
    /// # Errors
    /// The message itself, if the ring is full.
    pub fn push(&self, message: T) -> Result<(), T> {
        self.0.push(message)
    }
}

impl<T> RingReceiver<T> {
    /// Takes the oldest message out.
    #[must_use]
    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    /// Whether nothing is there to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_gives_the_message_back_and_order_is_kept() {
        let (sender, receiver) = ring(2);
        assert!(receiver.is_empty());
        assert_eq!(sender.push(1), Ok(()));
        assert_eq!(sender.push(2), Ok(()));
        assert_eq!(sender.push(3), Err(3));
        assert_eq!(receiver.pop(), Some(1));
        assert_eq!(sender.push(3), Ok(()));
        assert_eq!((receiver.pop(), receiver.pop(), receiver.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn all_arrives_in_order_across_threads() {
        const COUNT: u32 = 50_000;
        let (sender, receiver) = ring(64);
        let writer = std::thread::spawn(move || {
            for mut message in 0..COUNT {
                while let Err(back) = sender.push(message) {
                    message = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            match receiver.pop() {
                Some(message) => {
                    assert_eq!(message, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        writer.join().expect("writer");
        assert!(receiver.is_empty());
    }
}
