//! A client for Kubernetes, from a kubeconfig or from the service account of the pod that we run in.
//!
//! Kubeconfigs hold tokens and keys, and another file may be named by mistake: of what cannot be read only the line's number is told.

use std::path::Path;

use hyper::Uri;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::error::{Error, first_cause};

/// A client, and kube-apiserver's address.
pub async fn client(path: Option<&Path>) -> Result<(Client, String), Error> {
    let config = match path {
        Some(path) => read(path).await.map_err(|error| Error::Kubeconfig { path: path.into(), why: why(&error) })?,
        None => Config::incluster()?,
    };
    let address = address(&config.cluster_url);
    let client = Client::try_from(config).map_err(|error| Error::Client { why: first_cause(&error) })?;
    Ok((client, address))
}

/// For the log: without the user and the password that may be in it.
fn address(url: &Uri) -> String {
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}{}", url.scheme_str().unwrap_or("https"), url.path())
}

async fn read(path: &Path) -> Result<Config, KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

/// What is wrong, without anything that stands in the file where it cannot be read.
fn why(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => {
            let place = error.location().map_or("it".into(), |location| format!("line {}", location.line()));
            format!("{place} is not what a kubeconfig has there (and is not shown, as it may hold a secret)")
        }
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        KubeconfigError::ParseCertificates(_) => "the authority's certificate is no PEM".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}]\n\
                        contexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\nusers:\n- name: u\n  user:\n";

    /// What is said of a kubeconfig with this text.
    async fn said(name: &str, text: &str) -> String {
        let path = std::env::temp_dir().join(format!("ladon-kubeconfig-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let result = client(Some(&path)).await;
        std::fs::remove_file(&path).unwrap();
        let error = result.err().expect("it cannot be used");
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |&cause| cause.source());
        causes.map(|cause| format!("{cause}\n{cause:?}\n")).collect()
    }

    #[test]
    fn an_address_is_shown_without_who_comes() {
        assert_eq!(address(&Uri::from_static("https://user:SEKRIT@192.0.2.1:6443/a")), "https://192.0.2.1:6443/a");
        assert_eq!(address(&Uri::from_static("https://192.0.2.1:6443")), "https://192.0.2.1:6443/");
    }

    #[tokio::test]
    async fn nothing_that_stands_in_a_damaged_kubeconfig_is_shown() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let damaged = [
            ("indentation", format!("{GOOD}    token: SEKRIT\n   name: x\n"), "line "),
            ("quote", format!("{GOOD}    token: \"SEKRIT\n"), "line "),
            ("list", format!("{GOOD}    token: [SEKRIT]\n"), "line 9"),
            ("token", "SEKRIT".into(), "kubeconfig has there"),
            ("lines", "SEKRIT\nSEKRIT: SEKRIT\n".into(), "line "),
            ("server", GOOD.replace("https://192", "https:// SEKRIT@192"), "cluster url"),
        ];
        for (name, text, word) in &damaged {
            let said = said(name, text).await;
            let first = said.lines().next().unwrap();
            assert!(!said.contains("SEKRIT") && first.contains(word), "{name}: {said}");
            assert_eq!(first.split("; ").count(), 3, "what happened, what it means, what to do: {first}");
        }
        assert!(said("context", &GOOD.replace("current-context: c", "current-context: d")).await.contains("context"));
    }
}
