//! What clients of Redis' cluster are shown: slots as they are placed, addresses that they can connect
//! to, and each key once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use gridkv_cluster::Slot;
use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, ok, text};
use gridkv_tests::cluster::{Cluster, Spec};
use gridkv_tests::until;

/// What CLUSTER SLOTS says of one slot: who keeps it, the master first, by host and port.
type Slots = BTreeMap<u16, Vec<(String, u16)>>;

fn items(value: &Value) -> &[Value] {
    let Value::Array(items) = value else { panic!("an array, not {value:?}") };
    items
}

fn number<T: TryFrom<i64>>(value: &Value) -> T {
    let Value::Integer(number) = value else { panic!("a number, not {value:?}") };
    T::try_from(*number).ok().expect("a small number")
}

fn slots(client: &mut Client) -> Slots {
    let mut slots = Slots::new();
    for run in items(&client.ask("CLUSTER SLOTS")) {
        let [first, last, nodes @ ..] = items(run) else { panic!("a run, not {run:?}") };
        let node = |node| (text(&items(node)[0]), number(&items(node)[1]));
        let nodes: Vec<_> = nodes.iter().map(node).collect();
        for slot in number::<u16>(first)..=number::<u16>(last) {
            assert!(slots.insert(slot, nodes.clone()).is_none(), "slot {slot} is shown twice");
        }
    }
    slots
}

/// The fields of a line of CLUSTER NODES, by the node's address.
fn nodes(client: &mut Client) -> BTreeMap<(String, u16), Vec<String>> {
    let lines = text(&client.ask("CLUSTER NODES"));
    let node = |line: &str| {
        let fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (address, _) = fields[1].split_once('@').expect("a port for nodes");
        let (host, port) = address.rsplit_once(':').expect("a port");
        ((host.to_owned(), port.parse().expect("a port")), fields)
    };
    lines.lines().map(node).collect()
}

/// The slots in a line of CLUSTER NODES, and how many there are.
fn slots_of(fields: &[String]) -> BTreeSet<u16> {
    let range = |range: &String| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<u16>().expect("a slot")..=last.parse::<u16>().expect("a slot")
    };
    fields[8..].iter().flat_map(range).collect()
}

/// The masters of CLUSTER SHARDS with their slots, and how many nodes each shard has.
fn shards(client: &mut Client) -> BTreeMap<(String, u16), (BTreeSet<u16>, usize)> {
    let reply = client.ask("CLUSTER SHARDS");
    let shard = |shard: &Value| {
        let [_, ranges, _, nodes] = items(shard) else { panic!("a shard, not {shard:?}") };
        let ranges = items(ranges).chunks(2);
        let slots = ranges.flat_map(|it| number::<u16>(&it[0])..=number::<u16>(&it[1])).collect();
        let nodes = items(nodes);
        let field = |node: &Value, name: &str| {
            let pairs = items(node).chunks(2);
            pairs.into_iter().find(|it| text(&it[0]) == name).expect("a field")[1].clone()
        };
        let roles: Vec<String> = nodes.iter().map(|node| text(&field(node, "role"))).collect();
        assert_eq!(roles[0], "master");
        assert!(roles[1..].iter().all(|role| role == "replica"), "{roles:?}");
        let (host, port) = (field(&nodes[0], "endpoint"), field(&nodes[0], "port"));
        ((text(&host), number(&port)), (slots, nodes.len()))
    };
    items(&reply).iter().map(shard).collect()
}

