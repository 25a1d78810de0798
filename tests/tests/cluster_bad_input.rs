//! What strangers send to the port of a cluster, and what they get for it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::SystemTime;

use gridkv_cluster::WallTime;
use gridkv_cluster::identity::{DatagramSeal, Identity, Local, Security, Trust};
use gridkv_cluster::wire::VERSION;
use gridkv_cluster::wire::preamble::{CONTROL, Preamble};
use gridkv_net::resp::Value;
use gridkv_tests::client::ok;
use gridkv_tests::cluster::{Cluster, Member, Spec};
use gridkv_tests::{DEADLINE, until};

const REFUSED: &str = "gridkv_cluster_links_refused_total";
const DATAGRAMS_REFUSED: &str = "gridkv_cluster_datagrams_refused_total";

/// Random bytes, always the same.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes
}

/// Sends bytes on a new connection, and waits until the node has closed it.
fn is_closed_on(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the port is open");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time");
    // It may be closed before all is written.
    let _ = stream.write_all(bytes);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}"),
    }
}

#[test]
fn garbage_on_the_port_of_the_cluster_harms_nobody() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let address = cluster.members[0].address;
    let mut client = cluster.members[0].connect();
    assert_eq!(client.ask("SET key value"), ok());
    let refused = cluster.members[0].metric(REFUSED);
    let preamble = Preamble { version: VERSION, target: CONTROL }.encode();
    let with_preamble = |bytes: &[u8]| [&preamble[..], bytes].concat();
    // A frame as a peer's, with a body of four gigabytes to come.
    let mut giant = vec![0; 48];
    gridkv_cluster::wire::frame::FrameWriter::default().write(
        gridkv_cluster::wire::frame::Kind::Handshake,
        0,
        &[0; 8],
        &mut giant,
    );
    let mut giant = giant.split_off(48);
    giant[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let other_shard = Preamble { version: VERSION, target: 999 }.encode();
    let inputs: [Vec<u8>; 7] = [
        noise(16),
        noise(100_000),
        b"GET / HTTP/1.1\r\nHost: gridkv\r\n\r\n".to_vec(),
        with_preamble(&noise(4_096)),
        with_preamble(
            b"GET / HTTP/1.1\r\nHost: gridkv\r\nAccept: everything that there is\r\n\r\n",
        ),
        with_preamble(&giant),
        other_shard.to_vec(),
    ];
    for input in &inputs {
        is_closed_on(address, input);
    }
    until("each was counted", || {
        cluster.members[0].metric(REFUSED) >= refused + inputs.len() as u64
    });
    // Half a preamble: it waits for the rest, but not for long.
    is_closed_on(address, &preamble[..7]);
    assert_eq!(client.ask("GET key"), Value::Bulk(b"value".to_vec()));
    cluster.wait_until_whole();
}

#[test]
fn thousands_who_say_nothing_are_bounded() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let address = cluster.members[0].address;
    let mut client = cluster.members[0].connect();
    let before = cluster.members[0].program().resident_bytes();
    let silent: Vec<TcpStream> = (0..2_000).map(|_| TcpStream::connect(address).unwrap()).collect();
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
    }
    let refused = |cluster: &mut Cluster| cluster.members[0].metric(REFUSED);
    until("most were turned away", || refused(&mut cluster) >= 1_500);
    let grown = cluster.members[0].program().resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for strangers");
    drop(silent);
    cluster.wait_until_whole();
}

#[test]
fn datagrams_that_are_none_are_counted_and_dropped() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let address = cluster.members[0].address;
    let before = cluster.members[0].metric(DATAGRAMS_REFUSED);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let inputs =
        [noise(1), noise(64), noise(1_400), noise(9_000), b"GKVD\x01\0\0\0".to_vec(), Vec::new()];
    for input in &inputs {
        socket.send_to(input, address).unwrap();
    }
    until("each was counted", || {
        cluster.members[0].metric(DATAGRAMS_REFUSED) >= before + inputs.len() as u64
    });
    cluster.wait_until_whole();
    assert_eq!(cluster.members[1].connect().ask("SET key value"), ok());
}

/// A trusted sender's datagram is taken once; a changed one never, nor one of a stranger.
#[test]
fn signed_datagrams_are_taken_once_and_not_when_they_are_changed() {
    let sender = |number: u8| Local {
        identity: Identity::from_secret([number; 32]),
        security: Security::Sign(Trust::Keys(Vec::new())),
        cluster: "gridkv".to_owned(),
    };
    let (trusted, stranger) = (sender(1), sender(2));
    let mut cluster = Cluster::planned(3, &Spec::memory().with("--cluster-security sign"));
    let mut keys: Vec<String> = cluster.members.iter().map(Member::keygen).collect();
    keys.push(trusted.identity.public().to_string());
    for member in &mut cluster.members {
        member.arguments.extend(["--trusted-keys".to_owned(), keys.join(",")]);
    }
    cluster.start_all();
    let before = cluster.members[0].metric(DATAGRAMS_REFUSED);
    let status = cluster.members[0].status();
    let (socket, target) = (UdpSocket::bind("127.0.0.1:0").unwrap(), cluster.members[0].address);
    let millis = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let wall = WallTime::from_millis(u64::try_from(millis).unwrap());
    let seal = |local: &Local| DatagramSeal::new(wall.as_millis()).seal(local, wall, &noise(64));
    let mut caught = seal(&trusted);
    let send = |bytes: &[u8]| socket.send_to(bytes, target).unwrap();
    for _ in 0..5 {
        send(&caught);
    }
    for at in [10, 20, 50, 60, 80, caught.len() - 1] {
        caught[at] ^= 1;
        send(&caught);
        caught[at] ^= 1;
    }
    send(&seal(&stranger));
    let refused = 4 + 6 + 1;
    until("all but one are refused", || {
        cluster.members[0].metric(DATAGRAMS_REFUSED) >= before + refused
    });
    let after = cluster.members[0].status();
    assert_eq!(after["members"], status["members"]);
    assert_eq!(after["epoch"], status["epoch"]);
    assert_eq!(cluster.members[0].metric(DATAGRAMS_REFUSED), before + refused);
    assert_eq!(cluster.members[2].connect().ask("SET key value"), ok());
}
