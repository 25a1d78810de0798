//! Labels of vertical lines, placed so that none covers another.
//!
//! Labels stand in rows above the plot, to the right of their lines. From left to right each takes
//! the highest row from which its line meets no earlier label on its way down, which makes stairs.
//! Where that needs too many rows, lines are numbered, and the page lists what the numbers mean.

/// A vertical line with a label: a fault, a knee.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Where, on the axis of x.
    pub at: f64,
    /// What was there.
    pub label: String,
}

/// More rows than this, and numbers take the place of labels.
const ROW_COUNT_MAX: usize = 6;

/// Letters of a label beyond which it is cut.
const LABEL_LEN_MAX: usize = 44;

/// From a line to its label, and between labels.
const GAP: f64 = 4.0;

/// A label with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    /// Of the line.
    pub(super) x: f64,
    /// Where the label begins.
    pub(super) left: f64,
    /// From the top.
    pub(super) row: usize,
    /// What is drawn; may be empty.
    pub(super) text: String,
    /// The whole label.
    pub(super) label: String,
}

/// All labels, by their lines from left to right.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Placing {
    pub(super) marks: Vec<Placed>,
    pub(super) row_count: usize,
    pub(super) is_numbered: bool,
}

/// Places labels for lines at `lines`, none of them beyond `right`.
pub(super) fn placed(mut lines: Vec<(f64, &str)>, right: f64, letter_width: f64) -> Placing {
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    let texts = lines.iter().map(|(_, label)| shortened(label, LABEL_LEN_MAX)).collect();
    let marks = in_rows(&lines, texts, right, letter_width, below_all_met);
    let row_count = rows(&marks);
    if row_count <= ROW_COUNT_MAX {
        return Placing { marks, row_count, is_numbered: false };
    }
    let texts = (1..=lines.len()).map(|it| it.to_string()).collect();
    let mut marks = in_rows(&lines, texts, right, letter_width, first_free);
    // So many at one place that even their numbers do not fit: some lines stay without.
    for mark in marks.iter_mut().filter(|it| it.row >= ROW_COUNT_MAX) {
        mark.row = ROW_COUNT_MAX - 1;
        mark.text.clear();
    }
    Placing { row_count: rows(&marks), marks, is_numbered: true }
}

fn rows(marks: &[Placed]) -> usize {
    marks.iter().map(|it| it.row + 1).max().unwrap_or(0)
}

/// On one line, and not longer than `len_max` letters and three dots.
pub(super) fn shortened(label: &str, len_max: usize) -> String {
    let label = label.split_whitespace().collect::<Vec<_>>().join(" ");
    match label.char_indices().nth(len_max) {
        Some((end, _)) => format!("{}...", label[..end].trim_end()),
        None => label,
    }
}

/// The row for a label at `left` of a line at `x`, over rows whose labels end so far.
type ChooseRow = fn(ends: &[f64], x: f64, left: f64) -> usize;

/// Below every label that the line would cross.
fn below_all_met(ends: &[f64], x: f64, left: f64) -> usize {
    let reached = (x - 1.0).min(left - GAP);
    ends.iter().rposition(|end| *end > reached).map_or(0, |it| it + 1)
}

/// Where there is room for the label. Lines may cross it.
fn first_free(ends: &[f64], _x: f64, left: f64) -> usize {
    ends.iter().position(|end| *end <= left - GAP).unwrap_or(ends.len())
}

fn in_rows(
    lines: &[(f64, &str)],
    texts: Vec<String>,
    right: f64,
    letter_width: f64,
    choose_row: ChooseRow,
) -> Vec<Placed> {
    let mut ends: Vec<f64> = Vec::new();
    let mut marks = Vec::with_capacity(lines.len());
    for (&(x, label), text) in lines.iter().zip(texts) {
        let width = text.chars().count() as f64 * letter_width;
        let left = (x + GAP).min(right - width).max(0.0);
        let row = choose_row(&ends, x, left);
        if row == ends.len() {
            ends.push(f64::MIN);
        }
        ends[row] = left + width;
        marks.push(Placed { x, left, row, text, label: label.to_owned() });
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(placing: &Placing) -> Vec<usize> {
        placing.marks.iter().map(|it| it.row).collect()
    }

    #[test]
    fn labels_that_would_meet_stand_on_stairs() {
        let lines = vec![(300.0, "far away"), (0.0, "one"), (10.0, "two"), (20.0, "three")];
        let placing = placed(lines, 600.0, 7.0);
        assert_eq!(rows_of(&placing), [0, 1, 2, 0]);
        assert_eq!(placing.row_count, 3);
        assert_eq!(placing.marks[1].left, 14.0);
    }

    #[test]
    fn a_label_at_the_edge_stays_inside() {
        let placing = placed(vec![(590.0, "the leader is stopped")], 600.0, 7.0);
        assert_eq!(placing.marks[0].left, 600.0 - 21.0 * 7.0);
    }

    #[test]
    fn no_label_covers_another_and_no_line_crosses_an_earlier_one() {
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..200 {
            let labels: Vec<(f64, String)> = (0..rng.usize(1..9))
                .map(|_| (rng.f64() * 600.0, "x".repeat(rng.usize(1..30))))
                .collect();
            let lines = labels.iter().map(|(at, label)| (*at, label.as_str())).collect();
            let placing = placed(lines, 620.0, 7.0);
            for (index, mark) in placing.marks.iter().enumerate() {
                for other in &placing.marks[..index] {
                    let end = other.left + other.text.len() as f64 * 7.0;
                    assert!(other.row != mark.row || end < mark.left, "{placing:?}");
                    let is_met = other.row >= mark.row && end >= mark.x;
                    assert!(placing.is_numbered || !is_met, "{placing:?}");
                }
            }
        }
    }

    #[test]
    fn too_many_labels_become_numbers() {
        let lines = (0..9).map(|it| (100.0 + 12.0 * f64::from(it), "a label of some length"));
        let placing = placed(lines.collect(), 600.0, 7.0);
        assert!(placing.is_numbered);
        assert_eq!(placing.marks[8].text, "9");
        assert_eq!(rows_of(&placing), [0; 9]);
        let lines = vec![(5.0, "again and again"); 60];
        assert!(placed(lines, 600.0, 7.0).row_count <= ROW_COUNT_MAX);
        assert_eq!(placed(Vec::new(), 600.0, 7.0), Placing::default());
    }

    #[test]
    fn a_long_label_is_cut_between_letters() {
        let label = "\u{e9}".repeat(60);
        let placing = placed(vec![(0.0, &label)], 600.0, 7.0);
        assert_eq!(placing.marks[0].text, format!("{}...", "\u{e9}".repeat(LABEL_LEN_MAX)));
        assert_eq!(placing.marks[0].label, label);
    }
}
