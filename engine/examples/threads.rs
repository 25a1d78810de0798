//! Plain threads share one store: the handle is cloned, the calls block, batches save hops.
//!
//! ```text
//! cargo run --release -p gridkv --example threads
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use gridkv::{BatchResult, Engine};

const THREAD_COUNT: u64 = 4;
const ROUNDS: u64 = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Leaves no files.
    let engine = Engine::builder().storage("memory").open()?;
    let handle = engine.handle();

    std::thread::scope(|scope| {
        for thread in 0..THREAD_COUNT {
            let handle = handle.clone();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let results = handle
                        .batch()
                        .increment("rounds", 1)
                        .set(format!("latest:{thread}"), round.to_string())
                        .get(format!("latest:{}", (thread + 1) % THREAD_COUNT))
                        .run_blocking();
                    for result in results {
                        if let Err(error) = result {
                            eprintln!("thread {thread}: {error}");
                        }
                    }
                }
            });
        }
    });

    let results = handle.batch().increment("rounds", 0).run_blocking();
    assert_eq!(results[0], Ok(BatchResult::Sum(i64::try_from(THREAD_COUNT * ROUNDS)?)));
    println!("{THREAD_COUNT} threads made {ROUNDS} rounds each, and none was lost");
    engine.shutdown()?;
    Ok(())
}
