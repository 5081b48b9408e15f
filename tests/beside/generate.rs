//! Random requests: each command's form in a line, filled with what the dice give, and now and then spoilt.
//!
//! The notation of the forms is told where they stand.

use corduroy::config::knobs::{KNOBS, Kind, Knob, Meaning};
use corduroy::resp::commands::table;

use crate::draw::Dice;
use crate::forms::FORMS;

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    /// A request on one of two connections.
    Ask(usize, Vec<Vec<u8>>),
    /// SCAN from the start to the end, with these options.
    Walk(usize, Vec<Vec<u8>>),
    /// Bytes on a connection of their own.
    Raw(Vec<u8>),
    /// A request that makes a key which is soon over, and what is asked once it is.
    Over(usize, Vec<Vec<u8>>, Vec<Vec<u8>>),
}

/// Settings that redis-server 7.0 does not have, or that act on the comparison itself.
const LEFT_OUT: [&str; 7] = [
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "locale-collate",
    "cluster-announce-human-nodename",
    "maxmemory-clients",
    "client-query-buffer-limit",
    "slowlog-max-len",
];

/// Commands whose bare names would end the comparison, or block it, or that Redis does not have.
const NOT_BARE: [&str; 5] = ["shutdown", "wait", "client", "debug", "replica"];

fn words(text: &str) -> Vec<String> {
    let spaced = text
        .replace('[', " [ ")
        .replace(']', " ] ")
        .replace('<', " < ")
        .replace('>', " > ")
        .replace('|', " | ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// Fills forms.
struct Filling<'d> {
    dice: &'d mut Dice,
    args: Vec<Vec<u8>>,
}

impl Filling<'_> {
    fn fill(&mut self, words: &[String]) {
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            if word == "[" || word == "<" {
                let close = if word == "[" { "]" } else { ">" };
                let mut depth = 1;
                let end = at
                    + words[at..]
                        .iter()
                        .position(|word| {
                            depth +=
                                i32::from(word == "[" || word == "<") - i32::from(word == "]" || word == ">");
                            depth == 0
                        })
                        .expect("forms close their brackets");
                assert_eq!(words[end], close);
                self.alternatives(&words[at..end], close == "]");
                at = end + 1;
            } else if let Some(word) = word.strip_suffix("...") {
                for _ in 0..=self.dice.below(4) {
                    self.word(word);
                }
            } else {
                self.word(word);
            }
        }
    }

    fn alternatives(&mut self, words: &[String], is_optional: bool) {
        let mut list: Vec<Vec<String>> = vec![Vec::new()];
        let mut depth = 0;
        for word in words {
            depth += i32::from(word == "[" || word == "<") - i32::from(word == "]" || word == ">");
            if word == "|" && depth == 0 {
                list.push(Vec::new());
            } else {
                list.last_mut().expect("there is one").push(word.clone());
            }
        }
        let count = if is_optional { *self.dice.pick(&[0, 0, 1, 1, 1, 1, 2, 2, 3]) } else { 1 };
        for _ in 0..count {
            let chosen = self.dice.pick(&list).clone();
            self.fill(&chosen);
        }
    }

    fn word(&mut self, word: &str) {
        let dice = &mut *self.dice;
        let arg = match word {
            "K" => dice.key(),
            "V" => dice.value(),
            "I" => dice.integer(),
            "O" => dice.offset(),
            "F" => dice.float(),
            "P" => dice.pattern(),
            "S" => dice.seconds(),
            "M" => dice.milliseconds(),
            "A" => dice.at_seconds(),
            "B" => dice.at_milliseconds(),
            "N" => dice.pick(&[&b"joe"[..], b"", b"a b", b"\xff", b"a\nb", b"default", b"~!"]).to_vec(),
            "G" => return self.setting_name(),
            "W" => {
                let index = *dice.pick(&table().top);
                let entry = table().entry(index);
                let name = if entry.is_listed() && !NOT_BARE.contains(&entry.row.name) {
                    entry.row.name
                } else {
                    "get"
                };
                dice.cased(name)
            }
            "C" => {
                let form = loop {
                    let form = *dice.pick(FORMS);
                    if !form.starts_with("command") && form.contains(' ') && !form.contains(" C") {
                        break form;
                    }
                };
                return self.fill(&words(form));
            }
            word => dice.cased(word),
        };
        self.args.push(arg);
    }

    fn setting_name(&mut self) {
        let knob = drawn_knob(self.dice);
        let name = if self.dice.once_in(3) && !knob.alias.is_empty() { knob.alias } else { knob.name };
        let mut name = self.dice.cased(name);
        if self.dice.once_in(4) {
            name.truncate(4);
            name.push(b'*');
        }
        self.args.push(name);
    }
}

