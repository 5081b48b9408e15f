//! COMMAND and HELP: what the table says of itself, in Redis 7's shapes.

use std::borrow::Cow;

use super::super::errors::Refusal;
use super::args::{is, matching};
use super::{Call, Entry, Run, docs as syntax, table};
use crate::resp::reply::Writer;
use crate::store::Effort;

/// SET's use of its key, which depends on its options.
const VARIABLE: &str = "RW access update variable_flags";

fn words(text: &'static str) -> Vec<&'static str> {
    text.split(' ').filter(|word| !word.is_empty()).collect()
}

/// A row's ACL categories, with those that follow from its flags.
fn categories(entry: &Entry) -> Vec<&'static str> {
    let flags = words(entry.row.flags);
    let has = |flag| flags.contains(&flag);
    let mut found = words(entry.row.acl);
    let implied = [
        ("write", has("write")),
        ("read", has("readonly")),
        ("fast", has("fast")),
        ("slow", !has("fast")),
        ("admin", has("admin")),
        ("dangerous", has("admin")),
    ];
    for (category, implied) in implied {
        if implied && !found.contains(&category) {
            found.push(category);
        }
    }
    found
}

fn listed() -> impl Iterator<Item = &'static Entry> {
    table().top.iter().map(|&index| table().entry(index)).filter(|entry| entry.is_listed())
}

/// The command of a name that may be a subcommand's, `client|kill`.
fn by_full_name(name: &[u8]) -> Option<&'static Entry> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let entry = table().find(parts.next().unwrap_or_default())?;
    let entry = match parts.next() {
        Some(child) => table().find_child(entry, child)?,
        None => entry,
    };
    entry.is_listed().then_some(entry)
}

/// One command in ten fields.
fn write_info(entry: &Entry, out: &mut Writer<'_>) {
    let keys = entry.row.keys;
    out.array(10);
    out.bulk(&entry.full_name);
    out.int(entry.row.arity as i64);
    let flags = words(entry.row.flags);
    out.set(flags.len());
    flags.iter().for_each(|flag| out.simple(flag));
    for number in [keys.first as i64, keys.last as i64, keys.step as i64] {
        out.int(number);
    }
    let categories = categories(entry);
    out.set(categories.len());
    categories.iter().for_each(|category| out.simple(&format!("@{category}")));
    let tips = words(entry.row.tips);
    out.set(tips.len());
    tips.iter().for_each(|tip| out.bulk(tip));
    write_key_specs(entry, out);
    if entry.children.is_empty() {
        out.set(0)
    } else {
        out.array(entry.children.len())
    }
    entry.children.iter().for_each(|&index| write_info(table().entry(index), out));
}

fn write_key_specs(entry: &Entry, out: &mut Writer<'_>) {
    let keys = entry.row.keys;
    if keys.first == 0 {
        return out.set(0);
    }
    let specs: Vec<&'static str> = keys.access.split('|').collect();
    out.set(specs.len());
    if let [access] = specs.as_slice() {
        let last = if keys.last < 0 { keys.last as i64 } else { keys.last as i64 - keys.first as i64 };
        return write_key_spec(access, keys.first, last, keys.step, out);
    }
    for (at, access) in specs.iter().enumerate() {
        write_key_spec(access, keys.first + at * keys.step, 0, 1, out);
    }
}

/// Keys that are used alike: from argument `first` on, up to the one `last` behind it, or before the end.
fn write_key_spec(access: &'static str, first: usize, last: i64, step: usize, out: &mut Writer<'_>) {
    out.map(3);
    out.bulk("flags");
    let access = words(access);
    out.set(access.len());
    access.iter().for_each(|flag| out.simple(flag));
    out.bulk("begin_search");
    out.map(2);
    out.bulk("type");
    out.bulk("index");
    out.bulk("spec");
    out.map(1);
    out.bulk("index");
    out.int(first as i64);
    out.bulk("find_keys");
    out.map(2);
    out.bulk("type");
    out.bulk("range");
    out.bulk("spec");
    out.map(3);
    for (name, number) in [("lastkey", last), ("keystep", step as i64), ("limit", 0)] {
        out.bulk(name);
        out.int(number);
    }
}

/// A command with subcommands, called without one: only COMMAND's arity allows it.
pub fn bare(call: &mut Call<'_>) {
    all(&mut call.out);
}

fn all(out: &mut Writer<'_>) {
    out.array(listed().count());
    listed().for_each(|entry| write_info(entry, out));
}

/// COMMAND COUNT.
pub fn count(call: &mut Call<'_>) {
    call.out.int(listed().count() as i64);
}

/// COMMAND INFO.
pub fn info(call: &mut Call<'_>) {
    let names = call.from(2);
    if names.is_empty() {
        return all(&mut call.out);
    }
    call.out.array(names.len());
    for name in names {
        match by_full_name(name) {
            Some(entry) => write_info(entry, &mut call.out),
            None => call.out.nil(),
        }
    }
}

