//! The program, killed while clients write. `kill_rounds --rounds 50` does it for longer.

use gridkv_tests::durability::rounds::{Options, Summary, arguments, run};
use gridkv_tests::process::say;
use gridkv_tests::seed;

/// Runs three rounds of the program with these arguments.
fn three_rounds(arguments: Vec<String>) -> Result<Summary, String> {
    let seed = seed(0x7177);
    say(&format!("SEED={seed:#x}"));
    let parent = tempfile::tempdir().expect("a directory for files");
    let options = Options {
        round_count: 3,
        seed,
        program: None,
        arguments,
        data: parent.path().join("data"),
        client_count: 4,
    };
    let result = run(&options, &mut say);
    if result.is_err() {
        let _kept = parent.keep();
    }
    result
}

#[test]
fn what_was_acknowledged_outlives_the_process() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = three_rounds(arguments(processors.min(2)));
    let summary = summary.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(summary.round_count, 3);
    assert!(summary.acknowledged_count > 0, "{summary:?}");
}

#[test]
fn a_store_that_keeps_nothing_is_found_out() {
    let failure = three_rounds(vec!["--storage".to_owned(), "memory".to_owned()]).unwrap_err();
    let is_loss = failure.contains("holds nothing, but") && failure.contains("was acknowledged");
    assert!(is_loss, "{failure}");
}
