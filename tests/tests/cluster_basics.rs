//! Three nodes as processes: they find each other in any order, and each serves what any wrote.

use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, bulk, encode, ok, text};
use gridkv_tests::cluster::{Cluster, Spec};
use gridkv_tests::process::say;
use gridkv_tests::program::{command, run};
use gridkv_tests::until;

/// What the program `gridkv status --json` prints.
fn status_of(cluster: &mut Cluster, index: usize) -> serde_json::Value {
    let admin = cluster.members[index].program().admin.to_string();
    let ended = run(command(&["status", "--json", "--admin", &admin]));
    assert!(ended.status.success(), "{ended:?}");
    serde_json::from_str(&ended.out).expect("it is JSON")
}

#[test]
fn nodes_that_start_before_their_seed_wait_for_it() {
    let mut cluster = Cluster::planned(3, &Spec::memory());
    for joiner in [2, 1] {
        cluster.members[joiner].start();
        let error = cluster.members[joiner].connect().ask_error("SET key value");
        assert!(error.starts_with("NOQUORUM "), "{error}");
    }
    cluster.start_all();
    let epochs: Vec<_> = (0..3)
        .map(|index| {
            let status = status_of(&mut cluster, index);
            let states: Vec<_> =
                status["members"].as_array().unwrap().iter().map(|it| &it["state"]).collect();
            assert_eq!(states, ["alive"; 3], "{status:#}");
            assert_eq!(status["standing"], "serving");
            status["epoch"].as_u64()
        })
        .collect();
    assert_eq!(epochs, [Some(3); 3]);
    let table = cluster.members[0].program().admin.to_string();
    let ended = run(command(&["status", "--admin", &table]));
    assert!(ended.status.success() && ended.out.contains("n3"), "{ended:?}");
    assert_eq!(cluster.members[1].connect().ask("SET key value"), Value::Simple(b"OK".to_vec()));
}

/// Requests and what they are answered with, each sent to another node than the one before.
const STORY: [(&str, &str); 62] = [
    ("SET a 1", "OK"),
    ("GET a", "1"),
    ("EXISTS a", "1"),
    ("SET a 2 NX", "-"),
    ("SET a 2 XX", "OK"),
    ("SET a 3 GET", "2"),
    ("GET a", "3"),
    ("INCR a", "4"),
    ("INCR a", "5"),
    ("INCR a", "6"),
    ("DECRBY a 2", "4"),
    ("INCRBYFLOAT a 0.5", "4.5"),
    ("APPEND a x", "4"),
    ("GET a", "4.5x"),
    ("SETRANGE a 2 ZZ", "4"),
    ("GETRANGE a 0 -1", "4.ZZ"),
    ("STRLEN a", "4"),
    ("DEL a", "1"),
    ("GET a", "-"),
    ("EXISTS a", "0"),
    ("DEL a", "0"),
    ("APPEND a y", "1"),
    ("GETDEL a", "y"),
    ("GETDEL a", "-"),
    ("MSET a 1 b 2 c 3 d 4 e 5", "OK"),
    ("MGET e d c b a z", "5 4 3 2 1 -"),
    ("EXISTS a b c d e z", "5"),
    ("DBSIZE", "5"),
    ("DBSIZE", "5"),
    ("DBSIZE", "5"),
    ("KEYS [ab]", "2"),
    ("MSETNX f 1 a 2", "0"),
    ("GET f", "-"),
    ("MSETNX f 6 g 7", "1"),
    ("MGET f g", "6 7"),
    ("RENAME f h", "OK"),
    ("MGET f h", "- 6"),
    ("RENAMENX h g", "0"),
    ("COPY g i", "1"),
    ("COPY g h", "0"),
    ("COPY g h REPLACE", "1"),
    ("MGET g h i", "7 7 7"),
    ("TTL a", "-1"),
    ("TTL z", "-2"),
    ("EXPIRE a 1000", "1"),
    ("TTL a", "1000"),
    ("PERSIST a", "1"),
    ("TTL a", "-1"),
    ("PERSIST a", "0"),
    ("GETEX a EX 1000", "1"),
    ("TTL a", "1000"),
    ("SET a 9 KEEPTTL", "OK"),
    ("TTL a", "1000"),
    ("SET a 9", "OK"),
    ("TTL a", "-1"),
    ("UNLINK b c nothing", "2"),
    ("MGET b c", "- -"),
    ("TYPE a", "string"),
    ("PEXPIRE d 1", "1"),
    ("FLUSHALL", "OK"),
    ("DBSIZE", "0"),
    ("RANDOMKEY", "-"),
];

