//! What the node answers itself: DHCP, DHCPv6, router solicitations, packets that go nowhere, connections that nobody takes.
//!
//! ```text
//! switch events ── Intake: limits, bounded channel ──▶ Responder ── answer(packet, port) ──▶ packet-outs
//!                                                        ▲   │
//!                                       Local (watch) ───┘   └── Announcements: unsolicited router advertisements
//! ```
//!
//! A flow hands a packet over with a number that says why ([`Punt`]) and the registers that it had. Everything that an answer
//! says follows from the port ([`crate::local::Local`]): functions without state. What is kept are limits and timers.
//! The limits come first, so that a busy port neither fills the channel nor takes the time of others.
//!
//! Answers to a port's own questions go out of its interface. Errors about packets on their way pass Unnat before, which
//! gives a connection through a VIP its VIP back in the quoted header.

mod announce;
pub mod dhcp4;
pub mod dhcp6;
pub mod icmp;
pub mod limit;
mod options4;
mod options6;
pub mod packet;
pub mod ra;
pub mod reset;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use model::{Mac, NetworkKey};
use openflow::{Action as Of, OfPort as OfNumber, PacketIn2, PacketOut};
use pipeline::{Field, Generation, OfPort, Place, Punt, Table, fields};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::local::{Local, LocalNetwork, LocalPort};
use crate::switch::Switch;
use crate::translate;
use announce::Announcements;
use icmp::{Asker, Way};
use limit::{Kind, Limits};
use packet::Packet;

/// Questions that wait for the responder; beyond that they are dropped and counted.
pub const QUESTIONS_MAX: usize = 1024;
/// The first two bytes of the MAC with which a network's DHCP server speaks where no router has its address: locally
/// administered, beside those of block ports.
const SERVER_MAC_PREFIX: [u8; 2] = [0x06, 0x1b];

/// What an answering function made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub frame: Vec<u8>,
    /// The port's own options that mean nothing or find no room.
    pub ignored: usize,
}

/// The MAC with which a server at `ip` speaks: that of the router that has the address, or one that follows from the network.
pub fn server_mac(network: &LocalNetwork, ip: IpAddr) -> Mac {
    let [a, b] = SERVER_MAC_PREFIX;
    let [c, d, e, f] = network.network.key.0.to_be_bytes();
    network.interface_at(ip).map_or(Mac([a, b, c, d, e, f]), |interface| interface.mac)
}

/// Packets that were handed over and that nobody looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Missed {
    /// Who sent them asked too often.
    pub limited: u64,
    /// More came than could be read.
    pub overrun: u64,
}

/// A packet that a flow handed over.
#[derive(Debug)]
pub struct Question {
    punt: Punt,
    packet_in: Box<PacketIn2>,
}

impl Question {
    /// The question that a packet-in is. None: no flow of the pipeline's handed it over.
    pub fn of(packet_in: Box<PacketIn2>) -> Option<Question> {
        let punt = packet_in.userdata.first().copied().and_then(Punt::from_byte)?;
        Some(Question { punt, packet_in })
    }

    fn register(&self, field: Field) -> u32 {
        let (of, offset) = translate::place(Place::Field(field));
        let value = self.packet_in.metadata.exact(of).unwrap_or_default() >> offset;
        u32::try_from(value & (u128::MAX >> (128 - u32::from(field.bits)))).unwrap_or_default()
    }

    /// Who is limited: the local port, or, for what came from another node, the sender's MAC on its network.
    fn asker(&self) -> u64 {
        match self.register(fields::SRC_PORT) {
            0 => {
                let sender = self.packet_in.packet.get(6..12).unwrap_or_default();
                let mac = sender.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
                limit::ELSEWHERE | mac << 15 | u64::from(self.register(fields::NETWORK) & 0x7fff)
            }
            port => port.into(),
        }
    }

    /// The half of the switch whose flow handed the packet over.
    fn generation(&self) -> Generation {
        self.packet_in.table.and_then(Generation::of_table).unwrap_or_default()
    }
}

/// Where packet-ins enter: the limits and the way to the responder.
#[derive(Debug)]
pub struct Intake {
    /// The half of the tables whose packets can be read.
    half: watch::Receiver<Option<Generation>>,
    limits: Limits,
    questions: mpsc::Sender<Question>,
    /// Since that was asked last.
    missed: Missed,
    /// What the link to the switch had dropped then.
    unread: u64,
}

impl Intake {
    fn new(half: watch::Receiver<Option<Generation>>, questions: mpsc::Sender<Question>) -> Intake {
        Intake { half, limits: Limits::default(), questions, missed: Missed::default(), unread: 0 }
    }

    /// Takes a packet-in, or drops and counts it. One from tables of another release's pipeline is dropped: its registers mean
    /// something else. Whoever sent it asks again.
    pub fn take(&mut self, packet_in: Box<PacketIn2>) {
        let half = packet_in.table.and_then(Generation::of_table);
        if half.is_none() || half != *self.half.borrow() {
            return;
        }
        let Some(question) = Question::of(packet_in) else { return };
        if !self.limits.admit(question.asker(), Kind::of(question.punt), Instant::now()) {
            self.missed.limited += 1;
        } else if self.questions.try_send(question).is_err() {
            self.missed.overrun += 1;
        }
    }

    /// What was missed since the last time. `unread`: packets that the link to the switch has dropped so far, since nobody read them.
    fn missed(&mut self, unread: u64) -> Missed {
        let Missed { limited, overrun } = std::mem::take(&mut self.missed);
        Missed { limited, overrun: overrun + unread - std::mem::replace(&mut self.unread, unread) }
    }

