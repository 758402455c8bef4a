//! What is plugged into the bridge, remembered so that it can be plugged in again.
//!
//! Taps of virtual machines are plugged in by Nova or libvirt, veth pairs by the plugin for pods: once, when the machine or pod
//! starts. Whoever deletes the bridge (by hand, or `ovs-ctl` with `--delete-bridges`) takes their rows along, and nobody would
//! bring them back before the next start. So this task keeps a list of the interfaces with an `iface-id`, as their rows say it,
//! and writes them into the bridge that was made anew: one whose own interface is another row than before.
//!
//! An interface that is unplugged while the bridge is there was meant to be, and is forgotten. One whose device is gone is not
//! brought back, and nothing after a reboot: devices and bridge are then made by whoever starts the machines and pods.
//!
//! Deliberately not here: the bridge and the tunnel ([`crate::bridge`]) and the machine's own interfaces ([`crate::host`]),
//! whose rows follow from the view.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cni::netlink::Netlink;
use futures::StreamExt;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use stream::describe;

use crate::bridge::{BridgeError, Interface, Interfaces, Link, PortSpec};
use crate::host;
use crate::record::{Record, RecordError};

/// How long Open vSwitch is waited for between two tries.
const RETRY: Duration = Duration::from_millis(500);
/// How long the disk is waited for between two tries to keep what is plugged in.
const SAVE_RETRY: Duration = Duration::from_secs(10);
/// Interfaces that are plugged in at once.
const AT_ONCE: usize = 64;
/// Where Linux says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// An interface as its row says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Plugged {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, String>,
    external_ids: BTreeMap<String, String>,
}

/// What is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Memory {
    /// The boot of which it speaks.
    boot: String,
    /// The bridge of which it speaks: the row of its own interface.
    bridge: String,
    plugged: BTreeMap<String, Plugged>,
}

/// The task's state.
pub struct Keeper {
    link: Link,
    bridge: String,
    record: Record,
    memory: Memory,
    /// The record says the same.
    is_kept: bool,
}

impl Keeper {
    /// A task that remembers what `state_dir` holds, unless it is of an earlier boot.
    pub fn new(link: Link, bridge: &str, state_dir: &Path) -> Result<Keeper, RecordError> {
        let record = Record::new(state_dir, "plugged.json")?;
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        let memory = record.load::<Memory>()?.of_boot(boot);
        Ok(Keeper { link, bridge: bridge.to_owned(), record, memory, is_kept: true })
    }

