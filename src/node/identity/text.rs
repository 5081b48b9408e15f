//! An identity's copy as text: lines, the last of which is the checksum of those before.
//!
//! Format 1 (generation, cluster, node, storage, shards, partitions), format 2, which has no limits, format 3, format 4, which a
//! folder of a founder has, format 5, that of a node that joins, and format 6, that of a founder which was alone before, are read
//! for ever. Written are 4, 5 and 6 in a cluster; elsewhere 3, or 2 as long as the folder has no limits (see `limits`). Invariant:
//! what is read is what one of them writes, to the last byte; everything else is damage and is named.

use std::collections::BTreeMap;
use std::fmt;

use super::{Former, Identity, SharedLimits};

/// The newest version of the data folder's layout: of a founder that was alone before, with its data.
pub const FORMAT_VERSION: u32 = 6;
/// That of a node that joins a cluster which others have founded.
pub(super) const JOINING: u32 = 5;
/// That of a founder's folder.
pub(super) const FOUNDING: u32 = 4;
/// The version of a node's that is alone.
pub(super) const ALONE: u32 = 3;
/// The first version, in which logs and states did not say whose they are.
pub(super) const UNBOUND: u32 = 1;
/// The version that has everything but limits.
pub(super) const UNLIMITED: u32 = 2;

/// The most shards and partitions of a folder, as the configuration allows.
const SHARDS_MAX: u32 = 1024;
const PARTITIONS_MAX: u32 = 16_384;
/// What stands for no founder met.
const NOBODY: &str = "nobody";
/// Longest name of a storage.
const NAME_BYTES_MAX: usize = 64;

/// Why a copy cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unreadable {
    /// It is not as it was written.
    Damaged(String),
    /// A later release wrote it.
    Newer(u32),
}

impl Identity {
    /// The bytes of a copy, in the format of the identity.
    pub(super) fn encode(&self) -> String {
        let Self { format, generation, cluster, node, storage, starts, incarnation, pair, .. } = self;
        assert_eq!(
            *format == FORMAT_VERSION,
            self.former.is_some(),
            "that format has what the node was called"
        );
        let begin = format!("corduroy identity\nformat = {format}\ngeneration = {generation}\n");
        let ids = format!("cluster = {cluster:032x}\nnode = {node:016x}\nstorage = {storage:016x}\n");
        let more = if *format == UNBOUND {
            String::new()
        } else {
            let name = &self.storage_name;
            format!(
                "storage_name = {name}\nincarnation = {incarnation}\nstarts = {starts}\npair = {pair:016x}\n"
            )
        };
        let limits = if Self::has_limits(*format) {
            let limits = self.limits.expect("an identity of this format has limits");
            let SharedLimits { operation_bytes, value_bytes } = limits;
            format!("operation_bytes = {operation_bytes}\nvalue_bytes = {value_bytes}\n")
        } else {
            String::new()
        };
        let numbers = format!("shards = {}\npartitions = {}\n", self.shards, self.partitions);
        let founders = if *format < FOUNDING {
            String::new()
        } else {
            assert!(!self.founders.is_empty(), "a folder of this format is of a cluster");
            let ids: Vec<_> = self.founders.iter().map(u64::to_string).collect();
            let met: Vec<_> =
                self.met.iter().map(|(node, incarnation)| format!("{node}:{incarnation}")).collect();
            let met = if met.is_empty() { NOBODY.to_owned() } else { met.join(" ") };
            format!("founders = {}\nmet = {met}\n", ids.join(" "))
        };
        let former = match self.former {
            Some(Former { node, storage, starts }) => {
                format!(
                    "former_node = {node:016x}\nformer_storage = {storage:016x}\nformer_starts = {starts}\n"
                )
            }
            None => String::new(),
        };
        let text = [begin, ids, more, limits, numbers, founders, former].concat();
        format!("{text}crc32 = {:08x}\n", crc32fast::hash(text.as_bytes()))
    }

