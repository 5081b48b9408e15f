//! Wrong passwords: how many a source may try, how many there were, and what is logged of them.
//!
//! A source is an address of IPv4, a /64 of IPv6, or this machine's Unix socket. It may be wrong some times at once, and then
//! so often a second; beyond that its attempts wait for their turn. Right ones wait as well: a password is not looked at
//! before, so that nobody learns from an answer that fails to come.
//!
//! Invariant: in any time, a source has at most [`BURST`] + [`PER_SECOND`] × seconds wrong passwords looked at, over all its
//! connections and all cores; memory and log lines are bounded, however many sources there are.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Wrong passwords that are answered at once.
pub const BURST: u64 = 20;
/// Those a second that are looked at from then on.
pub const PER_SECOND: u64 = 20;

const INTERVAL_NS: u64 = 1_000_000_000 / PER_SECOND;
/// How long an attempt may have to wait; one that would have to wait for longer is refused.
const LONGEST_WAIT_NS: u64 = 5_000_000_000;
/// Sources with a budget of their own; further ones share one.
const MAX_SOURCES: usize = 4096;
/// A source that goes on is logged so often.
const LOG_EVERY_NS: u64 = 10_000_000_000;
/// Lines a second, all sources together.
const LINES_PER_SECOND: u32 = 10;

/// Where attempts come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// An address; of IPv6, the network that one user has as a rule.
    Network(IpAddr),
    /// The Unix socket.
    UnixSocket,
    /// All that there was no room for.
    Others,
}

impl Source {
    /// Of a client's address as CLIENT LIST shows it.
    #[must_use]
    pub fn of(addr: &str) -> Self {
        match addr.parse::<SocketAddr>().map(|address| address.ip().to_canonical()) {
            Ok(IpAddr::V6(ip)) => {
                Self::Network(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into())
            }
            Ok(ip) => Self::Network(ip),
            Err(_) => Self::UnixSocket,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Network(IpAddr::V6(ip)) => write!(f, "{ip}/64"),
            Self::UnixSocket => write!(f, "the Unix socket"),
            Self::Others => write!(f, "other addresses"),
        }
    }
}

/// When an attempt may be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Now.
    Now,
    /// At this time, which is kept for it.
    At(u64),
    /// Too many wait already.
    Never,
}

/// What there is to log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The source of the wrong guesses.
    pub source: Source,
    /// Wrong passwords of it since it was quiet.
    pub wrong: u64,
}

#[derive(Default, Debug)]
struct Tried {
    /// When all that it was wrong is forgiven.
    clear_ns: u64,
    wrong: u64,
    logged_ns: u64,
}

#[derive(Default, Debug)]
struct Sources {
    tried: HashMap<Source, Tried>,
    /// The second of the last line, and lines in it.
    lines: (u64, u32),
}

/// See the file's head. One for the node.
#[derive(Default, Debug)]
pub struct Guesses {
    sources: Mutex<Sources>,
    /// How many sources there are, so that nobody takes the lock while nobody is wrong.
    known: AtomicUsize,
    denied: AtomicU64,
}

impl Sources {
    /// The one that `source` is counted as.
    fn counted_as(&mut self, source: Source, now_ns: u64) -> Source {
        if self.tried.contains_key(&source) || self.tried.len() < MAX_SOURCES {
            return source;
        }
        self.tried.retain(|_, tried| tried.clear_ns > now_ns);
        if self.tried.len() < MAX_SOURCES { source } else { Source::Others }
    }

    fn may_log(&mut self, now_ns: u64) -> bool {
        let second = now_ns / 1_000_000_000;
        if self.lines.0 != second {
            self.lines = (second, 0);
        }
        self.lines.1 += 1;
        self.lines.1 <= LINES_PER_SECOND
    }
}

impl Guesses {
    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a source's next attempt may be looked at.
    pub fn turn(&self, source: Source, now_ns: u64) -> Turn {
        if self.known.load(Relaxed) == 0 {
            return Turn::Now;
        }
        let mut sources = self.lock();
        let source = sources.counted_as(source, now_ns);
        let Some(tried) = sources.tried.get_mut(&source) else { return Turn::Now };
        let due_ns = tried.clear_ns.saturating_sub(INTERVAL_NS * (BURST - 1));
        if due_ns <= now_ns {
            return Turn::Now;
        }
        if due_ns - now_ns > LONGEST_WAIT_NS {
            return Turn::Never;
        }
        tried.clear_ns += INTERVAL_NS;
        Turn::At(due_ns)
    }

    /// A source was wrong; `waited` for a time that was kept for it, or not. Answers what there is to log.
    pub fn wrong(&self, source: Source, waited: bool, now_ns: u64) -> Option<Report> {
        self.count_denied();
        let mut sources = self.lock();
        let source = sources.counted_as(source, now_ns);
        let tried = sources.tried.entry(source).or_default();
        if !waited {
            tried.clear_ns = tried.clear_ns.max(now_ns) + INTERVAL_NS;
        }
        tried.wrong += 1;
        let wrong = tried.wrong;
        let is_due = wrong == 10u64.pow(wrong.ilog10()) || now_ns - tried.logged_ns >= LOG_EVERY_NS;
        if is_due {
            tried.logged_ns = now_ns;
        }
        self.known.store(sources.tried.len(), Relaxed);
        (is_due && sources.may_log(now_ns)).then_some(Report { source, wrong })
    }

