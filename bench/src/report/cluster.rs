//! The report of `cluster`.

use serde::Serialize;

use super::{Figures, Setting};
use crate::cluster::Done;
use crate::cluster::effects::Effect;
use crate::target::Preparation;

/// The report of `cluster`.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterReport {
    /// What was run.
    #[serde(flatten)]
    pub setting: Setting,
    /// How many nodes there were.
    pub nodes: u8,
    /// Copies of each key.
    pub replicas: u8,
    /// The consistency level, where one was asked for.
    pub consistency: Option<String>,
    /// Options of all nodes.
    pub node_options: Vec<String>,
    /// The nodes' addresses.
    pub target: String,
    /// What came of loading.
    pub preparation: Preparation,
    /// What came of the load.
    pub figures: Figures,
    /// What was done to nodes.
    pub events: Vec<Done>,
    /// What that did to the load.
    pub effects: Vec<Effect>,
}
