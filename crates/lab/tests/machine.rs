//! A virtual machine boots, obeys, and has a network card on a tap.

use std::time::Duration;

use lab::vm::{self, Vm};
use lab::{Lab, Ovs, Progress, Underlay, traffic};

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
    assert_eq!(page().unwrap().text(), "vm1");
    assert!(vm.run("ping -c 3 -i 0.2 192.0.2.11").unwrap().exit == 0);
    vm.run("modprobe openvswitch && modprobe 8021q && modprobe geneve").unwrap().ok().unwrap();
    vm.stop().unwrap();
    assert!(!host.tool("ip", &["-brief", "link"]).unwrap().contains("tap-vm1"));
}
