//! TX checksum offload, off on request.
//!
//! A packet that a veth carries from one kernel stack to a userspace switch has no checksum yet: the stack leaves it to a device
//! that will never see it. Ping works then and every TCP connection fails. So both ends of a pair that leads to a userspace
//! datapath compute checksums themselves, and hence cut segments themselves.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
// linux/ethtool.h
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_SSG: u32 = 0x19;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;

/// Segmentation first: it needs scatter-gather, which needs checksums.
const OFF_IN_ORDER: [u32; 4] = [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SSG, ETHTOOL_STXCSUM];

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

nix::ioctl_readwrite_bad!(
    /// ioctl_list(2): one ethtool request about the interface that `ifreq` names.
    siocethtool,
    SIOCETHTOOL,
    libc::ifreq
);

/// A socket through which the interfaces of the calling thread's namespace are set.
pub struct Ethtool(OwnedFd);

impl Ethtool {
    pub fn open() -> Result<Ethtool, Errno> {
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map(Ethtool)
    }

    /// Interface `name` computes checksums and cuts segments in software.
    pub fn tx_offload_off(&self, name: &str) -> Result<(), Errno> {
        OFF_IN_ORDER.iter().try_for_each(|command| self.set(name, *command, 0))
    }

    fn set(&self, name: &str, command: u32, data: u32) -> Result<(), Errno> {
        let mut value = Value { command, data };
        let mut ifr_name = [0; libc::IFNAMSIZ];
        if name.len() >= libc::IFNAMSIZ {
            return Err(Errno::ENODEV);
        }
        for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() };
        let mut request = libc::ifreq { ifr_name, ifr_ifru };
        // SAFETY: the request's pointer leads to `value`, which is an ethtool_value and outlives the call.
        #[allow(unsafe_code)]
        match unsafe { siocethtool(self.0.as_raw_fd(), &raw mut request) } {
            // A driver without the feature has it off.
            Ok(_) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
