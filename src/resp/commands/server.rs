//! Commands about the server: rows, and the small ones of them.

use super::super::backend::Wish;
use super::super::errors::Refusal;
use super::args::{integer, is};
use super::connection::{REDIS_VERSION, ok};
use super::{
    Call, ROW, Row, Run, Scope, cluster, config, introspection, key_range, keys, latency, memory, replica,
};

const LOCAL: Row = Row { acl: "connection", flags: "loading stale", since: "2.8.13", ..ROW };
/// HELP of a command that has subcommands.
pub const HELP: Row = Row {
    name: "help",
    arity: 2,
    flags: "loading stale",
    summary: "Returns a text about the subcommands.",
    run: Run::Local(introspection::help),
    ..ROW
};
const CONFIG: Row = Row { flags: "admin noscript loading stale", since: "2.0.0", ..ROW };
const FUNCTION: Row = Row { flags: "noscript", acl: "scripting", group: "scripting", since: "7.0.0", ..ROW };
const SLOWLOG: Row = Row { flags: "admin loading stale", since: "2.2.12", ..ROW };
const MEMORY: Row = Row { since: "4.0.0", ..ROW };
const EACH_SHARD: &str = "nondeterministic_output request_policy:all_shards response_policy:special";
const CONTAINER: Row = Row { complexity: "Depends on subcommand.", arity: -2, ..ROW };

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "command", arity: -1, complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
        summary: "Returns a description of all commands.", run: Run::Subcommands(&[
        Row { name: "count", arity: 2, summary: "Returns the number of commands.", run: Run::Local(introspection::count), ..LOCAL },
        Row { name: "docs", arity: -2, since: "7.0.0", complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
            summary: "Returns the documentation of commands.", syntax: "[command-name [command-name ...]]", run: Run::Local(introspection::docs), ..LOCAL },
        Row { name: "info", arity: -2, complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
            summary: "Returns a description of commands.", syntax: "[command-name [command-name ...]]", run: Run::Local(introspection::info), ..LOCAL },
        Row { name: "list", arity: -2, since: "7.0.0", complexity: "O(N) with N commands", tips: "nondeterministic_output_order",
            summary: "Returns the names of commands.", syntax: "[FILTERBY MODULE module-name|ACLCAT category|PATTERN pattern]", run: Run::Local(introspection::list), ..LOCAL },
        Row { name: "getkeys", arity: -3, complexity: "O(N) with N arguments",
            summary: "Extracts the keys from a command's arguments.", syntax: "command [arg ...]", run: Run::Local(introspection::getkeys), ..LOCAL },
        Row { name: "getkeysandflags", arity: -3, since: "7.0.0", complexity: "O(N) with N arguments",
            summary: "Extracts the keys from a command's arguments, and how they are used.", syntax: "command [arg ...]", run: Run::Local(introspection::getkeysandflags), ..LOCAL },
        Row { acl: "connection", since: "5.0.0", ..HELP },
    ]), ..LOCAL },
    Row { name: "info", arity: -1, flags: "loading stale", acl: "dangerous", tips: "nondeterministic_output request_policy:all_shards response_policy:special",
        summary: "Returns figures and facts about the server.", syntax: "[section [section ...]]", run: Run::Local(info), ..ROW },
    Row { name: "config", since: "2.0.0", summary: "A container for commands about settings.", run: Run::Subcommands(&[
        Row { name: "get", arity: -3, complexity: "O(N) with N settings", summary: "Returns the settings that match glob patterns.",
            syntax: "parameter [parameter ...]", run: Run::Local(config::get), ..CONFIG },
        Row { name: "set", arity: -4, complexity: "O(N) with N settings", tips: "request_policy:all_nodes response_policy:all_succeeded",
            summary: "Sets settings until the next start.", syntax: "parameter value [parameter value ...]", run: Run::Local(config::set), ..CONFIG },
        Row { name: "resetstat", arity: 2, summary: "Resets the statistics of INFO to zero.", run: Run::Local(config::resetstat), ..CONFIG },
        Row { name: "rewrite", arity: 2, since: "2.8.0", summary: "Returns an error: the configuration file belongs to its owner.", run: Run::Local(config::rewrite), ..CONFIG },
        Row { since: "5.0.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "time", arity: 1, flags: "loading stale fast", since: "2.6.0", tips: "nondeterministic_output",
        summary: "Returns the server's clock: seconds and microseconds.", run: Run::Local(time), ..ROW },
    Row { name: "slowlog", since: "2.2.12", summary: "A container for commands about what took long.", run: Run::Subcommands(&[
        Row { name: "get", arity: -2, complexity: "O(N) with N entries", tips: "request_policy:all_nodes nondeterministic_output",
            summary: "Returns the newest slow commands.", syntax: "[count]", run: Run::Local(slowlog_get), ..SLOWLOG },
        Row { name: "stages", arity: -2, complexity: "O(N) with N entries", tips: "request_policy:all_nodes nondeterministic_output",
            summary: "Returns where the time of the newest slow commands that went through the log went: the number of each, and the length of its stages in µs.",
            syntax: "[count]", run: Run::Local(slowlog_stages), ..SLOWLOG },
        Row { name: "len", arity: 2, tips: "request_policy:all_nodes response_policy:agg_sum nondeterministic_output", summary: "Returns the number of slow commands kept.", run: Run::Local(slowlog_len), ..SLOWLOG },
        Row { name: "reset", arity: 2, tips: "request_policy:all_nodes response_policy:all_succeeded", summary: "Clears the list of slow commands.", run: Run::Local(slowlog_reset), ..SLOWLOG },
        Row { since: "6.2.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "latency", since: "2.8.13", summary: "A container for commands about what took long, and how long commands take.", run: Run::Subcommands(latency::ROWS), ..CONTAINER },
    Row { name: "memory", since: "4.0.0", summary: "A container for commands about memory.", run: Run::Subcommands(&[
        Row { name: "usage", arity: -3, flags: "readonly", keys: key_range(2, 2, 1, "RO"), summary: "Returns the bytes that a key and its value take.",
            syntax: "key [SAMPLES count]", run: Run::Op(keys::memory_usage, Scope::OnePartition), ..MEMORY },
        Row { name: "doctor", arity: 2, tips: EACH_SHARD, summary: "Returns advice about memory.", run: Run::Local(memory_doctor), ..MEMORY },
        Row { name: "stats", arity: 2, tips: EACH_SHARD, summary: "Returns figures about memory.", run: Run::Local(memory::stats), ..MEMORY },
        Row { name: "purge", arity: 2, tips: "request_policy:all_shards response_policy:all_succeeded", summary: "Returns OK, and does nothing: freed memory goes back to the system by itself.", run: Run::Local(ok), ..MEMORY },
        Row { since: "4.0.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "function", since: "7.0.0", group: "scripting", summary: "A container for commands about functions, of which there are none.", run: Run::Subcommands(&[
        Row { name: "flush", arity: -2, flags: "write noscript", tips: "request_policy:all_shards response_policy:all_succeeded", summary: "Deletes all functions: there are none.", syntax: "[ASYNC|SYNC]", run: Run::Local(function_flush), ..FUNCTION },
        Row { name: "list", arity: -2, tips: "nondeterministic_output_order", summary: "Returns all functions: there are none.", syntax: "[LIBRARYNAME library-name-pattern] [WITHCODE]", run: Run::Local(function_list), ..FUNCTION },
        Row { acl: "scripting", group: "scripting", since: "7.0.0", ..HELP },
    ]), ..CONTAINER },
    Row { name: "cluster", since: "3.0.0", group: "cluster", summary: "A container for commands about a cluster, of which this server is no part.", run: Run::Subcommands(cluster::ROWS), ..CONTAINER },
    Row { name: "replica", since: "8.0.0", group: "cluster", summary: "A container for commands about the members of partitions' groups.", run: Run::Subcommands(replica::ROWS), ..CONTAINER },
    Row { name: "shutdown", arity: -1, flags: "admin noscript loading stale no_multi allow_busy",
        summary: "Shuts the server down, once what is under way is answered.", syntax: "[NOSAVE|SAVE] [NOW] [FORCE] [ABORT]", run: Run::Local(shutdown), ..ROW },
    Row { name: "lolwut", arity: -1, flags: "readonly fast", since: "5.0.0", summary: "Displays the version.", syntax: "[VERSION version]", run: Run::Local(lolwut), ..ROW },
];

fn time(call: &mut Call<'_>) {
    let now_us = call.backend.now_us();
    call.out.array(2);
    call.out.bulk((now_us / 1_000_000).to_string());
    call.out.bulk((now_us % 1_000_000).to_string());
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
            return call.refuse(&Refusal::quoting("ERR Unknown argument ", option, ""));
        }
    }
    call.out.array(0);
}

fn function_flush(call: &mut Call<'_>) {
    match call.from(2) {
        [] => call.out.ok(),
        [mode] if is(mode, "ASYNC") || is(mode, "SYNC") => call.out.ok(),
        [_] => call.out.error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
        _ => {
            let refusal = Refusal::subcommand(call.arg(1), "FUNCTION");
            call.refuse(&refusal);
        }
    }
}

fn lolwut(call: &mut Call<'_>) {
    let text = format!("Corduroy {}, speaking Redis {REDIS_VERSION}\n", env!("CARGO_PKG_VERSION"));
    call.out.verbatim(&text);
}

fn info(call: &mut Call<'_>) {
    let text = call.backend.info(call.from(1));
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
    // As in Redis there is no reply: the connection ends with the process.
    call.conn.wish(Wish::ShutDown);
    call.conn.close_after_replies();
}

fn memory_doctor(call: &mut Call<'_>) {
    call.out.verbatim(
        "Memory is bounded by the settings of each core; INFO memory shows its use. Nothing is wrong.\n",
    );
}

/// How many entries SLOWLOG is asked for.
fn slowlog_count(call: &Call<'_>) -> Result<usize, Refusal> {
    let count = match call.from(2) {
        [] => 10,
        [count] => match integer(count) {
            Ok(-1) => i64::MAX,
            Ok(count) if count >= 0 => count,
            _ => return Err(Refusal::new("ERR count should be greater than or equal to -1")),
        },
        _ => return Err(Refusal::subcommand(call.arg(1), "SLOWLOG")),
    };
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// SLOWLOG GET, in Redis's six fields.
fn slowlog_get(call: &mut Call<'_>) {
    let count = match slowlog_count(call) {
        Ok(count) => count,
        Err(refusal) => return call.refuse(&refusal),
    };
    let entries = call.conn.hub.slowlog.newest(count);
    call.out.array(entries.len());
    for entry in &entries {
        call.out.array(6);
        call.out.int(entry.id as i64);
        call.out.int(entry.at_s as i64);
        call.out.int(entry.took_us as i64);
        call.out.array(entry.args.len());
        entry.args.iter().for_each(|arg| call.out.bulk(arg));
        call.out.bulk(&entry.addr);
        call.out.bulk(&entry.name);
    }
}

/// SLOWLOG STAGES: numbers of entries, each with its stages.
fn slowlog_stages(call: &mut Call<'_>) {
    let count = match slowlog_count(call) {
        Ok(count) => count,
        Err(refusal) => return call.refuse(&refusal),
    };
    let entries = call.conn.hub.slowlog.newest(usize::MAX);
    let known = entries.iter().filter_map(|entry| Some((entry.id, entry.stages?.named())));
    let known: Vec<_> = known.take(count).collect();
    call.out.array(known.len());
    for (id, stages) in known {
        call.out.array(2);
        call.out.int(id as i64);
        call.out.map(stages.len());
        for (name, us) in stages {
            call.out.bulk(name);
            call.out.int(us as i64);
        }
    }
}

fn slowlog_len(call: &mut Call<'_>) {
    let len = call.conn.hub.slowlog.len();
    call.out.int(len as i64);
}

fn slowlog_reset(call: &mut Call<'_>) {
    call.conn.hub.slowlog.reset();
    call.out.ok();
}