fn drawn_knob(dice: &mut Dice) -> &'static Knob {
    loop {
        let knob = dice.pick(KNOBS);
        if !LEFT_OUT.contains(&knob.name) && !knob.name.starts_with("tls-") {
            return knob;
        }
    }
}

/// A value for a setting, of its kind or not.
fn setting_value(dice: &mut Dice, knob: &Knob) -> Vec<u8> {
    let is_harmless = matches!(knob.meaning, Meaning::Remembered | Meaning::Hidden)
        || ["latency-tracking", "latency-tracking-info-percentiles", "loglevel"].contains(&knob.name);
    if !is_harmless || dice.once_in(3) {
        let wrong: &[&[u8]] = &[b"junk!", b"-9223372036854775809", b"1 2 3 4 5", b"nothing", b"1x"];
        return dice.pick(wrong).to_vec();
    }
    match knob.kind {
        Kind::Flag => dice.pick(&[&b"yes"[..], b"no", b"YES", b"No", b"1", b""]).to_vec(),
        Kind::Choice(words) | Kind::Choices(words) => {
            let word = *dice.pick(words);
            dice.cased(word)
        }
        Kind::Integer(..) => dice.integer(),
        Kind::Memory(..) | Kind::MemoryOrPercent => dice
            .pick(&[
                &b"1kb"[..],
                b"2MB",
                b"3g",
                b"100",
                b"64b",
                b"1k",
                b"0",
                b"",
                b"1t",
                b"-1",
                b"1.5mb",
                b" 1",
            ])
            .to_vec(),
        Kind::Events => {
            dice.pick(&[&b"KEA"[..], b"Elg$", b"", b"Kx", b"AKEmn", b"mn", b"KEg$lshzxetd"]).to_vec()
        }
        Kind::OomScores => dice.pick(&[&b"0 200 800"[..], b"1 2 -3", b"1 2", b"1 2 3000", b"a b c"]).to_vec(),
        Kind::Percentiles => {
            dice.pick(&[&b"50 99 99.9"[..], b"", b"99.999 1", b"1e1", b"101", b"50  99", b"x"]).to_vec()
        }
        Kind::Title => {
            dice.pick(&[&b"{title} {port}"[..], b"{foo}", b"", b"{{x", b"a {title", b"{title}"]).to_vec()
        }
        Kind::Hostname => dice.pick(&[&b"a-b.c"[..], b"", b"junk!", b"h"]).to_vec(),
        Kind::Text | Kind::Save | Kind::BufferLimits => dice.pick(&[&b"text"[..], b"", b"a b"]).to_vec(),
    }
}

fn config_set(dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut args = vec![dice.cased("config"), dice.cased("set")];
    for _ in 0..*dice.pick(&[1, 1, 1, 2, 3]) {
        let knob = drawn_knob(dice);
        // What anything is a value for would be set; here and in Redis it would mean different things.
        if matches!(knob.meaning, Meaning::Real | Meaning::Fixed)
            && matches!(knob.kind, Kind::Text | Kind::Save)
        {
            continue;
        }
        let name = if dice.once_in(3) && !knob.alias.is_empty() { knob.alias } else { knob.name };
        args.push(dice.cased(name));
        args.push(setting_value(dice, knob));
    }
    args
}

fn filled(dice: &mut Dice) -> Vec<Vec<u8>> {
    if dice.once_in(30) {
        return config_set(dice);
    }
    let form = *dice.pick(FORMS);
    let mut filling = Filling { dice, args: Vec::new() };
    filling.fill(&words(form));
    let mut args = filling.args;
    // Spoilt: one argument too few, too many, twice, or one that does not belong.
    if dice.once_in(12) {
        let at = 1 + dice.below(args.len());
        match dice.below(4) {
            0 if at < args.len() => _ = args.remove(at),
            1 => args.insert(at, dice.junk()),
            2 if at < args.len() => args.insert(at, args[at].clone()),
            _ if at < args.len() => args[at] = stand_in(dice, args.first()),
            _ => args.push(dice.junk()),
        }
    }
    args
}

