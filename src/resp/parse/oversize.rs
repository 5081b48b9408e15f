//! Requests that exceed a limit: their bytes are read and dropped as they come, so that the client gets an error for this
//! request and the connection goes on. Invariant: nothing of such a request is kept.

use super::{Limits, Parsed, Parser, ProtocolError, State, number_line};

/// A request that is larger than this ends the connection: reading it only to refuse it would take too long.
pub const DROP_MAX_BYTES: usize = 512 << 20;

/// Which limit a request exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TooBig {
    /// One argument is longer than an argument may be.
    #[error(
        "an argument of {bytes} bytes exceeds the limit of {limit} (max_bulk_bytes, proto-max-bulk-len); nothing was done"
    )]
    Argument {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// All arguments together are.
    #[error(
        "the request exceeds the limit of {limit} bytes for all its arguments together; nothing was done"
    )]
    Request {
        /// The limit.
        limit: usize,
    },
}

/// A request whose bytes are dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oversize {
    why: TooBig,
    /// Bytes of it so far and of the argument under way.
    bytes: usize,
    /// Of these, the ones of the argument under way that are still to come, with its CR LF.
    left: usize,
}

impl Parser {
    /// The argument whose header ends at `at` is too long, or one too many.
    pub(super) fn begin_to_drop(&mut self, limits: &Limits) -> Result<(), ProtocolError> {
        let is_argument = self.bulk_len > limits.max_bulk_bytes;
        if *limits == Limits::UNAUTHENTICATED {
            return Err(match is_argument {
                true => ProtocolError::UnauthenticatedBulk,
                false => ProtocolError::RequestTooBig(limits.max_request_bytes),
            });
        }
        if self.bulk_len > DROP_MAX_BYTES {
            return Err(ProtocolError::BulkLength);
        }
        let why = match is_argument {
            true => TooBig::Argument { bytes: self.bulk_len, limit: limits.max_bulk_bytes },
            false => TooBig::Request { limit: limits.max_request_bytes },
        };
        let left = self.bulk_len + 2;
        self.spans = Vec::new();
        self.oversize = Some(Oversize { why, bytes: self.at + left, left });
        self.state = State::Header;
        Ok(())
    }

    /// Whether a request is under way whose bytes are dropped.
    #[must_use]
    pub fn is_dropping(&self) -> bool {
        self.oversize.is_some()
    }

    /// Drops what has come of the request.
    pub(super) fn drop_more(&mut self, bytes: &[u8]) -> Result<Parsed, ProtocolError> {
        let Some(oversize) = &mut self.oversize else { return Ok(Parsed::Incomplete) };
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if oversize.left > 0 {
                let here = oversize.left.min(rest.len());
                oversize.left -= here;
                used += here;
                if oversize.left > 0 {
                    break;
                }
                self.missing -= 1;
                if self.missing == 0 {
                    let why = oversize.why;
                    self.oversize = None;
                    self.state = State::Start;
                    return Ok(Parsed::TooBig(used, why));
                }
                continue;
            }
            let line = match rest.split_first() {
                None => break,
                Some((b'$', line)) => line,
                Some((&other, _)) => return Err(ProtocolError::ExpectedBulk(other)),
            };
            let Some((len, header)) = number_line(line).map_err(|()| ProtocolError::BulkLength)? else {
                break;
            };
            let len = usize::try_from(len).map_err(|_| ProtocolError::BulkLength)?;
            oversize.left = len.saturating_add(2);
            oversize.bytes = oversize.bytes.saturating_add(1 + header).saturating_add(oversize.left);
            if oversize.bytes > DROP_MAX_BYTES + (1 << 20) {
                return Err(ProtocolError::RequestTooBig(DROP_MAX_BYTES));
            }
            used += 1 + header;
        }
        Ok(if used > 0 { Parsed::Dropped(used) } else { Parsed::Incomplete })
    }

    /// Where the argument under way ends, in bytes of the request; 0 if its length is not known.
    #[must_use]
    pub fn expected_bytes(&self) -> usize {
        if self.state == State::Bulk { self.at + self.bulk_len + 2 } else { 0 }
    }

    /// Memory that it holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<super::Span>() + self.unquoted.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_above_the_limit_is_dropped_as_it_comes_and_the_next_request_is_found() {
        let limits = Limits::with_max_bulk(1000);
        let mut parser = Parser::default();
        let header = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300000000\r\n";
        assert_eq!(parser.parse(header, &limits), Ok(Parsed::Dropped(header.len())));
        let piece = vec![b'x'; 1 << 20];
        let mut left = 300_000_002;
        while left > piece.len() {
            assert_eq!(parser.parse(&piece, &limits), Ok(Parsed::Dropped(piece.len())));
            assert!(parser.is_dropping() && parser.held_bytes() < 1000, "nothing is kept");
            left -= piece.len();
        }
        let mut last = piece;
        last.truncate(left);
        last.extend_from_slice(b"PING\r\n");
        let why = TooBig::Argument { bytes: 300_000_000, limit: 1000 };
        assert_eq!(parser.parse(&last, &limits), Ok(Parsed::TooBig(left, why)));
        assert_eq!(parser.parse(b"PING\r\n", &limits), Ok(Parsed::Request(6)));
    }

    #[test]
    fn what_is_dropped_is_bounded_too() {
        let limits = Limits::with_max_bulk(1000);
        let mut parser = Parser::default();
        let over = format!("*2\r\n${}\r\n", DROP_MAX_BYTES + 1);
        assert_eq!(parser.parse(over.as_bytes(), &limits), Err(ProtocolError::BulkLength));
        let mut parser = Parser::default();
        let first = format!("*9\r\n${}\r\n", DROP_MAX_BYTES - 100);
        assert!(matches!(parser.parse(first.as_bytes(), &limits), Ok(Parsed::Dropped(_))));
        let piece = vec![b'x'; 1 << 20];
        let mut left = DROP_MAX_BYTES - 98;
        while left > 0 {
            let here = left.min(piece.len());
            assert_eq!(parser.parse(&piece[..here], &limits), Ok(Parsed::Dropped(here)));
            left -= here;
        }
        let next = parser.parse(b"$300000000\r\n", &limits);
        assert_eq!(next, Err(ProtocolError::RequestTooBig(DROP_MAX_BYTES)));
    }
}
