//! The client's half of RESP2: requests to bytes, bytes to replies. Borrowed, allocation-free, sans-IO.
//!
//! Own, so that the generator costs as little as the server it measures.

/// One whole reply at the front of a buffer. Arrays are kept as the bytes of their items.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// `+text`.
    Simple(&'a [u8]),
    /// `-text`, without the dash.
    Error(&'a [u8]),
    /// `:number`.
    Int(i64),
    /// `$bytes`.
    Bulk(&'a [u8]),
    /// `$-1` or `*-1`.
    Nil,
    /// `*count`, and the bytes of its items.
    Array(usize, &'a [u8]),
}

/// The bytes are not RESP2: the stream is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server's bytes are not a RESP2 reply: {0}")]
pub struct BadReply(pub &'static str);

/// Deepest nesting of arrays that is read.
const DEPTH_MAX: u32 = 8;

/// The first reply in `bytes` and its length; `None`: it is not all there yet.
///
/// # Errors
/// [`BadReply`] if no more bytes could make it a reply.
pub fn parse(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, BadReply> {
    parse_at(bytes, DEPTH_MAX)
}

fn parse_at(bytes: &[u8], depth: u32) -> Result<Option<(Reply<'_>, usize)>, BadReply> {
    let Some((&kind, rest)) = bytes.split_first() else { return Ok(None) };
    let Some(end) = rest.iter().position(|byte| *byte == b'\r') else { return Ok(None) };
    match rest.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(BadReply("a line ends in CR without LF")),
    }
    let (line, after) = rest.split_at(end);
    let body = after.get(2..).unwrap_or_default();
    let head_len = end + 3;
    match kind {
        b'+' => Ok(Some((Reply::Simple(line), head_len))),
        b'-' => Ok(Some((Reply::Error(line), head_len))),
        b':' => Ok(Some((Reply::Int(number(line)?), head_len))),
        b'$' => {
            let Ok(len) = usize::try_from(number(line)?) else { return Ok(Some((Reply::Nil, head_len))) };
            match (body.get(..len), body.get(len..len + 2)) {
                (Some(value), Some(b"\r\n")) => Ok(Some((Reply::Bulk(value), head_len + len + 2))),
                (Some(_), Some(_)) => Err(BadReply("a bulk string is longer than its length says")),
                _ => Ok(None),
            }
        }
        b'*' => {
            let Ok(count) = usize::try_from(number(line)?) else { return Ok(Some((Reply::Nil, head_len))) };
            let depth = depth.checked_sub(1).ok_or(BadReply("arrays are nested too deeply"))?;
            let mut items_len = 0;
            for _ in 0..count {
                match parse_at(body.get(items_len..).unwrap_or_default(), depth)? {
                    Some((_, len)) => items_len += len,
                    None => return Ok(None),
                }
            }
            let items = body.get(..items_len).unwrap_or_default();
            Ok(Some((Reply::Array(count, items), head_len + items_len)))
        }
        _ => Err(BadReply("unknown type byte")),
    }
}

fn number(line: &[u8]) -> Result<i64, BadReply> {
    let (negative, digits) = match line.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, line),
    };
    if digits.is_empty() || digits.len() > 19 {
        return Err(BadReply("not a number"));
    }
    let mut value: i64 = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return Err(BadReply("not a number"));
        }
        let digit = i64::from(byte - b'0');
        let shifted = value.checked_mul(10).ok_or(BadReply("number out of range"))?;
        value = if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
            .ok_or(BadReply("number out of range"))?;
    }
    Ok(value)
}

/// Appends the head of a request with `count` arguments.
pub fn put_head(out: &mut Vec<u8>, count: usize) {
    out.push(b'*');
    put_decimal(out, count as u64);
    out.extend_from_slice(b"\r\n");
}

/// Appends one argument.
pub fn put_arg(out: &mut Vec<u8>, arg: &[u8]) {
    out.push(b'$');
    put_decimal(out, arg.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(arg);
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole request.
pub fn put_request(out: &mut Vec<u8>, args: &[&[u8]]) {
    put_head(out, args.len());
    for arg in args {
        put_arg(out, arg);
    }
}

/// Appends a number in decimal.
pub fn put_decimal(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0_u8; 20];
    let mut left = value;
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (left % 10) as u8;
        left /= 10;
        used += 1;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every prefix of a reply asks for more, the whole gives the reply and its length.
    #[test]
    fn a_reply_is_read_only_when_whole() {
        let cases: &[(&[u8], Reply)] = &[
            (b"+OK\r\n", Reply::Simple(b"OK")),
            (b"-ERR no\r\n", Reply::Error(b"ERR no")),
            (b":-42\r\n", Reply::Int(-42)),
            (b":-9223372036854775808\r\n", Reply::Int(i64::MIN)),
            (b"$5\r\na\r\nbc\r\n", Reply::Bulk(b"a\r\nbc")),
            (b"$-1\r\n", Reply::Nil),
            (b"*-1\r\n", Reply::Nil),
            (b"*2\r\n$1\r\nx\r\n*1\r\n:1\r\n", Reply::Array(2, b"$1\r\nx\r\n*1\r\n:1\r\n")),
        ];
        for (bytes, reply) in cases {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{:?}", &bytes[..cut]);
            }
            let mut more = bytes.to_vec();
            more.extend_from_slice(b"+next\r\n");
            assert_eq!(parse(&more), Ok(Some((*reply, bytes.len()))));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b"hello\r\n"[..], b":x\r\n", b"$3\r\nabcd\r\n", b"+a\rb", b":99999999999999999999\r\n"]
        {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse("*1\r\n".repeat(20).as_bytes()).is_err());
    }

    #[test]
    fn requests_are_written_as_redis_wants_them() {
        let mut out = Vec::new();
        put_request(&mut out, &[b"GET", b"key"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
        out.clear();
        put_decimal(&mut out, u64::MAX);
        assert_eq!(out, u64::MAX.to_string().as_bytes());
    }
}
