//! The page of a report, in a browser: it loads, its script runs, and nothing is refused.
//!
//! Without a browser in the path these tests say so and pass, unless `REQUIRE_BROWSER` is set. With
//! `KEEP_PAGE=<file>` the page with everything in it is left there to be looked at.

use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use clap::Parser as _;
use gridkv_bench::cluster::{Done, effects};
use gridkv_bench::options::{Cli, Command};
use gridkv_bench::record::{Answer, Recorder, Sample};
use gridkv_bench::report::html::{
    Axis, Mark, Note, NoteKind, Page, Plot, Scale, Section, Series, SeriesStyle, Table, render,
};
use gridkv_bench::report::{ClusterReport, Figures, Report as _, Setting};
use gridkv_bench::target::{Measurement, Preparation};
use gridkv_bench::timeline::Timeline;
use gridkv_bench::workload::Operation;

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser that does not answer for so long is ended, and the test fails.
const DEADLINE: Duration = Duration::from_secs(120);

const HOSTILE: &str = "-ERR </script><script>throw 1</script> <img src=http://192.0.2.1/x.png onerror='a()'> \"&\u{1b}[31m";

/// What a browser said of a page.
struct Seen {
    dom: String,
    console: Vec<String>,
}

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|directory| BROWSERS.map(|name| directory.join(name)))
        .find(|it| it.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("REQUIRE_BROWSER").is_none(),
            "a browser is required: {BROWSERS:?}"
        );
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            let _ = writeln!(io::stderr(), "SKIPPED: none of {BROWSERS:?} is installed");
        });
    }
    found
}

