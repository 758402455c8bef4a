//! The rules of a single subnet: CIDR, gateway, pools, DHCP, DNS servers, routes, IPv6 modes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Ipv6Mode, Subnet};

use super::error::ApiError;
use super::fields::{self, Fields};
use super::subnet::{overlaps, version};

/// Most DNS servers of a subnet (Neutron's default `max_dns_nameservers`).
pub const DNS_MAX: usize = 5;
/// Most host routes of a subnet (Neutron's default `max_subnet_host_routes`).
pub const HOST_ROUTES_MAX: usize = 20;
/// Longest prefixes on which DHCP makes sense.
const DHCP_V4_PREFIX_MAX: u8 = 30;
const DHCP_V6_PREFIX_MAX: u8 = 126;
/// Hosts that make their own address need 64 bits for it (RFC 4862, section 5.5.3, with RFC 4291's EUI-64).
const SLAAC_PREFIX: u8 = 64;

/// Ranges in which no host has an address of its network. Neutron refuses multicast and loopback only together with DHCP; without
/// it they make no more sense. IPv4's link-local range is not here: people number links with it, and packets there are as any others.
const HOSTLESS: [(&str, IpNet); 5] = [
    ("Multicast", v4([224, 0, 0, 0], 4)),
    ("Loopback", v4([127, 0, 0, 0], 8)),
    ("Multicast", v6(0xff00 << 112, 8)),
    ("Loopback", v6(1, 128)),
    // Every link has it already (RFC 4291, section 2.5.6), and hosts' own ND depends on it.
    ("Link-local", v6(0xfe80 << 112, 10)),
];

const fn v4(address: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(u32::from_be_bytes(address)), prefix))
}

const fn v6(address: u128, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(address), prefix))
}

/// The CIDR of a new subnet.
pub fn cidr(fields: &Fields) -> Result<IpNet, ApiError> {
    if let Some(pool) = fields.text("subnetpool_id") {
        return Err(ApiError::not_found("SubnetPoolNotFound", format!("Subnet pool {pool} could not be found.")));
    }
    let Some(cidr) = fields.parsed::<IpNet>("cidr") else {
        let message = "Bad subnets request: a subnetpool must be specified in the absence of a cidr.";
        return Err(ApiError::bad("BadRequest", message));
    };
    let wanted = fields.number("ip_version");
    let wanted = wanted.ok_or_else(|| ApiError::invalid_input("ip_version must be specified in the absence of a subnetpool"))?;
    same_version(wanted, cidr.addr(), cidr, "cidr")?;
    if cidr.prefix_len() == 0 {
        return Err(ApiError::invalid_input("0 is not allowed as CIDR prefix length"));
    }
    if cidr.network() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return Err(ApiError::invalid_input("IPv6 subnet '::' is not supported"));
    }
    let hostless = HOSTLESS.iter().find(|(_, range)| overlaps(cidr, *range));
    hostless.map_or(Ok(cidr), |(what, _)| Err(ApiError::invalid_input(format!("{what} IP subnet is not supported"))))
}

fn same_version(wanted: i64, ip: IpAddr, shown: impl std::fmt::Display, name: &str) -> Result<(), ApiError> {
    let has = if ip.is_ipv4() { 4 } else { 6 };
    if has == wanted { Ok(()) } else { Err(ApiError::invalid_input(format!("{name} '{shown}' does not match the ip_version '{wanted}'"))) }
}

fn mode(fields: &Fields, name: &str) -> Option<Ipv6Mode> {
    match fields.text(name)? {
        "dhcpv6-stateful" => Some(Ipv6Mode::Stateful),
        "dhcpv6-stateless" => Some(Ipv6Mode::Stateless),
        _ => Some(Ipv6Mode::Slaac),
    }
}

/// Who announces the subnet, and how hosts get addresses.
pub fn modes(fields: &Fields, cidr: IpNet) -> Result<(Option<Ipv6Mode>, Option<Ipv6Mode>), ApiError> {
    let names = ["ipv6_ra_mode", "ipv6_address_mode"];
    let [ra, address] = names.map(|name| mode(fields, name));
    if cidr.addr().is_ipv4() {
        let odd = names.into_iter().find(|name| fields.set(name).is_some());
        return odd.map_or(Ok((None, None)), |name| Err(ApiError::invalid_input(format!("{name} is not valid when ip_version is 4"))));
    }
    if (ra.is_some() || address.is_some()) && fields.boolean("enable_dhcp") == Some(false) {
        let reason = "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False";
        return Err(ApiError::invalid_input(reason));
    }
    if ra.is_some() && address.is_some() && ra != address {
        let word = |name| fields.text(name).unwrap_or_default();
        return Err(ApiError::invalid_input(format!(
            "ipv6_ra_mode set to '{}' with ipv6_address_mode set to '{}' is not valid. If both attributes are set, they must be \
             the same value",
            word(names[0]),
            word(names[1])
        )));
    }
    let is_slaac = [ra, address].iter().any(|mode| matches!(mode, Some(Ipv6Mode::Slaac | Ipv6Mode::Stateless)));
    if is_slaac && cidr.prefix_len() != SLAAC_PREFIX {
        return Err(ApiError::invalid_input(format!(
            "Invalid CIDR {cidr} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the prefix to be /64"
        )));
    }
    Ok((ra, address))
}

