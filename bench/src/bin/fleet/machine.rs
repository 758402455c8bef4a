//! One node: follows a server, keeps its view, says what is true.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use anyhow::Result;
use model::{Kind, NodeName, Object, ObjectKey, PortId};
use node::view::replica::{Fault, Replica};
use node::view::{BACKOFF_MAX, Facts, Rota, SILENCE_MAX, ViewUpdate};
use pipeline::OfPort;
use stream::pki::Authority;
use stream::wire::{Delta, Hello, node_message, server_message::Body};
use stream::{Credentials, Following, Target, VIEW_FORMAT};
use tokio::time::timeout;

use crate::Common;
use crate::flows::Computed;
use crate::seen::{Flows, Seen, add};

pub struct Machine {
    common: Arc<Common>,
    seen: Arc<Seen>,
    name: NodeName,
    credentials: Credentials,
    replica: Replica,
    facts: Facts,
    computed: Option<Computed>,
    wants_snapshot: bool,
    /// The server that is asked, by its place.
    server: usize,
}

impl Machine {
    pub fn new(common: Arc<Common>, seen: Arc<Seen>, authority: &Authority, computes_flows: bool) -> Result<Machine> {
        let name = NodeName(format!("n{}", seen.number));
        let credentials = authority.node(&name)?;
        let computed = computes_flows.then(|| Computed::new(&name, tunnel(seen.number)));
        let (replica, facts) = Default::default();
        Ok(Machine { common, seen, name, credentials, replica, facts, computed, wants_snapshot: false, server: 0 })
    }

    /// Follows one server after the other, with the pauses that `ladon node` makes.
    pub async fn live(mut self) {
        let mut rota = Rota::new(self.common.servers.len(), self.seen.number as usize);
        while let Some((place, ready)) = rota.next() {
            tokio::time::sleep_until(ready).await;
            self.server = place;
            let address = self.common.servers[place].clone();
            let target = Target { address, credentials: self.credentials.clone() };
            let began = Instant::now();
            let (problem, has_talked) = match stream::follow_from(source(self.seen.number), &target, self.hello()).await {
                Ok(following) => {
                    let why = self.follow(following).await;
                    self.seen.follow(None);
                    self.replica.stream_ended();
                    (why, true)
                }
                Err(error) => (error.to_string(), false),
            };
            *self.seen.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
            rota.ended(place, has_talked && began.elapsed() > BACKOFF_MAX);
        }
    }

    fn hello(&self) -> Hello {
        let revision = if self.wants_snapshot { 0 } else { self.replica.revision().0 };
        Hello {
            node: self.name.0.clone(),
            tunnel_addresses: vec![tunnel(self.seen.number).to_string()],
            tunnel: "geneve".into(),
            revision,
            interest_hash: self.replica.hash().0,
            view_format: VIEW_FORMAT,
            bridge: "br-int".into(),
            datapath: "system".into(),
            store: self.replica.store().filter(|_| self.replica.is_complete()).map(|store| store.to_string()).unwrap_or_default(),
        }
    }

    /// Until the stream ends; why it did.
    async fn follow(&mut self, following: Following) -> String {
        let Following { mut inbound, outbound } = following;
        let (mut told, mut is_due) = (None, true);
        loop {
            if is_due && self.replica.is_complete() {
                let report = told.as_ref().map_or_else(|| self.facts.full(), |told| self.facts.since(told));
                if outbound.send(node_message::Body::Report(report).into()).await.is_err() {
                    return "the stream takes no report".into();
                }
                told = Some(self.facts.clone());
            }
            let body = match timeout(SILENCE_MAX, inbound.message()).await {
                Ok(Ok(Some(message))) => message.body,
                Ok(Ok(None)) => return "the server ended the stream".into(),
                Ok(Err(status)) => return stream::reason(&status),
                Err(_) => return format!("silence for {SILENCE_MAX:?}"),
            };
            is_due = match body.map(|body| self.take(body)) {
                Some(Ok(is_due)) => is_due,
                Some(Err(fault)) => {
                    self.wants_snapshot |= fault.needs_snapshot();
                    add(&self.seen.faults, usize::from(fault.needs_snapshot()));
                    return fault.to_string();
                }
                None => false,
            };
        }
    }

    /// Takes in a message. True if there is something to report.
    fn take(&mut self, body: Body) -> Result<bool, Fault> {
        self.count(&body);
        let is_heartbeat = matches!(body, Body::Heartbeat(_));
        let shared = &self.common.shared;
        let update = self.replica.apply_with(&|bytes| shared.object(bytes), body)?;
        self.seen.follow(Some(self.server));
        if let Some(update) = &update {
            self.wants_snapshot = false;
            self.put_in_force(update);
        }
        self.seen.revision.store(self.replica.revision().0, Relaxed);
        Ok(is_heartbeat || update.is_some())
    }

    fn count(&self, body: &Body) {
        match body {
            Body::Delta(delta) => {
                add(&self.seen.deltas, 1);
                self.seen.told.store(true, Relaxed);
                add(&self.seen.delta_bytes, bytes(delta));
            }
            Body::SnapshotBegin(_) => add(&self.seen.snapshots, 1),
            Body::SnapshotChunk(chunk) => add(&self.seen.snapshot_bytes, chunk.objects.iter().map(|object| object.len()).sum()),
            _ => {}
        }
    }

    /// Whatever the view says lives here is here, and in force.
    fn put_in_force(&mut self, update: &ViewUpdate) {
        for key in &update.removals {
            self.unplug(*key);
        }
        for object in &update.upserts {
            match &**object {
                Object::Port(port) if port.home() == Some(&self.name) => {
                    self.facts.present.insert(port.id.to_string(), Default::default());
                    self.facts.installed.insert(port.id, OfPort(1));
                }
                Object::Port(_) => self.unplug(object.key()),
                _ => {}
            }
        }
        self.facts.revision = update.revision;
        self.seen.objects.store(self.replica.objects().len() as u64, Relaxed);
        if let Some(computed) = &mut self.computed {
            computed.follow(update);
            let (flows, local_ports) = (computed.flows() as u64, computed.local_ports() as u64);
            *self.seen.flows.lock().unwrap_or_else(PoisonError::into_inner) = Some(Flows { flows, local_ports });
        }
    }

    fn unplug(&mut self, key: ObjectKey) {
        if key.kind == Kind::Port && self.facts.installed.remove(&PortId(key.id)).is_some() {
            self.facts.present.remove(&key.id.to_string());
        }
    }
}

/// What a delta says, without the frame around it.
fn bytes(delta: &Delta) -> usize {
    let removals = delta.removals.iter().map(|key| key.kind.len() + key.id.len());
    delta.upserts.iter().map(|object| object.len()).chain(removals).sum()
}

/// Where the node's tunnels end.
fn tunnel(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 1).to_bits() + number).into()
}

/// The address that the node's connection comes from.
fn source(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + number).into()
}
