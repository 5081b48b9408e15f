//! The steps of images, as the shard asks for them: which job is next, and what an install changes in memory.
//!
//! Invariants: an image has one job at a time; whatever it holds of the disk level is let go by a job. An install begins when no
//! flush is under way, and none begins before it has ended: the two would write what is not of one point. So it is with deletions,
//! which are one job for all that wait, and a flush that is due goes before the next of those. What was asked of a keyspace before
//! its partition was installed names another number, so its answer finds nothing.

use std::collections::{BTreeMap, BTreeSet};

use corduroy_shards::PartitionId;
use corduroy_shards::image::Header;
use corduroy_shards::image::ask::{ImageAsk, ImageEvent, InstallError};
use corduroy_shards::image::transfer::ImageId;
use corduroy_wal::{Lsn, Term};

use crate::store::disk::DiskLevel;
use crate::store::exec::MAX_KEY_BYTES;
use crate::store::images::{ImageDone, ImageTask, Install, Making, Staged};
use crate::store::jobs::{Job, Task};
use crate::store::memory::meta::{Installed, PartitionMeta};
use crate::store::state::Store;

/// What an item of an image has beside key and value, at most.
const ITEM_HEAD_BYTES: usize = 512;
/// What is kept of absent keys, at most.
const SECTION_BYTES_MAX: usize = 256 << 10;

/// An image that is being made.
enum Open {
    /// There is no point yet that it may be of.
    Waits { partition: PartitionId, at_least: Lsn, is_looking: bool },
    /// It was opened, and no job has it.
    Here(Box<Making>),
    /// A job has it.
    Away,
    /// A job has it, and it is not needed any more.
    Closed,
}

/// What is stored for a partition.
enum Stored {
    Here(Staged),
    /// A job has it.
    Away(ImageId),
    /// A job has it, and it is not needed any more.
    Dropped,
}

/// See the file's head.
#[derive(Default)]
pub(in crate::store) struct Images {
    opens: BTreeMap<u64, Open>,
    stored: BTreeMap<PartitionId, Stored>,
    /// Installs that wait for a flush to end.
    waiting: Vec<(PartitionId, ImageId, (Lsn, Term))>,
    /// Installs that a job has.
    installing: usize,
    /// Partitions that are to be deleted by the next job.
    to_clear: BTreeSet<PartitionId>,
    /// Partitions that a job deletes.
    clearing: BTreeSet<PartitionId>,
    /// What partitions were installed from, until an entry is applied to them.
    installed: BTreeMap<PartitionId, Box<Installed>>,
    pub(in crate::store) events: Vec<ImageEvent>,
}

impl Images {
    /// Whether an install or a deletion is under way, or an install waits: no flush begins then.
    pub(in crate::store) fn is_installing(&self) -> bool {
        self.installing > 0 || !self.waiting.is_empty() || !self.clearing.is_empty()
    }

    /// Whether a partition is being deleted, or is to be.
    fn is_clearing(&self, id: PartitionId) -> bool {
        self.to_clear.contains(&id) || self.clearing.contains(&id)
    }

    /// What a partition was installed from.
    pub(in crate::store) fn installed(&self, id: PartitionId) -> Option<&Installed> {
        self.installed.get(&id).map(Box::as_ref)
    }

    pub(in crate::store) fn note_installed(&mut self, id: PartitionId, installed: Option<Box<Installed>>) {
        if let Some(installed) = installed {
            self.installed.insert(id, installed);
        }
    }

    /// An entry was applied: the log goes on behind the image.
    #[inline]
    pub(in crate::store) fn applied(&mut self, id: PartitionId) {
        if !self.installed.is_empty() {
            self.installed.remove(&id);
        }
    }

    /// Whether an image waits for an entry that was applied since `before`, up to `applied`.
    #[inline]
    pub(in crate::store) fn awaits(&self, id: PartitionId, before: Lsn, applied: Lsn) -> bool {
        self.opens.values().any(|open| match open {
            Open::Waits { partition, at_least, .. } => {
                *partition == id && (before.next()..=applied).contains(at_least)
            }
            Open::Here(_) | Open::Away | Open::Closed => false,
        })
    }

