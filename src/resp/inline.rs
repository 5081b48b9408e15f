//! Inline requests: a line of words with Redis's quoting rules, as typed by a person or sent by `redis-cli --pipe`.

/// Quotes that do not close, or that are followed by something other than a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unbalanced;

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Splits `line` into words, appends them unquoted to `words`, and calls `found` with each one's start and end there.
///
/// # Errors
/// [`Unbalanced`].
pub fn split(
    line: &[u8],
    words: &mut Vec<u8>,
    mut found: impl FnMut(usize, usize),
) -> Result<(), Unbalanced> {
    let mut rest = line;
    loop {
        while let Some((&byte, after)) = rest.split_first()
            && is_space(byte)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let start = words.len();
        rest = word(rest, words)?;
        found(start, words.len());
    }
}

/// Takes one word off the front of `rest`, which does not begin with a space.
fn word<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] | [0, ..] => return Ok(if rest.is_empty() { rest } else { &[] }),
            [byte, after @ ..] if is_space(*byte) => return Ok(after),
            [b'"', after @ ..] => return closed(double_quoted(after, out)?),
            [b'\'', after @ ..] => return closed(single_quoted(after, out)?),
            [byte, after @ ..] => {
                out.push(*byte);
                rest = after;
            }
        }
    }
}

/// What follows a closing quote must be a space or the end.
fn closed(rest: &[u8]) -> Result<&[u8], Unbalanced> {
    match rest.first() {
        None => Ok(rest),
        Some(&byte) if is_space(byte) => Ok(rest),
        Some(_) => Err(Unbalanced),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] => return Err(Unbalanced),
            [b'\\', b'x', high, low, after @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                out.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                out.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return Ok(after),
            [byte, after @ ..] => {
                out.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] => return Err(Unbalanced),
            [b'\\', b'\'', after @ ..] => {
                out.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Ok(after),
            [byte, after @ ..] => {
                out.push(*byte);
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        split(line, &mut bytes, |start, end| spans.push((start, end)))?;
        Ok(spans.into_iter().map(|(start, end)| bytes[start..end].to_vec()).collect())
    }

    #[test]
    fn quoting() {
        let ok = |line: &[u8], expected: &[&[u8]]| {
            assert_eq!(words(line), Ok(expected.iter().map(|word| word.to_vec()).collect()), "{line:?}");
        };
        ok(b"", &[]);
        ok(b"  a\tb ", &[b"a", b"b"]);
        ok(b"\"\\x00\\xff\\xzz\\t\\q\"", &[b"\x00\xffxzz\tq"]);
        ok(b"'a\\n\\'' b", &[b"a\\n'", b"b"]);
        ok(b"ab\"c d\" e", &[b"abc d", b"e"]);
        for line in [&b"\"a"[..], b"'a", b"\"a\"b", b"'a'b", b"\"a\\\""] {
            assert_eq!(words(line), Err(Unbalanced), "{line:?}");
        }
    }
}
