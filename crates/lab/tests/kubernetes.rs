//! A control plane and a worker come up, the node registers, a pod runs; then all of it goes away.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::kubernetes::{self, AGNHOST, Cluster};
use lab::{Lab, Progress, Underlay, traffic};

const DEADLINE: Duration = Duration::from_secs(180);

/// Debian's plainest plugin, standing for a network: this test is about the lab.
const CONFLIST: &str = r#"{"cniVersion": "1.0.0", "name": "plain", "plugins": [{"type": "bridge", "bridge": "cni0",
  "isGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.99.0.0/24"}]]}}]}"#;

/// Files, sockets and control groups outside the lab that belong to containers.
fn traces(ids: &[String]) -> Vec<String> {
    let mut find = Command::new("find");
    find.args(["/run", "/sys/fs/cgroup", "/var/lib/cni", "/var/log/containers", "/var/lib/kubelet", "-maxdepth", "4"]);
    let found = String::from_utf8(find.output().unwrap().stdout).unwrap();
    found.lines().filter(|path| ids.iter().any(|id| path.contains(id.as_str()))).map(str::to_owned).collect()
}

#[test]
fn a_cluster_comes_up_runs_a_pod_and_leaves_nothing() {
    let progress = Progress::quiet();
    let programs = kubernetes::programs(None, &progress).unwrap();
    let images = kubernetes::images(&programs, None).unwrap();
    let lab = Lab::scratch().unwrap();
    let dir = lab.dir().to_owned();
    let underlay = Underlay::new(&lab).unwrap();
    let (control, n1) = (underlay.host("control", 1).unwrap(), underlay.host("n1", 11).unwrap());

    let started = Instant::now();
    let cluster = Cluster::start(&control, &[n1], &programs, &images).unwrap();
    cluster.wait_registered().unwrap();
    eprintln!("up in {:.1} s", started.elapsed().as_secs_f32());
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"]).unwrap();
    assert_eq!(nodes.trim(), "node/n1");
    let addresses = cluster.api().get("/api/v1/nodes/n1").unwrap().json()["status"]["addresses"].to_string();
    assert!(addresses.contains("192.0.2.11") && addresses.contains("2001:db8::11"), "{addresses}");

    let worker = cluster.worker("n1").unwrap();
    for plugin in ["bridge", "host-local"] {
        fs::copy(format!("/usr/lib/cni/{plugin}"), worker.cni_bin().join(plugin)).unwrap();
    }
    fs::write(worker.cni_conf().join("10-plain.conflist"), CONFLIST.replace("DIR", &dir.to_string_lossy())).unwrap();
    cluster.wait_nodes_ready().unwrap();
    cluster.wait_for("the default account", "/api/v1/namespaces/default/serviceaccounts/default", DEADLINE, |_| true).unwrap();
    cluster.kubectl(&["run", "web", "--image", AGNHOST, "--image-pull-policy=Never", "--", "netexec"]).unwrap();
    let is_running = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0]["ready"] == true;
    let pod = cluster.wait_for("the pod to run", "/api/v1/namespaces/default/pods/web", DEADLINE, is_running).unwrap();
    let address = format!("{}:8080", pod["status"]["podIP"].as_str().unwrap()).parse().unwrap();
    let page = || traffic::http_get(worker.host().netns(), address, "/hostname", Duration::from_secs(5));
    lab::wait::until("the pod to serve", DEADLINE, || Ok::<_, lab::LabError>((page()?.text() == "web").then_some(()))).unwrap();
    let inside = worker.pod_netns("default", "web").unwrap();
    let is_reached = || traffic::is_reachable(&inside, "10.99.0.1".parse().unwrap()).map(|is| is.then_some(()));
    lab::wait::until("the pod to reach its gateway", DEADLINE, is_reached).unwrap();
    assert!(cluster.kubectl(&["exec", "web", "--", "nc", "-h"]).is_ok());
    cluster.deploy_dns().unwrap();
    let is_running = |deployment: &serde_json::Value| deployment["status"]["replicas"] == 1;
    cluster.wait_for("DNS", "/apis/apps/v1/namespaces/kube-system/deployments/coredns", DEADLINE, is_running).unwrap();
    let user = cluster.kubeconfig("somebody", None).unwrap();
    assert!(cluster.kubectl(&["--kubeconfig", &user.to_string_lossy(), "get", "pods"]).is_err(), "RBAC binds nobody yet");

    let bundles = fs::read_dir(dir.join("n1/run/io.containerd.runtime.v2.task/k8s.io")).unwrap().flatten();
    let ids: Vec<String> = bundles.map(|bundle| bundle.file_name().into_string().unwrap()).collect();
    assert!(ids.len() >= 2 && !traces(&ids).is_empty(), "{ids:?}");
    lab.down().unwrap();
    assert!(!dir.exists());
    assert_eq!(traces(&ids), Vec::<String>::new());
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(&dir.display().to_string()));
}