    /// The partitions that images wait for a point of.
    fn awaited(&self) -> impl Iterator<Item = PartitionId> {
        self.opens.values().filter_map(|open| match open {
            Open::Waits { partition, .. } => Some(*partition),
            Open::Here(_) | Open::Away | Open::Closed => None,
        })
    }
}

impl<L: DiskLevel> Store<L> {
    /// Whether a flush or an install is under way: its end is waited for where changes have outrun the disk.
    pub(in crate::store) fn has_running_write(&self) -> bool {
        self.ledger.has_running_flush() || self.images.is_installing()
    }

    fn image_job(&mut self, task: ImageTask) {
        self.jobs.push(Job { disk: self.disk.clone(), task: Task::Image(task) });
    }

    /// Does what is asked.
    pub(in crate::store) fn ask_of_images(&mut self, ask: ImageAsk) {
        match ask {
            ImageAsk::Open { number, partition, at_least } => {
                let waits = Open::Waits { partition, at_least, is_looking: false };
                let before = self.images.opens.insert(number, waits);
                assert!(before.is_none(), "image {number} was opened before");
                self.look_for_points();
            }
            ImageAsk::Begin { number, term, configuration } => {
                self.read_image(number, Some((term, configuration)));
            }
            ImageAsk::Next { number } => self.read_image(number, None),
            ImageAsk::Close { number } => self.close_image(number),
            ImageAsk::Store { partition, image, number, chunk } => {
                if self.is_storing(partition, image) && number > 0 {
                    let stored = ImageEvent::Stored { partition, image, number, is_stored: false };
                    return self.images.events.push(stored);
                }
                let (kept, dropped) = match self.images.stored.remove(&partition) {
                    Some(Stored::Here(staged)) if number > 0 => (Some(staged), None),
                    Some(Stored::Here(staged)) => (None, Some(staged)),
                    Some(Stored::Away(_) | Stored::Dropped) | None => (None, None),
                };
                if let Some(staged) = dropped {
                    self.image_job(ImageTask::Close { making: None, staged: Some(staged) });
                }
                let next = kept.as_ref().map_or(0, Staged::next);
                let is_next = number == next && kept.as_ref().is_none_or(|staged| staged.image == image);
                if is_next {
                    self.images.stored.insert(partition, Stored::Away(image));
                    let staged = kept;
                    self.image_job(ImageTask::Store { partition, image, number, chunk, staged });
                } else {
                    self.images.stored.extend(kept.map(|staged| (partition, Stored::Here(staged))));
                    let stored = ImageEvent::Stored { partition, image, number, is_stored: false };
                    self.images.events.push(stored);
                }
            }
            ImageAsk::Validate { partition, image, last } => self.validate(partition, image, last),
            ImageAsk::Install { partition, image, last } => {
                self.images.waiting.push((partition, image, last));
                self.install_if_due();
            }
            ImageAsk::Drop { partition, image } => self.drop_stored(partition, image),
        }
    }

    /// Whether a job has what is stored of the image.
    fn is_storing(&self, id: PartitionId, image: ImageId) -> bool {
        matches!(self.images.stored.get(&id), Some(Stored::Away(away)) if *away == image)
    }

    /// Has jobs look whether there are points for the images that wait; else has a flush make them.
    fn look_for_points(&mut self) {
        let (seed, chunk_bytes) = (self.seed, self.options.image_chunk_bytes);
        let mut tasks = Vec::new();
        for (number, open) in &mut self.images.opens {
            if let Open::Waits { partition, at_least, is_looking } = open
                && !*is_looking
            {
                *is_looking = true;
                let (number, partition, at_least) = (*number, *partition, *at_least);
                tasks.push(ImageTask::Open { number, partition, at_least, seed, chunk_bytes });
            }
        }
        tasks.into_iter().for_each(|task| self.image_job(task));
    }

