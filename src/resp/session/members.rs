//! REPLICA: goes to the leaders of the partitions that it names, as operations do, and is never logged.

use super::queue::{Body, Merge, Parts};
use super::{Backend, Entry, Kind, Session};
use crate::resp::members::{MemberCommand, partitions};

impl Session {
    /// Sends what is asked to one partition, or to all: their answers are then a list.
    pub(super) fn ask_members(&mut self, entry: &'static Entry, args: &[&[u8]], backend: &dyn Backend) {
        let arg = args.get(2).copied().unwrap_or_default();
        let asked = partitions(arg, backend.partitions(), |partition| partition.0).and_then(|partitions| {
            let command = MemberCommand::of(entry.row.name, args.get(3..).unwrap_or_default())?;
            Ok((partitions, command))
        });
        let (partitions, command) = match asked {
            Ok(asked) => asked,
            Err(refusal) => return self.refuse(entry, &refusal),
        };
        if backend.topology().is_none() {
            let why = "ERR this node is alone: its partitions have no other members";
            return self.refuse(entry, &super::Refusal::new(why));
        }
        // What it asks for may be asked again, whatever was done of it: so a refusal says why, though others were done.
        let body = match partitions.len() {
            1 => Body::Waiting,
            count => Body::Parts(Box::new(Parts::new(count, false, Merge::Joined))),
        };
        self.push_slot(entry, body, args);
        let bytes = command.encode();
        for (part, partition) in partitions.iter().enumerate() {
            let ticket = self.count_part(Kind::Write, part, bytes.len());
            backend.submit(ticket, *partition, Kind::Write, false, &bytes);
        }
    }
}
