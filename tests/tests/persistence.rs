//! What a node on disk tells of its logs, and what becomes of its data when it stops.

use gridkv_tests::client::{ok, text};
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::program::page;
use gridkv_tests::slow::Control;
use gridkv_tests::until;

/// The value of a line of INFO or of the metrics.
fn figure(report: &str, name: &str) -> f64 {
    let mut lines = report.lines().filter_map(|line| line.split_once([':', ' ']));
    let found = lines.find(|(known, _)| *known == name);
    let (_, value) = found.unwrap_or_else(|| panic!("{name} is not in {report}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
}

#[test]
fn a_node_whose_log_has_failed_is_not_ready_and_says_why() {
    let control = Control::default();
    let node = with(control.install(builder(SHAPES[1])), "admin", "127.0.0.1:0");
    let node = Node::open(node);
    let admin = node.engine.admin_address().unwrap();
    assert_eq!(page(admin, "/readyz"), (200, "ready\n".to_owned()));
    control.hold_commits();
    let mut client = node.connect();
    client.send(&["SET", "key", "value"]);
    until("the write is applied", || control.applied_count() > 0);
    control.fail_log();
    until("it is not ready", || page(admin, "/readyz").0 == 503);
    let (_, said) = page(admin, "/readyz");
    assert!(said.contains("have failed") && said.contains("no writes"), "{said}");
    assert_eq!(page(admin, "/healthz").0, 200, "it serves reads");
    assert_eq!(node.engine.shutdown(), Ok(()));
}

#[test]
fn the_figures_of_the_logs_are_in_info_and_in_the_metrics() {
    let data = tempfile::tempdir().unwrap();
    let on_disk = with(builder(SHAPES[2]), "data", data.path().to_str().unwrap());
    let on_disk = with(with(on_disk, "segment", "1MiB"), "admin", "127.0.0.1:0");
    let node = Node::open(on_disk.storage("file"));
    let mut client = node.connect();
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
    }
    let report = client.ask("INFO persistence");
    let report = text(&report);
    assert_eq!(figure(&report, "aof_enabled"), 1.0);
    assert_eq!(figure(&report, "rdb_changes_since_last_save"), 100.0);
    assert_eq!(figure(&report, "gridkv_log_records"), 100.0);
    assert!(report.contains("aof_last_write_status:ok\r\n"), "{report}");
    let syncs = figure(&report, "gridkv_log_syncs");
    assert!((5.0..=105.0).contains(&syncs), "{syncs}");
    let disk = figure(&report, "gridkv_log_disk_bytes");
    assert!(disk >= f64::from(5 << 20), "{disk}");

    let (_, metrics) = page(node.engine.admin_address().unwrap(), "/metrics");
    assert_eq!(figure(&metrics, "gridkv_log_records_total"), 100.0);
    assert_eq!(figure(&metrics, "gridkv_log_failed_shards"), 0.0);
    assert_eq!(figure(&metrics, "gridkv_log_full_shards"), 0.0);
    assert_eq!(figure(&metrics, "gridkv_log_damages_total"), 0.0);
    assert!(figure(&metrics, "gridkv_log_sync_seconds_max") > 0.0);
    let amplification = figure(&metrics, "gridkv_log_space_amplification");
    let live = figure(&metrics, "gridkv_log_live_bytes");
    let disk = figure(&metrics, "gridkv_log_disk_bytes");
    assert!((amplification - disk / live).abs() < 0.01, "{metrics}");
    node.stop();
}
