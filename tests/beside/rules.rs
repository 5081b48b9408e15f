//! When two replies count as the same: to the byte, but for what depends on time, on chance, on the server's own figures, and
//! for what differs on purpose. README lists the last.

use std::collections::BTreeMap;

use corduroy::config::knobs;

use crate::generate::Step;
use crate::peer::Reply;

/// Settings whose values differ on purpose: facts of this server, or bounds that Redis does not have.
const OTHER_VALUES: [&str; 13] = [
    "appendfsync",
    "appendonly",
    "bind",
    "client-output-buffer-limit",
    "databases",
    "dir",
    "maxclients",
    "maxmemory",
    "port",
    "proto-max-bulk-len",
    "requirepass",
    "save",
    "unixsocketperm",
];
/// Settings of Redis 7.2, which is the version announced, that 7.0 does not have.
const NEWER: [&str; 4] = [
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "locale-collate",
    "cluster-announce-human-nodename",
];
/// Texts of errors that are ours alone.
const OUR_ERRORS: [&str; 4] = [
    "it is always '",
    "is above 1000000",
    "can't set immutable config: it takes a restart",
    "the value is no UTF-8",
];

/// Requests that look at all keys in one transaction: there may be no more here.
pub const WALKS_IN_TRANSACTION: usize = 8;

/// Whether a request looks at all keys.
pub fn walks_over_keys(args: &[Vec<u8>]) -> bool {
    ["keys", "scan", "randomkey"].contains(&word(args, 0).as_str())
}

fn word(args: &[Vec<u8>], at: usize) -> String {
    args.get(at).map(|arg| String::from_utf8_lossy(arg).to_ascii_lowercase()).unwrap_or_default()
}

/// Whether the replies to a request count as the same. `queue`: what EXEC carries out.
pub fn same(args: &[Vec<u8>], queue: &[Vec<Vec<u8>>], theirs: &Reply, ours: &Reply) -> bool {
    if theirs == ours {
        return true;
    }
    if let (Reply::List(_, theirs), Reply::List(_, ours)) = (theirs, ours)
        && word(args, 0) == "exec"
        && theirs.len() == ours.len()
        && theirs.len() == queue.len()
    {
        return queue
            .iter()
            .zip(theirs.iter().zip(ours))
            .all(|(args, (theirs, ours))| same(args, &[], theirs, ours));
    }
    by_command(args, theirs, ours)
}

fn near(theirs: &Reply, ours: &Reply, by: i64) -> bool {
    match (theirs.integer(), ours.integer()) {
        (Some(theirs), Some(ours)) => theirs > 0 && ours > 0 && (theirs - ours).abs() <= by,
        _ => false,
    }
}

/// What is let pass, of one command.
struct Excuse {
    name: &'static str,
    /// Of these subcommands only; of all if there are none.
    children: &'static [&'static str],
    is_fine: fn(&[Vec<u8>], &Reply, &Reply) -> bool,
    /// The words with which README says so.
    line: &'static str,
}

const fn excuse(
    name: &'static str,
    children: &'static [&'static str],
    line: &'static str,
    is_fine: fn(&[Vec<u8>], &Reply, &Reply) -> bool,
) -> Excuse {
    Excuse { name, children, is_fine, line }
}

const TIMES: &str = "clocks and what is left of a time";
const ORDER: &str = "the order in which keys and names come";
const MEMORY: &str = "figures of memory";
const CONNECTIONS: &str = "numbers and addresses of connections";
const TEXTS: &str = "texts for people (`HELP`, `LOLWUT`, `MEMORY DOCTOR`, `COMMAND DOCS`) are our own";
const DESCRIPTIONS: &str = "`COMMAND` and `COMMAND INFO` leave out other commands and Redis's notes on keys";
const SETTINGS: &str = "settings have names of their own beside Redis's";

fn same_kind(_: &[Vec<u8>], theirs: &Reply, ours: &Reply) -> bool {
    theirs.kind() == ours.kind()
}

