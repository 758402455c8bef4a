//! Policies as OVN-Kubernetes and Neutron write them: port groups with ACLs that name address sets.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::layout::{self, acl, insert, named};
use super::{Acknowledged, Ovn};
use crate::ovsdb::{only_row, uuid};
use crate::policy::{Overlap, tcp_port};

/// Policies that let one address set in, each on a TCP port of its own.
pub struct Policies {
    acknowledged: Acknowledged,
    set: Value,
}

impl Policies {
    /// Policies with `per_policy` local ports each, on different switches, that let `addresses` in.
    pub fn make(ovn: &mut Ovn, count: usize, per_policy: usize, addresses: &[Ipv4Addr]) -> Result<Policies> {
        let mut acknowledged = ovn.acknowledged()?;
        let made = acknowledged.change(&[address_set("members", addresses)])?;
        let set = made.first().map(uuid).context("the set was made")?;
        let local: Vec<usize> = ovn.shape.local_ports().collect();
        for (number, ports) in local.chunks(per_policy).take(count).enumerate() {
            let ports = ovn.ports(ports)?;
            let (group, tcp) = (format!("policy{number}"), tcp_port(number));
            let matching = format!("outport == @{group} && ip4 && ip4.src == $members && tcp && tcp.dst == {tcp}");
            let allow = insert("ACL", "allow", &acl("to-lport", 1002, &matching, "allow-related"));
            let drop = insert("ACL", "drop", &acl("to-lport", 1001, &format!("outport == @{group} && ip4"), "drop"));
            let row = json!({"name": group, "acls": ["set", [named("allow"), named("drop")]], "ports": ["set", ports]});
            ovn.north.transact(&[allow, drop, insert("Port_Group", "group", &row)])?;
        }
        acknowledged.change(&[])?;
        Ok(Policies { acknowledged, set })
    }

    pub fn add(&mut self, address: Ipv4Addr) -> Result<()> {
        self.change("insert", address)
    }

    pub fn remove(&mut self, address: Ipv4Addr) -> Result<()> {
        self.change("delete", address)
    }

    fn change(&mut self, how: &str, address: Ipv4Addr) -> Result<()> {
        let change = layout::change("Address_Set", &self.set, "addresses", how, &json!(address));
        self.acknowledged.change(&[change]).map(drop)
    }
}

/// Many rules of one port group.
pub struct Overlapping;

impl Overlapping {
    /// Makes the sets of addresses of the remote ports, then all rules: until the chassis has acknowledged them.
    pub fn make(ovn: &mut Ovn, size: Overlap) -> Result<Duration> {
        let mut acknowledged = ovn.acknowledged()?;
        let shape = ovn.shape;
        let local: BTreeSet<usize> = shape.local_ports().collect();
        let remote: Vec<Ipv4Addr> =
            (0..shape.ports).filter(|port| !local.contains(port)).map(|port| layout::ip(shape.networks, port)).collect();
        for set in 0..size.sets {
            let some: Vec<Ipv4Addr> = remote.iter().enumerate().filter(|(number, _)| size.is_in(*number, set)).map(|(_, ip)| *ip).collect();
            ovn.north.transact(&[address_set(&format!("set{set}"), &some)])?;
        }
        let ports = ovn.ports(&local.into_iter().collect::<Vec<_>>())?;
        let made = acknowledged.change(&[insert("Port_Group", "group", &json!({"name": "many", "ports": ["set", ports]}))])?;
        let group = made.first().map(uuid).context("the group was made")?;
        let rule = |(number, (set, tcp)): (usize, (usize, usize))| {
            let matching = format!("outport == @many && ip4 && ip4.src == $set{set} && tcp && tcp.dst == {tcp}");
            insert("ACL", &format!("r{number}"), &acl("to-lport", 1002, &matching, "allow-related"))
        };
        let rules: Vec<Value> = size.rules().enumerate().map(rule).collect();
        let began = Instant::now();
        let names: Vec<Value> = (0..rules.len()).map(|number| named(&format!("r{number}"))).collect();
        let join = layout::change("Port_Group", &group, "acls", "insert", &json!(["set", names]));
        acknowledged.change(&[rules, vec![join]].concat())?;
        Ok(began.elapsed())
    }
}

fn address_set(name: &str, addresses: &[Ipv4Addr]) -> Value {
    insert("Address_Set", "set", &json!({"name": name, "addresses": ["set", addresses]}))
}

impl Ovn {
    /// The rows of ports.
    fn ports(&mut self, numbers: &[usize]) -> Result<Vec<Value>> {
        let find = |number: &usize| json!({"op": "select", "table": "Logical_Switch_Port", "where": [["name", "==", layout::name(*number)]], "columns": ["_uuid"]});
        let found = self.north.transact(&numbers.iter().map(find).collect::<Vec<_>>())?;
        found.iter().map(|found| Ok(only_row(found).context("the port is there")?["_uuid"].clone())).collect()
    }
}