/// What does not belong where an argument was; where that may be a time to live, none that ends while others are asked.
fn stand_in(dice: &mut Dice, command: Option<&Vec<u8>>) -> Vec<u8> {
    const TIMED: [&[u8]; 6] = [b"set", b"setex", b"psetex", b"getex", b"expire", b"pexpire"];
    const LONG_MS: u64 = 100_000;
    let is_timed = command.is_some_and(|name| TIMED.contains(&name.to_ascii_lowercase().as_slice()));
    loop {
        let junk = dice.junk();
        let number: Option<u64> = std::str::from_utf8(&junk).ok().and_then(|text| text.parse().ok());
        if !is_timed || number.is_none_or(|number| !(1..LONG_MS).contains(&number)) {
            return junk;
        }
    }
}

/// Bytes that are a request, nearly one, or none.
fn raw(dice: &mut Dice) -> Vec<u8> {
    let lines: &[&[u8]] = &[
        b"PING\r\n",
        b"\r\n",
        b"  \r\n",
        b"SET a \"x y\"\r\n",
        b"ECHO 'it\\'s'\r\n",
        b"ECHO \"\\x41\\n\\\"\"\r\n",
        b"ECHO \"open\r\n",
        b"ECHO \"a\"b\r\n",
        b"GET a\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$4\r\nECHO\r\n$3\r\na\x01b\r\n",
        b"*x\r\n",
        b"*1\r\n!4\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$9999999999999\r\n",
        b"*99999999999\r\n",
        b"*1\r\n$4\r\nPI",
        b"PI",
        b"NOSUCH \xff\xfe\r\n",
        b"QUIT\r\nPING\r\n",
    ];
    (0..=dice.below(3)).flat_map(|_| dice.pick(lines).to_vec()).collect()
}

/// Whether a request leaves both servers as they can be compared: running, answering, and with one database.
fn may_be_sent(args: &[Vec<u8>]) -> bool {
    let Some(name) = args.first() else { return false };
    let has = |word: &str| args.iter().any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    let number = |at: usize| {
        let text = args.get(at).and_then(|arg| std::str::from_utf8(arg).ok());
        text.and_then(|text| text.parse::<i64>().ok())
    };
    let is_database = |at: usize| number(at).is_some_and(|number| (1..16).contains(&number));
    match name.to_ascii_lowercase().as_slice() {
        b"shutdown" => has("FOO") || has("ABORT") || (has("SAVE") && has("NOSAVE")),
        b"wait" => {
            number(1).is_none_or(|n| n <= 0) || number(2).is_none_or(|n| (1..=10).contains(&n) || n < 0)
        }
        b"select" => !is_database(1),
        b"copy" => !(3..args.len()).any(is_database),
        // 7.0 keeps the name though an option behind it is wrong.
        b"hello" => !has("SETNAME") || args.len() <= 4,
        // Who is killed may still be answered: when it ends is chance.
        b"client" if has("kill") && has("normal") => has("maybe"),
        b"client" => !has("OFF") || has("NO-EVICT"),
        _ => true,
    }
}

/// The next steps; `in_multi` says which connections are queueing.
pub fn next(dice: &mut Dice, in_multi: [bool; 2]) -> Vec<Step> {
    let conn = usize::from(dice.once_in(5));
    match dice.below(150) {
        0 => vec![Step::Raw(raw(dice))],
        2 if !in_multi[conn] => {
            let mut filling = Filling { dice, args: Vec::new() };
            filling.fill(&words("[MATCH P|COUNT <1|2|7|100>|TYPE string]"));
            vec![Step::Walk(conn, filling.args)]
        }
        3 if !in_multi[conn] => {
            let (key, value) = (dice.key(), dice.value());
            let set = vec![b"SET".to_vec(), key.clone(), value, b"PX".to_vec(), b"1".to_vec()];
            let names =
                ["GET", "TYPE", "TTL", "EXISTS", "STRLEN", "PERSIST", "INCR", "GETDEL", "DEL", "OBJECT"];
            let name = *dice.pick(&names);
            let look = match name {
                "OBJECT" => vec![b"OBJECT".to_vec(), b"ENCODING".to_vec(), key],
                name => vec![dice.cased(name), key],
            };
            vec![Step::Over(conn, set, look)]
        }
        _ => {
            let args = filled(dice);
            // Redis 7.0 refuses some of these when they are queued, and then EXEC.
            let is_getkeys = |arg: &Vec<u8>| arg.to_ascii_lowercase().starts_with(b"getkeys");
            let is_kept = may_be_sent(&args) && !(in_multi[conn] && args.get(1).is_some_and(is_getkeys));
            if is_kept { vec![Step::Ask(conn, args)] } else { Vec::new() }
        }
    }
}
