//! What the sessions of all cores share: the registry of connections (CLIENT LIST, CLIENT KILL), statistics and the slow
//! log. Touched when a connection comes and goes; a session publishes its state with plain stores.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::guesses::Guesses;
use super::latency::Latency;
use super::redirect::RedirectSwitch;
use super::shares::Shares;
use super::slowlog::SlowLog;
use super::stats::{CoreStats, Rate, Times, Totals};

mod footprint;
mod line;

pub use footprint::Footprint;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared part of a node's sessions. One for the node.
#[derive(Debug)]
pub struct Hub {
    /// All connections.
    pub clients: Registry,
    /// The node's slow log.
    pub slowlog: SlowLog,
    /// What one connection may make the node hold.
    pub shares: Shares,
    /// Who does not know the password.
    pub guesses: Guesses,
    /// What took long.
    pub latency: Latency,
    /// Who is sent to the node that leads.
    pub redirect: RedirectSwitch,
    /// Whether the times of commands are kept for INFO latencystats.
    latency_tracking: AtomicBool,
    /// The percentiles that it shows.
    percentiles: Mutex<Vec<f64>>,
    stats: Vec<CoreStats>,
    max_bulk_bytes: AtomicUsize,
    blocked: AtomicUsize,
    rate: Mutex<Rate>,
}

impl Hub {
    /// For a node of so many cores, and so many commands to count.
    #[must_use]
    pub fn new(cores: usize, commands: usize) -> Arc<Self> {
        Arc::new(Self {
            clients: Registry::new(cores),
            slowlog: SlowLog::default(),
            shares: Shares::default(),
            guesses: Guesses::default(),
            latency: Latency::default(),
            redirect: RedirectSwitch::default(),
            latency_tracking: AtomicBool::new(true),
            percentiles: Mutex::new(vec![50.0, 99.0, 99.9]),
            stats: (0..cores).map(|_| CoreStats::new(commands)).collect(),
            max_bulk_bytes: AtomicUsize::new(32 << 20),
            blocked: AtomicUsize::new(0),
            rate: Mutex::default(),
        })
    }

    /// The counters of a core.
    #[must_use]
    #[inline]
    pub fn stats(&self, core: usize) -> &CoreStats {
        self.stats.get(core).expect("a session's core is one that the hub was made for")
    }

    /// The counters of all cores together.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.stats.iter().for_each(|core| core.add_to(&mut totals));
        totals
    }

    /// Commands a second between the last two looks; see [`Rate`].
    pub fn commands_per_s(&self, processed: u64, now_ns: u64) -> u64 {
        lock(&self.rate).per_s(processed, now_ns)
    }

    /// How long the calls of the command with this index took, if any was timed.
    #[must_use]
    pub fn times(&self, index: usize) -> Option<Times> {
        let mut times = None;
        self.stats.iter().for_each(|core| core.add_times(index, &mut times));
        times
    }

    /// Connections that wait in WAIT.
    #[must_use]
    pub fn blocked(&self) -> usize {
        self.blocked.load(Relaxed)
    }

    pub(super) fn add_blocked(&self, is_blocked: bool) {
        if is_blocked {
            self.blocked.fetch_add(1, Relaxed);
        } else {
            self.blocked.fetch_sub(1, Relaxed);
        }
    }

    /// Sets all counters to zero.
    pub fn reset_stats(&self) {
        self.stats.iter().for_each(CoreStats::reset);
        self.guesses.reset();
    }

    /// Whether the times of commands are kept for INFO latencystats (`latency-tracking`).
    #[must_use]
    #[inline]
    pub fn tracks_latency(&self) -> bool {
        self.latency_tracking.load(Relaxed)
    }

    /// Sets whether the times of commands are kept.
    pub fn set_latency_tracking(&self, on: bool) {
        self.latency_tracking.store(on, Relaxed);
    }

    /// The percentiles that INFO latencystats shows.
    #[must_use]
    pub fn percentiles(&self) -> Vec<f64> {
        lock(&self.percentiles).clone()
    }

    /// Sets the percentiles that INFO latencystats shows (`latency-tracking-info-percentiles`).
    pub fn set_percentiles(&self, percentiles: Vec<f64>) {
        *lock(&self.percentiles) = percentiles;
    }

    /// The longest argument that a request may have, bytes.
    #[must_use]
    #[inline]
    pub fn max_bulk_bytes(&self) -> usize {
        self.max_bulk_bytes.load(Relaxed)
    }

    /// Sets the longest argument that a request may have, bytes (`proto-max-bulk-len`).
    pub fn set_max_bulk_bytes(&self, bytes: usize) {
        self.max_bulk_bytes.store(bytes, Relaxed);
    }
}

/// Stands for bytes that are promised no more.
const CLOSED: usize = usize::MAX;

/// All connections of the node, by core.
#[derive(Debug)]
pub struct Registry {
    cores: Vec<Mutex<BTreeMap<u64, Arc<Client>>>>,
    next_id: AtomicU64,
}

