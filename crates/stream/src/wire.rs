//! The messages, as Protocol Buffers (proto3), package `ladon.v1`.
//!
//! Numbers are never reused. A field that is absent has its type's zero, so new fields need no new generation as long as zero
//! means "as before".

use std::net::IpAddr;

use bytes::Bytes;
use model::{Kind, NodeName, ObjectKey, PortId, TunnelType};
use uuid::Uuid;

/// From a node to its server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeMessage {
    #[prost(oneof = "node_message::Body", tags = "1, 2")]
    pub body: Option<node_message::Body>,
}

pub mod node_message {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        #[prost(message, tag = "1")]
        Hello(super::Hello),
        #[prost(message, tag = "2")]
        Report(super::Report),
    }
}

/// The first message of a stream: who the node is and where it stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(string, tag = "1")]
    pub node: String,
    /// Where the node's tunnels end, the preferred address first.
    #[prost(string, repeated, tag = "2")]
    pub tunnel_addresses: Vec<String>,
    /// `geneve` or `vxlan`.
    #[prost(string, tag = "3")]
    pub tunnel: String,
    /// The revision of the view that the node keeps; 0: it keeps none.
    #[prost(uint64, tag = "4")]
    pub revision: u64,
    /// [`InterestHash`](crate::InterestHash) of that view's keys.
    #[prost(uint64, tag = "5")]
    pub interest_hash: u64,
    /// [`VIEW_FORMAT`](crate::VIEW_FORMAT) of the node.
    #[prost(uint32, tag = "6")]
    pub view_format: u32,
    /// [`model::StoreId`] of that view; empty: it keeps none, or does not know.
    #[prost(string, tag = "7")]
    pub store: String,
    /// The bridge that the node programs, into which others plug; empty: unknown.
    #[prost(string, tag = "8")]
    pub bridge: String,
    /// `system` or `netdev`; empty: unknown.
    #[prost(string, tag = "9")]
    pub datapath: String,
}

/// What is true on the node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// Forget earlier reports: this is everything.
    #[prost(bool, tag = "1")]
    pub is_full: bool,
    /// Interfaces on the switch that have an iface-id, new or changed.
    #[prost(message, repeated, tag = "2")]
    pub present: Vec<Interface>,
    /// Iface-ids that are no longer on the switch.
    #[prost(string, repeated, tag = "3")]
    pub absent: Vec<String>,
    /// Ports whose flows came into the switch: 16 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub installed: Vec<Bytes>,
    /// Ports whose flows left the switch.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub uninstalled: Vec<Bytes>,
    /// The revision whose flows are in the switch.
    #[prost(uint64, tag = "6")]
    pub revision: u64,
    /// Flows and groups that the switch refuses: while there are any, the revision stays where it is.
    #[prost(uint32, tag = "7")]
    pub refused: u32,
}

/// An interface on the switch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Interface {
    #[prost(string, tag = "1")]
    pub iface_id: String,
    /// What OVSDB says in the `error` column when the interface has no ofport; empty: it has one.
    #[prost(string, tag = "2")]
    pub error: String,
    /// All interfaces on this switch that have the iface-id, where it is more than one.
    #[prost(string, tag = "3")]
    pub rivals: String,
}

/// What is said of the interface that has an iface-id: all of [`Interface`] but that.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Presence {
    pub error: String,
    pub rivals: String,
}

/// Longest iface-id that a node tells, in bytes. OVSDB has no limit; Neutron's, Nova's and libvirt's are UUIDs.
pub const IFACE_ID_BYTES_MAX: usize = 255;

/// From a server to a node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerMessage {
    #[prost(oneof = "server_message::Body", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub body: Option<server_message::Body>,
}

pub mod server_message {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        #[prost(message, tag = "1")]
        SnapshotBegin(super::SnapshotBegin),
        #[prost(message, tag = "2")]
        SnapshotChunk(super::SnapshotChunk),
        #[prost(message, tag = "3")]
        SnapshotEnd(super::SnapshotEnd),
        #[prost(message, tag = "4")]
        Delta(super::Delta),
        #[prost(message, tag = "5")]
        Heartbeat(super::Heartbeat),
        #[prost(message, tag = "6")]
        Refused(super::Refused),
        #[prost(message, tag = "7")]
        Welcome(super::Welcome),
    }
}

