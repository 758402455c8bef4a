//! A packet as the answering functions see it, and how their answers are put together.
//!
//! Only what Ethernet, IP and IPv6's extension headers say is taken apart here; every length is checked against the bytes that
//! are there, and a packet that contradicts itself is no packet. Tagged frames never get here: the pipeline takes tags off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, Ethernet2Slice, IpSlice, Ipv6ExtensionSlice, PacketBuilder, PacketBuilderStep};
use model::Mac;

/// Hop limit of what the node sends (RFC 1700).
pub const TTL: u8 = 64;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// A packet that somebody sent.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    pub eth_src: Mac,
    pub eth_dst: Mac,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    /// The protocol behind the extension headers.
    pub proto: u8,
    /// True for every fragment, the first included.
    pub is_fragment: bool,
    /// True for a fragment that is not the first: it begins in the middle of the payload.
    pub is_later_fragment: bool,
    /// From the IP header on, without padding.
    pub ip: &'a [u8],
    /// What follows the IP headers.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Takes a frame apart. None: it is not IP, or its lengths are wrong.
    pub fn parse(frame: &'a [u8]) -> Option<Packet<'a>> {
        let ethernet = Ethernet2Slice::from_slice_without_fcs(frame).ok()?;
        if ![EtherType::IPV4, EtherType::IPV6].contains(&ethernet.ether_type()) {
            return None;
        }
        let bytes = ethernet.payload_slice();
        let slice = IpSlice::from_slice(bytes).ok()?;
        let (length, ttl, is_later_fragment) = match &slice {
            IpSlice::Ipv4(v4) => (usize::from(v4.header().total_len()), v4.header().ttl(), v4.header().fragments_offset().value() > 0),
            IpSlice::Ipv6(v6) => {
                let header = v6.header();
                let later =
                    |extension| matches!(extension, Ipv6ExtensionSlice::Fragment(fragment) if fragment.fragment_offset().value() > 0);
                (
                    usize::from(header.payload_length()) + header.slice().len(),
                    header.hop_limit(),
                    v6.extensions().clone().into_iter().any(later),
                )
            }
        };
        // IpSlice borrows from itself, not from the frame: the payload is found again by its length.
        let payload = slice.payload();
        let is_fragment = payload.fragmented;
        let (proto, payload_len) = (payload.ip_number.0, payload.payload.len());
        let ip = bytes.get(..length)?;
        Some(Packet {
            eth_src: Mac(ethernet.source()),
            eth_dst: Mac(ethernet.destination()),
            src: slice.source_addr(),
            dst: slice.destination_addr(),
            ttl,
            proto,
            is_fragment,
            is_later_fragment,
            ip,
            payload: ip.get(ip.len().checked_sub(payload_len)?..)?,
        })
    }

    /// The datagram's ports and content.
    pub fn udp(&self) -> Option<(u16, u16, &'a [u8])> {
        if self.proto != UDP || self.is_fragment {
            return None;
        }
        let udp = etherparse::UdpSlice::from_slice(self.payload).ok()?;
        Some((udp.source_port(), udp.destination_port(), self.payload.get(8..8 + udp.payload().len())?))
    }
}

/// Who an answer is from and for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    pub eth_src: Mac,
    pub eth_dst: Mac,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
}

impl Envelope {
    /// A UDP datagram. None: the addresses are of two IP versions, or the content is too long.
    pub fn udp(&self, ports: (u16, u16), content: &[u8]) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(content.len() + 62);
        self.ip()?.udp(ports.0, ports.1).write(&mut frame, content).ok()?;
        Some(frame)
    }

    /// An ICMP message of the addresses' IP version, with the four bytes that follow the checksum.
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], content: &[u8]) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(content.len() + 62);
        match self.src {
            IpAddr::V4(_) => self.ip()?.icmpv4_raw(kind, code, rest).write(&mut frame, content).ok()?,
            IpAddr::V6(_) => self.ip()?.icmpv6_raw(kind, code, rest).write(&mut frame, content).ok()?,
        }
        Some(frame)
    }

    /// A TCP segment without content that resets a connection.
    pub fn reset(&self, ports: (u16, u16), sequence: u32, acknowledges: Option<u32>) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(74);
        let segment = self.ip()?.tcp(ports.0, ports.1, sequence, 0).rst();
        let segment = match acknowledges {
            Some(number) => segment.ack(number),
            None => segment,
        };
        segment.write(&mut frame, &[]).ok()?;
        Some(frame)
    }

    fn ip(&self) -> Option<PacketBuilderStep<etherparse::IpHeaders>> {
        let ethernet = PacketBuilder::ethernet2(self.eth_src.0, self.eth_dst.0);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(ethernet.ipv4(src.octets(), dst.octets(), self.ttl)),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(ethernet.ipv6(src.octets(), dst.octets(), self.ttl)),
            _ => None,
        }
    }
}

/// The MAC to which packets for an IPv6 multicast address go (RFC 2464).
pub fn multicast_mac(ip: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = ip.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// True for an address that names one machine.
pub fn is_unicast(ip: IpAddr) -> bool {
    let is_reserved = match ip {
        IpAddr::V4(ip) => ip.is_broadcast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240,
        IpAddr::V6(_) => false,
    };
    !(is_reserved || ip.is_multicast() || ip.is_unspecified() || ip.is_loopback())
}

/// All IPv6 nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The unspecified address, the broadcast address.
pub const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
