//! Dispatch: the rows with what was worked out from them at start, found by name through a hash index.
//!
//! Invariant: every row of every group is in the table once; a request is resolved without an allocation.

use std::sync::LazyLock;

use super::{REFUSED, Row, Run, client, connection, keys, server, strings, transactions};
use crate::resp::errors::Refusal;

/// What dispatch needs to know of a row's flags, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traits {
    /// Changes the state.
    pub write: bool,
    /// Allowed before AUTH.
    pub no_auth: bool,
    /// Not allowed inside MULTI.
    pub no_multi: bool,
    /// Ends the connection.
    pub closes: bool,
    /// Never slow by itself.
    pub fast: bool,
    /// Its answers count as keyspace hits and misses.
    pub counts_hits: bool,
}

/// A row with what was worked out from it at start.
pub struct Entry {
    /// The row.
    pub row: Row,
    /// `get`, `client|kill`.
    pub full_name: String,
    /// Its index in [`Table::entries`], by which statistics are kept.
    pub index: u16,
    /// Its flags as bits.
    pub traits: Traits,
    /// Its subcommands' indexes in [`Table::entries`].
    pub children: Vec<u16>,
}

impl Entry {
    /// Whether `count` arguments (names included) are a right number.
    #[must_use]
    #[inline]
    pub fn fits(&self, count: usize) -> bool {
        let count = count as isize;
        if self.row.arity >= 0 { count == self.row.arity } else { count >= -self.row.arity }
    }

    /// Whether COMMAND lists it.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        !matches!(self.row.run, Run::Refused(_))
    }

    /// The keys among `args`. Their number may be wrong for the command; then as many as there are.
    #[inline]
    pub fn keys<'a>(&self, args: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let range = self.row.keys;
        let end = if range.first == 0 {
            0
        } else if range.last < 0 {
            (args.len() as isize + range.last + 1).max(0) as usize
        } else {
            (range.last as usize + 1).min(args.len())
        };
        args.get(range.first..end).unwrap_or_default().iter().step_by(range.step.max(1)).copied()
    }
}

/// All commands, with a hash index over their names.
pub struct Table {
    /// Every command and subcommand.
    pub entries: Vec<Entry>,
    /// The indexes of the commands that are no subcommands.
    pub top: Vec<u16>,
    /// Open addressing; `u16::MAX` is free.
    slots: Vec<u16>,
}

const SLOT_BITS: u32 = 9;
const FREE: u16 = u16::MAX;

/// The first slot to look at for a name of any case.
#[inline]
fn hash(name: &[u8]) -> usize {
    let packed = name
        .iter()
        .take(12)
        .fold(name.len() as u64, |packed, &byte| packed.rotate_left(5) ^ u64::from(byte & 0xDF));
    (packed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SLOT_BITS)) as usize
}

impl Table {
    fn build() -> Self {
        let mut table = Self { entries: Vec::new(), top: Vec::new(), slots: vec![FREE; 1 << SLOT_BITS] };
        let groups = [
            connection::ROWS,
            client::ROWS,
            server::ROWS,
            strings::ROWS,
            keys::ROWS,
            transactions::ROWS,
            REFUSED,
        ];
        for row in groups.into_iter().flatten() {
            let index = table.add(row, None);
            let mut slot = hash(row.name.as_bytes());
            while table.slots.get(slot).is_some_and(|&taken| taken != FREE) {
                slot = (slot + 1) % table.slots.len();
            }
            *table.slots.get_mut(slot).expect("slots are taken modulo their number") = index;
            table.top.push(index);
        }
        assert!(table.top.len() * 2 < table.slots.len(), "the command index is too full to be fast");
        table
    }

