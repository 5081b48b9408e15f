//! How two nodes agree to a connection: both state who they are, prove that they share the cluster's secret, and choose a
//! version.
//!
//! Invariant: a handshake that is done has seen the other side's proof over both hellos, so that neither was changed on
//! its way; what it refuses, it refuses before anything of a group was sent. Both sides compare the same fields, so each
//! reports what differs in its own words.
//!
//! ```text
//! dialling side                                     accepting side
//!   hello: who I am, whom and which core I want ->
//!                                                <- hello: who I am, the core that you have, where my shards are
//!                                                <- proof
//!   proof                                        ->
//!                                                <- accepted
//!   frames                                      <->   frames
//! ```
//!
//! Either side may send *refused* with a reason, and end. A proof is HMAC-SHA-256 by the secret (by no bytes, where there is
//! none) over the side's name and both hellos; the ids of the two streams come out of the same. It shows that the other
//! side has the secret; it hides nothing of what is sent afterwards.

use bytes::Bytes;
use hmac_sha256::HMAC;

use super::founding::Founding;
use super::frame::{Lane, Stream};
use super::hello::{
    CoreId, Epoch, Greeting, Hello, Nonce, PROOF_BYTES, Secret, ShardCore, SharedLimits, Versions,
};
use super::known::{Founders, Known};
use super::refusal::{Damage, Refusal};
use crate::ids::NodeId;

/// Of which both streams' ids are made.
const STREAMS: &[u8] = b"corduroy streams";

/// This node, as it presents itself to others. Constant while its process runs.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its cluster.
    pub cluster: u128,
    /// Which node it is.
    pub node: NodeId,
    /// Which process of it.
    pub epoch: Epoch,
    /// The versions of frames that it speaks.
    pub versions: Versions,
    /// What its replicas take.
    pub limits: SharedLimits,
    /// How its cluster was founded.
    pub founding: Founding,
    /// The cores that it has.
    pub cores: u16,
    /// Its shards and their cores; at most [`SHARDS_MAX`](super::hello::SHARDS_MAX).
    pub shards: Vec<ShardCore>,
    /// The founders of its cluster, and what was durably kept of them when it started.
    pub founders: Founders,
    /// What it has to prove, if the cluster has a secret.
    pub secret: Option<Secret>,
}

/// A side of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It made the connection.
    Dialling,
    /// It was connected to.
    Accepting,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Dialling => Self::Accepting,
            Self::Accepting => Self::Dialling,
        }
    }

    /// What its proof begins with, so that it is not the other's.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Dialling => b"corduroy dialler",
            Self::Accepting => b"corduroy accepts",
        }
    }
}

/// The other side of a connection, once both have accepted each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Which node.
    pub node: NodeId,
    /// Which process of it.
    pub epoch: Epoch,
    /// Its core on this connection.
    pub core: CoreId,
    /// Our core.
    pub our_core: CoreId,
    /// Which side this node is.
    pub side: Side,
    /// What we write.
    pub outgoing: Stream,
    /// What we read.
    pub incoming: Stream,
    /// Its shards and their cores.
    pub shards: Vec<ShardCore>,
}

/// What a handshake has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Something of the other side is still to come.
    Waits,
    /// Frames may follow; these bytes of theirs have come.
    Done(Box<PeerInfo>, Bytes),
    /// The connection ends, once what there is to write is written.
    Refused(Refusal),
}

/// What is to be done after something came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// To be sent.
    pub write: Vec<u8>,
    /// And then.
    pub outcome: Outcome,
}

/// What comes next from the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaits {
    Hello,
    Proof,
    Accepted,
    /// Nothing: it is over.
    Nothing,
}

/// One side of one handshake.
#[derive(Debug)]
pub struct Handshake {
    side: Side,
    awaits: Awaits,
    began_ns: u64,
    nonce: Nonce,
    ours: Option<Hello>,
    theirs: Option<Hello>,
    /// The core that the accepting side takes a connection for any core on.
    core: CoreId,
    held: Vec<u8>,
}

