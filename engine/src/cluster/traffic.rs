//! What happens on the connections to peers, turn by turn.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use gridkv_cluster::{TokenKey, WallTime};
use gridkv_net::ring::{ConnectionId, Received};
use gridkv_net::wire::frame::{FrameReader, Kind};
use gridkv_net::wire::preamble::{self, Preamble, VERSION};

use super::control::CONTROL_CORE;
use super::link::{LinkId, unpadded};
use super::links::Change;
use super::{Cluster, Told};
use crate::core::Core;
use crate::core::job::{Tokens, repeatable};
use crate::core::mailbox::Message;

/// What has happened on a peer's connection.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// It has sent something.
    Received(Received),
    /// It has closed its end, or is gone.
    Ended(ConnectionId),
    /// What was sent has left.
    Sent,
}

impl Core {
    /// Takes in what the data ring has brought. Whether there was anything.
    pub(super) fn turn_links(&mut self, cluster: &mut Cluster) -> bool {
        let events = std::mem::take(&mut self.world.link_events);
        let ready = std::mem::take(&mut self.world.ready);
        let has_work = !events.is_empty() || !ready.is_empty();
        for event in events {
            match event {
                LinkEvent::Received(received) => self.on_link_received(cluster, received),
                LinkEvent::Ended(connection) => {
                    if let Some(id) = cluster.links.of_connection(connection) {
                        self.lose_link(cluster, id, "it has closed the connection");
                    }
                }
                LinkEvent::Sent => {}
            }
        }
        if let Some(address) = cluster.links.twin_at.take() {
            // A full mailbox drops it: they meet again.
            let ask = Message::Call(Box::new(move |core| core.ask_twin(address)));
            let _ = self.world.node.ports[CONTROL_CORE].try_post(ask);
        }
        for token in &ready {
            let change =
                cluster.links.on_ready(&mut self.server.ring, LinkId(*token), cluster.now.at);
            self.on_change(cluster, change);
        }
        self.turn_control(cluster, &ready);
        if cluster.forward.due_at().is_some_and(|at| at <= cluster.now.at) {
            self.give_up_handed(cluster, None);
        }
        if cluster.links.due_at().is_some_and(|at| at <= cluster.now.at) {
            let changes = cluster.links.run_timers(&mut self.server.ring, cluster.now.at);
            for change in changes {
                self.on_change(cluster, Some(change));
            }
        }
        has_work
    }

