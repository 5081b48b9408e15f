//! MEMORY STATS.

use super::Call;
use crate::resp::backend::Figure;

/// MEMORY STATS.
pub fn stats(call: &mut Call<'_>) {
    let figures = call.backend.memory_stats();
    call.out.map(figures.len());
    for (name, figure) in figures {
        call.out.bulk(name);
        match figure {
            Figure::Whole(number) => call.out.int(number),
            Figure::Ratio(ratio) => call.out.double(ratio),
        }
    }
}
