//! The static description of a cluster, which all its nodes are given: who they are, and where.
//!
//! ```toml
//! cluster = "5b0f6c1e9d2a47388c41f0b7a6d3e592"   # 32 hexadecimal digits, drawn at random
//! secret_file = "/etc/corduroy/secret"           # or secret = "...": 16 random bytes or more
//! partitions = 4
//! shards = 8
//!
//! [[nodes]]
//! id = 1
//! peer = "10.0.0.1:7380"                         # where the other nodes connect to
//! client = "10.0.0.1:7379"                       # where clients connect to, as MOVED names it
//!
//! [[nodes]]
//! id = 4
//! peer = "10.0.0.4:7380"
//! client = "10.0.0.4:7379"
//! joins = true                                   # founds nothing, and is added to the groups that there are
//!                                                # left = true: has founded, has left since, and is heard no more
//! ```
//!
//! Invariant: what is read names each node once, and each address once but for those of nodes that have left. Every node that
//! reads the same founders derives the same groups from them, whoever joins.

use std::net::SocketAddr;
use std::path::Path;

use corduroy_shards::net::Secret;

/// The most nodes of a description: more voters make each write slower and none safer.
const NODES_MAX: usize = 15;
/// As many digits has a cluster's id.
const CLUSTER_DIGITS: usize = 32;
/// What a description may name.
const KEYS: [&str; 6] = ["cluster", "secret", "secret_file", "partitions", "shards", "nodes"];
/// What a node of it may.
const NODE_KEYS: [&str; 5] = ["id", "peer", "client", "joins", "left"];

/// One node of the description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its number; its storage has the same.
    pub id: u64,
    /// Where other nodes connect to.
    pub peer: SocketAddr,
    /// Where clients connect to.
    pub client: SocketAddr,
    /// It founds nothing: it is added to groups that there are.
    pub joins: bool,
    /// It has founded the cluster and left it since: it is not waited for, and never heard.
    pub left: bool,
}

/// See the file's head.
#[derive(Clone, Debug)]
pub struct Description {
    /// The cluster's id.
    pub cluster: u128,
    /// What its nodes prove to each other.
    pub secret: Secret,
    /// The file that held it, if it was one.
    pub secret_file: Option<std::path::PathBuf>,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// Shards of each node.
    pub shards: u32,
    /// The nodes, by their ids.
    pub nodes: Vec<Node>,
}

/// What is wrong, with the key that it is wrong at.
pub type Problems = Vec<(String, String)>;

impl Description {
    /// Reads a file.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        let whole = |why: String| vec![(String::new(), why)];
        let text =
            std::fs::read_to_string(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
        Self::parse(&text)
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let table = text
            .parse::<toml::Table>()
            .map_err(|error| vec![(String::new(), error.to_string().trim_end().to_owned())])?;
        let mut reader = Reader::default();
        reader.check_keys("", &table, &KEYS);
        let cluster = reader.cluster(&table);
        let secret = reader.secret(&table);
        let partitions = reader.count(&table, "partitions", 1, 16_384);
        let shards = reader.count(&table, "shards", 8, 1024);
        let nodes = reader.nodes(&table);
        match (cluster, secret, partitions, shards) {
            (Some(cluster), Some((secret, secret_file)), Some(partitions), Some(shards))
                if reader.problems.is_empty() =>
            {
                Ok(Self { cluster, secret, secret_file, partitions, shards, nodes })
            }
            _ => Err(reader.problems),
        }
    }

    /// The node of this id.
    #[must_use]
    pub fn node(&self, id: u64) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// All ids, ascending.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// The nodes beside one that others connect to, and where.
    pub fn addresses_beside(&self, id: u64) -> impl Iterator<Item = (u64, SocketAddr)> + '_ {
        let others = self.nodes.iter().filter(move |node| node.id != id && !node.left);
        others.map(|node| (node.id, node.peer))
    }

    /// Those of the nodes that found the cluster, ascending.
    #[must_use]
    pub fn founders(&self) -> Vec<u64> {
        self.nodes.iter().filter(|node| !node.joins).map(|node| node.id).collect()
    }
}

/// A description, and which of its nodes this process is.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The description.
    pub description: Description,
    /// This node.
    pub node: Node,
}

/// Collects what is wrong.
#[derive(Default)]
struct Reader {
    problems: Problems,
}

impl Reader {
    fn problem(&mut self, key: &str, why: impl Into<String>) {
        self.problems.push((key.to_owned(), why.into()));
    }

