//! `ladon server`, `ladon node`, `ladon kube`: each part's configuration, and the part itself.

use std::path::Path;
use std::process::ExitCode;

use model::NodeName;

use crate::cli::{Daemon, RunNode};
use crate::daemon;
use crate::failure::{Failure, Result};
use crate::output;
use crate::reference::{self, Needed};
use crate::unread::told;

/// A part, and what it means for traffic that it does not start.
struct Part {
    name: &'static str,
    without_it: &'static str,
}

const SERVER: Part =
    Part { name: "server", without_it: "not affected; nodes keep forwarding with what they have, and this server changes nothing" };
const NODE: Part = Part { name: "node", without_it: "this machine's switch forwards as it did; nothing changes it until the node runs" };
const KUBE: Part =
    Part { name: "kube", without_it: "not affected; pods and Services that are new or change wait, unless another instance is active" };

/// Runs a part to its end. What ends it goes to standard error, with its reasons.
pub fn run(part: &Daemon) -> ExitCode {
    if let Daemon::Node(_) = part {
        allocate_sparingly();
    }
    let outcome = match part {
        Daemon::Server(run) => server_config(run.config.as_deref())
            .map(|config| daemon::run("server", &run.logging, async |stop| Ok(server::run(config, stop.cancelled_owned()).await?))),
        Daemon::Node(run) => node_config(run)
            .map(|config| daemon::run("node", &run.logging, async |stop| Ok(node::run(config, stop.cancelled_owned()).await?))),
        Daemon::Kube(run) => kube_config(run.config.as_deref())
            .map(|config| daemon::run("kube", &run.logging, async |stop| Ok(kube_bridge::run(config, stop.cancelled_owned()).await?))),
    };
    match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => output::tell(&format!("ladon: {}", stream::describe(error.as_ref()))),
        Err(failure) => output::tell(&failure.to_string()),
    }
    ExitCode::FAILURE
}

pub fn server_config(path: Option<&Path>) -> Result<server::Config> {
    read(&SERVER, path, |text| toml::from_str(text))
}

fn node_config(run: &RunNode) -> Result<node::Config> {
    let mut config: node::Config = read(&NODE, run.config.as_deref(), |text| toml::from_str(text))?;
    config.host = run.host.clone().map(NodeName).or(config.host);
    Ok(config)
}

fn kube_config(path: Option<&Path>) -> Result<kube_bridge::config::Config> {
    read(&KUBE, path, |text| toml::from_str(text))
}

/// Reads a part's configuration; without a file every key has its default, if it has one.
fn read<T>(part: &Part, path: Option<&Path>, parse: impl Fn(&str) -> std::result::Result<T, toml::de::Error>) -> Result<T> {
    let failure = |what: String, what_to_do: &str| Failure::new(what, part.without_it, what_to_do);
    let text = path.map_or(Ok(String::new()), std::fs::read_to_string).map_err(|error| {
        failure(format!("{} cannot be read: {error}", naming(path)), "name a file with --config that is there and can be read")
    })?;
    parse(&text).map_err(|error| {
        let needed = if error.message().starts_with("missing field") { reference::missing(part.name, &text) } else { Vec::new() };
        if needed.is_empty() {
            let what = format!("{} cannot be used: {}", naming(path), told(&text, &error));
            return failure(what, "correct it; `ladon config-reference` says what may be there");
        }
        let names: Vec<String> = needed.iter().map(|key| format!("`{}`", key.name)).collect();
        let (what, what_to_do) = match path {
            Some(_) => (format!("{} lacks {}", naming(path), names.join(", ")), "add to it, with values that are yours:"),
            None => (
                format!("no file is named with --config, and `ladon {}` has no default for {}", part.name, names.join(", ")),
                "name a file with --config in which there is, with values that are yours:",
            ),
        };
        Failure { example: needed.iter().flat_map(Needed::lines).collect(), ..failure(what, what_to_do) }
    })
}

/// A node's work is one task's, which moves from thread to thread: an arena per thread would keep its peaks several times over. What
/// is large and short-lived, such as the view on its way to the disk, has pages of its own, however often there was something like it.
fn allocate_sparingly() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, mallopt};
        for (parameter, value) in [(M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 128 << 10)] {
            // SAFETY: mallopt(3) only sets a parameter of the allocator, and no other thread runs yet.
            #[allow(unsafe_code)]
            let _ = unsafe { mallopt(parameter, value) };
        }
    }
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
        let node = node_config(&RunNode { config: Some(node.path().into()), logging, host: None }).unwrap();
        assert!(node.cni.is_some() && node.check().is_ok());
        kube_config(Some(kube.path())).unwrap();
    }
    #[test]
    fn who_leaves_out_what_is_needed_is_told_all_of_it_with_examples() {
        let node = |text: &str| read(&NODE, Some(Path::new("/node.toml")), |_| toml::from_str::<node::Config>(text)).map(drop);
        let none = read(&NODE, None, |text| toml::from_str::<node::Config>(text)).unwrap_err();
        assert!(none.to_string().starts_with(
            "ladon: no file is named with --config, and `ladon node` has no default for `servers`, `certificate`, `key`, `authority`, \
             `tunnel.addresses`\n  traffic: this machine's switch"
        ));
        // What is told is a configuration.
        assert_eq!(toml::from_str::<node::Config>(&none.example.join("\n")).unwrap().check(), Ok(()));
        let some = "servers = ['192.0.2.1:9697']\ncertificate = 'c'\nkey = 'k'\n[tunnel]\naddresses = ['192.0.2.11']";
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(some.as_bytes()).unwrap();
        let failure = read(&NODE, Some(file.path()), |text| toml::from_str::<node::Config>(text)).unwrap_err();
        assert_eq!(failure.what_happened, format!("the configuration {} lacks `authority`", file.path().display()));
        assert_eq!(failure.example.last().unwrap(), "authority = \"/etc/ladon/ca.crt\"");
        let absent = node("").unwrap_err().what_happened;
        assert!(absent.starts_with("the configuration /node.toml cannot be read: No such file"), "{absent}");
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"[network]\nmtu = 'much'\n").unwrap();
        let what = server_config(Some(file.path())).unwrap_err().what_happened;
        assert!(what.contains("cannot be used: line 2, `network.mtu`: invalid type: string, expected u16"), "{what}");
    }
}
