//! What is to be written to a client: replies as bytes, and among them large values that are not copied to get there.

use std::collections::VecDeque;

use corduroy_wal::mix::scramble;

use crate::store::SharedBytes;

/// Stands for the large values in an output: the same as long as they are, but for a chance of one in 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SharesMark {
    count: usize,
    sum: u64,
}

impl SharesMark {
    fn of(value: &SharedBytes) -> Self {
        // A freed one may have been replaced by another at the same address, of another length.
        Self { count: 1, sum: scramble(scramble(value.whole() as u64) ^ value.held_len() as u64) }
    }
}

impl std::ops::Add for SharesMark {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { count: self.count + other.count, sum: self.sum.wrapping_add(other.sum) }
    }
}

impl std::ops::Sub for SharesMark {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { count: self.count - other.count, sum: self.sum.wrapping_sub(other.sum) }
    }
}

/// See the file's head. Written at its end, sent from its front.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// How many of the bytes are sent.
    head: usize,
    /// Large values, each with the number of bytes before it.
    large: VecDeque<(usize, SharedBytes)>,
    /// How much of the first of them is sent.
    large_head: usize,
    /// What of them is not sent.
    large_bytes: usize,
    /// What they keep in memory: each the whole, until all of it is sent.
    large_held_bytes: usize,
    shares_mark: SharesMark,
}

