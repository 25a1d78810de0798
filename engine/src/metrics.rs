//! Figures of a node as a whole, for INFO and for Prometheus.
//!
//! Cores count for themselves; the sums are made when somebody asks. Series have no core label by
//! default: a node with many cores would fill a monitoring system with them.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use gridkv_storage::LogStats;

use crate::cluster::status::Status;
use crate::core::turns::Longest;
use crate::core::{Core, Snapshot};
use crate::error::Error;
use crate::handle::Handle;

/// The sums over all cores.
pub(crate) struct Totals {
    pub(crate) all: Snapshot,
    pub(crate) cores: Vec<Snapshot>,
    /// Resident bytes of the process when the node had started, empty.
    startup_bytes: u64,
}

impl Totals {
    pub(crate) async fn collect(handle: &Handle) -> Result<Self, Error> {
        let cores = handle.on_all_cores(|core: &mut Core| core.snapshot()).await?;
        let mut all = Snapshot::default();
        for core in &cores {
            all.counters.add(&core.counters);
            all.store.add(&core.store);
            if let Some(stats) = &core.log {
                all.log.get_or_insert_with(LogStats::default).add(stats);
            }
            all.client_count += core.client_count;
            all.client_bytes += core.client_bytes;
            all.waiting_bytes += core.waiting_bytes;
            all.copied_bytes += core.copied_bytes;
            all.unread_bytes += core.unread_bytes;
            all.longest.merge(&core.longest);
        }
        let startup_bytes = handle.node().startup_bytes.load(Ordering::Relaxed);
        Ok(Self { all, cores, startup_bytes })
    }

    /// Memory that the node accounts for: the program as it was when it had started, records,
    /// index, clients, requests that wait, and the buffers of rings and logs.
    pub(crate) fn used_bytes(&self) -> u64 {
        let rings = self.cores.len() as u64 * crate::node::ring_bytes();
        let logs = self.all.log.map_or(0, |log| log.buffer_bytes);
        let clients = self.all.client_bytes + self.all.copied_bytes;
        self.startup_bytes + self.all.store.memory_bytes + clients + rings + logs
    }

    /// Resident bytes of the process when the node had started, but for what was recovered.
    pub(crate) const fn startup_bytes(&self) -> u64 {
        self.startup_bytes
    }
}

/// The resident set of the process in bytes; 0 where it cannot be read.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Processor time of the process, in seconds.
pub(crate) struct CpuSeconds {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

/// Processor time of the process so far.
pub(crate) fn cpu_seconds() -> CpuSeconds {
    let ticks = |index: usize, stat: &str| {
        let (_, fields) = stat.rsplit_once(')')?;
        fields.split_whitespace().nth(index)?.parse::<f64>().ok()
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let per_second =
        f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100));
    let seconds = |index| ticks(index, &stat).unwrap_or(0.0) / per_second;
    CpuSeconds { user: seconds(11), system: seconds(12) }
}

/// One line of help and type, one sample.
fn metric(out: &mut String, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
    // Writing into a string does not fail.
    let _ = writeln!(out, "# HELP gridkv_{name} {help}\n# TYPE gridkv_{name} {kind}");
    let _ = writeln!(out, "gridkv_{name} {value}");
}

/// The figures in Prometheus' text format (version 0.0.4). With `per_core` the commands and clients
/// of each core are added.
pub(crate) fn prometheus(handle: &Handle, totals: &Totals, per_core: bool) -> String {
    let mut out = String::new();
    let (counters, store) = (&totals.all.counters, &totals.all.store);
    let uptime = handle.node().started_at.elapsed().as_secs_f64();
    let stopped = handle.node().ports.iter().filter(|port| port.is_stopped()).count();
    let gauges: [(&str, &str, u64); 11] = [
        ("keys", "Live keys.", store.key_count),
        ("keys_expiring", "Live keys with an expiry.", store.expiring_key_count),
        ("payload_bytes", "Bytes of live keys and values.", store.payload_bytes),
        ("store_memory_bytes", "Memory of records and index.", store.memory_bytes),
        ("used_memory_bytes", "Memory accounted for.", totals.used_bytes()),
        ("resident_memory_bytes", "Resident set of the process.", resident_bytes()),
        ("clients", "Connected clients.", totals.all.client_count),
        ("client_memory_bytes", "Memory of clients' buffers.", totals.all.client_bytes),
        ("waiting_bytes", "Requests that wait for something.", totals.all.waiting_bytes),
        ("unread_bytes", "Replies that clients have not taken.", totals.all.unread_bytes),
        ("cores_stopped", "Cores that have stopped after a panic.", stopped as u64),
    ];
    for (name, help, value) in gauges {
        metric(&mut out, name, "gauge", help, value);
    }
    metric(&mut out, "uptime_seconds", "gauge", "Time since the start.", uptime);
    let sums: [(&str, &str, u64); 15] = [
        ("commands_total", "Commands begun.", counters.commands),
        ("errors_total", "Error replies.", counters.errors),
        ("forwarded_total", "Requests forwarded to another core.", counters.forwarded),
        ("connections_total", "Connections received.", counters.connections_received),
        ("connections_rejected_total", "Connections refused.", counters.connections_rejected),
        (
            "protocol_errors_total",
            "Connections closed for malformed requests.",
            counters.protocol_errors,
        ),
        (
            "output_disconnects_total",
            "Clients closed for unread replies.",
            counters.output_disconnects,
        ),
        ("input_bytes_total", "Bytes received from clients.", counters.input_bytes),
        ("output_bytes_total", "Bytes sent to clients.", counters.output_bytes),
        ("hits_total", "Lookups that found a value.", store.hit_count),
        ("misses_total", "Lookups that found none.", store.miss_count),
        ("expired_total", "Records that died of their expiry.", store.expired_count),
        ("evicted_total", "Records evicted to make room.", store.evicted_count),
        ("turns_total", "Turns of the cores' loops.", counters.turns),
        ("sleeps_total", "Times a core went to sleep.", counters.sleeps),
    ];
    for (name, help, value) in sums {
        metric(&mut out, name, "counter", help, value);
    }
    if let Some(log) = &totals.all.log {
        write_log(&mut out, log);
    }
    write_turns(&mut out, &totals.all.longest);
    if per_core {
        write_per_core(&mut out, totals);
    }
    out
}