    /// A flush has ended: there may be points that images wait for, and installs may begin.
    pub(in crate::store) fn flush_has_ended(&mut self) {
        self.look_for_points();
        self.install_if_due();
    }

    /// Whether a flush has to wait until an entry of a partition ends, since an image waits for a point between two. It does
    /// not where memory is full of changes.
    pub(in crate::store) fn is_inside_awaited_entry(&self) -> bool {
        let is_inside = |id| self.partitions.get(&id).is_some_and(|partition| partition.is_inside_entry());
        self.ledger.dirty_bytes < self.options.max_dirty_bytes && self.images.awaited().any(is_inside)
    }

    fn read_image(&mut self, number: u64, begin: Option<(Term, Vec<u8>)>) {
        let Some(open) = self.images.opens.get_mut(&number) else { return };
        match std::mem::replace(open, Open::Away) {
            Open::Here(making) => self.image_job(ImageTask::Read { number, making, begin }),
            other @ (Open::Waits { .. } | Open::Away | Open::Closed) => *open = other,
        }
    }

    fn close_image(&mut self, number: u64) {
        match self.images.opens.remove(&number) {
            Some(Open::Here(making)) => {
                self.image_job(ImageTask::Close { making: Some(making), staged: None });
            }
            Some(Open::Away | Open::Closed | Open::Waits { is_looking: true, .. }) => {
                self.images.opens.insert(number, Open::Closed);
            }
            Some(Open::Waits { is_looking: false, .. }) | None => {}
        }
    }

    fn drop_stored(&mut self, id: PartitionId, image: ImageId) {
        match self.images.stored.remove(&id) {
            Some(Stored::Here(staged)) if staged.image == image => {
                self.image_job(ImageTask::Close { making: None, staged: Some(staged) });
            }
            Some(Stored::Away(away)) if away == image => {
                self.images.stored.insert(id, Stored::Dropped);
            }
            Some(other) => _ = self.images.stored.insert(id, other),
            None => {}
        }
    }

    /// Deletes a partition, unless nothing was ever applied to it. Returns whether nothing is left.
    pub(in crate::store) fn clear_partition(&mut self, id: PartitionId) -> bool {
        let is_asked = self.images.is_clearing(id);
        let has_anything = self.partitions.get(&id).is_some_and(|partition| {
            partition.applied.max(partition.persisted) > Lsn::ZERO || partition.is_inside_entry()
        });
        if has_anything && !is_asked {
            self.images.to_clear.insert(id);
            self.install_if_due();
        }
        !has_anything && !is_asked
    }

    /// Begins installs and deletions that wait, if no flush is under way.
    fn install_if_due(&mut self) {
        if self.ledger.has_running_flush() {
            return;
        }
        if self.images.clearing.is_empty() && !self.images.to_clear.is_empty() {
            self.images.clearing = std::mem::take(&mut self.images.to_clear);
            let all = self.images.clearing.iter();
            let partitions = all.map(|id| (*id, self.next_flush_version(*id))).collect();
            self.image_job(ImageTask::Clear { partitions, seed: self.seed });
        }
        for (id, image, last) in std::mem::take(&mut self.images.waiting) {
            let applied = self.partitions.get(&id).map_or(Lsn::ZERO, |partition| partition.applied);
            let failed = match self.images.stored.remove(&id) {
                Some(Stored::Here(staged)) if staged.image == image && last.0 > applied => {
                    self.install(staged, id, last);
                    continue;
                }
                Some(Stored::Here(staged)) if staged.image == image => {
                    self.image_job(ImageTask::Close { making: None, staged: Some(staged) });
                    InstallError::NotNewer { applied }
                }
                other => {
                    self.images.stored.extend(other.map(|other| (id, other)));
                    InstallError::NotStored { why: "it is not there".to_owned() }
                }
            };
            let result = Err(failed);
            self.images.events.push(ImageEvent::Installed { partition: id, image, result });
        }
    }

