//! How many connections a port may have the switch remember: one port must not use up the room of all others.
//!
//! The datapath limits a zone when it is told to (`dpctl/ct-set-limits`, ovs-vswitchd(8)), and each port has zones of its own. A
//! new connection beyond the limit is not remembered: in the kernel's datapath its packets are dropped, in the userspace one the
//! answers to them; connections that are remembered go on. Open vSwitch keeps no such limit over a restart and has no table for it
//! before 3.4, so that what is and what should be are compared every few seconds.
//!
//! Other bridges may share the datapath, and others may limit their zones: only zones that this node has given to a port are looked at.
//!
//! Deliberately not used: the default for all other zones, which the userspace datapath of Open vSwitch 3.1 counts as one for all
//! of them together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stream::describe;
use tokio::sync::{mpsc, oneshot};

use super::{Unixctl, UnixctlError};
use crate::agent::Ask;
use crate::zones::Zones;

/// How often the limits are compared with what they should be.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// Zones that are named in one command.
const ZONES_MAX: usize = 256;

/// Keeps the zones of the ports that live here at `limit` connections, until the agent ends. Zero: no limit; those that were set
/// before are taken away once.
pub async fn keep_limits(unixctl: Unixctl, limit: u32, asks: mpsc::Sender<Ask>) {
    let mut look = tokio::time::interval(COMPARE_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_told = false;
    loop {
        look.tick().await;
        let (answer, answered) = oneshot::channel();
        if asks.send(Ask::Zones(answer)).await.is_err() {
            return;
        }
        let Ok(zones) = answered.await else { return };
        let failed = bring(&unixctl, &zones, limit).await.err();
        // Open vSwitch may be away, or its datapath not there yet, and comes again; one that cannot do it stays so.
        if let Some(error) = failed.as_ref().filter(|_| !is_told) {
            let error = describe(error);
            match limit {
                0 => tracing::warn!(
                    error,
                    "the limits of connections that were set before are there still: beyond them new connections fail"
                ),
                _ => tracing::warn!(error, "connections are not limited per port for now: one port may use up the room of others"),
            }
        }
        is_told = failed.is_some();
        if limit == 0 && !is_told {
            return asks.closed().await;
        }
    }
}

async fn bring(unixctl: &Unixctl, zones: &Zones, limit: u32) -> Result<(), UnixctlError> {
    let (limited, free): (BTreeSet<u16>, BTreeSet<u16>) = match limit {
        0 => (BTreeSet::new(), zones.in_use().chain(zones.idle()).collect()),
        _ => (zones.in_use().collect(), zones.idle().collect()),
    };
    if limited.is_empty() && free.is_empty() {
        return Ok(());
    }
    let datapath = unixctl.datapath();
    let have = limits(&unixctl.call("dpctl/ct-get-limits", &[datapath]).await?);
    let missing: Vec<u16> = limited.iter().filter(|zone| have.get(zone) != Some(&limit)).copied().collect();
    for some in missing.chunks(ZONES_MAX) {
        let words: Vec<String> = some.iter().map(|zone| format!("zone={zone},limit={limit}")).collect();
        let arguments: Vec<&str> = std::iter::once(datapath).chain(words.iter().map(String::as_str)).collect();
        unixctl.call("dpctl/ct-set-limits", &arguments).await?;
    }
    // A zone that waits for its next port needs none.
    let needless: Vec<String> = have.keys().filter(|zone| free.contains(zone)).map(u16::to_string).collect();
    for some in needless.chunks(ZONES_MAX) {
        unixctl.call("dpctl/ct-del-limits", &[datapath, &format!("zone={}", some.join(","))]).await?;
    }
    Ok(())
}

/// The zones' limits, out of lines such as `zone=5,limit=100,count=3`.
fn limits(text: &str) -> BTreeMap<u16, u32> {
    let limit = |line: &str| {
        let (zone, rest) = line.strip_prefix("zone=")?.split_once(",limit=")?;
        Some((zone.parse().ok()?, rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_open_vswitch_prints_them() {
        let text = "default limit=0\nzone=2,limit=5,count=5\nzone=65535,limit=100,count=0\nzone=x,limit=1\n";
        assert_eq!(limits(text), BTreeMap::from([(2, 5), (65_535, 100)]));
    }
}
