//! Netlink messages as bytes: a header, a fixed part, attributes that may nest (RFC 3549; netlink(7), rtnetlink(7)).
//!
//! Everything is in the machine's own byte order.

/// Length of `nlmsghdr`.
pub const HEADER: usize = 16;

/// A request while it is being written.
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of `kind` with its `fixed` part (`ifinfomsg`, `ifaddrmsg`, `rtmsg`).
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        Message { bytes }
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        self.push(kind, value);
        self
    }

    /// A name, with the zero that the kernel wants at its end.
    pub fn text(self, kind: u16, value: &str) -> Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    pub fn number(self, kind: u16, value: u32) -> Message {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// An attribute that holds a fixed part (which may be empty) and attributes.
    pub fn nest(mut self, kind: u16, fixed: &[u8], inside: impl FnOnce(Message) -> Message) -> Message {
        let start = self.bytes.len();
        self.push(kind, fixed);
        let mut message = inside(self);
        let length = u16::try_from(message.bytes.len() - start).expect("a request is shorter than 64 KiB");
        message.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        message
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("an attribute is shorter than 64 KiB");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// The finished message, numbered `sequence`.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a request is shorter than 64 KiB");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A message as it was received.
#[derive(Clone, Copy)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// The messages of one datagram. Ends at the first that does not fit.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = number(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        Some(Received { kind: half(4), flags: half(6), sequence: number(message, 8)?, payload: &message[HEADER..] })
    })
}

/// The attributes in `bytes`, nested ones unopened.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let [low, high, kind_low, kind_high, ..] = *bytes else { return None };
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind_low, kind_high]) & !FLAGS, value))
    })
}

/// The 32-bit number at `at`.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_with_its_nested_attributes() {
        let message = Message::new(16, 5, &[7; 16]).text(3, "eth0").nest(18, &[], |m| m.text(1, "veth").number(4, 1400)).finish(9);
        assert_eq!(message.len() % 4, 0);
        let received = messages(&message).next().unwrap();
        assert_eq!((received.kind, received.flags, received.sequence), (16, 5, 9));
        let outer: Vec<_> = attributes(&received.payload[16..]).collect();
        assert_eq!(outer[0].1, b"eth0\0");
        let inner: Vec<_> = attributes(outer[1].1).collect();
        assert_eq!((inner[0].1, number(inner[1].1, 0)), (&b"veth\0"[..], Some(1400)));
    }

    #[test]
    fn garbage_ends_the_iteration() {
        for bytes in [&[][..], &[1], &[0; 16], &[0xff; 40], &[3, 0, 0, 0, 1]] {
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        for bytes in [&[][..], &[9, 0, 1, 0, 1], &[3, 0, 1, 0], &[0; 4]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
