//! CLIENT: names, lists and ends connections.

use super::super::clients::Client;
use super::super::errors::Refusal;
use super::args::{integer, is};
use super::census::{Census, Visit};
use super::connection::{MAX_NAME_BYTES, client_name};
use super::{Call, ROW, Row, Run, table};
use crate::resp::conn::ReplyMode;

const CLIENT: Row =
    Row { acl: "connection", group: "connection", flags: "noscript loading stale", since: "2.4.0", ..ROW };
const ADMIN: Row = Row { flags: "admin noscript loading stale", ..CLIENT };

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "client", arity: -2, flags: "", acl: "", complexity: "Depends on subcommand.", summary: "A container for commands about connections.",
        run: Run::Subcommands(&[
        Row { name: "id", arity: 2, since: "5.0.0", summary: "Returns the number of the connection.", run: Run::Local(id), ..CLIENT },
        Row { name: "getname", arity: 2, since: "2.6.9", summary: "Returns the name of the connection.", run: Run::Local(getname), ..CLIENT },
        Row { name: "setname", arity: 3, since: "2.6.9", summary: "Sets the name of the connection.", syntax: "connection-name", run: Run::Local(setname), ..CLIENT },
        Row { name: "setinfo", arity: 4, since: "7.2.0", summary: "Sets the name and version of the client library.",
            syntax: "LIB-NAME libname|LIB-VER libver", run: Run::Local(setinfo), ..CLIENT },
        Row { name: "info", arity: 2, since: "6.2.0", tips: "nondeterministic_output", summary: "Returns information about the connection.", run: Run::Local(info), ..CLIENT },
        Row { name: "list", arity: -2, complexity: "O(N) with N connections", tips: "nondeterministic_output", summary: "Lists open connections.",
            syntax: "[TYPE type] [ID client-id [client-id ...]]", run: Run::Local(list), ..ADMIN },
        Row { name: "kill", arity: -3, complexity: "O(N) with N connections", summary: "Terminates connections.",
            syntax: "[ip:port] [ID client-id] [TYPE type] [USER username] [ADDR ip:port] [LADDR ip:port] [SKIPME yes/no] [MAXAGE maxage]", run: Run::Local(kill), ..ADMIN },
        Row { name: "reply", arity: 3, since: "3.2.0", summary: "Instructs the server whether to reply to commands.", syntax: "ON|OFF|SKIP", run: Run::Local(reply), ..CLIENT },
        Row { name: "no-evict", arity: 3, since: "7.0.0", summary: "Sets what CLIENT LIST shows, and nothing else: clients are never evicted.", syntax: "ON|OFF", run: Run::Local(no_evict), ..ADMIN },
        Row { name: "no-touch", arity: 3, since: "7.2.0", summary: "Sets what CLIENT LIST shows, and nothing else: access times are not kept.", syntax: "ON|OFF", run: Run::Local(no_touch), ..CLIENT },
        Row { name: "help", arity: 2, flags: "loading stale", since: "5.0.0", summary: "Returns a text about the subcommands.", run: Run::Local(super::introspection::help), ..CLIENT },
    ]), ..CLIENT },
];

fn id(call: &mut Call<'_>) {
    let id = call.conn.client.id;
    call.out.int(id as i64);
}

fn getname(call: &mut Call<'_>) {
    let name = call.conn.client.name();
    if name.is_empty() { call.out.nil() } else { call.out.bulk(name) }
}

fn setname(call: &mut Call<'_>) {
    match client_name(call.arg(2)) {
        Ok(name) => {
            call.conn.client.set_name(name);
            call.out.ok();
        }
        Err(refusal) => call.refuse(&refusal),
    }
}

