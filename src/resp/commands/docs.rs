//! The notation of a row's `syntax`, read into the argument trees of COMMAND DOCS.
//!
//! `name` is a value, `TOKEN` a word, `TOKEN name` a word and its value, `[...]` optional, `a|b` one of both, `...` more of the
//! same. Invariant: what is written in the rows can be read; a test reads them all.

use crate::resp::reply::Writer;

/// One argument of a command.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Argument {
    name: String,
    /// Redis's type: key, string, integer, pure-token, oneof, block ...
    kind: &'static str,
    token: Option<String>,
    optional: bool,
    multiple: bool,
    children: Vec<Argument>,
}

/// Reads a row's syntax.
#[must_use]
pub fn parse(syntax: &str) -> Vec<Argument> {
    let spaced = syntax.replace('[', " [ ").replace(']', " ] ").replace('|', " | ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    alternatives(&words, &mut at)
}

/// A list of arguments up to a closing bracket or the end. A bar joins what stands on both sides of it.
fn alternatives(words: &[&str], at: &mut usize) -> Vec<Argument> {
    let mut list: Vec<Argument> = Vec::new();
    let mut joined = false;
    while let Some(&word) = words.get(*at) {
        *at += 1;
        let argument = match word {
            "]" => break,
            "|" => {
                joined = true;
                continue;
            }
            "..." => {
                // `key [key ...]`: the whole list repeats; the caller sees which it is.
                list.iter_mut().for_each(|argument| argument.multiple = true);
                continue;
            }
            "[" => {
                let inner = alternatives(words, at);
                if repeats(&list, &inner) {
                    merge_repetition(&mut list, inner.len());
                    continue;
                }
                Argument { optional: true, ..block(inner) }
            }
            word => single(word, words, at),
        };
        match (joined, list.last_mut()) {
            (true, Some(last)) if last.kind == "oneof" => last.children.push(argument),
            (true, Some(last)) => {
                let first = std::mem::take(last);
                let name = first.name.clone();
                *last =
                    Argument { name, kind: "oneof", children: vec![first, argument], ..Argument::default() };
            }
            _ => list.push(argument),
        }
        joined = false;
    }
    list
}

/// A word, or a word with its value.
fn single(word: &str, words: &[&str], at: &mut usize) -> Argument {
    if !is_token(word) {
        return Argument { name: word.to_owned(), kind: kind_of(word), ..Argument::default() };
    }
    let token = Some(word.to_owned());
    match words.get(*at) {
        Some(next) if !is_token(next) && !matches!(*next, "[" | "]" | "|" | "...") => {
            *at += 1;
            Argument { name: (*next).to_owned(), kind: kind_of(next), token, ..Argument::default() }
        }
        _ => Argument { name: word.to_ascii_lowercase(), kind: "pure-token", token, ..Argument::default() },
    }
}

fn is_token(word: &str) -> bool {
    word.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase())
}

fn block(mut inner: Vec<Argument>) -> Argument {
    if inner.len() == 1 {
        return inner.remove(0);
    }
    let name = inner.first().map_or(String::new(), |first| first.name.clone());
    Argument { name, kind: "block", children: inner, ..Argument::default() }
}

/// Whether `[...]` only says that what stands before it may come again.
fn repeats(list: &[Argument], inner: &[Argument]) -> bool {
    let same = list.iter().rev().zip(inner.iter().rev()).all(|(a, b)| a.name == b.name);
    !inner.is_empty() && list.len() >= inner.len() && same && inner.iter().all(|argument| argument.multiple)
}

fn merge_repetition(list: &mut Vec<Argument>, count: usize) {
    let repeated = list.split_off(list.len() - count);
    list.push(Argument { multiple: true, ..block(repeated) });
}

fn kind_of(name: &str) -> &'static str {
    match name {
        "key" | "key1" | "key2" | "newkey" | "source" | "destination" => "key",
        "pattern" => "pattern",
        "unix-time-seconds" | "unix-time-milliseconds" => "unix-time",
        "seconds" | "milliseconds" | "increment" | "decrement" | "start" | "end" | "offset" | "count"
        | "cursor" | "index" | "min-match-len" | "destination-db" | "protover" | "client-id"
        | "numreplicas" | "timeout" | "maxage" | "version" => "integer",
        _ => "string",
    }
}

/// Writes arguments in the shape of COMMAND DOCS.
pub fn write(arguments: &[Argument], out: &mut Writer<'_>) {
    let mut next_key_spec = 0;
    write_list(arguments, &mut next_key_spec, out);
}

fn write_list(arguments: &[Argument], next_key_spec: &mut i64, out: &mut Writer<'_>) {
    out.array(arguments.len());
    for argument in arguments {
        let is_key = argument.kind == "key";
        let has_text = !matches!(argument.kind, "oneof" | "block");
        let has_flags = argument.optional || argument.multiple;
        let fields = 2
            + usize::from(has_text)
            + usize::from(is_key)
            + usize::from(argument.token.is_some())
            + usize::from(has_flags)
            + usize::from(!argument.children.is_empty());
        out.map(fields);
        pair("name", &argument.name, out);
        pair("type", argument.kind, out);
        if has_text {
            pair("display_text", &argument.name, out);
        }
        if is_key {
            out.bulk("key_spec_index");
            out.int(0);
            *next_key_spec += 1;
        }
        if let Some(token) = &argument.token {
            pair("token", token, out);
        }
        if has_flags {
            out.bulk("flags");
            out.set(usize::from(argument.optional) + usize::from(argument.multiple));
            for (flag, set) in [("optional", argument.optional), ("multiple", argument.multiple)] {
                if set {
                    out.simple(flag);
                }
            }
        }
        if !argument.children.is_empty() {
            out.bulk("arguments");
            write_list(&argument.children, next_key_spec, out);
        }
    }
}

fn pair(name: &str, value: &str, out: &mut Writer<'_>) {
    out.bulk(name);
    out.bulk(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a tree back as text, with the kinds.
    fn show(arguments: &[Argument]) -> String {
        let one = |argument: &Argument| {
            let mut text = match argument.kind {
                "oneof" => argument
                    .children
                    .iter()
                    .map(|child| show(std::slice::from_ref(child)))
                    .collect::<Vec<_>>()
                    .join("|"),
                "block" => format!("({})", show(&argument.children)),
                "pure-token" => argument.token.clone().unwrap_or_default(),
                kind => {
                    let token = argument.token.as_ref().map_or(String::new(), |token| format!("{token} "));
                    format!("{token}{}:{kind}", argument.name)
                }
            };
            if argument.multiple {
                text.push('+');
            }
            if argument.optional { format!("[{text}]") } else { text }
        };
        arguments.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn notations() {
        for (syntax, expected) in [
            ("", ""),
            ("key", "key:key"),
            ("key [key ...]", "key:key+"),
            ("key value [key value ...]", "(key:key value:string)+"),
            ("key value [NX|XX] [GET]", "key:key value:string [NX|XX] [GET]"),
            ("key [EX seconds|PERSIST]", "key:key [EX seconds:integer|PERSIST]"),
            ("[section [section ...]]", "[section:string+]"),
            ("command [arg ...]", "command:string [arg:string+]"),
            (
                "[protover [AUTH username password]]",
                "[(protover:integer [(AUTH username:string password:string)])]",
            ),
            (
                "cursor [MATCH pattern] [COUNT count]",
                "cursor:integer [MATCH pattern:pattern] [COUNT count:integer]",
            ),
        ] {
            assert_eq!(show(&parse(syntax)), expected, "{syntax}");
        }
    }
}
