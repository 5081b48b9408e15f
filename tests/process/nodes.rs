//! Processes that are the nodes of a cluster, each with a folder and ports of its own; killed when the test ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::server::{Server, data_dir, free_port, run, text};

/// Two election timeouts of the server: the time in which another node leads after the leader has ended.
pub const ELECTION: Duration = Duration::from_secs(2);
/// How long anything may take on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const CLUSTER: &str = "5b0f6c1e9d2a47388c41f0b7a6d3e592";
pub const SECRET: &str = "sixteen random bytes, or more";

/// A node of a cluster: its number, its ports, its folder, its process.
pub struct Node {
    pub id: u64,
    pub peer_port: u16,
    pub client_port: u16,
    pub folder: PathBuf,
    pub server: Option<Server>,
}

pub struct Cluster {
    pub dir: TempDir,
    pub nodes: Vec<Node>,
    /// The cluster's id.
    pub cluster: String,
    partitions: u32,
    /// The nodes up to this one found the cluster; those above join.
    founders: u64,
    /// Founders that have left for good, as descriptions say that are written from now on.
    pub left: Vec<u64>,
    /// What each node is started with.
    flags: &'static [&'static str],
}

impl Node {
    fn new(dir: &TempDir, id: u64) -> Self {
        let folder = dir.path().join(format!("node-{id}"));
        Self { id, peer_port: free_port(), client_port: free_port(), folder, server: None }
    }
}

impl Cluster {
    /// Nodes that are described, and whose folders are not formatted yet.
    pub fn described(nodes: u64) -> Self {
        let dir = data_dir();
        let founders = nodes;
        let nodes = (1..=nodes).map(|id| Node::new(&dir, id)).collect();
        let (cluster, left, flags) = (CLUSTER.to_owned(), Vec::new(), &["--redirect", "always"]);
        let cluster = Self { dir, nodes, cluster, partitions: 1, founders, left, flags };
        cluster.describe("peers.toml", CLUSTER, SECRET);
        cluster
    }

