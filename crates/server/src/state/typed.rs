//! The kinds of objects as types.

use model::{Block, Kind, Listener, LoadBalancer, Member, Network, Node, Object, Pool, Port, Router, Rule, SecurityGroup, Subnet};

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
