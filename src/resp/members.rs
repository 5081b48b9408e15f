//! What REPLICA asks of the leader of a partition: its bytes, on their way there as those of an operation are.
//!
//! Invariant: no operation begins as they do (families of those begin at 16), so nothing that is logged can be taken for one.
//!
//! ```text
//! 0 1 family, 15 | 1 1 code: 1 list, 2 add, 3 promote, 4 remove, 5 transfer
//! but for list: 2 8 node; add: the contact of that node, without its incarnation, which is 0
//! ```

use corduroy_shards::Contact;
use corduroy_shards::ids::NodeId;
use corduroy_wal::fields::Fields;

use super::commands::args::{integer, is};
use super::errors::Refusal;

const FAMILY: u8 = 15;
const LIST: u8 = 1;
const ADD: u8 = 2;
const PROMOTE: u8 = 3;
const REMOVE: u8 = 4;
const TRANSFER: u8 = 5;

/// See the file's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberCommand {
    /// Who belongs to the group.
    List,
    /// A new member without a vote, on this node.
    Add(Contact),
    /// The member of this node gets a vote.
    Promote(NodeId),
    /// It leaves, whatever it is.
    Remove(NodeId),
    /// It is to lead.
    Transfer(NodeId),
}

impl MemberCommand {
    /// What a subcommand of this name asks for; `args` are those behind the partition.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn of(name: &str, args: &[&[u8]]) -> Result<Self, Refusal> {
        let node = || match args.first().map(|arg| integer(arg)) {
            Some(Ok(id)) if id > 0 => Ok(NodeId(id.unsigned_abs())),
            Some(_) | None => Err(Refusal::new("ERR a node is named by its number, which is above 0")),
        };
        match name {
            "list" => Ok(Self::List),
            "promote" => node().map(Self::Promote),
            "remove" => node().map(Self::Remove),
            "transfer" => node().map(Self::Transfer),
            "add" => {
                let address = |at: usize| {
                    let text = args.get(at).and_then(|arg| std::str::from_utf8(arg).ok());
                    let address = text.and_then(|text| text.parse::<core::net::SocketAddr>().ok());
                    let found = address.filter(|of| of.port() > 0 && !of.ip().is_unspecified());
                    let text = "ERR an address is like 10.0.0.4:7380: first the one for other nodes, then the one for clients";
                    found.ok_or(Refusal::new(text))
                };
                let (peer, client) = (address(1)?, address(2)?);
                Ok(Self::Add(Contact { node: node()?, incarnation: 0, peer, client }))
            }
            other => unreachable!("REPLICA {other} asks for nothing of a group"),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let with = |code: u8, node: &NodeId| [&[FAMILY, code][..], &node.0.to_le_bytes()].concat();
        match self {
            Self::List => vec![FAMILY, LIST],
            Self::Add(contact) => {
                let mut bytes = vec![FAMILY, ADD];
                contact.encode(&mut bytes);
                bytes
            }
            Self::Promote(node) => with(PROMOTE, node),
            Self::Remove(node) => with(REMOVE, node),
            Self::Transfer(node) => with(TRANSFER, node),
        }
    }

    /// Whether bytes of a request are such ones.
    #[must_use]
    #[inline]
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.first() == Some(&FAMILY)
    }

    /// Reads them; `None` if they are those of no command that there is.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let [FAMILY, code] = fields.array()? else { return None };
        let command = match code {
            LIST => Self::List,
            ADD => Self::Add(Contact::decode(&mut fields)?),
            PROMOTE => Self::Promote(NodeId(fields.u64()?)),
            REMOVE => Self::Remove(NodeId(fields.u64()?)),
            TRANSFER => Self::Transfer(NodeId(fields.u64()?)),
            _ => return None,
        };
        fields.is_empty().then_some(command)
    }
}

/// The partitions that an argument names: one of those that there are, or all.
///
/// # Errors
/// There is no such one.
pub fn partitions<P: Copy>(arg: &[u8], all: &[P], number: impl Fn(&P) -> u64) -> Result<Vec<P>, Refusal> {
    if is(arg, "ALL") {
        return Ok(all.to_vec());
    }
    let named = integer(arg).ok().and_then(|named| u64::try_from(named).ok());
    let found = all.iter().find(|partition| Some(number(partition)) == named);
    found
        .map(|one| vec![*one])
        .ok_or(Refusal::new("ERR no such partition; say ALL, or a number of raft_group_ in INFO raft"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn they_are_these_bytes() {
        let args: [&[u8]; 3] = [b"4", b"10.0.0.4:7380", b"[fd00::4]:7379"];
        for (name, expected) in [
            ("list", "0f01"),
            (
                "add",
                "0f0204000000000000000000000000000000\
                 040a000004d41c06fd000000000000000000000000000004d31c",
            ),
            ("promote", "0f030400000000000000"),
            ("remove", "0f040400000000000000"),
            ("transfer", "0f050400000000000000"),
        ] {
            let command = MemberCommand::of(name, &args).expect("a command");
            let bytes = command.encode();
            assert_eq!(hex(&bytes), expected, "{name}");
            assert_eq!(MemberCommand::decode(&bytes), Some(command));
            assert!(MemberCommand::is_one(&bytes));
            for end in 0..bytes.len() {
                assert_eq!(MemberCommand::decode(&bytes[..end]), None, "{name} cut at {end}");
            }
            assert_eq!(MemberCommand::decode(&[&*bytes, &[0]].concat()), None, "longer");
        }
        assert_eq!(MemberCommand::decode(&[FAMILY, 6]), None);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for args in [
            &[&b"0"[..], b"10.0.0.4:1", b"10.0.0.4:2"],
            &[b"4", b"here:1", b"10.0.0.4:2"],
            &[b"4", b"10.0.0.4:1", b"0.0.0.0:2"],
        ] {
            assert!(MemberCommand::of("add", args).is_err(), "{args:?}");
        }
        assert!(MemberCommand::of("remove", &[b"first"]).is_err());
        let all = [2_u64, 3];
        let named = |arg: &[u8]| partitions(arg, &all, |number| *number);
        assert_eq!((named(b"all"), named(b"3")), (Ok(vec![2, 3]), Ok(vec![3])));
        assert!(named(b"1").is_err() && named(b"x").is_err());
    }
}
