//! What a caller wants to be so in Open vSwitch.

use std::collections::{BTreeMap, BTreeSet};

/// A bridge as Ladon programs it: secure and without in-band control from the transaction that makes it, so that it never
/// forwards by itself, whether or not the node is alive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BridgeSpec {
    pub name: String,
    /// `netdev` for the userspace datapath, empty or `system` for the kernel's; `None` leaves what is there.
    pub datapath_type: Option<String>,
    /// The bridge's own MAC address, also what its datapath id derives from.
    pub hwaddr: Option<String>,
    /// The OpenFlow versions that it speaks, exactly.
    pub protocols: BTreeSet<String>,
    /// The names of its OpenFlow tables, exactly: what `ovs-ofctl --names dump-flows` shows.
    pub flow_tables: BTreeMap<u8, String>,
}

impl BridgeSpec {
    /// A bridge that speaks OpenFlow 1.5 and whose tables have no names.
    pub fn new(name: &str) -> Self {
        BridgeSpec {
            name: name.to_owned(),
            datapath_type: None,
            hwaddr: None,
            protocols: ["OpenFlow15".to_owned()].into(),
            flow_tables: BTreeMap::new(),
        }
    }
}

/// A port of one interface of the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSpec {
    pub bridge: String,
    pub name: String,
    /// Empty for a device of the host, or `internal`, `geneve`, `vxlan`, `patch`...
    pub kind: String,
    /// The interface's options, exactly.
    pub options: BTreeMap<String, String>,
    /// Set on the interface; keys that are not named stay as they are.
    pub external_ids: BTreeMap<String, String>,
    /// `None` leaves what is there.
    pub mtu_request: Option<u16>,
    /// The address that an internal interface gets; `None` leaves what is there.
    pub mac: Option<String>,
}

impl PortSpec {
    /// A port of a kind without options.
    pub fn new(bridge: &str, name: &str, kind: &str) -> Self {
        PortSpec {
            bridge: bridge.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
            options: BTreeMap::new(),
            external_ids: BTreeMap::new(),
            mtu_request: None,
            mac: None,
        }
    }

    pub fn option(mut self, key: &str, value: &str) -> Self {
        self.options.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn external_id(mut self, key: &str, value: &str) -> Self {
        self.external_ids.insert(key.to_owned(), value.to_owned());
        self
    }
}
