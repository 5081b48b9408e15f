//! Requests: bytes to argument spans, incrementally and without copies; first step of a command's walk.
//!
//! Invariants: memory follows the bytes that arrived, never a declared length; feeding the same bytes in any pieces
//! gives the same requests and the same error. A span is a range of the request's own bytes (or, for an inline request
//! with quotes, in the parser's unquoted copy).

use smallvec::SmallVec;

use super::errors::Refusal;
use super::inline;

mod oversize;

use oversize::Oversize;
pub use oversize::TooBig;

/// The arguments of one request, the command's name first.
pub type Args<'a> = SmallVec<[&'a [u8]; 32]>;

/// What one request may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest argument in bytes.
    pub max_bulk_bytes: usize,
    /// The most arguments.
    pub max_args: usize,
    /// The longest inline request in bytes.
    pub max_inline_bytes: usize,
    /// The longest request in bytes, protocol included.
    pub max_request_bytes: usize,
}

impl Limits {
    /// For a connection that has to authenticate first: what it may make the node hold is small.
    pub const UNAUTHENTICATED: Self = Self {
        max_bulk_bytes: 16 << 10,
        max_args: 10,
        max_inline_bytes: 16 << 10,
        max_request_bytes: 17 << 10,
    };

    /// For everyone else, if arguments may have `max_bulk_bytes` each.
    #[must_use]
    pub const fn with_max_bulk(max_bulk_bytes: usize) -> Self {
        let max_request_bytes = max_bulk_bytes.saturating_add(32 << 20);
        // Spans are 32 bits wide.
        let max_request_bytes =
            if max_request_bytes > 4_000_000_000 { 4_000_000_000 } else { max_request_bytes };
        Self { max_bulk_bytes, max_args: 1 << 20, max_inline_bytes: 64 << 10, max_request_bytes }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::with_max_bulk(32 << 20)
    }
}

impl ProtocolError {
    /// The error that the client gets, with its byte as it came.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::ExpectedBulk(byte) => {
                Refusal::quoting("ERR Protocol error: expected '$', got '", &[byte], "'")
            }
            other => Refusal::owned(format!("ERR Protocol error: {other}")),
        }
    }
}

/// Why the bytes are no request. Each ends the connection; the texts are Redis's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The argument count is no number, or too high.
    #[error("invalid multibulk length")]
    MultibulkLength,
    /// The argument count is too high before AUTH.
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulk,
    /// An argument's length is no number, negative, or too high.
    #[error("invalid bulk length")]
    BulkLength,
    /// An argument's length is too high before AUTH.
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulk,
    /// Something else stands where an argument should begin.
    #[error("expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// An argument is not followed by CR LF, so its length was wrong.
    #[error("bulk string is not terminated by CRLF")]
    Unterminated,
    /// An inline request without an end.
    #[error("too big inline request")]
    InlineTooBig,
    /// Quotes of an inline request that do not close, or close inside a word.
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The whole request is larger than one may be, even one that is only read to be refused.
    #[error("request exceeds the limit of {0} bytes")]
    RequestTooBig(usize),
}

/// A range of the request's bytes. 32 bits hold any request that the limits allow.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

/// What was found at the front of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// Not a whole request yet.
    Incomplete,
    /// A whole request of this many bytes without arguments (an empty line, `*0`): to be skipped.
    Nothing(usize),
    /// A whole request of this many bytes; see [`Parser::args`].
    Request(usize),
    /// So many bytes of a request that exceeds a limit: to be skipped. More of it is to come.
    Dropped(usize),
    /// The last so many bytes of such a request: to be skipped, and to be answered with the reason.
    TooBig(usize, TooBig),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Start,
    Inline,
    Header,
    Bulk,
    Done,
    DoneInline,
}

/// The state of one request under way. Offsets count from the request's first byte, so its bytes may move.
#[derive(Debug, Default)]
pub struct Parser {
    state: State,
    spans: Vec<Span>,
    /// The next byte to look at.
    at: usize,
    /// Arguments still to come.
    missing: usize,
    /// Length of the argument under way.
    bulk_len: usize,
    unquoted: Vec<u8>,
    /// The request under way exceeds a limit: what it still brings is dropped.
    oversize: Option<Oversize>,
}

