//! The image that a replica is sent: stored, validated as a whole, and installed: it replaces its state.
//!
//! Invariant: until all of the image was validated, the replica goes on as if there were none. Then it is held; the image is
//! installed once all that the replica has written is durable; and it is let go once the log begins behind the image, or if
//! nothing has come of it.

use std::collections::VecDeque;

use bytes::Bytes;
use corduroy_wal::{Lsn, Term};

use super::receiver::{Receiver, ReceiverOutput, Standing};
use super::transfers::{ImageOptions, Todo};
use crate::ids::{MemberId, PartitionId};
use crate::image::transfer::{Ended, ImageId, ToReceiver, ToSender};
use crate::image::{Header, ImageAsk, ImageEvent, InstallError};
use crate::raft::guard::Fault;
use crate::raft::membership::Membership;
use crate::raft::replica::Replica;

/// How a replica stands towards an image that comes.
fn standing(replica: &Replica, room_bytes: u64) -> Standing {
    Standing { since: replica.member_since(), committed: replica.committed(), room_bytes }
}

/// How far it is.
enum Stage {
    /// It comes.
    Taking,
    /// All of it is read.
    Validating,
    /// The replica is held, and what it wrote becomes durable.
    Holding { members: Box<Membership> },
    /// The machine replaces the state by it.
    Installing { members: Box<Membership> },
    /// The log is to begin behind it.
    Writing,
}

/// See the file's head.
pub(super) struct Incoming {
    pub partition: PartitionId,
    receiver: Receiver,
    /// The image, the last entry that it includes, and that one's term, once all of it has come.
    whole: Option<(ImageId, Lsn, Term)>,
    stage: Stage,
    /// The chunk that the machine is storing, and those that come behind it: it has one at a time.
    storing: Option<(ImageId, u32)>,
    unstored: VecDeque<(ImageId, u32, Bytes)>,
}

impl Incoming {
    /// # Panics
    /// If an image is through before all of it has come.
    pub fn check(&self) {
        self.receiver.check();
        let is_taking = matches!(self.stage, Stage::Taking);
        assert_eq!(self.whole.is_none(), is_taking, "partition {}: an image that is whole", self.partition);
        let is_through = self.receiver.is_installing();
        assert!(is_taking || is_through, "partition {}: its image has not come", self.partition);
        let is_next_asked = self.storing.is_some() || self.unstored.is_empty();
        assert!(is_next_asked, "partition {}: chunks wait for none", self.partition);
    }

    /// Nothing has come.
    pub fn new(partition: PartitionId, options: &ImageOptions) -> Self {
        let receiver = Receiver::new(options.receiver, options.process);
        let (storing, unstored) = (None, VecDeque::new());
        Self { partition, receiver, whole: None, stage: Stage::Taking, storing, unstored }
    }

    /// Whether no image comes.
    pub fn is_idle(&self) -> bool {
        self.receiver.image().is_none() && matches!(self.stage, Stage::Taking)
    }

    /// Whether the machine is changing the state.
    pub const fn is_installing(&self) -> bool {
        matches!(self.stage, Stage::Installing { .. })
    }

    /// When it is to be followed next, if nothing else comes.
    pub fn next_ns(&self) -> u64 {
        self.receiver.wakes_at_ns().unwrap_or(u64::MAX)
    }

    /// A message came of the leader of a term. While no image comes, time is not followed: what is heard first is heard now.
    pub fn received(
        &mut self,
        from: (u64, u64),
        message: &ToReceiver,
        replica: &Replica,
        (room_bytes, now_ns): (u64, u64),
    ) {
        self.receiver.tick(now_ns);
        self.receiver.received(from, message, &standing(replica, room_bytes));
    }

    fn leader(&self) -> (MemberId, Term) {
        let (from, term) = self.receiver.sender().expect("an image that is whole has a sender");
        (MemberId(from), Term(term))
    }

    fn has_whole(&self, image: ImageId) -> bool {
        self.whole.is_some_and(|(whole, ..)| whole == image)
    }

    /// The image is through, whatever has become of it.
    fn end(&mut self, ended: Ended) {
        self.stage = Stage::Taking;
        if let Some((image, ..)) = self.whole.take() {
            self.receiver.installed(image, ended);
        }
    }

    /// The machine has answered.
    ///
    /// # Errors
    /// [`Fault`] if the state has the image, and the crate does not take it.
    pub fn event(
        &mut self,
        event: ImageEvent,
        replica: Option<&mut Replica>,
        (room_bytes, now_ns): (u64, u64),
        todo: &mut VecDeque<Todo>,
    ) -> Result<(), Fault> {
        let Some(replica) = replica else {
            if let ImageEvent::Installed { .. } = event {
                // The replica was taken off, or stopped: the next start finds what the state has.
                self.stage = Stage::Taking;
            }
            return Ok(());
        };
        match event {
            ImageEvent::Stored { image, number, is_stored, .. } => {
                self.storing.take_if(|storing| *storing == (image, number));
                self.receiver.stored(image, number, is_stored, &standing(replica, room_bytes));
            }
            ImageEvent::Validated { image, result, .. } if self.has_whole(image) => {
                self.validated(result, replica, todo);
            }
            ImageEvent::Installed { image, result, .. } if self.has_whole(image) => {
                return self.installed(result, replica, now_ns, todo);
            }
            // Of one that was given up.
            ImageEvent::Validated { .. } | ImageEvent::Installed { .. } => {}
            ImageEvent::Opened { .. } | ImageEvent::Chunk { .. } | ImageEvent::Failed { .. } => {}
        }
        Ok(())
    }

