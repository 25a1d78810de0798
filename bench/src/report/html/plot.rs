//! Plots, drawn as SVG inside of the page.
//!
//! ```text
//!  what y is (unit)
//!        | mark              rows of labels, as many as the marks need
//!        |     | mark
//!  200 k +-----------------+ top
//!  100 k +-----------------+
//!      0 +-----------------+ bottom
//!        0       5        10
//!                what x is (unit)
//! ```
//!
//! All lengths are in units of the view box, which the page stretches to its width. The figure
//! carries its points once more as JSON (`data-plot`), for the script that shows values under the
//! pointer.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::escape::{escaped, quoted};
use super::marks::{self, Mark, Placing};
use super::scale::{Axis, Range, Scale, Tick};
use super::thin::{self, Place};

/// Lines over axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// What is to be seen.
    pub title: String,
    /// The lower edge.
    pub x: Axis,
    /// The left edge.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// What happened where.
    pub marks: Vec<Mark>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it is of.
    pub name: String,
    /// Where it goes, in this order. A point that has no place on its axis leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: SeriesStyle,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesStyle {
    /// Whole, as long as there are colours.
    Solid,
    /// In dashes.
    Dashed,
}

const WIDTH: f64 = 760.0;
const PLOT_HEIGHT: f64 = 300.0;
const RIGHT_MARGIN: f64 = 34.0;
const BOTTOM_MARGIN: f64 = 46.0;
const TOP_MARGIN: f64 = 30.0;
const MARK_ROW_HEIGHT: f64 = 17.0;
/// What a letter of a label takes, at most on average, in any of the fonts of the page.
const LETTER_WIDTH: f64 = 7.4;
const LETTER_HEIGHT: f64 = 15.0;
/// Letters of what stands along an edge beyond which it is cut.
const EDGE_TITLE_LEN_MAX: usize = 80;
const TICK_COUNT_X: usize = 8;
const TICK_COUNT_Y: usize = 6;

/// Series beyond so many have a colour of another, and other dashes. The style sheet knows them.
const COLOR_COUNT: usize = 6;
const SOLID_DASHES: [&str; 3] = ["none", "14 4", "14 4 2 4"];
const DASHED_DASHES: [&str; 3] = ["5 4", "2 3", "5 3 2 3"];

/// A series of so few points shows each of them.
const MARKED_POINTS_MAX: usize = 40;

const INFALLIBLE: &str = "a string takes any text";

/// What goes where.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Range,
    y: Range,
    y_ticks: Vec<Tick>,
    placing: Placing,
}

impl Frame {
    /// `None` when no point has a place.
    fn of(plot: &Plot, lines: &[Vec<Place>]) -> Option<Self> {
        let points = || lines.iter().flatten().flatten();
        // A line of even scale is read by its height over zero.
        let zero = (plot.y.scale == Scale::Linear).then_some(0.0);
        let y = Range::around(plot.y.scale, points().map(|it| it.1))?;
        let y = Range::around(plot.y.scale, points().map(|it| it.1).chain(zero)).unwrap_or(y);
        let mark_places = plot.marks.iter().map(|it| it.at);
        let x_places = points().map(|it| it.0).chain(mark_places);
        let x = Range::around(plot.x.scale, x_places.clone())?;
        // So is what is measured along the lower edge; what is chosen may be far from zero.
        let zero = (plot.x.scale == Scale::Linear).then_some(0.0);
        let x = Range::around(plot.x.scale, x_places.chain(zero)).unwrap_or(x);
        let y = y.rounded();
        let y_ticks = y.ticks(TICK_COUNT_Y);
        let label_len = y_ticks.iter().map(|it| it.label.len()).max().unwrap_or(0);
        let left = (label_len as f64 * LETTER_WIDTH + 14.0).max(40.0);
        let right = WIDTH - RIGHT_MARGIN;
        let lines = plot.marks.iter().filter_map(|mark| {
            Some((left + x.place(mark.at)? * (right - left), mark.label.as_str()))
        });
        let placing = marks::placed(lines.collect(), WIDTH, LETTER_WIDTH);
        let top = TOP_MARGIN + placing.row_count as f64 * MARK_ROW_HEIGHT;
        Some(Self { left, right, top, bottom: top + PLOT_HEIGHT, x, y, y_ticks, placing })
    }

    fn across(&self, at: f64) -> f64 {
        self.left + at * (self.right - self.left)
    }

    fn up(&self, at: f64) -> f64 {
        self.bottom - at * (self.bottom - self.top)
    }

    fn point(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        Some((self.across(self.x.place(x)?), self.up(self.y.place(y)?)))
    }
}

