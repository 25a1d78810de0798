//! A cluster on this machine.

use std::path::PathBuf;

use clap::Args;

use super::{MeasureOptions, OutputOptions, ServerOptions};
use crate::cluster::faults::{Fault, Faults};
use crate::cluster::nodes;

/// Options of `cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterOptions {
    /// How many nodes there are.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Copies of each key. Default: 3, or as many as there are nodes.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub replicas: Option<u8>,
    /// The consistency level of all requests: one, quorum, all or linearizable. Default: the node's.
    #[arg(long, value_name = "LEVEL", value_parser = ["one", "quorum", "all", "linearizable"])]
    pub consistency: Option<String>,
    /// Do something to a node, counted from 1, at a time of the measurement: 5s:kill:2,
    /// 9s:restart:2, 5s:stop:1, 5s:pause:3:2s. May be repeated.
    #[arg(long = "fault", value_name = "TIME:WHAT:NODE")]
    pub faults: Vec<Fault>,
    /// The program that a node is. Default: `gridkv` beside this program.
    #[arg(long, value_name = "PATH")]
    pub gridkv: Option<PathBuf>,
    /// Options of all nodes, as in `--node '--durability none --cores 1'`. May be repeated.
    #[arg(long, value_name = "OPTIONS", value_parser = words, allow_hyphen_values = true)]
    pub node: Vec<Words>,
    /// How servers are started.
    #[command(flatten)]
    pub server: ServerOptions,
    /// How to load them.
    #[command(flatten)]
    pub measure: MeasureOptions,
    /// Where the report goes.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Some words of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl ClusterOptions {
    /// Copies of each key.
    #[must_use]
    pub fn replica_count(&self) -> u8 {
        self.replicas.unwrap_or_else(|| self.nodes.min(3))
    }

    /// What happens to the nodes.
    ///
    /// # Errors
    ///
    /// When that cannot be.
    pub fn faults(&self) -> Result<Faults, nodes::Error> {
        let duration = self.measure.duration;
        Faults::new(&self.faults, self.nodes.into(), duration).map_err(nodes::Error::Faults)
    }
}

fn words(text: &str) -> Result<Words, String> {
    shlex::split(text).map(Words).ok_or_else(|| "a quote is not closed".to_owned())
}
