//! The program `fleet`: many nodes in one process, on the host of the servers that they follow.

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use demo::Deployment;
use lab::{Host, Process};
use serde_json::json;

/// Where the first server's nodes are served; each further server's ports are [`NEXT_SERVER`] above.
const VIEWS_PORT: u16 = 9697;
pub const NEXT_SERVER: u16 = 10;

/// Starts the nodes with these numbers: number N is named nN, and its tunnels end at 100.64.0.1 + N. One in `sample_every` computes
/// its flows; 0: none does. The process is asked at the socket `name`.sock in the deployment's folder.
pub fn start(host: &Host, ladon: &Deployment, name: &str, numbers: Range<u32>, sample_every: u32) -> Result<Process> {
    let servers: Vec<String> = (0..=ladon.others.len() as u16).map(|n| format!("127.0.0.1:{}", VIEWS_PORT + n * NEXT_SERVER)).collect();
    let text = json!({
        "first": numbers.start, "count": numbers.len(), "servers": servers, "authority": ladon.dir().join("pki"),
        "sample_every": sample_every, "socket": ladon.dir().join(format!("{name}.sock")),
    });
    let config = ladon.dir().join(format!("{name}.json"));
    fs::write(&config, text.to_string())?;
    let mut command = host.command(&PathBuf::from(ladon.program()).with_file_name("fleet").to_string_lossy());
    command.arg(&config);
    Ok(host.spawn(name, &command)?)
}
