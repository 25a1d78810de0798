//! Options of `sweep`.

use std::time::Duration;

use clap::Args;

use super::{MeasureOptions, OutputOptions, ServerOptions};
use crate::server::{CommandTemplate, TargetTemplate};
use crate::sweep::{Knob, POINTS_MAX};

/// Options of `sweep`.
#[derive(Clone, Debug, Args)]
pub struct SweepOptions {
    /// What to load: resp://HOST:PORT, `in-core` or `embedded`. With --cmd it may have the
    /// placeholders of the command, and `auto` is resp://127.0.0.1:{port}.
    #[arg(default_value = "auto")]
    pub target: TargetTemplate,
    /// What to vary, as in `pipeline=1,8,64`, `connections=1..64*2` or `value-size=100..1000+300`.
    /// May be given twice. Knobs: pipeline, connections, threads, value-size, keys, rate, batch,
    /// cores, durability, consistency, and any placeholder of the command.
    #[arg(long = "knob", value_name = "NAME=LIST")]
    pub knobs: Vec<Knob>,
    /// Search the highest rate whose p99.9 is at most this, as in `5ms`, for each combination of
    /// the knobs.
    #[arg(long, value_name = "BOUND", value_parser = humantime::parse_duration, conflicts_with = "rate")]
    pub knee: Option<Duration>,
    /// The rate that the search begins with.
    #[arg(long, value_name = "RATE", default_value_t = 1000.0, value_parser = knee_start)]
    pub knee_start: f64,
    /// How near to the next rate that fails the search ends, as a share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = knee_precision)]
    pub knee_precision: f64,
    /// Start this server first, and stop it in the end: a command line in which {port} is a free
    /// port, {dir} a new directory, and the name of a knob its value. May be repeated for servers
    /// of several processes.
    #[arg(long = "cmd", value_name = "TEMPLATE")]
    pub commands: Vec<CommandTemplate>,
    /// How to start it.
    #[command(flatten)]
    pub server: ServerOptions,
    /// How to load it.
    #[command(flatten)]
    pub measure: MeasureOptions,
    /// Where the report goes.
    #[command(flatten)]
    pub output: OutputOptions,
}

impl SweepOptions {
    /// Whether the knobs make a sweep.
    ///
    /// # Errors
    ///
    /// A sentence, when they do not.
    pub fn check(&self) -> Result<(), String> {
        let names: Vec<&str> = self.knobs.iter().map(|it| it.name.as_str()).collect();
        let point_count: usize = self.knobs.iter().map(|it| it.values.len()).product();
        match names[..] {
            [] if self.knee.is_none() => {
                Err("nothing to sweep: give --knob NAME=LIST, or --knee BOUND".to_owned())
            }
            [first, second] if first == second => Err(format!("--knob {first} is given twice")),
            [_, _, _, ..] => Err("more than two knobs".to_owned()),
            _ if self.knee.is_some() && names.contains(&"rate") => {
                Err("--knee searches the rate: leave out --knob rate".to_owned())
            }
            _ if point_count > POINTS_MAX => {
                Err(format!("{point_count} points are more than {POINTS_MAX}"))
            }
            _ => Ok(()),
        }
    }
}

fn knee_start(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.01..=1e9).contains(&rate) => Ok(rate),
        _ => Err("expected requests a second, from 0.01 to 1e9".to_owned()),
    }
}

fn knee_precision(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.001..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0.001 to 1".to_owned()),
    }
}
