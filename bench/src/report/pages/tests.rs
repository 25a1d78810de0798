use super::lines::{drawable, percentiles, solid};
use crate::report::html::Scale;

#[test]
fn latencies_are_told_in_the_unit_of_their_middle() {
    let plot = |points| percentiles("latency", vec![solid("all", points)]);
    let short = plot(vec![(0.5, 10.0), (0.9, 20_000.0)]);
    assert_eq!((short.y.unit.as_str(), short.series[0].points[1].1), ("us", 20_000.0));
    let long = plot(vec![(0.5, 500.0), (0.9, 20_000.0)]);
    assert_eq!((long.y.unit.as_str(), long.series[0].points[1].1), ("ms", 20.0));
}

#[test]
fn lines_that_show_nothing_are_left_out() {
    let lines = vec![solid("all", vec![(0.5, 1.0)]), solid("none", vec![(0.5, 0.0), (1.0, 5.0)])];
    let mut plot = percentiles("latency", lines);
    assert_eq!(plot.x.scale, Scale::Percentile);
    assert_eq!(drawable(plot.clone()).unwrap().series.len(), 1);
    plot.series.remove(0);
    assert_eq!(drawable(plot), None);
}
