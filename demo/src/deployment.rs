//! The server, nodes and `ladon kube`, each with its configuration file, as processes on the lab's hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::kubernetes::{Cluster, Worker};
use lab::{Host, Lab, Ovs, Process, wait};
use serde_json::Value;

use crate::api::Api;

/// Longest time that a part may take until it serves.
const READY: Duration = Duration::from_secs(30);
/// Where nodes reach the server.
const VIEWS_PORT: u16 = 9697;

/// The rights of `ladon kube`, as shipped.
const RBAC: &str = include_str!("../../deploy/kubernetes/rbac.yaml");
/// The user that has them.
const KUBE_USER: &str = "ladon-kube";

/// How packets travel between nodes: one word in the configuration, and the underlay's IP version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    pub kind: &'static str,
    pub is_v6: bool,
}

impl Default for Tunnel {
    fn default() -> Self {
        Tunnel { kind: "geneve", is_v6: false }
    }
}

/// One machine's `ladon node`.
pub struct NodeParts {
    pub host: Host,
    pub process: Process,
    pub config: PathBuf,
    pub run_dir: PathBuf,
}

/// One Ladon.
pub struct Deployment {
    control: Host,
    dir: PathBuf,
    programs: PathBuf,
    tunnel: Tunnel,
    pub server: Process,
    pub api: Api,
    pub nodes: Vec<NodeParts>,
    pub kube: Option<Process>,
}

/// The folder with `ladon` and `ladon-cni`: beside this program, or above it for a test.
pub fn programs() -> Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program")?;
    let found = here.ancestors().skip(1).find(|folder| folder.join("ladon").is_file() && folder.join("ladon-cni").is_file());
    found.map(Path::to_path_buf).context("`ladon` and `ladon-cni` are not built: run `cargo build --release --workspace`")
}

impl Deployment {
    /// Starts a server on `control`. Its API is a unix socket and 127.0.0.1:9696 there.
    pub fn start(lab: &Lab, control: &Host, tunnel: Tunnel) -> Result<Deployment> {
        let dir = lab.dir().join("ladon");
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let programs = programs()?;
        let pki = |args: &[&str]| {
            let mut command = control.command(&programs.join("ladon").to_string_lossy());
            command.args(["pki", "--dir"]).arg(dir.join("pki")).args(args);
            control.run(&mut command, READY)?.ok().context("making certificates")
        };
        pki(&["server"])?;
        let socket = dir.join("api.sock");
        let config = dir.join("server.toml");
        let (pki_dir, store) = (dir.join("pki"), dir.join("store.redb"));
        let text = format!(
            "[store]\npath = {store:?}\n\n[api]\nlisten = ['127.0.0.1:9696']\nsocket = {socket:?}\n\n[network]\ntunnel = '{}'\nmtu = {}\n\n\
             [views]\nlisten = '[::]:{VIEWS_PORT}'\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n",
            tunnel.kind,
            if tunnel.is_v6 { 1430 } else { 1450 },
            pki_dir.join("server.crt"),
            pki_dir.join("server.key"),
            pki_dir.join("ca.crt"),
        );
        fs::write(&config, text)?;
        let mut command = control.command(&programs.join("ladon").to_string_lossy());
        command.args(["server", "--config"]).arg(&config);
        let server = control.spawn("ladon-server", &command)?;
        let api = Api::new(control, socket);
        let deployment = Deployment { control: control.clone(), dir, programs, tunnel, server, api, nodes: Vec::new(), kube: None };
        deployment.wait_for_server()?;
        Ok(deployment)
    }

    /// Until the server answers.
    pub fn wait_for_server(&self) -> Result<()> {
        self.server.wait_until("the server's API", READY, || match self.api.get("/v2.0/networks") {
            Ok(_) => Ok(Some(())),
            Err(error) => Err(format!("{error:#}")),
        })?;
        Ok(())
    }

    /// Starts `ladon node` on `host`; with `worker`, it serves CNI there.
    pub fn add_node(&mut self, host: &Host, ovs: &Ovs, worker: Option<&Worker>) -> Result<()> {
        let name = host.name();
        let mut pki = host.command(&self.program());
        pki.args(["pki", "--dir"]).arg(self.dir.join("pki")).args(["node", name]);
        host.run(&mut pki, READY)?.ok().context("making the node's certificate")?;
        let state = host.folder("ladon")?;
        let run_dir = state.join("run");
        let config = state.join("node.toml");
        fs::write(&config, self.node_config(host, ovs, worker, &state, &run_dir))?;
        if let Some(worker) = worker {
            fs::create_dir_all(worker.cni_bin())?;
            fs::copy(self.programs.join("ladon-cni"), worker.cni_bin().join("ladon-cni")).context("installing ladon-cni")?;
        }
        let mut command = host.command(&self.program());
        command.args(["node", "--config"]).arg(&config);
        let process = host.spawn("ladon-node", &command)?;
        self.nodes.push(NodeParts { host: host.clone(), process, config, run_dir });
        Ok(())
    }

