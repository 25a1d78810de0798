//! Opens a store in this process, writes, reads, and closes it.
//!
//! ```text
//! cargo run --release -p gridkv --example quickstart
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use gridkv::{Condition, Engine, Expiry, SetOptions, SetOutcome};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Leaves no files. Without this line the store is durable, in `./gridkv-data`.
    let engine = Engine::builder().cores(1).storage("memory").open()?;
    let store = engine.handle().blocking();

    store.set("user:1:name", "Ada")?;
    assert_eq!(store.get("user:1:name")?.as_deref(), Some(&b"Ada"[..]));

    // A session that ends by itself, unless it exists already.
    let once = SetOptions {
        condition: Condition::Absent,
        expiry: Expiry::After(Duration::from_secs(30)),
        ..SetOptions::default()
    };
    let first = store.set_with("session:1", "open", once.clone())?;
    let second = store.set_with("session:1", "open", once)?;
    assert!(matches!(first, SetOutcome::Written(_)));
    assert_eq!(second, SetOutcome::ConditionFailed);

    // Compare-and-set: the version says what the change is based on.
    let name = store.get_versioned("user:1:name")?.ok_or("the name was just written")?;
    store.compare_and_set("user:1:name", name.version, "Ada Lovelace")?;
    let outcome = store.compare_and_set("user:1:name", name.version, "somebody else")?;
    assert_eq!(outcome, SetOutcome::ConditionFailed);

    let stats = store.stats()?;
    println!("{} keys, {} bytes of keys and values", stats.key_count, stats.payload_bytes);
    engine.shutdown()?;
    Ok(())
}
