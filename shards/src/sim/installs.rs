//! Images that nodes install: how often each thing happens to them, and processes that die meanwhile.
//!
//! Invariant: nothing is drawn for it where no image is installed.

use corduroy_wal::device::Device;
use corduroy_wal::{Lsn, Wal};

use crate::ids::PartitionId;
use crate::image::ask::{ImageAsk, ImageEvent, InstallError};
use crate::machine::StateMachine;
use crate::sim::node::{NodeEvent, SimNode};
use crate::sim::probes::Probes;
use crate::sim::rng::Rng;
use crate::sim::swarm::Class;
use crate::sim::workload::Subject;
use crate::sim::world::Common;

/// Of the installs in seeds whose processes die, those that one dies during, in thousandths.
const CUT_OFF_PER_MILLE: u64 = 200;

impl<S: Subject> SimNode<S> {
    /// Where processes die, some die while an image replaces what a replica has: before the state has it, before the log begins
    /// behind it, or shortly after.
    pub(super) fn interrupt_installs(&mut self, world: &mut Common<S>) {
        let asked = std::mem::take(&mut world.books.borrow_mut().installs_asked);
        let knobs = &world.plan.knobs;
        let dies = |rng: &mut Rng| rng.chance(CUT_OFF_PER_MILLE);
        if asked > 0 && knobs.has(Class::Crash) && !world.faults_over && dies(&mut self.streams.install) {
            let within_ns = 2 * (knobs.job_ns + knobs.disk_ns);
            let at_ns = world.now_ns + self.streams.install.below(within_ns);
            world.probe("crashes during installs");
            world.agenda.put(at_ns, self.event(NodeEvent::Crash));
        }
    }
}

/// A machine is asked about an image.
pub(super) fn note_ask(ask: &ImageAsk, probes: &mut Probes) {
    match ask {
        ImageAsk::Open { .. } => probes.hit("images begun"),
        ImageAsk::Drop { .. } => probes.hit("images dropped by who gets them"),
        ImageAsk::Store { .. } => probes.hit("chunks stored"),
        ImageAsk::Begin { .. }
        | ImageAsk::Next { .. }
        | ImageAsk::Close { .. }
        | ImageAsk::Validate { .. }
        | ImageAsk::Install { .. } => {}
    }
}

/// A machine has answered about an image.
pub(super) fn note_event(event: &ImageEvent, probes: &mut Probes) {
    match event {
        ImageEvent::Failed { .. } => probes.hit("images that could not be made"),
        ImageEvent::Stored { is_stored: false, .. } => probes.hit("chunks that could not be stored"),
        ImageEvent::Validated { result: Err(why), .. } | ImageEvent::Installed { result: Err(why), .. } => {
            probes.hit(match why {
                InstallError::Damaged(_) | InstallError::Another { .. } => "images that are none",
                InstallError::NotNewer { .. } => "images that bring nothing",
                InstallError::NoRoom { .. } => "images that there is no room for",
                InstallError::NotStored { .. } => "images that were not stored",
            });
        }
        ImageEvent::Opened { .. }
        | ImageEvent::Chunk { .. }
        | ImageEvent::Stored { .. }
        | ImageEvent::Validated { .. }
        | ImageEvent::Installed { .. } => {}
    }
}

/// A process opens these partitions: of some an install may have been cut off between the state and the log.
pub(super) fn note_unfinished<D: Device, M: StateMachine>(
    wal: &Wal<D>,
    machine: &M,
    partitions: &[PartitionId],
    probes: &mut Probes,
) {
    for partition in partitions {
        let Some(image) = machine.installed_image(*partition) else { continue };
        let last = wal.log_state(partition.log()).map_or(Lsn::ZERO, |log| log.last);
        probes.add("installs finished at a start", u64::from(last < image.lsn));
    }
}
