//! Numbers that packets can carry, each handed out once.
//!
//! The next number of each kind is in one record. A number is never used again, with one exception: a network's number is
//! its VNI, of which there are 2^24 − 1; after the last, the lowest that no network has is used.

use model::{GroupKey, ListenerKey, NetworkKey, PortKey, RouterKey, VNI_MAX};
use serde::{Deserialize, Serialize};

use crate::state::State;
use crate::writer::{Tx, WriteError};

/// The name of the record.
pub(crate) const RECORD: &str = "keys";

/// The numbers that were handed out last.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LastKeys {
    network: u32,
    port: u32,
    router: u32,
    group: u32,
    listener: u32,
}

fn next(last: &mut u32, kind: &'static str) -> Result<u32, WriteError> {
    *last = last.checked_add(1).ok_or(WriteError::KeysExhausted { kind })?;
    Ok(*last)
}

fn next_network(last: &mut u32, state: &State) -> Result<u32, WriteError> {
    if *last < VNI_MAX {
        *last += 1;
        return Ok(*last);
    }
    lowest_free(state).ok_or(WriteError::KeysExhausted { kind: "network" })
}

fn lowest_free(state: &State) -> Option<u32> {
    (1..=VNI_MAX).find(|key| state.network_by_key(NetworkKey(*key)).is_none())
}

impl Tx<'_> {
    /// A number for a network: also its VNI.
    pub fn network_key(&mut self) -> Result<NetworkKey, WriteError> {
        let (keys, state) = self.keys_and_state();
        next_network(&mut keys.network, state).map(NetworkKey)
    }

    pub fn port_key(&mut self) -> Result<PortKey, WriteError> {
        next(&mut self.keys_and_state().0.port, "port").map(PortKey)
    }

    pub fn router_key(&mut self) -> Result<RouterKey, WriteError> {
        next(&mut self.keys_and_state().0.router, "router").map(RouterKey)
    }

    pub fn group_key(&mut self) -> Result<GroupKey, WriteError> {
        next(&mut self.keys_and_state().0.group, "security group").map(GroupKey)
    }

    pub fn listener_key(&mut self) -> Result<ListenerKey, WriteError> {
        next(&mut self.keys_and_state().0.listener, "listener").map(ListenerKey)
    }
}
