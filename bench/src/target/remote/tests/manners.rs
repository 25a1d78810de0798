//! What servers ask for before they serve, and what becomes of requests when they go.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::workload::Operation;

/// A value for a read, OK for anything else.
fn usual(name: &[u8]) -> Reaction {
    if name == b"GET" { Reaction::Reply(b"$3\r\nabc\r\n") } else { OK }
}

/// How often each command was asked.
type Counts = Arc<Mutex<BTreeMap<Vec<u8>, u64>>>;

fn counting() -> (Responder, Counts) {
    let counts = Counts::default();
    let shared = Arc::clone(&counts);
    let responder = Responder::start(move |_, name| {
        *shared.lock().unwrap().entry(name.to_vec()).or_default() += 1;
        usual(name)
    });
    (responder, counts)
}

#[test]
fn a_read_modify_write_is_one_request_of_two_commands() {
    for pace in ["-P 16", "-P 4 --rate 50000"] {
        let (responder, counts) = counting();
        let options = format!("-n 3001 -c 3 --warmup 0s --mix rmw=0.5,get=0.5 {pace}");
        let measurement = responder.target(&options).measure().unwrap();
        let recorder = &measurement.recorder;
        assert_eq!(recorder.completed, 3001, "{pace}");
        let count = |operation| recorder.of(operation).unwrap().count();
        let (rmw, get) = (count(Operation::ReadModifyWrite), count(Operation::Get));
        assert_eq!(rmw + get, 3001);
        let counts = counts.lock().unwrap();
        assert_eq!((counts[&b"SET"[..]], counts[&b"GET"[..]]), (rmw, 3001));
    }
}

#[test]
fn a_refused_read_is_not_followed_by_a_write() {
    let responder = Responder::start(|_, name| match name {
        b"GET" => Reaction::Reply(b"-ERR no\r\n"),
        _ => Reaction::Close,
    });
    let options = "-n 100 -c 2 --warmup 0s --mix rmw=1";
    let measurement = responder.target(options).measure().unwrap();
    assert_eq!(measurement.partial, None);
    assert_eq!(measurement.recorder.errors.error_replies, 100);
}

#[test]
fn scans_and_own_commands_are_sent_as_they_are() {
    let (responder, counts) = counting();
    let mut target = open_url(
        &format!("resp://{}", responder.address),
        "-n 1000 -c 2 --warmup 0s --mix scan=0.5,push=0.5 --command push=LPUSH_{key}",
    )
    .unwrap();
    target.measure().unwrap();
    let counts = counts.lock().unwrap();
    let pushes: u64 =
        counts.iter().filter(|it| it.0.starts_with(b"LPUSH_key:")).map(|it| it.1).sum();
    assert_eq!(counts[&b"MGET"[..]] + pushes, 1000);
}

#[test]
fn each_connection_begins_with_its_greeting() {
    let (responder, counts) = counting();
    let url = format!("resp://me:secret@{}?resp=3&consistency=all", responder.address);
    let mut target = open_url(&url, "-n 1000 -c 7 --warmup 0s").unwrap();
    let measurement = target.measure().unwrap();
    assert_eq!((measurement.recorder.completed, measurement.partial), (1000, None));
    let counts = counts.lock().unwrap();
    // Those of the load, and the one that looks whether there is a server.
    assert_eq!((counts[&b"HELLO"[..]], counts[&b"GRIDKV"[..]]), (8, 8));
}

#[test]
fn a_server_that_wants_a_password_is_told_from_one_that_is_gone() {
    let responder =
        Responder::start(|_, _| Reaction::Reply(b"-NOAUTH Authentication required.\r\n"));
    // PING is answered by the responder itself, so the greeting meets the refusal.
    let url = format!("resp://{}?consistency=one", responder.address);
    let text = open_url(&url, "").err().unwrap().to_string();
    assert!(text.contains("refuses: NOAUTH"), "{text}");
    assert!(text.contains("resp://USER:PASSWORD@HOST:PORT"), "{text}");
}

