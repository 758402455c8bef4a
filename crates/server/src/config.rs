//! The server's configuration: one TOML file, every setting with a default.
//!
//! `docs/configuration.md` is generated from [`SETTINGS`]; a test holds the table and the defaults together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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
    setting(
        "store.path",
        "",
        "The file of the embedded store, which belongs to exactly one server. Unset, and without `store.etcd.endpoints`: `/var/lib/ladon/store`.",
    ),
    setting(
        "store.log_hours",
        "2",
        "How long the log of changes reaches back, where `store.log_mib` has room: a node that was away for longer, or for more than 20,000 changes, gets a snapshot. At least 1.",
    ),
    setting(
        "store.log_mib",
        "256",
        "The greatest size in MiB of the embedded store's log; the oldest changes go first, whatever their age.",
    ),
    setting(
        "store.etcd.endpoints",
        "[]",
        "The members of an etcd cluster, `http://host:port` or `https://host:port`, instead of `store.path`: any number of servers share it. They are tried in this order.",
    ),
    setting(
        "store.etcd.ca",
        "",
        "The authority of the members' certificates (PEM), for `https`. The unit in `deploy/systemd` hands this file to the server and the next ones, once the comment is taken off their `LoadCredential` lines.",
    ),
    setting("store.etcd.certificate", "", "The server's certificate as a client of etcd (PEM). Files are read at every connection."),
    setting("store.etcd.key", "", "That certificate's private key (PEM)."),
    setting("store.etcd.user", "", "As whom the server comes, where etcd asks for a password."),
    setting("store.etcd.password_file", "", "The file with that user's password."),
    setting("store.etcd.prefix", "\"\"", "Stands before every key (`/site-a`), so that deployments can share a cluster."),
    setting(
        "store.etcd.compact",
        "true",
        "Have etcd forget what is older than `store.log_hours`, as a cluster that nobody compacts fills up. `false` where others who share the cluster see to it: it forgets everybody's history.",
    ),
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
    pub path: Option<PathBuf>,
    pub log_hours: u64,
    pub log_mib: u64,
    pub etcd: Etcd,
}

impl Default for Store {
    fn default() -> Store {
        Store { path: None, log_hours: 2, log_mib: 256, etcd: Etcd::default() }
    }
}

/// The embedded store, unless the configuration names another.
const STORE_PATH: &str = "/var/lib/ladon/store";

impl Store {
    /// The file of the embedded store; None: the store is an etcd cluster.
    pub fn file(&self) -> Option<&Path> {
        (!self.etcd.is_used()).then(|| self.path.as_deref().unwrap_or(Path::new(STORE_PATH)))
    }
}

/// `[store.etcd]`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    pub endpoints: Vec<String>,
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub prefix: String,
    pub compact: bool,
}

impl Default for Etcd {
    fn default() -> Etcd {
        let (endpoints, prefix) = (Vec::new(), String::new());
        Etcd { endpoints, ca: None, certificate: None, key: None, user: None, password_file: None, prefix, compact: true }
    }
}