/// A line with a number at the front of `bytes`: the number and the bytes after its CR LF.
#[inline]
fn number_line(bytes: &[u8]) -> Result<Option<(i64, usize)>, ()> {
    let mut value = 0i64;
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, bytes),
    };
    for (at, &byte) in digits.iter().enumerate() {
        match byte {
            // 18 digits cannot overflow; a leading zero is refused as in Redis.
            b'0'..=b'9' if at < 18 && (at == 0 || value != 0) => value = value * 10 + i64::from(byte - b'0'),
            b'\r' if at > 0 => {
                return match digits.get(at + 1) {
                    None => Ok(None),
                    Some(b'\n') if negative => Ok(Some((-value, at + 3))),
                    Some(b'\n') => Ok(Some((value, at + 2))),
                    Some(_) => Err(()),
                };
            }
            _ => return Err(()),
        }
    }
    Ok(None)
}

/// The keys of the requests at the front of `bytes`, as far as these are GETs as clients write them. No limit is looked at.
pub fn keys_of_gets(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (head, after) = bytes.split_first_chunk::<14>()?;
        let [b'*', b'2', b'\r', b'\n', b'$', b'3', b'\r', b'\n', g, e, t, b'\r', b'\n', b'$'] = head else {
            return None;
        };
        if !matches!((g, e, t), (b'g' | b'G', b'e' | b'E', b't' | b'T')) {
            return None;
        }
        let (len, used) = number_line(after).ok()??;
        let (key, after) = after.get(used..)?.split_at_checked(usize::try_from(len).ok()?)?;
        bytes = after.get(2..)?;
        Some(key)
    })
}

