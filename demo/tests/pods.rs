//! A real Kubernetes with two workers, `ladon kube` and `ladon-cni`: pods get addresses, reach each other, Services answer.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use demo::{Deployment, Tunnel};
use lab::kubernetes::{self, AGNHOST, Cluster};
use lab::traffic::{http_get, ping};
use lab::{Lab, Ovs, Progress, Underlay};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);
const PODS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: IMAGE
        imagePullPolicy: Never
        args: [netexec, --http-port=8080]
        readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.7.7
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
"#;

#[test]
fn pods_of_two_nodes_reach_each_other_and_a_service() -> Result<()> {
    let progress = Progress::quiet();
    let programs = kubernetes::programs(None, &progress)?;
    let images = kubernetes::images(&programs, None)?;
    let lab = Lab::scratch()?;
    let underlay = Underlay::new(&lab)?;
    let hosts = [underlay.host("control", 1)?, underlay.host("n1", 11)?, underlay.host("n2", 12)?];
    let ovs: Vec<Ovs> = hosts.iter().map(Ovs::start).collect::<Result<_, _>>()?;
    let cluster = Cluster::start(&hosts[0], &hosts[1..], &programs, &images)?;
    let mut ladon = Deployment::start(&lab, &hosts[0], Tunnel::default())?;
    ladon.add_node(&hosts[0], &ovs[0], None)?;
    for (host, ovs) in hosts.iter().zip(&ovs).skip(1) {
        ladon.add_node(host, ovs, cluster.worker(host.name()))?;
    }
    ladon.start_kube(&cluster)?;
    if let Err(error) = try_pods(&cluster, &hosts[0]) {
        lab.keep_logs();
        let events = cluster.kubectl(&["get", "events,pods,nodes", "-A", "-o", "wide"]).unwrap_or_default();
        return Err(error.context(format!("{}\n{events}", ladon.logs())));
    }
    Ok(())
}

fn try_pods(cluster: &Cluster, control: &lab::Host) -> Result<()> {
    cluster.wait_nodes_ready()?;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    cluster.wait_for("the default account", account, DEADLINE, |_| true)?;
    cluster.apply(&PODS.replace("IMAGE", AGNHOST))?;
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    cluster.wait_for("two pods to be ready", path, DEADLINE, |web| web["status"]["readyReplicas"] == 2)?;
    let pods = cluster.api().get("/api/v1/namespaces/default/pods")?.json();
    let pods = pods["items"].as_array().context("a list of pods")?;
    let addresses = |pod: &serde_json::Value| -> Vec<IpAddr> {
        let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
        all.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect()
    };
    let name = |pod: &serde_json::Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_string();
    let node = |pod: &serde_json::Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_string();
    let first = cluster.worker(&node(&pods[0])).context("a worker")?.pod_netns("default", &name(&pods[0]))?;
    let targets = addresses(&pods[1]);
    assert_eq!(targets.len(), 2, "{targets:?}");
    for target in targets {
        ping(&first, target, 2, Duration::from_millis(50))?;
        let report = ping(&first, target, 10, Duration::from_millis(10))?;
        assert_eq!(report.lost, 0, "{target}: {report:?}");
    }
    let patience = Duration::from_secs(20);
    for from in [&first, control.netns()] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let page = http_get(from, "10.96.7.7:80".parse()?, "/hostname", patience)?;
            seen.insert(page.text().to_string());
        }
        assert_eq!(seen.len(), 2, "both answer: {seen:?}");
    }
    let api = http_get(&first, "10.96.0.1:443".parse()?, "/", patience)?;
    assert!(api.is_answered(), "a pod reaches the API server: {api:?}");
    Ok(())
}
