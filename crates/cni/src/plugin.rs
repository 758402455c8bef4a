//! The commands: what the runtime asks for, done in order, undone on failure.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::daemon::{ADD_DEADLINE, Attachment, Client, PodName, Prepared, Reply, Request};
use crate::environment::{Command, Environment};
use crate::error::code;
use crate::interface::{self, Namespace, Pair, host_ifname};
use crate::result::{AddResult, add_result};
use crate::{Error, Result, Version, log};

/// What the process leaves behind.
pub struct Outcome {
    /// One JSON document, or nothing.
    pub stdout: String,
    pub exit_code: u8,
}

/// Answers to VERSION.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VersionResult {
    cni_version: String,
    supported_versions: [&'static str; Version::ALL.len()],
}

/// Runs the command that the environment names with the configuration in `stdin`.
pub fn run(environment: &Environment, stdin: &[u8]) -> Outcome {
    let started = Instant::now();
    let command = match environment.command() {
        Ok(command) => command,
        Err(error) => return failure(&error, &version_of(stdin)),
    };
    if command == Command::Version {
        return version(stdin);
    }
    let config = match Config::parse(stdin) {
        Ok(config) => config,
        Err(error) => return failure(&error, &version_of(stdin)),
    };
    let done = serve(command, environment, &config);
    if let Some(path) = &config.log_file {
        write_log(path, command, environment, &done, started);
    }
    match done {
        Ok(stdout) => Outcome { stdout, exit_code: 0 },
        Err(error) => failure(&error, &answer_version(&config.cni_version)),
    }
}

fn serve(command: Command, environment: &Environment, config: &Config) -> Result<String> {
    let version = config.validate()?;
    let is_known = match command {
        Command::Check => version.has_check(),
        Command::Gc | Command::Status => version.has_gc_and_status(),
        Command::Add | Command::Del | Command::Version => true,
    };
    if !is_known {
        return Err(Error::CommandTooNew { command: command.as_str(), version });
    }
    let nothing = |()| String::new();
    match command {
        Command::Add => add(environment, config, version).map(|result| json(&result)),
        Command::Del => del(environment, config).map(nothing),
        Command::Check => check(environment, config).map(nothing),
        Command::Gc => gc(config).map(nothing),
        Command::Status => status(config).map(nothing),
        Command::Version => unreachable!("VERSION is answered before a configuration is needed"),
    }
}

fn add(environment: &Environment, config: &Config, version: Version) -> Result<AddResult> {
    let attachment = environment.attachment()?;
    let path = environment.netns()?;
    let pod = environment.pod()?;
    if config.prev_result.is_some() {
        return Err(Error::InvalidConfig("has a prevResult, but ladon-cni makes the interface and comes first in its list".into()));
    }
    let namespace = Namespace::open(&path)?;
    let until = Instant::now() + ADD_DEADLINE;
    let mut node = Client::connect(&config.socket)?;
    let prepared = prepare(&mut node, &attachment, config, &path, &pod, until)?;
    let alias = format!("{}/{} {}", pod.pod_namespace, pod.pod_name, attachment.ifname);
    let pair = Pair::create(&attachment, &prepared, &namespace, &alias)?;
    let host_mac = pair.host_mac;
    match attach(&mut node, &attachment, &prepared, &pair, until) {
        Ok(()) => pair.keep(),
        Err(error) => {
            drop(pair);
            // The error that led here is the one to report; the runtime's DEL tries again.
            let _ = detach(&config.socket, &attachment);
            return Err(error);
        }
    }
    Ok(add_result(version, &prepared, host_mac, &attachment.ifname, &path.display().to_string()))
}

