//! Planted bugs: known mistakes that the simulator has to find, so that its silence means something.
//!
//! Those of the WAL and of the shard are switches in their own code; those of the machine are played by its observer.

use corduroy_wal::planted as wal;

use crate::planted::{self as shard, PlantedBug};

/// A mistake of a state machine, or of who hands it what it needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MachineBug {
    /// What is applied is reported as persisted before the flush that writes it has ended.
    PersistedTooEarly,
    /// Every 64th op is applied twice.
    DoubleApply,
    /// Times to live are judged by the local clock instead of the entry's stamp.
    LocalClock,
    /// Every 16th result of a job is thrown away.
    LostJob,
    /// A machine that found no room is never asked to look again.
    RetryForgotten,
    /// What is damaged in the machine's storage is served as it is.
    DamageServed,
    /// A replica that is not the first to apply an op loses what every 64th one of them does.
    LostOnFollowers,
    /// An image leaves the rows that it does not have.
    ImageKeepsRows,
}

impl MachineBug {
    const ALL: [Self; 8] = [
        Self::PersistedTooEarly,
        Self::DoubleApply,
        Self::LocalClock,
        Self::LostJob,
        Self::RetryForgotten,
        Self::DamageServed,
        Self::LostOnFollowers,
        Self::ImageKeepsRows,
    ];
}

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Of the WAL.
    Wal(wal::Planted),
    /// Of the shard.
    Shard(PlantedBug),
    /// Of the state machine.
    Machine(MachineBug),
}

impl Planted {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let wal = wal::Planted::ALL.into_iter().map(Self::Wal);
        let shard = PlantedBug::ALL.into_iter().map(Self::Shard);
        wal.chain(shard).chain(MachineBug::ALL.into_iter().map(Self::Machine)).collect()
    }

    /// Its name on the command line and in plans.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Wal(bug) => format!("wal:{bug:?}"),
            Self::Shard(bug) => format!("shard:{bug:?}"),
            Self::Machine(bug) => format!("machine:{bug:?}"),
        }
    }

    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|planted| planted.name() == name)
    }

    /// Plants the log's part of it and the shard's in this thread, or removes what was planted.
    pub(super) fn plant(planted: Option<Self>) {
        wal::plant(Self::of_wal(planted));
        shard::plant(Self::of_shard(planted));
    }

    /// The shard's part of it.
    const fn of_shard(planted: Option<Self>) -> Option<PlantedBug> {
        match planted {
            Some(Self::Shard(bug)) => Some(bug),
            _ => None,
        }
    }

    /// The machine's part of it.
    pub(super) const fn of_machine(planted: Option<Self>) -> Option<MachineBug> {
        match planted {
            Some(Self::Machine(bug)) => Some(bug),
            _ => None,
        }
    }

    /// The WAL's part of it.
    const fn of_wal(planted: Option<Self>) -> Option<wal::Planted> {
        match planted {
            Some(Self::Wal(bug)) => Some(bug),
            _ => None,
        }
    }
}
