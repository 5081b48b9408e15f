//! INFO's figures of each command.

use hdrhistogram::Histogram;

use super::Lines;
use crate::resp::Hub;
use crate::resp::commands::table;
use crate::resp::stats::Totals;

pub fn calls(totals: &Totals) -> Lines {
    let table = table();
    let used = totals.commands.iter().zip(&table.entries);
    used.filter(|(total, _)| total.calls + total.rejected + total.failed > 0)
        .map(|(total, entry)| {
            let per_call =
                |ns: u64| if total.calls == 0 { 0.0 } else { ns as f64 / 1000.0 / total.calls as f64 };
            // Redis's fields first; then the time until the reply was there, the wait for the disk included.
            let value = format!(
                "calls={},usec={},usec_per_call={:.2},rejected_calls={},failed_calls={},took_usec={},took_usec_per_call={:.2}",
                total.calls,
                total.ran_ns / 1000,
                per_call(total.ran_ns),
                total.rejected,
                total.failed,
                total.took_ns / 1000,
                per_call(total.took_ns),
            );
            (format!("cmdstat_{}", entry.full_name).into(), value)
        })
        .collect()
}

/// Percentiles of each command's times: to carry it out, as in Redis, and until its reply was there.
pub fn latencies(hub: &Hub) -> Lines {
    let percentiles = hub.percentiles();
    let show = |times: &Histogram<u64>| {
        let shown = percentiles.iter().map(|percentile| {
            let us = times.value_at_quantile(percentile / 100.0) as f64 / 1000.0;
            format!("p{percentile}={us:.3}")
        });
        shown.collect::<Vec<_>>().join(",")
    };
    let mut lines = Lines::new();
    for (index, entry) in table().entries.iter().enumerate() {
        if let Some(times) = hub.times(index) {
            lines.push((format!("latency_percentiles_usec_{}", entry.full_name).into(), show(&times.ran)));
            lines.push((format!("took_percentiles_usec_{}", entry.full_name).into(), show(&times.took)));
        }
    }
    lines
}

/// Error replies by their prefix.
pub fn errors(totals: &Totals) -> Lines {
    let errors = totals.errors.iter();
    errors.map(|(prefix, count)| (format!("errorstat_{prefix}").into(), format!("count={count}"))).collect()
}
