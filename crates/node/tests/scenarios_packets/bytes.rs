//! A scenario's packet as bytes on a wire, and out of a tunnel again.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use model::Mac;
use pipeline::Header;
use pipeline::switch::Packet;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const ARP: u16 = 0x0806;
/// An Ethernet frame without its checksum is at least this long (IEEE 802.3); an ARP packet leaves room for a mark.
const FRAME_BYTES_MIN: usize = 60;
/// The port of Geneve (RFC 8926).
const GENEVE: u16 = 6081;
/// The destination in an IPv4 header behind an Ethernet header.
const OUTER_DESTINATION: std::ops::Range<usize> = 30..34;
/// What a tunnel carries: Ethernet frames.
const BRIDGED: u16 = 0x6558;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// A neighbour discovery option for experiments (RFC 4727).
const UNKNOWN_OPTION: u8 = 253;
/// Every ping's identifier and sequence number.
const PING: [u8; 4] = [0x1a, 0xd0, 0, 1];
/// The sequence number with which every connection begins.
const SEQUENCE: u32 = 1000;
const WINDOW: u16 = 60_000;

/// The packet with `mark` as its content. A TCP segment is the first of its direction.
pub fn frame(packet: &Packet, is_answer: bool, mark: &[u8]) -> Vec<u8> {
    if packet.get(Header::EthType) == Some(ARP.into()) {
        return arp(packet, mark);
    }
    let ethernet = PacketBuilder::ethernet2(mac(packet, Header::EthSrc), mac(packet, Header::EthDst));
    let ttl = number(packet, Header::Ttl) as u8;
    let ip = match (packet.source(), packet.destination()) {
        (Some(IpAddr::V4(from)), Some(IpAddr::V4(to))) => ethernet.ipv4(from.octets(), to.octets(), ttl),
        (Some(IpAddr::V6(from)), Some(IpAddr::V6(to))) => ethernet.ipv6(from.octets(), to.octets(), ttl),
        _ => panic!("{packet} has no addresses"),
    };
    let port = |header| number(packet, header) as u16;
    let kind = |header| number(packet, header) as u8;
    let mut frame = Vec::new();
    match number(packet, Header::IpProto) as u8 {
        TCP => ip.tcp_header(segment(port(Header::TcpSrc), port(Header::TcpDst), is_answer, mark)).write(&mut frame, mark),
        UDP => ip.udp(port(Header::UdpSrc), port(Header::UdpDst)).write(&mut frame, mark),
        ICMP => ip.icmpv4_raw(kind(Header::Icmp4Type), kind(Header::Icmp4Code), PING).write(&mut frame, mark),
        ICMPV6 if [SOLICITATION, ADVERTISEMENT].contains(&kind(Header::Icmp6Type)) => {
            let flags = (packet.get(Header::NdReserved).unwrap_or(0) as u32).to_be_bytes();
            ip.icmpv6_raw(kind(Header::Icmp6Type), 0, flags).write(&mut frame, &neighbour(packet, mark))
        }
        ICMPV6 => ip.icmpv6_raw(kind(Header::Icmp6Type), kind(Header::Icmp6Code), PING).write(&mut frame, mark),
        other => panic!("no scenario says protocol {other}"),
    }
    .unwrap();
    frame
}

/// A SYN, or the SYN and ACK that answers one with `mark` in it.
fn segment(from: u16, to: u16, is_answer: bool, mark: &[u8]) -> TcpHeader {
    let mut header = TcpHeader::new(from, to, SEQUENCE, WINDOW);
    header.syn = true;
    if is_answer {
        header.ack = true;
        header.acknowledgment_number = SEQUENCE + 1 + mark.len() as u32;
    }
    header
}

fn arp(packet: &Packet, mark: &[u8]) -> Vec<u8> {
    let ip = |header| (number(packet, header) as u32).to_be_bytes();
    let mut frame = [mac(packet, Header::EthDst), mac(packet, Header::EthSrc)].concat();
    frame.extend(ARP.to_be_bytes());
    // Ethernet, IPv4, and the lengths of their addresses (RFC 826).
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend((number(packet, Header::ArpOp) as u16).to_be_bytes());
    for (hardware, protocol) in [(Header::ArpSha, Header::ArpSpa), (Header::ArpTha, Header::ArpTpa)] {
        frame.extend(mac(packet, hardware));
        frame.extend(ip(protocol));
    }
    frame.extend(mark);
    frame.resize(FRAME_BYTES_MIN, 0);
    frame
}

/// What a neighbour solicitation or advertisement says after its flags: the target, a MAC (RFC 4861, 4.6.1), and the mark in an
/// option that nobody knows.
fn neighbour(packet: &Packet, mark: &[u8]) -> Vec<u8> {
    let (kind, holder) = match packet.get(Header::NdTll) {
        Some(_) => (2, Header::NdTll),
        None => (1, Header::NdSll),
    };
    let mut content = number(packet, Header::NdTarget).to_be_bytes().to_vec();
    content.extend([kind, 1]);
    content.extend(mac(packet, holder));
    let length = (2 + mark.len()).next_multiple_of(8);
    let mut option = vec![UNKNOWN_OPTION, (length / 8) as u8];
    option.extend(mark);
    option.resize(length, 0);
    content.extend(option);
    content
}

/// A frame as it comes out of another node's tunnel, from one (MAC and) address of the underlay to the other.
pub fn tunnelled(from: ([u8; 6], Ipv4Addr), to: ([u8; 6], Ipv4Addr), vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, vni @ ..] = vni.to_be_bytes();
    let mut content = vec![0, 0];
    content.extend(BRIDGED.to_be_bytes());
    content.extend(vni);
    content.push(0);
    content.extend(frame);
    let packet = PacketBuilder::ethernet2(from.0, to.0).ipv4(from.1.octets(), to.1.octets(), 64).udp(50_000, GENEVE);
    let mut bytes = Vec::new();
    packet.write(&mut bytes, &content).unwrap();
    bytes
}

/// A frame of a type that no network has, the `n`th.
pub fn echo(kind: u16, n: u32) -> Vec<u8> {
    let mut frame = [2, 0, 0, 0, 0, 0xec, 2, 0, 0, 0, 0, 0xed].to_vec();
    frame.extend(kind.to_be_bytes());
    frame.extend(n.to_be_bytes());
    frame.resize(FRAME_BYTES_MIN, 0);
    frame
}

/// Where the frame goes on the underlay, its network and the frame inside, if the frame is a tunnel's.
pub fn geneve(frame: &[u8]) -> Option<(Ipv4Addr, u32, Vec<u8>)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = packet.transport else { return None };
    let (header, rest) = udp.payload().split_at_checked(8).filter(|_| udp.destination_port() == GENEVE)?;
    let options_bytes = usize::from(header[0] & 0x3f) * 4;
    let to: [u8; 4] = frame.get(OUTER_DESTINATION)?.try_into().ok()?;
    Some((to.into(), u32::from_be_bytes([0, header[4], header[5], header[6]]), rest.get(options_bytes..)?.to_vec()))
}

pub fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(packet: &Packet, header: Header) -> u128 {
    packet.get(header).unwrap_or_else(|| panic!("{packet} has no {}", header.name()))
}

fn mac(packet: &Packet, header: Header) -> [u8; 6] {
    Mac::from_bits(number(packet, header) as u64).0
}
