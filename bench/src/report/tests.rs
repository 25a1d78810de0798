use std::time::Duration;

use serde_json::Value;

use super::html::NoteKind;
use super::*;
use crate::cluster::{Done, effects};
use crate::keys::Distribution;
use crate::proc::CpuTime;
use crate::record::Sample;
use crate::record::{Answer, Recorder};
use crate::sweep::knee::{End, Outcome, Point, Reason};
use crate::target::{GeneratorCost, Idle, LoadMemory, Loading, ServerCost};
use crate::timeline::Timeline;
use crate::workload::{Mix, Sizes};
use std::time::Instant;

fn workload() -> Workload {
    Workload {
        name: Some("ycsb-a"),
        key_count: 1000,
        key_sizes: Sizes::Fixed(16),
        value_sizes: Sizes::Fixed(64),
        is_distinct: false,
        mix: Mix::of_reads(0.5),
        commands: Vec::new(),
        distribution: Distribution::Zipfian { theta: 0.99 },
        scan_rows: (1, 100),
        time_to_live: None,
        seed: 1,
    }
}

fn setting() -> Setting {
    let machine = Machine {
        cpu_model: "CPU".to_owned(),
        cpu_count: 2,
        kernel: "6.1".to_owned(),
        load_average: 0.5,
    };
    Setting {
        schema: SCHEMA,
        command: "gridkv-bench run".to_owned(),
        date: "2024-01-01T00:00:00Z".to_owned(),
        machine,
        workload: WorkloadReport::new(&workload()),
        load: LoadReport {
            pace: "closed",
            offered_rate: None,
            arrivals: None,
            connections: Some(50),
            pipeline: Some(1),
            threads: Some(1),
            calls: None,
            batch: None,
            warmup_seconds: 1.0,
            errors_max: 0.0,
        },
    }
}

fn measurement() -> Measurement {
    let timeline = Timeline::new(Instant::now());
    let mut recorder = Recorder::feeding(timeline.feed());
    for micros in 1..=80 {
        let response = Duration::from_micros(micros);
        let sample = Sample { ended_at: timeline.origin(), response, service: None };
        recorder.record_sample(Operation::Get, sample, Answer::Done);
    }
    recorder.flush();
    for _ in 0..20 {
        recorder.record(Operation::Set, Duration::from_micros(100), Answer::Refused);
    }
    recorder.errors.first_error_reply = Some("OOM".to_owned());
    let cpu = CpuTime { user: Duration::from_micros(150), system: Duration::from_micros(50) };
    let window = Duration::from_secs(2);
    Measurement {
        operation_names: workload().operation_names(),
        recorder,
        timeline: timeline.points(window),
        window,
        partial: None,
        server: Some(ServerCost {
            process_ids: vec![42],
            pinned_cpus: [0].into(),
            includes_callers: false,
            cpu,
            cpu_wait: Duration::ZERO,
        }),
        generator: Some(GeneratorCost {
            threads: 1,
            cpus: [1].into(),
            busy_share: 0.25,
            starved_share: 0.0,
        }),
        engine_cpus: Vec::new(),
        latency_stride: 1,
    }
}

fn preparation() -> Preparation {
    Preparation {
        loading: Some(Loading {
            keys: 1000,
            seconds: 0.5,
            rate: 2000.0,
            errors: Errors::default(),
            growth: None,
            memory: Some(LoadMemory::new(1_000_000, 1_180_000, &workload(), Some(true))),
        }),
        idle_connections: Some(Idle {
            connections: 10,
            resident_bytes_before: Some(1000),
            resident_bytes_after: Some(3000),
            bytes_per_connection: Some(200.0),
        }),
    }
}

fn run_report() -> RunReport {
    RunReport {
        setting: setting(),
        target: "resp://host:1".to_owned(),
        preparation: preparation(),
        figures: Figures::new(&measurement()),
    }
}

