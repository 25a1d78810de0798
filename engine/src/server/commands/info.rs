//! INFO: figures about the node, in Redis' words where it has them.

use std::fmt::Write as _;
use std::time::Duration;

use gridkv_storage::LogStats;

use super::node::{Task, redis_settings};
use super::session::REDIS_VERSION;
use super::{TaskCall, text};
use crate::core::Core;
use crate::metrics::{Totals, resident_bytes, space_amplification};

/// `INFO [section ...]`
pub(super) fn info(call: TaskCall) -> Task {
    Box::pin(async move {
        let totals = Totals::collect(&call.handle).await?;
        let settings = |core: &mut Core| redis_settings(&core.world.settings, None);
        let settings = call.handle.on_core(call.core, settings).await?;
        let figures = Figures { totals, settings };
        let wanted: Vec<String> =
            call.arguments[1..].iter().map(|it| text(it).to_ascii_lowercase()).collect();
        let all = ["default", "all", "everything"];
        let is_wanted = |name: &str| {
            wanted.is_empty() || wanted.iter().any(|it| it == name || all.contains(&it.as_str()))
        };
        let mut report = String::new();
        for (name, write) in SECTIONS {
            if is_wanted(name) {
                if !report.is_empty() {
                    report.push_str("\r\n");
                }
                let mut title = name.to_string();
                let capitals = if name == "cpu" { 3 } else { 1 };
                title[..capitals].make_ascii_uppercase();
                let _ = write!(report, "# {title}\r\n");
                write(&mut report, &call, &figures);
            }
        }
        call.reply(|reply| reply.verbatim(*b"txt", report.as_bytes()));
        Ok(())
    })
}

