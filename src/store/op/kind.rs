//! The kinds of operations, in one table: the code of each and what holds for every operation of it.
//!
//! A code is two bytes, the family and the number in that: writes below 64, reads from 64 on. Families begin at 16: the first
//! byte of what was written before there were families is the version, 1, and the second one a code of those.
//!
//! Invariant: a code that was ever given stays that kind's.

use super::Op;

/// The first byte of an op of version 1, whose codes know no families. Its fields are those of today.
const VERSION_1: u8 = 1;
/// The first family.
const FAMILIES: u8 = 16;
/// The first number of reads in each family.
const READS: u8 = 64;

/// Keys of any type.
const GENERIC: u16 = 0x10 << 8;
/// Strings.
const STRINGS: u16 = 0x11 << 8;
/// All of a keyspace.
const KEYSPACE: u16 = 0x12 << 8;
/// Several operations as one.
const TRANSACTIONS: u16 = 0x13 << 8;

/// What holds for all operations of a kind; several are joined by `|`.
pub(in crate::store) mod traits {
    /// Nothing of the below.
    pub const NONE: u8 = 0;
    /// It only ever frees space.
    pub const FREES: u8 = 1;
    /// It may take long, whatever its arguments.
    pub const HEAVY: u8 = 1 << 1;
    /// By its arguments it may take long.
    pub const MAY_BE_HEAVY: u8 = 1 << 2;
    /// It may copy a row, or have one written again by a flush.
    pub const RENEWS: u8 = 1 << 3;
    /// It looks at more than the keys that it names, and brings some of them.
    pub const WALKS: u8 = 1 << 4;
    /// Its answer may hold a value or many keys, and not only a number or a word.
    pub const LARGE: u8 = 1 << 5;
    /// A read of one key, or of none, whose answer is a number or a word.
    pub const LITTLE: u8 = 1 << 6;
}
use traits::{FREES, HEAVY, LARGE, LITTLE, MAY_BE_HEAVY, NONE, RENEWS, WALKS};

/// In the stead of a code of version 1: what came later has none.
const NEVER: u8 = 0;

macro_rules! kinds {
    ($($kind:ident = $family:ident | $number:literal, $version_1:literal, $traits:expr;)+) => {
        /// Which operation it is. The number is its code.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "the operations' own names")]
        pub enum Kind {
            $($kind = $family | $number,)+
        }

        impl Kind {
            /// The kind of a code.
            #[inline]
            const fn of_code(code: u16) -> Option<Self> {
                $(
                    if code == Self::$kind as u16 {
                        return Some(Self::$kind);
                    }
                )+
                None
            }

            /// The kind that version 1 gave this code.
            const fn of_version_1(code: u8) -> Option<Self> {
                $(
                    if $version_1 != NEVER && code == $version_1 {
                        return Some(Self::$kind);
                    }
                )+
                None
            }

            const fn traits(self) -> u8 {
                match self {
                    $(Self::$kind => $traits,)+
                }
            }
        }

        impl Op<'_> {
            /// Its kind.
            #[must_use]
            #[inline]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Op::$kind { .. } => Kind::$kind,)+
                }
            }
        }
    };
}

kinds! {
    // The code, the one in version 1 or NEVER, and the traits.
    Del = GENERIC | 1, 6, FREES;
    Expire = GENERIC | 2, 10, RENEWS;
    ExpireIn = GENERIC | 3, 16, RENEWS;
    Persist = GENERIC | 4, 11, RENEWS;
    Rename = GENERIC | 5, 12, RENEWS;
    Copy = GENERIC | 6, 13, RENEWS;
    Watch = GENERIC | 7, 17, NONE;
    Exists = GENERIC | 64, 68, NONE;
    Type = GENERIC | 65, 69, LITTLE;
    Ttl = GENERIC | 66, 70, LITTLE;
    ObjectEncoding = GENERIC | 67, 71, LITTLE;
    ObjectRefcount = GENERIC | 68, 72, LITTLE;
    MemoryUsage = GENERIC | 69, 73, LITTLE;
    Version = GENERIC | 70, 79, LITTLE;

    Set = STRINGS | 1, 1, NONE;
    Append = STRINGS | 2, 2, RENEWS;
    SetRange = STRINGS | 3, 3, MAY_BE_HEAVY | RENEWS;
    IncrBy = STRINGS | 4, 4, NONE;
    IncrByFloat = STRINGS | 5, 5, NONE;
    GetDel = STRINGS | 6, 7, FREES | LARGE;
    GetEx = STRINGS | 7, 8, RENEWS | LARGE;
    MSet = STRINGS | 8, 9, NONE;
    Get = STRINGS | 64, 64, LARGE;
    StrLen = STRINGS | 65, 65, LITTLE;
    GetRange = STRINGS | 66, 66, LARGE;
    MGet = STRINGS | 67, 67, LARGE;
    Lcs = STRINGS | 68, 78, HEAVY | LARGE;

    Flush = KEYSPACE | 1, 14, FREES;
    Keys = KEYSPACE | 64, 74, HEAVY | WALKS | LARGE;
    Scan = KEYSPACE | 65, 75, WALKS | LARGE;
    RandomKey = KEYSPACE | 66, 76, WALKS | LARGE;
    DbSize = KEYSPACE | 67, 77, LITTLE;

    Multi = TRANSACTIONS | 1, 18, MAY_BE_HEAVY | RENEWS | LARGE;
    MarkedMulti = TRANSACTIONS | 2, 15, MAY_BE_HEAVY | RENEWS | LARGE;
}