/// A reply in words: of keys, how many there are.
fn words(request: &str, reply: &Value) -> String {
    match reply {
        Value::Array(items) if request.starts_with("KEYS") => items.len().to_string(),
        Value::Array(items) => {
            items.iter().map(|it| words(request, it)).collect::<Vec<_>>().join(" ")
        }
        Value::Integer(number) => number.to_string(),
        Value::Null => "-".to_owned(),
        Value::Bulk(_) | Value::Simple(_) => text(reply),
        other => format!("{other:?}"),
    }
}

#[test]
fn each_node_serves_what_the_others_wrote_at_every_level() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    for level in ["quorum", "all", "linearizable", "2"] {
        let mut clients: Vec<Client> =
            cluster.members.iter_mut().map(|member| member.connect_at(level)).collect();
        for (index, (request, expected)) in STORY.iter().enumerate() {
            let reply = words(request, &clients[index % 3].ask(request));
            let is_time = request.starts_with("TTL") && reply == "999" && *expected == "1000";
            assert!(reply == *expected || is_time, "{level}: {request}: {reply}, not {expected}");
        }
    }
    // What all replicas have is read from any one of them.
    for writer in 0..3 {
        let (mut all, key) = (cluster.members[writer].connect_at("all"), format!("by:{writer}"));
        for number in 0..20 {
            assert_eq!(all.ask(&format!("SET {key}:{number} {number}")), ok());
        }
        for reader in 0..3 {
            let mut one = cluster.members[reader].connect_at("one");
            for number in 0..20 {
                assert_eq!(one.ask(&format!("GET {key}:{number}")), bulk(number.to_string()));
            }
        }
    }
    // What one replica has is read where all are asked.
    let (mut one, mut all) =
        (cluster.members[1].connect_at("one"), cluster.members[2].connect_at("all"));
    for number in 0..50 {
        assert_eq!(one.ask(&format!("SET few:{number} {number}")), ok());
        assert_eq!(all.ask(&format!("GET few:{number}")), bulk(number.to_string()));
    }
    walk(&mut cluster);
}

/// Every node lists all keys once, and picks one of them.
fn walk(cluster: &mut Cluster) {
    for member in &mut cluster.members {
        let mut client = member.connect();
        let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
        loop {
            let Value::Array(reply) = client.ask(&format!("SCAN {cursor} COUNT 10")) else {
                panic!("a cursor and keys")
            };
            let Value::Array(found) = &reply[1] else { panic!("keys") };
            keys.extend(found.iter().map(text));
            cursor = text(&reply[0]);
            if cursor == "0" {
                break;
            }
        }
        keys.sort_unstable();
        let mut expected: Vec<String> = (0..50).map(|number| format!("few:{number}")).collect();
        expected.extend((0..3).flat_map(|by| (0..20).map(move |it| format!("by:{by}:{it}"))));
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert!(expected.contains(&text(&client.ask("RANDOMKEY"))));
        assert_eq!(client.ask("DBSIZE"), Value::Integer(110));
    }
}

#[test]
fn counts_from_all_nodes_add_up() {
    const COUNT: i64 = 100;
    let mut cluster = Cluster::start(3, &Spec::memory());
    let clients: Vec<Client> = (0..6).map(|number| cluster.members[number % 3].connect()).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                let (mut known, mut unknown) = ([0; 6], [0; 6]);
                let mut seen = Vec::new();
                for number in 0..COUNT {
                    // Every other one on the key that all count on.
                    let key =
                        if number % 2 == 0 { 0 } else { usize::try_from(number % 6).unwrap() };
                    match client.ask(&format!("INCR count:{key}")) {
                        Value::Integer(found) => {
                            known[key] += 1;
                            seen.push((key, found));
                        }
                        Value::Error(error) if error.starts_with(b"UNKNOWN") => unknown[key] += 1,
                        Value::Error(error) if error.starts_with(b"NOQUORUM") => {}
                        other => panic!("{other:?}"),
                    }
                }
                (known, unknown, seen)
            })
        })
        .collect();
    let (mut known, mut unknown, mut seen) = ([0; 6], [0; 6], Vec::new());
    for thread in threads {
        let (more_known, more_unknown, more_seen) = thread.join().unwrap();
        for key in 0..6 {
            known[key] += more_known[key];
            unknown[key] += more_unknown[key];
        }
        seen.extend(more_seen);
    }
    say(&format!("{known:?} counted, {unknown:?} of unknown outcome"));
    let seen_count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), seen_count, "two clients were given the same number");
    for member in &mut cluster.members {
        let mut client = member.connect();
        for key in 0..6 {
            let found = text(&client.ask(&format!("GET count:{key}")));
            let found: i64 = if found.is_empty() { 0 } else { found.parse().unwrap() };
            assert!((known[key]..=known[key] + unknown[key]).contains(&found), "{key}: {found}");
        }
    }
}

