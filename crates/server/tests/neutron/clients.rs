//! OpenStack's own clients, unmodified, against a served socket.

use std::process::Output;

use axum::Extension;
use serde_json::Value;
use server::auth::Caller;
use server::neutron::{self, Settings};
use tokio::process::Command;

use crate::api::admin;
use crate::common::World;

/// Debian's own interpreter: the one that has Debian's openstacksdk.
const PYTHON: &str = "/usr/bin/python3";
/// Longest run of one client command.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(120);

/// The API on a socket of the loopback interface.
struct Served {
    url: String,
    _world: World,
}

impl Served {
    async fn new() -> Served {
        let world = World::new();
        let caller: Caller = admin();
        let router = neutron::routes(world.core.clone(), Settings::default()).layer(Extension(caller));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Served { url, _world: world }
    }

    async fn run(&self, mut command: Command) -> Output {
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).env("HOME", "/nonexistent").env("no_proxy", "*");
        command.kill_on_drop(true);
        tokio::time::timeout(DEADLINE, command.output()).await.expect("the client answers in time").unwrap()
    }

    async fn openstack(&self, line: &str) -> Output {
        let mut command = Command::new("openstack");
        command.args(["--os-auth-type", "none", "--os-endpoint", &self.url]).args(line.split_whitespace());
        self.run(command).await
    }

    /// A command that succeeds.
    async fn ok(&self, line: &str) -> String {
        let output = self.openstack(line).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "openstack {line}: {out}{err}");
        out.trim().to_string()
    }

    async fn json(&self, line: &str) -> Value {
        let out = self.ok(&format!("{line} -f json")).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
    }

    /// A command that fails with this in its words.
    async fn fails(&self, line: &str, words: &str) {
        let output = self.openstack(line).await;
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains(words), "openstack {line}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_client_manages_everything() {
    let served = Served::new().await;
    let network = served.json("network create net1 --mtu 1400 --description d").await;
    assert_eq!((&network["name"], &network["mtu"]), (&"net1".into(), &1400.into()));
    let subnet = served
        .json("subnet create sub1 --network net1 --subnet-range 10.0.0.0/24 --dns-nameserver 9.9.9.9 --host-route destination=10.9.0.0/16,gateway=10.0.0.9 --allocation-pool start=10.0.0.10,end=10.0.0.200")
        .await;
    assert_eq!((&subnet["gateway_ip"], &subnet["cidr"]), (&"10.0.0.1".into(), &"10.0.0.0/24".into()));
    served.ok("security group create sg1 --description web").await;
    served.ok("security group rule create sg1 --protocol tcp --dst-port 80:90 --remote-ip 10.0.0.0/8").await;
    served.ok("security group rule create sg1 --ethertype IPv6 --protocol ipv6-icmp --icmp-type 128").await;
    let rules = served.json("security group rule list sg1").await;
    assert_eq!(rules.as_array().unwrap().len(), 4);
    let port = served
        .json("port create port1 --network net1 --fixed-ip subnet=sub1,ip-address=10.0.0.50 --security-group sg1 --allowed-address ip-address=10.0.0.60 --extra-dhcp-option name=mtu,value=1400 --host n1 --device-owner compute:nova --tag t1")
        .await;
    assert_eq!(
        (&port["fixed_ips"][0]["ip_address"], &port["binding_vif_type"], &port["status"]),
        (&"10.0.0.50".into(), &"ovs".into(), &"DOWN".into())
    );
    served.ok("port set port1 --name port2 --no-security-group --disable-port-security --no-allowed-address").await;
    assert_eq!(served.json("port show port2").await["port_security_enabled"], Value::Bool(false));
    served.ok("router create r1").await;
    served.ok("router add subnet r1 sub1").await;
    served.ok("router set r1 --route destination=10.77.0.0/16,gateway=10.0.0.5").await;
    let router = served.json("router show r1").await;
    assert_eq!(router["interfaces_info"].as_array().unwrap().len(), 1, "{router}");
    assert_eq!(served.json("port list --router r1").await.as_array().unwrap().len(), 1);
    served.ok("network set net1 --name net2 --tag blue").await;
    assert_eq!(served.json("network list --tags blue").await[0]["Name"], "net2");
    assert_eq!(served.json("subnet list --network net2").await.as_array().unwrap().len(), 1);
    served.ok("subnet set sub1 --name sub2 --no-dhcp").await;
    served.fails("network delete net2", "port").await;
    served.fails("router remove subnet r1 sub2", "required by one or more routes").await;
    served.ok("router unset r1 --route destination=10.77.0.0/16,gateway=10.0.0.5").await;
    served.ok("router remove subnet r1 sub2").await;
    for line in ["router delete r1", "port delete port2", "subnet delete sub2", "network delete net2", "security group delete sg1"] {
        served.ok(line).await;
    }
    assert_eq!(served.json("network list").await, Value::Array(Vec::new()));
}

const SDK: &str = r#"
import sys
import openstack
from openstack import exceptions

net = openstack.connection.Connection(auth_type="none", auth={"endpoint": sys.argv[1]}).network
n = net.create_network(name="n", mtu=1300)
s4 = net.create_subnet(network_id=n.id, ip_version=4, cidr="10.0.0.0/24", name="s4")
s6 = net.create_subnet(network_id=n.id, ip_version=6, cidr="fd00::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac")
assert net.find_subnet("s4").id == s4.id
p = net.create_port(network_id=n.id, name="p")
assert len(p.fixed_ips) == 2 and p.is_port_security_enabled and len(p.security_group_ids) == 1, p
p = net.update_port(p, name="q", binding_host_id="n1")
assert p.name == "q" and p.binding_vif_type == "ovs", p
r = net.create_router(name="r")
i = net.add_interface_to_router(r, subnet_id=s4.id)
assert i["subnet_id"] == s4.id, i
assert [x.id for x in net.ports(device_id=r.id)] == [i["port_id"]]
bulk = net.create_ports([{"network_id": n.id} for _ in range(25)])
assert len(list(bulk)) == 25
assert len(list(net.ports(network_id=n.id, limit=10))) == 27
g = net.create_security_group(name="g")
rule = net.create_security_group_rule(security_group_id=g.id, direction="ingress", protocol="udp", port_range_min=53, port_range_max=53)
try:
    net.create_security_group_rule(security_group_id=g.id, direction="ingress", protocol="udp", port_range_min=53, port_range_max=53)
    raise AssertionError("a duplicate rule was accepted")
except exceptions.ConflictException as e:
    assert rule.id in str(e), e
net.set_tags(n, ["a", "b"])
assert sorted(net.get_network(n.id).tags) == ["a", "b"]
try:
    net.update_network(n, if_revision=999, name="x")
    raise AssertionError("another revision was accepted")
except exceptions.PreconditionFailedException:
    pass
assert net.find_extension("ladon-idempotent-create")
try:
    net.delete_network(n)
    raise AssertionError("a network in use was deleted")
except exceptions.ConflictException:
    pass
net.remove_interface_from_router(r, subnet_id=s4.id)
for port in list(net.ports(network_id=n.id)):
    net.delete_port(port)
net.delete_network(n)
assert list(net.subnets()) == []
print("done")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openstacksdk_works_unmodified() {
    let served = Served::new().await;
    let mut command = Command::new(PYTHON);
    command.args(["-c", SDK, &served.url]);
    let output = served.run(command).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("done"), "{out}{err}");
}
