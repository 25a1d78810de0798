//! Several cores are one store: commands whose keys live on different cores, clients spread over
//! the cores, and what is left when a core has panicked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use gridkv::{Error, Outcome, Shard};
use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, bulk, encode, ok, text};
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::until;

#[test]
fn commands_on_many_keys_reach_all_cores() {
    for shape in SHAPES {
        let node = Node::start(shape);
        let mut client = node.connect();
        let keys: Vec<String> = (0..1_000).map(|number| format!("key:{number}")).collect();
        let words = |name: &str| -> Vec<String> {
            std::iter::once(name.to_owned()).chain(keys.iter().cloned()).collect()
        };
        let pairs: Vec<String> =
            keys.iter().flat_map(|key| [key.clone(), format!("{key}!")]).collect();
        let set = [vec!["MSET".to_owned()], pairs.clone()].concat();
        assert_eq!(client.call(&set), ok());
        assert_eq!(client.call(&words("EXISTS")), Value::Integer(1_000));
        let values = keys.iter().map(|key| bulk(format!("{key}!"))).collect();
        assert_eq!(client.call(&words("MGET")), Value::Array(values));
        let set_new =
            [vec!["MSETNX".to_owned(), "fresh".to_owned(), "1".to_owned()], pairs].concat();
        assert_eq!(client.call(&set_new), Value::Integer(0));
        assert_eq!(client.ask("EXISTS fresh"), Value::Integer(0));
        assert_eq!(client.call(&words("TOUCH")), Value::Integer(1_000));
        assert_eq!(client.ask("DBSIZE"), Value::Integer(1_000));
        assert_eq!(client.call(&words("DEL")), Value::Integer(1_000));
        assert_eq!(client.call(&words("UNLINK")), Value::Integer(0));
        assert_eq!(client.call(&set_new), Value::Integer(1));
        assert_eq!(client.ask("DBSIZE"), Value::Integer(1_001));
        node.stop();
    }
}

#[test]
fn a_command_on_more_keys_than_are_waited_for_at_once_is_answered_without_more_input() {
    let node = Node::on_two_cores();
    for shard in [0, 1] {
        // More than the 16 that a connection begins with, fewer than make a long command.
        let mut words = vec!["MGET".to_owned()];
        words.extend(node.keys_of(shard, 100));
        // A new connection each, as the window of an old one has grown.
        assert_eq!(node.connect().call(&words), Value::Array(vec![Value::Null; 100]));
    }
    node.stop();
}

#[test]
fn a_key_moves_between_cores_with_its_value_and_expiry() {
    let node = Node::on_two_cores();
    let (here, there) = (&node.keys_of(0, 1)[0], &node.keys_of(1, 1)[0]);
    for (from, to) in [(here, there), (there, here)] {
        let mut client = node.connect();
        assert_eq!(client.call(&["SET", from, "value", "PXAT", "9999999999999"]), ok());
        assert_eq!(client.call(&["COPY", from, to]), Value::Integer(1));
        assert_eq!(client.call(&["PEXPIRETIME", to]), Value::Integer(9_999_999_999_999));
        assert_eq!(client.call(&["RENAMENX", from, to]), Value::Integer(0));
        assert_eq!(client.call(&["DEL", to]), Value::Integer(1));
        assert_eq!(client.call(&["RENAMENX", from, to]), Value::Integer(1));
        assert_eq!(
            client.call(&["MGET", from, to]),
            Value::Array(vec![Value::Null, bulk("value")])
        );
        assert_eq!(client.call(&["PEXPIRETIME", to]), Value::Integer(9_999_999_999_999));
        assert_eq!(client.call(&["SET", from, "other"]), ok());
        assert_eq!(client.call(&["RENAME", from, to]), ok());
        assert_eq!(client.call(&["GET", to]), bulk("other"));
        assert_eq!(client.call(&["TTL", to]), Value::Integer(-1));
        assert_eq!(client.call(&["LCS", from, to]), bulk(""));
        assert_eq!(client.call(&["DEL", from, to]), Value::Integer(1));
    }
    node.stop();
}

