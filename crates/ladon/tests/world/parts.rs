//! A real server and a real node on one host, with the capabilities of their units and no more, and with nothing to write to but
//! what the units say.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::{Host, Lab, Ovs, Process, Underlay};
use serde_json::Value;

pub const DEADLINE: Duration = Duration::from_secs(120);
pub const TOKEN: &str = "token-that-nobody-may-see";

pub fn ladon() -> &'static str {
    env!("CARGO_BIN_EXE_ladon")
}

/// The part's unit.
pub fn unit(part: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../deploy/systemd/ladon-{part}.service"));
    std::fs::read_to_string(path).unwrap()
}

/// The unit's value of `key`.
fn says(unit: &str, key: &str) -> String {
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.last().unwrap_or_else(|| panic!("the unit says {key}")).to_string()
}

/// All of the unit's values of `key`, word by word.
fn words<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).flat_map(str::split_whitespace).collect()
}

/// A node with a server, each with the capabilities and the mounts of its unit, on one host.
#[allow(dead_code, reason = "each test program uses its share")]
pub struct Parts {
    pub server: Process,
    pub node: Process,
    pub host: Host,
    pub folder: PathBuf,
    pub ovs: Ovs,
    pub underlay: Underlay,
    _lab: Lab,
}

/// What makes the mounts of a unit as systemd.exec(5) says of `ProtectSystem=strict` and `ProtectKernelTunables=yes`: a shell's
/// script, for a mount namespace of its own. `writable` may be written, and what `ReadWritePaths=` says where it is there.
fn mounts(unit: &str, writable: &[String]) -> String {
    assert_eq!((says(unit, "ProtectSystem"), says(unit, "ProtectKernelTunables")), ("strict".into(), "yes".into()));
    let tunables: Vec<&str> = words(unit, "ReadWritePaths")
        .into_iter()
        .map(|path| path.trim_start_matches('-'))
        .filter(|path| path.starts_with("/proc/sys"))
        .collect();
    let tunables = tunables.join(" ");
    let writable: Vec<&String> = writable.iter().filter(|path| Path::new(path).exists()).collect();
    let paths = writable.iter().map(|path| path.as_str()).collect::<Vec<_>>();
    format!(
        "set -e; all=$(cut -d ' ' -f 5 /proc/self/mountinfo); \
         for path in {writable}; do mount --bind $path $path; done; \
         for path in $all; do case $path in /proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro $path 2> /dev/null || test $path != / ;; esac; done; \
         mount --bind /proc/sys /proc/sys; for path in {tunables}; do mount --bind $path $path; done; \
         mount -o remount,bind,ro /proc/sys; mount -o remount,bind,ro /sys; exec \"$@\"",
        writable = paths.join(" ")
    )
}

/// `ladon` as root with the unit's capabilities and mounts alone, with its own log. `places` are where the unit's folders are here:
/// what it makes before the start is made there.
fn confined(host: &Host, part: &str, config: &Path, log: &str, places: &[(&str, String)]) -> Process {
    let unit = unit(part);
    for line in unit.lines().filter_map(|line| line.strip_prefix("ExecStartPre=-+")) {
        let there = places.iter().fold(line.to_owned(), |line, (path, place)| line.replace(path, place));
        let words: Vec<&str> = there.split_whitespace().collect();
        assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{there}");
    }
    let own = |path: &str| ["/var/lib/", "/run/"].iter().any(|folder| path.starts_with(folder));
    let is_writable = |path: &str| own(path) || words(&unit, "ReadWritePaths").iter().any(|word| word.trim_start_matches('-') == path);
    let writable: Vec<String> = places.iter().filter(|(path, _)| is_writable(path)).map(|(_, place)| place.clone()).collect();
    assert_eq!(says(&unit, "NoNewPrivileges"), "yes");
    let named: Vec<String> = says(&unit, "CapabilityBoundingSet")
        .split_whitespace()
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let set = [vec!["-all".to_string()], named].concat().join(",");
    let mut command = host.command("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", &mounts(&unit, &writable), "sh", "setpriv"]);
    command.args([&format!("--bounding-set={set}"), "--inh-caps=-all", "--no-new-privs", "--", ladon(), part, "--config"]).arg(config);
    command.env("RUST_LOG", log);
    host.spawn(&format!("ladon-{part}"), &command).unwrap()
}

