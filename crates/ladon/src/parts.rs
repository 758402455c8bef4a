//! `ladon server`, `ladon node`, `ladon kube`: each part's configuration, and the part itself.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use model::NodeName;

use crate::cli::{Daemon, RunNode};
use crate::daemon::{self, read_config};
use crate::output;

/// Runs a part to its end. What ends it goes to standard error, with its reasons.
pub fn run(part: &Daemon) -> ExitCode {
    let outcome = match part {
        Daemon::Server(run) => server_config(run.config.as_deref())
            .and_then(|config| daemon::run("server", &run.logging, async |stop| Ok(server::run(config, stop.cancelled_owned()).await?))),
        Daemon::Node(wanted) => node_config(wanted)
            .and_then(|config| daemon::run("node", &wanted.run.logging, async |stop| Ok(node::run(config, stop.cancelled_owned()).await?))),
        Daemon::Kube(run) => kube_config(run.config.as_deref())
            .and_then(|config| daemon::run("kube", &run.logging, async |stop| Ok(kube_bridge::run(config, stop.cancelled_owned()).await?))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell(&format!("ladon: {}", stream::describe(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

pub fn server_config(path: Option<&Path>) -> anyhow::Result<server::Config> {
    toml::from_str(&read_config(path)?).with_context(|| naming(path))
}

fn node_config(wanted: &RunNode) -> anyhow::Result<node::Config> {
    let path = wanted.run.config.as_deref();
    let mut config: node::Config = toml::from_str(&read_config(path)?).with_context(|| naming(path))?;
    config.host = wanted.host.clone().map(NodeName).or(config.host);
    Ok(config)
}

fn kube_config(path: Option<&Path>) -> anyhow::Result<kube_bridge::config::Config> {
    kube_bridge::config::Config::from_toml(&read_config(path)?).with_context(|| naming(path))
}

/// Which configuration an error is about.
fn naming(path: Option<&Path>) -> String {
    path.map_or("the default configuration".to_string(), |path| format!("the configuration {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const README: &str = include_str!("../../../README.md");

    /// The README's TOML blocks, without the indentation of the list that they stand in.
    fn examples() -> Vec<String> {
        let plain = |block: &str| block.lines().map(|line| format!("{}\n", line.trim_start())).collect();
        README.split("```toml\n").skip(1).map(|rest| plain(rest.split("```").next().unwrap_or_default())).collect()
    }

    #[test]
    fn the_configurations_in_the_readme_are_taken() {
        let files: Vec<tempfile::NamedTempFile> = examples()
            .iter()
            .map(|text| {
                let mut file = tempfile::NamedTempFile::new().unwrap();
                file.write_all(text.as_bytes()).unwrap();
                file
            })
            .collect();
        let [server, node, kube] = &files[..] else { panic!("one each for server, node and kube, in this order") };
        server_config(Some(server.path())).unwrap().check().unwrap();
        let logging = daemon::Logging { log_format: daemon::LogFormat::Text };
        let node = RunNode { run: crate::cli::Run { config: Some(node.path().into()), logging }, host: None };
        assert!(node_config(&node).unwrap().cni.is_some());
        kube_config(Some(kube.path())).unwrap();
    }
}