    fn on_change(&mut self, cluster: &mut Cluster, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Opened(id)) => {
                if let Some(link) = cluster.links.get(id) {
                    tracing::debug!(address = %link.address, "connected to a peer");
                }
                cluster.refresh_view();
            }
            Some(Change::Lost(node)) => {
                if let Some(node) = node {
                    cluster.coordinator.on_lost(cluster.now, node);
                    self.give_up_handed(cluster, Some(node));
                }
                cluster.refresh_view();
            }
        }
    }

    fn lose_link(&mut self, cluster: &mut Cluster, id: LinkId, why: &str) {
        cluster.links.tell_failure(id, why);
        let change = cluster.links.lose(&mut self.server.ring, id, cluster.now.at);
        self.on_change(cluster, change);
    }

    fn on_link_received(&mut self, cluster: &mut Cluster, received: Received) {
        let id = cluster.links.of_connection(received.connection);
        let link = id.and_then(|id| cluster.links.get(id));
        let (Some(id), Some(link)) = (id, link) else {
            return self.server.ring.recycle(received);
        };
        // Taken out while its frames are read: what they lead to goes through the links.
        let mut reader = std::mem::take(&mut link.reader);
        let bytes = self.server.ring.bytes(&received);
        let first = bytes.first_chunk::<{ preamble::BYTES }>();
        let preamble = first.and_then(|it| Preamble::decode(it).ok());
        reader.push(bytes);
        cluster.links.bytes_in += bytes.len() as u64;
        self.server.ring.recycle(received);
        if let Err(why) = self.read_frames(cluster, id, &mut reader) {
            cluster.links.refused += 1;
            let is_open = cluster.links.get(id).is_some_and(|link| link.is_open());
            if is_open {
                return self.lose_link(cluster, id, &why);
            }
            // A node of another version answers with a preamble of its own.
            let other = preamble.map(|it| it.version).filter(|version| *version != VERSION);
            let why = other.map_or(why, |version| {
                format!(
                    "it speaks version {version} of the protocol between nodes, this node version \
                     {VERSION}"
                )
            });
            cluster.links.tell_refusal(id, &why);
            let change = cluster.links.lose(&mut self.server.ring, id, cluster.now.at);
            self.on_change(cluster, change);
        } else if let Some(link) = cluster.links.get(id) {
            link.reader = reader;
        }
    }

    /// Reads the frames that have arrived whole.
    ///
    /// # Errors
    ///
    /// Why the connection is of no more use.
    fn read_frames(
        &mut self,
        cluster: &mut Cluster,
        id: LinkId,
        reader: &mut FrameReader,
    ) -> Result<(), String> {
        while let Some(frame) = reader.next_frame().map_err(|error| error.to_string())? {
            cluster.links.frames_in += 1;
            let Some(link) = cluster.links.get(id) else { return Ok(()) };
            if !link.is_open() {
                let body = unpadded(frame.body).filter(|_| frame.kind == Kind::Handshake);
                let body = body.ok_or("it has not said who it is")?;
                let change = cluster.links.on_handshake(id, body)?;
                if let Some(Change::Opened(_)) = change {
                    reader.admit(cluster.links.receive_seal(id));
                }
                self.on_change(cluster, change);
                continue;
            }
            match frame.kind {
                Kind::Messages => {
                    let node = cluster.links.node_of(id).ok_or("it is not a member")?;
                    let remote = WallTime::from_millis(frame.wall_ms);
                    cluster.coordinator.on_heard(cluster.now, node, remote);
                    let read = self.on_messages(cluster, id, node, frame.body);
                    read.map_err(|error| error.to_string())?;
                }
                Kind::Handshake => return Err("it shakes hands again".to_owned()),
                Kind::Command if !cluster.links.is_control(id) => {
                    let body = unpadded(frame.body).ok_or("a frame's length does not agree")?;
                    match body.split_first() {
                        Some((0, commands)) => self.on_commands(id, commands)?,
                        Some((1, replies)) => self.on_command_replies(cluster, replies)?,
                        _ => return Err("a command cannot be read".to_owned()),
                    }
                }
                kind @ (Kind::Agreement | Kind::Exchange | Kind::Command) => {
                    let body = unpadded(frame.body).ok_or("a frame's length does not agree")?;
                    self.on_control_frame(cluster, id, kind, body)?;
                }
            }
        }
        Ok(())
    }

    /// A peer wants a shard of this core's.
    pub(crate) fn adopt_peer(&mut self, socket: OwnedFd, address: SocketAddr, target: u16) {
        let now = self.world.instant();
        if let Some(cluster) = &mut self.world.cluster {
            cluster.links.adopt(&mut self.server.ring, socket, address, target, now);
        }
    }

    /// The core that speaks for the node has told what holds.
    pub(crate) fn on_told(&mut self, told: Told) {
        let now = self.world.time();
        let Some(cluster) = &mut self.world.cluster else { return };
        cluster.now = now;
        let cleared = told.topology.cleared();
        let token_key = told.placement.token_key().clone();
        cluster.on_told(told);
        self.take_token_key(token_key);
        let Some(cluster) = &mut self.world.cluster else { return };
        if cluster.cleared >= cleared || cluster.clearing >= cleared {
            return;
        }
        cluster.clearing = cleared;
        // Has to wait, perhaps, for room in the log. Until it is done the core serves no keys.
        let (job, _) = repeatable(Tokens::new(), move |shards| {
            for shard in shards.iter_mut() {
                shard.clear_through(cleared)?;
            }
            Ok(())
        });
        self.start_job(job);
    }

    /// Makes tokens with the cluster's key from here on. A node that joins has been serving no keys.
    fn take_token_key(&mut self, token_key: TokenKey) {
        if token_key == *self.world.shards.token_key() {
            return;
        }
        if !self.world.shards.rekey(&token_key) {
            tracing::error!(
                "the node holds keys from before it joined the cluster: it stops, and places them \
                 with the cluster's token key when it is started again"
            );
            return self.world.node.shutdown_asked.store(true, Ordering::Release);
        }
        self.world.node.token_keys.join(&token_key);
    }
}
