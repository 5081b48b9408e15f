//! What is drawn from one seed: keys, values, numbers, words, each with the edges that servers differ at.

use corduroy_wal::mix::SplitMix64;

/// Numbers from a seed.
pub struct Dice(SplitMix64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const KEYS: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"key:1",
    b"key:2",
    b"",
    b"\xff\x00\r\nk",
    b"{tag}1",
    b"{tag}2",
    b"h*llo",
    b"x y",
    b"[a-c]",
    b"none",
];
const INTEGERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "5",
    "10",
    "-10",
    "100",
    "12345",
    "-0",
    "+5",
    "01",
    " 1",
    "1 ",
    "1.5",
    "",
    "abc",
    "1e3",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "99999999999999999999999999",
    "2147483647",
    "4294967296",
    "\u{663}",
];
const FLOATS: &[&str] = &[
    "0",
    "1",
    "-1.5",
    "3.0",
    "10.00",
    "5e3",
    "1e-3",
    ".5",
    "5.",
    "+2",
    "-0",
    "1e400",
    "-1e4900",
    "inf",
    "-inf",
    "nan",
    "abc",
    "",
    " 1",
    "1 ",
    "0.1",
    "0.2",
    "123456789012345678901234567890",
    "1.7976931348623157e308",
    "3.14159265358979323846",
    "1e17",
    "0.00000000000000001",
];
/// Times to live in seconds: far ahead, or over.
const SECONDS: &[&str] = &[
    "100",
    "1000",
    "77777",
    "1000000",
    "10000000000",
    "0",
    "-1",
    "-100",
    "9223372036854775",
    "x",
    "",
    "1.5",
];
const MILLISECONDS: &[&str] =
    &["100000", "1000000", "123456789", "10000000000000", "0", "-1", "-100000", "x", "", "1e9"];
/// Times in seconds since 1970.
const MOMENTS: &[&str] = &["4102444800", "9999999999", "1", "0", "-1", "1600000000", "x", "9223372036854775"];
const MOMENTS_MS: &[&str] =
    &["4102444800123", "4102444800500", "9999999999999", "1", "0", "-1", "1600000000000", "x"];
const EDGES: &[&str] = &["9223372036854775807", "-9223372036854775808", "9223372036854775808"];
const PATTERNS: &[&[u8]] = &[
    b"*", b"a*", b"?", b"k*:?", b"[ab]", b"[^a]", b"[a-c]", b"[c-a]", b"\\*", b"h\\*llo", b"*\xff*", b"",
    b"**", b"{tag}*", b"[", b"[a", b"\\", b"[\\a]", b"[]", b"x y", b"nothing", b"*[l-o]*",
];

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

impl Dice {
    fn text(&mut self, from: &[&str]) -> Vec<u8> {
        let word: &str = self.pick::<&str>(from);
        bytes(word)
    }

    pub fn key(&mut self) -> Vec<u8> {
        self.pick(KEYS).to_vec()
    }

    pub fn value(&mut self) -> Vec<u8> {
        match self.below(10) {
            0 | 1 => self.integer(),
            2 => self.float(),
            3 => b"\x00\xff\r\n\x80".to_vec(),
            4 => {
                let len = *self.pick(&[1, 43, 44, 45, 64, 100, 1000, 5000]);
                vec![b'x'; len]
            }
            5 => self.next().to_string().into_bytes(),
            6 => Vec::new(),
            7 => self.pick(&[&b"ohmytext"[..], b"mynewtext", b"abcbdab", b"bdcaba"]).to_vec(),
            _ => b"hello".to_vec(),
        }
    }

    pub fn integer(&mut self) -> Vec<u8> {
        if self.once_in(3) {
            (self.below(2000) as i64 - 1000).to_string().into_bytes()
        } else {
            self.text(INTEGERS)
        }
    }

    /// A place in a value; never so far that either server would need much memory.
    pub fn offset(&mut self) -> Vec<u8> {
        match self.below(4) {
            0 => self.text(&["-1", "-2", "-100", "x", "", "1.5"]),
            1 => self.below(20_000).to_string().into_bytes(),
            _ => self.below(12).to_string().into_bytes(),
        }
    }

    pub fn float(&mut self) -> Vec<u8> {
        if self.once_in(4) {
            let digits = self.below(100_000) as f64 / 1000.0;
            digits.to_string().into_bytes()
        } else {
            self.text(FLOATS)
        }
    }

    fn moment(&mut self, from: &[&str], unit: u64) -> Vec<u8> {
        match self.below(8) {
            0 => self.text(EDGES),
            // Seldom the same twice: which of two equal times comes first is chance.
            1..=3 => ((100_000 + self.next() % 1_000_000_000) / unit).to_string().into_bytes(),
            _ => self.text(from),
        }
    }

    pub fn seconds(&mut self) -> Vec<u8> {
        self.moment(SECONDS, 1000)
    }

    pub fn milliseconds(&mut self) -> Vec<u8> {
        self.moment(MILLISECONDS, 1)
    }

    pub fn at_seconds(&mut self) -> Vec<u8> {
        if self.once_in(10) { self.text(EDGES) } else { self.text(MOMENTS) }
    }

    pub fn at_milliseconds(&mut self) -> Vec<u8> {
        if self.once_in(10) { self.text(EDGES) } else { self.text(MOMENTS_MS) }
    }

    pub fn pattern(&mut self) -> Vec<u8> {
        self.pick(PATTERNS).to_vec()
    }

    /// The word in some mixture of cases.
    pub fn cased(&mut self, word: &str) -> Vec<u8> {
        match self.below(4) {
            0 => word.to_ascii_lowercase().into_bytes(),
            1 => word
                .bytes()
                .map(|byte| if self.once_in(2) { byte.to_ascii_lowercase() } else { byte })
                .collect(),
            _ => bytes(word),
        }
    }

    /// Anything that does not belong.
    pub fn junk(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => self.key(),
            1 => self.integer(),
            2 => self.pick(&[&b"FOO"[..], b"\xfe\xff", b"a\r\nb", b"", b"a\0b", b"-"]).to_vec(),
            3 => self.text(&["NX", "XX", "GET", "EX", "PX", "KEEPTTL", "COUNT", "MATCH", "TYPE", "ID"]),
            _ => self.value(),
        }
    }
}
