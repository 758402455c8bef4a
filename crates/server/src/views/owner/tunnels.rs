//! Where nodes' tunnels end: no two at one address, or one node would get the other's packets.
//!
//! Thousands of nodes may come at once. So the addresses of one that comes are looked up, in the state's index and among the
//! streams, and nobody looks through all nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::{Node, NodeName};
use rustc_hash::FxHashMap;

use crate::state::State;

/// A node that is not followed: others would send another node's packets to it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "node {node} is not followed, because its tunnel address {address} is that of node {other}: it keeps forwarding and gets no changes; \
     give it an address of its own, or, if {other} does not come back, say so: ladon nodes --forget {other}"
)]
pub struct AddressTaken {
    pub node: NodeName,
    pub address: IpAddr,
    pub other: NodeName,
}

/// Where the tunnels of nodes with a stream end: the state may not have them yet. Two nodes at one address are there only until the stream
/// of the later one ends.
#[derive(Default)]
pub(super) struct Tunnels(FxHashMap<IpAddr, BTreeSet<NodeName>>);

impl Tunnels {
    /// The node has a stream and says these addresses.
    pub fn begin(&mut self, node: &NodeName, addresses: &[IpAddr]) {
        for address in addresses {
            self.0.entry(*address).or_default().insert(node.clone());
        }
    }

    /// The node says them no more.
    pub fn end(&mut self, node: &NodeName, addresses: &[IpAddr]) {
        for address in addresses {
            let Some(nodes) = self.0.get_mut(address) else { continue };
            nodes.remove(node);
            if nodes.is_empty() {
                self.0.remove(address);
            }
        }
    }

    fn at(&self, address: IpAddr) -> impl Iterator<Item = &NodeName> {
        self.0.get(&address).into_iter().flatten()
    }
}

/// Whether the node's tunnels end where no other node's do. What the state has of the node is not looked at again; `streams` are of nodes
/// that may not be in it yet.
pub(super) fn check_addresses(state: &State, facts: &Node, streams: &Tunnels) -> Result<(), AddressTaken> {
    if state.node(&facts.name).is_some_and(|known| known.tunnel_addresses == facts.tunnel_addresses) {
        return Ok(());
    }
    let addresses = || facts.tunnel_addresses.iter().copied();
    let stored = addresses().flat_map(|address| state.nodes_at_address(address).map(move |node| (address, &node.name)));
    let followed = addresses().flat_map(|address| streams.at(address).map(move |node| (address, node)));
    match stored.chain(followed).find(|(_, other)| **other != facts.name) {
        Some((address, other)) => Err(AddressTaken { node: facts.name.clone(), address, other: other.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use model::{Object, Revision};
    use tokio::sync::mpsc;

    use super::super::Owner;
    use super::*;
    use crate::views::tests::world::{name, node};
    use crate::writer::Core;

    /// Node `n` with the addresses of the nodes `of`.
    fn at(n: u32, of: &[u32]) -> Node {
        Node { tunnel_addresses: of.iter().flat_map(|n| node(*n).tunnel_addresses).collect(), ..node(n) }
    }

    #[test]
    fn a_stored_nodes_address_is_its_own() {
        let state = State::new(Revision(1), [node(2), at(3, &[2, 3])].map(|node| Arc::new(Object::from(node))));
        let other = |facts: Node| check_addresses(&state, &facts, &Tunnels::default()).err().map(|taken| (taken.address, taken.other));
        let taken = |address: u32, by: u32| Some((node(address).tunnel_addresses[0], name(by)));
        assert_eq!(other(at(1, &[1])), None);
        assert_eq!(other(at(1, &[1, 3])), taken(3, 3));
        assert_eq!(other(at(2, &[4, 3])), taken(3, 3), "it has changed");
        assert_eq!(other(at(3, &[4, 3])), None, "its own");
        assert_eq!(other(node(2)), None, "what is stored is not looked at again");
    }

    #[tokio::test]
    async fn an_address_is_a_nodes_own_while_its_stream_says_so() {
        let (core, _writer) = Core::by_hand(Arc::new(store::Memory::new()), Arc::new(Timestamp::now)).unwrap();
        let (messages, inbox) = mpsc::channel(1);
        let (mut owner, _) = Owner::new(core, inbox, messages.downgrade(), Arc::default());
        let other = |owner: &mut Owner, facts: Node| owner.connect(facts).err().map(|taken| taken.other);
        let first = owner.connect(node(2)).unwrap().session;
        assert_eq!(other(&mut owner, at(1, &[1, 2])), Some(name(2)));
        let second = owner.connect(at(2, &[3])).unwrap().session;
        assert_eq!(other(&mut owner, at(1, &[1, 2])), None, "its next stream says another address");
        owner.disconnect(&name(2), first);
        assert_eq!(other(&mut owner, at(4, &[3])), Some(name(2)), "the end of the old stream is not the end of the next");
        owner.disconnect(&name(2), second);
        assert_eq!(other(&mut owner, at(4, &[3])), None, "it has no stream any more");
    }
}