/// More requests at once than a connection has under way: the replies to the first ones let the next
/// ones in, while the cluster is at work.
#[test]
fn every_request_of_a_long_pipeline_is_the_clusters() {
    const COUNT: usize = 2_000;
    let mut cluster = Cluster::start(3, &Spec::memory());
    let mut client = cluster.members[0].connect_at("all");
    let key = |number: usize| format!("key:{number}");
    let all: Vec<u8> = (0..COUNT).flat_map(|it| encode(&["SET", &key(it), "value"])).collect();
    client.send_raw(&all);
    for number in 0..COUNT {
        assert_eq!(client.reply(), ok(), "{number}");
    }
    for member in &mut cluster.members {
        let mut client = member.connect_at("one");
        for number in 0..COUNT {
            let found = client.call(&["GET", &key(number)]);
            assert_eq!(found, bulk("value"), "{number} at {}", member.name);
        }
    }
    // And what is read: a copy that a node lacks is another node's to tell.
    let mut client = cluster.members[1].connect_at("one");
    let before = cluster.members[1].metric("gridkv_cluster_begun_total");
    let all: Vec<u8> = (0..COUNT).flat_map(|it| encode(&["GET", &key(it)])).collect();
    client.send_raw(&all);
    (0..COUNT).for_each(|_| assert_eq!(client.reply(), bulk("value")));
    let begun = cluster.members[1].metric("gridkv_cluster_begun_total") - before;
    assert_eq!(begun, COUNT as u64);
}

/// Whoever claims a job by deleting its key must be the only one.
#[test]
fn of_those_who_delete_a_key_at_once_one_has_deleted_it() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    for level in ["one", "quorum"] {
        let mut clients: Vec<_> =
            cluster.members.iter_mut().map(|it| it.connect_at(level)).collect();
        for number in 0..100 {
            let key = format!("{level}:{number}");
            assert_eq!(clients[number % 3].call(&["SET", &key, "job"]), ok());
            for client in &mut clients {
                client.send(&["DEL", &key]);
            }
            let replies: Vec<_> = clients.iter_mut().map(|it| it.reply()).collect();
            let count = replies.iter().filter(|reply| **reply == Value::Integer(1)).count();
            assert_eq!(count, 1, "{key}: {replies:?}");
        }
    }
}

/// At `linearizable` a key ends once: whoever asks after one was told that it is gone is told the same.
#[test]
fn a_key_with_an_expiry_ends_once_for_all_nodes() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let mut clients: Vec<Client> =
        cluster.members.iter_mut().map(|it| it.connect_at("linearizable")).collect();
    for round in 0..5 {
        assert_eq!(clients[0].ask("SET counter 100 PX 150"), ok());
        // A change keeps the expiry, wherever it is made.
        if clients[1].ask("INCR counter") == Value::Integer(1) {
            // On a slow machine it was over before.
            clients[1].ask("DEL counter");
        }
        let mut asked = 0;
        until("the key ends", || {
            asked += 1;
            clients[asked % 3].ask("GET counter") == Value::Null
        });
        for client in &mut clients {
            assert_eq!(client.ask("GET counter"), Value::Null, "round {round}, after {asked}");
            assert_eq!(client.ask("EXISTS counter"), Value::Integer(0));
            assert_eq!(client.ask("PTTL counter"), Value::Integer(-2));
        }
    }
}