/// What is known of a connection when it is accepted.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The connection's number; never reused. The upper 16 bits are the core.
    pub conn: u64,
    /// The core's index in the hub (0 up).
    pub core: usize,
    /// The client's address, `ip:port`.
    pub peer: String,
    /// The address that it connected to.
    pub local: String,
    /// The socket's number, for CLIENT LIST.
    pub fd: i32,
}

/// What others may know of a connection.
#[derive(Debug)]
pub struct Client {
    /// The number that CLIENT ID answers; grows with each connection of the node.
    pub id: u64,
    /// The connection's number in tickets.
    pub conn: u64,
    core: usize,
    /// `ip:port` of the client.
    pub addr: String,
    /// `ip:port` that it connected to.
    pub local: String,
    fd: i32,
    connected_ms: u64,
    names: Mutex<Names>,
    killed: AtomicBool,
    /// What its end will free, if it is closed to make room; [`CLOSED`] after its end.
    promised_bytes: AtomicUsize,
    no_evict: AtomicBool,
    no_touch: AtomicBool,
    blocked: AtomicBool,
    resp3: AtomicBool,
    /// Commands queued by MULTI; `u64::MAX`: none open.
    queued: AtomicU64,
    last_ms: AtomicU64,
    memory: Memory,
    last_command: AtomicU16,
}

/// What a connection holds, as its core published it last: a [`Footprint`].
#[derive(Debug, Default)]
struct Memory {
    input: AtomicUsize,
    input_free: AtomicUsize,
    arguments: AtomicUsize,
    queued: AtomicUsize,
    output: AtomicUsize,
    output_reserved: AtomicUsize,
    output_peak: AtomicUsize,
    unsent: AtomicUsize,
    names: AtomicUsize,
    total: AtomicUsize,
    /// Of that, the part of large values that others are to free, who hold them too.
    others: AtomicUsize,
}

#[derive(Debug, Default, Clone)]
struct Names {
    name: String,
    lib_name: String,
    lib_ver: String,
}

impl Registry {
    fn new(cores: usize) -> Self {
        Self { cores: (0..cores).map(|_| Mutex::default()).collect(), next_id: AtomicU64::new(1) }
    }

    pub(super) fn add(&self, opening: Opening, now_ms: u64) -> Arc<Client> {
        let client = Arc::new(Client {
            id: self.next_id.fetch_add(1, Relaxed),
            conn: opening.conn,
            core: opening.core,
            addr: opening.peer,
            local: opening.local,
            fd: opening.fd,
            connected_ms: now_ms,
            names: Mutex::default(),
            killed: AtomicBool::new(false),
            promised_bytes: AtomicUsize::new(0),
            no_evict: AtomicBool::new(false),
            no_touch: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            resp3: AtomicBool::new(false),
            queued: AtomicU64::new(u64::MAX),
            last_ms: AtomicU64::new(now_ms),
            memory: Memory::default(),
            last_command: AtomicU16::new(u16::MAX),
        });
        if let Some(core) = self.cores.get(opening.core) {
            lock(core).insert(client.id, Arc::clone(&client));
        }
        client
    }

    pub(super) fn remove(&self, client: &Client) {
        if let Some(core) = self.cores.get(client.core) {
            lock(core).remove(&client.id);
        }
    }

    /// The number of the newest connection so far.
    #[must_use]
    pub fn last_id(&self) -> u64 {
        self.next_id.load(Relaxed) - 1
    }

    /// The first few connections with these numbers, in the order in which they came.
    #[must_use]
    pub fn some_from(&self, from: u64, last: u64, count: usize) -> Vec<Arc<Client>> {
        let mut some = Vec::new();
        if from <= last {
            for core in &self.cores {
                some.extend(lock(core).range(from..=last).take(count).map(|(_, client)| Arc::clone(client)));
            }
        }
        some.sort_by_key(|client| client.id);
        some.truncate(count);
        some
    }

    /// The connections that hold the most, until they hold `excess` bytes together: those that may be closed to make
    /// room. Those that asked to be spared (CLIENT NO-EVICT) come last; those that are being closed are left out.
    #[must_use]
    pub fn largest(&self, excess: usize) -> Vec<(Arc<Client>, usize)> {
        let mut all: Vec<(bool, usize, Arc<Client>)> = Vec::new();
        for core in &self.cores {
            let clients = lock(core);
            let open = clients.values().filter(|client| !client.is_killed());
            all.extend(
                open.map(|client| (!client.no_evict.load(Relaxed), client.own_bytes(), Arc::clone(client))),
            );
        }
        all.sort_unstable_by_key(|(may_go, bytes, client)| std::cmp::Reverse((*may_go, *bytes, client.id)));
        let mut found = 0;
        let wanted = all.into_iter().take_while(|(_, bytes, _)| {
            let is_wanted = found < excess;
            found += bytes;
            is_wanted
        });
        wanted.map(|(_, bytes, client)| (client, bytes)).collect()
    }

