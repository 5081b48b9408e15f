//! What SLOWLOG shows of a request's arguments, kept while it is in flight: as many as Redis shows, and as much of each.

use smallvec::SmallVec;

use crate::config::knobs;
use crate::resp::commands::Entry;
use crate::resp::commands::args::is;

/// Arguments that an entry shows; if there are more, the last one says how many.
const MAX_ARGS: usize = 32;
/// Bytes of an argument that an entry shows.
const MAX_ARG_BYTES: usize = 128;
/// What stands in the place of a secret.
const REDACTED: &[u8] = b"(redacted)";

/// The arguments of one request, cut short: a small request's without memory of their own.
#[derive(Clone, Debug, Default)]
pub struct Brief {
    args: usize,
    /// For each argument shown: its length in four bytes, and as much of it as is shown.
    bytes: SmallVec<[u8; 96]>,
}

fn kept(args: usize) -> usize {
    if args > MAX_ARGS { MAX_ARGS - 1 } else { args }
}

impl Brief {
    /// Keeps the starts of the arguments, the name as it was typed among them.
    #[inline]
    pub fn new(args: &[&[u8]]) -> Self {
        let mut brief = Self { args: args.len(), bytes: SmallVec::new() };
        args.iter().take(kept(args.len())).for_each(|arg| brief.keep(arg));
        brief
    }

    /// As `new`, of a command that may have been told secrets.
    pub fn without_secrets(entry: &Entry, args: &[&[u8]]) -> Self {
        let mut brief = Self { args: args.len(), bytes: SmallVec::new() };
        for (at, arg) in args.iter().enumerate().take(kept(args.len())) {
            brief.keep(if is_secret(entry, args, at) { REDACTED } else { arg });
        }
        brief
    }

    #[inline]
    fn keep(&mut self, arg: &[u8]) {
        let len = u32::try_from(arg.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(arg.get(..MAX_ARG_BYTES).unwrap_or(arg));
    }

    /// The arguments as an entry shows them.
    pub fn shown(&self) -> Vec<Vec<u8>> {
        let mut shown = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            let (start, after) = after.split_at(len.min(MAX_ARG_BYTES).min(after.len()));
            let mut arg = start.to_vec();
            if len > MAX_ARG_BYTES {
                arg.extend_from_slice(format!("... ({} more bytes)", len - MAX_ARG_BYTES).as_bytes());
            }
            shown.push(arg);
            rest = after;
        }
        if self.args > MAX_ARGS {
            let more = self.args - kept(self.args);
            shown.push(format!("... ({more} more arguments)").into_bytes());
        }
        shown
    }
}

/// Whether an argument is a password: those of AUTH, of HELLO's option AUTH, and settings that are secrets.
fn is_secret(entry: &Entry, args: &[&[u8]], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| args.get(at)).copied().unwrap_or_default();
    match entry.full_name.as_str() {
        "auth" => at > 0,
        "hello" => at > 2 && (is(before(1), "AUTH") || (at > 3 && is(before(2), "AUTH"))),
        "config|set" => at > 2 && at % 2 == 1 && knobs::is_secret(&String::from_utf8_lossy(before(1))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::commands::table;

    fn shown(args: &[&[u8]]) -> Vec<String> {
        let entry = table().resolve(args).unwrap_or_else(|_| panic!("a command"));
        let shown = Brief::without_secrets(entry, args).shown();
        shown.into_iter().map(|arg| String::from_utf8_lossy(&arg).into_owned()).collect()
    }

    #[test]
    fn arguments_are_shown_as_redis_does() {
        assert_eq!(shown(&[b"sEt", b"k", b""]), ["sEt", "k", ""]);
        let value = [b'y'; 200];
        assert_eq!(
            shown(&[b"set", &value[..128], &value])[1..],
            ["y".repeat(128), format!("{}... (72 more bytes)", "y".repeat(128))]
        );
        let many = [b"mget".as_slice(); 33];
        assert_eq!(shown(&many[..32]).len(), 32);
        assert_eq!(shown(&many)[30..], ["mget", "... (2 more arguments)"]);
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown(&[b"AUTH", b"s3cret"]), ["AUTH", "(redacted)"]);
        assert_eq!(shown(&[b"auth", b"joe", b"s3cret"]), ["auth", "(redacted)", "(redacted)"]);
        let hello: [&[u8]; 7] = [b"HELLO", b"3", b"auth", b"joe", b"s3cret", b"SETNAME", b"me"];
        assert_eq!(shown(&hello), ["HELLO", "3", "auth", "(redacted)", "(redacted)", "SETNAME", "me"]);
        let config: [&[u8]; 6] = [b"config", b"set", b"hz", b"10", b"REQUIREPASS", b"s3cret"];
        assert_eq!(shown(&config), ["config", "set", "hz", "10", "REQUIREPASS", "(redacted)"]);
    }
}