    /// All of it was read. The log may have brought as much meanwhile, or another one may lead: it is looked at again.
    fn validated(
        &mut self,
        result: Result<Header, InstallError>,
        replica: &mut Replica,
        todo: &mut VecDeque<Todo>,
    ) {
        if !matches!(self.stage, Stage::Validating) {
            return;
        }
        let (_, leader_term) = self.leader();
        let judged = result.map_err(|why| why.ended());
        match judged.and_then(|header| replica.judge_image(&header, leader_term)) {
            Ok(members) => {
                replica.hold();
                self.stage = Stage::Holding { members: Box::new(members) };
                todo.push_back(Todo::Hold(self.partition));
            }
            Err(ended) => self.end(ended),
        }
    }

    fn installed(
        &mut self,
        result: Result<Header, InstallError>,
        replica: &mut Replica,
        now_ns: u64,
        todo: &mut VecDeque<Todo>,
    ) -> Result<(), Fault> {
        let leader = self.leader();
        match (result, std::mem::replace(&mut self.stage, Stage::Taking)) {
            (Ok(header), Stage::Installing { members }) => {
                replica.restore(&header, *members, leader, now_ns)?;
                self.stage = Stage::Writing;
                todo.push_back(Todo::Restored(self.partition, Box::new(header)));
            }
            (Err(why), Stage::Installing { .. }) => {
                replica.let_go();
                todo.push_back(Todo::LetGo(self.partition));
                self.end(why.ended());
            }
            (
                Ok(_) | Err(_),
                stage @ (Stage::Taking | Stage::Validating | Stage::Holding { .. } | Stage::Writing),
            ) => {
                self.stage = stage;
            }
        }
        Ok(())
    }

    /// There is no replica any more. What the machine is installing already comes to its end.
    pub fn take_off(&mut self, todo: &mut VecDeque<Todo>) {
        if self.is_installing() {
            return;
        }
        (self.stage, self.whole) = (Stage::Taking, None);
        self.forget_chunks();
        let dropped = self.receiver.forget();
        let partition = self.partition;
        todo.extend(dropped.into_iter().map(|image| Todo::Ask(ImageAsk::Drop { partition, image })));
    }

    /// What is stored of the image is dropped, and no answer comes of the chunk that is being stored.
    fn forget_chunks(&mut self) {
        self.storing = None;
        self.unstored.clear();
    }

    /// Has the next chunk stored once the one before it is.
    fn store_next(&mut self, todo: &mut VecDeque<Todo>) {
        if self.storing.is_some() {
            return;
        }
        if let Some((image, number, chunk)) = self.unstored.pop_front() {
            self.storing = Some((image, number));
            todo.push_back(Todo::Ask(ImageAsk::Store { partition: self.partition, image, number, chunk }));
        }
    }

    /// Goes on.
    pub fn follow(&mut self, replica: Option<&Replica>, now_ns: u64, todo: &mut VecDeque<Todo>) {
        let partition = self.partition;
        let Some(replica) = replica else { return self.take_off(todo) };
        self.receiver.tick(now_ns);
        match std::mem::replace(&mut self.stage, Stage::Taking) {
            Stage::Holding { members } if replica.is_at_rest() => {
                let (image, lsn, term) = self.whole.expect("what is validated is whole");
                self.stage = Stage::Installing { members };
                todo.push_back(Todo::Ask(ImageAsk::Install { partition, image, last: (lsn, term) }));
            }
            Stage::Writing if !replica.is_held() => self.end(Ended::Installed),
            stage @ (Stage::Holding { .. }
            | Stage::Writing
            | Stage::Taking
            | Stage::Validating
            | Stage::Installing { .. }) => self.stage = stage,
        }
        while let Some(output) = self.receiver.poll() {
            match output {
                ReceiverOutput::Send { to, message } => {
                    let bytes = ToSender::encode(&message);
                    todo.extend(Todo::send(partition, replica, MemberId(to), false, bytes));
                }
                ReceiverOutput::Store { image, number, chunk } => {
                    self.unstored.push_back((image, number, chunk));
                }
                ReceiverOutput::Install { image, lsn, term } => {
                    (self.stage, self.whole) = (Stage::Validating, Some((image, lsn, term)));
                    todo.push_back(Todo::Ask(ImageAsk::Validate { partition, image, last: (lsn, term) }));
                }
                ReceiverOutput::Drop { image } => {
                    self.forget_chunks();
                    todo.push_back(Todo::Ask(ImageAsk::Drop { partition, image }));
                }
            }
        }
        self.store_next(todo);
    }
}
