//! A node: opens a data folder, deals its shards to cores, serves until it is asked to stop.
//!
//! The one module where configuration, state, sessions and shards meet. Its parts know each other in one direction, from the
//! last of these to the first:
//!
//! - `address`, `clock`, `log`, `notify` (the machine around it), `identity` (whose folder it is), `budget` (what it may
//!   take), `ledger` (what it holds for clients), `facts` (figures), `message` (what cores send each other), `event` (what
//!   wakes one): none of these knows another;
//! - `access` (who may read the folder), `error` (why it does not start), `shared` (what all cores see), `options` (the
//!   configuration in the crates' words), `signals` (when it is to stop), `topology` (the cluster as clients see it);
//! - `core` (what the parts of one core have in common);
//! - `answers` (an outcome's bytes on their way to another node);
//! - `hosts`: the shards of a core, what waits before them, and the way to those of other cores and nodes;
//! - `gather` and `info` (figures, and their text for clients), `backend` (what lies below a session);
//! - `listen` and `front`: sockets and sessions, in and out, and their time limits;
//! - `peers`: the way to the replicas of other nodes;
//! - `founding` (a core reports that it is ready), `driver` (the loop of a core), `boot` (a core opens its shards), and this file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use corduroy_shards::routing::Layout;
use corduroy_shards::runtime::cpuset::CgroupLimits;
use corduroy_shards::runtime::topology::{CoresFrom, disk_interrupt_cpus};
use corduroy_shards::runtime::{CoreHandle, CoreOptions, CpuSet, Listener, Mesh, Pool, Topology, spawn_core};
use corduroy_wal::device::lock::FolderLock;
use corduroy_wal::device::{ProbeOptions, ProbeReport, probe};
use rustix::io::Errno;

use crate::config::value::Bytes;
use crate::config::{Config, Loaded, Source, YesNo};

pub mod access;
mod address;
mod answers;
mod backend;
mod boot;
mod budget;
mod clock;
mod contacts;
mod core;
mod driver;
mod error;
mod event;
mod facts;
mod founding;
mod front;
mod gather;
mod hosts;
pub mod identity;
mod info;
mod ledger;
mod listen;
pub mod log;
mod message;
mod notify;
mod options;
mod peers;
mod shared;
mod signals;
mod topology;

use address::Address;
use boot::Booted;
use budget::Descriptors;
use error::system;
pub use error::{EXIT_CONFIG, EXIT_DAMAGED, EXIT_IO, EXIT_SYSTEM, StartError};
use identity::{Bound, Identity};
use listen::{Listeners, Listening};
use shared::{Phase, Shared};

/// Messages that may wait between two cores.
const MESH_CAPACITY: usize = 4096;
/// Jobs that may wait for the pool.
const POOL_CAPACITY: usize = 256;