/// Paths of all fields, those of array elements once.
fn paths(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                paths(value, &format!("{prefix}.{name}"), found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().for_each(|item| paths(item, &format!("{prefix}[]"), found));
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

#[test]
fn figures_are_counted_per_answered_request_and_rates_without_errors() {
    let figures = Figures::new(&measurement());
    assert_eq!(figures.rate, Some(40.0));
    assert_eq!(figures.requests, 80);
    let server = figures.server.unwrap();
    assert_eq!(server.cpu_us_per_request, Some(2.0));
    assert_eq!(server.user_us_per_request, Some(1.5));
    assert_eq!(server.cpus_busy, Some(0.0001));
}

#[test]
fn what_was_not_measured_is_absent() {
    let nothing = Measurement {
        recorder: Recorder::default(),
        window: Duration::ZERO,
        server: None,
        ..measurement()
    };
    let figures = serde_json::to_value(Figures::new(&nothing)).unwrap();
    for field in ["rate", "latency", "latency_service", "send_delay", "server"] {
        assert_eq!(figures[field], Value::Null, "{field}");
    }
}

#[test]
fn overhead_is_growth_beyond_the_payload_of_a_target_that_was_empty() {
    let overhead = |was_empty| {
        LoadMemory::new(1_000_000, 1_180_000, &workload(), was_empty).overhead_bytes_per_key
    };
    assert_eq!(overhead(Some(true)), Some(100.0));
    assert_eq!(overhead(None), Some(100.0));
    assert_eq!(overhead(Some(false)), None);
}

fn fields(report: &impl Serialize) -> Vec<String> {
    let mut found = BTreeSet::new();
    paths(&serde_json::to_value(report).unwrap(), "", &mut found);
    found.into_iter().collect()
}

#[test]
fn the_form_of_the_json_is_stable() {
    assert_fields(&run_report(), "run_fields.txt");
    assert_fields(&compare_report(1), "compare_fields.txt");
}

/// With `UPDATE_EXPECT=1` the file is written anew instead.
fn assert_fields(report: &impl Report, file: &str) {
    let path = format!("{}/src/report/{file}", env!("CARGO_MANIFEST_DIR"));
    let found = fields(&publish::Noted::new(report)).join("\n") + "\n";
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&path).unwrap());
}

/// Of two equal sides.
fn compare_report(pair_count: usize) -> CompareReport {
    let runs = || vec![Figures::new(&measurement()); pair_count];
    CompareReport {
        setting: setting(),
        targets: ["a".to_owned(), "b".to_owned()],
        preparations: [Preparation::default(), Preparation::default()],
        comparison: Comparison::new(runs(), runs(), None),
    }
}

#[test]
fn a_comparison_says_in_words_what_it_can_tell() {
    let words = |pair_count| {
        let table = text::comparison_table(&compare_report(pair_count));
        let line = table.lines().find(|it| it.starts_with("A / B req/s")).unwrap().to_owned();
        line.trim_start_matches("A / B req/s").trim().to_owned()
    };
    let columns = |line: &str| line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(columns(&words(5)), "1.000 1.000 1.000 1.000 1.000 no difference");
    assert_eq!(columns(&words(1)), "1.000 - - 1.000 1.000 too few pairs to tell");
    assert_eq!(columns(&words(0)), "- - - - - not measured");
}

#[test]
fn errors_stand_beside_the_rate() {
    let table = text::run_table(&run_report());
    let line = table.lines().find(|it| it.starts_with("rate")).unwrap();
    let expected = "rate          40 req/s (80 requests in 2.000 s); \
                    ERRORS: 20 error replies, 0 lost connections, 0 unanswered, 0 unsent";
    assert_eq!(line, expected);
    assert!(table.contains("\nfirst error   OOM\n"), "{table}");
}

#[test]
fn response_and_service_time_stand_side_by_side() {
    let mut report = run_report();
    assert!(!text::run_table(&report).contains("response"));
    let latency = report.figures.latency.clone().unwrap();
    report.figures.latency_service = Some(LatencySummary { p99_us: 7.0, ..latency });
    let table = text::run_table(&report);
    for (name, p99) in [("  response", " 100.0 "), ("  service", " 7.000 ")] {
        let line = table.lines().find(|it| it.starts_with(name)).unwrap();
        assert!(line.contains(p99), "{line}");
    }
}

#[test]
fn each_operation_has_a_line_and_the_workload_is_told_in_words() {
    let table = text::run_table(&run_report());
    let names: Vec<&str> = table
        .lines()
        .skip_while(|it| !it.starts_with("latency"))
        .filter(|it| it.starts_with("  "))
        .filter_map(|it| it.split_ascii_whitespace().next())
        .collect();
    assert_eq!(names[..3], ["all", "get", "set"]);
    let expected = "workload      ycsb-a: 50.0000 % get, 50.0000 % set; 1000 keys of 16 B, \
                    zipfian 0.99; values of 64 B; seed 1\n";
    assert!(table.contains(expected), "{table}");
}