/// Waits until the node knows the pod's port.
fn prepare(node: &mut Client, attachment: &Attachment, config: &Config, netns: &Path, pod: &PodName, until: Instant) -> Result<Prepared> {
    let deadline = until.saturating_duration_since(Instant::now());
    let request = Request::Prepare {
        attachment: attachment.clone(),
        network: config.name.clone(),
        netns: netns.display().to_string(),
        pod: pod.clone(),
        deadline_ms: milliseconds(deadline),
    };
    match node.ask(&request)? {
        Reply::Prepared(prepared) if prepared.host_ifname == host_ifname(attachment) => Ok(prepared),
        other => Err(confused(&other)),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// While the node writes the port's flows, the pod's end gets its addresses.
fn attach(node: &mut Client, attachment: &Attachment, prepared: &Prepared, pair: &Pair<'_>, until: Instant) -> Result<()> {
    let left = || until.saturating_duration_since(Instant::now());
    node.send(&Request::Attach {
        attachment: attachment.clone(),
        host_ifname: prepared.host_ifname.clone(),
        deadline_ms: milliseconds(left()),
    })?;
    pair.configure()?;
    match node.receive(left())? {
        Reply::Attached => Ok(()),
        other => Err(confused(&other)),
    }
}

/// Takes the interface away, whatever is left of it. Without a node the plugin removes the link, and the node finds the rest when it
/// is back.
fn del(environment: &Environment, config: &Config) -> Result<()> {
    let attachment = environment.attachment()?;
    let detached = match detach(&config.socket, &attachment) {
        Err(Error::NodeSilent { .. }) => Ok(()),
        other => other,
    };
    interface::remove(&host_ifname(&attachment))?;
    detached
}

fn detach(socket: &Path, attachment: &Attachment) -> Result<()> {
    match Client::connect(socket)?.ask(&Request::Detach { attachment: attachment.clone() })? {
        Reply::Detached => Ok(()),
        other => Err(confused(&other)),
    }
}

fn check(environment: &Environment, config: &Config) -> Result<()> {
    let attachment = environment.attachment()?;
    let path = environment.netns()?;
    let previous = config.prev_result.as_ref().ok_or_else(|| Error::InvalidConfig("has no prevResult, which CHECK needs".into()))?;
    interface::check(&attachment, previous, &Namespace::open(&path)?)?;
    match Client::connect(&config.socket)?.ask(&Request::Check { attachment })? {
        Reply::Checked => Ok(()),
        other => Err(confused(&other)),
    }
}

fn gc(config: &Config) -> Result<()> {
    let valid_attachments = config.valid_attachments()?.to_vec();
    let request = Request::Gc { network: config.name.clone(), valid_attachments };
    match Client::connect(&config.socket)?.ask(&request)? {
        Reply::Collected { removed } => removed.iter().try_for_each(|name| interface::remove(name)),
        other => Err(confused(&other)),
    }
}

fn status(config: &Config) -> Result<()> {
    let answer = Client::connect(&config.socket).and_then(|mut node| node.ask(&Request::Status));
    match answer {
        Ok(Reply::Ready) => Ok(()),
        Ok(other) => Err(confused(&other)),
        // Flows outlive the node's process, so pods that run are not limited: 50 and not 51.
        Err(error @ Error::NodeSilent { .. }) => {
            Err(Error::Node { code: code::NOT_AVAILABLE, msg: error.to_string(), details: error.details() })
        }
        Err(error) => Err(error),
    }
}

fn confused(reply: &Reply) -> Error {
    Error::NodeConfused(json(reply))
}

fn version(stdin: &[u8]) -> Outcome {
    let asked = if stdin.trim_ascii().is_empty() { Ok(Config::default()) } else { Config::parse(stdin) };
    match asked {
        Ok(config) => {
            let supported_versions = Version::ALL.map(Version::as_str);
            Outcome { stdout: json(&VersionResult { cni_version: answer_version(&config.cni_version), supported_versions }), exit_code: 0 }
        }
        Err(error) => failure(&error, Version::FALLBACK.as_str()),
    }
}

fn failure(error: &Error, cni_version: &str) -> Outcome {
    Outcome { stdout: json(&error.document(cni_version)), exit_code: 1 }
}

/// The version of an answer: the question's, if it has one that we speak.
fn answer_version(asked: &str) -> String {
    asked.parse().unwrap_or(Version::FALLBACK).to_string()
}

/// The version that a configuration names, even when the rest of it cannot be used.
fn version_of(stdin: &[u8]) -> String {
    let config: Option<Value> = serde_json::from_slice(stdin).ok();
    answer_version(config.as_ref().and_then(|config| config["cniVersion"].as_str()).unwrap_or_default())
}

fn write_log(path: &Path, command: Command, environment: &Environment, done: &Result<String>, started: Instant) {
    let who = environment.attachment().map(|attachment| format!(" {} {}", attachment.container, attachment.ifname)).unwrap_or_default();
    let how = match done {
        Ok(_) => "done".to_string(),
        Err(error) => format!("failed with code {}: {error} ({})", error.code(), error.details()),
    };
    log::append(path, &format!("{}{who} {how} after {} ms", command.as_str(), started.elapsed().as_millis()));
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("answers are plain data")
}
