//! TCP resets for connections to where nobody listens (RFC 9293, 3.10.7.1).

use etherparse::TcpSlice;

use super::packet::{Envelope, Packet, TCP, TTL};

/// The segment that refuses the connection that `packet` belongs to. None: it is not a whole TCP segment, or is a reset itself.
pub fn answer(packet: &Packet) -> Option<Vec<u8>> {
    if packet.proto != TCP || packet.is_fragment {
        return None;
    }
    let segment = TcpSlice::from_slice(packet.payload).ok()?;
    if segment.rst() {
        return None;
    }
    let back = Envelope { eth_src: packet.eth_dst, eth_dst: packet.eth_src, src: packet.dst, dst: packet.src, ttl: TTL };
    let ports = (segment.destination_port(), segment.source_port());
    if segment.ack() {
        return back.reset(ports, segment.acknowledgment_number(), None);
    }
    // A SYN and a FIN count like a byte each.
    let length = u32::try_from(segment.payload().len()).ok()? + u32::from(segment.syn()) + u32::from(segment.fin());
    back.reset(ports, 0, Some(segment.sequence_number().wrapping_add(length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn segment(change: impl FnOnce(&mut etherparse::TcpHeader), content: &[u8]) -> Vec<u8> {
        let mut header = etherparse::TcpHeader::new(4000, 80, u32::MAX, 1000);
        change(&mut header);
        let mut frame = Vec::new();
        let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4([10, 0, 0, 9], [10, 96, 0, 1], 64);
        ip.tcp_header(header).write(&mut frame, content).unwrap();
        frame
    }

    /// Sequence number, acknowledged number and flags of the answer.
    fn reset(frame: &[u8]) -> Option<(u32, u32, bool)> {
        let answer = answer(&Packet::parse(frame)?)?;
        let packet = Packet::parse(&answer).unwrap();
        assert_eq!((packet.src.to_string(), packet.dst.to_string()), ("10.96.0.1".into(), "10.0.0.9".into()));
        let tcp = TcpSlice::from_slice(packet.payload).unwrap();
        assert_eq!(tcp.calc_checksum_ipv4([10, 96, 0, 1], [10, 0, 0, 9]).unwrap(), tcp.checksum());
        assert!(tcp.rst());
        assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 4000));
        Some((tcp.sequence_number(), tcp.acknowledgment_number(), tcp.ack()))
    }

    #[test]
    fn a_syn_is_refused_with_its_number_and_one() {
        assert_eq!(reset(&segment(|tcp| tcp.syn = true, b"")), Some((0, 0, true)));
    }

    #[test]
    fn a_segment_that_acknowledges_is_refused_where_it_expects_the_next() {
        let frame = segment(
            |tcp| {
                tcp.ack = true;
                tcp.acknowledgment_number = 77;
            },
            b"hello",
        );
        assert_eq!(reset(&frame), Some((77, 0, false)));
    }

    #[test]
    fn content_and_fin_count() {
        assert_eq!(reset(&segment(|tcp| tcp.fin = true, b"hello")), Some((0, 5, true)));
    }

    #[test]
    fn a_reset_is_never_answered() {
        assert_eq!(reset(&segment(|tcp| tcp.rst = true, b"")), None);
    }
}
