//! The keyed hash of the state: SipHash-1-3, so that a client cannot choose keys that fall on one page.
//!
//! Invariant: equal seeds give equal hashes for ever; the order of the disk level and SCAN's cursors rest on it.

/// The secret of the hash. One for a cluster, so that a SCAN goes on where it was after a change of leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashSeed(pub [u64; 2]);

impl HashSeed {
    /// The hash of a key.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        sip_hash::<1, 3>(self.0, key)
    }
}

#[inline]
fn round(v: &mut [u64; 4]) {
    let [a, b, c, d] = v;
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[inline]
fn sip_hash<const C: usize, const D: usize>([k0, k1]: [u64; 2], bytes: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    #[allow(clippy::cast_possible_truncation, reason = "SipHash takes the length modulo 256")]
    let len = bytes.len() as u8;
    let last = u64::from_le_bytes(last) | u64::from(len) << 56;
    for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain([last]) {
        v[3] ^= word;
        for _ in 0..C {
            round(&mut v);
        }
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for _ in 0..D {
        round(&mut v);
    }
    v.iter().fold(0, |all, lane| all ^ lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of another implementation: with other ones, the rows of a state would lie where nobody looks for them.
    #[test]
    fn hashes_stay_what_they_are() {
        let lines = include_str!("hash-1.txt").lines().filter(|line| !line.starts_with('#'));
        let mut seen = 0;
        for line in lines {
            let [k0, k1, key, hash] = line.split(' ').collect::<Vec<_>>().try_into().expect("four words");
            let number = |hex: &str| u64::from_str_radix(hex, 16).expect("a number");
            let digits = key.trim_matches('-').as_bytes().chunks(2);
            let key: Vec<u8> = digits
                .map(|pair| {
                    u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("two digits")
                })
                .collect();
            assert_eq!(HashSeed([number(k0), number(k1)]).hash(&key), number(hash), "{line}");
            seen += 1;
        }
        assert_eq!(seen, 116);
    }

    #[test]
    fn sip_hash_2_4_gives_the_published_values() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(sip_hash::<2, 4>(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(sip_hash::<2, 4>(key, &bytes[..8]), 0x93f5_f579_9a93_2462);
        assert_eq!(sip_hash::<2, 4>(key, &bytes), 0xa129_ca61_49be_45e5);
    }
}