/// What INFO tells of: the sums over all cores, and the settings as they are.
struct Figures {
    totals: Totals,
    settings: Vec<(&'static str, String)>,
}

impl Figures {
    /// The value of a setting, by its name in Redis.
    fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(known, _)| *known == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

type Section = (&'static str, fn(&mut String, &TaskCall, &Figures));

const SECTIONS: [Section; 10] = [
    ("server", info_server),
    ("clients", info_clients),
    ("memory", info_memory),
    ("persistence", info_persistence),
    ("stats", info_stats),
    ("turns", info_turns),
    ("replication", info_replication),
    ("cpu", info_cpu),
    ("cluster", info_cluster),
    ("keyspace", info_keyspace),
];

fn line(report: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing into a string does not fail.
    let _ = write!(report, "{name}:{value}\r\n");
}

fn info_server(report: &mut String, call: &TaskCall, _: &Figures) {
    let node = call.handle.node();
    let uptime = node.started_at.elapsed().as_secs();
    line(report, "redis_version", REDIS_VERSION);
    line(report, "gridkv_version", env!("CARGO_PKG_VERSION"));
    let is_replicated = call.handle.is_replicated();
    line(report, "redis_mode", if is_replicated { "cluster" } else { "standalone" });
    line(report, "os", format!("Linux {}", rustix::system::uname().release().to_string_lossy()));
    line(report, "arch_bits", 64);
    line(report, "multiplexing_api", "io_uring");
    line(report, "process_id", std::process::id());
    line(report, "run_id", &node.run_id);
    line(report, "tcp_port", node.listen.map_or(0, |address| address.port()));
    line(report, "uptime_in_seconds", uptime);
    line(report, "uptime_in_days", uptime / 86_400);
    line(report, "cores", node.layout.core_count);
    line(report, "shards", node.layout.shard_count);
    line(report, "storage", &node.config.storage);
}

fn info_clients(report: &mut String, _: &TaskCall, figures: &Figures) {
    line(report, "connected_clients", figures.totals.all.client_count);
    line(report, "maxclients", figures.setting("maxclients"));
    line(report, "blocked_clients", 0);
}

fn info_memory(report: &mut String, _: &TaskCall, figures: &Figures) {
    let totals = &figures.totals;
    let used = totals.used_bytes();
    line(report, "used_memory", used);
    line(report, "used_memory_human", human(used));
    line(report, "used_memory_rss", resident_bytes());
    line(report, "used_memory_startup", totals.startup_bytes());
    line(report, "used_memory_dataset", totals.all.store.memory_bytes);
    line(report, "used_memory_clients", totals.all.client_bytes);
    line(report, "used_memory_waiting", totals.all.copied_bytes);
    line(report, "gridkv_waiting_bytes", totals.all.waiting_bytes);
    line(report, "gridkv_unread_bytes", totals.all.unread_bytes);
    line(report, "maxmemory", figures.setting("maxmemory"));
    line(report, "maxmemory_policy", figures.setting("maxmemory-policy"));
}

fn human(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string().replace(' ', "")
}

fn info_persistence(report: &mut String, call: &TaskCall, figures: &Figures) {
    let log = figures.totals.all.log.unwrap_or_default();
    let takes_writes = log.failed_count + log.full_count == 0;
    line(report, "loading", 0);
    line(report, "async_loading", 0);
    let snapshots = call.handle.node().snapshots.figures();
    let seconds = |time: Option<Duration>| {
        time.map_or(-1, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX))
    };
    let changes = log.record_count.saturating_sub(snapshots.record_count);
    line(report, "rdb_changes_since_last_save", changes);
    line(report, "rdb_bgsave_in_progress", u8::from(snapshots.begun_at.is_some()));
    line(report, "rdb_last_save_time", snapshots.saved_at.as_millis() / 1_000);
    line(report, "rdb_last_bgsave_status", if snapshots.is_well { "ok" } else { "err" });
    line(report, "rdb_last_bgsave_time_sec", seconds(snapshots.took));
    let since_begun = snapshots.begun_at.map(|begun_at| begun_at.elapsed());
    line(report, "rdb_current_bgsave_time_sec", seconds(since_begun));
    line(report, "rdb_saves", snapshots.count);
    line(report, "aof_enabled", u8::from(figures.totals.all.log.is_some()));
    line(report, "aof_rewrite_in_progress", 0);
    line(report, "aof_rewrite_scheduled", 0);
    line(report, "aof_last_rewrite_time_sec", -1);
    line(report, "aof_current_rewrite_time_sec", -1);
    line(report, "aof_last_bgrewrite_status", "ok");
    line(report, "aof_last_write_status", if takes_writes { "ok" } else { "err" });
    if let Some(log) = &figures.totals.all.log {
        line(report, "aof_current_size", log.disk_bytes);
        info_log(report, log);
    }
}

/// What Redis has no words for.
fn info_log(report: &mut String, log: &LogStats) {
    let counts: [(&str, u64); 16] = [
        ("disk_bytes", log.disk_bytes),
        ("live_bytes", log.live_bytes),
        ("segments", log.segment_count),
        ("records", log.record_count),
        ("commits", log.commit_count),
        ("syncs", log.sync_count),
        ("written_bytes", log.written_bytes),
        ("compacted_bytes", log.compacted_bytes),
        ("reads", log.read_count),
        ("read_errors", log.read_error_count),
        ("damages", log.damaged_count),
        ("index_bytes", log.index_bytes),
        ("cache_bytes", log.cache_bytes),
        ("buffer_bytes", log.buffer_bytes),
        ("failed_shards", log.failed_count),
        ("full_shards", log.full_count),
    ];
    for (name, count) in counts {
        line(report, &format!("gridkv_log_{name}"), count);
    }
    line(report, "gridkv_log_space_amplification", format!("{:.2}", space_amplification(log)));
    line(report, "gridkv_log_sync_usec_last", log.sync_nanos_last / 1_000);
    line(report, "gridkv_log_sync_usec_max", log.sync_nanos_max / 1_000);
}

fn info_stats(report: &mut String, _: &TaskCall, figures: &Figures) {
    let (counters, store) = (&figures.totals.all.counters, &figures.totals.all.store);
    line(report, "total_connections_received", counters.connections_received);
    line(report, "total_commands_processed", counters.commands);
    line(report, "total_net_input_bytes", counters.input_bytes);
    line(report, "total_net_output_bytes", counters.output_bytes);
    line(report, "rejected_connections", counters.connections_rejected);
    line(report, "expired_keys", store.expired_count);
    line(report, "evicted_keys", store.evicted_count);
    line(report, "keyspace_hits", store.hit_count);
    line(report, "keyspace_misses", store.miss_count);
    line(report, "total_error_replies", counters.errors);
    line(report, "client_output_buffer_limit_disconnections", counters.output_disconnects);
    line(report, "forwarded_requests", counters.forwarded);
}

/// What Redis has no words for: the longest turns of the cores' loops, by cause.
fn info_turns(report: &mut String, _: &TaskCall, figures: &Figures) {
    for (cause, took) in figures.totals.all.longest.iter() {
        let name = format!("gridkv_turn_usec_max_{}", cause.replace(':', "_"));
        line(report, &name, took.as_micros());
    }
}

fn info_replication(report: &mut String, _: &TaskCall, _: &Figures) {
    line(report, "role", "master");
    line(report, "connected_slaves", 0);
}

fn info_cpu(report: &mut String, _: &TaskCall, _: &Figures) {
    let usage = crate::metrics::cpu_seconds();
    line(report, "used_cpu_sys", format!("{:.6}", usage.system));
    line(report, "used_cpu_user", format!("{:.6}", usage.user));
}

fn info_cluster(report: &mut String, call: &TaskCall, _: &Figures) {
    line(report, "cluster_enabled", u8::from(call.handle.is_replicated()));
}

fn info_keyspace(report: &mut String, _: &TaskCall, figures: &Figures) {
    let store = &figures.totals.all.store;
    if store.key_count > 0 {
        let (keys, expires) = (store.key_count, store.expiring_key_count);
        line(report, "db0", format!("keys={keys},expires={expires},avg_ttl=0"));
    }
}
