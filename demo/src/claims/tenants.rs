//! Two tenants with the same addresses, and the same MACs, on the same two nodes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::Host;
use lab::traffic::{self, EchoServer, Probe};
use serde_json::json;

use super::{Claim, Lane};
use crate::peer::{FAMILIES, Family, PATIENCE, shown};
use crate::world::World;
use crate::{Workload, id};

/// The addresses that both have: a client and a server.
const CLIENT: (&str, &str, &str) = ("02:00:00:00:09:01", "10.9.0.11", "fd00:9::11");
const SERVER: (&str, &str, &str) = ("02:00:00:00:09:02", "10.9.0.12", "fd00:9::12");
/// A port that only one tenant's server listens on, and one that only the other's does.
const PORTS: [(&str, u16); 2] = [("blue", 7001), ("red", 7002)];

pub fn lane() -> Lane {
    vec![
        Claim::new("two tenants with the same addresses and MACs do not see each other, over IPv4 and IPv6", apart)
            .within(Duration::from_secs(60)),
    ]
}

/// One tenant's two machines, on n1 and n3.
struct Tenant {
    name: &'static str,
    client: Workload,
    _server: Workload,
    _echo: EchoServer,
}

impl Tenant {
    fn new(world: &World, name: &'static str, port: u16) -> Result<Tenant> {
        let project = format!("{name:0>32}").replace(|c: char| !c.is_ascii_hexdigit(), "0");
        let api = world.api();
        let network = api.create("network", json!({"name": name, "project_id": project}))?;
        for (version, cidr) in [(4, "10.9.0.0/24"), (6, "fd00:9::/64")] {
            api.create("subnet", json!({"network_id": id(&network), "ip_version": version, "cidr": cidr, "project_id": project}))?;
        }
        let plug = |node: &str, role: &str, (mac, v4, v6): (&str, &str, &str)| {
            let wanted = json!({"network_id": id(&network), "name": format!("{name}-{role}"), "project_id": project, "mac_address": mac,
                "fixed_ips": [{"ip_address": v4}, {"ip_address": v6}], "security_groups": [], "port_security_enabled": false});
            let port = api.create("port", wanted)?;
            let workload = Workload::plug(&world.ovs[node], &format!("{name}-{role}"), &port, &[(v4.parse()?, 24), (v6.parse()?, 64)])?;
            world.ladon.wait_active(id(&port))?;
            anyhow::Ok(workload)
        };
        let client = plug("n1", "cl", CLIENT)?;
        let server = plug("n3", "se", SERVER)?;
        let echo = EchoServer::start(server.netns(), port)?;
        Ok(Tenant { name, client, _server: server, _echo: echo })
    }

    fn tries(&self, to: SocketAddr) -> Result<Probe> {
        Ok(traffic::tcp(self.client.netns(), to, b"who is there?", PATIENCE)?)
    }
}

fn apart(world: &World) -> Result<String> {
    let tenants = PORTS.map(|(name, port)| Tenant::new(world, name, port));
    let tenants = tenants.into_iter().collect::<Result<Vec<_>>>()?;
    let outsider: &Host = &world.hosts["n1"];
    for family in FAMILIES {
        let server: IpAddr = if family == Family::V4 { SERVER.1 } else { SERVER.2 }.parse()?;
        ensure!(traffic::is_reachable(tenants[0].client.netns(), server)?, "blue does not reach its own {server}");
        ensure!(traffic::is_reachable(tenants[1].client.netns(), server)?, "red does not reach its own {server}");
        for tenant in &tenants {
            for (whose, port) in PORTS {
                let probe = tenant.tries((server, port).into())?;
                match (tenant.name == whose, &probe) {
                    (true, Probe::Answered(_)) | (false, Probe::Refused) => {}
                    _ => bail!("{} -> {server}, where {whose} listens on {port}, got {}", tenant.name, shown(&probe)),
                }
            }
        }
        ensure!(!traffic::is_reachable(world.pod("a").netns()?, server)?, "pod a reaches {server}");
        ensure!(!traffic::is_reachable(outsider.netns(), server)?, "n1 reaches {server}");
    }
    Ok("each reached its own 10.9.0.12 and fd00:9::12 and never the other's; neither a pod nor a node reached any".into())
}
