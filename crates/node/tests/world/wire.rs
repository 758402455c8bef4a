//! The end of a cable as a raw socket: every byte that comes is seen, every byte that goes is the test's.

use std::os::fd::{AsRawFd, OwnedFd};

use lab::Host;
use nix::errno::Errno;
use nix::libc::PACKET_OUTGOING;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{bind, recvfrom, send, socket};

/// Longer than any frame on the lab's cables.
const FRAME_BYTES_MAX: usize = 2048;

/// A device of a namespace, seen as bytes. The namespace goes with it.
pub struct Wire {
    socket: OwnedFd,
    _host: Host,
}

impl Wire {
    pub fn open(host: Host, device: &str) -> Wire {
        let socket = host.netns().within(|| bound(device)).unwrap().unwrap();
        Wire { socket, _host: host }
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The frames that have come and nobody has looked at.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; FRAME_BYTES_MAX];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == PACKET_OUTGOING => {}
                Ok((length, _)) => frames.push(buffer[..length].to_vec()),
                Err(Errno::EAGAIN) => return frames,
                Err(error) => panic!("reading a raw socket: {error}"),
            }
        }
    }
}

/// A raw socket on a device of this thread's namespace.
fn bound(device: &str) -> nix::Result<OwnedFd> {
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    let mut addresses = nix::ifaddrs::getifaddrs()?.filter(|found| found.interface_name == device).filter_map(|found| found.address);
    let address = addresses.find_map(|address| address.as_link_addr().copied()).ok_or(Errno::ENODEV)?;
    bind(raw.as_raw_fd(), &address)?;
    Ok(raw)
}
