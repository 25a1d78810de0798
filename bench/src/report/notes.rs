//! What a reader must know before the figures: one list for the table, the page and the JSON.
//!
//! What holds for several runs of a report is one note, which names them.

use super::html::{Note, NoteKind};
use super::{ClusterReport, CompareReport, Figures, RunReport, Setting, SweepReport};
use crate::sweep::knee::End;
use crate::target::Preparation;

/// Load threads of a closed loop that are busy for so much of the time may be what was measured.
const BUSY_SHARE_MAX: f64 = 0.95;

/// Others disturb when threads could have run for more than this share of the time, and were not let.
const WAIT_SHARE_MAX: f64 = 0.05;

/// Threads of an open loop that are busy all the time, and send a tenth of their requests later than
/// this, are late by their own fault: beside a target that is too slow they would sleep.
const LATE_US_MAX: f64 = 100.0;

/// Below so many seconds, CPU time in steps of a clock tick has not even two digits.
const CPU_SECONDS_MIN: f64 = 1.0;

/// A note names no more runs than this.
const LABELS_MAX: usize = 4;

/// A measurement of a report.
struct Run<'a> {
    /// What it is called beside others.
    label: String,
    figures: &'a Figures,
    preparation: &'a Preparation,
    /// How the generator was at its limit, where a search has told.
    generator_limit: Option<&'a str>,
}

/// Something about one run.
struct Finding {
    kind: NoteKind,
    /// The same words for all runs it holds for.
    text: String,
    /// What differs between runs.
    detail: Option<String>,
}

pub(super) fn run(report: &RunReport) -> Vec<Note> {
    let run = Run {
        label: String::new(),
        figures: &report.figures,
        preparation: &report.preparation,
        generator_limit: None,
    };
    all(&report.setting, None, &[run], true)
}

pub(super) fn cluster(report: &ClusterReport) -> Vec<Note> {
    let run = Run {
        label: String::new(),
        figures: &report.figures,
        preparation: &report.preparation,
        generator_limit: None,
    };
    let mut notes = all(&report.setting, None, &[run], true);
    let text = "All nodes shared the processors and the disk of this machine with one another and \
                with the load. A cluster of machines of their own has other figures.";
    notes.push(Note { kind: NoteKind::Information, text: text.to_owned() });
    notes
}

pub(super) fn compare(report: &CompareReport) -> Vec<Note> {
    let comparison = &report.comparison;
    let sides = [("A", &comparison.a), ("B", &comparison.b)];
    let runs =
        sides.into_iter().zip(&report.preparations).flat_map(|((side, runs), preparation)| {
            runs.iter().enumerate().map(move |(index, figures)| Run {
                label: format!("{side} {}", index + 1),
                figures,
                preparation,
                generator_limit: None,
            })
        });
    all(&report.setting, comparison.partial.as_deref(), &runs.collect::<Vec<_>>(), true)
}

pub(super) fn sweep(report: &SweepReport) -> Vec<Note> {
    let runs = report.points.iter().enumerate().map(|(index, point)| Run {
        label: format!("point {}", index + 1),
        figures: &point.figures,
        preparation: &point.preparation,
        generator_limit: point.generator_limit.as_deref(),
    });
    // A search goes on until requests fail: what it found is told with the knee.
    let is_search = report.knee_bound_us.is_some();
    let runs: Vec<Run<'_>> = runs.collect();
    let mut notes = all(&report.setting, report.partial.as_deref(), &runs, !is_search);
    if report.knees.iter().any(|it| it.outcome.end == End::GeneratorLimit) {
        let text = "A search ended at the limit of the generator, not of the target: of higher rates \
                    nothing is known.";
        notes.push(Note { kind: NoteKind::Warning, text: text.to_owned() });
    }
    notes.sort_by_key(|it| it.kind);
    notes
}

/// A run that something holds for, and what it is there.
type Place<'a> = (&'a str, Option<String>);

