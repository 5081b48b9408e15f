//! The peers of a core: brings what comes of them to the shards, and what the shards have for them on its way.
//!
//! Invariant: nothing is sent or accepted before this start is written down in the data folder, so that peers can order the
//! processes that this node has been. A storage has the number of its node.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use corduroy_shards::ids::NodeId;
use corduroy_shards::net::{
    ConnId, CoreId, Epoch, Founder, Founders, Local, PeerOptions, ShardCore, To, Versions,
};
use corduroy_shards::runtime::{Listener, Ready};
use corduroy_shards::wires::{Moved, News, WireOptions, Wires};
use corduroy_shards::{Now, PartitionId, PeerMessage, StorageId};

use super::core::Core;
use super::event::Event;
use super::hosts::{Either, Hosts};
use super::identity::{Identity, process_number};
use super::message::Message;
use super::shared::{Shared, lock};
use crate::config::peers::{Description as Described, Peers as Description};

/// See the file's head.
pub struct Peers {
    core: Rc<Core>,
    hosts: Rc<Hosts>,
    wires: RefCell<Wires>,
    /// This start is written down: others may hear of it.
    is_listening: Cell<bool>,
    /// When the founders are connected to that are to be met, by a node that joins.
    greet_at_ns: Cell<u64>,
    /// Those that are connected to once, when this node has started.
    to_greet: Cell<Vec<NodeId>>,
}

/// How often who was not met is looked for.
const GREET_NS: u64 = 500_000_000;

/// How this node presents itself on all its connections.
fn local(shared: &Shared, description: &Description) -> Local {
    let (identity, layout) = (&shared.identity, &shared.layout);
    let core_of = |shard| CoreId(u16::try_from(layout.core_of_shard(shard)).unwrap_or(u16::MAX));
    let shards = (0..layout.cores()).flat_map(|core| layout.shards_of_core(core));
    let storage = StorageId(identity.storage);
    Local {
        cluster: identity.cluster,
        node: NodeId(identity.node),
        // This start is counted before the first handshake.
        epoch: Epoch {
            incarnation: identity.incarnation,
            starts: identity.starts + 1,
            process: process_number(),
        },
        versions: Versions::SPOKEN,
        limits: shared.limits,
        founding: identity.founding(),
        founders: founders(identity, &description.description),
        cores: u16::try_from(layout.cores()).unwrap_or(u16::MAX),
        shards: shards.map(|shard| ShardCore { storage, shard, core: core_of(shard) }).collect(),
        secret: Some(description.description.secret.clone()),
    }
}

/// The other founders as the folder and the description have them. One that has left is not heard where the description says so.
/// A node that joins need not have met it, since it founds nothing: who stays has met it. A founder needs to: a cluster begins
/// once all have met.
fn founders(identity: &Identity, description: &Described) -> Founders {
    let mut founders = identity.other_founders();
    for (node, founder) in &mut founders {
        let has_left = description.node(node.0).is_some_and(|node| node.left);
        if has_left && (identity.joins() || *founder != Founder::Unmet) {
            *founder = Founder::Left;
        }
    }
    founders
}

