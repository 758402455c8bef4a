//! The server's configuration: one TOML file, every setting with a default.
//!
//! `docs/configuration.md` is generated from [`SETTINGS`]; a test holds the table and the defaults together.

use std::net::SocketAddr;
use std::path::PathBuf;

use model::TunnelType;
use serde::{Deserialize, Serialize};

/// One setting, as the reference tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// With its section: `api.listen`.
    pub name: &'static str,
    /// The default, as TOML; empty where there is none.
    pub default: &'static str,
    pub doc: &'static str,
}

const fn setting(name: &'static str, default: &'static str, doc: &'static str) -> Setting {
    Setting { name, default, doc }
}

/// Every setting of `ladon server`.
pub const SETTINGS: &[Setting] = &[
    setting("store.path", r#""/var/lib/ladon/store""#, "The file of the embedded store. It belongs to exactly one server."),
    setting(
        "store.log_hours",
        "2",
        "How long the log of changes reaches back: a node that was away for longer gets a snapshot. At least 1.",
    ),
    setting("store.log_mib", "256", "The log's greatest size in MiB; the oldest changes go first, whatever their age."),
    setting(
        "api.listen",
        r#"["127.0.0.1:9696"]"#,
        "Where Neutron's and Octavia's REST APIs are served. With `auth = \"none\"`, loopback addresses only.",
    ),
    setting("api.socket", "", "A unix socket for the same APIs (mode 0660). Empty: none."),
    setting("api.auth", r#""none""#, "`none`: every caller is an administrator. `tokens`: callers need a token of `api.tokens`."),
    setting(
        "api.tokens",
        "",
        "The file of tokens: lines of `token,project,user,roles`, roles separated by spaces. The role `admin` opens every project, `reader` without `member` changes nothing, others mean nothing.",
    ),
    setting(
        "network.mtu",
        "1450",
        "The largest IP packet on new networks: the underlay's MTU less 50 bytes of tunnel over IPv4, 70 over IPv6.",
    ),
    setting("network.tunnel", r#""geneve""#, "The encapsulation between nodes: `geneve` or `vxlan`."),
    setting("views.listen", r#""127.0.0.1:9697""#, "Where nodes open their streams (gRPC with mutual TLS)."),
    setting("views.certificate", r#""/etc/ladon/server.crt""#, "The server's certificate (PEM, with intermediates)."),
    setting("views.key", r#""/etc/ladon/server.key""#, "The certificate's private key (PEM)."),
    setting(
        "views.ca",
        r#""/etc/ladon/ca.crt""#,
        "The authority whose certificates nodes must have (PEM). A node's certificate names the node and opens its view alone.",
    ),
];

/// What `ladon server` needs to know.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub store: Store,
    pub api: Api,
    pub network: Network,
    pub views: Views,
}

/// `[store]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    pub path: PathBuf,
    pub log_hours: u64,
    pub log_mib: u64,
}

impl Default for Store {
    fn default() -> Store {
        Store { path: "/var/lib/ladon/store".into(), log_hours: 2, log_mib: 256 }
    }
}

/// `[api]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    pub listen: Vec<SocketAddr>,
    pub socket: Option<PathBuf>,
    pub auth: AuthMode,
    pub tokens: Option<PathBuf>,
}

impl Default for Api {
    fn default() -> Api {
        Api { listen: vec![SocketAddr::from(([127, 0, 0, 1], 9696))], socket: None, auth: AuthMode::None, tokens: None }
    }
}

/// How callers of the API are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    #[default]
    None,
    Tokens,
}

/// `[network]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    pub mtu: u16,
    pub tunnel: TunnelType,
}

impl Default for Network {
    fn default() -> Network {
        Network { mtu: 1450, tunnel: TunnelType::Geneve }
    }
}

/// `[views]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Views {
    pub listen: SocketAddr,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

impl Default for Views {
    fn default() -> Views {
        Views {
            listen: SocketAddr::from(([127, 0, 0, 1], 9697)),
            certificate: "/etc/ladon/server.crt".into(),
            key: "/etc/ladon/server.key".into(),
            ca: "/etc/ladon/ca.crt".into(),
        }
    }
}

/// Why a configuration is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "api.listen {0} can be reached from other machines and api.auth is \"none\": anybody could change every network, so the server does not start; listen on a loopback address or on api.socket, or set api.auth = \"tokens\" and api.tokens"
    )]
    Open(SocketAddr),
    #[error("api.auth is \"tokens\" and api.tokens names no file: nobody could call the API, so the server does not start; set api.tokens")]
    NoTokens,
    #[error("neither api.listen nor api.socket is set: nobody could call the API, so the server does not start; set one of them")]
    NoListener,
    #[error("network.mtu is {0}: IPv6 needs 1280 bytes (RFC 8200), so the server does not start; set it to 1280 or more")]
    SmallMtu(u16),
    #[error("store.log_hours is {0}: nodes that reconnect would need snapshots, so the server does not start; set it to 1 or more")]
    ShortLog(u64),
}

