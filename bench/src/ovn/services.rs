//! Services as rows of `Load_Balancer`, all of them in one group of every switch, as OVN-Kubernetes has them.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::layout::{change, insert, named};
use super::{Acknowledged, Ovn};
use crate::ovsdb::uuid;

/// Services of one transaction.
const BULK: usize = 1_000;

/// What must be remembered to change them.
pub struct Services {
    acknowledged: Acknowledged,
    group: Value,
    made: Vec<Value>,
}

/// A Service's VIP.
pub fn vip(service: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 30, 0, 1)) + service as u32)
}

fn row(service: usize, backends: &[String]) -> Value {
    let (vip, all) = (format!("{}:80", vip(service)), backends.join(","));
    let options = [
        ["reject", "true"],
        ["event", "false"],
        ["skip_snat", "false"],
        ["neighbor_responder", "none"],
        ["hairpin_snat_ip", "169.254.169.5"],
    ];
    json!({"name": format!("service{service}"), "protocol": "tcp", "vips": ["map", [[vip, all]]], "options": ["map", options]})
}

impl Services {
    /// Makes `count` of them on every switch. `backends` are the addresses with ports behind each.
    pub fn make(ovn: &mut Ovn, count: usize, backends: impl Fn(usize) -> Vec<String>) -> Result<Services> {
        let mut acknowledged = ovn.acknowledged()?;
        let group = insert("Load_Balancer_Group", "g", &json!({"name": "services"}));
        let switches = ovn.layout.switches().iter().map(|switch| {
            json!({"op": "update", "table": "Logical_Switch", "where": [["_uuid", "==", switch]], "row": {"load_balancer_group": named("g")}})
        });
        let made = acknowledged.change(&std::iter::once(group).chain(switches).collect::<Vec<_>>())?;
        let group = made.first().map(uuid).context("the group was made")?;
        let mut services = Services { acknowledged, group, made: Vec::new() };
        for first in (0..count).step_by(BULK) {
            let some = first..count.min(first + BULK);
            let rows = some.clone().map(|service| insert("Load_Balancer", &format!("s{service}"), &row(service, &backends(service))));
            let names: Vec<Value> = some.clone().map(|service| named(&format!("s{service}"))).collect();
            let join = change("Load_Balancer_Group", &services.group, "load_balancer", "insert", &json!(["set", names]));
            let made = services.acknowledged.change(&rows.chain([join]).collect::<Vec<_>>())?;
            services.made.extend(made.iter().take(some.len()).map(uuid));
        }
        Ok(services)
    }

    /// The Service has other backends.
    pub fn change(&mut self, service: usize, backends: &[String]) -> Result<()> {
        let update = json!({"op": "update", "table": "Load_Balancer", "where": [["_uuid", "==", self.made[service]]],
            "row": {"vips": row(service, backends)["vips"]}});
        self.acknowledged.change(&[update]).map(drop)
    }

    /// One more Service.
    pub fn add(&mut self, backends: &[String]) -> Result<()> {
        let join = change("Load_Balancer_Group", &self.group, "load_balancer", "insert", &named("s"));
        let made = self.acknowledged.change(&[insert("Load_Balancer", "s", &row(self.made.len(), backends)), join])?;
        self.made.extend(made.first().map(uuid));
        Ok(())
    }

    /// The latest goes.
    pub fn remove(&mut self) -> Result<()> {
        let one = self.made.pop().context("there is one")?;
        let leave = change("Load_Balancer_Group", &self.group, "load_balancer", "delete", &one);
        let delete = json!({"op": "delete", "table": "Load_Balancer", "where": [["_uuid", "==", one]]});
        self.acknowledged.change(&[leave, delete]).map(drop)
    }
}
