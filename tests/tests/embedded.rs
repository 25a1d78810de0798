//! The engine inside a program: under any executor or none, many calls at a time, typed errors.

use std::time::Duration;

use futures_lite::future::block_on;
use gridkv::{
    BatchResult, Builder, Condition, Engine, Error, Eviction, Expiry, Handle, OpenError, Outcome,
    SetOptions, SetOutcome,
};
use gridkv_tests::until;

/// Options for an engine that leaves no files.
fn memory() -> Builder {
    Engine::builder().storage("memory")
}

fn open() -> Engine {
    memory().shards(5).open().expect("an engine opens")
}

/// What a user does, whatever drives the futures.
async fn use_all(store: Handle, prefix: &'static str) {
    let key = |name: &str| format!("{prefix}:{name}");
    assert_eq!(store.get(key("a")).await, Ok(None));
    assert_eq!(store.set(key("a"), "1").await, Ok(()));
    assert_eq!(store.get(key("a")).await, Ok(Some(b"1".to_vec())));
    assert_eq!(store.increment(key("a"), 41).await, Ok(42));
    assert_eq!(store.exists(key("a")).await, Ok(true));
    assert_eq!(store.time_to_live(key("a")).await, Ok(Some(None)));
    assert_eq!(store.expire(key("a"), Expiry::After(Duration::from_secs(100))).await, Ok(true));
    let left = store.time_to_live(key("a")).await.expect("it is open");
    assert!(left.flatten().is_some_and(|left| left <= Duration::from_secs(100)));

    let found = store.get_versioned(key("a")).await.expect("it is open").expect("it is there");
    let swapped = store.compare_and_set(key("a"), found.version, "swapped").await;
    assert!(matches!(swapped, Ok(SetOutcome::Written(version)) if version > found.version));
    let again = store.compare_and_set(key("a"), found.version, "lost").await;
    assert_eq!(again, Ok(SetOutcome::ConditionFailed));
    assert_eq!(store.get(key("a")).await, Ok(Some(b"swapped".to_vec())));

    for (condition, holds) in [
        (Condition::Absent, false),
        (Condition::Present, true),
        (Condition::Equals(b"x".to_vec()), true),
        (Condition::Equals(b"swapped".to_vec()), false),
    ] {
        let options = SetOptions {
            condition: condition.clone(),
            expiry: Expiry::Never,
            ..SetOptions::default()
        };
        let outcome = store.set_with(key("a"), "x", options).await.expect("it is open");
        assert_eq!(matches!(outcome, SetOutcome::Written(_)), holds, "{condition:?}");
    }
    assert_eq!(store.increment(key("a"), 1).await, Err(Error::NotAnInteger));
    assert_eq!(store.set(key("max"), i64::MAX.to_string()).await, Ok(()));
    assert_eq!(store.increment(key("max"), 1).await, Err(Error::Overflow));
    assert_eq!(store.delete(key("a")).await, Ok(true));
    assert_eq!(store.delete(key("a")).await, Ok(false));

    let batch = store.batch().set(key("b"), "5").increment(key("b"), 2).get(key("b")).get(key("c"));
    let results = batch.delete(key("b")).increment(key("max"), 1).run().await;
    assert_eq!(
        results,
        [
            Ok(BatchResult::Done),
            Ok(BatchResult::Sum(7)),
            Ok(BatchResult::Value(Some(b"7".to_vec()))),
            Ok(BatchResult::Value(None)),
            Ok(BatchResult::Deleted(true)),
            Err(Error::Overflow),
        ]
    );
    let sum = store.run_on(key("n"), {
        let key = key("n");
        move |shard| (0..100).map(|_| shard.increment(key.as_bytes(), 1).unwrap_or(0)).max()
    });
    assert_eq!(sum.await, Ok(Some(100)));
    assert_eq!(store.run_on_all(|shard| shard.range()).await.map(|it| it.len()), Ok(5));
}

#[test]
fn any_executor_and_plain_threads_use_one_engine() {
    let engine = open();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let tokio_store = engine.handle();
    let in_tokio = std::thread::spawn(move || {
        runtime.block_on(async { tokio::spawn(use_all(tokio_store, "tokio")).await.unwrap() });
    });
    let smol_store = engine.handle();
    let in_smol =
        std::thread::spawn(move || smol::block_on(smol::spawn(use_all(smol_store, "smol"))));
    let store = engine.handle().blocking();
    for number in 0..500 {
        let key = format!("thread:{number}");
        assert_eq!(store.set(&key, "value"), Ok(()));
        assert_eq!(store.get(&key), Ok(Some(b"value".to_vec())));
    }
    block_on(use_all(engine.handle(), "here"));
    in_tokio.join().unwrap();
    in_smol.join().unwrap();
    // Of each of the three: n and max.
    assert_eq!(store.stats().unwrap().key_count, 500 + 6);
    assert_eq!(engine.shutdown(), Ok(()));
}

#[test]
fn far_more_calls_than_a_mailbox_holds_all_complete() {
    let engine = memory().cores(1).open().unwrap();
    let store = engine.handle();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let calls: Vec<_> = (0..20_000_u32)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move { store.increment(format!("key:{}", number % 7), 1).await })
            })
            .collect();
        for call in calls {
            assert!(call.await.unwrap().is_ok());
        }
    });
    let total: i64 =
        (0..7).map(|number| store.blocking().increment(format!("key:{number}"), 0).unwrap()).sum();
    assert_eq!(total, 20_000);
    assert_eq!(engine.shutdown(), Ok(()));
}