#[test]
fn a_server_that_refuses_the_greeting_is_told_in_its_words() {
    let responder = Responder::start(|_, name| match name {
        b"AUTH" => Reaction::Reply(b"-WRONGPASS invalid\r\n"),
        _ => OK,
    });
    let url = format!("resp://:no@{}", responder.address);
    let text = open_url(&url, "").err().unwrap().to_string();
    assert_eq!(text, format!("{} refuses: WRONGPASS invalid", responder.address));
}

#[test]
fn connections_are_spread_over_all_servers() {
    let servers: Vec<(Responder, Counts)> = (0..3).map(|_| counting()).collect();
    let addresses: Vec<String> = servers.iter().map(|it| it.0.address.to_string()).collect();
    let url = format!("resp://{}", addresses.join(","));
    let mut target = open_url(&url, "-n 3000 -c 6 --warmup 0s --reads 1").unwrap();
    assert_eq!(target.measure().unwrap().recorder.completed, 3000);
    for (_, counts) in &servers {
        assert!(counts.lock().unwrap()[&b"GET"[..]] > 100);
    }
}

#[test]
fn connections_of_a_server_that_goes_find_another() {
    let (good, _) = counting();
    // One connection to look whether it is there, three to load it; then it is gone.
    let gone = Responder::accepting(
        4,
        |number, name| {
            if number > 100 { Reaction::Close } else { usual(name) }
        },
    );
    let url = format!("resp://{},{}", good.address, gone.address);
    let mut target = open_url(&url, "-n 20000 -c 6 --warmup 0s --reads 1").unwrap();
    let measurement = target.measure().unwrap();
    assert_eq!(measurement.partial, None);
    let errors = &measurement.recorder.errors;
    assert!(errors.lost_connections >= 3, "{errors:?}");
    assert_eq!(measurement.recorder.completed + errors.unanswered, 20_000);
}

#[test]
fn a_server_that_hangs_is_left_for_another_after_a_while() {
    let (good, _) = counting();
    let hanging = Responder::start(|_, _| Reaction::Reply(b""));
    let url = format!("resp://{},{}", good.address, hanging.address);
    let options = "-n 5000 -c 4 --warmup 0s --reads 1 --request-timeout 300ms";
    let measurement = open_url(&url, options).unwrap().measure().unwrap();
    assert_eq!(measurement.partial, None);
    let errors = &measurement.recorder.errors;
    // On a busy machine the other server may be late too.
    assert!(errors.lost_connections >= 2, "{errors:?}");
    assert!(errors.unanswered >= 2, "{errors:?}");
    assert_eq!(measurement.recorder.completed + errors.unanswered, 5000);
    // What was given up has waited for so long.
    assert!(measurement.recorder.all().count_above(Duration::from_millis(299)) >= 2);
}

#[test]
fn a_server_that_comes_back_in_time_is_loaded_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve_some = |listener: TcpListener, count: usize, number_max: u64| {
        let requests = AtomicU64::new(0);
        let react: Box<React> =
            Box::new(
                move |number, name| {
                    if number > number_max { Reaction::Close } else { usual(name) }
                },
            );
        thread::scope(|scope| {
            for _ in 0..count {
                let (stream, _) = listener.accept().unwrap();
                let (react, requests) = (&*react, &requests);
                scope.spawn(move || serve(stream, react, requests));
            }
            drop(listener);
        });
    };
    let server = thread::spawn(move || {
        serve_some(listener, 3, 500);
        // Nobody listens for a while.
        thread::sleep(Duration::from_millis(200));
        let again = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        rustix::net::sockopt::set_socket_reuseaddr(&again, true).unwrap();
        rustix::net::bind(&again, &address).unwrap();
        rustix::net::listen(&again, 16).unwrap();
        serve_some(TcpListener::from(again), 2, u64::MAX);
    });
    let options = "-n 2000 -c 2 --warmup 0s --reads 1 --reconnect-for 20s";
    let measurement = open(address, options).unwrap().measure().unwrap();
    assert_eq!(measurement.partial, None);
    let errors = &measurement.recorder.errors;
    assert_eq!(measurement.recorder.completed + errors.unanswered, 2000);
    assert!(errors.lost_connections >= 2, "{errors:?}");
    server.join().unwrap();
}