/// Adds the figure to the page.
pub(super) fn draw(plot: &Plot, out: &mut String) {
    let lines: Vec<Vec<Place>> = plot
        .series
        .iter()
        .map(|it| thin::thinned(&it.points, plot.x.scale, plot.y.scale))
        .collect();
    let caption = format!("<figcaption>{}</figcaption>\n", escaped(&plot.title));
    let Some(frame) = Frame::of(plot, &lines) else {
        write!(out, "<figure class=\"plot\">\n{caption}").expect(INFALLIBLE);
        out.push_str("<p class=\"empty\">no data</p>\n</figure>\n");
        return;
    };
    let data = quoted(&data(plot, &frame, &lines).to_string());
    write!(out, "<figure class=\"plot\" data-plot='{data}'>\n{caption}").expect(INFALLIBLE);
    legend(plot, &lines, out);
    let about = escaped(&description(plot));
    writeln!(
        out,
        "<div class=\"scroll canvas\" tabindex=\"0\" role=\"group\" aria-label=\"{}\">\
         <svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{about}\">",
        escaped(&plot.title),
        frame.bottom + BOTTOM_MARGIN
    )
    .expect(INFALLIBLE);
    axes(plot, &frame, out);
    mark_lines(&frame, out);
    for (index, (series, places)) in plot.series.iter().zip(&lines).enumerate() {
        line(index, series.style, &frame, places, out);
    }
    mark_labels(&frame, out);
    out.push_str("</svg></div>\n");
    mark_list(&frame.placing, out);
    out.push_str("</figure>\n");
}

fn description(plot: &Plot) -> String {
    let names: Vec<&str> = plot.series.iter().map(|it| it.name.as_str()).collect();
    let (x, y) = (axis_title(&plot.x), axis_title(&plot.y));
    format!("{}. Across: {x}. Up: {y}. Lines: {}.", plot.title, names.join(", "))
}

fn axis_title(axis: &Axis) -> String {
    if axis.unit.is_empty() {
        axis.label.clone()
    } else {
        format!("{} ({})", axis.label, axis.unit)
    }
}

/// The same, as far as there is room for it along an edge.
fn edge_title(axis: &Axis) -> String {
    marks::shortened(&axis_title(axis), EDGE_TITLE_LEN_MAX)
}

/// What the script needs to show the values under the pointer.
fn data(plot: &Plot, frame: &Frame, lines: &[Vec<Place>]) -> Value {
    let axis = |it: &Axis| json!({ "label": it.label, "unit": it.unit, "scale": it.scale.name() });
    let place = |point: (f64, f64)| {
        let (x, y) = frame.point(point)?;
        Some(json!([
            (x * 10.0).round() / 10.0,
            (y * 10.0).round() / 10.0,
            point.0,
            digits(point.1)
        ]))
    };
    let series = plot.series.iter().zip(lines).enumerate().map(|(index, (series, places))| {
        let points: Vec<Value> = places.iter().flatten().filter_map(|it| place(*it)).collect();
        json!({ "name": series.name, "color": index % COLOR_COUNT, "points": points })
    });
    json!({
        "x": axis(&plot.x),
        "y": axis(&plot.y),
        "top": frame.top,
        "bottom": frame.bottom,
        "series": series.collect::<Vec<_>>(),
    })
}

/// A value with as many digits as anyone reads.
fn digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

fn legend(plot: &Plot, lines: &[Vec<Place>], out: &mut String) {
    out.push_str("<ul class=\"legend\">\n");
    for (index, (series, places)) in plot.series.iter().zip(lines).enumerate() {
        let dashes = dashes(index, series.style);
        let color = index % COLOR_COUNT;
        let count = places.iter().flatten().count();
        let marker =
            if count <= MARKED_POINTS_MAX { marker(index, 23.0, 6.0) } else { String::new() };
        let note = if count == 0 { " (no data)" } else { "" };
        writeln!(
            out,
            "<li><svg class=\"swatch\" viewBox=\"0 0 46 12\" aria-hidden=\"true\"><g class=\"s{color}\">\
             <path class=\"line\" stroke-dasharray=\"{dashes}\" d=\"M0 6H46\"/>\
             <path class=\"marker\" d=\"{marker}\"/></g></svg>{}{note}</li>",
            escaped(&series.name)
        )
        .expect(INFALLIBLE);
    }
    out.push_str("</ul>\n");
}

fn dashes(index: usize, style: SeriesStyle) -> &'static str {
    let all = match style {
        SeriesStyle::Solid => SOLID_DASHES,
        SeriesStyle::Dashed => DASHED_DASHES,
    };
    all[index / COLOR_COUNT % all.len()]
}

/// The outline of a point: its shape tells series apart as its colour does.
fn marker(index: usize, x: f64, y: f64) -> String {
    match index % 4 {
        0 => format!("M{:.1} {y:.1}a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0-6.8 0Z", x - 3.4),
        1 => format!("M{:.1} {:.1}h6v6h-6Z", x - 3.0, y - 3.0),
        2 => format!("M{x:.1} {:.1}l4 7h-8Z", y - 4.2),
        _ => format!("M{x:.1} {:.1}l4.2 4.2l-4.2 4.2l-4.2-4.2Z", y - 4.2),
    }
}

