//! The smallest worlds: a core in memory with a clock of its own, a network, subnets.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use model::*;
use server::ipam::{self, IpamError, Request};
use server::{Core, Tx};
use store::{ChangesError, Commit, Snapshot, Store, StoreError, TransactError, Transaction};
use uuid::Uuid;

/// A core over a store in memory; time stands still unless it is told to pass.
pub struct World {
    pub core: Core,
    pub store: Arc<store::Memory>,
    secs: Arc<AtomicI64>,
}

/// A store that does not tell of updates unless it is asked, and only tells everything.
pub struct Deaf(pub Arc<store::Memory>);

impl Store for Deaf {
    fn load(&self) -> Result<Snapshot, StoreError> {
        self.0.load()
    }

    fn changes(&self, from: Revision, most: usize) -> Result<Vec<Commit>, ChangesError> {
        self.0.changes(from, most)
    }

    fn transact(&self, transaction: &Transaction) -> Result<Revision, TransactError> {
        self.0.transact(transaction)
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

impl World {
    pub fn new() -> World {
        World::on(Arc::new(store::Memory::new()), 1_800_000_000)
    }

    fn on(store: Arc<store::Memory>, secs: i64) -> World {
        let secs = Arc::new(AtomicI64::new(secs));
        let clock = secs.clone();
        let core = Core::start_with_clock(store.clone(), Arc::new(move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap()));
        World { core: core.unwrap(), store, secs }
    }

    pub fn now(&self) -> i64 {
        self.secs.load(Ordering::SeqCst)
    }

    pub fn pass(&self, secs: i64) {
        self.secs.fetch_add(secs, Ordering::SeqCst);
    }

    /// The server started again on the same store.
    pub fn restarted(&self) -> World {
        World::on(self.store.clone(), self.now())
    }

    /// Another server on the same store, whose watch is late.
    pub fn late(&self) -> World {
        let core = Core::start(Arc::new(Deaf(self.store.clone()))).unwrap();
        World { core, store: self.store.clone(), secs: self.secs.clone() }
    }

    pub async fn put(&self, object: impl Into<Object>) {
        let object = object.into();
        let put = move |tx: &mut Tx| -> Result<(), server::WriteError> {
            tx.put(object.clone());
            Ok(())
        };
        self.core.write(put).await.unwrap();
    }

    pub async fn delete(&self, key: ObjectKey) {
        let delete = move |tx: &mut Tx| -> Result<(), server::WriteError> {
            tx.delete(key);
            Ok(())
        };
        self.core.write(delete).await.unwrap();
    }

    /// A new port with the addresses that IPAM gives it.
    pub async fn port(&self, wish: Wish) -> Result<Port, IpamError> {
        self.core.write(move |tx: &mut Tx| make_port(tx, &wish)).await.map(|written| written.value)
    }

    pub async fn delete_port(&self, id: PortId) {
        self.delete(ObjectKey::new(Kind::Port, id)).await;
    }
}

/// What a test wants of a port.
#[derive(Clone, Debug)]
pub struct Wish {
    pub network: NetworkId,
    pub owner: String,
    pub host: Option<NodeName>,
    pub wanted: Option<Vec<ipam::Wanted>>,
    pub mac: Option<Mac>,
}

pub fn plain(network: NetworkId) -> Wish {
    Wish { network, owner: String::new(), host: None, wanted: None, mac: None }
}

pub fn pod(network: NetworkId, host: &str) -> Wish {
    Wish { owner: owner::POD.into(), host: Some(NodeName(host.into())), ..plain(network) }
}

pub fn make_port(tx: &mut Tx, wish: &Wish) -> Result<Port, IpamError> {
    let request = Request {
        network: wish.network,
        device_owner: &wish.owner,
        host: wish.host.as_ref(),
        wanted: wish.wanted.as_deref(),
        mac: wish.mac,
        existing: None,
    };
    let got = ipam::allocate(tx, &request)?;
    let key = tx.port_key()?;
    let port = Port {
        id: PortId(Uuid::new_v4()),
        key,
        network: wish.network,
        project: ProjectId::default(),
        name: String::new(),
        description: String::new(),
        is_admin_up: true,
        mac: got.mac,
        fixed_ips: got.fixed_ips,
        address_pairs: Vec::new(),
        is_port_security: true,
        security_groups: Vec::new(),
        device_owner: wish.owner.clone(),
        device_id: String::new(),
        host: wish.host.clone(),
        claimed_by: None,
        vnic_type: "normal".into(),
        dhcp_options: Vec::new(),
        block: got.block,
        status: PortStatus::Down,
        standard: Standard::default(),
    };
    tx.put(port.clone());
    Ok(tx.state().port(port.id).cloned().unwrap())
}

pub fn network(number: u128) -> Network {
    Network {
        id: NetworkId(Uuid::from_u128(number)),
        key: NetworkKey(number as u32),
        project: ProjectId("p".into()),
        name: "net".into(),
        description: String::new(),
        is_admin_up: true,
        is_shared: false,
        mtu: 1450,
        is_port_security_default: true,
        is_flooding: true,
        standard: Standard::default(),
    }
}

/// A subnet with the first address as its gateway and all others in its pool.
pub fn subnet(network: &Network, cidr: &str) -> Subnet {
    let cidr: ipnet::IpNet = cidr.parse().unwrap();
    let (first, last) = match cidr {
        ipnet::IpNet::V4(cidr) => (u128::from(u32::from(cidr.network())), u128::from(u32::from(cidr.broadcast())) - 1),
        ipnet::IpNet::V6(cidr) => (u128::from(cidr.network()), u128::from(cidr.broadcast())),
    };
    let ip = |number: u128| match cidr {
        ipnet::IpNet::V4(_) => std::net::Ipv4Addr::from(number as u32).into(),
        ipnet::IpNet::V6(_) => std::net::Ipv6Addr::from(number).into(),
    };
    Subnet {
        id: SubnetId(Uuid::new_v5(&network.id.0, cidr.to_string().as_bytes())),
        network: network.id,
        project: ProjectId("p".into()),
        name: String::new(),
        description: String::new(),
        cidr,
        gateway: Some(ip(first + 1)),
        pools: vec![(ip(first + 2), ip(last))],
        is_dhcp: true,
        dns_servers: Vec::new(),
        host_routes: Vec::new(),
        ra_mode: None,
        address_mode: None,
        standard: Standard::default(),
    }
}

pub fn slaac(network: &Network, cidr: &str) -> Subnet {
    Subnet { ra_mode: Some(Ipv6Mode::Slaac), address_mode: Some(Ipv6Mode::Slaac), ..subnet(network, cidr) }
}

/// Waits until `is_so`.
pub async fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
