//! Randomness of a simulated world: named streams that all come from one seed and never disturb each other.
//!
//! Invariant: a stream depends on (seed, name) alone, so switching one class of faults off does not shift what another
//! draws; that is what lets a failing seed be shrunk. Integers only: no result depends on a floating point unit.

pub use corduroy_wal::mix::mix;

/// One stream: xoshiro256++ seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream called `name` of the world `seed`.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        let mut at = name.bytes().fold(mix(seed), |hash, byte| mix(hash ^ u64::from(byte)));
        let mut state = [0; 4];
        for word in &mut state {
            at = mix(at);
            *word = at;
        }
        Self { state }
    }

    /// The stream of a node. The first one's have the plain name, as in worlds of one node.
    #[must_use]
    pub fn of_node(seed: u64, name: &str, node: usize) -> Self {
        if node == 0 { Self::new(seed, name) } else { Self::new(seed, &format!("{name}, node {node}")) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (mixed_c, mixed_d) = (c ^ a, d ^ b);
        self.state = [a ^ mixed_d, b ^ mixed_c, mixed_c ^ (b << 17), mixed_d.rotate_left(45)];
        result
    }

    /// A number in `0..bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next_u64()) * u128::from(bound)) >> 64)
            .expect("the product's upper half fits")
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        let at = usize::try_from(self.below(items.len() as u64)).expect("below the length");
        *items.get(at).expect("a non-empty list")
    }

    /// A duration around `typical`, with a heavy tail: half of the draws lie within 1 to 2 times of it, each doubling
    /// is half as likely, up to 64 times.
    pub fn heavy(&mut self, typical: u64) -> u64 {
        let doublings = self.next_u64().trailing_ones().min(6);
        let scale = typical << doublings;
        scale + self.below(scale.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_seed_and_name_alone() {
        let draw = |seed, name| {
            let mut rng = Rng::new(seed, name);
            (0..8).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "crash"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
        let of_node = |node| Rng::of_node(1, "disk", node).next_u64();
        assert_eq!(of_node(0), Rng::new(1, "disk").next_u64());
        assert_ne!(of_node(1), of_node(2));
    }

    #[test]
    fn draws_cover_their_range_evenly() {
        let mut rng = Rng::new(7, "range");
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            *seen.get_mut(usize::try_from(rng.below(10)).unwrap()).unwrap() += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
        assert!((0..1000).all(|_| (3..=5).contains(&rng.between(3, 5))));
        let hits = (0..10_000).filter(|_| rng.chance(100)).count();
        assert!((850..1150).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| (100..12_800).contains(&rng.heavy(100))));
    }
}
