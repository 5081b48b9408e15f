//! Commands about the server: rows, and the small ones of them.

use super::super::errors::Refusal;
use super::super::slowlog::SlowCommand;
use super::args::{integer, is};
use super::connection::{REDIS_VERSION, ok};
use super::{Call, ROW, Row, Run, Scope, config, info, introspection, key_range, keys};
use crate::resp::reply::Writer;

const LOCAL: Row = Row { acl: "connection", flags: "loading stale", since: "2.8.13", ..ROW };
const HELP: Row = Row {
    name: "help",
    arity: 2,
    flags: "loading stale",
    summary: "Lists the subcommands.",
    run: Run::Local(introspection::help),
    ..ROW
};
const CONFIG: Row = Row { flags: "admin noscript loading stale", since: "2.0.0", ..ROW };
const FUNCTION: Row = Row { flags: "noscript", acl: "scripting", group: "scripting", since: "7.0.0", ..ROW };
const SLOWLOG: Row = Row { flags: "admin loading stale", since: "2.2.12", ..ROW };
const MEMORY: Row = Row { since: "4.0.0", ..ROW };
const CLUSTER: Row = Row { flags: "stale", group: "cluster", since: "3.0.0", ..ROW };
const CONTAINER: Row = Row { complexity: "Depends on subcommand.", arity: -2, ..ROW };

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "command", arity: -1, complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
        summary: "Describes all commands.", run: Run::Subcommands(&[
        Row { name: "count", arity: 2, summary: "Answers the number of commands.", run: Run::Local(introspection::count), ..LOCAL },
        Row { name: "docs", arity: -2, since: "7.0.0", complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
            summary: "Documents commands.", syntax: "[command-name [command-name ...]]", run: Run::Local(introspection::docs), ..LOCAL },
        Row { name: "info", arity: -2, complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
            summary: "Describes commands.", syntax: "[command-name [command-name ...]]", run: Run::Local(introspection::info), ..LOCAL },
        Row { name: "list", arity: -2, since: "7.0.0", complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
            summary: "Lists the names of commands.", syntax: "[FILTERBY MODULE module-name|ACLCAT category|PATTERN pattern]", run: Run::Local(introspection::list), ..LOCAL },
        Row { name: "getkeys", arity: -3, complexity: "O(N) with N arguments",
            summary: "Finds the keys among a command's arguments.", syntax: "command [arg ...]", run: Run::Local(introspection::getkeys), ..LOCAL },
        Row { name: "getkeysandflags", arity: -3, since: "7.0.0", complexity: "O(N) with N arguments",
            summary: "Finds the keys among a command's arguments, and how they are used.", syntax: "command [arg ...]", run: Run::Local(introspection::getkeysandflags), ..LOCAL },
        Row { acl: "connection", since: "5.0.0", ..HELP },
    ]), ..LOCAL },
    Row { name: "info", arity: -1, flags: "loading stale", acl: "dangerous", tips: "nondeterministic_output request_policy:all_shards response_policy:special",
        summary: "Describes the server's state.", syntax: "[section [section ...]]", run: Run::Local(info::info), ..ROW },
    Row { name: "config", since: "2.0.0", summary: "Reads and changes settings.", run: Run::Subcommands(&[
        Row { name: "get", arity: -3, complexity: "O(N) with N settings", summary: "Answers the settings that match glob patterns.",
            syntax: "parameter [parameter ...]", run: Run::Local(config::get), ..CONFIG },
        Row { name: "set", arity: -4, complexity: "O(N) with N settings", tips: "request_policy:all_nodes response_policy:all_succeeded",
            summary: "Changes settings until the next start.", syntax: "parameter value [parameter value ...]", run: Run::Local(config::set), ..CONFIG },
        Row { name: "resetstat", arity: 2, summary: "Sets the statistics of INFO to zero.", run: Run::Local(config::resetstat), ..CONFIG },
        Row { name: "rewrite", arity: 2, since: "2.8.0", summary: "Refused: the configuration file belongs to its owner.", run: Run::Local(config::rewrite), ..CONFIG },
        Row { since: "5.0.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "time", arity: 1, flags: "loading stale fast", since: "2.6.0", tips: "nondeterministic_output",
        summary: "Answers the server's clock: seconds and microseconds.", run: Run::Local(time), ..ROW },
    Row { name: "slowlog", since: "2.2.12", summary: "Looks at the commands that took long.", run: Run::Subcommands(&[
        Row { name: "get", arity: -2, complexity: "O(N) with N entries", tips: "request_policy:all_nodes nondeterministic_output",
            summary: "Answers the newest slow commands, with the times of their stages.", syntax: "[count]", run: Run::Local(slowlog_get), ..SLOWLOG },
        Row { name: "len", arity: 2, tips: "request_policy:all_nodes response_policy:agg_sum nondeterministic_output", summary: "Answers the number of slow commands kept.", run: Run::Local(slowlog_len), ..SLOWLOG },
        Row { name: "reset", arity: 2, tips: "request_policy:all_nodes response_policy:all_succeeded", summary: "Forgets the slow commands.", run: Run::Local(slowlog_reset), ..SLOWLOG },
        Row { since: "6.2.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "memory", since: "4.0.0", summary: "Looks at the use of memory.", run: Run::Subcommands(&[
        Row { name: "usage", arity: -3, flags: "readonly", keys: key_range(2, 2, 1, "RO"), summary: "Answers the bytes that a key and its value take.",
            syntax: "key [SAMPLES count]", run: Run::Op(keys::memory_usage, Scope::OnePartition), ..MEMORY },
        Row { name: "doctor", arity: 2, summary: "Answers advice about memory.", run: Run::Local(memory_doctor), ..MEMORY },
        Row { name: "stats", arity: 2, tips: "nondeterministic_output", summary: "Answers figures about memory.", run: Run::Local(memory_stats), ..MEMORY },
        Row { name: "purge", arity: 2, summary: "Accepted without effect: freed memory is returned by itself.", run: Run::Local(ok), ..MEMORY },
        Row { since: "4.0.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "function", since: "7.0.0", group: "scripting", summary: "There are no functions; FLUSH and LIST say so.", run: Run::Subcommands(&[
        Row { name: "flush", arity: -2, flags: "write noscript", tips: "request_policy:all_shards response_policy:all_succeeded", summary: "Deletes all functions: there are none.", syntax: "[ASYNC|SYNC]", run: Run::Local(function_flush), ..FUNCTION },
        Row { name: "list", arity: -2, tips: "nondeterministic_output_order", summary: "Lists all functions: there are none.", syntax: "[LIBRARYNAME library-name-pattern] [WITHCODE]", run: Run::Local(function_list), ..FUNCTION },
        Row { acl: "scripting", group: "scripting", since: "7.0.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "cluster", since: "3.0.0", group: "cluster", summary: "Refused: this server is not part of a cluster.", run: Run::Local(cluster), ..Row { flags: "stale", arity: -2, ..CLUSTER } },
    Row { name: "shutdown", arity: -1, flags: "admin noscript loading stale no_multi allow_busy",
        summary: "Answers what is under way, then ends the server.", syntax: "[NOSAVE|SAVE] [NOW] [FORCE] [ABORT]", run: Run::Local(shutdown), ..ROW },
    Row { name: "lolwut", arity: -1, flags: "readonly fast", since: "5.0.0", summary: "Answers the version.", syntax: "[VERSION version]", run: Run::Local(lolwut), ..ROW },
];

fn time(call: &mut Call<'_>) {
    let now_ms = call.backend.now_ms();
    call.out.array(2);
    call.out.bulk((now_ms / 1000).to_string());
    call.out.bulk((now_ms % 1000 * 1000).to_string());
}

fn function_list(call: &mut Call<'_>) {
    let (mut pattern, mut with_code) = (false, false);
    let mut options = call.from(2);
    while let Some((&option, rest)) = options.split_first() {
        options = rest;
        if is(option, "WITHCODE") && !with_code {
            with_code = true;
        } else if is(option, "LIBRARYNAME") && !pattern {
            let Some((_, rest)) = rest.split_first() else {
                return call.out.error("ERR library name argument was not given");
            };
            pattern = true;
            options = rest;
        } else {
            let option = String::from_utf8_lossy(option);
            return call.out.error(format!("ERR Unknown argument {option}"));
        }
    }
    call.out.array(0);
}

fn function_flush(call: &mut Call<'_>) {
    match call.from(2) {
        [] => call.out.ok(),
        [mode] if is(mode, "ASYNC") || is(mode, "SYNC") => call.out.ok(),
        [_] => call.out.error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
        _ => call.refuse(&Refusal::subcommand("FLUSH", "FUNCTION")),
    }
}

fn cluster(call: &mut Call<'_>) {
    call.out.error("ERR This instance has cluster support disabled");
}

fn lolwut(call: &mut Call<'_>) {
    let text = format!("Corduroy {}, speaking Redis {REDIS_VERSION}\n", env!("CARGO_PKG_VERSION"));
    call.out.verbatim(&text);
}

fn shutdown(call: &mut Call<'_>) {
    let known = ["NOSAVE", "SAVE", "NOW", "FORCE", "ABORT"];
    if !call.from(1).iter().all(|option| known.iter().any(|name| is(option, name))) {
        return call.refuse(&Refusal::SYNTAX);
    }
    let has = |name| call.from(1).iter().any(|option| is(option, name));
    let others = ["NOSAVE", "SAVE", "NOW", "FORCE"].iter().any(|name| has(name));
    if (has("SAVE") && has("NOSAVE")) || (has("ABORT") && others) {
        return call.refuse(&Refusal::SYNTAX);
    }
    if has("ABORT") {
        return call.out.error("ERR No shutdown in progress.");
    }
    match call.backend.shutdown() {
        // As in Redis there is no reply: the connection ends with the process.
        Ok(()) => call.session.close_after_replies(),
        Err(why) => call.out.error(format!("ERR {why}")),
    }
}

fn memory_doctor(call: &mut Call<'_>) {
    call.out.verbatim(
        "Memory is bounded by the settings of each core; INFO memory shows its use. Nothing is wrong.\n",
    );
}

fn memory_stats(call: &mut Call<'_>) {
    let lines = call.backend.info("memory").unwrap_or_default();
    let clients = call.session.hub.clients.count();
    call.out.map(lines.len() + 1);
    for (name, value) in &lines {
        call.out.bulk(name.as_bytes());
        match value.parse() {
            Ok(number) => call.out.int(number),
            Err(_) => call.out.bulk(value),
        }
    }
    call.out.bulk("clients.count");
    call.out.int(clients as i64);
}

fn slowlog_get(call: &mut Call<'_>) {
    let count = match call.from(2) {
        [] => 10,
        [count] => match integer(count) {
            Ok(-1) => i64::MAX,
            Ok(count) if count >= 0 => count,
            _ => return call.out.error("ERR count should be greater than or equal to -1"),
        },
        _ => return call.refuse(&Refusal::subcommand("GET", "SLOWLOG")),
    };
    let entries = call.session.hub.slowlog.newest(usize::try_from(count).unwrap_or(usize::MAX));
    call.out.array(entries.len());
    entries.iter().for_each(|entry| write_slow_command(entry, &mut call.out));
}

/// Redis's six fields; if the stages are known, a seventh with their times in µs.
fn write_slow_command(entry: &SlowCommand, out: &mut Writer<'_>) {
    out.array(if entry.stages.is_some() { 7 } else { 6 });
    out.int(entry.id as i64);
    out.int(entry.at_s as i64);
    out.int(entry.took_us as i64);
    out.array(entry.args.len());
    entry.args.iter().for_each(|arg| out.bulk(arg));
    out.bulk(&entry.addr);
    out.bulk(&entry.name);
    if let Some(stages) = entry.stages {
        let stages = stages.named();
        out.map(stages.len());
        for (name, us) in stages {
            out.bulk(name);
            out.int(us as i64);
        }
    }
}

fn slowlog_len(call: &mut Call<'_>) {
    let len = call.session.hub.slowlog.len();
    call.out.int(len as i64);
}

fn slowlog_reset(call: &mut Call<'_>) {
    call.session.hub.slowlog.reset();
    call.out.ok();
}
