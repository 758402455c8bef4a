//! Which translated connections may stay.
//!
//! A connection outlives most changes: a member that takes no new connections (weight 0) keeps those over TCP. It ends when its
//! member, listener, pool or load balancer is gone or is switched off; over UDP, where nobody knows when a connection ends,
//! it also ends when its member takes no more. The node reads the connections of a port's zone of members and asks here.

use std::collections::BTreeMap;
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
    balancers: BTreeMap<IpAddr, &'a LoadBalancer>,
}

impl<'a> Judge<'a> {
    /// Knows the load balancers that `port` reaches.
    pub fn new(view: &'a View, port: PortId) -> Judge<'a> {
        let port: Option<&Port> = find(view, Kind::Port, port);
        let domain = port.and_then(|port| view.domain(port.network));
        let networks = domain.into_iter().flat_map(|domain| view.ids(Index::BalancedIn(domain)));
        let balancers = networks.flat_map(|network| view.ids(Index::BalancersOn(model::NetworkId(network))));
        let balancers = balancers.filter_map(|id| find::<LoadBalancer>(view, Kind::LoadBalancer, id));
        Judge { view, balancers: balancers.map(|balancer| (balancer.vip, balancer)).collect() }
    }

    /// True if the connection may go on.
    pub fn may_stay(&self, connection: &Connection) -> bool {
        self.balancers.get(&connection.vip.0).is_some_and(|balancer| self.serves(balancer, connection))
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
