//! The latencies as an HDR percentile file, the .hgrm text that HdrHistogram's plotters read. Values are ms.

use std::fmt::Write;

use crate::recorder::Latencies;

/// Steps per halving of the distance to 100%.
const TICKS: u32 = 5;

/// The file.
#[must_use]
pub fn render(latencies: &Latencies) -> String {
    let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut put = |text: std::fmt::Arguments<'_>| {
        out.write_fmt(text).expect("writing to a string cannot fail");
    };
    let mut total = 0;
    for step in latencies.iter_quantiles(TICKS) {
        total += step.count_since_last_iteration();
        let value_ms = step.value_iterated_to() as f64 / 1e6;
        let quantile = step.quantile_iterated_to();
        if quantile < 1.0 {
            let inverse = 1.0 / (1.0 - quantile);
            put(format_args!("{value_ms:12.3} {quantile:1.12} {total:10} {inverse:14.2}\n"));
        } else {
            put(format_args!("{value_ms:12.3} {quantile:1.12} {total:10}\n"));
        }
    }
    let ms = |ns: f64| ns / 1e6;
    let (mean, deviation) = (ms(latencies.mean()), ms(latencies.stdev()));
    put(format_args!("#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n"));
    put(format_args!(
        "#[Max     = {:12.3}, Total count    = {:12}]\n",
        ms(latencies.max() as f64),
        latencies.len()
    ));
    put(format_args!("#[Buckets = {:12}, SubBuckets     = {:12}]\n", latencies.buckets(), 2048));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::new_latencies;

    #[test]
    fn the_file_has_the_form_that_plotters_read() {
        let mut latencies = new_latencies();
        for ms in 1..=1000_u64 {
            latencies.record(ms * 1_000_000).unwrap();
        }
        let text = render(&latencies);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<Vec<f64>> = lines
            .by_ref()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        assert!(rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1]));
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((median[0] - 500.0).abs() < 1.0, "{median:?}");
        let last = rows.last().unwrap();
        assert_eq!((last[1], last[2]), (1.0, 1000.0));
        assert!(text.contains("Total count    =         1000]"));
    }
}
