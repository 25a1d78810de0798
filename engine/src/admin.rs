//! The admin port: `/metrics` for Prometheus, `/healthz` and `/readyz` for supervisors.
//!
//! Served by threads of its own, one for each connection, a few at a time: they ask the cores as any
//! embedded caller would. A connection is one request and has [`LIMIT`] for each read and write, so
//! that whoever does not send, or does not read, holds up nobody else and not for long. Running out
//! of descriptors is survived: the next accept is tried a little later.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_lite::future::block_on;
use gridkv_cluster::token::SLOT_COUNT;

use crate::cluster::control::CONTROL_CORE;
use crate::cluster::machine::readiness::Unready;
use crate::cluster::status::{Status, why_no_member};
use crate::core::{Core, World};
use crate::error::OpenError;
use crate::handle::Handle;
use crate::metrics::{Totals, prometheus, write_cluster};
use crate::node::listen;
use crate::shard::Shard;

/// How long a read or a write may take.
const LIMIT: Duration = Duration::from_secs(1);

/// How long to wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest head of a request, in bytes, and the most headers in it.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADER_COUNT_MAX: usize = 64;

/// Connections served at a time; more are closed at once.
const CONNECTION_COUNT_MAX: usize = 16;

/// The admin server. Stops when dropped.
pub(crate) struct Admin {
    listener: Arc<TcpListener>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    address: Option<SocketAddr>,
}

impl Admin {
    /// Serves `address`.
    ///
    /// # Errors
    ///
    /// When the address is taken or cannot be listened on.
    pub(crate) fn start(address: SocketAddr, handle: Handle) -> Result<Self, OpenError> {
        let listener = Arc::new(listen(address, "admin")?);
        let failed =
            |source| OpenError::Listen { address: address.to_string(), option: "admin", source };
        let address = listener.local_addr().ok();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (accepting, stopping) = (Arc::clone(&listener), Arc::clone(&is_stopping));
        let thread = std::thread::Builder::new()
            .name("gridkv-admin".to_owned())
            .spawn(move || accept(&accepting, &handle, &stopping))
            .map_err(failed)?;
        Ok(Self { listener, is_stopping, thread: Some(thread), address })
    }

    /// Where it listens, with the port that was chosen.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        // Ends the accept that the thread waits in.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own thread.
            let _ = thread.join();
        }
    }
}

/// Accepts connections until told to stop.
fn accept(listener: &TcpListener, handle: &Handle, is_stopping: &AtomicBool) {
    let serving = Arc::new(AtomicUsize::new(0));
    while !is_stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((stream, _)) => start(stream, handle, &serving),
            Err(error) if !is_stopping.load(Ordering::Acquire) => {
                tracing::warn!(%error, "the admin port could not accept: out of descriptors?");
                std::thread::sleep(ACCEPT_PAUSE);
            }
            Err(_) => {}
        }
    }
}

