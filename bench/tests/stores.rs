//! The stores of the bench `stores`: that each answers as it should, and keeps what it answered.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../benches/stores/store/mod.rs"]
mod store;

use std::path::Path;

use clap::Parser;
use gridkv::Engine;
use gridkv_bench::options::{Cli, Command, MeasureOptions};
use gridkv_bench::target::{EmbeddedTarget, Target};
use store::{Act, Durability, OpenFn, Session, StoreOptions, StoreTarget, open_fjall, open_redb};

const STORES: [(&str, OpenFn); 2] = [("redb", open_redb), ("fjall", open_fjall)];

fn options(directory: &Path, durability: Durability) -> StoreOptions {
    StoreOptions { directory: directory.to_owned(), durability, cache_bytes: 1 << 20 }
}

fn measure_options(line: &str) -> MeasureOptions {
    let arguments = ["gridkv-bench", "run", "embedded"].into_iter();
    let cli = Cli::try_parse_from(arguments.chain(line.split_ascii_whitespace())).unwrap();
    let Command::Run(options) = cli.command else { panic!("the line says run") };
    options.measure
}

/// Whether keys were there, and the values that were seen, one after the other.
fn run(session: &mut dyn Session, acts: &[Act<'_>]) -> (Vec<bool>, String) {
    let mut seen = String::new();
    let mut see = |value: &[u8]| {
        seen.push_str(std::str::from_utf8(value).unwrap());
        seen.push(' ');
    };
    let found = session.run(acts, &mut see).unwrap();
    (found, seen)
}

fn answers_as_it_should(session: &mut dyn Session) {
    let (a, b, c) = (&b"a"[..], &b"b"[..], &b"c"[..]);
    let expect = |(found, seen): (Vec<bool>, String), all: &[bool], values: &str| {
        assert_eq!((found.as_slice(), seen.as_str()), (all, values));
    };
    expect(run(session, &[Act::Get(a)]), &[false], "");
    expect(run(session, &[Act::Scan(a, 5)]), &[false], "");
    expect(run(session, &[Act::Set(a, b"1")]), &[true], "");
    expect(run(session, &[Act::Get(a)]), &[true], "1 ");
    expect(run(session, &[Act::Change(a, b"2")]), &[true], "1 ");
    expect(run(session, &[Act::Change(c, b"3")]), &[false], "");
    expect(run(session, &[Act::Set(b, b"4"), Act::Exists(a), Act::Delete(c)]), &[true; 3], "");
    expect(run(session, &[Act::Get(a), Act::Get(b), Act::Get(c)]), &[true, true, false], "2 4 ");
    expect(run(session, &[Act::Delete(c)]), &[false], "");
    expect(run(session, &[Act::Set(c, b"5")]), &[true], "");
    expect(run(session, &[Act::Scan(a, 2)]), &[true], "2 4 ");
    expect(run(session, &[Act::Scan(b, 9)]), &[true], "4 5 ");
}

#[test]
fn each_store_answers_as_it_should() {
    for (name, open) in STORES {
        for durability in [Durability::Commit, Durability::None] {
            let directory = tempfile::tempdir().unwrap();
            let store = open(&options(directory.path(), durability)).unwrap();
            println!("{name}, {durability:?}");
            answers_as_it_should(&mut *store.session());
        }
    }
}

#[test]
fn a_thread_sees_what_another_was_answered() {
    for (_, open) in STORES {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&options(directory.path(), Durability::Commit)).unwrap();
        let (mut one, mut other) = (store.session(), store.session());
        for value in ["1", "2", "3"] {
            run(&mut *one, &[Act::Set(b"key", value.as_bytes())]);
            assert_eq!(run(&mut *other, &[Act::Get(b"key")]), (vec![true], format!("{value} ")));
        }
    }
}

#[test]
fn a_store_that_is_opened_again_has_what_was_answered() {
    for (name, open) in STORES {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&options(directory.path(), Durability::Commit)).unwrap();
        run(&mut *store.session(), &[Act::Set(b"a", b"1")]);
        run(
            &mut *store.session(),
            &[Act::Set(b"b", b"2"), Act::Set(b"c", b"3"), Act::Delete(b"a")],
        );
        drop(store);
        let store = open(&options(directory.path(), Durability::Commit)).unwrap();
        let got = run(&mut *store.session(), &[Act::Scan(b"a", 9)]);
        assert_eq!(got, (vec![true], "2 3 ".to_owned()), "{name}");
    }
}

#[test]
fn gridkv_opened_again_has_what_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let options = measure_options(&format!(
        "-n 1 --keys 100 --load --warmup 0s --reads 0 --engine storage=file --engine \
         durability=commit --engine segment=1MiB --engine data={}",
        data.display()
    ));
    let workload = options.workload.workload().unwrap();
    let mut target = EmbeddedTarget::new(workload.clone(), options);
    target.prepare().unwrap();
    assert_eq!(target.measure().unwrap().recorder.completed, 1);
    target.rest();
    let engine = Engine::builder().cores(1).data(&data).open().unwrap();
    let handle = engine.handle();
    let mut key = workload.key_buffer();
    for index in 0..100 {
        let value = handle.blocking().get(key.write(index)).unwrap();
        assert_eq!(value.map(|it| it.len()), Some(64), "key {index}");
    }
}

#[test]
fn each_store_is_loaded_and_measured() {
    for (name, open) in STORES {
        for line in [
            "--mix get=16,set=14,insert=14,scan=14,rmw=14,del=14,exists=14 --threads 2",
            "--reads 0.5 --calls batch -P 16",
            "--reads 1",
        ] {
            let directory = tempfile::tempdir().unwrap();
            let measure = measure_options(&format!("{line} -n 64 --keys 100 --load --warmup 0s"));
            let workload = measure.workload.workload().unwrap();
            let options = options(directory.path(), Durability::Commit);
            let mut target = StoreTarget::new(name, open, options, workload, measure);
            target.prepare().unwrap();
            let recorder = target.measure().unwrap().recorder;
            target.rest();
            assert_eq!(recorder.completed, 64, "{name} {line}");
            assert_eq!(recorder.errors.error_replies, 0);
        }
    }
}

#[test]
fn what_a_store_has_not_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for line in ["--mix incr=1", "--ttl 5s"] {
        let measure = measure_options(line);
        let workload = measure.workload.workload().unwrap();
        let options = options(directory.path(), Durability::None);
        let mut target = StoreTarget::new("redb", open_redb, options, workload, measure);
        assert!(target.prepare().is_err(), "{line}");
    }
}