/// COMMAND DOCS.
pub fn docs(call: &mut Call<'_>) {
    let names = call.from(2);
    let chosen: Vec<&Entry> = if names.is_empty() {
        listed().collect()
    } else {
        names.iter().filter_map(|name| by_full_name(name)).collect()
    };
    call.out.map(chosen.len());
    chosen.iter().for_each(|entry| write_docs(entry, &mut call.out));
}

fn write_docs(entry: &Entry, out: &mut Writer<'_>) {
    let row = &entry.row;
    let arguments = syntax::parse(row.syntax);
    out.bulk(&entry.full_name);
    out.map(4 + usize::from(!arguments.is_empty()) + usize::from(!entry.children.is_empty()));
    for (name, text) in
        [("summary", row.summary), ("since", row.since), ("group", row.group), ("complexity", row.complexity)]
    {
        out.bulk(name);
        out.bulk(text);
    }
    if !arguments.is_empty() {
        out.bulk("arguments");
        syntax::write(&arguments, out);
    }
    if !entry.children.is_empty() {
        out.bulk("subcommands");
        out.map(entry.children.len());
        entry.children.iter().for_each(|&index| write_docs(table().entry(index), out));
    }
}

/// COMMAND LIST.
pub fn list(call: &mut Call<'_>) {
    // Subcommands too, as Redis lists them.
    let every = || table().entries.iter().filter(|entry| entry.is_listed());
    let names: Vec<&str> = match call.from(2) {
        [] => every().map(|entry| entry.full_name.as_str()).collect(),
        [by, kind, _] if is(by, "FILTERBY") && is(kind, "MODULE") => Vec::new(),
        [by, kind, category] if is(by, "FILTERBY") && is(kind, "ACLCAT") => every()
            .filter(|entry| categories(entry).iter().any(|known| is(category, known)))
            .map(|entry| entry.full_name.as_str())
            .collect(),
        [by, kind, pattern] if is(by, "FILTERBY") && is(kind, "PATTERN") => {
            let names = every().map(|entry| entry.full_name.as_str());
            match matching(&mut Effort::of_a_list(), pattern, names) {
                Ok(names) => names,
                Err(refusal) => return call.refuse(&refusal),
            }
        }
        _ => return call.refuse(&Refusal::SYNTAX),
    };
    call.out.array(names.len());
    names.iter().for_each(|name| call.out.bulk(name));
}

/// The command that COMMAND GETKEYS was given, and its keys.
fn keys_of<'a>(call: &Call<'a>) -> Result<(&'static Entry, Vec<&'a [u8]>), Refusal> {
    let args = call.from(2);
    let entry = table().named(args).ok().filter(|entry| entry.is_listed());
    let entry = entry.ok_or(Refusal::new("ERR Invalid command specified"))?;
    if entry.row.keys.first == 0 {
        return Err(Refusal::new("ERR The command has no key arguments"));
    }
    if !entry.fits(args.len()) {
        return Err(Refusal::new("ERR Invalid number of arguments specified for command"));
    }
    let keys: Vec<&[u8]> = entry.keys(args).collect();
    if keys.is_empty() {
        Err(Refusal::new("ERR The command has no key arguments"))
    } else {
        Ok((entry, keys))
    }
}

/// COMMAND GETKEYS.
pub fn getkeys(call: &mut Call<'_>) {
    match keys_of(call) {
        Ok((_, keys)) => {
            call.out.array(keys.len());
            keys.iter().for_each(|key| call.out.bulk(key));
        }
        Err(refusal) => call.refuse(&refusal),
    }
}

/// COMMAND GETKEYSANDFLAGS.
pub fn getkeysandflags(call: &mut Call<'_>) {
    match keys_of(call) {
        Ok((entry, keys)) => {
            let specs: Vec<&'static str> = entry.row.keys.access.split('|').collect();
            call.out.array(keys.len());
            for (at, key) in keys.into_iter().enumerate() {
                let access = specs.get(at).or(specs.last()).copied().unwrap_or_default();
                let access = words(match access {
                    // SET reads the old value only if it is asked to.
                    VARIABLE if call.from(5).iter().any(|option| is(option, "GET")) => "RW access update",
                    VARIABLE => "OW update",
                    access => access,
                });
                call.out.array(2);
                call.out.bulk(key);
                call.out.set(access.len());
                access.iter().for_each(|flag| call.out.simple(flag));
            }
        }
        Err(refusal) => call.refuse(&refusal),
    }
}

/// HELP of a command with subcommands: one line each with its arguments, one with what it does.
pub fn help(call: &mut Call<'_>) {
    let Some(parent) = table().find(call.arg(0)) else { return call.refuse(&Refusal::SYNTAX) };
    let name = parent.row.name.to_ascii_uppercase();
    let mut lines: Vec<Cow<'_, str>> =
        vec![format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:").into()];
    if let Run::Subcommands(rows) = parent.row.run {
        for row in rows {
            lines.push(
                format!("{} {}", row.name.to_ascii_uppercase(), row.syntax).trim_end().to_owned().into(),
            );
            lines.push(format!("    {}", row.summary).into());
        }
    }
    call.out.lines(&lines);
}
