//! What Redis's settings may be set to: each kind reads a value as Redis does, answers with it in the form in which CONFIG GET
//! shows it, and refuses with Redis's words.

/// The largest values of C's `long long` and `int`.
pub const MAX: i64 = i64::MAX;
/// See [`MAX`].
pub const INT: i64 = i32::MAX as i64;

/// The type of a setting, with its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Yes or no.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Several of these words, of which the first means none.
    Choices(&'static [&'static str]),
    /// A whole number from here to there.
    Integer(i64, i64),
    /// Bytes, from here to there.
    Memory(u64, u64),
    /// Bytes, or a part of the memory: `5%`.
    MemoryOrPercent,
    /// Any text.
    Text,
    /// Letters, digits, hyphens and dots.
    Hostname,
    /// The letters of keyspace events.
    Events,
    /// Three numbers from -2000 to 2000.
    OomScores,
    /// Percentiles, apart by spaces.
    Percentiles,
    /// What a process is called, with names in braces.
    Title,
    /// Pairs of seconds and changes.
    Save,
    /// Classes of clients, each with two limits and a time.
    BufferLimits,
}

impl Kind {
    /// Reads a value; answers with it as it is shown.
    ///
    /// # Errors
    /// Redis's text.
    pub fn read(self, text: &str) -> Result<String, String> {
        // These are C's strings to Redis.
        let c_text = text.split('\0').next().unwrap_or_default();
        match self {
            Self::Flag => ["yes", "no"]
                .into_iter()
                .find(|word| word.eq_ignore_ascii_case(c_text))
                .map(str::to_owned)
                .ok_or_else(|| "argument must be 'yes' or 'no'".to_owned()),
            Self::Choice(words) => choice(words, c_text).map(str::to_owned),
            Self::Choices(words) => choices(words, text),
            Self::Integer(least, most) => integer(text, least, most),
            Self::Memory(least, most) => memory(c_text, least, most),
            Self::MemoryOrPercent => memory_or_percent(c_text),
            Self::Text | Self::BufferLimits => Ok(text.to_owned()),
            Self::Hostname => hostname(text),
            Self::Events => events(text),
            Self::OomScores => oom_scores(text),
            Self::Percentiles => percentiles(text)
                .map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
            Self::Title => title(c_text),
            Self::Save => save(text),
        }
    }
}

fn choice(words: &[&'static str], text: &str) -> Result<&'static str, String> {
    let found = words.iter().find(|word| word.eq_ignore_ascii_case(text));
    match found {
        // Two words for one thing: the first is shown.
        Some(&"relative") => Ok("yes"),
        Some(word) => Ok(word),
        None => Err(format!("argument(s) must be one of the following: {}", words.join(", "))),
    }
}

fn choices(words: &[&'static str], text: &str) -> Result<String, String> {
    let mut found = Vec::new();
    for word in text.split(' ') {
        found.push(choice(words, word)?);
    }
    let shown: Vec<&str> = words.iter().skip(1).copied().filter(|word| found.contains(word)).collect();
    if shown.contains(&"save") && shown.contains(&"nosave") {
        return Err("shutdown options SAVE and NOSAVE can't be used simultaneously".to_owned());
    }
    let none = words.first().copied().unwrap_or_default();
    Ok(if shown.is_empty() { none.to_owned() } else { shown.join(" ") })
}

/// A whole number without anything that would be lost when it is shown.
fn plain_integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

fn integer(text: &str, least: i64, most: i64) -> Result<String, String> {
    let number = plain_integer(text).ok_or("argument couldn't be parsed into an integer")?;
    if (least..=most).contains(&number) {
        Ok(number.to_string())
    } else {
        Err(format!("argument must be between {least} and {most} inclusive"))
    }
}

/// Bytes as Redis writes them: `k` is 1000, `kb` 1024. What has no digits is 0.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    if digits.len() >= 128 {
        return None;
    }
    let number = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u64::MAX) };
    Some(number.wrapping_mul(factor))
}

fn memory(text: &str, least: u64, most: u64) -> Result<String, String> {
    let bytes = bytes(text).ok_or("argument must be a memory value")?;
    if (least..=most).contains(&bytes) {
        Ok(bytes.to_string())
    } else {
        Err(format!("argument must be between {least} and {most} inclusive"))
    }
}

fn memory_or_percent(text: &str) -> Result<String, String> {
    if let Some(bytes) = bytes(text) {
        return Ok(bytes.to_string());
    }
    let part = text.strip_suffix('%').and_then(plain_integer).filter(|part| *part >= 0);
    match part.ok_or("argument must be a memory or percent value")? {
        0 => Ok("0".to_owned()),
        part @ 1..=100 => Ok(format!("{part}%")),
        _ => Err("percentage argument must be less or equal to 100".to_owned()),
    }
}

