//! Reading arguments: numbers and options, with Redis's refusals.

use super::super::errors::Refusal;
use crate::store::{glob, parse_integer};

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
    parse_integer(arg).ok_or(Refusal::NOT_INTEGER)
}

/// Whether an argument is a number that C's `strtold` reads whole, without leading space; infinite counts, NaN does not.
/// `Some(true)` if finite.
pub fn float_is_finite(arg: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(arg).ok()?;
    let value: f64 = text.parse().ok()?;
    if value.is_nan() { None } else { Some(value.is_finite()) }
}

/// Whether a name matches a glob pattern, whatever the case of both.
pub fn matches_name(pattern: &[u8], name: &str) -> bool {
    glob(&pattern.to_ascii_lowercase(), name.to_ascii_lowercase().as_bytes())
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
    fn names_match_in_any_case() {
        for (pattern, name, expected) in [
            ("MAX*", "maxmemory", true),
            ("s?ve", "SAVE", true),
            ("[A-C]x", "bx", true),
            ("max", "maxmemory", false),
        ] {
            assert_eq!(matches_name(pattern.as_bytes(), name), expected, "{pattern} {name}");
        }
    }
}
