//! Which keys were asked for of late: what is asked for once does not drive out what is asked for again and again.
//!
//! A bit a key, at a position that its hash names. Each key that is noted moves a hand on, which clears what lies under it:
//! a bit stays for at most as many keys as the hand takes to come round, about as many as there are rows in memory. Keys may
//! be taken for one another; then a row is kept in vain.

/// Bytes of memory for rows to one for this.
const ROWS_A_BYTE: usize = 256;
/// The hand clears a byte's bits with each key, so one bit in eight is set at most.
const BITS_A_KEY: u64 = 8;

/// See the file's head. Takes memory when there is a key.
#[derive(Debug)]
pub(in crate::store) struct AskedFor {
    words: Vec<u64>,
    /// How many there will be: a power of two.
    count: usize,
    /// The bit from which on the hand clears next.
    hand: u64,
}

impl AskedFor {
    /// Of a store that has so much memory for rows.
    pub(in crate::store) fn new(memory_bytes: usize) -> Self {
        let bytes = (memory_bytes / ROWS_A_BYTE).max(1024);
        let count = 1 << (bytes / size_of::<u64>()).ilog2();
        Self { words: Vec::new(), count, hand: 0 }
    }

    /// Notes that a key is asked for. Returns whether it was of late.
    pub(in crate::store) fn note(&mut self, hash: u64) -> bool {
        if self.words.is_empty() {
            // Its pages are cleared as they are touched, and not all at once on the core.
            self.words = vec![0; self.count];
        }
        let hand = self.hand;
        self.hand = hand.wrapping_add(BITS_A_KEY);
        *self.word(hand) &= !(0xff << (hand % u64::from(u64::BITS)));
        // The hash's top bits choose the row's page: these are others.
        let (word, bit) = (self.word(hash), 1 << ((hash >> 32) % u64::from(u64::BITS)));
        let was_asked = *word & bit != 0;
        *word |= bit;
        was_asked
    }

    /// The word of a bit.
    fn word(&mut self, bit: u64) -> &mut u64 {
        let at = bit / u64::from(u64::BITS) % self.count as u64;
        self.words.get_mut(at as usize).expect("it is one of those")
    }
}

#[cfg(test)]
mod tests {
    use corduroy_wal::mix::scramble;

    use super::*;

    /// 1,024 bytes: a round of the hand takes as many keys.
    const ROUND: u64 = 1024;

    #[test]
    fn a_key_is_known_until_the_hand_has_come_round() {
        let mut asked = AskedFor::new(ROUND as usize * ROWS_A_BYTE);
        let key = scramble(7);
        assert!(!asked.note(key) && asked.note(key) && asked.note(key));
        (0..ROUND).for_each(|_| _ = asked.note(scramble(8)));
        assert!(!asked.note(key), "it was not asked for since");
    }

    #[test]
    fn few_keys_are_taken_for_others() {
        let mut asked = AskedFor::new(ROUND as usize * ROWS_A_BYTE);
        let mistaken = (0..10 * ROUND).filter(|key| asked.note(scramble(*key))).count() as u64;
        assert!(mistaken < ROUND, "{mistaken} of {}", 10 * ROUND);
        let words = AskedFor::new(64 << 20).count;
        assert_eq!(words * size_of::<u64>(), 256 << 10);
    }
}
