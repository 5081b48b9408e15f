//! Descriptions, settings and starts for the tests of identities.

use std::path::Path;

use super::{Identity, check};
use crate::config::Config;
use crate::config::peers::{Description, Peers};

/// How a node is described in a cluster of these founders.
pub fn peers(cluster: u32, ids: &[u64], node: u64) -> Peers {
    let head = format!("cluster = \"{cluster:032x}\"\nsecret = \"sixteen bytes at least\"\n");
    let of = |id: &u64| {
        format!(
            "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{}\"\nclient = \"127.0.0.1:{}\"\n",
            7800 + id,
            7900 + id
        )
    };
    let text: String = std::iter::once(head).chain(ids.iter().map(of)).collect();
    let description = Description::parse(&text).expect("a description");
    let node = *description.node(node).expect("one of them");
    Peers { description, node }
}

/// Of a folder with two shards and partitions.
pub fn config(folder: &Path) -> Config {
    let mut config = Config { data_dir: folder.into(), shards: 2, partitions: 2, ..Config::default() };
    config.wal_segment_bytes.0 = 8 << 20;
    config
}

/// The identity after one more start.
pub fn started(config: &Config, identity: &Identity) -> Identity {
    let bound = check(identity, &config.data_dir, 2).expect("its own");
    bound.renew(identity).expect("written")
}
