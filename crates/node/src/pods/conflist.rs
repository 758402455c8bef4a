//! The CNI configuration that tells the runtime to ask `ladon-cni`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agent::{InForce, describe};

/// The CNI configuration's file name: early in the order in which runtimes look.
const CONFLIST: &str = "05-ladon.conflist";

/// Writes the CNI configuration once the node can serve ADD, and again if somebody takes it away.
pub async fn announce(folder: PathBuf, run_dir: PathBuf, mut in_force: watch::Receiver<Arc<InForce>>) {
    if in_force.wait_for(|now| now.is_complete).await.is_err() {
        return;
    }
    let text = conflist(&run_dir.join("cni.sock"));
    let file = folder.join(CONFLIST);
    let mut look = tokio::time::interval(Duration::from_secs(10));
    loop {
        look.tick().await;
        if std::fs::read(&file).is_ok_and(|have| have == text.as_bytes()) {
            continue;
        }
        let written = std::fs::create_dir_all(&folder).and_then(|()| crate::record::replace(&file, text.as_bytes()));
        match written {
            Ok(()) => tracing::info!(file = %file.display(), "pods can start here"),
            Err(error) => {
                tracing::error!(file = %file.display(), error = describe(&error), "no pod can start here; make the folder writable")
            }
        }
    }
}

/// The configuration: what runtimes are known to take (containerd 1.6 refuses results of CNI 1.1.0) and what the plugin also knows.
fn conflist(socket: &Path) -> String {
    let plugin = serde_json::json!({ "type": "ladon-cni", "socket": socket });
    let list = serde_json::json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "ladon",
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}
