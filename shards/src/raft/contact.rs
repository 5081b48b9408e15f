//! How the node of a member is reached that founded nothing: the others learn it from the entry that adds the member.
//!
//! Invariant: a contact names one data folder, by its incarnation. A node that lost its data is another one from then on, and is not heard
//! as the member that it was: it does not know any more whom it voted for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use corduroy_wal::fields::Fields;

use crate::ids::NodeId;

/// See the file's head.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Contact {
    /// The node.
    pub node: NodeId,
    /// Its data folder's.
    pub incarnation: u64,
    /// Where other nodes connect to.
    pub peer: SocketAddr,
    /// Where clients do.
    pub client: SocketAddr,
}

const V4: u8 = 4;
const V6: u8 = 6;

impl Contact {
    /// Appends its bytes: node (u64), incarnation (u64), and both addresses, each 4 or 6 (u8), the address as it is written (4 or 16
    /// bytes), port (u16); numbers little-endian.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.node.0.to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        for address in [self.peer, self.client] {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(V4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(V6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_le_bytes());
        }
    }

    /// Reads one; `None` if it is none.
    #[must_use]
    pub fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (node, incarnation) = (NodeId(fields.u64()?), fields.u64()?);
        let mut address = || {
            let ip = match fields.byte()? {
                V4 => IpAddr::V4(Ipv4Addr::from(fields.array::<4>()?)),
                V6 => IpAddr::V6(Ipv6Addr::from(fields.array::<16>()?)),
                _ => return None,
            };
            Some(SocketAddr::new(ip, u16::from_le_bytes(fields.array()?)))
        };
        Some(Self { node, incarnation, peer: address()?, client: address()? })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One by both kinds of addresses.
    pub fn contact() -> Contact {
        Contact {
            node: NodeId(4),
            incarnation: 0x0102,
            peer: "10.0.0.4:7380".parse().expect("an address"),
            client: "[fd00::4]:7379".parse().expect("an address"),
        }
    }

    /// Its bytes.
    pub const HEX: &str = "0400000000000000\
                           0201000000000000\
                           040a000004d41c\
                           06fd000000000000000000000000000004d31c";

    #[test]
    fn it_is_these_bytes() {
        let mut bytes = Vec::new();
        contact().encode(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, HEX);
        let mut fields = Fields::new(&bytes);
        assert_eq!(Contact::decode(&mut fields), Some(contact()));
        assert!(fields.is_empty());
        for end in 0..bytes.len() {
            assert_eq!(Contact::decode(&mut Fields::new(&bytes[..end])), None, "cut at {end}");
        }
        bytes[16] = 5;
        assert_eq!(Contact::decode(&mut Fields::new(&bytes)), None, "no such addresses");
    }
}