fn info(client: &mut Client, line: &str) -> BTreeMap<String, String> {
    let text = text(&client.ask(line));
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn every_node_shows_the_slots_as_they_are_placed() {
    let mut cluster = Cluster::start(5, &Spec::memory().with("--replicas 2"));
    let mut writer = cluster.members[0].connect_at("all");
    (0..300).for_each(|it| assert_eq!(writer.ask(&format!("SET key:{it} value")), ok()));
    let mut clients: Vec<Client> = cluster.members.iter_mut().map(|it| it.connect()).collect();
    let placed = slots(&mut clients[0]);
    assert_eq!(placed.len(), 16_384);
    let masters: BTreeSet<_> = placed.values().map(|nodes| nodes[0].clone()).collect();
    assert_eq!(masters.len(), 5);
    // One slot of each master comes without replicas, before they are named as such.
    assert_eq!(placed.values().filter(|nodes| nodes.len() == 1).count(), 5);
    let mut named = BTreeSet::new();
    for run in items(&clients[1].ask("CLUSTER SLOTS")) {
        let master = number::<u16>(&items(&items(run)[2])[1]);
        assert!(named.len() == 5 || items(run).len() == 3);
        named.insert(master);
    }
    let mut by_port: BTreeMap<u16, Client> =
        cluster.members.iter_mut().map(|it| (it.program().address.port(), it.connect())).collect();
    // Whoever is named has the keys, and nobody else.
    for number in 0..300 {
        let slot = Slot::of(format!("key:{number}").as_bytes()).number();
        if placed[&slot].len() == 1 {
            continue;
        }
        let named: BTreeSet<u16> = placed[&slot].iter().map(|(_, port)| *port).collect();
        for (port, client) in &mut by_port {
            let count = client.ask(&format!("CLUSTER COUNTKEYSINSLOT {slot}"));
            assert_eq!(count != Value::Integer(0), named.contains(port), "slot {slot} at {port}");
        }
    }
    for client in &mut clients {
        let told = slots(client);
        assert_eq!(told, placed);
        let (nodes, shards) = (nodes(client), shards(client));
        let id = text(&client.ask("CLUSTER MYID"));
        let own: Vec<_> = nodes.values().filter(|it| it[2].starts_with("myself")).collect();
        assert!(own.len() == 1 && own[0][0] == id, "{own:?}");
        for (address, fields) in &nodes {
            assert_eq!(fields[2].trim_start_matches("myself,"), "master");
            let led = told.iter().filter(|(_, nodes)| nodes[0] == *address);
            let led: BTreeSet<u16> = led.map(|(slot, _)| *slot).collect();
            assert_eq!(slots_of(fields), led);
            assert_eq!(shards[address].0, led);
        }
        assert_eq!(info(client, "INFO cluster")["cluster_enabled"], "1");
        assert_eq!(info(client, "INFO server")["redis_mode"], "cluster");
        let enabled = client.ask("CONFIG GET cluster-enabled");
        assert_eq!(text(&items(&enabled)[1]), "yes");
        let state = info(client, "CLUSTER INFO");
        for (name, expected) in [
            ("cluster_enabled", "1"),
            ("cluster_state", "ok"),
            ("cluster_slots_assigned", "16384"),
            ("cluster_slots_ok", "16384"),
            ("cluster_known_nodes", "5"),
            ("cluster_size", "5"),
        ] {
            assert_eq!(state[name], expected, "{name}");
        }
    }
}

#[test]
fn the_slots_of_a_node_that_is_gone_are_led_by_those_that_have_copies() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let mut client = cluster.members[0].connect();
    let all = shards(&mut client);
    assert!(all.values().all(|(_, count)| *count == 3), "all have copies of all slots: {all:?}");
    let before = slots(&mut client);
    let gone = cluster.members[2].program().address.port();
    cluster.members[2].kill();
    cluster.wait_for_state(0, 2, "dead");
    let after = slots(&mut client);
    assert_eq!(after.len(), 16_384);
    for (slot, nodes) in &after {
        assert!(nodes.iter().all(|(_, port)| *port != gone), "slot {slot} at {nodes:?}");
        let was = &before[slot];
        if was[0].1 != gone {
            assert_eq!(nodes[0], was[0], "who answers leads what it led");
        }
    }
    let state = info(&mut client, "CLUSTER INFO");
    assert_eq!((&*state["cluster_state"], &*state["cluster_size"]), ("ok", "2"));
    let fields: Vec<_> = nodes(&mut client).into_iter().filter(|it| it.0.1 == gone).collect();
    assert_eq!((&*fields[0].1[2], fields[0].1.len()), ("master,fail", 8));
    // One of three copies is no quorum: neither for this, nor for who asks whether it is ready.
    cluster.members[1].kill();
    until("the cluster fails", || info(&mut client, "CLUSTER INFO")["cluster_state"] == "fail");
    assert_eq!(info(&mut client, "CLUSTER INFO")["cluster_slots_fail"], "16384");
    assert_eq!(cluster.members[0].program().page("/readyz").0, 503);
}

