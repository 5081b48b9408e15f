//! Reading arguments: numbers and options, with Redis's refusals.

use super::super::errors::Refusal;
use crate::store::{Effort, is_infinity, is_long_double, parse_integer};

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

/// The number of a database, of which there is one.
///
/// # Errors
/// Redis's texts.
pub fn only_database(arg: &[u8]) -> Result<(), Refusal> {
    match integer(arg)? {
        0 => Ok(()),
        number if i32::try_from(number).is_err() => {
            Err(Refusal::new("ERR value is out of range, value must between -2147483648 and 2147483647"))
        }
        _ => Err(Refusal::new("ERR DB index is out of range")),
    }
}

/// Whether an argument is a decimal number in the range of C's `long double`, or infinity by name.
pub fn is_float(arg: &[u8]) -> bool {
    is_long_double(arg) || is_infinity(arg)
}

/// The names that match a glob pattern, whatever the case of both.
///
/// # Errors
/// The pattern takes more than is left of `effort`.
pub fn matching<'n>(
    effort: &mut Effort,
    pattern: &[u8],
    names: impl IntoIterator<Item = &'n str>,
) -> Result<Vec<&'n str>, Refusal> {
    let pattern = pattern.to_ascii_lowercase();
    let mut found = Vec::new();
    for name in names {
        match effort.glob(&pattern, name.to_ascii_lowercase().as_bytes()) {
            Some(true) => found.push(name),
            Some(false) => {}
            None => return Err(Refusal::new("ERR the pattern takes too long to match")),
        }
    }
    Ok(found)
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
        for text in ["1", "-1.5", "+2", "3e5", ".5", "5.", "1e400"] {
            assert!(is_float(text.as_bytes()), "{text}");
        }
        for text in ["inf", "-inf", "+Infinity"] {
            assert!(is_float(text.as_bytes()), "{text}");
        }
        for text in ["1e5000", "1e-5000", "--1", "", " 1", "1 ", "nan", "abc", "1e", "\u{fffd}"] {
            assert!(!is_float(text.as_bytes()), "{text}");
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
            let found = matching(&mut Effort::of_a_list(), pattern.as_bytes(), [name]);
            assert_eq!(found.map(|found| found.len()), Ok(usize::from(expected)), "{pattern} {name}");
        }
    }

    #[test]
    fn a_long_list_of_characters_is_not_looked_through_for_each_name() {
        let pattern = [b"*[".as_slice(), &b"!".repeat(100_000), b"]"].concat();
        assert!(matching(&mut Effort::of_a_list(), &pattern, ["maxmemory"]).is_err());
        let mut effort = Effort::of_a_list();
        for _ in 0..100_000 {
            let found = matching(&mut effort, b"*max[a-m]*ory*", ["maxmemory", "maxclients"]);
            assert_eq!(found.map(|found| found.len()), Ok(1), "what is cheap is free");
        }
    }
}
