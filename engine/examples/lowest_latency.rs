//! The fastest way in: cores that poll instead of sleeping, and closures that run on the core that
//! owns the keys, so that many operations cost one hop.
//!
//! ```text
//! cargo run --release -p gridkv --example lowest_latency
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use gridkv::{Engine, Idle};

const KEY_COUNT: usize = 100_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A polling core needs a processor of its own. No disk is waited for.
    let engine = Engine::builder().cores(1).idle(Idle::Poll).storage("memory").open()?;
    let store = engine.handle().blocking();

    // One call a key: each is a message to the core and back.
    let started = Instant::now();
    for index in 0..1_000 {
        store.set(key(index), "value")?;
    }
    let one_by_one = started.elapsed() / 1_000;

    // All keys of a shard in one closure, on its core. Keys that live together are used together:
    // here the closure looks which ones are its own.
    let started = Instant::now();
    let written: usize = store
        .run_on_all(|shard| {
            let own: Vec<String> =
                (0..KEY_COUNT).map(key).filter(|key| shard.owns(key.as_bytes())).collect();
            own.iter().filter(|key| shard.set(key.as_bytes(), b"value").is_ok()).count()
        })
        .map(|counts| counts.into_iter().sum())?;
    let on_core = started.elapsed() / u32::try_from(written)?;

    // Reads in batches: the records are fetched into the processor's cache together.
    let found = store.run_on(key(0), |shard| {
        let own: Vec<String> =
            (0..KEY_COUNT).map(key).filter(|key| shard.owns(key.as_bytes())).take(16).collect();
        let keys: Vec<&[u8]> = own.iter().map(String::as_bytes).collect();
        let mut found = 0;
        shard.get_many(&keys, |_, value| found += usize::from(value.is_some())).map(|()| found)
    })??;
    println!("a call a key: {one_by_one:?} each; on the core: {on_core:?} each; {found} found");
    engine.shutdown()?;
    Ok(())
}

fn key(index: usize) -> String {
    format!("key:{index:012}")
}
