//! The smallest Ladon with a wire in it: two nodes, the server on the first of them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lab::etcd::{Etcd, Options};
use lab::{Host, Lab, Ovs, Underlay};
use serde_json::{Value, json};

use crate::{Api, Deployment, Tunnel, Workload};

/// Two nodes.
pub struct Pair {
    // Dropped in this order: what runs before what it runs on.
    pub ladon: Deployment,
    /// The store, where it is not the server's file.
    pub etcd: Option<Etcd>,
    pub ovs: [Ovs; 2],
    pub underlay: Underlay,
    pub lab: Lab,
}

/// A workload on a node, with its port.
pub struct Plugged {
    pub workload: Workload,
    pub port: Value,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

/// A load balancer, its VIP, and the pool of each of its listeners with its members.
pub struct Balanced {
    pub vip: IpAddr,
    pools: Vec<(Value, Vec<Value>)>,
}

/// The id of an object that the API returned.
pub fn id(object: &Value) -> &str {
    object["id"].as_str().expect("an object has an id")
}

impl Pair {
    pub fn start(tunnel: Tunnel) -> Result<Pair> {
        Pair::around(|_| Ok(None), |lab, one, _| Deployment::start(lab, one, tunnel))
    }

    /// The same with `servers` servers on an etcd like `options`, all of them on the first node.
    pub fn start_on_etcd(tunnel: Tunnel, options: &Options, servers: u16) -> Result<Pair> {
        let etcd = |one: &Host| Ok(Some(Etcd::start_on(one, "etcd", options)?));
        Pair::around(etcd, |lab, one, etcd| Deployment::start_on_etcd(lab, one, tunnel, etcd.context("it was started")?, servers))
    }

    fn around(
        etcd: impl FnOnce(&Host) -> Result<Option<Etcd>>,
        servers: impl FnOnce(&Lab, &Host, Option<&Etcd>) -> Result<Deployment>,
    ) -> Result<Pair> {
        let lab = Lab::scratch()?;
        let underlay = Underlay::new(&lab)?;
        let (one, two) = (underlay.host("n1", 11)?, underlay.host("n2", 12)?);
        let ovs = [Ovs::start(&one)?, Ovs::start(&two)?];
        let etcd = etcd(&one)?;
        let mut ladon = servers(&lab, &one, etcd.as_ref())?;
        ladon.add_node(&one, &ovs[0], None)?;
        ladon.add_node(&two, &ovs[1], None)?;
        Ok(Pair { ladon, etcd, ovs, underlay, lab })
    }

    pub fn api(&self) -> &Api {
        &self.ladon.api
    }

    /// A network with the subnets `10.<n>.0.0/24` and `fd00:<n>::/64`.
    pub fn network(&self, name: &str, n: u8) -> Result<Value> {
        let network = self.api().create("network", json!({"name": name}))?;
        self.api().create("subnet", json!({"network_id": id(&network), "ip_version": 4, "cidr": format!("10.{n}.0.0/24")}))?;
        let v6 =
            json!({"network_id": id(&network), "ip_version": 6, "cidr": format!("fd00:{n}::/64"), "gateway_ip": format!("fd00:{n}::1")});
        self.api().create("subnet", v6)?;
        Ok(network)
    }

    /// A router with an interface on every subnet of `networks`.
    pub fn router(&self, name: &str, networks: &[&Value]) -> Result<Value> {
        let router = self.api().create("router", json!({"name": name}))?;
        for network in networks {
            for subnet in self.api().list("subnet", &format!("network_id={}", id(network)))? {
                self.api().put(&format!("/v2.0/routers/{}/add_router_interface", id(&router)), json!({"subnet_id": id(&subnet)}))?;
            }
        }
        Ok(router)
    }

    /// A load balancer on `network` of the family of `members`, with these listeners (protocol and port), in front of all of them.
    pub fn balance(&self, network: &Value, listeners: &[(&str, u16)], members: &[SocketAddr]) -> Result<Balanced> {
        let version = if members.iter().all(SocketAddr::is_ipv4) { 4 } else { 6 };
        let subnets = self.api().list("subnet", &format!("network_id={}&ip_version={version}", id(network)))?;
        let subnet = subnets.first().context("the network has a subnet")?;
        let lb = self.api().create("loadbalancer", json!({"name": format!("lb{version}"), "vip_subnet_id": id(subnet)}))?;
        let vip = lb["vip_address"].as_str().context("a load balancer has an address")?.parse()?;
        let mut pools = Vec::new();
        for (protocol, port) in listeners {
            let listener = json!({"loadbalancer_id": id(&lb), "protocol": protocol, "protocol_port": port});
            let listener = self.api().create("listener", listener)?;
            let pool = json!({"listener_id": id(&listener), "protocol": protocol, "lb_algorithm": "SOURCE_IP_PORT"});
            let pool = self.api().create("pool", pool)?;
            let made = members.iter().map(|member| {
                let wanted = json!({"member": {"address": member.ip(), "protocol_port": member.port(), "weight": 1}});
                let (status, made) = self.api().request("POST", &format!("/v2.0/lbaas/pools/{}/members", id(&pool)), Some(&wanted))?;
                ensure!(status == 201, "{status} {made}");
                Ok(made["member"].clone())
            });
            let made = made.collect::<Result<_>>()?;
            pools.push((pool, made));
        }
        Ok(Balanced { vip, pools })
    }

    /// A port on `network` with `more` attributes, plugged into node `node` (0 or 1) as Nova does, ACTIVE, with a default route if
    /// the network has a gateway that answers.
    pub fn plug(&self, network: &Value, node: usize, name: &str, more: Value) -> Result<Plugged> {
        let mut wanted = json!({"network_id": id(network), "name": name});
        wanted.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let port = self.api().create("port", wanted)?;
        let plugged = self.plug_port(node, name, &port)?;
        self.ladon.wait_active(id(&port))?;
        Ok(plugged)
    }

    /// Plugs the port `port` into node `node` (0 or 1) as Nova does, with a default route if its network has a gateway.
    pub fn plug_port(&self, node: usize, name: &str, port: &Value) -> Result<Plugged> {
        let addresses = port["fixed_ips"].as_array().context("a port has fixed_ips")?;
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|fixed| fixed["ip_address"].as_str()?.parse().ok()).collect();
        let of = |is_v6: bool| addresses.iter().copied().find(|ip| ip.is_ipv6() == is_v6).context("a port has an address of each family");
        let (v4, v6) = (of(false)?, of(true)?);
        let workload = Workload::plug(&self.ovs[node], name, port, &[(v4, 24), (v6, 64)])?;
        for subnet in self.api().list("subnet", &format!("network_id={}", port["network_id"].as_str().unwrap_or_default()))? {
            if let Some(gateway) = subnet["gateway_ip"].as_str() {
                workload.default_route(gateway.parse()?)?;
            }
        }
        Ok(Plugged { workload, port: port.clone(), v4, v6 })
    }
}

impl Balanced {
    /// Changes a member of the pool of a listener, or takes it away.
    pub fn member(&self, pair: &Pair, pool: usize, member: usize, method: &str, body: Option<Value>) -> Result<()> {
        let (pool, members) = &self.pools[pool];
        let path = format!("/v2.0/lbaas/pools/{}/members/{}", id(pool), id(&members[member]));
        let (status, said) = pair.api().request(method, &path, body.as_ref())?;
        ensure!((200..300).contains(&status), "{status} {said}");
        Ok(())
    }
}
