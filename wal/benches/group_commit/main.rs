//! Group commit against a bare io_uring write loop, and against raft-engine.
//!
//! `cargo bench -p corduroy-wal`; the folder is taken from `CORDUROY_BENCH_DIR` (default: under `target/`), the
//! sync mode from `CORDUROY_BENCH_SYNC` (default `auto`), and what the bare loop goes over from `CORDUROY_BENCH_BARE_MIB`
//! (default: as much as the log). Variants take turns in many short rounds; the ratio is the
//! median over the rounds' own ratios. `-- frames`, `-- bounds` and `-- writers` make one table alone. All write the same bytes, and all but raft-engine by its defaults, which lets
//! files grow, go over files that were made and written before.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed step ends the benchmark")]

mod bare;
mod measure;
mod ours;
mod rival;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bare::Bare;
use corduroy_wal::device::{DiskFacts, SyncMode};
use measure::{ROUNDS, Series};
use ours::Ours;
use rival::RaftEngine;

const ROUND: Duration = Duration::from_millis(60);

fn main() {
    let root = std::env::var_os("CORDUROY_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let sync: SyncMode =
        std::env::var("CORDUROY_BENCH_SYNC").map_or(Ok(SyncMode::Auto), |s| s.parse()).unwrap();
    std::fs::create_dir_all(&root).unwrap();
    let effective = sync.resolve(DiskFacts::of(&root).as_ref());
    println!("folder {}, sync {effective}, {ROUNDS} rounds of {} ms each", root.display(), ROUND.as_millis());
    let wanted = |table: &str| {
        let mut named = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
        named.peek().is_none() || named.any(|arg| arg == table)
    };
    if wanted("frames") {
        frames(&root, sync, effective);
    }
    if wanted("bounds") {
        bounds(&root, sync, effective);
    }
    if wanted("writers") {
        writers(&root, sync, effective);
    }
}

/// The log beside two bare loops: one that writes what lies there, and one that sums up and copies it first, as no log can do
/// without. Each round of a loop stands beside one of the log.
fn bounds(root: &Path, sync: SyncMode, effective: SyncMode) {
    println!("\nframes of 64 KiB beside a bare loop, and beside one that sums up and copies, frames/s (p50)");
    println!(
        "{:>6} {:>24} {:>24} {:>24} {:>10} {:>10}",
        "depth", "bare loop", "that copies", "group commit", "of bare", "of copies"
    );
    let bytes = 64 << 10_u32;
    for depth in [1, 2, 4] {
        let folder = tempfile::tempdir_in(root).unwrap();
        let mut ours = Ours::new(&folder.path().join("ours"), sync, 1, depth);
        let file_bytes = bare_bytes().unwrap_or_else(|| ours.slots_bytes());
        let mut bare = Bare::new(folder.path(), effective, &noise(bytes as usize), file_bytes);
        let payload = payload_for_frame(bytes);
        let mut loops = [Series::default(), Series::default()];
        let mut beside = [Series::default(), Series::default()];
        for _ in 0..ROUNDS {
            for (copies, (left, right)) in [false, true].into_iter().zip(loops.iter_mut().zip(&mut beside)) {
                bare.set_copies(copies);
                left.push(bare.run(bytes, depth, ROUND));
                right.push(ours.run_frames(&payload, ROUND));
            }
        }
        let (of_bare, of_copies) = (beside[0].ratio_to(&loops[0]), beside[1].ratio_to(&loops[1]));
        println!(
            "{depth:>6} {:>24} {:>24} {:>24} {:>6.0}% ±{:.0} {:>6.0}% ±{:.0}",
            show(&loops[0]),
            show(&loops[1]),
            show(&beside[0]),
            of_bare.0 * 100.0,
            of_bare.0 * of_bare.1,
            of_copies.0 * 100.0,
            of_copies.0 * of_copies.1,
        );
    }
}

/// The same frame sizes at the same depth, with and without the log.
fn frames(root: &Path, sync: SyncMode, effective: SyncMode) {
    println!("\ngroup commit against the bare write loop, frames/s (p50)");
    println!("{:>6} {:>6} {:>24} {:>24} {:>8}", "bytes", "depth", "bare loop", "group commit", "ratio");
    for depth in [1, 2] {
        for bytes in [4 << 10, 16 << 10, 64 << 10_u32] {
            let folder = tempfile::tempdir_in(root).unwrap();
            let mut ours = Ours::new(&folder.path().join("ours"), sync, 1, depth);
            let file_bytes = bare_bytes().unwrap_or_else(|| ours.slots_bytes());
            let mut bare = Bare::new(folder.path(), effective, &noise(bytes as usize), file_bytes);
            let payload = payload_for_frame(bytes);
            if depth == 1 && bytes == 4 << 10 {
                println!("device: {}; the bare loop goes over {} MiB", ours.describe(), file_bytes >> 20);
            }
            let (mut left, mut right) = (Series::default(), Series::default());
            for _ in 0..ROUNDS {
                left.push(bare.run(bytes, depth, ROUND));
                right.push(ours.run_frames(&payload, ROUND));
            }
            let (ratio, error) = right.ratio_to(&left);
            println!(
                "{bytes:>6} {depth:>6} {:>24} {:>24} {:>7.0}% ±{:.0}",
                show(&left),
                show(&right),
                ratio * 100.0,
                ratio * error
            );
        }
    }
}

/// How much the bare loop goes over; by default as much as the log.
fn bare_bytes() -> Option<u64> {
    let mib = std::env::var("CORDUROY_BENCH_BARE_MIB").ok()?;
    Some(mib.parse::<u64>().unwrap() << 20)
}

/// Writers that append 4 KiB batches and wait for each.
fn writers(root: &Path, sync: SyncMode, effective: SyncMode) {
    println!("\nsynced 4 KiB batches/s of closed-loop writers (p50)");
    println!(
        "{:>8} {:>24} {:>24} {:>24} {:>8} {:>11}",
        "writers", "raft-engine", "raft-engine, prefilled", "ours", "ratio", "(prefilled)"
    );
    let payload = noise(4 << 10);
    for writers in [1, 8] {
        let folder = tempfile::tempdir_in(root).unwrap();
        let mut plain = RaftEngine::new(folder.path(), writers, false);
        let mut prefilled = RaftEngine::new(folder.path(), writers, true);
        let mut ours = Ours::new(&folder.path().join("ours"), sync, writers, 2);
        // A batch of 4 KiB with its heads takes two blocks.
        let mut bare = Bare::new(folder.path(), effective, &noise(8 << 10), ours.slots_bytes());
        let mut all = [Series::default(), Series::default(), Series::default(), Series::default()];
        for _ in 0..ROUNDS {
            all[0].push(plain.run(&payload, ROUND));
            all[1].push(prefilled.run(&payload, ROUND));
            all[2].push(ours.run_writers(&payload, ROUND));
            if writers == 1 {
                all[3].push(bare.run(8 << 10, 1, ROUND));
            }
        }
        let [plain, prefilled, ours, bare] = &all;
        let (to_plain, to_prefilled) = (ours.ratio_to(plain), ours.ratio_to(prefilled));
        println!(
            "{writers:>8} {:>24} {:>24} {:>24} {:>7.2}x ±{:.2} {:>6.2}x ±{:.2}",
            show(plain),
            show(prefilled),
            show(ours),
            to_plain.0,
            to_plain.0 * to_plain.1 / 100.0,
            to_prefilled.0,
            to_prefilled.0 * to_prefilled.1 / 100.0,
        );
        if writers == 1 {
            let (to_plain, to_prefilled) = (bare.ratio_to(plain), bare.ratio_to(prefilled));
            println!(
                "the bare loop, 8 KiB at a time: {}, {:.2}x ±{:.2} ({:.2}x ±{:.2})",
                show(bare),
                to_plain.0,
                to_plain.0 * to_plain.1 / 100.0,
                to_prefilled.0,
                to_prefilled.0 * to_prefilled.1 / 100.0,
            );
        }
    }
}

fn show(series: &Series) -> String {
    format!("{:.0} ±{:.0}% ({:.0} us)", series.median(), series.spread_percent(), series.median_latency_us())
}

/// A payload whose frame is exactly `bytes` long: 512 bytes are more than all headers together.
fn payload_for_frame(bytes: u32) -> Vec<u8> {
    noise(bytes as usize - 512)
}

/// Bytes that no compressor shortens.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
