//! Clears away what no DEL told the node of.
//!
//! A DEL that comes while the node is down takes the link away and cannot tell anybody else; a runtime without GC never comes
//! back to it. So entries whose link is gone are forgotten together with their ports on the bridge, and ports that this server
//! made, that no entry names and whose link is gone are removed: a port is left alone as long as something is plugged into it,
//! even if the state folder was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cni::daemon::ADD_DEADLINE;
use cni::netlink::Netlink;
use nix::errno::Errno;

use super::{Added, CONTAINER, Pods, describe};
use crate::bridge::Interfaces;

/// How often this is looked at, after the first time.
const EVERY: Duration = Duration::from_secs(60);
/// An interface may be without its link for so long after it was prepared: the plugin makes it in this time or gives up.
const GRACE: Duration = Duration::from_secs(ADD_DEADLINE.as_secs() + 30);

impl Pods {
    /// Clears away at the start, once the bridge's interfaces are known, and every minute.
    pub async fn keep_clean(self) {
        let mut interfaces = self.bridge.interfaces();
        if interfaces.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut look = tokio::time::interval(EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.sweep().await;
        }
    }

    async fn sweep(&self) {
        // The bridge first: every port on it that is being added has an entry by then.
        let interfaces = self.bridge.interfaces().borrow().clone().unwrap_or_default();
        let added = self.added.lock().await.clone();
        let named: BTreeSet<String> =
            made_here(&interfaces).chain(added.values().map(|one| one.host_ifname.as_str())).map(str::to_string).collect();
        let gone = match tokio::task::spawn_blocking(move || without_link(named)).await {
            Ok(Ok(gone)) => gone,
            Ok(Err(error)) => return tracing::warn!(error = describe(&error), "left-over interfaces of pods are not looked for now"),
            Err(_) => return,
        };
        for (key, one) in stale(&added, &gone, Instant::now()) {
            self.drop_entry(key, one).await;
        }
        for interface in orphans(&interfaces, &added, &gone) {
            self.drop_port(interface).await;
        }
    }

    /// Forgets an entry with its port, unless somebody changed it meanwhile.
    async fn drop_entry(&self, key: &str, seen: &Added) {
        let _turn = self.turns.take(&seen.host_ifname).await;
        if self.added.lock().await.get(key) != Some(seen) {
            return;
        }
        match self.unplug(key, &seen.host_ifname).await {
            Ok(()) => tracing::info!(interface = seen.host_ifname, "cleared away the interface of a pod that was deleted meanwhile"),
            Err(reply) => {
                tracing::warn!(interface = seen.host_ifname, ?reply, "the interface of a deleted pod stays on the bridge for now")
            }
        }
    }

    /// Removes a port, unless somebody added it meanwhile.
    async fn drop_port(&self, interface: &str) {
        let _turn = self.turns.take(interface).await;
        if self.added.lock().await.values().any(|one| one.host_ifname == interface) {
            return;
        }
        match self.bridge.remove_port(&self.bridge_name, interface).await {
            Ok(()) => tracing::info!(interface, "removed a port that belongs to no pod any more"),
            Err(error) => tracing::warn!(interface, error = describe(&error), "a port that belongs to no pod any more stays for now"),
        }
    }
}

/// Those of `names` that are no links of this machine.
fn without_link(names: BTreeSet<String>) -> Result<BTreeSet<String>, Errno> {
    let netlink = Netlink::open()?;
    let mut gone = BTreeSet::new();
    for name in names {
        if netlink.link(&name)?.is_none() {
            gone.insert(name);
        }
    }
    Ok(gone)
}

/// The ports on the bridge that this server made.
fn made_here(interfaces: &Interfaces) -> impl Iterator<Item = &str> {
    interfaces.values().filter(|interface| interface.external_ids.contains_key(CONTAINER)).map(|interface| interface.name.as_str())
}

/// Entries whose link is gone, and not just about to be made.
fn stale<'a>(added: &'a BTreeMap<String, Added>, gone: &BTreeSet<String>, now: Instant) -> Vec<(&'a String, &'a Added)> {
    let is_settled = |one: &Added| one.since.is_none_or(|since| now.saturating_duration_since(since) > GRACE);
    added.iter().filter(|(_, one)| gone.contains(&one.host_ifname) && is_settled(one)).collect()
}

/// Ports that no entry names and that nothing is plugged into.
fn orphans<'a>(interfaces: &'a Interfaces, added: &BTreeMap<String, Added>, gone: &BTreeSet<String>) -> Vec<&'a str> {
    let is_named = |name: &str| added.values().any(|one| one.host_ifname == name);
    made_here(interfaces).filter(|name| gone.contains(*name) && !is_named(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::Interface;
    use model::PortId;

    fn added(host_ifname: &str, since: Option<Instant>) -> Added {
        Added { network: "ladon".into(), port: PortId(uuid::Uuid::nil()), host_ifname: host_ifname.into(), since }
    }

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(ToString::to_string).collect()
    }

    fn interface(name: &str, ids: &[(&str, &str)]) -> (String, Interface) {
        let interface = Interface {
            name: name.into(),
            uuid: ovsdb::Uuid::default(),
            kind: String::new(),
            ofport: None,
            error: None,
            iface_id: None,
            mac_in_use: None,
            options: BTreeMap::new(),
            external_ids: ids.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        };
        (name.into(), interface)
    }

    #[test]
    fn an_entry_without_a_link_goes_unless_its_pod_is_being_added() {
        let now = Instant::now();
        let all = BTreeMap::from([
            ("before/eth0".to_string(), added("lad1", None)),
            ("alive/eth0".to_string(), added("lad2", None)),
            ("new/eth0".to_string(), added("lad3", Some(now))),
            ("given-up/eth0".to_string(), added("lad4", now.checked_sub(GRACE * 2))),
        ]);
        let later = now + Duration::from_secs(1);
        let found: Vec<&str> = stale(&all, &names(&["lad1", "lad3", "lad4"]), later).into_iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(found, ["before/eth0", "given-up/eth0"]);
    }

    #[test]
    fn only_dead_ports_of_pods_that_nobody_names_are_removed() {
        let ids = [(CONTAINER, "c1")];
        let all = [interface("lad1", &ids), interface("lad2", &ids), interface("lad3", &ids), interface("tap4", &[])];
        let interfaces: Interfaces = all.into_iter().collect();
        let all = BTreeMap::from([("c2/eth0".to_string(), added("lad2", None))]);
        assert_eq!(orphans(&interfaces, &all, &names(&["lad1", "lad2", "tap4"])), ["lad1"], "lad3 has its link still");
    }

    #[test]
    fn a_link_that_is_not_there_is_told_from_one_that_is() {
        assert_eq!(without_link(names(&["lo", "lad-nobody"])).unwrap(), names(&["lad-nobody"]));
    }
}
