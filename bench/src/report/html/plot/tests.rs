use super::*;

fn axis(label: &str, unit: &str, scale: Scale) -> Axis {
    Axis { label: label.to_owned(), unit: unit.to_owned(), scale }
}

fn plot(points: Vec<Vec<(f64, f64)>>, x: Scale, y: Scale) -> Plot {
    let series = points.into_iter().enumerate().map(|(index, points)| Series {
        name: format!("line {index}"),
        points,
        style: SeriesStyle::Solid,
    });
    Plot {
        title: "rate".to_owned(),
        x: axis("time", "s", x),
        y: axis("rate", "req/s", y),
        series: series.collect(),
        marks: Vec::new(),
    }
}

fn drawn(plot: &Plot) -> String {
    let mut out = String::new();
    draw(plot, &mut out);
    out
}

/// What the script gets.
fn data_of(figure: &str) -> Value {
    let text = figure.split("data-plot='").nth(1).and_then(|it| it.split('\'').next()).unwrap();
    serde_json::from_str(&text.replace("&lt;", "<").replace("&amp;", "&")).unwrap()
}

#[test]
fn a_line_goes_through_its_points() {
    let figure = drawn(&plot(
        vec![vec![(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)]],
        Scale::Linear,
        Scale::Linear,
    ));
    assert!(figure.contains("d=\"M40.0 330.0L383.0 30.0L726.0 180.0\""), "{figure}");
    assert!(figure.contains(">rate (req/s)</text>"));
    assert!(figure.contains(">time (s)</text>"));
    assert!(figure.contains("<figcaption>rate</figcaption>"));
    assert!(figure.contains(
        "role=\"img\" aria-label=\"rate. Across: time (s). Up: rate (req/s). Lines: line 0.\""
    ));
    let points =
        json!([[40.0, 330.0, 0.0, 0.0], [383.0, 30.0, 5.0, 10.0], [726.0, 180.0, 10.0, 5.0]]);
    assert_eq!(data_of(&figure)["series"][0]["points"], points);
}

#[test]
fn a_value_without_a_place_leaves_a_gap() {
    let points = vec![(0.0, 1.0), (1.0, 10.0), (2.0, 0.0), (3.0, 100.0), (4.0, f64::NAN)];
    let figure = drawn(&plot(vec![points], Scale::Linear, Scale::Log));
    let path = figure.split("class=\"line\"").nth(2).unwrap().split("d=\"").nth(1).unwrap();
    let path = path.split('"').next().unwrap();
    assert_eq!(path.matches('M').count(), 2, "{path}");
    assert_eq!(path.matches('L').count(), 1, "{path}");
    assert_eq!(data_of(&figure)["series"][0]["points"].as_array().unwrap().len(), 3);
}

#[test]
fn an_empty_plot_says_so() {
    let odd = vec![(f64::NAN, 1.0), (1.0, f64::INFINITY), (f64::NEG_INFINITY, 0.0)];
    for scale in [Scale::Linear, Scale::Log, Scale::Percentile] {
        for series in [vec![], vec![vec![]], vec![odd.clone()]] {
            let figure = drawn(&plot(series, scale, Scale::Linear));
            assert!(figure.contains("no data"));
            assert!(!figure.contains("<svg"));
        }
    }
    let figure = drawn(&plot(vec![vec![(0.0, 1.0)], vec![]], Scale::Linear, Scale::Linear));
    assert!(figure.contains("line 1 (no data)"));
}

#[test]
fn odd_values_give_finite_coordinates() {
    let odd = [0.0, -1.0, 1e-320, 1e300, -1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 0.5];
    let points: Vec<(f64, f64)> =
        odd.iter().flat_map(|&x| odd.iter().map(move |&y| (x, y))).collect();
    for x in [Scale::Linear, Scale::Log, Scale::Percentile] {
        for y in [Scale::Linear, Scale::Log] {
            let mut plot = plot(vec![points.clone()], x, y);
            plot.marks = odd.iter().map(|&at| Mark { at, label: "odd".to_owned() }).collect();
            let figure = drawn(&plot);
            assert!(figure.contains("<svg"));
            for word in ["NaN", "nan", "inf", "null"] {
                assert!(!figure.contains(word), "{x:?} {y:?}: {word} in {figure}");
            }
        }
    }
}

