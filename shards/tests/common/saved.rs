//! What the small state machine keeps, and what it has done off the core.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use corduroy_shards::image::small::{Holds, Pairs, SmallImages};
use corduroy_shards::image::{Header, ImageAsk, ImageEvent};
use corduroy_shards::{PartitionId, Rejection};
use corduroy_wal::Lsn;

use super::Kv;

/// One partition's state.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Part {
    pub data: BTreeMap<String, String>,
    pub applied: u64,
    pub stamp_ms: u64,
    /// Every op ever applied, with its entry's number: shows doubles, gaps and order.
    pub history: Vec<(u64, String)>,
    /// The image that it was installed from, until an entry is applied.
    pub installed: Option<Header>,
    /// Ops of the entry behind `applied` that are applied; what is saved in its middle has them.
    pub begun: u32,
    /// Of those that come again after a restart, how many it has already.
    pub to_pass: u32,
}

impl Part {
    /// As it is found after a restart.
    fn found(&self) -> Self {
        Self { begun: 0, to_pass: self.begun.max(self.to_pass), ..self.clone() }
    }

    pub const fn is_inside_entry(&self) -> bool {
        self.begun > 0 || self.to_pass > 0
    }

    /// Whether the next op is one that it has already.
    pub fn passes_over(&mut self) -> bool {
        let passes = self.begun < self.to_pass;
        self.begun += u32::from(passes);
        passes
    }
}

/// What survives without the log.
pub type Saved = Rc<RefCell<BTreeMap<u64, Part>>>;

/// Work off the core.
pub enum Job {
    Flush(BTreeMap<u64, Part>),
    Fetch(String),
    Clear(PartitionId),
    Image(ImageAsk),
}

/// A reply in a form that can be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Got {
    Done(u64, String),
    Rejected(Rejection),
    Unknown,
}

/// Why a flush was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no space left for the state")]
pub struct NoSpace;

impl Kv {
    /// Operations that it fetches ahead at a time.
    pub const PREFETCHED: usize = 4;

    pub fn over(saved: &Saved) -> Self {
        let parts = saved.borrow().iter().map(|(id, part)| (*id, part.found())).collect();
        Self { parts, saved: Rc::clone(saved), ..Self::default() }
    }

    pub fn flush(&mut self) {
        self.jobs.push(Job::Flush(self.parts.clone()));
    }

    pub fn with_images(&mut self, act: impl FnOnce(&mut SmallImages, &mut Self)) {
        let mut images = std::mem::take(&mut self.images);
        act(&mut images, self);
        self.images = images;
    }
}

impl Kv {
    /// What changes the state, reads all of an image or stores a chunk is done off the core; chunks one at a time, as in the store.
    pub fn ask_of_images(&mut self, ask: ImageAsk) {
        match ask {
            ImageAsk::Store { partition, image, number, .. } if self.storing.contains_key(&partition) => {
                self.refused_chunks.push(ImageEvent::Stored { partition, image, number, is_stored: false });
            }
            ImageAsk::Store { partition, image, .. } => {
                self.storing.insert(partition, image);
                self.jobs.push(Job::Image(ask));
            }
            ImageAsk::Drop { partition, image } => {
                self.storing.retain(|of, storing| (*of, *storing) != (partition, image));
                self.with_images(|images, machine| images.ask(ask, machine));
            }
            ImageAsk::Validate { .. } | ImageAsk::Install { .. } => self.jobs.push(Job::Image(ask)),
            ImageAsk::Open { .. }
            | ImageAsk::Begin { .. }
            | ImageAsk::Next { .. }
            | ImageAsk::Close { .. } => self.with_images(|images, machine| images.ask(ask, machine)),
        }
    }

    pub fn image_job_done(&mut self, ask: ImageAsk) {
        if let ImageAsk::Store { partition, image, .. } = &ask {
            if self.storing.get(partition) != Some(image) {
                // It was dropped meanwhile.
                return;
            }
            self.storing.remove(partition);
        }
        self.with_images(|images, machine| images.ask(ask, machine));
    }
}

/// What the key of a row begins with: of a pair, or of a line of the history.
const PAIR: u8 = 0;
const LINE: u8 = 1;

impl Kv {
    /// Deletes a partition by a job, as the store does. Returns whether nothing is left.
    pub fn delete(&mut self, partition: PartitionId) -> bool {
        let id = partition.0;
        let is_left = self.parts.contains_key(&id) || self.saved.borrow().contains_key(&id);
        if is_left && self.clearing.insert(id) {
            self.jobs.push(Job::Clear(partition));
        }
        !is_left
    }

    pub fn deleted(&mut self, partition: PartitionId) {
        self.clearing.remove(&partition.0);
        self.parts.remove(&partition.0);
        self.saved.borrow_mut().remove(&partition.0);
    }
}

impl Holds for Kv {
    fn persisted(&self, partition: PartitionId) -> Option<(Lsn, u64, Pairs)> {
        let saved = self.saved.borrow();
        let is_whole = |part: &&Part| part.applied > 0 && !part.is_inside_entry();
        let part = saved.get(&partition.0).filter(is_whole)?;
        let pair = |(key, value): (&String, &String)| {
            ([&[PAIR], key.as_bytes()].concat(), value.clone().into_bytes())
        };
        let line = |(at, (lsn, op)): (usize, &(u64, String))| {
            let key = [&[LINE][..], &(at as u64).to_be_bytes(), &lsn.to_be_bytes()].concat();
            (key, op.clone().into_bytes())
        };
        let rows = part.data.iter().map(pair).chain(part.history.iter().enumerate().map(line));
        Some((Lsn(part.applied), part.stamp_ms, rows.collect()))
    }

    fn applied(&self, partition: PartitionId) -> Lsn {
        Lsn(self.parts.get(&partition.0).map_or(0, |part| part.applied))
    }

    fn replace(&mut self, header: &Header, rows: Pairs) -> Result<(), &'static str> {
        let installed = Some(header.clone());
        let mut part =
            Part { applied: header.lsn.0, stamp_ms: header.clock_ms, installed, ..Part::default() };
        for (key, value) in rows {
            let text = String::from_utf8(value).map_err(|_| "it is no text")?;
            match key.split_first() {
                Some((&PAIR, key)) => {
                    let key = String::from_utf8(key.to_vec()).map_err(|_| "it is no text")?;
                    part.data.insert(key, text);
                }
                Some((&LINE, rest)) => {
                    let lsn = rest.last_chunk::<8>().ok_or("it is no line")?;
                    part.history.push((u64::from_be_bytes(*lsn), text));
                }
                Some(_) | None => return Err("it is none of this machine"),
            }
        }
        self.saved.borrow_mut().insert(header.partition.0, part.clone());
        self.parts.insert(header.partition.0, part);
        Ok(())
    }

    fn want_flush(&mut self) {
        self.flush();
    }
}
