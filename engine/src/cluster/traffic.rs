//! What happens on the connections to peers, turn by turn.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use gridkv_cluster::wire::frame::{Frame, FrameReader, Kind};
use gridkv_cluster::wire::preamble::{self, Preamble};
use gridkv_cluster::wire::{VERSION, body};
use gridkv_cluster::{Instant, Now, TokenKey, WallTime};
use gridkv_net::ring::{ConnectionId, DataRing, Received};

use super::Told;
use super::control::CONTROL_CORE;
use super::links::{Change, Links};
use super::machine::LinkId;
use crate::core::mailbox::Message;
use crate::core::{Core, World};

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
    /// The connections to peers, and what carries them.
    fn links(&mut self) -> (&mut Links, &mut DataRing) {
        let cluster = self.world.cluster.as_mut().expect("the node is in a cluster");
        (&mut cluster.links, &mut self.server.ring)
    }

    /// Takes in what the data ring has brought. Whether there was anything.
    pub(super) fn turn_links(&mut self, now: Now) -> bool {
        let events = std::mem::take(&mut self.world.link_events);
        let ready = std::mem::take(&mut self.world.ready);
        let has_work = !events.is_empty() || !ready.is_empty();
        for event in events {
            match event {
                LinkEvent::Received(received) => self.on_link_received(now, received),
                LinkEvent::Ended(connection) => {
                    if let Some(id) = self.links().0.of_connection(connection) {
                        self.lose_link(now, id, "it has closed the connection");
                    }
                }
                LinkEvent::Sent => {}
            }
        }
        if let Some(address) = self.links().0.twin_at.take() {
            // A full mailbox drops it: they meet again.
            let ask = Message::Call(Box::new(move |core| core.ask_twin(address)));
            let _ = self.world.node.ports[CONTROL_CORE].try_post(ask);
        }
        if let Some((address, epoch)) = self.links().0.heard.take() {
            // As above: they dial again.
            let hear = Message::Call(Box::new(move |core| core.hear_of_cluster(address, epoch)));
            let _ = self.world.node.ports[CONTROL_CORE].try_post(hear);
        }
        for token in &ready {
            let (links, ring) = self.links();
            let change = links.on_ready(ring, LinkId(*token), now.at);
            self.on_change(now, change);
        }
        let control = self.world.cluster.as_ref().and_then(|cluster| cluster.control.as_ref());
        let is_due = |at: Instant| at <= now.at;
        if control.is_some_and(|it| !ready.is_empty() || it.due_at().is_some_and(is_due)) {
            self.with_control(|control, desk| control.turn(desk, &ready));
        }
        let (links, ring) = self.links();
        if links.due_at().is_some_and(|at| at <= now.at) {
            for change in links.run_timers(ring, now.at) {
                self.on_change(now, Some(change));
            }
        }
        has_work
    }

    fn on_change(&mut self, now: Now, change: Option<Change>) {
        match change {
            None => return,
            Some(Change::Opened(id)) => {
                if let Some(link) = self.links().0.get(id) {
                    tracing::debug!(address = %link.address, "connected to a peer");
                }
            }
            Some(Change::Lost(None)) => {}
            Some(Change::Lost(Some(node))) => {
                self.tell_machine(now, |machine, shards| machine.on_lost(now, shards, node));
            }
        }
        self.tell_failing(now);
    }

    /// Tells the machine which peers cannot be sent to.
    fn tell_failing(&mut self, now: Now) {
        let (unopened, failing) = self.links().0.unopened();
        self.tell_machine(now, |machine, shards| {
            machine.on_links(now, shards, failing, unopened);
        });
    }

    fn lose_link(&mut self, now: Now, id: LinkId, why: &str) {
        let (links, ring) = self.links();
        links.tell_failure(id, why);
        let change = links.lose(ring, id, now.at);
        self.on_change(now, change);
    }

    fn on_link_received(&mut self, now: Now, received: Received) {
        let (links, ring) = self.links();
        let id = links.of_connection(received.connection);
        let link = id.and_then(|id| links.get(id));
        let (Some(id), Some(link)) = (id, link) else { return ring.recycle(received) };
        // Taken out while its frames are read: what they lead to goes through the links.
        let mut reader = std::mem::take(&mut link.reader);
        let bytes = ring.bytes(&received);
        let first = bytes.first_chunk::<{ preamble::BYTES }>();
        let preamble = first.and_then(|it| Preamble::decode(it).ok());
        reader.push(bytes);
        links.bytes_in += bytes.len() as u64;
        ring.recycle(received);
        let read = self.read_frames(now, id, &mut reader);
        let (links, ring) = self.links();
        if let Err(why) = read {
            links.refused += 1;
            let is_open = links.get(id).is_some_and(|link| link.is_open());
            if is_open {
                return self.lose_link(now, id, &why);
            }
            // A node of another version answers with a preamble of its own.
            let other = preamble.map(|it| it.version).filter(|version| *version != VERSION);
            let why = other.map_or(why, |version| {
                format!(
                    "it speaks version {version} of the protocol between nodes, this node version \
                     {VERSION}"
                )
            });
            links.tell_refusal(id, &why);
            let change = links.lose(ring, id, now.at);
            self.on_change(now, change);
        } else if let Some(link) = links.get(id) {
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
        now: Now,
        id: LinkId,
        reader: &mut FrameReader,
    ) -> Result<(), String> {
        while let Some(frame) = reader.next_frame().map_err(|error| error.to_string())? {
            let (links, _) = self.links();
            links.frames_in += 1;
            let Some(link) = links.get(id) else { return Ok(()) };
            if link.is_open() {
                self.take_frame(now, id, &frame)?;
                continue;
            }
            let body = body::read(frame.body).filter(|_| frame.kind == Kind::Handshake);
            let body = body.ok_or("it has not said who it is")?;
            let change = links.on_handshake(id, body)?;
            if let Some(Change::Opened(_)) = change {
                reader.admit(links.receive_seal(id));
            }
            self.on_change(now, change);
        }
        Ok(())
    }

    /// Takes in a frame of a peer that has said who it is.
    fn take_frame(&mut self, now: Now, id: LinkId, frame: &Frame<'_>) -> Result<(), String> {
        let body = || body::read(frame.body).ok_or("a frame's length does not agree");
        let (links, _) = self.links();
        match frame.kind {
            Kind::Messages => {
                let node = links.node_of(id).ok_or("it is not a member")?;
                let remote = WallTime::from_millis(frame.wall_ms);
                let read = self.tell_machine(now, |machine, shards| {
                    machine.on_heard(now, node, remote);
                    machine.on_messages(now, shards, (node, id), frame.body)
                });
                read.unwrap_or(Ok(())).map_err(|error| error.to_string())
            }
            Kind::Handshake => Err("it shakes hands again".to_owned()),
            Kind::Command if !links.is_control(id) => {
                links.node_of(id).ok_or("it is not a member")?;
                let body = body()?;
                let read = self.tell_machine(now, |machine, shards| match body.split_first() {
                    Some((&body::ASK, commands)) => machine.on_commands(now, shards, id, commands),
                    Some((&body::ANSWER, replies)) => {
                        machine.on_command_replies(now, shards, replies)
                    }
                    _ => Err("a command cannot be read"),
                });
                Ok(read.unwrap_or(Ok(()))?)
            }
            kind @ (Kind::Agreement | Kind::Exchange | Kind::Command) => {
                let body = body()?;
                let taken = self.with_control(|it, desk| it.take_frame(desk, id, kind, body));
                let nobody = "it speaks of the cluster to a core that does not speak for the node";
                Ok(taken.unwrap_or(Err(nobody))?)
            }
        }
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
        if !self.world.is_replicated() {
            return;
        }
        let now = self.world.time();
        let own = self.world.shards.ends();
        self.links().0.set_topology(&told, own);
        self.take_token_key(told.placement.token_key());
        self.tell_machine(now, |machine, shards| machine.on_state(now, shards, told));
        self.note_whole();
        self.tell_failing(now);
    }

    /// What may have been lacking here was removed from all nodes, perhaps.
    fn note_whole(&self) {
        let World { machine: Some(machine), node, id, .. } = &self.world else { return };
        if *id == CONTROL_CORE
            && !machine.may_lack()
            && let Some(cluster) = &node.cluster
        {
            cluster.set_whole();
        }
    }

    /// Makes tokens with the cluster's key from here on. A node that joins has been serving no keys.
    fn take_token_key(&mut self, token_key: &TokenKey) {
        if token_key == self.world.shards.token_key() {
            return;
        }
        if !self.world.shards.rekey(token_key) {
            tracing::error!(
                "the node holds keys from before it joined the cluster: it stops, and places them \
                 with the cluster's token key when it is started again"
            );
            return self.world.node.shutdown_asked.store(true, Ordering::Release);
        }
        self.world.node.token_keys.join(token_key);
    }
}
