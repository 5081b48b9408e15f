//! Random requests to this server and to a redis-server beside it: replies must be the same to the byte, but for what
//! `rules.rs` says. Each round is drawn from one seed; a difference is told with its seed and the fewest steps that show it.
//!
//! `CORDUROY_BESIDE_SEED=N` starts at that seed, `CORDUROY_BESIDE_COMMANDS=N` plays so many requests instead of 60,000,
//! `CORDUROY_BESIDE_ALL=1` tells all differences, not the first. Left out where redis-server is not installed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod draw;
mod forms;
mod generate;
mod peer;
mod rules;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../process/server.rs"]
mod server;

use std::time::{Duration, Instant};

use corduroy::config::knobs::KNOBS;
use draw::Dice;
use generate::Step;
use peer::{Redis, Reply, Side, packed};
use server::{Server, data_dir};

/// Requests to play if nobody says otherwise.
const PLAY: u64 = 60_000;
/// Steps from one seed.
const ROUND: usize = 300;
/// Requests sent at a time.
const PIPELINE: usize = 12;

/// What is known of a connection from Redis's replies.
#[derive(Default, Clone)]
struct Talk {
    in_multi: bool,
    queue: Vec<Vec<Vec<u8>>>,
}

impl Talk {
    fn note(&mut self, args: &[Vec<u8>], reply: &Reply) {
        let name = args[0].to_ascii_lowercase();
        match (name.as_slice(), reply) {
            (_, Reply::Closed) | (b"exec" | b"discard" | b"reset", _)
                if *reply != Reply::Line(b"+QUEUED".to_vec()) =>
            {
                *self = Self::default();
            }
            (b"multi", Reply::Line(line)) if line == b"+OK" => self.in_multi = true,
            (_, Reply::Line(line)) if line == b"+QUEUED" => self.queue.push(args.to_vec()),
            _ => {}
        }
    }
}

/// A step whose replies differed.
struct Difference {
    step: Step,
    theirs: Reply,
    ours: Reply,
}

struct Match {
    theirs: Side,
    ours: Side,
    resp3: bool,
    talks: [Talk; 2],
}

impl Match {
    fn begin(&mut self, resp3: bool) {
        self.resp3 = resp3;
        self.talks = Default::default();
        for side in [&mut self.theirs, &mut self.ours] {
            side.begin(resp3);
            let flushed = side.ask(0, &[b"FLUSHALL".to_vec()]);
            assert_eq!(flushed, Reply::Line(b"+OK".to_vec()));
            side.restore_settings();
        }
    }

    /// Whether the order of what follows, or the tracking of transactions, needs the reply.
    fn ends_batch(args: &[Vec<u8>]) -> bool {
        let name = args[0].to_ascii_lowercase();
        [&b"multi"[..], b"exec", b"discard", b"reset", b"quit", b"hello", b"client", b"wait"]
            .contains(&name.as_slice())
    }

    /// Plays requests of one connection, sent together; answers how many, and the first difference.
    fn ask(&mut self, conn: usize, batch: &[&Vec<Vec<u8>>]) -> Option<Difference> {
        let bytes: Vec<u8> = batch.iter().flat_map(|args| packed(args)).collect();
        self.theirs.send(conn, &bytes);
        self.ours.send(conn, &bytes);
        // All are read, whatever is found: what is still under way would get into what comes next.
        let mut found = None;
        for args in batch {
            let (theirs, ours) = (self.theirs.read(conn), self.ours.read(conn));
            let talk = &mut self.talks[conn];
            let queue = std::mem::take(&mut talk.queue);
            let is_same = rules::same(args, &queue, &theirs, &ours);
            talk.queue = queue;
            talk.note(args, &theirs);
            let is_closed = theirs == Reply::Closed || ours == Reply::Closed;
            if !is_same && found.is_none() {
                found = Some(Difference { step: Step::Ask(conn, args.to_vec()), theirs, ours });
            }
            if is_closed {
                break;
            }
        }
        found
    }

