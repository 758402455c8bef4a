//! Offers of addresses: how long one takes, and how many a second a node makes when many machines boot at once.
//!
//! A question leaves by the device of a local port, as if a machine sent it, and the answer is read there. Ladon answers a port that
//! boots, not a flood: ten questions a second and twenty at once, of each port. So the questions come from many ports. Both systems
//! are on the Open vSwitch that OVN's release brings: a good part of an answer's time is its.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Netns, Progress};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket};
use nix::sys::time::TimeVal;

use crate::Scale;
use crate::figure::{Figure, Measured, Reach, Spread};
use crate::machine::{Device, mac};
use crate::ovn::{self, Ovn};
use crate::world::{Shape, World};

/// What a port may ask at once.
const QUESTIONS_EACH: usize = 20;
/// Questions under way.
const UNDER_WAY: usize = 32;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
const RECEIVE_BYTES: usize = 8 << 20;
const FRAME_BYTES_MAX: usize = 2048;

pub fn run(scale: Scale, progress: &Progress) -> Result<Vec<Figure>> {
    let (single, many) = scale.of((20, 100), (4, 6));
    let shape = Shape::flat(scale.of(10, 2), scale.of(1_000, 100), single + many);
    let (asked, rounds) = (scale.of(300, 20), scale.of(5, 2));
    let release = ovn::release(progress)?;
    let world = World::start_of(Some(&release), shape, progress)?;
    let host = world.host("ovn", 21)?;
    let ovn = Ovn::start(&host, &release, shape, progress)?;
    let of_ladon = ports_of_ladon(&world)?;
    let sides = [Side::open(world.ovs.host().netns(), of_ladon)?, Side::open(host.netns(), ovn.local_devices()?)?];
    let mut one = [Vec::new(), Vec::new()];
    let mut rates = [Vec::new(), Vec::new()];
    progress.during(format!("{asked} DHCP questions one by one, then {} at once {rounds} times", many * QUESTIONS_EACH), || {
        for number in 0..asked {
            for (side, times) in sides.iter().zip(&mut one) {
                times.push(side.ask(number % single, number as u32)?);
            }
        }
        for round in 0..rounds {
            for (side, rates) in sides.iter().zip(&mut rates) {
                rates.push(side.flood(single..single + many, round as u32)?);
            }
            // A port that has asked so much is answered again after as long as that takes at ten a second.
            std::thread::sleep(scale.of(Duration::from_millis(2_500), Duration::from_millis(2_100)));
        }
        anyhow::Ok(())
    })?;
    let [ours, theirs] = one.map(|times| Measured::p50(Spread::of_times(&times)));
    let [our_rate, their_rate] = rates.map(|rates| Measured::p50(Spread::of(&rates)));
    let how = format!(
        "Discover to offer, {asked} of {single} ports in turn, one at a time; then {QUESTIONS_EACH} of each of {many} ports, {UNDER_WAY} under way, {rounds} times, the \
         median of the rates; every question was answered. Ladon's limit of ten a second and twenty at once of each port holds meanwhile."
    );
    Ok(vec![
        Figure::new("DHCP discover → offer, p50", "ms", ours, Reach::AtMostOfPeer(1.0))
            .against("OVN 25.03", theirs)
            .how(how.clone())
            .if_short(ALIKE),
        Figure::new(format!("DHCP offers, {many} ports at once"), "/s", our_rate, Reach::AtLeastOfPeer(1.0))
            .against("OVN 25.03", their_rate)
            .how(how)
            .if_short(ALIKE),
    ])
}

/// Why neither may be ahead.
const ALIKE: &str = "most of the time is Open vSwitch's, the same for both, and the values of one system differ by more than this";

/// As the world has plugged them: the devices are numbered network by network.
fn ports_of_ladon(world: &World) -> Result<Vec<Device>> {
    let said = world.ovs.vsctl(&["--format=json", "--columns=name,external_ids", "list", "Interface"])?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let rows = said["data"].as_array().context("a table has data")?;
    let device_of = |port: &str| rows.iter().find(|row| row[1].to_string().contains(port)).and_then(|row| row[0].as_str());
    let device = |port: &serde_json::Value| {
        let name = device_of(demo::id(port)).context("it is plugged")?;
        Ok((name.to_string(), mac(port["mac_address"].as_str().context("a port has a MAC")?)?))
    };
    world.interleaved()?.iter().map(device).collect()
}

