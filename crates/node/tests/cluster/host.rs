//! A simulated machine: Ladon's node with everything in it that decides, over a switch that is two tables.
//!
//! What decides is the node's own code: the replica, the engine with all apps, zones, what waits for the switch, the comparison
//! of desired with installed. Here is only what its tasks do between those: when which one is called is the world's choice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use apps::{ALL, Change, Engine, Here, Numbers};
use imbl::OrdMap;
use model::{Kind, Network, NetworkKey, NodeName, Object, Port, PortId, Revision};
use node::agent::attach::{self, Plugs};
use node::agent::pending::{Job, Pending as SwitchPending};
use node::bridge::{Interface, Interfaces};
use node::install;
use node::local::{Concerned, Local};
use node::switch::Changes;
use node::translate;
use node::view::replica::{Fault, Pending as ViewPending, Replica};
use node::view::{Facts, ViewUpdate};
use node::zones::Zones;
use openflow::{Action, FlowCommand, FlowKey, FlowMod, GroupCommand, InstalledFlow, InstalledGroup};
use pipeline::switch::Switch;
use pipeline::{Fingerprint, Generation, OfPort};
use stream::VIEW_FORMAT;
use stream::wire::{Hello, server_message::Body};

/// The tunnel's interface on every machine.
pub const TUNNEL: OfPort = OfPort(1);

/// What the machine keeps when Ladon is killed.
#[derive(Clone, Default)]
struct Disk {
    view: Option<(Vec<Arc<Object>>, Revision)>,
    numbers: Numbers,
    zones: Zones,
}

/// The switch. It outlives Ladon's node.
#[derive(Default)]
pub struct Vswitch {
    flows: BTreeMap<FlowKey, FlowMod>,
    groups: BTreeMap<u32, InstalledGroup>,
    /// The same in names, for packets.
    pub forwarding: Switch,
    /// The view whose flows it has.
    pub revision: Revision,
}

/// How the switch takes a piece of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taking {
    Well,
    /// The connection breaks before anything is done.
    Not,
    /// It is done, but the connection breaks before the node learns that.
    Unheard,
}

pub struct Host {
    pub name: NodeName,
    pub address: IpAddr,
    disk: Disk,
    pub replica: Replica,
    wants_snapshot: bool,
    updates: ViewPending,
    pub engine: Engine,
    plugs: Plugs,
    local: Local,
    zones: Zones,
    has_view: bool,
    revision: Revision,
    /// Plugged into the switch, by name.
    pub interfaces: Interfaces,
    last_ofport: u32,
    pending: SwitchPending,
    /// Which pipeline this node pretends to have.
    own: Fingerprint,
    /// The half of the switch that it writes.
    half: Generation,
    pub vswitch: Vswitch,
    facts: Option<Facts>,
    /// What the server was told on this stream.
    told: Option<Facts>,
}

impl Host {
    pub fn new(n: usize) -> Host {
        let mut host = Host {
            name: crate::edits::node_name(n),
            address: Ipv4Addr::new(192, 0, 2, 1 + n as u8).into(),
            disk: Disk::default(),
            replica: Replica::default(),
            wants_snapshot: false,
            updates: ViewPending::default(),
            engine: Engine::new(ALL, Numbers::default()),
            plugs: Plugs::default(),
            local: Local::default(),
            zones: Zones::default(),
            has_view: false,
            revision: Revision::default(),
            interfaces: Interfaces::new(),
            last_ofport: TUNNEL.0,
            pending: SwitchPending::default(),
            own: Fingerprint(1),
            half: Generation::default(),
            vswitch: Vswitch::default(),
            facts: None,
            told: None,
        };
        host.start();
        host
    }

    fn here(&self) -> Change {
        Change::Here(Here { node: self.name.clone(), tunnel_addresses: vec![self.address], tunnel_port: Some(TUNNEL.0) })
    }

    /// Ladon is killed, and a release with another pipeline starts.
    pub fn upgrade(&mut self) {
        self.own.0 += 1;
        self.start();
    }

