//! redis-py and ioredis against the real server, without special settings: the scripts of tests/clients.
//!
//! Their libraries are fetched into target/clients when they are not there. Without python3 and node the tests fail and
//! say so; `CORDUROY_SKIP_CLIENTS=1` leaves them out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::server::{Server, data_dir};

const SKIP: &str = "CORDUROY_SKIP_CLIENTS";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs to the end; what it said, and whether it ended well.
fn run(command: &mut Command) -> (bool, String) {
    match command.output() {
        Err(error) => (false, format!("{command:?} cannot be started: {error}")),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        }
    }
}

/// Fetches the libraries, once for all tests of this process. False: the tests are to be left out.
fn libraries_are_here() -> bool {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if std::env::var_os(SKIP).is_some() {
        println!("left out, because {SKIP} is set");
        return false;
    }
    let turn = ONE_AT_A_TIME.lock().expect("no test panics while it installs");
    let (installed, said) = run(&mut Command::new(root().join("tests/clients/install.sh")));
    if !installed {
        drop(turn);
        panic!(
            "redis-py and ioredis cannot be installed (python3 with pip and node with npm are needed; \
             {SKIP}=1 leaves these tests out):\n{said}"
        );
    }
    true
}

fn drive(program: &str, script: &str, library_path: (&str, &Path)) {
    if !libraries_are_here() {
        return;
    }
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut command = Command::new(program);
    command.arg(root().join("tests/clients").join(script)).arg(server.port.to_string());
    command.env(library_path.0, root().join("target/clients").join(library_path.1));
    let (well, said) = run(&mut command);
    assert!(well, "{said}\nthe server's log:\n{}", server.log());
    assert!(said.contains("all well"), "{said}");
    server.stop();
}

#[test]
fn redis_py_works_without_special_settings() {
    drive("python3", "redis_py.py", ("PYTHONPATH", Path::new("python")));
}

#[test]
fn ioredis_works_without_special_settings() {
    drive("node", "ioredis.js", ("NODE_PATH", Path::new("node/node_modules")));
}
