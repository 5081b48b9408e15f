//! The store in the simulated world: which requests clients send, what they must answer, what survives a crash.

#[path = "model.rs"]
mod model;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use corduroy::store::{
    CURSOR_BITS, Condition, DiskError, DiskLevel, Expiry, HashSeed, List, Looked, MemLevel, Op, Options,
    Outcome, SetReply, SetWhen, Store,
};
use corduroy_shards::sim::{Knobs, Probes, Rng, Subject};
use corduroy_shards::{Kind, ShardId};

use model::StoreModel;

/// The store as the state machine of simulated shards.
#[derive(Clone, Default, Debug)]
pub struct StoreSubject {
    /// What watchers were answered of late: key and version.
    told: RefCell<VecDeque<(Vec<u8>, u64)>>,
    /// Rows were damaged: of a key that was written blindly over one of them it cannot be told that it existed.
    is_damaged: Cell<bool>,
}

/// Answers to watchers that are remembered.
const TOLD: usize = 64;

/// Of all simulated stores, so that SCAN's cursors can be judged.
const SEED: HashSeed = HashSeed([7, 1]);

fn encoded(op: &Op<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    op.encode(&mut bytes);
    bytes
}

fn key(number: u64) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

/// A counter: keys of their own, so that increments mostly meet numbers.
fn counter(number: u64) -> Vec<u8> {
    format!("counter:{number}").into_bytes()
}

/// A value that no other request writes, of up to `most` bytes.
fn value(rng: &mut Rng, unique: u64, most: u64) -> Vec<u8> {
    let mut value = format!("v{unique}.").into_bytes();
    let bytes = usize::try_from(rng.below(most)).expect("short values");
    value.resize(value.len().max(bytes), b'x');
    value
}

impl StoreSubject {
    fn draw_write(&self, rng: &mut Rng, knobs: &Knobs, unique: u64, now_ms: u64) -> Vec<u8> {
        let (a, b) = (key(rng.below(knobs.keys)), key(rng.below(knobs.keys)));
        let fresh = value(rng, unique, knobs.value_bytes);
        let soon_ms = now_ms.saturating_add(rng.between(0, 2000)).saturating_sub(100);
        let in_ms = rng.between(0, 2000);
        match rng.below(100) {
            0..40 => {
                let when = rng.pick(&[SetWhen::Always, SetWhen::Always, SetWhen::Absent, SetWhen::Present]);
                let expiry = rng.pick(&[
                    Expiry::Clear,
                    Expiry::Clear,
                    Expiry::Keep,
                    Expiry::At(soon_ms),
                    Expiry::In(in_ms),
                ]);
                let reply = rng.pick(&[SetReply::Ok, SetReply::Old]);
                encoded(&Op::Set { key: &a, value: &fresh, when, expiry, reply })
            }
            40..51 => encoded(&Op::IncrBy { key: &counter(rng.below(knobs.keys)), delta: 1 }),
            51..55 => {
                let delta = rng.pick(&[&b"0.25"[..], b"-1.5", b"1000000", b"3.0e3"]);
                encoded(&Op::IncrByFloat { key: &counter(rng.below(knobs.keys)), delta })
            }
            55..60 => encoded(&Op::Append { key: &a, value: format!("+{unique}").as_bytes() }),
            60..68 => encoded(&Op::Del { keys: List::Args(&[&a, &b]) }),
            68..72 => encoded(&Op::GetDel { key: &a }),
            72..78 => encoded(&Op::MSet {
                pairs: List::Args(&[&a, &fresh, &b, &fresh]),
                only_if_none: rng.chance(300),
            }),
            78..86 => {
                let condition =
                    rng.pick(&[Condition::Always, Condition::Later, Condition::NoExpiry, Condition::Sooner]);
                let signed = |ms: u64| i64::try_from(ms).expect("times of this century");
                if rng.chance(500) {
                    encoded(&Op::Expire { key: &a, at_ms: signed(soon_ms), condition })
                } else {
                    encoded(&Op::ExpireIn { key: &a, in_ms: signed(in_ms) - 100, condition })
                }
            }
            86..89 => encoded(&Op::Persist { key: &a }),
            89..92 => encoded(&Op::Rename { from: &a, to: &b, only_if_none: rng.chance(300) }),
            92..94 => encoded(&Op::Copy { from: &a, to: &b, replace: rng.chance(500) }),
            94..97 => self.draw_transaction(rng, knobs, &a, &b),
            97..99 => encoded(&Op::Watch { key: &a }),
            _ => encoded(&Op::Flush),
        }
    }

