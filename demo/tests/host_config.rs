//! What the node answers itself, heard by real clients: busybox's DHCP client, the kernel's own address configuration, traceroute.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use demo::{Pair, Tunnel, Workload, id};
use lab::traffic::{EchoServer, Probe, ping, tcp, udp};
use lab::{Netns, wait};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
/// What is refused is told so, and not by a time-out. A packet may be lost: then there is a next one.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A port on `network` with a machine that knows nothing yet.
fn bare(pair: &Pair, network: &Value, name: &str, more: Value) -> Result<(Workload, Value)> {
    let mut wanted = json!({"network_id": id(network), "name": name});
    wanted.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    let port = pair.api().create("port", wanted)?;
    let workload = Workload::plug(&pair.ovs[0], name, &port, &[])?;
    pair.ladon.wait_active(id(&port))?;
    Ok((workload, port))
}

fn address(port: &Value, is_v6: bool) -> Result<IpAddr> {
    let addresses = port["fixed_ips"].as_array().context("a port has fixed_ips")?;
    let mut addresses = addresses.iter().filter_map(|fixed| fixed["ip_address"].as_str()?.parse::<IpAddr>().ok());
    addresses.find(|ip| ip.is_ipv6() == is_v6).context("a port has an address of the family")
}

/// Runs busybox's client until it has a lease, and takes what it heard: `name=value` per line.
fn udhcpc(pair: &Pair, netns: &Netns, name: &str) -> Result<String> {
    let (script, heard) = (pair.lab.dir().join(format!("{name}.sh")), pair.lab.dir().join(format!("{name}.lease")));
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip link set $interface mtu $mtu\nip address add $ip/$mask dev $interface\n\
         ip route add default via $router\nenv > {}\n",
        heard.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let script = script.to_string_lossy();
    netns.tool(
        "busybox",
        &["udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "60", "-T", "1", "-O", "staticroutes", "-O", "mtu", "-s", &script],
    )?;
    fs::read_to_string(&heard).context("the client was bound")
}

#[test]
fn a_machine_gets_its_address_routes_dns_and_mtu_by_dhcp() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let api = pair.api();
    let blue = api.create("network", json!({"name": "blue", "mtu": 1380}))?;
    let v4 = json!({"network_id": id(&blue), "ip_version": 4, "cidr": "10.9.0.0/24", "dns_nameservers": ["10.9.0.2"],
        "host_routes": [{"destination": "10.20.0.0/16", "nexthop": "10.9.0.3"}]});
    let subnet = api.create("subnet", v4)?;
    let router = api.create("router", json!({"name": "r"}))?;
    api.put(&format!("/v2.0/routers/{}/add_router_interface", id(&router)), json!({"subnet_id": id(&subnet)}))?;
    let own = json!({"extra_dhcp_opts": [{"opt_name": "domain-name", "opt_value": "blue.example"}, {"opt_name": "no-such-option", "opt_value": "1"}]});
    let (machine, port) = bare(&pair, &blue, "a", own)?;
    let heard = udhcpc(&pair, machine.netns(), "a").with_context(|| pair.ladon.logs())?;
    let ip = address(&port, false)?;
    let wanted =
        ["router=10.9.0.1", "dns=10.9.0.2", "mtu=1380", "subnet=255.255.255.0", "serverid=10.9.0.1", "lease=86400", "domain=blue.example"];
    for wanted in
        wanted.map(str::to_string).into_iter().chain([format!("ip={ip}"), "staticroutes=10.20.0.0/16 10.9.0.3 0.0.0.0/0 10.9.0.1".into()])
    {
        assert!(heard.lines().any(|line| line == wanted), "{wanted} in\n{heard}");
    }
    assert_eq!(ping(machine.netns(), "10.9.0.1".parse()?, 5, Duration::from_millis(20))?.lost, 0);
    Ok(())
}

/// Until `ip ARGS` in the namespace says `wanted`.
fn wait_said(netns: &Netns, args: &[&str], wanted: &str) -> Result<()> {
    wait::until(&format!("`ip {}` to say {wanted}", args.join(" ")), PATIENCE, || match netns.tool("ip", args) {
        Ok(said) if said.contains(wanted) => Ok(Some(())),
        Ok(said) => Err(said),
        Err(error) => Err(error.to_string()),
    })?;
    Ok(())
}

fn v6_network(pair: &Pair, name: &str, mode: &str) -> Result<(Value, Value)> {
    let api = pair.api();
    let network = api.create("network", json!({"name": name, "mtu": 1380}))?;
    let v6 = json!({"network_id": id(&network), "ip_version": 6, "cidr": "fd00:9::/64", "gateway_ip": "fd00:9::1", "dns_nameservers": ["fd00:9::53"],
        "ipv6_ra_mode": mode, "ipv6_address_mode": mode});
    let subnet = api.create("subnet", v6)?;
    let router = api.create("router", json!({"name": name}))?;
    let interface = api.put(&format!("/v2.0/routers/{}/add_router_interface", id(&router)), json!({"subnet_id": id(&subnet)}))?;
    let interface = api.show("port", interface["port_id"].as_str().context("an interface is a port")?)?;
    Ok((network, interface))
}