#[test]
fn a_partial_result_is_marked() {
    let mut report = run_report();
    assert!(!text::run_table(&report).contains("PARTIAL"));
    report.figures.partial = Some("host died".to_owned());
    assert!(text::run_table(&report).contains("\nPARTIAL       host died\n"));
}

#[test]
fn short_latencies_keep_their_digits() {
    let mut report = run_report();
    report.figures.latency.as_mut().unwrap().p50_us = 0.123;
    let table = text::run_table(&report);
    let line = table.lines().find(|it| it.starts_with("  all")).unwrap();
    assert!(line.contains(" 0.123 "), "{line}");
}

#[test]
fn no_column_of_a_table_runs_into_the_next() {
    let table = text::run_table(&run_report());
    let line = table.lines().find(|it| it.starts_with("  all")).unwrap();
    let cells: Vec<&str> = line.split_ascii_whitespace().collect();
    assert_eq!(cells, ["all", "100", "52.4", "50.0", "100.0", "100.0", "100.0", "100.0", "100.0"]);
}

fn sweep_report() -> SweepReport {
    let knobs: crate::server::Values = [("pipeline".to_owned(), "8".to_owned())].into();
    let point = |offered: f64, p99_9_us: f64| Point {
        offered,
        achieved: offered,
        seconds: 1.0,
        p99_9_us: Some(p99_9_us),
        failed: 0,
        unsent: 0,
        partial: None,
        generator_limit: None,
    };
    SweepReport {
        setting: setting(),
        knobs: vec![KnobReport { name: "pipeline".to_owned(), values: vec!["8".to_owned()] }],
        knee_bound_us: Some(5000.0),
        partial: Some("host died".to_owned()),
        points: vec![PointReport {
            knobs: knobs.clone(),
            target: "resp://host:1".to_owned(),
            offered_rate: Some(1000.0),
            generator_limit: None,
            preparation: preparation(),
            figures: Figures::new(&measurement()),
        }],
        best: None,
        knees: vec![KneeReport {
            knobs,
            points: 1,
            outcome: Outcome {
                end: End::Found,
                knee: Some(point(1000.0, 500.0)),
                failing: Some(point(1050.0, 9000.0)),
                reason: Some(Reason::Latency),
            },
        }],
    }
}

#[test]
fn the_form_of_the_json_of_a_sweep_is_stable() {
    assert_fields(&sweep_report(), "sweep_fields.txt");
}

#[test]
fn the_form_of_the_json_of_a_cluster_is_stable() {
    let figures = Figures::new(&measurement());
    let events = vec![Done { at_seconds: 1.0, what: "kill node 2".to_owned() }];
    let report = ClusterReport {
        setting: setting(),
        nodes: 3,
        replicas: 3,
        consistency: Some("quorum".to_owned()),
        node_options: Vec::new(),
        target: "resp://host:1".to_owned(),
        preparation: preparation(),
        effects: effects::of(&events, &figures.timeline),
        figures,
        events,
    };
    assert_fields(&report, "cluster_fields.txt");
}

#[test]
fn a_sweep_tells_its_knee_and_what_fails_above() {
    let table = text::sweep_table(&sweep_report());
    let end: Vec<&str> = table.lines().rev().take(2).collect();
    assert_eq!(end[1], "knee of pipeline=8: 1000 req/s, p99.9 500.0 us (1 points); measured twice");
    assert_eq!(end[0], "  fails at 1050 req/s: p99.9 9000.0 us");
    assert!(table.contains("\nPARTIAL       host died\n"));
}

#[test]
fn the_best_point_is_one_without_errors() {
    let point = |completed: u64, is_faulty: bool| {
        let mut point = sweep_report().points.remove(0);
        point.figures.rate = Some(completed as f64);
        point.figures.errors = Errors::default();
        point.figures.errors.unsent = u64::from(is_faulty);
        point
    };
    let points = [point(5, false), point(7, false), point(9, true), point(6, false)];
    assert_eq!(SweepReport::best_of(&points), Some(1));
    assert_eq!(SweepReport::best_of(&points[2..3]), None);
}

/// Texts of one kind.
fn notes_of(report: &impl Report, kind: NoteKind) -> Vec<String> {
    let notes = report.notes().into_iter().filter(|it| it.kind == kind);
    notes.map(|it| it.text).filter(|it| !it.contains("built without optimization")).collect()
}

