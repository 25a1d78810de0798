//! What a knob changes.
//!
//! A knob may change more than one thing: `connections` those of the client, and a command line that
//! has `{connections}`. One that changes nothing is refused.

use std::collections::BTreeSet;

use clap::Parser;

use crate::options::{CallStyle, EngineSetting, MeasureOptions, TargetName};

/// Those that the client has.
const CLIENT_KNOBS: [&str; 7] =
    ["pipeline", "connections", "threads", "value-size", "keys", "rate", "batch"];

/// Says that `name` changes something about `target`.
///
/// # Errors
///
/// A sentence, when it does not.
pub(super) fn check(
    name: &str,
    target: &TargetName,
    measure: &MeasureOptions,
    placeholders: &BTreeSet<String>,
) -> Result<(), String> {
    let is_resp = matches!(target, TargetName::Remote(_));
    let is_in_core = *target == TargetName::InCore;
    let batches = is_resp || (!is_in_core && measure.engine.calls != CallStyle::Blocking);
    let keeps_files =
        measure.engine.settings.iter().any(|it| it.name == "storage" && it.value != "memory");
    let lacks = match name {
        _ if placeholders.contains(name) => return Ok(()),
        "pipeline" if !batches => "needs --calls async or batch, or a server",
        "connections" if !is_resp => "needs a server",
        "threads" if is_in_core => "needs a server, or the target embedded",
        "rate" if is_in_core => "needs an open loop, which there is not in a core",
        "batch" if !is_in_core => "needs the target in-core",
        "cores" | "durability" if is_resp => {
            return Err(format!("--knob {name} needs the placeholder {{{name}}} in a command"));
        }
        "cores" if measure.engine.cpus.is_some() => "cannot be used with --cpus",
        "durability" if !keeps_files => "needs an --engine storage= that keeps files",
        "consistency" if !is_resp => "needs a server that speaks RESP",
        "cores" | "durability" | "consistency" => return Ok(()),
        name if CLIENT_KNOBS.contains(&name) => return Ok(()),
        _ => {
            let known = CLIENT_KNOBS.join(", ");
            return Err(format!(
                "unknown knob {name}: known are {known}, cores, durability, consistency, and the \
                 placeholders of a command"
            ));
        }
    };
    Err(format!("--knob {name} has no effect on {target}: it {lacks}"))
}

/// The options of the client, to read one of them as the command line does.
#[derive(Parser)]
struct ClientOptions {
    #[command(flatten)]
    measure: MeasureOptions,
}

/// Gives a knob a value, as far as that changes how a target is loaded.
///
/// # Errors
///
/// A sentence, when it cannot have this value.
pub(super) fn apply(name: &str, value: &str, measure: &mut MeasureOptions) -> Result<(), String> {
    if name == "durability" {
        let setting = EngineSetting { name: name.to_owned(), value: value.to_owned() };
        measure.engine.settings.retain(|it| it.name != name);
        measure.engine.settings.push(setting);
    }
    if !CLIENT_KNOBS.contains(&name) && name != "cores" {
        return Ok(());
    }
    let argument = format!("--{name}={value}");
    let read = ClientOptions::try_parse_from(["knob", &argument]).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        format!("--knob {name}: {}", line.trim_start_matches("error: "))
    })?;
    let read = read.measure;
    match name {
        "pipeline" => measure.pipeline = read.pipeline,
        "connections" => measure.connections = read.connections,
        "threads" => measure.threads = read.threads,
        "value-size" => measure.workload.value_size = read.workload.value_size,
        "keys" => measure.workload.keys = read.workload.keys,
        "rate" => measure.rate = read.rate,
        "batch" => measure.engine.batch = read.engine.batch,
        _ => measure.engine.cores = read.engine.cores,
    }
    Ok(())
}

