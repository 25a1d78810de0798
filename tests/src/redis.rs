//! Redis itself, where it is installed, to compare with.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use crate::client::Client;
use crate::process::say;
use crate::until;

/// A running `redis-server`. Killed when dropped.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Redis {
    /// Starts one. `None`, and a line that says so, where the program is not installed.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn start() -> Option<Self> {
        // Redis cannot choose a port by itself; nobody else is likely to take this one meanwhile.
        let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let address = free.expect("a port is free");
        let mut command = Command::new("redis-server");
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--enable-debug-command", "yes"]);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let Ok(child) = spawned else {
            say("SKIPPED: redis-server is not installed, so nothing is compared with it");
            return None;
        };
        let redis = Self { child, address };
        until("redis-server answers", || {
            Client::try_connect(address)
                .is_ok_and(|mut it| it.ask("PING") == crate::client::value(b"+PONG\r\n"))
        });
        Some(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