fn mac(port: &Value) -> Result<Vec<u8>> {
    let text = port["mac_address"].as_str().context("a port has a MAC")?;
    Ok(text.split(':').map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<_, _>>()?)
}

/// The link-local address that follows from a port's MAC.
fn link_local(port: &Value) -> Result<Ipv6Addr> {
    let [a, b, c, d, e, f] = mac(port)?[..] else { anyhow::bail!("a MAC has six bytes") };
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ok(Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(low)))
}

#[test]
fn a_kernel_makes_its_address_and_its_route_from_router_advertisements() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let (network, interface) = v6_network(&pair, "slaac", "slaac")?;
    let (machine, port) = bare(&pair, &network, "a", json!({}))?;
    let netns = machine.netns();
    wait_said(netns, &["-6", "address", "show", "dev", "eth0", "scope", "global", "-tentative"], &format!("{}/64", address(&port, true)?))
        .with_context(|| pair.ladon.logs())?;
    wait_said(netns, &["-6", "route", "show", "default"], &format!("via {}", link_local(&interface)?))?;
    let mtu = netns.within(|| fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu"))??;
    assert_eq!(mtu.trim(), "1380");
    assert_eq!(ping(netns, "fd00:9::1".parse()?, 5, Duration::from_millis(20))?.lost, 0);
    // Who answers a solicitation without saying that it is a router is a default router no more.
    netns.tool("ip", &["-6", "neighbour", "flush", "dev", "eth0"])?;
    ping(netns, "2001:db8:ffff::1".parse()?, 3, Duration::from_millis(20))?;
    let neighbours = netns.tool("ip", &["-6", "neighbour", "show", "dev", "eth0"])?;
    let known = neighbours.lines().find(|line| line.starts_with("fe80:")).with_context(|| neighbours.clone())?;
    assert!(known.contains("lladdr") && known.contains("router"), "{neighbours}");
    wait_said(netns, &["-6", "route", "show", "default"], "via fe80:")
}

/// SOLICIT with rapid commit from the client with the MAC, for one association.
fn solicit(mac: &[u8]) -> Vec<u8> {
    let client = [&[0, 1, 0, 10, 0, 3, 0, 1][..], mac].concat();
    let association = [&[0, 3, 0, 12, 0, 0, 0, 5][..], &[0; 8]].concat();
    [&[1, 7, 7, 7][..], &client, &association, &[0, 14, 0, 0]].concat()
}

fn ask_dhcpv6(netns: &Netns, index: u32, question: &[u8]) -> Result<Vec<u8>> {
    let ask = || -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 546))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(question, SocketAddr::V6(SocketAddrV6::new("ff02::1:2".parse().expect("an address"), 547, 0, index)))?;
        let mut buffer = [0; 1500];
        let (length, _) = socket.recv_from(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    };
    Ok(netns.within(ask)??)
}

#[test]
fn a_stateful_subnet_gives_addresses_by_dhcpv6_and_by_nothing_else() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let (network, interface) = v6_network(&pair, "stateful", "dhcpv6-stateful")?;
    let (machine, port) = bare(&pair, &network, "a", json!({}))?;
    let netns = machine.netns();
    wait_said(netns, &["-6", "route", "show", "default"], &format!("via {}", link_local(&interface)?))
        .with_context(|| pair.ladon.logs())?;
    assert_eq!(netns.tool("ip", &["-6", "address", "show", "dev", "eth0", "scope", "global"])?, "", "no address without DHCPv6");
    let index = netns.tool("ip", &["-o", "link", "show", "eth0"])?.split(':').next().context("an index")?.trim().parse()?;
    let question = solicit(&mac(&port)?);
    let reply = wait::until("the answer of DHCPv6", PATIENCE, || {
        ask_dhcpv6(netns, index, &question).map(Some).map_err(|error| format!("{error:#}"))
    })?;
    let IpAddr::V6(own) = address(&port, true)? else { anyhow::bail!("an IPv6 address") };
    let says = |bytes: &[u8]| reply.windows(bytes.len()).any(|window| window == bytes);
    assert_eq!(reply[..4], [7, 7, 7, 7], "a reply to the question");
    assert!(says(&own.octets()), "the port's address {own} in {reply:x?}");
    assert!(says(&"fd00:9::53".parse::<Ipv6Addr>()?.octets()), "the DNS server in {reply:x?}");
    Ok(())
}

