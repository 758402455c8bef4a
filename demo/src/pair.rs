//! The smallest Ladon with a wire in it: two nodes, the server on the first of them.

use std::net::IpAddr;

use anyhow::{Context, Result};
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
