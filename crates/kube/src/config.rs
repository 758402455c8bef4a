//! What `ladon kube` is told: a TOML document, every line of which has a default.
//!
//! ```toml
//! cluster = "production"
//! kubeconfig = "/etc/ladon/kube.conf"       # without it: the service account of the pod that we run in
//!
//! [api]
//! endpoint = "http://127.0.0.1:9696"        # or "unix:/run/ladon/api.sock"
//! token_file = "/etc/ladon/token"
//!
//! [network]
//! pods = ["10.244.0.0/16", "fd00:244::/64"]
//!
//! [[host]]                                  # a machine that talks to pods and is no Kubernetes Node
//! name = "control"
//! addresses = ["192.0.2.1", "2001:db8::1"]
//! ```

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::ConfigError;

/// Shortest lease that leaves room to renew it and to stop writing before it ends.
pub const LEASE_SECS_MIN: u64 = 5;
/// Longest lease: a dead instance's work waits that long for another one.
pub const LEASE_SECS_MAX: u64 = 600;

/// Configuration of `ladon kube`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the Kubernetes cluster. All ids that are made for it follow from this name, so it must differ from that of
    /// every other cluster on the same Ladon server, and never change. Default: `kubernetes`.
    pub cluster: String,
    /// Path of a kubeconfig. Default: none, which means the service account of the pod that `ladon kube` runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Where the Ladon server is.
    pub api: Api,
    /// The cluster's networks.
    pub network: Network,
    /// How one of several instances becomes the active one.
    pub lease: Lease,
    /// Machines that talk to pods and are no Kubernetes Nodes (the one that runs the API server, say). Default: none.
    #[serde(rename = "host")]
    pub hosts: Vec<Host>,
    /// Seconds between two checks of all ports, and of each Service's load balancers, against Kubernetes: what somebody else changed of
    /// them is put right after so long at the latest. The cluster's networks and router are checked at least every 30 s. Default: 300.
    pub resync_secs: u64,
}

/// Where the Ladon server is, and who we are to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// `http://host:port`, `https://host:port` (of a proxy in front of the server) or `unix:/path`. Default: `http://127.0.0.1:9696`.
    pub endpoint: String,
    /// The authority that signed the certificate behind `https://`, PEM; needed for that; read at start. Default: none.
    pub ca: Option<PathBuf>,
    /// Token sent as `X-Auth-Token`. Default: none.
    pub token: Option<Secret>,
    /// File that holds the token; read at start. Default: none.
    pub token_file: Option<PathBuf>,
    /// Project that owns everything that is made. Default: none, which means the token's own project.
    pub project: Option<String>,
}

/// A text that no log and no error shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// The cluster's networks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Where pods and nodes get their addresses from: at most one prefix of each family. An IPv6 prefix of 96 bits or fewer
    /// lets addresses follow from the IPv4 address, so that a node's pods are one entry to the others.
    /// Default: `10.244.0.0/16` and `fd00:244::/64`.
    pub pods: Vec<IpNet>,
    /// The ranges of ClusterIPs, as kube-apiserver's `--service-cluster-ip-range`. The other half of a range twice as large
    /// must be free: it holds the gateway. Default: none, which means what the ServiceCIDR API says.
    pub services: Vec<IpNet>,
}

/// How one of several instances becomes the active one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    /// Namespace of the Lease. Default: `kube-system`.
    pub namespace: String,
    /// Name of the Lease. Default: `ladon-kube`.
    pub name: String,
    /// Who we are on the Lease. It must be the same after a restart, which then resumes at once, and differ between
    /// instances. Default: the machine's host name.
    pub holder: Option<String>,
    /// Seconds without a sign of life after which another instance takes over, 5 to 600. Default: 15.
    pub duration_secs: u64,
}

/// A machine that talks to pods and is no Kubernetes Node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The name that `ladon node --host` has there. Example: `"control"`.
    pub name: String,
    /// Its addresses on the underlay, as a Node's InternalIP. Example: `["192.0.2.1", "2001:db8::1"]`.
    pub addresses: Vec<IpAddr>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            cluster: "kubernetes".into(),
            kubeconfig: None,
            api: Api::default(),
            network: Network::default(),
            lease: Lease::default(),
            hosts: Vec::new(),
            resync_secs: 300,
        }
    }
}

impl Default for Api {
    fn default() -> Api {
        Api { endpoint: "http://127.0.0.1:9696".into(), ca: None, token: None, token_file: None, project: None }
    }
}

impl Default for Network {
    fn default() -> Network {
        let pods = ["10.244.0.0/16", "fd00:244::/64"].map(|prefix| prefix.parse().expect("a prefix")).to_vec();
        Network { pods, services: Vec::new() }
    }
}

impl Default for Lease {
    fn default() -> Lease {
        Lease { namespace: "kube-system".into(), name: "ladon-kube".into(), holder: None, duration_secs: 15 }
    }
}