fn axes(plot: &Plot, frame: &Frame, out: &mut String) {
    let Frame { left, right, top, bottom, x, y_ticks, .. } = frame;
    let x_ticks = x.ticks(TICK_COUNT_X);
    let width = |tick: &Tick| tick.label.len() as f64 * LETTER_WIDTH + 8.0;
    let x_labels = fitting(&x_ticks, |tick| (frame.across(tick.at), width(tick)));
    let y_labels = fitting(y_ticks, |tick| (frame.up(tick.at), LETTER_HEIGHT));
    let mut grid = String::new();
    let mut labels = String::new();
    for tick in y_ticks {
        write!(grid, "M{left:.1} {:.1}H{right:.1}", frame.up(tick.at)).expect(INFALLIBLE);
    }
    for tick in &x_ticks {
        write!(grid, "M{:.1} {top:.1}V{bottom:.1}", frame.across(tick.at)).expect(INFALLIBLE);
    }
    for tick in y_labels {
        let (x, y) = (left - 8.0, frame.up(tick.at) + 4.0);
        label(&mut labels, "tick end", x, y, &tick.label);
    }
    for tick in x_labels {
        label(&mut labels, "tick middle", frame.across(tick.at), bottom + 18.0, &tick.label);
    }
    label(&mut labels, "axis", 2.0, 16.0, &edge_title(&plot.y));
    label(&mut labels, "axis middle", (left + right) / 2.0, bottom + 39.0, &edge_title(&plot.x));
    writeln!(
        out,
        "<path class=\"grid\" d=\"{grid}\"/>\n<path class=\"frame\" d=\"M{left:.1} {top:.1}V{bottom:.1}H{right:.1}\"/>\n{labels}"
    )
    .expect(INFALLIBLE);
}

/// Those whose labels do not meet, the major ones first; `extent` is the middle and the length.
fn fitting(ticks: &[Tick], extent: impl Fn(&Tick) -> (f64, f64)) -> Vec<&Tick> {
    let mut chosen: Vec<&Tick> = Vec::new();
    for is_major in [true, false] {
        for tick in ticks.iter().filter(|it| it.is_major == is_major) {
            let (middle, length) = extent(tick);
            let is_free = chosen.iter().all(|other| {
                let (other_middle, other_length) = extent(other);
                (middle - other_middle).abs() >= (length + other_length) / 2.0
            });
            if is_free {
                chosen.push(tick);
            }
        }
    }
    chosen
}

fn label(out: &mut String, class: &str, x: f64, y: f64, text: &str) {
    writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(text))
        .expect(INFALLIBLE);
}

fn line(index: usize, style: SeriesStyle, frame: &Frame, places: &[Place], out: &mut String) {
    let points: Vec<Option<(f64, f64)>> =
        places.iter().map(|it| it.and_then(|it| frame.point(it))).collect();
    let is_sparse = points.iter().flatten().count() <= MARKED_POINTS_MAX;
    let (mut path, mut markers) = (String::new(), String::new());
    for run in points.split(Option::is_none) {
        for (at, &(x, y)) in run.iter().flatten().enumerate() {
            let verb = if at == 0 { 'M' } else { 'L' };
            write!(path, "{verb}{x:.1} {y:.1}").expect(INFALLIBLE);
            if is_sparse || run.len() == 1 {
                markers.push_str(&marker(index, x, y));
            }
        }
    }
    writeln!(
        out,
        "<g class=\"s{}\"><path class=\"line\" stroke-dasharray=\"{}\" d=\"{path}\"/><path class=\"marker\" d=\"{markers}\"/></g>",
        index % COLOR_COUNT,
        dashes(index, style)
    )
    .expect(INFALLIBLE);
}

/// The height at which a label of a row is written.
fn mark_baseline(row: usize) -> f64 {
    TOP_MARGIN + row as f64 * MARK_ROW_HEIGHT + 9.0
}

fn mark_lines(frame: &Frame, out: &mut String) {
    for mark in &frame.placing.marks {
        let top = mark_baseline(mark.row) - 8.0;
        writeln!(
            out,
            "<path class=\"mark\" d=\"M{:.1} {top:.1}V{:.1}\"><title>{}</title></path>",
            mark.x,
            frame.bottom,
            escaped(&mark.label)
        )
        .expect(INFALLIBLE);
    }
}

fn mark_labels(frame: &Frame, out: &mut String) {
    for mark in frame.placing.marks.iter().filter(|it| !it.text.is_empty()) {
        label(out, "mark-label", mark.left, mark_baseline(mark.row), &mark.text);
    }
}

/// What the numbers of lines mean.
fn mark_list(placing: &Placing, out: &mut String) {
    if !placing.is_numbered {
        return;
    }
    out.push_str("<ol class=\"marks\">\n");
    for mark in &placing.marks {
        writeln!(out, "<li>{}</li>", escaped(&mark.label)).expect(INFALLIBLE);
    }
    out.push_str("</ol>\n");
}

#[cfg(test)]
mod tests;
