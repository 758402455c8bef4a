//! Which translated connections may stay.
//!
//! A connection outlives most changes: a member that takes no new connections (weight 0) keeps those over TCP. It ends when its
//! member, listener, pool or load balancer is gone or is switched off; over UDP, where nobody knows when a connection ends,
//! it also ends when its member takes no more. The node reads the connections of a port's zone of members and asks here. A port
//! reaches very many load balancers and has connections to few: one is looked up when it is asked about.

use std::net::IpAddr;

use model::{Kind, Listener, LoadBalancer, Member, Pool, Port, PortId};

use super::vip::is_up;
use crate::view::{Index, View, find};

const UDP: u8 = 17;

/// A connection in a port's zone of members: what the client asked for, and the member that it got.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Connection {
    /// IP protocol.
    pub proto: u8,
    /// Destination of the original direction: the VIP and its port.
    pub vip: (IpAddr, u16),
    /// Source of the reply direction: the member and its port.
    pub member: (IpAddr, u16),
}

/// Judges the connections of one port by the view of this moment.
pub struct Judge<'a> {
    view: &'a View,
    /// The port's routing domain, if its network is in view.
    domain: Option<u32>,
}

impl<'a> Judge<'a> {
    /// Knows where `port` reaches load balancers.
    pub fn new(view: &'a View, port: PortId) -> Judge<'a> {
        let port: Option<&Port> = find(view, Kind::Port, port);
        Judge { view, domain: port.and_then(|port| view.domain(port.network)) }
    }

    /// True if the connection may go on.
    pub fn may_stay(&self, connection: &Connection) -> bool {
        self.balancer(connection.vip.0).is_some_and(|balancer| self.serves(balancer, connection))
    }

    /// The load balancer with the VIP that the port reaches; always the same one, if networks of its domain have the same addresses.
    fn balancer(&self, vip: IpAddr) -> Option<&'a LoadBalancer> {
        let domain = self.domain?;
        let with_vip = self.view.ids(Index::BalancersAt(vip)).filter_map(|id| find::<LoadBalancer>(self.view, Kind::LoadBalancer, id));
        let reached = with_vip.filter(|balancer| self.view.domain(balancer.vip_network) == Some(domain));
        reached.max_by_key(|balancer| (balancer.vip_network, balancer.id))
    }

    fn serves(&self, balancer: &LoadBalancer, connection: &Connection) -> bool {
        let port: Option<&Port> = find(self.view, Kind::Port, balancer.vip_port);
        let listeners = self.view.ids(Index::ListenersOf(balancer.id)).filter_map(|id| find::<Listener>(self.view, Kind::Listener, id));
        let mut asked = listeners
            .filter(|listener| listener.is_admin_up && listener.protocol.number() == connection.proto && listener.port == connection.vip.1);
        port.is_some_and(|port| is_up(balancer, port)) && asked.any(|listener| self.has_member(listener, connection))
    }

    fn has_member(&self, listener: &Listener, connection: &Connection) -> bool {
        let pool = listener.default_pool.and_then(|id| find::<Pool>(self.view, Kind::Pool, id)).filter(|pool| pool.is_admin_up);
        let at = self.view.ids(Index::MembersAt(connection.member.0)).filter_map(|id| find::<Member>(self.view, Kind::Member, id));
        let stays = |member: &Member| member.is_admin_up && (member.weight > 0 || connection.proto != UDP);
        let mut at = at.filter(|member| member.port == connection.member.1 && stays(member));
        pool.is_some_and(|pool| at.any(|member| member.pool == pool.id))
    }
}
