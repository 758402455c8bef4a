//! Bad input: refused with Neutron's status code and error type, nothing changed, nobody crashed. And the operator's own commands.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::traffic::Pinging;
use lab::wait;
use serde_json::{Value, json};

use super::{Claim, Lane};
use crate::id;
use crate::peer::FAMILIES;
use crate::world::{METAL, World};

/// Larger than any body that the server takes.
const HUGE_MIB: usize = 40;

pub fn lane() -> Lane {
    vec![
        Claim::new("malformed JSON, unknown attributes, wrong types and huge bodies are refused and change nothing", refused),
        Claim::new("overlapping subnets and deletes of things in use are refused and change nothing", conflicting),
        Claim::new("an iface-id that no port has is reported", unknown_interface),
        Claim::new("a second node that claims a port is reported, and the first one keeps it", second_claim),
        Claim::new("metal1 takes a second interface by `ladon plug` and gives it back by `ladon unplug`", plugged_twice),
        Claim::new("`ladon flows` names the object that each flow is there for", explained),
    ]
}

/// How long the first owner of a port is watched while another node claims it.
const WATCHED: Duration = Duration::from_secs(1);
/// A tap comes and goes: Open vSwitch itself may lose a packet each time. A port with two owners would lose all.
const PORT_EVENTS: u32 = 2;
/// What a refused request must not have made.
const NAME: &str = "refused";

fn expect(found: (u16, Value), status: u16, kind: &str) -> Result<String> {
    let (code, document) = found;
    let said = document["NeutronError"]["type"].as_str().unwrap_or_default();
    if code != status || (!kind.is_empty() && said != kind) {
        bail!("expected {status} {kind}, got {code} {document}");
    }
    Ok(if said.is_empty() { status.to_string() } else { format!("{status} {said}") })
}

fn refused(world: &World) -> Result<String> {
    let api = world.api();
    let unknown = json!({"network": {"name": NAME, "colour": "red"}});
    let mistyped = json!({"network": {"name": NAME, "admin_state_up": "perhaps"}});
    let said = [
        expect(api.raw("POST", "/v2.0/networks", &format!("{{\"network\": {{\"name\": \"{NAME}\""))?, 400, "")?,
        expect(api.request("POST", "/v2.0/networks", Some(&unknown))?, 400, "HTTPBadRequest")?,
        expect(api.request("POST", "/v2.0/networks", Some(&mistyped))?, 400, "")?,
        expect(api.raw("POST", "/v2.0/networks", &" ".repeat(HUGE_MIB << 20))?, 413, "")?,
    ];
    ensure!(api.list("network", &format!("name={NAME}"))?.is_empty(), "a network was made");
    ensure!(world.ladon.server.is_alive(), "the server is gone");
    let log = fs::read_to_string(world.ladon.server.log()).context("reading the server's log")?;
    let crash = log.lines().find(|line| line.contains("panicked") || line.contains(" ERROR "));
    ensure!(crash.is_none(), "the server logged a user's mistake as its own: {crash:?}");
    Ok(said.join(", "))
}

fn conflicting(world: &World) -> Result<String> {
    let api = world.api();
    let network = world.vm_port["network_id"].as_str().context("a port has a network")?;
    let overlapping = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.70.0.128/25"}});
    let said = [
        expect(api.request("POST", "/v2.0/subnets", Some(&overlapping))?, 400, "InvalidInput")?,
        expect(api.request("DELETE", &format!("/v2.0/networks/{network}"), None)?, 409, "NetworkInUse")?,
    ];
    ensure!(api.list("subnet", &format!("network_id={network}"))?.len() == 2, "a subnet was made or went");
    Ok(said.join(", "))
}

/// A device on a node's bridge, as a virtual machine's tap that nobody announced.
struct Tap<'a> {
    world: &'a World,
    node: &'static str,
    name: &'static str,
}

impl<'a> Tap<'a> {
    fn plug(world: &'a World, node: &'static str, name: &'static str, iface_id: &str) -> Result<Tap<'a>> {
        world.hosts[node].tool("ip", &["tuntap", "add", "dev", name, "mode", "tap"])?;
        let tap = Tap { world, node, name };
        world.ovs[node].plug_like_nova("br-int", name, iface_id, "02:00:00:00:0b:ad", "00000000-0000-0000-0000-000000000000")?;
        Ok(tap)
    }
}

impl Drop for Tap<'_> {
    fn drop(&mut self) {
        let _ = self.world.ovs[self.node].unplug(self.name);
        let _ = self.world.hosts[self.node].tool("ip", &["link", "delete", self.name]);
    }
}