/// Many clients set the same keys, which live on both cores, each to its own number. Of each round
/// at most one may win, and when all have had their answers either all keys are the winner's or
/// none is there.
#[test]
fn msetnx_sets_all_keys_or_none_whoever_else_does() {
    const WRITERS: usize = 4;
    let node = Node::on_two_cores();
    let keys = [node.keys_of(0, 3), node.keys_of(1, 3)].concat();
    let mut reader = node.connect();
    let mut win_count = 0;
    let mut clients: Vec<Client> = (0..WRITERS).map(|_| node.connect()).collect();
    for round in 0..400 {
        for (writer, client) in clients.iter_mut().enumerate() {
            let value = format!("{round}:{writer}");
            let mut words = vec!["MSETNX".to_owned()];
            for offset in 0..keys.len() {
                words.extend([keys[(offset + writer) % keys.len()].clone(), value.clone()]);
            }
            client.send(&words);
        }
        let wins: Vec<bool> =
            clients.iter_mut().map(|it| it.reply() == Value::Integer(1)).collect();
        let winners: Vec<usize> = (0..WRITERS).filter(|writer| wins[*writer]).collect();
        assert!(winners.len() <= 1, "round {round}: {winners:?}");
        let get: Vec<String> = std::iter::once("MGET".to_owned()).chain(keys.clone()).collect();
        let expected = match winners.first() {
            Some(winner) => bulk(format!("{round}:{winner}")),
            None => Value::Null,
        };
        assert_eq!(reader.call(&get), Value::Array(vec![expected; keys.len()]), "round {round}");
        win_count += winners.len();
        let delete: Vec<String> = std::iter::once("DEL".to_owned()).chain(keys.clone()).collect();
        reader.call(&delete);
    }
    assert!(win_count > 0, "in 400 rounds nobody has ever won");
    node.stop();
}

#[test]
fn counters_on_all_cores_lose_no_increment() {
    const CLIENTS: usize = 6;
    const EACH: usize = 300;
    let node = Node::start(SHAPES[2]);
    let keys = node.key_of_each_shard();
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = node.connect();
            let keys = keys.clone();
            std::thread::spawn(move || {
                for _ in 0..EACH {
                    keys.iter().for_each(|key| client.send(&["INCR", key]));
                }
                let replies = EACH * keys.len();
                let is_number = |_: usize| matches!(client.reply(), Value::Integer(_));
                assert!((0..replies).all(is_number));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut client = node.connect();
    for key in &keys {
        assert_eq!(client.call(&["GET", key]), bulk((CLIENTS * EACH).to_string()));
    }
    node.stop();
}

#[test]
fn clients_are_spread_over_the_cores_evenly() {
    let node = Node::open(with(builder(SHAPES[1]), "admin", "127.0.0.1:0"));
    let clients: Vec<Client> = (0..100).map(|_| node.connect()).collect();
    let admin = node.engine.admin_address().unwrap();
    let counts = || -> Vec<usize> {
        let (_, page) = gridkv_tests::program::page(admin, "/metrics?per_core=1");
        let lines = page.lines().filter(|line| line.starts_with("gridkv_core_clients{"));
        lines.map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
    };
    until("all clients are served", || counts().iter().sum::<usize>() == 100);
    let core_count = node.engine.core_count();
    for count in counts() {
        assert!(count.abs_diff(100 / core_count) <= 2, "{:?}", counts());
    }
    drop(clients);
    until("no client is left", || counts().iter().sum::<usize>() == 0);
    node.stop();
}

/// Ends the core that owns `key`.
fn panic_on(node: &Node, key: &str) {
    let store = node.engine.handle().blocking();
    let work = |_: &mut Shard| -> () { panic!("this core is to end: the test wants it") };
    let result = store.run_on(key, work);
    assert_eq!(result, Err(Error::Interrupted));
    assert_eq!(Error::Interrupted.outcome(), Outcome::Unknown);
    until("the core's end is known", || node.engine.has_stopped_core());
}

#[test]
fn a_panic_ends_its_core_and_the_other_serves_on() {
    let node = Node::open(with(builder(SHAPES[1]), "admin", "127.0.0.1:0"));
    if node.engine.core_count() < 2 {
        return;
    }
    let (dead, alive) = (&node.keys_of(1, 1)[0], &node.keys_of(0, 1)[0]);
    let mut clients: Vec<Client> = (0..8).map(|_| node.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.call(&["SET", alive, "value"]), ok());
    }
    panic_on(&node, dead);
    // The dead core's clients are disconnected, the other's are not.
    clients.iter_mut().for_each(|client| client.send(&["GET", alive]));
    let replies: Vec<_> = clients.iter_mut().map(Client::try_reply_bytes).collect();
    let served = replies.iter().filter(|reply| reply.is_ok()).count();
    assert_eq!(served, 4, "{replies:?}");
    let mut client = node.connect();
    assert_eq!(client.call(&["GET", alive]), bulk("value"));
    for line in [
        format!("GET {dead}"),
        format!("MGET {alive} {dead}"),
        format!("RENAME {dead} {alive}"),
        format!("DEL {alive} {dead}"),
        "DBSIZE".to_owned(),
        "INFO".to_owned(),
        "SCAN 0 COUNT 100000".to_owned(),
        format!("MSETNX {dead} 1 fresh 2"),
        "FLUSHALL".to_owned(),
        "RANDOMKEY".to_owned(),
        "CLIENT LIST".to_owned(),
    ] {
        let reply = client.ask(&line);
        let shown = format!("{reply:?}");
        let text = match &reply {
            Value::Array(parts) => text(&parts[1]),
            other => text(other),
        };
        assert!(text.contains("stopped"), "{line}: {shown}");
    }
    let store = node.engine.handle().blocking();
    assert_eq!(store.get(dead), Err(Error::CoreStopped { core: 1 }));
    assert_eq!(store.set(alive, "again"), Ok(()));
    let (status, page) =
        gridkv_tests::program::page(node.engine.admin_address().unwrap(), "/healthz");
    assert_eq!((status, page.as_str()), (503, "stopped cores: [1]\n"));
    assert!(node.engine.shutdown().is_err(), "a core has panicked, and that is said");
}

#[test]
fn clients_of_a_dead_core_do_not_count_against_the_limit() {
    let node = Node::open(with(builder(SHAPES[1]), "max_clients", "4"));
    if node.engine.core_count() < 2 {
        return;
    }
    let (dead, alive) = (&node.keys_of(1, 1)[0], &node.keys_of(0, 1)[0]);
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.call(&["SET", alive, "value"]), ok()));
    panic_on(&node, dead);
    // Two of the four are gone, so there is room for two.
    for _ in 0..2 {
        let mut client = node.connect();
        assert_eq!(client.call(&["GET", alive]), bulk("value"));
        clients.push(client);
    }
    assert_eq!(node.engine.shutdown().unwrap_err().panicked, [1]);
}