#[test]
fn notes_come_in_order_of_their_weight() {
    let mut report = run_report();
    report.figures.partial = Some("host died".to_owned());
    report.figures.latency_stride = 64;
    let kinds: Vec<NoteKind> = report.notes().iter().map(|it| it.kind).collect();
    assert!(kinds.is_sorted(), "{kinds:?}");
    assert_eq!(notes_of(&report, NoteKind::Partial), ["host died"]);
    let failures = notes_of(&report, NoteKind::Failure);
    assert!(failures[0].contains("20.0000 % of the requests failed"), "{failures:?}");
    let all = notes_of(&report, NoteKind::Information).join("\n");
    for part in ["on one machine", "ticks of 1/", "One request in 64 was timed"] {
        assert!(all.contains(part), "{part}: {all}");
    }
}

#[test]
fn a_run_without_a_flaw_has_no_warning() {
    assert_eq!(notes_of(&run_report(), NoteKind::Warning), Vec::<String>::new());
}

#[test]
fn whatever_distorts_figures_is_a_warning() {
    type Distort = fn(&mut RunReport);
    let distorted: [(&str, Distort); 6] = [
        ("were busy nearly all the time", |it| {
            it.figures.generator.as_mut().unwrap().busy_share = 0.99;
        }),
        ("were kept from their CPUs", |it| {
            it.figures.generator.as_mut().unwrap().starved_share = 0.2;
        }),
        ("pinned to the same CPUs", |it| {
            it.figures.generator.as_mut().unwrap().pinned_cpus = [0].into();
        }),
        ("may have shared a CPU", |it| {
            it.figures.generator.as_mut().unwrap().pinned_cpus.clear();
        }),
        ("waited for CPUs that others used", |it| {
            it.figures.server.as_mut().unwrap().cpus_awaited = Some(0.3);
        }),
        ("were due and never sent", |it| it.figures.errors.unsent = 3),
    ];
    for (words, distort) in distorted {
        let mut report = run_report();
        distort(&mut report);
        let notes = notes_of(&report, NoteKind::Warning);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains(words), "{notes:?}");
    }
}

#[test]
fn an_open_loop_polls_and_warns_only_when_it_sends_late() {
    let mut report = run_report();
    report.setting.load.pace = "open";
    report.figures.generator.as_mut().unwrap().busy_share = 1.0;
    assert_eq!(notes_of(&report, NoteKind::Warning), Vec::<String>::new());
    let latency = report.figures.latency.clone().unwrap();
    report.figures.send_delay = Some(LatencySummary { p90_us: 150.0, ..latency });
    let notes = notes_of(&report, NoteKind::Warning);
    assert!(notes[0].contains("sent late"), "{notes:?}");
}

#[test]
fn keys_that_are_missing_are_told_by_their_cause() {
    let mut report = run_report();
    report.figures.missing_keys = 20;
    assert!(notes_of(&report, NoteKind::Warning)[0].contains("although all were loaded"));
    report.preparation = Preparation::default();
    let notes = notes_of(&report, NoteKind::Warning);
    assert!(notes[0].ends_with("Was --load left out? (25.00 % of requests)"), "{notes:?}");
    report.setting.workload.ttl_seconds = Some((1.0, 2.0));
    assert_eq!(notes_of(&report, NoteKind::Warning), Vec::<String>::new());
    assert!(notes_of(&report, NoteKind::Information).iter().any(|it| it.contains("keys expire")));
}

#[test]
fn what_holds_for_several_runs_is_one_note() {
    let mut report = compare_report(5);
    for run in report.comparison.a.iter_mut().chain(report.comparison.b.first_mut()) {
        run.generator.as_mut().unwrap().busy_share = 0.99;
    }
    let notes = notes_of(&report, NoteKind::Warning);
    assert_eq!(notes.len(), 1, "{notes:?}");
    let end = "(A 1: 99 % busy; A 2: 99 % busy; A 3: 99 % busy; A 4: 99 % busy; and 2 more)";
    assert!(notes[0].ends_with(end), "{notes:?}");
}

#[test]
fn no_line_but_the_command_and_the_errors_is_wider_than_a_terminal() {
    let mut report = compare_report(5);
    report.setting.workload.distribution = "a distribution with many words ".repeat(8);
    for table in [text::comparison_table(&report), text::sweep_table(&sweep_report())] {
        for line in table.lines() {
            assert!(line.len() <= 110, "{}: {line}", line.len());
        }
    }
}
