//! The northbound rows: switches on one router, ports, and Neutron's kind of security groups.
//!
//! Port number p is on switch p modulo the number of switches. As Neutron's ML2/OVN does it: one port group for every security group,
//! with its rules as ACLs, and one for all ports that drops the rest.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::database::{Database, uuid};

/// What must be remembered to add and remove ports.
#[derive(Default)]
pub struct Layout {
    switches: Vec<Value>,
    dhcp: Vec<Value>,
    groups: Vec<Value>,
    all: Value,
}

/// The name of a port.
pub fn port(number: usize) -> String {
    format!("lsp{number}")
}

/// The port's MAC.
fn mac(number: usize) -> String {
    format!("0a:00:00:{:02x}:{:02x}:{:02x}", number >> 16 & 255, number >> 8 & 255, number & 255)
}

fn named(name: &str) -> Value {
    json!(["named-uuid", name])
}

fn insert(table: &str, name: &str, row: &Value) -> Value {
    json!({"op": "insert", "table": table, "uuid-name": name, "row": row})
}

fn change(table: &str, row: &Value, column: &str, how: &str, value: &Value) -> Value {
    json!({"op": "mutate", "table": table, "where": [["_uuid", "==", row]], "mutations": [[column, how, value]]})
}

impl Layout {
    pub fn load(north: &mut Database, switches: usize, ports: usize) -> Result<Layout> {
        let mut layout = Layout::default();
        layout.load_switches(north, switches)?;
        let made = layout.load_ports(north, ports)?;
        layout.load_groups(north, &made)?;
        Ok(layout)
    }

    fn load_switches(&mut self, north: &mut Database, count: usize) -> Result<()> {
        let mut operations = Vec::new();
        for i in 0..count {
            let (gateway, mac) = (format!("10.{}.0.1", 10 + i), format!("0e:00:00:00:00:{i:02x}"));
            let options = [
                ["lease_time", "3600"],
                ["router", &gateway],
                ["server_id", &gateway],
                ["server_mac", &mac],
                ["mtu", "1442"],
                ["dns_server", "{10.255.255.53}"],
            ];
            let dhcp = json!({"cidr": format!("10.{}.0.0/16", 10 + i), "options": ["map", options]});
            let router_port = json!({"name": format!("lrp{i}"), "mac": mac, "networks": format!("{gateway}/16")});
            let to_router = json!({"name": format!("ls{i}-lr"), "type": "router", "addresses": "router",
                "options": ["map", [["router-port", format!("lrp{i}")]]]});
            let switch = json!({"name": format!("ls{i}"), "ports": named(&format!("lsr{i}"))});
            operations.push(insert("Logical_Switch", &format!("ls{i}"), &switch));
            operations.push(insert("DHCP_Options", &format!("dhcp{i}"), &dhcp));
            operations.push(insert("Logical_Router_Port", &format!("lrp{i}"), &router_port));
            operations.push(insert("Logical_Switch_Port", &format!("lsr{i}"), &to_router));
        }
        let router_ports: Vec<Value> = (0..count).map(|i| named(&format!("lrp{i}"))).collect();
        operations.push(insert("Logical_Router", "lr", &json!({"name": "lr", "ports": ["set", router_ports]})));
        let made = north.transact(&operations)?;
        self.switches = made.iter().step_by(4).take(count).map(uuid).collect();
        self.dhcp = made.iter().skip(1).step_by(4).take(count).map(uuid).collect();
        Ok(())
    }

    fn load_ports(&self, north: &mut Database, count: usize) -> Result<Vec<Value>> {
        let mut operations: Vec<Value> =
            (0..count).map(|number| insert("Logical_Switch_Port", &format!("p{number}"), &self.row(number))).collect();
        for (i, switch) in self.switches.iter().enumerate() {
            let ports: Vec<Value> = (i..count).step_by(self.switches.len()).map(|number| named(&format!("p{number}"))).collect();
            operations.push(change("Logical_Switch", switch, "ports", "insert", &json!(["set", ports])));
        }
        Ok(north.transact(&operations)?.iter().take(count).map(uuid).collect())
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
        let host = number / self.switches.len() + 10;
        let address = format!("{} 10.{}.{}.{}", mac(number), 10 + i, host / 250, host % 250 + 1);
        json!({"name": port(number), "addresses": address, "port_security": address, "enabled": true, "dhcpv4_options": self.dhcp[i]})
    }

    /// One more port.
    pub fn add(&self, north: &mut Database, number: usize) -> Result<()> {
        let i = number % self.switches.len();
        let one = named("np");
        north.transact(&[
            insert("Logical_Switch_Port", "np", &self.row(number)),
            change("Logical_Switch", &self.switches[i], "ports", "insert", &one),
            change("Port_Group", &self.groups[i], "ports", "insert", &one),
            change("Port_Group", &self.all, "ports", "insert", &one),
        ])?;
        Ok(())
    }

    /// One less.
    pub fn remove(&self, north: &mut Database, number: usize) -> Result<()> {
        let i = number % self.switches.len();
        let find = json!({"op": "select", "table": "Logical_Switch_Port", "where": [["name", "==", port(number)]], "columns": ["_uuid"]});
        let found = north.transact(&[find])?;
        let one = super::only_row(&found[0]).context("the port is there")?["_uuid"].clone();
        north.transact(&[
            change("Logical_Switch", &self.switches[i], "ports", "delete", &one),
            change("Port_Group", &self.groups[i], "ports", "delete", &one),
            change("Port_Group", &self.all, "ports", "delete", &one),
        ])?;
        Ok(())
    }
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

fn acl(direction: &str, priority: u32, matching: &str, action: &str) -> Value {
    json!({"direction": direction, "priority": priority, "match": matching, "action": action})
}
