//! Fewer points of a long series, with its shape.
//!
//! A series is cut into equal runs of points; of each, the first, the last, the lowest and the
//! highest stay, in their order, and one gap if there was any.

use super::scale::Scale;

/// A series has no more points than this when it is drawn.
pub(super) const POINTS_MAX: usize = 1_000;

/// What stays of a run: four points and a gap.
const KEPT_PER_RUN: usize = 5;

/// A point to be drawn; `None` is a gap, where a value has no place on its axis.
pub(super) type Place = Option<(f64, f64)>;

/// The points of a series that are drawn.
pub(super) fn thinned(points: &[(f64, f64)], x: Scale, y: Scale) -> Vec<Place> {
    let place = |&(at, value): &(f64, f64)| {
        (x.project(at).is_some() && y.project(value).is_some()).then_some((at, value))
    };
    if points.len() <= POINTS_MAX {
        return points.iter().map(place).collect();
    }
    let run_len = points.len().div_ceil(POINTS_MAX / KEPT_PER_RUN);
    points
        .chunks(run_len)
        .flat_map(|run| {
            let places: Vec<Place> = run.iter().map(place).collect();
            kept(&places).into_iter().map(move |index| places[index]).collect::<Vec<_>>()
        })
        .collect()
}

/// Which of a run stay, in order.
fn kept(run: &[Place]) -> Vec<usize> {
    let mut drawn = run.iter().enumerate().filter_map(|(index, it)| Some((index, (*it)?.1)));
    let gap = run.iter().position(Option::is_none);
    let mut kept: Vec<usize> = gap.into_iter().collect();
    if let Some((first, value)) = drawn.next() {
        let (mut low, mut high, mut last) = ((first, value), (first, value), first);
        for (index, value) in drawn {
            last = index;
            if value < low.1 {
                low = (index, value);
            }
            if value > high.1 {
                high = (index, value);
            }
        }
        kept.extend([first, low.0, high.0, last]);
    }
    kept.sort_unstable();
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_series_stays_as_it_is() {
        let points = [(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.0), (f64::INFINITY, 1.0)];
        let expected = [Some((0.0, 1.0)), None, Some((2.0, 0.0)), None];
        assert_eq!(thinned(&points, Scale::Linear, Scale::Linear), expected);
        let expected = [Some((0.0, 1.0)), None, None, None];
        assert_eq!(thinned(&points, Scale::Linear, Scale::Log), expected);
    }

    #[test]
    fn a_long_series_keeps_its_ends_and_extremes_in_order() {
        let mut rng = fastrand::Rng::with_seed(3);
        for count in [1_001_usize, 4_999, 100_003] {
            let mut points: Vec<(f64, f64)> =
                (0..count).map(|it| (it as f64, 10.0 + rng.f64())).collect();
            points[count / 3].1 = 999.0;
            points[count / 2].1 = 0.5;
            let thin = thinned(&points, Scale::Linear, Scale::Linear);
            assert!(thin.len() <= POINTS_MAX);
            assert!(thin.len() > POINTS_MAX / 2);
            assert_eq!(thin[0], Some(points[0]));
            assert_eq!(thin[thin.len() - 1], Some(points[count - 1]));
            assert!(thin.contains(&Some(((count / 3) as f64, 999.0))));
            assert!(thin.contains(&Some(((count / 2) as f64, 0.5))));
            assert!(thin.windows(2).all(|it| it[0].unwrap().0 < it[1].unwrap().0));
        }
    }

    #[test]
    fn a_long_series_keeps_its_gaps() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|it| (f64::from(it), 1.0)).collect();
        for point in &mut points[20_000..20_100] {
            point.1 = f64::NAN;
        }
        let thin = thinned(&points, Scale::Linear, Scale::Linear);
        assert!(thin.contains(&None));
        points.iter_mut().for_each(|it| it.1 = f64::NAN);
        assert!(thinned(&points, Scale::Linear, Scale::Linear).iter().all(Option::is_none));
    }
}