impl Output {
    /// How much is to be sent, bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head + self.large_bytes
    }

    /// Whether nothing is to be sent.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it holds in memory, the large values as if nobody else held them.
    #[must_use]
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.large_held_bytes
    }

    /// The large values in it: others may hold them too.
    pub fn shares(&self) -> impl ExactSizeIterator<Item = &SharedBytes> {
        self.large.iter().map(|(_, value)| value)
    }

    /// Stands for the large values in it.
    #[must_use]
    pub const fn shares_mark(&self) -> SharesMark {
        self.shares_mark
    }

    /// Bytes that were copied to get here, and are not sent.
    #[must_use]
    pub const fn copied_bytes(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// A byte more.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Bytes more.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Where numbers are written to.
    #[inline]
    pub const fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Large bytes more: a value that has its header before it and will have its end behind it, or whole replies.
    pub fn push_shared(&mut self, value: &SharedBytes) {
        self.large_bytes += value.len();
        self.large_held_bytes += value.held_len();
        self.shares_mark = self.shares_mark + SharesMark::of(value);
        self.large.push_back((self.bytes.len(), value.clone()));
    }

    /// The replies of another one behind its own.
    pub fn append(&mut self, other: Self) {
        assert!(other.head == 0 && other.large_head == 0, "nothing of it was sent");
        if self.is_empty() && other.bytes.len() > self.bytes.capacity() {
            *self = other;
            return;
        }
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.large.extend(other.large.into_iter().map(|(at, value)| (before + at, value)));
        self.large_bytes += other.large_bytes;
        self.large_held_bytes += other.large_held_bytes;
        self.shares_mark = self.shares_mark + other.shares_mark;
    }

    /// Where the next reply begins; for [`Output::since`] and [`Output::truncate`].
    #[must_use]
    #[inline]
    pub const fn mark(&self) -> usize {
        self.bytes.len()
    }

    /// What was written since then, without large values.
    #[must_use]
    #[inline]
    pub fn since(&self, mark: usize) -> &[u8] {
        self.bytes.get(mark..).unwrap_or_default()
    }

    /// Takes back what was written since then.
    pub fn truncate(&mut self, mark: usize) {
        self.bytes.truncate(mark);
        while self.large.back().is_some_and(|(at, _)| *at > mark)
            && let Some((_, value)) = self.large.pop_back()
        {
            self.large_bytes -= value.len();
            self.large_held_bytes -= value.held_len();
            self.shares_mark = self.shares_mark - SharesMark::of(&value);
        }
    }

    /// What can be sent next: some of what there is, nothing only if there is nothing.
    #[must_use]
    pub fn front(&self) -> &[u8] {
        let end = self.large.front().map_or(self.bytes.len(), |(at, _)| *at);
        match self.large.front() {
            Some((_, value)) if end == self.head => {
                value.as_slice().get(self.large_head..).unwrap_or_default()
            }
            _ => self.bytes.get(self.head..end).unwrap_or_default(),
        }
    }

    /// So many bytes of [`Output::front`] are sent.
    pub fn advance(&mut self, sent: usize) {
        match self.large.front() {
            Some((at, value)) if *at == self.head => {
                self.large_head += sent;
                self.large_bytes -= sent;
                if self.large_head == value.len() {
                    self.large_head = 0;
                    self.large_held_bytes -= value.held_len();
                    self.shares_mark = self.shares_mark - SharesMark::of(value);
                    self.large.pop_front();
                }
            }
            _ => self.head += sent,
        }
        if self.head == self.bytes.len() && self.large.is_empty() {
            self.bytes.clear();
            self.head = 0;
        }
    }

    /// Gives back memory that it has for more than so many bytes, if nothing is to be sent.
    pub fn shrink(&mut self, bytes: usize) {
        if self.is_empty() && self.bytes.capacity() > bytes {
            *self = Self::default();
        }
    }

    /// All that is to be sent, in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        let (mut at, mut sent) = (self.head, self.large_head);
        for (end, value) in &self.large {
            all.extend_from_slice(self.bytes.get(at..*end).unwrap_or_default());
            all.extend_from_slice(value.as_slice().get(sent..).unwrap_or_default());
            (at, sent) = (*end, 0);
        }
        all.extend_from_slice(self.bytes.get(at..).unwrap_or_default());
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn shared(text: &str) -> SharedBytes {
        SharedBytes::new(Arc::new(text.as_bytes().to_vec()), 0..text.len())
    }

    fn bulk(output: &mut Output, text: &str) {
        output.extend_from_slice(format!("${}:", text.len()).as_bytes());
        output.push_shared(&shared(text));
        output.push(b';');
    }

    #[test]
    fn all_comes_out_in_order_however_it_is_sent() {
        for step in 1..40 {
            let (mut output, mut other) = (Output::default(), Output::default());
            output.extend_from_slice(b"+OK;");
            bulk(&mut output, "hello world");
            bulk(&mut output, "x");
            bulk(&mut other, "large");
            other.extend_from_slice(b"end");
            output.append(other);
            let expected = b"+OK;$11:hello world;$1:x;$5:large;end";
            assert_eq!((output.to_vec(), output.len()), (expected.to_vec(), expected.len()));
            let mut sent = Vec::new();
            while !output.is_empty() {
                let front = output.front();
                assert!(!front.is_empty());
                let count = front.len().min(step);
                sent.extend_from_slice(front.get(..count).unwrap());
                output.advance(count);
                assert_eq!(output.to_vec(), expected[sent.len()..]);
            }
            assert_eq!(sent, expected);
            assert!(output.front().is_empty() && output.mark() == 0, "it begins anew");
        }
    }

    #[test]
    fn a_large_value_is_held_whole_until_all_of_it_is_sent() {
        let whole = Arc::new(vec![b'v'; 1000]);
        let mut output = Output::default();
        output.extend_from_slice(b"+");
        let own = output.held_bytes();
        output.push_shared(&SharedBytes::new(Arc::clone(&whole), 100..900));
        assert_eq!((output.len(), output.held_bytes()), (801, own + 1000));
        output.advance(1);
        output.advance(799);
        assert_eq!(
            (output.len(), output.held_bytes()),
            (1, own + 1000),
            "who reads nearly all of it still holds it"
        );
        output.advance(1);
        assert_eq!((output.len(), output.held_bytes(), Arc::strong_count(&whole)), (0, own, 1));
        let mut other = Output::default();
        other.push_shared(&SharedBytes::new(whole, 0..900));
        output.extend_from_slice(b"+");
        output.append(other);
        assert_eq!((output.len(), output.held_bytes()), (901, own + 1000));
        output.truncate(0);
        assert_eq!((output.len(), output.held_bytes()), (0, own));
    }

    #[test]
    fn the_mark_of_large_values_changes_when_they_do_and_only_then() {
        let (mut output, mut other) = (Output::default(), Output::default());
        let (one, two) = (shared("one"), shared("two"));
        output.push_shared(&one);
        let first = output.shares_mark();
        output.extend_from_slice(b"words");
        output.advance(1);
        assert_eq!(output.shares_mark(), first, "a part of it is sent");
        other.push_shared(&two);
        other.push_shared(&one);
        let both = other.shares_mark() + output.shares_mark();
        output.append(other);
        assert_eq!(output.shares_mark(), both, "wherever they are");
        let mark = output.mark();
        output.push(b' ');
        output.push_shared(&two);
        assert_ne!(output.shares_mark(), both);
        output.truncate(mark);
        assert_eq!(output.shares_mark(), both);
        output.advance(2);
        output.advance(5);
        let mut rest = Output::default();
        rest.push_shared(&one);
        rest.push_shared(&two);
        assert!(output.shares_mark() == rest.shares_mark() && output.shares_mark() != both);
        output.advance(3);
        assert_eq!(output.shares_mark(), first, "as many as at first");
        output.advance(3);
        assert_eq!(output.shares_mark(), SharesMark::default());
    }

    #[test]
    fn what_was_written_is_taken_back_with_its_large_values() {
        let mut output = Output::default();
        bulk(&mut output, "first");
        let mark = output.mark();
        bulk(&mut output, "second");
        output.extend_from_slice(b"-ERR");
        assert_eq!(output.since(mark), b"$6:;-ERR");
        output.truncate(mark);
        assert_eq!(output.to_vec(), b"$5:first;");
        assert_eq!(output.len(), 9);
    }
}
