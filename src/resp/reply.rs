//! Replies: outcomes to bytes, written straight into the connection's output. RESP2 or RESP3, as HELLO chose.

use std::borrow::Cow;

use super::errors;
use super::output::Output;
use crate::store::Outcome;

/// Appends a number's decimal digits.
#[inline]
pub fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let mut digits = [0u8; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        used += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

/// Appends a signed number's decimal digits.
#[inline]
pub fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

/// Writes replies of one protocol version to the end of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    /// Where to.
    pub out: &'a mut Output,
    /// RESP3 instead of RESP2.
    pub resp3: bool,
}

impl<'a> Writer<'a> {
    /// A writer to the end of `out`.
    pub fn new(out: &'a mut Output, resp3: bool) -> Self {
        Self { out, resp3 }
    }

    #[inline]
    fn header(&mut self, kind: u8, count: usize) {
        self.out.push(kind);
        push_u64(self.out.bytes_mut(), count as u64);
        self.out.extend_from_slice(b"\r\n");
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string; must not contain CR or LF.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// An error: prefix, space, text. Line breaks become spaces, since the text may quote the client's bytes.
    pub fn error(&mut self, text: impl AsRef<[u8]>) {
        self.out.push(b'-');
        self.out.bytes_mut().extend(
            text.as_ref().iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }),
        );
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn int(&mut self, value: i64) {
        self.out.push(b':');
        push_i64(self.out.bytes_mut(), value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A byte string.
    #[inline]
    pub fn bulk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.out.bytes_mut().reserve(bytes.len() + 16);
        self.header(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// No value.
    #[inline]
    pub fn nil(&mut self) {
        self.out.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Nil where an array is expected.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// The header of an array; its `count` elements follow.
    #[inline]
    pub fn array(&mut self, count: usize) {
        self.header(b'*', count);
    }

    /// The header of a map; `pairs` times a name and a value follow.
    pub fn map(&mut self, pairs: usize) {
        if self.resp3 { self.header(b'%', pairs) } else { self.header(b'*', pairs * 2) }
    }

    /// The header of a set; its `count` elements follow.
    pub fn set(&mut self, count: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, count);
    }

    /// The header of an out-of-band push; its `count` elements follow. An array for RESP2 clients.
    pub fn push(&mut self, count: usize) {
        self.header(if self.resp3 { b'>' } else { b'*' }, count);
    }

    /// A truth value: an integer in RESP2.
    pub fn boolean(&mut self, value: bool) {
        self.out.extend_from_slice(match (self.resp3, value) {
            (true, true) => b"#t\r\n",
            (true, false) => b"#f\r\n",
            (false, true) => b":1\r\n",
            (false, false) => b":0\r\n",
        });
    }

    /// A floating-point number: a byte string in RESP2.
    pub fn double(&mut self, value: f64) {
        let text = if value.is_nan() { "nan".to_owned() } else { value.to_string() };
        if self.resp3 {
            self.out.push(b',');
            self.out.extend_from_slice(text.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// Text for people: a byte string in RESP2.
    pub fn verbatim(&mut self, text: &str) {
        if self.resp3 {
            self.header(b'=', text.len() + 4);
            self.out.extend_from_slice(b"txt:");
            self.out.extend_from_slice(text.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// A list of simple strings, as HELP answers it.
    pub fn lines(&mut self, lines: &[Cow<'_, str>]) {
        self.array(lines.len());
        for line in lines {
            self.simple(line);
        }
    }

    /// What an op answered.
    #[inline]
    pub fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Ok => self.ok(),
            Outcome::Nil => self.nil(),
            Outcome::NullArray => self.null_array(),
            Outcome::Int(value) => self.int(*value),
            Outcome::Bulk(bytes) => self.bulk(bytes),
            Outcome::Shared(bytes) => {
                self.header(b'$', bytes.len());
                self.out.push_shared(bytes);
                self.out.extend_from_slice(b"\r\n");
            }
            Outcome::Simple(text) => self.simple(text),
            Outcome::Array(items) => {
                self.array(items.len());
                items.iter().for_each(|item| self.outcome(item));
            }
            Outcome::Names(names) => {
                self.array(names.iter().count());
                names.iter().for_each(|name| self.bulk(name));
            }
            Outcome::Map(pairs) => {
                self.map(pairs.len());
                for (name, value) in pairs {
                    self.outcome(name);
                    self.outcome(value);
                }
            }
            Outcome::Scan { cursor, keys } => self.scan(*cursor, keys),
            Outcome::Error(kind) => self.error(errors::op_error(*kind)),
        }
    }

    /// A page of SCAN.
    pub fn scan(&mut self, cursor: u64, keys: &[Vec<u8>]) {
        self.array(2);
        self.bulk(cursor.to_string());
        self.array(keys.len());
        keys.iter().for_each(|key| self.bulk(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    fn both(write: impl Fn(&mut Writer<'_>)) -> (String, String) {
        let render = |resp3| {
            let mut out = Output::default();
            write(&mut Writer::new(&mut out, resp3));
            String::from_utf8(out.to_vec()).unwrap()
        };
        (render(false), render(true))
    }

    fn check(write: impl Fn(&mut Writer<'_>), resp2: &str, resp3: &str) {
        assert_eq!(both(write), (resp2.to_owned(), resp3.to_owned()));
    }

    #[test]
    fn numbers() {
        for value in [0, 1, 9, 10, 99, 100, 12345, i64::MAX, -1, -10, i64::MIN] {
            check(|w| w.int(value), &format!(":{value}\r\n"), &format!(":{value}\r\n"));
        }
        let mut out = Vec::new();
        push_u64(&mut out, u64::MAX);
        assert_eq!(out, u64::MAX.to_string().as_bytes());
    }

    #[test]
    fn shapes_of_both_protocols() {
        check(|w| w.nil(), "$-1\r\n", "_\r\n");
        check(|w| w.null_array(), "*-1\r\n", "_\r\n");
        check(|w| w.map(2), "*4\r\n", "%2\r\n");
        check(|w| w.set(3), "*3\r\n", "~3\r\n");
        check(|w| w.push(3), "*3\r\n", ">3\r\n");
        check(|w| w.boolean(true), ":1\r\n", "#t\r\n");
        check(|w| w.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n");
        check(|w| w.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n");
        check(|w| w.verbatim("hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n");
        check(|w| w.bulk(b""), "$0\r\n\r\n", "$0\r\n\r\n");
        check(|w| w.error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n");
    }

    #[test]
    fn outcomes() {
        let nested = Outcome::Array(vec![Outcome::Ok, Outcome::Nil, Outcome::Bulk(b"x".to_vec())]);
        check(|w| w.outcome(&nested), "*3\r\n+OK\r\n$-1\r\n$1\r\nx\r\n", "*3\r\n+OK\r\n_\r\n$1\r\nx\r\n");
        let map = Outcome::Map(vec![(Outcome::Simple("a"), Outcome::Int(1))]);
        check(|w| w.outcome(&map), "*2\r\n+a\r\n:1\r\n", "%1\r\n+a\r\n:1\r\n");
        let page = Outcome::Scan { cursor: 17, keys: vec![b"k".to_vec()] };
        let text = "*2\r\n$2\r\n17\r\n*1\r\n$1\r\nk\r\n";
        check(|w| w.outcome(&page), text, text);
        let text = "-ERR value is not an integer or out of range\r\n";
        check(|w| w.outcome(&Outcome::Error(ErrorKind::NotInteger)), text, text);
    }
}
