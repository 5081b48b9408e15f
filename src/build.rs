//! Run by cargo before the crate is built: what `version --build-info` says of the compiler and the source.

#![forbid(unsafe_code)]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    // The commit changes with these; outside a checkout neither is there.
    for file in [".git/HEAD", ".git/logs/HEAD"] {
        if std::fs::exists(file).unwrap_or(false) {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    say("BUILD_RUSTC", line_of(&rustc, &["--version"]));
    say("BUILD_COMMIT", line_of("git", &["rev-parse", "--short=12", "HEAD"]));
}

/// `cargo run` puts these into the server's environment too, so they must not look like settings.
fn say(name: &str, value: Option<String>) {
    println!("cargo::rustc-env={name}={}", value.as_deref().unwrap_or("unknown"));
}

/// The first line that a command prints, if it ends well.
fn line_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
