//! The ground the shards stand on: pinned cores, the rings between them, and what a core may wait for.
//!
//! Of shards it has the numbers alone, nothing of replicas and logs. `cpuset` and `topology` show which cores there are and
//! which shards each owns; `core` is one pinned executor, `heap` its thread's memory; `poller` is what a core sleeps on and
//! `socket` what comes in by it; `ring`, `doorbell` (with `asleep`) and `mesh` carry messages between cores; `pool` runs
//! what may block, beside the cores.

mod asleep;
pub mod core;
pub mod cpuset;
pub mod doorbell;
pub mod heap;
pub mod mesh;
pub mod poller;
pub mod pool;
pub mod ring;
pub mod socket;
pub mod topology;

pub use self::core::{CoreHandle, CoreOptions, spawn_core};
pub use cpuset::CpuSet;
pub use doorbell::Doorbell;
pub use mesh::{Endpoint, Full, Mesh};
pub use poller::{Poller, Ready};
pub use pool::Pool;
pub use socket::{Listener, Socket};
pub use topology::Topology;