/// Until `ladon ports` says so.
fn reported<T>(world: &World, what: &str, look: impl Fn(&Value) -> Option<T>) -> Result<T> {
    let control = world.ladon.node("control").context("control runs a node")?;
    Ok(wait::until(what, Duration::from_secs(20), || {
        let document = world.ladon.ladon(control, &["ports"]).map_err(|error| format!("{error:#}"))?;
        look(&document).map(Some).ok_or_else(|| "not in `ladon ports`".to_string())
    })?)
}

fn unknown_interface(world: &World) -> Result<String> {
    const NOBODY: &str = "00000000-0000-4000-8000-00000000dead";
    let _tap = Tap::plug(world, "n1", "tap-nobody", NOBODY)?;
    reported(world, "the unknown interface in `ladon ports`", |document| {
        let unknown = document["unknown_interfaces"].as_array()?;
        unknown.iter().find(|one| one["iface_id"] == NOBODY && one["node"] == "n1").map(drop)
    })?;
    Ok(format!("`ladon ports` says that {NOBODY} on n1 is no port's"))
}

fn second_claim(world: &World) -> Result<String> {
    let port = id(&world.vm_port).to_string();
    let pings =
        FAMILIES.map(|family| anyhow::Ok(Pinging::start(world.pod("c").netns()?, world.guest().ip(family), Duration::from_millis(10))?));
    let tap = Tap::plug(world, "n3", "tap-twice", &port)?;
    let conflicts = reported(world, "the conflict in `ladon ports`", |document| {
        let row = document["ports"].as_array()?.iter().find(|row| row["id"] == port.as_str())?;
        (row["home"] == "n2" && row["conflicts"].to_string().contains("n3")).then(|| row["conflicts"].to_string())
    })?;
    thread::sleep(WATCHED);
    drop(tap);
    world.wait_in_force()?;
    let (mut sent, mut lost) = (0, 0);
    for pinging in pings {
        let report = pinging?.stop()?;
        ensure!(report.lost <= PORT_EVENTS, "{} of {} echo requests from the second node to vm1 were lost", report.lost, report.sent);
        (sent, lost) = (sent + report.sent, lost + report.lost);
    }
    Ok(format!("home n2, also claimed by {conflicts}; {lost} of {sent} echo requests from n3 to vm1 lost meanwhile"))
}

fn plugged_twice(world: &World) -> Result<String> {
    let node = world.ladon.node(METAL).context("metal1 runs a node")?;
    let plugged = world.ladon.ladon(node, &["plug", "--network", "vms", "--name", "extra0", "--address", "10.70.0.77"])?;
    let port = plugged["port"].as_str().context("`ladon plug` names the port")?.to_string();
    let shown = node.host.tool("ip", &["-brief", "address", "show", "dev", "extra0"])?;
    ensure!(shown.contains("10.70.0.77/24"), "{shown}");
    world.ladon.ladon(node, &["unplug", "extra0"])?;
    ensure!(node.host.tool("ip", &["link", "show", "dev", "extra0"]).is_err(), "extra0 is still there");
    let (status, _) = world.api().request("GET", &format!("/v2.0/ports/{port}"), None)?;
    ensure!(status == 404, "the port is still there");
    Ok("extra0 had 10.70.0.77/24; interface and port are gone".into())
}

fn explained(world: &World) -> Result<String> {
    let node = world.ladon.node("n2").context("n2 runs a node")?;
    let lines = world.ladon.ladon_text(node, &["flows"])?;
    let flows: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let nameless = flows.iter().filter(|flow| flow["because"]["kind"].as_str().unwrap_or_default().is_empty()).count();
    ensure!(nameless == 0, "{nameless} flows have no reason");
    let vm = flows.iter().filter(|flow| flow["because"]["name"] == "vm1").count();
    ensure!(vm > 0, "no flow is there for vm1");
    Ok(format!("{} flows on n2, each with its object; {vm} for vm1", flows.len()))
}
