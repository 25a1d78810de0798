//! A cluster on this machine, loaded while its nodes are killed, stopped, paused and started.
//!
//! | file | what |
//! |---|---|
//! | [`faults`] | what happens to which node, and when |
//! | [`nodes`] | the processes |
//! | [`effects`] | what each fault did to rate and latency |
//!
//! All nodes share this machine, and so its processors and its disk with one another and with the
//! load: a cluster of machines of their own does more, and fails otherwise. There is no network
//! between them but the loopback device.

pub mod effects;
pub mod faults;
pub mod nodes;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use crate::options::{ClusterOptions, MeasureOptions, TargetName};
use crate::target::{Failure, Measurement, Preparation, RemoteTarget, Target};
use crate::workload::Workload;
use effects::Effect;
use faults::{Event, Faults};
use nodes::Nodes;

/// A connection whose oldest request is older is given up, unless an option says otherwise: another
/// node may answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Something that was done to a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Done {
    /// When, from the begin of the measurement on.
    pub at_seconds: f64,
    /// What, as in `kill node 2`.
    pub what: String,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The nodes.
    pub target: TargetName,
    /// Of loading.
    pub preparation: Preparation,
    /// Of the load.
    pub measurement: Measurement,
    /// What was done to nodes.
    pub events: Vec<Done>,
    /// What it did to the load.
    pub effects: Vec<Effect>,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The nodes do not serve.
    #[error(transparent)]
    Nodes(#[from] nodes::Error),
    /// They cannot be loaded.
    #[error(transparent)]
    Target(#[from] Failure),
}

/// What has happened so far.
struct Chaos {
    nodes: Nodes,
    faults: Faults,
    done: Vec<Done>,
    /// Why a node could not be started again.
    failure: Option<nodes::Error>,
}

impl Chaos {
    fn go_on(&mut self, elapsed: Duration) {
        while let Some(event) = self.faults.next_due(elapsed) {
            self.done.push(Done { at_seconds: elapsed.as_secs_f64(), what: event.to_string() });
            if let Err(error) = self.perform(event) {
                self.failure.get_or_insert(error);
            }
        }
    }

    fn perform(&mut self, event: Event) -> Result<(), nodes::Error> {
        self.nodes.perform(event.node, event.action)
    }
}

/// Starts the nodes, loads them while the faults happen, and stops them.
///
/// # Errors
///
/// When the nodes do not come to serve, or cannot be loaded. None of them is left behind.
pub fn run(options: &ClusterOptions, workload: &Workload) -> Result<Outcome, Error> {
    let nodes = Nodes::start(options)?;
    let url = nodes.url(options.consistency.as_deref());
    let measure = patient(&options.measure);
    let mut target = RemoteTarget::open(&url, workload.clone(), measure)?;
    let preparation = target.prepare()?;
    let faults = options.faults()?;
    let chaos = Rc::new(RefCell::new(Chaos { nodes, faults, done: Vec::new(), failure: None }));
    let shared = Rc::clone(&chaos);
    target.on_tick(Box::new(move |elapsed| shared.borrow_mut().go_on(elapsed)));
    let measurement = target.measure()?;
    drop(target);
    let mut chaos = chaos.borrow_mut();
    if let Some(error) = chaos.failure.take() {
        return Err(error.into());
    }
    let events = std::mem::take(&mut chaos.done);
    chaos.nodes.stop();
    let effects = effects::of(&events, &measurement.timeline);
    Ok(Outcome { target: TargetName::Remote(url), preparation, measurement, events, effects })
}

/// How a cluster with faults is loaded: nodes that are away are no reason to end.
fn patient(options: &MeasureOptions) -> MeasureOptions {
    let mut options = options.clone();
    options.request_timeout.get_or_insert(REQUEST_TIMEOUT);
    if options.reconnect_for.is_zero() {
        options.reconnect_for = Duration::MAX;
    }
    options
}
