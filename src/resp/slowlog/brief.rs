//! What SLOWLOG shows of a request's arguments, kept while it is in flight: as many as Redis shows, and as much of each.
//!
//! Invariant: keeping them is a copy to the end of one buffer a connection, since hardly any is ever shown.

/// Arguments that an entry shows; if there are more, the last one says how many.
const MAX_ARGS: usize = 32;
/// Bytes of an argument that an entry shows.
const MAX_ARG_BYTES: usize = 128;
/// Memory that a connection keeps for briefs when it has none.
const SPARE_BYTES: usize = 16 << 10;
/// What is logged instead of a secret.
const REDACTED: &[u8] = b"(redacted)";

/// The arguments of one request, cut short.
#[derive(Clone, Debug, Default)]
pub struct Brief {
    args: usize,
    /// For each argument shown: its length in four bytes, and as much of it as is shown.
    bytes: Vec<u8>,
}

/// The briefs of a connection's requests under way, in their order.
#[derive(Debug, Default)]
pub struct Briefs {
    /// One brief's bytes behind the other's.
    bytes: Vec<u8>,
    /// Bytes that were here before `bytes`, since the connection began.
    released: u64,
}

/// Which of the briefs is a request's.
#[derive(Clone, Copy, Debug, Default)]
pub struct BriefIndex {
    /// Where it begins, in bytes since the connection began.
    from: u64,
    args: u32,
}

fn kept(args: usize) -> usize {
    if args > MAX_ARGS { MAX_ARGS - 1 } else { args }
}

#[inline]
fn keep(bytes: &mut Vec<u8>, arg: &[u8]) {
    let len = u32::try_from(arg.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(arg.get(..MAX_ARG_BYTES).unwrap_or(arg));
}

impl Briefs {
    /// Keeps the starts of the arguments, the name as it was typed among them.
    #[inline]
    pub fn push(&mut self, args: &[&[u8]]) -> BriefIndex {
        let index = BriefIndex { args: u32::try_from(args.len()).unwrap_or(u32::MAX), ..self.end() };
        args.iter().take(kept(args.len())).for_each(|arg| keep(&mut self.bytes, arg));
        index
    }

    /// The index of a request of which nothing is kept.
    #[inline]
    pub fn end(&self) -> BriefIndex {
        BriefIndex { from: self.released + self.bytes.len() as u64, args: 0 }
    }

    /// The brief at an index that was not released.
    pub fn get(&self, index: BriefIndex) -> Brief {
        let args = index.args as usize;
        let at = index.from.checked_sub(self.released).expect("a brief is asked for before it is released");
        let mut bytes = self.bytes.get(at as usize..).unwrap_or_default();
        let whole = bytes;
        for _ in 0..kept(args) {
            let (_, _, after) = split(bytes).expect("as many arguments are kept as the index says");
            bytes = after;
        }
        let len = whole.len() - bytes.len();
        Brief { args, bytes: whole.get(..len).unwrap_or_default().to_vec() }
    }

    /// Forgets what came before an index.
    #[inline]
    pub fn release_before(&mut self, index: BriefIndex) {
        let unused = index.from.saturating_sub(self.released) as usize;
        // Half of it at a time, so that a byte is moved once at most.
        if unused * 2 > self.bytes.len() {
            self.bytes.drain(..unused);
            self.released += unused as u64;
        }
    }

    /// Forgets all.
    #[inline]
    pub fn clear(&mut self) {
        self.released += self.bytes.len() as u64;
        self.bytes.clear();
        if self.bytes.capacity() > SPARE_BYTES {
            self.bytes = Vec::new();
        }
    }

    /// Memory that they take.
    pub fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// The first argument kept: its length, what is kept of it, and what is behind it.
fn split(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let (len, after) = bytes.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let (start, after) = after.split_at_checked(len.min(MAX_ARG_BYTES))?;
    Some((len, start, after))
}

impl Brief {
    /// Of a command that may have been given secrets: `is_secret` says so of the argument at an index.
    pub fn redacted(args: &[&[u8]], is_secret: impl Fn(usize) -> bool) -> Self {
        let mut brief = Self { args: args.len(), bytes: Vec::new() };
        for (at, arg) in args.iter().enumerate().take(kept(args.len())) {
            keep(&mut brief.bytes, if is_secret(at) { REDACTED } else { arg });
        }
        brief
    }

    /// The arguments as an entry shows them.
    pub fn shown(&self) -> Vec<Vec<u8>> {
        let mut shown = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Some((len, start, after)) = split(rest) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn briefs_are_found_until_they_are_released() {
        let mut briefs = Briefs::default();
        let long = [b'x'; 200];
        let args = |at: u8| [b"set".to_vec(), vec![b'0' + at], long[..at as usize * 20].to_vec()];
        let indexes: Vec<_> = (0..8).map(|at| briefs.push(&args(at).each_ref().map(Vec::as_slice))).collect();
        for (at, index) in indexes.iter().enumerate() {
            briefs.release_before(*index);
            for (at, index) in indexes.iter().enumerate().skip(at) {
                let (shown, args) = (briefs.get(*index).shown(), args(at as u8));
                assert_eq!(shown[..2], args[..2]);
                assert!(shown[2].starts_with(&args[2][..args[2].len().min(MAX_ARG_BYTES)]));
            }
        }
        briefs.clear();
        let nothing = briefs.end();
        assert!(briefs.get(nothing).shown().is_empty());
        let next = briefs.push(&[b"get", b"k"]);
        assert_eq!(briefs.get(next).shown(), [b"get".to_vec(), b"k".to_vec()]);
    }

    #[test]
    fn memory_follows_what_is_under_way() {
        let mut briefs = Briefs::default();
        let value = [b'x'; 200];
        let mut front = briefs.push(&[b"set", b"k", &value]);
        for _ in 0..100_000 {
            let index = briefs.push(&[b"set", b"k", &value]);
            briefs.release_before(front);
            front = index;
        }
        assert!(briefs.held_bytes() < 4096, "{} bytes for two briefs", briefs.held_bytes());
        for _ in 0..10_000 {
            briefs.push(&[b"set", b"k", &value]);
        }
        briefs.clear();
        assert_eq!(briefs.held_bytes(), 0);
    }
}