/// Runs a node until it is asked to stop. Returns after everything acknowledged is on the disk and all is closed.
///
/// # Errors
/// [`StartError`]. After the start, an error of the log ends the process here and now.
pub fn serve(loaded: Loaded) -> Result<(), StartError> {
    let mut config = loaded.config.clone();
    config.data_dir = std::path::absolute(&config.data_dir).map_err(|source| StartError::Folder {
        path: config.data_dir.clone(),
        why: format!("the current folder is gone or hidden ({source})"),
    })?;
    if let Some(path) = &mut config.unix_socket.0 {
        let address = Address::Unix(path.clone());
        *path = std::path::absolute(&path).map_err(|source| StartError::Listen { address, source })?;
    }
    if std::env::current_dir().is_err() {
        // All paths are absolute from here on; the tree's library, though, asks where it is.
        std::env::set_current_dir("/").map_err(system("leaving a folder that is gone"))?;
    }
    set_huge_pages(&config);
    access::warn_of_open_secrets(&loaded);
    access::restrict_new_files();
    let limits = CgroupLimits::of_this_process();
    let topology = Topology::choose(config.cores.0.as_ref(), &usable_cpus(), limits)?;
    config.pool_threads = pool_width(&config, &topology);
    // One shard at least; how many there are is known when the folder was read.
    // Those of the description beside this one, and two that may join.
    let others = loaded.peers.as_ref().map_or(0, |peers| peers.description.nodes.len() + 1);
    Descriptors::of_this_process(topology.cores(), 1, others).check()?;
    let peer = loaded.peers.as_ref().map(|peers| peers.node.peer);
    let Listeners { cores: listening, peers, unix } = listen::claim(&config, topology.cores(), peer)?;
    make_data_folder(&config.data_dir)?;
    let lock = FolderLock::acquire(&config.data_dir)?;
    let report = probe(&config.data_dir, ProbeOptions::default())?;
    let identity = match &loaded.peers {
        None => identity::open(&config, |key| loaded.is_said(key))?,
        Some(peers) => identity::open_in(&config, peers)?,
    };
    restrict_old_files(&config.data_dir);
    let memory = budget::state_memory(&config, limits);
    let layout = identity.layout(topology.cores());
    let bound = identity::check(&identity, &config.data_dir, layout.used_shards())?;
    let descriptors = Descriptors::of_this_process(topology.cores(), layout.used_shards(), others);
    descriptors.check()?;
    descriptors.fit(&mut config);
    announce(&config, &identity, &topology, &layout, memory, &report);

    let bells = Mesh::doorbells(topology.cores()).map_err(system("making doorbells"))?;
    let shared = Shared::new(config, identity, layout, memory, descriptors, bells, report.uring_refused);
    if let Some(Source::File(path)) = loaded.sources.iter().find(|source| matches!(source, Source::File(_))) {
        shared.set_config_file(
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string(),
        );
    }
    if let Some(peers) = loaded.peers {
        shared.set_peers(peers);
    }
    signals::watch(Arc::clone(&shared)).map_err(system("watching for signals"))?;
    let cores = start_cores(&shared, &topology, listening, peers)?;
    let result = run(&shared, cores, &topology, &bound);
    drop((lock, unix));
    result
}

/// Has the kernel give this process no huge pages unless they are wanted, whatever started it had set: the first access to one waits until all of it has
/// been cleared, milliseconds on a virtual machine, and that is a core's access while requests wait.
fn set_huge_pages(config: &Config) {
    match rustix::thread::disable_transparent_huge_pages(config.disable_thp == YesNo::Yes) {
        // A kernel that has none.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => {
            tracing::warn!("huge pages stay as they are ({error}): answers may take some milliseconds longer")
        }
    }
}

/// Closes to others what an earlier release, or an operator's copying, left open to them.
fn restrict_old_files(data_dir: &Path) {
    let done = access::restrict(data_dir);
    if done.changed > 0 {
        tracing::info!(
            "{} files and folders of {} could be opened by other users, and cannot any more",
            done.changed,
            data_dir.display()
        );
    }
    if let Some((path, error)) = done.failed {
        tracing::warn!(
            "{} files and folders may be open to other users: the mode of {} cannot be changed ({error}); make them \
             this user's own",
            done.failures,
            path.display()
        );
    }
}

/// Makes the data folder, if it is not there.
fn make_data_folder(path: &Path) -> Result<(), StartError> {
    check_data_folder(path)?;
    let failed =
        |source: std::io::Error| StartError::Folder { path: path.to_owned(), why: source.to_string() };
    std::fs::create_dir_all(path).map_err(failed)
}

/// Whether a file is in the way of the data folder.
///
/// # Errors
/// [`StartError::Folder`], naming the file.
pub fn check_data_folder(path: &Path) -> Result<(), StartError> {
    let there = path.ancestors().find(|part| part.exists());
    match there.filter(|part| !part.is_dir()) {
        None => Ok(()),
        Some(file) => {
            let why = format!("{} is a file, not a folder", file.display());
            Err(StartError::Folder { path: path.to_owned(), why })
        }
    }
}

