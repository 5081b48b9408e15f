//! CONFIG GET and SET in Redis's words: real settings under their own and Redis's names, facts of this server under
//! Redis's names, and Redis's encoding knobs, which are accepted, remembered and without effect.

use std::collections::BTreeMap;

use super::{Config, Heat, SETTINGS};

/// What Redis calls settings and is a fact here; not to be changed.
fn facts(config: &Config) -> [(&'static str, String); 13] {
    [
        ("appendfilename", "wal".into()),
        ("appendfsync", "always".into()),
        ("appendonly", "yes".into()),
        ("bind", config.listen.ip().to_string()),
        ("cluster-enabled", "no".into()),
        ("daemonize", "no".into()),
        ("databases", "1".into()),
        ("dir", config.data_dir.display().to_string()),
        ("maxmemory-policy", "noeviction".into()),
        ("port", config.listen.port().to_string()),
        ("replica-read-only", "yes".into()),
        ("save", String::new()),
        (
            "client-output-buffer-limit",
            format!(
                "normal {} {} {} slave 0 0 0 pubsub 0 0 0",
                config.output_hard_bytes.0,
                config.output_soft_bytes.0,
                config.output_soft_ms.0 / 1000
            ),
        ),
    ]
}

/// Knobs of Redis that mean nothing here, with Redis's defaults.
const KNOBS: &[(&str, &str)] = &[
    ("active-expire-effort", "1"),
    ("activedefrag", "no"),
    ("activerehashing", "yes"),
    ("auto-aof-rewrite-min-size", "67108864"),
    ("auto-aof-rewrite-percentage", "100"),
    ("close-on-oom", "no"),
    ("hash-max-listpack-entries", "128"),
    ("hash-max-listpack-value", "64"),
    ("hash-max-ziplist-entries", "128"),
    ("hash-max-ziplist-value", "64"),
    ("hll-sparse-max-bytes", "3000"),
    ("hz", "10"),
    ("latency-monitor-threshold", "0"),
    ("lazyfree-lazy-eviction", "no"),
    ("lazyfree-lazy-expire", "no"),
    ("lazyfree-lazy-server-del", "no"),
    ("lazyfree-lazy-user-del", "no"),
    ("lazyfree-lazy-user-flush", "no"),
    ("lfu-decay-time", "1"),
    ("lfu-log-factor", "10"),
    ("list-compress-depth", "0"),
    ("list-max-listpack-size", "-2"),
    ("list-max-ziplist-size", "-2"),
    ("lua-time-limit", "5000"),
    ("maxmemory-samples", "5"),
    ("min-replicas-max-lag", "10"),
    ("min-replicas-to-write", "0"),
    ("no-appendfsync-on-rewrite", "no"),
    ("notify-keyspace-events", ""),
    ("rdb-key-save-delay", "0"),
    ("rdbchecksum", "yes"),
    ("rdbcompression", "yes"),
    ("repl-diskless-sync", "yes"),
    ("repl-timeout", "60"),
    ("set-max-intset-entries", "512"),
    ("set-max-listpack-entries", "128"),
    ("set-max-listpack-value", "64"),
    ("stream-node-max-bytes", "4096"),
    ("stream-node-max-entries", "100"),
    ("tcp-keepalive", "300"),
    ("zset-max-listpack-entries", "128"),
    ("zset-max-listpack-value", "64"),
    ("zset-max-ziplist-entries", "128"),
    ("zset-max-ziplist-value", "64"),
];

/// The configuration as it is now.
#[derive(Clone, Debug)]
pub struct Live {
    /// The values.
    pub config: Config,
    /// Knobs that somebody set.
    knobs: BTreeMap<&'static str, String>,
}

impl Live {
    /// As started.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, knobs: BTreeMap::new() }
    }

    /// All that `matches` finds, by name.
    #[must_use]
    pub fn get(&self, matches: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let mut found = BTreeMap::new();
        for setting in SETTINGS {
            // As in Redis, whoever may ask for the password by name knows it.
            let value = match setting.key {
                "requirepass" => self.config.requirepass.0.clone(),
                // What holds, where the setting leaves it to the log.
                "max_bulk_bytes" => self.config.argument_bytes().to_string(),
                _ => (setting.show)(&self.config),
            };
            for name in setting.redis.iter().copied().chain([setting.key]) {
                found.insert(name, value.clone());
            }
        }
        found.extend(facts(&self.config));
        for (name, default) in KNOBS {
            found.insert(name, self.knobs.get(name).cloned().unwrap_or_else(|| (*default).to_owned()));
        }
        found
            .into_iter()
            .filter(|(name, _)| matches(name))
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Changes all, or none: settings that fit only together can be changed together.
    ///
    /// # Errors
    /// The name of one that is at fault, and why: what follows
    /// `ERR CONFIG SET failed (possibly related to argument 'name') - `.
    pub fn set_all(&mut self, changes: &[(String, String)]) -> Result<(), (String, String)> {
        let mut changed = self.clone();
        let mut keys = Vec::new();
        for (name, value) in changes {
            let key = changed.set(name, value).map_err(|why| (name.clone(), why))?;
            keys.extend(key.map(|key| (key, name)));
        }
        // There was none before, so whatever setting it names, these changes bring it about.
        if let Some((at_fault, why)) = changed.config.contradictions().into_iter().next() {
            let named = keys.iter().find(|(key, _)| *key == at_fault);
            return Err(match (named, keys.first()) {
                (Some((_, name)), _) => ((*name).clone(), why),
                (None, Some((_, name))) => ((*name).clone(), format!("{at_fault}: {why}")),
                (None, None) => (at_fault.to_owned(), why),
            });
        }
        *self = changed;
        Ok(())
    }

    /// Changes one, whatever the others are. Answers the key of the setting, if it was one.
    fn set(&mut self, name: &str, value: &str) -> Result<Option<&'static str>, String> {
        let name = name.to_ascii_lowercase();
        if let Some(setting) = SETTINGS.iter().find(|s| s.key == name || s.redis.contains(&name.as_str())) {
            if (setting.show)(&self.config) == value && setting.heat != Heat::Hot {
                return Ok(None);
            }
            match setting.heat {
                Heat::Hot => {}
                Heat::Cold => return Err("can't set immutable config: it takes a restart".into()),
                Heat::Format => {
                    return Err("can't set immutable config: it is fixed by the data folder".into());
                }
            }
            (setting.set)(&mut self.config, value).map_err(|why| match setting.form {
                // What Redis says, where the name is Redis's.
                "N" if setting.key != name && value.parse::<i64>().is_err() => {
                    "argument couldn't be parsed into an integer".to_owned()
                }
                _ => why,
            })?;
            return Ok(Some(setting.key));
        }
        if let Some((_, fact)) = facts(&self.config).into_iter().find(|(fact, _)| *fact == name) {
            return if fact == value { Ok(None) } else { Err("can't set immutable config".into()) };
        }
        match KNOBS.iter().find(|(knob, _)| *knob == name) {
            Some((knob, _)) => {
                self.knobs.insert(knob, value.to_owned());
                Ok(None)
            }
            None => Err(format!("Unknown option or number of arguments for CONFIG SET - '{name}'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(live: &mut Live, name: &str, value: &str) -> Result<(), String> {
        live.set_all(&[(name.to_owned(), value.to_owned())]).map_err(|(at_fault, why)| {
            assert_eq!(at_fault, name);
            why
        })
    }

    fn get(live: &Live, name: &str) -> Option<String> {
        live.get(|candidate| candidate == name).pop().map(|(_, value)| value)
    }

    #[test]
    fn real_settings_have_two_names() {
        let mut live = Live::new(Config::default());
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
        assert!(
            set(&mut live, "slowlog-log-slower-than", "-2").is_err()
                && set(&mut live, "slowlog-max-len", "1000001").is_err()
        );
        set(&mut live, "slowlog-log-slower-than", "-1").expect("nothing is slow");
    }

    #[test]
    fn a_change_that_does_not_fit_another_setting_is_refused() {
        let mut config = Config::default();
        config.requirepass.0 = "secret".into();
        config.listen = "0.0.0.0:7379".parse().expect("address");
        assert_eq!(config.contradictions(), []);
        let mut live = Live::new(config);
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
    fn several_changes_are_made_together_or_not_at_all() {
        let mut live = Live::new(Config::default());
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let before = live.config.clone();
        let bad = pairs(&[("maxclients", "55"), ("hz", "99"), ("timeout", "x")]);
        assert_eq!(live.set_all(&bad).expect_err("no number").0, "timeout");
        let unfit = pairs(&[("proto-max-bulk-len", "2097152"), ("output.hard_bytes", "1")]);
        let (name, why) = live.set_all(&unfit).expect_err("below soft");
        assert!(name == "proto-max-bulk-len" && why.starts_with("output.soft_bytes: "), "{name}: {why}");
        assert_eq!((&live.config, get(&live, "hz").as_deref()), (&before, Some("10")));
        // Neither fits without the other.
        live.set_all(&pairs(&[("output.soft_bytes", "200MiB"), ("output.hard_bytes", "300MiB")]))
            .expect("both fit");
        live.set_all(&pairs(&[("proto-max-bulk-len", "2097152")])).expect("hot");
        live.set_all(&pairs(&[("maxclients", "100")])).expect("hot");
        assert_eq!(get(&live, "proto-max-bulk-len").as_deref(), Some("2097152"));
    }

    #[test]
    fn facts_stay_and_knobs_are_remembered() {
        let mut live = Live::new(Config::default());
        set(&mut live, "appendonly", "yes").expect("it is so");
        assert!(set(&mut live, "appendonly", "no").is_err());
        set(&mut live, "hash-max-ziplist-value", "99").expect("a knob");
        assert_eq!(get(&live, "hash-max-ziplist-value").as_deref(), Some("99"));
        assert_eq!(get(&live, "save").as_deref(), Some(""));
        assert!(set(&mut live, "no-such-thing", "1").expect_err("unknown").contains("Unknown option"));
        assert!(live.get(|_| true).len() > KNOBS.len() + SETTINGS.len());
    }
}
