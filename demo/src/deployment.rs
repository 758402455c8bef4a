//! The server, or several on one etcd, nodes and `ladon kube`, each with its configuration file, as processes on the lab's hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::etcd::Etcd;
use lab::kubernetes::{Cluster, Worker};
use lab::{Host, Lab, Ovs, Process, wait};
use serde_json::Value;

use crate::api::Api;

/// Longest time that a part may take until it serves.
const READY: Duration = Duration::from_secs(120);
/// Where the first server's API is. Each further server's ports are [`NEXT_SERVER`] above.
const API_PORT: u16 = 9696;
/// Where nodes reach the first server.
const VIEWS_PORT: u16 = 9697;
const NEXT_SERVER: u16 = 10;

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

/// One `ladon server`.
pub struct ServerParts {
    pub process: Process,
    pub api: Api,
}

impl ServerParts {
    /// Until it answers.
    pub fn wait_until_it_serves(&self) -> Result<()> {
        serves(&self.process, &self.api)
    }
}

fn serves(server: &Process, api: &Api) -> Result<()> {
    server.wait_until("the server's API", READY, || match api.get("/v2.0/networks") {
        Ok(_) => Ok(Some(())),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(())
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
    /// Further servers on the same store.
    pub others: Vec<ServerParts>,
    pub nodes: Vec<NodeParts>,
    pub kube: Option<Process>,
}

/// The folder with `ladon` and `ladon-cni`: beside this program, or above it for a test.
pub fn programs() -> Result<PathBuf> {
    let here = std::env::current_exe().context("finding this program")?;
    let found = here.ancestors().skip(1).find(|folder| folder.join("ladon").is_file() && folder.join("ladon-cni").is_file());
    found
        .map(Path::to_path_buf)
        .context("`ladon` and `ladon-cni` are not built beside this program: run `make build`, or `make dist` for target/dist")
}

impl Deployment {
    /// Starts a server on `control`, with its store in a file. Its API is a unix socket and 127.0.0.1:9696 there.
    pub fn start(lab: &Lab, control: &Host, tunnel: Tunnel) -> Result<Deployment> {
        let file = format!("path = {:?}", lab.dir().join("ladon/store.redb"));
        Deployment::start_servers(lab, control, tunnel, &file, 1)
    }

    /// Starts `count` servers on `control` that share `etcd`, which runs there, too.
    pub fn start_on_etcd(lab: &Lab, control: &Host, tunnel: Tunnel, etcd: &Etcd, count: u16) -> Result<Deployment> {
        let mut store = format!("etcd.endpoints = {:?}", etcd.endpoints());
        if let Some([ca, certificate, key]) = etcd.client() {
            store += &format!("\netcd.ca = {ca:?}\netcd.certificate = {certificate:?}\netcd.key = {key:?}");
        }
        Deployment::start_servers(lab, control, tunnel, &store, count)
    }

    fn start_servers(lab: &Lab, control: &Host, tunnel: Tunnel, store: &str, count: u16) -> Result<Deployment> {
        let dir = lab.dir().join("ladon");
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let programs = programs()?;
        let pki = |args: &[&str]| {
            let mut command = control.command(&programs.join("ladon").to_string_lossy());
            command.args(["pki", "--dir"]).arg(dir.join("pki")).args(args);
            control.run(&mut command, READY)?.ok().context("making certificates")
        };
        pki(&["server"])?;
        let mut others = Vec::new();
        for number in 0..count {
            others.push(start_server(control, &dir, &programs, tunnel, store, number)?);
        }
        let ServerParts { process: server, api } = others.remove(0);
        let (control, nodes) = (control.clone(), Vec::new());
        let deployment = Deployment { control, dir, programs, tunnel, server, api, others, nodes, kube: None };
        deployment.wait_for_server()?;
        Ok(deployment)
    }

    /// Until every server answers.
    pub fn wait_for_server(&self) -> Result<()> {
        serves(&self.server, &self.api)?;
        self.others.iter().try_for_each(ServerParts::wait_until_it_serves)
    }

    /// Every server's process and API, the first one's first.
    pub fn servers(&self) -> Vec<(&Process, &Api)> {
        let others = self.others.iter().map(|server| (&server.process, &server.api));
        std::iter::once((&self.server, &self.api)).chain(others).collect()
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
            (format!("[{}]", self.control.ipv6()), host.ipv6().to_string())
        } else {
            (self.control.ipv4().to_string(), host.ipv4().to_string())
        };
        let count = self.others.len() as u16 + 1;
        let servers: Vec<String> = (0..count).map(|number| format!("{server}:{}", VIEWS_PORT + number * NEXT_SERVER)).collect();
        let cni = worker.map(|worker| format!("\n[cni]\nconfig_dir = {:?}\n", worker.cni_conf())).unwrap_or_default();
        format!(
            "host = '{name}'\nservers = {servers:?}\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\nstate_dir = {:?}\nrun_dir = {run_dir:?}\n\n\
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
        let sockets = (0..=self.others.len()).map(|number| format!("unix:{}", socket(&self.dir, number as u16).display()));
        command.arg("--api").arg(sockets.collect::<Vec<_>>().join(","));
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

    /// Until a server is followed by every node.
    pub fn wait_connected(&self) -> Result<()> {
        wait::until("every node to be connected", READY, || {
            let all = self.ladon(&self.nodes[0], &["nodes"]).map_err(|error| format!("{error:#}"))?;
            let good = all["nodes"].as_array().into_iter().flatten().filter(|node| node["is_connected"] == true).count();
            if good == self.nodes.len() { Ok(Some(())) } else { Err(all.to_string()) }
        })
        .with_context(|| self.logs())
    }

    /// The last lines that every part wrote, for a failure.
    pub fn logs(&self) -> String {
        let servers = self.servers().into_iter().map(|(process, _)| process);
        let parts = servers.chain(&self.kube).chain(self.nodes.iter().map(|node| &node.process));
        parts.map(|part| format!("--- {}\n{}\n", part.name(), part.log_tail(15))).collect()
    }
}

/// The socket of a server's API.
fn socket(dir: &Path, number: u16) -> PathBuf {
    dir.join(if number == 0 { "api.sock".into() } else { format!("api-{number}.sock") })
}

/// Starts server `number` on `control`, with `store` as the section of that name.
fn start_server(control: &Host, dir: &Path, programs: &Path, tunnel: Tunnel, store: &str, number: u16) -> Result<ServerParts> {
    let name = if number == 0 { String::new() } else { format!("-{number}") };
    let (socket, config, pki) = (socket(dir, number), dir.join(format!("server{name}.toml")), dir.join("pki"));
    let (api, views) = (API_PORT + number * NEXT_SERVER, VIEWS_PORT + number * NEXT_SERVER);
    let text = format!(
        "[store]\n{store}\n\n[api]\nlisten = ['127.0.0.1:{api}']\nsocket = {socket:?}\n\n[network]\ntunnel = '{}'\nmtu = {}\n\n\
         [views]\nlisten = '[::]:{views}'\ncertificate = {:?}\nkey = {:?}\nca = {:?}\n",
        tunnel.kind,
        if tunnel.is_v6 { 1430 } else { 1450 },
        pki.join("server.crt"),
        pki.join("server.key"),
        pki.join("ca.crt"),
    );
    fs::write(&config, text)?;
    let mut command = control.command(&programs.join("ladon").to_string_lossy());
    command.args(["server", "--config"]).arg(&config);
    let process = control.spawn(&format!("ladon-server{name}"), &command)?;
    Ok(ServerParts { process, api: Api::new(control, socket) })
}