    /// Counts an attempt that failed where there is no password to be found.
    pub fn count_denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    /// Attempts that failed (`acl_access_denied_auth`).
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.denied.load(Relaxed)
    }

    /// Sets that figure to zero.
    pub fn reset(&self) {
        self.denied.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// Attempts of one source, each looked at as soon as it may, until `until_ns`; how many there were.
    fn attack(guesses: &Guesses, source: Source, mut now_ns: u64, until_ns: u64) -> u64 {
        let mut count = 0;
        while now_ns < until_ns {
            let waited = match guesses.turn(source, now_ns) {
                Turn::Now => false,
                Turn::At(at_ns) if at_ns >= until_ns => break,
                Turn::At(at_ns) => {
                    now_ns = at_ns;
                    true
                }
                Turn::Never => break,
            };
            guesses.wrong(source, waited, now_ns);
            count += 1;
        }
        count
    }

    #[test]
    fn a_source_is_wrong_some_times_at_once_and_then_at_a_rate() {
        let guesses = Guesses::default();
        let (one, other) = (Source::of("10.0.0.1:1"), Source::of("10.0.0.2:1"));
        assert_eq!(attack(&guesses, one, 5 * S, 15 * S), BURST - 1 + 10 * PER_SECOND);
        assert_eq!(guesses.turn(other, 15 * S), Turn::Now, "others do not wait for it");
        assert_eq!(guesses.denied(), BURST - 1 + 10 * PER_SECOND);
        assert_eq!(guesses.turn(one, 30 * S), Turn::Now, "it was quiet");
        assert_eq!(attack(&guesses, one, 30 * S, 31 * S), BURST - 1 + PER_SECOND);
        guesses.reset();
        assert_eq!(guesses.denied(), 0);
    }

    #[test]
    fn attempts_that_wait_are_bounded_and_none_gets_ahead_by_hanging_up() {
        let guesses = Guesses::default();
        let source = Source::of("10.0.0.1:1");
        (0..BURST).for_each(|_| _ = guesses.wrong(source, false, S));
        let mut last_ns = S;
        for _ in 0..LONGEST_WAIT_NS / INTERVAL_NS {
            let Turn::At(at_ns) = guesses.turn(source, S) else { panic!("it may wait") };
            assert_eq!(at_ns, last_ns + INTERVAL_NS);
            last_ns = at_ns;
        }
        assert_eq!(guesses.turn(source, S), Turn::Never);
        assert!(matches!(guesses.turn(source, S + INTERVAL_NS), Turn::At(_)), "one turn is over");
    }

    #[test]
    fn sources_and_lines_are_bounded() {
        let guesses = Guesses::default();
        let source = |n: u32| Source::Network(core::net::Ipv4Addr::from_bits(n).into());
        let lines = (0..3 * MAX_SOURCES as u32).filter(|n| guesses.wrong(source(*n), false, S).is_some());
        assert_eq!(lines.count(), LINES_PER_SECOND as usize);
        assert!(guesses.lock().tried.len() <= MAX_SOURCES + 1);
        assert_ne!(guesses.turn(source(u32::MAX), S), Turn::Now, "what is left over has one budget");
        assert_eq!(guesses.turn(source(u32::MAX), 3600 * S), Turn::Now);
        guesses.wrong(source(u32::MAX), false, 3600 * S);
        assert_eq!(guesses.lock().tried.len(), 1, "who was quiet is forgotten when room is needed");
    }

    #[test]
    fn one_that_goes_on_is_logged_at_powers_of_ten_and_from_time_to_time() {
        let guesses = Guesses::default();
        let source = Source::of("10.0.0.1:1");
        let at = |now_ns| guesses.wrong(source, false, now_ns).map(|report| report.wrong);
        let logged: Vec<u64> = (0..1234).filter_map(|_| at(S)).collect();
        assert_eq!(logged, [1, 10, 100, 1000]);
        assert_eq!((at(5 * S), at(12 * S), at(13 * S)), (None, Some(1236), None));
    }

    #[test]
    fn sources_are_networks() {
        assert_eq!(Source::of("[2001:db8:1:2:3::4]:5"), Source::of("[2001:db8:1:2::]:6"));
        assert_ne!(Source::of("[2001:db8:1:2::]:6"), Source::of("[2001:db8:1:3::]:6"));
        assert_eq!(Source::of("[::ffff:10.0.0.1]:5"), Source::of("10.0.0.1:6"));
        assert_eq!(Source::of("/run/socket:0"), Source::UnixSocket);
        assert_eq!(Source::of("[2001:db8:1:2:3::4]:5").to_string(), "2001:db8:1:2::/64");
    }
}