    fn node_config(&self, host: &Host, ovs: &Ovs, worker: Option<&Worker>, state: &Path, run_dir: &Path) -> String {
        let pki = self.dir.join("pki");
        let (server, address) = if self.tunnel.is_v6 {
            (format!("[{}]:{VIEWS_PORT}", self.control.ipv6()), host.ipv6().to_string())
        } else {
            (format!("{}:{VIEWS_PORT}", self.control.ipv4()), host.ipv4().to_string())
        };
        let cni = worker.map(|worker| format!("\n[cni]\nconfig_dir = {:?}\n", worker.cni_conf())).unwrap_or_default();
        format!(
            "host = '{name}'\nservers = ['{server}']\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\nstate_dir = {:?}\nrun_dir = {run_dir:?}\n\n\
             [ovs]\ndb_socket = {:?}\nrun_dir = {:?}\ndatapath = 'netdev'\n\n[tunnel]\ntype = '{}'\naddresses = ['{address}']\n{cni}",
            pki.join(format!("node-{}.crt", host.name())),
            pki.join(format!("node-{}.key", host.name())),
            pki.join("ca.crt"),
            state.join("state"),
            ovs.db_sock(),
            ovs.run_dir(),
            self.tunnel.kind,
            name = host.name(),
        )
    }

    /// Starts `ladon kube` beside the server, as a user that may do what `deploy/kubernetes/rbac.yaml` says.
    pub fn start_kube(&mut self, cluster: &Cluster) -> Result<()> {
        cluster.apply(RBAC).context("giving `ladon kube` its rights")?;
        let kubeconfig = cluster.kubeconfig(KUBE_USER, None)?;
        let config = self.dir.join("kube.toml");
        let control = &self.control;
        let text = format!(
            "cluster = 'demo'\nkubeconfig = {:?}\n\n[api]\nendpoint = 'http://127.0.0.1:9696'\n\n[lease]\nholder = 'control'\n\n\
             [[host]]\nname = '{}'\naddresses = ['{}', '{}']\n",
            kubeconfig,
            control.name(),
            control.ipv4(),
            control.ipv6(),
        );
        fs::write(&config, text)?;
        let mut command = control.command(&self.program());
        command.args(["kube", "--config"]).arg(&config);
        self.kube = Some(control.spawn("ladon-kube", &command)?);
        Ok(())
    }

    /// `ladon` itself.
    pub fn program(&self) -> String {
        self.programs.join("ladon").to_string_lossy().into_owned()
    }

    /// `ladon-cni` itself.
    pub fn plugin(&self) -> String {
        self.programs.join("ladon-cni").to_string_lossy().into_owned()
    }

    /// Where the server's configuration, store and certificates are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of the operator's commands on a node; its answer as JSON.
    pub fn ladon(&self, node: &NodeParts, args: &[&str]) -> Result<Value> {
        let said = self.ladon_text(node, args)?;
        serde_json::from_str(&said).with_context(|| said.clone())
    }

    /// The same as text: JSON, or a line of JSON for each of many rows.
    pub fn ladon_text(&self, node: &NodeParts, args: &[&str]) -> Result<String> {
        let mut command = node.host.command(&self.program());
        command.arg("--control").arg(node.run_dir.join("node.sock"));
        command.arg("--api").arg(format!("unix:{}", self.dir.join("api.sock").display()));
        command.args(["--output", "json"]).args(args);
        Ok(node.host.run(&mut command, Duration::from_secs(60))?.ok()?)
    }

    pub fn node(&self, name: &str) -> Option<&NodeParts> {
        self.nodes.iter().find(|node| node.host.name() == name)
    }

    /// Until the port is ACTIVE.
    pub fn wait_active(&self, port: &str) -> Result<()> {
        wait::until(&format!("port {port} to be ACTIVE"), READY, || match self.api.show("port", port) {
            Ok(port) if port["status"] == "ACTIVE" => Ok::<_, String>(Some(())),
            Ok(port) => Err(port.to_string()),
            Err(error) => Err(format!("{error:#}")),
        })
        .with_context(|| self.logs())
    }

    /// The last lines that every part wrote, for a failure.
    pub fn logs(&self) -> String {
        let parts = [&self.server].into_iter().chain(&self.kube).chain(self.nodes.iter().map(|node| &node.process));
        parts.map(|part| format!("--- {}\n{}\n", part.name(), part.log_tail(15))).collect()
    }
}
