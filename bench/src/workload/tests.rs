use std::collections::BTreeSet;

use super::*;

fn workload() -> Workload {
    Workload {
        name: None,
        key_count: 1000,
        key_sizes: Sizes::Fixed(16),
        value_sizes: Sizes::Uniform(8, 32),
        is_distinct: false,
        mix: Mix::of_reads(0.25),
        commands: Vec::new(),
        distribution: Distribution::Zipfian { theta: 0.99 },
        scan_rows: (1, 10),
        time_to_live: None,
        seed: 42,
    }
}

fn part(index: u64) -> Part {
    Part { index, count: 8, in_flight_max: 4 }
}

type Owned = (Operation, u64, Vec<u8>, Vec<u8>);

fn draw(generator: &mut Generator, count: usize) -> Vec<Owned> {
    (0..count)
        .map(|_| {
            let it = generator.draw();
            (it.operation, it.key_index, it.key.to_vec(), it.value.to_vec())
        })
        .collect()
}

#[test]
fn a_seed_and_a_stream_determine_every_request() {
    for is_distinct in [false, true] {
        let workload = Workload { is_distinct, ..workload() };
        let first = draw(&mut workload.requests(part(3)), 1000);
        assert_eq!(first, draw(&mut workload.requests(part(3)), 1000));
        assert_ne!(first, draw(&mut workload.requests(part(4)), 1000));
        let other = Workload { seed: 43, ..workload };
        assert_ne!(first, draw(&mut other.requests(part(3)), 1000));
    }
}

#[test]
fn reads_and_value_sizes_are_as_asked() {
    let requests = draw(&mut workload().requests(part(0)), 100_000);
    let reads = requests.iter().filter(|it| it.0 == Operation::Get).count();
    assert!(reads.abs_diff(25_000) < 1000, "{reads}");
    for (operation, _, key, value) in &requests {
        assert_eq!(key.len(), 16);
        match operation {
            Operation::Get => assert!(value.is_empty()),
            _ => assert!((8..=32).contains(&value.len())),
        }
    }
    for bytes in [8, 32] {
        assert!(requests.iter().any(|it| it.3.len() == bytes));
    }
}

#[test]
fn loading_writes_every_key_once() {
    let workload = workload();
    let mut keys = Vec::new();
    for part in 0..3 {
        let range = workload.loading_range(part, 3);
        let count = usize::try_from(range.end - range.start).unwrap();
        let requests = draw(&mut workload.loading(range), count);
        assert!(requests.iter().all(|it| it.0 == Operation::Set));
        keys.extend(requests.into_iter().map(|it| it.2));
    }
    let all: Vec<Vec<u8>> = (0..1000).map(|key| format!("key:{key:012}").into_bytes()).collect();
    assert_eq!(keys, all);
}

#[test]
fn values_do_not_repeat() {
    let value_sizes = Sizes::Uniform(16, 32);
    let workload = Workload { value_sizes, ..workload() };
    let values: BTreeSet<Vec<u8>> =
        draw(&mut workload.loading(0..1000), 1000).into_iter().map(|it| it.3).collect();
    assert_eq!(values.len(), 1000);
}

#[test]
fn what_was_drawn_can_be_had_again() {
    let mut generator = Workload { is_distinct: true, ..workload() }.requests(part(0));
    for _ in 0..100 {
        let request = generator.draw();
        let (index, id) = (request.key_index, request.value_id);
        let (key, value) = (request.key.to_vec(), request.value.to_vec());
        generator.draw();
        assert_eq!(generator.key(index), key);
        assert_eq!(generator.key_and_value(index, id), (&key[..], &value[..]));
    }
}

#[test]
fn threads_insert_different_keys_and_read_only_what_is_there() {
    let mix = Mix::new(&[(Operation::Get, 0.5), (Operation::Insert, 0.5)]).unwrap();
    let distribution = Distribution::Latest { theta: 0.99 };
    let workload = Workload { mix, distribution, ..workload() };
    let mut inserted = BTreeSet::new();
    for index in 0..8 {
        let mut own = Vec::new();
        for (operation, key, ..) in draw(&mut workload.requests(part(index)), 1000) {
            if operation == Operation::Insert {
                assert!(inserted.insert(key), "{key} twice");
                own.push(key);
            } else {
                let settled = &own[..own.len().saturating_sub(4)];
                assert!(key < 1000 || settled.contains(&key), "{key}");
            }
        }
        assert!(own.len() > 400);
    }
    // As if one thread had inserted them all: no gap before the slowest.
    assert!((1000..1000 + 8 * 400).all(|key| inserted.contains(&key)));
}

#[test]
fn the_newest_keys_are_read_most() {
    let mix = Mix::new(&[(Operation::Get, 0.5), (Operation::Insert, 0.5)]).unwrap();
    let distribution = Distribution::Latest { theta: 0.99 };
    let workload = Workload { mix, distribution, ..workload() };
    let mut generator = workload.requests(Part { index: 0, count: 1, in_flight_max: 0 });
    let mut newest = 999;
    let (mut reads, mut of_newest) = (0, 0);
    for (operation, key, ..) in draw(&mut generator, 20_000) {
        if operation == Operation::Insert {
            newest = key;
        } else {
            reads += 1;
            of_newest += u32::from(key == newest);
        }
    }
    // One in zeta(1000, 0.99), which is 7.7.
    assert!(
        (f64::from(of_newest) / f64::from(reads) - 0.13).abs() < 0.02,
        "{of_newest} of {reads}"
    );
}

#[test]
fn scans_read_neighbours_that_are_there() {
    let mix = Mix::new(&[(Operation::Scan, 1.0)]).unwrap();
    let mut generator = Workload { mix, ..workload() }.requests(part(0));
    let mut lengths = BTreeSet::new();
    let mut keys = workload().key_buffer();
    for _ in 0..10_000 {
        let request = generator.draw();
        assert_eq!(request.rows[0], request.key);
        for (row, index) in request.rows.iter().zip(request.key_index..) {
            assert!(index < 1000);
            assert_eq!(keys.write(index), row);
        }
        lengths.insert(request.rows.len());
    }
    assert_eq!(lengths, (1..=10).collect());
}

#[test]
fn times_to_live_are_within_their_bounds() {
    let bounds = (Duration::from_secs(10), Duration::from_secs(20));
    let mut generator = Workload { time_to_live: Some(bounds), ..workload() }.loading(0..1000);
    let drawn: Vec<Duration> = (0..1000).map(|_| generator.draw().time_to_live.unwrap()).collect();
    assert!(drawn.iter().all(|it| (bounds.0..=bounds.1).contains(it)));
    assert!(drawn.iter().any(|it| *it < Duration::from_secs(11)));
    assert!(drawn.iter().any(|it| *it > Duration::from_secs(19)));
}
