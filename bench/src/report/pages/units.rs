//! Whether latencies are told in microseconds or in milliseconds.

use crate::report::html::{Axis, Plot, Scale, Series};

/// From here on, milliseconds have fewer digits.
const MILLIS_FROM_US: f64 = 1000.0;

/// An axis of latencies, that are in microseconds until [`readable`] has seen the plot.
pub(super) fn latency_axis(label: &str) -> Axis {
    Axis { label: label.to_owned(), unit: "us".to_owned(), scale: Scale::Log }
}

/// The plot, in milliseconds where the middle of its logarithmic axis is at least one.
pub(super) fn readable(mut plot: Plot) -> Plot {
    let values = plot.series.iter().flat_map(|it| &it.points).map(|it| it.1);
    let placed = values.filter(|it| it.is_finite() && *it > 0.0);
    let ends = placed.fold((f64::INFINITY, 0.0_f64), |(low, high), it| (low.min(it), high.max(it)));
    if ends.1 > 0.0 && (ends.0 * ends.1).sqrt() >= MILLIS_FROM_US {
        "ms".clone_into(&mut plot.y.unit);
        let millis = |it: &mut Series| it.points.iter_mut().for_each(|it| it.1 /= 1000.0);
        plot.series.iter_mut().for_each(millis);
    }
    plot
}
