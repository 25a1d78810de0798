//! How servers are started.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{CpuList, cpu_list};

/// How servers are started.
#[derive(Clone, Debug, Args)]
pub struct ServerOptions {
    /// CPUs to pin started servers to, as in `0` or `0,2-3`. Default: those that this program may
    /// run on.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub server_cpus: Option<CpuList>,
    /// Where the directories of started servers are made. Default: the system's temporary
    /// directory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Give up when a started server does not serve within this time.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub server_start_timeout: Duration,
}