/// The gateway: as said, null for none, or the subnet's first address.
///
/// On IPv6 that is the subnet-router anycast address (RFC 4291, section 2.6.1), as in Neutron. Where that is no host's
/// address (the last prefix lengths), there is none.
pub fn gateway(fields: &Fields, cidr: IpNet) -> Result<Option<IpAddr>, ApiError> {
    if !fields.has("gateway_ip") {
        return Ok(default_gateway(cidr));
    }
    Ok(fields.parsed("gateway_ip"))
}

fn default_gateway(cidr: IpNet) -> Option<IpAddr> {
    match cidr {
        IpNet::V4(net) => (net.prefix_len() <= DHCP_V4_PREFIX_MAX).then(|| IpAddr::V4(Ipv4Addr::from(u32::from(net.network()) + 1))),
        IpNet::V6(net) => (net.prefix_len() < 128).then(|| IpAddr::V6(net.network())),
    }
}

/// The pools: as said, or everything but the gateway.
pub fn pools(fields: &Fields, cidr: IpNet, gateway: Option<IpAddr>) -> Result<Vec<(IpAddr, IpAddr)>, ApiError> {
    let Some(items) = fields.list("allocation_pools") else { return Ok(default_pools(cidr, gateway)) };
    let ends = items.iter().filter_map(|item| Some((fields::ip_of(item, "start")?, fields::ip_of(item, "end")?)));
    let pools: Vec<(IpAddr, IpAddr)> = ends.collect();
    check_pools(cidr, &pools)?;
    gateway.map_or(Ok(()), |gateway| check_gateway_outside(gateway, &pools))?;
    Ok(pools)
}

/// The first and the last address that a host may have.
fn hosts(cidr: IpNet) -> (u128, u128) {
    let (first, last) = (bits(cidr.network()), bits(cidr.broadcast()));
    match cidr {
        IpNet::V4(net) if net.prefix_len() <= DHCP_V4_PREFIX_MAX => (first + 1, last - 1),
        IpNet::V6(net) if net.prefix_len() < 128 => (first + 1, last),
        _ => (first, last),
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(cidr: IpNet, bits: u128) -> IpAddr {
    match cidr {
        // The bits come from an address of the same family.
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(bits as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(bits)),
    }
}

fn default_pools(cidr: IpNet, gateway: Option<IpAddr>) -> Vec<(IpAddr, IpAddr)> {
    let (first, last) = hosts(cidr);
    let gateway = gateway.filter(|gateway| gateway.is_ipv4() == cidr.addr().is_ipv4()).map(bits);
    let ranges = match gateway.filter(|gateway| (first..=last).contains(gateway)) {
        // No underflow: a range that would be empty on one side is dropped below.
        Some(gateway) => vec![(first, gateway.wrapping_sub(1)), (gateway.wrapping_add(1), last)],
        None => vec![(first, last)],
    };
    let is_real = |(start, end): &(u128, u128)| start <= end && (first..=last).contains(start) && (first..=last).contains(end);
    ranges.into_iter().filter(is_real).map(|(start, end)| (address(cidr, start), address(cidr, end))).collect()
}

fn check_pools(cidr: IpNet, pools: &[(IpAddr, IpAddr)]) -> Result<(), ApiError> {
    let (first, last) = hosts(cidr);
    for (start, end) in pools {
        let is_family = [start, end].iter().all(|ip| ip.is_ipv4() == cidr.addr().is_ipv4());
        if !is_family || start > end {
            return Err(ApiError::bad("InvalidAllocationPool", format!("The allocation pool {start}-{end} is not valid.")));
        }
        if bits(*start) < first || bits(*end) > last {
            let message = format!("The allocation pool {start}-{end} spans beyond the subnet cidr {cidr}.");
            return Err(ApiError::bad("OutOfBoundsAllocationPool", message));
        }
    }
    let mut sorted = pools.to_vec();
    sorted.sort();
    match sorted.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let [one, other] = [pair[0], pair[1]].map(|(start, end)| format!("{start}-{end}"));
            let message = format!("Found overlapping allocation pools: {one} {other} for subnet {cidr}.");
            Err(ApiError::conflict("OverlappingAllocationPools", message))
        }
    }
}

fn check_gateway_outside(gateway: IpAddr, pools: &[(IpAddr, IpAddr)]) -> Result<(), ApiError> {
    let Some((start, end)) = pools.iter().find(|(start, end)| (start..=end).contains(&&gateway)) else { return Ok(()) };
    let message = format!("Gateway ip {gateway} conflicts with allocation pool {start}-{end}.");
    Err(ApiError::conflict("GatewayConflictWithAllocationPools", message))
}

