//! The size of a log's files: what is allowed, and what whoever asks for more is told.

use gridkv::{Config, ConfigError, OpenError};
use gridkv_tests::client::{ok, text};
use gridkv_tests::node::{Node, SHAPES, any_port, builder};
use gridkv_tests::program::{Program, command, run};

/// Sizes that are none.
const REFUSED: [&str; 5] = ["128MiB", "256MiB", "4GiB", "512KiB", "3MiB"];

/// What is said of them.
const ALLOWED: &str = "1MiB, 2MiB, 4MiB, 8MiB, 16MiB, 32MiB or 64MiB is needed";

#[test]
fn the_program_refuses_segments_that_the_format_has_no_room_for() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let to = data.to_str().unwrap();
    for size in REFUSED {
        let arguments = ["--storage", "file", "--data", to, "--segment", size];
        let ended = run(command(&arguments));
        assert_ne!(ended.status.code(), Some(0), "{ended:?}");
        let said: Vec<&str> = ended.err.lines().collect();
        assert_eq!(said.len(), 1, "{ended:?}");
        assert!(said[0].contains(size) && said[0].contains(ALLOWED), "{ended:?}");
        assert!(!data.exists(), "nothing is left behind");
    }
    let help = run(command(&["--help"])).out;
    assert!(help.contains("a power of two, 1MiB to 64MiB"), "{help}");
}

#[test]
fn restore_refuses_them_too_and_takes_the_largest_there_is() {
    let place = tempfile::tempdir().unwrap();
    let (data, to) = (place.path().join("data"), place.path().join("restored"));
    let (data, to) = (data.to_str().unwrap(), to.to_str().unwrap());
    let mut program = Program::start(&["--storage", "file", "--data", data, "--segment", "1MiB"]);
    assert_eq!(program.connect().ask("SET key value"), ok());
    let taken = text(&program.connect().ask("GRIDKV SNAPSHOT one"));
    assert!(taken.ends_with("one"), "{taken}");
    assert_eq!(program.terminate().code(), Some(0));
    let from = format!("{data}/snapshots/one");
    let restore =
        |size| run(command(&["restore", "--from", &from, "--data", to, "--segment", size]));
    for size in REFUSED {
        let ended = restore(size);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
        assert!(ended.err.contains(size) && ended.err.contains(ALLOWED), "{ended:?}");
        assert!(!std::path::Path::new(to).exists(), "nothing is left behind");
    }
    let ended = restore("64MiB");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.out.contains("restored 1 keys"), "{ended:?}");
}

#[test]
fn the_library_refuses_them_by_name_and_by_number() {
    for size in REFUSED {
        let refused = builder(SHAPES[0]).set("segment", size).unwrap_err();
        assert!(matches!(refused, ConfigError::Invalid { .. }), "{refused}");
        let said = refused.to_string();
        assert!(said.contains(size) && said.contains(ALLOWED) && said.lines().count() == 1);
    }
    let place = tempfile::tempdir().unwrap();
    for bytes in [128 << 20, 256 << 20, u32::MAX, 0] {
        let data = place.path().join("data");
        let mut config = Config { segment: bytes, ..Config::default() };
        config.listen = Some(any_port());
        let opened = gridkv::Engine::builder().config(config).storage("file").data(&data).open();
        let refused: OpenError = opened.unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("65536 to 67108864") && said.contains(&bytes.to_string()), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!data.join("MANIFEST").exists());
    }
    // The largest there is opens.
    let data = place.path().join("largest");
    let opened = builder(SHAPES[0]).set("segment", "64MiB").unwrap().storage("file").data(data);
    let node = Node::open(opened);
    assert_eq!(node.connect().ask("SET key value"), ok());
    node.stop();
}
