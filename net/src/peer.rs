//! The sockets between nodes: those that dial, listen and carry datagrams. None of them ever waits;
//! the data ring tells when they are ready.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};

use gridkv_cluster::wire::preamble::{self, NotANode, Preamble};

/// How long what was sent may go without a sign that it has arrived, before a connection is given up.
/// Without it TCP tries again for a quarter of an hour, at ever longer intervals: after a cut of a minute
/// a connection was deaf for the better part of another.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Begins to connect. The socket becomes writable when that has ended, well or not.
///
/// # Errors
///
/// What the kernel says at once.
pub fn dial(address: SocketAddr) -> io::Result<Arc<OwnedFd>> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    set_options(&socket)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(Arc::new(socket)),
        Err(error) => Err(error.into()),
    }
}

fn set_options(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    let silence_max = u32::try_from(SILENCE_MAX.as_millis()).expect("a few seconds");
    Ok(sockopt::set_tcp_user_timeout(socket, silence_max)?)
}

/// Ends what [`dial`] has begun, with the first bytes of the connection.
///
/// # Errors
///
/// Why it is not connected.
pub fn finish_dial(socket: Arc<OwnedFd>, preamble: Preamble) -> io::Result<OwnedFd> {
    sockopt::socket_error(&socket)?.map_err(io::Error::from)?;
    let bytes = preamble.encode();
    // A fresh socket has room for a few bytes.
    if rustix::io::write(&socket, &bytes)? != bytes.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Arc::into_inner(socket).ok_or_else(|| io::ErrorKind::ResourceBusy.into())
}

/// What a peer that was accepted has sent so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Not enough.
    Incomplete,
    /// This. It was taken out of the socket.
    Preamble(Preamble),
    /// It is no node, or is gone.
    Nobody,
}

/// Takes the preamble out of a socket, if it is there.
#[must_use]
pub fn read_preamble(socket: &OwnedFd) -> First {
    let mut bytes = [0; preamble::BYTES];
    match rustix::net::recv(socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => return First::Nobody,
        Ok((len, _)) if len < preamble::BYTES => {
            // What cannot become one is not waited for.
            let begun = Preamble { version: 0, target: 0 }.encode();
            let known = len.min(6);
            return if bytes[..known] == begun[..known] {
                First::Incomplete
            } else {
                First::Nobody
            };
        }
        Ok(_) => {}
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return First::Incomplete,
        Err(_) => return First::Nobody,
    }
    match rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT) {
        Ok((preamble::BYTES, _)) => {}
        _ => return First::Nobody,
    }
    match Preamble::decode(&bytes) {
        Ok(preamble) => First::Preamble(preamble),
        Err(NotANode) => First::Nobody,
    }
}

/// Where peers connect.
pub struct PeerListener {
    listener: TcpListener,
    descriptor: Arc<OwnedFd>,
}

impl PeerListener {
    /// Takes over a socket that listens.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let descriptor = Arc::new(listener.as_fd().try_clone_to_owned()?);
        Ok(Self { listener, descriptor })
    }

    /// What becomes readable when a peer has connected.
    #[must_use]
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.descriptor
    }

    /// The next peer, if one is waiting.
    ///
    /// # Errors
    ///
    /// What the kernel says, mostly that descriptors have run out.
    pub fn accept(&self) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        match self.listener.accept() {
            Ok((socket, address)) => {
                set_options(&socket)?;
                Ok(Some((socket.into(), address)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A socket for datagrams.
pub struct Datagrams {
    socket: UdpSocket,
    descriptor: Arc<OwnedFd>,
}

impl Datagrams {
    /// Binds to an address.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let descriptor = Arc::new(socket.as_fd().try_clone_to_owned()?);
        Ok(Self { socket, descriptor })
    }

    /// What becomes readable when a datagram has arrived.
    #[must_use]
    pub fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.descriptor
    }

    /// The next datagram, if there is one: its length and who sent it. One that is longer than
    /// `buffer` is cut.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        loop {
            match self.socket.recv_from(buffer) {
                Ok(received) => return Some(received),
                // What a datagram of ours has come back with is told here, once.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends a datagram, or loses it.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        // As lost as on the way.
        let _ = self.socket.send_to(bytes, to);
    }
}