    /// Ladon is killed and starts again: what is not on the disk is gone, and the switch goes on.
    pub fn start(&mut self) {
        (self.half, _) = install::to_write(&self.vswitch.installed(), self.own);
        self.engine = Engine::new(ALL, self.disk.numbers.clone());
        self.zones = self.disk.zones.clone();
        (self.plugs, self.local) = (Plugs::default(), Local::default());
        self.plugs.see(self.interfaces.clone());
        (self.has_view, self.revision) = (false, Revision::default());
        (self.updates, self.pending) = (ViewPending::default(), SwitchPending::default());
        (self.facts, self.wants_snapshot, self.replica) = (None, false, Replica::default());
        self.stream_ended();
        if let Some((upserts, revision)) = self.disk.view.clone() {
            self.replica = Replica::of(upserts.clone(), revision, None);
            self.updates.merge(ViewUpdate { upserts, removals: Vec::new(), revision, is_complete_snapshot: true });
        }
        let here = self.here();
        self.change(vec![here]);
        self.pending.compare_everything();
    }

    /// The view goes to the disk.
    pub fn save(&mut self) {
        if self.has_view {
            self.disk.view = Some((self.replica.objects().cloned().collect(), self.replica.revision()));
        }
    }

    // The stream.

    pub fn hello(&self) -> Hello {
        let revision = if self.wants_snapshot { Revision::default() } else { self.replica.revision() };
        Hello {
            node: self.name.0.clone(),
            tunnel_addresses: vec![self.address.to_string()],
            tunnel: "geneve".into(),
            revision: revision.0,
            interest_hash: self.replica.hash().0,
            view_format: VIEW_FORMAT,
            ..Hello::default()
        }
    }

    pub fn stream_ended(&mut self) {
        self.replica.stream_ended();
        self.told = None;
    }

    /// A message of the server.
    pub fn hear(&mut self, body: Body) -> Result<(), Fault> {
        let applied = self.replica.apply(body);
        if let Err(fault) = &applied {
            self.wants_snapshot |= fault.needs_snapshot();
        }
        if let Some(update) = applied? {
            self.wants_snapshot = false;
            self.updates.merge(update);
        }
        Ok(())
    }

    /// What the server has to be told, if anything. After a heartbeat it is told even if it knows.
    pub fn report(&mut self, is_due: bool) -> Option<stream::wire::Report> {
        let facts = self.facts.clone()?;
        let report = match &self.told {
            None => facts.full(),
            Some(told) if is_due || *told != facts => facts.since(told),
            Some(_) => return None,
        };
        self.told = Some(facts);
        Some(report)
    }

    // The agent.

    /// Takes in what changed in the view. True if anything did.
    pub fn take_view(&mut self) -> bool {
        if self.updates.is_empty() {
            return false;
        }
        let update = self.updates.take();
        self.has_view |= update.is_complete_snapshot;
        self.revision = update.revision;
        let removals = update.removals.into_iter().map(Change::Remove);
        self.change(removals.chain(update.upserts.into_iter().map(Change::Put)).collect());
        true
    }

    fn change(&mut self, changes: Vec<Change>) {
        changes.iter().for_each(|change| self.plugs.note_home(&self.name, change));
        let mut concerned = Concerned::default();
        self.update(changes, &mut concerned);
        let settled = self.plugs.settle(self.engine.view(), &mut self.zones, self.has_view);
        self.pending.flush(settled.taken);
        self.update(settled.changes, &mut concerned);
        self.local.follow(self.engine.view(), self.plugs.homes(), &concerned);
        self.publish_facts(None);
    }

    fn update(&mut self, changes: Vec<Change>, concerned: &mut Concerned) {
        concerned.add(self.engine.view(), &changes);
        let delta = self.engine.update(changes.clone());
        concerned.add(self.engine.view(), &changes);
        self.pending.merge(delta, self.half);
    }

    fn publish_facts(&mut self, in_force: Option<(Revision, OrdMap<PortId, OfPort>)>) {
        let old = self.facts.as_ref().map(|facts| (facts.revision, facts.installed.clone()));
        if let Some((revision, installed)) = in_force.or(old) {
            self.facts = Some(Facts { present: self.plugs.present().clone(), installed, revision, refused: 0 });
        }
    }

    // The switch.