    fn other(&mut self, step: &Step) -> Option<Difference> {
        let (theirs, ours) = match step {
            Step::Ask(..) => unreachable!("asked in batches"),
            Step::Over(conn, set, look) => {
                let made = [self.theirs.ask(*conn, set), self.ours.ask(*conn, set)];
                std::thread::sleep(Duration::from_millis(20));
                let [theirs, ours] = made;
                let more = |first, second| Reply::List(b' ', vec![first, second]);
                (more(theirs, self.theirs.ask(*conn, look)), more(ours, self.ours.ask(*conn, look)))
            }
            Step::Raw(bytes) => (self.theirs.raw(bytes), self.ours.raw(bytes)),
            Step::Walk(conn, options) => (self.theirs.walk(*conn, options), self.ours.walk(*conn, options)),
        };
        if theirs == ours {
            return None;
        }
        if !rules::same_bytes(step, &theirs, &ours) {
            return Some(Difference { step: step.clone(), theirs, ours });
        }
        // Where one stopped reading, the other may have gone on, and have other data now.
        if matches!(step, Step::Raw(_)) {
            self.begin(self.resp3);
        }
        None
    }

    /// Plays steps; the first difference ends it.
    fn play(&mut self, steps: &[Step]) -> Option<Difference> {
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            let Step::Ask(conn, _) = step else {
                if let Some(difference) = self.other(step) {
                    return Some(difference);
                }
                at += 1;
                continue;
            };
            let mut batch = Vec::new();
            while let Some(Step::Ask(other, args)) = steps.get(at)
                && other == conn
                && batch.len() < PIPELINE
            {
                at += 1;
                batch.push(args);
                if Self::ends_batch(args) {
                    break;
                }
            }
            if let Some(difference) = self.ask(*conn, &batch) {
                return Some(difference);
            }
        }
        None
    }

    /// Whether a transaction would have more requests that look at all keys than it may.
    fn is_one_walk_too_many(&self, step: &Step, before: &[Step]) -> bool {
        let Step::Ask(conn, args) = step else { return false };
        let walks = |args: &Vec<Vec<u8>>| rules::walks_over_keys(args);
        let queued = self.talks[*conn].queue.iter().filter(|args| walks(args)).count();
        let drawn =
            before.iter().filter(|step| matches!(step, Step::Ask(to, args) if to == conn && walks(args)));
        self.talks[*conn].in_multi && walks(args) && queued + drawn.count() >= rules::WALKS_IN_TRANSACTION
    }

    /// Draws and plays a round; answers its steps, and the first difference.
    fn round(&mut self, seed: u64) -> (Vec<Step>, Option<Difference>) {
        self.begin(seed % 2 == 1);
        let mut dice = Dice::new(seed);
        let mut steps = Vec::new();
        while steps.len() < ROUND {
            let in_multi = [self.talks[0].in_multi, self.talks[1].in_multi];
            let mut fresh = Vec::new();
            // A few at a time, so that they can be sent together.
            while fresh.len() < PIPELINE {
                let mut drawn = generate::next(&mut dice, in_multi);
                drawn.retain(|step| !self.is_one_walk_too_many(step, &fresh));
                let ends =
                    drawn.iter().any(|step| matches!(step, Step::Ask(_, args) if Self::ends_batch(args)));
                fresh.extend(drawn);
                if ends {
                    break;
                }
            }
            let difference = self.play(&fresh);
            steps.extend(fresh);
            if difference.is_some() {
                return (steps, difference);
            }
        }
        (steps, None)
    }

    /// Leaves out what the difference does not need.
    fn shrink(&mut self, mut steps: Vec<Step>, mut difference: Difference) -> (Vec<Step>, Difference) {
        let mut size = steps.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + size).min(fewer.len()));
                self.begin(self.resp3);
                match self.play(&fewer) {
                    Some(found) => (steps, difference) = (fewer, found),
                    None => at += size,
                }
            }
            size /= 2;
        }
        (steps, difference)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn show(step: &Step) -> String {
    let request = |args: &[Vec<u8>]| {
        args.iter().map(|arg| format!("\"{}\"", arg.escape_ascii())).collect::<Vec<_>>().join(" ")
    };
    match step {
        Step::Ask(conn, args) => format!("{} {}", conn + 1, request(args)),
        Step::Walk(conn, options) => format!("{} SCAN 0 to its end {}", conn + 1, request(options)),
        Step::Raw(bytes) => format!("raw \"{}\"", bytes.escape_ascii()),
        Step::Over(conn, set, look) => format!("{} {} ; (20 ms) ; {}", conn + 1, request(set), request(look)),
    }
}

