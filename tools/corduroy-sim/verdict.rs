//! How a batch went, in words: what was played, which faults were met, what that proves, and how to see what failed.

use std::fmt::Write;

use corduroy_shards::sim::{Batch, Summary};

/// What counts as a fault, and what one of it is called.
const FAULTS: [(&str, &str, &str); 18] = [
    ("crashes", "crash", "crashes"),
    ("openings cut off", "crash during a start", "crashes during a start"),
    ("writes torn at a crash", "torn write", "torn writes"),
    ("writes lost at a crash", "lost write", "lost writes"),
    ("write errors", "failed write", "failed writes"),
    ("full disks", "full disk", "full disks"),
    ("stalls", "stall of a disk", "stalls of a disk"),
    ("slow disks", "slow disk", "slow disks"),
    ("pauses", "pause of a process", "pauses of a process"),
    ("cuts", "cut of the network", "cuts of the network"),
    ("frames lost", "lost frame", "lost frames"),
    ("frames changed", "changed frame", "changed frames"),
    ("clock jumps", "jump of the clock", "jumps of the clock"),
    (
        "bits flipped, unacknowledged",
        "bit flipped in what was not acknowledged",
        "bits flipped in what was not acknowledged",
    ),
    ("replicas opened again", "replica opened again", "replicas opened again"),
    ("rows damaged", "damaged row", "damaged rows"),
    ("bits flipped, anywhere", "bit flipped anywhere", "bits flipped anywhere"),
    ("ready timeouts", "start that took too long", "starts that took too long"),
];

/// Thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// The last lines of a run. `options`: what a replay needs besides the seed, each with a blank before it.
#[must_use]
pub fn words(batch: &Batch, summary: &Summary, options: &str) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a string cannot fail");
    let (first, last) = (batch.seeds.start, batch.seeds.end.saturating_sub(1));
    let all = batch.seeds.end.saturating_sub(first);
    let of = if summary.played == all { String::new() } else { format!("{} of ", grouped(summary.played)) };
    line(format!(
        "played {of}{} ({first} to {last}), {} in {:.1} s{}",
        count(all, "seed", "seeds"),
        count(summary.events, "step", "steps"),
        summary.took.as_secs_f64(),
        match summary.played_twice {
            0 => String::new(),
            times => format!("; {} of them twice, to compare the traces", grouped(times)),
        }
    ));
    let met = FAULTS.iter().filter_map(|(probe, one, many)| {
        let times = summary.probes.get(probe);
        (times > 0).then(|| count(times, one, many))
    });
    let met: Vec<String> = met.collect();
    line(if met.is_empty() { "faults: none".to_owned() } else { format!("faults: {}", met.join(", ")) });
    if summary.safe_halts > 0 {
        let worlds = count(summary.safe_halts, "seed", "seeds");
        line(format!("in {worlds} the node refused to start on a log that was damaged, as it must"));
    }
    match (batch.planted, summary.failed.is_empty()) {
        (None, true) if met.is_empty() => {
            line("VERDICT: nothing broke, but no fault was met either: play more seeds".to_owned());
        }
        (None, true) => {
            line("VERDICT: good: nothing that was acknowledged was lost, nothing broke".to_owned())
        }
        (None, false) => {
            let seeds = count(summary.failed.len() as u64, "seed", "seeds");
            line(format!("VERDICT: BROKEN in {seeds}"));
        }
        (Some(planted), true) => line(format!("VERDICT: the planted bug {} was NOT found", planted.name())),
        (Some(planted), false) => line(format!("VERDICT: the planted bug {} was found", planted.name())),
    }
    for (seed, why) in &summary.failed {
        line(format!("  seed {seed}: {why}"));
    }
    if let Some((seed, _)) = summary.failed.first_key_value() {
        line(format!("to see it:         corduroy-sim replay {seed}{options} --trace"));
        line(format!("to make it small:  corduroy-sim shrink {seed}{options} --out seed-{seed}.plan"));
        if batch.stop_at_first && summary.played < all {
            line("the other seeds were not played; --keep-going does".to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use corduroy_shards::sim::Planted;

    use super::*;

    fn batch(planted: Option<Planted>) -> Batch {
        Batch { seeds: 5..1005, planted, threads: 1, stop_at_first: true, twice_every: 50 }
    }

    fn summary(failed: &[(u64, &str)]) -> Summary {
        let mut summary = Summary {
            played: 1000,
            played_twice: 20,
            safe_halts: 1,
            events: 1_234_567,
            failed: failed.iter().map(|(seed, why)| (*seed, (*why).to_owned())).collect(),
            took: Duration::from_millis(2050),
            ..Summary::default()
        };
        summary.probes.add("crashes", 2000);
        summary.probes.add("full disks", 1);
        summary.probes.add("turns", 9);
        summary
    }

    #[test]
    fn a_good_run_says_what_it_proves() {
        assert_eq!(
            words(&batch(None), &summary(&[]), ""),
            "played 1,000 seeds (5 to 1004), 1,234,567 steps in 2.0 s; 20 of them twice, to compare the traces\n\
             faults: 2,000 crashes, 1 full disk\n\
             in 1 seed the node refused to start on a log that was damaged, as it must\n\
             VERDICT: good: nothing that was acknowledged was lost, nothing broke\n"
        );
        let idle = words(&batch(None), &Summary::default(), "");
        assert!(idle.contains("faults: none\nVERDICT: nothing broke, but no fault was met"), "{idle}");
    }

    #[test]
    fn a_broken_run_says_how_to_see_it_again() {
        let text = words(
            &batch(None),
            &summary(&[(7, "reads are linearizable: GET"), (9, "x")]),
            " --machine plain",
        );
        let wanted = "VERDICT: BROKEN in 2 seeds\n  seed 7: reads are linearizable: GET\n  seed 9: x\n\
                      to see it:         corduroy-sim replay 7 --machine plain --trace\n\
                      to make it small:  corduroy-sim shrink 7 --machine plain --out seed-7.plan\n";
        assert!(text.ends_with(wanted), "{text}");
        let planted = Planted::all()[0];
        let text = words(&batch(Some(planted)), &summary(&[]), "");
        assert!(text.ends_with(&format!("the planted bug {} was NOT found\n", planted.name())), "{text}");
    }
}