impl Handshake {
    /// Begins one on a connection that `core` made to reach a core of `wanted`; with the bytes to send first.
    #[must_use]
    pub fn dial(
        local: &Local,
        core: CoreId,
        wanted: (NodeId, CoreId),
        lane: Lane,
        nonce: Nonce,
        now_ns: u64,
    ) -> (Self, Vec<u8>) {
        let ours = hello(local, core, wanted, lane, nonce);
        let write = Greeting::Hello(Box::new(ours.clone())).encode();
        let mut dialling = Self::accept(core, nonce, now_ns);
        (dialling.side, dialling.ours) = (Side::Dialling, Some(ours));
        (dialling, write)
    }

    /// Begins one on a connection that `core` has accepted.
    #[must_use]
    pub const fn accept(core: CoreId, nonce: Nonce, now_ns: u64) -> Self {
        Self {
            side: Side::Accepting,
            awaits: Awaits::Hello,
            began_ns: now_ns,
            nonce,
            ours: None,
            theirs: None,
            core,
            held: Vec::new(),
        }
    }

    /// When it began.
    #[must_use]
    pub const fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// Takes what came next.
    pub fn received(&mut self, bytes: &[u8], local: &Local, known: &Known) -> Step {
        assert!(self.awaits != Awaits::Nothing, "a handshake that is over takes no more");
        self.held.extend_from_slice(bytes);
        let mut write = Vec::new();
        match self.advance(local, known, &mut write) {
            Ok(outcome) => Step { write, outcome },
            Err(refusal) => {
                self.awaits = Awaits::Nothing;
                // Who has refused knows why.
                if !matches!(refusal, Refusal::ByPeer(_)) {
                    write.extend_from_slice(&Greeting::Refused(refusal.kind()).encode());
                }
                Step { write, outcome: Outcome::Refused(refusal) }
            }
        }
    }

    /// Takes message after message, as far as they are whole.
    fn advance(&mut self, local: &Local, known: &Known, write: &mut Vec<u8>) -> Result<Outcome, Refusal> {
        while let Some((greeting, bytes)) = Greeting::decode(&self.held)? {
            self.held.drain(..bytes);
            match (greeting, self.awaits) {
                (Greeting::Refused(why), _) => return Err(Refusal::ByPeer(why)),
                (Greeting::Hello(theirs), Awaits::Hello) => self.take_hello(*theirs, local, known, write)?,
                (Greeting::Proof(proof), Awaits::Proof) => {
                    self.compare_proof(&proof, local)?;
                    self.compare_process(known)?;
                    match self.side {
                        Side::Dialling => {
                            write.extend_from_slice(
                                &Greeting::Proof(self.mac(self.side.label(), local)).encode(),
                            );
                            self.awaits = Awaits::Accepted;
                        }
                        Side::Accepting => {
                            write.extend_from_slice(&Greeting::Accepted.encode());
                            return Ok(self.done(local));
                        }
                    }
                }
                (Greeting::Accepted, Awaits::Accepted) => return Ok(self.done(local)),
                (Greeting::Hello(_) | Greeting::Proof(_) | Greeting::Accepted, _) => {
                    return Err(Damage::Order.into());
                }
            }
        }
        Ok(Outcome::Waits)
    }

    fn take_hello(
        &mut self,
        theirs: Hello,
        local: &Local,
        known: &Known,
        write: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if let Some(ours) = &self.ours {
            if theirs.node != ours.wanted && theirs.cluster == local.cluster {
                return Err(Refusal::Node { wanted: ours.wanted, found: theirs.node });
            }
            if theirs.lane != ours.lane || theirs.wanted_core != ours.core {
                return Err(Damage::Field("lane or core").into());
            }
        } else {
            // A node whose cores have become fewer is still reached; the answer says where its shards are now.
            let core = if theirs.wanted_core.0 < local.cores { theirs.wanted_core } else { self.core };
            let ours = hello(local, core, (theirs.node, theirs.core), theirs.lane, self.nonce);
            // Sent also to whom is refused, so that it can report what differs.
            write.extend_from_slice(&Greeting::Hello(Box::new(ours.clone())).encode());
            self.ours = Some(ours);
        }
        compare(&theirs, local, known)?;
        if theirs.core == CoreId::ANY {
            return Err(Damage::Field("core").into());
        }
        self.theirs = Some(theirs);
        self.awaits = Awaits::Proof;
        if self.side == Side::Accepting {
            write.extend_from_slice(&Greeting::Proof(self.mac(self.side.label(), local)).encode());
        }
        Ok(())
    }

