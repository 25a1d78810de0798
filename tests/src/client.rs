//! A client that sends what it is told, well-formed or not, and sees every byte that comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use gridkv_net::resp::{Value, encode_command, parse_reply, scan_reply};

use crate::DEADLINE;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// What has arrived and was not yet asked for.
    input: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server said that nothing more follows.
    Closed,
    /// The server cut the connection off.
    Reset,
    /// Nothing came, and no end either.
    Silent,
}

impl Client {
    /// Connects to a node.
    ///
    /// # Panics
    ///
    /// When nobody listens there.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).expect("a node listens")
    }

    /// Connects to a node, if one is there.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends these bytes.
    ///
    /// # Panics
    ///
    /// When the connection is gone.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node reads");
    }

    /// A way to send from another thread, while this one reads.
    ///
    /// # Panics
    ///
    /// When no descriptor is left.
    pub fn sender(&self) -> impl FnMut(&[u8]) + Send + use<> {
        let mut stream = self.stream.try_clone().expect("a descriptor is left");
        move |bytes| stream.write_all(bytes).expect("the node reads")
    }

    /// Sends one request.
    pub fn send<T: AsRef<[u8]>>(&mut self, arguments: &[T]) {
        self.send_raw(&encode(arguments));
    }

    /// Says that nothing more will be sent.
    ///
    /// # Panics
    ///
    /// When the connection is gone.
    pub fn finish_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is there");
    }

    /// The bytes of the next reply.
    ///
    /// # Panics
    ///
    /// When none comes, or what comes is no reply.
    #[must_use]
    pub fn reply_bytes(&mut self) -> Vec<u8> {
        match self.try_reply_bytes() {
            Ok(bytes) => bytes,
            Err(end) => panic!("a reply, not {end:?} after {:?}", self.input.escape_ascii()),
        }
    }

    /// The bytes of the next reply, unless the connection ends before its end.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    ///
    /// # Panics
    ///
    /// When what comes is no reply.
    pub fn try_reply_bytes(&mut self) -> Result<Vec<u8>, End> {
        let mut scanned_at = 0;
        loop {
            // Large replies are not scanned anew for every piece.
            if self.input.len() >= scanned_at {
                match scan_reply(&self.input) {
                    Ok(Some(scanned)) => return Ok(self.input.drain(..scanned.len).collect()),
                    Ok(None) => scanned_at = self.input.len() + self.input.len() / 2,
                    Err(error) => panic!("{error}: {:?}", self.input.escape_ascii()),
                }
            }
            match self.receive() {
                Ok(_) => scanned_at = scanned_at.min(self.input.len()),
                Err(end) => match scan_reply(&self.input) {
                    Ok(Some(scanned)) => return Ok(self.input.drain(..scanned.len).collect()),
                    _ => return Err(end),
                },
            }
        }
    }

    /// The next reply.
    ///
    /// # Panics
    ///
    /// When none comes.
    #[must_use]
    pub fn reply(&mut self) -> Value {
        value(&self.reply_bytes())
    }

    /// Sends one request and returns its reply.
    pub fn call<T: AsRef<[u8]>>(&mut self, arguments: &[T]) -> Value {
        self.send(arguments);
        self.reply()
    }

    /// As [`Client::call`] for words without blanks in them.
    pub fn ask(&mut self, line: &str) -> Value {
        self.call(&line.split(' ').collect::<Vec<_>>())
    }

    /// The text of the error that `line` is answered with.
    ///
    /// # Panics
    ///
    /// When the reply is none.
    pub fn ask_error(&mut self, line: &str) -> String {
        match self.ask(line) {
            Value::Error(text) => String::from_utf8_lossy(&text).into_owned(),
            other => panic!("an error, not {other:?}"),
        }
    }

    /// All that comes until the connection ends, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.receive() {
                return (std::mem::take(&mut self.input), end);
            }
        }
    }

    /// As [`Client::receive`], forgetting what came.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    pub fn drop_received(&mut self) -> Result<usize, End> {
        let len = self.receive();
        self.input.clear();
        len
    }

    /// Waits for more bytes and returns how many came.
    ///
    /// # Errors
    ///
    /// How the connection ended.
    ///
    /// # Panics
    ///
    /// When the socket fails otherwise.
    pub fn receive(&mut self) -> Result<usize, End> {
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(End::Closed),
            Ok(len) => {
                self.input.extend_from_slice(&buffer[..len]);
                Ok(len)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(End::Silent),
            Err(error) => panic!("the socket has failed: {error}"),
        }
    }

    /// Whether nothing has arrived up to here.
    ///
    /// # Panics
    ///
    /// When the socket fails.
    #[must_use]
    pub fn hears_nothing(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("the connection is there");
        let received = self.receive();
        self.stream.set_nonblocking(false).expect("the connection is there");
        received == Err(End::Silent) && self.input.is_empty()
    }

    /// Whether nothing has arrived that was not asked for.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.input.is_empty()
    }
}

/// A request as bytes.
pub fn encode<T: AsRef<[u8]>>(arguments: &[T]) -> Vec<u8> {
    let arguments: Vec<&[u8]> = arguments.iter().map(AsRef::as_ref).collect();
    let mut out = Vec::new();
    encode_command(&mut out, &arguments);
    out
}

/// The value of a whole reply.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn value(bytes: &[u8]) -> Value {
    let parsed = parse_reply(bytes);
    let Ok(Some((value, len))) = parsed else {
        panic!("a reply, not {:?}: {parsed:?}", bytes.escape_ascii())
    };
    assert_eq!(len, bytes.len());
    value
}

/// `OK`.
#[must_use]
pub fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

/// A string.
#[must_use]
pub fn bulk(text: impl AsRef<[u8]>) -> Value {
    Value::Bulk(text.as_ref().to_vec())
}

/// The text of a value that has one; empty for null.
///
/// # Panics
///
/// When it is a number or an array.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::Simple(text) | Value::Bulk(text) | Value::Error(text) | Value::Verbatim(_, text) => {
            String::from_utf8_lossy(text).into_owned()
        }
        Value::Null => String::new(),
        other => panic!("a text, not {other:?}"),
    }
}