/// Loads a page and runs its script; `None` where there is no browser.
fn seen(html: &str) -> Option<Seen> {
    let browser = browser()?;
    let directory = tempfile::tempdir().expect("a directory for the page");
    let page = directory.path().join("page.html");
    std::fs::write(&page, html).expect("the page is written");
    let file = |name: &str| std::fs::File::create(directory.path().join(name)).expect("a file");
    let mut child = process::Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--enable-logging=stderr", "--v=0", "--window-size=1200,1600", "--dump-dom"])
        .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stdout(file("dom"))
        .stderr(file("log"))
        .spawn()
        .expect("the browser starts");
    wait(&mut child);
    let text = |name: &str| {
        let bytes = std::fs::read(directory.path().join(name)).expect("what the browser wrote");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (dom, log) = (text("dom"), text("log"));
    assert!(dom.contains("<html"), "the browser showed nothing: {log}");
    let console = log.lines().filter(|it| it.contains("CONSOLE")).map(str::to_owned).collect();
    Some(Seen { dom, console })
}

fn wait(child: &mut Child) {
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().expect("a child of this process").is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the browser did not end within {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a reader would miss, or a browser refused.
fn faults(seen: &Seen, plot_count: usize) -> Vec<String> {
    let mut faults = seen.console.clone();
    // Styles and scripts have these words, too: only what stands in a tag counts.
    if !seen.dom.contains("<html lang=\"en\" data-ready=\"\">") {
        faults.push("the script did not run to its end".to_owned());
    }
    let drawn = seen.dom.matches(" role=\"img\"").count();
    if drawn != plot_count {
        faults.push(format!("{drawn} plots of {plot_count}"));
    }
    faults
}

/// The page with a script more, which the policy admits.
fn with_script(html: &str, script: &str) -> String {
    let nonce = html.split("nonce=\"").nth(1).and_then(|it| it.split('"').next());
    let nonce = nonce.expect("the page has a nonce");
    html.replace("</body>", &format!("<script nonce=\"{nonce}\">{script}</script></body>"))
}

fn axis(label: &str, unit: &str, scale: Scale) -> Axis {
    Axis { label: label.to_owned(), unit: unit.to_owned(), scale }
}

fn series(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.to_owned(), points, style: SeriesStyle::Solid }
}

fn mark(at: f64, label: &str) -> Mark {
    Mark { at, label: label.to_owned() }
}

/// A rate that falls with each fault, with a gap where nothing was measured.
fn time_line() -> Plot {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut line = |base: f64| -> Vec<(f64, f64)> {
        let dip = |second: f64| if (30.0..36.0).contains(&second) { 0.2 } else { 1.0 };
        let rate = |second: f64, noise: f64| base * dip(second) * (0.95 + 0.1 * noise);
        (0..600).map(|it| f64::from(it) / 5.0).map(|it| (it, rate(it, rng.f64()))).collect()
    };
    let mut reads = line(1.1e6);
    reads[350..360].iter_mut().for_each(|it| it.1 = f64::NAN);
    Plot {
        title: "Answered requests over time, with faults".to_owned(),
        x: axis("time", "s", Scale::Linear),
        y: axis("rate", "req/s", Scale::Linear),
        series: vec![series("reads", reads), series("writes", line(3.5e5))],
        marks: vec![
            mark(30.0, "node 2 is killed"),
            mark(32.0, "node 2 is suspected"),
            mark(33.5, "node 2 is dead"),
            mark(36.0, "its ranges are served by others"),
            mark(80.0, "node 2 is started again"),
            mark(119.0, "the load ends"),
        ],
    }
}

fn percentiles() -> Plot {
    let quantiles: Vec<f64> = (0..60).map(|it| 1.0 - 0.5_f64.powf(f64::from(it) / 3.0)).collect();
    let line = |base: f64, tail: f64| {
        let latency = |it: &f64| (*it, base * (1.0 / (1.0 - it)).powf(tail));
        quantiles.iter().map(latency).chain([(1.0, 1e9)]).collect()
    };
    let mut late = series("sent late by", line(0.01, 0.2));
    late.style = SeriesStyle::Dashed;
    Plot {
        title: "Latency by percentile".to_owned(),
        x: axis("percentile", "", Scale::Percentile),
        y: axis("latency", "ms", Scale::Log),
        series: vec![series("get", line(0.09, 0.25)), series("set", line(0.2, 0.4)), late],
        marks: vec![],
    }
}

fn rates() -> Plot {
    let offered = [5e4, 1e5, 2e5, 3e5, 4e5, 5e5, 5.5e5, 6e5];
    let line = |limit: f64| {
        let latency = |it: &f64| (*it, 0.2 / (1.0 - it / limit).max(0.004));
        offered.iter().map(latency).collect()
    };
    let names =
        ["p50", "p90", "p99", "p99.9", "p99.99", "max", "p50 of the other", "p99 of the other"];
    let limits = [9e5, 8e5, 7e5, 6.6e5, 6.2e5, 5.8e5, 5.2e5, 4.5e5];
    Plot {
        title: "Latency at offered rates".to_owned(),
        x: axis("offered rate", "req/s", Scale::Linear),
        y: axis("latency", "ms", Scale::Log),
        series: names.iter().zip(limits).map(|(name, limit)| series(name, line(limit))).collect(),
        marks: vec![mark(5.5e5, "knee")],
    }
}

fn hostile_plot() -> Plot {
    let odd = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e-300, 1e300, f64::MAX, 0.5];
    let points = odd.iter().flat_map(|&x| odd.iter().map(move |&y| (x, y))).collect();
    Plot {
        title: HOSTILE.to_owned(),
        x: axis(HOSTILE, HOSTILE, Scale::Log),
        y: axis(HOSTILE, HOSTILE, Scale::Linear),
        series: vec![series(HOSTILE, points), series("nothing", Vec::new())],
        marks: (0..20).map(|it| mark(10_f64.powi(it), HOSTILE)).collect(),
    }
}

fn tables() -> [Table; 2] {
    let words = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let header =
        words(&["latency (ms)", "count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
    let rows = vec![
        words(&[
            "get",
            "12 345 678",
            "0.104",
            "0.091",
            "0.152",
            "0.287",
            "0.801",
            "2.113",
            "9.420",
        ]),
        words(&["set", "1 234 567", "0.251", "0.200", "0.402", "1.201", "3.007", "8.114", "21.01"]),
        words(&[HOSTILE, "-"]),
    ];
    let full = Table { caption: "Latencies".to_owned(), header: header.clone(), rows };
    [full, Table { caption: "Nothing".to_owned(), header, rows: Vec::new() }]
}

/// Every kind of section, and every kind of value.
fn everything() -> Page {
    let note = |kind, text: &str| Note { kind, text: text.to_owned() };
    let fact = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let [full, empty] = tables();
    let nothing = Plot { series: Vec::new(), title: "A plot of nothing".to_owned(), ..rates() };
    let heading = |it: &str| Section::Heading(it.to_owned());
    Page {
        title: "GridKV under load".to_owned(),
        command: "gridkv-bench run --target resp:127.0.0.1:6379 --keys 1000000 --reads 0.9 --rate 500000 --connections 64 --pipeline 8 --html report.html".to_owned(),
        date: "2026-01-02T03:04:05Z".to_owned(),
        facts: vec![
            fact("machine", "a CPU of some make, 16 CPUs, Linux 6.1, load average 0.12"),
            fact("workload", "90 % GET, others SET; 1000000 keys of 16 B, zipfian 0.99; values of 64 to 1024 B; seed 42"),
            fact("first error", HOSTILE),
        ],
        notes: vec![
            note(NoteKind::Information, "One request in 16 was timed."),
            note(NoteKind::Warning, "Load threads were busy for 97 % of the time: they may be what was measured."),
            note(NoteKind::Failure, HOSTILE),
        ],
        sections: vec![
            heading("Over time"),
            Section::Text("Each point is a fifth of a second.\nGaps are where nothing was measured.".to_owned()),
            Section::Plot(time_line()),
            heading("Latencies"),
            Section::Table(full),
            Section::Table(empty),
            Section::Plot(percentiles()),
            Section::Plot(rates()),
            heading(HOSTILE),
            Section::Text(HOSTILE.to_owned()),
            Section::Plot(hostile_plot()),
            Section::Plot(nothing),
        ],
    }
}

/// Of the plots of [`everything`], those with something to draw.
const DRAWN_COUNT: usize = 4;

#[test]
fn a_page_with_everything_loads_without_a_complaint() {
    let html = render(&everything());
    if let Some(path) = std::env::var_os("KEEP_PAGE") {
        std::fs::write(Path::new(&path), &html).unwrap();
    }
    let Some(seen) = seen(&html) else { return };
    assert_eq!(faults(&seen, DRAWN_COUNT), Vec::<String>::new());
    assert!(seen.dom.contains("no data"));
}

#[test]
fn a_script_that_throws_is_noticed() {
    let html = render(&everything());
    let thrown = with_script(&html, "throw new Error('on purpose')");
    let Some(seen) = seen(&thrown) else { return };
    let faults = faults(&seen, DRAWN_COUNT);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("on purpose"));
}

#[test]
fn a_script_that_ends_early_is_noticed() {
    let html = render(&everything());
    let broken = html.replacen("\"use strict\";", "throw new Error('on purpose');", 1);
    let Some(seen) = seen(&broken) else { return };
    let faults = faults(&seen, DRAWN_COUNT);
    assert!(faults.iter().any(|it| it.contains("did not run")), "{faults:?}");
}

#[test]
fn what_the_policy_refuses_is_noticed() {
    let html = render(&everything());
    for smuggled in [
        "<img src=\"http://192.0.2.1/x.png\" alt=\"\">",
        "<script>document.title = 'taken'</script>",
        "<p style=\"color: red\">red</p>",
    ] {
        let Some(seen) = seen(&html.replace("<main>", &format!("<main>{smuggled}"))) else {
            return;
        };
        let faults = faults(&seen, DRAWN_COUNT);
        assert!(faults.iter().any(|it| it.contains("Content Security Policy")), "{faults:?}");
        assert!(!seen.dom.contains("taken</title>"));
    }
}

#[test]
fn a_plot_that_is_missing_is_noticed() {
    let mut page = everything();
    page.sections.retain(|it| !matches!(it, Section::Plot(plot) if plot.title.contains("time")));
    let Some(seen) = seen(&render(&page)) else { return };
    assert_eq!(faults(&seen, DRAWN_COUNT), ["3 plots of 4"]);
}

#[test]
fn values_show_under_the_pointer_and_by_key() {
    let script = "
        const canvas = document.querySelector('.canvas');
        const box = canvas.querySelector('svg').getBoundingClientRect();
        canvas.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + box.width / 2 }));
        const tip = document.querySelector('.tip');
        const shown = tip.innerText.replace(/\\s+/g, ' ');
        canvas.dispatchEvent(new KeyboardEvent('keydown', { key: 'Home' }));
        const first = tip.querySelector('caption').innerText;
        canvas.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
        const second = tip.querySelector('caption').innerText;
        canvas.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }));
        document.title = [shown, first, second, tip.hidden].join('; ');";
    let Some(seen) = seen(&with_script(&render(&everything()), script)) else { return };
    assert_eq!(faults(&seen, DRAWN_COUNT), Vec::<String>::new());
    let title = seen.dom.split("<title>").nth(1).and_then(|it| it.split("</title>").next());
    let title = title.unwrap();
    let parts: Vec<&str> = title.split("; ").collect();
    assert!(parts[0].starts_with("time 5") || parts[0].starts_with("time 6"), "{title}");
    assert!(parts[0].contains("reads 1.1") || parts[0].contains("reads 1.0"), "{title}");
    assert!(parts[0].contains("M req/s writes 3"), "{title}");
    assert_eq!(parts[1..], ["time 0 s", "time 0.2 s", "true"], "{title}");
}