#[test]
fn many_series_are_told_apart() {
    let plot = plot(vec![vec![(0.0, 1.0), (1.0, 2.0)]; 18], Scale::Linear, Scale::Linear);
    let looks: std::collections::BTreeSet<(usize, &str)> = (0..plot.series.len())
        .map(|it| (it % COLOR_COUNT, dashes(it, SeriesStyle::Solid)))
        .collect();
    assert_eq!(looks.len(), 18);
    let figure = drawn(&plot);
    assert!(figure.contains("<g class=\"s5\"><path class=\"line\" stroke-dasharray=\"14 4\""));
    for dashed in DASHED_DASHES {
        assert!(!SOLID_DASHES.contains(&dashed));
    }
}

#[test]
fn a_long_series_is_thinned() {
    let points = (0..200_000).map(|it| (f64::from(it), f64::from(it % 1_000))).collect();
    let figure = drawn(&plot(vec![points], Scale::Linear, Scale::Linear));
    let count = data_of(&figure)["series"][0]["points"].as_array().unwrap().len();
    assert!((300..=thin::POINTS_MAX).contains(&count), "{count}");
    assert!(figure.len() < 100_000, "{} bytes", figure.len());
}

#[test]
fn marks_make_room_for_their_labels() {
    let mut plot = plot(vec![vec![(0.0, 1.0), (60.0, 2.0)]], Scale::Linear, Scale::Linear);
    plot.marks = [20.0, 21.0, 22.0, 70.0]
        .map(|at| Mark { at, label: format!("node stopped at {at} s") })
        .to_vec();
    let figure = drawn(&plot);
    // Three rows, and the axis goes on to the last mark.
    assert_eq!(data_of(&figure)["top"], json!(TOP_MARGIN + 3.0 * MARK_ROW_HEIGHT));
    assert_eq!(figure.matches("class=\"mark-label\"").count(), 4);
    assert!(figure.contains(">node stopped at 70 s</text>"));
    assert!(!figure.contains("<ol"));
    plot.marks = (0..12)
        .map(|it| Mark { at: f64::from(it), label: format!("node {it} stopped, then started") })
        .collect();
    let figure = drawn(&plot);
    assert!(figure.contains(">12</text>"));
    assert!(figure.contains("<li>node 11 stopped, then started</li>"));
}

#[test]
fn labels_of_ticks_do_not_meet() {
    let nines: Vec<(f64, f64)> = (0..14).map(|it| (1.0 - 0.1_f64.powi(it), 1.0)).collect();
    for (points, scale) in [
        (nines, Scale::Percentile),
        (vec![(1e-9, 1.0), (1e9, 1.0)], Scale::Log),
        (vec![(1.0, 1.0), (3e5, 1.0)], Scale::Log),
        (vec![(1_234_567.0, 1.0), (1_234_999.0, 1.0)], Scale::Linear),
    ] {
        let range = Range::around(scale, points.iter().map(|it| it.0)).unwrap();
        let ticks = range.ticks(TICK_COUNT_X);
        let extent = |it: &Tick| (it.at * 650.0, it.label.len() as f64 * LETTER_WIDTH);
        let fitting = fitting(&ticks, extent);
        assert!(fitting.len() >= 3, "{fitting:?}");
        for (index, tick) in fitting.iter().enumerate() {
            for other in &fitting[..index] {
                let (a, b) = (extent(tick), extent(other));
                assert!((a.0 - b.0).abs() >= (a.1 + b.1) / 2.0, "{tick:?} {other:?}");
            }
        }
    }
}
