//! What slots hold: CLUSTER KEYSLOT, COUNTKEYSINSLOT and GETKEYSINSLOT, on a node alone and in a cluster.

use std::collections::{BTreeMap, BTreeSet};

use gridkv_cluster::Slot;
use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, ok, text};
use gridkv_tests::cluster::{Cluster, Spec};
use gridkv_tests::data::on_disk;
use gridkv_tests::node::{Node, SHAPES};
use gridkv_tests::until;

/// Keys by their slots.
type Slots = BTreeMap<u16, BTreeSet<String>>;

fn slot_of(key: &str) -> u16 {
    Slot::of(key.as_bytes()).number()
}

fn key_slot(client: &mut Client, key: &str) -> Value {
    client.call(&["CLUSTER", "KEYSLOT", key])
}

fn count(client: &mut Client, slot: u16) -> u64 {
    match client.ask(&format!("CLUSTER COUNTKEYSINSLOT {slot}")) {
        Value::Integer(count) => u64::try_from(count).expect("a count"),
        other => panic!("a count, not {other:?}"),
    }
}

fn keys(client: &mut Client, slot: u16, count_max: u64) -> Vec<String> {
    match client.ask(&format!("CLUSTER GETKEYSINSLOT {slot} {count_max}")) {
        Value::Array(keys) => keys.iter().map(text).collect(),
        other => panic!("keys, not {other:?}"),
    }
}

/// All slots that have keys, their neighbours, and the ends.
fn interesting(slots: &Slots) -> BTreeSet<u16> {
    let near = |slot: &u16| [slot.saturating_sub(1), *slot, (*slot + 1).min(16_383)];
    slots.keys().flat_map(near).chain([0, 16_383]).collect()
}

/// Fails unless the node says of each slot what `slots` says.
fn assert_slots(client: &mut Client, slots: &Slots) {
    for slot in interesting(slots) {
        let nothing = BTreeSet::new();
        let expected = slots.get(&slot).unwrap_or(&nothing);
        assert_eq!(count(client, slot), expected.len() as u64, "slot {slot}");
        let found = keys(client, slot, 1_000_000);
        assert_eq!(found.len(), expected.len(), "a key is shown once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), *expected, "slot {slot}");
    }
}

#[test]
fn a_key_has_the_slot_that_redis_cluster_gives_it() {
    let node = Node::on_one_core();
    let mut client = node.connect();
    for (key, slot) in [("foo", 12_182), ("somekey", 11_058), ("foo{hash_tag}", 2_515), ("", 0)] {
        assert_eq!(key_slot(&mut client, key), Value::Integer(slot), "{key}");
    }
    for (key, same) in [
        ("{user1000}.following", "user1000"),
        ("{user1000}.followers", "user1000"),
        ("foo{bar}{zap}", "bar"),
        ("foo{{bar}}zap", "{bar"),
    ] {
        assert_eq!(key_slot(&mut client, key), key_slot(&mut client, same), "{key}");
    }
    // Nothing between the first two braces: the whole key counts.
    assert_ne!(key_slot(&mut client, "foo{}{bar}"), key_slot(&mut client, "bar"));
    node.stop();
}

#[test]
fn slots_hold_the_keys_that_are_live_on_nodes_of_any_shape() {
    for shape in SHAPES {
        let place = tempfile::tempdir().unwrap();
        let in_memory = Node::start(shape);
        let stored = Node::open(on_disk(shape, &place.path().join("data")));
        for node in [in_memory, stored] {
            let mut client = node.connect();
            let mut slots = Slots::new();
            let (tagged, plain) = (0..40, 0..40);
            let names = tagged.map(|number| format!("{{user1000}}.{number}"));
            for key in names.chain(plain.map(|number| format!("key:{number}"))) {
                assert_eq!(client.call(&["SET", &key, "value"]), ok());
                slots.entry(slot_of(&key)).or_default().insert(key);
            }
            assert_slots(&mut client, &slots);
            let tag = slot_of("user1000");
            assert_eq!(count(&mut client, tag), 40);

            let gone: Vec<String> = (0..10).map(|it| format!("{{user1000}}.{it}")).collect();
            gone.iter().for_each(|key| assert_eq!(client.call(&["DEL", key]), Value::Integer(1)));
            let dying: Vec<String> = (10..15).map(|it| format!("{{user1000}}.{it}")).collect();
            dying.iter().for_each(|key| {
                assert_eq!(client.call(&["PEXPIRE", key, "1"]), Value::Integer(1));
            });
            slots.entry(tag).or_default().retain(|it| !gone.contains(it) && !dying.contains(it));
            until("five keys have expired", || count(&mut client, tag) == 25);
            assert_slots(&mut client, &slots);

            assert_eq!(client.ask("FLUSHALL"), ok());
            let empty: Slots = slots.keys().map(|slot| (*slot, BTreeSet::new())).collect();
            assert_slots(&mut client, &empty);
            node.stop();
        }
    }
}

#[test]
fn a_slot_of_many_keys_is_counted_in_steps_and_shown_as_far_as_asked_for() {
    for shape in SHAPES {
        let node = Node::start(shape);
        let store = node.engine.handle().blocking();
        let many = 20_000;
        for number in 0..many {
            store.set(format!("{{tag}}{number}"), "v").unwrap();
        }
        let mut client = node.connect();
        let slot = slot_of("tag");
        assert_eq!(count(&mut client, slot), many);
        let all = keys(&mut client, slot, u64::from(u32::MAX));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len() as u64, many);
        assert_eq!(all.len() as u64, many);
        for wanted in [0, 1, 7, 1_000, many - 1, many] {
            assert_eq!(keys(&mut client, slot, wanted).len() as u64, wanted);
        }
        node.stop();
    }
}