/// Starts the cores; each opens its shards and reports how that went.
fn start_cores(
    shared: &Arc<Shared>,
    topology: &Topology,
    listening: Vec<Vec<Listening>>,
    peers: Vec<Listener>,
) -> Result<Cores, StartError> {
    let (results, booted) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let ends = Mesh::endpoints(&shared.bells, MESH_CAPACITY);
    let has_uring = shared.uring_refused.is_none();
    let mut handles = Vec::new();
    let mut peers = peers.into_iter();
    for ((mesh, &cpu), listening) in ends.into_iter().zip(topology.cpus.cpus()).zip(listening) {
        let (shared, results, end) = (Arc::clone(shared), results.clone(), end.clone());
        let peers = peers.next();
        let options = CoreOptions { name: format!("core-{}", mesh.core()), cpu: Some(cpu), has_uring };
        let handle = spawn_core(options, move || {
            boot::run(shared, mesh, listening, peers, results);
            // Nobody listens any more if another core could not start.
            let _ = end.send(());
        });
        handles.push(handle.map_err(system("starting a core"))?);
    }
    Ok(Cores { handles, booted, ended })
}

/// The cores, starting.
struct Cores {
    handles: Vec<CoreHandle<()>>,
    booted: mpsc::Receiver<Result<Booted, StartError>>,
    ended: mpsc::Receiver<()>,
}

/// Waits until all cores are ready, lets them serve, and waits for their end.
fn run(shared: &Arc<Shared>, cores: Cores, topology: &Topology, bound: &Bound) -> Result<(), StartError> {
    let mut failure = None;
    for _ in 0..cores.handles.len() {
        match cores.booted.recv() {
            Ok(Ok(booted)) => booted.log(),
            Ok(Err(error)) => failure = failure.or(Some(error)),
            // A core that could not even start says why when it is joined.
            Err(mpsc::RecvError) => break,
        }
    }
    failure = failure.or_else(|| count_start(shared, bound).err());
    if failure.is_some() {
        shared.set_phase(Phase::Stopping);
    } else {
        let pool = Pool::start(shared.config().pool_threads, POOL_CAPACITY, &pool_cpus(topology));
        shared.set_pool(pool.map_err(system("starting the pool"))?);
        shared.begin_serving();
    }
    let ended = cores.handles.iter().filter(|_| cores.ended.recv().is_ok()).count();
    if ended < cores.handles.len() {
        // A core that ended without a word never ran; joining it says why.
        for handle in cores.handles {
            handle.join().map_err(system("running a core"))?;
        }
    }
    shared.drop_pool();
    match failure.or_else(|| shared.take_failure()) {
        Some(error) => Err(error),
        None => {
            tracing::info!("stopped: all acknowledged writes are on the disk");
            Ok(())
        }
    }
}

/// Counts this start in the folder. One that cannot be counted (on a full disk) is no less a start of a node that is alone:
/// the next one finds everything as this one did, also a folder of an earlier format. Peers must not hear of it.
fn count_start(shared: &Shared, bound: &Bound) -> Result<(), StartError> {
    let identity = &shared.identity;
    match bound.renew(identity) {
        Ok(counted) => shared.set_counted(counted),
        Err(error) if !identity.founders.is_empty() => return Err(StartError::NotCounted(error)),
        Err(error) => {
            let limits = if identity.lacks_limits() {
                ", and the limits that replicas share are not recorded"
            } else {
                ""
            };
            tracing::warn!(
                "this start is not counted, so that a copy of older files would not be noticed{limits}: {error}"
            );
        }
    }
    Ok(())
}