    /// Tells the operator what was missed since the last time.
    pub fn report(&mut self, unread: u64) {
        let Missed { limited, overrun } = self.missed(unread);
        if limited > 0 || overrun > 0 {
            tracing::warn!(
                limited,
                overrun,
                "packets for the node were dropped: somebody sends too many (`limited`), or all together did (`overrun`); they get no answer, and on `overrun` others may wait for their addresses, too; `ovs-ofctl -O OpenFlow15 meter-stats` on the bridge says who"
            );
        }
    }
}

/// The task that answers.
pub struct Responder {
    local: watch::Receiver<Arc<Local>>,
    switch: Switch,
    questions: mpsc::Receiver<Question>,
    announcements: Announcements,
}

/// A responder and the way to it.
pub fn new(local: watch::Receiver<Arc<Local>>, half: watch::Receiver<Option<Generation>>, switch: Switch) -> (Intake, Responder) {
    let (sender, questions) = mpsc::channel(QUESTIONS_MAX);
    (Intake::new(half, sender), Responder { local, switch, questions, announcements: Announcements::default() })
}

impl Responder {
    /// Runs until the intake or the switch's task ends.
    pub async fn run(mut self) {
        self.local.mark_changed();
        loop {
            let outs = tokio::select! {
                question = self.questions.recv() => match question {
                    Some(question) => self.answer(&question),
                    None => return,
                },
                changed = self.local.changed() => match changed {
                    Ok(()) => {
                        let local = self.local.borrow_and_update().clone();
                        self.announcements.refresh(&local, Instant::now());
                        Vec::new()
                    }
                    Err(_) => return,
                },
                () = at(self.announcements.next_at()) => self.announce(),
            };
            for out in outs {
                if self.switch.packet_out(out).await.is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&self, question: &Question) -> Vec<PacketOut> {
        let local = self.local.borrow().clone();
        let (outs, ignored) = answers(question, &local);
        if ignored > 0 {
            let port = local.by_key(question.register(fields::SRC_PORT)).map(|port| port.port.id.to_string());
            tracing::warn!(
                port,
                ignored,
                "DHCP options of the port mean nothing or find no room; the others were given; see its extra_dhcp_opts"
            );
        }
        outs
    }

    fn announce(&mut self) -> Vec<PacketOut> {
        let due = self.announcements.due(Instant::now());
        due.into_iter().map(|(ofport, frame)| out_of(ofport, frame)).collect()
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The packets that answer a question, and how many of the port's options were ignored.
pub fn answers(question: &Question, local: &Local) -> (Vec<PacketOut>, usize) {
    let Some(packet) = Packet::parse(&question.packet_in.packet) else { return (Vec::new(), 0) };
    let port = local.by_key(question.register(fields::SRC_PORT));
    match question.punt {
        Punt::Dhcp => to_asker(port, |port| dhcp4::answer(&packet, port)),
        Punt::Dhcpv6 => to_asker(port, |port| dhcp6::answer(&packet, port)),
        Punt::RouterSolicitation => {
            let frames = port.map(|port| ra::answer(&packet, port)).unwrap_or_default();
            let ofport = port.and_then(|port| port.ofport);
            (ofport.into_iter().flat_map(|ofport| frames.iter().map(move |frame| out_of(ofport, frame.clone()))).collect(), 0)
        }
        punt => (turned_away(punt, &packet, question, local, port).into_iter().collect(), 0),
    }
}

fn to_asker(port: Option<&Arc<LocalPort>>, answer: impl FnOnce(&LocalPort) -> Option<Answer>) -> (Vec<PacketOut>, usize) {
    let Some((port, ofport)) = port.and_then(|port| Some((port, port.ofport?))) else { return (Vec::new(), 0) };
    match answer(port) {
        Some(answer) => (vec![out_of(ofport, answer.frame)], answer.ignored),
        None => (Vec::new(), 0),
    }
}

/// What the sender of a packet that went nowhere is told.
fn turned_away(punt: Punt, packet: &Packet, question: &Question, local: &Local, port: Option<&Arc<LocalPort>>) -> Option<PacketOut> {
    let network = NetworkKey(question.register(fields::NETWORK));
    let asker = match port {
        Some(port) => Asker::Port(port, network),
        None => Asker::Elsewhere(local.network_by_key(network.0)?),
    };
    if punt == Punt::Refused
        && let Some(frame) = reset::answer(packet)
    {
        return Some(out_of(port?.ofport?, frame));
    }
    let (frame, way) = icmp::answer(punt, packet, asker)?;
    Some(send(frame, way, question, network, port))
}

fn send(frame: Vec<u8>, way: Way, question: &Question, network: NetworkKey, port: Option<&Arc<LocalPort>>) -> PacketOut {
    let asked = |field: Field| (field, question.register(field));
    let (registers, table) = match way {
        Way::ToPort => {
            let key = port.map_or(0, |port| port.port.key.0);
            (vec![(fields::DST_PORT, key), asked(fields::DOMAIN), asked(fields::NAT_ZONE), asked(fields::RULES_ZONE)], Table::Unnat)
        }
        Way::OnNetwork => (vec![(fields::NETWORK, network.0)], Table::L2Lookup),
        Way::Routed(hop) => (vec![(fields::NETWORK, network.0), (fields::ROUTER, hop.router.0)], Table::Route),
    };
    let sets = registers.into_iter().map(|(field, value)| translate::set(field, value.into()));
    let actions: Vec<Of> = sets.chain([Of::resubmit(table.number(question.generation()))]).collect();
    PacketOut::new(OfNumber::CONTROLLER, actions, frame)
}

fn out_of(port: OfPort, frame: Vec<u8>) -> PacketOut {
    PacketOut::new(OfNumber::CONTROLLER, vec![Of::output(OfNumber(port.0))], frame)
}
