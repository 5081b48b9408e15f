//! Commands about the connection itself: greeting, authentication, protocol version.

use super::super::errors::Refusal;
use super::args::{integer, is, only_database};
use super::{Call, Entry, Flow, ROW, Row, Run};
use crate::resp::reply::Writer;

/// The Redis version reported to clients: they choose features by it.
pub const REDIS_VERSION: &str = "7.2.5";

const CONNECTION: Row = Row { acl: "connection", group: "connection", ..ROW };
const GREETING: Row = Row { flags: "noscript loading stale fast no_auth allow_busy", ..CONNECTION };

/// The rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "ping", arity: -1, flags: "fast", tips: "request_policy:all_shards response_policy:all_succeeded",
        summary: "Returns PONG, or the message.", syntax: "[message]", run: Run::Local(ping), ..CONNECTION },
    Row { name: "echo", arity: 2, flags: "loading stale fast",
        summary: "Returns the message.", syntax: "message", run: Run::Local(echo), ..CONNECTION },
    Row { name: "hello", arity: -1, since: "6.0.0",
        summary: "Handshakes: chooses the protocol version, authenticates, names the connection, and describes the server.",
        syntax: "[protover [AUTH username password] [SETNAME clientname]]", run: Run::Local(hello), ..GREETING },
    Row { name: "auth", arity: -2,
        summary: "Authenticates the connection.", syntax: "[username] password", run: Run::Local(auth), ..GREETING },
    Row { name: "select", arity: 2, flags: "loading stale fast",
        summary: "Changes the selected database; there is only number 0.", syntax: "index", run: Run::Local(select), ..CONNECTION },
    Row { name: "quit", arity: -1,
        summary: "Closes the connection once all replies are written.", run: Run::Flow(Flow::Quit), ..GREETING },
    Row { name: "reset", arity: 1, since: "6.2.0",
        summary: "Resets the connection to the state it began in.", run: Run::Flow(Flow::Reset), ..GREETING },
    Row { name: "readonly", arity: 1, flags: "loading stale fast", since: "3.0.0", group: "cluster",
        summary: "Changes who answers the connection's reads: the node that it is connected to, whether or not that leads.", run: Run::Local(readonly), ..CONNECTION },
    Row { name: "readwrite", arity: 1, flags: "loading stale fast", since: "3.0.0", group: "cluster",
        summary: "Changes back what READONLY has changed.", run: Run::Local(readwrite), ..CONNECTION },
];

/// Answers OK.
pub fn ok(call: &mut Call<'_>) {
    call.out.ok();
}

fn readonly(call: &mut Call<'_>) {
    set_reads_anywhere(call, true);
}

fn readwrite(call: &mut Call<'_>) {
    set_reads_anywhere(call, false);
}

/// A node that is alone has nobody beside it that could answer, and says so as Redis does.
fn set_reads_anywhere(call: &mut Call<'_>, reads_anywhere: bool) {
    if call.backend.topology().is_none() {
        return super::cluster::refuse(call);
    }
    call.conn.reads_anywhere = reads_anywhere;
    call.out.ok();
}

fn ping(call: &mut Call<'_>) {
    match call.from(1) {
        [] => call.out.simple("PONG"),
        [message] => call.out.bulk(message),
        _ => call.refuse(&Refusal::arity("ping")),
    }
}

fn echo(call: &mut Call<'_>) {
    let message = call.arg(1);
    call.out.bulk(message);
}

fn select(call: &mut Call<'_>) {
    match only_database(call.arg(1)) {
        Ok(()) => call.out.ok(),
        Err(refusal) => call.refuse(&refusal),
    }
}

/// Compares in constant time, so that the time does not show how much was right.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

const WRONG_PASS: Refusal = Refusal::new("WRONGPASS invalid username-password pair or user is disabled.");

fn authenticate(call: &mut Call<'_>, user: &[u8], password: &[u8]) -> Result<(), Refusal> {
    match call.backend.requires_password() {
        // The default user without a password takes any, as in Redis.
        None if user == b"default" => Ok(()),
        Some(wanted) if user == b"default" && same_secret(wanted.as_bytes(), password) => {
            call.conn.authenticate();
            Ok(())
        }
        _ => {
            call.conn.count_wrong_password(call.backend);
            Err(WRONG_PASS)
        }
    }
}

/// Whether a request tries a password.
pub fn is_guess(entry: &Entry, args: &[&[u8]]) -> bool {
    entry.row.name == "auth"
        || (entry.row.name == "hello" && args.iter().skip(2).any(|option| is(option, "AUTH")))
}

fn auth(call: &mut Call<'_>) {
    let result = match call.from(1) {
        [_] if call.backend.requires_password().is_none() => Err(Refusal::new(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?",
        )),
        [password] => authenticate(call, b"default", password),
        [user, password] => authenticate(call, user, password),
        _ => Err(Refusal::SYNTAX),
    };
    match result {
        Ok(()) => call.out.ok(),
        Err(refusal) => call.refuse(&refusal),
    }
}

/// The longest name of a connection or a library, bytes: each is held as long as the connection, and listed.
pub const MAX_NAME_BYTES: usize = 1024;

/// Checks a connection's name: printable, without spaces, not too long.
///
/// # Errors
/// Redis's text; ours if it is too long.
pub fn client_name(name: &[u8]) -> Result<&str, Refusal> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Refusal::owned(format!("ERR Client names cannot be longer than {MAX_NAME_BYTES} bytes")));
    }
    let text =
        std::str::from_utf8(name).ok().filter(|text| text.bytes().all(|byte| (b'!'..=b'~').contains(&byte)));
    text.ok_or(Refusal::new("ERR Client names cannot contain spaces, newlines or special characters."))
}

fn hello(call: &mut Call<'_>) {
    if let Err(refusal) = greet(call) {
        return call.refuse(&refusal);
    }
    describe_server(call.conn.client.id, &mut call.out);
}

fn greet(call: &mut Call<'_>) -> Result<(), Refusal> {
    let mut resp3 = call.conn.resp3;
    if let Some(version) = call.from(1).first() {
        let wrong = Refusal::new("ERR Protocol version is not an integer or out of range");
        resp3 = match integer(version).map_err(|_| wrong)? {
            2 => false,
            3 => true,
            _ => return Err(Refusal::new("NOPROTO unsupported protocol version")),
        };
    }
    let mut name = None;
    let mut options = call.from(2);
    loop {
        options = match options {
            [] => break,
            [option, user, password, rest @ ..] if is(option, "AUTH") => {
                authenticate(call, user, password)?;
                rest
            }
            [option, text, rest @ ..] if is(option, "SETNAME") => {
                name = Some(client_name(text)?);
                rest
            }
            [option, ..] => {
                return Err(Refusal::quoting("ERR Syntax error in HELLO option '", option, "'"));
            }
        };
    }
    if !call.conn.is_authenticated() {
        return Err(Refusal::new(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> \
             <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        call.conn.client.set_name(name);
    }
    call.conn.resp3 = resp3;
    call.out.resp3 = resp3;
    Ok(())
}

fn describe_server(id: u64, out: &mut Writer<'_>) {
    out.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        out.bulk(name);
        out.bulk(value);
    }
    out.bulk("proto");
    out.int(if out.resp3 { 3 } else { 2 });
    out.bulk("id");
    out.int(id as i64);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        out.bulk(name);
        out.bulk(value);
    }
    out.bulk("modules");
    out.array(0);
}