/// The figures of the cluster, as this node sees it.
pub(crate) fn write_cluster(out: &mut String, status: &Status) {
    for (name, kind, help, value) in status.rows() {
        metric(out, &format!("cluster_{name}"), kind, help, value);
    }
}

/// The figures of the shards' logs, for stores that have some.
fn write_log(out: &mut String, log: &LogStats) {
    let gauges: [(&str, &str, u64); 8] = [
        ("disk_bytes", "Bytes of the files of the logs.", log.disk_bytes),
        ("live_bytes", "Bytes in them that are records which still count.", log.live_bytes),
        ("segments", "Files of the logs.", log.segment_count),
        ("index_bytes", "Memory of the index.", log.index_bytes),
        ("cache_bytes", "Memory of the records kept in memory.", log.cache_bytes),
        ("buffer_bytes", "Memory of what is on its way to disk.", log.buffer_bytes),
        ("failed_shards", "Shards that take no writes: a write has failed.", log.failed_count),
        ("full_shards", "Shards that refuse writes: the disk is full.", log.full_count),
    ];
    for (name, help, value) in gauges {
        metric(out, &format!("log_{name}"), "gauge", help, value);
    }
    let times: [(&str, &str, f64); 3] = [
        ("space_amplification", "Disk bytes a live byte.", space_amplification(log)),
        ("sync_seconds_last", "Time of the last durable write.", seconds(log.sync_nanos_last)),
        ("sync_seconds_max", "The longest such time.", seconds(log.sync_nanos_max)),
    ];
    for (name, help, value) in times {
        metric(out, &format!("log_{name}"), "gauge", help, value);
    }
    let sums: [(&str, &str, u64); 8] = [
        ("records", "Records written for clients.", log.record_count),
        ("commits", "Writes that carried them.", log.commit_count),
        ("syncs", "Writes that were made durable.", log.sync_count),
        ("written_bytes", "Bytes written for clients, padding included.", log.written_bytes),
        ("compacted_bytes", "Bytes that compaction wrote again.", log.compacted_bytes),
        ("reads", "Records read from disk for clients.", log.read_count),
        ("read_errors", "Reads that the disk refused.", log.read_error_count),
        ("damages", "Places found damaged, at start or since.", log.damaged_count),
    ];
    for (name, help, value) in sums {
        metric(out, &format!("log_{name}_total"), "counter", help, value);
    }
}

/// The longest turns, by cause.
fn write_turns(out: &mut String, longest: &Longest) {
    let name = "turn_seconds_max";
    let help =
        "The longest turn of a core's loop in the last ten seconds or more, and what took long.";
    let _ = writeln!(out, "# HELP gridkv_{name} {help}\n# TYPE gridkv_{name} gauge");
    for (cause, took) in longest.iter() {
        let _ = writeln!(out, "gridkv_{name}{{cause=\"{cause}\"}} {}", took.as_secs_f64());
    }
}

/// Bytes on disk for each that counts; 0 where none does.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people needs no more digits")]
pub(crate) fn space_amplification(log: &LogStats) -> f64 {
    if log.live_bytes == 0 { 0.0 } else { log.disk_bytes as f64 / log.live_bytes as f64 }
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64()
}

fn write_per_core(out: &mut String, totals: &Totals) {
    type Value = fn(&Snapshot) -> u64;
    let series: [(&str, &str, &str, Value); 3] = [
        ("core_commands_total", "counter", "Commands begun.", |core| core.counters.commands),
        ("core_clients", "gauge", "Connected clients.", |core| core.client_count),
        ("core_keys", "gauge", "Live keys.", |core| core.store.key_count),
    ];
    for (name, kind, help, value) in series {
        let _ = writeln!(out, "# HELP gridkv_{name} {help}\n# TYPE gridkv_{name} {kind}");
        for (id, core) in totals.cores.iter().enumerate() {
            let _ = writeln!(out, "gridkv_{name}{{core=\"{id}\"}} {}", value(core));
        }
    }
}
