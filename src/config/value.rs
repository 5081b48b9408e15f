//! The types of settings: how a value is read from text, and written back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use corduroy_shards::runtime::CpuSet;

/// A type that settings have.
pub trait Value: Sized {
    /// What a value looks like, for help and errors.
    const FORM: &'static str;

    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    fn read(text: &str) -> Result<Self, String>;

    /// The value as text that `read` understands. Secrets are not shown.
    fn show(&self) -> String;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const FORM: &'static str = "N";

            fn read(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("`{text}` is not a whole number from {} to {}", <$type>::MIN, <$type>::MAX))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

number!(u16, u32, u64, usize, i64);

impl Value for PathBuf {
    const FORM: &'static str = "PATH";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("the path is empty".into()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// A path, or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OptionalPath(pub Option<PathBuf>);

impl Value for OptionalPath {
    const FORM: &'static str = "PATH";

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self((!text.is_empty()).then(|| text.into())))
    }

    fn show(&self) -> String {
        self.0.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// Permissions of a file, written in octal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode(pub u32);

impl Value for Mode {
    const FORM: &'static str = "MODE";

    fn read(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text.trim(), 8).ok().filter(|mode| *mode <= 0o777);
        mode.map(Self).ok_or_else(|| format!("`{text}` is no mode like 600 or 770"))
    }

    fn show(&self) -> String {
        format!("{:o}", self.0)
    }
}

/// The port where an address is given without one.
const DEFAULT_PORT: u16 = 7379;

impl Value for SocketAddr {
    const FORM: &'static str = "IP:PORT";

    fn read(text: &str) -> Result<Self, String> {
        let word = text.trim();
        let (host, port) = match word.rsplit_once(':') {
            Some((host, port)) if !word.ends_with(']') => (host, port),
            _ => (word, ""),
        };
        let local = |port: u16| Self::from(([127, 0, 0, 1], port));
        if let Ok(address) = word.parse() {
            return Ok(address);
        }
        if let Ok(ip) = word.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self::new(ip, DEFAULT_PORT));
        }
        if port.is_empty()
            && let Ok(port) = word.parse()
        {
            return Ok(local(port));
        }
        let Ok(number) = (if port.is_empty() { Ok(DEFAULT_PORT) } else { port.parse::<u16>() }) else {
            return Err(format!("`{text}` is not an address like 127.0.0.1:7379 or [::1]:7379"));
        };
        match host {
            "localhost" => Ok(local(number)),
            "" | "*" => Err(format!(
                "`{text}` names no address: write 127.0.0.1:{number} for clients on this machine, 0.0.0.0:{number} for all \
                 (they need a password then)"
            )),
            name => Err(format!(
                "`{text}` is not an address like 127.0.0.1:{number} or [::1]:{number}: of `{name}`, write the number"
            )),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A number of bytes, written plain or with KiB, MiB, GiB (1024) or as Redis does: k, m, g (1000), kb, mb, gb (1024).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bytes(pub u64);

impl Value for Bytes {
    const FORM: &'static str = "BYTES";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size like 67108864, 64MiB or 1GiB");
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" => 1_000,
            "m" => 1_000_000,
            "g" => 1_000_000_000,
            "kb" | "kib" => 1 << 10,
            "mb" | "mib" => 1 << 20,
            "gb" | "gib" => 1 << 30,
            "tb" | "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Display for Bytes {
    /// For people: in the largest unit that leaves a whole number, or one digit after the point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            n if n >= 1 << 30 => (1u64 << 30, "GiB"),
            n if n >= 1 << 20 => (1 << 20, "MiB"),
            n if n >= 1 << 10 => (1 << 10, "KiB"),
            n => return write!(f, "{n} bytes"),
        };
        if self.0.is_multiple_of(unit) {
            write!(f, "{} {name}", self.0 / unit)
        } else {
            write!(f, "{:.1} {name}", self.0 as f64 / unit as f64)
        }
    }
}

/// A time in ms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Millis(pub u64);

impl Value for Millis {
    const FORM: &'static str = "MS";

