//! The responder.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::responder::Stall;

/// Options of `respond`.
#[derive(Clone, Debug, Args)]
pub struct RespondOptions {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:7390")]
    pub listen: SocketAddr,
    /// Serve nobody for this long, once.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub stall: Option<Duration>,
    /// How long after the first request the stall begins.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration, requires = "stall")]
    pub stall_after: Duration,
}

impl RespondOptions {
    /// The stall they ask for.
    #[must_use]
    pub fn stall(&self) -> Option<Stall> {
        self.stall.map(|length| Stall { after: self.stall_after, length })
    }
}