#[test]
fn no_label_of_a_plot_covers_another() {
    let script = "
        const covered = [];
        for (const svg of document.querySelectorAll('.canvas svg')) {
          const labels = [...svg.querySelectorAll('text')];
          labels.forEach((a, index) => labels.slice(0, index).forEach((b) => {
            const p = a.getBBox(), q = b.getBBox();
            const across = Math.min(p.x + p.width, q.x + q.width) - Math.max(p.x, q.x);
            const up = Math.min(p.y + p.height, q.y + q.height) - Math.max(p.y, q.y);
            if (across > 0 && up > 2) covered.push(a.textContent + ' on ' + b.textContent);
          }));
        }
        document.title = covered.length + ' covered: ' + covered.join('; ');";
    let Some(seen) = seen(&with_script(&render(&everything()), script)) else { return };
    let title = seen.dom.split("<title>").nth(1).and_then(|it| it.split("</title>").next());
    assert_eq!(title, Some("0 covered: "));
}

/// A server of this program, stopped in the end.
struct Responder {
    child: Child,
    address: String,
}

impl Responder {
    fn start() -> Self {
        let mut child = process::Command::new(env!("CARGO_BIN_EXE_gridkv-bench"))
            .args(["respond", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the responder starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("its output is a pipe");
        io::BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().trim_start_matches("listening at ").to_owned();
        Self { child, address: format!("resp://{address}") }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The page of a short run of the program.
fn page_of(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a directory for the page");
    let page = directory.path().join("page.html");
    let output = process::Command::new(env!("CARGO_BIN_EXE_gridkv-bench"))
        .args(arguments)
        .args(["--keys", "1000", "--warmup", "50ms"])
        .args(["--html".as_ref(), page.as_os_str()])
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    std::fs::read_to_string(&page).unwrap_or_else(|_| panic!("no page: {stderr}"))
}

/// A page with its plots loads without a complaint, and has these words.
fn assert_page(html: &str, plot_titles: &[&str], words: &[&str]) {
    let Some(seen) = seen(html) else { return };
    assert_eq!(faults(&seen, plot_titles.len()), Vec::<String>::new());
    assert!(!seen.dom.contains("class=\"empty\""), "a plot of nothing");
    for title in plot_titles {
        assert!(seen.dom.contains(&format!("<figcaption>{title}</figcaption>")), "{title}");
    }
    for words in words {
        assert!(seen.dom.contains(words), "{words}");
    }
}

const RUN_PLOTS: [&str; 4] =
    ["All requests", "Each operation", "Answered requests over time", "Latency over time"];

#[test]
fn the_page_of_a_run_loads() {
    let html = page_of(&["run", "in-core", "--duration", "300ms"]);
    assert_page(&html, &RUN_PLOTS, &["The engine ran in this process", "One request in 64"]);
}

#[test]
fn the_page_of_an_open_loop_shows_service_time() {
    let responder = Responder::start();
    let html = page_of(&["run", &responder.address, "--rate", "2000", "--duration", "300ms"]);
    let words = ["service time, from the actual start", "sent late by", "Client and server"];
    assert_page(&html, &RUN_PLOTS, &words);
}

#[test]
fn the_page_of_a_comparison_loads() {
    let responder = Responder::start();
    let html =
        page_of(&["compare", "in-core", &responder.address, "--pairs", "5", "--duration", "200ms"]);
    let plots = [
        "Latency by percentile, all runs of a side together",
        "Rate of each pair",
        "p99 of each pair",
        "A divided by B within each pair",
        "Answered requests over time, of the run of the median rate",
    ];
    assert_page(&html, &plots, &["A: in-core", "B: resp://127.0.0.1:", "A / B req/s"]);
}

#[test]
fn the_page_of_a_sweep_loads() {
    let responder = Responder::start();
    let sweep = ["sweep", &responder.address, "--duration", "50ms", "--knob", "pipeline=1,16"];
    let plots = ["Rate by pipeline", "Latency by pipeline", "CPU time of the server by pipeline"];
    let throughput = "p99 over the achieved rate";
    let html = page_of(&sweep);
    assert_page(&html, &[&plots[..], &[throughput]].concat(), &["best"]);

    let two = page_of(&[&sweep[..], &["--knob", "connections=1,2"]].concat());
    let plots = ["Rate by", "p50 by", "p99 by", "p99.9 by", "CPU time of the server by"];
    let plots = plots.map(|it| format!("{it} pipeline"));
    let plots: Vec<&str> = plots.iter().map(String::as_str).chain([throughput]).collect();
    assert_page(&two, &plots, &["connections=1", "connections=2"]);
}

#[test]
fn the_page_of_a_search_for_a_knee_loads() {
    let responder = Responder::start();
    let knee = ["--knee", "1s", "--knee-start", "500", "--knee-precision", "1"];
    // So slow a rate that few points are needed before connections or the generator limit it.
    let sweep = ["sweep", &responder.address, "--duration", "50ms", "--connections", "1"];
    let html = page_of(&[&sweep[..], &knee].concat());
    let plots = ["p99.9 at offered rates", "Achieved at offered rates"];
    assert_page(&html, &plots, &["bound", "knee"]);
}

/// A cluster whose second node was away for half a second.
fn cluster_report() -> ClusterReport {
    let line = ["gridkv-bench", "cluster", "--fault", "500ms:kill:2", "--fault", "1s:restart:2"];
    let Command::Cluster(options) = Cli::parse_from(line).command else { unreachable!() };
    let timeline = Timeline::new(Instant::now());
    let mut recorder = Recorder::feeding(timeline.feed());
    for index in 0..2000_u64 {
        let is_away = (500..1000).contains(&index);
        let answer = if is_away { Answer::Unanswered } else { Answer::Done };
        let response = Duration::from_micros(if is_away { 90_000 } else { 200 + index % 7 });
        let ended_at = timeline.origin() + Duration::from_millis(index);
        recorder.record_sample(
            Operation::Get,
            Sample { ended_at, response, service: None },
            answer,
        );
    }
    recorder.flush();
    let window = Duration::from_secs(2);
    let figures = Figures::new(&Measurement {
        operation_names: vec!["get".to_owned()],
        recorder,
        timeline: timeline.points(window),
        window,
        partial: None,
        server: None,
        generator: None,
        engine_cpus: Vec::new(),
        latency_stride: 1,
    });
    let done = |at_seconds, what: &str| Done { at_seconds, what: what.to_owned() };
    let events = vec![done(0.5, "kill node 2"), done(1.0, "restart node 2")];
    let workload = options.measure.workload.workload().expect("the defaults are a workload");
    ClusterReport {
        setting: Setting::observe(line.join(" "), &workload, &options.measure, &[]),
        nodes: options.nodes,
        replicas: options.replica_count(),
        consistency: None,
        node_options: vec!["--durability".to_owned(), "none".to_owned()],
        target: "resp://127.0.0.1:1,127.0.0.1:2".to_owned(),
        preparation: Preparation::default(),
        effects: effects::of(&events, &figures.timeline),
        figures,
        events,
    }
}

#[test]
fn the_page_of_a_cluster_loads() {
    let html = render(&cluster_report().page());
    let plots = [
        "All requests",
        "Answered requests over time",
        "Latency over time",
        "Requests refused or given up over time",
    ];
    let words = ["kill node 2</text>", "restart node 2</th>", "--durability none", "All nodes"];
    assert_page(&html, &plots, &words);
}
