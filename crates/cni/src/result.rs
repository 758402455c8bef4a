//! CNI's result: which interfaces there are now, with which addresses, routes and name servers.

use std::net::IpAddr;

use ipnet::IpNet;
use model::Mac;
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::daemon::{Dns, Prepared, Route};

/// The answer to ADD, in the shape of one version.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    pub cni_version: &'static str,
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

/// An interface: without `sandbox` it is the host's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address of the interface at `interface` in the list of interfaces.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ip {
    /// "4" or "6"; until 0.4.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// The result of ADD as the runtime hands it back, in any version's shape.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct PreviousResult {
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub ips: Vec<Ip>,
    #[serde(default)]
    pub routes: Vec<Route>,
}

impl PreviousResult {
    /// The place in the list of the interface `ifname` inside the pod.
    pub fn position(&self, ifname: &str) -> Option<usize> {
        self.interfaces.iter().position(|interface| interface.name == ifname && !interface.sandbox.is_empty())
    }
}

/// The version's answer to ADD: the host's end, the pod's end, and what the pod's end has.
pub fn add_result(version: Version, prepared: &Prepared, host_mac: Mac, ifname: &str, netns: &str) -> AddResult {
    let mtu = version.says_mtu().then_some(prepared.mtu);
    let host = Interface { name: prepared.host_ifname.clone(), mac: host_mac.to_string(), mtu, sandbox: String::new() };
    let pod = Interface { name: ifname.to_string(), mac: prepared.mac.to_string(), mtu, sandbox: netns.to_string() };
    let family = |address: &IpNet| if address.addr().is_ipv4() { "4" } else { "6" };
    let ips = prepared.addresses.iter().map(|entry| Ip {
        version: version.says_address_family().then(|| family(&entry.address).to_string()),
        interface: Some(1),
        address: entry.address,
        gateway: entry.gateway,
    });
    AddResult {
        cni_version: version.as_str(),
        interfaces: vec![host, pod],
        ips: ips.collect(),
        routes: prepared.routes.clone(),
        dns: prepared.dns.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn prepared() -> Prepared {
        serde_json::from_value(json!({
            "port": "7f2c", "host_ifname": "lad0123", "mac": "0a:00:0a:01:00:05", "mtu": 1430,
            "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64", "gateway": "fd00::1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}], "dns": {"nameservers": ["10.96.0.10"]}, "tx_offload": false,
        }))
        .unwrap()
    }

    fn result(version: Version) -> Value {
        serde_json::to_value(add_result(version, &prepared(), Mac([2; 6]), "eth0", "/run/netns/a")).unwrap()
    }

    #[test]
    fn a_result_of_1_0_0_is_libcnis() {
        assert_eq!(
            result(Version::V1_0_0),
            json!({
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": "lad0123", "mac": "02:02:02:02:02:02"},
                    {"name": "eth0", "mac": "0a:00:0a:01:00:05", "sandbox": "/run/netns/a"},
                ],
                "ips": [
                    {"interface": 1, "address": "10.1.0.5/24", "gateway": "10.1.0.1"},
                    {"interface": 1, "address": "fd00::5/64", "gateway": "fd00::1"},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
                "dns": {"nameservers": ["10.96.0.10"]},
            })
        );
    }

    #[test]
    fn only_old_results_say_the_family_and_only_new_ones_the_mtu() {
        for version in Version::ALL {
            let result = result(version);
            assert_eq!(result["cniVersion"], version.as_str());
            assert_eq!(result["ips"][1].get("version").is_some(), version < Version::V1_0_0, "{version}");
            assert_eq!(result["interfaces"][1].get("mtu").is_some(), version == Version::V1_1_0, "{version}");
        }
        assert_eq!(result(Version::V0_3_1)["ips"][1]["version"], "6");
    }

    #[test]
    fn every_versions_result_reads_back_as_a_previous_result() {
        for version in Version::ALL {
            let previous: PreviousResult = serde_json::from_value(result(version)).unwrap();
            assert_eq!(previous.position("eth0"), Some(1));
            assert_eq!(previous.position("lad0123"), None, "the host's end is not the pod's");
            assert_eq!(previous.ips.len(), 2);
        }
    }
}