/// INFORMATION-REQUEST of the client with the MAC.
fn inform(mac: &[u8]) -> Vec<u8> {
    [&[11, 9, 9, 9][..], &[0, 1, 0, 10, 0, 3, 0, 1], mac, &[0, 6, 0, 2, 0, 23]].concat()
}

#[test]
fn a_stateless_subnet_gives_addresses_by_advertisements_and_servers_by_dhcpv6() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let (network, _) = v6_network(&pair, "stateless", "dhcpv6-stateless")?;
    let (machine, port) = bare(&pair, &network, "a", json!({}))?;
    let netns = machine.netns();
    let own = address(&port, true)?;
    wait_said(netns, &["-6", "address", "show", "dev", "eth0", "scope", "global", "-tentative"], &format!("{own}/64"))
        .with_context(|| pair.ladon.logs())?;
    let index = netns.tool("ip", &["-o", "link", "show", "eth0"])?.split(':').next().context("an index")?.trim().parse()?;
    let reply = wait::until("the answer of DHCPv6", PATIENCE, || {
        ask_dhcpv6(netns, index, &inform(&mac(&port).map_err(|error| error.to_string())?)).map(Some).map_err(|error| format!("{error:#}"))
    })?;
    let says = |bytes: &[u8]| reply.windows(bytes.len()).any(|window| window == bytes);
    assert_eq!(reply[..4], [7, 9, 9, 9], "a reply to the question");
    assert!(says(&"fd00:9::53".parse::<Ipv6Addr>()?.octets()), "the DNS server in {reply:x?}");
    let IpAddr::V6(own) = own else { anyhow::bail!("an IPv6 address") };
    assert!(!says(&own.octets()), "no address by DHCPv6: {reply:x?}");
    Ok(())
}

/// Until a probe ends as it should.
fn wait_probed(pair: &Pair, what: &str, wanted: &Probe, probe: impl Fn() -> lab::Result<Probe>) -> Result<()> {
    wait::until(&format!("{what} to be {wanted:?}"), PATIENCE, || match probe() {
        Ok(probe) if probe == *wanted => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .with_context(|| pair.ladon.logs())
}

#[test]
fn routers_say_where_packets_ended_and_refuse_at_once() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let (blue, red) = (pair.network("blue", 9)?, pair.network("red", 10)?);
    pair.router("r", &[&blue, &red])?;
    let a = pair.plug(&blue, 0, "a", json!({}))?;
    let b = pair.plug(&red, 1, "b", json!({"port_security_enabled": false}))?;
    let netns = a.workload.netns();
    for (tool, router, target) in [("traceroute", "10.9.0.1", b.v4), ("traceroute6", "fd00:9::1", b.v6)] {
        ping(netns, target, 2, Duration::from_millis(50))?;
        let said = netns.tool("busybox", &[tool, "-n", "-q", "3", "-w", "5", "-m", "3", &target.to_string()])?;
        let hops: Vec<&str> = said.lines().filter(|line| line.starts_with(' ')).collect();
        ensure!(hops.len() == 2 && hops[0].contains(router) && hops[1].contains(&target.to_string()), "{said}");
    }
    for router in ["10.9.0.1", "fd00:9::1"] {
        let to: IpAddr = router.parse()?;
        wait_probed(&pair, "TCP to a router", &Probe::Refused, || tcp(netns, (to, 80).into(), b"", AT_ONCE))?;
        wait_probed(&pair, "UDP to a router", &Probe::Refused, || udp(netns, (to, 80).into(), b"?", AT_ONCE))?;
    }
    for nowhere in ["198.51.100.1", "fd77::1", "10.10.0.250", "fd00:10::250"] {
        let to: IpAddr = nowhere.parse()?;
        wait_probed(&pair, "TCP to nowhere", &Probe::Unreachable, || tcp(netns, (to, 80).into(), b"", AT_ONCE))?;
    }
    Ok(())
}

#[test]
fn a_vip_without_members_refuses_at_once() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let api = pair.api();
    let blue = pair.network("blue", 9)?;
    let subnets = api.list("subnet", &format!("network_id={}&ip_version=4", id(&blue)))?;
    let balancer = api.create("loadbalancer", json!({"name": "empty", "vip_subnet_id": id(&subnets[0])}))?;
    for protocol in ["TCP", "UDP"] {
        let listener = json!({"name": protocol, "loadbalancer_id": id(&balancer), "protocol": protocol, "protocol_port": 80});
        let listener = api.create("listener", listener)?;
        api.create("pool", json!({"listener_id": id(&listener), "protocol": protocol, "lb_algorithm": "SOURCE_IP_PORT"}))?;
    }
    let a = pair.plug(&blue, 0, "a", json!({}))?;
    let vip: IpAddr = balancer["vip_address"].as_str().context("a load balancer has a VIP")?.parse()?;
    ping(a.workload.netns(), vip, 2, Duration::from_millis(50))?;
    for port in [80, 81] {
        let (netns, at) = (a.workload.netns(), (vip, port).into());
        wait_probed(&pair, &format!("TCP {port}"), &Probe::Refused, || tcp(netns, at, b"", AT_ONCE))?;
        wait_probed(&pair, &format!("UDP {port}"), &Probe::Refused, || udp(netns, at, b"?", AT_ONCE))?;
    }
    Ok(())
}

