//! A virtual machine boots, obeys, and has a network card on a tap.

use std::fs;
use std::process::Command;
use std::time::Duration;

use lab::vm::{self, Vm};
use lab::{Lab, Ovs, Progress, Underlay, traffic, wait};

/// What Neutron's subnets say, from the smallest DHCP server at hand: router and MTU, name server, a classless route
/// (which, by RFC 3442, makes the router option void).
const UDHCPD: &str = "start 10.5.0.9\nend 10.5.0.9\ninterface tap-vm2\nlease_file DIR/leases\npidfile DIR/pid\n\
    option subnet 255.255.255.0\noption router 10.5.0.254\noption mtu 1400\noption dns 10.5.0.53\n\
    option staticroutes 10.7.0.0/16 10.5.0.7, 0.0.0.0/0 10.5.0.1\n";

const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn a_machine_takes_what_dhcp_offers() {
    let image = vm::image(None, &Progress::quiet()).unwrap();
    let lab = Lab::scratch().unwrap();
    let underlay = Underlay::new(&lab).unwrap();
    let host = underlay.host("a", 11).unwrap();
    let vm = Vm::start(&host, &image, "vm2", "tap-vm2", "02:00:00:00:00:02").unwrap();
    host.tool("ip", &["address", "add", "10.5.0.1/24", "dev", "tap-vm2"]).unwrap();
    let config = host.folder("dhcp").unwrap().join("udhcpd.conf");
    let folder = config.parent().unwrap();
    fs::write(&config, UDHCPD.replace("DIR", &folder.to_string_lossy())).unwrap();
    fs::write(folder.join("leases"), "").unwrap();
    let server = host.spawn("udhcpd", Command::new("busybox").args(["udhcpd", "-f"]).arg(&config)).unwrap();
    vm.wait_booted().unwrap();
    let expected = ["10.5.0.9/24", "mtu 1400", "default via 10.5.0.1", "10.7.0.0/16 via 10.5.0.7", "nameserver 10.5.0.53"];
    server
        .wait_until("the lease", DEADLINE, || {
            let show = "ip address show eth0; ip route; cat /etc/resolv.conf";
            let seen = vm.run(show).map_err(|error| error.to_string())?.output;
            if expected.iter().all(|one| seen.contains(one)) { Ok(Some(())) } else { Err(seen) }
        })
        .unwrap();
    let is_reached = || traffic::is_reachable(host.netns(), "10.5.0.9".parse().unwrap()).map(|is| is.then_some(()));
    wait::until("the machine to be reached", DEADLINE, is_reached).unwrap();
}

#[test]
fn a_machine_boots_and_is_reached_through_its_tap() {
    let image = vm::image(None, &Progress::quiet()).unwrap();
    let lab = Lab::scratch().unwrap();
    let underlay = Underlay::new(&lab).unwrap();
    let host = underlay.host("a", 11).unwrap();
    let vm = Vm::start(&host, &image, "vm1", "tap-vm1", "02:00:00:00:00:01").unwrap();
    let ovs = Ovs::start(&host).unwrap();
    let port = "8d1b1b2c-0000-4000-8000-000000000001";
    ovs.plug_like_nova("br-phy", vm.tap(), port, "02:00:00:00:00:01", "server-1").unwrap();
    assert!(ovs.vsctl(&["get", "Interface", "tap-vm1", "external_ids:iface-id"]).unwrap().contains(port));
    vm.wait_booted().unwrap();

    let said = vm.run("hostname; exit 7").unwrap();
    assert_eq!((said.exit, said.output.trim()), (7, "vm1"));
    assert!(vm.run("two\nlines").is_err());
    assert!(vm.run_within("sleep 2", Duration::from_millis(200)).is_err());

    vm.run("ip address add 192.0.2.77/24 dev eth0").unwrap().ok().unwrap();
    let page = || traffic::http_get(host.netns(), "192.0.2.77:80".parse().unwrap(), "/", Duration::from_secs(5));
    wait::until("its page", DEADLINE, || page().map(|page| (page.text() == "vm1").then_some(()))).unwrap();
    assert!(vm.run("ping -c 3 -i 0.2 -W 20 192.0.2.11").unwrap().exit == 0);
    vm.run("modprobe openvswitch && modprobe 8021q && modprobe geneve").unwrap().ok().unwrap();
    vm.stop().unwrap();
    assert!(!host.tool("ip", &["-brief", "link"]).unwrap().contains("tap-vm1"));
}