    /// Reads a copy.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let damaged = |why: &str| Unreadable::Damaged(why.to_owned());
        let text = std::str::from_utf8(bytes)
            .map_err(|error| damaged(&format!("byte {} is no text", error.valid_up_to())))?;
        let body = text.strip_suffix('\n').and_then(|text| text.rsplit_once("\ncrc32 = "));
        let (body, crc) = body.ok_or_else(|| damaged("no checksum"))?;
        let body = format!("{body}\n");
        if crc != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
            return Err(damaged("the checksum does not match"));
        }
        let fields = Fields(&body);
        let identity = match fields.number("format")? {
            0 => return Err(damaged("format 0 was never written")),
            format @ (UNBOUND | UNLIMITED | ALONE | FOUNDING | JOINING | FORMAT_VERSION) => {
                fields.identity(format)?
            }
            newer => return Err(Unreadable::Newer(newer)),
        };
        // Whatever was not looked at (lines of nobody, signs, leading zeros) shows here.
        if identity.encode().as_bytes() != bytes {
            return Err(damaged("it is not written as an identity is"));
        }
        Ok(identity)
    }

    /// The same storage in a folder of the first format.
    pub(super) fn unbound(self) -> Self {
        let pair = Self::pair_of_old(self.cluster, self.node, self.storage);
        Self {
            format: UNBOUND,
            incarnation: 1,
            starts: 0,
            pair,
            limits: None,
            founders: Vec::new(),
            met: BTreeMap::new(),
            former: None,
            ..self
        }
    }

    /// Pairs the logs and states of a folder of the first format: the same number at each attempt to upgrade it.
    fn pair_of_old(cluster: u128, node: u64, storage: u64) -> u64 {
        (cluster as u64) ^ ((cluster >> 64) as u64) ^ node.rotate_left(17) ^ storage.rotate_left(41)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shards, partitions) = (self.shards, self.partitions);
        let shard = if shards == 1 { "shard" } else { "shards" };
        let partition = if partitions == 1 { "partition" } else { "partitions" };
        write!(
            f,
            "cluster {:032x}, node {:016x}, storage {:016x}, {shards} {shard}, {partitions} {partition}, data format {}",
            self.cluster, self.node, self.storage, self.format
        )?;
        match &self.founders[..] {
            [] => Ok(()),
            founders => write!(f, ", founded by nodes {founders:?}"),
        }
    }
}

struct Fields<'a>(&'a str);