fn setinfo(call: &mut Call<'_>) {
    let (attribute, value) = (call.arg(2), call.arg(3));
    let (lib_name, lib_ver) = (is(attribute, "LIB-NAME"), is(attribute, "LIB-VER"));
    if !lib_name && !lib_ver {
        return call.refuse(&Refusal::quoting("ERR Unrecognized option '", attribute, "'"));
    }
    if value.len() > MAX_NAME_BYTES {
        let attribute = if lib_name { "lib-name" } else { "lib-ver" };
        return call.out.error(format!("ERR {attribute} cannot be longer than {MAX_NAME_BYTES} bytes"));
    }
    let Ok(value) = client_name(value) else {
        let attribute = if lib_name { "lib-name" } else { "lib-ver" };
        return call
            .out
            .error(format!("ERR {attribute} cannot contain spaces, newlines or special characters."));
    };
    call.conn.client.set_lib(lib_name.then_some(value), lib_ver.then_some(value));
    call.out.ok();
}

/// A connection's line of CLIENT LIST, without a line end.
#[must_use]
pub fn describe(client: &Client, now_ms: u64) -> String {
    let mut line = String::new();
    describe_to(client, &mut line, now_ms);
    line
}

/// The same, at the end of a text.
pub fn describe_to(client: &Client, line: &mut String, now_ms: u64) {
    let last = client.last_command().map_or("NULL", |index| &table().entry(index).full_name);
    client.describe_to(line, last, now_ms);
}

fn info(call: &mut Call<'_>) {
    let mut text = describe(&call.conn.client, call.backend.now_ms());
    text.push('\n');
    call.out.verbatim(&text);
}

/// Connections are all of type `normal`; the other types exist and have no members.
fn check_type(name: &[u8]) -> Result<bool, Refusal> {
    if is(name, "normal") {
        return Ok(true);
    }
    if ["master", "replica", "slave", "pubsub"].iter().any(|known| is(name, known)) {
        return Ok(false);
    }
    Err(Refusal::quoting("ERR Unknown client type '", name, "'"))
}

fn list(call: &mut Call<'_>) {
    let filter = match call.from(2) {
        [] => Ok(Filter::default()),
        [option, name] if is(option, "TYPE") => {
            check_type(name).map(|normal| Filter { nobody: !normal, ..Filter::default() })
        }
        [option, ids @ ..] if is(option, "ID") && !ids.is_empty() => {
            let ids = ids.iter().map(|id| integer(id).map_err(|_| Refusal::new("ERR Invalid client ID")));
            ids.collect::<Result<Vec<i64>, Refusal>>().map(Filter::of_ids)
        }
        _ => Err(Refusal::SYNTAX),
    };
    visit(call, Visit::List, filter);
}

fn kill(call: &mut Call<'_>) {
    let (filter, replies_count) = match call.from(2) {
        [addr] => (Ok(Filter { addr: Some(addr.to_vec()), ..Filter::default() }), false),
        options => (Filter::parse(options), true),
    };
    visit(call, Visit::Kill { replies_count }, filter);
}

/// Visits connections: in several turns if it may.
fn visit(call: &mut Call<'_>, visit: Visit, filter: Result<Filter, Refusal>) {
    let mut census = match filter {
        Ok(filter) => Census::new(call.conn, visit, filter, call.entry.index),
        Err(refusal) => return call.refuse(&refusal),
    };
    if let Some(visits) = &mut call.visits {
        **visits = Some(Box::new(census));
        return;
    }
    while census.step(call.conn, call.backend.now_ms()) {}
    census.answer(call.conn, &mut call.out);
}

/// Which connections a command is about.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In order; `None`: any.
    ids: Option<Vec<u64>>,
    addr: Option<Vec<u8>>,
    local: Option<Vec<u8>>,
    min_age_ms: Option<u64>,
    nobody: bool,
    spare_me: bool,
}

impl Filter {
    fn of_ids(ids: Vec<i64>) -> Self {
        let mut ids: Vec<u64> = ids.into_iter().filter_map(|id| u64::try_from(id).ok()).collect();
        ids.sort_unstable();
        Self { ids: Some(ids), ..Self::default() }
    }

