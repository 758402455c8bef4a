//! The processes of the control plane and what they are told.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use crate::error::{LabError, Result};
use crate::kubernetes::cluster::{Cluster, PORT};
use crate::kubernetes::pki::{Authority, service_account_keys};

impl Cluster {
    pub(super) fn start_store_and_api(&mut self) -> Result<()> {
        let pki = self.dir.join("pki");
        let authority = Authority::open(&pki, "ca")?;
        authority.server("apiserver", &self.server_names()?)?;
        Authority::open(&pki, "front-proxy-ca")?.client("front-proxy", "front-proxy-client", None)?;
        service_account_keys(&pki)?;
        self.spawn("etcd", Command::new("etcd").args(self.etcd_args()))?;
        let args = self.apiserver_args();
        self.spawn("kube-apiserver", Command::new(self.programs.path("kube-apiserver")?).args(args))
    }

    /// The API server's certificate names its own address and the first of the Service range.
    fn server_names(&self) -> Result<Vec<String>> {
        let first = |range: &str| -> Result<String> {
            let network = range.split('/').next().unwrap_or_default();
            let address: IpAddr = network.parse().map_err(|_| LabError::Unfit(format!("{range} is no Service range")))?;
            Ok(match address {
                IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
                IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
            }
            .to_string())
        };
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];
        let addresses = [self.host.ipv4().to_string(), self.host.ipv6().to_string(), "127.0.0.1".into()];
        let services = [first(&self.options.services_v4)?, first(&self.options.services_v6)?];
        Ok(names.map(String::from).into_iter().chain(addresses).chain(services).collect())
    }

    fn etcd_args(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.dir.join("etcd").display()),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            // The lab's data need not survive the machine.
            "--unsafe-no-fsync".into(),
        ]
    }

    fn apiserver_args(&self) -> Vec<String> {
        let pki = |name: &str| self.dir.join("pki").join(name).display().to_string();
        let mut args = vec![
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--bind-address={}", self.host.ipv4()),
            format!("--advertise-address={}", self.host.ipv4()),
            format!("--secure-port={PORT}"),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--cert-dir={}", pki("")),
            format!("--client-ca-file={}", pki("ca.crt")),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged".into(),
            format!("--service-cluster-ip-range={},{}", self.options.services_v4, self.options.services_v6),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            format!("--requestheader-client-ca-file={}", pki("front-proxy-ca.crt")),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            format!("--proxy-client-cert-file={}", pki("front-proxy.crt")),
            format!("--proxy-client-key-file={}", pki("front-proxy.key")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--profiling=false".into(),
        ];
        args.extend(self.options.apiserver_args.clone());
        args
    }

    pub(super) fn start_controllers(&mut self) -> Result<()> {
        let manager = self.kubeconfig("system:kube-controller-manager", None)?;
        let scheduler = self.kubeconfig("system:kube-scheduler", None)?;
        let args = [self.common_args(&manager), self.manager_args()].concat();
        self.spawn("kube-controller-manager", Command::new(self.programs.path("kube-controller-manager")?).args(args))?;
        let args = self.common_args(&scheduler);
        self.spawn("kube-scheduler", Command::new(self.programs.path("kube-scheduler")?).args(args))
    }

    fn common_args(&self, kubeconfig: &Path) -> Vec<String> {
        let config = kubeconfig.display();
        vec![
            format!("--kubeconfig={config}"),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ]
    }

    fn manager_args(&self) -> Vec<String> {
        let pki = |name: &str| self.dir.join("pki").join(name).display().to_string();
        vec![
            "--use-service-account-credentials".into(),
            format!("--service-account-private-key-file={}", pki("sa.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            "--allocate-node-cidrs=false".into(),
        ]
    }
}