    /// Gives the switch what it lacks. True if it lacked anything.
    pub fn work(&mut self, taking: Taking) -> bool {
        if !self.has_view {
            return false;
        }
        let view = self.engine.view();
        let in_force = (self.revision, view.attachments().map(|one| (one.port, one.ofport)).collect());
        if self.pending.is_empty() {
            self.publish_facts(Some(in_force));
            self.engine.forget_numbers();
            return false;
        }
        (self.disk.numbers, self.disk.zones) = (self.engine.numbers(), self.zones.clone());
        let (engine, half, own) = (&self.engine, self.half, self.own);
        let job = self.pending.take(|| desired(engine, half, own));
        if taking != Taking::Not {
            self.vswitch.carry_out(job, half);
            self.vswitch.forwarding.program(self.engine.flows(), self.engine.groups().cloned());
            self.vswitch.revision = self.revision;
        }
        match taking {
            Taking::Well => {
                self.pending.carried_out(&mut self.zones);
                self.publish_facts(Some(in_force));
            }
            Taking::Not | Taking::Unheard => self.pending.compare_everything(),
        }
        true
    }

    /// The switch is killed and starts again, empty.
    pub fn restart_switch(&mut self) {
        self.vswitch = Vswitch::default();
        self.pending.compare_everything();
    }

    /// An interface for `port` appears on the switch. Numbers are not used again.
    pub fn plug(&mut self, port: PortId) {
        self.last_ofport += 1;
        let name = format!("i{}", self.last_ofport);
        let interface = Interface {
            name: name.clone(),
            uuid: uuid::Uuid::from_u128(self.last_ofport.into()),
            kind: String::new(),
            ofport: Some(OfPort(self.last_ofport)),
            error: None,
            iface_id: Some(port.to_string()),
            mac_in_use: None,
            options: BTreeMap::new(),
            external_ids: BTreeMap::new(),
        };
        self.interfaces.insert(name, interface);
        self.plugs.see(self.interfaces.clone());
        self.change(Vec::new());
    }

    pub fn unplug(&mut self, name: &str) {
        self.interfaces.remove(name);
        self.plugs.see(self.interfaces.clone());
        self.change(Vec::new());
    }

    /// The port whose interface has the number.
    pub fn plugged(&self, ofport: OfPort) -> Option<PortId> {
        self.interfaces.values().find(|interface| interface.ofport == Some(ofport))?.iface_id.as_ref()?.parse().ok()
    }

    pub fn has_interface_of(&self, port: PortId) -> bool {
        attach::plugged(&self.interfaces).contains_key(&port)
    }

    /// Spoils the switch: all networks have one number there.
    pub fn confuse_networks(&mut self) {
        let view = self.engine.view();
        let confused = view.objects().map(|object| match &**object {
            Object::Network(network) => Arc::new(Object::from(Network { key: NetworkKey(1), ..Network::clone(network) })),
            _ => object.clone(),
        });
        let attachments = view.attachments().map(|one| Change::Attach(*one));
        let mut engine = Engine::new(ALL, self.engine.numbers());
        engine.update(std::iter::once(self.here()).chain(confused.map(Change::Put)).chain(attachments));
        self.vswitch.forwarding.program(engine.flows(), engine.groups().cloned());
    }

    /// Spoils the engine: it does not know of a port.
    pub fn miss_a_port(&mut self) {
        let key = self.engine.view().objects().map(|object| object.key()).filter(|key| key.kind == Kind::Port).min();
        self.engine.update(key.map(Change::Remove));
    }

    /// Fails unless everything is as on a machine that begins now with this view.
    pub fn assert_as_fresh(&self, snapshot: ViewUpdate) {
        let name = &self.name;
        let mut fresh = Engine::new(ALL, self.engine.numbers());
        fresh.update([self.here()]);
        fresh.update(snapshot.upserts.into_iter().map(Change::Put));
        let attachments: BTreeMap<PortId, _> = self.engine.view().attachments().map(|one| (one.port, *one)).collect();
        let ports = fresh.view().objects().filter_map(|object| <&Port>::try_from(&**object).ok());
        let homes: BTreeSet<PortId> = ports.filter(|port| port.home() == Some(name)).map(|port| port.id).collect();
        let local = attach::plugged(&self.interfaces).into_iter().filter(|(port, _)| homes.contains(port));
        let expected: BTreeMap<PortId, OfPort> = local.collect();
        assert_eq!(attachments.iter().map(|(port, one)| (*port, one.ofport)).collect::<BTreeMap<_, _>>(), expected, "{name}: attached");
        fresh.update(attachments.into_values().map(Change::Attach));
        assert_eq!(self.local, Local::of(fresh.view(), &homes), "{name}: what is known of the ports that live here");
        let expected: BTreeMap<String, String> =
            self.interfaces.values().filter_map(|one| Some((one.iface_id.clone()?, String::new()))).collect();
        assert_eq!(self.plugs.present().iter().map(|(id, there)| (id.clone(), there.error.clone())).collect::<BTreeMap<_, _>>(), expected);
        let sorted = |engine: &Engine| {
            let mut flows: Vec<_> = engine.flows().collect();
            flows.sort();
            flows
        };
        let (have, want) = (sorted(&self.engine), sorted(&fresh));
        if have != want {
            let lines = |these: &[pipeline::Flow], others: &[pipeline::Flow]| {
                these.iter().filter(|flow| !others.contains(flow)).map(|flow| format!("  {flow}\n")).collect::<String>()
            };
            panic!("{name}: flows that a fresh node does not have:\n{}and lacks:\n{}", lines(&have, &want), lines(&want, &have));
        }
        let groups = |engine: &Engine| engine.groups().map(|group| (group.id, group.clone())).collect::<BTreeMap<_, _>>();
        assert_eq!(groups(&self.engine), groups(&fresh), "{name}: groups");
        self.assert_installed(&fresh);
    }

