//! What a command that the session answers by itself may know and change of its connection. The rest of a session, input,
//! output and what is under way, is not a command's matter.

use std::mem::take;
use std::sync::Arc;

use super::backend::{Backend, Wish};
use super::clients::{Client, Hub};
use super::guesses::{Source, Turn};
use super::parse::Limits;

/// Which replies CLIENT REPLY lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplyMode {
    /// All.
    #[default]
    On,
    /// None.
    Off,
    /// All but the next one.
    SkipNext,
}

/// How a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Ending {
    #[default]
    No,
    /// Once what came before is answered.
    AfterReplies,
    /// Now; the output does not matter any more.
    AtOnce,
}

/// See the file's head.
pub struct ConnState {
    /// What the sessions of the node share.
    pub hub: Arc<Hub>,
    /// What other connections may know of this one.
    pub client: Arc<Client>,
    /// Replies are in RESP3.
    pub resp3: bool,
    /// Which replies are sent.
    pub reply_mode: ReplyMode,
    /// The request under way gets no reply.
    pub muted: bool,
    /// It has asked which node leads what.
    pub knows_nodes: bool,
    /// Its reads are answered by whatever member of a group is here: READONLY.
    pub reads_anywhere: bool,
    pub(super) authenticated: bool,
    pub(super) limits: Limits,
    pub(super) ending: Ending,
    /// The time has come that was kept for an attempt at the password.
    pub(super) may_guess: bool,
    /// What it wants of its owner since that was taken last.
    pub(super) wishes: Vec<Wish>,
}

impl ConnState {
    pub(super) fn new(hub: &Arc<Hub>, client: Arc<Client>, backend: &dyn Backend) -> Self {
        Self {
            hub: Arc::clone(hub),
            client,
            resp3: false,
            reply_mode: ReplyMode::On,
            muted: false,
            knows_nodes: false,
            reads_anywhere: false,
            authenticated: backend.requires_password().is_none(),
            limits: Limits::UNAUTHENTICATED,
            ending: Ending::No,
            may_guess: false,
            wishes: Vec::new(),
        }
    }

    /// Whether it is sent to the node that leads a partition, where that is another one.
    #[must_use]
    pub fn may_redirect(&self) -> bool {
        self.hub.redirect.redirects(self.knows_nodes)
    }

    /// Whether it has given the password, or needs none.
    #[must_use]
    pub const fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// The password was right. What follows in the same bytes has an authenticated client's limits already.
    pub fn authenticate(&mut self) {
        self.authenticated = true;
        self.may_guess = false;
        self.renew_limits();
    }

    /// What a request may cost from now on.
    pub(super) fn renew_limits(&mut self) {
        self.limits = if self.authenticated {
            Limits::with_max_bulk(self.hub.max_bulk_bytes())
        } else {
            Limits::UNAUTHENTICATED
        };
    }

    /// Wants this of its owner.
    pub fn wish(&mut self, wish: Wish) {
        self.wishes.push(wish);
    }

    /// Ends the connection once the replies to everything so far are written.
    pub const fn close_after_replies(&mut self) {
        self.ending = Ending::AfterReplies;
    }

    /// When an attempt at the password may be looked at.
    pub(super) fn guess(&self, backend: &dyn Backend) -> Turn {
        if self.may_guess || backend.requires_password().is_none() {
            return Turn::Now;
        }
        self.hub.guesses.turn(Source::of(&self.client.addr), backend.mono_ns())
    }

    /// Counts an attempt at the password that failed.
    pub fn count_wrong_password(&mut self, backend: &dyn Backend) {
        let guesses = &self.hub.guesses;
        if backend.requires_password().is_none() {
            return guesses.count_denied();
        }
        let source = Source::of(&self.client.addr);
        if let Some(report) = guesses.wrong(source, take(&mut self.may_guess), backend.mono_ns()) {
            self.wishes.push(Wish::ReportGuesses(report));
        }
    }
}
