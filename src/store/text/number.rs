//! Numbers as Redis reads and writes them.

/// Reads a decimal `i64` in its one canonical form: no `+`, no leading zeros, no spaces, no `-0`.
#[must_use]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    match digits {
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(digit - b'0');
        value = value.checked_mul(10)?;
        value = if negative { value.checked_sub(digit)? } else { value.checked_add(digit)? };
    }
    Some(value)
}

/// Whether this is infinity, by one of its names.
#[must_use]
pub fn is_infinity(text: &[u8]) -> bool {
    let name = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    name.eq_ignore_ascii_case(b"inf") || name.eq_ignore_ascii_case(b"infinity")
}

/// Whether this is a finite decimal number that INCRBYFLOAT can work with.
#[must_use]
pub fn is_long_double(text: &[u8]) -> bool {
    super::float::LongDouble::parse(text).is_some()
}

/// The text of an integer, without an allocation.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct IntegerText {
    bytes: [u8; 20],
    start: u8,
}

impl IntegerText {
    pub(in crate::store) fn new(value: i64) -> Self {
        let mut text = Self { bytes: [0; 20], start: 20 };
        let mut rest = value.unsigned_abs();
        for byte in text.bytes.iter_mut().rev() {
            #[allow(clippy::cast_possible_truncation, reason = "below 10")]
            let digit = (rest % 10) as u8;
            *byte = b'0' + digit;
            text.start -= 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            text.start -= 1;
            if let Some(sign) = text.bytes.get_mut(usize::from(text.start)) {
                *sign = b'-';
            }
        }
        text
    }

    pub(in crate::store) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(usize::from(self.start)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_integers() {
        for good in [0, 1, -1, 10, i64::MAX, i64::MIN, 1_234_567_890_123_456_789, -90] {
            assert_eq!(parse_integer(good.to_string().as_bytes()), Some(good));
            assert_eq!(IntegerText::new(good).as_bytes(), good.to_string().as_bytes());
        }
        let bad = [
            "",
            "-",
            "-0",
            "+1",
            "01",
            "1a",
            " 1",
            "1 ",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "1.0",
        ];
        for bad in bad {
            assert_eq!(parse_integer(bad.as_bytes()), None, "{bad}");
        }
    }
}