    fn assert_installed(&self, fresh: &Engine) {
        let name = &self.name;
        let (flows, groups) = desired(fresh, self.half, self.own);
        let flows: BTreeMap<FlowKey, FlowMod> = flows.into_iter().map(|flow| (flow.key(), flow)).collect();
        for (key, flow) in &flows {
            assert_eq!(self.vswitch.flows.get(key), Some(flow), "{name}: the switch lacks a flow");
        }
        assert_eq!(self.vswitch.flows.len(), flows.len(), "{name}: the switch has flows that a fresh node's has not");
        let groups: BTreeMap<u32, InstalledGroup> = groups.into_iter().map(|group| (group.id, group)).collect();
        assert_eq!(self.vswitch.groups, groups, "{name}: the switch's groups");
    }
}

/// All that the switch should have.
fn desired(engine: &Engine, half: Generation, own: Fingerprint) -> (Vec<FlowMod>, Vec<InstalledGroup>) {
    let flows = engine.flows().map(|flow| translate::flow_mod(&flow, half).expect("every flow can be written"));
    let flows = flows.chain(translate::misses(half)).chain([translate::dispatch(half, own)]).collect();
    (flows, engine.groups().map(|group| translate::group(group, half)).collect())
}

impl Vswitch {
    fn installed(&self) -> Vec<InstalledFlow> {
        self.flows.values().map(installed).collect()
    }

    fn carry_out(&mut self, job: Job, half: Generation) {
        match job.everything {
            Some((flows, groups)) => {
                let installed_groups: Vec<InstalledGroup> = self.groups.values().cloned().collect();
                let plan = install::plan(half, flows, groups, &self.installed(), &installed_groups);
                [plan.half, plan.turn, plan.other_half].into_iter().for_each(|changes| self.take(changes));
            }
            None => self.take(job.changes),
        }
    }

    fn take(&mut self, Changes { groups, flows }: Changes) {
        // Groups before flows that use them, deleted groups last.
        let (deleted, made): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.command == GroupCommand::Delete);
        for group in made {
            let is_new = !self.groups.contains_key(&group.id);
            assert_eq!(group.command == GroupCommand::Add, is_new, "group {} is made when it is not there, changed when it is", group.id);
            let made = InstalledGroup { id: group.id, kind: group.kind, buckets: group.buckets, selection: group.selection };
            self.groups.insert(group.id, made);
        }
        for flow in flows {
            match flow.command {
                FlowCommand::Add => drop(self.flows.insert(flow.key(), flow)),
                _ => drop(self.flows.remove(&flow.key())),
            }
        }
        for group in deleted {
            self.groups.remove(&group.id);
            self.flows.retain(|_, flow| !flow.instructions.apply.contains(&Action::Group(group.id)));
        }
        for flow in self.flows.values() {
            for action in &flow.instructions.apply {
                let Action::Group(id) = action else { continue };
                assert!(self.groups.contains_key(id), "a flow uses group {id}, which is not there: {flow:?}");
            }
        }
    }
}

fn installed(flow: &FlowMod) -> InstalledFlow {
    InstalledFlow {
        table: flow.table,
        priority: flow.priority,
        matching: flow.matching.clone(),
        instructions: flow.instructions.clone(),
        cookie: flow.cookie,
        idle_timeout_secs: flow.idle_timeout_secs,
        hard_timeout_secs: flow.hard_timeout_secs,
        importance: flow.importance,
        flags: flow.flags,
        stats: Default::default(),
    }
}
