//! The floating point numbers of INCRBYFLOAT: 64 bits of mantissa, as in Redis on x86-64 (`long double`), in integer
//! arithmetic, so that every replica gets the same bits whatever its processor and C library.
//!
//! Rules: reading, adding and printing round to the nearest, ties to even. Printed as `%.17Lf` without the zeros at
//! the end, and never with an exponent.

use std::cmp::Ordering;

/// Longer texts are no numbers to Redis either.
const MAX_TEXT_BYTES: usize = 5 * 1024;
/// Powers of ten beyond which a number cannot be represented.
const MAX_POWER_OF_TEN: i64 = 4940;
const MIN_POWER_OF_TEN: i64 = -4960;
/// `mantissa * 2^exponent` must be below 2^16384.
const MAX_EXPONENT: i32 = 16384 - 64;
/// 10^17: the digits printed behind the point.
const FRACTION: u128 = 100_000_000_000_000_000;

/// `mantissa * 2^exponent`, the mantissa's top bit set unless the number is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LongDouble {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

impl LongDouble {
    /// 0.
    pub const ZERO: Self = Self { negative: false, mantissa: 0, exponent: 0 };

    /// Reads a decimal number, with or without fraction and exponent. `None`: not a finite number, or too large or
    /// too small to be one here.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= MAX_TEXT_BYTES {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (whole, rest) = split_digits(rest);
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => split_digits(rest),
            rest => (&[][..], rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let power = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => parse_power(rest)?,
            _ => return None,
        };
        let mut number = Big::default();
        for digit in whole.iter().chain(fraction) {
            number.multiply_add(10, u32::from(digit - b'0'));
        }
        if number.is_zero() {
            return Some(Self { negative, ..Self::ZERO });
        }
        let power = power - i64::try_from(fraction.len()).ok()?;
        let digits = i64::try_from(whole.len() + fraction.len()).ok()?;
        if power > MAX_POWER_OF_TEN || power + digits < MIN_POWER_OF_TEN {
            return None;
        }
        let mut divisor = Big::one();
        let scaled = if power >= 0 { &mut number } else { &mut divisor };
        for _ in 0..power.unsigned_abs() {
            scaled.multiply_add(10, 0);
        }
        Self::quotient(negative, number, divisor)
    }

    /// `number / divisor`, rounded.
    fn quotient(negative: bool, mut number: Big, mut divisor: Big) -> Option<Self> {
        // Scaled so that the quotient has 66 or 67 bits.
        let shift = 66 + i64::from(divisor.bits()) - i64::from(number.bits());
        let scaled = if shift >= 0 { &mut number } else { &mut divisor };
        scaled.shift_left(u32::try_from(shift.unsigned_abs()).ok()?);
        divisor.shift_left(66);
        let mut quotient: u128 = 0;
        for _ in 0..=66 {
            quotient <<= 1;
            if number.compare(&divisor) != Ordering::Less {
                number.subtract(&divisor);
                quotient |= 1;
            }
            divisor.halve();
        }
        Self::rounded(negative, quotient, !number.is_zero(), i32::try_from(-shift).ok()?)
    }

    /// `(value + a bit less than 1 if sticky) * 2^exponent`, rounded; `None` if too large.
    fn rounded(negative: bool, value: u128, sticky: bool, exponent: i32) -> Option<Self> {
        let bits = 128 - value.leading_zeros();
        if bits == 0 {
            return Some(Self { negative, ..Self::ZERO });
        }
        if bits <= 64 {
            let mantissa = u64::try_from(value).ok()? << (64 - bits);
            return Self::checked(negative, mantissa, exponent - (64 - bits.cast_signed()));
        }
        let shift = bits - 64;
        let (kept, cut, half) = (value >> shift, value & ((1 << shift) - 1), 1u128 << (shift - 1));
        let up = cut > half || (cut == half && (sticky || kept & 1 == 1));
        let exponent = exponent + shift.cast_signed();
        match u64::try_from(kept + u128::from(up)) {
            Ok(mantissa) => Self::checked(negative, mantissa, exponent),
            Err(_) => Self::checked(negative, 1 << 63, exponent + 1),
        }
    }

    fn checked(negative: bool, mantissa: u64, exponent: i32) -> Option<Self> {
        (exponent <= MAX_EXPONENT).then_some(Self { negative, mantissa, exponent })
    }

    /// The sum, rounded; `None` if it is too large to be finite.
    #[must_use]
    pub fn add(&self, other: &Self) -> Option<Self> {
        let (large, small) = if (self.mantissa != 0, self.exponent, self.mantissa)
            >= (other.mantissa != 0, other.exponent, other.mantissa)
        {
            (self, other)
        } else {
            (other, self)
        };
        if small.mantissa == 0 {
            let negative = large.negative && (large.mantissa != 0 || small.negative);
            return Some(Self { negative, ..*large });
        }
        // 63 bits below the large one's mantissa; what the small one loses there is remembered as sticky.
        let wide = u128::from(large.mantissa) << 63;
        let distance = u32::try_from(large.exponent - small.exponent).ok()?;
        let narrow = u128::from(small.mantissa) << 63;
        let (aligned, sticky) = match narrow.checked_shr(distance) {
            Some(aligned) => (aligned, aligned << distance != narrow),
            None => (0, true),
        };
        let exponent = large.exponent - 63;
        if large.negative == small.negative {
            return Self::rounded(large.negative, wide + aligned, sticky, exponent);
        }
        let difference = wide - aligned - u128::from(sticky);
        Self::rounded(large.negative && difference != 0, difference, sticky, exponent)
    }

    /// The number's text.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = if self.exponent >= 0 {
            let mut number = Big::from_u64(self.mantissa);
            number.shift_left(self.exponent.unsigned_abs());
            number.to_decimal()
        } else {
            self.fraction_text()
        };
        if self.negative && text != "0" {
            text.insert(0, '-');
        }
        text.into_bytes()
    }

    fn fraction_text(&self) -> String {
        let shift = self.exponent.unsigned_abs();
        let scaled = u128::from(self.mantissa) * FRACTION;
        let units = if shift > 125 {
            0
        } else {
            let (kept, cut, half) = (scaled >> shift, scaled & ((1 << shift) - 1), 1u128 << (shift - 1));
            kept + u128::from(cut > half || (cut == half && kept & 1 == 1))
        };
        let text = format!("{}.{:017}", units / FRACTION, units % FRACTION);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The exponent behind the `e`, clamped to what is far out of range anyway.
fn parse_power(text: &[u8]) -> Option<i64> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (digits, rest) = split_digits(text);
    if digits.is_empty() || !rest.is_empty() {
        return None;
    }
    let power = digits.iter().fold(0i64, |all, digit| (all * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(if negative { -power } else { power })
}

/// A natural number; the lowest 32 bits first, no zeros at the top.
#[derive(Clone, Default, Debug)]
struct Big(Vec<u32>);

#[allow(clippy::cast_possible_truncation, reason = "the disk 32 bits are what is meant")]
impl Big {
    fn one() -> Self {
        Self(vec![1])
    }

    fn from_u64(value: u64) -> Self {
        let mut big = Self(vec![value as u32, (value >> 32) as u32]);
        big.trim();
        big
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> u32 {
        self.0.last().map_or(0, |top| self.0.len() as u32 * 32 - top.leading_zeros())
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.0 {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn shift_left(&mut self, bits: u32) {
        self.multiply_add(1 << (bits % 32), 0);
        if !self.is_zero() {
            self.0.splice(0..0, std::iter::repeat_n(0, (bits / 32) as usize));
        }
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for limb in self.0.iter_mut().rev() {
            (*limb, carry) = (*limb >> 1 | carry << 31, *limb & 1);
        }
        self.trim();
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    /// Subtracts a number that is not larger.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        let others = other.0.iter().copied().chain(std::iter::repeat(0));
        for (limb, other) in self.0.iter_mut().zip(others) {
            let (difference, first) = limb.overflowing_sub(other);
            let (difference, second) = difference.overflowing_sub(u32::from(borrow));
            *limb = difference;
            borrow = first || second;
        }
        assert!(!borrow, "the smaller number is subtracted from the larger one");
        self.trim();
    }

    fn to_decimal(&self) -> String {
        let mut rest = self.clone();
        let mut groups = Vec::new();
        while !rest.is_zero() {
            let mut remainder = 0u64;
            for limb in rest.0.iter_mut().rev() {
                let value = remainder << 32 | u64::from(*limb);
                *limb = (value / 1_000_000_000) as u32;
                remainder = value % 1_000_000_000;
            }
            rest.trim();
            groups.push(remainder);
        }
        let mut groups = groups.into_iter().rev();
        let mut text = groups.next().unwrap_or(0).to_string();
        for group in groups {
            text.push_str(&format!("{group:09}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::LongDouble;

    fn sum(a: &str, b: &str) -> String {
        let [a, b] = [a, b].map(|text| LongDouble::parse(text.as_bytes()).expect(text));
        String::from_utf8(a.add(&b).expect("finite").to_text()).expect("ASCII")
    }

    /// Results of `printf("%.17Lf", strtold(a) + strtold(b))` on x86-64, trimmed as Redis does.
    #[test]
    fn sums_as_redis_prints_them() {
        let cases = [
            ("10.50", "0.1", "10.6"),
            ("10.6", "-5", "5.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0.1", "0.2", "0.3"),
            ("0", "0", "0"),
            ("-0", "-0", "0"),
            ("1", "-1", "0"),
            ("3", "1.000000000000000005", "4.00000000000000001"),
            ("1e17", "0.1", "100000000000000000.1015625"),
            ("123456789012345678", "1", "123456789012345679"),
            ("-1.23", "0.23", "-1"),
            ("1e-17", "0", "0.00000000000000001"),
            ("4e-18", "0", "0"),
            ("-4e-18", "0", "0"),
            ("1e30", "1", "1000000000000000000024696061952"),
            (".5", "5.", "5.5"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551615", "0.5", "18446744073709551616"),
            ("18446744073709551615", "-0.25", "18446744073709551615"),
            ("9223372036854775808", "-0.25", "9223372036854775808"),
            ("3.3", "4.4", "7.7"),
            ("99999999.99", "0.01", "100000000"),
        ];
        for (a, b, expected) in cases {
            assert_eq!(sum(a, b), expected, "{a} + {b}");
            assert_eq!(sum(b, a), expected, "{b} + {a}");
        }
    }

    #[test]
    fn huge_and_tiny() {
        assert_eq!(sum("1e4000", "1").len(), 4000);
        assert_eq!(sum("1e-4000", "1e-4000"), "0");
        assert_eq!(sum("1e4000", "-1e4000"), "0");
        assert_eq!(LongDouble::parse(b"1e5000"), None);
        assert_eq!(LongDouble::parse(b"1e-5000"), None);
        let largest = LongDouble::parse(b"1.18973149535723176502e4932").expect("the largest");
        assert_eq!(largest.add(&largest), None);
        assert_eq!(LongDouble::parse(b"1.2e4932"), None);
    }

    #[test]
    fn what_is_no_number() {
        for text in ["", "-", ".", "e5", "1e", "1e+", "1.2.3", " 1", "1 ", "abc", "inf", "nan", "0x10", "--1"]
        {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(LongDouble::parse(&[b'1'; 6000]), None);
    }
}
