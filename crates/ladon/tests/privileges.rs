//! What the parts may do: as little as their units in `deploy/systemd` say, and no more than they need.
//!
//! The parts run here with the capabilities and the mounts of their units. Filters of system calls and address families, and what
//! else only systemd can do, are read by systemd's own judge and not tried.

#[path = "world/parts.rs"]
mod parts;
mod world;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::Process;
use parts::{DEADLINE, Parts, TOKEN, ladon, unit};
use serde_json::json;
use world::World;

/// More than this is a unit that forgot something; systemd's own daemons have 2 to 9.
const EXPOSURE_MAX: f32 = 2.5;

#[test]
fn every_part_has_a_unit_that_systemd_takes_and_that_says_what_it_may() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["server", "node", "kube"] {
        let path = folder.path().join(format!("ladon-{part}.service"));
        std::fs::write(&path, unit(part).replace("/usr/bin/ladon", ladon())).unwrap();
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && !complaints.contains(&format!("ladon-{part}")), "{complaints}");
        let security = Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=100"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&security.stdout).into_owned();
        let exposure = text.split(".service: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f32>().ok());
        assert!(exposure.is_some_and(|exposure| exposure <= EXPOSURE_MAX), "ladon-{part}: {exposure:?}\n{text}");
    }
}

#[test]
fn a_part_that_ends_is_started_again_however_often_it_does() {
    for part in ["server", "node", "kube"] {
        let unit = unit(part);
        let (about, service) = unit.split_once("[Service]").unwrap();
        assert!(service.contains("\nRestart=always\n"), "ladon-{part}");
        // By default five ends within ten seconds are the last.
        assert!(about.contains("\nStartLimitIntervalSec=0\n"), "ladon-{part}");
    }
}

#[test]
fn the_servers_unit_hands_it_every_file_that_its_configuration_can_name() {
    // What it makes itself is not handed to it.
    const ITS_OWN: [&str; 2] = ["store.path", "api.socket"];
    let unit = unit("server");
    let handed: Vec<&str> = unit.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix("LoadCredential=")).collect();
    let named: Vec<String> = files().into_iter().filter(|name| !ITS_OWN.contains(&&**name)).collect();
    assert_eq!(named.len(), handed.len(), "{named:?} {handed:?}");
    for name in named {
        let credential = unit.split_once(&format!(" {name} ")).and_then(|(_, rest)| rest.split([' ', ',', '\n']).next());
        let credential = credential.unwrap_or_else(|| panic!("the unit does not say which credential is {name}"));
        let lines: Vec<&&str> = handed.iter().filter(|line| line.split(':').next() == Some(credential)).collect();
        assert_eq!(lines.len(), 1, "{name} is {credential}");
        assert!(lines[0].ends_with(&format!("/{credential}")), "{}", lines[0]);
    }
}

/// The settings of the server that are files, as the source of its configuration declares them.
fn files() -> Vec<String> {
    let source = include_str!("../../server/src/config.rs");
    let (mut section, mut files) = (String::new(), Vec::new());
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            section = rest.split(' ').next().unwrap().to_lowercase().replace("etcd", "store.etcd");
        } else if let Some((field, _)) =
            line.trim().strip_prefix("pub ").and_then(|field| field.split_once(": ").filter(|(_, kind)| kind.contains("PathBuf")))
        {
            files.push(format!("{section}.{field}"));
        }
    }
    files
}

/// What the kernel says of a process.
fn status(process: &Process, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid().unwrap())).unwrap();
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap().to_string()
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[test]
fn a_port_is_plugged_with_the_capabilities_and_mounts_of_the_units_and_nobody_else_may_read_what_is_kept() {
    let parts = Parts::start("trace");
    let network = parts.make("networks", "network", json!({"name": "blue"}));
    parts.make("subnets", "subnet", json!({"network_id": network["id"], "ip_version": 4, "cidr": "10.7.0.0/24"}));
    let plugged =
        parts.ladon(&["plug", "--network", "blue", "--name", "plug0"]).unwrap_or_else(|error| panic!("{error}\n{}", parts.logs()));
    assert!(plugged.contains("10.7.0."), "{plugged}");
    assert!(parts.host.tool("ip", &["-4", "address", "show", "dev", "plug0"]).unwrap().contains("10.7.0."));

    // CAP_NET_ADMIN is bit 12.
    for (part, capabilities) in [(&parts.node, "0000000000001000"), (&parts.server, "0000000000000000")] {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status(part, set), capabilities, "{} {set}", part.name());
        }
        assert_eq!(status(part, "NoNewPrivs"), "1");
    }

    let at = |name: &str| parts.folder.join(name);
    for (name, wanted) in
        [("run", 0o700), ("run/node.sock", 0o600), ("run/cni.sock", 0o600), ("state", 0o700), ("store", 0o600), ("api.sock", 0o660)]
    {
        assert_eq!(mode(&at(name)), wanted, "{name}");
    }
    let is_written = || Ok(at("cni/05-ladon.conflist").exists().then_some(()));
    parts.node.wait_until("the CNI configuration", DEADLINE, is_written).unwrap_or_else(|error| panic!("{error}\n{}", parts.logs()));
    for (folder, wanted) in [("state", 0o600), ("cni", 0o644)] {
        let files: Vec<PathBuf> = std::fs::read_dir(at(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{folder}");
        files.iter().for_each(|file| assert_eq!(mode(file), wanted, "{}", file.display()));
    }

    parts.ladon(&["unplug", "plug0"]).unwrap();
    assert!(parts.host.tool("ip", &["link", "show", "dev", "plug0"]).is_err());
    let key = std::fs::read_to_string(at("pki/node-n1.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    for hidden in [TOKEN, secret] {
        assert!(!parts.logs().contains(hidden), "a secret is in the log");
    }
}

#[test]
fn the_token_of_ladon_kube_is_in_no_log() {
    let world = World::new();
    let config = format!("kubeconfig = '/nonexistent'\n[api]\nendpoint = 'unix:{}'\ntoken = '{TOKEN}'\n", world.path("api.sock").display());
    for text in [config.clone(), config.replace('\'', "\""), config.replace("token = '", "token = ")] {
        std::fs::write(world.path("kube.toml"), text).unwrap();
        let mut command = world.command(&["kube", "--config", world.path("kube.toml").to_str().unwrap()]);
        let output = command.env("RUST_LOG", "trace").output().unwrap();
        assert!(!output.status.success(), "there is no such kubeconfig");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.is_empty() && !said.contains(TOKEN), "{said}");
    }
}
