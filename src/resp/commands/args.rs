//! Reading arguments: numbers and options, with Redis's refusals.

use super::super::errors::Refusal;

/// Whether an argument is this option, whatever its case.
#[inline]
pub fn is(arg: &[u8], option: &str) -> bool {
    arg.eq_ignore_ascii_case(option.as_bytes())
}

/// A 64-bit signed integer as Redis reads it: no spaces, no plus sign, no leading zeros.
///
/// # Errors
/// [`Refusal::NOT_INTEGER`].
#[inline]
pub fn integer(arg: &[u8]) -> Result<i64, Refusal> {
    let (negative, digits) = match arg {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let well_formed = match digits {
        [b'0'] => !negative,
        [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !well_formed {
        return Err(Refusal::NOT_INTEGER);
    }
    let sum = digits.iter().try_fold(0i64, |sum, &digit| {
        let digit = i64::from(digit - b'0');
        let tens = sum.checked_mul(10)?;
        if negative { tens.checked_sub(digit) } else { tens.checked_add(digit) }
    });
    sum.ok_or(Refusal::NOT_INTEGER)
}

/// Whether an argument is a number that C's `strtold` reads whole, without leading space; infinite counts, NaN does not.
/// `Some(true)` if finite.
pub fn float_is_finite(arg: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(arg).ok()?;
    let value: f64 = text.parse().ok()?;
    if value.is_nan() { None } else { Some(value.is_finite()) }
}

/// A glob match as Redis's: `*`, `?`, `[a-c]`, `[^x]`, `\` escapes. Iterative: at most pattern × text steps.
pub fn glob(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on after a failed match: behind the last star, one more byte of text swallowed.
    let mut back: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (Some((b'*', rest)), _) => {
                if rest.is_empty() {
                    return true;
                }
                pattern = rest;
                back = Some((rest, text));
                continue;
            }
            (None, None) => return true,
            (Some(_), Some((&byte, text_rest))) => {
                if let Some(pattern_rest) = one(pattern, byte, ignore_case) {
                    (pattern, text) = (pattern_rest, text_rest);
                    continue;
                }
            }
            _ => {}
        }
        match back {
            Some((after_star, [_, swallowed @ ..])) => {
                back = Some((after_star, swallowed));
                (pattern, text) = (after_star, swallowed);
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the front of a pattern (no star); the rest of the pattern if it matches.
fn one(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<&[u8]> {
    let fold = |byte: u8| if ignore_case { byte.to_ascii_lowercase() } else { byte };
    let byte = fold(byte);
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'\\', literal, rest @ ..] => (fold(*literal) == byte).then_some(rest),
        [b'[', class @ ..] => {
            let (negated, mut class) = match class {
                [b'^', rest @ ..] => (true, rest),
                rest => (false, rest),
            };
            let mut found = false;
            loop {
                match class {
                    [b']', rest @ ..] => return (found != negated).then_some(rest),
                    [] => return (found != negated).then_some(&[]),
                    [b'\\', literal, rest @ ..] => {
                        found |= fold(*literal) == byte;
                        class = rest;
                    }
                    [low, b'-', high, rest @ ..] => {
                        let (low, high) = (fold(*low), fold(*high));
                        found |= (low.min(high)..=low.max(high)).contains(&byte);
                        class = rest;
                    }
                    [literal, rest @ ..] => {
                        found |= fold(*literal) == byte;
                        class = rest;
                    }
                }
            }
        }
        [literal, rest @ ..] => (fold(*literal) == byte).then_some(rest),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_redis_reads_them() {
        for (text, value) in [
            ("0", 0),
            ("7", 7),
            ("-7", -7),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text.as_bytes()), Ok(value));
        }
        for text in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "01",
            "-0",
            "1.0",
            "9223372036854775808",
            "-9223372036854775809",
            "1e3",
        ] {
            assert_eq!(integer(text.as_bytes()), Err(Refusal::NOT_INTEGER), "{text}");
        }
    }

    #[test]
    fn floats_as_redis_reads_them() {
        for text in ["1", "-1.5", "+2", "3e5", ".5", "5."] {
            assert_eq!(float_is_finite(text.as_bytes()), Some(true), "{text}");
        }
        assert_eq!(float_is_finite(b"inf"), Some(false));
        for text in ["", " 1", "1 ", "nan", "abc", "1e", "\u{fffd}"] {
            assert_eq!(float_is_finite(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*a*a", "aaaa", true),
            ("MAX*", "maxmemory", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes(), true), expected, "{pattern} {text}");
        }
        assert!(!glob(b"A", b"a", false));
        assert!(!glob(&b"*a".repeat(5000), &b"a".repeat(4000), false));
    }
}
