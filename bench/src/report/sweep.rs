//! The report of `sweep`.

use serde::Serialize;

use super::{Figures, Setting};
use crate::server::Values;
use crate::sweep::Knob;
use crate::sweep::knee::Outcome;
use crate::target::Preparation;

/// The report of `sweep`.
#[derive(Clone, Debug, Serialize)]
pub struct SweepReport {
    /// What was run.
    #[serde(flatten)]
    pub setting: Setting,
    /// What was varied.
    pub knobs: Vec<KnobReport>,
    /// What p99.9 the search for a knee allowed, if there was one.
    pub knee_bound_us: Option<f64>,
    /// Why it ended early, if it did. The last point may then be partial.
    pub partial: Option<String>,
    /// All measurements, in order.
    pub points: Vec<PointReport>,
    /// The index of the point with the highest rate of those without errors.
    pub best: Option<usize>,
    /// The knee of each combination of knobs.
    pub knees: Vec<KneeReport>,
}

/// Something that was varied.
#[derive(Clone, Debug, Serialize)]
pub struct KnobReport {
    /// What.
    pub name: String,
    /// Its values.
    pub values: Vec<String>,
}

impl KnobReport {
    pub(crate) fn new(knob: &Knob) -> Self {
        Self { name: knob.name.clone(), values: knob.values.clone() }
    }
}

/// One measurement of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct PointReport {
    /// The values of the knobs.
    pub knobs: Values,
    /// What was loaded.
    pub target: String,
    /// The rate that was offered, in an open loop.
    pub offered_rate: Option<f64>,
    /// How the generator was at its limit, if it was, where a knee is searched.
    pub generator_limit: Option<String>,
    /// What came of loading and such, before this point.
    pub preparation: Preparation,
    /// What came of it.
    pub figures: Figures,
}

/// A search for a knee.
#[derive(Clone, Debug, Serialize)]
pub struct KneeReport {
    /// The values of the knobs.
    pub knobs: Values,
    /// How many measurements it took.
    pub points: usize,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl SweepReport {
    /// The index of the best point.
    pub(crate) fn best_of(points: &[PointReport]) -> Option<usize> {
        let is_whole = |figures: &Figures| {
            figures.partial.is_none()
                && figures.errors.failed_requests() == 0
                && figures.errors.lost_connections == 0
        };
        let rate = |index: usize| points[index].figures.rate.unwrap_or(0.0);
        let whole = (0..points.len()).filter(|&it| is_whole(&points[it].figures));
        whole.max_by(|&a, &b| rate(a).total_cmp(&rate(b)))
    }
}
