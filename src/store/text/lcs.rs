//! The longest common subsequence of two values, by the table that Redis fills too, so that ties fall alike.

use crate::store::op::Outcome;

/// What LCS is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Lcs {
    pub(in crate::store) len: bool,
    pub(in crate::store) idx: bool,
    pub(in crate::store) min_match_len: u64,
    pub(in crate::store) with_match_len: bool,
}

/// The way back from the ends of two values, along which their longest common subsequence lies: for each pair of prefixes, a
/// bit that is set if the first one without its last byte has more in common with the second one than the other way round.
#[derive(Default)]
struct Ways {
    words: Vec<u64>,
    /// The bits of the last word, while it is filled.
    last: u64,
    bits: usize,
}

impl Ways {
    #[inline]
    fn push(&mut self, is_up: bool) {
        self.last |= u64::from(is_up) << (self.bits % 64);
        self.bits += 1;
        if self.bits.is_multiple_of(64) {
            self.words.push(std::mem::take(&mut self.last));
        }
    }

    fn is_up(&self, bit: usize) -> bool {
        let word = self.words.get(bit / 64).copied().unwrap_or(self.last);
        word >> (bit % 64) & 1 == 1
    }
}

/// What the table for values of these lengths takes in memory.
pub(in crate::store) const fn table_bytes(a_len: usize, b_len: usize) -> usize {
    a_len * b_len / 8 + (b_len + 1) * size_of::<u32>()
}

/// Fills the table, row by row: hands `way` the bits of [`Ways`] in order, and returns the length.
fn fill(a: &[u8], b: &[u8], mut way: impl FnMut(bool)) -> usize {
    let mut row = vec![0u32; b.len() + 1];
    for a_byte in a {
        let (mut corner, mut left) = (0, 0);
        for (b_byte, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let up = *cell;
            way(up > left);
            *cell = if a_byte == b_byte { corner + 1 } else { left.max(up) };
            (corner, left) = (up, *cell);
        }
    }
    row.last().map_or(0, |length| *length as usize)
}

/// A run of bytes common to both: the last byte's index in each, and the run's length.
struct Match {
    a_end: usize,
    b_end: usize,
    len: usize,
}

pub(in crate::store) fn longest_common(a: &[u8], b: &[u8], ask: Lcs) -> Outcome {
    if ask.len && !ask.idx {
        return Outcome::length(fill(a, b, |_| {}));
    }
    let mut ways = Ways { words: Vec::with_capacity(a.len() * b.len() / 64), ..Ways::default() };
    let total = fill(a, b, |is_up| ways.push(is_up));
    let (mut i, mut j) = (a.len(), b.len());
    let mut common = Vec::with_capacity(total);
    let mut matches: Vec<Match> = Vec::new();
    while i > 0 && j > 0 {
        let (a_byte, b_byte) = (a.get(i - 1), b.get(j - 1));
        if a_byte == b_byte {
            common.extend(a_byte);
            match matches.last_mut() {
                Some(run) if run.a_end + 1 == i + run.len && run.b_end + 1 == j + run.len => run.len += 1,
                _ => matches.push(Match { a_end: i - 1, b_end: j - 1, len: 1 }),
            }
            (i, j) = (i - 1, j - 1);
        } else if ways.is_up((i - 1) * b.len() + j - 1) {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    if !ask.idx {
        common.reverse();
        return Outcome::Bulk(common);
    }
    let min_len = ask.min_match_len.max(1);
    let matches = matches.iter().filter(|run| run.len as u64 >= min_len);
    let matches = matches.map(|run| run.outcome(ask.with_match_len)).collect();
    Outcome::Map(vec![
        (Outcome::Bulk(b"matches".to_vec()), Outcome::Array(matches)),
        (Outcome::Bulk(b"len".to_vec()), Outcome::length(total)),
    ])
}

impl Match {
    fn outcome(&self, with_len: bool) -> Outcome {
        let range =
            |end: usize| Outcome::Array(vec![Outcome::length(end + 1 - self.len), Outcome::length(end)]);
        let mut parts = vec![range(self.a_end), range(self.b_end)];
        if with_len {
            parts.push(Outcome::length(self.len));
        }
        Outcome::Array(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(len: bool, idx: bool, min_match_len: u64, with_match_len: bool) -> Lcs {
        Lcs { len, idx, min_match_len, with_match_len }
    }

    fn range(start: i64, end: i64) -> Outcome {
        Outcome::Array(vec![Outcome::Int(start), Outcome::Int(end)])
    }

    #[test]
    fn the_example_of_the_manual() {
        let (a, b) = (b"ohmytext", b"mynewtext");
        assert_eq!(longest_common(a, b, ask(false, false, 0, false)), Outcome::Bulk(b"mytext".to_vec()));
        assert_eq!(longest_common(a, b, ask(true, false, 0, false)), Outcome::Int(6));
        let expected = |matches| {
            Outcome::Map(vec![
                (Outcome::Bulk(b"matches".to_vec()), Outcome::Array(matches)),
                (Outcome::Bulk(b"len".to_vec()), Outcome::Int(6)),
            ])
        };
        let (text, my) = ([range(4, 7), range(5, 8)], [range(2, 3), range(0, 1)]);
        assert_eq!(
            longest_common(a, b, ask(false, true, 0, false)),
            expected(vec![Outcome::Array(text.to_vec()), Outcome::Array(my.to_vec())])
        );
        let with_len = [text[0].clone(), text[1].clone(), Outcome::Int(4)];
        assert_eq!(
            longest_common(a, b, ask(false, true, 4, true)),
            expected(vec![Outcome::Array(with_len.to_vec())])
        );
    }

    /// As Redis does it: with the lengths of all pairs of prefixes at hand.
    fn by_lengths(a: &[u8], b: &[u8]) -> Vec<u8> {
        let mut lengths = vec![vec![0u32; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                lengths[i][j] = match a[i - 1] == b[j - 1] {
                    true => lengths[i - 1][j - 1] + 1,
                    false => lengths[i - 1][j].max(lengths[i][j - 1]),
                };
            }
        }
        let (mut i, mut j, mut common) = (a.len(), b.len(), Vec::new());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                common.push(a[i - 1]);
                (i, j) = (i - 1, j - 1);
            } else if lengths[i - 1][j] > lengths[i][j - 1] {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        common.reverse();
        common
    }

    #[test]
    fn ties_fall_as_with_the_lengths_of_all_prefixes() {
        let text = |seed: u64, len: u64| -> Vec<u8> {
            (0..len).map(|at| b'a' + (corduroy_wal::mix::scramble(seed << 20 | at) % 3) as u8).collect()
        };
        for seed in 0..200 {
            let (a, b) = (text(2 * seed, seed % 41), text(2 * seed + 1, seed * 7 % 67));
            let expected = by_lengths(&a, &b);
            let total = i64::try_from(expected.len()).expect("short");
            assert_eq!(longest_common(&a, &b, ask(true, false, 0, false)), Outcome::Int(total));
            assert_eq!(longest_common(&a, &b, ask(false, false, 0, false)), Outcome::Bulk(expected));
        }
    }

    #[test]
    fn nothing_in_common() {
        assert_eq!(longest_common(b"abc", b"", ask(false, false, 0, false)), Outcome::Bulk(Vec::new()));
        assert_eq!(longest_common(b"abc", b"xyz", ask(true, false, 0, false)), Outcome::Int(0));
    }
}