    /// The most that a connection has sent and not been answered, and the most that waits to be sent to one, bytes.
    #[must_use]
    pub fn recent_max(&self) -> (usize, usize) {
        self.fold((0, 0), |(input, output), client| {
            let memory = &client.memory;
            (input.max(memory.input.load(Relaxed)), output.max(memory.output.load(Relaxed)))
        })
    }

    /// What the connections hold together, bytes.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.fold(0, |sum, client| sum + client.total_bytes())
    }

    fn fold<T>(&self, start: T, mut with: impl FnMut(T, &Client) -> T) -> T {
        self.cores
            .iter()
            .fold(start, |sum, core| lock(core).values().fold(sum, |sum, client| with(sum, client)))
    }

    /// How many connections there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cores.iter().map(|core| lock(core).len()).sum()
    }
}

impl Client {
    /// Whether CLIENT KILL has hit it.
    #[must_use]
    #[inline]
    pub fn is_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }

    /// Marks it for closing; its core must be woken (`Wish::Look`).
    pub fn kill(&self) {
        self.killed.store(true, Relaxed);
    }

    /// Marks it for closing, which will free so many bytes. False if it is closed or marked already.
    pub fn promise(&self, bytes: usize) -> bool {
        let is_first =
            self.promised_bytes.compare_exchange(0, bytes.clamp(1, CLOSED - 1), Relaxed, Relaxed).is_ok();
        if is_first {
            self.kill();
        }
        is_first
    }

    /// Its end has come: answers what was promised for it, 0 if it came by itself.
    pub fn end(&self) -> usize {
        self.kill();
        let promised = self.promised_bytes.swap(CLOSED, Relaxed);
        if promised == CLOSED { 0 } else { promised }
    }

    /// Its name, empty if it has none.
    #[must_use]
    pub fn name(&self) -> String {
        lock(&self.names).name.clone()
    }

    pub(super) fn set_name(&self, name: &str) {
        let mut names = lock(&self.names);
        name.clone_into(&mut names.name);
        self.count_names(&names);
    }

    pub(super) fn set_lib(&self, lib_name: Option<&str>, lib_ver: Option<&str>) {
        let mut names = lock(&self.names);
        if let Some(text) = lib_name {
            text.clone_into(&mut names.lib_name);
        }
        if let Some(text) = lib_ver {
            text.clone_into(&mut names.lib_ver);
        }
        self.count_names(&names);
    }

    fn count_names(&self, names: &Names) {
        let bytes = names.name.capacity() + names.lib_name.capacity() + names.lib_ver.capacity();
        self.memory.names.store(bytes, Relaxed);
    }

    /// Memory of its name and its library's.
    #[must_use]
    #[inline]
    pub fn names_bytes(&self) -> usize {
        self.memory.names.load(Relaxed)
    }

    /// All that it holds, as its core published it last.
    #[must_use]
    #[inline]
    pub fn total_bytes(&self) -> usize {
        self.memory.total.load(Relaxed)
    }

    pub(super) fn set_no_evict(&self, on: bool) {
        self.no_evict.store(on, Relaxed);
    }

    pub(super) fn set_no_touch(&self, on: bool) {
        self.no_touch.store(on, Relaxed);
    }

    pub(super) fn set_blocked(&self, on: bool) {
        self.blocked.store(on, Relaxed);
    }

    pub(super) fn set_state(&self, resp3: bool, queued: Option<usize>) {
        self.resp3.store(resp3, Relaxed);
        self.queued.store(queued.map_or(u64::MAX, |count| count as u64), Relaxed);
    }

    pub(super) fn publish(&self, footprint: &Footprint) {
        let memory = &self.memory;
        for (figure, bytes) in [
            (&memory.input, footprint.input),
            (&memory.input_free, footprint.input_free),
            (&memory.arguments, footprint.arguments),
            (&memory.queued, footprint.queued),
            (&memory.output, footprint.output),
            (&memory.output_reserved, footprint.output_reserved),
            (&memory.output_peak, footprint.output_peak),
            (&memory.unsent, footprint.unsent),
            (&memory.total, footprint.total()),
        ] {
            figure.store(bytes, Relaxed);
        }
    }

    /// What it holds without what others are to free, for whoever looks for room.
    fn own_bytes(&self) -> usize {
        self.total_bytes().saturating_sub(self.memory.others.load(Relaxed))
    }

    /// So much of what it holds counts for others, who hold it too.
    pub fn leave_to_others(&self, bytes: usize) {
        self.memory.others.store(bytes, Relaxed);
    }

    pub(super) fn set_last(&self, now_ms: u64, command: u16) {
        self.last_ms.store(now_ms, Relaxed);
        self.last_command.store(command, Relaxed);
    }

    /// The command that it sent last, by its index in the table of commands; `None`: none yet.
    #[must_use]
    pub fn last_command(&self) -> Option<u16> {
        Some(self.last_command.load(Relaxed)).filter(|index| *index != u16::MAX)
    }

    /// When it last sent something, ms since 1970.
    #[must_use]
    pub fn last_ms(&self) -> u64 {
        self.last_ms.load(Relaxed)
    }

    /// How long ago it connected, ms.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.connected_ms)
    }
}