/// The hosts that CLUSTER SLOTS, SHARDS and NODES name.
fn hosts(client: &mut Client) -> BTreeSet<(String, u16)> {
    let in_slots = slots(client).into_values().flatten();
    let hosts = in_slots.chain(shards(client).into_keys()).chain(nodes(client).into_keys());
    hosts.collect()
}

#[test]
fn clients_are_told_where_they_have_reached_a_node_and_what_the_others_announce() {
    let mut cluster = Cluster::planned(3, &Spec::memory());
    for member in &mut cluster.members {
        member.host = [0, 0, 0, 0].into();
    }
    let named = ["--announce", "node-2.example:1234"].map(str::to_owned);
    cluster.members[1].arguments.extend(named);
    cluster.start_all();
    let ports: Vec<u16> =
        cluster.members.iter_mut().map(|it| it.program().address.port()).collect();
    let reached = |host: [u8; 4], at: usize| Client::connect(SocketAddr::from((host, ports[at])));
    let set = |nodes: [(&str, u16); 3]| {
        nodes.map(|(host, port)| (host.to_owned(), port)).into_iter().collect::<BTreeSet<_>>()
    };
    // What listens everywhere is reached where its node is.
    let ips: Vec<String> = cluster.members.iter().map(|it| it.address.ip().to_string()).collect();
    let announced = ("node-2.example", 1_234);
    let (first, third) = ((&*ips[0], ports[0]), (&*ips[2], ports[2]));
    for host in [[127, 0, 0, 1], [127, 0, 0, 7]] {
        let name = std::net::Ipv4Addr::from(host).to_string();
        let own = (&*name, ports[0]);
        assert_eq!(hosts(&mut reached(host, 0)), set([own, announced, third]));
        // Who announces a name is told by it, however it was reached.
        assert_eq!(hosts(&mut reached(host, 1)), set([first, announced, third]));
    }
    let line = text(&reached([127, 0, 0, 1], 0).ask("CLUSTER NODES"));
    let hostname =
        format!("node-2.example:1234@{},node-2.example ", cluster.members[1].address.port());
    assert!(line.contains(&hostname), "{line}");
    let status = cluster.members[0].status();
    let members = status["members"].as_array().expect("members").iter();
    let told: BTreeSet<&str> = members.filter_map(|it| it["clients"].as_str()).collect();
    let at = |(host, port): (&str, u16)| format!("{host}:{port}");
    assert_eq!(told, [&*at(first), &*at(announced), &*at(third)].into());
}

/// A connection as libraries make them.
fn library(member: &mut gridkv_tests::cluster::Member, version: &str) -> Client {
    let mut client = member.connect();
    assert_eq!(client.ask("CLIENT SETINFO LIB-NAME library"), ok());
    assert_eq!(client.ask(&format!("CLIENT SETINFO LIB-VER {version}")), ok());
    client
}

fn scan(client: &mut Client, options: &str) -> Vec<String> {
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    loop {
        let reply = client.ask(&format!("SCAN {cursor} {options}"));
        let [next, found] = items(&reply) else { panic!("a cursor and keys, not {reply:?}") };
        keys.extend(items(found).iter().map(text));
        cursor = text(next);
        if cursor == "0" {
            return keys;
        }
    }
}

/// Fails unless these connections to all masters show each of `count` keys once.
fn assert_each_once(clients: &mut [Client], count: usize) {
    for options in ["COUNT 7", "COUNT 1000", "COUNT 100 MATCH key:*"] {
        let keys: Vec<String> = clients.iter_mut().flat_map(|it| scan(it, options)).collect();
        assert_eq!(keys.len(), count, "each key is shown once");
        assert_eq!(keys.into_iter().collect::<BTreeSet<_>>().len(), count);
    }
    let (mut sum, mut keys) = (0, BTreeSet::new());
    for client in clients {
        let listed = client.ask("KEYS *");
        let part = number::<usize>(&client.ask("DBSIZE"));
        assert_eq!(items(&listed).len(), part);
        assert!(part > 0 && part < count, "a part of all keys: {part}");
        sum += part;
        keys.extend(items(&listed).iter().map(text));
    }
    assert_eq!((sum, keys.len()), (count, count));
}

