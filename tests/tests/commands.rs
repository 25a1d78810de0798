//! Every command, with the replies and error texts of Redis 7.2, on nodes of several shapes; and
//! the same requests put to Redis itself, where it is installed.

use std::net::SocketAddr;

use gridkv_tests::client::{Client, ok, text};
use gridkv_tests::data::on_disk;
use gridkv_tests::node::{Node, SHAPES, Shape, builder, with};
use gridkv_tests::redis::Redis;
use gridkv_tests::script::{Mark, Scenario, Step, parse, render};
use gridkv_tests::until;

const TABLES: [(&str, &str); 4] = [
    ("strings.txt", include_str!("../tables/strings.txt")),
    ("keys.txt", include_str!("../tables/keys.txt")),
    ("connection.txt", include_str!("../tables/connection.txt")),
    ("server.txt", include_str!("../tables/server.txt")),
];

fn start(shape: Shape) -> Node {
    Node::open(with(builder(shape), "debug_commands", "true"))
}

/// A new connection to an empty store, and the only one.
fn fresh(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    until("earlier clients are gone", || text(&client.ask("CLIENT LIST")).lines().count() == 1);
    assert_eq!(client.ask("FLUSHALL"), ok());
    client
}

/// The replies to one step; the end of the connection in words.
fn replies(client: &mut Client, step: &Step) -> Vec<String> {
    client.send(&step.words);
    let reply = |client: &mut Client| match client.try_reply_bytes() {
        Ok(bytes) => render(&bytes),
        Err(end) => format!("{end:?}"),
    };
    step.replies.iter().map(|_| reply(client)).collect()
}

/// What differs from the table, one paragraph each.
fn differences(file: &str, scenario: &Scenario, address: SocketAddr) -> Vec<String> {
    let mut client = fresh(address);
    let mut found = Vec::new();
    for step in &scenario.steps {
        for (expected, reply) in step.replies.iter().zip(replies(&mut client, step)) {
            if !expected.is_met_by(&reply) {
                let words = step.words.iter().map(|word| word.escape_ascii().to_string());
                let words = words.collect::<Vec<_>>().join(" ");
                let (line, text) = (step.line, &expected.text);
                found
                    .push(format!("{file}:{line}: {words}\n  expected {text}\n       got {reply}"));
            }
            if ["Closed", "Reset", "Silent"].contains(&reply.as_str()) {
                return found;
            }
        }
    }
    found
}

#[test]
fn every_command_answers_as_the_tables_say() {
    let mut found = Vec::new();
    for shape in SHAPES {
        let node = start(shape);
        for (file, table) in TABLES {
            for scenario in parse(table) {
                let here = differences(file, &scenario, node.address);
                found.extend(here.into_iter().map(|it| format!("{shape:?} {it}")));
            }
        }
        node.stop();
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

/// What the tables say of a store in memory only.
const IN_MEMORY_ONLY: [&str; 2] = ["OBJECT FREQ s", "CONFIG GET appendonly"];

/// Answers wait for the disk, some commands are run twice; and with one shard, one core has none.
#[test]
fn every_command_answers_the_same_on_disk() {
    let mut found = Vec::new();
    for shape in [Shape { cores: 2, shards: 1 }, SHAPES[2]] {
        let place = tempfile::tempdir().unwrap();
        let on_disk = on_disk(shape, &place.path().join("data"));
        let node = Node::open(with(on_disk, "debug_commands", "true"));
        for (file, table) in TABLES {
            for scenario in parse(table) {
                let here = differences(file, &scenario, node.address);
                found.extend(here.into_iter().map(|it| format!("{shape:?} {it}")));
            }
        }
        node.stop();
    }
    found.retain(|it| !IN_MEMORY_ONLY.iter().any(|words| it.contains(&format!(": {words}\n"))));
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn redis_itself_answers_the_same() {
    let Some(redis) = Redis::start() else { return };
    let node = start(SHAPES[1]);
    let mut found = Vec::new();
    for (file, table) in TABLES {
        for scenario in parse(table) {
            let (mut ours, mut theirs) = (fresh(node.address), fresh(redis.address));
            for step in &scenario.steps {
                let (mut here, mut there) = (Vec::new(), Vec::new());
                if !step.replies.iter().any(|reply| reply.mark == Mark::Closed) {
                    here = replies(&mut ours, step);
                    there = replies(&mut theirs, step);
                }
                for (expected, (our, their)) in step.replies.iter().zip(here.iter().zip(&there)) {
                    if !expected.are_same(our, their) {
                        let line = step.line;
                        found.push(format!("{file}:{line}:\n   ours {our}\n  theirs {their}"));
                    }
                }
            }
        }
    }
    node.stop();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn info_tells_the_settings_as_config_set_has_left_them() {
    let node = start(SHAPES[1]);
    let mut client = node.connect();
    let changes = "CONFIG SET maxmemory 100mb maxmemory-policy allkeys-lfu maxclients 77";
    assert_eq!(client.ask(changes), ok());
    let report = client.ask("INFO");
    let report = text(&report);
    for line in ["maxmemory:104857600", "maxmemory_policy:allkeys-lfu", "maxclients:77"] {
        assert!(report.lines().any(|it| it == line), "{line} is not in {report}");
    }
    node.stop();
}
