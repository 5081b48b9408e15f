//! Keys that expire, and watched keys that are absent, as clients see them.

use std::time::Duration;

use redis::Commands;

use crate::server::{Server, data_dir};

#[test]
fn expired_keys_go_though_nobody_writes() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut client = server.client();
    client.set::<_, _, ()>("stays", 1).expect("set");
    for n in 0..100 {
        redis::cmd("PSETEX").arg(format!("k{n}")).arg(100).arg(n).exec(&mut client).expect("set");
    }
    let mut size = 101;
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(100));
        size = redis::cmd("DBSIZE").query(&mut client).expect("size");
        if size == 1 {
            break;
        }
    }
    assert_eq!(size, 1, "after 20 seconds without a write");
    assert_eq!(redis::cmd("RANDOMKEY").query::<String>(&mut client).expect("a key"), "stays");
}

#[test]
fn a_watched_key_that_is_absent_has_not_changed_whatever_becomes_of_others() {
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let (mut watcher, mut other) = (server.client(), server.client());
    for round in 0..5 {
        let missing = format!("missing{round}");
        redis::cmd("WATCH").arg(&missing).exec(&mut watcher).expect("watched");
        let mut pipe = redis::pipe();
        for n in 0..500 {
            let key = format!("k{n}");
            pipe.set_ex(&key, n, 100).ignore().del(&key).ignore().pset_ex(&key, n, 1).ignore();
        }
        pipe.exec(&mut other).expect("written");
        let kept: Option<(i64,)> =
            redis::pipe().atomic().incr(&missing, 1).query(&mut watcher).expect("exec");
        assert_eq!(kept, Some((1,)), "round {round}");
        // It was there in between, though it is absent again.
        let other_key = format!("other{round}");
        redis::cmd("WATCH").arg(&other_key).exec(&mut watcher).expect("watched");
        redis::pipe().set(&other_key, 1).ignore().del(&other_key).ignore().exec(&mut other).expect("written");
        let kept: Option<(i64,)> =
            redis::pipe().atomic().incr(&missing, 1).query(&mut watcher).expect("exec");
        assert_eq!(kept, None, "round {round}");
    }
}
