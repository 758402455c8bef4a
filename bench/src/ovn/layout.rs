//! The northbound rows: switches on routers, ports, and Neutron's kind of security groups.
//!
//! Port number p is on switch p modulo the number of switches. As Neutron's ML2/OVN does it: one port group for every security group,
//! with its rules as ACLs, and one for all ports that drops the rest.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::ovsdb::{Database, only_row, uuid};
use crate::world::{Shape, address, cidr};

/// Ports of one transaction.
pub const BULK: usize = 2_000;

/// What must be remembered to add and remove ports.
#[derive(Default)]
pub struct Layout {
    switches: Vec<Value>,
    routers: Vec<Value>,
    dhcp: Vec<Value>,
    groups: Vec<Value>,
    all: Value,
}

/// The name of a port.
pub fn name(number: usize) -> String {
    format!("lsp{number}")
}

/// The port's MAC.
pub fn mac(number: usize) -> String {
    format!("0a:00:00:{:02x}:{:02x}:{:02x}", number >> 16 & 255, number >> 8 & 255, number & 255)
}

/// The port's address, on one of so many switches.
pub fn ip(switches: usize, number: usize) -> Ipv4Addr {
    address(number % switches, number / switches + 10)
}

/// The MAC of a switch's router.
pub fn router_mac(switch: usize) -> String {
    format!("0e:00:00:00:{:02x}:{:02x}", switch >> 8 & 255, switch & 255)
}

pub fn named(name: &str) -> Value {
    json!(["named-uuid", name])
}

pub fn insert(table: &str, name: &str, row: &Value) -> Value {
    json!({"op": "insert", "table": table, "uuid-name": name, "row": row})
}

pub fn change(table: &str, row: &Value, column: &str, how: &str, value: &Value) -> Value {
    json!({"op": "mutate", "table": table, "where": [["_uuid", "==", row]], "mutations": [[column, how, value]]})
}

impl Layout {
    pub fn switches(&self) -> &[Value] {
        &self.switches
    }

    pub fn load(north: &mut Database, shape: Shape) -> Result<Layout> {
        let mut layout = Layout::default();
        layout.load_switches(north, shape.networks, shape.routers)?;
        let made = layout.load_ports(north, shape.ports)?;
        layout.load_groups(north, &made)?;
        Ok(layout)
    }

    fn load_switches(&mut self, north: &mut Database, count: usize, routers: usize) -> Result<()> {
        let mut operations = Vec::new();
        for i in 0..count {
            let [router_port, to_router] = pair(i);
            let switch = json!({"name": format!("ls{i}"), "ports": named(&format!("lsr{i}"))});
            operations.push(insert("Logical_Switch", &format!("ls{i}"), &switch));
            operations.push(insert("DHCP_Options", &format!("dhcp{i}"), &dhcp(i)));
            operations.push(insert("Logical_Router_Port", &format!("lrp{i}"), &router_port));
            operations.push(insert("Logical_Switch_Port", &format!("lsr{i}"), &to_router));
        }
        for router in 0..routers {
            let ports: Vec<Value> = (router..count).step_by(routers).map(|i| named(&format!("lrp{i}"))).collect();
            let row = json!({"name": format!("lr{router}"), "ports": ["set", ports]});
            operations.push(insert("Logical_Router", &format!("lr{router}"), &row));
        }
        let made = north.transact(&operations)?;
        self.switches = made.iter().step_by(4).take(count).map(uuid).collect();
        self.routers = made.iter().skip(4 * count).take(routers).map(uuid).collect();
        self.dhcp = made.iter().skip(1).step_by(4).take(count).map(uuid).collect();
        Ok(())
    }

    fn load_ports(&self, north: &mut Database, count: usize) -> Result<Vec<Value>> {
        let mut made = Vec::new();
        while made.len() < count {
            let bulk = made.len()..count.min(made.len() + BULK);
            let mut operations: Vec<Value> =
                bulk.clone().map(|number| insert("Logical_Switch_Port", &format!("p{number}"), &self.row(number))).collect();
            for (i, switch) in self.switches.iter().enumerate() {
                let ports: Vec<Value> =
                    bulk.clone().filter(|number| number % self.switches.len() == i).map(|number| named(&format!("p{number}"))).collect();
                operations.push(change("Logical_Switch", switch, "ports", "insert", &json!(["set", ports])));
            }
            made.extend(north.transact(&operations)?.iter().take(bulk.len()).map(uuid));
        }
        Ok(made)
    }

    fn load_groups(&mut self, north: &mut Database, ports: &[Value]) -> Result<()> {
        let count = self.switches.len();
        let mut operations = Vec::new();
        for i in 0..count {
            let group = format!("sg{i}");
            let rules = rules(&group);
            let ids: Vec<Value> = (0..rules.len()).map(|number| named(&format!("a{i}x{number}"))).collect();
            let members: Vec<&Value> = ports.iter().skip(i).step_by(count).collect();
            let row = json!({"name": group, "acls": ["set", ids], "ports": ["set", members]});
            operations.push(insert("Port_Group", &format!("pg{i}"), &row));
            operations.extend(rules.iter().enumerate().map(|(number, rule)| insert("ACL", &format!("a{i}x{number}"), rule)));
        }
        let drops =
            [acl("from-lport", 1001, "inport == @pg_drop && ip", "drop"), acl("to-lport", 1001, "outport == @pg_drop && ip", "drop")];
        let row = json!({"name": "pg_drop", "acls": ["set", [named("d0"), named("d1")]], "ports": ["set", ports]});
        operations.push(insert("Port_Group", "pgd", &row));
        operations.extend(drops.iter().enumerate().map(|(number, rule)| insert("ACL", &format!("d{number}"), rule)));
        let made = north.transact(&operations)?;
        let per_group = 1 + rules("").len();
        self.groups = made.iter().step_by(per_group).take(count).map(uuid).collect();
        self.all = made.get(per_group * count).map(uuid).context("the group of all ports was made")?;
        Ok(())
    }