    /// Three nodes that run with these flags, and share so many partitions.
    pub fn of_three(partitions: u32, flags: &'static [&'static str]) -> Self {
        let mut cluster = Self { partitions, flags, ..Self::described(3) };
        cluster.describe("peers.toml", CLUSTER, SECRET);
        (1..=3).for_each(|id| cluster.format(id));
        cluster.start_all();
        cluster
    }

    /// Of one node, which may be alone before; it is to run with these flags.
    pub fn alone(partitions: u32, flags: &'static [&'static str]) -> Self {
        Self { partitions, flags, ..Self::described(1) }
    }

    /// Takes the id that the folder of a node was formatted with for the cluster's. Returns a description with it.
    pub fn take_id_of(&mut self, id: u64) -> PathBuf {
        let identity = fs::read_to_string(self.node(id).folder.join("identity.0")).expect("an identity");
        let found = identity.lines().find_map(|line| line.strip_prefix("cluster = "));
        self.cluster = found.expect("it has one").to_owned();
        self.describe("peers.toml", &self.cluster, SECRET)
    }

    /// A cluster that runs, and has a leader. Its nodes send clients to the one that leads.
    pub fn started(nodes: u64) -> Self {
        let mut cluster = Self::described(nodes);
        (1..=nodes).for_each(|id| cluster.format(id));
        cluster.start_all();
        cluster
    }

    /// Writes a description of these nodes.
    pub fn describe(&self, name: &str, cluster: &str, secret: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut all = format!("cluster = \"{cluster}\"\nsecret = \"{secret}\"\n");
        all.push_str(&format!("partitions = {0}\nshards = {0}\n", self.partitions));
        for Node { id, peer_port, client_port, .. } in &self.nodes {
            all.push_str(&format!(
                "[[nodes]]\nid = {id}\npeer = \"127.0.0.1:{peer_port}\"\nclient = \"127.0.0.1:{client_port}\"\n"
            ));
            if *id > self.founders {
                all.push_str("joins = true\n");
            }
            if self.left.contains(id) {
                all.push_str("left = true\n");
            }
        }
        fs::write(&path, all).expect("written");
        path
    }

    /// One more node, which founded nothing, by a description of its own. It is formatted, and does not run. Returns its id.
    pub fn add_joining(&mut self) -> u64 {
        self.add_as(Node::new(&self.dir, self.nodes.len() as u64 + 1))
    }

    /// The same with the ports of one that has left.
    pub fn add_joining_at(&mut self, left: u64) -> u64 {
        let Node { peer_port, client_port, .. } = *self.node(left);
        self.add_as(Node { peer_port, client_port, ..Node::new(&self.dir, self.nodes.len() as u64 + 1) })
    }

    fn add_as(&mut self, node: Node) -> u64 {
        let id = node.id;
        self.nodes.push(node);
        let peers = self.describe(&format!("node-{id}.toml"), &self.cluster, SECRET);
        self.format_by(id, &peers, "4MiB");
        id
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of the cluster")
    }

    pub fn format_by(&mut self, id: u64, peers: &Path, segment: &str) {
        let folder = text(&self.node(id).folder);
        let flags = ["--peers", &text(peers), "--node-id", &id.to_string(), "--data-dir", &folder];
        let sizes = ["--wal-segment-bytes", segment, "--max-bulk-bytes", "1MiB"];
        let (code, _, stderr) = run(&[&["format"], &flags[..], &sizes].concat());
        assert_eq!(code, Some(0), "{stderr}");
    }

    pub fn format(&mut self, id: u64) {
        let peers = self.dir.path().join("peers.toml");
        self.format_by(id, &peers, "4MiB");
    }

    pub fn spawn_by(&mut self, id: u64, peers: &Path, more: &[&str]) -> Server {
        let peers = text(peers);
        let node = self.node(id);
        let flags = ["--peers", &peers, "--node-id", &id.to_string()];
        Server::spawn(&node.folder, node.client_port, &[&flags[..], more].concat())
    }

    pub fn start_by(&mut self, id: u64, peers: &Path, more: &[&str]) {
        let mut server = self.spawn_by(id, peers, more);
        if let Err(status) = server.await_ready() {
            panic!("node {id} ended with {status}:\n{}", server.log());
        }
        self.node(id).server = Some(server);
    }

    pub fn start(&mut self, id: u64) {
        let own = self.dir.path().join(format!("node-{id}.toml"));
        let peers = if id > self.founders { own } else { self.dir.path().join("peers.toml") };
        self.start_by(id, &peers, self.flags);
    }

    /// Starts all nodes for the first time, and waits until each leads or hears who does. Only then has each met all others:
    /// before, a node takes no part, and the cluster can do without no other.
    pub fn start_all(&mut self) {
        (1..=self.nodes.len() as u64).for_each(|id| self.start(id));
        let begun = Instant::now();
        for id in self.ids() {
            while let Err(error) = self.ask(id, &["GET", "who leads"]) {
                if error.contains("127.0.0.1:") {
                    break;
                }
                assert!(begun.elapsed() < PATIENCE, "node {id} takes no part: {error}\n{}", self.log(id));
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub fn kill_9(&mut self, id: u64) {
        self.node(id).server.take().expect("it runs").kill_9();
    }

    /// Asks a node to stop, and waits until it has. Returns what it has logged.
    pub fn stop(&mut self, id: u64) -> String {
        let mut server = self.node(id).server.take().expect("it runs");
        server.signal("-TERM");
        let status = server.wait();
        assert_eq!(status.code(), Some(0), "{}", server.log());
        server.log()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().filter(|node| node.server.is_some()).map(|node| node.id).collect()
    }

    pub fn log(&mut self, id: u64) -> String {
        self.node(id).server.as_ref().expect("it runs").log()
    }

    /// A connection to a node.
    pub fn client(&mut self, id: u64) -> redis::Connection {
        self.node(id).server.as_ref().expect("it runs").client()
    }

    pub fn ask(&mut self, id: u64, words: &[&str]) -> Result<redis::Value, String> {
        let mut client = self.client(id);
        let mut request = redis::Cmd::new();
        words.iter().for_each(|word| _ = request.arg(*word));
        request.query(&mut client).map_err(|error| error.to_string())
    }

    /// The node that takes writes, once there is one.
    pub fn leader(&mut self) -> u64 {
        self.leader_within(PATIENCE)
    }

    pub fn leader_within(&mut self, patience: Duration) -> u64 {
        let begun = Instant::now();
        let mut errors = Vec::new();
        while begun.elapsed() < patience {
            errors.clear();
            for id in self.ids() {
                match self.ask(id, &["SET", "who leads", &id.to_string()]) {
                    Ok(_) => return id,
                    Err(error) => errors.push((id, error)),
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let logs: Vec<String> = self.ids().into_iter().map(|id| self.log(id)).collect();
        panic!("nobody leads within {patience:?}: {errors:#?}\n{}", logs.join("\n---\n"));
    }

    pub fn followers(&mut self) -> Vec<u64> {
        let leader = self.leader();
        self.ids().into_iter().filter(|id| *id != leader).collect()
    }

    /// Waits until a node has logged this.
    pub fn await_log(&mut self, id: u64, needle: &str) {
        let begun = Instant::now();
        while !self.log(id).contains(needle) {
            assert!(begun.elapsed() < PATIENCE, "node {id} never says `{needle}`:\n{}", self.log(id));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A figure of INFO, as a number.
    pub fn figure(&mut self, id: u64, section: &str, name: &str) -> u64 {
        let redis::Value::BulkString(text) = self.ask(id, &["INFO", section]).expect("INFO") else {
            panic!("INFO is no text");
        };
        let text = String::from_utf8(text).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().expect("a number")
    }

    /// Waits until a node's figure of a section, which is published a while after it changes, is that.
    pub fn await_figure(&mut self, id: u64, (section, name): (&str, &str), wanted: u64) {
        let begun = Instant::now();
        loop {
            let figure = self.figure(id, section, name);
            if figure == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "node {id}: {name} is {figure}\n{}", self.log(id));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a node's figures, which are published a while after they change, say that it is this.
    pub fn await_role(&mut self, id: u64, role: &str) {
        let begun = Instant::now();
        loop {
            let info = format!("{:?}", self.ask(id, &["INFO", "replication"]).expect("INFO"));
            if info.contains(&format!("role:{role}")) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "node {id} is no {role}: {info}\n{}", self.log(id));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all nodes that run have applied as much.
    pub fn await_level(&mut self) {
        let begun = Instant::now();
        loop {
            let ids = self.ids();
            let applied: Vec<u64> =
                ids.iter().map(|id| self.figure(*id, "replication", "master_repl_offset")).collect();
            let other = applied.first().copied();
            if applied.iter().all(|applied| Some(applied) == other.as_ref()) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "nodes {ids:?} have applied {applied:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
