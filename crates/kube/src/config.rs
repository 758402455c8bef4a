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
    /// Reads a TOML document.
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| ConfigError::Syntax(told(text, &error)))?;
        config.check()?;
        Ok(config)
    }

    /// What no type can say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |field: &'static str, why: &str| Err(ConfigError::Value { field, why: why.to_owned() });
        if self.cluster.is_empty() || self.cluster.len() > 63 {
            return bad("cluster", "a name has 1 to 63 characters");
        }
        if self.api.token.is_some() && self.api.token_file.is_some() {
            return bad("api.token_file", "give either token or token_file");
        }
        if !(LEASE_SECS_MIN..=LEASE_SECS_MAX).contains(&self.lease.duration_secs) {
            return bad("lease.duration_secs", "5 to 600 seconds");
        }
        if self.resync_secs == 0 {
            return bad("resync_secs", "at least one second");
        }
        let v4 = self.network.pods.iter().filter(|prefix| prefix.addr().is_ipv4()).count();
        if self.network.pods.is_empty() || v4 > 1 || self.network.pods.len() - v4 > 1 {
            return bad("network.pods", "one prefix of each family at most, and one at least");
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
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(ConfigError::HostName)?;
        Ok(name.trim().to_owned())
    }

    pub(crate) fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease.duration_secs)
    }

    pub(crate) fn resync(&self) -> Duration {
        Duration::from_secs(self.resync_secs)
    }
}

/// What is wrong with the text, with the line that it is about, unless a token is in it.
pub fn told(text: &str, error: &toml::de::Error) -> String {
    let number = error.span().map_or(0, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
    let line = text.lines().nth(number).unwrap_or_default().trim();
    match number + 1 {
        number if line.contains("token") => {
            format!("line {number}, which is about a token and not shown: it cannot be read; write a text in quotes")
        }
        number => format!("line {number}, `{line}`: {}", error.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_document_is_the_default() {
        assert_eq!(Config::from_toml("").unwrap(), Config::default());
    }

    #[test]
    fn every_field_can_be_set() {
        let config = Config::from_toml(
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
        )
        .unwrap();
        assert_eq!(config.holder().unwrap(), "h");
        assert_eq!(config.token().unwrap().as_deref(), Some("t"));
        assert_eq!(config.network.services.len(), 2);
        assert_eq!(config.hosts[0].addresses.len(), 2);
    }

    #[test]
    fn no_text_that_is_shown_has_the_token() {
        let config = Config::from_toml("[api]\ntoken = 'hunter2'").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        for text in ["[api]\ntoken = 'hunter2", "[api]\ntoken = hunter2", "[api]\ntoken = ['hunter2']", "[api]\ntokens = 'hunter2'"] {
            let message = Config::from_toml(text).unwrap_err().to_string();
            assert!(!message.contains("hunter") && message.contains("line 2"), "{message}");
        }
    }

    #[test]
    fn a_lease_is_neither_too_short_nor_too_long() {
        for (secs, is_good) in [(LEASE_SECS_MIN - 1, false), (LEASE_SECS_MIN, true), (LEASE_SECS_MAX, true), (LEASE_SECS_MAX + 1, false)] {
            let config = Config::from_toml(&format!("[lease]\nduration_secs = {secs}"));
            assert_eq!(config.is_ok(), is_good, "{secs} s: {config:?}");
        }
    }

    #[test]
    fn a_mistake_names_its_field() {
        for (text, word) in [
            ("clutser = 'x'", "clutser"),
            ("[network]\npods = ['10.0.0.0/16', '10.1.0.0/16']", "network.pods"),
            ("[network]\npods = ['ten']", "pods"),
            ("[lease]\nduration_secs = 1", "lease.duration_secs"),
            ("resync_secs = 0", "resync_secs"),
            ("[api]\ntoken = 'a'\ntoken_file = '/b'", "token_file"),
        ] {
            let message = Config::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