    fn check_keys(&mut self, prefix: &str, table: &toml::Table, known: &[&str]) {
        for name in table.keys().filter(|name| !known.contains(&name.as_str())) {
            self.problem(&format!("{prefix}{name}"), format!("no such key; there are {}", known.join(", ")));
        }
    }

    fn text<'t>(&mut self, table: &'t toml::Table, key: &str, full: &str) -> Option<&'t str> {
        match table.get(key)? {
            toml::Value::String(text) => Some(text),
            _ => {
                self.problem(full, "must be a text in quotes");
                None
            }
        }
    }

    fn cluster(&mut self, table: &toml::Table) -> Option<u128> {
        if !table.contains_key("cluster") {
            self.problem("cluster", "is missing; draw one: `od -An -N16 -tx1 /dev/urandom | tr -d ' \\n'`");
            return None;
        }
        let text = self.text(table, "cluster", "cluster")?;
        let is_hex = text.len() == CLUSTER_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().filter(|id| *id != 0);
        if id.is_none() {
            self.problem(
                "cluster",
                format!("`{text}` is not {CLUSTER_DIGITS} hexadecimal digits, not all 0"),
            );
        }
        id
    }

    fn secret(&mut self, table: &toml::Table) -> Option<(Secret, Option<std::path::PathBuf>)> {
        let (inline, file) = (table.get("secret"), table.get("secret_file"));
        let (key, bytes, path) = match (inline, file) {
            (Some(_), Some(_)) => {
                self.problem("secret", "there is a secret_file, too; name one of the two");
                return None;
            }
            (None, None) => {
                self.problem("secret", "is missing; give all nodes the same `secret`, or `secret_file`");
                return None;
            }
            (Some(_), None) => ("secret", self.text(table, "secret", "secret")?.as_bytes().to_vec(), None),
            (None, Some(_)) => {
                let path = std::path::PathBuf::from(self.text(table, "secret_file", "secret_file")?);
                match std::fs::read(&path) {
                    Ok(mut bytes) => {
                        // A line end is not part of it.
                        bytes.truncate(bytes.trim_ascii_end().len());
                        ("secret_file", bytes, Some(path))
                    }
                    Err(error) => {
                        self.problem("secret_file", format!("{} cannot be read: {error}", path.display()));
                        return None;
                    }
                }
            }
        };
        match Secret::new(bytes) {
            Ok(secret) => Some((secret, path)),
            Err(error) => {
                self.problem(key, error.to_string());
                None
            }
        }
    }

    fn count(&mut self, table: &toml::Table, key: &str, default: u32, max: u32) -> Option<u32> {
        let Some(value) = table.get(key) else { return Some(default) };
        let count = value.as_integer().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| (1..=max).contains(count));
        if count.is_none() {
            self.problem(key, format!("{value} is not a whole number from 1 to {max}"));
        }
        count
    }

    fn nodes(&mut self, table: &toml::Table) -> Vec<Node> {
        let list = match table.get("nodes") {
            Some(toml::Value::Array(list)) if !list.is_empty() => list,
            _ => {
                self.problem("nodes", "is missing: write [[nodes]] with id, peer and client for each node");
                return Vec::new();
            }
        };
        if list.len() > NODES_MAX {
            self.problem("nodes", format!("there are {}, and may be {NODES_MAX} at most", list.len()));
        }
        let mut nodes: Vec<Node> = Vec::new();
        for (at, value) in list.iter().enumerate() {
            let key = format!("nodes[{}]", at + 1);
            let toml::Value::Table(entry) = value else {
                self.problem(&key, "must be a table: [[nodes]]");
                continue;
            };
            self.check_keys(&format!("{key}."), entry, &NODE_KEYS);
            let id = self.id(entry, &key);
            let (peer, client) = (self.address(entry, &key, "peer"), self.address(entry, &key, "client"));
            let joins = self.flag(entry, &key, "joins");
            let left = self.flag(entry, &key, "left");
            let (Some(id), Some(peer), Some(client), Some(joins), Some(left)) =
                (id, peer, client, joins, left)
            else {
                continue;
            };
            let node = Node { id, peer, client, joins, left };
            if joins && left {
                self.problem(
                    &format!("{key}.left"),
                    "is said of founders; leave out a node that has joined, and left",
                );
            }
            self.check_unique(&nodes, &node, &key);
            nodes.push(node);
        }
        if !nodes.is_empty() && nodes.iter().all(|node| node.joins) {
            self.problem("nodes", "all of them join; name those that founded the cluster, too");
        }
        nodes.sort_unstable_by_key(|node| node.id);
        nodes
    }

    fn id(&mut self, entry: &toml::Table, key: &str) -> Option<u64> {
        let found = entry.get("id");
        let id = found.and_then(toml::Value::as_integer).and_then(|id| u64::try_from(id).ok());
        let id = id.filter(|id| *id > 0);
        if id.is_none() {
            let found = found.map_or("nothing".to_owned(), ToString::to_string);
            self.problem(&format!("{key}.id"), format!("must be a whole number above 0, and is {found}"));
        }
        id
    }

    fn flag(&mut self, entry: &toml::Table, key: &str, name: &str) -> Option<bool> {
        match entry.get(name) {
            None => Some(false),
            Some(toml::Value::Boolean(is_set)) => Some(*is_set),
            Some(other) => {
                self.problem(&format!("{key}.{name}"), format!("must be true or false, and is {other}"));
                None
            }
        }
    }

    fn address(&mut self, entry: &toml::Table, key: &str, name: &str) -> Option<SocketAddr> {
        let full = format!("{key}.{name}");
        if !entry.contains_key(name) {
            self.problem(&full, "is missing");
            return None;
        }
        let text = self.text(entry, name, &full)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 || address.ip().is_unspecified() => {
                self.problem(&full, format!("nobody can connect to `{text}`: name the address and its port"));
                None
            }
            Ok(address) => Some(address),
            Err(_) => {
                self.problem(
                    &full,
                    format!("`{text}` is not an address like 10.0.0.1:7380 or [fd00::1]:7380"),
                );
                None
            }
        }
    }

    fn check_unique(&mut self, nodes: &[Node], new: &Node, key: &str) {
        if nodes.iter().any(|node| node.id == new.id) {
            self.problem(&format!("{key}.id"), format!("{} is the id of another node, too", new.id));
        }
        // Nobody connects to one that has left: whoever takes its part may have its addresses.
        if new.left {
            return;
        }
        if new.peer == new.client {
            self.problem(&format!("{key}.client"), format!("{} is for its peers already", new.client));
        }
        for (name, address) in [("peer", new.peer), ("client", new.client)] {
            let mut others = nodes.iter().filter(|node| !node.left);
            if others.any(|node| node.peer == address || node.client == address) {
                self.problem(&format!("{key}.{name}"), format!("{address} is another node's, too"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "cluster = \"000000000000000000000000000000c1\"\nsecret = \"sixteen bytes at least\"\n";

    fn node(id: u64) -> String {
        format!(
            "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{}\"\nclient = \"127.0.0.1:{}\"\n",
            7800 + id,
            7900 + id
        )
    }

    fn problems(text: &str) -> Vec<String> {
        let found = Description::parse(text).expect_err("it has problems");
        found.into_iter().map(|(key, why)| format!("{key}: {why}")).collect()
    }

    #[test]
    fn nodes_come_by_their_ids_whatever_the_order_of_the_file() {
        let text = [HEAD, "partitions = 4\n", &node(7), &node(2), &node(5)].concat();
        let found = Description::parse(&text).expect("it is one");
        assert_eq!((found.cluster, found.partitions, found.shards), (0xc1, 4, 8));
        assert_eq!(found.ids(), [2, 5, 7]);
        assert_eq!(found.node(5).map(|node| node.peer.port()), Some(7805));
        assert!(found.node(1).is_none());
        assert!(!format!("{found:?}").contains("sixteen"), "the secret is not shown");
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_key() {
        let text = "cluster = \"c1\"\nsecret = \"short\"\npartitions = 0\nshards = 2000\ncolour = 1\n\
                    [[nodes]]\nid = 0\npeer = \"here:1\"\nclient = 5\n\
                    [[nodes]]\nid = 1\npeer = \"127.0.0.1:1\"\nclient = \"0.0.0.0:2\"\nname = \"x\"\n";
        let found = problems(text);
        for needle in [
            "colour: no such key",
            "cluster: `c1` is not 32",
            "secret: the cluster's secret has 5 bytes",
            "partitions: 0 is not",
            "shards: 2000 is not",
            "nodes[1].id: must be",
            "nodes[1].peer: `here:1` is not an address",
            "nodes[1].client: must be a text",
            "nodes[2].client: nobody can connect",
            "nodes[2].name: no such key",
        ] {
            assert!(found.iter().any(|problem| problem.starts_with(needle)), "{needle} in {found:#?}");
        }
        assert_eq!(found.len(), 10, "{found:#?}");
    }

    #[test]
    fn who_joins_is_no_founder() {
        let joins = [&*node(4), "joins = true\n"].concat();
        let found = Description::parse(&[HEAD, &joins, &node(2), &node(1)].concat()).expect("it is one");
        assert_eq!((found.ids(), found.founders()), (vec![1, 2, 4], vec![1, 2]));
        assert_eq!(found.node(4).map(|node| node.joins), Some(true));
        assert_eq!(
            problems(&[HEAD, &*joins].concat()),
            ["nodes: all of them join; name those that founded the cluster, too"]
        );
        let unclear = [HEAD, &*node(1), &*node(4), "joins = 1\n"].concat();
        assert_eq!(problems(&unclear), ["nodes[2].joins: must be true or false, and is 1"]);
    }

    #[test]
    fn who_has_left_is_a_founder_still() {
        let left = [&*node(3), "left = true\n"].concat();
        let found = Description::parse(&[HEAD, &left, &node(2), &node(1)].concat()).expect("it is one");
        assert_eq!(found.founders(), [1, 2, 3]);
        assert_eq!(found.nodes.iter().map(|node| node.left).collect::<Vec<_>>(), [false, false, true]);
        let both = [HEAD, &node(1), &left, "joins = true\n"].concat();
        assert_eq!(
            problems(&both),
            ["nodes[2].left: is said of founders; leave out a node that has joined, and left"]
        );
    }

    #[test]
    fn a_new_node_may_have_the_addresses_of_one_that_has_left() {
        let left = [&*node(3), "left = true\n"].concat();
        let new = [&*node(3).replace("id = 3", "id = 4"), "joins = true\n"].concat();
        for [one, other] in [[&left, &new], [&new, &left]] {
            let found = Description::parse(&[HEAD, &node(1), one, other].concat()).expect("it is one");
            let addresses: Vec<_> = found.addresses_beside(1).collect();
            assert_eq!(addresses, [(4, found.node(3).expect("described").peer)], "nobody connects to node 3");
        }
        let both = [HEAD, &node(1), &node(3), &new].concat();
        assert_eq!(problems(&both).len(), 2, "it is there");
        let same_id = [HEAD, &node(1), &left, &left].concat();
        assert_eq!(problems(&same_id), ["nodes[3].id: 3 is the id of another node, too"]);
    }

    #[test]
    fn ids_and_addresses_are_each_of_one_node() {
        let same_id = [HEAD, &node(1), &node(1).replace(":78", ":68").replace(":79", ":69")].concat();
        assert_eq!(problems(&same_id), ["nodes[2].id: 1 is the id of another node, too"]);
        let same_peer = [HEAD, &node(1), &node(2).replace("7802", "7901")].concat();
        assert_eq!(problems(&same_peer), ["nodes[2].peer: 127.0.0.1:7901 is another node's, too"]);
        let both = [HEAD, &node(1).replace("7901", "7801")].concat();
        assert_eq!(problems(&both), ["nodes[1].client: 127.0.0.1:7801 is for its peers already"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let found = problems("");
        let keys: Vec<_> =
            found.iter().filter_map(|problem| problem.split_once(':')).map(|(key, _)| key).collect();
        assert_eq!(keys, ["cluster", "secret", "nodes"]);
        let two = problems(&[HEAD, "secret_file = \"/nowhere\"\n", &node(1)].concat());
        assert_eq!(two, ["secret: there is a secret_file, too; name one of the two"]);
        let nowhere = HEAD.replace("secret = ", "secret_file = ");
        assert!(problems(&[&nowhere, &*node(1)].concat())[0].contains("cannot be read"));
    }

    #[test]
    fn a_secret_may_stand_in_a_file_and_its_line_end_is_not_part_of_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("secret");
        std::fs::write(&path, "fifteen bytes..\n").expect("written");
        let text = format!("cluster = \"{:032x}\"\nsecret_file = {path:?}\n{}", 1, node(1));
        assert!(problems(&text)[0].contains("has 15 bytes"));
        std::fs::write(&path, "sixteen bytes...\r\n").expect("written");
        assert_eq!(Description::parse(&text).expect("it is one").secret_file, Some(path));
    }
}