    fn validate(&mut self, id: PartitionId, image: ImageId, last: (Lsn, Term)) {
        match self.images.stored.remove(&id) {
            Some(Stored::Here(staged)) if staged.image == image => {
                self.images.stored.insert(id, Stored::Away(image));
                let install = self.how_to_install(id, image, last);
                self.image_job(ImageTask::Validate { staged, install });
            }
            other => {
                self.images.stored.extend(other.map(|other| (id, other)));
                let result = Err(InstallError::NotStored { why: "it is not there".to_owned() });
                self.images.events.push(ImageEvent::Validated { partition: id, image, result });
            }
        }
    }

    fn validated(&mut self, id: PartitionId, image: ImageId, result: Result<(Staged, Header), InstallError>) {
        let stored = self.images.stored.remove(&id);
        let is_wanted = matches!(&stored, Some(Stored::Away(away)) if *away == image);
        let result = result.map(|(staged, header)| {
            if is_wanted {
                self.images.stored.insert(id, Stored::Here(staged));
            } else {
                self.image_job(ImageTask::Close { making: None, staged: Some(staged) });
            }
            header
        });
        if is_wanted {
            self.images.events.push(ImageEvent::Validated { partition: id, image, result });
        } else {
            self.images
                .stored
                .extend(stored.filter(|stored| !matches!(stored, Stored::Dropped)).map(|it| (id, it)));
        }
    }

    fn install(&mut self, staged: Staged, partition: PartitionId, last: (Lsn, Term)) {
        let install = self.how_to_install(partition, staged.image, last);
        self.images.installing += 1;
        self.image_job(ImageTask::Install { staged, install });
    }

    fn how_to_install(&self, partition: PartitionId, image: ImageId, last: (Lsn, Term)) -> Install {
        let flush_version = self.next_flush_version(partition);
        let item_bytes_max =
            (self.options.max_value_bytes + MAX_KEY_BYTES + ITEM_HEAD_BYTES).max(SECTION_BYTES_MAX);
        let (seed, chunk_bytes) = (self.seed, self.options.image_chunk_bytes);
        Install { partition, image, last, flush_version, seed, item_bytes_max, chunk_bytes }
    }

    /// Above all that was ever written of a partition here, so nothing that deletes those comes near.
    fn next_flush_version(&self, partition: PartitionId) -> u64 {
        let present = self.partitions.get(&partition);
        present.map_or(0, |present| present.flush_version.max(present.persisted_flush_version)) + 1
    }

    /// Takes what a job has done.
    pub(in crate::store) fn take_image_done(&mut self, done: ImageDone) {
        match done {
            ImageDone::Opened { number, found } => self.opened_image(number, found),
            ImageDone::Read { number, making, chunk } => {
                if let Some(Open::Closed) | None = self.images.opens.get(&number) {
                    self.images.opens.remove(&number);
                    self.image_job(ImageTask::Close { making: Some(making), staged: None });
                    return;
                }
                match chunk {
                    Ok((chunk, is_end)) => {
                        self.images.opens.insert(number, Open::Here(making));
                        let chunk = chunk.into();
                        self.images.events.push(ImageEvent::Chunk { number, chunk, is_end });
                    }
                    Err(why) => {
                        self.images.opens.remove(&number);
                        self.image_job(ImageTask::Close { making: Some(making), staged: None });
                        self.images.events.push(ImageEvent::Failed { number, why: why.to_string() });
                    }
                }
            }
            ImageDone::Closed => {}
            ImageDone::Stored { partition, image, number, staged } => {
                self.stored_chunk(partition, (image, number), staged);
            }
            ImageDone::Validated { partition, image, result } => self.validated(partition, image, result),
            ImageDone::Installed { partition, image, result } => {
                self.look();
                self.images.installing -= 1;
                let result = result.map(|(header, meta)| {
                    self.take_installed(partition, &meta);
                    header
                });
                self.images.events.push(ImageEvent::Installed { partition, image, result });
                self.freeze_if_due();
                self.install_if_due();
            }
            ImageDone::Cleared { result } => {
                self.look();
                let asked = std::mem::take(&mut self.images.clearing);
                match result {
                    Ok(metas) => metas.iter().for_each(|(id, meta)| self.take_installed(*id, meta)),
                    Err(why) => tracing::warn!(
                        partitions = asked.len(),
                        "deleting what removed replicas have left: {why}; it is tried again"
                    ),
                }
                self.freeze_if_due();
                self.install_if_due();
            }
        }
    }

