//! What SLOWLOG shows of a request's arguments, kept while it is in flight: as many as Redis shows, and as much of each.

use smallvec::SmallVec;

/// Arguments that an entry shows; if there are more, the last one says how many.
const MAX_ARGS: usize = 32;
/// Bytes of an argument that an entry shows.
const MAX_ARG_BYTES: usize = 128;
/// What is logged instead of a secret.
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

    /// As `new`, of a command that may have been given secrets: `is_secret` says so of the argument at an index.
    pub fn redacted(args: &[&[u8]], is_secret: impl Fn(usize) -> bool) -> Self {
        let mut brief = Self { args: args.len(), bytes: SmallVec::new() };
        for (at, arg) in args.iter().enumerate().take(kept(args.len())) {
            brief.keep(if is_secret(at) { REDACTED } else { arg });
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
