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
    use model::PortId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers every question with `has`, and tells its command and the zones that it names.
    async fn vswitchd(listener: UnixListener, has: String, asked: mpsc::UnboundedSender<(String, Vec<u16>)>) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let question: serde_json::Value = loop {
                stream.read_buf(&mut bytes).await.unwrap();
                if let Ok(question) = serde_json::from_slice(&bytes) {
                    break question;
                }
            };
            let arguments = question["params"].as_array().unwrap().iter().filter_map(|argument| argument.as_str()?.strip_prefix("zone="));
            let named = arguments.flat_map(|zones| zones.split(',')).filter_map(|zone| zone.parse().ok()).collect();
            asked.send((question["method"].as_str().unwrap().into(), named)).unwrap();
            let answer = serde_json::json!({"id": 0, "result": has, "error": null}).to_string();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    /// The commands by which zones that have the limits `has` get what they should, and the zones in each.
    async fn commands(zones: &Zones, has: String) -> Vec<(String, Vec<u16>)> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ctl");
        let (asked, mut commands) = mpsc::unbounded_channel();
        let answering = tokio::spawn(vswitchd(UnixListener::bind(&socket).unwrap(), has, asked));
        bring(&Unixctl::new(Some(socket), folder.path(), true), zones, 100).await.unwrap();
        answering.abort();
        std::iter::from_fn(|| commands.try_recv().ok()).filter(|(command, _)| command != "dpctl/ct-get-limits").collect()
    }

    #[tokio::test]
    async fn a_command_names_so_many_zones_and_all_are_named() {
        let mut zones = Zones::default();
        let ports = (0..ZONES_MAX as u128 * 2 / 3).map(|n| PortId(uuid::Uuid::from_u128(n)));
        for port in ports.clone() {
            zones.take(port).expect("there are zones");
        }
        let all: Vec<u16> = zones.in_use().collect();
        assert!(all.len() > ZONES_MAX);
        let set = commands(&zones, String::new()).await;
        ports.for_each(|port| zones.free(port));
        let limited: String = all.iter().map(|zone| format!("zone={zone},limit=100,count=0\n")).collect();
        let deleted = commands(&zones, limited).await;
        for (commands, command) in [(set, "dpctl/ct-set-limits"), (deleted, "dpctl/ct-del-limits")] {
            let sizes: Vec<usize> = commands.iter().map(|(_, named)| named.len()).collect();
            assert_eq!(sizes, [ZONES_MAX, all.len() - ZONES_MAX], "{command}");
            assert!(commands.iter().all(|(name, _)| name == command));
            assert_eq!(commands.into_iter().flat_map(|(_, named)| named).collect::<BTreeSet<_>>(), all.iter().copied().collect());
        }
    }

    #[test]
    fn limits_are_read_as_open_vswitch_prints_them() {
        let text = "default limit=0\nzone=2,limit=5,count=5\nzone=65535,limit=100,count=0\nzone=x,limit=1\n";
        assert_eq!(limits(text), BTreeMap::from([(2, 5), (65_535, 100)]));
    }
}
