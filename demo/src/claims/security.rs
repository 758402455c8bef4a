//! Security groups: a port that is closed is closed for what is established too, and can be opened again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::traffic::{self, Probe};
use serde_json::json;

use super::{Claim, Lane};
use crate::id;
use crate::peer::{FAMILIES, Family, POD_HTTP, Peer, milliseconds, shown};
use crate::world::World;

/// Silence for this long is a closed port.
const SILENCE: Duration = Duration::from_millis(700);

pub fn lane() -> Lane {
    let claim = |family| {
        let sentence =
            format!("a security group closes a port for new and established connections and opens it for new ones over {family}");
        Claim::new(sentence, move |world| closed_and_opened(world, family)).within(Duration::from_secs(45))
    };
    FAMILIES.map(claim).to_vec()
}

/// A security group that lets nothing in, made for a claim.
pub struct Gate {
    group: String,
}

impl Gate {
    pub fn new(world: &World, name: &str) -> Result<Gate> {
        let group = world.api().create("security_group", json!({"name": name}))?;
        Ok(Gate { group: id(&group).to_string() })
    }

    /// Makes it the only group of a pod.
    pub fn put_on(&self, world: &World, pod: &str) -> Result<()> {
        let port = world.port_of(pod)?;
        world.api().update("port", id(&port), json!({"security_groups": [self.group]}))?;
        world.wait_in_force()
    }

    /// Lets TCP in to one port; the id of the rule.
    fn open(&self, world: &World, family: Family, port: u16) -> Result<String> {
        let rule = json!({"security_group_id": self.group, "direction": "ingress", "ethertype": family.to_string(), "protocol": "tcp",
            "port_range_min": port, "port_range_max": port});
        let rule = world.api().create("security_group_rule", rule)?;
        world.wait_in_force()?;
        Ok(id(&rule).to_string())
    }

    fn close(&self, world: &World, rule: &str) -> Result<()> {
        world.api().delete("security_group_rule", rule)?;
        world.wait_in_force()
    }
}

/// Nothing comes back, not even a refusal.
pub fn is_shut(from: &Peer, to: SocketAddr) -> Result<()> {
    match traffic::http_get(from.netns()?, to, "/hostname", SILENCE)? {
        Probe::Silent => Ok(()),
        other => bail!("{} -> {to} should get silence and got {}", from.name, shown(&other)),
    }
}

fn closed_and_opened(world: &World, family: Family) -> Result<String> {
    let (client, pod) = (world.pod("a"), world.pod("guarded"));
    let to = SocketAddr::new(pod.ip(family), POD_HTTP);
    let gate = Gate::new(world, &format!("guarded-{family}"))?;
    let rule = gate.open(world, family, POD_HTTP)?;
    gate.put_on(world, "guarded")?;
    client.asks_by_tcp(pod, family).context("while the port is open")?;
    let mut established = Established::open(client, to)?;
    established.ask().context("the established connection, while the port is open")?;

    let started = Instant::now();
    gate.close(world, &rule)?;
    let closed = milliseconds(started);
    is_shut(client, to)?;
    ensure!(established.ask().is_err(), "the established connection is still answered");

    let started = Instant::now();
    gate.open(world, family, POD_HTTP)?;
    let opened = milliseconds(started);
    client.asks_by_tcp(pod, family).context("after the port was opened again")?;
    Ok(format!("closed for both in {closed}, opened in {opened}"))
}

/// An HTTP connection that is kept.
struct Established {
    stream: TcpStream,
}

impl Established {
    fn open(from: &Peer, to: SocketAddr) -> Result<Established> {
        let stream = from.netns()?.within(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Established { stream })
    }

    fn ask(&mut self) -> Result<()> {
        self.stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: demo\r\n\r\n")?;
        let mut buffer = [0; 4096];
        let length = self.stream.read(&mut buffer)?;
        ensure!(buffer[..length].starts_with(b"HTTP/1.1 200"), "no page");
        Ok(())
    }
}