/// The ports of one system.
struct Side {
    senders: Vec<(OwnedFd, [u8; 6])>,
    receiver: OwnedFd,
}

impl Side {
    fn open(netns: &Netns, devices: Vec<Device>) -> Result<Side> {
        netns.ip(&devices.iter().map(|(name, _)| format!("link set {name} up")).collect::<Vec<_>>())?;
        let opened = netns.within(|| -> nix::Result<Side> {
            let flags = SockFlag::SOCK_CLOEXEC;
            let receiver = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            setsockopt(&receiver, RcvBufForce, &RECEIVE_BYTES)?;
            setsockopt(&receiver, ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs() as i64, 0))?;
            let links: HashMap<String, LinkAddr> =
                nix::ifaddrs::getifaddrs()?.filter_map(|found| Some((found.interface_name, *found.address?.as_link_addr()?))).collect();
            let sender = |(name, mac): Device| {
                let raw = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
                bind(raw.as_raw_fd(), links.get(&name).ok_or(Errno::ENODEV)?)?;
                Ok((raw, mac))
            };
            Ok(Side { senders: devices.into_iter().map(sender).collect::<nix::Result<_>>()?, receiver })
        })?;
        Ok(opened?)
    }

    /// One question, until it is answered.
    fn ask(&self, port: usize, number: u32) -> Result<Duration> {
        let began = Instant::now();
        self.send(port, number)?;
        while !self.answers()?.contains(&number) {
            ensure!(began.elapsed() < PATIENCE, "port {port} got no offer within {PATIENCE:?}");
        }
        Ok(began.elapsed())
    }

    /// Many questions of many ports; how many a second were answered.
    fn flood(&self, ports: std::ops::Range<usize>, round: u32) -> Result<f64> {
        let all = ports.len() * QUESTIONS_EACH;
        let first = (round + 1) << 16;
        let (began, mut last) = (Instant::now(), Instant::now());
        let (mut sent, mut answered) = (0, 0);
        while answered < all {
            while sent < all && sent - answered < UNDER_WAY {
                self.send(ports.start + sent % ports.len(), first + sent as u32)?;
                sent += 1;
            }
            let answers = self.answers()?;
            let fresh = answers.iter().filter(|number| (first..first + all as u32).contains(number)).count();
            last = if fresh > 0 { Instant::now() } else { last };
            ensure!(last.elapsed() < PATIENCE, "{} of {sent} questions got no offer within {PATIENCE:?}", sent - answered);
            answered += fresh;
        }
        Ok(all as f64 / began.elapsed().as_secs_f64())
    }

    fn send(&self, port: usize, number: u32) -> Result<()> {
        let (socket, mac) = &self.senders[port];
        send(socket.as_raw_fd(), &discover(*mac, number), MsgFlags::empty())?;
        Ok(())
    }

    /// The transactions of the offers that have come, after the first frame; none if nothing comes in time.
    fn answers(&self) -> Result<Vec<u32>> {
        let mut buffer = [0; FRAME_BYTES_MAX];
        let (mut offers, mut flags) = (Vec::new(), MsgFlags::empty());
        loop {
            match recv(self.receiver.as_raw_fd(), &mut buffer, flags) {
                Ok(length) => offers.extend(offer(&buffer[..length])),
                Err(Errno::EAGAIN) => return Ok(offers),
                Err(error) => return Err(error).context("reading a raw socket"),
            }
            flags = MsgFlags::MSG_DONTWAIT;
        }
    }
}

/// A DHCPDISCOVER (RFC 2131) as a frame, with the transaction `number`.
fn discover(mac: [u8; 6], number: u32) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0];
    message.extend(number.to_be_bytes());
    // Seconds, then the flags: answer by broadcast.
    message.extend([0, 0, 0x80, 0]);
    message.extend([0; 16]);
    message.extend(mac);
    message.extend([0; 10 + 64 + 128]);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 4, 1, 3, 6, 26, 255]);
    message.resize(300, 0);
    let udp_bytes = 8 + message.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_bytes).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 0]);
    frame.extend(ip);
    for word in [68, 67, udp_bytes, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(message);
    frame
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// The transaction of a server's answer over IPv4.
fn offer(frame: &[u8]) -> Option<u32> {
    let is_ipv4_udp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 17;
    let is_to_client = frame.get(34..38)? == [0, 67, 0, 68] && *frame.get(42)? == 2;
    (is_ipv4_udp && is_to_client).then_some(u32::from_be_bytes(frame.get(46..50)?.try_into().ok()?))
}