#[test]
fn what_is_no_slot_or_no_number_is_refused_in_the_words_of_redis() {
    let node = Node::on_two_cores();
    let mut client = node.connect();
    let not_an_integer = "ERR value is not an integer or out of range";
    for (line, error) in [
        ("CLUSTER COUNTKEYSINSLOT 16384", "ERR Invalid slot"),
        ("CLUSTER COUNTKEYSINSLOT -1", "ERR Invalid slot"),
        ("CLUSTER COUNTKEYSINSLOT 65536", "ERR Invalid slot"),
        ("CLUSTER COUNTKEYSINSLOT x", not_an_integer),
        ("CLUSTER GETKEYSINSLOT 16384 1", "ERR Invalid slot or number of keys"),
        ("CLUSTER GETKEYSINSLOT 0 -1", "ERR Invalid slot or number of keys"),
        ("CLUSTER GETKEYSINSLOT 0 x", not_an_integer),
        ("CLUSTER GETKEYSINSLOT x 1", not_an_integer),
    ] {
        assert_eq!(client.ask_error(line), error, "{line}");
    }
    for name in ["keyslot", "countkeysinslot", "getkeysinslot"] {
        let error = client.ask_error(&format!("CLUSTER {name}"));
        let expected = format!("ERR wrong number of arguments for 'cluster|{name}' command");
        assert_eq!(error, expected);
    }
    let error = client.ask_error("CLUSTER INFO");
    assert_eq!(error, "ERR This instance has cluster support disabled");
    node.stop();
}

#[test]
fn a_node_of_a_cluster_counts_its_own_copies() {
    let mut cluster = Cluster::start(3, &Spec::memory().with("--replicas 2"));
    let mut writer = cluster.members[0].connect_at("all");
    for number in 0..50 {
        assert_eq!(writer.ask(&format!("SET {{tag}}{number} value")), ok());
    }
    let slot = slot_of("tag");
    let mut counts: Vec<u64> = cluster
        .members
        .iter_mut()
        .map(|member| {
            let mut client = member.connect();
            let (counted, shown) = (count(&mut client, slot), keys(&mut client, slot, 1_000));
            assert_eq!(shown.len() as u64, counted);
            counted
        })
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 50, 50], "each key has two copies");
}