    /// Runs until the link ends.
    pub async fn run(mut self) {
        let mut interfaces = self.link.interfaces();
        loop {
            let now = interfaces.borrow_and_update().clone().unwrap_or_default();
            match self.memory.step(&self.bridge, &now) {
                Step::Nothing => {}
                Step::Remember(memory) => (self.memory, self.is_kept) = (memory, false),
                Step::Restore { bridge, lost } => {
                    if let Err(error) = self.restore(lost).await {
                        tracing::warn!(error = describe(&error), "not everything is plugged into the new bridge yet; tried again");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                    // What is on the new bridge is seen, and kept, when the link next tells of it.
                    (self.memory.bridge, self.is_kept) = (bridge, false);
                }
            }
            self.keep();
            tokio::select! {
                changed = interfaces.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(SAVE_RETRY), if !self.is_kept => {}
            }
        }
    }

    fn keep(&mut self) {
        if self.is_kept {
            return;
        }
        match self.record.save(&self.memory) {
            Ok(()) => self.is_kept = true,
            Err(error) => tracing::error!(
                error = describe(&error),
                "what is plugged in cannot be kept and is tried again; if the bridge is deleted while the node is down, machines and pods stay unplugged"
            ),
        }
    }

    /// Plugs `lost` into the bridge again, as far as their devices are there.
    async fn restore(&self, mut lost: BTreeMap<String, Plugged>) -> Result<(), BridgeError> {
        let devices: Vec<String> = lost.iter().filter(|(_, one)| one.kind.is_empty()).map(|(name, _)| name.clone()).collect();
        match tokio::task::spawn_blocking(move || without_device(devices)).await {
            Ok(Ok(gone)) => lost.retain(|name, _| !gone.contains(name)),
            Ok(Err(error)) => tracing::warn!(error = describe(&error), "the machine's devices cannot be listed; all are plugged in again"),
            Err(error) => tracing::warn!(%error, "the machine's devices cannot be listed; all are plugged in again"),
        }
        if lost.is_empty() {
            return Ok(());
        }
        tracing::warn!(interfaces = lost.len(), "the bridge was made anew: what was plugged into the old one is plugged in again");
        let plug = |(name, one): (String, Plugged)| async move {
            match self.link.ensure_port(one.spec(&self.bridge, &name)).await {
                // The row is there; the device may have gone meanwhile.
                Ok(_) | Err(BridgeError::PortRefused { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        let mut done = futures::stream::iter(lost.into_iter().map(plug)).buffer_unordered(AT_ONCE);
        let mut outcome = Ok(());
        while let Some(one) = done.next().await {
            outcome = outcome.and(one);
        }
        outcome
    }
}

/// What there is to do.
#[derive(PartialEq, Eq, Debug)]
enum Step {
    Nothing,
    Remember(Memory),
    Restore { bridge: String, lost: BTreeMap<String, Plugged> },
}

impl Memory {
    fn of_boot(self, boot: String) -> Memory {
        if self.boot == boot { self } else { Memory { boot, ..Memory::default() } }
    }

    fn step(&self, bridge: &str, now: &Interfaces) -> Step {
        // Without its own interface the bridge is not there, and nothing can be said about what is plugged into it.
        let Some(own) = now.get(bridge) else { return Step::Nothing };
        let row = own.uuid.to_string();
        let plugged: BTreeMap<String, Plugged> = now.values().filter_map(Plugged::of).collect();
        if self.bridge != row && !self.bridge.is_empty() {
            let lost = self.plugged.iter().filter(|(name, _)| !now.contains_key(*name));
            return Step::Restore { bridge: row, lost: lost.map(|(name, one)| (name.clone(), one.clone())).collect() };
        }
        let memory = Memory { boot: self.boot.clone(), bridge: row, plugged };
        if memory == *self { Step::Nothing } else { Step::Remember(memory) }
    }
}

impl Plugged {
    /// The interface's name and row, if it is somebody's that others plugged in.
    fn of(interface: &Interface) -> Option<(String, Plugged)> {
        let is_others = interface.iface_id.is_some() && !host::is_own(interface);
        let Interface { name, kind, options, external_ids, .. } = interface.clone();
        is_others.then_some((name, Plugged { kind, options, external_ids }))
    }

    fn spec(self, bridge: &str, name: &str) -> PortSpec {
        PortSpec { options: self.options, external_ids: self.external_ids, ..PortSpec::new(bridge, name, &self.kind) }
    }
}

/// Those of `names` that are no devices of this machine.
fn without_device(names: Vec<String>) -> Result<Vec<String>, Errno> {
    let netlink = Netlink::open()?;
    let mut gone = Vec::new();
    for name in names {
        if netlink.link(&name)?.is_none() {
            gone.push(name);
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::bridge::tests::by_hand::ByHand;

    const BRIDGE: &str = "br-int";

    fn interface(name: &str, uuid: u128, ids: &[(&str, &str)]) -> (String, Interface) {
        let external_ids: BTreeMap<String, String> = ids.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let interface = Interface {
            name: name.into(),
            uuid: ovsdb::Uuid::from_u128(uuid),
            kind: String::new(),
            ofport: None,
            error: None,
            iface_id: external_ids.get("iface-id").cloned(),
            mac_in_use: None,
            options: BTreeMap::new(),
            external_ids,
        };
        (name.into(), interface)
    }

    fn remembered(memory: &Memory, now: &Interfaces) -> Memory {
        match memory.step(BRIDGE, now) {
            Step::Remember(memory) => memory,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_others_plugged_in_is_remembered_as_its_row_says_it_and_forgotten_when_it_is_unplugged() {
        let own = [("iface-id", "p2"), ("ladon-host", "true")];
        let all = [interface(BRIDGE, 1, &[]), interface("tap1", 2, &[("iface-id", "p1"), ("vm-uuid", "v")]), interface("ladon0", 3, &own)];
        let memory = remembered(&Memory::default(), &Interfaces::from_iter(all.clone()));
        assert_eq!(memory.plugged.keys().collect::<Vec<_>>(), ["tap1"]);
        assert_eq!(memory.plugged["tap1"].external_ids["vm-uuid"], "v");
        assert_eq!(memory.step(BRIDGE, &Interfaces::from_iter(all.clone())), Step::Nothing);
        let [bridge, _, own] = all;
        assert!(remembered(&memory, &Interfaces::from_iter([bridge, own])).plugged.is_empty());
    }

    #[test]
    fn a_bridge_that_was_made_anew_gets_what_it_lacks() {
        let id = [("iface-id", "p")];
        let before = Interfaces::from_iter([interface(BRIDGE, 1, &[]), interface("tap1", 2, &id), interface("tap2", 3, &id)]);
        let memory = remembered(&Memory::default(), &before);
        assert_eq!(memory.step(BRIDGE, &Interfaces::new()), Step::Nothing, "no bridge is no empty bridge");
        let Step::Restore { lost, .. } =
            memory.step(BRIDGE, &Interfaces::from_iter([interface(BRIDGE, 4, &[]), interface("tap2", 5, &id)]))
        else {
            panic!("nothing is restored");
        };
        assert_eq!(lost.keys().collect::<Vec<_>>(), ["tap1"]);
    }

    /// A task whose bridge was made anew while so many interfaces were plugged in that need no device, and who answers it.
    fn bereft(dir: &Path, interfaces: usize) -> (Keeper, ByHand) {
        let (link, by_hand) = Link::by_hand();
        let keeper = Keeper::new(link, BRIDGE, dir).unwrap();
        let patch = Plugged { kind: "patch".into(), options: BTreeMap::new(), external_ids: BTreeMap::new() };
        let plugged = (0..interfaces).map(|n| (format!("patch{n}"), patch.clone())).collect();
        let memory = Memory { bridge: ovsdb::Uuid::from_u128(1).to_string(), plugged, ..keeper.memory.clone() };
        by_hand.interfaces.send_replace(Some(Arc::new(Interfaces::from_iter([interface(BRIDGE, 2, &[])]))));
        (Keeper { memory, ..keeper }, by_hand)
    }

    #[tokio::test]
    async fn so_many_interfaces_are_plugged_in_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, mut by_hand) = bereft(dir.path(), AT_ONCE + 2);
        tokio::spawn(keeper.run());
        let mut under_way = Vec::new();
        for _ in 0..AT_ONCE {
            under_way.push(by_hand.next().await);
        }
        for _ in 0..2 {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert!(by_hand.try_next().is_none(), "it waits");
            under_way.remove(0).grant();
            under_way.push(by_hand.next().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_plugged_in_is_tried_again_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, mut by_hand) = bereft(dir.path(), 1);
        tokio::spawn(keeper.run());
        let mut tries = Vec::new();
        for _ in 0..3 {
            by_hand.next().await.refuse();
            tries.push(Instant::now());
        }
        let pauses: Vec<Duration> = tries.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.iter().all(|pause| pause.as_millis() == RETRY.as_millis()), "{pauses:?}");
        by_hand.next().await.grant();
        tokio::time::sleep(RETRY * 10).await;
        assert!(by_hand.try_next().is_none(), "it is done");
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_kept_is_kept_when_the_disk_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let link = Link::start(crate::bridge::Settings::new(dir.path().join("no.sock")));
        let keeper = Keeper { is_kept: false, ..Keeper::new(link, BRIDGE, &state).unwrap() };
        std::fs::remove_dir(&state).unwrap();
        tokio::spawn(keeper.run());
        tokio::time::sleep(SAVE_RETRY / 2).await;
        std::fs::create_dir(&state).unwrap();
        assert!(!state.join("plugged.json").exists());
        tokio::time::sleep(SAVE_RETRY).await;
        assert!(state.join("plugged.json").exists());
    }

    #[test]
    fn nothing_is_plugged_in_again_after_a_reboot() {
        let before = Interfaces::from_iter([interface(BRIDGE, 1, &[]), interface("tap1", 2, &[("iface-id", "p")])]);
        let memory = remembered(&Memory::default().of_boot("one".into()), &before);
        assert_eq!(memory.clone().of_boot("one".into()), memory);
        assert!(memory.of_boot("two".into()).plugged.is_empty());
    }
}
