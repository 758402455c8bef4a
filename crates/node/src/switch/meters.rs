//! How many packets a second flows may hand to the node: meters, so that a flood ends in the datapath.
//!
//! The node limits what it answers (`respond::limit`), but a packet that it turns away has already taken its place in the queues
//! of ovs-vswitchd, where the DHCP questions of others wait behind it. So the switch drops what is too much before it is handed
//! over. What a port asks for itself (DHCP, DHCPv6, router solicitations) has a meter by the port's key; what the pipeline turns
//! away in flows that all ports share has a meter by the reason.
//!
//! The meters are always the same, and are there before the first flow. Ports share them by a number of keys: two ports of one
//! node have the same meter once in [`PORT_METERS`] times, and then only share its rate.
//!
//! A switch may have fewer meters, or none (Linux before 4.18; bridges that share a datapath share its meters). Their numbers are
//! Open vSwitch's own business, only how many there are is the datapath's. Open vSwitch takes a flow that names a meter that is not
//! there and hands its packets over without a limit. It looks for a flow's meter when the flow is written, and never again:
//! [`are_named`] says which flows have to be written anew after their meters.

use std::collections::HashMap;

use openflow::{Action, Controller, ErrorMessage, InstalledFlow, Message, Meter, MeterCommand, MeterMod};
use pipeline::Punt;

/// Meters for ports' own questions.
pub const PORT_METERS: u32 = 4096;
/// Questions that a port may ask, together: above what a machine that boots asks, and above what the node answers. Others are dropped.
pub const ASKS_PER_SECOND: u32 = 50;
/// Packets that all ports together may have turned away for one reason. Others are dropped without an answer.
pub const TURNED_AWAY_PER_SECOND: u32 = 1000;
/// The seconds' worth that may come at once, after a silence.
const BURST_SECS: u32 = 2;
/// The first meter of ports; below are those of reasons.
const FIRST_OF_PORTS: u32 = 0x100;
/// Meters that the switch is told of at once.
const PART_MAX: usize = 512;

/// The meter of what a flow hands over: of the port with the key, or, without one, of everybody.
pub fn of(punt: Punt, port: Option<u32>) -> u32 {
    port.map_or(punt as u32, |key| FIRST_OF_PORTS + key % PORT_METERS)
}

/// Every meter.
fn all() -> impl Iterator<Item = Meter> {
    let meter = |id, rate| Meter::packets(id, rate, rate * BURST_SECS);
    let reasons = Punt::ALL.iter().map(move |punt| meter(of(*punt, None), TURNED_AWAY_PER_SECOND));
    reasons.chain((0..PORT_METERS).map(move |key| meter(FIRST_OF_PORTS + key, ASKS_PER_SECOND)))
}

/// What a switch with `installed` meters has to be told. Others' meters are none of Ladon's business.
pub fn missing(installed: &[Meter]) -> Vec<Message> {
    let have: HashMap<u32, &Meter> = installed.iter().map(|meter| (meter.id, meter)).collect();
    let change = |meter: Meter| {
        let command = match have.get(&meter.id) {
            Some(old) if **old == meter => return None,
            Some(_) => MeterCommand::Modify,
            None => MeterCommand::Add,
        };
        Some(Message::MeterMod(MeterMod { command, meter }))
    };
    all().filter_map(change).collect()
}

/// The messages in the parts in which the switch is told: first one, then more and more. An Open vSwitch whose datapath has no room
/// left looks for it anew with every message, for milliseconds.
pub fn in_growing_parts(mut messages: Vec<Message>) -> Vec<Vec<Message>> {
    let (mut parts, mut size) = (Vec::new(), 1);
    while !messages.is_empty() {
        let rest = messages.split_off(size.min(messages.len()));
        parts.push(std::mem::replace(&mut messages, rest));
        size = (size * 2).min(PART_MAX);
    }
    parts
}

/// Whether the flow hands packets over through a meter.
pub fn are_named(flow: &InstalledFlow) -> bool {
    flow.instructions.apply.iter().any(|action| matches!(action, Action::Controller(Controller { meter: Some(_), .. })))
}

/// Tells the operator how many meters the switch does not take.
pub fn tell(lacking: usize, refusal: Option<ErrorMessage>) {
    let all = all().count();
    match refusal {
        Some(error) => tracing::warn!(
            %error,
            lacking,
            all,
            "the switch does not take all meters; flows work, but what passes the lacking ones is not limited by the datapath, so that a port that floods can delay others' DHCP; look at `ovs-ofctl -O OpenFlow15 meter-features`: use Linux 4.18 or later, or take away meters of other bridges"
        ),
        None => tracing::info!(all, "the switch has all meters now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::limit::{DHCP_PER_SECOND, SOLICITATIONS_PER_SECOND};

    #[test]
    fn meters_that_are_there_stay_and_different_ones_change() {
        let all: Vec<Meter> = all().collect();
        assert_eq!(missing(&all), []);
        assert_eq!(missing(&[]).len(), all.len());
        let mut other = all.clone();
        other[3] = Meter::packets(other[3].id, 7, 7);
        let [Message::MeterMod(MeterMod { command: MeterCommand::Modify, meter })] = &missing(&other)[..] else { panic!("one changes") };
        assert_eq!(*meter, all[3]);
    }

    #[test]
    fn a_port_and_a_reason_have_their_rates_and_bursts() {
        let meter = |id: u32| all().find(|meter| meter.id == id).unwrap();
        let (port, reason) = (of(Punt::Dhcp, Some(1)), of(Punt::NoRoute, None));
        assert_eq!(meter(port), Meter::packets(port, ASKS_PER_SECOND, 2 * ASKS_PER_SECOND));
        assert_eq!(meter(reason), Meter::packets(reason, TURNED_AWAY_PER_SECOND, 2 * TURNED_AWAY_PER_SECOND));
        // What the node answers of a port's questions comes through.
        assert!(ASKS_PER_SECOND > 2 * DHCP_PER_SECOND + SOLICITATIONS_PER_SECOND);
    }

    #[test]
    fn a_switch_without_room_refuses_one_meter_and_hears_of_no_other() {
        let parts = in_growing_parts(missing(&[]));
        let sizes: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(sizes[..4], [1, 2, 4, 8]);
        assert!(sizes.iter().all(|size| *size <= PART_MAX) && parts.concat() == missing(&[]));
        assert!(in_growing_parts(vec![]).is_empty());
    }

    #[test]
    fn a_port_has_another_meter_than_the_reasons_and_than_its_neighbour() {
        let ids: Vec<u32> = all().map(|meter| meter.id).collect();
        for key in [0, 1, 4095, u32::MAX] {
            let meter = of(Punt::Dhcp, Some(key));
            assert!(ids.contains(&meter) && Punt::ALL.iter().all(|punt| of(*punt, None) != meter));
        }
        assert_ne!(of(Punt::Dhcp, Some(1)), of(Punt::Dhcp, Some(2)));
    }
}
