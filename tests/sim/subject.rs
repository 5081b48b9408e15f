//! The store in the simulated world: which requests clients send, what they must answer, what survives a crash.

#[path = "model.rs"]
mod model;

use corduroy::store::{
    Condition, Expiry, HashSeed, List, MemLower, Op, Options, Outcome, SetReply, SetWhen, Store,
};
use corduroy_shards::sim::{Knobs, Probes, Rng, Subject};
use corduroy_shards::{Kind, ShardId};

use model::StoreModel;

/// The store as the state machine of simulated shards.
#[derive(Clone, Copy, Debug)]
pub struct StoreSubject;

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
    fn draw_write(rng: &mut Rng, knobs: &Knobs, unique: u64, now_ms: u64) -> Vec<u8> {
        let (a, b) = (key(rng.below(knobs.keys)), key(rng.below(knobs.keys)));
        let fresh = value(rng, unique, knobs.value_bytes);
        let soon_ms = now_ms.saturating_add(rng.between(0, 2000)).saturating_sub(100);
        match rng.below(100) {
            0..40 => {
                let when = rng.pick(&[SetWhen::Always, SetWhen::Always, SetWhen::Absent, SetWhen::Present]);
                let expiry = rng.pick(&[Expiry::Clear, Expiry::Clear, Expiry::Keep, Expiry::At(soon_ms)]);
                let reply = rng.pick(&[SetReply::Ok, SetReply::Old]);
                encoded(&Op::Set { key: &a, value: &fresh, when, expiry, reply })
            }
            40..55 => encoded(&Op::IncrBy { key: &counter(rng.below(knobs.keys)), delta: 1 }),
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
                let at_ms = i64::try_from(soon_ms).expect("times of this century");
                encoded(&Op::Expire { key: &a, at_ms, condition })
            }
            86..89 => encoded(&Op::Persist { key: &a }),
            89..94 => encoded(&Op::Rename { from: &a, to: &b, only_if_none: rng.chance(300) }),
            94..99 => {
                let first = encoded(&Op::IncrBy { key: &counter(rng.below(knobs.keys)), delta: 1 });
                let second = encoded(&Op::Get { key: &a });
                let third = encoded(&Op::Rename { from: &a, to: &b, only_if_none: false });
                let guards = List::Args(&[]);
                encoded(&Op::Multi { guards, ops: List::Args(&[&first, &second, &third]) })
            }
            _ => encoded(&Op::Flush),
        }
    }

    fn draw_read(rng: &mut Rng, knobs: &Knobs) -> Vec<u8> {
        let (a, b) = (key(rng.below(knobs.keys)), counter(rng.below(knobs.keys)));
        match rng.below(10) {
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
    type Machine = Store<MemLower>;
    type Media = MemLower;
    type Model = StoreModel;

    fn media(&self, _shard: ShardId) -> Self::Media {
        MemLower::default()
    }

    fn crash(&self, _media: &mut MemLower, _rng: &mut Rng) {}

    fn open(&self, media: &mut MemLower, shard: ShardId, knobs: &Knobs) -> Result<Self::Machine, String> {
        let bytes = |number: u64| usize::try_from(number).expect("small sizes");
        let hand_over_bytes = bytes(knobs.hand_over_bytes);
        // The rows of half of a shard's partitions, or less: rows are dropped and read back.
        let rows =
            knobs.keys * (knobs.value_bytes + 200) * knobs.partitions.div_ceil(u64::from(knobs.shards));
        let options = Options {
            memory_bytes: bytes(rows.max(2 * knobs.hand_over_bytes)),
            hand_over_bytes,
            max_dirty_bytes: hand_over_bytes * 4,
            ..Options::with_memory(64 << 20, HashSeed([u64::from(shard.0), 1]))
        };
        Store::open(media.clone(), options)
    }

    fn model(&self) -> StoreModel {
        StoreModel::default()
    }

    fn request(&self, rng: &mut Rng, knobs: &Knobs, unique: u64, now_ms: u64) -> (Kind, Vec<u8>) {
        if rng.chance(knobs.reads_per_mille) {
            (Kind::Read, Self::draw_read(rng, knobs))
        } else {
            (Kind::Write, Self::draw_write(rng, knobs, unique, now_ms))
        }
    }

    fn write(&self, unique: u64) -> Vec<u8> {
        encoded(&Op::IncrBy { key: b"last", delta: i64::try_from(unique).expect("few requests") })
    }

    fn audit(&self, knobs: &Knobs) -> Vec<Vec<u8>> {
        let names = (0..knobs.keys).flat_map(|number| [key(number), counter(number)]).collect::<Vec<_>>();
        let names = names.iter().map(Vec::as_slice).chain([b"last".as_slice()]).collect::<Vec<_>>();
        vec![encoded(&Op::MGet { keys: List::Args(&names) }), encoded(&Op::Keys { pattern: b"*" })]
    }

    /// KEYS answers in any order.
    fn same(&self, op: &[u8], model: &Outcome, machine: &Outcome) -> bool {
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

    fn probe(&self, machine: &Self::Machine, probes: &mut Probes) {
        let stats = machine.stats();
        probes.add("hand-overs", stats.hand_overs);
        probes.add("rows handed over", stats.handed_over_rows);
        probes.add("rows dropped from memory", stats.evicted_keys);
        probes.add("rows read back", stats.loaded_keys);
        probes.add("expired keys removed", stats.expired_keys);
    }
}
