//! How the repository is kept: who depends on whom, what a file begins with, how long it is.
//!
//! The numbers below are ratchets: they may become smaller.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PACKAGES: [&str; 6] = ["bench", "cluster", "engine", "net", "storage", "tests"];

/// At this many lines one asks for a second room, and says here why there is none yet.
const FILE_LINES_WARN: usize = 700;
const FILE_LINES_MAX: usize = 1_000;
const LONG_FILES: [&str; 0] = [];

/// Functions longer than this, tests apart, are listed.
const FUNCTION_LINES_MAX: usize = 70;
const LONG_FUNCTIONS: [&str; 0] = [];

/// The only places that name the executor: the core's room, its start, and the one command that waits
/// for a time.
const EXECUTOR_PLACES: [&str; 3] =
    ["engine/src/core/", "engine/src/node.rs", "engine/src/server/commands/node.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the repository").into()
}

/// All files under a directory of the repository, with their text.
fn files(directory: &Path, extension: &str, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).expect("a directory").map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|it| it == extension) {
            let name = path.strip_prefix(root()).expect("it is in the repository");
            let text = std::fs::read_to_string(&path).expect("a text");
            found.insert(name.display().to_string(), text);
        }
    }
}

fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for package in PACKAGES {
        for room in ["src", "tests", "examples", "benches"] {
            let directory = root().join(package).join(room);
            if directory.is_dir() {
                files(&directory, "rs", &mut found);
            }
        }
    }
    assert!(found.len() > 50);
    found
}

/// Fails with what was found, if anything was.
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// The code of a source without its tests at the end.
fn without_tests(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code)
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn packages_depend_only_downwards() {
    let allowed = BTreeMap::from([
        ("gridkv-cluster", vec![]),
        ("gridkv-net", vec!["gridkv-cluster"]),
        ("gridkv-storage", vec!["gridkv-cluster"]),
        ("gridkv", vec!["gridkv-cluster", "gridkv-net", "gridkv-storage"]),
        ("gridkv-bench", vec!["gridkv", "gridkv-cluster", "gridkv-net", "gridkv-storage"]),
        ("gridkv-tests", vec!["gridkv", "gridkv-cluster", "gridkv-net", "gridkv-storage"]),
    ]);
    let mut seen = BTreeSet::new();
    for package in PACKAGES {
        let text = std::fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap();
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        for kind in kinds {
            let Some(table) = manifest.get(kind).and_then(toml::Value::as_table) else { continue };
            for dependency in table.keys().filter(|it| it.starts_with("gridkv")) {
                assert!(allowed[name].contains(&dependency.as_str()), "{name} uses {dependency}");
            }
        }
        seen.insert(name.to_owned());
    }
    assert_eq!(seen.len(), allowed.len());
}

#[test]
fn every_file_begins_with_what_it_is() {
    let mut bare = Vec::new();
    for (name, text) in sources() {
        // What a room's tests are is said by the room.
        if !text.starts_with("//!") && !name.ends_with("/tests.rs") {
            bare.push(name);
        }
    }
    none("files without //! documentation", &bare);
}

#[test]
fn no_file_is_too_long() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        let count = text.lines().count();
        assert!(count <= FILE_LINES_MAX, "{name} has {count} lines: cut it");
        if count > FILE_LINES_WARN && !LONG_FILES.contains(&name.as_str()) {
            long.push(format!("{name}: {count} lines"));
        }
    }
    none("files that ask for a second room", &long);
}

#[test]
fn no_function_is_too_long() {
    let mut long = Vec::new();
    for (name, text) in sources() {
        if name.starts_with("tests/") || name.contains("/tests") {
            continue;
        }
        let lines: Vec<&str> = without_tests(&text).lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim_start();
            let is_function = words.contains("fn ")
                && !words.starts_with("//")
                && ["fn ", "pub", "async fn", "const fn", concat!("unsafe", " fn")]
                    .iter()
                    .any(|it| words.starts_with(it));
            // Declared only, or defined here?
            let head = lines[start..].iter().find(|line| line.ends_with(['{', ';', '}']));
            if !is_function || !head.is_some_and(|line| line.ends_with('{')) {
                continue;
            }
            // Formatted code: a function ends at the first brace of its own depth.
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == end).unwrap_or(0) + 1;
            let called = words.split("fn ").nth(1).and_then(|it| it.split(['(', '<']).next());
            let place = format!("{name} {}", called.unwrap_or("?"));
            if length > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.contains(&place.as_str()) {
                long.push(format!("{place}: {length} lines"));
            }
        }
    }
    none("functions that are too long", &long);
}

#[test]
fn nothing_is_left_over() {
    let leftovers = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
    let mut found = Vec::new();
    for (name, text) in sources() {
        for (number, line) in code_lines(&text) {
            let is_ignored = line.contains(concat!("#[", "ignore"));
            if is_ignored || leftovers.iter().any(|it| line.contains(it)) {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    none("leftovers", &found);
}

#[test]
fn everything_is_plain_text() {
    let mut all = sources();
    for extension in ["toml", "md", "txt"] {
        for package in PACKAGES {
            files(&root().join(package), extension, &mut all);
        }
    }
    let mut found = Vec::new();
    for (name, text) in all {
        for (number, line) in text.lines().enumerate() {
            if !line.is_ascii() || (line.ends_with(' ') && !name.ends_with(".txt")) {
                found.push(format!("{name}:{}: {line}", number + 1));
            }
        }
    }
    none("lines that are not ASCII, or end in a blank", &found);
}

#[test]
fn unsafe_code_is_allowed_room_by_room_and_for_a_reason() {
    for (name, level) in [
        ("bench", "forbid"),
        ("cluster", "forbid"),
        ("engine", "deny"),
        ("net", "deny"),
        ("storage", "deny"),
        ("tests", "forbid"),
    ] {
        let library = std::fs::read_to_string(root().join(name).join("src/lib.rs")).unwrap();
        let rule = format!("#![{level}(unsafe_code)]");
        assert!(library.lines().any(|line| line == rule), "{name} begins with {rule}");
    }
    // Whole crates and whole rooms of rooms are not excepted.
    let mut found = Vec::new();
    for (name, text) in sources() {
        for (number, line) in code_lines(&text) {
            if line.contains(concat!("#![allow(unsafe", "_code")) {
                found.push(format!("{name}:{number}"));
            }
        }
    }
    none("files that except themselves, where their room's list of files does not show it", &found);
}

#[test]
fn only_the_cores_room_names_the_executor() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let is_allowed = EXECUTOR_PLACES.iter().any(|place| name.starts_with(place));
        let names = code_lines(&text).any(|(_, line)| line.contains(concat!("glom", "mio")));
        if names && !is_allowed {
            found.push(name);
        }
    }
    none("files that name the executor", &found);
}

#[test]
fn the_top_level_is_what_the_design_says() {
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|it| it.status.success()) else {
        gridkv_tests::process::say("SKIPPED: not a git checkout");
        return;
    };
    let text = String::from_utf8(listed.stdout).unwrap();
    let entries: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split('/').next())
        .filter(|it| !it.starts_with('.'))
        .collect();
    let mut expected = BTreeSet::from(["Cargo.lock", "Cargo.toml", "LICENSE", "README.md"]);
    expected.extend(PACKAGES);
    assert_eq!(entries, expected);
}