/// A server behind TLS, and the file with its certificate.
fn start_tls() -> (SocketAddr, tempfile::NamedTempFile) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let stream = StreamOwned::new(session, stream.unwrap());
            thread::spawn(move || serve(stream, &|_, name| usual(name), &AtomicU64::new(0)));
        }
    });
    (address, file)
}

#[test]
fn tls_carries_requests_and_replies_of_any_length() {
    let (address, certificate) = start_tls();
    let url = format!("resps://{address}?ca={}", certificate.path().display());
    for options in [
        "-n 5003 -c 5 -P 16 --threads 2 --warmup 0s",
        "-n 200 -c 2 -P 3 --value-size 150000 --warmup 0s",
        "-n 2001 -c 3 -P 4 --rate 50000 --warmup 0s",
    ] {
        let mut target = open_url(&url, options).unwrap();
        let measurement = target.measure().unwrap();
        assert_eq!(measurement.partial, None, "{options}");
        assert_eq!(measurement.recorder.completed, target.options.requests.unwrap(), "{options}");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_unless_any_will_do() {
    let (address, _certificate) = start_tls();
    let text = open_url(&format!("resps://{address}"), "").err().unwrap().to_string();
    assert!(text.contains("invalid peer certificate"), "{text}");
    let mut target =
        open_url(&format!("resps://{address}?insecure=yes"), "-n 100 --warmup 0s").unwrap();
    assert_eq!(target.measure().unwrap().recorder.completed, 100);
    // And a server behind TLS is not taken for one without.
    let text = open_url(&format!("resp://{address}"), "").err().unwrap().to_string();
    assert!(text.starts_with(&address.to_string()) || text.starts_with("cannot"), "{text}");
}

/// As much of memcached as keeps values of one length.
fn start_memcached() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve_memcached(stream.unwrap()));
        }
    });
    address
}

fn serve_memcached(stream: TcpStream) {
    use std::io::{BufRead, BufReader};
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    let mut line = String::new();
    while input.read_line(&mut line).is_ok_and(|read| read > 0) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let reply = match words[0] {
            "version" => "VERSION 1\r\n".to_owned(),
            "get" => {
                let values = words[1..].iter().map(|key| format!("VALUE {key} 0 3\r\nabc\r\n"));
                values.collect::<String>() + "END\r\n"
            }
            "set" => {
                let mut value = vec![0; words[4].parse::<usize>().unwrap() + 2];
                input.read_exact(&mut value).unwrap();
                "STORED\r\n".to_owned()
            }
            "delete" => "NOT_FOUND\r\n".to_owned(),
            _ => "ERROR\r\n".to_owned(),
        };
        if output.write_all(reply.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

#[test]
fn memcached_is_spoken_to_in_its_own_words() {
    let url = format!("memcached://{}", start_memcached());
    let mix = "get=20,set=20,scan=20,rmw=20,del=10,incr=10";
    let options = format!("-n 5000 -c 4 -P 8 --warmup 0s --keys 1000 --load --mix {mix}");
    let mut target = open_url(&url, &options).unwrap();
    assert_eq!(target.prepare().unwrap().loading.unwrap().keys, 1000);
    let recorder = target.measure().unwrap().recorder;
    let count = |operation| recorder.of(operation).unwrap().count();
    assert_eq!(recorder.missing, count(Operation::Delete));
    assert_eq!(recorder.errors.error_replies, count(Operation::Increment));
    assert_eq!(recorder.completed + recorder.errors.error_replies, 5000);
    for options in ["--mix exists=1", "--key-size 300", "--mix x=1 --command x=PING"] {
        let failure = open_url(&url, options).err().unwrap().to_string();
        assert!(failure.contains("cannot be asked this"), "{failure}");
    }
}