/// The first one of a command counts.
const EXCUSES: &[Excuse] = &[
    excuse("ttl", &[], TIMES, |_, theirs, ours| near(theirs, ours, 2)),
    excuse("expiretime", &[], TIMES, |_, theirs, ours| near(theirs, ours, 2)),
    excuse("pttl", &[], TIMES, |_, theirs, ours| near(theirs, ours, 2000)),
    excuse("pexpiretime", &[], TIMES, |_, theirs, ours| near(theirs, ours, 2000)),
    excuse("time", &[], TIMES, same_kind),
    excuse("keys", &[], ORDER, |_, theirs, ours| theirs.sorted() == ours.sorted()),
    excuse("command", &["list"], DESCRIPTIONS, |args, theirs, ours| {
        theirs.sorted() == ours.sorted() || command_list(args, theirs, ours)
    }),
    excuse("command", &["info"], DESCRIPTIONS, |args, theirs, ours| {
        theirs.sorted() == ours.sorted() || command_list(args, theirs, ours)
    }),
    excuse("command", &[""], DESCRIPTIONS, |_, theirs, ours| command_infos(theirs, ours)),
    excuse("command", &["count"], DESCRIPTIONS, same_kind),
    excuse(
        "command",
        &["getkeys", "getkeysandflags"],
        "`COMMAND GETKEYS` of a command without arguments",
        |_, theirs, _| line_has(theirs, "arguments for 'command|getkeys"),
    ),
    // Redis shares small numbers, and a value with the request in EXEC that has set it; nothing is shared here.
    excuse("object", &["refcount"], "`OBJECT REFCOUNT` (always 1)", |_, theirs, ours| {
        theirs.integer().is_some_and(|count| count > 1) && ours.integer() == Some(1)
    }),
    // Values whose table of subsequences would be too large: the bound is our own.
    excuse("lcs", &[], "`LCS` of two long values is refused", |_, _, ours| {
        line_has(ours, "LCS of such long values takes too much memory")
    }),
    // Ours names the limit and its number.
    excuse("setrange", &[], "a bound keeps memory in hand: see *Limits*", |_, theirs, ours| {
        [theirs, ours].iter().all(|reply| line_has(reply, "string exceeds maximum allowed size"))
    }),
    excuse("randomkey", &[], "the key that `RANDOMKEY` picks", same_kind),
    excuse("dbsize", &[], "keys whose time is over in `DBSIZE` and `MEMORY USAGE`", same_kind),
    excuse("wait", &[], "a timeout of `WAIT` that is beyond the end of time", |_, _, ours| {
        line_has(ours, "timeout is out of range")
    }),
    excuse("getex", &[], "`GETEX` of a missing key checks its options", |_, theirs, ours| {
        theirs.is_nil() && (line_has(ours, "invalid expire time") || line_has(ours, "not an integer"))
    }),
    excuse("scan", &[], "cursors of `SCAN`", page),
    // Redis finds a key whose time is over here too.
    excuse(
        "memory",
        &["usage"],
        "keys whose time is over in `DBSIZE` and `MEMORY USAGE`",
        |_, theirs, ours| theirs.kind() == ours.kind() || (ours.is_nil() && theirs.integer().is_some()),
    ),
    excuse("memory", &["stats"], "`MEMORY STATS` has no map for each database", |_, theirs, ours| {
        names(theirs) == names(ours)
    }),
    excuse("memory", &["doctor"], MEMORY, same_kind),
    excuse("client", &["id"], CONNECTIONS, same_kind),
    excuse("client", &["list", "info"], CONNECTIONS, |args, theirs, ours| {
        // Whether there is one of that number depends on the numbers.
        word(args, 2) == "id" || clients(theirs, ours)
    }),
    excuse("hello", &[], CONNECTIONS, |_, theirs, ours| hello(theirs, ours)),
    excuse("slowlog", &["len", "get"], "entries of `SLOWLOG`", same_kind),
    excuse("info", &[], "values of `INFO` (`gcc_version` is not among them", |_, theirs, ours| {
        info(theirs, ours)
    }),
    excuse("lolwut", &[], TEXTS, same_kind),
    excuse("command", &["docs"], TEXTS, same_kind),
    excuse("config", &["get"], SETTINGS, |_, theirs, ours| settings(theirs, ours)),
    excuse("config", &["set"], SETTINGS, |_, _, ours| ours_alone(ours)),
];