/// What an op's first bytes name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    Kind(Kind),
    /// A code that is not given.
    UnknownKind,
    /// A layout of a later version.
    UnknownLayout,
}

impl Kind {
    /// The two bytes of its code.
    #[inline]
    pub(super) const fn bytes(self) -> [u8; 2] {
        (self as u16).to_be_bytes()
    }

    /// What the first two bytes of an op name.
    #[inline]
    pub(super) const fn named([family, number]: [u8; 2]) -> Named {
        let kind = match family {
            VERSION_1 => Self::of_version_1(number),
            FAMILIES.. => Self::of_code(u16::from_be_bytes([family, number])),
            _ => return Named::UnknownLayout,
        };
        match kind {
            Some(kind) => Named::Kind(kind),
            None => Named::UnknownKind,
        }
    }

    /// The kind of an encoded op, by its first bytes.
    #[inline]
    pub(in crate::store) fn of(op: &[u8]) -> Option<Self> {
        match Self::named(*op.first_chunk()?) {
            Named::Kind(kind) => Some(kind),
            Named::UnknownKind | Named::UnknownLayout => None,
        }
    }

    /// Whether it goes through the log.
    #[must_use]
    pub const fn is_write(self) -> bool {
        let [_, number] = self.bytes();
        number < READS
    }

    /// Whether it is several operations as one.
    pub(in crate::store) const fn is_transaction(self) -> bool {
        matches!(self, Self::Multi | Self::MarkedMulti)
    }

    /// Whether one of these traits is its.
    #[inline]
    pub(in crate::store) const fn has(self, traits: u8) -> bool {
        self.traits() & traits != 0
    }

    /// Whether its answer may hold a value or many keys, and not only a number or a word. SET's does as its arguments ask.
    #[must_use]
    pub const fn may_be_large(self) -> bool {
        self.has(LARGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_name_one_kind_each_in_both_versions() {
        let codes = (0..=u16::MAX).map(u16::to_be_bytes);
        let named = |[family, number]: [u8; 2]| match Kind::named([family, number]) {
            Named::Kind(kind) => Some((kind, family == VERSION_1)),
            Named::UnknownKind | Named::UnknownLayout => None,
        };
        let named: Vec<(Kind, bool)> = codes.filter_map(named).collect();
        let of = |old: bool| named.iter().filter(move |(_, is_old)| *is_old == old).map(|(kind, _)| *kind);
        let distinct = |old| of(old).collect::<std::collections::HashSet<_>>();
        assert_eq!((of(false).count(), of(true).count()), (34, 34));
        assert!(distinct(false).len() == 34 && distinct(true) == distinct(false));
        for kind in of(false) {
            assert_eq!(Kind::of(&kind.bytes()), Some(kind));
            assert!(!kind.has(FREES) || kind.is_write(), "{kind:?} frees nothing");
            assert!(!kind.has(LITTLE) || !(kind.is_write() || kind.has(LARGE | HEAVY)), "{kind:?} is more");
        }
        assert_eq!(Kind::named([2, 1]), Named::UnknownLayout);
        assert_eq!(Kind::named([0x10, 63]), Named::UnknownKind);
        assert_eq!((Kind::of(&[]), Kind::of(&[0x10])), (None, None));
    }
}
