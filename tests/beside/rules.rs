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

fn by_command(args: &[Vec<u8>], theirs: &Reply, ours: &Reply) -> bool {
    let (name, child) = (word(args, 0), word(args, 1));
    let same_kind = theirs.kind() == ours.kind();
    match (name.as_str(), child.as_str()) {
        // What is left of a time, and when it ends, counts from when the request came.
        ("ttl" | "expiretime", _) => near(theirs, ours, 2),
        ("pttl" | "pexpiretime", _) => near(theirs, ours, 2000),
        // No order, or another one; any key will do.
        ("keys", _) | ("command", "list" | "info") => {
            theirs.sorted() == ours.sorted() || command_list(args, theirs, ours)
        }
        ("command", "") => command_infos(theirs, ours, false),
        // 7.0 wants an argument behind the command.
        ("command", "getkeys" | "getkeysandflags") => line_has(theirs, "arguments for 'command|getkeys"),
        // Small numbers are shared by all of Redis; nothing is shared here.
        ("object", "refcount") => theirs.integer() == Some(i32::MAX.into()) && ours.integer() == Some(1),
        // Values whose table of subsequences would be too large: the bound is our own.
        ("lcs", _) => line_has(ours, "string exceeds maximum allowed size"),
        ("randomkey", _) => same_kind,
        // Keys whose time is over count until they are met, which is when each server comes by.
        ("dbsize", _) => same_kind,
        // What 7.2 refuses.
        ("wait", _) => line_has(ours, "timeout is out of range"),
        // Redis looks at options only if there is a key.
        ("getex", _) => {
            theirs.is_nil() && (line_has(ours, "invalid expire time") || line_has(ours, "not an integer"))
        }
        ("scan", _) => page(args, theirs, ours),
        // Redis finds a key whose time is over here too.
        ("memory", "usage") => same_kind || (ours.is_nil() && theirs.integer().is_some()),
        // Clocks and figures.
        ("time", _) | ("memory", "doctor") | ("client", "id") | ("command", "count") | ("lolwut", _) => {
            same_kind
        }
        ("slowlog", "len" | "get") => same_kind,
        ("memory", "stats") => names(theirs) == names(ours),
        ("hello", _) => hello(theirs, ours),
        ("client", "list" | "info") => clients(theirs, ours),
        ("info", _) => info(theirs, ours),
        // Texts for people, and descriptions of commands that are our own.
        (_, "help") | ("command", "docs") => same_kind,
        ("config", "get") => settings(theirs, ours),
        ("config", "set") => ours_alone(ours),
        _ => false,
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
fn settings(theirs: &Reply, ours: &Reply) -> bool {
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
            command_infos(&Reply::List(b'*', theirs.clone()), &Reply::List(b'*', ours.clone()), false)
        } else {
            theirs.len() == ours.len()
                && theirs.iter().zip(ours).all(|(theirs, ours)| command_info(theirs, ours))
        };
    }
    ours.iter()
        .all(|name| theirs.contains(name) || matches!(name, Reply::Bulk(_, name) if OWN.contains(&&name[..])))
}

/// Subcommands of our own, or of Redis 7.2.
const OWN: [&[u8]; 5] = [
    b"slowlog|stages",
    b"client|setinfo",
    b"client|no-touch",
    b"command|getkeys",
    b"command|getkeysandflags",
];

/// Descriptions of commands: what is here is there too, and the same.
fn command_infos(theirs: &Reply, ours: &Reply, is_sub: bool) -> bool {
    let (Reply::List(_, theirs), Reply::List(_, ours)) = (theirs, ours) else { return false };
    let name = |reply: &Reply| match reply {
        Reply::List(_, fields) => fields.first().cloned(),
        _ => None,
    };
    ours.iter().all(|our| {
        let is_own = matches!(name(our), Some(Reply::Bulk(_, name)) if is_sub && OWN.contains(&&name[..]));
        is_own || theirs.iter().any(|their| name(their) == name(our) && command_info(their, our))
    })
}

fn command_info(theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::List(_, t), Reply::List(_, o)) = (theirs, ours) else { return theirs == ours };
    let ([t @ .., their_subs], [o @ .., our_subs]) = (t.as_slice(), o.as_slice()) else {
        return theirs == ours;
    };
    // SET and GETEX: Redis adds notes for people to their key specifications.
    let is_noted = format!("{t:?}").contains("\"notes\"");
    let is_same = t.len() == o.len() && t.iter().zip(o).all(|(t, o)| t.sorted() == o.sorted());
    (is_same || is_noted) && their_subs.kind() == our_subs.kind() && command_infos(their_subs, our_subs, true)
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
