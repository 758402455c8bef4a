//! A real kube-apiserver on Debian's etcd, on loopback, shared by all tests of the binary. A shell holds both and ends them, and
//! removes their folder, when this process is gone.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const SCRIPT: &str = r#"
cd "$DIR"
openssl genrsa -out sa.key 2048 2>/dev/null && openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
echo 'admin-token,admin,admin,"system:masters"' >tokens.csv
etcd --data-dir etcd --listen-client-urls "http://127.0.0.1:$ETCD" --advertise-client-urls "http://127.0.0.1:$ETCD" \
  --listen-peer-urls "http://127.0.0.1:$PEER" --unsafe-no-fsync </dev/null >etcd.log 2>&1 &
etcd=$!
"$APISERVER" --etcd-servers "http://127.0.0.1:$ETCD" --bind-address 127.0.0.1 --advertise-address 192.0.2.1 --secure-port "$PORT" \
  --cert-dir certs --token-auth-file tokens.csv --authorization-mode RBAC --allow-privileged --profiling=false \
  --service-cluster-ip-range 10.96.0.0/16,fd00:96::/112 --service-account-issuer https://kubernetes.default.svc \
  --service-account-key-file sa.pub --service-account-signing-key-file sa.key \
  --disable-admission-plugins ServiceAccount </dev/null >apiserver.log 2>&1 &
api=$!
cat >/dev/null
kill -9 $api $etcd
wait
rm -rf "$DIR"
"#;

/// The cluster; the supervisor's standard input closes with this process.
struct Kubernetes {
    kubeconfig: PathBuf,
    _supervisor: Child,
}

fn program() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"))).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([cache.join("ladon/kubernetes")]);
    let found = folders.map(|folder| folder.join("kube-apiserver")).find(|path| path.exists());
    found.expect("kube-apiserver on the PATH or in the cache (make demo builds it)")
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// The kubeconfig of an administrator, once the API server is ready.
pub fn kubeconfig() -> &'static Path {
    static SHARED: OnceLock<Kubernetes> = OnceLock::new();
    &SHARED.get_or_init(start).kubeconfig
}

fn start() -> Kubernetes {
    let folder = std::env::temp_dir().join(format!("ladon-kube-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [etcd, peer, port] = free_ports();
    let supervisor = Command::new("sh")
        .args(["-c", SCRIPT])
        .env("DIR", &folder)
        .env("APISERVER", program())
        .envs([("ETCD", etcd.to_string()), ("PEER", peer.to_string()), ("PORT", port.to_string())])
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    let kubeconfig = folder.join("admin.conf");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: t, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: t, user: {{token: admin-token}}}}]\ncontexts: [{{name: t, context: {{cluster: t, user: t}}}}]\ncurrent-context: t\n"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    wait_until_ready(port, &folder);
    Kubernetes { kubeconfig, _supervisor: supervisor }
}

fn wait_until_ready(port: u16, folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let url = format!("https://127.0.0.1:{port}/readyz");
    loop {
        let ready = Command::new("curl").args(["-ksf", "-H", "Authorization: Bearer admin-token", &url]).output().expect("curl");
        if ready.status.success() {
            return;
        }
        let log = std::fs::read_to_string(folder.join("apiserver.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "kube-apiserver is not ready: {}", &log[log.len().saturating_sub(3000)..]);
        std::thread::sleep(Duration::from_millis(100));
    }
}
