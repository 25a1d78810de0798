//! The embedded API of nodes of one cluster, in one process.

use std::net::SocketAddr;

use gridkv::{Consistency, Engine, Error, SetOutcome};
use gridkv_tests::cluster::free_address;
use gridkv_tests::node::with;
use gridkv_tests::until;

/// An engine of a cluster; `seed` is whom it joins.
fn open(directory: &std::path::Path, address: SocketAddr, seed: Option<SocketAddr>) -> Engine {
    let mut builder = Engine::builder().storage("memory").cores(1).data(directory);
    builder = with(with(builder, "cluster", &address.to_string()), "replicas", "2");
    if let Some(seed) = seed {
        builder = with(builder, "join", &seed.to_string());
    }
    builder.open().expect("an engine opens")
}

#[test]
fn two_engines_of_one_cluster_serve_the_same_keys() {
    let place = tempfile::tempdir().unwrap();
    let seed = free_address();
    let one = open(&place.path().join("n1"), seed, None);
    let other = open(&place.path().join("n2"), free_address(), Some(seed));
    let first = one.handle().at(Consistency::Linearizable).blocking();
    let second = other.handle().at(Consistency::Linearizable).blocking();
    until("both serve", || first.set("key", "0") == Ok(()) && second.get("key").is_ok());

    assert_eq!(second.get("key"), Ok(Some(b"0".to_vec())));
    let seen = first.get_versioned("key").unwrap().unwrap();
    let swapped = second.compare_and_set("key", seen.version, "second").unwrap();
    assert!(matches!(swapped, SetOutcome::Written(version) if version > seen.version));
    let again = first.compare_and_set("key", seen.version, "first").unwrap();
    assert_eq!(again, SetOutcome::ConditionFailed);
    assert_eq!(first.get("key"), Ok(Some(b"second".to_vec())));

    // Each counts on what the other has counted.
    let counting: Vec<_> = [one.handle(), other.handle()]
        .into_iter()
        .map(|handle| {
            std::thread::spawn(move || {
                let store = handle.blocking();
                let counts = (0..50).map(|_| store.increment("count", 1));
                counts.fold((0, 0), |(done, unknown), result| match result {
                    Ok(_) => (done + 1, unknown),
                    Err(Error::NotApplied { .. }) => (done, unknown),
                    Err(Error::Unknown { .. }) => (done, unknown + 1),
                    Err(error) => panic!("{error}"),
                })
            })
        })
        .collect();
    let (mut done, mut unknown) = (0, 0);
    for thread in counting {
        let (more_done, more_unknown) = thread.join().unwrap();
        (done, unknown) = (done + more_done, unknown + more_unknown);
    }
    let count = first.get("count").unwrap().unwrap();
    let count: i64 = String::from_utf8(count).unwrap().parse().unwrap();
    assert!((done..=done + unknown).contains(&count), "{count}: {done} and {unknown} unknown");
    assert!(done > 0);

    assert_eq!(first.run_on("key", |_| ()), Err(Error::Replicated));
    assert_eq!(other.shutdown(), Ok(()));
    assert_eq!(one.shutdown(), Ok(()));
}