/// The CPUs that this process may use. Where the system does not report them, those it has; none of them may turn out to be
/// forbidden, and its core then runs elsewhere.
fn usable_cpus() -> CpuSet {
    match CpuSet::of_this_thread() {
        Ok(cpus) if !cpus.is_empty() => cpus,
        answer => {
            let count = std::thread::available_parallelism().map_or(1, usize::from);
            let why = answer.err().map_or_else(|| "none".to_owned(), |error| error.to_string());
            tracing::warn!("the system does not tell which CPUs may be used ({why}): taking {count}");
            CpuSet::new(0..count)
        }
    }
}

/// How many threads do work that blocks, beside the one for short work alone: as many as are asked for, or one a CPU, two at
/// least, so that a flush does not wait for a merge to end.
fn pool_width(config: &Config, topology: &Topology) -> usize {
    let spare = match topology.from {
        CoresFrom::Setting | CoresFrom::Affinity => topology.spare.cpus().len(),
        // The others are not paid for.
        CoresFrom::CgroupQuota => 0,
    };
    match config.pool_threads {
        0 => (topology.cpus.cpus().len() + spare).clamp(2, 64),
        asked => asked,
    }
}

/// Where work that blocks runs: beside the cores and off the disk's interrupts, where there is a choice.
fn pool_cpus(topology: &Topology) -> CpuSet {
    let interrupts = std::fs::read_to_string("/proc/interrupts").map(|text| disk_interrupt_cpus(&text));
    let quiet = interrupts.map(|cpus| topology.spare.without(&cpus)).unwrap_or_default();
    let all = CpuSet::new(topology.spare.cpus().iter().chain(topology.cpus.cpus()).copied());
    match (quiet.is_empty(), topology.spare.is_empty()) {
        (false, _) => quiet,
        (true, false) => topology.spare.clone(),
        (true, true) => all,
    }
}

/// Says what this node is, where, and how, in a few lines.
fn announce(
    config: &Config,
    identity: &Identity,
    cores: &Topology,
    layout: &Layout,
    memory: Bytes,
    report: &ProbeReport,
) {
    let dir: PathBuf = config.data_dir.clone();
    tracing::info!("corduroy {} starting, process {}", env!("CARGO_PKG_VERSION"), std::process::id());
    tracing::info!("data folder {}: {identity}", dir.display());
    tracing::info!("{}", report.to_string().trim_end().replace('\n', "; "));
    let working = usize::try_from(layout.used_shards()).unwrap_or(usize::MAX).min(layout.cores());
    tracing::info!(
        "cores: CPUs {} ({}); all of them serve connections, {working} of them execute commands",
        cores.cpus,
        cores.from
    );
    if identity.partitions == 1 {
        tracing::info!("one partition: every command is atomic over all keys, as in Redis");
    } else {
        tracing::info!(
            "{} partitions: commands are atomic within one; MGET, DEL, UNLINK, EXISTS, TOUCH and whole-keyspace commands are \
             split; MSET, MSETNX, RENAME, COPY and MULTI over several answer CROSSSLOT (hash tags keep keys together)",
            identity.partitions
        );
    }
    tracing::info!("replication {}, wal.sync {}, state memory {memory}", config.replication, config.wal_sync);
    if config.listen.ip().is_loopback() {
        tracing::info!(
            "only clients on this machine can connect ({}); set --listen and --requirepass for others",
            config.listen
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_as_wide_as_what_the_node_may_use() {
        let width = |cpus, spare, from, asked| {
            let topology =
                Topology { cpus: CpuSet::new(0..cpus), from, spare: CpuSet::new(cpus..cpus + spare) };
            pool_width(&Config { pool_threads: asked, ..Config::default() }, &topology)
        };
        assert_eq!(width(4, 0, CoresFrom::Affinity, 0), 4);
        assert_eq!(width(1, 3, CoresFrom::Setting, 0), 4);
        assert_eq!(width(2, 62, CoresFrom::CgroupQuota, 0), 2, "not what nobody pays for");
        assert_eq!([width(1, 0, CoresFrom::Affinity, 0), width(4, 0, CoresFrom::Affinity, 1)], [2, 1]);
    }
}
