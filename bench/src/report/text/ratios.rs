//! The rows that say what the pairs of a comparison tell.

use super::{Table, number};
use crate::compare::Compared;
use crate::statistics::{Ratio, Verdict};

pub(super) fn rows(table: &mut Table, ratios: &Compared<Ratio>) {
    let names = ["mean", "95 % from", "to", "min", "max"];
    table.row("A / B", &names.map(str::to_owned));
    for (name, ratio) in [
        ("req/s", ratios.rate),
        ("p50", ratios.p50_us),
        ("p99", ratios.p99_us),
        ("p99.9", ratios.p99_9_us),
        ("CPU/req", ratios.server_cpu_us_per_request),
    ] {
        let figures: [fn(Ratio) -> Option<f64>; 5] = [
            |it| Some(it.mean),
            |it| it.interval_low,
            |it| it.interval_high,
            |it| Some(it.min),
            |it| Some(it.max),
        ];
        let mut cells: Vec<String> =
            figures.iter().map(|figure| number(ratio.and_then(figure), 3)).collect();
        cells.push(format!("  {}", ratio.map_or("not measured", |it| words(it.verdict))));
        table.row(&format!("A / B {name}"), &cells);
    }
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Higher => "A is higher",
        Verdict::Lower => "A is lower",
        Verdict::NoDifference => "no difference",
        Verdict::Undecidable => "too few pairs to tell",
    }
}
