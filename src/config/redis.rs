//! CONFIG GET and SET: our own settings under their own names, and Redis's under Redis's, by the table of [`super::knobs`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::knobs::{self, KNOBS, Knob, Meaning};
use super::{Config, Heat, LogLevel, SETTINGS};

/// What "no limit" of unread output comes to: no connection may have more, whatever the settings allow.
const NO_LIMIT_BYTES: u64 = 128 << 20;
/// Classes of clients that there are none of, with Redis's limits of their output.
const OTHER_CLASSES: &str = "slave 268435456 67108864 60 pubsub 33554432 8388608 60";
/// What Redis takes for the nearest of these, though it is a value: settings, the least, and the most.
const NEAREST: [(&str, u64, u64); 2] = [("hz", 1, 500), ("repl-backlog-size", 16 << 10, u64::MAX)];

/// The configuration as it is now.
#[derive(Clone, Debug)]
pub struct Live {
    /// The values.
    pub config: Config,
    /// Memory of the state, in bytes: what `memory_bytes` came to.
    memory: u64,
    /// The longest argument of a request that there may be, whatever is set, in bytes.
    pub(super) largest_argument_bytes: u64,
    /// Redis's settings that somebody set and that `config` has no field for.
    remembered: BTreeMap<&'static str, String>,
}

/// Why a change was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The change of this number names nothing that there is.
    Unknown(usize),
    /// This name, and what follows `ERR CONFIG SET failed (possibly related to argument 'name') - `.
    Unfit(String, String),
}

const fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error | LogLevel::Warn => "warning",
        LogLevel::Info => "notice",
        LogLevel::Debug => "verbose",
        LogLevel::Trace => "debug",
    }
}

fn level_of(name: &str) -> LogLevel {
    match name {
        "debug" => LogLevel::Trace,
        "verbose" => LogLevel::Debug,
        "notice" => LogLevel::Info,
        _ => LogLevel::Warn,
    }
}

impl Live {
    /// As started, with so much memory for the state.
    #[must_use]
    pub fn new(config: Config, memory: u64) -> Self {
        let largest_argument_bytes = config.largest_argument_bytes();
        Self { config, memory, largest_argument_bytes, remembered: BTreeMap::new() }
    }