/// The notes of all runs, the worst first.
fn all(
    setting: &Setting,
    partial: Option<&str>,
    runs: &[Run<'_>],
    errors_matter: bool,
) -> Vec<Note> {
    let told = |reason: &&str| !runs.iter().any(|it| it.figures.partial.as_deref() == Some(reason));
    let mut notes: Vec<Note> = partial
        .filter(told)
        .map(|it| Note { kind: NoteKind::Partial, text: it.to_owned() })
        .into_iter()
        .collect();
    let mut gathered: Vec<(Finding, Vec<Place<'_>>)> = Vec::new();
    for run in runs {
        for mut finding in findings(setting, run, errors_matter) {
            let detail = finding.detail.take();
            match gathered.iter_mut().find(|it| it.0.text == finding.text) {
                Some((_, places)) => places.push((&run.label, detail)),
                None => gathered.push((finding, vec![(&run.label, detail)])),
            }
        }
    }
    notes.extend(gathered.into_iter().map(|(finding, places)| Note {
        kind: finding.kind,
        text: with_places(finding.text, &places, runs.len()),
    }));
    if cfg!(debug_assertions) {
        let text = "This program was built without optimization: it and an engine in it are far \
                    slower than a release build.";
        notes.push(Note { kind: NoteKind::Warning, text: text.to_owned() });
    }
    notes.sort_by_key(|it| it.kind);
    notes
}

/// A text with the runs it holds for, unless that is all of them, and what differs between them.
fn with_places(text: String, places: &[Place<'_>], run_count: usize) -> String {
    let is_everywhere = places.len() == run_count;
    let words = places.iter().filter_map(|(label, detail)| match detail {
        None if is_everywhere => None,
        None => Some((*label).to_owned()),
        Some(detail) if label.is_empty() => Some(detail.clone()),
        Some(detail) => Some(format!("{label}: {detail}")),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        return text;
    }
    let rest = words.len().saturating_sub(LABELS_MAX);
    let rest = if rest > 0 { format!("; and {rest} more") } else { String::new() };
    format!("{text} ({}{rest})", words[..words.len().min(LABELS_MAX)].join("; "))
}

fn findings(setting: &Setting, run: &Run<'_>, errors_matter: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let figures = run.figures;
    if let Some(reason) = &figures.partial {
        found.push(Finding { kind: NoteKind::Partial, text: reason.clone(), detail: None });
    }
    if errors_matter && let Some(detail) = figures.too_many_errors(setting.load.errors_max) {
        let text = "More requests failed than are allowed to: the figures are not to be relied on.";
        found.push(finding(NoteKind::Failure, text, Some(detail)));
    }
    if figures.errors.unsent > 0 {
        let text = "Requests were due and never sent, as the target was behind; how long they \
                    waited is among the latencies.";
        let detail = format!("{} requests", figures.errors.unsent);
        found.push(finding(NoteKind::Warning, text, Some(detail)));
    }
    found.extend(generator(setting, run));
    found.extend(neighbours(setting, figures));
    found.extend(missing(setting, run));
    found.extend(precision(figures));
    found
}

fn finding(kind: NoteKind, text: &str, detail: Option<String>) -> Finding {
    Finding { kind, text: text.to_owned(), detail }
}

/// Whether the generator is what was measured.
fn generator(setting: &Setting, run: &Run<'_>) -> Vec<Finding> {
    let Some(generator) = &run.figures.generator else { return Vec::new() };
    let mut found = Vec::new();
    let warning = |text: &str, detail| finding(NoteKind::Warning, text, Some(detail));
    let is_busy = generator.busy_share > BUSY_SHARE_MAX;
    let late = run.figures.send_delay.as_ref().map_or(0.0, |it| it.p90_us);
    // Without calls from one to the other, generator and engine are one thread.
    let is_engine = run.figures.server.is_none() && !run.figures.engine_cpus.is_empty();
    if setting.load.pace == "closed" && is_busy && !is_engine {
        let text = "The load threads were busy nearly all the time: they, and not the target, may \
                    be what was measured. More --threads on CPUs of their own tell.";
        found.push(warning(text, format!("{:.0} % busy", generator.busy_share * 100.0)));
    }
    if let Some(limit) = run.generator_limit {
        let text = "The generator was at its limit: latencies are partly its own.";
        found.push(warning(text, limit.to_owned()));
        return found;
    }
    if setting.load.pace == "open" && is_busy && late > LATE_US_MAX {
        let text = "The load threads were busy all the time and sent late: latencies are partly \
                    their own. More --threads on CPUs of their own help.";
        found.push(warning(text, format!("one request in ten {late:.0} us late or more")));
    }
    if generator.starved_share > WAIT_SHARE_MAX {
        let text = "The load threads were kept from their CPUs by other threads for a part of the \
                    time: the figures are those of a machine that was disturbed.";
        let detail = format!("{:.0} %", generator.starved_share * 100.0);
        found.push(warning(text, detail));
    }
    found
}

/// Who else was on the CPUs.
fn neighbours(setting: &Setting, figures: &Figures) -> Vec<Finding> {
    let mut found = Vec::new();
    if !figures.engine_cpus.is_empty() {
        let text = "The engine ran in this process: no socket, no protocol, no network.";
        found.push(finding(NoteKind::Information, text, None));
    }
    let Some(server) = &figures.server else { return found };
    if let Some(generator) = figures.generator.as_ref().filter(|_| !server.includes_callers) {
        let shared: Vec<_> = server.pinned_cpus.intersection(&generator.pinned_cpus).collect();
        let is_free = server.pinned_cpus.is_empty() || generator.pinned_cpus.is_empty();
        let busy = server.cpus_busy.unwrap_or(0.0).ceil().max(1.0);
        let is_full = generator.threads as f64 + busy >= setting.machine.cpu_count as f64;
        if !shared.is_empty() {
            let cpus = super::words::list(shared);
            let text = "Load threads and server were pinned to the same CPUs: each took from the \
                        other.";
            found.push(finding(NoteKind::Warning, text, Some(format!("CPU {cpus}"))));
        } else if is_free && is_full {
            let text = format!(
                "Load threads and server may have shared a CPU: not both are pinned, and {} CPUs \
                 leave none to spare. --client-cpus and --server-cpus keep them apart.",
                setting.machine.cpu_count
            );
            found.push(finding(NoteKind::Warning, &text, None));
        }
    }
    if let Some(awaited) = server.cpus_awaited.filter(|it| *it > WAIT_SHARE_MAX) {
        let text = "The server's threads waited for CPUs that others used: the figures are those of \
                    a machine that was disturbed.";
        found.push(finding(NoteKind::Warning, text, Some(format!("{awaited:.2} CPUs awaited"))));
    }
    if !server.includes_callers {
        let text = "Client and server were on one machine: they shared its caches and its memory \
                    bandwidth, and no network was between them.";
        found.push(finding(NoteKind::Information, text, None));
    }
    found
}

fn missing(setting: &Setting, run: &Run<'_>) -> Option<Finding> {
    let figures = run.figures;
    if figures.missing_keys == 0 {
        return None;
    }
    let workload = &setting.workload;
    let goes_away =
        workload.ttl_seconds.is_some() || workload.mix.iter().any(|it| it.operation == "delete");
    let (kind, text) = if goes_away {
        (NoteKind::Information, "Some requests found no key, as keys expire or are deleted.")
    } else if run.preparation.loading.is_some() {
        let text = "Requests found no key although all were loaded: the target does not keep them, \
                    or no longer.";
        (NoteKind::Warning, text)
    } else {
        let text = "Requests found no key, which costs a target less than to find one. Was --load \
                    left out?";
        (NoteKind::Warning, text)
    };
    let share = figures.missing_keys as f64 / figures.requests.max(1) as f64 * 100.0;
    let detail = format!("{share:.2} % of requests");
    Some(finding(kind, text, Some(detail)))
}

/// How exact the figures are.
fn precision(figures: &Figures) -> Vec<Finding> {
    let mut found = Vec::new();
    if figures.latency_stride > 1 {
        let text = format!("One request in {} was timed.", figures.latency_stride);
        found.push(finding(NoteKind::Information, &text, None));
    }
    match &figures.server {
        None if figures.engine_cpus.is_empty() => {
            let text = "The server's CPU time was not measured: its process is not to be seen \
                        here, or gone.";
            found.push(finding(NoteKind::Information, text, None));
        }
        Some(server) => {
            let seconds = server.cpus_busy.unwrap_or(0.0) * figures.seconds;
            if seconds < CPU_SECONDS_MIN {
                let text = format!(
                    "CPU time is counted in ticks of 1/{} s, and there was little of it: CPU time \
                     per request is coarse.",
                    rustix::param::clock_ticks_per_second()
                );
                found.push(finding(NoteKind::Information, &text, Some(format!("{seconds:.2} s"))));
            }
        }
        None => {}
    }
    found
}
