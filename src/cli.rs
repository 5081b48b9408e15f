//! The command line. Flags of settings come from the table in `config.rs`; nothing is declared twice.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{Heat, Layers, Loaded, LogFormat, Problem, SETTINGS, Setting};

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run the server.
    Serve(Box<Loaded>),
    /// Show the configuration that `serve` would run with.
    CheckConfig(Box<Loaded>),
    /// Prepare a data folder.
    Format {
        /// The configuration.
        loaded: Box<Loaded>,
        /// Write the identity anew over a data folder that has lost it, and keep the data.
        recover: bool,
    },
    /// Say which version this is.
    Version {
        /// With everything about the build.
        build_info: bool,
    },
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub struct Refused {
    /// All that is wrong.
    pub problems: Vec<Problem>,
    /// How to write it.
    pub format: LogFormat,
}

/// Reads the command line, the environment and the file. Help and bad usage end the process (exit 0 and 2).
///
/// # Errors
/// Every problem of the configuration.
pub fn read(
    args: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Request, Refused> {
    let matches = command().get_matches_from(args);
    let environment: Vec<(OsString, OsString)> = environment.collect();
    match matches.subcommand() {
        Some(("serve", found)) => Ok(Request::Serve(Box::new(load(found, environment)?))),
        Some(("check-config", found)) => Ok(Request::CheckConfig(Box::new(load(found, environment)?))),
        Some(("format", found)) => Ok(Request::Format {
            loaded: Box::new(load(found, environment)?),
            recover: found.get_flag("recover"),
        }),
        Some(("version", found)) => Ok(Request::Version { build_info: found.get_flag("build-info") }),
        _ => unreachable!("clap demands one of the subcommands"),
    }
}

/// The grammar.
fn command() -> Command {
    Command::new("corduroy")
        .about("A replicated storage engine that speaks the Redis protocol")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(Command::new("serve").about("Run the server")))
        .subcommand(with_settings(
            Command::new("check-config")
                .about("Show the configuration and where each value comes from, or all that is wrong"),
        ))
        .subcommand(
            with_flags(
                Command::new("format")
                    .about(
                        "Prepare a data folder (serve does it by itself where there is none); with --peers for a node of a \
                         cluster, which the only founder's folder founds with the data that it has",
                    ),
                is_for_format,
            )
            .arg(
                Arg::new("recover")
                    .long("recover")
                    .action(ArgAction::SetTrue)
                    .help("Make a lost identity of what the shards' folders say, and keep the data"),
            ),
        )
        .subcommand(
            Command::new("version").about("Show the version").arg(
                Arg::new("build-info")
                    .long("build-info")
                    .action(ArgAction::SetTrue)
                    .help("With everything about the build"),
            ),
        )
}

/// Whether formatting a folder depends on a setting.
fn is_for_format(setting: &Setting) -> bool {
    setting.heat == Heat::Format || matches!(setting.key, "data_dir" | "log.format" | "peers" | "node_id")
}

/// The flag for the port alone.
const PORT: &str = "port";
/// A configuration file named without `--config`.
const FILE: &str = "file";

/// Adds a flag for every setting.
fn with_settings(command: Command) -> Command {
    with_flags(command, |_| true)
}

/// All flags are taken, so that the same words may follow each command; the help has those that it depends on.
fn with_flags(command: Command, is_shown: impl Fn(&Setting) -> bool) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("CORDUROY_CONFIG")
        .help("Configuration file (TOML)");
    // Not shown: what people type who come from Redis.
    let port = Arg::new(PORT).long("port").value_name("PORT").hide(true).conflicts_with("listen");
    let file = Arg::new(FILE).value_name("FILE").hide(true).conflicts_with("config");
    let command = command.arg(config).arg(port).arg(file);
    SETTINGS.iter().fold(command, |command, setting| {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", setting.default)
        };
        let heat = if setting.heat == Heat::Format { "; fixed when the folder is formatted" } else { "" };
        command.arg(
            Arg::new(setting.key)
                .long(setting.flag())
                .value_name(setting.form)
                .allow_hyphen_values(true)
                .hide(!is_shown(setting))
                .help(format!("{}{default}{heat}", setting.doc.trim())),
        )
    })
}

/// Puts the layers together.
fn load(matches: &ArgMatches, environment: Vec<(OsString, OsString)>) -> Result<Loaded, Refused> {
    let mut layers = Layers::new();
    for name in ["config", FILE] {
        if let Some(path) = matches.get_one::<String>(name) {
            layers.file(Path::new(path));
        }
    }
    layers.environment(environment.into_iter());
    for setting in SETTINGS {
        if let Some(text) = matches.get_one::<String>(setting.key) {
            layers.flag(&setting.flag(), setting.key, text);
        }
    }
    if let Some(port) = matches.get_one::<String>(PORT) {
        layers.flag(PORT, "listen", port);
    }
    let format = layers.log_format();
    layers.load().map_err(|problems| Refused { problems, format })
}