    fn add(&mut self, row: &Row, parent: Option<&Row>) -> u16 {
        let index = self.entries.len() as u16;
        let has = |flag: &str| row.flags.split(' ').any(|word| word == flag);
        let full_name = parent.map_or(row.name.to_owned(), |parent| format!("{}|{}", parent.name, row.name));
        let traits = Traits {
            write: has("write"),
            no_auth: has("no_auth"),
            no_multi: has("no_multi"),
            closes: has("closes"),
            fast: has("fast"),
            counts_hits: row.keys.first > 0 && (row.keys.access.contains("access") || has("readonly")),
        };
        self.entries.push(Entry { row: *row, full_name, index, traits, children: Vec::new() });
        if let Run::Subcommands(rows) = row.run {
            let children = rows.iter().map(|child| self.add(child, Some(row))).collect();
            if let Some(entry) = self.entries.get_mut(index as usize) {
                entry.children = children;
            }
        }
        index
    }

    /// The entry with this index.
    #[must_use]
    #[inline]
    pub fn entry(&self, index: u16) -> &Entry {
        self.entries.get(index as usize).expect("indexes are handed out by the table itself")
    }

    /// The command of this name, whatever its case.
    #[must_use]
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        let mut slot = hash(name);
        loop {
            let index = *self.slots.get(slot)?;
            if index == FREE {
                return None;
            }
            let entry = self.entry(index);
            if entry.row.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(entry);
            }
            slot = (slot + 1) % self.slots.len();
        }
    }

    /// The subcommand of this name, whatever its case.
    #[must_use]
    pub fn find_child(&self, parent: &Entry, name: &[u8]) -> Option<&Entry> {
        let mut children = parent.children.iter().map(|&index| self.entry(index));
        children.find(|entry| entry.row.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The command that `args` name: `["client", "kill"]` is `client|kill`, if such a subcommand exists.
    ///
    /// # Errors
    /// Redis's texts for an unknown command or subcommand, or a wrong number of arguments.
    #[inline]
    pub fn resolve(&'static self, args: &[&[u8]]) -> Result<&'static Entry, (Option<u16>, Refusal)> {
        let entry = self.named(args)?;
        if entry.fits(args.len()) {
            Ok(entry)
        } else {
            Err((Some(entry.index), Refusal::arity(&entry.full_name)))
        }
    }

    /// As `resolve`, whatever the number of arguments.
    ///
    /// # Errors
    /// Redis's texts for an unknown command or subcommand.
    #[inline]
    pub fn named(&'static self, args: &[&[u8]]) -> Result<&'static Entry, (Option<u16>, Refusal)> {
        let name = args.first().copied().unwrap_or_default();
        let Some(entry) = self.find(name) else {
            return Err((None, unknown_command(args)));
        };
        match entry.row.run {
            Run::Subcommands(_) if args.len() > 1 => {
                let child = args.get(1).copied().unwrap_or_default();
                self.find_child(entry, child)
                    .ok_or_else(|| (Some(entry.index), unknown_subcommand(entry, child)))
            }
            _ => Ok(entry),
        }
    }
}

/// The start of what a client sent, up to a zero byte.
fn quoted(bytes: &[u8], max: usize) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()).min(max);
    bytes.get(..end).unwrap_or_default()
}

fn unknown_command(args: &[&[u8]]) -> Refusal {
    let name = quoted(args.first().copied().unwrap_or_default(), 128);
    let mut text = [b"ERR unknown command '", name, b"', with args beginning with: "].concat();
    let start = text.len();
    for arg in args.iter().skip(1) {
        let used = text.len() - start;
        if used >= 128 {
            break;
        }
        text.extend_from_slice(&[b"'", quoted(arg, 128 - used), b"' "].concat());
    }
    Refusal::owned(text)
}

fn unknown_subcommand(parent: &Entry, child: &[u8]) -> Refusal {
    let parent = parent.row.name.to_ascii_uppercase();
    let after = format!("'. Try {parent} HELP.");
    Refusal::quoting("ERR unknown subcommand '", quoted(child, 128), &after)
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::build);

/// The table, built at the first call.
#[must_use]
pub fn table() -> &'static Table {
    &TABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_only_those() {
        let table = table();
        for &index in &table.top {
            let entry = table.entry(index);
            for name in [entry.row.name.to_owned(), entry.row.name.to_ascii_uppercase()] {
                assert_eq!(table.find(name.as_bytes()).map(|found| found.index), Some(index), "{name}");
            }
            assert_eq!(entry.row.name, entry.row.name.to_ascii_lowercase());
        }
        for name in [&b""[..], b"gett", b"ge", b"g\x05t", b"nosuchcommandatallinthetable"] {
            assert!(table.find(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn listed_rows_are_documented() {
        for entry in table().entries.iter().filter(|entry| entry.is_listed()) {
            let row = &entry.row;
            assert!(row.summary.ends_with('.') && !row.complexity.is_empty(), "{}", entry.full_name);
            assert!(row.arity != 0 && !row.since.is_empty() && !row.group.is_empty(), "{}", entry.full_name);
            assert_eq!(row.keys.first > 0, !row.keys.access.is_empty(), "{}", entry.full_name);
        }
    }

    /// What summaries begin with in Redis 7.2, as far as there is use for it here, so that `redis-cli`'s help reads as
    /// people know it. (Redis's of SHUTDOWN begins with saving, which is no part of it here.)
    const BEGINNINGS: [&str; 31] = [
        "A container for commands about",
        "Appends",
        "Authenticates",
        "Blocks",
        "Changes",
        "Clears",
        "Closes",
        "Copies",
        "Decrements",
        "Deletes",
        "Discards",
        "Displays",
        "Executes",
        "Extracts",
        "Finds",
        "Forgets",
        "Handshakes",
        "Increments",
        "Instructs",
        "Iterates",
        "Lists",
        "Monitors",
        "Overwrites",
        "Removes",
        "Renames",
        "Resets",
        "Returns",
        "Sets",
        "Shuts",
        "Starts",
        "Terminates",
    ];

    #[test]
    fn summaries_begin_as_those_of_redis() {
        let begins = |summary: &str, beginning: &str| {
            summary.strip_prefix(beginning).is_some_and(|after| after.starts_with([' ', ':']))
        };
        let mut unused = BEGINNINGS.to_vec();
        for entry in table().entries.iter().filter(|entry| entry.is_listed()) {
            let summary = entry.row.summary;
            let beginning = BEGINNINGS.iter().find(|beginning| begins(summary, beginning));
            assert!(beginning.is_some(), "{}: {summary}", entry.full_name);
            unused.retain(|word| Some(word) != beginning);
            let has_subcommands = matches!(entry.row.run, Run::Subcommands(_)) && entry.row.name != "command";
            assert_eq!(has_subcommands, summary.starts_with("A container for"), "{}", entry.full_name);
        }
        assert_eq!(unused, [""; 0]);
    }

    #[test]
    fn keys_by_position() {
        let find = |args: &[&'static [u8]]| -> Vec<&'static [u8]> {
            let args: &'static [&'static [u8]] = args.to_vec().leak();
            table().resolve(args).map(|entry| entry.keys(args).collect()).unwrap_or_default()
        };
        assert_eq!(find(&[b"get", b"a"]), [b"a"]);
        assert_eq!(find(&[b"mset", b"a", b"1", b"b", b"2"]), [b"a", b"b"]);
        assert_eq!(find(&[b"del", b"a", b"b", b"c"]), [b"a", b"b", b"c"]);
        assert_eq!(find(&[b"copy", b"a", b"b", b"replace"]), [b"a", b"b"]);
        assert_eq!(find(&[b"memory", b"usage", b"a"]), [b"a"]);
        assert!(find(&[b"ping"]).is_empty());
    }

    #[test]
    fn refusals_have_the_texts_of_redis() {
        let text = |args: &[&[u8]]| {
            table().resolve(args).err().map(|(_, refusal)| String::from_utf8_lossy(&refusal.0).into_owned())
        };
        let check = |args: &[&[u8]], expected: &str| assert_eq!(text(args).as_deref(), Some(expected));
        check(&[b"FOO"], "ERR unknown command 'FOO', with args beginning with: ");
        check(&[b"foo", b"a", b"b\0c"], "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
        check(&[b"get"], "ERR wrong number of arguments for 'get' command");
        check(&[b"Client", b"zap"], "ERR unknown subcommand 'zap'. Try CLIENT HELP.");
        check(&[b"client", b"id", b"x"], "ERR wrong number of arguments for 'client|id' command");
        check(&[b"client"], "ERR wrong number of arguments for 'client' command");
    }
}
