//! Gathers the node's figures from where they are kept, for whoever renders them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use corduroy_shards::runtime::heap;

use super::clock::wall_us;
use super::facts::{
    ClientFacts, CoreFacts, CpuFacts, CpuTime, MemoryFacts, OnCore, ServerFacts, Shards, Traffic,
    TrafficRates,
};
use super::shared::{Shared, lock};

/// All shards.
pub fn shards(shared: &Shared) -> Shards {
    let mut all = Vec::new();
    for (core, facts) in shared.facts.iter().enumerate() {
        all.extend(lock(&facts.shards).iter().map(|shard| OnCore { core, shard: shard.clone() }));
    }
    all.sort_by_key(|on_core| on_core.shard.id.0);
    Shards(all)
}

/// The node.
pub fn server(shared: &Shared) -> ServerFacts {
    let uname = rustix::system::uname();
    ServerFacts {
        now_us: wall_us(),
        started_ms: shared.started_ms,
        uptime_s: shared.mono_ns() / 1_000_000_000,
        process_id: std::process::id(),
        executable: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        config_file: shared.config_file().to_owned(),
        system: format!(
            "{} {} {}",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy(),
            std::env::consts::ARCH
        ),
        uring_refused: shared.uring_refused.clone(),
        port: shared.config().listen.port(),
        hz: shared.setting("hz").unwrap_or_default(),
        cores: shared.layout.cores(),
        cluster: shared.identity.cluster,
        node: shared.identity.node,
    }
}

/// Its clients.
pub fn clients(shared: &Shared) -> ClientFacts {
    let clients = &shared.hub.clients;
    ClientFacts {
        connected: clients.count(),
        connected_by_core: shared.facts.iter().map(|core| core.connections.load(Relaxed)).collect(),
        connected_max: shared.config().max_clients,
        blocked: shared.hub.blocked(),
        recent_max_bytes: clients.recent_max(),
        held_bytes: shared.ledger.total(),
        held_bytes_max: shared.ledger.limit(),
    }
}

/// Memory, with the rows of these shards.
pub fn memory(shared: &Shared, shards: &Shards) -> MemoryFacts {
    let heap = heap::in_use();
    let resident_bytes = kib_line("/proc/self/status", "VmRSS:");
    MemoryFacts {
        heap,
        startup_bytes: shared.startup_bytes().min(heap.in_use),
        dataset_bytes: shards.total(|shard| shard.store.used_bytes).min(heap.in_use),
        keys: shards.total(|shard| shard.store.keys),
        buffered_bytes: shared.hub.clients.buffered_bytes(),
        resident_bytes,
        resident_peak_bytes: kib_line("/proc/self/status", "VmHWM:").max(resident_bytes),
        machine_bytes: kib_line("/proc/meminfo", "MemTotal:"),
        state_bytes_max: shared.memory.0,
    }
}

/// What the cores have done.
pub fn traffic(shared: &Shared) -> Traffic {
    let sum = |of: fn(&CoreFacts) -> &AtomicU64| {
        shared.facts.iter().map(|core| of(core).load(Relaxed)).sum::<u64>()
    };
    Traffic {
        input_bytes: sum(|core| &core.input_bytes),
        output_bytes: sum(|core| &core.output_bytes),
        reads: sum(|core| &core.reads),
        writes: sum(|core| &core.writes),
        hops: sum(|core| &core.hops),
        wakes: shared.bells.iter().map(|bell| bell.wakes()).sum(),
        passes: sum(|core| &core.passes),
        pass_ns: sum(|core| &core.pass_ns),
        refused: shared.refused.load(Relaxed),
        evicted: shared.ledger.evicted(),
    }
}

/// How much of it there was in a second since somebody last asked, and of commands, of which there have been `processed`.
pub fn traffic_rates(shared: &Shared, traffic: &Traffic, processed: u64) -> TrafficRates {
    let now_ns = shared.mono_ns();
    let mut rates = lock(&shared.rates);
    let [input, output, passes, pass_ns] = &mut *rates;
    TrafficRates {
        input_bytes: input.per_s(traffic.input_bytes, now_ns),
        output_bytes: output.per_s(traffic.output_bytes, now_ns),
        passes: passes.per_s(traffic.passes, now_ns),
        pass_ns: pass_ns.per_s(traffic.pass_ns, now_ns),
        commands: shared.hub.commands_per_s(processed, now_ns),
    }
}

/// Time of the process and of this thread.
pub fn cpu() -> CpuFacts {
    CpuFacts { process: cpu_time("/proc/self/stat"), thread: cpu_time("/proc/thread-self/stat") }
}

/// A figure that the kernel gives in KiB, in bytes; 0 if it does not.
fn kib_line(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let figure = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    figure.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn cpu_time(file: &str) -> CpuTime {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // Fields after the name, which may hold anything: 12 and 13 are user and system time in ticks.
    let fields: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, behind)| behind).split(' ').collect();
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    CpuTime { user_s: ticks(11) / hertz, system_s: ticks(12) / hertz }
}
