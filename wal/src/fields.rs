//! Takes fields off the front of a byte string, as formats hold them: one after another, numbers little-endian.
//!
//! Invariant: nothing is taken where less is left than the field needs; whatever the bytes are, nothing panics.

/// The fields of a byte string that were not taken yet.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// The bytes that are left.
    pub rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// All fields of these bytes.
    #[must_use]
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// So many bytes.
    #[inline]
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(first)
    }

    /// As many bytes as the array has.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*first)
    }

    /// One byte.
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// A number of 4 bytes.
    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of 8 bytes.
    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of 16 bytes.
    #[inline]
    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_short_for_a_field_stays() {
        let bytes: Vec<u8> = (1..=31).collect();
        let mut fields = Fields::new(&bytes);
        assert_eq!((fields.byte(), fields.u32()), (Some(1), Some(0x0504_0302)));
        assert_eq!(fields.u64(), Some(0x0d0c_0b0a_0908_0706));
        assert_eq!(fields.u128(), Some(0x1d1c_1b1a_1918_1716_1514_1312_1110_0f0e));
        assert_eq!((fields.u32(), fields.u64(), fields.u128(), fields.take(3)), (None, None, None, None));
        assert_eq!((fields.array::<3>(), fields.rest), (None, &[30, 31][..]));
        assert_eq!((fields.take(0), fields.array()), (Some(&[][..]), Some([30, 31])));
        assert!(fields.is_empty() && fields.byte().is_none());
    }
}
