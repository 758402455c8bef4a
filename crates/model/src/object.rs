//! One type for everything that is stored and sent: [`Object`], found by its [`ObjectKey`].

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Block, Listener, LoadBalancer, Member, Network, Node, Pool, Port, Router, Rule, SecurityGroup, Subnet};

/// What Neutron and Octavia keep about every object besides its meaning.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standard {
    #[serde(default)]
    pub tags: Vec<String>,
    /// RFC 3339, UTC, seconds: `2026-01-31T12:00:00Z`.
    pub created_at: String,
    pub updated_at: String,
    /// Grows with every change that a user made.
    pub revision_number: u64,
}

macro_rules! objects {
    ($($kind:ident $word:literal $id:expr;)*) => {
        /// The kinds of objects, in the order in which they refer to each other.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum Kind { $($kind),* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// The word in keys and messages: `port`, `security_group`.
            pub fn word(self) -> &'static str {
                match self { $(Kind::$kind => $word),* }
            }

            /// The kind that `word` names.
            pub fn from_word(word: &str) -> Option<Kind> {
                match word { $($word => Some(Kind::$kind),)* _ => None }
            }
        }

        /// Anything that is stored. Boxed: a port is twice as large as what there is most of, members of pools.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Object { $($kind(Box<$kind>)),* }

        impl Object {
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind),* }
            }

            pub fn key(&self) -> ObjectKey {
                match self { $(Object::$kind(object) => { let id: fn(&$kind) -> Uuid = $id; ObjectKey { kind: Kind::$kind, id: id(object) } }),* }
            }
        }

        $(
            impl From<$kind> for Object {
                fn from(object: $kind) -> Object {
                    Object::$kind(Box::new(object))
                }
            }

            impl<'a> TryFrom<&'a Object> for &'a $kind {
                type Error = ();
                fn try_from(object: &'a Object) -> Result<&'a $kind, ()> {
                    match object { Object::$kind(object) => Ok(object), _ => Err(()) }
                }
            }
        )*
    };
}

objects! {
    Node "node" |node| node.name.id().0;
    Network "network" |network| network.id.0;
    Subnet "subnet" |subnet| subnet.id.0;
    Router "router" |router| router.id.0;
    SecurityGroup "security_group" |group| group.id.0;
    Rule "rule" |rule| rule.id.0;
    Block "block" |block| block.id.0;
    Port "port" |port| port.id.0;
    LoadBalancer "load_balancer" |balancer| balancer.id.0;
    Listener "listener" |listener| listener.id.0;
    Pool "pool" |pool| pool.id.0;
    Member "member" |member| member.id.0;
}

/// Names one object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ObjectKey {
    pub kind: Kind,
    pub id: Uuid,
}

impl ObjectKey {
    pub fn new(kind: Kind, id: impl Into<Uuid>) -> ObjectKey {
        ObjectKey { kind, id: id.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_word(kind.word()), Some(*kind));
        }
    }
}