/// Requests to a core, and calls of the embedded API, that are under way when it ends.
#[test]
fn whatever_is_under_way_to_a_core_that_ends_is_answered() {
    for round in 0..10 {
        let node = Node::on_two_cores();
        if node.engine.core_count() < 2 {
            return;
        }
        let dead = node.keys_of(1, 1)[0].clone();
        let is_over = Arc::new(AtomicBool::new(false));
        let failed_count = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let (is_over, failed_count) = (Arc::clone(&is_over), Arc::clone(&failed_count));
                let handle = node.engine.handle();
                let dead = dead.clone();
                std::thread::spawn(move || {
                    // Far more calls at a time than the mailbox holds.
                    while !is_over.load(Ordering::Acquire) {
                        let calls = (0..400).map(|_| handle.set(&dead, format!("{caller}")));
                        let results = futures_lite::future::block_on(join_all(calls));
                        if results.iter().any(Result::is_err) {
                            failed_count.fetch_add(1, Ordering::AcqRel);
                            return;
                        }
                    }
                })
            })
            .collect();
        let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
        for client in &mut clients {
            let incr = encode(&["INCR", "counter"]).repeat(200);
            client.send_raw(&[incr, encode(&["GET", &dead]).repeat(200)].concat());
        }
        panic_on(&node, &dead);
        for client in &mut clients {
            // Each request is answered, or the connection is closed: it was the dead core's.
            let all = (0..400).map_while(|_| client.try_reply_bytes().ok()).count();
            let is_closed = all < 400;
            assert!(is_closed || all == 400);
        }
        until("every caller has heard", || failed_count.load(Ordering::Acquire) == 8);
        is_over.store(true, Ordering::Release);
        callers.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(node.engine.shutdown().is_err(), "round {round}");
    }
}

/// Polls all futures until all are done.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|context| {
        for slot in &mut waiting {
            if let Some(future) = slot
                && let std::task::Poll::Ready(result) = future.as_mut().poll(context)
            {
                results.push(result);
                *slot = None;
            }
        }
        if waiting.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    results
}

#[test]
fn a_core_that_is_behind_holds_up_those_who_ask_it_and_nobody_else() {
    let node = Node::on_two_cores();
    if node.engine.core_count() < 2 {
        return;
    }
    let store = node.engine.handle().blocking();
    let (near, far) = (&node.keys_of(0, 1)[0], &node.keys_of(1, 1)[0]);
    store.set(near, "value").unwrap();
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.call(&["GET", near]), bulk("value"));
    }
    let (release, released) = channel::<()>();
    let (blocked, is_blocked) = channel();
    let key = far.clone();
    let blocker = std::thread::spawn(move || {
        store.run_on(key, move |_| {
            blocked.send(()).expect("somebody waits");
            // An error says the same: go on.
            let _ = released.recv();
        })
    });
    is_blocked.recv().unwrap();
    // The clients of the core that goes on are those who are answered.
    clients.iter_mut().for_each(|client| client.send(&["PING"]));
    let mut served = Vec::new();
    until("two are answered", || {
        served.extend(clients.extract_if(.., |client| !client.hears_nothing()));
        served.len() == 2
    });
    let (mut greedy, mut other) = (served.remove(0), served.remove(0));
    for client in [&mut greedy, &mut other] {
        assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
    }
    // More than may be under way to a core.
    let value = "v".repeat(8 << 20);
    let mut send = greedy.sender();
    let requests = encode(&["SET", far, &value]).repeat(6);
    let sending = std::thread::spawn(move || send(&requests));
    for _ in 0..5_000 {
        assert_eq!(other.call(&["GET", near]), bulk("value"));
    }
    release.send(()).unwrap();
    (0..6).for_each(|_| assert_eq!(greedy.reply(), ok()));
    sending.join().unwrap();
    blocker.join().unwrap().unwrap();
    node.stop();
}