impl Parser {
    /// Looks for one whole request at the front of `bytes`, which must start where they started at the last call if
    /// that said [`Parsed::Incomplete`].
    ///
    /// # Errors
    /// [`ProtocolError`] if no more bytes can make it a request; the connection must be closed.
    #[inline]
    pub fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if self.oversize.is_some() {
            return self.drop_more(bytes);
        }
        if matches!(self.state, State::Start | State::Done | State::DoneInline) {
            self.reset();
            match bytes.first() {
                None => return Ok(Parsed::Incomplete),
                Some(b'*') => match self.multibulk_header(bytes, limits)? {
                    None => return Ok(Parsed::Incomplete),
                    Some(0) => {
                        self.state = State::Start;
                        return Ok(Parsed::Nothing(self.at));
                    }
                    Some(_) => {}
                },
                Some(_) => self.state = State::Inline,
            }
        }
        if self.state == State::Inline {
            return self.inline(bytes, limits);
        }
        while self.missing > 0 {
            if !self.bulk(bytes, limits)? {
                return Ok(Parsed::Incomplete);
            }
            if self.oversize.is_some() {
                return Ok(Parsed::Dropped(std::mem::take(&mut self.at)));
            }
        }
        self.state = State::Done;
        Ok(Parsed::Request(self.at))
    }

    /// The arguments of the request just found, out of the same bytes.
    #[must_use]
    #[inline]
    pub fn args<'a>(&'a self, bytes: &'a [u8]) -> Args<'a> {
        let source = if self.state == State::DoneInline { self.unquoted.as_slice() } else { bytes };
        let mut args = Args::new();
        args.extend(self.spans.iter().map(|span| {
            let start = span.start as usize;
            source.get(start..start + span.len as usize).expect("spans lie inside the request that was found")
        }));
        args
    }

    /// Forgets the request under way; the next call starts at a request's first byte.
    #[inline]
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.at = 0;
        self.missing = 0;
        self.spans.clear();
        // One huge request must not pin its memory for as long as the connection is open.
        if self.spans.capacity() > 4096 {
            self.spans = Vec::new();
        }
        if self.unquoted.capacity() > 4096 {
            self.unquoted = Vec::new();
        }
    }

    /// Reads `*count`; the count, once it is there.
    #[inline]
    fn multibulk_header(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        let line = bytes.get(1..).unwrap_or_default();
        let Some((count, used)) = number_line(line).map_err(|()| ProtocolError::MultibulkLength)? else {
            return Ok(None);
        };
        self.at = 1 + used;
        let count = usize::try_from(count).unwrap_or(0);
        if count > limits.max_args {
            return Err(if *limits == Limits::UNAUTHENTICATED {
                ProtocolError::UnauthenticatedMultibulk
            } else {
                ProtocolError::MultibulkLength
            });
        }
        self.missing = count;
        self.state = State::Header;
        Ok(Some(count))
    }

    /// Reads one argument; false if it is not there yet.
    #[inline]
    fn bulk(&mut self, bytes: &[u8], limits: &Limits) -> Result<bool, ProtocolError> {
        if self.state == State::Header {
            match bytes.get(self.at) {
                None => return Ok(false),
                Some(b'$') => {}
                Some(&other) => return Err(ProtocolError::ExpectedBulk(other)),
            }
            let line = bytes.get(self.at + 1..).unwrap_or_default();
            let Some((len, used)) = number_line(line).map_err(|()| ProtocolError::BulkLength)? else {
                return Ok(false);
            };
            self.bulk_len = usize::try_from(len).map_err(|_| ProtocolError::BulkLength)?;
            self.at += 1 + used;
            if self.bulk_len > limits.max_bulk_bytes || self.at + self.bulk_len + 2 > limits.max_request_bytes
            {
                return self.begin_to_drop(limits).map(|()| true);
            }
            self.state = State::Bulk;
        }
        let end = self.at + self.bulk_len;
        match (bytes.get(end), bytes.get(end + 1)) {
            (Some(b'\r'), Some(b'\n')) => {}
            (None, _) | (Some(b'\r'), None) => return Ok(false),
            _ => return Err(ProtocolError::Unterminated),
        }
        // Both fit: the limits keep a request under 2^32 bytes.
        self.spans.push(Span { start: self.at as u32, len: self.bulk_len as u32 });
        self.at = end + 2;
        self.missing -= 1;
        self.state = State::Header;
        Ok(true)
    }

    fn inline(&mut self, bytes: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let unseen = bytes.get(self.at..).unwrap_or_default();
        let end = unseen.iter().position(|&byte| byte == b'\n').map(|found| self.at + found);
        let line_len = end.unwrap_or(bytes.len());
        if line_len > limits.max_inline_bytes {
            return Err(ProtocolError::InlineTooBig);
        }
        let Some(end) = end else {
            self.at = bytes.len();
            return Ok(Parsed::Incomplete);
        };
        let line = bytes.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.unquoted.clear();
        let spans = &mut self.spans;
        inline::split(line, &mut self.unquoted, |start, end| {
            spans.push(Span { start: start as u32, len: (end - start) as u32 });
        })
        .map_err(|inline::Unbalanced| ProtocolError::UnbalancedQuotes)?;
        self.at = end + 1;
        if self.spans.is_empty() {
            self.state = State::Start;
            return Ok(Parsed::Nothing(end + 1));
        }
        self.state = State::DoneInline;
        Ok(Parsed::Request(end + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Requests = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

    /// Feeds `bytes` in two pieces and collects the requests up to the first error.
    fn requests(bytes: &[u8], split: usize, limits: &Limits) -> Requests {
        let mut parser = Parser::default();
        let mut found = Vec::new();
        let mut start = 0;
        for end in [split, bytes.len()] {
            loop {
                let rest = &bytes[start..end];
                match parser.parse(rest, limits) {
                    Ok(Parsed::Incomplete) => break,
                    Ok(Parsed::Nothing(used) | Parsed::Dropped(used)) => start += used,
                    Ok(Parsed::TooBig(used, why)) => {
                        found.push(vec![why.to_string().into_bytes()]);
                        start += used;
                    }
                    Ok(Parsed::Request(used)) => {
                        found.push(parser.args(rest).iter().map(|arg| arg.to_vec()).collect());
                        start += used;
                    }
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    }

    fn check(bytes: &[u8], expected: &[&[&[u8]]], error: Option<&str>) {
        let limits = Limits::with_max_bulk(1000);
        for split in 0..=bytes.len() {
            let (found, got) = requests(bytes, split, &limits);
            let expected: Vec<Vec<Vec<u8>>> =
                expected.iter().map(|args| args.iter().map(|arg| arg.to_vec()).collect()).collect();
            assert_eq!(found, expected, "split at {split}");
            assert_eq!(got.map(|error| error.to_string()), error.map(str::to_owned), "split at {split}");
        }
    }

    #[test]
    fn multibulk_requests() {
        check(b"*1\r\n$4\r\nPING\r\n", &[&[b"PING"]], None);
        check(
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n",
            &[&[b"SET", b"k", b""], &[b"GET", b"a\r\nb"]],
            None,
        );
        check(b"*0\r\n*-1\r\n\r\n*1\r\n$1\r\nx\r\n", &[&[b"x"]], None);
        check(b"*2\r\n$1\r\nx\r\n$3\r\nab", &[], None);
    }

    #[test]
    fn inline_requests() {
        check(
            b"PING\r\nSET k  \"a b\\x41\\n\" 'it\\'s'\n\r\n\n",
            &[&[b"PING"], &[b"SET", b"k", b"a bA\n", b"it's"]],
            None,
        );
        check(b"set k \"\"\r\n", &[&[b"set", b"k", b""]], None);
        check(b"set k \"a\r\n", &[], Some("unbalanced quotes in request"));
        check(b"set k \"a\"b\r\n", &[], Some("unbalanced quotes in request"));
    }

    #[test]
    fn errors_are_those_of_redis() {
        for bytes in
            [&b"*x\r\n"[..], b"*\r\n", b"*1048577\r\n", b"*01\r\n", b"*1\rx", b"*99999999999999999999\r\n"]
        {
            check(bytes, &[], Some("invalid multibulk length"));
        }
        for bytes in [&b"*1\r\n$x\r\n"[..], b"*1\r\n$-1\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n$\r\n"] {
            check(bytes, &[], Some("invalid bulk length"));
        }
        check(b"*1\r\n:5\r\n", &[], Some("expected '$', got ':'"));
        check(b"*2\r\n$1\r\nx\r\nfoo\r\n", &[], Some("expected '$', got 'f'"));
        check(b"*1\r\n$1\r\nxyz", &[], Some("bulk string is not terminated by CRLF"));
    }

    #[test]
    fn limits_hold_at_the_edge() {
        let limits = Limits { max_inline_bytes: 8, max_args: 2, max_bulk_bytes: 4, max_request_bytes: 23 };
        let run = |bytes: &[u8]| requests(bytes, 0, &limits);
        assert_eq!(run(b"12345678\n").1, None);
        assert_eq!(run(b"123456789\n").1, Some(ProtocolError::InlineTooBig));
        assert_eq!(run(b"123456789").1, Some(ProtocolError::InlineTooBig));
        let too_big = run(b"*2\r\n$4\r\nabcd\r\n$4\r\nabcd\r\n");
        assert_eq!(
            (too_big.0[0].concat(), too_big.1),
            (TooBig::Request { limit: 23 }.to_string().into(), None)
        );
        assert_eq!(run(b"*2\r\n$4\r\nabcd\r\n$3\r\nabc\r\n").1, None);
        assert_eq!(run(b"*3\r\n").1, Some(ProtocolError::MultibulkLength));
        let run = |bytes: &[u8]| requests(bytes, 0, &Limits::UNAUTHENTICATED).1;
        assert_eq!(run(b"*10\r\n"), None);
        assert_eq!(run(b"*11\r\n"), Some(ProtocolError::UnauthenticatedMultibulk));
        assert_eq!(run(b"*1\r\n$16384\r\n"), None);
        assert_eq!(run(b"*1\r\n$16385\r\n"), Some(ProtocolError::UnauthenticatedBulk));
    }

    #[test]
    fn a_declared_length_reserves_nothing() {
        let mut parser = Parser::default();
        let limits = Limits::with_max_bulk(1 << 30);
        assert_eq!(parser.parse(b"*1000000\r\n$1000000000\r\n", &limits), Ok(Parsed::Incomplete));
        assert!(parser.spans.capacity() < 64 && parser.unquoted.capacity() < 64);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces(bytes in proptest::collection::vec(
            proptest::sample::select(b"*$-0129\r\n\r\nab\"'\\ x\0\xff".to_vec()), 0..60), split in 0usize..60) {
            let limits = Limits::with_max_bulk(100);
            let split = split.min(bytes.len());
            proptest::prop_assert_eq!(requests(&bytes, split, &limits), requests(&bytes, 0, &limits));
        }
    }
}