impl Peers {
    /// Those of a core that takes connections from this listener.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(
        core: Rc<Core>,
        hosts: Rc<Hosts>,
        description: &Description,
        listener: Listener,
    ) -> io::Result<Self> {
        let shared = &core.shared;
        let others = description.description.addresses_beside(description.node.id);
        let addresses: Vec<_> = others.map(|(node, peer)| (NodeId(node), peer)).collect();
        // One core is enough: the others of a node hear of it from the one that is connected to.
        let is_greeted = |node: &NodeId| core.index == 0 && shared.identity.founders.contains(&node.0);
        let to_greet = addresses.iter().map(|(node, _)| *node).filter(is_greeted).collect();
        let options = WireOptions {
            local: local(shared, description),
            core: CoreId(u16::try_from(core.index).unwrap_or(u16::MAX)),
            peers: PeerOptions {
                connections: shared.descriptors.peers_a_core,
                seed: shared.started_ms ^ shared.identity.node.rotate_left(32) ^ (core.index as u64) << 17,
                ..PeerOptions::default()
            },
            addresses: addresses.into_iter().collect(),
            token: |conn| Event::Peer(conn.0).token(),
        };
        let wires = RefCell::new(Wires::new(options, listener)?);
        Ok(Self {
            core,
            hosts,
            wires,
            is_listening: Cell::new(false),
            greet_at_ns: Cell::new(0),
            to_greet: Cell::new(to_greet),
        })
    }

    /// Begins to accept connections, and to send.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&self) -> io::Result<()> {
        self.is_listening.set(true);
        self.wires.borrow_mut().listen(&self.core.poller, Event::PeerListener.token())
    }

    /// Takes news of the listener.
    pub fn notice_listener(&self) {
        self.wires.borrow_mut().notice_listener();
    }

    /// Takes news of a connection.
    pub fn notice(&self, conn: u64, ready: Ready) {
        let now_ns = self.core.mono_ns();
        self.hosts.want_publishing();
        self.wires.borrow_mut().notice(ConnId(conn), ready, &self.core.poller, now_ns);
    }

    /// Takes in what has come, and hands it to the shards.
    pub fn receive(&self, now: Now) {
        if !self.is_listening.get() {
            return;
        }
        let mut wires = self.wires.borrow_mut();
        wires.turn(&self.core.poller, now.mono_ns);
        let news = wires.take_news();
        self.greet(&mut wires, now);
        self.hosts.note_reached(wires.all_heard().map(|(node, _)| node).filter(|node| wires.reaches(*node)));
        self.hosts.note_heard(wires.all_heard().map(|(node, epoch)| (node, epoch.incarnation)));
        drop(wires);
        news.into_iter().for_each(|news| self.take(news));
    }

    /// Connects to whom this node has to hear: whom it joins, and who is to join; and, once, to all others of the
    /// cluster: who waits for seconds before it tries again to connect to this node hears that it has started.
    fn greet(&self, wires: &mut Wires, now: Now) {
        let (core, now_ns) = (&self.core, now.mono_ns);
        let to_greet = self.to_greet.take();
        if !to_greet.is_empty() {
            to_greet.into_iter().for_each(|node| wires.greet(node, &core.poller, now_ns));
            self.hosts.greet_members();
        }
        for contact in self.hosts.take_to_greet() {
            wires.learn(contact.node, contact.peer);
            wires.greet(contact.node, &core.poller, now_ns);
        }
        if self.has_to_meet(wires) && now_ns >= self.greet_at_ns.get() {
            self.greet_at_ns.set(now_ns + GREET_NS);
            wires.unmet().into_iter().for_each(|node| wires.greet(node, &core.poller, now_ns));
        }
    }

    fn has_to_meet(&self, wires: &Wires) -> bool {
        self.core.shared.identity.joins() && !wires.has_met_all()
    }

    fn take(&self, news: News) {
        let links = &self.hosts.links;
        match news {
            News::Message { node, partition, message } => {
                self.hosts.take_peer_message(partition, node, message);
            }
            News::Unreachable { partition, to } => self.hosts.report_unreachable(partition, to),
            News::Forwarded { node, forwarded } => self.hosts.take_from_node(node, forwarded),
            News::Unsent { forwarded, .. } => self.hosts.unsent(&forwarded),
            News::Severed { requests, .. } => self.hosts.severed(&requests),
            News::Moved { core, moved } => links.post(usize::from(core.0), Message::Peer(moved)),
            News::Meet { node, incarnation } => match self.core.shared.meet(node, incarnation) {
                Ok(kept) => self.wires.borrow_mut().met(node, kept),
                // It is not heard until that can be kept, and tries again.
                Err(error) => {
                    tracing::error!("node {node} is not heard, since it cannot be remembered: {error}")
                }
            },
            News::Seen { node, epoch } => {
                let others = (0..links.cores()).filter(|core| *core != self.core.index);
                others.for_each(|core| links.post(core, Message::PeerSeen { node, epoch }));
            }
        }
    }

    /// Takes a connection that another core has accepted.
    pub fn adopt(&self, moved: Moved, now: Now) {
        self.wires.borrow_mut().adopt(moved, &self.core.poller, now.mono_ns);
        self.core.wake();
    }

    /// Another core has seen this process of a node.
    pub fn seen(&self, node: NodeId, epoch: Epoch, now: Now) {
        self.wires.borrow_mut().seen(node, epoch, &self.core.poller, now.mono_ns);
    }

    /// Sends what the shards have for peers: one frame a connection.
    pub fn send(&self, messages: impl Iterator<Item = PeerMessage>, now: Now) {
        if !self.is_listening.get() {
            // Raft sends what matters again.
            messages.for_each(drop);
            return self.hosts.send_forwarded(|_, forwarded| {
                self.hosts.unsent(&forwarded);
                Ok(())
            });
        }
        let mut wires = self.wires.borrow_mut();
        for PeerMessage { partition, to: storage, message } in messages {
            let there = (storage, Either::receiver(&message, NodeId(storage.0)));
            if let Some(to) = self.replica_of(&mut wires, partition, there, now)
                && let Err(error) = wires.queue(to, partition, message, now.mono_ns)
            {
                tracing::error!(partition = partition.0, %error, "a message of a group is dropped");
            }
        }
        self.hosts.send_forwarded(|node, forwarded| {
            let there = (StorageId(node.0), Either::On(node));
            match self.replica_of(&mut wires, forwarded.partition(), there, now) {
                Some(to) => wires.forward(to, forwarded, now.mono_ns),
                None => {
                    self.hosts.unsent(&forwarded);
                    Ok(())
                }
            }
        });
        wires.flush(&self.core.poller, now.mono_ns);
    }

    /// Where a partition's replica on a storage is: all nodes have as many shards. Nowhere, where a node has joined that was not heard
    /// yet, or has lost its data: nothing of its former folder is for the one that it has now.
    fn replica_of(
        &self,
        wires: &mut Wires,
        partition: PartitionId,
        (storage, member): (StorageId, Either),
        now: Now,
    ) -> Option<To> {
        let shared = &self.core.shared;
        let (shard, node) = (shared.layout.shard_of(partition)?, NodeId(storage.0));
        if !shared.identity.founders.contains(&node.0)
            && let Some(contact) = self.hosts.contact(partition, member)
        {
            wires.learn(node, contact.peer);
            let heard = wires.heard(node).map(|epoch| epoch.incarnation);
            if heard.is_none() {
                wires.greet(node, &self.core.poller, now.mono_ns);
            }
            if heard != Some(contact.incarnation) {
                return None;
            }
        }
        Some(To { node, storage, shard })
    }

    /// Whether there is something to do at once.
    pub fn has_more(&self) -> bool {
        self.is_listening.get() && self.wires.borrow().has_more()
    }

    /// When there is something to do at the latest, on the monotonic clock.
    pub fn next_ns(&self) -> Option<u64> {
        let wires = self.wires.borrow();
        let greet = self.has_to_meet(&wires).then(|| self.greet_at_ns.get());
        if self.is_listening.get() { wires.next_ns().into_iter().chain(greet).min() } else { None }
    }

    /// Publishes what has happened so far.
    pub fn publish(&self) {
        let wires = self.wires.borrow();
        *lock(&self.core.facts().peers) = Some((wires.counters().clone(), wires.connections()));
    }

    /// Ends all connections.
    pub fn close(&self) {
        self.is_listening.set(false);
        self.wires.borrow_mut().close();
    }
}