#[test]
fn a_client_that_knows_of_the_cluster_is_shown_each_key_once() {
    const COUNT: usize = 200;
    let mut cluster = Cluster::start(4, &Spec::memory());
    let mut writer = cluster.members[0].connect_at("all");
    (0..COUNT).for_each(|it| assert_eq!(writer.ask(&format!("SET key:{it} value")), ok()));
    let all = |client: &mut Client| {
        assert_eq!(scan(client, "COUNT 50").len(), COUNT);
        assert_eq!(items(&client.ask("KEYS *")).len(), COUNT);
        assert_eq!(client.ask("DBSIZE"), Value::Integer(200));
    };
    // Connections of a library that nobody has asked with yet.
    let mut early: Vec<Client> = cluster.members.iter_mut().map(|it| library(it, "1.0")).collect();
    all(&mut early[0]);
    // It asks one node, and closes that connection.
    slots(&mut library(&mut cluster.members[3], "1.0"));
    let mut clients: Vec<Client> =
        cluster.members.iter_mut().map(|it| library(it, "1.0")).collect();
    assert_each_once(&mut clients, COUNT);
    // What a connection was found to be at its first such command it stays.
    all(&mut early[0]);
    // Others are shown all keys by any node: who has another library, or none, or only looks.
    for member in &mut cluster.members {
        all(&mut library(member, "2.0"));
        let mut person = member.connect();
        nodes(&mut person);
        all(&mut person);
    }
    // Who asks every node itself needs no name; who says what it wants is given that.
    let mut clients: Vec<Client> = cluster.members.iter_mut().map(|it| it.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(slots(client).len(), 16_384));
    assert_each_once(&mut clients, COUNT);
    for client in &mut clients {
        assert_eq!(client.ask("GRIDKV SCOPE"), Value::Bulk(b"node".to_vec()));
        assert_eq!(client.ask("GRIDKV SCOPE cluster"), ok());
        assert_eq!(slots(client).len(), 16_384);
        all(client);
        assert_eq!(client.ask("GRIDKV SCOPE node"), ok());
    }
    assert_each_once(&mut clients, COUNT);
    let mut clients: Vec<Client> = cluster.members.iter_mut().map(|it| it.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("READONLY"), ok()));
    assert_each_once(&mut clients, COUNT);
}

#[test]
fn of_flushes_that_are_sent_to_all_masters_one_is_carried_out() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let mut clients: Vec<Client> = cluster.members.iter_mut().map(|it| it.connect()).collect();
    let epoch = |client: &mut Client| -> u64 {
        info(client, "CLUSTER INFO")["cluster_current_epoch"].parse().expect("a number")
    };
    for round in 0..2 {
        (0..50).for_each(|it| assert_eq!(clients[0].ask(&format!("SET key:{it} value")), ok()));
        let before = epoch(&mut clients[0]);
        for client in &mut clients {
            assert_eq!(client.ask("FLUSHALL"), ok());
        }
        assert_eq!(epoch(&mut clients[0]), before + 1, "round {round}");
        for client in &mut clients {
            assert_eq!(client.ask("DBSIZE"), Value::Integer(0));
            assert_eq!(client.ask("GET key:7"), Value::Null);
        }
    }
    // At once, and with writes of others between them.
    assert_eq!(clients[0].ask("SET key value"), ok());
    clients.iter_mut().for_each(|client| client.send(&["FLUSHALL"]));
    clients.iter_mut().for_each(|client| assert_eq!(client.reply(), ok()));
    assert_eq!(clients[1].ask("DBSIZE"), Value::Integer(0));
    assert_eq!(clients[0].ask("SET key value"), ok());
    assert_eq!(clients[1].ask("FLUSHALL"), ok());
    assert_eq!(clients[2].ask("GET key"), Value::Null);
}