/// The configuration as a TOML file with a comment on each line: what it does, and where the value comes from.
#[must_use]
pub fn render(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut table = "";
    let split = |key: &'static str| key.rsplit_once('.').unwrap_or(("", key));
    let mut rows: Vec<_> = SETTINGS.iter().zip(&loaded.sources).collect();
    // TOML wants a table's keys together, and those of no table first.
    rows.sort_by_key(|(setting, _)| split(setting.key).0);
    for (setting, source) in rows {
        let (prefix, name) = split(setting.key);
        if prefix != table {
            text.push_str(&format!("\n[{prefix}]\n"));
            table = prefix;
        }
        let value = (setting.show)(&loaded.config);
        let value = if value.parse::<i64>().is_ok() { value } else { format!("{value:?}") };
        text.push_str(&format!("# {} (from {source})\n{name} = {value}\n", setting.doc.trim()));
    }
    text
}

/// What `version --build-info` prints.
#[must_use]
pub fn build_info() -> String {
    let allocator = "mimalloc";
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!(
        "corduroy {}\ncommit: {}\ncompiler: {}\ntarget: {}-{}\nprofile: {profile}\nallocator: {allocator}\ndata format: {}\n\
         protocol: RESP2, RESP3",
        env!("CARGO_PKG_VERSION"),
        env!("BUILD_COMMIT"),
        env!("BUILD_RUSTC"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        crate::node::identity::FORMAT_VERSION,
    )
}

/// Where `serve` keeps its data, for messages.
#[must_use]
pub fn data_dir(loaded: &Loaded) -> PathBuf {
    std::path::absolute(&loaded.config.data_dir).unwrap_or_else(|_| loaded.config.data_dir.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<Request, Refused> {
        read(words.iter().map(OsString::from), std::iter::empty())
    }

    #[test]
    fn what_the_build_puts_into_the_environment_is_not_taken_for_a_setting() {
        let script = include_str!("build.rs");
        assert!(script.contains("BUILD_COMMIT") && !script.contains("\"CORDUROY_"));
    }

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_help_shows_choices_as_they_are_written() {
        let mut command = command();
        let serve = command.find_subcommand_mut("serve").expect("a subcommand");
        let help = serve.render_long_help().to_string();
        assert!(help.contains("--wal-sync <auto|dsync|linked|inline>"), "{help}");
    }

    #[test]
    fn the_help_of_format_shows_what_format_takes() {
        let mut command = command();
        let format = command.find_subcommand_mut("format").expect("a subcommand");
        let help = format.render_long_help().to_string();
        let flags: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--")).collect();
        let mut expected = vec!["--config", "--data-dir", "--shards", "--partitions", "--peers", "--node-id"];
        expected.extend(["--log-format", "--recover", "--help"]);
        assert!(expected.iter().all(|flag| flags.contains(flag)), "{help}");
        // The text on --recover names two of them.
        expected.extend(["--partitions\n", "--shards"]);
        assert!(flags.iter().all(|flag| expected.contains(flag)), "{flags:?}");
    }

    #[test]
    fn a_port_alone_is_the_port_of_this_machine() {
        for words in [["--port", "7000"], ["--listen", "7000"], ["--listen", "localhost:7000"]] {
            let words: Vec<&str> = ["corduroy", "serve"].into_iter().chain(words).collect();
            let Ok(Request::Serve(loaded)) = read_words(&words) else { panic!("{words:?}") };
            assert_eq!(loaded.config.listen.to_string(), "127.0.0.1:7000");
        }
    }

    #[test]
    fn flags_reach_the_configuration() {
        let words =
            ["corduroy", "serve", "--cores", "0-1", "--partitions=4", "--slowlog-slower-than-us", "-1"];
        let Ok(Request::Serve(loaded)) = read_words(&words) else { panic!("serve") };
        assert_eq!(loaded.config.partitions, 4);
        assert_eq!(loaded.config.slowlog_slower_than_us, -1);
        assert_eq!(loaded.config.cores.0.map(|set| set.to_string()).as_deref(), Some("0,1"));
    }

    #[test]
    fn what_check_config_shows_can_be_read_again() {
        let Ok(Request::CheckConfig(loaded)) = read_words(&["corduroy", "check-config", "--shards", "3"])
        else {
            panic!("check-config")
        };
        let text = render(&loaded);
        assert!(text.contains("(from --shards)\nshards = 3\n"), "{text}");
        let mut layers = Layers::new();
        layers.toml(Path::new("shown.toml"), &text);
        assert_eq!(layers.load().expect("readable").config, loaded.config);
    }

    #[test]
    fn all_problems_come_at_once() {
        let refused =
            read_words(&["corduroy", "serve", "--shards", "x", "--partitions", "0"]).expect_err("two");
        assert_eq!((refused.problems.len(), refused.format), (2, LogFormat::Text));
        let json = ["corduroy", "serve", "--shards", "x", "--log-format", "json"];
        assert_eq!(read_words(&json).expect_err("one").format, LogFormat::Json);
    }
}