impl Config {
    /// Refuses what would be unsafe or useless.
    pub fn check(&self) -> Result<(), ConfigError> {
        let open = self.api.listen.iter().find(|address| !address.ip().to_canonical().is_loopback());
        match (self.api.auth, open) {
            (AuthMode::None, Some(address)) => return Err(ConfigError::Open(*address)),
            (AuthMode::Tokens, _) if self.api.tokens.is_none() => return Err(ConfigError::NoTokens),
            _ => {}
        }
        if self.api.listen.is_empty() && self.api.socket.is_none() {
            return Err(ConfigError::NoListener);
        }
        if self.network.mtu < 1280 {
            return Err(ConfigError::SmallMtu(self.network.mtu));
        }
        if self.store.log_hours == 0 { Err(ConfigError::ShortLog(0)) } else { Ok(()) }
    }
}

/// The reference of all settings: a table in Markdown.
pub fn reference() -> String {
    let rows = SETTINGS.iter().map(|setting| {
        let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        format!("| `{}` | {default} | {} |\n", setting.name, setting.doc)
    });
    format!("| Key | Default | Meaning |\n|---|---|---|\n{}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and JSON values of a section's fields.
    fn fields(config: &Config) -> Vec<(String, serde_json::Value)> {
        let json = serde_json::to_value(config).unwrap();
        let sections = json.as_object().unwrap().iter();
        let flat = sections.flat_map(|(section, fields)| {
            fields.as_object().unwrap().iter().map(move |(name, value)| (format!("{section}.{name}"), value.clone()))
        });
        flat.collect()
    }

    #[test]
    fn the_reference_has_every_setting_with_its_default() {
        let mut names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        let found = fields(&Config::default());
        let mut expected: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
        for (name, value) in &found {
            let setting = SETTINGS.iter().find(|setting| setting.name == name).unwrap();
            let default = if setting.default.is_empty() { serde_json::Value::Null } else { serde_json::from_str(setting.default).unwrap() };
            assert_eq!(*value, default, "{name}");
        }
    }

    #[test]
    fn an_open_door_without_a_lock_is_refused() {
        let listen = |address: &str| Config { api: Api { listen: vec![address.parse().unwrap()], ..Api::default() }, ..Config::default() };
        for open in ["0.0.0.0:9696", "192.0.2.1:9696", "[::]:9696", "[2001:db8::1]:1"] {
            assert!(matches!(listen(open).check(), Err(ConfigError::Open(_))), "{open}");
        }
        for closed in ["127.0.0.1:9696", "127.8.8.8:1", "[::1]:9696", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(listen(closed).check(), Ok(()), "{closed}");
        }
        let mut tokens = listen("0.0.0.0:9696");
        tokens.api.auth = AuthMode::Tokens;
        assert_eq!(tokens.check(), Err(ConfigError::NoTokens));
        tokens.api.tokens = Some("/etc/ladon/tokens".into());
        assert_eq!(tokens.check(), Ok(()));
    }

    #[test]
    fn a_server_without_a_listener_is_refused() {
        let api = Api { listen: Vec::new(), ..Api::default() };
        assert_eq!(Config { api, ..Config::default() }.check(), Err(ConfigError::NoListener));
    }
}