/// IPv4 only: the userspace datapath of Open vSwitch 3.1 spoils two bytes of the quoted header when it gives an ICMPv6 error about
/// a TCP connection its VIP back.
#[test]
fn an_error_about_a_connection_through_a_vip_names_the_vip() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let api = pair.api();
    let (blue, red) = (pair.network("blue", 9)?, pair.network("red", 10)?);
    pair.router("r", &[&blue, &red])?;
    let a = pair.plug(&blue, 0, "a", json!({}))?;
    let b = pair.plug(&red, 1, "b", json!({"port_security_enabled": false}))?;
    let _server = EchoServer::start(b.workload.netns(), 8080)?;
    let subnets = api.list("subnet", &format!("network_id={}&ip_version=4", id(&blue)))?;
    let balancer = api.create("loadbalancer", json!({"name": "web", "vip_subnet_id": id(&subnets[0])}))?;
    let listener = api.create("listener", json!({"loadbalancer_id": id(&balancer), "protocol": "TCP", "protocol_port": 80}))?;
    let pool = api.create("pool", json!({"listener_id": id(&listener), "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"}))?;
    let member = json!({"member": {"address": b.v4.to_string(), "protocol_port": 8080}});
    let (status, said) = api.request("POST", &format!("/v2.0/lbaas/pools/{}/members", id(&pool)), Some(&member))?;
    ensure!(status == 201, "{said}");
    let vip: IpAddr = balancer["vip_address"].as_str().context("a load balancer has a VIP")?.parse()?;
    let netns = a.workload.netns();
    wait::until("the VIP to answer", PATIENCE, || match tcp(netns, (vip, 80).into(), b"hello", AT_ONCE) {
        Ok(probe) if probe.is_answered() => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })?;
    netns.sysctl(&[("net/ipv4/ip_default_ttl", "1")])?;
    wait_probed(&pair, "the router's time exceeded", &Probe::Unreachable, || tcp(netns, (vip, 80).into(), b"", AT_ONCE))
}

#[test]
fn an_address_of_a_block_that_nobody_has_is_unreachable_at_once_from_everywhere() -> Result<()> {
    let pair = Pair::start(Tunnel::default())?;
    let api = pair.api();
    let blue = api.create("network", json!({"name": "blue"}))?;
    api.create("subnet", json!({"network_id": id(&blue), "ip_version": 4, "cidr": "10.12.0.0/22"}))?;
    let red = pair.network("red", 10)?;
    pair.router("r", &[&blue, &red])?;
    let on_blue = |node: usize, name: &str, more: Value| -> Result<(Workload, IpAddr)> {
        let mut wanted = json!({"network_id": id(&blue), "name": name});
        wanted.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let port = api.create("port", wanted)?;
        let ip = address(&port, false)?;
        let workload = Workload::plug(&pair.ovs[node], name, &port, &[(ip, 22)])?;
        workload.default_route("10.12.0.1".parse()?)?;
        pair.ladon.wait_active(id(&port))?;
        Ok((workload, ip))
    };
    // A pod, whose host is known when its port is made, has its address from a block of that host.
    let open = json!({"binding:host_id": "n2", "device_owner": "ladon:pod", "port_security_enabled": false});
    let (_pod, taken) = on_blue(1, "pod", open)?;
    let (beside, beside_ip) = on_blue(1, "beside", json!({}))?;
    let (near, near_ip) = on_blue(0, "near", json!({}))?;
    let far = pair.plug(&red, 0, "far", json!({}))?;
    let IpAddr::V4(pod_ip) = taken else { anyhow::bail!("IPv4") };
    // 16 addresses on: in the same block of 64, and not the next ones that are given out.
    let free = IpAddr::V4((u32::from(pod_ip) ^ 16).into());
    ensure!(![beside_ip, near_ip].contains(&free));
    for (netns, what) in [(beside.netns(), "on the node"), (near.netns(), "on another node"), (far.workload.netns(), "behind a router")] {
        ping(netns, taken, 2, Duration::from_millis(50))?;
        assert_eq!(ping(netns, taken, 3, Duration::from_millis(20))?.lost, 0, "{what}: the pod itself");
        let named = format!("{what} {taken} {free} {beside_ip} {near_ip}");
        wait_probed(&pair, &named, &Probe::Unreachable, || tcp(netns, (free, 80).into(), b"", AT_ONCE))?;
    }
    Ok(())
}