fn by_command(args: &[Vec<u8>], theirs: &Reply, ours: &Reply) -> bool {
    let (name, child) = (word(args, 0), word(args, 1));
    let excuse = EXCUSES.iter().find(|excuse| {
        excuse.name == name && (excuse.children.is_empty() || excuse.children.contains(&child.as_str()))
    });
    match excuse {
        Some(excuse) => (excuse.is_fine)(args, theirs, ours),
        None => child == "help" && same_kind(args, theirs, ours),
    }
}

/// What else is let pass, or is not drawn, by the words with which README says so.
const OTHER_LINES: [&str; 12] = [
    TEXTS,
    "the settings below that always hold",
    "`CONFIG GET` shows settings of 7.2, too",
    "| one value always holds, and only that is accepted |",
    "`slowlog-max-len` is at most a million",
    "one that needs a restart says so",
    "a setting takes UTF-8 alone",
    "`SLOWLOG STAGES` says where time went",
    "`CLIENT SETINFO` and `NO-TOUCH`",
    "`HELLO` with a name and a wrong option",
    "databases other than 0",
    "bytes other than CR LF behind an argument end the connection",
];

#[test]
fn every_excuse_is_a_line_of_readme() {
    let readme = include_str!("../../README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = EXCUSES.iter().map(|excuse| excuse.line).chain(OTHER_LINES);
    let missing: Vec<&str> = lines.filter(|line| !readme.contains(line)).collect();
    assert!(missing.is_empty(), "README does not say: {missing:?}");
    for name in OTHER_VALUES {
        assert!(
            readme.contains(&format!("`{name}")),
            "README does not say that {name} has a value of its own"
        );
    }
}

/// The names of a map.
fn names(reply: &Reply) -> Vec<Reply> {
    let Reply::List(_, items) = reply else { return Vec::new() };
    // Redis tells of each database that has keys: a name, and a map of its own.
    let names = items
        .iter()
        .step_by(2)
        .filter(|name| !matches!(name, Reply::Bulk(_, name) if name.starts_with(b"db.")));
    names.cloned().collect()
}

fn map(reply: &Reply) -> Option<BTreeMap<String, Reply>> {
    let Reply::List(_, items) = reply else { return None };
    let name = |reply: &Reply| match reply {
        Reply::Bulk(_, name) => Some(String::from_utf8_lossy(name).to_ascii_lowercase()),
        _ => None,
    };
    items.chunks(2).map(|pair| Some((name(&pair[0])?, pair.get(1)?.clone()))).collect()
}

/// What Redis shows is shown with the same values; what more there is are our own names, and newer ones.
pub fn settings(theirs: &Reply, ours: &Reply) -> bool {
    let (Some(theirs), Some(ours)) = (map(theirs), map(ours)) else { return false };
    let is_same = |(name, value): (&String, &Reply)| {
        ours.get(name).is_some_and(|our| our == value || OTHER_VALUES.contains(&name.as_str()))
    };
    let is_known = |name: &String| {
        theirs.contains_key(name) || NEWER.contains(&name.as_str()) || knobs::find(name).is_none()
    };
    theirs.iter().all(is_same) && ours.keys().all(is_known)
}

fn ours_alone(ours: &Reply) -> bool {
    OUR_ERRORS.iter().any(|error| line_has(ours, error))
}

/// Lists of commands: what is here is there too.
fn command_list(args: &[Vec<u8>], theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::List(_, theirs), Reply::List(_, ours)) = (theirs, ours) else { return false };
    if word(args, 1) == "info" {
        return if args.len() == 2 {
            command_infos(&Reply::List(b'*', theirs.clone()), &Reply::List(b'*', ours.clone()))
        } else {
            theirs.len() == ours.len()
                && theirs.iter().zip(ours).all(|(theirs, ours)| is_own(ours) || command_info(theirs, ours))
        };
    }
    ours.iter()
        .all(|name| theirs.contains(name) || matches!(name, Reply::Bulk(_, name) if OWN.contains(&&name[..])))
}

/// Commands and subcommands of our own, or of Redis 7.2.
const OWN: [&[u8]; 12] = [
    b"replica",
    b"replica|list",
    b"replica|add",
    b"replica|promote",
    b"replica|remove",
    b"replica|transfer",
    b"replica|help",
    b"slowlog|stages",
    b"client|setinfo",
    b"client|no-touch",
    b"command|getkeys",
    b"command|getkeysandflags",
];

