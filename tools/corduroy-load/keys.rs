//! Which key comes next: uniform, Zipf, or newest first. Reproducible from a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corduroy_wal::mix::{SplitMix64, scramble};

/// A small fast generator (xoshiro256++, seeded by splitmix64).
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// A generator; equal seeds give equal numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut words = SplitMix64::new(seed);
        Self { state: std::array::from_fn(|_| words.next_u64()) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        debug_assert!(self.state != [0; 4]);
        result
    }

    /// A number below `bound` (at least 1).
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Zipf-distributed ranks 1 to n in O(1) and without a table, by rejection inversion (Hörmann and Derflinger).
#[derive(Clone, Debug)]
pub struct Zipf {
    n: f64,
    exponent: f64,
    integral_low: f64,
    integral_high: f64,
    shortcut: f64,
}

impl Zipf {
    /// Ranks 1 to `n`, rank r with weight r^-exponent (exponent above 0).
    #[must_use]
    pub fn new(n: u64, exponent: f64) -> Self {
        assert!(n >= 1 && exponent > 0.0, "a Zipf law needs a rank and a positive exponent");
        let n = n as f64;
        let mut zipf = Self { n, exponent, integral_low: 0.0, integral_high: 0.0, shortcut: 0.0 };
        zipf.integral_low = zipf.integral(1.5) - 1.0;
        zipf.integral_high = zipf.integral(n + 0.5);
        zipf.shortcut = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// The next rank.
    pub fn sample(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.integral_high + random.unit() * (self.integral_low - self.integral_high);
            let x = self.inverse(u);
            let rank = x.round().clamp(1.0, self.n);
            if rank - x <= self.shortcut || u >= self.integral(rank + 0.5) - self.weight(rank) {
                return rank as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the weight, up to a constant.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        log * if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 }
    }

    fn inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.exponent)).max(-1.0);
        (x * if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 }).exp()
    }
}

/// How keys are chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// Each key equally often.
    Uniform,
    /// By Zipf's law with this exponent, the hot keys scattered over the key space.
    Zipf(f64),
    /// By Zipf's law with this exponent, the newest key hottest (YCSB D).
    Latest(f64),
}

/// The number of keys that exist by now; inserts move it on, for all threads.
#[derive(Clone, Debug)]
pub struct KeyCount(Arc<AtomicU64>);

impl KeyCount {
    /// Starts with keys 0 to `count` - 1.
    #[must_use]
    pub fn new(count: u64) -> Self {
        Self(Arc::new(AtomicU64::new(count)))
    }

    /// The number of keys.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A new key.
    #[must_use]
    pub fn insert(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Chooses key numbers for one thread.
#[derive(Debug)]
pub struct KeyChooser {
    distribution: Distribution,
    zipf: Option<Zipf>,
    keys: u64,
    count: KeyCount,
}

impl KeyChooser {
    /// Chooses among `keys` keys at first, `count` of them as inserts go on (only [`Distribution::Latest`] follows).
    #[must_use]
    pub fn new(distribution: Distribution, keys: u64, count: KeyCount) -> Self {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf(exponent) | Distribution::Latest(exponent) => Some(Zipf::new(keys, exponent)),
        };
        Self { distribution, zipf, keys, count }
    }

    /// The next key number.
    pub fn next(&self, random: &mut Random) -> u64 {
        match (&self.zipf, self.distribution) {
            (None, _) | (_, Distribution::Uniform) => random.below(self.keys),
            (Some(zipf), Distribution::Zipf(_)) => scramble(zipf.sample(random)) % self.keys,
            (Some(zipf), Distribution::Latest(_)) => self.count.get().saturating_sub(zipf.sample(random)),
        }
    }

    /// A new key's number.
    #[must_use]
    pub fn insert(&self) -> u64 {
        self.count.insert()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frequencies of the first ranks follow r^-s within sampling error, for exponents below, at and above 1.
    #[test]
    fn zipf_has_its_shape() {
        for exponent in [0.5, 0.99, 1.0, 1.4] {
            let n = 1000;
            let zipf = Zipf::new(n, exponent);
            let mut random = Random::new(7);
            let mut counts = vec![0_u64; n as usize + 1];
            let samples = 400_000;
            for _ in 0..samples {
                counts[zipf.sample(&mut random) as usize] += 1;
            }
            assert_eq!(counts[0], 0);
            let total: f64 = (1..=n).map(|rank| (rank as f64).powf(-exponent)).sum();
            for rank in [1_usize, 2, 3, 10, 100] {
                let expected = samples as f64 * (rank as f64).powf(-exponent) / total;
                let tolerance = 5.0 * expected.sqrt() + 1.0;
                let seen = counts[rank] as f64;
                assert!(
                    (seen - expected).abs() < tolerance,
                    "s={exponent} rank {rank}: {seen} not {expected}"
                );
            }
        }
    }

    #[test]
    fn zipf_of_one_rank_is_that_rank() {
        let zipf = Zipf::new(1, 0.99);
        let mut random = Random::new(1);
        assert!((0..100).all(|_| zipf.sample(&mut random) == 1));
    }

    #[test]
    fn uniform_covers_the_key_space_evenly() {
        let chooser = KeyChooser::new(Distribution::Uniform, 10, KeyCount::new(10));
        let mut random = Random::new(3);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[chooser.next(&mut random) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn latest_prefers_what_was_inserted_last() {
        let count = KeyCount::new(1000);
        let chooser = KeyChooser::new(Distribution::Latest(0.99), 1000, count.clone());
        for _ in 0..500 {
            let _key = chooser.insert();
        }
        let mut random = Random::new(5);
        let mut newest = 0;
        for _ in 0..1000 {
            let key = chooser.next(&mut random);
            assert!((500..1500).contains(&key));
            newest += u32::from(key == 1499);
        }
        assert!(newest > 80, "the newest key was read {newest} times in 1000");
    }

    #[test]
    fn equal_seeds_give_equal_numbers() {
        let (mut a, mut b, mut c) = (Random::new(9), Random::new(9), Random::new(10));
        let (x, y, z): (Vec<_>, Vec<_>, Vec<_>) = (
            (0..9).map(|_| a.next_u64()).collect(),
            (0..9).map(|_| b.next_u64()).collect(),
            (0..9).map(|_| c.next_u64()).collect(),
        );
        assert_eq!(x, y);
        assert_ne!(x, z);
    }
}