/// The target, asked at a level of consistency.
pub(super) fn with_consistency(target: TargetName, level: &str) -> TargetName {
    let TargetName::Remote(text) = target else { return target };
    let (address, query) = text.split_once('?').unwrap_or((&text, ""));
    let others = query.split('&').filter(|it| !it.is_empty() && !it.starts_with("consistency="));
    let mut query: Vec<String> = others.map(str::to_owned).collect();
    query.push(format!("consistency={level}"));
    TargetName::Remote(format!("{address}?{}", query.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parse_measure;

    fn resp(text: &str) -> TargetName {
        TargetName::Remote(format!("resp://{text}"))
    }

    #[test]
    fn a_knob_changes_the_option_of_its_name() {
        let mut measure = parse_measure("resp://h:1", "--connections 3 --engine durability=none");
        for (name, value) in [
            ("pipeline", "7"),
            ("threads", "2"),
            ("value-size", "16-32"),
            ("keys", "500"),
            ("rate", "1e3"),
            ("batch", "9"),
            ("cores", "4"),
            ("durability", "commit"),
            ("io-threads", "5"),
        ] {
            apply(name, value, &mut measure).unwrap();
        }
        let engine = &measure.engine;
        assert_eq!((measure.pipeline, measure.threads, measure.connections), (7, 2, 3));
        assert_eq!((measure.workload.keys, measure.rate), (500, Some(1000.0)));
        assert_eq!(measure.workload.value_size, Some(crate::workload::Sizes::Uniform(16, 32)));
        assert_eq!((engine.batch, engine.cores), (9, 4));
        assert_eq!(engine.settings.len(), 1);
        assert_eq!(engine.settings[0].value, "commit");
        let error = apply("pipeline", "0", &mut measure).unwrap_err();
        assert!(error.starts_with("--knob pipeline: invalid value '0'"), "{error}");
        assert!(error.ends_with("expected a whole number above 0"), "{error}");
    }

    #[test]
    fn a_knob_without_effect_is_refused() {
        let none = BTreeSet::new();
        let ok = |name: &str, target: &TargetName, line: &str| {
            check(name, target, &parse_measure("in-core", line), &none)
        };
        let (server, in_core, embedded) = (resp("h:1"), TargetName::InCore, TargetName::Embedded);
        for (name, target, line) in [
            ("pipeline", &in_core, ""),
            ("pipeline", &embedded, ""),
            ("connections", &embedded, ""),
            ("threads", &in_core, ""),
            ("rate", &in_core, ""),
            ("batch", &server, ""),
            ("cores", &server, ""),
            ("cores", &in_core, "--cpus 0"),
            ("durability", &server, ""),
            ("durability", &embedded, ""),
            ("consistency", &embedded, ""),
            ("io-threads", &server, ""),
        ] {
            assert!(ok(name, target, line).is_err(), "{name} {target}");
        }
        for (name, target, line) in [
            ("pipeline", &server, ""),
            ("pipeline", &embedded, "--calls async"),
            ("threads", &embedded, ""),
            ("keys", &in_core, ""),
            ("cores", &in_core, ""),
            ("durability", &embedded, "--engine storage=file"),
            ("consistency", &server, ""),
        ] {
            assert_eq!(ok(name, target, line), Ok(()), "{name} {target}");
        }
        let placeholders = ["cores".to_owned(), "io-threads".to_owned()].into();
        for name in ["cores", "io-threads"] {
            let measure = parse_measure("resp://h:1", "");
            assert_eq!(check(name, &server, &measure, &placeholders), Ok(()));
        }
        let error = ok("cores", &server, "").unwrap_err();
        assert_eq!(error, "--knob cores needs the placeholder {cores} in a command");
    }

    #[test]
    fn consistency_goes_into_the_query() {
        assert_eq!(with_consistency(resp("h:1"), "one"), resp("h:1?consistency=one"));
        let target = with_consistency(resp("h:1?consistency=all&wait=1"), "one");
        assert_eq!(target, resp("h:1?wait=1&consistency=one"));
        assert_eq!(with_consistency(TargetName::InCore, "one"), TargetName::InCore);
    }
}