    /// A transaction with some watched keys: as watchers were answered of late, or with a version that it may have.
    fn draw_transaction(&self, rng: &mut Rng, knobs: &Knobs, a: &[u8], b: &[u8]) -> Vec<u8> {
        let first = encoded(&Op::IncrBy { key: &counter(rng.below(knobs.keys)), delta: 1 });
        let second = encoded(&Op::Get { key: a });
        let third = encoded(&Op::Rename { from: a, to: b, only_if_none: false });
        let fourth = encoded(&Op::Copy { from: b, to: a, replace: true });
        let told = self.told.borrow();
        let mut guards = Vec::new();
        for _ in 0..rng.pick(&[0, 0, 1, 1, 2, 3]) {
            let some = rng.below(200) << 20 | if rng.chance(500) { 1 << 62 } else { 0 };
            let guessed = (a.to_vec(), rng.pick(&[0, 0, some]));
            let at = usize::try_from(rng.below(TOLD as u64)).expect("small");
            guards.push(told.get(at).filter(|_| rng.chance(800)).cloned().unwrap_or(guessed));
        }
        let guards = guards.iter().map(|(key, version)| (key, version.to_le_bytes())).collect::<Vec<_>>();
        let guards = guards.iter().flat_map(|(key, version)| [key.as_slice(), version]).collect::<Vec<_>>();
        let ops = List::Args(&[&first, &second, &third, &fourth]);
        encoded(&Op::Multi { guards: List::Args(&guards), ops })
    }

    fn draw_read(rng: &mut Rng, knobs: &Knobs) -> Vec<u8> {
        let (a, b) = (key(rng.below(knobs.keys)), counter(rng.below(knobs.keys)));
        match rng.below(12) {
            10 => encoded(&Op::Version { key: &a }),
            11 => {
                let some = rng.below(1 << CURSOR_BITS);
                let cursor = rng.pick(&[0, 0, some]);
                let count = rng.pick(&[1, 10, 1000]);
                encoded(&Op::Scan { cursor, count, pattern: None, kind: None })
            }
            0..5 => encoded(&Op::Get { key: &a }),
            5 => encoded(&Op::MGet { keys: List::Args(&[&a, &b]) }),
            6 => encoded(&Op::Exists { keys: List::Args(&[&a, &b, &a]) }),
            7 => encoded(&Op::Ttl { key: &a, absolute: true, seconds: false }),
            8 => encoded(&Op::StrLen { key: &a }),
            _ => encoded(&Op::Keys { pattern: b"*" }),
        }
    }
}

impl Subject for StoreSubject {
    type Outcome = Outcome;
    type Machine = Store<MemLevel>;
    type Media = MemLevel;
    type Model = StoreModel;
    type OpenError = DiskError;

    fn media(&self, _shard: ShardId) -> Self::Media {
        MemLevel::default()
    }

    fn crash(&self, _media: &mut MemLevel, _rng: &mut Rng) {}

    fn set_room(&self, media: &MemLevel, bytes: Option<u64>) {
        media.set_capacity(bytes.map_or(u64::MAX, |bytes| media.stats().disk_bytes + bytes));
    }

    fn damage(&self, media: &MemLevel, rng: &mut Rng, is_served: bool) -> u64 {
        let mut draw = |below| usize::try_from(rng.below(below)).expect("small numbers");
        let (first, rows) = (draw(1 << 20), 1 + draw(4));
        let damaged = media.damage(first, rows, is_served);
        self.is_damaged.set(self.is_damaged.get() || damaged > 0);
        damaged as u64
    }

    fn keep_rows(&self, media: &MemLevel) {
        media.keep_rows();
    }

    fn restore(&self, media: &MemLevel) {
        media.restore();
    }

