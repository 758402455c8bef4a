//! The kinds of objects as types.

use model::{
    Block, Kind, Listener, LoadBalancer, Member, Network, Node, Object, Pool, Port, ProjectId, Router, Rule, SecurityGroup, Standard,
    Subnet,
};
use uuid::Uuid;

/// A type of which the state holds objects.
pub trait Typed: Sized + 'static {
    const KIND: Kind;

    /// The object as this type, if it is of this kind.
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! typed {
    ($($kind:ident)*) => {$(
        impl Typed for $kind {
            const KIND: Kind = Kind::$kind;

            fn of(object: &Object) -> Option<&$kind> {
                object.try_into().ok()
            }
        }
    )*};
}

typed!(Node Network Subnet Router SecurityGroup Rule Block Port LoadBalancer Listener Pool Member);

/// What somebody made through an API, and what Neutron and Octavia keep of it.
pub trait Owned: Typed {
    fn id(&self) -> Uuid;
    fn project(&self) -> &ProjectId;
    fn standard(&self) -> &Standard;
    fn standard_mut(&mut self) -> &mut Standard;
}

macro_rules! owned {
    ($($kind:ident)*) => {$(
        impl Owned for $kind {
            fn id(&self) -> Uuid {
                self.id.0
            }

            fn project(&self) -> &ProjectId {
                &self.project
            }

            fn standard(&self) -> &Standard {
                &self.standard
            }

            fn standard_mut(&mut self) -> &mut Standard {
                &mut self.standard
            }
        }
    )*};
}

owned!(Network Subnet Router SecurityGroup Rule Port LoadBalancer Listener Pool);