    fn compare_proof(&self, proof: &[u8; PROOF_BYTES], local: &Local) -> Result<(), Refusal> {
        let mac = self.keyed(self.side.other().label(), local);
        if mac.finalize_verify(proof) { Ok(()) } else { Err(Refusal::OtherSecret) }
    }

    /// What is asked of who has proved that it is of the cluster.
    fn compare_process(&self, known: &Known) -> Result<(), Refusal> {
        let theirs = self.theirs.as_ref().expect("a proof comes after both hellos");
        known.compare_proved(theirs.node, theirs.epoch)
    }

    fn hellos(&self) -> (&Hello, &Hello) {
        let ours = self.ours.as_ref().expect("a proof comes after both hellos");
        let theirs = self.theirs.as_ref().expect("a proof comes after both hellos");
        match self.side {
            Side::Dialling => (ours, theirs),
            Side::Accepting => (theirs, ours),
        }
    }

    /// The code over both hellos: as they were read and written, since each has one form.
    fn keyed(&self, label: &[u8], local: &Local) -> HMAC {
        let mut mac = HMAC::new(local.secret.as_ref().map_or(&[][..], Secret::bytes));
        mac.update(label);
        let (dialling, accepting) = self.hellos();
        for hello in [dialling, accepting] {
            mac.update(Greeting::Hello(Box::new(hello.clone())).encode());
        }
        mac
    }

    fn mac(&self, label: &[u8], local: &Local) -> [u8; PROOF_BYTES] {
        self.keyed(label, local).finalize()
    }

    fn done(&mut self, local: &Local) -> Outcome {
        self.awaits = Awaits::Nothing;
        let ids = self.mac(STREAMS, local);
        let (words, _) = ids.as_chunks::<8>();
        let id =
            |side| u64::from_le_bytes(*words.get(usize::from(side == Side::Accepting)).unwrap_or(&[0; 8]));
        let ours = self.ours.as_ref().expect("both hellos have come");
        let theirs = self.theirs.as_ref().expect("both hellos have come");
        let version = ours.versions.common(theirs.versions).expect("it was looked for");
        let stream = |side| Stream { id: id(side), version, lane: ours.lane };
        let info = PeerInfo {
            node: theirs.node,
            epoch: theirs.epoch,
            core: theirs.core,
            our_core: ours.core,
            side: self.side,
            outgoing: stream(self.side),
            incoming: stream(self.side.other()),
            shards: theirs.shards.clone(),
        };
        Outcome::Done(Box::new(info), Bytes::from(std::mem::take(&mut self.held)))
    }
}

fn hello(local: &Local, core: CoreId, wanted: (NodeId, CoreId), lane: Lane, nonce: Nonce) -> Hello {
    Hello {
        versions: local.versions,
        cluster: local.cluster,
        node: local.node,
        epoch: local.epoch,
        wanted: wanted.0,
        lane,
        has_secret: local.secret.is_some(),
        core,
        wanted_core: wanted.1,
        limits: local.limits,
        founding: local.founding,
        nonce,
        shards: local.shards.clone(),
    }
}

/// What either side asks of the other's hello.
fn compare(theirs: &Hello, local: &Local, known: &Known) -> Result<(), Refusal> {
    if theirs.cluster != local.cluster {
        return Err(Refusal::Cluster { ours: local.cluster, theirs: theirs.cluster });
    }
    if theirs.wanted != local.node {
        return Err(Refusal::Node { wanted: theirs.wanted, found: local.node });
    }
    if theirs.node == local.node {
        return Err(Refusal::OurOwnId { node: local.node });
    }
    if local.versions.common(theirs.versions).is_none_or(|version| version < theirs.lane.since()) {
        return Err(Refusal::Versions { ours: local.versions, theirs: theirs.versions });
    }
    if theirs.has_secret != local.secret.is_some() {
        return Err(Refusal::OneSecret { is_ours: local.secret.is_some() });
    }
    if theirs.limits != local.limits {
        return Err(Refusal::Limits { ours: local.limits, theirs: theirs.limits });
    }
    if theirs.founding != local.founding {
        return Err(Refusal::Founding { ours: local.founding, theirs: theirs.founding });
    }
    known.compare(theirs.node, theirs.epoch)
}