#[test]
fn a_call_that_is_given_up_harms_nobody() {
    let engine = open();
    let store = engine.handle();
    for number in 0..2_000 {
        // Polled once, then dropped: it may or may not have been sent.
        let call = std::pin::pin!(store.set(format!("key:{number}"), "value"));
        block_on(futures_lite::future::poll_once(call));
    }
    let count = store.blocking().stats().unwrap().key_count;
    assert!(count <= 2_000);
    assert_eq!(store.blocking().set("after", "value"), Ok(()));
    assert_eq!(engine.shutdown(), Ok(()));
}

#[test]
fn every_call_after_the_end_fails_with_an_error_that_says_so() {
    let engine = open();
    let store = engine.handle();
    let blocking = store.blocking();
    blocking.set("key", "value").unwrap();
    assert_eq!(engine.shutdown(), Ok(()));
    assert_eq!(blocking.get("key"), Err(Error::Closed));
    assert_eq!(blocking.set("key", "value"), Err(Error::Closed));
    assert_eq!(blocking.delete("key"), Err(Error::Closed));
    assert_eq!(blocking.run_on("key", |_| ()), Err(Error::Closed));
    assert_eq!(blocking.stats().map(|_| ()), Err(Error::Closed));
    assert_eq!(store.batch().get("key").run_blocking(), [Err(Error::Closed)]);
    assert_eq!(Error::Closed.outcome(), Outcome::NotApplied);
}

/// Calls that are under way while the engine is shut down are all told something.
#[test]
fn no_call_is_left_waiting_when_the_engine_ends() {
    for _ in 0..20 {
        let engine = memory().cores(1).open().unwrap();
        let callers: Vec<_> = (0..6)
            .map(|caller| {
                let store = engine.handle().blocking();
                std::thread::spawn(move || {
                    (0_u32..)
                        .map(|it| store.set(format!("{caller}"), it.to_string()))
                        .find_map(Result::err)
                })
            })
            .collect();
        let store = engine.handle().blocking();
        until("the callers have begun", || store.stats().unwrap().key_count == 6);
        assert_eq!(engine.shutdown(), Ok(()));
        for caller in callers {
            let error = caller.join().unwrap().expect("they go on until an error");
            assert!(matches!(error, Error::Closed | Error::Interrupted), "{error}");
        }
    }
}

#[test]
fn two_engines_in_one_process_know_nothing_of_each_other() {
    let (one, other) = (open(), memory().cores(1).open().unwrap());
    let (first, second) = (one.handle().blocking(), other.handle().blocking());
    first.set("key", "first").unwrap();
    second.set("key", "second").unwrap();
    assert_eq!(first.get("key"), Ok(Some(b"first".to_vec())));
    assert_eq!(second.get("key"), Ok(Some(b"second".to_vec())));
    assert_eq!(
        second.run_on("key", |_| -> () { panic!("the second is to end") }),
        Err(Error::Interrupted)
    );
    until("the second has ended", || other.has_stopped_core());
    assert_eq!(first.set("key", "still"), Ok(()));
    assert!(other.shutdown().is_err());
    assert_eq!(first.get("key"), Ok(Some(b"still".to_vec())));
    assert_eq!(one.shutdown(), Ok(()));
}

#[test]
fn values_expire_on_time_and_are_collected_without_being_touched() {
    let engine = open();
    let store = engine.handle().blocking();
    let expiry = Expiry::After(Duration::from_millis(100));
    for number in 0..1_000 {
        let options = SetOptions { expiry, ..SetOptions::default() };
        store.set_with(format!("key:{number}"), "value", options).unwrap();
    }
    store.set("stays", "value").unwrap();
    until("all have expired", || store.get("key:999") == Ok(None));
    until("all are collected", || store.stats().unwrap().key_count == 1);
    let memory = store.stats().unwrap().memory_bytes;
    assert!(memory < 256 << 10, "{memory} bytes for one key");
    assert_eq!(engine.shutdown(), Ok(()));
}

#[test]
fn a_full_store_refuses_or_evicts_as_it_was_told() {
    let full = |eviction| memory().cores(1).max_memory(1 << 20, eviction).open().unwrap();
    let value = vec![b'x'; 1_000];
    let engine = full(Eviction::Refuse);
    let store = engine.handle().blocking();
    let refused = (0..5_000).find_map(|it| store.set(format!("key:{it}"), value.clone()).err());
    assert!(matches!(refused, Some(Error::OutOfMemory { .. })), "{refused:?}");
    assert_eq!(refused.unwrap().outcome(), Outcome::NotApplied);
    assert_eq!(store.get("key:0"), Ok(Some(value.clone())));
    // Deleting makes room.
    (0..100).for_each(|it| assert_eq!(store.delete(format!("key:{it}")), Ok(true)));
    assert_eq!(store.set("key:0", value.clone()), Ok(()));
    assert!(store.stats().unwrap().memory_bytes <= 1 << 20);
    assert_eq!(engine.shutdown(), Ok(()));

    let engine = full(Eviction::Lfu);
    let store = engine.handle().blocking();
    (0..5_000).for_each(|it| assert_eq!(store.set(format!("key:{it}"), value.clone()), Ok(())));
    let stats = store.stats().unwrap();
    assert!(stats.evicted_count > 0 && stats.memory_bytes <= 1 << 20, "{stats:?}");
    assert_eq!(engine.shutdown(), Ok(()));
}

#[test]
fn an_engine_that_cannot_open_says_why_and_leaves_nothing_behind() {
    let error = Engine::builder().storage("tape").open().unwrap_err();
    assert!(error.to_string().contains("tape"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = memory().listen(address).open().unwrap_err();
    assert!(matches!(error, OpenError::AddressInUse { option: "listen", .. }), "{error}");
    until("the threads of what did not open are gone", || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            tasks.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("comm")).ok());
        // Other tests of this process have engines of their own.
        names.filter(|name| name.starts_with("gridkv-admin")).count() == 0
    });
}
