//! What an app is.

use ipnet::IpNet;
use model::{Kind, ObjectKey, PortId};
use pipeline::{Flow, Group};

use crate::sight::Sight;

/// What an app is run for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RootKind {
    /// Every object of the kind.
    Object(Kind),
    /// Every port that is attached here.
    Attached,
    /// Every address in view that belongs to a security group that some rule names.
    Address,
    /// Once per node.
    Here,
}

/// One thing that an app is run for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Root {
    Object(ObjectKey),
    Attached(PortId),
    /// An address in a routing domain.
    Address(u32, IpNet),
    Here,
}

impl Root {
    pub fn kind(self) -> RootKind {
        match self {
            Root::Object(key) => RootKind::Object(key.kind),
            Root::Attached(_) => RootKind::Attached,
            Root::Address(..) => RootKind::Address,
            Root::Here => RootKind::Here,
        }
    }
}

/// What one run of an app says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    pub flows: Vec<Flow>,
    pub groups: Vec<Group>,
}

impl From<Vec<Flow>> for Output {
    fn from(flows: Vec<Flow>) -> Output {
        Output { flows, groups: Vec::new() }
    }
}

/// A network feature.
pub struct App {
    pub name: &'static str,
    /// What it is run for.
    pub roots: &'static [RootKind],
    /// The flows and groups that one root needs.
    pub run: fn(&Sight, Root) -> Output,
}