impl Config {
    /// What no type can say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |field: &'static str, what: &'static str, to_do: &'static str| Err(ConfigError::Value { field, what, to_do });
        if !is_name(&self.cluster) || self.cluster.len() > 63 {
            return bad("cluster", NO_NAME, "give it 1 to 63 characters, and those that it had once the cluster has networks");
        }
        if self.api.token.is_some() && self.api.token_file.is_some() {
            return bad("api.token_file", "is there besides api.token", "keep one of the two");
        }
        self.lease.check()?;
        if self.resync_secs == 0 {
            return bad("resync_secs", "is 0", "write 1 or more");
        }
        let v4 = self.network.pods.iter().filter(|prefix| prefix.addr().is_ipv4()).count();
        if self.network.pods.is_empty() || v4 > 1 || self.network.pods.len() - v4 > 1 {
            return bad("network.pods", "has no prefix, or two of one family", "write one of IPv4, one of IPv6 or one of each");
        }
        if !self.hosts.iter().all(|host| is_name(&host.name)) {
            return bad("host.name", NO_NAME, "write the name that `ladon node --host` has there");
        }
        let names: HashSet<&str> = self.hosts.iter().map(|host| &*host.name).collect();
        if names.len() < self.hosts.len() {
            return bad("host.name", "is the same of two", "write each machine once, with all its addresses");
        }
        Ok(())
    }

    /// The token, from wherever it is.
    pub fn token(&self) -> Result<Option<String>, ConfigError> {
        let Some(path) = &self.api.token_file else { return Ok(self.api.token.as_ref().map(|token| token.0.clone())) };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::TokenFile { path: path.clone(), source })?;
        Ok(Some(text.trim().to_owned()))
    }

    /// Who we are on the Lease.
    pub fn holder(&self) -> Result<String, ConfigError> {
        if let Some(holder) = &self.lease.holder {
            return Ok(holder.clone());
        }
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|source| ConfigError::HostName { source })?;
        Ok(name.trim().to_owned())
    }

    pub(crate) fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease.duration_secs)
    }

    pub(crate) fn resync(&self) -> Duration {
        Duration::from_secs(self.resync_secs)
    }
}

impl Lease {
    fn check(&self) -> Result<(), ConfigError> {
        let bad = |field: &'static str, what: &'static str, to_do: &'static str| Err(ConfigError::Value { field, what, to_do });
        if !(LEASE_SECS_MIN..=LEASE_SECS_MAX).contains(&self.duration_secs) {
            return bad("lease.duration_secs", "is not 5 to 600", "write 5 to 600 seconds");
        }
        if self.holder.as_deref().is_some_and(|holder| !is_name(holder)) {
            return bad("lease.holder", NO_NAME, "write one, or take the key away: then it is the machine's host name");
        }
        for (field, name) in [("lease.namespace", &self.namespace), ("lease.name", &self.name)] {
            if !is_name_in_kubernetes(name) {
                return bad(field, "is no name that Kubernetes takes", "write lower-case letters, digits, '-' and '.' only");
            }
        }
        Ok(())
    }
}

/// What [`is_name`] is not.
const NO_NAME: &str = "is no name: empty, with a control character, or with white space at an end";

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control)
}

/// A DNS subdomain.
fn is_name_in_kubernetes(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(is_good)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Config {
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        config
    }

    fn refused(text: &str) -> String {
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn an_empty_document_is_the_default() {
        assert_eq!(taken(""), Config::default());
    }

    #[test]
    fn every_field_can_be_set() {
        let config = taken(
            r#"
            cluster = "c1"
            kubeconfig = "/k"
            resync_secs = 7
            [api]
            endpoint = "unix:/run/ladon.sock"
            ca = "/ca.crt"
            token = "t"
            project = "p"
            [network]
            pods = ["10.0.0.0/16"]
            services = ["10.96.0.0/16", "fd00:96::/112"]
            [lease]
            namespace = "n"
            name = "l"
            holder = "h"
            duration_secs = 9
            [[host]]
            name = "control"
            addresses = ["192.0.2.1", "2001:db8::1"]
            "#,
        );
        assert_eq!(config.holder().unwrap(), "h");
        assert_eq!(config.token().unwrap().as_deref(), Some("t"));
        assert_eq!(config.network.services.len(), 2);
        assert_eq!(config.hosts[0].addresses.len(), 2);
    }

    #[test]
    fn no_text_that_is_shown_has_the_token() {
        assert!(!format!("{:?}", taken("[api]\ntoken = 'hunter2'")).contains("hunter2"));
    }

    #[test]
    fn a_lease_is_neither_too_short_nor_too_long() {
        for (secs, is_good) in [(LEASE_SECS_MIN - 1, false), (LEASE_SECS_MIN, true), (LEASE_SECS_MAX, true), (LEASE_SECS_MAX + 1, false)] {
            let config = Config { lease: Lease { duration_secs: secs, ..Lease::default() }, ..Config::default() };
            assert_eq!(config.check().is_ok(), is_good, "{secs} s");
        }
    }

    #[test]
    fn what_is_refused_is_said_in_three_parts_with_its_key() {
        for (text, key) in [
            ("cluster = ''", "cluster"),
            ("cluster = \"a/b\\u0000\"", "cluster"),
            ("[network]\npods = ['10.0.0.0/16', '10.1.0.0/16']", "network.pods"),
            ("[lease]\nduration_secs = 1", "lease.duration_secs"),
            ("[lease]\nholder = ''", "lease.holder"),
            ("[lease]\nholder = \"a\\n\"", "lease.holder"),
            ("[lease]\nname = ''", "lease.name"),
            ("[lease]\nnamespace = 'Kube/System'", "lease.namespace"),
            ("resync_secs = 0", "resync_secs"),
            ("[api]\ntoken = 'a'\ntoken_file = '/b'", "api.token_file"),
            ("[[host]]\nname = ''\naddresses = []", "host.name"),
            ("[[host]]\nname = 'a'\naddresses = []\n[[host]]\nname = 'a'\naddresses = []", "host.name"),
        ] {
            let message = refused(text);
            let parts: Vec<&str> = message.split("; ").collect();
            assert!(parts.len() == 3 && parts[0].starts_with(&format!("`{key}`")) && parts[1].contains("pods"), "{text}: {message}");
        }
    }

    #[test]
    fn names_that_may_be_in_use_are_taken() {
        for text in
            ["cluster = 'Production EU/1'", "[lease]\nholder = 'Node_1'", "[lease]\nnamespace = 'kube-system'\nname = 'ladon.kube-2'"]
        {
            taken(text);
        }
    }
}
