//! The page of a report, in a browser: it loads, its script runs, and nothing is refused.
//!
//! Without a browser in the path these tests say so and pass, unless `REQUIRE_BROWSER` is set. With
//! `KEEP_PAGE=<file>` the page with everything in it is left there to be looked at.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use gridkv_bench::report::html::{
    Axis, Mark, Note, NoteKind, Page, Plot, Scale, Section, Series, SeriesStyle, Table, render,
};

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
    let mut child = Command::new(browser)
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
