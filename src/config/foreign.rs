//! Configuration files of Redis: recognised, and translated for whoever starts the server with one.
//!
//! Nothing is taken over by itself: several of Redis's settings have no counterpart here, and whoever relied on one should
//! read so before the server runs without it.

/// What stands for a directive of Redis.
enum Counterpart {
    /// This setting, written so for this value.
    Setting(fn(&str) -> String),
    /// Nothing needed, for this reason.
    Always(&'static str),
}

use Counterpart::{Always, Setting};

/// Directives and what stands for them. The port and the address are one setting here, so those two are put together.
const KNOWN: &[(&str, Counterpart)] = &[
    ("dir", Setting(|path| format!("data_dir = {path:?}"))),
    (
        "requirepass",
        Setting(|_| {
            "requirepass_file = \"PATH\" (a file that holds the password), or requirepass".to_owned()
        }),
    ),
    ("maxclients", Setting(|count| format!("max_clients = {count}"))),
    ("timeout", Setting(|seconds| format!("timeout.idle_s = {seconds}"))),
    (
        "maxmemory",
        Setting(|bytes| {
            format!("memory_bytes = {bytes:?} (what does not fit stays on the disk; nothing is evicted)")
        }),
    ),
    ("disable-thp", Setting(|word| format!("disable_thp = {word:?}"))),
    ("unixsocket", Setting(|path| format!("unix_socket = {path:?}"))),
    ("unixsocketperm", Setting(|mode| format!("unix_socket_mode = {mode:?}"))),
    ("slowlog-log-slower-than", Setting(|us| format!("slowlog.slower_than_us = {us}"))),
    ("slowlog-max-len", Setting(|count| format!("slowlog.max_len = {count}"))),
    ("proto-max-bulk-len", Setting(|bytes| format!("max_bulk_bytes = {bytes:?}"))),
    ("loglevel", Setting(|level| format!("log.level = {:?}", log_level(level)))),
    (
        "client-output-buffer-limit",
        Setting(|_| "output.hard_bytes, output.soft_bytes, output.soft_ms".to_owned()),
    ),
    ("io-threads", Setting(|_| "cores (which CPUs to use; all, if it is left out)".to_owned())),
    ("appendonly", Always("every write is logged and on the disk before it is acknowledged")),
    ("appendfsync", Always("every write is logged and on the disk before it is acknowledged")),
    ("save", Always("there are no snapshots to time")),
    ("tcp-keepalive", Always("no counterpart; timeout.idle_s closes connections that are silent")),
    ("protected-mode", Always("other addresses than this machine's need a password")),
    ("daemonize", Always("it runs in the foreground; a service manager keeps it (docs/corduroy.service)")),
    ("supervised", Always("systemd is notified by itself when the server is ready")),
    ("logfile", Always("logs go to stderr")),
    ("maxmemory-policy", Always("nothing is evicted")),
    ("databases", Always("there is one, number 0")),
];

/// Redis's levels in our words.
fn log_level(level: &str) -> &'static str {
    match level {
        "debug" | "verbose" => "debug",
        "warning" => "warn",
        _ => "info",
    }
}

/// The lines of a file as directives, if all of it reads so: a word in Redis's manner, then at least one argument.
fn directives(text: &str) -> Option<Vec<(String, Vec<&str>)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let arguments: Vec<&str> = words.map(|word| word.trim_matches(['"', '\''])).collect();
            let is_directive = is_name && !arguments.is_empty() && !arguments.first()?.starts_with('=');
            is_directive.then(|| (name.to_ascii_lowercase(), arguments))
        })
        .collect()
}

/// What to say of a file that is Redis's configuration, a line for each directive; `None` if it is not.
pub fn redis_file(text: &str) -> Option<String> {
    let found = directives(text)?;
    let mark = |name: &str| {
        matches!(name, "port" | "bind" | "include") || KNOWN.iter().any(|(known, _)| *known == name)
    };
    if !found.iter().any(|(name, _)| mark(name)) {
        return None;
    }
    let argument = |wanted: &str| {
        let (_, arguments) = found.iter().find(|(name, _)| name == wanted)?;
        arguments.first().copied()
    };
    let mut lines = Vec::new();
    if found.iter().any(|(name, _)| name == "port" || name == "bind") {
        let host = argument("bind").map_or("127.0.0.1", |host| host.trim_start_matches('-'));
        let host = match host {
            "*" => "0.0.0.0",
            "::1" => "[::1]",
            other => other,
        };
        let port = argument("port").unwrap_or("6379");
        let said = [("bind", argument("bind")), ("port", argument("port"))]
            .into_iter()
            .filter_map(|(name, argument)| argument.map(|argument| format!("{name} {argument}")));
        lines.push(format!("{}: listen = \"{host}:{port}\"", said.collect::<Vec<_>>().join(", ")));
    }
    for (name, arguments) in &found {
        let shown =
            if name.contains("pass") { "..." } else { arguments.first().copied().unwrap_or_default() };
        match KNOWN.iter().find(|(known, _)| known == name) {
            Some((_, Setting(write))) => lines.push(format!("{name}: {}", write(shown))),
            Some((_, Always(why))) => lines.push(format!("{name}: leave it out: {why}")),
            None if name == "port" || name == "bind" => {}
            None => lines.push(format!("{name}: nothing stands for it here")),
        }
    }
    lines.dedup();
    Some(format!(
        "is a configuration of Redis; Corduroy's are TOML, with settings of their own. What stands for what:\n    {}",
        lines.join("\n    ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_redis_is_recognised_and_translated() {
        let text = "# comment\nport 6380\nbind 10.0.0.1 -::1\n\ndir /var/lib/redis\nrequirepass \"hunter2\"\nmaxclients 500\n\
                    timeout 30\ntcp-keepalive 300\nmaxmemory 2gb\nunixsocket /run/r.sock\nsave 900 1\nsave 300 10\nrename-command A B\n";
        let said = redis_file(text).expect("Redis's");
        for needle in [
            "bind 10.0.0.1, port 6380: listen = \"10.0.0.1:6380\"",
            "dir: data_dir = \"/var/lib/redis\"",
            "requirepass: requirepass_file",
            "maxclients: max_clients = 500",
            "timeout: timeout.idle_s = 30",
            "tcp-keepalive: leave it out",
            "maxmemory: memory_bytes = \"2gb\"",
            "unixsocket: unix_socket = \"/run/r.sock\"",
            "rename-command: nothing stands for it",
        ] {
            assert!(said.contains(needle), "{needle} in\n{said}");
        }
        assert!(!said.contains("hunter2"), "a password is not repeated");
        assert_eq!(said.matches("save: ").count(), 1);
    }

    #[test]
    fn other_files_are_not_taken_for_one() {
        for text in [
            "",
            "shards = 4\n",
            "[wal]\nsync = \"dsync\"\n",
            "port = 1",
            "{\"port\": 6379}",
            "dear reader,\n",
        ] {
            assert_eq!(redis_file(text), None, "{text}");
        }
    }

    #[test]
    fn every_setting_that_is_named_is_one() {
        for (name, counterpart) in KNOWN {
            let Setting(write) = counterpart else { continue };
            let written = write("1");
            let key = written.split([' ', ',']).next().unwrap_or_default();
            assert!(crate::config::find(key).is_some(), "{name}: {written}");
        }
    }
}