/// The first message of a stream: which store everything that follows comes from.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// [`model::StoreId`].
    #[prost(string, tag = "1")]
    pub store: String,
}

/// What follows replaces the view.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotBegin {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(uint64, tag = "2")]
    pub objects: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotChunk {
    /// Each a [`model::Object`] in JSON.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub objects: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotEnd {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(uint64, tag = "2")]
    pub interest_hash: u64,
}

/// Leads from the view at `from` to the view at `to`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Delta {
    #[prost(uint64, tag = "1")]
    pub from: u64,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// Each a [`model::Object`] in JSON: it is new in the view, or changed.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub upserts: Vec<Bytes>,
    #[prost(message, repeated, tag = "4")]
    pub removals: Vec<Key>,
    /// The rest follows in another Delta with the same `from` and `to`: apply all or nothing.
    #[prost(bool, tag = "5")]
    pub is_partial: bool,
    /// The hash of the view at `to`.
    #[prost(uint64, tag = "6")]
    pub interest_hash: u64,
}

/// The view at `revision` is the one that the node has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Heartbeat {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// The server ends the stream, and why.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// [`ObjectKey`] on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Key {
    /// [`Kind::word`].
    #[prost(string, tag = "1")]
    pub kind: String,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub id: Bytes,
}

/// Where a node's tunnels may end: a few addresses of each family.
pub const TUNNEL_ADDRESSES_MAX: usize = 8;
/// Longest name of a node or its bridge, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A message that means nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    #[error("'{0}' is no kind of object")]
    Kind(String),
    #[error("an id has {0} bytes instead of 16")]
    Id(usize),
    #[error("'{0}' is no IP address")]
    Address(String),
    #[error("'{0}' is no tunnel type: geneve or vxlan")]
    Tunnel(String),
    #[error("{0} tunnel addresses are more than {TUNNEL_ADDRESSES_MAX}")]
    Addresses(usize),
    #[error("a name of {0} bytes is longer than {NAME_BYTES_MAX}")]
    Name(usize),
    #[error("'{0}' is no datapath: system or netdev")]
    Datapath(String),
    #[error("an object cannot be read: {0}")]
    Object(String),
    #[error("'{0}' is no store's identity")]
    Store(String),
}

impl From<&ObjectKey> for Key {
    fn from(key: &ObjectKey) -> Key {
        Key { kind: key.kind.word().to_string(), id: Bytes::copy_from_slice(key.id.as_bytes()) }
    }
}

impl TryFrom<&Key> for ObjectKey {
    type Error = WireError;

    fn try_from(key: &Key) -> Result<ObjectKey, WireError> {
        let kind = Kind::from_word(&key.kind).ok_or_else(|| WireError::Kind(key.kind.clone()))?;
        Ok(ObjectKey { kind, id: uuid(&key.id)? })
    }
}

fn uuid(bytes: &[u8]) -> Result<Uuid, WireError> {
    Uuid::from_slice(bytes).map_err(|_| WireError::Id(bytes.len()))
}

/// A port's id on the wire.
pub fn port_bytes(id: PortId) -> Bytes {
    Bytes::copy_from_slice(id.0.as_bytes())
}

/// The port's id that `bytes` are.
pub fn port_id(bytes: &[u8]) -> Result<PortId, WireError> {
    uuid(bytes).map(PortId)
}

/// An object on the wire, in no more memory than it needs: it may wait for a node, and be kept for the next.
pub fn object_bytes(object: &model::Object) -> Bytes {
    let json = serde_json::to_vec(object).expect("objects have no maps with keys that are not text");
    json.into_boxed_slice().into()
}

/// The object that `bytes` are.
pub fn object(bytes: &[u8]) -> Result<model::Object, WireError> {
    serde_json::from_slice(bytes).map_err(|error| WireError::Object(error.to_string()))
}

impl TryFrom<&Hello> for model::Node {
    type Error = WireError;

