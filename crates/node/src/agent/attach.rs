//! Which interface of the bridge is which port.

use std::collections::BTreeMap;

use apps::{Attachment, Change, View};
use model::PortId;
use pipeline::OfPort;

use crate::bridge::Interfaces;
use crate::zones::{Taken, Zones};

/// The ports that are plugged in, by the `iface-id` of their interfaces (as Nova, libvirt and Ladon itself set it). If two
/// interfaces claim one port, the one that was made last has it: it has the highest number.
pub fn plugged(interfaces: &Interfaces) -> BTreeMap<PortId, OfPort> {
    let claims = interfaces.values().filter_map(|interface| Some((interface.iface_id.as_ref()?.parse().ok()?, interface.ofport?)));
    let mut plugged: BTreeMap<PortId, OfPort> = BTreeMap::new();
    for (port, ofport) in claims {
        let held = plugged.entry(port).or_insert(ofport);
        *held = (*held).max(ofport);
    }
    plugged
}

/// Every iface-id on the bridge, with Open vSwitch's error where the interface does not work. If two interfaces claim one, the
/// one that [`plugged`] chooses speaks.
pub fn present(interfaces: &Interfaces) -> BTreeMap<String, String> {
    let error = |interface: &crate::bridge::Interface| {
        let error = interface.error.clone().or_else(|| interface.ofport.is_none().then(|| "it has no OpenFlow port yet".to_string()));
        error.unwrap_or_default()
    };
    let mut claims: Vec<_> =
        interfaces.values().filter_map(|interface| Some((interface.iface_id.clone()?, interface.ofport, error(interface)))).collect();
    claims.sort();
    claims.into_iter().map(|(id, _, error)| (id, error)).collect()
}

/// The changes that make the view's attachments those of `wanted`, and the zones to flush before they count.
pub fn changes(view: &View, wanted: &BTreeMap<PortId, OfPort>, zones: &mut Zones) -> (Vec<Change>, Vec<(PortId, Taken)>) {
    let mut changes: Vec<Change> =
        view.attachments().filter(|have| !wanted.contains_key(&have.port)).map(|have| Change::Detach(have.port)).collect();
    let mut flushes = Vec::new();
    for (port, ofport) in wanted {
        if view.attachment(*port).is_some_and(|have| have.ofport == *ofport) {
            continue;
        }
        let Some(taken) = zones.take(*port) else {
            tracing::error!(%port, limit = crate::zones::PORTS_MAX, "no connection tracking zones are left: the port gets no flows");
            continue;
        };
        flushes.push((*port, taken));
        changes.push(Change::Attach(Attachment {
            port: *port,
            ofport: *ofport,
            rules_zone: taken.rules,
            nat_zone: taken.nat,
            hairpin_zone: taken.hairpin,
        }));
    }
    (changes, flushes)
}