impl Fields<'_> {
    fn text(&self, name: &str) -> Result<&str, Unreadable> {
        let mut lines = self.0.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        found.ok_or_else(|| Unreadable::Damaged(format!("`{name}` is missing")))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, Unreadable> {
        let text = self.text(name)?;
        text.parse().map_err(|_| Unreadable::Damaged(format!("`{name}` is no number that can be")))
    }

    fn hex(&self, name: &str) -> Result<u128, Unreadable> {
        let text = self.text(name)?;
        let bad = |_| Unreadable::Damaged(format!("`{name}` is no hexadecimal number"));
        u128::from_str_radix(text, 16).map_err(bad)
    }

    fn hex_u64(&self, name: &str) -> Result<u64, Unreadable> {
        let bad = |_| Unreadable::Damaged(format!("`{name}` is longer than 16 digits"));
        u64::try_from(self.hex(name)?).map_err(bad)
    }

    fn count(&self, name: &str, max: u32) -> Result<u32, Unreadable> {
        let count = self.number(name)?;
        if (1..=max).contains(&count) {
            return Ok(count);
        }
        Err(Unreadable::Damaged(format!("`{name}` is {count}, and must be between 1 and {max}")))
    }

    fn limit(&self, name: &str) -> Result<u64, Unreadable> {
        match self.number(name)? {
            0 => Err(Unreadable::Damaged(format!("`{name}` is 0: nothing would be taken"))),
            limit => Ok(limit),
        }
    }

    fn founders(&self, node: u64, joins: bool) -> Result<Vec<u64>, Unreadable> {
        let bad = || {
            let with = if joins { "without" } else { "with" };
            let why = format!("`founders` are no nodes in their order, {with} this one");
            Unreadable::Damaged(why)
        };
        let ids = self.text("founders")?.split(' ').map(str::parse);
        let ids = ids.collect::<Result<Vec<u64>, _>>().map_err(|_| bad())?;
        let is_whole = ids.is_sorted_by(|one, next| one < next) && ids.contains(&node) != joins;
        if is_whole { Ok(ids) } else { Err(bad()) }
    }

    fn met(&self, node: u64, founders: &[u64]) -> Result<BTreeMap<u64, u64>, Unreadable> {
        let bad = || Unreadable::Damaged("`met` are no founders and their incarnations".into());
        let text = self.text("met")?;
        if text == NOBODY {
            return Ok(BTreeMap::new());
        }
        let read = |one: &str| {
            let (met, incarnation) = one.split_once(':')?;
            Some((met.parse::<u64>().ok()?, incarnation.parse::<u64>().ok()?))
        };
        let met = text.split(' ').map(read).collect::<Option<BTreeMap<_, _>>>().ok_or_else(bad)?;
        if met.keys().all(|met| *met != node && founders.contains(met)) { Ok(met) } else { Err(bad()) }
    }

    /// What a founder was called before it founded the cluster, alone.
    fn former(&self, now: &Identity) -> Result<Former, Unreadable> {
        if now.founders.len() > 1 {
            return Err(Unreadable::Damaged("`founders` are several, of a node that was alone".into()));
        }
        let starts = self.number("former_starts")?;
        if starts > now.starts {
            return Err(Unreadable::Damaged("`former_starts` is above `starts`".into()));
        }
        Ok(Former { node: self.hex_u64("former_node")?, storage: self.hex_u64("former_storage")?, starts })
    }

    fn identity(&self, format: u32) -> Result<Identity, Unreadable> {
        let (cluster, node, storage) =
            (self.hex("cluster")?, self.hex_u64("node")?, self.hex_u64("storage")?);
        let mut identity = Identity {
            format,
            generation: self.number("generation")?,
            cluster,
            node,
            storage,
            storage_name: Identity::name_of_storage(storage),
            incarnation: 1,
            starts: 0,
            pair: Identity::pair_of_old(cluster, node, storage),
            shards: self.count("shards", SHARDS_MAX)?,
            partitions: self.count("partitions", PARTITIONS_MAX)?,
            limits: None,
            founders: Vec::new(),
            met: BTreeMap::new(),
            former: None,
        };
        if format != UNBOUND {
            self.text("storage_name")?.clone_into(&mut identity.storage_name);
            identity.incarnation = self.number("incarnation")?;
            identity.starts = self.number("starts")?;
            identity.pair = self.hex_u64("pair")?;
        }
        if Identity::has_limits(format) {
            let (operation_bytes, value_bytes) = (self.limit("operation_bytes")?, self.limit("value_bytes")?);
            identity.limits = Some(SharedLimits { operation_bytes, value_bytes });
        }
        if format >= FOUNDING {
            identity.founders = self.founders(node, format == JOINING)?;
            identity.met = self.met(node, &identity.founders)?;
        }
        if format == FORMAT_VERSION {
            identity.former = Some(self.former(&identity)?);
        }
        let name = &identity.storage_name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Unreadable::Damaged("`storage_name` is no name".into()));
        }
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(format: u32) -> Identity {
        let identity = Identity {
            format: FOUNDING,
            generation: 3,
            cluster: 0xfeed_0000_0000_0000_0000_0000_0000_0001,
            node: 0xb,
            storage: 0xc,
            storage_name: Identity::name_of_storage(0xc),
            incarnation: 2,
            starts: 17,
            pair: 0xd,
            shards: 8,
            partitions: 4,
            limits: Some(SharedLimits { operation_bytes: 1000, value_bytes: 900 }),
            founders: vec![2, 0xb, 300],
            met: [(2, 17), (300, 18)].into(),
            former: None,
        };
        match format {
            UNBOUND => identity.unbound(),
            UNLIMITED => {
                Identity { format, limits: None, founders: Vec::new(), met: BTreeMap::new(), ..identity }
            }
            ALONE => Identity { format, founders: Vec::new(), met: BTreeMap::new(), ..identity },
            JOINING => Identity { format, founders: vec![2, 300], ..identity },
            FORMAT_VERSION => Identity {
                format,
                founders: vec![0xb],
                met: BTreeMap::new(),
                former: Some(Former { node: 0xd1, storage: 0xd2, starts: 15 }),
                ..identity
            },
            _ => identity,
        }
    }

    const V1: &str = "corduroy identity\nformat = 1\ngeneration = 3\ncluster = feed0000000000000000000000000001\nnode = \
        000000000000000b\nstorage = 000000000000000c\nshards = 8\npartitions = 4\n";
    const V2: &str = "corduroy identity\nformat = 2\ngeneration = 3\ncluster = feed0000000000000000000000000001\nnode = \
        000000000000000b\nstorage = 000000000000000c\nstorage_name = storage-000000000000000c\nincarnation = 2\nstarts = \
        17\npair = 000000000000000d\nshards = 8\npartitions = 4\n";
    const V3: &str = "corduroy identity\nformat = 3\ngeneration = 3\ncluster = feed0000000000000000000000000001\nnode = \
        000000000000000b\nstorage = 000000000000000c\nstorage_name = storage-000000000000000c\nincarnation = 2\nstarts = \
        17\npair = 000000000000000d\noperation_bytes = 1000\nvalue_bytes = 900\nshards = 8\npartitions = 4\n";

    const V4: &str = "corduroy identity\nformat = 4\ngeneration = 3\ncluster = feed0000000000000000000000000001\nnode = \
        000000000000000b\nstorage = 000000000000000c\nstorage_name = storage-000000000000000c\nincarnation = 2\nstarts = \
        17\npair = 000000000000000d\noperation_bytes = 1000\nvalue_bytes = 900\nshards = 8\npartitions = 4\nfounders = 2 11 \
        300\nmet = 2:17 300:18\n";

    /// The same of a node that joins.
    fn v5() -> String {
        V4.replace("format = 4", "format = 5").replace("founders = 2 11 300", "founders = 2 300")
    }

    /// The same of one that was alone before.
    fn v6() -> String {
        let founded = V4.replace("format = 4", "format = 6").replace("founders = 2 11 300", "founders = 11");
        let former =
            "former_node = 00000000000000d1\nformer_storage = 00000000000000d2\nformer_starts = 15\n";
        founded.replace("met = 2:17 300:18", "met = nobody") + former
    }

    fn sealed(text: &str) -> String {
        format!("{text}crc32 = {:08x}\n", crc32fast::hash(text.as_bytes()))
    }

    #[test]
    fn all_formats_are_these_bytes() {
        for (format, text) in [(1, V1), (2, V2), (3, V3), (4, V4), (5, &*v5()), (6, &*v6())] {
            assert_eq!(identity(format).encode(), sealed(text));
            assert_eq!(Identity::decode(sealed(text).as_bytes()), Ok(identity(format)));
        }
    }

    #[test]
    fn a_crafted_copy_is_damage_and_its_fault_is_named() {
        for (from, to, why) in [
            ("shards = 8", "shards = 0", "`shards` is 0"),
            ("shards = 8", "shards = 1025", "`shards` is 1025"),
            ("shards = 8", "shards = 99999999999999999999", "`shards` is no number"),
            ("shards = 8", "shards = 08", "not written as"),
            ("shards = 8", "shards = +8", "not written as"),
            ("shards = 8\n", "", "`shards` is missing"),
            ("partitions = 4", "partitions = 0", "`partitions` is 0"),
            ("partitions = 4", "partitions = 16385", "`partitions` is 16385"),
            ("partitions = 4", "partitions = 4\npartitions = 5", "not written as"),
            ("node = 000000000000000b", "node = xyz", "`node` is no hexadecimal"),
            ("node = 000000000000000b", "node = 0000000000000000000b", "not written as"),
            ("node = 000000000000000b", "node = f000000000000000b", "longer than 16"),
            ("format = 3", "format = 0", "format 0 was never written"),
            ("format = 3", "format = 1", "not written as"),
            ("format = 3", "format = 2", "not written as"),
            ("format = 3", "format = two", "`format` is no number"),
            ("operation_bytes = 1000", "operation_bytes = 0", "nothing would be taken"),
            ("value_bytes = 900\n", "", "`value_bytes` is missing"),
            ("storage_name = storage-000000000000000c", "storage_name = a b", "is no name"),
            ("storage_name = storage-000000000000000c", "storage_name = ", "is no name"),
            ("generation = 3", "generation = 18446744073709551616", "`generation` is no number"),
        ] {
            let read = Identity::decode(sealed(&V3.replace(from, to)).as_bytes());
            let Err(Unreadable::Damaged(text)) = &read else { panic!("{to}: {read:?}") };
            assert!(text.contains(why), "{to}: {text}");
        }
        for (from, to) in
            [("2:17", "11:17"), ("2:17", "3:17"), ("2:17", "2"), ("2:17 300:18", ""), ("300:18", "2:18")]
        {
            let read = Identity::decode(sealed(&V4.replace(from, to)).as_bytes());
            assert!(matches!(read, Err(Unreadable::Damaged(_))), "{to}: {read:?}");
        }
        for (from, to) in [
            ("founders = 11", "founders = 11 12"),
            ("former_starts = 15", "former_starts = 18"),
            ("former_node = 00000000000000d1\n", ""),
            ("format = 6", "format = 4"),
        ] {
            let read = Identity::decode(sealed(&v6().replace(from, to)).as_bytes());
            assert!(matches!(read, Err(Unreadable::Damaged(_))), "{to}: {read:?}");
        }
        let nobody = Identity { met: BTreeMap::new(), ..identity(4) };
        assert!(nobody.encode().contains("\nmet = nobody\n"));
        assert_eq!(Identity::decode(nobody.encode().as_bytes()), Ok(nobody));
        let newer = Identity::decode(sealed(&V3.replace("format = 3", "format = 7")).as_bytes());
        assert_eq!(newer, Err(Unreadable::Newer(7)));
        let mut bytes = sealed(V3).into_bytes();
        bytes[20] = 0xff;
        assert_eq!(Identity::decode(&bytes), Err(Unreadable::Damaged("byte 20 is no text".into())));
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_is_believed() {
        for text in [sealed(V1), sealed(V2), sealed(V3), sealed(&v6())] {
            for bit in 0..text.len() * 8 {
                let mut flipped = text.clone().into_bytes();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let read = Identity::decode(&flipped);
                assert!(matches!(read, Err(Unreadable::Damaged(_))), "bit {bit}: {read:?}");
            }
            for len in 0..text.len() {
                let read = Identity::decode(text.get(..len).expect("ASCII").as_bytes());
                assert!(matches!(read, Err(Unreadable::Damaged(_))), "{len} bytes: {read:?}");
            }
            assert!(Identity::decode(format!("{text}\n").as_bytes()).is_err(), "longer");
        }
    }

    proptest! {
        /// Lines of every kind, with a checksum that fits: what is read is what would be written.
        #[test]
        fn whatever_is_read_is_what_is_written(
            lines in proptest::collection::vec((0..15usize, "[0-9a-f+ -]{0,34}|\\PC{0,12}"), 0..16),
            raw in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            const NAMES: [&str; 15] = ["operation_bytes", "value_bytes", "format", "generation", "cluster", "node", "storage", "storage_name", "incarnation",
                "starts", "pair", "shards", "partitions", "crc32", ""];
            let mut text = V3.to_owned();
            for (name, value) in &lines {
                let name = NAMES[*name];
                let old = text.lines().find(|line| line.starts_with(&format!("{name} = "))).map(str::to_owned);
                let new = format!("{name} = {value}");
                text = match old {
                    Some(old) => text.replacen(&old, &new, 1),
                    None => format!("{text}{new}\n"),
                };
            }
            for bytes in [sealed(&text).into_bytes(), raw] {
                if let Ok(identity) = Identity::decode(&bytes) {
                    prop_assert_eq!(identity.encode().into_bytes(), bytes);
                    prop_assert!((1..=SHARDS_MAX).contains(&identity.shards));
                    prop_assert!((1..=PARTITIONS_MAX).contains(&identity.partitions));
                }
            }
        }
    }
}
