//! The admin port: `/metrics` for Prometheus, `/healthz` and `/readyz` for supervisors.
//!
//! Served by a thread of its own: it asks the cores as any embedded caller would, and a slow reader
//! of metrics holds up nobody but itself.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use futures_lite::future::block_on;
use tiny_http::{Header, Request, Response, Server};

use crate::error::OpenError;
use crate::handle::Handle;
use crate::metrics::{Totals, prometheus};
use crate::node::listen;

/// The admin server. Stops when dropped.
pub(crate) struct Admin {
    server: Arc<Server>,
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
        let address = listener.local_addr().ok();
        let server =
            Server::from_listener(listener, None).map_err(|error| failed(error.to_string()))?;
        let server = Arc::new(server);
        let serving = Arc::clone(&server);
        let thread = std::thread::Builder::new()
            .name("gridkv-admin".to_owned())
            .spawn(move || {
                for request in serving.incoming_requests() {
                    answer(request, &handle);
                }
            })
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { server, thread: Some(thread), address })
    }

    /// Where it listens, with the port that was chosen.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its own thread.
            let _ = thread.join();
        }
    }
}

fn answer(request: Request, handle: &Handle) {
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
    // Whoever asked may be gone.
    let _ = request.respond(response);
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
