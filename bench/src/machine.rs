//! Machines at the local ports of both systems: where one is, and the device that stands for one where frames are enough.

use std::net::Ipv4Addr;

use anyhow::Result;
use lab::Netns;

/// A machine: where it is, its device on the node, and its port.
pub struct Machine {
    pub netns: Netns,
    pub device: String,
    pub mac: String,
    pub ip: Ipv4Addr,
}

/// A port's device and MAC.
pub type Device = (String, [u8; 6]);

/// The bytes of a MAC.
pub fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text} is no MAC"))
}