    fn read(text: &str) -> Result<Self, String> {
        text.trim().parse().map(Self).map_err(|_| format!("`{text}` is not a number of milliseconds"))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl Value for Secret {
    const FORM: &'static str = "TEXT";

    fn read(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        if self.0.is_empty() { String::new() } else { "(set)".into() }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// CPUs, or `None` for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cores(pub Option<CpuSet>);

impl Value for Cores {
    const FORM: &'static str = "LIST";

    fn read(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        text.parse()
            .map(|set| Self(Some(set)))
            .map_err(|error: corduroy_shards::runtime::cpuset::CpuSetError| error.to_string())
    }

    fn show(&self) -> String {
        self.0.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl Value for $name {
            const FORM: &'static str = concat!($("|", $text),*).split_at(1).1;

            fn read(text: &str) -> Result<Self, String> {
                match text.trim() {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(format!("`{text}` is none of {}", [$($text),*].join(", "))),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => $text),* }.to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.show())
            }
        }
    };
}

choice! {
    /// Whether something is so, in Redis's words.
    YesNo {
        /// It is.
        Yes = "yes",
        /// It is not.
        No = "no",
    }
}

choice! {
    /// How a log write is made durable.
    WalSync {
        /// What suits the disk.
        Auto = "auto",
        /// One write flagged `RWF_DSYNC`.
        Dsync = "dsync",
        /// A write linked to an fdatasync.
        Linked = "linked",
        /// Blocking write and fdatasync.
        Inline = "inline",
    }
}

choice! {
    /// Whether writes go through Raft.
    Replication {
        /// They do.
        Raft = "raft",
        /// They go only through the log.
        Off = "off",
    }
}

choice! {
    /// What becomes of a request for keys that another node leads.
    Redirect {
        /// Connections that have asked which node leads what are sent there; for all others it is asked by this one.
        Auto = "auto",
        /// All connections are sent there.
        Always = "always",
        /// It is asked by this one.
        Never = "never",
    }
}

choice! {
    /// How a leader knows that it still leads.
    Reads {
        /// By what most members answer after the request came.
        Quorum = "quorum",
        /// By what they answered a moment ago, too.
        Lease = "lease",
    }
}

choice! {
    /// What is logged.
    LogLevel {
        /// What ends or harms the service.
        Error = "error",
        /// What someone should look at.
        Warn = "warn",
        /// What happened.
        Info = "info",
        /// What led to it.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

choice! {
    /// How logs are written.
    LogFormat {
        /// For people; in colours on a terminal.
        Text = "text",
        /// The same: what it was called when it depended on the terminal.
        Auto = "auto",
        /// For programs.
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("64MiB", 64 << 20), ("1gb", 1 << 30), ("2k", 2000), (" 7 kib ", 7 << 10)]
        {
            assert_eq!(Bytes::read(text), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5g", "1xb", "99999999999999999999", "99999999999TiB"] {
            assert!(Bytes::read(text).is_err(), "{text}");
        }
        assert_eq!(Bytes(64 << 20).to_string(), "64 MiB");
        assert_eq!(Bytes((3 << 30) + (1 << 29)).to_string(), "3.5 GiB");
        assert_eq!(Bytes(12).to_string(), "12 bytes");
    }

    #[test]
    fn addresses_as_people_write_them() {
        for (text, address) in [
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("[::1]:2", "[::1]:2"),
            ("localhost:3", "127.0.0.1:3"),
            ("localhost", "127.0.0.1:7379"),
            ("4", "127.0.0.1:4"),
            ("10.0.0.1", "10.0.0.1:7379"),
            ("::1", "[::1]:7379"),
            ("[::1]", "[::1]:7379"),
        ] {
            assert_eq!(SocketAddr::read(text), Ok(address.parse().expect(address)), "{text}");
        }
        for (text, hint) in [
            (":5", "127.0.0.1:5"),
            ("*:5", "0.0.0.0:5"),
            ("", "0.0.0.0:7379"),
            ("db.example.com:5", "of `db.example.com`, write the number"),
            ("localhost:x", "like 127.0.0.1:7379"),
            ("70000", "write the number"),
        ] {
            let why = SocketAddr::read(text).expect_err(text);
            assert!(why.contains(hint), "{text}: {why}");
        }
    }

    #[test]
    fn choices_and_secrets() {
        assert_eq!(WalSync::read("linked"), Ok(WalSync::Linked));
        assert_eq!(WalSync::read("fast"), Err("`fast` is none of auto, dsync, linked, inline".into()));
        assert_eq!(format!("{:?}", Secret("hunter2".into())), "(set)");
        assert_eq!((Mode::read("0770"), Mode(0o660).show()), (Ok(Mode(0o770)), "660".to_owned()));
        assert!(Mode::read("1777").is_err() && Mode::read("9").is_err());
        assert_eq!(Cores::read(""), Ok(Cores(None)));
        assert!(Cores::read("x").is_err());
    }
}