    fn parse(mut options: &[&[u8]]) -> Result<Self, Refusal> {
        let mut filter = Self { spare_me: true, ..Self::default() };
        while let [option, value, rest @ ..] = options {
            options = rest;
            if is(option, "ID") {
                let wrong = Refusal::new("ERR client-id should be greater than 0");
                let id = integer(value).ok().filter(|id| *id > 0).ok_or(wrong)?;
                filter.ids = Some(vec![id as u64]);
            } else if is(option, "TYPE") {
                filter.nobody |= !check_type(value)?;
            } else if is(option, "ADDR") {
                filter.addr = Some(value.to_vec());
            } else if is(option, "LADDR") {
                filter.local = Some(value.to_vec());
            } else if is(option, "USER") {
                if *value != b"default" {
                    return Err(Refusal::quoting("ERR No such user '", value, "'"));
                }
            } else if is(option, "SKIPME") {
                filter.spare_me = match *value {
                    value if is(value, "yes") => true,
                    value if is(value, "no") => false,
                    _ => return Err(Refusal::SYNTAX),
                };
            } else if is(option, "MAXAGE") {
                let wrong = Refusal::new("ERR maxage is not an integer or out of range");
                let age_s = integer(value).ok().filter(|age| *age > 0).ok_or(wrong)?;
                filter.min_age_ms = Some((age_s as u64).saturating_mul(1000));
            } else {
                return Err(Refusal::SYNTAX);
            }
        }
        if options.is_empty() { Ok(filter) } else { Err(Refusal::SYNTAX) }
    }

    /// Whether a connection is among them.
    #[must_use]
    pub fn hits(&self, client: &Client, me: u64, now_ms: u64) -> bool {
        !self.nobody
            && self.ids.as_ref().is_none_or(|ids| ids.binary_search(&client.id).is_ok())
            && self.addr.as_ref().is_none_or(|addr| addr == client.addr.as_bytes())
            && self.local.as_ref().is_none_or(|local| local == client.local.as_bytes())
            && self.min_age_ms.is_none_or(|age| client.age_ms(now_ms) >= age)
            && !(self.spare_me && client.id == me)
    }

    /// The first and the last number that one of them may have, where there are numbers up to `last`.
    #[must_use]
    pub fn range(&self, last: u64) -> (u64, u64) {
        match &self.ids {
            Some(ids) => {
                let most = ids.last().copied().unwrap_or(0);
                (ids.first().copied().unwrap_or(1), most.min(last))
            }
            None if self.nobody => (1, 0),
            None => (1, last),
        }
    }

    /// What it holds in memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let bytes = |text: &Option<Vec<u8>>| text.as_ref().map_or(0, Vec::capacity);
        self.ids.as_ref().map_or(0, |ids| ids.capacity() * size_of::<u64>())
            + bytes(&self.addr)
            + bytes(&self.local)
    }
}

fn reply(call: &mut Call<'_>) {
    let mode = call.arg(2);
    if is(mode, "ON") {
        call.conn.reply_mode = ReplyMode::On;
        call.conn.muted = false;
        call.out.ok();
    } else if is(mode, "OFF") {
        call.conn.reply_mode = ReplyMode::Off;
        call.conn.muted = true;
    } else if is(mode, "SKIP") {
        if call.conn.reply_mode == ReplyMode::On {
            call.conn.reply_mode = ReplyMode::SkipNext;
        }
        call.conn.muted = true;
    } else {
        call.refuse(&Refusal::SYNTAX);
    }
}

fn on_off(call: &mut Call<'_>, set: fn(&Client, bool)) {
    let on = call.arg(2);
    if is(on, "ON") || is(on, "OFF") {
        set(&call.conn.client, is(on, "ON"));
        call.out.ok();
    } else {
        call.refuse(&Refusal::SYNTAX);
    }
}

fn no_evict(call: &mut Call<'_>) {
    on_off(call, Client::set_no_evict);
}

fn no_touch(call: &mut Call<'_>) {
    on_off(call, Client::set_no_touch);
}
