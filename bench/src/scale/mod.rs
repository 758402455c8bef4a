//! What `make bench-scale` measures besides ports: services, groups, rules, DHCP and first packets beside OVN, and restarts under load.
//!
//! What is changed through Ladon's API counts until the server says that the node has acknowledged it; in OVN, until `hv_cfg` does.
//! Both are told after an OpenFlow barrier.

pub mod dhcp;
pub mod fleet;
pub mod groups;
pub mod hitless;
pub mod packets;
pub mod rules;
pub mod services;

use anyhow::{Result, ensure};

use crate::http::Client;

/// Why ten times less than OVN takes may not be reached for small changes.
pub const FIXED: &str = "a change is on the disk before it is answered, and goes to the node and back by TCP and TLS through the lab's userspace switches, which takes 3 to 4 ms \
                         whatever there is; OVN's databases do not wait for the disk, and are reached by unix sockets";

/// Until n1 has acknowledged all that was asked for so far.
pub fn acknowledged(client: &mut Client) -> Result<()> {
    let answer = client.show("/ladon/v1/wait?timeout=50&node=n1")?;
    ensure!(answer["is_in_force"] == true, "{answer}");
    Ok(())
}