#[allow(dead_code, reason = "each test program uses its share")]
impl Parts {
    /// Both, and the node connected. `log` says what they log, as RUST_LOG.
    pub fn start(log: &str) -> Parts {
        let lab = Lab::scratch().unwrap();
        let underlay = Underlay::new(&lab).unwrap();
        let host = underlay.host("n1", 1).unwrap();
        let ovs = Ovs::start(&host).unwrap();
        let folder = host.folder("ladon").unwrap();
        for who in [&["server"][..], &["node", "n1"]] {
            let made = Command::new(ladon()).args(["pki", "--dir"]).arg(folder.join("pki")).args(who).output().unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        std::fs::write(folder.join("tokens"), format!("{TOKEN},admin,admin,admin\n")).unwrap();
        let at = |name: &str| folder.join(name).display().to_string();
        let address = host.ipv4();
        let server_text = format!(
            "[store]\npath = '{}'\n[api]\nlisten = []\nsocket = '{}'\nauth = 'tokens'\ntokens = '{}'\n\
             [views]\nlisten = '{address}:9697'\nca = '{}'\ncertificate = '{}'\nkey = '{}'\n",
            at("store"),
            at("api.sock"),
            at("tokens"),
            at("pki/ca.crt"),
            at("pki/server.crt"),
            at("pki/server.key"),
        );
        let node_text = format!(
            "host = 'n1'\nservers = ['{address}:9697']\ncertificate = '{}'\nkey = '{}'\nauthority = '{}'\nstate_dir = '{}'\nrun_dir = '{}'\n\
             [ovs]\ndb_socket = '{}'\nrun_dir = '{}'\ndatapath = 'netdev'\n[tunnel]\naddresses = ['{address}']\n[cni]\nconfig_dir = '{}'\n",
            at("pki/node-n1.crt"),
            at("pki/node-n1.key"),
            at("pki/ca.crt"),
            at("state"),
            at("run"),
            ovs.db_sock().display(),
            ovs.run_dir().display(),
            at("cni"),
        );
        std::fs::write(folder.join("server.toml"), server_text).unwrap();
        std::fs::write(folder.join("node.toml"), node_text).unwrap();
        // systemd makes these two (StateDirectory, RuntimeDirectory).
        for name in ["state", "run"] {
            std::fs::DirBuilder::new().mode(0o700).create(folder.join(name)).unwrap();
        }
        let places = [("/var/lib/ladon-server", folder.display().to_string())];
        let server = confined(&host, "server", &folder.join("server.toml"), log, &places);
        let places = [("/var/lib/ladon", at("state")), ("/run/ladon", at("run")), ("/etc/cni/net.d", at("cni"))];
        let node = confined(&host, "node", &folder.join("node.toml"), log, &places);
        let parts = Parts { server, node, host, folder, ovs, underlay, _lab: lab };
        let is_there = || parts.ladon(&["nodes"]).map(|text| text.contains("n1    yes").then_some(()));
        parts.node.wait_until("the node", DEADLINE, is_there).unwrap_or_else(|error| panic!("{error}\n{}", parts.logs()));
        parts
    }

    /// One of the operator's commands, by somebody with all rights.
    pub fn ladon(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.host.command(ladon());
        command
            .arg("--control")
            .arg(self.folder.join("run/node.sock"))
            .arg("--api")
            .arg(format!("unix:{}", self.folder.join("api.sock").display()));
        let output = command.env("LADON_TOKEN", TOKEN).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// What the API answers; with a body, to a POST.
    pub fn api(&self, path: &str, body: Option<&Value>) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-H", &format!("x-auth-token: {TOKEN}"), "--unix-socket"]).arg(self.folder.join("api.sock"));
        curl.args(body.map(|body| format!("-d{body}")));
        serde_json::from_slice(&curl.arg(format!("http://localhost/v2.0/{path}")).output().unwrap().stdout).unwrap()
    }

    fn change(&self, method: &str, path: &str, body: Option<&Value>) -> String {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", method, "-H", &format!("x-auth-token: {TOKEN}"), "--unix-socket"]).arg(self.folder.join("api.sock"));
        curl.args(body.map(|body| format!("-d{body}"))).args(["-w", "%{http_code}"]);
        let said = curl.arg(format!("http://localhost/v2.0/{path}")).output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    pub fn put(&self, path: &str, body: &Value) {
        let said = self.change("PUT", path, Some(body));
        assert!(said.ends_with("200"), "{said}");
    }

    pub fn delete(&self, path: &str) {
        let said = self.change("DELETE", path, None);
        assert!(said.ends_with("204"), "{said}");
    }

    /// Makes the object `name` and gives it.
    pub fn make(&self, path: &str, name: &str, fields: Value) -> Value {
        let mut made = self.api(path, Some(&serde_json::json!({ name: fields })));
        assert!(made[name]["id"].is_string(), "{made}");
        made[name].take()
    }

    pub fn logs(&self) -> String {
        [&self.server, &self.node].map(|part| std::fs::read_to_string(part.log()).unwrap()).concat()
    }
}
