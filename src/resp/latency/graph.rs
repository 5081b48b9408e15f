//! LATENCY GRAPH: bars of characters, with the age of each below it, as Redis draws them.

use std::iter::repeat_n;

use super::Series;

/// Characters of a line.
const COLUMNS: usize = 80;
/// Lines of the bars.
const ROWS: usize = 4;
/// The ends of bars, by how much of a line they fill.
const TIPS: [char; 3] = ['_', 'o', '#'];
/// What is below an end.
const FILL: char = '|';

/// How long ago, in the largest unit that it fills.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The graph of an event.
#[must_use]
pub fn draw(event: &str, series: &Series, now_s: u64) -> String {
    let ms = || series.samples.iter().map(|sample| sample.ms);
    let (high, low) = (ms().max().unwrap_or(0), ms().min().unwrap_or(0));
    let mut text = format!("{event} - high {high} ms, low {low} ms (all time high {} ms)\n", series.max_ms);
    text.extend(repeat_n('-', COLUMNS));
    text.push('\n');
    let bars: Vec<(usize, Vec<char>)> = series
        .samples
        .iter()
        .map(|sample| {
            let steps = (TIPS.len() * ROWS) as u64;
            let step = (sample.ms - low) * steps / (high - low).max(1);
            let age = age(now_s.saturating_sub(sample.at_s));
            (step.min(steps - 1) as usize, age.chars().collect())
        })
        .collect();
    for (at, bars) in bars.chunks(COLUMNS).enumerate() {
        if at > 0 {
            text.push('\n');
        }
        draw_line(bars, &mut text);
    }
    text
}

/// Some bars beside each other: their lines from above, an empty one, and their ages from above.
fn draw_line(bars: &[(usize, Vec<char>)], text: &mut String) {
    let longest = bars.iter().map(|(_, age)| age.len()).max().unwrap_or(0);
    for row in 0..ROWS {
        let base = (ROWS - row - 1) * TIPS.len();
        text.extend(bars.iter().map(|(step, _)| match step.checked_sub(base) {
            None => ' ',
            Some(part) => TIPS.get(part).copied().unwrap_or(FILL),
        }));
        text.push('\n');
    }
    text.extend(repeat_n(' ', bars.len()));
    text.push('\n');
    for row in 0..longest {
        text.extend(bars.iter().map(|(_, age)| age.get(row).copied().unwrap_or(' ')));
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::latency::Sample;

    fn series(samples: &[(u64, u64)]) -> Series {
        let max_ms = samples.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
        Series { samples: samples.iter().map(|&(at_s, ms)| Sample { at_s, ms }).collect(), max_ms }
    }

    #[test]
    fn bars_are_those_of_a_redis_server_with_the_same_samples() {
        let samples = [(198, 10), (199, 51), (200, 20), (201, 100), (202, 101), (204, 300)];
        let expected = "command - high 300 ms, low 10 ms (all time high 300 ms)\n\
            --------------------------------------------------------------------------------\n     \
            #\n     |\n   __|\n_o_|||\n      \n765431\nssssss\n";
        assert_eq!(draw("command", &series(&samples), 205), expected);
    }

    #[test]
    fn many_samples_take_several_lines_and_old_ones_have_larger_units() {
        let many: Vec<(u64, u64)> = (0..160).map(|n| (n * 5000, 7)).collect();
        let text = draw("x", &series(&many), 800_000);
        assert_eq!(text.lines().filter(|line| line.len() == 80).count(), 1 + 2 * (4 + 1 + 2) + 1);
        assert!(text.contains("_\n") && text.contains("\n\n"), "{text}");
        assert_eq!([age(59), age(60), age(7200), age(200_000)], ["59s", "1m", "2h", "2d"]);
    }
}