/// What a round depends on is its seed, not what rounds before it have set, on one side perhaps.
#[test]
fn a_round_finds_the_settings_of_the_first() {
    let Some(redis) = Redis::start() else {
        println!("left out: redis-server is not installed");
        return;
    };
    let mut side = Side::new(redis.port);
    let words = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let mut seen = Vec::new();
    for _ in 0..2 {
        side.begin(true);
        side.restore_settings();
        seen.push(side.ask(0, &words("CONFIG GET *")));
        for set in ["repl-backlog-size 3g", "slave-announce-ip 1x", "oom-score-adj-values -1,2,3", "hz 99"] {
            let (name, value) = set.split_once(' ').unwrap();
            let value = value.replace(',', " ").into_bytes();
            let set = [&words("CONFIG SET")[..], &[name.as_bytes().to_vec(), value]].concat();
            assert_eq!(side.ask(0, &set), Reply::Line(b"+OK".to_vec()), "{name}");
        }
    }
    assert_eq!(seen[0], seen[1]);
}

/// Asked of servers that nobody has set anything on, name by name, so that the hidden ones are asked too.
#[test]
fn settings_that_nobody_has_set_have_the_values_of_redis() {
    let Some(redis) = Redis::start() else {
        println!("left out: redis-server is not installed");
        return;
    };
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let (mut theirs, mut ours) = (Side::new(redis.port), Side::new(server.port));
    let names = KNOBS.iter().flat_map(|knob| [knob.name, knob.alias]).filter(|name| !name.is_empty());
    let mut differences = Vec::new();
    for name in names.chain(["*"]) {
        let args = ["CONFIG", "GET", name].map(|word| word.as_bytes().to_vec());
        let (their_value, our_value) = (theirs.ask(0, &args), ours.ask(0, &args));
        if !rules::settings(&their_value, &our_value) {
            differences.push(match name {
                // Far too long to be read, and each of its settings is asked for by itself, unless one is missing here.
                "*" => "CONFIG GET *, by one of these or by a name that is not in the table".to_owned(),
                _ => format!("{name}: redis {their_value:?}, ours {our_value:?}"),
            });
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    server.stop();
}

#[test]
fn random_commands_get_the_replies_of_redis() {
    let Some(redis) = Redis::start() else {
        println!("left out: redis-server is not installed");
        return;
    };
    let dir = data_dir();
    let server = Server::start(dir.path(), &[]);
    let mut both = Match {
        theirs: Side::new(redis.port),
        ours: Side::new(server.port),
        resp3: false,
        talks: Default::default(),
    };
    let wanted = number("CORDUROY_BESIDE_COMMANDS").unwrap_or(PLAY);
    let tells_all = number("CORDUROY_BESIDE_ALL").is_some();
    let mut seed = number("CORDUROY_BESIDE_SEED").unwrap_or(1);
    let (begun, mut played, mut differences) = (Instant::now(), 0, Vec::new());
    while played < wanted {
        let (steps, difference) = both.round(seed);
        played += steps.len() as u64;
        if let Some(difference) = difference {
            let (steps, difference) = both.shrink(steps, difference);
            let steps: Vec<String> = steps.iter().map(show).collect();
            let text = format!(
                "seed {seed}, RESP{}:\n    {}\n  at {}\n  redis {:?}\n  ours  {:?}",
                if both.resp3 { 3 } else { 2 },
                steps.join("\n    "),
                show(&difference.step),
                difference.theirs,
                difference.ours
            );
            println!("{text}");
            differences.push(text);
            if !tells_all {
                break;
            }
        }
        seed += 1;
    }
    println!("{played} requests in {:?}, {} differences", begun.elapsed(), differences.len());
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert!(played >= 300, "nothing was played");
    server.stop();
}
