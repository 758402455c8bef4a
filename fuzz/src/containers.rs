//! What a container runtime, its plugin and an operator on the machine say to the node.
//!
//! Lines, each of which is tried as everything: the plugin's configuration, a question on the plugin's socket, one on the
//! operator's, and an answer of the node; lines that begin with `CNI_` are the plugin's variables.

use std::collections::BTreeMap;
use std::sync::Arc;

use apps::View;
use apps::testing::*;
use cni::config::Config;
use cni::environment::Environment;
use cni::host_ifname;
use model::{Port, owner};
use node::agent::InForce;
use node::bridge::{Connection, Link, Settings};
use node::control::Control;
use node::local::Local;
use node::pods::Pods;
use node::switch::{Options, Switch};
use tokio::sync::{mpsc, watch};

/// Hears all lines on one node, whose Open vSwitch is away and whose time passes at once.
pub fn lines(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime without threads").block_on(hear(bytes));
}

async fn hear(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder for the node's records");
    let (_local, local) = watch::channel(Arc::new(local()));
    let (_in_force, in_force) = watch::channel(Arc::new(InForce::default()));
    let bridge = Link::start(Settings::new(folder.path().join("no-db.sock")));
    let (switch, _events) = Switch::start(Options::new(folder.path().join("no-br.mgmt")));
    let (asks, _) = mpsc::channel(1);
    let (wishes, _) = mpsc::channel(1);
    let (_server, server) = watch::channel(None);
    let (_half, half) = watch::channel(None);
    let database = watch::channel(Connection::Connected).1;
    let node = model::NodeName("n1".into());
    let control = Control { node, asks, wishes, database, in_force: in_force.clone(), half, server, switch };
    let pods = Pods::new(bridge, "br-int".into(), true, local, in_force, folder.path()).expect("an empty folder is a record");
    let mut variables = BTreeMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some((name, value)) =
            std::str::from_utf8(line).ok().and_then(|line| line.split_once('=')).filter(|_| line.starts_with(b"CNI_"))
        {
            variables.insert(name.to_string(), value.to_string());
            continue;
        }
        configured(line);
        let _ = serde_json::from_slice::<cni::daemon::Reply>(line);
        drop(serde_json::to_vec(&pods.answer_line(line).await).expect("an answer is JSON"));
        drop(serde_json::to_vec(&control.answer_line(line).await).expect("an answer is JSON"));
    }
    environment(variables);
}

fn local() -> Local {
    let pod = Port { device_owner: owner::POD.into(), device_id: "u-1".into(), ..port("web", 4, "pods", &[("v4", "10.0.0.9")]) };
    let id = pod.id;
    let changes = [here("n1", "192.0.2.1"), put(network("pods", 7)), put(subnet("v4", "pods", "10.0.0.0/24")), put(pod)];
    let mut view = View::default();
    changes.into_iter().for_each(|change| view.apply(change, &mut Default::default()));
    Local::of(&view, &[id].into())
}

fn configured(line: &[u8]) {
    let Ok(config) = Config::parse(line) else { return };
    let _ = (config.validate(), config.prev_result.as_ref().map(|previous| previous.position("eth0")));
    for attachment in config.valid_attachments().unwrap_or_default() {
        let name = host_ifname(attachment);
        assert!((1..=15).contains(&name.len()) && name.is_ascii(), "{name} is no name for an interface");
    }
}

fn environment(variables: BTreeMap<String, String>) {
    let environment = Environment::from_lookup(move |name| variables.get(name).cloned());
    let _ = (environment.command(), environment.netns(), environment.pod());
    if let Ok(attachment) = environment.attachment() {
        let forbidden = |c: char| c == '/' || c.is_whitespace();
        assert!(!attachment.container.contains(forbidden) && !attachment.ifname.contains(forbidden), "{attachment:?} leaves its place");
    }
}