/// What must hold of every subnet.
pub fn check(subnet: &Subnet) -> Result<(), ApiError> {
    if subnet.is_dhcp {
        check_dhcp(subnet.cidr)?;
    }
    check_gateway(subnet)?;
    check_limits(subnet)?;
    let wanted = i64::from(version(subnet.cidr));
    subnet.dns_servers.iter().try_for_each(|dns| same_version(wanted, *dns, dns, "dns_nameserver"))?;
    for route in &subnet.host_routes {
        same_version(wanted, route.destination.addr(), route.destination, "destination")?;
        same_version(wanted, route.nexthop, route.nexthop, "nexthop")?;
    }
    Ok(())
}

/// What must hold of a subnet that changes.
pub fn check_change(before: &Subnet, after: &Subnet) -> Result<(), ApiError> {
    if !after.is_dhcp && before.is_dhcp && (before.ra_mode.is_some() || before.address_mode.is_some()) {
        return Err(ApiError::invalid_input("Cannot disable enable_dhcp with ipv6 attributes set"));
    }
    check(after)?;
    let is_changed = before.gateway != after.gateway || before.pools != after.pools;
    after.gateway.filter(|_| is_changed).map_or(Ok(()), |gateway| check_gateway_outside(gateway, &after.pools))
}

fn check_dhcp(cidr: IpNet) -> Result<(), ApiError> {
    let prefix_max = if cidr.addr().is_ipv4() { DHCP_V4_PREFIX_MAX } else { DHCP_V6_PREFIX_MAX };
    if cidr.prefix_len() > prefix_max {
        return Err(ApiError::invalid_input("Subnet has a prefix length that is incompatible with DHCP service enabled"));
    }
    if cidr.network() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        return Err(ApiError::invalid_input("First IP '0.0.0.0' of network is not supported if enable_dhcp is True."));
    }
    Ok(())
}

fn check_gateway(subnet: &Subnet) -> Result<(), ApiError> {
    let Some(gateway) = subnet.gateway else { return Ok(()) };
    same_version(i64::from(version(subnet.cidr)), gateway, gateway, "gateway_ip")?;
    let is_end = matches!(subnet.cidr, IpNet::V4(net) if gateway == IpAddr::V4(net.network()) || gateway == IpAddr::V4(net.broadcast()));
    if is_end { Err(ApiError::invalid_input("Gateway is not valid on subnet")) } else { Ok(()) }
}

fn check_limits(subnet: &Subnet) -> Result<(), ApiError> {
    let refuse = |kind, what: &str, max: usize| {
        let message = format!("Unable to complete operation for {}. The number of {what} exceeds the limit {max}.", subnet.id);
        Err(ApiError::bad(kind, message))
    };
    if subnet.dns_servers.len() > DNS_MAX {
        return refuse("DNSNameServersExhausted", "DNS nameservers", DNS_MAX);
    }
    if subnet.host_routes.len() > HOST_ROUTES_MAX {
        return refuse("HostRoutesExhausted", "host routes", HOST_ROUTES_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cidr: &str) -> (Option<String>, Vec<String>) {
        let cidr: IpNet = cidr.parse().unwrap();
        let gateway = default_gateway(cidr);
        let pools = default_pools(cidr, gateway).into_iter().map(|(start, end)| format!("{start}-{end}")).collect();
        (gateway.map(|gateway| gateway.to_string()), pools)
    }

    fn expect(cidr: &str, gateway: Option<&str>, pools: &[&str]) {
        let pools = pools.iter().map(|pool| pool.to_string()).collect();
        assert_eq!(shown(cidr), (gateway.map(str::to_string), pools), "{cidr}");
    }

    #[test]
    fn the_default_gateway_is_the_first_address_and_no_pool_holds_it() {
        expect("10.9.0.0/24", Some("10.9.0.1"), &["10.9.0.2-10.9.0.254"]);
        expect("10.9.0.0/30", Some("10.9.0.1"), &["10.9.0.2-10.9.0.2"]);
        expect("10.9.0.0/31", None, &["10.9.0.0-10.9.0.1"]);
        expect("10.9.0.0/32", None, &["10.9.0.0-10.9.0.0"]);
        expect("fd00:9::/64", Some("fd00:9::"), &["fd00:9::1-fd00:9::ffff:ffff:ffff:ffff"]);
        expect("fd00:9::7/128", None, &["fd00:9::7-fd00:9::7"]);
        expect("255.255.255.0/24", Some("255.255.255.1"), &["255.255.255.2-255.255.255.254"]);
        expect("ffff::/16", Some("ffff::"), &["ffff::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
    }

    #[test]
    fn a_gateway_in_the_middle_splits_the_pool() {
        let pools = default_pools("10.9.0.0/29".parse().unwrap(), Some("10.9.0.3".parse().unwrap()));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(pools, [(ip("10.9.0.1"), ip("10.9.0.2")), (ip("10.9.0.4"), ip("10.9.0.6"))]);
    }
}