    /// What CONFIG GET shows for patterns: our own names, and Redis's but for the hidden ones.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, String)> {
        let mut found: BTreeMap<&'static str, String> =
            SETTINGS.iter().map(|setting| (setting.key, (setting.show)(&self.config))).collect();
        for knob in KNOBS.iter().filter(|knob| knob.meaning != Meaning::Hidden) {
            for name in [knob.name, knob.alias].into_iter().filter(|name| !name.is_empty()) {
                found.insert(name, self.value(knob));
            }
        }
        found.into_iter().collect()
    }

    /// The value of this name, whatever its case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        if let Some(knob) = knobs::find(name) {
            return Some(self.value(knob));
        }
        let setting = SETTINGS.iter().find(|setting| setting.key.eq_ignore_ascii_case(name))?;
        Some((setting.show)(&self.config))
    }

    /// One of Redis's settings, as it is shown.
    fn value(&self, knob: &Knob) -> String {
        let config = &self.config;
        match knob.name {
            "bind" => config.listen.ip().to_string(),
            "port" => config.listen.port().to_string(),
            "dir" => config.data_dir.display().to_string(),
            "maxmemory" => self.memory.to_string(),
            "loglevel" => level_name(config.log_level).to_owned(),
            "shutdown-timeout" => (config.shutdown_timeout_ms.0 / 1000).to_string(),
            // As in Redis, whoever may ask for the password by name knows it.
            "requirepass" => config.requirepass.0.clone(),
            // What holds, where the setting leaves it to the log and the cluster.
            "proto-max-bulk-len" => self.argument_bytes().to_string(),
            // As it was set, for as long as that is what holds.
            "maxmemory-clients" => {
                let part = self.remembered.get(knob.name);
                let part = part.filter(|part| self.part_bytes(part) == Some(config.clients_bytes.0));
                part.map_or_else(|| config.clients_bytes.0.to_string(), String::clone)
            }
            "client-output-buffer-limit" => {
                let others = self.remembered.get(knob.name).map_or(OTHER_CLASSES, String::as_str);
                let (hard, soft) = (config.output_hard_bytes.0, config.output_soft_bytes.0);
                format!("normal {hard} {soft} {} {others}", config.output_soft_ms.0 / 1000)
            }
            name => match SETTINGS.iter().find(|setting| setting.redis.contains(&name)) {
                Some(setting) => (setting.show)(config),
                None => self.remembered.get(name).map_or(knob.default, String::as_str).to_owned(),
            },
        }
    }

    /// Changes all, or none: settings that fit only together can be changed together.
    ///
    /// # Errors
    /// Which one is at fault, and why.
    pub fn set_all(&mut self, changes: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        check_names(changes)?;
        let mut changed = self.clone();
        let mut keys = Vec::new();
        for (name, value) in changes {
            let name = name.to_ascii_lowercase();
            let key = changed.set(&name, value).map_err(|why| Refused::Unfit(name.clone(), why))?;
            keys.extend(key.map(|key| (key, name)));
        }
        // There was none before, so whatever setting it names, these changes bring it about.
        let contradiction = changed.config.contradictions().into_iter().next();
        if let Some((at_fault, why)) = contradiction.or_else(|| changed.beyond_limits()) {
            let named = keys.iter().find(|(key, _)| *key == at_fault);
            return Err(match (named, keys.first()) {
                (Some((_, name)), _) => Refused::Unfit(name.clone(), why),
                (None, Some((_, name))) => Refused::Unfit(name.clone(), format!("{at_fault}: {why}")),
                (None, None) => Refused::Unfit(at_fault.to_owned(), why),
            });
        }
        *self = changed;
        Ok(())
    }

    /// Changes one, whatever the others are. Answers the key of our own setting, if it was one.
    fn set(&mut self, name: &str, value: &[u8]) -> Result<Option<&'static str>, String> {
        let text = String::from_utf8_lossy(value);
        let is_text = matches!(text, Cow::Borrowed(_));
        let Some(knob) = knobs::find(name) else { return self.set_own(name, &text).map(Some) };
        let read = knob.kind.read(&text)?;
        if !is_text {
            return Err("the value is no UTF-8".to_owned());
        }
        match knob.meaning {
            Meaning::Immutable | Meaning::Protected => Err("can't set immutable config".to_owned()),
            Meaning::Fixed if read == self.value(knob) => Ok(None),
            Meaning::Fixed => Err(format!("it is always '{}' here", self.value(knob))),
            Meaning::Remembered | Meaning::Hidden => {
                self.remember(knob, read);
                Ok(None)
            }
            Meaning::Real => self.set_real(knob, read),
        }
    }

    fn remember(&mut self, knob: &Knob, read: String) {
        let bounds = NEAREST.iter().find(|(name, ..)| *name == knob.name);
        let read = match (bounds, read.parse::<u64>()) {
            (Some((_, least, most)), Ok(number)) => number.clamp(*least, *most).to_string(),
            (None, Ok(ms)) if knob.name == "watchdog-period" => self.watchdog_ms(ms).to_string(),
            (_, _) => read,
        };
        // Memory stays bounded by the table of names.
        let read = read.chars().take(4096).collect();
        self.remembered.insert(knob.name, read);
    }

    /// What Redis makes of a watchdog's period: at least two of its timer's, unless it is off.
    fn watchdog_ms(&self, ms: u64) -> u64 {
        let hz = self.remembered.get("hz").and_then(|hz| hz.parse().ok()).unwrap_or(10);
        if ms == 0 { 0 } else { ms.max(1000 / hz * 2) }
    }

    fn set_real(&mut self, knob: &Knob, read: String) -> Result<Option<&'static str>, String> {
        match knob.name {
            "loglevel" if read == level_name(self.config.log_level) => Ok(Some("log.level")),
            "loglevel" => {
                self.config.log_level = level_of(&read);
                Ok(Some("log.level"))
            }
            "shutdown-timeout" => {
                let seconds: u64 = read.parse().map_err(|_| "argument couldn't be parsed into an integer")?;
                self.config.shutdown_timeout_ms.0 = seconds.saturating_mul(1000);
                Ok(Some("timeout.shutdown_ms"))
            }
            "client-output-buffer-limit" => self.set_output_limits(&read).map(|()| Some("output.soft_bytes")),
            "maxmemory-clients" if read.ends_with('%') => {
                let bytes = self.part_bytes(&read).ok_or("argument must be a memory or percent value")?;
                self.config.clients_bytes.0 = bytes;
                self.remember(knob, read);
                Ok(Some("memory.clients_bytes"))
            }
            name if self.value(knob) == read && name != "requirepass" => Ok(None),
            name => match SETTINGS.iter().find(|setting| setting.redis.contains(&name)) {
                Some(setting) => self.set_own(setting.key, &read).map(Some),
                None => {
                    self.remember(knob, read);
                    Ok(None)
                }
            },
        }
    }

    /// What a part of the state's memory, like `5%`, comes to; `None` if it is no part.
    fn part_bytes(&self, part: &str) -> Option<u64> {
        let percent: u64 = part.strip_suffix('%')?.parse().ok()?;
        u64::try_from(u128::from(self.memory) * u128::from(percent) / 100).ok()
    }

    /// One of our own settings, by its own name.
    fn set_own(&mut self, key: &str, value: &str) -> Result<&'static str, String> {
        let setting = super::find(key).ok_or("no such setting")?;
        if (setting.show)(&self.config) == value && setting.heat != Heat::Hot {
            return Ok(setting.key);
        }
        match setting.heat {
            Heat::Hot => (setting.set)(&mut self.config, value).map(|()| setting.key),
            Heat::Cold => Err("can't set immutable config: it takes a restart".into()),
            Heat::Format => Err("can't set immutable config: it is fixed by the data folder".into()),
        }
    }

    /// Limits of unread output, in Redis's words: classes, each with a hard limit, a soft one, and how many seconds it may be
    /// passed. The first class is that of all clients here; 0 is as much as there can be.
    fn set_output_limits(&mut self, text: &str) -> Result<(), String> {
        const NUMBERS: &str = "Error in hard, soft or soft_seconds setting in buffer limit configuration.";
        let words: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(' ').collect() };
        if !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.".to_owned());
        }
        let others = self.remembered.get("client-output-buffer-limit").map_or(OTHER_CLASSES, String::as_str);
        let mut others: Vec<String> = others.split(' ').map(str::to_owned).collect();
        for class in words.chunks_exact(4) {
            let [class, hard, soft, seconds] = class else { continue };
            let at = match class.to_ascii_lowercase().as_str() {
                "normal" => None,
                "slave" | "replica" => Some(0),
                "pubsub" => Some(4),
                _ => return Err("Invalid client class specified in buffer limit configuration.".to_owned()),
            };
            let (hard, soft) = (knobs::bytes(hard).ok_or(NUMBERS)?, knobs::bytes(soft).ok_or(NUMBERS)?);
            let seconds: u64 = seconds.parse().map_err(|_| NUMBERS)?;
            match at {
                Some(at) => {
                    let numbers = [hard, soft, seconds].map(|number| number.to_string());
                    others.splice(at + 1..at + 4, numbers);
                }
                None => {
                    let config = &mut self.config;
                    config.output_hard_bytes.0 = if hard == 0 { NO_LIMIT_BYTES } else { hard };
                    config.output_soft_bytes.0 = if soft == 0 { config.output_hard_bytes.0 } else { soft };
                    config.output_soft_ms.0 = seconds.saturating_mul(1000);
                }
            }
        }
        self.remembered.insert("client-output-buffer-limit", others.join(" "));
        Ok(())
    }
}