fn hostname(text: &str) -> Result<String, String> {
    if text.len() >= 256 {
        return Err("Hostnames must be less than 256 characters".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.') {
        Ok(text.to_owned())
    } else {
        Err("Hostnames may only contain alphanumeric characters, hyphens or dots".to_owned())
    }
}

fn events(text: &str) -> Result<String, String> {
    const ALL: &str = "g$lshzxetd";
    if !text.chars().all(|letter| "AgKEmn".contains(letter) || ALL.contains(letter)) {
        return Err("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.".to_owned());
    }
    let is_all = text.contains('A') || ALL.chars().all(|letter| text.contains(letter));
    let named = if is_all { "A".to_owned() } else { picked("g$lshzxetdn", text) };
    Ok(named + &picked("KEm", text))
}

fn picked(letters: &str, text: &str) -> String {
    letters.chars().filter(|letter| text.contains(*letter)).collect()
}

fn oom_scores(text: &str) -> Result<String, String> {
    let words: Vec<&str> = text.split(' ').collect();
    if words.len() != 3 {
        return Err("wrong number of arguments".to_owned());
    }
    if words.iter().all(|word| word.parse().is_ok_and(|score: i64| (-2000..=2000).contains(&score))) {
        Ok(text.to_owned())
    } else {
        Err("Invalid oom-score-adj-values, elements must be between -2000 and 2000.".to_owned())
    }
}

/// Reads percentiles.
///
/// # Errors
/// Redis's text.
pub fn percentiles(text: &str) -> Result<Vec<f64>, String> {
    let words: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(' ').collect() };
    let read = |word: &&str| word.parse().ok().filter(|number: &f64| !number.is_nan());
    let list: Option<Vec<f64>> = words.iter().map(read).collect();
    let list = list.ok_or("Invalid latency-tracking-info-percentiles parameters")?;
    if list.iter().all(|percentile| (0.0..=100.0).contains(percentile)) {
        Ok(list)
    } else {
        Err("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]".to_owned())
    }
}

/// Accepts what names only what Redis names, and does not come out empty.
fn title(text: &str) -> Result<String, String> {
    const SHOWN: [&str; 3] = ["listen-addr", "port", "tls-port"];
    const EMPTY: [&str; 4] = ["title", "server-mode", "unixsocket", "config-file"];
    let wrong = || "template format is invalid or contains unknown variables".to_owned();
    let (mut rest, mut has_text) = (text, false);
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{{") {
            (rest, has_text) = (after, true);
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or_else(wrong)?;
            if !SHOWN.contains(&name) && !EMPTY.contains(&name) {
                return Err(wrong());
            }
            has_text |= SHOWN.contains(&name);
            rest = after;
        } else {
            has_text |= first != ' ';
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        }
    }
    if has_text { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn save(text: &str) -> Result<String, String> {
    let words: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(' ').collect() };
    let is_pair = |pair: &[&str]| {
        let [seconds, changes] = pair else { return false };
        seconds.parse().is_ok_and(|n: i64| n >= 1) && changes.parse().is_ok_and(|n: i64| n >= 0)
    };
    if words.chunks(2).all(is_pair) { Ok(text.to_owned()) } else { Err("Invalid save parameters".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, pairs: &[(&str, &str)]) {
        for (text, expected) in pairs {
            let got = kind.read(text).unwrap_or_else(|why| format!("-{why}"));
            assert_eq!(got, *expected, "{kind:?} {text:?}");
        }
    }

    #[test]
    fn numbers_and_sizes_as_redis_reads_them() {
        let no_integer = "-argument couldn't be parsed into an integer";
        check(
            Kind::Integer(1, 500),
            &[("1", "1"), ("500", "500"), ("01", no_integer), (" 1", no_integer), ("", no_integer)],
        );
        check(Kind::Integer(1, 500), &[("0", "-argument must be between 1 and 500 inclusive")]);
        let no_memory = "-argument must be a memory value";
        check(
            Kind::Memory(0, MAX as u64),
            &[
                ("1kb", "1024"),
                ("1K", "1000"),
                ("2GB", "2147483648"),
                ("", "0"),
                ("kb", "0"),
                ("1t", no_memory),
            ],
        );
        check(
            Kind::Memory(0, 9),
            &[("-1", no_memory), ("+1", no_memory), ("1 kb", no_memory), ("7\0x", "7")],
        );
        check(
            Kind::MemoryOrPercent,
            &[
                ("1mb", "1048576"),
                ("5%", "5%"),
                ("0%", "0"),
                ("%", "-argument must be a memory or percent value"),
            ],
        );
        check(Kind::MemoryOrPercent, &[("101%", "-percentage argument must be less or equal to 100")]);
    }

    #[test]
    fn words_as_redis_reads_them() {
        check(Kind::Flag, &[("YES", "yes"), ("maybe", "-argument must be 'yes' or 'no'")]);
        let oom = Kind::Choice(&["no", "yes", "relative"]);
        check(
            oom,
            &[("Relative", "yes"), ("x", "-argument(s) must be one of the following: no, yes, relative")],
        );
        let stop = Kind::Choices(&["default", "save", "nosave", "now"]);
        check(stop, &[("now SAVE", "save now"), ("default", "default"), ("default now", "now")]);
        assert!(stop.read("save nosave").is_err() && stop.read("save  now").is_err());
        check(Kind::Events, &[("KEA", "AKE"), ("Elg$", "g$lE"), ("AKEmn", "AKEm"), ("mn", "nm"), ("", "")]);
        assert!(Kind::Events.read("Q!").is_err());
        check(Kind::Percentiles, &[("1e1 99.999", "10 99.999"), ("", "")]);
        assert!(["10.0 abc 101", "50  99", "nan", "101"].iter().all(|t| Kind::Percentiles.read(t).is_err()));
        check(Kind::OomScores, &[("1 2 -3", "1 2 -3"), ("1 2", "-wrong number of arguments")]);
        assert!(Kind::OomScores.read("1 2 3000").is_err());
        check(Kind::Title, &[("a {title}", "a {title}"), ("{{title}}", "{{title}}"), ("{port}", "{port}")]);
        assert!(["", "{title}", "{foo}", "a {title"].iter().all(|t| Kind::Title.read(t).is_err()));
        check(Kind::Save, &[("900 1 300 10", "900 1 300 10"), ("0 1", "-Invalid save parameters")]);
        assert!(Kind::Hostname.read("a-b.C").is_ok() && Kind::Hostname.read("junk!").is_err());
    }
}