impl Etcd {
    /// There is a cluster.
    pub fn is_used(&self) -> bool {
        !self.endpoints.is_empty()
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some((_, host)) = self.endpoints.iter().find_map(|endpoint| endpoint.rsplit_once('@')) {
            return Err(ConfigError::EtcdUser(host.to_string()));
        }
        let has_scheme = |endpoint: &&String| endpoint.starts_with("http://") || endpoint.starts_with("https://");
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| !has_scheme(endpoint)) {
            return Err(ConfigError::EtcdEndpoint(endpoint.clone()));
        }
        if self.ca.is_none() && self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
            return Err(ConfigError::EtcdNeeds { given: "an https:// endpoint", needed: "store.etcd.ca" });
        }
        if !self.prefix.is_empty() && (!self.prefix.starts_with('/') || self.prefix.ends_with('/')) {
            return Err(ConfigError::EtcdPrefix(self.prefix.clone()));
        }
        let pairs = [
            (self.certificate.is_some(), "store.etcd.certificate", self.key.is_some(), "store.etcd.key"),
            (self.user.is_some(), "store.etcd.user", self.password_file.is_some(), "store.etcd.password_file"),
        ];
        for (has_first, first, has_second, second) in pairs {
            match (has_first, has_second) {
                (true, false) => return Err(ConfigError::EtcdNeeds { given: first, needed: second }),
                (false, true) => return Err(ConfigError::EtcdNeeds { given: second, needed: first }),
                _ => {}
            }
        }
        Ok(())
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
    #[error(
        "store.path and store.etcd.endpoints are both set: what should be is in one place, so the server does not start; keep one of them"
    )]
    TwoStores,
    #[error("store.etcd.endpoints: '{0}' begins with neither http:// nor https://, so the server does not start")]
    EtcdEndpoint(String),
    #[error(
        "store.etcd.endpoints: '…@{0}' has a user in it, so the server does not start; write it without, and set store.etcd.user and \
         store.etcd.password_file"
    )]
    EtcdUser(String),
    #[error("{given} is given and {needed} is not, so the server does not start; set {needed}")]
    EtcdNeeds { given: &'static str, needed: &'static str },
    #[error("store.etcd.prefix is '{0}': begin it with '/' and end it without, so the server does not start")]
    EtcdPrefix(String),
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
        if self.store.path.is_some() && self.store.etcd.is_used() {
            return Err(ConfigError::TwoStores);
        }
        self.store.etcd.check()?;
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

    /// The names and JSON values of all fields.
    fn fields(config: &Config) -> Vec<(String, serde_json::Value)> {
        fn flat(name: &str, value: &serde_json::Value) -> Vec<(String, serde_json::Value)> {
            match value.as_object() {
                Some(fields) => fields.iter().flat_map(|(field, value)| flat(&format!("{name}.{field}"), value)).collect(),
                None => vec![(name.trim_start_matches('.').to_string(), value.clone())],
            }
        }
        flat("", &serde_json::to_value(config).unwrap())
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
    fn a_store_is_in_one_place_and_etcd_has_what_it_needs() {
        let refused =
            |text: &str| toml::from_str::<Store>(text).map(|store| Config { store, ..Config::default() }.check().is_err()).unwrap();
        let etcd = "[etcd]\nendpoints = ['https://192.0.2.1:2379', 'https://192.0.2.2:2379']\nca = '/ca'\n";
        for good in
            ["", "path = '/store'", etcd, &format!("{etcd}certificate = '/c'\nkey = '/k'\nuser = 'u'\npassword_file = '/p'\nprefix = '/a'")]
        {
            assert!(!refused(good), "{good}");
        }
        for bad in [
            &format!("path = '/store'\n{etcd}"),
            "[etcd]\nendpoints = ['192.0.2.1:2379']",
            "[etcd]\nendpoints = ['https://192.0.2.1:2379']",
            &format!("{etcd}certificate = '/c'"),
            &format!("{etcd}password_file = '/p'"),
            &format!("{etcd}prefix = '/a/'"),
        ] {
            assert!(refused(bad), "{bad}");
        }
    }

    #[test]
    fn no_password_is_shown_of_an_endpoint_that_has_one() {
        for endpoint in ["http://user:SEKRIT@192.0.2.1:2379", "user:SEK@RIT@192.0.2.1:2379", "https://SEKRIT@192.0.2.1:2379"] {
            let mut config = Config::default();
            config.store.etcd.endpoints = vec!["http://192.0.2.2:2379".into(), endpoint.into()];
            assert_eq!(config.check(), Err(ConfigError::EtcdUser("192.0.2.1:2379".into())));
        }
    }

    #[test]
    fn a_server_without_a_listener_is_refused() {
        let api = Api { listen: Vec::new(), ..Api::default() };
        assert_eq!(Config { api, ..Config::default() }.check(), Err(ConfigError::NoListener));
    }
}