    fn try_from(hello: &Hello) -> Result<model::Node, WireError> {
        let tunnel = match hello.tunnel.as_str() {
            "" | "geneve" => TunnelType::Geneve,
            "vxlan" => TunnelType::Vxlan,
            other => return Err(WireError::Tunnel(other.to_string())),
        };
        if let Some(name) = [&hello.node, &hello.bridge].into_iter().find(|name| name.len() > NAME_BYTES_MAX) {
            return Err(WireError::Name(name.len()));
        }
        if !["", "system", "netdev"].contains(&hello.datapath.as_str()) {
            return Err(WireError::Datapath(hello.datapath.chars().take(NAME_BYTES_MAX).collect()));
        }
        Ok(model::Node {
            name: NodeName(hello.node.clone()),
            tunnel_addresses: tunnel_addresses(&hello.tunnel_addresses)?,
            tunnel,
            bridge: hello.bridge.clone(),
            datapath: hello.datapath.clone(),
            stream: None,
        })
    }
}

/// The addresses, each once, in their order.
fn tunnel_addresses(texts: &[String]) -> Result<Vec<IpAddr>, WireError> {
    if texts.len() > TUNNEL_ADDRESSES_MAX {
        return Err(WireError::Addresses(texts.len()));
    }
    let mut addresses = Vec::new();
    for text in texts {
        let address = text.parse::<IpAddr>().map_err(|_| WireError::Address(text.clone()))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

impl From<node_message::Body> for NodeMessage {
    fn from(body: node_message::Body) -> NodeMessage {
        NodeMessage { body: Some(body) }
    }
}

impl From<server_message::Body> for ServerMessage {
    fn from(body: server_message::Body) -> ServerMessage {
        ServerMessage { body: Some(body) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn a_key_survives_the_wire_and_a_bad_one_is_told() {
        let key = ObjectKey { kind: Kind::Port, id: Uuid::from_u128(7) };
        assert_eq!(ObjectKey::try_from(&Key::from(&key)), Ok(key));
        let bad = Key { kind: "port".into(), id: Bytes::from_static(b"short") };
        assert_eq!(ObjectKey::try_from(&bad), Err(WireError::Id(5)));
        let bad = Key { kind: "portal".into(), id: Bytes::from_static(&[0; 16]) };
        assert_eq!(ObjectKey::try_from(&bad), Err(WireError::Kind("portal".into())));
    }

    #[test]
    fn a_hello_says_each_address_once_and_not_too_many() {
        let hello = |addresses: &[&str]| {
            let tunnel_addresses = addresses.iter().map(ToString::to_string).collect();
            model::Node::try_from(&Hello { tunnel_addresses, ..Hello::default() }).map(|node| node.tunnel_addresses.len())
        };
        assert_eq!(hello(&["192.0.2.1", "2001:db8::1", "192.0.2.1"]), Ok(2));
        assert_eq!(hello(&["192.0.2.1"; TUNNEL_ADDRESSES_MAX]), Ok(1));
        assert_eq!(hello(&["192.0.2.1"; TUNNEL_ADDRESSES_MAX + 1]), Err(WireError::Addresses(9)));
        assert_eq!(hello(&["x"]), Err(WireError::Address("x".into())));
    }

    #[test]
    fn a_hello_with_another_datapath_or_an_endless_name_makes_no_sense() {
        let odd = Hello { datapath: "dpdk".into(), ..Hello::default() };
        assert_eq!(model::Node::try_from(&odd), Err(WireError::Datapath("dpdk".into())));
        let named = |length: usize| Hello { bridge: "b".repeat(length), ..Hello::default() };
        assert!(model::Node::try_from(&named(NAME_BYTES_MAX)).is_ok());
        assert_eq!(model::Node::try_from(&named(NAME_BYTES_MAX + 1)), Err(WireError::Name(256)));
    }

    #[test]
    fn a_delta_looks_like_this_on_the_wire() {
        let delta = Delta { from: 1, to: 2, upserts: vec![Bytes::from_static(b"{}")], is_partial: true, ..Delta::default() };
        let message = ServerMessage::from(server_message::Body::Delta(delta));
        let bytes = message.encode_to_vec();
        assert_eq!(bytes, [0x22, 10, 0x08, 1, 0x10, 2, 0x1a, 2, b'{', b'}', 0x28, 1]);
        assert_eq!(ServerMessage::decode(bytes.as_slice()), Ok(message));
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        assert!(ServerMessage::decode([0x22, 200].as_slice()).is_err());
        assert!(object(b"{\"port\":{}}").is_err());
    }
}
