//! Which arguments are secrets: SLOWLOG does not show them.

use super::Entry;
use super::args::is;
use crate::config::knobs;
use crate::resp::slowlog::Brief;

/// What SLOWLOG shows of a request to the command `entry`.
pub fn without_secrets(entry: &Entry, args: &[&[u8]]) -> Brief {
    Brief::redacted(args, |at| is_secret(entry, args, at))
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
        let shown = without_secrets(entry, args).shown();
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