    fn open(&self, media: &mut MemLevel, _shard: ShardId, knobs: &Knobs) -> Result<Self::Machine, DiskError> {
        let bytes = |number: u64| usize::try_from(number).expect("small sizes");
        let flush_bytes = bytes(knobs.flush_bytes);
        // Less than all partitions' keys take, in many worlds: rows are dropped and read back.
        let rows = knobs.keys * (knobs.value_bytes + 200);
        let options = Options {
            memory_bytes: bytes(rows.max(2 * knobs.flush_bytes)),
            flush_bytes,
            // Entries wait for a flush at any of their ops: the slowest jobs must not take the whole minute in which
            // every partition has to come back.
            max_dirty_bytes: flush_bytes * 16,
            // Far fewer than there are keys: others come between the slices of KEYS.
            gather_rows: 1 + knobs.keys / 8,
            // Small states: their images have several chunks all the same.
            image_chunk_bytes: bytes(knobs.chunk_bytes),
            ..Options::with_memory(64 << 20, SEED)
        };
        media.set_at_hand(knobs.at_hand_per_mille, knobs.requests);
        Store::open(media.clone(), options, &[])
    }

    fn model(&self) -> StoreModel {
        StoreModel::default()
    }

    fn request(&self, rng: &mut Rng, knobs: &Knobs, unique: u64, now_ms: u64) -> (Kind, Vec<u8>) {
        if rng.chance(knobs.reads_per_mille) {
            (Kind::Read, Self::draw_read(rng, knobs))
        } else {
            (Kind::Write, self.draw_write(rng, knobs, unique, now_ms))
        }
    }

    fn write(&self, unique: u64) -> Vec<u8> {
        encoded(&Op::IncrBy { key: b"last", delta: i64::try_from(unique).expect("few requests") })
    }

    fn seen(&self, view: &Looked<'_>) -> Outcome {
        view.value.map_or(Outcome::Nil, |value| Outcome::Bulk(value.to_vec()))
    }

    fn audit(&self, knobs: &Knobs) -> Vec<Vec<u8>> {
        let names = (0..knobs.keys).flat_map(|number| [key(number), counter(number)]).collect::<Vec<_>>();
        let versions = names.iter().map(|name| encoded(&Op::Version { key: name })).collect::<Vec<_>>();
        let names = names.iter().map(Vec::as_slice).chain([b"last".as_slice()]).collect::<Vec<_>>();
        let mut reads = vec![
            encoded(&Op::MGet { keys: List::Args(&names) }),
            encoded(&Op::Keys { pattern: b"*" }),
            encoded(&Op::Scan { cursor: 0, count: 10_000, pattern: None, kind: None }),
        ];
        reads.extend(versions);
        reads
    }

    /// KEYS answers in any order; a page of SCAN holds the keys between its two cursors.
    fn same(&self, op: &[u8], model: &Outcome, machine: &Outcome) -> bool {
        if let (
            Ok(Op::Scan { cursor: from, .. }),
            Outcome::Scan { keys: all, .. },
            Outcome::Scan { cursor, keys },
        ) = (Op::decode(op), model, machine)
        {
            let place = |key: &[u8]| SEED.hash(key) >> (64 - CURSOR_BITS);
            let end = if *cursor == 0 { u64::MAX } else { *cursor };
            let mut expected = all.clone();
            expected.retain(|key| (from..end).contains(&place(key)));
            let mut found = keys.clone();
            found.sort();
            return found == expected && (*cursor == 0 || *cursor > from);
        }
        if let (Ok(Op::Watch { key } | Op::Version { key }), Outcome::Int(version)) =
            (Op::decode(op), machine)
        {
            let mut told = self.told.borrow_mut();
            if told.len() == TOLD {
                told.pop_front();
            }
            told.push_back((key.to_vec(), u64::try_from(*version).unwrap_or(0)));
        }
        let sorted = |outcome: &Outcome| match outcome {
            Outcome::Array(items) => {
                let mut keys = items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>();
                keys.sort();
                keys
            }
            other => vec![format!("{other:?}")],
        };
        model == machine
            || (matches!(Op::decode(op), Ok(Op::Keys { .. })) && sorted(model) == sorted(machine))
    }

    fn check(&self, machine: &Self::Machine) {
        // Behind a damaged row the number of keys may stay one too high.
        if !self.is_damaged.get() {
            machine.check();
            machine.check_below().expect("no row is damaged");
        }
    }

    fn probe(&self, machine: &Self::Machine, probes: &mut Probes) {
        let stats = machine.stats();
        probes.add("flushes", stats.flushes);
        probes.add("flushes undone", stats.undone_flushes);
        probes.add("rows flushed", stats.flushed_rows);
        probes.add("rows dropped from memory", stats.evicted_keys);
        probes.add("rows read back", stats.loaded_keys);
        probes.add("rows read on the core", stats.keys_read_on_core);
        probes.add("expired keys removed", stats.expired_keys);
    }
}