    fn opened_image(
        &mut self,
        number: u64,
        found: Result<Option<Box<Making>>, crate::store::disk::DiskError>,
    ) {
        let open = self.images.opens.remove(&number);
        match (found, open) {
            (Ok(Some(making)), Some(Open::Waits { .. })) => {
                let lsn = making.lsn();
                self.images.opens.insert(number, Open::Here(making));
                self.images.events.push(ImageEvent::Opened { number, lsn });
            }
            (Ok(None), Some(Open::Waits { partition, at_least, .. })) => {
                let Some(applied) = self.partitions.get(&partition).map(|partition| partition.applied) else {
                    let why = format!("nothing was applied to partition {partition}");
                    self.images.events.push(ImageEvent::Failed { number, why });
                    return;
                };
                let waits = Open::Waits { partition, at_least, is_looking: false };
                self.images.opens.insert(number, waits);
                // No flush makes a point of what is not applied yet: the entry asks for one.
                if applied >= at_least {
                    self.touch(partition);
                    self.flush_wanted = true;
                    self.freeze_if_due();
                }
            }
            (Err(why), Some(Open::Waits { .. })) => {
                self.images.events.push(ImageEvent::Failed { number, why: why.to_string() });
            }
            (Ok(Some(making)), Some(Open::Here(_) | Open::Away | Open::Closed) | None) => {
                self.image_job(ImageTask::Close { making: Some(making), staged: None });
            }
            (Ok(None) | Err(_), Some(Open::Here(_) | Open::Away | Open::Closed) | None) => {}
        }
    }

    fn stored_chunk(&mut self, id: PartitionId, (image, number): (ImageId, u32), staged: Option<Staged>) {
        let is_wanted = matches!(self.images.stored.get(&id), Some(Stored::Away(away)) if *away == image);
        if !is_wanted {
            if let Some(Stored::Dropped) = self.images.stored.get(&id) {
                self.images.stored.remove(&id);
            }
            self.image_job(ImageTask::Close { making: None, staged });
            return;
        }
        let is_stored = staged.is_some();
        self.images.stored.remove(&id);
        self.images.stored.extend(staged.map(|staged| (id, Stored::Here(staged))));
        self.images.events.push(ImageEvent::Stored { partition: id, image, number, is_stored });
    }

    /// An image, or nothing, has replaced a partition on the media: the same in memory.
    fn take_installed(&mut self, id: PartitionId, meta: &PartitionMeta) {
        self.lookups.forget_pages(id);
        let mut ledger = std::mem::take(&mut self.ledger);
        self.partition_mut(id).installed(&mut ledger, meta);
        self.ledger = ledger;
        self.images.installed.remove(&id);
        self.images.note_installed(id, meta.installed.clone());
        self.upkeep.verifying.has_tables();
        self.note_dead(id, meta.flush_version);
        if meta.keys > 0 {
            self.upkeep.cold.push_back(id);
        }
        self.announce(id);
        self.compact();
    }

    /// What a partition was installed from, as the shard asks for it.
    pub(in crate::store) fn installed_header(&self, id: PartitionId) -> Option<Header> {
        let (installed, partition) = (self.images.installed(id)?, self.partitions.get(&id)?);
        Some(Header {
            partition: id,
            history: partition.history,
            lsn: partition.applied,
            term: installed.term,
            source_lsn: partition.source_lsn,
            clock_ms: partition.clock_ms,
            configuration: installed.configuration.clone(),
        })
    }
}
