//! The CNI configuration that tells the runtime to ask `ladon-cni`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stream::describe;
use tokio::sync::watch;

use crate::agent::InForce;

/// The CNI configuration's file name: early in the order in which runtimes look.
const CONFLIST: &str = "05-ladon.conflist";
/// Container runtimes need not be root.
const MODE: u32 = 0o644;
/// How often it is looked whether the file is still there.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Writes the CNI configuration once the node can serve ADD, and again if somebody takes it away.
pub async fn announce(folder: PathBuf, run_dir: PathBuf, mut in_force: watch::Receiver<Arc<InForce>>) {
    if in_force.wait_for(|now| now.is_complete).await.is_err() {
        return;
    }
    let text = conflist(&run_dir.join("cni.sock"));
    let file = folder.join(CONFLIST);
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        if std::fs::read(&file).is_ok_and(|have| have == text.as_bytes()) {
            continue;
        }
        let write = || std::fs::create_dir_all(&folder).and_then(|()| crate::record::replace(&file, text.as_bytes(), MODE));
        let written = crate::record::aside(write);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for the file to be there.
    async fn written(file: &Path) -> serde_json::Value {
        let read = async {
            loop {
                if let Ok(text) = std::fs::read_to_string(file) {
                    return serde_json::from_str(&text).expect("a file is there as a whole or not at all");
                }
                tokio::time::advance(Duration::from_secs(1)).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the file is written")
    }

    #[tokio::test(start_paused = true)]
    async fn runtimes_are_told_of_the_plugin_once_the_node_can_serve_it_and_again_when_the_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("net.d").join(CONFLIST);
        let (sender, in_force) = watch::channel(Arc::new(InForce::default()));
        let task = tokio::spawn(announce(folder.path().join("net.d"), "/run/ladon".into(), in_force));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!file.exists(), "the view is not complete");
        sender.send_replace(Arc::new(InForce { is_complete: true, ..InForce::default() }));
        let list = written(&file).await;
        assert_eq!((&list["cniVersion"], &list["plugins"][0]["socket"]), (&"1.0.0".into(), &"/run/ladon/cni.sock".into()));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(written(&file).await, list);
        task.abort();
    }
}
