//! The admin port: `/metrics` for Prometheus, `/healthz` and `/readyz` for supervisors.
//!
//! Served by a thread of its own: it asks the cores as any embedded caller would. Who does not read
//! what it asked for holds up the thread for [`WRITE_LIMIT`], once; then the connection's other
//! requests are dropped.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_lite::future::block_on;
use tiny_http::{Header, Request, Response, Server};

use crate::error::OpenError;
use crate::handle::Handle;
use crate::metrics::{Totals, prometheus};
use crate::node::listen;

/// How long a page may take to send.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The admin server. Stops when dropped.
pub(crate) struct Admin {
    server: Arc<Server>,
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
        let failed = |reason: String| OpenError::Listen {
            address: address.to_string(),
            option: "admin",
            source: std::io::Error::other(reason),
        };
        let listener: TcpListener = listen(address, "admin")?;
        // Accepted sockets inherit it.
        socket2::SockRef::from(&listener)
            .set_write_timeout(Some(WRITE_LIMIT))
            .map_err(|error| failed(error.to_string()))?;
        let address = listener.local_addr().ok();
        let server =
            Server::from_listener(listener, None).map_err(|error| failed(error.to_string()))?;
        let server = Arc::new(server);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (serving, stopping) = (Arc::clone(&server), Arc::clone(&is_stopping));
        let thread = std::thread::Builder::new()
            .name("gridkv-admin".to_owned())
            .spawn(move || serve(&serving, &handle, &stopping))
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { server, is_stopping, thread: Some(thread), address })
    }

    /// Where it listens, with the port that was chosen.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own thread.
            let _ = thread.join();
        }
    }
}

fn serve(server: &Server, handle: &Handle, is_stopping: &AtomicBool) {
    let mut stuck = None;
    for request in server.incoming_requests() {
        let from = request.remote_addr().copied();
        if is_stopping.load(Ordering::Acquire) || (from.is_some() && from == stuck) {
            discard(request);
        } else if answer(request, handle).is_err() {
            stuck = from;
        }
    }
    while let Ok(Some(request)) = server.try_recv() {
        discard(request);
    }
}

/// Drops a request without the reply that dropping it would send.
fn discard(request: Request) {
    drop(request.into_writer());
}

fn answer(request: Request, handle: &Handle) -> std::io::Result<()> {
    let url = request.url().to_owned();
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    let (status, body) = match path {
        "/metrics" => metrics(handle, query),
        "/healthz" => health(handle),
        "/readyz" => readiness(handle),
        _ => (404, "not found: /metrics, /healthz and /readyz are served here\n".to_owned()),
    };
    let header = "Content-Type: text/plain; version=0.0.4; charset=utf-8".parse::<Header>();
    let mut response = Response::from_string(body).with_status_code(status);
    if let Ok(header) = header {
        response.add_header(header);
    }
    request.respond(response)
}

fn metrics(handle: &Handle, query: &str) -> (u16, String) {
    match block_on(Totals::collect(handle)) {
        Ok(totals) => (200, prometheus(handle, &totals, query == "per_core=1")),
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

/// Ready: every core answers, and nobody has asked the node to stop.
fn readiness(handle: &Handle) -> (u16, String) {
    if handle.node().shutdown_asked.load(Ordering::Acquire) {
        return (503, "stopping\n".to_owned());
    }
    match block_on(handle.on_all_cores(|_| ())) {
        Ok(_) => (200, "ready\n".to_owned()),
        Err(error) => (503, format!("{error}\n")),
    }
}
