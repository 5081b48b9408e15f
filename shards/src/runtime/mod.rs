//! The ground the shards stand on: pinned cores, the rings between them, and what a core may wait for.
//!
//! Nothing here knows a shard, a replica or a log. `cpuset` and `topology` say which cores there are and which shards
//! each owns; `core` is one pinned executor and everything of it that the rest of the house may use; `ring`, `doorbell`
//! and `mesh` carry messages between cores; `pool` runs what may block, beside the cores.

pub mod core;
pub mod cpuset;
pub mod doorbell;
pub mod mesh;
pub mod pool;
pub mod ring;
pub mod socket;
pub mod topology;

pub use self::core::{CoreHandle, CoreOptions, EventWaiter, Signal, Sleep, sleep, spawn_core, spawn_local};
pub use cpuset::CpuSet;
pub use doorbell::Doorbell;
pub use mesh::{Endpoint, Full, Mesh};
pub use pool::Pool;
pub use socket::{Listener, Socket};
pub use topology::Topology;
