//! A node's part in its cluster: what drives the machines of `gridkv-cluster`.
//!
//! ```text
//!   core 0                                         every core
//!   SWIM, agreement <-- UDP, control links         coordinator, replicas <-- links to peers' shards
//!        |                                               ^
//!        +------------- what holds now ------------------+
//! ```
//!
//! - [`machine`]: what the core does about keys, without I/O
//! - [`replicas`]: does what the machine wants done
//! - [`links`], [`link`], [`batches`], [`traffic`]: connections to peers, and what comes on them
//! - [`control`]: who is a member, and who answers; [`seeds`]: through whom others are found
//! - [`face`]: what Redis' clients are shown of it; [`kin`]: which of them ask for that
//! - [`calls`]: what one node has another do that is neither
//!
//! # Invariants
//!
//! - The one place that turns the outputs of the machine into deeds is [`Core::drain_machine`], after
//!   each event. Nothing in here waits.

mod batches;
pub(crate) mod calls;
pub(crate) mod control;
pub(crate) mod face;
pub mod identity_files;
pub(crate) mod kin;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod machine;
pub(crate) mod replicas;
mod seeds;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod traffic;

use gridkv_cluster::Instant;
use gridkv_cluster::replication::Config;

use self::control::Control;
use self::links::Links;
pub(crate) use self::traffic::LinkEvent;
use crate::config::ClusterConfig;

/// Operations under way on one core, at most.
const OP_COUNT_MAX: usize = 64 << 10;
/// Bytes of keys and values in them, at most.
const OP_BYTES_MAX: usize = 256 << 20;

/// What holds now, as core 0 tells the others.
pub(crate) type Told = gridkv_cluster::member::State;

/// One core's connections to the cluster.
pub(crate) struct Cluster {
    pub(crate) links: Links,
    /// On the core that speaks for the node.
    pub(crate) control: Option<Box<Control>>,
}

impl Cluster {
    pub(crate) fn new(links: Links) -> Self {
        Self { links, control: None }
    }

    /// When there is something to do, if nothing else happens first.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let control = self.control.as_ref().and_then(|control| control.due_at());
        [self.links.due_at(), control].into_iter().flatten().min()
    }
}

/// What a node's coordinators are told.
fn coordinator_config(options: &ClusterConfig) -> Config {
    Config {
        request_timeout: options.request_timeout,
        write_quorum: options.write_quorum,
        read_quorum: options.read_quorum,
        drift_max: options.clock_drift_max,
        op_count_max: OP_COUNT_MAX,
        op_bytes_max: OP_BYTES_MAX,
    }
}