/// Descriptions of commands: what is here is there too, and the same.
fn command_infos(theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::List(_, theirs), Reply::List(_, ours)) = (theirs, ours) else { return false };
    ours.iter().all(|our| {
        is_own(our)
            || theirs.iter().any(|their| described(their) == described(our) && command_info(their, our))
    })
}

/// The command that a description is of.
fn described(info: &Reply) -> Option<&Reply> {
    match info {
        Reply::List(_, fields) => fields.first(),
        _ => None,
    }
}

/// Whether it describes a command that Redis 7.0 does not have.
fn is_own(info: &Reply) -> bool {
    matches!(described(info), Some(Reply::Bulk(_, name)) if OWN.contains(&&name[..]))
}

fn command_info(theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::List(_, t), Reply::List(_, o)) = (theirs, ours) else { return theirs == ours };
    let ([t @ .., their_subs], [o @ .., our_subs]) = (t.as_slice(), o.as_slice()) else {
        return theirs == ours;
    };
    // SET and GETEX: Redis adds notes for people to their key specifications.
    let is_noted = format!("{t:?}").contains("\"notes\"");
    let is_same = t.len() == o.len() && t.iter().zip(o).all(|(t, o)| t.sorted() == o.sorted());
    (is_same || is_noted) && their_subs.kind() == our_subs.kind() && command_infos(their_subs, our_subs)
}

fn line_has(reply: &Reply, text: &str) -> bool {
    matches!(reply, Reply::Line(line) if String::from_utf8_lossy(line).contains(text))
}

/// A page of SCAN: cursors are hashes of each server's own, so only a walk that one page ends can be compared.
fn page(args: &[Vec<u8>], theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::List(_, t), Reply::List(_, o)) = (theirs, ours) else { return false };
    let end = Reply::Bulk(b'$', b"0".to_vec());
    let is_whole = word(args, 1) == "0" && t.first() == Some(&end) && o.first() == Some(&end);
    !is_whole || theirs.sorted() == ours.sorted()
}

fn hello(theirs: &Reply, ours: &Reply) -> bool {
    let (Some(theirs), Some(ours)) = (map(theirs), map(ours)) else { return false };
    theirs.len() == ours.len()
        && theirs.iter().all(|(name, value)| {
            ours.get(name).is_some_and(|our| our == value || name == "version" || name == "id")
        })
}

fn text(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Bulk(_, text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}

/// Each connection with Redis's fields in Redis's order; newer ones may follow. Their number is chance for a moment: an end is
/// seen when each server comes by.
fn clients(theirs: &Reply, ours: &Reply) -> bool {
    let (Some(theirs), Some(ours)) = (text(theirs), text(ours)) else { return false };
    let names = |line: &str| {
        line.split(' ')
            .map(|field| field.split('=').next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let (theirs, ours) = (theirs.trim_start_matches("txt:"), ours.trim_start_matches("txt:"));
    let fields = theirs.lines().next().map(names).unwrap_or_default();
    theirs.is_empty() == ours.is_empty() && ours.lines().all(|line| names(line).starts_with(&fields))
}

/// Fields of INFO that describe Redis's own build, jemalloc's work, and keys of databases that may differ in number.
const NOT_OURS: [&str; 2] = ["gcc_version", "db0"];

/// The same sections with every field that Redis has. Counted by command and error only where there was one.
fn info(theirs: &Reply, ours: &Reply) -> bool {
    let (Some(theirs), Some(ours)) = (text(theirs), text(ours)) else { return false };
    let ours: Vec<&str> = ours.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
    theirs.lines().map(|line| line.split(':').next().unwrap_or_default()).all(|field| {
        let is_counted = ["cmdstat_", "errorstat_", "latency_percentiles_usec_"]
            .iter()
            .any(|start| field.starts_with(start));
        is_counted || NOT_OURS.contains(&field) || ours.contains(&field)
    })
}

/// Whether what came for steps other than single requests counts as the same.
pub fn same_bytes(step: &Step, theirs: &Reply, ours: &Reply) -> bool {
    match step {
        Step::Walk(..) => theirs.sorted() == ours.sorted(),
        // Redis does not look at what follows an argument: here it must be the end of a line.
        Step::Raw(_) => format!("{ours:?}").contains("bulk string is not terminated by CRLF"),
        Step::Ask(..) | Step::Over(..) => false,
    }
}