/// What can be seen from the names alone, in Redis's order: the first that is unknown, not to be changed, or named twice.
fn check_names(changes: &[(String, Vec<u8>)]) -> Result<(), Refused> {
    for (at, (name, _)) in changes.iter().enumerate() {
        let why = match knobs::find(name).map(|knob| knob.meaning) {
            Some(Meaning::Immutable) => Some("can't set immutable config"),
            Some(Meaning::Protected) => Some("can't set protected config"),
            Some(Meaning::Real | Meaning::Fixed | Meaning::Remembered | Meaning::Hidden) => None,
            None if super::find(&name.to_ascii_lowercase()).is_some() => None,
            None => return Err(Refused::Unknown(at)),
        };
        let mut before = changes.iter().take(at);
        let is_repeated = before.any(|(other, _)| other.eq_ignore_ascii_case(name));
        if let Some(why) = why.or(is_repeated.then_some("duplicate parameter")) {
            return Err(Refused::Unfit(name.clone(), why.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live() -> Live {
        Live::new(Config::default(), 12 << 30)
    }

    fn set(live: &mut Live, name: &str, value: &str) -> Result<(), String> {
        live.set_all(&[(name.to_owned(), value.into())]).map_err(|refused| match refused {
            Refused::Unfit(at_fault, why) => {
                assert!(at_fault.eq_ignore_ascii_case(name));
                why
            }
            Refused::Unknown(at) => format!("unknown {at}"),
        })
    }

    fn get(live: &Live, name: &str) -> Option<String> {
        live.get(name)
    }

    #[test]
    fn real_settings_have_two_names() {
        let mut live = live();
        set(&mut live, "MAXCLIENTS", "77").expect("hot");
        assert_eq!(get(&live, "max_clients").as_deref(), Some("77"));
        assert_eq!(get(&live, "maxclients").as_deref(), Some("77"));
        assert_eq!(live.config.max_clients, 77);
        assert!(set(&mut live, "maxclients", "x").is_err());
        assert!(set(&mut live, "shards", "9").is_err());
        set(&mut live, "wal.sync", "inline").expect("hot");
        assert!(set(&mut live, "wal.max_in_flight", "3").is_err());
        let why = set(&mut live, "slowlog-max-len", "x").expect_err("no number");
        assert_eq!(why, "argument couldn't be parsed into an integer");
        let why = set(&mut live, "timeout", "-1").expect_err("negative");
        assert_eq!(why, "argument must be between 0 and 2147483647 inclusive");
        assert!(set(&mut live, "slowlog-max-len", "1000001").is_err());
        set(&mut live, "slowlog-log-slower-than", "-1").expect("nothing is slow");
        set(&mut live, "proto-max-bulk-len", "2mb").expect("hot");
        assert_eq!(get(&live, "proto-max-bulk-len").as_deref(), Some("2097152"));
        // What a refusal advises can be done, whichever of the names was used.
        let why = set(&mut live, "proto-max-bulk-len", "1gb").expect_err("more than an entry takes");
        assert!(why.contains("`max_bulk_bytes` 0 takes the most"), "{why}");
        let why = set(&mut live, "proto-max-bulk-len", "0").expect_err("as in Redis");
        assert_eq!(why, "argument must be between 1048576 and 9223372036854775807 inclusive");
        set(&mut live, "max_bulk_bytes", "0").expect("the most");
        let mut limited = Live::new(Config::default(), 0).limited_to(4 << 20);
        assert_eq!(get(&limited, "proto-max-bulk-len").as_deref(), Some("4194304"));
        let why = set(&mut limited, "proto-max-bulk-len", "5mb").expect_err("more than the cluster takes");
        assert!(why.contains("the longest argument of this cluster"), "{why}");
        set(&mut limited, "max_bulk_bytes", "3MiB").expect("less");
        assert_eq!(limited.argument_bytes(), 3 << 20);
        let log = Live::new(Config::default(), 0).limited_to(u64::MAX);
        assert_eq!(log.argument_bytes(), log.config.largest_argument_bytes(), "its log takes no more");
        assert_eq!(get(&live, "maxmemory").as_deref(), Some("12884901888"), "what INFO says");
        set(&mut live, "maxmemory", "12gb").expect("it is so");
        assert!(set(&mut live, "maxmemory", "13gb").is_err());
    }

    #[test]
    fn limits_in_redis_words_act() {
        let mut live = live();
        set(&mut live, "client-output-buffer-limit", "normal 64mb 1mb 5 replica 1 2 3").expect("hot");
        let config = &live.config;
        assert_eq!((config.output_hard_bytes.0, config.output_soft_bytes.0), (64 << 20, 1 << 20));
        assert_eq!(config.output_soft_ms.0, 5000);
        let shown = get(&live, "client-output-buffer-limit").expect("there");
        assert_eq!(shown, "normal 67108864 1048576 5 slave 1 2 3 pubsub 33554432 8388608 60");
        set(&mut live, "client-output-buffer-limit", "normal 0 0 0").expect("as much as there is");
        assert_eq!(live.config.output_hard_bytes.0, NO_LIMIT_BYTES);
        for wrong in ["junk!", "normal 1 2", "foo 1 2 3", "normal a 2 3", "normal 1 2 -3", "normal 1  2 3"] {
            assert!(set(&mut live, "client-output-buffer-limit", wrong).is_err(), "{wrong}");
        }
        set(&mut live, "shutdown-timeout", "3").expect("hot");
        assert_eq!(live.config.shutdown_timeout_ms.0, 3000);
        set(&mut live, "loglevel", "VERBOSE").expect("hot");
        assert_eq!(
            (live.config.log_level, get(&live, "log.level").as_deref()),
            (LogLevel::Debug, Some("debug"))
        );
    }

    #[test]
    fn a_change_that_does_not_fit_another_setting_is_refused() {
        let mut config = Config::default();
        config.requirepass.0 = "secret".into();
        config.listen = "0.0.0.0:7379".parse().expect("address");
        assert_eq!(config.contradictions(), []);
        let mut live = Live::new(config, 0);
        assert!(set(&mut live, "requirepass", "").expect_err("open to all").starts_with("listen: "));
        assert!(
            set(&mut live, "output.hard_bytes", "1")
                .expect_err("below soft")
                .starts_with("output.soft_bytes: ")
        );
        assert!(set(&mut live, "maxclients", "0").is_err());
        assert_eq!(get(&live, "requirepass").as_deref(), Some("secret"));
        set(&mut live, "requirepass", "other").expect("still closed");
    }

    #[test]
    fn a_machine_that_shrinks_forbids_no_change() {
        let mut config = Config::default();
        config.memory_bytes.0 = u64::MAX;
        assert_eq!(config.beyond_the_machine().map(|(key, _)| key), Some("memory_bytes"));
        let mut live = Live::new(config, 0);
        set(&mut live, "maxclients", "77").expect("it has nothing to do with memory");
        assert_eq!(live.config.max_clients, 77);
    }

    #[test]
    fn several_changes_are_made_together_or_not_at_all() {
        let mut live = live();
        let pairs = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect::<Vec<_>>()
        };
        let before = live.config.clone();
        let name = |refused| match refused {
            Refused::Unfit(name, why) => format!("{name}: {why}"),
            Refused::Unknown(at) => format!("unknown {at}"),
        };
        let bad = pairs(&[("maxclients", "55"), ("hz", "99"), ("timeout", "x")]);
        assert!(name(live.set_all(&bad).expect_err("no number")).starts_with("timeout: "));
        let unfit = pairs(&[("proto-max-bulk-len", "2097152"), ("output.hard_bytes", "1")]);
        let why = name(live.set_all(&unfit).expect_err("below soft"));
        assert!(why.starts_with("proto-max-bulk-len: output.soft_bytes: "), "{why}");
        assert_eq!((&live.config, get(&live, "hz").as_deref()), (&before, Some("10")));
        // As Redis goes through the names: the first fault counts, before any value is looked at.
        let wrong =
            |live: &mut Live, list: &[(&str, &str)]| name(live.set_all(&pairs(list)).expect_err("wrong"));
        assert_eq!(wrong(&mut live, &[("HZ", "x"), ("nosuch", "1"), ("DATABASES", "1")]), "unknown 1");
        let immutable = "DATABASES: can't set immutable config";
        assert_eq!(wrong(&mut live, &[("HZ", "x"), ("DATABASES", "1"), ("nosuch", "1")]), immutable);
        assert_eq!(wrong(&mut live, &[("hz", "x"), ("HZ", "y")]), "HZ: duplicate parameter");
        // Neither fits without the other.
        live.set_all(&pairs(&[("output.soft_bytes", "200MiB"), ("output.hard_bytes", "300MiB")]))
            .expect("both fit");
        live.set_all(&pairs(&[("proto-max-bulk-len", "2097152")])).expect("hot");
        live.set_all(&pairs(&[("maxclients", "100")])).expect("hot");
        assert_eq!(get(&live, "proto-max-bulk-len").as_deref(), Some("2097152"));
    }

    #[test]
    fn facts_stay_and_knobs_are_remembered_if_they_are_values() {
        let mut live = live();
        set(&mut live, "appendonly", "yes").expect("it is so");
        assert!(set(&mut live, "appendonly", "no").is_err());
        set(&mut live, "hash-max-ziplist-value", "1kb").expect("a knob");
        assert_eq!(get(&live, "hash-max-listpack-value").as_deref(), Some("1024"));
        assert_eq!(get(&live, "save").as_deref(), Some(""));
        for (name, value) in [
            ("hz", "abc"),
            ("activedefrag", "maybe"),
            ("notify-keyspace-events", "Q!"),
            ("tcp-keepalive", "abc"),
            ("lfu-decay-time", "-5"),
            ("maxmemory-samples", "0"),
            ("latency-tracking-info-percentiles", "10.0 abc 101"),
        ] {
            assert!(set(&mut live, name, value).is_err(), "{name} {value}");
        }
        set(&mut live, "maxmemory-clients", "1mb").expect("a size");
        assert_eq!(get(&live, "maxmemory-clients").as_deref(), Some("1048576"));
        set(&mut live, "maxmemory-clients", "5%").expect("a part of the memory");
        assert_eq!(live.config.clients_bytes.0, (12 << 30) / 20);
        assert_eq!(get(&live, "maxmemory-clients").as_deref(), Some("5%"), "as Redis shows it");
        assert_eq!(get(&live, "memory.clients_bytes").as_deref(), Some("644245094"));
        set(&mut live, "memory.clients_bytes", "2MiB").expect("by its own name");
        assert_eq!(get(&live, "maxmemory-clients").as_deref(), Some("2097152"));
        let mut small = Live::new(Config::default(), 16 << 20);
        let why = set(&mut small, "maxmemory-clients", "1%").expect_err("next to nothing");
        assert!(why.contains("is below 1 MiB"), "{why}");
        set(&mut live, "hz", "1000").expect("taken for the nearest");
        assert_eq!(get(&live, "hz").as_deref(), Some("500"));
        for (hz, asked, taken) in
            [("10", "5", "200"), ("10", "0", "0"), ("10", "300", "300"), ("100", "5", "20")]
        {
            set(&mut live, "hz", hz).expect("taken");
            set(&mut live, "watchdog-period", asked).expect("taken");
            assert_eq!(get(&live, "watchdog-period").as_deref(), Some(taken), "{asked} at {hz} a second");
        }
        set(&mut live, "repl-backlog-size", "1k").expect("taken for the nearest");
        assert_eq!(get(&live, "repl-backlog-size").as_deref(), Some("16384"));
        assert_eq!(set(&mut live, "no-such-thing", "1"), Err("unknown 0".to_owned()));
        let all = live.all();
        assert!(all.len() > KNOBS.len() + SETTINGS.len());
        assert!(all.iter().all(|(name, _)| *name != "key-load-delay"), "hidden");
        assert_eq!(get(&live, "KEY-load-delay").as_deref(), Some("0"), "but there");
    }
}
