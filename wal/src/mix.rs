//! SplitMix64: numbers from a seed that look drawn by chance, and a hash for ids that nobody chooses.
//!
//! Invariant: equal seeds give equal numbers for ever. Segments' salts and the plays of simulator and tests rest on it.
//! Nothing here withstands somebody who chooses the input.

use std::hash::{BuildHasherDefault, Hasher};

/// By which the state of SplitMix64 grows: 2^64 over the golden ratio.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The last step of SplitMix64: each bit of the result depends on all of the number's. 0 stays 0.
#[must_use]
#[inline]
pub const fn scramble(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The number that SplitMix64 gives first from this seed.
#[must_use]
#[inline]
pub const fn mix(seed: u64) -> u64 {
    scramble(seed.wrapping_add(STEP))
}

/// The generator.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The numbers of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        let number = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        number
    }
}

/// Hashes ids: they are dense and ours, so one step of mixing will do.
#[derive(Clone, Copy, Default, Debug)]
pub struct IdHasher(u64);

/// Makes [`IdHasher`]s.
pub type IdHash = BuildHasherDefault<IdHasher>;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    #[inline]
    fn write_u64(&mut self, id: u64) {
        self.0 = mix(self.0 ^ id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_published_numbers() {
        let mut numbers = SplitMix64::new(0);
        let drawn = [numbers.next_u64(), numbers.next_u64(), numbers.next_u64()];
        assert_eq!(drawn, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
        let mut numbers = SplitMix64::new(1_234_567);
        let drawn = [numbers.next_u64(), numbers.next_u64()];
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert_eq!((scramble(0), mix(1_234_567)), (0, drawn[0]));
    }
}