    /// The row of a port, with an address that follows from its number.
    fn row(&self, number: usize) -> Value {
        let i = number % self.switches.len();
        let address = format!("{} {}", mac(number), ip(self.switches.len(), number));
        json!({"name": name(number), "addresses": address, "port_security": address, "enabled": true, "dhcpv4_options": self.dhcp[i]})
    }

    /// One more port.
    pub fn add(&self, north: &mut Database, number: usize) -> Result<()> {
        north.transact(&self.port(number)).map(drop)
    }

    /// What makes one more port.
    pub fn port(&self, number: usize) -> Vec<Value> {
        let i = number % self.switches.len();
        let one = named("np");
        vec![
            insert("Logical_Switch_Port", "np", &self.row(number)),
            change("Logical_Switch", &self.switches[i], "ports", "insert", &one),
            change("Port_Group", &self.groups[i], "ports", "insert", &one),
            change("Port_Group", &self.all, "ports", "insert", &one),
        ]
    }

    /// One more rule of a security group.
    pub fn rule(&self, group: usize, port: usize) -> Vec<Value> {
        let matching = format!("outport == @sg{group} && ip4 && ip4.src == 0.0.0.0/0 && tcp && tcp.dst == {port}");
        vec![
            insert("ACL", "rule", &acl("to-lport", 1002, &matching, "allow-related")),
            change("Port_Group", &self.groups[group], "acls", "insert", &named("rule")),
        ]
    }

    /// One more switch, with nothing on it.
    pub fn switch(number: usize) -> Vec<Value> {
        vec![insert("Logical_Switch", "ls", &json!({"name": format!("ls{number}")})), insert("DHCP_Options", "dhcp", &dhcp(number))]
    }

    /// One more router, with nothing on it.
    pub fn router(number: usize) -> Vec<Value> {
        vec![insert("Logical_Router", "lr", &json!({"name": format!("lr{number}")}))]
    }

    /// A switch becomes one of the first router's.
    pub fn interface(&self, number: usize, switch: &Value) -> Vec<Value> {
        let [router_port, to_router] = pair(number);
        vec![
            insert("Logical_Router_Port", "lrp", &router_port),
            change("Logical_Router", &self.routers[0], "ports", "insert", &named("lrp")),
            insert("Logical_Switch_Port", "lsr", &to_router),
            change("Logical_Switch", switch, "ports", "insert", &named("lsr")),
        ]
    }

    /// One less.
    pub fn remove(&self, north: &mut Database, number: usize) -> Result<()> {
        let i = number % self.switches.len();
        let find = json!({"op": "select", "table": "Logical_Switch_Port", "where": [["name", "==", name(number)]], "columns": ["_uuid"]});
        let found = north.transact(&[find])?;
        let one = only_row(&found[0]).context("the port is there")?["_uuid"].clone();
        north.transact(&[
            change("Logical_Switch", &self.switches[i], "ports", "delete", &one),
            change("Port_Group", &self.groups[i], "ports", "delete", &one),
            change("Port_Group", &self.all, "ports", "delete", &one),
        ])?;
        Ok(())
    }
}

fn dhcp(switch: usize) -> Value {
    let (gateway, mac) = (address(switch, 1).to_string(), router_mac(switch));
    let options = [
        ["lease_time", "3600"],
        ["router", &gateway],
        ["server_id", &gateway],
        ["server_mac", &mac],
        ["mtu", "1442"],
        ["dns_server", "{10.255.255.53}"],
    ];
    json!({"cidr": cidr(switch), "options": ["map", options]})
}

/// The two ends of a switch's way to its router.
fn pair(switch: usize) -> [Value; 2] {
    let name = format!("lrp{switch}");
    let gateway = format!("{}/21", address(switch, 1));
    let options = json!(["map", [["router-port", name]]]);
    [
        json!({"name": name, "mac": router_mac(switch), "networks": gateway}),
        json!({"name": format!("ls{switch}-lr"), "type": "router", "addresses": "router", "options": options}),
    ]
}

/// The rules of a security group, as Neutron's default and the usual additions.
fn rules(group: &str) -> Vec<Value> {
    let ingress = |rest: &str| acl("to-lport", 1002, &format!("outport == @{group} && ip4 && {rest}"), "allow-related");
    vec![
        acl("from-lport", 1002, &format!("inport == @{group} && ip4"), "allow-related"),
        ingress(&format!("ip4.src == ${group}_ip4")),
        ingress("ip4.src == 0.0.0.0/0 && tcp && tcp.dst == 22"),
        ingress("ip4.src == 0.0.0.0/0 && tcp && tcp.dst == 80"),
        ingress("ip4.src == 0.0.0.0/0 && icmp4"),
    ]
}

pub fn acl(direction: &str, priority: u32, matching: &str, action: &str) -> Value {
    json!({"direction": direction, "priority": priority, "match": matching, "action": action})
}