/// Serves a connection on a thread of its own, unless there are too many.
fn start(stream: TcpStream, handle: &Handle, serving: &Arc<AtomicUsize>) {
    if serving.fetch_add(1, Ordering::AcqRel) >= CONNECTION_COUNT_MAX {
        serving.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let (handle, counted) = (handle.clone(), Arc::clone(serving));
    let started = std::thread::Builder::new().name("gridkv-admin".to_owned()).spawn(move || {
        if let Err(error) = serve(stream, &handle) {
            tracing::debug!(%error, "a client of the admin port was given up");
        }
        counted.fetch_sub(1, Ordering::AcqRel);
    });
    if started.is_err() {
        serving.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Answers the one request of a connection.
fn serve(mut stream: TcpStream, handle: &Handle) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let (status, body) = match read_target(&mut stream)? {
        Some(target) => page(&target, handle),
        None => (400, "a GET request of HTTP/1 is needed\n".to_owned()),
    };
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Reads the head of a request: what it asks for; `None` when it is not a GET of HTTP/1.
fn read_target(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1_024];
    while head.len() < HEAD_BYTES_MAX {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..len]);
        let mut headers = [httparse::EMPTY_HEADER; HEADER_COUNT_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&head) {
            Ok(httparse::Status::Partial) => {}
            Ok(httparse::Status::Complete(_)) if request.method == Some("GET") => {
                return Ok(request.path.map(str::to_owned));
            }
            Ok(httparse::Status::Complete(_)) | Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

fn page(target: &str, handle: &Handle) -> (u16, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/metrics" => metrics(handle, query),
        "/status" => status(handle),
        "/healthz" => health(handle),
        "/readyz" => readiness(handle),
        _ => {
            (404, "not found: /metrics, /status, /healthz and /readyz are served here\n".to_owned())
        }
    }
}

fn metrics(handle: &Handle, query: &str) -> (u16, String) {
    match block_on(Totals::collect(handle)) {
        Ok(totals) => {
            let mut text = prometheus(handle, &totals, query == "per_core=1");
            if handle.is_replicated()
                && let Ok(status) = block_on(Status::collect(handle))
            {
                write_cluster(&mut text, &status);
            }
            (200, text)
        }
        Err(error) => (503, format!("{error}\n")),
    }
}

/// The members, shards and lags, as one JSON object.
fn status(handle: &Handle) -> (u16, String) {
    match block_on(Status::collect(handle)) {
        Ok(status) => match serde_json::to_string(&status) {
            Ok(text) => (200, text + "\n"),
            Err(error) => (503, format!("{error}\n")),
        },
        Err(error) => (503, format!("{error}\n")),
    }
}

/// Alive: every core runs.
fn health(handle: &Handle) -> (u16, String) {
    let stopped: Vec<usize> = handle
        .node()
        .ports
        .iter()
        .enumerate()
        .filter_map(|(core, port)| port.is_stopped().then_some(core))
        .collect();
    if stopped.is_empty() {
        (200, "ok\n".to_owned())
    } else {
        (503, format!("stopped cores: {stopped:?}\n"))
    }
}

/// Ready: every core answers, nobody has asked the node to stop, all shards take writes, but for a full
/// disk (then reads and deletions are what makes room), and in a cluster requests at `quorum` are served.
fn readiness(handle: &Handle) -> (u16, String) {
    if handle.node().shutdown_asked.load(Ordering::Acquire) {
        return (503, "stopping\n".to_owned());
    }
    let look = |core: &mut Core| {
        let now = core.world.time();
        let World { shards, machine, .. } = &core.world;
        let failed = shards.iter().filter(|shard| shard.has_failed()).map(Shard::index);
        let unready = machine.as_ref().map_or_else(Vec::new, |it| it.unready(now, shards));
        (failed.collect::<Vec<_>>(), unready)
    };
    let cores = match block_on(handle.on_all_cores(look)) {
        Ok(cores) => cores,
        Err(error) => return (503, format!("{error}\n")),
    };
    let failed: Vec<u16> = cores.iter().flat_map(|(failed, _)| failed).copied().collect();
    let mut lines = unready_lines(cores.into_iter().flat_map(|(_, unready)| unready));
    if let Ok(Some(why)) = block_on(handle.on_core(CONTROL_CORE, why_no_member)) {
        lines.push(why);
    }
    if !failed.is_empty() {
        lines.push(format!(
            "the logs of these shards have failed, they take no writes: {failed:?}; see the node's \
             log, then restart it"
        ));
    }
    if lines.is_empty() { (200, "ready\n".to_owned()) } else { (503, lines.join("\n") + "\n") }
}

/// Why requests at `quorum` would not be served, one reason a line.
fn unready_lines(reasons: impl Iterator<Item = Unready>) -> Vec<String> {
    let (mut lines, mut slots) = (BTreeSet::new(), 0_u32);
    for reason in reasons {
        let line = match reason {
            // The core that speaks for the node says why.
            Unready::NoMember => continue,
            Unready::Frozen => "the topology is being changed: no writes are taken",
            Unready::Empty => "this node has lost its data: it serves no keys",
            Unready::Behind => {
                "this node was killed before its log was on disk: it takes writes, and is not counted"
            }
            Unready::Clearing => "what was removed everywhere is still being removed here",
            Unready::Clocks(why) => {
                lines.insert(why.to_string());
                continue;
            }
            Unready::NoQuorum(count) => {
                slots += u32::from(count);
                continue;
            }
        };
        lines.insert(line.to_owned());
    }
    let mut lines: Vec<String> = lines.into_iter().collect();
    if slots > 0 {
        lines.push(format!("too few replicas of {slots} of {SLOT_COUNT} slots can be reached"));
    }
    lines
}
